//! When each message of an open loop is due.

use std::time::{Duration, Instant};

/// Messages at a fixed rate, one after another from a first moment on, whatever becomes of them.
#[derive(Debug, Clone)]
pub struct Schedule {
    start: Instant,
    per_second: f64,
    next: u64,
}

impl Schedule {
    /// Messages at `per_second` (above 0), the first of them at `start`.
    pub fn new(start: Instant, per_second: f64) -> Self {
        Self {
            start,
            per_second,
            next: 0,
        }
    }

    /// The moment the next message is due.
    pub fn next_due(&self) -> Instant {
        // From the number rather than by adding up, so that rounding does not bend the rate.
        let after = Duration::try_from_secs_f64(self.next as f64 / self.per_second);
        self.start + after.unwrap_or(Duration::MAX / 4)
    }

    /// Takes the next message if it is due at `now`: its number and the moment it was due.
    pub fn take(&mut self, now: Instant) -> Option<(u64, Instant)> {
        let due = self.next_due();
        if due > now {
            return None;
        }
        let number = self.next;
        self.next += 1;
        Some((number, due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_at_even_distances_however_late_they_are_asked_for() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, 1000.0);
        assert_eq!(schedule.take(start), Some((0, start)));
        assert_eq!(schedule.take(start), None);
        assert_eq!(schedule.next_due(), start + Duration::from_millis(1));

        // A second later: a thousand are due, each at its own moment.
        let now = start + Duration::from_secs(1);
        for n in 1..=1000 {
            let due = start + Duration::from_millis(n);
            assert_eq!(schedule.take(now), Some((n, due)));
        }
        assert_eq!(schedule.take(now), None);
    }

    #[test]
    fn a_rate_is_not_bent_by_rounding() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, 3.0);
        let end = start + Duration::from_secs(1000);
        let mut last = 0;
        while let Some((number, _)) = schedule.take(end) {
            last = number;
        }
        assert_eq!(last, 3000);
    }

    #[test]
    fn a_rate_of_next_to_nothing_is_never_due_again() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, f64::MIN_POSITIVE);
        assert!(schedule.take(start).is_some());
        assert!(schedule.next_due() > start + Duration::from_secs(1 << 30));
    }
}
