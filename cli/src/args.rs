//! The command line: every option with its unit, its default and its limits.

use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use evring::{Addr, SpinPolicy};
use evring_bench::{args::BenchArgs, launch::LaunchArgs};
use evring_cli_common::units::{parse_bytes, parse_positive_seconds, parse_rate, parse_seconds};

use crate::rates::RateArgs;

/// Servers, a proxy and a load generator on io_uring.
#[derive(Debug, Parser)]
#[command(name = "evring", version, about, max_term_width = 100)]
#[command(propagate_version = true, infer_subcommands = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send every byte back to whoever sent it
    Echo(EchoArgs),
    /// Pass connections on to another server (an embedded echo server when none is given)
    Proxy(ProxyArgs),
    /// Measure an echo server, or a proxy in front of one, in a closed or an open loop
    Load(LoadArgs),
    /// Compare evring with its peers on this machine, in turns
    Bench(BenchArgs),
    /// Show what this kernel gives and what is used instead of what it lacks
    Caps(CapsArgs),
    #[command(hide = true)]
    RunPinned(LaunchArgs),
}

/// `evring echo`.
#[derive(Debug, Args)]
pub struct EchoArgs {
    /// Where to listen: IP:PORT (IPv6 in brackets), unix:/path or unix:@name; port 0 takes a free
    /// one
    #[arg(long, value_name = "ADDR", value_parser = parse_addr, default_value = "127.0.0.1:7001")]
    pub listen: Addr,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// `evring proxy`.
#[derive(Debug, Args)]
pub struct ProxyArgs {
    /// Where to listen: IP:PORT (IPv6 in brackets), unix:/path or unix:@name; port 0 takes a free
    /// one
    #[arg(long, value_name = "ADDR", value_parser = parse_addr, default_value = "127.0.0.1:7000")]
    pub listen: Addr,
    /// Where to pass connections on to; without it an echo server is started for a try
    #[arg(long, value_name = "ADDR", value_parser = parse_addr)]
    pub upstream: Option<Addr>,
    /// How much one direction of a connection may hold in memory before its sender is slowed
    /// down; 64k and 1M are understood
    #[arg(long, value_name = "BYTES", value_parser = parse_high, default_value = "1M")]
    pub high: usize,
    /// Give a connection up when the upstream has not answered for this long
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "10")]
    pub connect_timeout: Duration,
    #[command(flatten)]
    pub rates: RateArgs,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// What echo and proxy have in common.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// Threads to serve with, each with a ring of its own
    #[arg(
        long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256),
        default_value = "1"
    )]
    pub threads: u16,
    /// Look for completions instead of sleeping: lower latency, for a whole core a thread. The mode
    /// is always (when none is given), adaptive (only for a while after the last one) or never
    #[arg(
        long, value_name = "MODE", require_equals = true, num_args = 0..=1,
        default_missing_value = "always", default_value = "never", hide_default_value = true,
        hide_possible_values = true
    )]
    pub spin: Spin,
    /// On SIGINT or SIGTERM, how long to go on sending what is buffered
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "5")]
    pub grace: Duration,
    /// Close connections on which nothing moved for this long (0: never)
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "0")]
    pub idle_timeout: Duration,
    /// The most memory that received data may take, for each thread; readers wait when it is spent
    #[arg(long, value_name = "BYTES", value_parser = parse_memory, default_value = "256M")]
    pub memory: usize,
    /// How much one receive takes at most, a power of two from 4k to 1M. Bulk streams are cheaper
    /// with 64k, where a small message then holds as much while it waits
    #[arg(long, value_name = "BYTES", value_parser = parse_slot, default_value = "16k")]
    pub slot: usize,
    /// Connections to serve at once; more wait (0: no limit; without it what the limit of open
    /// files allows)
    #[arg(long, value_name = "N")]
    pub max_connections: Option<usize>,
    /// At exit, print counters to standard output
    #[arg(long, action = ArgAction::SetTrue)]
    pub stats: bool,
}

/// `evring load`.
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// The echo server, or the proxy in front of one
    #[arg(long, value_name = "ADDR", value_parser = parse_addr)]
    pub connect: Addr,
    /// Also be the proxy's upstream: echo what comes in on this address, in the same loop. With
    /// --spin both then need no more than one core
    #[arg(long, value_name = "ADDR", value_parser = parse_told_addr)]
    pub upstream: Option<Addr>,
    /// Connections to keep open
    #[arg(
        long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000),
        default_value = "64"
    )]
    pub connections: u32,
    /// Bytes of a message
    #[arg(long, value_name = "BYTES", value_parser = parse_message_size, default_value = "64")]
    pub size: usize,
    /// Messages under way on a connection
    #[arg(
        long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536),
        default_value = "1"
    )]
    pub depth: u32,
    /// How long to measure
    #[arg(long, value_name = "SECONDS", value_parser = parse_positive_seconds, default_value = "5")]
    pub seconds: Duration,
    /// Messages pass this long before they count
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "0")]
    pub warm_up: Duration,
    /// Open loop: send so many messages a second, over all connections, whatever is still under
    /// way; latency counts from the moment a message was due. --spin keeps the schedule best
    #[arg(long, value_name = "N", value_parser = parse_rate, conflicts_with = "depth")]
    pub rate: Option<f64>,
    /// Also report the CPU time that all threads of this process use meanwhile
    #[arg(long, value_name = "PID")]
    pub watch_pid: Option<u32>,
    /// Print the report as one JSON object
    #[arg(long)]
    pub json: bool,
    /// Look for completions instead of sleeping, with the modes of the servers
    #[arg(
        long, value_name = "MODE", require_equals = true, num_args = 0..=1,
        default_missing_value = "always", default_value = "never", hide_default_value = true,
        hide_possible_values = true
    )]
    pub spin: Spin,
}

/// `evring caps`.
#[derive(Debug, Args)]
pub struct CapsArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// When a thread spins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Spin {
    /// Sleep in the kernel until something happens
    Never,
    /// Spin for a while after something happened, then sleep
    Adaptive,
    /// Never sleep
    Always,
}

impl From<Spin> for SpinPolicy {
    fn from(spin: Spin) -> Self {
        match spin {
            Spin::Never => SpinPolicy::None,
            Spin::Adaptive => SpinPolicy::Adaptive,
            Spin::Always => SpinPolicy::Always,
        }
    }
}

/// What the arguments ask for, or the text to print and the exit code when that is all there
/// is to do.
///
/// Help and version go to standard output with code 0; everything else is one line for
/// standard error and code 2.
pub fn parse<I, T>(arguments: I) -> Result<Cli, Stop>
where
    I: IntoIterator<Item = T>,
    T: Into<std::ffi::OsString> + Clone,
{
    use clap::error::ErrorKind::{
        DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion,
    };
    let cli = Cli::try_parse_from(arguments).map_err(|error| {
        let text = error.render().to_string();
        match error.kind() {
            DisplayHelp | DisplayVersion => Stop::Answer(text),
            DisplayHelpOnMissingArgumentOrSubcommand => Stop::Usage(
                "a command is missing: echo, proxy, load, bench or caps (see --help)".into(),
            ),
            _ => Stop::Usage(one_line(&text)),
        }
    })?;
    // What clap cannot see: options that do not fit each other.
    if let Command::Proxy(args) = &cli.command
        && let Err(why) = args.rates.rates()
    {
        return Err(Stop::Usage(why));
    }
    Ok(cli)
}

/// Why parsing ended without a command to run.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// Help or version, for standard output.
    Answer(String),
    /// One line about a mistake, for standard error.
    Usage(String),
}

/// The mistake and the tip of a usage error that spans paragraphs.
fn one_line(text: &str) -> String {
    let words = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut paragraphs = text.split("\n\n");
    let first = words(paragraphs.next().unwrap_or_default());
    let mut line = first.strip_prefix("error: ").unwrap_or(&first).to_owned();
    if let Some(tip) = paragraphs
        .map(words)
        .find_map(|p| Some(p.strip_prefix("tip: ")?.to_owned()))
    {
        line = format!("{line}; {tip}");
    }
    line + " (see --help)"
}

fn parse_addr(text: &str) -> Result<Addr, String> {
    text.parse::<Addr>().map_err(|error| match error {
        // clap names the value itself.
        evring::Error::BadAddress { why, .. } => why.to_owned(),
        other => other.to_string(),
    })
}

/// Reads an address to listen on that somebody else has to be told beforehand.
fn parse_told_addr(text: &str) -> Result<Addr, String> {
    match parse_addr(text)? {
        Addr::Inet(inet) if inet.port() == 0 => {
            Err("expected a port that the proxy can be told, not 0".to_owned())
        }
        addr => Ok(addr),
    }
}

/// The smallest bound on what a direction may hold: one slot's worth of progress.
const HIGH_MIN_BYTES: usize = 4096;

/// The largest; a 32-bit count of bytes in flight stays far from its end.
const HIGH_MAX_BYTES: usize = 1 << 30;

fn parse_high(text: &str) -> Result<usize, String> {
    match parse_bytes(text)? {
        n @ HIGH_MIN_BYTES..=HIGH_MAX_BYTES => Ok(n),
        _ => Err("expected 4096 bytes to 1 GiB".to_owned()),
    }
}

/// The arena grows by so much at a time.
const MEMORY_MIN_BYTES: usize = 2 << 20;

/// The smallest slot the library takes, and the largest of which a window is still a window.
const SLOT_BYTES: std::ops::RangeInclusive<usize> = 4096..=1 << 20;

fn parse_slot(text: &str) -> Result<usize, String> {
    match parse_bytes(text)? {
        n if n.is_power_of_two() && SLOT_BYTES.contains(&n) => Ok(n),
        _ => Err("expected a power of two from 4096 bytes to 1 MiB".to_owned()),
    }
}

/// More than any machine of today has for it.
const MEMORY_MAX_BYTES: usize = 1 << 40;

fn parse_memory(text: &str) -> Result<usize, String> {
    match parse_bytes(text)? {
        n @ MEMORY_MIN_BYTES..=MEMORY_MAX_BYTES => Ok(n),
        _ => Err("expected 2 MiB to 1 TiB".to_owned()),
    }
}

/// The longest message `load` sends.
pub const MESSAGE_MAX_BYTES: usize = 64 << 20;

fn parse_message_size(text: &str) -> Result<usize, String> {
    match parse_bytes(text)? {
        n @ 1..=MESSAGE_MAX_BYTES => Ok(n),
        _ => Err("expected 1 byte to 64 MiB".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn proxy(arguments: &[&str]) -> ProxyArgs {
        let all = ["evring", "proxy"].iter().chain(arguments);
        match parse(all).expect("good arguments").command {
            Command::Proxy(args) => args,
            other => panic!("{other:?}"),
        }
    }

    fn mistake(arguments: &[&str]) -> String {
        match parse(["evring"].iter().chain(arguments)).expect_err("a mistake") {
            Stop::Usage(line) => line,
            Stop::Answer(text) => panic!("not a mistake: {text}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_proxy_needs_no_arguments() {
        let args = proxy(&[]);
        assert_eq!(args.listen.to_string(), "127.0.0.1:7000");
        assert_eq!(args.upstream, None);
        assert_eq!(args.high, 1024 * 1024);
        assert_eq!(args.server.slot, 16 * 1024);
        assert_eq!(args.server.grace, Duration::from_secs(5));
        assert_eq!(args.server.spin, Spin::Never);
        assert_eq!(args.server.threads, 1);
    }

    #[test]
    fn spin_takes_a_mode_or_none() {
        assert_eq!(proxy(&["--spin"]).server.spin, Spin::Always);
        assert_eq!(proxy(&["--spin=adaptive"]).server.spin, Spin::Adaptive);
    }

    #[test]
    fn a_mistake_is_one_line() {
        for arguments in [
            &[] as &[&str],
            &["nonsense"],
            &["load"],
            &["proxy", "--listen", "localhost"],
            &["proxy", "--threads", "0"],
            &["proxy", "--high", "1"],
            &["proxy", "--slot", "20000"],
            &["proxy", "--grace", "-1"],
            &["proxy", "--limit-read", "10X"],
            &["proxy", "--limit-read", "10MiB:1KiB"],
            &["proxy", "--group-limit-write", "0"],
            &["proxy", "--tick", "0"],
            &["echo", "--listne", "127.0.0.1:1"],
            &["load", "--connect", "127.0.0.1:1", "--seconds", "0"],
            &["load", "--connect", "127.0.0.1:1", "--size", "1G"],
            &["load", "--connect", "127.0.0.1:1", "--depth", "0"],
        ] {
            let line = mistake(arguments);
            assert!(
                !line.contains('\n') && line.len() > 20,
                "{arguments:?}: {line}"
            );
        }
    }

    #[test]
    fn a_mistake_names_the_argument_and_the_cure() {
        let line = mistake(&["load"]);
        assert!(line.contains("--connect"), "{line}");
        let line = mistake(&["echo", "--listne", "127.0.0.1:1"]);
        assert!(line.contains("--listen"), "{line}");
        let line = mistake(&["proxy", "--listen", "localhost"]);
        assert!(
            line.contains("localhost") && line.contains("IP:PORT"),
            "{line}"
        );
    }

    #[test]
    fn help_is_an_answer() {
        assert!(matches!(parse(["evring", "--help"]), Err(Stop::Answer(_))));
        assert!(matches!(
            parse(["evring", "proxy", "--version"]),
            Err(Stop::Answer(_))
        ));
    }
}
