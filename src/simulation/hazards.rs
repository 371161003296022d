//! What a kernel does now and then, one thing at a time, and what must hold all the same.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::clock::{CAPACITY, Clock, Pass};
use crate::driver::sim::net::{Target, fd_of};
use crate::driver::sim::socket::Kind;
use crate::driver::sim::{Faults, SLOT_BYTES};
use crate::event_base::Interest;
use crate::{Addr, BufferEvent, Callbacks, Events, FlushEnd, Options, RunFlags};

const KINDS: [Kind; 3] = [Kind::Inet, Kind::Unix, Kind::Plain];
const DEFERRAL: [Options; 2] = [Options::empty(), Options::DEFER_CALLBACKS];

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// A signal, or a socket that has no room after all: the send goes on, and nobody hears of it.
#[test]
fn an_interrupted_send_is_no_error_and_loses_nothing() {
    for kind in KINDS {
        for options in DEFERRAL {
            for (seed, len) in [(1, 1), (2, 4_000), (3, 60_000)] {
                let faults = Faults {
                    interrupted: 700,
                    split: 500,
                    ..Faults::none()
                };
                let clock = Clock::with(seed, faults);
                let (near, far) = clock.connection(kind, options);
                let log = clock.log(&near);
                near.write(&bytes(len)).unwrap();
                far.enable(Interest::READ).unwrap();
                clock.run(20);
                assert_eq!(*log.borrow(), []);
                let got = far.input().with(|input| input.to_vec().unwrap()).unwrap();
                assert!(got == bytes(len), "{kind:?}: {} of {len}", got.len());
                assert_eq!(near.enabled(), Interest::WRITE);
            }
        }
    }
}

/// The same for receives; a cancellation that nobody asked for, too.
#[test]
fn an_interrupted_receive_is_no_error_and_loses_nothing() {
    for kind in KINDS {
        for options in DEFERRAL {
            for (seed, len) in [(1, 1), (2, 4_000), (3, 60_000)] {
                let faults = Faults {
                    spurious: 500,
                    split: 500,
                    ..Faults::none()
                };
                let clock = Clock::with(seed, faults);
                let (near, far) = clock.connection(kind, options);
                let log = clock.log(&near);
                near.enable(Interest::READ).unwrap();
                far.write(&bytes(len)).unwrap();
                clock.run(20);
                assert_eq!(*log.borrow(), []);
                let got = near.input().with(|input| input.to_vec().unwrap()).unwrap();
                assert!(got == bytes(len), "{kind:?}: {} of {len}", got.len());
            }
        }
    }
}

/// The simulated kernel panics at a descriptor that is closed under an operation (I6), and ends
/// cancelled ones late.
#[test]
fn a_descriptor_is_closed_once_its_last_operation_has_ended() {
    type Act = fn(&Clock, &BufferEvent, usize);
    let acts: [Act; 5] = [
        |_, bev, _| bev.replace_fd(None).unwrap(),
        |clock, bev, _| {
            let [other, _far] = clock.sockets(Kind::Unix);
            bev.simulate_another(fd_of(other));
        },
        |_, bev, _| bev.free(),
        |_, bev, _| bev.reset(),
        |clock, bev, _| {
            let told = clock.close(bev, Some(Duration::from_millis(1)));
            clock.run(1);
            assert!(told.get().is_some());
        },
    ];
    for kind in KINDS {
        for (act, filters) in acts.into_iter().flat_map(|act| [(act, 0), (act, 2)]) {
            for seed in 1..4 {
                let faults = Faults {
                    late_cancel: 950,
                    data_before_cancel: 300,
                    ..Faults::none()
                };
                let clock = Clock::with(seed, faults);
                let [near, far] = clock.sockets(kind);
                let socket = clock.over(near, kind, Options::empty());
                let options = Options::CLOSE_ON_FREE;
                let top = (0..filters).fold(socket.clone(), |below, _| {
                    BufferEvent::filter(&below, Pass, options).unwrap()
                });
                // A receive and a send are under way.
                top.enable(Interest::READ).unwrap();
                top.write(&bytes(100_000)).unwrap();
                clock.run(1);
                assert!(clock.base.in_flight() >= 2);
                act(&clock, &top, far);
                clock.run(5);
                let world = clock.world.borrow();
                assert!(
                    !world.net.is_open(near),
                    "{kind:?} {filters}: it is not closed"
                );
            }
        }
    }
}

/// Whom memory is short for because of others gets the reserved slot; who has bytes that wait for
/// a peer does not, even if it came to the line before it had them.
#[test]
fn the_reserved_slot_is_not_for_those_whose_peers_do_not_read() {
    for options in DEFERRAL {
        let faults = Faults {
            slots: 8,
            window: 2,
            ..Faults::none()
        };
        let clock = Clock::with(1, faults);
        let turn = || {
            let flags = RunFlags::NONBLOCK | RunFlags::NO_EXIT_ON_EMPTY;
            clock.base.run_with(flags).unwrap();
        };
        // One that keeps all there is.
        let (hog, feeds) = clock.connection(Kind::Unix, options);
        hog.enable(Interest::READ).unwrap();
        feeds.write(&bytes(100_000)).unwrap();
        clock.run(1);
        assert!(clock.base.slots_are_low(), "next to nothing is left");
        let held = hog.input().len();
        // One that comes to the line with nothing, and then has something that its peer does not
        // read; and one behind it.
        let [deaf_at, deaf_far] = clock.sockets(Kind::Unix);
        let deaf = clock.over(deaf_at, Kind::Unix, options);
        let deaf_peer = clock.over(deaf_far, Kind::Unix, options);
        deaf_peer.write(&bytes(3_000)).unwrap();
        turn();
        let before = clock.base.counters().starved;
        deaf.enable(Interest::READ).unwrap();
        while clock.base.counters().starved == before {
            turn();
        }
        let so_far = clock.world.borrow().net.moved(deaf_at).0;
        deaf.write(&bytes(4 * CAPACITY)).unwrap();
        let (reads, writes) = clock.connection(Kind::Unix, options);
        writes.write(&bytes(3_000)).unwrap();
        let got = Rc::new(Cell::new(0));
        let sum = got.clone();
        let drain = Callbacks::new().on_read(move |bev| {
            sum.set(sum.get() + bev.read(&mut [0; 4_096]));
        });
        reads.set_callbacks(drain).unwrap();
        reads.enable(Interest::READ).unwrap();
        for _ in 0..100 {
            turn();
        }
        assert_eq!(got.get(), 3_000, "whoever holds nothing is served");
        assert_eq!(
            clock.world.borrow().net.moved(deaf_at).0,
            so_far,
            "the other is not"
        );
        assert_eq!(hog.input().len(), held);
        // Once there is memory again all have their bytes.
        hog.input()
            .with(|input| input.drain(usize::MAX))
            .unwrap()
            .unwrap();
        clock.run(5);
        assert_eq!(deaf.input().len(), 3_000);
    }
}

/// A close that gives up on bytes is seen as a reset, any other as an end: a stream that was cut
/// does not look whole.
#[test]
fn a_close_that_gives_up_on_bytes_resets_and_one_that_does_not_ends_in_order() {
    const SOON: Duration = Duration::from_secs(1);
    type Setup = fn(&BufferEvent);
    let ways: [(Setup, Option<Duration>); 3] = [
        (|_| {}, Some(SOON)),
        (|bev| bev.set_timeouts(None, Some(SOON)).unwrap(), None),
        (
            |bev| bev.set_timeouts(None, Some(SOON)).unwrap(),
            Some(5 * SOON),
        ),
    ];
    for (whole, filters) in [(false, 0), (false, 2), (true, 0), (true, 2)] {
        for (setup, deadline) in ways {
            for options in DEFERRAL {
                let clock = Clock::new();
                let [near, far] = clock.sockets(Kind::Inet);
                let socket = clock.over(near, Kind::Inet, options);
                setup(&socket);
                let both = options | Options::CLOSE_ON_FREE;
                let top = (0..filters).fold(socket.clone(), |below, _| {
                    BufferEvent::filter(&below, Pass, both).unwrap()
                });
                // The peer neither reads nor ends its own stream.
                let len = if whole { CAPACITY / 2 } else { 10 * CAPACITY };
                top.write(&bytes(len)).unwrap();
                let told = clock.close(&top, deadline);
                clock.run(30);
                let (at, end) = told.get().expect("it ended");
                let world = clock.world.borrow();
                assert!(!world.net.is_open(near));
                assert_eq!(
                    world.net.is_dead(far),
                    !whole,
                    "{filters} {deadline:?}: {end:?}"
                );
                match (whole, end) {
                    // It waits for the peer's end for two seconds.
                    (true, FlushEnd::Flushed) => assert!(at <= 2_000, "{at}"),
                    (false, FlushEnd::TimedOut { unsent } | FlushEnd::Failed { unsent }) => {
                        assert!(unsent >= len - CAPACITY && unsent <= len);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

/// What was known of the connection before does not hold for another descriptor.
#[test]
fn another_descriptor_begins_anew() {
    let cases = [Kind::Inet, Kind::Unix];
    for (kind, told_of_the_end) in cases
        .into_iter()
        .flat_map(|kind| [(kind, false), (kind, true)])
    {
        let clock = Clock::new();
        let (bev, far) = clock.connection(kind, Options::empty());
        let log = clock.log(&bev);
        let high = if told_of_the_end { 0 } else { 10 };
        bev.set_watermarks(Interest::READ, 0, high).unwrap();
        bev.enable(Interest::READ).unwrap();
        far.write(&[1; 3_000]).unwrap();
        far.shutdown_write().unwrap();
        clock.run(1);
        let shown = bev.input().len();
        match told_of_the_end {
            false => assert_eq!(shown, 10, "the rest waits unseen, and the end behind it"),
            true => assert_eq!((shown, log.borrow().len()), (3_000, 1)),
        }
        log.borrow_mut().clear();
        let [near, other] = clock.sockets(kind);
        bev.simulate_another(fd_of(near));
        let other = clock.over(other, kind, Options::empty());
        bev.set_watermarks(Interest::READ, 0, 0).unwrap();
        bev.enable(Interest::READ).unwrap();
        clock.run(1);
        assert_eq!(
            bev.input().len(),
            shown,
            "what waited unseen went with its connection"
        );
        other.write(&[2; 20]).unwrap();
        clock.run(1);
        let got = bev.input().with(|input| input.to_vec().unwrap()).unwrap();
        assert_eq!(got, [&vec![1; shown][..], &[2; 20]].concat());
        // Nor is its end: the close waits for that of the new one.
        bev.write(b"last").unwrap();
        let told = clock.close(&bev, None);
        clock.run(1);
        assert_eq!(told.get(), None, "the new peer may still send");
        assert_eq!(*log.borrow(), []);
        other.free();
        clock.run(1);
        assert!(matches!(told.get(), Some((_, FlushEnd::Flushed))));
    }
}

/// Straight into a close, with nothing received on the new one: it waits for the peer all the same.
#[test]
fn a_close_after_the_end_of_an_earlier_connection_waits_for_the_new_peer() {
    for kind in [Kind::Inet, Kind::Unix] {
        let clock = Clock::new();
        let (bev, far) = clock.connection(kind, Options::empty());
        let log = clock.log(&bev);
        bev.enable(Interest::READ).unwrap();
        far.free();
        clock.run(1);
        assert_eq!(log.borrow().len(), 1);
        let [near, other] = clock.sockets(kind);
        bev.simulate_another(fd_of(near));
        bev.write(b"last").unwrap();
        let told = clock.close(&bev, None);
        clock.run(1);
        assert_eq!(told.get(), None, "the new peer may still send");
        clock.world.borrow_mut().end_stream(other);
        clock.run(1);
        assert!(matches!(told.get(), Some((_, FlushEnd::Flushed))));
    }
}

/// A socket that the program gave is its own: a connect that fails does not have it closed.
#[test]
fn a_socket_of_the_programs_outlives_a_connect_that_failed() {
    let clock = Clock::new();
    let (own, peer) = {
        let mut world = clock.world.borrow_mut();
        let [own, peer] = [0; 2].map(|_| world.net.socket(Kind::Inet, CAPACITY));
        world.net.listen(7, Target::Refuses(libc::ECONNREFUSED));
        world.net.listen(8, Target::Accepts(peer));
        (own, peer)
    };
    let bev = BufferEvent::socket(&clock.base, None, Options::CLOSE_ON_FREE).unwrap();
    let log = clock.log(&bev);
    let connect = |port: u16| {
        let at: Addr = format!("127.0.0.1:{port}").parse().unwrap();
        bev.connect(at).unwrap();
        clock.run(1);
        log.borrow().last().map(|(_, what)| *what)
    };
    // The first on a socket that is made for it.
    assert_eq!(connect(7), Some(Events::ERROR));
    bev.simulate_another(fd_of(own));
    assert_eq!(connect(7), Some(Events::ERROR));
    assert!(clock.world.borrow().net.is_open(own));
    assert_eq!(bev.fd(), Some(fd_of(own)));
    assert_eq!(connect(8), Some(Events::CONNECTED), "on the same one");
    assert_eq!(bev.fd(), Some(fd_of(own)));
    bev.write(b"hello").unwrap();
    clock.run(1);
    assert_eq!(clock.world.borrow_mut().take_arrived(peer, 100), 5);
}

/// An end that was put off since its read callback disabled READ is that of the old connection.
#[test]
fn an_end_that_was_put_off_is_not_told_of_another_descriptor() {
    for another in [false, true] {
        let clock = Clock::new();
        let (bev, far) = clock.connection(Kind::Inet, Options::DEFER_CALLBACKS);
        let ends = Rc::new(Cell::new(0));
        let count = ends.clone();
        bev.set_callbacks(
            Callbacks::new()
                .on_read(|bev| bev.disable(Interest::READ))
                .on_event(move |_, _| count.set(count.get() + 1)),
        )
        .unwrap();
        far.write(b"last").unwrap();
        far.shutdown_write().unwrap();
        clock.run(1);
        bev.enable(Interest::READ).unwrap();
        clock.run(1);
        assert_eq!((bev.input().len(), bev.enabled()), (4, Interest::WRITE));
        assert_eq!(
            ends.get(),
            0,
            "it was there when the callback disabled READ"
        );
        let [near, _other] = clock.sockets(Kind::Inet);
        if another {
            bev.simulate_another(fd_of(near));
        }
        bev.enable(Interest::READ).unwrap();
        clock.run(1);
        assert_eq!(ends.get(), u32::from(!another));
    }
}

/// A socket whose connect failed is not used again, and closed.
#[test]
fn a_second_connect_after_a_failed_one_has_a_socket_of_its_own() {
    for failing in [Target::Refuses(libc::ECONNREFUSED), Target::Silent] {
        let clock = Clock::new();
        let (first, peer) = {
            let mut world = clock.world.borrow_mut();
            let peer = world.net.socket(Kind::Inet, CAPACITY);
            world.net.listen(7, failing);
            world.net.listen(8, Target::Accepts(peer));
            (world.net.len(), peer)
        };
        let bev = BufferEvent::socket(&clock.base, None, Options::CLOSE_ON_FREE).unwrap();
        let log = clock.log(&bev);
        bev.set_timeouts(None, Some(Duration::from_secs(1)))
            .unwrap();
        bev.connect("127.0.0.1:7".parse::<Addr>().unwrap()).unwrap();
        clock.run(5);
        assert_eq!(log.borrow().len(), 1);
        bev.enable(Interest::WRITE).unwrap();
        bev.connect("127.0.0.1:8".parse::<Addr>().unwrap()).unwrap();
        clock.run(5);
        let events: Vec<_> = log.borrow().iter().map(|(_, what)| *what).collect();
        assert!(events.contains(&Events::CONNECTED), "{events:?}");
        assert!(!clock.world.borrow().net.is_open(first));
        bev.write(b"hello").unwrap();
        clock.run(1);
        assert_eq!(clock.world.borrow_mut().take_arrived(peer, 100), 5);
    }
}

/// A relay's idle time-out counts what the kernel takes, however large its sends; its last flush is
/// timed likewise.
#[test]
fn a_relay_is_idle_once_no_byte_moves_any_more() {
    use crate::{RelayEnd, RelayOptions, relay};
    const IDLE: Duration = Duration::from_secs(1);
    for kind in [Kind::Inet, Kind::Unix] {
        for (filters, ends) in [(0, false), (0, true), (1, false), (1, true)] {
            let clock = Clock::new();
            let ([a, client], [b, server]) = (clock.sockets(kind), clock.sockets(kind));
            let over = |socket| {
                let below = clock.over(socket, kind, Options::empty());
                (0..filters).fold(below, |below, _| {
                    BufferEvent::filter(&below, Pass, Options::CLOSE_ON_FREE).unwrap()
                })
            };
            let (a, b) = (over(a), over(b));
            let client = clock.over(client, kind, Options::empty());
            client.write(&bytes(100_000)).unwrap();
            client.enable(Interest::READ).unwrap();
            if ends {
                // Both streams end in order; only the flush is left, towards a slow peer.
                client.shutdown_write().unwrap();
            }
            let options = RelayOptions::default().idle_timeout(Some(IDLE));
            let joined = relay(&a, &b, options).unwrap();
            let told = Rc::new(Cell::new(None));
            let (end, began, base) = (told.clone(), clock.base.clock_ns(), clock.base.downgrade());
            joined.on_end(move |report| {
                let now = base.upgrade().map_or(0, |base| base.clock_ns());
                end.set(Some((now.saturating_sub(began) / 1_000_000, *report)));
            });
            let world = clock.world.clone();
            let mut taken = 0;
            clock.every_step(6, move || {
                taken += 1;
                let mut world = world.borrow_mut();
                if ends && taken == 1 {
                    world.end_stream(server);
                }
                assert_eq!(world.take_arrived(server, 500), 500);
            });
            clock.run(30);
            let (at, report) = told.get().expect("it ended");
            let last = 6 * 600;
            let why = format!("{kind:?} {filters} {ends}: {at} {report:?}");
            assert!((last..=last + 2_100).contains(&at), "{why}");
            assert!(report.undelivered >= 80_000, "{why}");
            match ends {
                false => assert_eq!(report.end, RelayEnd::TimedOut, "{why}"),
                true => assert!(matches!(report.end, RelayEnd::Failed { .. }), "{why}"),
            }
        }
    }
}

/// What a relay finds in the inputs when it begins is passed on; and when one side can not be
/// written to any more, what it has still sent is.
#[test]
fn a_relay_passes_on_what_came_before_it_and_what_a_side_sent_before_it_went() {
    use crate::{RelayEnd, RelayOptions, RelaySide, relay};
    for filters in [0, 1] {
        let clock = Clock::new();
        let (a, client) = clock.connection(Kind::Unix, Options::empty());
        let (b, server) = clock.connection(Kind::Unix, Options::empty());
        let over = |below: &BufferEvent| {
            (0..filters).fold(below.clone(), |below, _| {
                BufferEvent::filter(&below, Pass, Options::CLOSE_ON_FREE).unwrap()
            })
        };
        let (a, b) = (over(&a), over(&b));
        a.enable(Interest::READ).unwrap();
        client.write(b"before").unwrap();
        clock.run(1);
        assert_eq!(a.input().len(), 6);
        let joined = relay(&a, &b, RelayOptions::default()).unwrap();
        let told = Rc::new(Cell::new(None));
        let end = told.clone();
        joined.on_end(move |report| end.set(Some(*report)));
        server.enable(Interest::READ).unwrap();
        clock.run(1);
        assert_eq!(server.input().len(), 6);
        // The server answers, more than is received at a time, and is gone; then the client asks.
        server.write(&bytes(CAPACITY)).unwrap();
        client.enable(Interest::READ).unwrap();
        client.write(b"after").unwrap();
        let gone = server.clone();
        clock.base.defer(move |_| {
            gone.close_after_flush(None, |_| {}).unwrap();
        });
        clock.run(20);
        let got = client
            .input()
            .with(|input| input.to_vec().unwrap())
            .unwrap();
        assert!(got == bytes(CAPACITY), "{filters}: {}", got.len());
        client.free();
        clock.run(20);
        let report = told.get().expect("it ended");
        let side = RelaySide::B;
        assert!(
            matches!(report.end, RelayEnd::Finished)
                || matches!(report.end, RelayEnd::Failed { side: failed, .. } if failed == side),
            "{report:?}"
        );
        assert_eq!(report.b_to_a, CAPACITY as u64);
    }
}

/// What waited unseen behind a mark is in the input once reading is finished.
#[test]
fn finish_reading_shows_what_waited_behind_the_mark() {
    for kind in [Kind::Inet, Kind::Unix, Kind::Plain] {
        for options in DEFERRAL {
            let clock = Clock::new();
            let (near, far) = clock.connection(kind, options);
            near.enable(Interest::READ).unwrap();
            clock.run(1);
            // It comes while a receive without a mark is under way.
            near.set_watermarks(Interest::READ, 0, 10).unwrap();
            far.write(&bytes(2_000)).unwrap();
            clock.run(1);
            assert_eq!(near.input().len(), 10);
            let told = Rc::new(Cell::new(0));
            let sum = told.clone();
            near.finish_reading(move |bev| sum.set(bev.input().len()))
                .unwrap();
            clock.run(1);
            assert_eq!(told.get(), 2_000, "{kind:?}");
        }
    }
}

/// Messages that wait to be read pin a slot each, until memory gets short: then they are copied out
/// of their slots, and those that come meanwhile as well.
#[test]
fn what_waits_to_be_read_pins_no_slot_while_memory_is_short() {
    const SLOTS: usize = 16;
    const MESSAGE: usize = 1_500;
    for (options, hogs) in [
        (DEFERRAL[0], false),
        (DEFERRAL[1], false),
        (DEFERRAL[0], true),
    ] {
        let faults = Faults {
            slots: SLOTS,
            window: 2,
            ..Faults::none()
        };
        let clock = Clock::with(1, faults);
        let pinned = || {
            let world = clock.world.borrow();
            world.arena().stats().slots_live - world.slots_held()
        };
        let (hog, feeds) = clock.connection(Kind::Unix, options);
        if hogs {
            // Whole slots, which nobody copies: memory is short from now on.
            hog.enable(Interest::READ).unwrap();
            for _ in 0..11 {
                feeds.write(&bytes(SLOT_BYTES)).unwrap();
                clock.run(1);
            }
            hog.disable(Interest::READ).unwrap();
        }
        let before = pinned();
        assert_eq!(before != 0, hogs);
        let mut waiting = Vec::new();
        for _ in 0..SLOTS - 4 {
            let (reads, writes) = clock.connection(Kind::Unix, options);
            reads
                .set_callbacks(Callbacks::new().on_read(|_| {}))
                .unwrap();
            reads.enable(Interest::READ).unwrap();
            writes.write(&bytes(MESSAGE)).unwrap();
            clock.run(1);
            waiting.push(reads);
        }
        let more = pinned() - before;
        let most = if hogs { 1 } else { SLOTS / 2 };
        assert!(more <= most, "{more} slots for {} messages", waiting.len());
        for reads in waiting {
            let got = reads.input().with(|input| input.to_vec().unwrap()).unwrap();
            assert!(bytes(MESSAGE).starts_with(&got) && !got.is_empty());
            assert!(hogs || got.len() == MESSAGE);
        }
    }
}

/// Reading was finished for the connection there was; another one is read from.
#[test]
fn another_descriptor_is_read_from_although_reading_was_finished_before() {
    for kind in KINDS {
        let clock = Clock::new();
        let (bev, far) = clock.connection(kind, Options::empty());
        bev.enable(Interest::READ).unwrap();
        let told = Rc::new(Cell::new(false));
        let done = told.clone();
        bev.finish_reading(move |_| done.set(true)).unwrap();
        far.write(b"late").unwrap();
        bev.enable(Interest::READ).unwrap();
        clock.run(1);
        assert!(told.get() && bev.input().is_empty(), "{kind:?}");
        let [near, other] = clock.sockets(kind);
        bev.simulate_another(fd_of(near));
        let other = clock.over(other, kind, Options::empty());
        bev.enable(Interest::READ).unwrap();
        other.write(b"new").unwrap();
        clock.run(1);
        assert_eq!(bev.input().len(), 3, "{kind:?}");
    }
}

/// Closed twice: the later deadline and report hold, and the earlier report is told so.
#[test]
fn a_second_close_tells_the_report_of_the_first() {
    for (kind, deadline_s) in KINDS.into_iter().flat_map(|kind| [(kind, 1), (kind, 9)]) {
        let clock = Clock::new();
        let [near, _far] = clock.sockets(kind);
        let bev = clock.over(near, kind, Options::empty());
        bev.write(&bytes(100_000)).unwrap();
        let first = clock.close(&bev, Some(Duration::from_secs(4)));
        assert_eq!(first.get(), None);
        let second = clock.close(&bev, Some(Duration::from_secs(deadline_s)));
        let told = first.get();
        assert!(
            matches!(told, Some((0, FlushEnd::Failed { unsent: 100_000 }))),
            "{told:?}"
        );
        clock.run(20);
        let (at, end) = second.get().expect("it ended");
        assert_eq!(at, deadline_s * 1_000, "{kind:?}");
        assert!(
            matches!(end, FlushEnd::TimedOut { unsent } if unsent >= 95_000),
            "{end:?}"
        );
    }
}

/// Two ends that each have bytes for the other, while a third keeps the memory short: whoever holds
/// bytes reads no more then, and nobody else is there who could free any. They go on all the same.
#[test]
fn two_ends_that_wait_for_each_other_while_memory_is_short_go_on() {
    for kind in [Kind::Inet, Kind::Unix] {
        for options in DEFERRAL {
            for filters in [0, 1] {
                for (kept, len) in [(5, 3 * CAPACITY), (6, 2 * CAPACITY + 1)] {
                    let faults = Faults {
                        slots: 8,
                        window: 2,
                        ..Faults::none()
                    };
                    let clock = Clock::with(1, faults);
                    let (hog, feeds) = clock.connection(Kind::Unix, options);
                    hog.enable(Interest::READ).unwrap();
                    feeds.write(&bytes(kept * SLOT_BYTES)).unwrap();
                    clock.run(1);
                    assert_eq!(hog.input().len(), kept * SLOT_BYTES);
                    assert!(clock.base.slots_are_low());
                    let ends = <[BufferEvent; 2]>::from(clock.connection(kind, options));
                    let got = [0; 2].map(|_| Rc::new(Cell::new(0)));
                    let both = Interest::READ | Interest::WRITE;
                    for (end, got) in ends.iter().zip(&got) {
                        let top = (0..filters).fold(end.clone(), |below, _| {
                            BufferEvent::filter(&below, Pass, Options::empty()).unwrap()
                        });
                        let sum = got.clone();
                        top.set_callbacks(Callbacks::new().on_read(move |bev| {
                            sum.set(sum.get() + bev.read(&mut [0; 4_096]));
                        }))
                        .unwrap();
                        top.enable(both).unwrap();
                        top.write(&bytes(len)).unwrap();
                    }
                    clock.run(60);
                    let case = format!("{kind:?}, {options:?}, {filters} filters, {kept} slots");
                    assert!(clock.base.slots_are_low(), "{case}");
                    let got = got.map(|got| got.get());
                    assert_eq!(got, [len; 2], "{case}");
                }
            }
        }
    }
}
