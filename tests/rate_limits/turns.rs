//! How long a turn gets when a refill lets everybody go on at once. A measurement, not a test:
//! `cargo test --release --test rate_limits -- --ignored --nocapture`.

use std::cell::Cell;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use evring::rate_limit::RateLimitConfig;
use evring::{BufferEvent, EventBase, Options};

/// As many as the limit of open files allows, two descriptors each.
const MEMBERS: usize = 10_000;
const EACH: usize = 100;
const TICKS: usize = 20;

#[test]
#[ignore = "measures, and needs 20,000 open files"]
fn ten_thousand_members_resume_in_a_tick() {
    let base = EventBase::new().expect("a ring");
    // A tick's bytes are one share for each: all are suspended, all resume.
    let rate = MEMBERS * EACH;
    let tick = Some(Duration::from_millis(250));
    let config = RateLimitConfig::new(rate, rate, rate, rate, tick).expect("valid");
    let group = base.rate_limit_group(&config);
    let mut members = Vec::new();
    while members.len() < MEMBERS {
        let Ok((near, far)) = UnixStream::pair() else {
            break;
        };
        let bev = BufferEvent::socket(&base, Some(near.into()), Options::CLOSE_ON_FREE).unwrap();
        bev.add_to_group(&group).unwrap();
        bev.write(&[1; EACH * TICKS]).unwrap();
        members.push((bev, far));
    }
    let longest = Rc::new(Cell::new((Duration::ZERO, 0)));
    let seen = longest.clone();
    let turns = Rc::new(Cell::new(0));
    let count = turns.clone();
    base.set_turn_hook(move |turn| {
        count.set(count.get() + 1);
        // The first turns launch everything for the first time.
        if count.get() > 10 && turn.busy > seen.get().0 {
            seen.set((turn.busy, turn.completions));
        }
    });
    base.stop_after(Duration::from_millis(250 * (TICKS as u64 - 2)));
    base.run().unwrap();
    let (busy, completions) = longest.get();
    println!(
        "{} members, {} bytes in {} turns: the longest took {busy:?} with {completions} completions",
        members.len(),
        group.totals().written,
        turns.get(),
    );
    assert_ne!(group.totals().written, 0);
}
