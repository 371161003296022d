//! What several of the integration tests need.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use evring::{BufferEvent, EventBase, Options};

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
#[allow(dead_code, reason = "not every file uses all")]
pub fn adopt(base: &EventBase, fd: impl Into<OwnedFd>) -> BufferEvent {
    BufferEvent::socket(base, Some(fd.into()), Options::CLOSE_ON_FREE).expect("a bufferevent")
}
