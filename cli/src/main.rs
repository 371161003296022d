//! The `evring` command: an echo server, a proxy and a load generator on io_uring.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod args;
mod bench;
mod bursts;
mod caps;
mod cpu;
mod echo;
mod failure;
mod gate;
mod limits;
mod listen_claim;
mod live;
mod load;
mod pattern;
mod proxy;
mod rates;
mod report;
mod server;
mod service;
mod shutdown;
mod stats;
mod units;
mod worker;

use args::{Command, Stop};
use failure::{EXIT_FAILURE, EXIT_USAGE, Failure};

fn main() -> ExitCode {
    let cli = match args::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(Stop::Answer(text)) => {
            server::print_line(text.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(Stop::Usage(line)) => {
            eprintln!("evring: {line}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    run(&cli.command).unwrap_or_else(|failure| failure.report())
}

/// Runs a command and gives its exit code.
fn run(command: &Command) -> Result<ExitCode, Failure> {
    limits::raise_open_files();
    // Before there are threads: each inherits the mask. What these start must not inherit it.
    if !matches!(command, Command::Bench(_) | Command::RunPinned(_)) {
        shutdown::block()?;
    }
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Echo(args) => echo::run(args).map(done),
        Command::Proxy(args) => proxy::run(args).map(done),
        Command::Load(args) => load::run(args).map(|success| match success {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(EXIT_FAILURE),
        }),
        Command::Bench(args) => bench::run(args).map(ExitCode::from),
        Command::Caps(args) => caps::run(args).map(done),
        Command::RunPinned(args) => bench::launch::run(args).map(|never| match never {}),
    }
}
