//! Rounds and their statistics.

use crate::{cases, peer};
use evring::evbuffer::BufferError;
use serde::Serialize;

/// Rounds of each case unless the command line says otherwise.
const ROUNDS: usize = 41;

type Ours = fn(usize, usize) -> Result<u64, BufferError>;
type Theirs = fn(usize, usize) -> u64;

/// A case: what it does, the loops, the sizes, operations per iteration, the ratio to reach.
struct Case {
    name: &'static str,
    ours: Ours,
    theirs: Theirs,
    sizes: &'static [(usize, f64)],
    per_round: fn(usize) -> usize,
}

const ONE: fn(usize) -> usize = |_| 1;

#[rustfmt::skip]
const CASES: &[Case] = &[
    Case { name: "add+remove, bytes", ours: cases::add_remove, theirs: peer::add_remove,
        sizes: &[(16, 0.6), (64, 0.6), (512, 0.6), (4096, 1.0), (65536, 1.0)], per_round: ONE },
    Case { name: "64 adds, drain; per add, bytes", ours: cases::burst, theirs: peer::burst,
        sizes: &[(16, 1.0), (64, 1.0), (512, 1.0), (4096, 0.1), (65536, 1.0)], per_round: |_| 64 },
    Case { name: "readln over 1 MiB; per line, bytes", ours: cases::readln, theirs: peer::readln,
        sizes: &[(40, 1.0), (400, 1.0)], per_round: |line| (1 << 20) / line },
    Case { name: "search over 1 KiB segments, segments", ours: cases::search, theirs: peer::search,
        sizes: &[(4, 1.0), (64, 1.0)], per_round: ONE },
    Case { name: "move a chain, segments", ours: cases::move_chain, theirs: peer::move_chain,
        sizes: &[(1, 1.0), (1000, 1.0)], per_round: |_| 2 },
    Case { name: "add by reference, drain, bytes", ours: cases::reference, theirs: peer::reference,
        sizes: &[(100, 1.0), (65536, 1.0)], per_round: ONE },
    Case { name: "prepend, drain, bytes", ours: cases::prepend, theirs: peer::prepend,
        sizes: &[(16, 1.0), (512, 1.0)], per_round: ONE },
    Case { name: "pullup of 1 KiB segments, segments", ours: cases::pullup, theirs: peer::pullup,
        sizes: &[(2, 1.0), (64, 1.0)], per_round: ONE },
    Case { name: "copyout, bytes", ours: cases::copyout, theirs: peer::copyout,
        sizes: &[(64, 1.0), (16384, 1.0)], per_round: ONE },
    Case { name: "remove_buffer over 64 KiB, bytes",
        ours: cases::remove_buffer, theirs: peer::remove_buffer,
        sizes: &[(1000, 1.0), (16384, 1.0)], per_round: |size| 65536usize.div_ceil(size) },
    Case { name: "reserve, commit, drain, bytes", ours: cases::reserve, theirs: peer::reserve,
        sizes: &[(64, 1.0), (4096, 1.0), (65536, 1.0)], per_round: ONE },
    Case { name: "peek, segments", ours: cases::peek, theirs: peer::peek,
        sizes: &[(1, 1.0), (64, 1.0)], per_round: ONE },
    Case { name: "new, add, free, bytes", ours: cases::new_free, theirs: peer::new_free,
        sizes: &[(64, 1.0)], per_round: ONE },
    Case { name: "formatted text", ours: cases::add_fmt, theirs: peer::add_fmt,
        sizes: &[(0, 1.0)], per_round: ONE },
];

/// What the command line asks for.
struct Asked {
    /// A part of the names of the cases to run.
    filter: String,
    rounds: usize,
    /// One JSON object instead of a table.
    json: bool,
}

impl Asked {
    fn parse(arguments: impl Iterator<Item = String>) -> Self {
        let mut asked = Self {
            filter: String::new(),
            rounds: ROUNDS,
            json: false,
        };
        for argument in arguments {
            match argument.parse() {
                Ok(number) => asked.rounds = number,
                Err(_) if argument == "--json" => asked.json = true,
                Err(_) => asked.filter = argument,
            }
        }
        asked.rounds = asked.rounds.max(1);
        asked
    }
}

/// The outcome of a case at one size; times are medians, in nanoseconds for one operation.
#[derive(Serialize)]
struct Row {
    case: &'static str,
    size: usize,
    evring_ns: f64,
    libevent_ns: f64,
    /// Of the medians.
    ratio: f64,
    /// The ratio to reach.
    target: f64,
    /// Of every round.
    ratios: Vec<f64>,
}

pub(crate) fn run() -> Result<(), BufferError> {
    cases::prepare();
    let asked = Asked::parse(std::env::args().skip(1));
    let versions = (env!("CARGO_PKG_VERSION"), peer::version());
    if !asked.json {
        println!(
            "evring {} beside libevent {}; {} interleaved rounds a case;",
            versions.0, versions.1, asked.rounds
        );
        println!(
            "medians of the thread's processor time, ratio of medians, quartiles of the rounds' ratios"
        );
        println!();
        println!("| case | size | evring ns | libevent ns | ratio | quartiles | target |");
        println!("|---|---|---|---|---|---|---|");
    }
    let mut rows = Vec::new();
    for case in CASES
        .iter()
        .filter(|case| case.name.contains(&asked.filter))
    {
        for &(size, target) in case.sizes {
            let row = measure(case, size, target, asked.rounds)?;
            if !asked.json {
                print(&row);
            }
            rows.push(row);
        }
    }
    if asked.json {
        let report = serde_json::json!({
            "evring": versions.0,
            "libevent": versions.1,
            "rounds": asked.rounds,
            "rows": rows,
        });
        println!("{report}");
    } else {
        let missed = rows.iter().filter(|row| row.ratio > row.target).count();
        println!();
        println!("{missed} above their target");
    }
    Ok(())
}

fn measure(case: &Case, size: usize, target: f64, rounds: usize) -> Result<Row, BufferError> {
    let iterations = calibrate(case, size)?;
    let operations = (iterations * (case.per_round)(size)) as f64;
    let mut samples = Vec::with_capacity(rounds);
    for round in 0..rounds {
        // Swapped places, so that neither always runs on the other's warm or cold caches.
        let (ours, theirs) = if round % 2 == 0 {
            let ours = (case.ours)(size, iterations)?;
            (ours, (case.theirs)(size, iterations))
        } else {
            let theirs = (case.theirs)(size, iterations);
            ((case.ours)(size, iterations)?, theirs)
        };
        samples.push((ours as f64 / operations, theirs as f64 / operations));
    }
    let [_, evring_ns, _] = quartiles(samples.iter().map(|sample| sample.0));
    let [_, libevent_ns, _] = quartiles(samples.iter().map(|sample| sample.1));
    Ok(Row {
        case: case.name,
        size,
        evring_ns,
        libevent_ns,
        ratio: evring_ns / libevent_ns,
        target,
        ratios: samples.iter().map(|sample| sample.0 / sample.1).collect(),
    })
}

fn print(row: &Row) {
    let [first, _, third] = quartiles(row.ratios.iter().copied());
    println!(
        "| {} | {} | {:.1} | {:.1} | {:.2} | {first:.2}–{third:.2} | ≤ {} |",
        row.case, row.size, row.evring_ns, row.libevent_ns, row.ratio, row.target
    );
}

/// Iterations that take libevent about the length of a sample.
fn calibrate(case: &Case, size: usize) -> Result<usize, BufferError> {
    let wanted = cases::SAMPLE.as_nanos() as u64;
    let mut iterations = 1;
    while iterations < 1 << 24 {
        let _ = (case.ours)(size, iterations)?;
        if (case.theirs)(size, iterations) >= wanted {
            break;
        }
        iterations *= 2;
    }
    Ok(iterations)
}

/// First quartile, median, third quartile.
fn quartiles(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let at = |part: usize| sorted[(sorted.len() - 1) * part / 4];
    [at(1), at(2), at(3)]
}
