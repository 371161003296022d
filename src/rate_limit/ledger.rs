//! The shared budget of one direction of a group: atomics only, so that whoever finds enough never
//! locks.
//!
//! `level + held[0] + held[1] + promised + idle` is what has not moved. A launch moves bytes from
//! `level` to `held`, a completion moves back those that did not move. Each step is one atomic
//! addition, so the sum is right whatever interleaves.
//!
//! `held` has one account for each of the last two epochs; an epoch ends with each refill. At a
//! refill what is still held from the epoch before the last goes back to `level`: an operation
//! that lingers, a send to a peer that stopped reading, say, must not keep the others from the
//! budget. When it completes after all, its bytes are charged then. A completion that meets a
//! refill may find its bytes in the wrong account; the next refill but one evens that out.
//!
//! What is given to a member that waited is `promised` until the member collects it. It does not go
//! back by itself, else members of a base that is slower than the ticks would never get anything.
//!
//! A receive that waits for data to come would linger by nature. Its bytes are in `idle`, never
//! given back before completion, and bounded.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

/// The budget, on cache lines of its own because every launch and completion writes it.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Ledger {
    /// Bytes to be had; negative after more was taken.
    level: AtomicI64,
    /// Bytes held by operations and members, by the parity of the epoch they were taken in.
    held: [AtomicI64; 2],
    /// Bytes given to members that have not collected them.
    promised: AtomicI64,
    /// Bytes held by receives that were launched without knowing of any data.
    idle: AtomicI64,
    /// Bytes moved since the totals were reset.
    moved: AtomicU64,
    /// Counts refills, two for one that moved over several steps.
    epoch: AtomicU32,
}

/// Bytes taken from the budget for one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) bytes: u32,
    pub(crate) epoch: u32,
    /// In `idle`, not in `held`.
    pub(crate) idle: bool,
}

impl Ledger {
    pub(crate) fn new(level: i64) -> Self {
        Self {
            level: AtomicI64::new(level),
            held: [AtomicI64::new(0), AtomicI64::new(0)],
            promised: AtomicI64::new(0),
            idle: AtomicI64::new(0),
            moved: AtomicU64::new(0),
            epoch: AtomicU32::new(0),
        }
    }

    /// Bytes to be had.
    pub(crate) fn level(&self) -> i64 {
        self.level.load(SeqCst)
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Acquire)
    }

    /// Bytes in the hands of operations and members, idle receives and promises left out.
    pub(crate) fn held(&self) -> i64 {
        self.held[0]
            .load(SeqCst)
            .saturating_add(self.held[1].load(SeqCst))
    }

    /// Bytes that have not moved, whoever holds them.
    pub(crate) fn unmoved(&self) -> i64 {
        let given = self.idle().saturating_add(self.promised.load(SeqCst));
        self.level()
            .saturating_add(self.held())
            .saturating_add(given)
    }

    pub(crate) fn idle(&self) -> i64 {
        self.idle.load(SeqCst)
    }

    pub(crate) fn moved(&self) -> u64 {
        self.moved.load(Relaxed)
    }

    pub(crate) fn reset_moved(&self) {
        self.moved.store(0, Relaxed);
    }

    /// Takes what `bytes_of` says of a positive level, and holds it; `None` if there is nothing.
    pub(crate) fn take(&self, epoch: u32, bytes_of: impl FnMut(i64) -> i64) -> Option<i64> {
        let bytes = self.take_level(bytes_of)?;
        self.held[parity(epoch)].fetch_add(bytes, Relaxed);
        Some(bytes)
    }

    /// Takes what `bytes_of` says of a positive level, for a member that will collect it.
    pub(crate) fn promise(&self, bytes_of: impl FnMut(i64) -> i64) -> Option<i64> {
        let bytes = self.take_level(bytes_of)?;
        self.promised.fetch_add(bytes, SeqCst);
        Some(bytes)
    }

    /// Hands out what was promised; gives the epoch in which it is held. Not during a refill.
    pub(crate) fn collect(&self, bytes: i64) -> u32 {
        let epoch = self.epoch();
        self.promised.fetch_sub(bytes, SeqCst);
        self.held[parity(epoch)].fetch_add(bytes, SeqCst);
        epoch
    }

    /// Takes for an idle receive that wants `bytes` at most, if all of those together stay within
    /// `cap`.
    pub(crate) fn take_idle(
        &self,
        bytes: i64,
        cap: i64,
        bytes_of: impl FnMut(i64) -> i64,
    ) -> Option<i64> {
        // Room first, bytes second: two threads must not both find the last of the room.
        if self.idle.fetch_add(bytes, SeqCst).saturating_add(bytes) > cap {
            self.idle.fetch_sub(bytes, SeqCst);
            return None;
        }
        let taken = self.take_level(bytes_of);
        self.idle.fetch_sub(bytes - taken.unwrap_or(0), SeqCst);
        taken
    }

    /// Ends an operation of which `moved` bytes did move; gives how much went back to the level.
    pub(crate) fn settle(&self, taken: Taken, moved: u64) -> i64 {
        let bytes = i64::from(taken.bytes);
        self.moved.fetch_add(moved, Relaxed);
        let held = if taken.idle {
            self.idle.fetch_sub(bytes, SeqCst);
            bytes
        } else if self.is_held(taken.epoch) {
            self.held[parity(taken.epoch)].fetch_sub(bytes, Relaxed);
            bytes
        } else {
            0
        };
        let back = held.saturating_sub_unsigned(moved);
        self.add(back);
        back
    }

    /// Gives back held bytes; `false` if they went back by themselves before.
    pub(crate) fn give_back(&self, bytes: i64, epoch: u32) -> bool {
        let held = self.is_held(epoch);
        if held {
            self.held[parity(epoch)].fetch_sub(bytes, Relaxed);
            self.add(bytes);
        }
        held
    }

    /// Gives back the bytes of idle receives that no longer concern this ledger.
    pub(crate) fn forget_idle(&self, bytes: i64) {
        self.idle.fetch_sub(bytes, SeqCst);
        self.add(bytes);
    }

    /// Adds to the level; a negative number takes away.
    pub(crate) fn add(&self, bytes: i64) {
        if bytes != 0 {
            self.change_level(|level| level.saturating_add(bytes));
        }
    }

    /// Changes the level at once.
    pub(crate) fn change_level(&self, mut change: impl FnMut(i64) -> i64) {
        let _ = self
            .level
            .fetch_update(SeqCst, SeqCst, |level| Some(change(level)));
    }

    /// Whether bytes taken in `epoch` are still in `held`.
    pub(crate) fn is_held(&self, epoch: u32) -> bool {
        self.epoch().wrapping_sub(epoch) <= 1
    }

    /// Begins the next epoch and gives the bytes that lingered too long, for the level. After
    /// several steps at once that is all that is held. Not for two threads at a time.
    pub(crate) fn next_epoch(&self, several_steps: bool) -> i64 {
        let epoch = self.epoch.load(Relaxed);
        let mut lingering = self.held[parity(epoch.wrapping_add(1))].swap(0, SeqCst);
        if several_steps {
            lingering = lingering.saturating_add(self.held[parity(epoch)].swap(0, SeqCst));
        }
        self.epoch.store(
            epoch.wrapping_add(if several_steps { 2 } else { 1 }),
            Release,
        );
        lingering
    }

    fn take_level(&self, mut bytes_of: impl FnMut(i64) -> i64) -> Option<i64> {
        let mut level = self.level();
        loop {
            if level <= 0 {
                return None;
            }
            let bytes = bytes_of(level);
            match self.level.compare_exchange_weak(
                level,
                level.saturating_sub(bytes),
                SeqCst,
                SeqCst,
            ) {
                Ok(_) => return Some(bytes),
                Err(changed) => level = changed,
            }
        }
    }
}

fn parity(epoch: u32) -> usize {
    (epoch & 1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bytes: u32, epoch: u32) -> Taken {
        Taken {
            bytes,
            epoch,
            idle: false,
        }
    }

    #[test]
    fn what_lingers_goes_back_and_is_charged_when_it_moves() {
        let ledger = Ledger::new(100);
        assert_eq!(ledger.take(0, |level| level.min(60)), Some(60));
        assert_eq!(
            (ledger.level(), ledger.held(), ledger.unmoved()),
            (40, 60, 100)
        );
        assert_eq!(ledger.next_epoch(false), 0);
        assert_eq!(
            ledger.held(),
            60,
            "one refill later it may still move any moment"
        );
        let lingering = ledger.next_epoch(false);
        assert_eq!(lingering, 60);
        ledger.add(lingering);
        assert_eq!((ledger.level(), ledger.held()), (100, 0));
        assert_eq!(ledger.settle(taken(60, 0), 25), -25);
        assert_eq!(
            (ledger.level(), ledger.unmoved(), ledger.moved()),
            (75, 75, 25)
        );
    }

    #[test]
    fn several_steps_end_both_epochs() {
        let ledger = Ledger::new(100);
        ledger.take(0, |_| 10);
        ledger.next_epoch(false);
        ledger.take(1, |_| 20);
        assert_eq!(ledger.next_epoch(true), 30);
        assert!(!ledger.is_held(0) && !ledger.is_held(1));
        assert!(!ledger.give_back(20, 1));
    }

    #[test]
    fn a_promise_is_held_once_it_is_collected() {
        let ledger = Ledger::new(100);
        assert_eq!(ledger.promise(|level| level.min(40)), Some(40));
        assert_eq!(ledger.next_epoch(true), 0);
        assert_eq!(
            (ledger.level(), ledger.held(), ledger.unmoved()),
            (60, 0, 100)
        );
        let epoch = ledger.collect(40);
        assert!(ledger.is_held(epoch));
        assert_eq!(
            (ledger.level(), ledger.held(), ledger.unmoved()),
            (60, 40, 100)
        );
    }

    #[test]
    fn idle_receives_stay_within_their_cap() {
        let ledger = Ledger::new(100);
        assert_eq!(ledger.take_idle(30, 50, |level| level.min(30)), Some(30));
        assert_eq!(ledger.take_idle(30, 50, |level| level.min(30)), None);
        assert_eq!(ledger.take_idle(20, 50, |level| level.min(15)), Some(15));
        assert_eq!(
            (ledger.level(), ledger.idle(), ledger.unmoved()),
            (55, 45, 100)
        );
        ledger.next_epoch(true);
        assert_eq!(
            ledger.settle(
                Taken {
                    bytes: 30,
                    epoch: 0,
                    idle: true
                },
                10
            ),
            20
        );
        assert_eq!((ledger.idle(), ledger.unmoved()), (15, 90));
    }
}
