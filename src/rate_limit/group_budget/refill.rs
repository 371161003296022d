//! Refills and resumptions.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{MutexGuard, PoisonError};

#[cfg(test)]
use super::Member;
use super::{Cold, GroupBudget, IDLE_PART, IDLE_SLACK_BYTES};
use crate::rate_limit::config::MIN_SLICE_BYTES;
use crate::rate_limit::port::Wakes;
use crate::rate_limit::schedule::Schedule;

impl GroupBudget {
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// When the budget allows again: always a step ahead.
    pub(super) fn resumes_at(&self, cold: &Cold) -> u64 {
        let step = cold
            .schedule
            .first_positive(self.ledger.level(), cold.position.step());
        cold.position.time_of(&cold.schedule, step)
    }

    /// When a member that waits gets something at the latest if nothing comes back; `None`: it has
    /// something now, or does not wait. Changes nothing.
    #[cfg(test)]
    pub(crate) fn held_up_until(&self, member: &Member) -> Option<u64> {
        let cold = self.lock();
        let waits =
            member.waiting && cold.waiters.is_waiting(member.key) && self.ledger.level() <= 0;
        (waits && !self.closed.load(Relaxed)).then(|| self.resumes_at(&cold))
    }

    pub(super) fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.next_ns.load(Relaxed) || now_ns < self.plausible_from_ns.load(Relaxed)
    }

    pub(super) fn advance(&self, now_ns: u64) {
        if self.is_due(now_ns) {
            self.locked(|cold, _| self.refill(cold, now_ns));
        }
    }

    /// Serves those who wait, after bytes came back.
    pub(super) fn pump(&self) {
        if self.has_waiting() && self.ledger.level() > 0 {
            self.locked(|_, _| ());
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Cold> {
        self.cold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something under the lock, serves those whom the change allows to go on, and wakes
    /// their bases once the lock is free again.
    pub(super) fn locked<T>(&self, change: impl FnOnce(&mut Cold, &mut Wakes) -> T) -> T {
        let mut wakes = Wakes::default();
        let mut cold = self.lock();
        let result = change(&mut cold, &mut wakes);
        self.serve(&mut cold, &mut wakes);
        drop(cold);
        wakes.send(None);
        result
    }

    pub(super) fn refill(&self, cold: &mut Cold, now_ns: u64) {
        let schedule = cold.schedule;
        let Some((from, to)) = cold.position.advance(&schedule, now_ns) else {
            self.publish_times(cold);
            return;
        };
        let several_steps = to - from > 1;
        let lingering = self.ledger.next_epoch(several_steps);
        // Idle receives beyond the slack may all fire in this tick: they count against its burst.
        let spare = spare(&schedule);
        let idle = self
            .ledger
            .idle()
            .saturating_sub(IDLE_SLACK_BYTES)
            .clamp(0, spare);
        let cap = schedule.cap(to) - idle - self.ledger.held();
        self.ledger.change_level(|level| {
            schedule.refilled(level.saturating_add(lingering), from, to, cap)
        });

        // Only the last step tells who wants to move data now.
        let active = self.active.swap(0, Relaxed).max(0) as u64;
        let active = if several_steps { 0 } else { active };
        let wanting = active + self.waiting.load(SeqCst) as u64;
        cold.guessed = wanting == 0;
        self.spread.store(wanting, Relaxed);
        self.set_quantum(cold, wanting);
        self.spread_guess(cold);
        let random = next_random(&mut cold.random);
        cold.waiters.queue_fresh(random);
        self.publish_times(cold);
    }

    /// While it is not known who wants to move data, each member's first share is made as if all
    /// did; who comes back for more divides with those seen until then.
    pub(super) fn spread_guess(&self, cold: &mut Cold) {
        if cold.guessed {
            let members = cold.waiters.len() as u64;
            self.set_quantum(cold, members);
        }
    }

    pub(super) fn set_quantum(&self, cold: &mut Cold, members: u64) {
        let members = members.max(1);
        let level = self.ledger.level().max(0) as u64;
        // A part of a tick goes whole to some of the members in turn, not in crumbs to all: each
        // gets what the tick holds for it, or what is worth an operation.
        let schedule = cold.schedule;
        let least = if schedule.is_paced() {
            (schedule.rate() as u64 / members).min(MIN_SLICE_BYTES)
        } else {
            1
        };
        self.least.store(least.max(1), Relaxed);
        self.quantum.store(level / members, Relaxed);
        cold.remainder = level % members;
    }

    /// Gives shares to those who wait, longest first, as long as there is something to give.
    pub(super) fn serve(&self, cold: &mut Cold, wakes: &mut Wakes) {
        loop {
            if !cold.waiters.has_queued() {
                if !cold.waiters.has_fresh() {
                    return;
                }
                let random = next_random(&mut cold.random);
                cold.waiters.queue_fresh(random);
            }
            let extra = cold.remainder.min(1);
            let share = self.quantum.load(Relaxed).saturating_add(extra);
            let Some(bytes) = self.ledger.promise(|level| self.bounded(share, level)) else {
                return;
            };
            cold.remainder -= extra;
            if let Some(port) = cold.waiters.serve(bytes as u64) {
                self.no_longer_waits();
                wakes.add(&cold.ports, port);
            }
        }
    }

    pub(super) fn no_longer_waits(&self) {
        let before = self.waiting.fetch_sub(1, SeqCst);
        debug_assert!(before > 0);
    }

    pub(super) fn publish(&self, cold: &Cold) {
        self.idle_cap.store(
            spare(&cold.schedule).saturating_add(IDLE_SLACK_BYTES),
            Relaxed,
        );
        self.publish_times(cold);
    }

    pub(super) fn publish_times(&self, cold: &Cold) {
        self.next_ns.store(cold.position.next_ns(), Relaxed);
        self.plausible_from_ns
            .store(cold.position.plausible_from_ns(&cold.schedule), Relaxed);
    }
}

/// What idle receives may take out of a tick's budget.
fn spare(schedule: &Schedule) -> i64 {
    let above_rate = schedule.burst() - schedule.rate();
    above_rate.max(schedule.rate() / IDLE_PART)
}

/// The next number of a SplitMix64 sequence: enough to pick a place in a queue.
pub(super) fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
