//! Round trips over a pair of libevent's bufferevents; the loop itself is `c/pair.c`.

use std::process::ExitCode;

use clap::Parser;

/// Round trips over a pair of libevent's bufferevents: prints one JSON object with nanoseconds of
/// thread CPU time
#[derive(Parser)]
struct Args {
    /// Bytes of a message
    #[arg(
        long, value_name = "BYTES", default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(1..=1 << 20)
    )]
    size: u32,
    /// Round trips of a batch
    #[arg(
        long, value_name = "N", default_value_t = 100_000,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    round_trips: u32,
    /// Batches, each with a time of its own
    #[arg(
        long, value_name = "N", default_value_t = 11,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    batches: u16,
}

fn main() -> ExitCode {
    run(&Args::parse())
}

#[cfg(have_libevent)]
fn run(args: &Args) -> ExitCode {
    unsafe extern "C" {
        fn libevent_pair(
            size: usize,
            round_trips: usize,
            batches: usize,
            batch_ns: *mut libc::c_ulonglong,
        ) -> libc::c_int;
    }

    let mut batch_ns = vec![0; args.batches.into()];
    // SAFETY: c/pair.c has this signature and writes as many times as it is told, which is the
    // vector's length.
    let failed = unsafe {
        libevent_pair(
            args.size as usize,
            args.round_trips as usize,
            batch_ns.len(),
            batch_ns.as_mut_ptr(),
        )
    };
    if failed != 0 {
        eprintln!("libevent-pair: a message did not come back as it was sent");
        return ExitCode::FAILURE;
    }
    let each = |ns: &u64| *ns as f64 / f64::from(args.round_trips);
    let report = serde_json::json!({
        "size": args.size,
        "round_trips": args.round_trips,
        "ns_per_round_trip": batch_ns.iter().map(each).collect::<Vec<f64>>(),
    });
    println!("{report}");
    ExitCode::SUCCESS
}

#[cfg(not(have_libevent))]
fn run(args: &Args) -> ExitCode {
    eprintln!(
        "libevent-pair: {} batches of {} round trips of {} B: built without libevent; install libevent-dev and build again",
        args.batches, args.round_trips, args.size
    );
    ExitCode::from(3)
}
