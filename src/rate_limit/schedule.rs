//! When how many bytes are released: the arithmetic that buckets and groups share.
//!
//! Time since an origin is cut into *steps*: a whole tick, or one of the equal parts of a tick
//! under sub-tick pacing. Step `j` releases its bytes at its start. A [`Schedule`] answers how
//! much the steps between two moments release and when a given sum is reached; a [`Position`]
//! remembers how far a bucket has come.

use super::Direction;
use super::config::RateLimitConfig;

/// How far the times of threads that share a group may lie apart: a loop reads the clock once a
/// turn, and a turn with a slow callback takes longer than many a tick.
const LATE_NS: u64 = 1_000_000_000;

/// The release plan of one direction. Times are nanoseconds since the plan's origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// Bytes per tick.
    rate: i64,
    /// The most bytes that a bucket holds.
    burst: i64,
    tick_ns: u64,
    /// Steps per tick: 1, unless paced below the tick.
    steps: u64,
}

/// How far a bucket has followed its schedule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    /// The moment of step 0.
    origin_ns: u64,
    /// The last step whose bytes were released.
    step: u64,
    /// When the next step starts: until then there is nothing to do.
    next_ns: u64,
}

impl Schedule {
    pub(crate) fn new(config: &RateLimitConfig, direction: Direction) -> Self {
        Self {
            rate: config.rate(direction) as i64,
            burst: config.burst(direction) as i64,
            tick_ns: config.tick_ns(),
            steps: config.slices(direction),
        }
    }

    pub(crate) fn rate(&self) -> i64 {
        self.rate
    }

    pub(crate) fn burst(&self) -> i64 {
        self.burst
    }

    /// Whether a tick is cut into parts.
    pub(crate) fn is_paced(&self) -> bool {
        self.steps > 1
    }

    /// What a new bucket holds: step 0's bytes, which without sub-tick pacing is one tick's rate.
    pub(crate) fn initial(&self) -> i64 {
        self.released_in_tick(0) as i64
    }

    /// What a bucket that held `level` at step `from` holds at step `to`, clipped to `cap`.
    ///
    /// Above `cap` it comes down to it: what a negative decrement added ends with the tick.
    pub(crate) fn refilled(&self, level: i64, from: u64, to: u64, cap: i64) -> i64 {
        let full = i128::from(level) + self.released(to) - self.released(from);
        // `full` is at least `level`, so the smaller of the two fits.
        full.min(i128::from(cap)) as i64
    }

    /// The most that a bucket may hold at `step`.
    ///
    /// Within a tick the burst less what the tick has still to release, so that what moves in
    /// one tick never exceeds the burst. Clipping to the caps of the steps in between would
    /// change nothing: they allow at least as much once the steps since are added.
    pub(crate) fn cap(&self, step: u64) -> i64 {
        self.burst - self.rate + self.released_in_tick(step % self.steps) as i64
    }

    /// The first step after `step` at which a bucket that holds `level` at `step` is above 0.
    pub(crate) fn first_positive(&self, level: i64, step: u64) -> u64 {
        let needed = self.released(step) - i128::from(level);
        if needed < 0 {
            return step + 1;
        }
        // The smallest j with released(j) > needed: whole ticks first, then steps within one.
        let rate = i128::from(self.rate);
        let (tick, rest) = (needed / rate, needed % rate);
        let sub = ((rest + 1) * i128::from(self.steps) + rate - 1) / rate - 1;
        let reached = tick * i128::from(self.steps) + sub;
        u64::try_from(reached)
            .unwrap_or(u64::MAX)
            .max(step.saturating_add(1))
    }

    /// The step that is current `elapsed_ns` after the origin.
    fn step_at(&self, elapsed_ns: u64) -> u64 {
        let (tick, rest) = (elapsed_ns / self.tick_ns, elapsed_ns % self.tick_ns);
        let sub = u128::from(rest) * u128::from(self.steps) / u128::from(self.tick_ns);
        tick.saturating_mul(self.steps).saturating_add(sub as u64)
    }

    /// When `step` starts: the first moment at which `step_at` answers it.
    fn start_of(&self, step: u64) -> u64 {
        let (tick, sub) = (step / self.steps, step % self.steps);
        let offset = (u128::from(sub) * u128::from(self.tick_ns)).div_ceil(u128::from(self.steps));
        tick.saturating_mul(self.tick_ns)
            .saturating_add(offset as u64)
    }

    /// The bytes that a tick has released once its step `sub` began.
    fn released_in_tick(&self, sub: u64) -> i128 {
        i128::from(self.rate) * i128::from(sub + 1) / i128::from(self.steps)
    }

    /// The bytes that all steps up to and including `step` release.
    fn released(&self, step: u64) -> i128 {
        i128::from(step / self.steps) * i128::from(self.rate)
            + self.released_in_tick(step % self.steps)
    }
}

impl Position {
    /// A schedule that starts at `now_ns`.
    pub(crate) fn start(schedule: &Schedule, now_ns: u64) -> Self {
        Self::at(schedule, now_ns, 0)
    }

    /// When the next step starts.
    pub(crate) fn next_ns(&self) -> u64 {
        self.next_ns
    }

    pub(crate) fn step(&self) -> u64 {
        self.step
    }

    /// Before this moment the clock must have been set back by more than jitter between threads.
    pub(crate) fn plausible_from_ns(&self, schedule: &Schedule) -> u64 {
        let late = schedule.tick_ns.max(LATE_NS);
        self.next_ns
            .saturating_sub(schedule.tick_ns.saturating_add(late))
    }

    /// Moves on to `now_ns` and gives the steps moved over as `(from, to)`, to be credited.
    ///
    /// A clock that went back releases nothing. If it went back by more than a tick and a second,
    /// the schedule starts anew from there: waiting for it to catch up could take hours.
    pub(crate) fn advance(&mut self, schedule: &Schedule, now_ns: u64) -> Option<(u64, u64)> {
        if now_ns < self.next_ns {
            if now_ns < self.plausible_from_ns(schedule) {
                *self = Self::start(schedule, now_ns);
            }
            return None;
        }
        let from = self.step;
        let to = schedule.step_at(now_ns - self.origin_ns);
        if to <= from {
            // Only at the very end of what 64 bits of nanoseconds can tell.
            return None;
        }
        *self = Self::at(schedule, self.origin_ns, to);
        Some((from, to))
    }

    /// When `step`, which is not before the current one, starts.
    pub(crate) fn time_of(&self, schedule: &Schedule, step: u64) -> u64 {
        self.origin_ns.saturating_add(schedule.start_of(step))
    }

    /// Follows another schedule from `now_ns` on, having been advanced to that moment.
    ///
    /// The tick under way keeps its start, else a caller that reconfigures often would never
    /// see a tick end. If the tick has lasted longer than a new one, the new rate is owed once:
    /// the answer is `true`.
    pub(crate) fn follow(&mut self, old: &Schedule, new: &Schedule, now_ns: u64) -> bool {
        let tick_start = self
            .origin_ns
            .saturating_add(old.start_of(self.step - self.step % old.steps));
        let step = new.step_at(now_ns.saturating_sub(tick_start));
        *self = Self::at(new, tick_start, step);
        step >= new.steps
    }

    fn at(schedule: &Schedule, origin_ns: u64, step: u64) -> Self {
        let next_ns = origin_ns.saturating_add(schedule.start_of(step.saturating_add(1)));
        Self {
            origin_ns,
            step,
            next_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedules() -> impl Strategy<Value = Schedule> {
        let size = prop_oneof![1..100i64, 1..100_000_000i64, Just(i64::MAX)];
        (size.clone(), size, 1..5_000u64, 1..=100u64).prop_map(|(a, b, tick_ms, steps)| Schedule {
            rate: a.min(b),
            burst: a.max(b),
            tick_ns: tick_ms * 1_000_000,
            steps: steps.min(tick_ms).min(a.min(b) as u64),
        })
    }

    proptest! {
        #[test]
        fn steps_start_where_they_are_found(schedule in schedules(), step in 0..1_000_000u64) {
            let start = schedule.start_of(step);
            prop_assert_eq!(schedule.step_at(start), step);
            if start > 0 {
                prop_assert_eq!(schedule.step_at(start - 1), step - 1);
            }
        }

        #[test]
        fn a_tick_releases_its_rate(schedule in schedules(), step in 0..1_000_000u64) {
            let refilled = schedule.refilled(0, step, step + schedule.steps, i64::MAX);
            prop_assert_eq!(refilled, schedule.rate);
            prop_assert!(schedule.refilled(0, step, step + 1, i64::MAX) >= 1);
            prop_assert!(schedule.cap(step) >= 1 && schedule.cap(step) <= schedule.burst);
        }

        #[test]
        fn jumping_equals_walking(
            schedule in schedules(),
            level in any::<i32>(),
            from in 0..500u64,
            count in 1..500u64,
        ) {
            let start = i64::from(level).min(schedule.cap(from));
            let mut walked = start;
            for step in from..from + count {
                walked = schedule.refilled(walked, step, step + 1, schedule.cap(step + 1));
            }
            let jumped = schedule.refilled(start, from, from + count, schedule.cap(from + count));
            prop_assert_eq!(jumped, walked);
        }

        #[test]
        fn first_positive_is_the_first(
            schedule in schedules(),
            level in -100_000_000..10i64,
            step in 0..10_000u64,
        ) {
            let reached = schedule.first_positive(level, step);
            prop_assert!(reached > step);
            prop_assert!(schedule.refilled(level, step, reached, i64::MAX) > 0);
            if reached > step + 1 {
                prop_assert!(schedule.refilled(level, step, reached - 1, i64::MAX) <= 0);
            }
        }

        #[test]
        fn survives_any_clock(
            schedule in schedules(),
            times in prop::collection::vec(any::<u64>(), 1..20),
            level: i64,
        ) {
            let mut position = Position::start(&schedule, times[0]);
            for now in times {
                if let Some((from, to)) = position.advance(&schedule, now) {
                    prop_assert!(to > from);
                    prop_assert!(schedule.refilled(0, from, to, i64::MAX) >= 1);
                }
                let step = schedule.first_positive(level, position.step());
                let _ = position.time_of(&schedule, step);
            }
        }
    }

    #[test]
    fn a_clock_set_back_does_not_stall() {
        let schedule = Schedule {
            rate: 10,
            burst: 10,
            tick_ns: 1_000,
            steps: 1,
        };
        let mut position = Position::start(&schedule, 10 * LATE_NS);
        // By many ticks but less than a second, as between threads: the schedule stands.
        assert_eq!(
            position.advance(&schedule, 10 * LATE_NS - 900_000_000),
            None
        );
        assert_eq!(position.next_ns(), 10 * LATE_NS + 1_000);
        // By more: the next tick is one tick away from the new time.
        assert_eq!(position.advance(&schedule, 5_000), None);
        assert_eq!(position.next_ns(), 6_000);
        assert_eq!(position.advance(&schedule, 6_000), Some((0, 1)));
    }
}
