//! The token bucket of one bufferevent and one direction.

use super::Direction;
use super::config::RateLimitConfig;
use super::schedule::{Position, Schedule};

/// One direction's budget of one bufferevent: what may move now, and when more may.
///
/// Bytes are *reserved* when an operation is launched and *settled* when it completes. What is
/// reserved counts against the burst when the bucket is refilled, so that an operation that
/// lingers across a tick cannot add to that tick's burst.
///
/// Times are nanoseconds of any clock that normally does not go back.
///
/// ```
/// use evring::rate_limit::{Bucket, Direction, RateLimitConfig};
///
/// const SECOND: u64 = 1_000_000_000;
/// let config = RateLimitConfig::new(100, 250, 100, 250, None)?;
/// let mut bucket = Bucket::new(&config, Direction::Read, 0);
/// assert_eq!(bucket.available(0), 100);           // one tick's rate
/// bucket.reserve(80);
/// bucket.settle(80, 30);                          // only 30 of them arrived
/// assert_eq!(bucket.level(0), 70);
/// assert_eq!(bucket.level(SECOND), 170);
/// assert_eq!(bucket.level(3_600 * SECOND), 250);  // never above the burst
///
/// bucket.decrement(3_600 * SECOND, 300);
/// assert_eq!(bucket.available(3_600 * SECOND), -50);
/// assert_eq!(bucket.resumes_at(), 3_601 * SECOND);
/// # Ok::<(), evring::rate_limit::ConfigError>(())
/// ```
#[derive(Debug)]
pub struct Bucket {
    schedule: Schedule,
    position: Position,
    /// Bytes that have not moved yet, reserved ones included. May be negative.
    level: i64,
    /// Bytes that operations in flight may still move; never negative.
    reserved: i64,
}

impl Bucket {
    /// A bucket that holds one tick's rate, or the first part of it under sub-tick pacing.
    pub fn new(config: &RateLimitConfig, direction: Direction, now_ns: u64) -> Self {
        let schedule = Schedule::new(config, direction);
        let position = Position::start(&schedule, now_ns);
        Self {
            schedule,
            position,
            level: schedule.initial(),
            reserved: 0,
        }
    }

    /// Bytes in the bucket, those of operations in flight included: `bufferevent_get_read_limit`.
    /// Negative after more has moved than was there.
    pub fn level(&mut self, now_ns: u64) -> i64 {
        self.refill(now_ns);
        self.level
    }

    /// Bytes that another operation may take; the direction is suspended at 0 and below.
    pub fn available(&mut self, now_ns: u64) -> i64 {
        self.refill(now_ns);
        self.level.saturating_sub(self.reserved)
    }

    /// The first moment at which refills make [`available`](Self::available) positive, seen from
    /// the last call that took a time: when a suspended direction's timer should fire.
    ///
    /// Always after that call's time. While operations in flight hold more than the burst it may
    /// come too early; asking again gives the next moment.
    pub fn resumes_at(&self) -> u64 {
        let available = self.level.saturating_sub(self.reserved);
        let step = self
            .schedule
            .first_positive(available, self.position.step());
        self.position.time_of(&self.schedule, step)
    }

    /// Sets bytes aside for an operation about to be launched.
    pub fn reserve(&mut self, bytes: u32) {
        self.reserved = self.reserved.saturating_add(i64::from(bytes));
    }

    /// Ends an operation, or a part of it: of `granted` reserved bytes `moved` did move.
    ///
    /// `moved` may exceed `granted`; the bucket then may go negative.
    pub fn settle(&mut self, granted: u32, moved: u64) {
        self.reserved = (self.reserved - i64::from(granted)).max(0);
        self.level = self.level.saturating_sub_unsigned(moved);
    }

    /// Takes bytes out at once (`bufferevent_decrement_read_limit`). A negative number puts bytes
    /// in, even above the burst; the next refill clips them.
    pub fn decrement(&mut self, now_ns: u64, bytes: i64) {
        self.refill(now_ns);
        self.level = self.level.saturating_sub(bytes);
    }

    /// Takes over another configuration. The level stays, clipped to the new burst; the tick
    /// under way keeps its start.
    pub fn reconfigure(&mut self, config: &RateLimitConfig, direction: Direction, now_ns: u64) {
        self.refill(now_ns);
        let new = Schedule::new(config, direction);
        if self.position.follow(&self.schedule, &new, now_ns) {
            self.level = self.level.saturating_add(new.rate());
        }
        self.level = self.level.min(new.burst());
        self.schedule = new;
    }

    fn refill(&mut self, now_ns: u64) {
        if let Some((from, to)) = self.position.advance(&self.schedule, now_ns) {
            self.level = self
                .schedule
                .refilled(self.level, from, to, self.schedule.cap(to));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Pacing;
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn config(rate: usize, burst: usize) -> RateLimitConfig {
        RateLimitConfig::new(rate, burst, rate, burst, None).expect("valid")
    }

    fn bucket(rate: usize, burst: usize) -> Bucket {
        Bucket::new(&config(rate, burst), Direction::Read, 0)
    }

    #[test]
    fn rule_44_starts_at_the_rate_and_refills_to_the_burst() {
        let mut bucket = bucket(10, 35);
        for (now, level) in [
            (0, 10),
            (SECOND - 1, 10),
            (SECOND, 20),
            (2 * SECOND, 30),
            (3 * SECOND, 35),
            (9 * SECOND, 35),
        ] {
            assert_eq!(bucket.level(now), level, "at {now}");
        }
    }

    #[test]
    fn rule_44_clock_back_refills_nothing_and_hours_ahead_clip() {
        let mut bucket = bucket(10, 35);
        assert_eq!(bucket.level(10_000 * SECOND), 35);
        bucket.decrement(10_000 * SECOND, 35);
        assert_eq!(bucket.level(9_999 * SECOND), 0);
        assert_eq!(bucket.level(0), 0);
        assert_eq!(
            bucket.resumes_at(),
            SECOND,
            "an hour-long wait for the old time would be a stall"
        );
        assert_eq!(bucket.level(SECOND), 10);
        assert_eq!(bucket.level(u64::MAX), 35);
    }

    #[test]
    fn rule_44_no_overflow_at_the_maximum() {
        let max = super::super::RATE_LIMIT_MAX;
        let mut bucket = bucket(max, max);
        assert_eq!(bucket.level(u64::MAX), max as i64);
        bucket.decrement(u64::MAX, i64::MIN);
        assert_eq!(bucket.level(u64::MAX), i64::MAX);
        bucket.decrement(u64::MAX, i64::MAX);
        bucket.decrement(u64::MAX, i64::MAX);
        bucket.decrement(u64::MAX, i64::MAX);
        assert_eq!(bucket.level(u64::MAX), i64::MIN);
        let _ = bucket.resumes_at();
    }

    #[test]
    fn rule_45_negative_levels_and_signs() {
        let mut bucket = bucket(10, 35);
        bucket.reserve(10);
        assert_eq!((bucket.level(0), bucket.available(0)), (10, 0));
        bucket.settle(10, 33);
        assert_eq!(bucket.available(0), -23);
        assert_eq!(bucket.resumes_at(), 3 * SECOND);
        assert_eq!(bucket.available(3 * SECOND - 1), -3);
        assert_eq!(bucket.available(3 * SECOND), 7);
        bucket.decrement(3 * SECOND, -100);
        assert_eq!(
            bucket.level(3 * SECOND),
            107,
            "a negative decrement may exceed the burst"
        );
        assert_eq!(bucket.level(4 * SECOND), 35, "until the next refill");
    }

    #[test]
    fn what_is_in_flight_counts_against_the_burst() {
        let mut bucket = bucket(10, 10);
        bucket.reserve(10);
        assert_eq!(bucket.available(SECOND), 0);
        bucket.settle(10, 10);
        assert_eq!(bucket.available(SECOND), 0, "the second's burst has moved");
        assert_eq!(bucket.available(2 * SECOND), 10);
    }

    #[test]
    fn reconfiguring_keeps_the_level_and_the_tick() {
        let mut bucket = bucket(10, 35);
        bucket.decrement(0, 3);
        bucket.reconfigure(&config(5, 6), Direction::Read, SECOND / 2);
        assert_eq!(bucket.level(SECOND - 1), 6);
        bucket.decrement(SECOND - 1, 6);
        assert_eq!(bucket.level(SECOND), 5);
    }

    #[test]
    fn reconfiguring_all_the_time_neither_stalls_nor_gives_more() {
        let short =
            RateLimitConfig::new(10, 20, 10, 20, Some(std::time::Duration::from_millis(10)))
                .expect("valid");
        for other in [config(1_000, 2_000), short] {
            let mut bucket = Bucket::new(&short, Direction::Read, 0);
            let mut moved = 0;
            for ms in 0..10_000u64 {
                let now = ms * 1_000_000;
                bucket.reconfigure(
                    if ms % 10 < 5 { &short } else { &other },
                    Direction::Read,
                    now,
                );
                let take = bucket.available(now).clamp(0, 5);
                bucket.decrement(now, take);
                moved += take;
            }
            assert!(
                (9_900..=12_100).contains(&moved),
                "{moved} bytes in 10 s at 1000 a second"
            );
        }
    }

    #[test]
    fn sub_tick_pacing_spreads_the_tick() {
        let mut bucket = Bucket::new(
            &config(102_400, 102_400).with_pacing(Pacing::SubTick),
            Direction::Read,
            0,
        );
        for step in 0..500 {
            let now = step * SECOND / 100;
            assert_eq!(bucket.available(now), 1024, "at step {step}");
            bucket.decrement(now, 1024);
            assert_eq!(bucket.resumes_at(), (step + 1) * SECOND / 100);
        }
    }

    fn configs() -> impl Strategy<Value = RateLimitConfig> {
        let size = prop_oneof![1..100usize, 1..10_000_000usize];
        (size.clone(), size, 1..2_000u64, any::<bool>()).prop_map(|(a, b, tick_ms, paced)| {
            let tick = Some(std::time::Duration::from_millis(tick_ms));
            RateLimitConfig::new(a.min(b), a.max(b), 1, 1, tick)
                .expect("valid")
                .with_pacing(if paced { Pacing::SubTick } else { Pacing::Tick })
        })
    }

    proptest! {
        /// Greedy traffic with operations that linger: no tick exceeds the burst, and none of
        /// the rate is lost as long as operations are short.
        #[test]
        fn no_tick_exceeds_the_burst(
            config in configs(),
            ops in prop::collection::vec((0..3_000_000_000u64, 1..65_536u32, 0..100u32), 1..200),
        ) {
            let tick_ns = config.tick().as_nanos() as u64;
            let burst = config.burst(Direction::Read) as i64;
            let mut bucket = Bucket::new(&config, Direction::Read, 0);
            let mut now = 0u64;
            let (mut tick, mut in_tick) = (0, 0i64);
            for (wait, want, percent) in ops {
                let available = bucket.available(now);
                let granted = u32::try_from(available.clamp(0, i64::from(want))).expect("at most want");
                bucket.reserve(granted);
                now += wait;
                bucket.available(now);
                let moved = u64::from(granted) * u64::from(percent.min(99) + 1) / 100;
                bucket.settle(granted, moved);
                if now / tick_ns != tick {
                    (tick, in_tick) = (now / tick_ns, 0);
                }
                in_tick += moved as i64;
                prop_assert!(in_tick <= burst, "{} bytes in a tick of burst {}", in_tick, burst);
            }
        }

        /// A suspended direction that waits exactly as told moves exactly the rate.
        #[test]
        fn waiting_as_told_moves_the_rate(config in configs(), want in 1..65_536i64) {
            let rate = config.rate(Direction::Read) as i64;
            let want = want.max(rate / 1_000);
            let tick_ns = config.tick().as_nanos() as u64;
            let mut bucket = Bucket::new(&config, Direction::Read, 0);
            let (mut now, mut moved, end) = (0, 0i64, 20 * tick_ns);
            while now < end {
                let available = bucket.available(now);
                if available <= 0 {
                    prop_assert!(bucket.resumes_at() > now);
                    now = bucket.resumes_at();
                    prop_assert!(bucket.available(now) > 0, "resumed too early");
                    continue;
                }
                let take = available.min(want);
                bucket.decrement(now, take);
                moved += take;
            }
            prop_assert_eq!(moved, 20 * rate);
        }
    }
}
