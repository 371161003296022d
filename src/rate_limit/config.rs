//! How much may move: the rates, the bursts and the tick of a bucket.

use std::time::Duration;

use super::Direction;
use super::units::RateSpec;

/// The largest rate or burst, in bytes (`EV_RATE_LIMIT_MAX`).
///
/// It also stands for "no limit": a bucket of this rate never runs dry in practice.
pub const RATE_LIMIT_MAX: usize = isize::MAX as usize;

/// The tick when none is given.
pub const DEFAULT_TICK: Duration = Duration::from_secs(1);

/// The longest tick: a year.
pub const MAX_TICK: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The most parts into which [`Pacing::SubTick`] cuts a tick.
pub(crate) const MAX_SLICES: u64 = 100;

/// The fewest bytes worth a part of their own under [`Pacing::SubTick`]: fewer would trade
/// one burst for a shower of tiny segments.
pub(crate) const MIN_SLICE_BYTES: u64 = 1024;

const NANOS_PER_MS: u64 = 1_000_000;

/// When within a tick its bytes may move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pacing {
    /// All of them from the tick's start on, as libevent does: one burst a tick.
    #[default]
    Tick,
    /// Spread over the tick in equal parts: up to 100 of them, each at least 1 ms long and at
    /// least 1 KiB large. The average and the most that moves in a tick stay the same.
    ///
    /// A bucket starts with one part here, not with the whole tick's rate.
    SubTick,
}

/// Why a configuration was refused.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A rate of zero would stop the direction for good.
    #[error(
        "the {0} rate is 0 bytes per tick, which would never let anything through: give at least 1 byte, \
         lengthen the tick, or set no limit"
    )]
    ZeroRate(Direction),
    /// The bucket could not hold what one tick pours in.
    #[error(
        "the {direction} rate of {rate} bytes per tick exceeds the burst of {burst}: raise the burst to at \
         least the rate, or lower the rate"
    )]
    RateAboveBurst {
        /// The direction whose figures do not fit.
        direction: Direction,
        /// Bytes per tick.
        rate: usize,
        /// The most bytes in any one tick.
        burst: usize,
    },
    /// A burst, and maybe the rate, above [`RATE_LIMIT_MAX`].
    #[error(
        "the {direction} burst of {burst} bytes exceeds the maximum of {RATE_LIMIT_MAX}: give the maximum for \"no limit\""
    )]
    TooLarge {
        /// The direction whose burst is too large.
        direction: Direction,
        /// The most bytes in any one tick.
        burst: usize,
    },
    /// Ticks are whole milliseconds, and this one has none.
    #[error(
        "a tick of {0:?} is less than 1 ms, and fractions of a millisecond are ignored: give at least 1 ms"
    )]
    TickTooShort(Duration),
    /// A tick beyond [`MAX_TICK`].
    #[error("a tick of {0:?} is longer than a year: give a shorter one")]
    TickTooLong(Duration),
}

/// The rates of one bufferevent or of a group (`struct ev_token_bucket_cfg`).
///
/// It is a small value that can be copied; a bucket keeps its own copy, so it needs no freeing.
///
/// ```
/// use evring::rate_limit::{Pacing, RateLimitConfig};
/// use std::time::Duration;
///
/// // Reads: 1 MB a second on average, never more than 2 MB in one. Writes: 500 kB.
/// let config = RateLimitConfig::new(1_000_000, 2_000_000, 500_000, 500_000, None)?;
/// assert_eq!(config.tick(), Duration::from_secs(1));
///
/// // Ten bytes every 5 ms; what is below a millisecond is ignored.
/// let config = RateLimitConfig::new(10, 10, 10, 10, Some(Duration::from_micros(5_900)))?
///     .with_pacing(Pacing::SubTick);
/// assert_eq!(config.tick(), Duration::from_millis(5));
///
/// assert!(RateLimitConfig::new(10, 9, 10, 10, None).is_err());
/// # Ok::<(), evring::rate_limit::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimitConfig {
    read: Flow,
    write: Flow,
    tick_ms: u64,
    pacing: Pacing,
}

/// Rate and burst of one direction, in bytes per tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    rate: usize,
    burst: usize,
}

impl RateLimitConfig {
    /// Checks and stores the rates (`ev_token_bucket_cfg_new`), all in bytes per tick.
    ///
    /// `tick` defaults to [`DEFAULT_TICK`]; what is below a whole millisecond is ignored.
    ///
    /// # Errors
    /// A rate of 0, a rate above its burst, a burst above [`RATE_LIMIT_MAX`], a tick below 1 ms
    /// or above [`MAX_TICK`].
    pub fn new(
        read_rate: usize,
        read_burst: usize,
        write_rate: usize,
        write_burst: usize,
        tick: Option<Duration>,
    ) -> Result<Self, ConfigError> {
        let tick = tick.unwrap_or(DEFAULT_TICK);
        if tick > MAX_TICK {
            return Err(ConfigError::TickTooLong(tick));
        }
        let tick_ms = tick.as_millis() as u64;
        if tick_ms == 0 {
            return Err(ConfigError::TickTooShort(tick));
        }
        Ok(Self {
            read: Flow::new(Direction::Read, read_rate, read_burst)?,
            write: Flow::new(Direction::Write, write_rate, write_burst)?,
            tick_ms,
            pacing: Pacing::Tick,
        })
    }

    /// Makes a configuration from rates per second, as a user gives them; `None` is no limit.
    ///
    /// The rate per tick is rounded to the nearest byte, so very low rates ask for a long tick.
    /// A burst that was not given is one tick's rate. A burst is the most in one tick.
    ///
    /// # Errors
    /// As [`new`](Self::new); a rate that comes to less than half a byte per tick counts as 0.
    pub fn per_second(
        read: Option<RateSpec>,
        write: Option<RateSpec>,
        tick: Option<Duration>,
    ) -> Result<Self, ConfigError> {
        let tick_len = tick.unwrap_or(DEFAULT_TICK);
        let per_tick = |spec: Option<RateSpec>| match spec {
            None => (RATE_LIMIT_MAX, RATE_LIMIT_MAX),
            Some(spec) => {
                let scaled =
                    (u128::from(spec.bytes_per_second) * tick_len.as_millis() + 500) / 1000;
                let rate = usize::try_from(scaled).unwrap_or(usize::MAX);
                let burst = spec
                    .burst_bytes
                    .map(|burst| usize::try_from(burst).unwrap_or(usize::MAX));
                (rate, burst.unwrap_or(rate))
            }
        };
        let (read_rate, read_burst) = per_tick(read);
        let (write_rate, write_burst) = per_tick(write);
        Self::new(read_rate, read_burst, write_rate, write_burst, tick)
    }

    /// The same rates with another pacing.
    #[must_use]
    pub fn with_pacing(mut self, pacing: Pacing) -> Self {
        self.pacing = pacing;
        self
    }

    /// Bytes per tick on average.
    pub fn rate(&self, direction: Direction) -> usize {
        self.flow(direction).rate
    }

    /// The most bytes in any one tick.
    pub fn burst(&self, direction: Direction) -> usize {
        self.flow(direction).burst
    }

    /// The length of a tick, a whole number of milliseconds.
    pub fn tick(&self) -> Duration {
        Duration::from_millis(self.tick_ms)
    }

    /// When within a tick its bytes may move.
    pub fn pacing(&self) -> Pacing {
        self.pacing
    }

    pub(crate) fn tick_ns(&self) -> u64 {
        self.tick_ms * NANOS_PER_MS
    }

    /// Into how many parts a tick of this direction is cut: 1 without sub-tick pacing.
    pub(crate) fn slices(&self, direction: Direction) -> u64 {
        match self.pacing {
            Pacing::Tick => 1,
            Pacing::SubTick => {
                let worthwhile = self.rate(direction) as u64 / MIN_SLICE_BYTES;
                worthwhile.min(self.tick_ms).clamp(1, MAX_SLICES)
            }
        }
    }

    fn flow(&self, direction: Direction) -> Flow {
        match direction {
            Direction::Read => self.read,
            Direction::Write => self.write,
        }
    }
}

impl Flow {
    fn new(direction: Direction, rate: usize, burst: usize) -> Result<Self, ConfigError> {
        if rate == 0 {
            return Err(ConfigError::ZeroRate(direction));
        }
        if rate > burst {
            return Err(ConfigError::RateAboveBurst {
                direction,
                rate,
                burst,
            });
        }
        if burst > RATE_LIMIT_MAX {
            return Err(ConfigError::TooLarge { direction, burst });
        }
        Ok(Self { rate, burst })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_rule_43_refuses() {
        let new = RateLimitConfig::new;
        assert_eq!(
            new(0, 1, 1, 1, None),
            Err(ConfigError::ZeroRate(Direction::Read))
        );
        assert_eq!(
            new(1, 1, 0, 0, None),
            Err(ConfigError::ZeroRate(Direction::Write))
        );
        assert!(matches!(
            new(1, 1, 3, 2, None),
            Err(ConfigError::RateAboveBurst {
                rate: 3,
                burst: 2,
                ..
            })
        ));
        assert!(matches!(
            new(1, RATE_LIMIT_MAX + 1, 1, 1, None),
            Err(ConfigError::TooLarge { .. })
        ));
        assert!(matches!(
            new(usize::MAX, usize::MAX, 1, 1, None),
            Err(ConfigError::TooLarge { .. })
        ));
        assert!(new(RATE_LIMIT_MAX, RATE_LIMIT_MAX, 1, 1, None).is_ok());
        for tick in [Duration::ZERO, Duration::from_micros(999)] {
            assert_eq!(
                new(1, 1, 1, 1, Some(tick)),
                Err(ConfigError::TickTooShort(tick))
            );
        }
        assert!(matches!(
            new(1, 1, 1, 1, Some(Duration::MAX)),
            Err(ConfigError::TickTooLong(_))
        ));
        assert!(new(1, 1, 1, 1, Some(MAX_TICK)).is_ok());
    }

    #[test]
    fn errors_name_cause_and_remedy() {
        let text = RateLimitConfig::new(1, 1, 30, 20, None)
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("write rate of 30") && text.contains("raise the burst"),
            "{text}"
        );
        let text = RateLimitConfig::new(1, 1, 1, 1, Some(Duration::from_micros(10)))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("10µs") && text.contains("at least 1 ms"),
            "{text}"
        );
    }

    #[test]
    fn rates_per_second_become_rates_per_tick() {
        let spec = |text: &str| Some(text.parse().expect("a valid rate"));
        let tick = Some(Duration::from_millis(30));
        let config = RateLimitConfig::per_second(spec("1.5MB/s"), None, tick).expect("valid");
        assert_eq!(config.rate(Direction::Read), 45_000);
        assert_eq!(config.burst(Direction::Read), 45_000);
        assert_eq!(config.rate(Direction::Write), RATE_LIMIT_MAX);
        let config =
            RateLimitConfig::per_second(spec("64KiB:256KiB"), spec("1GB"), None).expect("valid");
        assert_eq!(
            (config.rate(Direction::Read), config.burst(Direction::Read)),
            (65_536, 262_144)
        );
        let slow = RateLimitConfig::per_second(spec("10B/s"), None, Some(Duration::from_millis(1)));
        assert_eq!(slow, Err(ConfigError::ZeroRate(Direction::Read)));
    }

    #[test]
    fn slices_are_worth_their_while() {
        let slices = |rate, tick_ms| {
            RateLimitConfig::new(rate, rate, rate, rate, Some(Duration::from_millis(tick_ms)))
                .expect("valid")
                .with_pacing(Pacing::SubTick)
                .slices(Direction::Read)
        };
        assert_eq!(slices(10_000_000, 1_000), 100);
        assert_eq!(slices(10_000_000, 7), 7);
        assert_eq!(slices(10 * 1024, 1_000), 10);
        assert_eq!(slices(10, 1_000), 1);
    }
}
