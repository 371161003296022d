//! What happens when receive slots run out: readers wait, in turn, and nothing is lost.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

mod common;

use common::{adopt, tcp_pair};
use evring::{Callbacks, EventBase, Interest, RelayEnd, RelayOptions, relay};

const MIB: usize = 1 << 20;

/// The least that a base can have: one chunk of slots, 4 of them with the kernel.
fn small_base() -> EventBase {
    EventBase::builder()
        .max_buffer_bytes(2 * MIB)
        .window(4)
        .build()
        .unwrap()
}

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i.wrapping_mul(seed * 2 + 1) >> 3) as u8)
        .collect()
}

#[test]
fn many_readers_share_few_slots_and_lose_nothing() {
    let base = small_base();
    let finished = Rc::new(Cell::new(0));
    let mut peers = Vec::new();
    for seed in 0..16 {
        let (left, a) = tcp_pair();
        let (right, b) = tcp_pair();
        let relay = relay(&adopt(&base, a), &adopt(&base, b), RelayOptions::default()).unwrap();
        let count = finished.clone();
        relay.on_end(move |report| {
            assert_eq!((report.end, report.undelivered), (RelayEnd::Finished, 0));
            count.set(count.get() + 1);
        });
        for (mut stream, seed) in [(left, seed), (right, seed + 100)] {
            let mut writer = stream.try_clone().unwrap();
            peers.push(thread::spawn(move || {
                writer.write_all(&pattern(seed, 3 * MIB)).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            }));
            let other = if seed < 100 { seed + 100 } else { seed - 100 };
            peers.push(thread::spawn(move || {
                let mut got = Vec::new();
                stream.read_to_end(&mut got).unwrap();
                assert!(got == pattern(other, 3 * MIB));
            }));
        }
    }
    base.run().unwrap();
    for peer in peers {
        peer.join().unwrap();
    }
    assert_eq!(finished.get(), 16);
    assert!(
        base.counters().starved > 0,
        "slots did run out: {}",
        base.counters()
    );
    assert_eq!((base.active(), base.in_flight()), (0, 0));
    assert_eq!(base.slots_live(), 4, "all but the window's are back");
}

#[test]
fn the_reserved_slot_moves_one_connection_while_another_holds_all_the_rest() {
    let base = small_base();
    // A reader that keeps all that it gets, without an end: it takes every slot there is.
    let (hog_far, hog_fd) = tcp_pair();
    let hog = adopt(&base, hog_fd);
    hog.enable(Interest::READ).unwrap();
    hog_far.set_nonblocking(true).unwrap();
    let (mut client, server) = tcp_pair();
    let echo = adopt(&base, server);
    echo.set_callbacks(Callbacks::new().on_read(|bev| {
        bev.transfer_to(bev).unwrap();
    }))
    .unwrap();
    let remote = base.remote().unwrap();
    let peers = thread::spawn(move || {
        let chunk = pattern(1, MIB);
        let mut quiet = 0;
        while quiet < 50 {
            match (&hog_far).write(&chunk) {
                Ok(n) if n != 0 => quiet = 0,
                _ => {
                    quiet += 1;
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
        // The arena is spent. Others still move, slot by slot.
        let sent = pattern(2, 200_000);
        let mut writer = client.try_clone().unwrap();
        let out = sent.clone();
        let writing = thread::spawn(move || writer.write_all(&out).unwrap());
        let mut got = vec![0; sent.len()];
        client.read_exact(&mut got).unwrap();
        writing.join().unwrap();
        assert!(got == sent);
        remote.stop().unwrap();
        (hog_far, client)
    });
    echo.enable(Interest::READ).unwrap();
    base.run().unwrap();
    let kept = peers.join().unwrap();
    let held = hog.input().len();
    assert!(held > MIB, "{held} bytes held");
    // The hog lets go: everybody reads on.
    hog.input()
        .with(|input| input.drain(usize::MAX))
        .unwrap()
        .unwrap();
    hog.free();
    echo.free();
    base.run().unwrap();
    assert_eq!(base.active(), 0);
    assert_eq!(base.slots_live(), 4);
    drop(kept);
}

#[test]
fn a_slot_that_another_thread_drops_wakes_the_loop() {
    let base = small_base();
    let (far, fd) = tcp_pair();
    let bev = adopt(&base, fd);
    // All that is received goes to another thread, which keeps it until no more comes: every slot
    // is out then, and nothing else would wake the loop.
    let (keep, kept) = std::sync::mpsc::channel::<evring::EvBuffer>();
    let keeper = thread::spawn(move || {
        let mut hoard = Vec::new();
        loop {
            match kept.recv_timeout(Duration::from_millis(20)) {
                Ok(buffer) => hoard.push(buffer),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => hoard.clear(),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    });
    let got = Rc::new(Cell::new(0));
    let count = got.clone();
    bev.set_callbacks(
        Callbacks::new()
            .on_read(move |bev| {
                let mut buffer = evring::EvBuffer::new();
                count.set(count.get() + bev.read_buffer(&mut buffer).unwrap());
                keep.send(buffer).unwrap();
            })
            .on_event(|bev, _| bev.free()),
    )
    .unwrap();
    bev.enable(Interest::READ).unwrap();
    let sender = thread::spawn(move || (&far).write_all(&pattern(1, 6 * MIB)).unwrap());
    // Should the wake-up be missing, the test fails instead of hanging.
    base.stop_after(Duration::from_secs(20));
    while got.get() < 6 * MIB || !bev.is_freed() {
        let exit = base.run_with(evring::RunFlags::ONCE).unwrap();
        assert_eq!(exit, evring::Exit::Turned, "{} bytes", got.get());
    }
    assert!(base.counters().starved > 0, "slots did run out");
    sender.join().unwrap();
    drop(base);
    keeper.join().unwrap();
}
