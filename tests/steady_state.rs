//! What a proxied message costs in user space once everything is warm: no allocation, no copied
//! byte.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

mod common;

use common::{adopt, tcp_pair};
use evring::{Callbacks, EventBase, Interest, RelayOptions, relay};

/// The system's allocator, counting the calls of each thread.
struct Ledger;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: hands every call on to the system's allocator; the counter allocates nothing.
unsafe impl GlobalAlloc for Ledger {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.with(|calls| calls.set(calls.get() + 1));
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        CALLS.with(|calls| calls.set(calls.get() + 1));
        // SAFETY: the caller's promise is handed on.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static LEDGER: Ledger = Ledger;

fn calls() -> u64 {
    CALLS.with(Cell::get)
}

/// Sends messages of each size around and around, stopping the loop after each batch; gives what
/// the loop's thread allocated and copied while the later batches ran.
fn measure(base: &EventBase, mut client: TcpStream, size: usize) -> (u64, u64) {
    const BATCHES: usize = 6;
    const EACH: usize = 300;
    let remote = base.remote().unwrap();
    let peer = thread::spawn(move || {
        let message = vec![0xA5; size];
        let mut answer = vec![0; size];
        for _ in 0..BATCHES {
            for _ in 0..EACH {
                client.write_all(&message).unwrap();
                client.read_exact(&mut answer).unwrap();
                assert!(answer == message);
            }
            remote.stop().unwrap();
        }
        client
    });
    let mut first = (0, 0);
    let mut last = (0, 0);
    for batch in 0..BATCHES {
        base.run().unwrap();
        last = (calls(), base.counters().bytes_copied);
        if batch == 1 {
            first = last;
        }
    }
    drop(peer.join().unwrap());
    (last.0 - first.0, last.1 - first.1)
}

#[test]
fn an_echoed_message_allocates_and_copies_nothing() {
    for size in [64, 16 << 10, 100_000] {
        let base = EventBase::new().unwrap();
        let (client, server) = tcp_pair();
        let bev = adopt(&base, server);
        bev.set_callbacks(Callbacks::new().on_read(|bev| {
            bev.transfer_to(bev).unwrap();
        }))
        .unwrap();
        bev.enable(Interest::READ).unwrap();
        assert_eq!(measure(&base, client, size), (0, 0), "{size} bytes");
    }
}

#[test]
fn a_proxied_message_allocates_and_copies_nothing() {
    for size in [64, 16 << 10, 100_000] {
        let base = EventBase::new().unwrap();
        let (client, downstream) = tcp_pair();
        let (upstream, far) = tcp_pair();
        relay(
            &adopt(&base, downstream),
            &adopt(&base, upstream),
            RelayOptions::default(),
        )
        .unwrap();
        let echo = adopt(&base, far);
        echo.set_callbacks(Callbacks::new().on_read(|bev| {
            bev.transfer_to(bev).unwrap();
        }))
        .unwrap();
        echo.enable(Interest::READ).unwrap();
        assert_eq!(measure(&base, client, size), (0, 0), "{size} bytes");
    }
}
