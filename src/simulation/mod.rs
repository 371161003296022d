//! The library on a simulated kernel: random scenarios, thousands of them, each from its seed.
//!
//! ```text
//! cargo test --lib sim_seeds                                        # seeds 1 to 2,000
//! EVRING_SIM_SEEDS=100000 EVRING_SIM_FIRST=1 cargo test --release --lib sim_seeds -- --nocapture
//! EVRING_SIM_SEED=4711 cargo test --lib sim_seeds -- --nocapture    # one seed, with its trace
//! ```
//!
//! A scenario runs on virtual time, in three parts: random actions, a calm in which all that can
//! move must move, and the end, at which everything is freed. What is checked: every byte arrives
//! once and in order or the bufferevent was told an error; no callback runs after `free`; the input
//! stays below its high mark; the loop neither spins nor hangs; nothing is left behind; a rate
//! limit lets through what it should, and whoever it held up goes on as soon as it may.
//!
//! | file | concept |
//! |---|---|
//! | `scenario` | what a seed stands for, and what must hold at its end |
//! | `end` | the user's side of one bufferevent: its callbacks and what they check |
//! | `chaos` | random calls at random moments |
//! | `joined` | relays |
//! | `door` | a listener, and those who connect to it |
//! | `limits` | rate limits, groups, and calls about them |
//! | `one_way` | a relay one side of which takes nothing any more |
//! | `instructions` | what a message costs, by callgrind |
//! | `memory` | memory that is short |
//! | `crowd` | more completions than one turn handles |
//! | `again` | calls that come a second time |
//! | `clock` | a quiet stage for tests of one thing at a time |
//! | `hazards` | what a kernel does now and then, one thing at a time |
//! | `timers` | time-outs one by one: when exactly they fire, and what restarts them |
//! | `watch` | what moved, held against what the limits allow |

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

mod again;
mod chaos;
mod clock;
mod crowd;
mod door;
mod end;
mod hazards;
mod instructions;
mod joined;
mod limits;
mod memory;
mod one_way;
mod scenario;
mod timers;
mod watch;

use scenario::run;

/// Seeds of an ordinary test run.
const SEEDS: u64 = 2000;

/// Failures after which a run stops.
const MOST_FAILURES: u64 = 20;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

#[test]
fn sim_seeds() {
    if let Some(seed) = number("EVRING_SIM_SEED") {
        run(seed, true);
        return;
    }
    let first = number("EVRING_SIM_FIRST").unwrap_or(1);
    let last = first + number("EVRING_SIM_SEEDS").unwrap_or(SEEDS);
    println!("seeds {first} to {}", last - 1);
    let (next, failures) = (AtomicU64::new(first), AtomicU64::new(0));
    let work = || {
        while failures.load(Ordering::Relaxed) < MOST_FAILURES {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= last {
                return;
            }
            if catch_unwind(AssertUnwindSafe(|| run(seed, false))).is_err() {
                failures.fetch_add(1, Ordering::Relaxed);
                eprintln!("seed {seed} failed: EVRING_SIM_SEED={seed} shows its trace");
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner();
    assert_eq!(failures, 0, "seeds failed; their numbers are above");
}

#[test]
fn sim_gives_one_trace_for_one_seed() {
    for seed in 1..40 {
        assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
    }
}
