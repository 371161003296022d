//! Deadlines of sources: one heap, armed lazily.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::registration::Key;

/// The deadlines of an event base, in nanoseconds of its driver's clock.
///
/// A deadline is never taken back: a source whose deadline moved on, or went away, is called
/// all the same when the old one passes and decides for itself. An inactivity time-out that
/// restarts with every byte therefore costs one heap entry a period, not one a byte.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(u64, Key)>>,
}

impl Timers {
    /// Calls the source `key` once `at` has passed.
    pub(crate) fn arm(&mut self, at: u64, key: Key) {
        self.heap.push(Reverse((at, key)));
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// The source of the earliest deadline that is not after `now`.
    pub(crate) fn expire(&mut self, now: u64) -> Option<Key> {
        let Reverse((at, key)) = *self.heap.peek()?;
        if at > now {
            return None;
        }
        self.heap.pop();
        Some(key)
    }

    /// Entries in the heap, stale ones included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expires_in_order_and_not_early() {
        let mut timers = Timers::default();
        let key = |token| Key { token, stamp: 7 };
        for (at, token) in [(30, 3), (10, 1), (20, 2)] {
            timers.arm(at, key(token));
        }
        assert_eq!(timers.next(), Some(10));
        assert_eq!(timers.expire(9), None);
        assert_eq!(timers.expire(20), Some(key(1)));
        assert_eq!(timers.expire(20), Some(key(2)));
        assert_eq!(timers.expire(20), None);
        assert_eq!(timers.len(), 1);
    }
}
