//! The proxy's rate limits: per connection, and for all connections together.

use std::sync::OnceLock;
use std::time::Duration;

use clap::Args;
use evring::rate_limit::{ConfigError, Group, RateLimitConfig, RateSpec};
use evring::{BufferEvent, EventBase};

/// The options about rates. They hold on the clients' side: a client that is read slowly is
/// passed on slowly.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Rate limits")]
pub struct RateArgs {
    /// Receive from each client at most at this rate, as 10MiB/s; after a colon the most bytes in
    /// one tick (default: one tick's rate)
    #[arg(long, value_name = "BYTES/s[:BURST]")]
    pub limit_read: Option<RateSpec>,
    /// Send to each client at most at this rate
    #[arg(long, value_name = "BYTES/s[:BURST]")]
    pub limit_write: Option<RateSpec>,
    /// Receive from all clients together at most at this rate. A burst above one tick's rate
    /// saves work for connections that are mostly idle
    #[arg(long, value_name = "BYTES/s[:BURST]")]
    pub group_limit_read: Option<RateSpec>,
    /// Send to all clients together at most at this rate
    #[arg(long, value_name = "BYTES/s[:BURST]")]
    pub group_limit_write: Option<RateSpec>,
    /// How often a tick's bytes become available, in milliseconds
    #[arg(long, value_name = "MS", value_parser = parse_tick, default_value = "1000")]
    pub tick: Duration,
}

/// What [`RateArgs`] ask for, for all threads of a proxy.
#[derive(Debug)]
pub struct Rates {
    each: Option<RateLimitConfig>,
    all: Option<RateLimitConfig>,
    /// Made by the first thread that serves, on the clock of its base.
    group: OnceLock<Group>,
}

impl RateArgs {
    /// Checks that the rates fit their bursts and the tick.
    ///
    /// # Errors
    /// The options at fault and what would be accepted.
    pub fn rates(&self) -> Result<Rates, String> {
        let config = |read, write, options: &str| match (read, write) {
            (None, None) => Ok(None),
            _ => RateLimitConfig::per_second(read, write, Some(self.tick))
                .map(Some)
                .map_err(|error: ConfigError| format!("{options}: {error}")),
        };
        Ok(Rates {
            each: config(
                self.limit_read,
                self.limit_write,
                "--limit-read, --limit-write",
            )?,
            all: config(
                self.group_limit_read,
                self.group_limit_write,
                "--group-limit-read, --group-limit-write",
            )?,
            group: OnceLock::new(),
        })
    }
}

impl Rates {
    /// Has a client's side obey the limits.
    ///
    /// # Errors
    /// When the process has no descriptor left for what wakes its thread.
    pub fn apply(&self, base: &EventBase, client: &BufferEvent) -> Result<(), evring::Error> {
        if let Some(each) = &self.each {
            client.set_rate_limit(Some(each))?;
        }
        if let Some(all) = &self.all {
            client.add_to_group(self.group.get_or_init(|| base.rate_limit_group(all)))?;
        }
        Ok(())
    }
}

/// The longest tick, in milliseconds: an hour.
const TICK_MAX_MS: u64 = 3_600_000;

fn parse_tick(text: &str) -> Result<Duration, String> {
    match text.trim().parse() {
        Ok(ms @ 1..=TICK_MAX_MS) => Ok(Duration::from_millis(ms)),
        _ => Err(format!("expected 1 to {TICK_MAX_MS} milliseconds")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(limit_read: Option<&str>, group_limit_write: Option<&str>, tick: &str) -> RateArgs {
        let spec = |text: Option<&str>| text.map(|text| text.parse().expect("a rate"));
        RateArgs {
            limit_read: spec(limit_read),
            limit_write: None,
            group_limit_read: None,
            group_limit_write: spec(group_limit_write),
            tick: parse_tick(tick).expect("a tick"),
        }
    }

    #[test]
    fn none_asked_for_is_none_set() {
        let rates = args(None, None, "1000").rates().expect("valid");
        assert!(rates.each.is_none() && rates.all.is_none());
    }

    #[test]
    fn rates_are_scaled_to_the_tick() {
        let rates = args(Some("1MB/s:64KiB"), Some("10MiB"), "20").rates();
        let rates = rates.expect("valid");
        let direction = evring::rate_limit::Direction::Read;
        let each = rates.each.expect("set");
        assert_eq!(
            (each.rate(direction), each.burst(direction)),
            (20_000, 65_536)
        );
        assert_eq!(rates.all.expect("set").tick(), Duration::from_millis(20));
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let told = args(Some("1MB/s:1KB"), None, "1000")
            .rates()
            .expect_err("burst");
        assert!(
            told.contains("--limit-read") && told.contains("burst"),
            "{told}"
        );
        let told = args(None, Some("10B/s"), "1").rates().expect_err("zero");
        assert!(
            told.contains("--group-limit-write") && told.contains("tick"),
            "{told}"
        );
        assert!(parse_tick("0").is_err() && parse_tick("1.5").is_err());
    }
}
