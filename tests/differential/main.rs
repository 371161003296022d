//! The same scripts on libevent and on evring: both must call back in the same order and move the
//! same bytes.
//!
//! Needs libevent's development files at build time and says so when they are missing. What a
//! script may contain stands in `tests/libevent-peer/peer.c`.
//!
//! - `EVRING_DIFF_SEED=n cargo test --test differential` runs the random script of one seed only;
//! - `EVRING_DIFF_COUNT=n` runs so many random scripts instead of the usual number;
//! - `EVRING_DIFF_SCRIPT=file` prints what both make of a script, side by side.

mod cases;
mod compare;
mod filters;
mod random;
mod world;

use std::env;

use compare::{both, differences};
use evring_libevent_peer::Libevent;

/// Random scripts of each family in a usual run.
const USUAL_COUNT: u64 = 150;

/// A script with time-outs is tried so often: on a machine that is busy enough, either side may be
/// late.
const TIMED_TRIES: usize = 4;

/// `None`, and a word about it, where libevent's headers were missing.
fn libevent() -> Option<Libevent> {
    let peer = Libevent::start().expect("the program that the build script compiled starts");
    if peer.is_none() {
        eprintln!("skipped: libevent's development files were missing when this was built");
    }
    peer
}

fn tries(script: &str) -> usize {
    match script.contains("timeouts") {
        true => TIMED_TRIES,
        false => 1,
    }
}

#[test]
fn hand_written_scripts() {
    let Some(mut peer) = libevent() else { return };
    let mut wrong = Vec::new();
    for case in cases::ALL {
        let meant: Vec<_> = case.differs.trim().lines().map(str::trim).collect();
        let meant = meant.join("\n");
        let mut found = String::new();
        for _ in 0..tries(case.script) {
            let (theirs, ours) = both(&mut peer, case.script, case.order);
            found = differences(&theirs, &ours).trim().to_owned();
            if found == meant {
                break;
            }
        }
        if found != meant {
            wrong.push(format!(
                "== {}{}-- meant\n{meant}\n-- found (< libevent, > evring)\n{found}\n--",
                case.name, case.script
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn random_scripts() {
    let Some(mut peer) = libevent() else { return };
    let set = |name| {
        env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let seeds = match (set("EVRING_DIFF_SEED"), set("EVRING_DIFF_COUNT")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(USUAL_COUNT * random::FAMILIES),
    };
    let mut wrong = Vec::new();
    for seed in seeds {
        let script = random::script(seed);
        let found = (0..tries(&script)).map(|_| {
            let (theirs, ours) = both(&mut peer, &script, compare::Order::PerDirection);
            differences(&theirs, &ours)
        });
        let mut last = String::new();
        let same = found.into_iter().any(|found| {
            last = found;
            last.is_empty()
        });
        if !same {
            wrong.push(format!(
                "== EVRING_DIFF_SEED={seed}\n{script}\n-- found (< libevent, > evring)\n{last}"
            ));
        }
        if wrong.len() == 5 {
            break;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_script_from_a_file() {
    let Ok(path) = env::var("EVRING_DIFF_SCRIPT") else {
        return;
    };
    let Some(mut peer) = libevent() else { return };
    let script = std::fs::read_to_string(path).expect("EVRING_DIFF_SCRIPT names a file");
    let (theirs, ours) = both(&mut peer, &script, compare::Order::AsCalled);
    println!("{theirs}\n-- evring\n{ours}");
    println!("-- differences\n{}", differences(&theirs, &ours));
}
