//! The arguments of `evring bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use evring_cli_common::units::{parse_positive_seconds, parse_rate, parse_seconds};

use super::suite::Suite;

/// `evring bench`.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// What to compare
    #[arg(required = true, value_name = "SUITE")]
    pub suites: Vec<Suite>,
    /// Only these cases of the suites, comma-separated
    #[arg(long = "case", value_name = "NAME", value_delimiter = ',')]
    pub cases: Vec<String>,
    /// A few minutes instead of half an hour: fewer and shorter rounds, no thousands of connections
    #[arg(long)]
    pub quick: bool,
    /// Only these servers, comma-separated; the first is compared with the rest unless evring is
    /// among them
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub servers: Vec<String>,
    /// Another server, started with --listen (and --upstream) added; repeatable
    #[arg(long = "server", value_name = "NAME=COMMAND", value_parser = parse_server)]
    pub custom: Vec<(String, String)>,
    /// Rounds that count, after one that does not (15, quick: 7)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: Option<u32>,
    /// Measured seconds of a run (0.5, quick: 0.2; twice that with thousands of connections)
    #[arg(long, value_name = "SECONDS", value_parser = parse_positive_seconds)]
    pub seconds: Option<Duration>,
    /// Seconds of a run before those (0.15, quick: 0.1)
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub warm_up: Option<Duration>,
    /// Open loop: so many messages a second, over all connections, in the suites of messages
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    pub rate: Option<f64>,
    /// Priority of everything measured; below 0 needs root
    #[arg(
        long, value_name = "N", allow_hyphen_values = true,
        value_parser = clap::value_parser!(i32).range(-20..=19), default_value = "0"
    )]
    pub nice: i32,
    /// The server's core (the first that is free to use)
    #[arg(long, value_name = "N")]
    pub server_core: Option<usize>,
    /// The core of the load generator and of a proxy's upstream (the next that shares nothing)
    #[arg(long, value_name = "N")]
    pub load_core: Option<usize>,
    /// Where the peers' binaries are (those that cargo builds now, or else beside this binary)
    #[arg(long, value_name = "DIR")]
    pub peers: Option<PathBuf>,
    /// Where to write every figure; - for standard output, without the tables
    #[arg(long, value_name = "FILE", default_value = "evring-bench.json")]
    pub json: PathBuf,
    /// Where to write the report
    #[arg(long, value_name = "FILE", default_value = "evring-bench.html")]
    pub html: PathBuf,
}

fn parse_server(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, command)) if !name.is_empty() && !command.trim().is_empty() => {
            Ok((name.to_owned(), command.to_owned()))
        }
        _ => Err("expected NAME=COMMAND".to_owned()),
    }
}
