//! What several of the integration tests need.

#![allow(dead_code, reason = "not every file uses all")]

use std::cell::RefCell;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use evring::{BufferEvent, Callbacks, EventBase, Events, Filter, Options, RunFlags};

/// A bound on everything that waits in these tests.
pub const BOUND: Duration = Duration::from_secs(30);

/// A TCP connection over the loopback: the peer's end, whose waits are bounded, and ours.
pub fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (server, _) = listener.accept().expect("a connection waits");
    client.set_nodelay(true).expect("a TCP socket");
    client.set_read_timeout(Some(BOUND)).expect("a socket");
    client.set_write_timeout(Some(BOUND)).expect("a socket");
    (client, server)
}

/// A bufferevent that closes its descriptor.
pub fn adopt(base: &EventBase, fd: impl Into<OwnedFd>) -> BufferEvent {
    BufferEvent::socket(base, Some(fd.into()), Options::CLOSE_ON_FREE).expect("a bufferevent")
}

/// A filter that passes everything on.
pub struct Pass;

impl Filter for Pass {}

/// With so many filters on top.
pub fn under_filters(bev: &BufferEvent, filters: usize, options: Options) -> BufferEvent {
    (0..filters).fold(bev.clone(), |below, _| {
        BufferEvent::filter(&below, Pass, options | Options::CLOSE_ON_FREE).expect("a filter")
    })
}

/// Turns the loop until the condition holds; whether it did within twenty seconds.
pub fn turn_until(base: &EventBase, mut holds: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > Duration::from_secs(20) {
            return false;
        }
        base.stop_after(Duration::from_millis(5));
        base.run_with(RunFlags::NO_EXIT_ON_EMPTY | RunFlags::ONCE)
            .expect("the loop turns");
    }
    true
}

/// The events that it is told of from now on.
pub fn events_of(bev: &BufferEvent) -> Rc<RefCell<Vec<Events>>> {
    let seen: Rc<RefCell<Vec<Events>>> = Rc::default();
    let told = seen.clone();
    bev.set_callbacks(Callbacks::new().on_event(move |_, events| told.borrow_mut().push(events)))
        .expect("alive");
    seen
}

/// What comes until the end of the stream.
pub fn all_of(mut from: impl Read) -> Vec<u8> {
    let mut got = Vec::new();
    from.read_to_end(&mut got).expect("an end in order");
    got
}
