//! Time-outs on virtual time: when exactly they fire, and what restarts them.

use std::time::Duration;

use super::clock::{CAPACITY, Clock, Pass, STEP};
use crate::driver::sim::net::Target;
use crate::driver::sim::socket::Kind;
use crate::event_base::Interest;
use crate::rate_limit::RateLimitConfig;
use crate::{Addr, BufferEvent, Events, FlushEnd, Options};

/// The time-out that is set.
const QUIET: Duration = Duration::from_secs(1);

const READ: Events = Events::READING.union(Events::TIMEOUT);
const WRITE: Events = Events::WRITING.union(Events::TIMEOUT);

const KINDS: [Kind; 3] = [Kind::Inet, Kind::Unix, Kind::Plain];
const DEFERRAL: [Options; 2] = [Options::empty(), Options::DEFER_CALLBACKS];

/// When the write timer fires that was restarted last at `since`, with bytes on the way: over TCP
/// what the peer has acknowledged since then restarts it once more.
fn write_late(kind: Kind, since: u64) -> u64 {
    match kind {
        Kind::Inet => since + 2 * ms(QUIET),
        _ => since + ms(QUIET),
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("a short time")
}

/// A peer that takes a little at a time keeps the write timer from firing, as long as it does.
#[test]
fn sent_bytes_restart_the_write_time_out() {
    for kind in KINDS {
        for options in DEFERRAL {
            for steps in [1, 5] {
                let clock = Clock::new();
                let [near, far] = clock.sockets(kind);
                let near = clock.over(near, kind, options);
                let log = clock.log(&near);
                near.set_timeouts(None, Some(QUIET)).expect("alive");
                near.write(&[7; 100_000]).expect("alive");
                let world = clock.world.clone();
                clock.every_step(steps, move || {
                    assert_eq!(world.borrow_mut().take_arrived(far, 500), 500);
                });
                clock.run(20);
                let at = write_late(kind, ms(STEP) * u64::from(steps));
                assert_eq!(*log.borrow(), [(at, WRITE)], "{kind:?} {options:?}");
                assert_eq!(near.enabled(), Interest::empty());
            }
        }
    }
}

#[test]
fn received_bytes_restart_the_read_time_out() {
    for kind in KINDS {
        for options in DEFERRAL {
            for filters in [0, 1] {
                let clock = Clock::new();
                let (near, far) = clock.connection(kind, options);
                let top = match filters {
                    0 => near,
                    _ => BufferEvent::filter(&near, Pass, options).expect("alive"),
                };
                let log = clock.log(&top);
                top.set_timeouts(Some(QUIET), Some(QUIET)).expect("alive");
                top.enable(Interest::READ).expect("alive");
                clock.every_step(4, move || far.write(b"x").expect("alive"));
                clock.run(20);
                let at = 4 * ms(STEP) + ms(QUIET);
                assert_eq!(*log.borrow(), [(at, READ)], "{kind:?} {filters}");
                assert_eq!(top.enabled(), Interest::WRITE, "nothing waits to be sent");
            }
        }
    }
}

/// Each in its own direction: a peer that neither sends nor reads, and a call in between.
#[test]
fn enable_and_set_timeouts_restart_a_running_timer() {
    type Call = fn(&BufferEvent);
    let step = ms(STEP);
    let calls: [(Call, u64, u64); 4] = [
        (|_| {}, 0, 0),
        (|bev| bev.enable(Interest::READ).unwrap(), step, 0),
        (|bev| bev.enable(Interest::WRITE).unwrap(), 0, step),
        (
            |bev| bev.set_timeouts(Some(QUIET), Some(QUIET)).unwrap(),
            step,
            step,
        ),
    ];
    for kind in KINDS {
        for (call, read_since, write_since) in calls {
            let (read_at, write_at) = (read_since + ms(QUIET), write_late(kind, write_since));
            let clock = Clock::new();
            let (near, _far) = clock.connection(kind, Options::empty());
            let log = clock.log(&near);
            near.set_timeouts(Some(QUIET), Some(QUIET)).unwrap();
            near.enable(Interest::READ).unwrap();
            near.write(&[7; 100_000]).unwrap();
            let bev = near.clone();
            clock.every_step(1, move || call(&bev));
            clock.run(20);
            let mut expected = [(read_at, READ), (write_at, WRITE)];
            expected.sort_by_key(|(at, _)| *at);
            assert_eq!(*log.borrow(), expected, "{kind:?}");
        }
    }
}

#[test]
fn a_time_out_of_zero_is_none_and_turns_a_running_one_off() {
    for running in [false, true] {
        let clock = Clock::new();
        let (near, _far) = clock.connection(Kind::Inet, Options::empty());
        let log = clock.log(&near);
        if running {
            near.set_timeouts(Some(QUIET), Some(QUIET)).unwrap();
        }
        near.enable(Interest::READ).unwrap();
        near.write(&[7; 100_000]).unwrap();
        let bev = near.clone();
        clock.every_step(1, move || {
            let none = Some(Duration::ZERO);
            bev.set_timeouts(none, none).unwrap();
        });
        clock.run(20);
        assert_eq!(*log.borrow(), []);
    }
}

#[test]
fn a_direction_that_timed_out_times_out_again_once_it_is_enabled_again() {
    for kind in KINDS {
        let clock = Clock::new();
        let (near, _far) = clock.connection(kind, Options::empty());
        let log = clock.log(&near);
        near.set_timeouts(Some(QUIET), Some(QUIET)).unwrap();
        near.enable(Interest::READ).unwrap();
        near.write(&[7; 100_000]).unwrap();
        clock.run(5);
        let once = ms(QUIET);
        assert_eq!(*log.borrow(), [(once, READ), (write_late(kind, 0), WRITE)]);
        near.enable(Interest::WRITE).unwrap();
        clock.run(5);
        near.enable(Interest::READ).unwrap();
        clock.run(5);
        let later = [(5_000 + once, WRITE), (10_000 + once, READ)];
        assert_eq!(log.borrow()[2..], later, "{kind:?}");
    }
}

/// An input at its high mark, and one that a filter above does not read from.
#[test]
fn no_read_timer_runs_while_reading_is_held_up_and_a_full_one_runs_when_it_goes_on() {
    let clock = Clock::new();
    let (near, far) = clock.connection(Kind::Unix, Options::empty());
    let log = clock.log(&near);
    near.set_timeouts(Some(QUIET), None).unwrap();
    near.set_watermarks(Interest::READ, 0, 10).unwrap();
    near.enable(Interest::READ).unwrap();
    far.write(&[7; 10]).unwrap();
    clock.run(5);
    assert_eq!(*log.borrow(), [], "its input is full");
    assert_eq!(near.read(&mut [0; 10]), 10);
    clock.run(5);
    assert_eq!(*log.borrow(), [(5_000 + ms(QUIET), READ)]);

    let clock = Clock::new();
    let (near, _far) = clock.connection(Kind::Unix, Options::empty());
    let top = BufferEvent::filter(&near, Pass, Options::CLOSE_ON_FREE).unwrap();
    let log = clock.log(&top);
    near.set_timeouts(Some(QUIET), None).unwrap();
    clock.run(5);
    assert_eq!(*log.borrow(), [], "the filter does not read");
    top.enable(Interest::READ).unwrap();
    clock.run(5);
    assert_eq!(log.borrow().len(), 1, "forwarded by the filter");
}

/// What was not sent for want of WRITE has its whole time-out once WRITE is enabled, and an output
/// that begins anew has it from its first byte.
#[test]
fn the_write_timer_begins_with_what_there_is_to_send() {
    let clock = Clock::new();
    let (near, far) = clock.connection(Kind::Unix, Options::empty());
    let log = clock.log(&near);
    near.set_timeouts(None, Some(QUIET)).unwrap();
    far.enable(Interest::READ).unwrap();
    clock.run(3);
    far.disable(Interest::READ).unwrap();
    let bev = near.clone();
    clock.every_step(1, move || bev.write(&[7; 100_000]).unwrap());
    clock.run(10);
    assert_eq!(*log.borrow(), [(3_000 + ms(STEP) + ms(QUIET), WRITE)]);
}

#[test]
fn a_connect_has_its_own_time_out_and_a_connection_begins_with_whole_ones() {
    #[derive(Debug, PartialEq)]
    enum Port {
        Silent,
        Refuses,
        Accepts,
    }
    for port in [Port::Silent, Port::Refuses, Port::Accepts] {
        let clock = Clock::new();
        let target = match port {
            Port::Silent => Target::Silent,
            Port::Refuses => Target::Refuses(libc::ECONNREFUSED),
            Port::Accepts => {
                let mut world = clock.world.borrow_mut();
                Target::Accepts(world.net.socket(Kind::Inet, CAPACITY))
            }
        };
        clock.world.borrow_mut().net.listen(7, target);
        let bev = BufferEvent::socket(&clock.base, None, Options::CLOSE_ON_FREE).unwrap();
        let log = clock.log(&bev);
        let read = QUIET * 3 / 2;
        bev.set_timeouts(Some(read), Some(QUIET)).unwrap();
        bev.enable(Interest::READ).unwrap();
        bev.write(&[7; 100_000]).unwrap();
        bev.connect("127.0.0.1:7".parse::<Addr>().unwrap()).unwrap();
        clock.run(10);
        let log = log.borrow();
        let (at, first) = log[0];
        let mut after = Vec::new();
        match port {
            Port::Silent => assert_eq!((at, first), (ms(QUIET), WRITE), "abandoned"),
            Port::Refuses => assert_eq!(first, Events::ERROR),
            Port::Accepts => {
                assert_eq!(first, Events::CONNECTED);
                assert!(at > 0, "it took its time");
                after.push((at + ms(read), READ));
                after.push((write_late(Kind::Inet, at), WRITE));
            }
        }
        assert_eq!(log[1..], after, "{port:?}");
    }
}

/// A limit that held reading up lets go of it: the time-out is a whole one from then on.
#[test]
fn a_direction_that_a_limit_lets_go_of_has_its_whole_time_out() {
    let tick = 2 * QUIET;
    let limits = RateLimitConfig::new(10, 10, 10, 10, Some(tick)).expect("valid");
    let clock = Clock::new();
    let (near, far) = clock.connection(Kind::Unix, Options::empty());
    let log = clock.log(&near);
    near.set_rate_limit(Some(&limits)).unwrap();
    near.set_timeouts(Some(QUIET), Some(QUIET)).unwrap();
    near.enable(Interest::READ).unwrap();
    // As much as there is for a tick: both directions stand still until the next, and then have
    // nothing to move, or a peer that does not read.
    far.write(&[7; 10]).unwrap();
    near.write(&[7; 100_000]).unwrap();
    clock.run(20);
    assert_eq!(near.input().len(), 10);
    let log = log.borrow();
    assert_eq!(log[0], (ms(tick) + ms(QUIET), READ), "{log:?}");
}

/// What a close sends is timed as before it.
#[test]
fn a_close_keeps_the_write_time_out_and_drops_that_of_reading() {
    for (kind, filters) in KINDS.into_iter().flat_map(|kind| [(kind, 0), (kind, 2)]) {
        let clock = Clock::new();
        let [near, _far] = clock.sockets(kind);
        let socket = clock.over(near, kind, Options::empty());
        let near = (0..filters).fold(socket, |below, _| {
            BufferEvent::filter(&below, Pass, Options::CLOSE_ON_FREE).unwrap()
        });
        near.set_timeouts(Some(QUIET / 2), Some(QUIET)).unwrap();
        near.enable(Interest::READ).unwrap();
        near.write(&[7; 100_000]).unwrap();
        let told = clock.close(&near, None);
        clock.run(20);
        let (at, end) = told.get().expect("it ended");
        assert_eq!(at, write_late(kind, 0), "{kind:?}");
        assert!(matches!(end, FlushEnd::Failed { unsent } if unsent >= 100_000 - CAPACITY));
    }
}

/// A filter's output stands still behind the mark of what is below, whose sends the peer takes a
/// little at a time: bytes move, so that its write time-out does not fire before they no longer do.
#[test]
fn bytes_that_the_kernel_takes_below_a_filter_restart_its_write_time_out() {
    for kind in KINDS {
        for filters in [1, 2] {
            let clock = Clock::new();
            let [near, far] = clock.sockets(kind);
            let socket = clock.over(near, kind, Options::empty());
            let top = (0..filters).fold(socket, |below, _| {
                below.set_watermarks(Interest::WRITE, 0, 50_000).unwrap();
                BufferEvent::filter(&below, Pass, Options::CLOSE_ON_FREE).unwrap()
            });
            let log = clock.log(&top);
            top.set_timeouts(None, Some(QUIET)).unwrap();
            top.write(&[7; 200_000]).unwrap();
            let world = clock.world.clone();
            let steps = 5;
            clock.every_step(steps, move || {
                assert_eq!(world.borrow_mut().take_arrived(far, 500), 500);
            });
            clock.run(20);
            let log = log.borrow();
            let last = ms(STEP) * u64::from(steps);
            let [(at, WRITE)] = log[..] else {
                panic!("{kind:?} {filters}: one time-out, not {log:?}")
            };
            assert!(at > last && at <= last + 2 * ms(QUIET), "{kind:?}: {at}");
        }
    }
}
