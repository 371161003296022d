//! An echo server in a page: `cargo run --release --example echo -- 127.0.0.1:7000`.

use evring::{
    Addr, BufferEvent, Callbacks, EventBase, Events, Interest, ListenOptions, Listener, Options,
    SpinPolicy,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let addr: Addr = args.next().as_deref().unwrap_or("127.0.0.1:7000").parse()?;
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
            signal.base().map_or((), |base| base.stop())
        })?;
    }
    println!("listening on {}", listener.local_addr()?);
    base.run()?;
    Ok(())
}

fn echo(base: &EventBase, fd: std::os::fd::OwnedFd) -> Result<(), evring::Error> {
    let bev = BufferEvent::socket(base, Some(fd), Options::CLOSE_ON_FREE)?;
    bev.set_callbacks(
        Callbacks::new()
            .on_read(|bev| {
                // What came in goes out, by reference.
                if bev.transfer_to(bev).is_err() {
                    bev.free();
                }
            })
            .on_event(|bev, events| {
                if events.contains(Events::EOF) {
                    let _freed = bev.close_after_flush(None, |_end| {});
                } else {
                    bev.free();
                }
            }),
    )?;
    bev.enable(Interest::READ)
}
