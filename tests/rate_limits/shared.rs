//! Peers and configurations of the tests.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use evring::rate_limit::RateLimitConfig;
use evring::{BufferEvent, Callbacks, EventBase, Options};

/// A bound on everything that waits in these tests.
pub const BOUND: Duration = Duration::from_secs(20);

pub const TICK_MS: u64 = 20;
pub const TICK_NS: u64 = TICK_MS * 1_000_000;

/// So many bytes a tick in both directions, and no more in any one.
pub fn per_tick(rate: usize) -> RateLimitConfig {
    with_burst(rate, rate)
}

pub fn with_burst(rate: usize, burst: usize) -> RateLimitConfig {
    let tick = Some(Duration::from_millis(TICK_MS));
    RateLimitConfig::new(rate, burst, rate, burst, tick).expect("valid")
}

/// The same with a tick that does not end within a test.
pub fn per_hour(rate: usize) -> RateLimitConfig {
    let tick = Some(Duration::from_secs(3_600));
    RateLimitConfig::new(rate, rate, rate, rate, tick).expect("valid")
}

/// The most that `rate` bytes a tick, with a burst as large, let through since `since_ns`.
pub fn allowance(base: &EventBase, since_ns: u64, rate: usize) -> usize {
    let ticks = (base.clock_ns() - since_ns) / TICK_NS;
    rate * (ticks as usize + 1)
}

pub fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (server, _) = listener.accept().expect("a connection waits");
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(BOUND)).expect("a socket");
        stream.set_write_timeout(Some(BOUND)).expect("a socket");
    }
    (client, server)
}

pub fn socket(base: &EventBase, stream: TcpStream) -> BufferEvent {
    BufferEvent::socket(base, Some(stream.into()), Options::CLOSE_ON_FREE).expect("a live base")
}

/// A base that stops when a test hangs.
pub fn base() -> EventBase {
    let base = EventBase::new().expect("a ring");
    give_up(&base);
    base
}

/// Stops the base after [`BOUND`], from outside: a deadline of its own would keep it alive.
pub fn give_up(base: &EventBase) {
    let remote = base.remote().expect("a descriptor");
    std::thread::spawn(move || {
        std::thread::sleep(BOUND);
        let _base_gone = remote.stop();
    });
}

/// Stops the base once `done` says so, asked after every read callback; all that is read is
/// dropped.
pub fn read_until(bev: &BufferEvent, mut done: impl FnMut(&BufferEvent, usize) -> bool + 'static) {
    let mut total = 0;
    bev.set_callbacks(Callbacks::new().on_read(move |bev| {
        total += bev
            .input()
            .with(|input| input.drain(input.len()).expect("thawed"))
            .expect("live");
        if done(bev, total) {
            bev.base().expect("live").stop();
        }
    }))
    .expect("live");
}

/// Sends so many bytes from another thread, then keeps the connection until the result is dropped.
pub fn sender(mut stream: TcpStream, bytes: usize) -> JoinHandle<TcpStream> {
    std::thread::spawn(move || {
        // A peer that is done before has closed.
        let _closed = stream.write_all(&vec![7; bytes]);
        stream
    })
}

/// Reads to the end on another thread; how many bytes.
pub fn sink(mut stream: TcpStream) -> JoinHandle<usize> {
    std::thread::spawn(move || {
        let mut chunk = vec![0; 64 << 10];
        let mut total = 0;
        while let Ok(n @ 1..) = stream.read(&mut chunk) {
            total += n;
        }
        total
    })
}

pub fn assert_clean(base: &EventBase) {
    assert_eq!(base.active(), 0, "{base:?}");
}
