//! Layer: rate_limit.

mod bucket;
mod config;
mod schedule;
mod units;

use std::fmt;

pub use bucket::Bucket;
pub use config::{ConfigError, DEFAULT_TICK, MAX_TICK, Pacing, RATE_LIMIT_MAX, RateLimitConfig};
pub use units::{ParseRateError, RateSpec};

/// Which way bytes move, seen from the bufferevent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// From the peer into the input buffer.
    Read,
    /// From the output buffer to the peer.
    Write,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}
