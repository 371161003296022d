//! An echo server in a page: `cargo run --release --example echo -- 127.0.0.1:7000`.

use evring::{
    BufferEvent, Callbacks, EventBase, Interest, ListenOptions, Listener, Options, SpinPolicy,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let addr = args.next().as_deref().unwrap_or("127.0.0.1:7000").parse()?;
    let spin = match args.next().as_deref() {
        Some("spin") => SpinPolicy::Always,
        _ => SpinPolicy::None,
    };
    let base = EventBase::builder().spin(spin).build()?;
    let options = ListenOptions::default().nodelay(true);
    let listener = Listener::bind(&base, &addr, options, |listener, accepted| {
        let Ok(base) = listener.base() else { return };
        if let Err(error) = echo(&base, accepted.into_fd()) {
            eprintln!("a connection could not be served: {error}");
        }
    })?;
    for signum in [libc::SIGINT, libc::SIGTERM] {
        base.signal(signum, |signal| {
            if let Ok(base) = signal.base() {
                base.stop();
            }
        })?;
    }
    println!("listening on {}", listener.local_addr()?);
    base.run()?;
    Ok(())
}

fn echo(base: &EventBase, fd: std::os::fd::OwnedFd) -> Result<(), evring::Error> {
    let bev = BufferEvent::socket(base, Some(fd), Options::CLOSE_ON_FREE)?.free_on_drop();
    bev.set_callbacks(
        Callbacks::new()
            // What came in goes out, by reference.
            .on_read(|bev| bev.transfer_to(bev))
            // The stream ended or broke: sends what is left, then closes.
            .on_event(|bev, _events| bev.close_after_flush(None, |_end| {})),
    )?;
    bev.enable(Interest::READ)?;
    bev.keep();
    Ok(())
}
