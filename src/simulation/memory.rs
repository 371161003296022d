//! Memory that is short: who goes without, and what counts.

use std::time::Duration;

use super::clock::{CAPACITY, Clock};
use crate::driver::sim::socket::Kind;
use crate::driver::sim::{Faults, SLOT_BYTES};
use crate::event_base::Interest;
use crate::{BufferEvent, Callbacks, Options, RelayOptions, RunFlags, relay};

const SLOTS: usize = 64;

fn small(window: usize) -> Clock {
    let faults = Faults {
        slots: SLOTS,
        window,
        ..Faults::none()
    };
    Clock::with(1, faults)
}

/// Turns without a wait: no virtual time passes, so that nobody has a turn out of turn.
fn turns(clock: &Clock) {
    for _ in 0..200 {
        let flags = RunFlags::NONBLOCK | RunFlags::NO_EXIT_ON_EMPTY;
        clock.base.run_with(flags).unwrap();
    }
}

/// One that keeps so much of what it receives that memory is short, but not all.
fn hog(clock: &Clock) -> BufferEvent {
    let (hog, feeds) = clock.connection(Kind::Unix, Options::empty());
    let most = (SLOTS - 12) * SLOT_BYTES;
    hog.set_watermarks(Interest::READ, 0, most).unwrap();
    hog.enable(Interest::READ).unwrap();
    feeds.write(&vec![7; most]).unwrap();
    turns(clock);
    assert!(clock.base.slots_are_low());
    hog
}

/// However little it is, and however far below the relay's mark.
#[test]
fn a_relay_whose_sink_has_something_left_takes_nothing_while_memory_is_short() {
    for kind in [Kind::Inet, Kind::Unix] {
        for options in [Options::empty(), Options::DEFER_CALLBACKS] {
            for waits in [1, 1_000] {
                let clock = small(2);
                let (a, speaks) = clock.connection(kind, options);
                let (b, hears) = clock.connection(kind, options);
                let relay = relay(&a, &b, RelayOptions::default()).unwrap();
                let sent = CAPACITY + waits;
                speaks.write(&vec![7; sent]).unwrap();
                turns(&clock);
                assert_eq!(relay.bytes().0, sent as u64);
                let hog = hog(&clock);
                speaks.write(&[7; 500]).unwrap();
                turns(&clock);
                assert_eq!(relay.bytes().0, sent as u64, "{kind:?}: it took more");
                // Once there is memory again it goes on.
                hog.free();
                hears.enable(Interest::READ).unwrap();
                clock.run(5);
                assert_eq!(hears.input().len(), sent + 500, "{kind:?}");
            }
        }
    }
}

/// A short message is copied out of its slot, which goes back: what the copy takes is memory too.
#[test]
fn copies_count_towards_the_cap() {
    for kind in [Kind::Inet, Kind::Unix] {
        for options in [Options::empty(), Options::DEFER_CALLBACKS] {
            for len in [200, 1_500] {
                let clock = small(4);
                let cap = SLOTS * SLOT_BYTES;
                let (near, far) = clock.connection(kind, options);
                near.set_callbacks(Callbacks::new().on_read(|_| {}))
                    .unwrap();
                near.enable(Interest::READ).unwrap();
                for _ in 0..2 * cap / len {
                    far.write(&vec![7; len]).unwrap();
                    clock.base.stop_after(Duration::from_millis(1));
                    clock.base.run().unwrap();
                }
                clock.run(5);
                let held = near.input().len();
                assert!(
                    held >= cap / 4,
                    "{kind:?} {len}: it may have a good part: {held}"
                );
                assert!(
                    held <= cap + 4 * SLOT_BYTES,
                    "{kind:?} {len}: {held} of {cap}"
                );
            }
        }
    }
}
