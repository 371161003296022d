//! One direction of a group: how members share its budget and take turns.
//!
//! The budget itself is the [`Ledger`], which needs no lock. A mutex guards what changes at
//! refills, joins, waits and resumptions; hooks are called once it is free again. Here is what
//! members do; `owner` has what the group's owner and the bases do, `refill` what follows the
//! clock.

use std::sync::Mutex;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize};

use super::ledger::{Ledger, Taken};
use super::port::PortTable;
use super::schedule::{Position, Schedule};
use super::waiters::{Fate, Waiters};

mod owner;
mod refill;

/// What idle receives may hold that does not count against the burst: the default size of a slot.
const IDLE_SLACK_BYTES: i64 = 16 * 1024;

/// The part of the rate that idle receives may hold where the burst is no larger. Those who are
/// busy then fall short of the rate by as much; to poll before every receive would cost more.
const IDLE_PART: i64 = 256;

/// One direction of a group.
#[derive(Debug)]
pub(crate) struct GroupBudget {
    ledger: Ledger,
    /// When the next refill is due, and before which moment the clock must have been set back.
    next_ns: AtomicU64,
    plausible_from_ns: AtomicU64,
    /// What each member is entitled to take in this epoch, in bytes.
    quantum: AtomicU64,
    /// Members that wanted data at the last refill; 0 if none was known to.
    spread: AtomicU64,
    min_share: AtomicU64,
    /// The least share for other reasons: a byte, or what is worth an operation if paced.
    least: AtomicU64,
    /// The most that idle receives may hold.
    idle_cap: AtomicI64,
    /// Members that wanted to move data in this epoch, those that wait left out.
    active: AtomicI64,
    waiting: AtomicUsize,
    members: AtomicUsize,
    /// Set for good, under the lock, when the group is given up.
    closed: AtomicBool,
    cold: Mutex<Cold>,
}

#[derive(Debug)]
struct Cold {
    schedule: Schedule,
    position: Position,
    waiters: Waiters,
    ports: PortTable,
    random: u64,
    /// Bytes that the quantum left over at the last refill: one more for that many members.
    remainder: u64,
    /// No member was active before the last refill: all of them share until the next.
    guessed: bool,
}

/// Bytes that a member was given after a wait, to be used by one or several operations.
#[derive(Clone, Copy, Debug, Default)]
struct Allotment {
    bytes: u64,
    /// The epoch in which they are held.
    epoch: u32,
}

/// A member's own record of one direction. Only its thread uses it.
#[derive(Debug)]
pub(crate) struct Member {
    key: usize,
    waiting: bool,
    allotment: Allotment,
    /// The epoch of `taken` and `counted`.
    epoch: u32,
    /// Bytes taken in `epoch`.
    taken: u64,
    /// Counted as active in `epoch`.
    counted: bool,
    /// Bytes of this member's idle receives in flight.
    idle: i64,
}

/// What a member would like to launch: more than nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    /// The most that the operation may move.
    pub(crate) bytes: u32,
    /// Data is known to wait for it.
    pub(crate) ready: bool,
}

/// What it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Granted(Taken),
    Suspended {
        until_ns: u64,
    },
    AwaitReadable,
    /// The group was given up: no limit any more.
    Closed,
}

/// What members do, each on its own thread.
impl GroupBudget {
    pub(crate) fn join(&self, port: usize, token: u64) -> Member {
        let mut cold = self.lock();
        let key = cold.waiters.join(port, token);
        self.members.store(cold.waiters.len(), Relaxed);
        self.spread_guess(&mut cold);
        let (allotment, epoch) = (Allotment::default(), self.ledger.epoch());
        Member {
            key,
            waiting: false,
            allotment,
            epoch,
            taken: 0,
            counted: false,
            idle: 0,
        }
    }

    /// Ends a membership; operations in flight no longer concern this group.
    pub(crate) fn leave(&self, member: &mut Member) {
        self.stop(member);
        self.locked(|cold, _| {
            cold.waiters.leave(member.key);
            self.members.store(cold.waiters.len(), Relaxed);
            self.ledger.forget_idle(member.idle);
            self.uncount(member);
            self.spread_guess(cold);
        });
    }

    /// Takes what `ask` wants as far as the budget goes, else lets the member wait for it.
    ///
    /// A receive that does not know of waiting data takes bytes only while all such receives
    /// together stay within what is to spare and a slot; beyond that the answer is to wait for
    /// readability first, which costs no budget.
    pub(crate) fn launch(&self, member: &mut Member, ask: Ask, now_ns: u64) -> Answer {
        self.advance(now_ns);
        if member.waiting && !self.collect(member) {
            return Answer::Suspended {
                until_ns: self.resumes_at(&self.lock()),
            };
        }
        // Another turn only after a share was found while being suspended.
        loop {
            if self.closed.load(Relaxed) {
                return Answer::Closed;
            }
            if !ask.ready {
                self.return_allotment(member);
                return self.launch_idle(member, ask);
            }
            self.count(member);
            if let Some(taken) = self.take_from_allotment(member, ask) {
                return Answer::Granted(taken);
            }
            // Nobody overtakes those who wait.
            if !self.has_waiting()
                && let Some(taken) = self.take(member, ask)
            {
                return Answer::Granted(taken);
            }
            if let Some(until_ns) = self.suspend(member) {
                return Answer::Suspended { until_ns };
            }
        }
    }

    /// Ends an operation, or a part of it, of which `moved` bytes did move.
    pub(crate) fn complete(&self, member: &mut Member, taken: Taken, moved: u64, now_ns: u64) {
        self.advance(now_ns);
        let back = self.ledger.settle(taken, moved);
        if taken.idle {
            member.idle -= i64::from(taken.bytes);
            if moved > 0 {
                self.count(member);
            }
        } else if taken.epoch == member.epoch {
            member.taken = member.taken.saturating_add_signed(back.saturating_neg());
        }
        if back > 0 {
            self.pump();
        }
    }

    /// Charges bytes that moved without having been granted.
    pub(crate) fn charge(&self, moved: u64, now_ns: u64) {
        self.advance(now_ns);
        self.ledger.settle(
            Taken {
                bytes: 0,
                epoch: 0,
                idle: true,
            },
            moved,
        );
    }

    /// The member does not want to move data any more: it waits no longer and keeps nothing.
    pub(crate) fn stop(&self, member: &mut Member) {
        if member.waiting {
            member.waiting = false;
            let mut cold = self.lock();
            match cold.waiters.cancel(member.key) {
                Some(Fate::Waiting) => self.no_longer_waits(),
                Some(Fate::Served(share)) => self.accept(&cold, member, share),
                None => {}
            }
        }
        self.return_allotment(member);
    }

    /// The most that one launch of this member could take now.
    pub(crate) fn share_of(&self, member: &Member, now_ns: u64) -> i64 {
        self.advance(now_ns);
        if self.closed.load(Relaxed) {
            return i64::MAX;
        }
        if member.allotment.bytes > 0 && self.ledger.is_held(member.allotment.epoch) {
            return i64::try_from(member.allotment.bytes).unwrap_or(i64::MAX);
        }
        let level = self.ledger.level();
        if level <= 0 {
            0
        } else {
            self.share(member, level)
        }
    }

    /// What an idle receive of each member may hold, so that all of them find room.
    pub(crate) fn idle_share(&self) -> i64 {
        let members = self.members.load(Relaxed).max(1) as i64;
        self.idle_cap.load(Relaxed) / members
    }

    fn launch_idle(&self, member: &mut Member, ask: Ask) -> Answer {
        let wanted = i64::from(ask.bytes);
        if self.has_waiting() {
            return Answer::AwaitReadable;
        }
        let cap = self.idle_cap.load(Relaxed);
        let Some(bytes) = self
            .ledger
            .take_idle(wanted, cap, |level| wanted.min(self.share(member, level)))
        else {
            return Answer::AwaitReadable;
        };
        member.idle += bytes;
        Answer::Granted(Taken {
            bytes: bytes as u32,
            epoch: 0,
            idle: true,
        })
    }

    fn take(&self, member: &mut Member, ask: Ask) -> Option<Taken> {
        let wanted = i64::from(ask.bytes);
        let epoch = member.epoch;
        let bytes = self
            .ledger
            .take(epoch, |level| wanted.min(self.share(member, level)))?;
        member.taken = member.taken.saturating_add_signed(bytes);
        Some(Taken {
            bytes: bytes as u32,
            epoch,
            idle: false,
        })
    }

    fn take_from_allotment(&self, member: &mut Member, ask: Ask) -> Option<Taken> {
        if member.allotment.bytes == 0 {
            return None;
        }
        if !self.ledger.is_held(member.allotment.epoch) {
            member.allotment = Allotment::default();
            return None;
        }
        let bytes = member.allotment.bytes.min(u64::from(ask.bytes)) as u32;
        member.allotment.bytes -= u64::from(bytes);
        Some(Taken {
            bytes,
            epoch: member.allotment.epoch,
            idle: false,
        })
    }

    /// What a member may take of a positive `level`: what is left of its quantum, or an equal
    /// part of what is there, at least the minimal share. Only that may exceed the level.
    fn share(&self, member: &Member, level: i64) -> i64 {
        let active = self.active.load(Relaxed).max(0) as u64 + self.waiting.load(Relaxed) as u64;
        let entitled = self.quantum.load(Relaxed).saturating_sub(member.taken);
        let share = match self.spread.load(Relaxed) {
            0 if entitled > 0 => entitled,
            spread => (level as u64 / active.max(spread).max(1)).max(entitled),
        };
        self.bounded(share, level)
    }

    /// `share` of a positive `level`, at most all of it unless the least share is more.
    fn bounded(&self, share: u64, level: i64) -> i64 {
        let least = self.min_share.load(Relaxed).max(self.least.load(Relaxed));
        i64::try_from(share.min(level as u64).max(least)).unwrap_or(i64::MAX)
    }

    /// Lets the member wait and says until when, unless there is a share for it after all.
    #[cold]
    fn suspend(&self, member: &mut Member) -> Option<u64> {
        self.locked(|cold, wakes| {
            if self.closed.load(Relaxed) {
                return None;
            }
            self.uncount(member);
            cold.waiters.wait(member.key);
            member.waiting = true;
            // Pairs with `pump`: either this sees the bytes that came meanwhile, or whoever
            // brought them sees a member that waits.
            self.waiting.fetch_add(1, SeqCst);
            self.serve(cold, wakes);
            match cold.waiters.collect(member.key) {
                Some(share) => {
                    self.accept(cold, member, share);
                    None
                }
                None => Some(self.resumes_at(cold)),
            }
        })
    }

    /// Picks up the share of a member that waited; `false` while it has none.
    fn collect(&self, member: &mut Member) -> bool {
        let mut cold = self.lock();
        let share = cold.waiters.collect(member.key);
        if let Some(share) = share {
            self.accept(&cold, member, share);
        }
        share.is_some()
    }

    /// Takes a share as the member's allotment; under the lock, so that no refill comes between.
    fn accept(&self, _: &Cold, member: &mut Member, share: u64) {
        let epoch = self.ledger.collect(share as i64);
        member.waiting = false;
        member.allotment = Allotment {
            bytes: share,
            epoch,
        };
        if member.epoch != epoch {
            (member.epoch, member.taken, member.counted) = (epoch, 0, false);
        }
        member.taken = member.taken.saturating_add(share);
    }

    fn return_allotment(&self, member: &mut Member) {
        let allotment = std::mem::take(&mut member.allotment);
        if allotment.bytes > 0 {
            self.give_back(member, allotment);
        }
    }

    fn give_back(&self, member: &mut Member, allotment: Allotment) {
        if self
            .ledger
            .give_back(allotment.bytes as i64, allotment.epoch)
        {
            if allotment.epoch == member.epoch {
                member.taken = member.taken.saturating_sub(allotment.bytes);
            }
            self.pump();
        }
    }

    /// Counts a member as one that wants to move data in this epoch.
    fn count(&self, member: &mut Member) {
        let epoch = self.ledger.epoch();
        if member.epoch != epoch {
            (member.epoch, member.taken, member.counted) = (epoch, 0, false);
        }
        if !member.counted {
            member.counted = true;
            self.active.fetch_add(1, Relaxed);
        }
    }

    fn uncount(&self, member: &mut Member) {
        if member.counted && member.epoch == self.ledger.epoch() {
            self.active.fetch_sub(1, Relaxed);
        }
        member.counted = false;
    }
}
