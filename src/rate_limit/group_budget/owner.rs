//! What the group's owner and the bases do, on any thread.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};

use super::refill::next_random;
use super::{Cold, GroupBudget};
use crate::rate_limit::Direction;
use crate::rate_limit::config::RateLimitConfig;
use crate::rate_limit::ledger::Ledger;
use crate::rate_limit::port::{PortShared, PortTable, Wakes};
use crate::rate_limit::schedule::{Position, Schedule};
use crate::rate_limit::waiters::Waiters;

impl GroupBudget {
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
        let budget = Self {
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
        budget.publish(&budget.lock());
        budget
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
