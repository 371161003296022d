//! What happens when receive slots run out: readers wait, in turn, and nothing is lost.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

mod common;

use common::{BOUND, adopt, tcp_pair};
use evring::{
    BufferEvent, Callbacks, EventBase, Filter, Interest, Options, RelayEnd, RelayOptions,
    RelaySide, RunFlags, relay,
};

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

/// Runs the loop until `holds`, or for as long as anything in these tests may take; whether it did.
fn turn_until(base: &EventBase, mut holds: impl FnMut() -> bool) -> bool {
    let began = std::time::Instant::now();
    let tick = base.timer(Duration::from_millis(1), |timer| {
        timer.rearm(Duration::from_millis(1)).unwrap();
    });
    let tick = tick.unwrap();
    while !holds() {
        if began.elapsed() > BOUND {
            return false;
        }
        base.run_with(RunFlags::ONCE).unwrap();
    }
    tick.cancel();
    true
}

/// The cap in slots, the reserved one, and what one turn may have received before it was noticed.
fn is_within_the_cap(base: &EventBase) -> bool {
    base.slots_live() <= 2 * MIB / (16 << 10) + 1
}

#[test]
fn two_hundred_half_messages_leave_room_for_their_other_halves() {
    // Halves of 3,000 bytes are neither small enough to be copied out while memory is ample, nor
    // do they fit into the cap a slot each.
    for (deferred, first, all) in [(false, 3000, 6000), (true, 3000, 6000), (false, 7000, 7001)] {
        let base = small_base();
        let answered = Rc::new(Cell::new(0));
        let seen = Rc::new(Cell::new(0));
        let (mut peers, mut bevs) = (Vec::new(), Vec::new());
        let options = match deferred {
            true => Options::CLOSE_ON_FREE | Options::DEFER_CALLBACKS,
            false => Options::CLOSE_ON_FREE,
        };
        for _ in 0..200 {
            let (peer, fd) = tcp_pair();
            let bev = BufferEvent::socket(&base, Some(fd.into()), options).unwrap();
            let (answered, seen) = (answered.clone(), seen.clone());
            let had = Cell::new(0);
            bev.set_callbacks(Callbacks::new().on_read(move |bev| {
                let len = bev.input().len();
                seen.set(seen.get() + len - had.replace(len));
                if len == all {
                    bev.input().with(|input| input.drain(all)).unwrap().unwrap();
                    bev.write(b"answer").unwrap();
                    answered.set(answered.get() + 1);
                }
            }))
            .unwrap();
            bev.enable(Interest::READ).unwrap();
            peers.push(peer);
            bevs.push(bev);
        }
        let message: Vec<u8> = pattern(7, all);
        for peer in &mut peers {
            peer.write_all(&message[..first]).unwrap();
        }
        assert!(turn_until(&base, || {
            assert!(is_within_the_cap(&base));
            seen.get() == 200 * first
        }));
        for peer in &mut peers {
            peer.write_all(&message[first..]).unwrap();
        }
        assert!(turn_until(&base, || {
            assert!(is_within_the_cap(&base));
            answered.get() == 200
        }));
        for peer in &mut peers {
            let mut answer = [0; 6];
            let reads = thread::scope(|scope| {
                let reading = scope.spawn(|| peer.read_exact(&mut answer));
                assert!(turn_until(&base, || reading.is_finished()));
                reading.join().unwrap()
            });
            reads.unwrap();
            assert_eq!(&answer, b"answer");
        }
        for bev in bevs {
            bev.free();
        }
        base.run().unwrap();
        assert_eq!(base.slots_live(), 4, "all but the window's are back");
    }
}

/// Writes to `streams` until none of them takes any more, and the loop has nothing to do for them.
fn stuff(base: &EventBase, streams: &[std::net::TcpStream]) {
    let chunk = pattern(3, 64 << 10);
    let mut quiet = 0;
    for stream in streams {
        stream.set_nonblocking(true).unwrap();
    }
    assert!(turn_until(base, || {
        let mut wrote = false;
        for mut stream in streams {
            wrote |= matches!(stream.write(&chunk), Ok(1..));
        }
        quiet = if wrote { 0 } else { quiet + 1 };
        quiet > 50
    }));
}

#[test]
fn uploads_nobody_reads_starve_nobody_and_end_when_their_clients_reset() {
    for filters in [0, 1] {
        let base = small_base();
        let ended = Rc::new(Cell::new(0));
        let (mut clients, mut upstreams) = (Vec::new(), Vec::new());
        for _ in 0..24 {
            let (client, a) = tcp_pair();
            let (upstream, b) = tcp_pair();
            let mut sides = [adopt(&base, a), adopt(&base, b)];
            for _ in 0..filters {
                sides = sides
                    .map(|bev| BufferEvent::filter(&bev, Pass, Options::CLOSE_ON_FREE).unwrap());
            }
            let relay = relay(&sides[0], &sides[1], RelayOptions::default()).unwrap();
            let ended = ended.clone();
            relay.on_end(move |report| {
                assert!(matches!(
                    report.end,
                    RelayEnd::Failed {
                        side: RelaySide::A,
                        ..
                    }
                ));
                ended.set(ended.get() + 1);
            });
            clients.push(client);
            upstreams.push(upstream);
        }
        stuff(&base, &clients);
        assert!(is_within_the_cap(&base));
        // Another one is served at once, message by message.
        let (mut client, fd) = tcp_pair();
        let echo = adopt(&base, fd);
        echo.set_callbacks(Callbacks::new().on_read(|bev| {
            bev.transfer_to(bev).unwrap();
        }))
        .unwrap();
        echo.enable(Interest::READ).unwrap();
        let remote = base.remote().unwrap();
        let talks = thread::spawn(move || {
            let mut got = [0; 64];
            for number in 0..100 {
                let sent = [number; 64];
                client.write_all(&sent).unwrap();
                client.read_exact(&mut got).unwrap();
                assert_eq!(got, sent);
            }
            remote.stop().unwrap();
        });
        base.run().unwrap();
        talks.join().unwrap();
        echo.free();
        assert_eq!(ended.get(), 0);
        // They stand still, most of them for the lack of memory: their resets are seen all the
        // same.
        for client in clients {
            reset(client);
        }
        assert!(turn_until(&base, || ended.get() == 24));
        drop(upstreams);
        base.run().unwrap();
        assert_eq!(base.slots_live(), 4, "all but the window's are back");
    }
}

#[test]
fn whoever_was_held_back_reads_on_once_memory_is_ample() {
    let base = small_base();
    let (mut clients, mut echoes) = (Vec::new(), Vec::new());
    for _ in 0..24 {
        let (client, fd) = tcp_pair();
        let echo = adopt(&base, fd);
        echo.set_callbacks(Callbacks::new().on_read(|bev| {
            bev.transfer_to(bev).unwrap();
        }))
        .unwrap();
        echo.enable(Interest::READ).unwrap();
        clients.push(client);
        echoes.push(echo);
    }
    stuff(&base, &clients);
    let sent: Vec<u64> = echoes
        .iter()
        .map(|echo| echo.input().len() as u64)
        .collect();
    assert_eq!(
        sent.iter().sum::<u64>(),
        0,
        "echoes keep nothing in their inputs"
    );
    assert!(is_within_the_cap(&base));
    // They begin to read: all that they wrote comes back.
    let threads: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            client.set_nonblocking(false).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            thread::spawn(move || {
                let mut got = Vec::new();
                client.read_to_end(&mut got).unwrap();
                got.len()
            })
        })
        .collect();
    for echo in &echoes {
        let ends = echo.clone();
        echo.set_callbacks(
            Callbacks::new()
                .on_read(|bev| {
                    bev.transfer_to(bev).unwrap();
                })
                .on_event(move |_, _| {
                    ends.close_after_flush(None, |_| {}).unwrap();
                }),
        )
        .unwrap();
    }
    base.run().unwrap();
    let got: usize = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .sum();
    assert!(got > 2 * MIB, "{got} bytes came back");
    assert_eq!(base.slots_live(), 4, "all but the window's are back");
}

#[test]
fn who_waits_without_a_byte_leaves_the_reserved_slot_to_who_has_some() {
    for kept in [1, 100, 500] {
        let base = small_base();
        // One who keeps all that it gets takes every slot.
        let (hog_far, fd) = tcp_pair();
        let hog = adopt(&base, fd);
        hog.enable(Interest::READ).unwrap();
        stuff(&base, std::slice::from_ref(&hog_far));
        // Others keep half a message, and wait in line with it: there is no memory for more.
        let seen = Rc::new(Cell::new(0));
        let mut idle = Vec::new();
        for _ in 0..20 {
            let (mut peer, fd) = tcp_pair();
            let bev = adopt(&base, fd);
            let (seen, had) = (seen.clone(), Cell::new(0));
            bev.set_callbacks(Callbacks::new().on_read(move |bev| {
                let len = bev.input().len();
                seen.set(seen.get() + len - had.replace(len));
            }))
            .unwrap();
            bev.enable(Interest::READ).unwrap();
            peer.write_all(&vec![b'x'; kept]).unwrap();
            idle.push((peer, bev));
        }
        assert!(turn_until(&base, || seen.get() == 20 * kept), "{kept}");
        // The program gives them up. They are still first in line, and have nothing to receive.
        for (_, bev) in &idle {
            let drained = bev.input().with(|input| input.drain(kept));
            drained.unwrap().unwrap();
        }
        let (mut client, fd) = tcp_pair();
        let echo = adopt(&base, fd);
        let heard = Rc::new(Cell::new(0));
        let count = heard.clone();
        echo.set_callbacks(Callbacks::new().on_read(move |bev| {
            count.set(count.get() + bev.input().len());
            bev.transfer_to(bev).unwrap();
        }))
        .unwrap();
        echo.enable(Interest::READ).unwrap();
        for number in 1..=20 {
            client.write_all(&[7; 200]).unwrap();
            let arrived = turn_until(&base, || heard.get() == 200 * number);
            assert!(arrived, "{kept}: message {number}");
        }
        for bev in idle.iter().map(|(_, bev)| bev).chain([&hog, &echo]) {
            bev.free();
        }
        base.run().unwrap();
        assert_eq!(base.slots_live(), 4, "all but the window's are back");
    }
}

fn reset(stream: std::net::TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

struct Pass;

impl Filter for Pass {}
