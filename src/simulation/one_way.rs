//! A relay one side of which can no longer be written to.

use std::cell::Cell;
use std::rc::Rc;

use super::clock::Clock;
use crate::driver::sim::socket::Kind;
use crate::{
    BufferEvent, EvBuffer, Filter, FilterResult, FlushMode, Interest, Options, Relay, RelayEnd,
    RelayOptions, RelayReport, RelaySide, relay,
};

/// A filter that passes on what comes in, and fails at whatever is to go out.
struct Mute;

impl Filter for Mute {
    fn output(
        &mut self,
        _: &mut EvBuffer,
        _: &mut EvBuffer,
        _: Option<usize>,
        _: FlushMode,
    ) -> FilterResult {
        FilterResult::Error
    }
}

/// A relay whose side `broken` can not be written to, which has just been noticed.
struct Broken {
    clock: Clock,
    relay: Relay,
    /// Behind the side that can not be written to.
    speaks: BufferEvent,
    /// Behind the other.
    hears: BufferEvent,
    report: Rc<Cell<Option<RelayReport>>>,
}

fn broken(kind: Kind, options: Options, side: RelaySide) -> Broken {
    let clock = Clock::new();
    let (near, speaks) = clock.connection(kind, options);
    let (whole, hears) = clock.connection(kind, options);
    let mute = BufferEvent::filter(&near, Mute, options | Options::CLOSE_ON_FREE).unwrap();
    let (a, b) = match side {
        RelaySide::A => (&mute, &whole),
        RelaySide::B => (&whole, &mute),
    };
    let relay = relay(a, b, RelayOptions::default()).unwrap();
    let report = Rc::new(Cell::new(None));
    let told = report.clone();
    relay.on_end(move |how| told.set(Some(*how)));
    hears.enable(Interest::READ).unwrap();
    hears.write(b"nobody gets this").unwrap();
    clock.run(1);
    Broken {
        clock,
        relay,
        speaks,
        hears,
        report,
    }
}

fn each(test: impl Fn(Broken, RelayEnd)) {
    for kind in [Kind::Inet, Kind::Unix] {
        for options in [Options::empty(), Options::DEFER_CALLBACKS] {
            for side in [RelaySide::A, RelaySide::B] {
                let errno = Some(crate::Errno::from_raw(libc::EILSEQ));
                test(
                    broken(kind, options, side),
                    RelayEnd::Failed { side, errno },
                );
            }
        }
    }
}

#[test]
fn what_a_side_that_takes_no_more_still_sends_is_passed_on() {
    each(|joined, end| {
        for len in [5, 3_000] {
            joined.speaks.write(&vec![7; len]).unwrap();
            joined.clock.run(1);
            assert_eq!(joined.hears.input().len(), len);
            joined.hears.read(&mut vec![0; len]);
        }
        assert!(joined.report.get().is_none(), "it may have more to say");
        joined.speaks.shutdown_write().unwrap();
        joined.clock.run(1);
        joined.hears.free();
        joined.clock.run(1);
        let report = joined.report.get().expect("its stream has ended");
        assert_eq!(report.end, end);
        assert_eq!(report.a_to_b.max(report.b_to_a), 3_005);
    });
}

#[test]
fn a_side_that_takes_no_more_and_never_ends_is_not_waited_for_without_end() {
    each(|joined, end| {
        joined.clock.run(2);
        assert!(joined.report.get().is_none(), "it may have more to say");
        joined.clock.run(10);
        let report = joined.report.get().expect("nothing more came");
        assert_eq!(report.end, end);
    });
}

#[test]
fn a_relay_ends_for_what_came_first_whatever_follows_from_it() {
    each(|joined, end| {
        joined.relay.free();
        joined.clock.run(1);
        assert_eq!(joined.report.get().expect("it was freed").end, end);
    });
}

#[test]
fn what_was_said_to_the_end_has_its_own_time_to_be_heard() {
    const LEN: usize = 20_000;
    each(|joined, end| {
        joined.hears.disable(Interest::READ).unwrap();
        joined.clock.run(2);
        joined.speaks.write(&vec![7; LEN]).unwrap();
        joined.speaks.shutdown_write().unwrap();
        // The time that the stream had to end has passed by now; that to take it has not.
        joined.clock.run(4);
        assert!(joined.report.get().is_none(), "it is still being sent");
        joined.hears.enable(Interest::READ).unwrap();
        joined.clock.run(1);
        assert_eq!(joined.hears.input().len(), LEN);
        joined.hears.free();
        joined.clock.run(1);
        assert_eq!(joined.report.get().expect("all was heard").end, end);
    });
}
