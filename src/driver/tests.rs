//! What the ring as a driver tells of real descriptors.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::uring::Uring;
use super::{Descriptor, Driver, HangUp, SEND_PIECES, SendHow, SocketOption, Wait};
use crate::arena::{Arena, ArenaConfig, Piece};
use crate::evbuffer::EvBuffer;
use crate::ring::RingConfig;
use crate::sys::SockAddr;

fn driver() -> Uring {
    let arena = Arena::new(ArenaConfig::default()).expect("memory");
    Uring::new(&RingConfig::default(), arena, 8).expect("a ring")
}

fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (far, _) = listener.accept().expect("a connection waits");
    (near, far)
}

#[test]
fn descriptors_are_told_apart() {
    let driver = driver();
    let (near, _far) = tcp();
    let inet = Descriptor::socket(libc::AF_INET);
    assert_eq!(driver.describe(near.as_raw_fd()), inet);
    let (unix, _other) = UnixStream::pair().expect("a pair");
    let described = driver.describe(unix.as_raw_fd());
    assert_eq!(described, Descriptor::socket(libc::AF_UNIX));
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let pipe = |readable, writable| Descriptor {
        family: None,
        readable,
        writable,
        regular: false,
    };
    assert_eq!(driver.describe(reader.as_raw_fd()), pipe(true, false));
    assert_eq!(driver.describe(writer.as_raw_fd()), pipe(false, true));
    let file = tempfile::tempfile().expect("a file");
    let described = driver.describe(file.as_raw_fd());
    assert!(described.regular && described.readable && described.writable);
}

#[test]
fn a_reset_behind_bytes_is_a_hang_up_and_the_bytes_stay() {
    let mut driver = driver();
    let (mut near, mut far) = tcp();
    let fd = near.as_raw_fd();
    assert_eq!(driver.hang_up(fd), HangUp::None);
    far.write_all(b"last words").expect("room for them");
    while driver.readable_bytes(fd) < 10 {}
    let reset = driver.set_option(far.as_raw_fd(), SocketOption::ResetOnClose);
    reset.expect("a socket");
    drop(far);
    while driver.hang_up(fd) == HangUp::None {}
    assert_eq!(driver.hang_up(fd), HangUp::Failed, "it takes nothing");
    let mut bytes = [0; 10];
    near.read_exact(&mut bytes).expect("they came before");
    assert_eq!(&bytes, b"last words");
}

#[test]
fn an_end_in_order_is_a_hang_up_once_both_sides_ended() {
    let mut driver = driver();
    let (near, far) = tcp();
    let fd = near.as_raw_fd();
    far.shutdown(std::net::Shutdown::Write).expect("connected");
    assert_eq!((&near).read(&mut [0]).expect("the end"), 0);
    assert_eq!(driver.hang_up(fd), HangUp::None, "this side is open");
    driver.shutdown_write(fd).expect("connected");
    assert_eq!(driver.hang_up(fd), HangUp::Ended);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    assert_eq!(driver.hang_up(writer.as_raw_fd()), HangUp::None);
    drop(reader);
    assert_eq!(driver.hang_up(writer.as_raw_fd()), HangUp::Failed);
}

#[test]
fn acknowledged_bytes_rise_as_the_peers_kernel_takes_them() {
    let driver = driver();
    let (mut near, _far) = tcp();
    let before = driver.acked(near.as_raw_fd()).expect("a TCP socket");
    near.write_all(&[1; 5000]).expect("room for them");
    while driver.acked(near.as_raw_fd()) < Some(before + 5000) {}
    assert_eq!(driver.acked(near.as_raw_fd()), Some(before + 5000));
    let (unix, _other) = UnixStream::pair().expect("a pair");
    assert_eq!(driver.acked(unix.as_raw_fd()), None);
}

#[test]
fn a_send_is_given_no_more_than_its_bounds() {
    let mut driver = driver();
    let (near, mut far) = UnixStream::pair().expect("a pair");
    let fd = near.as_raw_fd();
    let many = 2 * SEND_PIECES;
    let cases = [
        (1, 5, 4, 4),
        (1, 5, 100, 5),
        (many, 1, 1000, SEND_PIECES),
        (many, 3, 7, 7),
    ];
    for (pieces, each, most, expected) in cases {
        for how in [
            SendHow::Socket { wait_all: true },
            SendHow::Socket { wait_all: false },
        ] {
            let mut output = EvBuffer::new();
            for _ in 0..pieces {
                output.push_piece(Piece::from_static(&b"abcdefgh"[..each]));
            }
            let (op, given) = driver.send(7, fd, &output, most, how);
            assert_eq!(given, expected, "{pieces} pieces of {each}, at most {most}");
            assert_eq!(output.len(), pieces * each, "the buffer keeps them");
            let done = loop {
                if let Some(done) = driver.next() {
                    break done;
                }
                driver.enter(Wait::Until(None)).expect("a ring");
            };
            assert_eq!((done.op, done.token), (op, 7));
            assert_eq!(done.result.expect("sent") as usize, expected);
            let mut bytes = vec![0; expected];
            far.read_exact(&mut bytes).expect("sent");
        }
    }
}

#[test]
fn a_listening_socket_is_made_by_the_driver() {
    let mut driver = driver();
    let addr = SockAddr::from("127.0.0.1:0".parse::<std::net::SocketAddr>().expect("one"));
    let fd = driver
        .socket(libc::AF_INET, libc::SOCK_STREAM)
        .expect("a socket");
    for option in [
        SocketOption::ReuseAddr(true),
        SocketOption::ReusePort(true),
        SocketOption::DeferAccept(true),
        SocketOption::NoDelay(true),
        SocketOption::KeepAlive(None),
    ] {
        driver.set_option(fd, option).expect("a TCP socket");
    }
    assert!(
        driver.set_option(fd, SocketOption::V6Only(true)).is_err(),
        "not an IPv6 socket"
    );
    driver.bind(fd, &addr).expect("a free port");
    driver.listen(fd, 1).expect("a bound socket");
    let bound = driver
        .local_addr(fd)
        .expect("bound")
        .to_socket_addr()
        .expect("an IP");
    let client = TcpStream::connect(bound).expect("it listens");
    let peer = driver.peer_addr(client.as_raw_fd()).expect("connected");
    assert_eq!(peer.to_socket_addr(), Some(bound));
    assert!(driver.peer_addr(fd).is_err());
    driver.close(fd);
    let udp = driver
        .socket(libc::AF_INET, libc::SOCK_DGRAM)
        .expect("a socket");
    assert_eq!(
        crate::sys::net::kind(udp).expect("a socket"),
        libc::SOCK_DGRAM
    );
    driver.close(udp);
}
