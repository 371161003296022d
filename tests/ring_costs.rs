//! What a message costs a ring in steady state: no allocation, and no more system calls than a
//! hand-written loop makes.

use evring::arena::{Arena, ArenaConfig, Piece};
use evring::ring::{Op, Ring, RingConfig, Wait};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

/// Counts the allocations of each thread.
struct Counting;

thread_local!(static ALLOCATIONS: Cell<u64> = const { Cell::new(0) });

// SAFETY: hands everything to the system's allocator; the count allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    // A thread that is ending has no counter any more.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

const RECV: u64 = 1;
const SEND: u64 = 2;

/// How an echo answers.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// With the piece as it came.
    Whole,
    /// With the piece cut in three, gathered.
    Gathered,
}

struct Echo {
    ring: Ring,
    client: UnixStream,
    server: UnixStream,
    answer: Answer,
    size: usize,
    message: Vec<u8>,
}

impl Echo {
    fn new(mask: &str, answer: Answer, size: usize) -> Echo {
        let caps_mask = mask.parse().expect("known names");
        let config = RingConfig::default().caps_mask(caps_mask);
        let mut ring = Ring::new(&config).expect("a ring");
        let arena = Arena::new(ArenaConfig::default()).expect("an arena");
        ring.attach_window(&arena, 128).expect("a window");
        let (client, server) = UnixStream::pair().expect("a pair");
        Echo {
            ring,
            client,
            server,
            answer,
            size,
            message: vec![b'x'; size],
        }
    }

    fn arm(&mut self) {
        let fd = self.server.as_raw_fd();
        let recv = Op::Recv {
            fd,
            multishot: true,
            max_len: 0,
            arm_limit: 0,
            bundle: false,
            poll_first: true,
        };
        self.ring.push(RECV, recv);
    }

    fn one_message(&mut self) {
        self.client.write_all(&self.message).expect("out");
        let mut sent = 0;
        while sent < self.size {
            self.ring.enter(Wait::Until(None)).expect("enter");
            while let Some(done) = self.ring.next() {
                if done.token == RECV {
                    let piece = done.buffer.expect("data");
                    send(&mut self.ring, self.server.as_raw_fd(), piece, self.answer);
                    if !done.more {
                        self.arm();
                    }
                } else {
                    sent += done.result.expect("sent") as usize;
                }
            }
            self.ring.refill();
        }
        self.client.read_exact(&mut self.message).expect("back");
    }
}

fn send(ring: &mut Ring, fd: RawFd, mut piece: Piece, answer: Answer) {
    let pieces = match answer {
        Answer::Whole => piece.into(),
        Answer::Gathered => {
            let third = piece.len() / 3;
            let mut pieces = ring.take_pieces();
            pieces.push(piece.split_to(third));
            pieces.push(piece.split_to(third));
            pieces.push(piece);
            pieces.into()
        }
    };
    ring.push(
        SEND,
        Op::Send {
            fd,
            pieces,
            wait_all: true,
        },
    );
}

#[test]
fn a_message_allocates_nothing_and_enters_the_kernel_twice() {
    const WARM_UP: u64 = 300;
    const MESSAGES: u64 = 3000;
    for mask in [
        "",
        "-send_vectorized",
        "-recv_multishot",
        "-buffer_ring",
        "-defer_taskrun",
    ] {
        for answer in [Answer::Whole, Answer::Gathered] {
            for size in [64, 16 * 1024] {
                let mut echo = Echo::new(mask, answer, size);
                echo.arm();
                for _ in 0..WARM_UP {
                    echo.one_message();
                }
                let before = (allocations(), echo.ring.counters());
                for _ in 0..MESSAGES {
                    echo.one_message();
                }
                let after = (allocations(), echo.ring.counters());
                let case = format!("{mask:?} {answer:?} {size}");
                assert_eq!(after.0 - before.0, 0, "allocations, {case}");
                // One to fetch the message, one to submit the answer and fetch its completion.
                let enters = after.1.enters - before.1.enters;
                assert!(enters <= 2 * MESSAGES, "enters, {case}: {enters}");
                let armed = if mask.is_empty() { 0 } else { MESSAGES };
                let submitted = after.1.sqes - before.1.sqes;
                assert!(
                    submitted <= MESSAGES + armed,
                    "submissions, {case}: {submitted}"
                );
            }
        }
    }
}

#[test]
fn dropping_the_memory_of_many_sends_allocates_nothing() {
    let mut echo = Echo::new("", Answer::Whole, 1);
    let fd = echo.server.as_raw_fd();
    let piece = Piece::copy_from(b"0123456789");
    let burst = |ring: &mut Ring, client: &mut UnixStream| {
        for _ in 0..100 {
            let mut pieces = ring.take_pieces();
            pieces.extend((0..5).map(|_| piece.clone()));
            ring.push(
                SEND,
                Op::Send {
                    fd,
                    pieces: pieces.into(),
                    wait_all: true,
                },
            );
        }
        let mut done = 0;
        while done < 100 {
            ring.enter(Wait::Until(None)).expect("enter");
            while ring.next().is_some() {
                done += 1;
            }
        }
        let mut back = [0; 5000];
        client.read_exact(&mut back).expect("back");
    };
    burst(&mut echo.ring, &mut echo.client);
    let before = allocations();
    for _ in 0..50 {
        burst(&mut echo.ring, &mut echo.client);
    }
    assert_eq!(allocations() - before, 0);
}
