//! The comparison as a program of its own. It is `evring bench` without the servers, which are
//! the `evring` beside it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use evring_bench::args::BenchArgs;
use evring_cli_common::failure::Failure;

/// evring beside its peers on this machine, in turns
#[derive(Parser)]
#[command(name = "evring-bench", version, max_term_width = 100)]
struct Args {
    #[command(flatten)]
    bench: BenchArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let beside = || {
        let own = std::env::current_exe()
            .map_err(|error| Failure::new("cannot find this command's own file", error))?;
        let evring = own.with_file_name("evring");
        if !evring.exists() {
            let why = format!("there is no {} (cargo build --release)", evring.display());
            return Err(Failure::line(why));
        }
        Ok(evring)
    };
    let ended = beside().and_then(|evring| evring_bench::run(&args.bench, evring));
    ended.map_or_else(|failure| failure.report(), ExitCode::from)
}
