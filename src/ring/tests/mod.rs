//! The ring against the real kernel: real sockets, no stand-ins.

mod close;
mod echo;
mod queue;
mod receive;
mod send;
mod serve;

use super::*;
use crate::arena::ArenaConfig;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Longer than any condition takes to come true unless it never does.
const PATIENCE: Duration = Duration::from_secs(10);

/// A ring with a window, and the arena behind it.
struct Rig {
    ring: Ring,
    arena: Arena,
}

impl Rig {
    /// A ring that does without what `mask` names, with a window of 16 slots of 4 KiB out of 64.
    fn new(mask: &str) -> Rig {
        Rig::sized(mask, 64, 16)
    }

    fn sized(mask: &str, slots: usize, window: u16) -> Rig {
        let caps_mask = mask.parse().expect("a mask of known names");
        let config = RingConfig::default().entries(64).caps_mask(caps_mask);
        let mut ring = Ring::new(&config).expect("a ring");
        let config = ArenaConfig::default()
            .slot_size(4096)
            .max_bytes(slots * 4096);
        let arena = Arena::new(config).expect("an arena");
        ring.attach_window(&arena, window).expect("a window");
        Rig { ring, arena }
    }

    /// The next completion, however long it takes within reason.
    fn wait(&mut self) -> Completion {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(completion) = self.ring.next() {
                return completion;
            }
            assert!(Instant::now() < deadline, "no completion; {:?}", self.ring);
            self.ring
                .enter(Wait::Until(Some(Duration::from_millis(100))))
                .expect("enter");
        }
    }

    /// Asserts that nothing completes, having let the kernel finish what it can.
    fn expect_quiet(&mut self) {
        for _ in 0..3 {
            self.ring.enter(Wait::Poll).expect("enter");
            if let Some(completion) = self.ring.next() {
                panic!("unexpected {completion:?}");
            }
        }
    }

    fn recv(&mut self, token: u64, fd: &impl AsRawFd) -> OpId {
        self.ring.push(token, recv(fd))
    }

    fn send(&mut self, token: u64, fd: &impl AsRawFd, pieces: impl Into<Pieces>) -> OpId {
        let fd = fd.as_raw_fd();
        self.ring.push(
            token,
            Op::Send {
                fd,
                pieces: pieces.into(),
                wait_all: true,
            },
        )
    }

    /// Cancels an operation and discards what it still has to say.
    fn finish(&mut self, op: OpId) {
        self.ring.cancel(op);
        loop {
            let completion = self.wait();
            if completion.op == op && !completion.more {
                break;
            }
        }
    }

    /// Drops the ring and asserts that no slot is out any more.
    fn close(self) {
        let Rig { ring, arena } = self;
        drop(ring);
        assert_eq!(arena.stats().slots_live, 0, "every slot came home");
    }
}

/// A multishot receive without limits.
fn recv(fd: &impl AsRawFd) -> Op {
    let fd = fd.as_raw_fd();
    Op::Recv {
        fd,
        multishot: true,
        max_len: 0,
        arm_limit: 0,
        bundle: false,
        poll_first: true,
    }
}

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().expect("a pair of sockets")
}

fn tcp_pair() -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let addr = listener.local_addr().expect("its address");
    let client = std::net::TcpStream::connect(addr).expect("a connection");
    let (server, _) = listener.accept().expect("its other end");
    // Lest the tests wait for delayed acknowledgements.
    client.set_nodelay(true).expect("nodelay");
    server.set_nodelay(true).expect("nodelay");
    (client, server)
}

/// Bytes that differ from place to place, so that order and loss show.
fn pattern(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (i, chunk) in bytes.chunks_mut(4).enumerate() {
        let value = (i as u32).wrapping_mul(2_654_435_761).to_le_bytes();
        chunk.copy_from_slice(&value[..chunk.len()]);
    }
    bytes
}
