//! EvBuffer beside libevent's evbuffer: each case in interleaved rounds, A and B swapping places,
//! and the ratio of the medians with its spread. Run it with
//! `cargo run --release -p evring-evbuffer-peer [-- FILTER] [ROUNDS] [--json]`.

#[cfg(libevent)]
mod cases;
#[cfg(libevent)]
mod peer;
#[cfg(libevent)]
mod report;

#[cfg(libevent)]
fn main() -> Result<(), evring::evbuffer::BufferError> {
    report::run()
}

#[cfg(not(libevent))]
fn main() {
    eprintln!(
        "built without libevent: install its development files (Debian: libevent-dev) and build again"
    );
    std::process::exit(1);
}
