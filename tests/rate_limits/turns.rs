//! How long a turn gets when a refill lets everybody go on at once. A measurement, not a test:
//! `cargo test --release --test rate_limits -- --ignored --nocapture`.

use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use evring::rate_limit::RateLimitConfig;
use evring::{BufferEvent, EventBase, Options};

/// As many as the limit of open files allows, two descriptors each.
const MEMBERS: usize = 10_000;
const EACH: usize = 100;
const TICKS: usize = 20;
const FIRST_TURNS: u32 = 100;

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
    let longest = Rc::new(RefCell::new(Longest::default()));
    let seen = longest.clone();
    let mut before = Clocks::now();
    base.set_turn_hook(move |turn| {
        let (now, mut seen) = (Clocks::now(), seen.borrow_mut());
        seen.turns += 1;
        // The first turns launch everything for the first time.
        if seen.turns > FIRST_TURNS {
            seen.busy = seen.busy.max(turn.busy);
            // From one hook to the next: the turn, and the kernel's part of handing its operations
            // over.
            seen.cpu = seen.cpu.max(now.cpu - before.cpu);
            if turn.busy == seen.busy {
                seen.waited = now.waited - before.waited;
                seen.completions = turn.completions;
            }
        }
        before = Clocks::now();
    });
    base.stop_after(Duration::from_millis(250 * (TICKS as u64 - 2)));
    base.run().unwrap();
    let seen = longest.borrow();
    println!(
        "{} members, {} bytes in {} turns: at most {:?} of CPU in a turn and its enter; the longest turn by the \
         clock took {:?} with {} completions, of which the thread waited {:?} for a core",
        members.len(),
        group.totals().written,
        seen.turns,
        seen.cpu,
        seen.busy,
        seen.completions,
        seen.waited,
    );
    assert_ne!(group.totals().written, 0);
}

#[derive(Default)]
struct Longest {
    turns: u32,
    busy: Duration,
    completions: u32,
    waited: Duration,
    cpu: Duration,
}

/// What this thread has used and waited for since it began.
#[derive(Clone, Copy)]
struct Clocks {
    cpu: Duration,
    /// Ready to run, but without a core.
    waited: Duration,
}

impl Clocks {
    fn now() -> Self {
        let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat");
        let schedstat = schedstat.expect("a kernel with scheduler statistics");
        // Its first number, the CPU time, is only brought up to date now and then.
        let waited = schedstat.split(' ').nth(1).and_then(|n| n.parse().ok());
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let cpu = Duration::try_from(cpu).expect("time goes forward");
        Clocks {
            cpu,
            waited: Duration::from_nanos(waited.expect("three numbers")),
        }
    }
}
