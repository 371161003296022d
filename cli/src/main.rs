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
    match run(&cli.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAILURE),
        Err(failure) => failure.report(),
    }
}

/// Runs a command. Says whether it reached what it was for.
fn run(command: &Command) -> Result<bool, Failure> {
    // Before there are threads: each inherits the mask.
    shutdown::block()?;
    limits::raise_open_files();
    match command {
        Command::Echo(args) => echo::run(args).map(|()| true),
        Command::Proxy(args) => proxy::run(args).map(|()| true),
        Command::Load(args) => load::run(args),
        Command::Caps(args) => caps::run(args).map(|()| true),
    }
}
