//! The `evring` command: an echo server, a proxy and a load generator on io_uring.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use evring_bench::args::BenchArgs;
use evring_cli_common::console::print_line;
use evring_cli_common::failure::{EXIT_FAILURE, EXIT_USAGE, Failure};

mod args;
mod bursts;
mod caps;
mod echo;
mod gate;
mod limits;
mod listen_claim;
mod live;
mod load;
mod proxy;
mod rates;
mod server;
mod service;
mod shutdown;
mod stats;
mod worker;

use args::{Command, Stop};

fn main() -> ExitCode {
    let cli = match args::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(Stop::Answer(text)) => {
            print_line(text.trim_end());
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
        Command::Bench(args) => start_bench(args).map(ExitCode::from),
        Command::Caps(args) => caps::run(args).map(done),
        Command::RunPinned(args) => evring_bench::launch::run(args).map(|never| match never {}),
    }
}

/// Compares this very binary with its peers.
fn start_bench(args: &BenchArgs) -> Result<u8, Failure> {
    let own = std::env::current_exe()
        .map_err(|error| Failure::new("cannot find this command's own file", error))?;
    evring_bench::run(args, own)
}
