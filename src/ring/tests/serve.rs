//! Accepting, connecting, polling.

use super::*;
use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};

#[test]
fn connections_are_accepted_one_after_another() {
    for mask in ["", "-accept_multishot"] {
        let mut rig = Rig::new(mask);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let addr = listener.local_addr().expect("its address");
        let fd = listener.as_raw_fd();
        let mut op = rig.ring.push(
            1,
            Op::Accept {
                fd,
                multishot: true,
            },
        );
        rig.expect_quiet();
        for _ in 0..5 {
            let client = TcpStream::connect(addr).expect("a connection");
            let done = rig.wait();
            assert_eq!(done.more, mask.is_empty());
            let accepted = done.accepted.expect("a connection");
            let peer = crate::sys::net::peer_addr(accepted.as_raw_fd()).expect("its peer");
            assert_eq!(peer.to_socket_addr(), client.local_addr().ok());
            // SAFETY: takes numbers only.
            let flags = unsafe { libc::fcntl(accepted.as_raw_fd(), libc::F_GETFL) };
            assert_ne!(flags & libc::O_NONBLOCK, 0);
            if !done.more {
                op = rig.ring.push(
                    1,
                    Op::Accept {
                        fd,
                        multishot: true,
                    },
                );
            }
        }
        rig.finish(op);
        drop(listener);
        TcpListener::bind(addr).expect("the port is free at once");
        rig.close();
    }
}

#[test]
fn connecting_works_for_every_family_and_fails_for_a_reason() {
    let mut rig = Rig::new("");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let addr: SockAddr = listener.local_addr().expect("its address").into();
    let socket = crate::sys::net::socket(addr.family(), libc::SOCK_STREAM).expect("a socket");
    rig.ring.push(
        1,
        Op::Connect {
            fd: socket.as_raw_fd(),
            addr: addr.clone(),
        },
    );
    assert_eq!(rig.wait().result, Ok(0));
    drop((socket, listener));
    let socket = crate::sys::net::socket(addr.family(), libc::SOCK_STREAM).expect("a socket");
    rig.ring.push(
        2,
        Op::Connect {
            fd: socket.as_raw_fd(),
            addr,
        },
    );
    assert_eq!(rig.wait().result, Err(Errno::from_raw(libc::ECONNREFUSED)));

    let name = format!("evring-test-{}", std::process::id());
    let addr = SockAddr::from_abstract_name(&name).expect("a short name");
    let listener = crate::sys::net::socket(libc::AF_UNIX, libc::SOCK_STREAM).expect("a socket");
    crate::sys::net::bind(listener.as_raw_fd(), &addr).expect("bind");
    crate::sys::net::listen(listener.as_raw_fd(), 4).expect("listen");
    let bound = crate::sys::net::local_addr(listener.as_raw_fd()).expect("its address");
    assert_eq!(bound, addr);
    let socket = crate::sys::net::socket(libc::AF_UNIX, libc::SOCK_STREAM).expect("a socket");
    rig.ring.push(
        3,
        Op::Connect {
            fd: socket.as_raw_fd(),
            addr,
        },
    );
    assert_eq!(rig.wait().result, Ok(0));
    rig.close();
}

#[test]
fn a_connect_that_hangs_can_be_cancelled() {
    let mut rig = Rig::new("");
    // Nobody listens behind a full backlog, so the second connection stays pending.
    let listener = crate::sys::net::socket(libc::AF_INET, libc::SOCK_STREAM).expect("a socket");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("a literal address");
    crate::sys::net::bind(listener.as_raw_fd(), &any.into()).expect("bind");
    crate::sys::net::listen(listener.as_raw_fd(), 0).expect("listen");
    let addr = crate::sys::net::local_addr(listener.as_raw_fd()).expect("its address");
    let mut sockets = Vec::new();
    let pending = loop {
        let socket = crate::sys::net::socket(libc::AF_INET, libc::SOCK_STREAM).expect("a socket");
        let op = rig.ring.push(
            1,
            Op::Connect {
                fd: socket.as_raw_fd(),
                addr: addr.clone(),
            },
        );
        sockets.push(socket);
        rig.ring
            .enter(Wait::Until(Some(Duration::from_millis(50))))
            .expect("enter");
        if rig.ring.next().is_none() {
            break op;
        }
    };
    rig.ring.cancel(pending);
    assert_eq!(rig.wait().result, Err(Errno::CANCELED));
    rig.close();
}

#[test]
fn readiness_is_reported_once_or_again_and_again() {
    for mask in ["", "-poll_multishot"] {
        let mut rig = Rig::new(mask);
        let mut event = File::from(crate::sys::event::event_fd().expect("an eventfd"));
        let fd = event.as_raw_fd();
        let events = libc::POLLIN as u32;
        let mut op = rig.ring.push(
            1,
            Op::Poll {
                fd,
                events,
                multishot: true,
            },
        );
        rig.expect_quiet();
        for _ in 0..4 {
            let one = 1_u64.to_ne_bytes();
            event.write_all(&one).expect("notify");
            let done = rig.wait();
            assert_eq!(done.result, Ok(events));
            assert_eq!(done.more, mask.is_empty());
            let mut count = [0; 8];
            event.read_exact(&mut count).expect("drain");
            assert_eq!(count, one);
            if !done.more {
                op = rig.ring.push(
                    1,
                    Op::Poll {
                        fd,
                        events,
                        multishot: true,
                    },
                );
            }
        }
        rig.finish(op);
        rig.close();
    }
}
