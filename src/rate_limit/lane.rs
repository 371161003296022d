//! One direction of a group: how members share its budget and take turns.
//!
//! The budget itself is the [`Ledger`], which needs no lock. A mutex guards what changes at
//! refills, joins, waits and resumptions; hooks are called once it is free again.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Direction;
use super::config::{MIN_SLICE_BYTES, RateLimitConfig};
use super::ledger::{Ledger, Taken};
use super::port::{PortShared, PortTable, Wakes};
use super::schedule::{Position, Schedule};
use super::waiters::{Fate, Waiters};

/// What idle receives may hold that does not count against the burst: the default size of a slot.
const IDLE_SLACK_BYTES: i64 = 16 * 1024;

/// The part of the rate that idle receives may hold where the burst is no larger. Those who are busy
/// then fall short of the rate by as much; to poll before every receive would cost more.
const IDLE_PART: i64 = 256;

/// One direction of a group.
#[derive(Debug)]
pub(crate) struct Lane {
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
struct Hand {
    bytes: u64,
    /// The epoch in which they are held.
    epoch: u32,
}

/// A member's own record of one lane. Only its thread uses it.
#[derive(Debug)]
pub(crate) struct Seat {
    key: usize,
    waiting: bool,
    hand: Hand,
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

/// What a lane answers to that.
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

/// What a member does: each on the thread of its seat.
impl Lane {
    pub(crate) fn join(&self, port: usize, token: u64) -> Seat {
        let mut cold = self.lock();
        let key = cold.waiters.join(port, token);
        self.members.store(cold.waiters.len(), Relaxed);
        self.spread_guess(&mut cold);
        let (hand, epoch) = (Hand::default(), self.ledger.epoch());
        Seat {
            key,
            waiting: false,
            hand,
            epoch,
            taken: 0,
            counted: false,
            idle: 0,
        }
    }

    /// Ends a membership; operations in flight no longer concern this group.
    pub(crate) fn leave(&self, seat: &mut Seat) {
        self.stop(seat);
        self.locked(|cold, _| {
            cold.waiters.leave(seat.key);
            self.members.store(cold.waiters.len(), Relaxed);
            self.ledger.forget_idle(seat.idle);
            self.uncount(seat);
            self.spread_guess(cold);
        });
    }

    /// Takes what `ask` wants as far as the budget goes, else lets the member wait for it.
    ///
    /// A receive that does not know of waiting data takes bytes only while all such receives
    /// together stay within what is to spare and a slot; beyond that the answer is to wait for
    /// readability first, which costs no budget.
    pub(crate) fn launch(&self, seat: &mut Seat, ask: Ask, now_ns: u64) -> Answer {
        self.advance(now_ns);
        if seat.waiting && !self.collect(seat) {
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
                self.return_hand(seat);
                return self.launch_idle(seat, ask);
            }
            self.count(seat);
            if let Some(taken) = self.take_from_hand(seat, ask) {
                return Answer::Granted(taken);
            }
            // Nobody overtakes those who wait.
            if !self.has_waiting()
                && let Some(taken) = self.take(seat, ask)
            {
                return Answer::Granted(taken);
            }
            if let Some(until_ns) = self.suspend(seat) {
                return Answer::Suspended { until_ns };
            }
        }
    }

    /// Ends an operation, or a part of it, of which `moved` bytes did move.
    pub(crate) fn complete(&self, seat: &mut Seat, taken: Taken, moved: u64, now_ns: u64) {
        self.advance(now_ns);
        let back = self.ledger.settle(taken, moved);
        if taken.idle {
            seat.idle -= i64::from(taken.bytes);
            if moved > 0 {
                self.count(seat);
            }
        } else if taken.epoch == seat.epoch {
            seat.taken = seat.taken.saturating_add_signed(back.saturating_neg());
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
    pub(crate) fn stop(&self, seat: &mut Seat) {
        if seat.waiting {
            seat.waiting = false;
            let mut cold = self.lock();
            match cold.waiters.cancel(seat.key) {
                Some(Fate::Waiting) => self.no_longer_waits(),
                Some(Fate::Served(share)) => self.accept(&cold, seat, share),
                None => {}
            }
        }
        self.return_hand(seat);
    }

    /// The most that one launch of this member could take now.
    pub(crate) fn share_of(&self, seat: &Seat, now_ns: u64) -> i64 {
        self.advance(now_ns);
        if self.closed.load(Relaxed) {
            return i64::MAX;
        }
        if seat.hand.bytes > 0 && self.ledger.is_held(seat.hand.epoch) {
            return i64::try_from(seat.hand.bytes).unwrap_or(i64::MAX);
        }
        let level = self.ledger.level();
        if level <= 0 {
            0
        } else {
            self.share(seat, level)
        }
    }

    /// What an idle receive of each member may hold, so that all of them find room.
    pub(crate) fn idle_share(&self) -> i64 {
        let members = self.members.load(Relaxed).max(1) as i64;
        self.idle_cap.load(Relaxed) / members
    }

    fn launch_idle(&self, seat: &mut Seat, ask: Ask) -> Answer {
        let wanted = i64::from(ask.bytes);
        if self.has_waiting() {
            return Answer::AwaitReadable;
        }
        let cap = self.idle_cap.load(Relaxed);
        let Some(bytes) = self
            .ledger
            .take_idle(wanted, cap, |level| wanted.min(self.share(seat, level)))
        else {
            return Answer::AwaitReadable;
        };
        seat.idle += bytes;
        Answer::Granted(Taken {
            bytes: bytes as u32,
            epoch: 0,
            idle: true,
        })
    }

    fn take(&self, seat: &mut Seat, ask: Ask) -> Option<Taken> {
        let wanted = i64::from(ask.bytes);
        let epoch = seat.epoch;
        let bytes = self
            .ledger
            .take(epoch, |level| wanted.min(self.share(seat, level)))?;
        seat.taken = seat.taken.saturating_add_signed(bytes);
        Some(Taken {
            bytes: bytes as u32,
            epoch,
            idle: false,
        })
    }

    fn take_from_hand(&self, seat: &mut Seat, ask: Ask) -> Option<Taken> {
        if seat.hand.bytes == 0 {
            return None;
        }
        if !self.ledger.is_held(seat.hand.epoch) {
            seat.hand = Hand::default();
            return None;
        }
        let bytes = seat.hand.bytes.min(u64::from(ask.bytes)) as u32;
        seat.hand.bytes -= u64::from(bytes);
        Some(Taken {
            bytes,
            epoch: seat.hand.epoch,
            idle: false,
        })
    }

    /// What a member may take of a positive `level`: what is left of its quantum, or an equal
    /// part of what is there, at least the minimal share. Only that may exceed the level.
    fn share(&self, seat: &Seat, level: i64) -> i64 {
        let active = self.active.load(Relaxed).max(0) as u64 + self.waiting.load(Relaxed) as u64;
        let entitled = self.quantum.load(Relaxed).saturating_sub(seat.taken);
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
    fn suspend(&self, seat: &mut Seat) -> Option<u64> {
        self.locked(|cold, wakes| {
            if self.closed.load(Relaxed) {
                return None;
            }
            self.uncount(seat);
            cold.waiters.wait(seat.key);
            seat.waiting = true;
            // Pairs with `pump`: either this sees the bytes that came meanwhile, or whoever
            // brought them sees a member that waits.
            self.waiting.fetch_add(1, SeqCst);
            self.serve(cold, wakes);
            match cold.waiters.collect(seat.key) {
                Some(share) => {
                    self.accept(cold, seat, share);
                    None
                }
                None => Some(self.resumes_at(cold)),
            }
        })
    }

    /// Picks up the share of a member that waited; `false` while it has none.
    fn collect(&self, seat: &mut Seat) -> bool {
        let mut cold = self.lock();
        let share = cold.waiters.collect(seat.key);
        if let Some(share) = share {
            self.accept(&cold, seat, share);
        }
        share.is_some()
    }

    /// Takes a share in hand; under the lock, so that no refill comes between.
    fn accept(&self, _: &Cold, seat: &mut Seat, share: u64) {
        let epoch = self.ledger.collect(share as i64);
        seat.waiting = false;
        seat.hand = Hand {
            bytes: share,
            epoch,
        };
        if seat.epoch != epoch {
            (seat.epoch, seat.taken, seat.counted) = (epoch, 0, false);
        }
        seat.taken = seat.taken.saturating_add(share);
    }

    fn return_hand(&self, seat: &mut Seat) {
        let hand = std::mem::take(&mut seat.hand);
        if hand.bytes > 0 {
            self.give_back(seat, hand);
        }
    }

    fn give_back(&self, seat: &mut Seat, hand: Hand) {
        if self.ledger.give_back(hand.bytes as i64, hand.epoch) {
            if hand.epoch == seat.epoch {
                seat.taken = seat.taken.saturating_sub(hand.bytes);
            }
            self.pump();
        }
    }

    /// Counts a member as one that wants to move data in this epoch.
    fn count(&self, seat: &mut Seat) {
        let epoch = self.ledger.epoch();
        if seat.epoch != epoch {
            (seat.epoch, seat.taken, seat.counted) = (epoch, 0, false);
        }
        if !seat.counted {
            seat.counted = true;
            self.active.fetch_add(1, Relaxed);
        }
    }

    fn uncount(&self, seat: &mut Seat) {
        if seat.counted && seat.epoch == self.ledger.epoch() {
            self.active.fetch_sub(1, Relaxed);
        }
        seat.counted = false;
    }
}

/// What the group's owner and the bases do, on any thread.
impl Lane {
    pub(crate) fn new(
        config: &RateLimitConfig,
        direction: Direction,
        seed: u64,
        now_ns: u64,
    ) -> Self {
        let schedule = Schedule::new(config, direction);
        let cold = Cold {
            schedule,
            position: Position::start(&schedule, now_ns),
            waiters: Waiters::default(),
            ports: PortTable::default(),
            random: seed,
            remainder: 0,
            guessed: true,
        };
        let lane = Self {
            ledger: Ledger::new(schedule.initial()),
            next_ns: AtomicU64::new(0),
            plausible_from_ns: AtomicU64::new(0),
            quantum: AtomicU64::new(0),
            spread: AtomicU64::new(0),
            min_share: AtomicU64::new(0),
            least: AtomicU64::new(1),
            idle_cap: AtomicI64::new(0),
            active: AtomicI64::new(0),
            waiting: AtomicUsize::new(0),
            members: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            cold: Mutex::new(cold),
        };
        lane.publish(&lane.lock());
        lane
    }

    /// Bytes that have not moved, those of operations in flight included.
    pub(crate) fn level(&self, now_ns: u64) -> i64 {
        self.advance(now_ns);
        self.ledger.unmoved()
    }

    pub(crate) fn decrement(&self, bytes: i64, now_ns: u64) {
        self.advance(now_ns);
        self.ledger
            .change_level(|level| level.saturating_sub(bytes));
        self.pump();
    }

    pub(crate) fn moved(&self) -> u64 {
        self.ledger.moved()
    }

    pub(crate) fn reset_moved(&self) {
        self.ledger.reset_moved();
    }

    pub(crate) fn set_min_share(&self, bytes: u64) {
        self.min_share.store(bytes, Relaxed);
    }

    /// Takes over other limits; the caller sends the wake-ups, free of locks.
    #[must_use]
    pub(crate) fn reconfigure(
        &self,
        config: &RateLimitConfig,
        direction: Direction,
        now_ns: u64,
    ) -> Wakes {
        let new = Schedule::new(config, direction);
        let mut wakes = Wakes::default();
        let mut cold = self.lock();
        self.refill(&mut cold, now_ns);
        let old = cold.schedule;
        let owed = if cold.position.follow(&old, &new, now_ns) {
            new.rate()
        } else {
            0
        };
        cold.schedule = new;
        let cap = new.burst().saturating_sub(self.ledger.held());
        self.ledger
            .change_level(|level| level.saturating_add(owed).min(cap));
        self.publish(&cold);
        self.serve(&mut cold, &mut wakes);
        // The others, too: their bases sleep until a moment that the old limits named.
        for port in cold.waiters.waiting_ports() {
            wakes.add(&cold.ports, port);
        }
        wakes
    }

    /// Ends the limit: everyone who waits may go on.
    pub(crate) fn close(&self) {
        self.locked(|cold, wakes| {
            self.closed.store(true, Relaxed);
            let random = next_random(&mut cold.random);
            cold.waiters.queue_fresh(random);
            while let Some(port) = cold.waiters.serve(0) {
                self.no_longer_waits();
                wakes.add(&cold.ports, port);
            }
        });
    }

    pub(crate) fn add_port(&self, port: &Arc<PortShared>) {
        let mut cold = self.lock();
        cold.waiters.add_port(port.id());
        cold.ports.set(port);
    }

    /// Refills what is due and tells the tokens of port `port`'s members that may go on.
    ///
    /// `woken` says that another call may have made some of them ready.
    pub(crate) fn poll(&self, port: usize, woken: bool, now_ns: u64, mut tell: impl FnMut(u64)) {
        if !woken && !self.is_due(now_ns) {
            return;
        }
        let mut wakes = Wakes::default();
        let mut cold = self.lock();
        self.refill(&mut cold, now_ns);
        self.serve(&mut cold, &mut wakes);
        while let Some(token) = cold.waiters.next_ready(port) {
            tell(token);
        }
        drop(cold);
        wakes.send(Some(port));
    }

    /// Whether there is, or will be, something to poll for `port`.
    pub(crate) fn expects(&self, port: usize) -> bool {
        // Under the lock: a share is given before the base is woken for it.
        self.lock().waiters.port_expects(port)
    }

    /// When to look after members of `port` that wait; `None` if none waits.
    ///
    /// At the next refill, even where more than one is missing: what comes back meanwhile, without
    /// making up for all of it, wakes nobody.
    pub(crate) fn next_poll(&self, port: usize) -> Option<u64> {
        if !self.has_waiting() {
            return None;
        }
        let cold = self.lock();
        cold.waiters
            .port_waits(port)
            .then(|| cold.position.next_ns())
    }
}

/// Refills and resumptions.
impl Lane {
    fn has_waiting(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// When the budget allows again: always a step ahead.
    fn resumes_at(&self, cold: &Cold) -> u64 {
        let step = cold
            .schedule
            .first_positive(self.ledger.level(), cold.position.step());
        cold.position.time_of(&cold.schedule, step)
    }

    /// When a member that waits gets something at the latest if nothing comes back; `None`: it has
    /// something now, or does not wait. Changes nothing.
    #[cfg(test)]
    pub(crate) fn held_up_until(&self, seat: &Seat) -> Option<u64> {
        let cold = self.lock();
        let waits = seat.waiting && cold.waiters.is_waiting(seat.key) && self.ledger.level() <= 0;
        (waits && !self.closed.load(Relaxed)).then(|| self.resumes_at(&cold))
    }

    fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.next_ns.load(Relaxed) || now_ns < self.plausible_from_ns.load(Relaxed)
    }

    fn advance(&self, now_ns: u64) {
        if self.is_due(now_ns) {
            self.locked(|cold, _| self.refill(cold, now_ns));
        }
    }

    /// Serves those who wait, after bytes came back.
    fn pump(&self) {
        if self.has_waiting() && self.ledger.level() > 0 {
            self.locked(|_, _| ());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Cold> {
        self.cold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something under the lock, serves those whom the change allows to go on, and wakes
    /// their bases once the lock is free again.
    fn locked<T>(&self, change: impl FnOnce(&mut Cold, &mut Wakes) -> T) -> T {
        let mut wakes = Wakes::default();
        let mut cold = self.lock();
        let result = change(&mut cold, &mut wakes);
        self.serve(&mut cold, &mut wakes);
        drop(cold);
        wakes.send(None);
        result
    }

    fn refill(&self, cold: &mut Cold, now_ns: u64) {
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
    fn spread_guess(&self, cold: &mut Cold) {
        if cold.guessed {
            let members = cold.waiters.len() as u64;
            self.set_quantum(cold, members);
        }
    }

    fn set_quantum(&self, cold: &mut Cold, members: u64) {
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
    fn serve(&self, cold: &mut Cold, wakes: &mut Wakes) {
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

    fn no_longer_waits(&self) {
        let before = self.waiting.fetch_sub(1, SeqCst);
        debug_assert!(before > 0);
    }

    fn publish(&self, cold: &Cold) {
        self.idle_cap.store(
            spare(&cold.schedule).saturating_add(IDLE_SLACK_BYTES),
            Relaxed,
        );
        self.publish_times(cold);
    }

    fn publish_times(&self, cold: &Cold) {
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
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
