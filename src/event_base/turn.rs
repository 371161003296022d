//! The turn: what happens between two entries into the kernel.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use bitflags::bitflags;

use super::hook::{Each, Hook};
use super::registration::Key;
use super::{Base, EventBase, SpinPolicy};
use crate::driver::{Completion, Spent, Wait};
use crate::error::Error;

/// How many completions one turn handles before timers and deferred callbacks get theirs.
const COMPLETIONS_PER_TURN: u32 = 1024;

/// How many deferred callbacks one turn runs at least, if there are so many: those that were queued
/// by others of them are among these. libevent's own number.
const CALLBACKS_PER_TURN: usize = 32;

/// How long an adaptively spinning base looks for completions after the last one before it
/// sleeps, in nanoseconds. About the round trip of a local peer.
const ADAPTIVE_SPIN_NS: u64 = 50_000;

bitflags! {
    /// How [`EventBase::run_with`] runs.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct RunFlags: u8 {
        /// Return after one turn that waited for something (`EVLOOP_ONCE`).
        const ONCE = 1;
        /// Return after one turn, without waiting (`EVLOOP_NONBLOCK`).
        const NONBLOCK = 2;
        /// Stay when nothing is left to wait for: other threads will post work
        /// (`EVLOOP_NO_EXIT_ON_EMPTY`).
        const NO_EXIT_ON_EMPTY = 4;
    }
}

/// Why the loop returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// Nothing was left that could ever happen.
    Idle,
    /// It was told to stop.
    Stopped,
    /// It ran the one turn that it was asked for.
    Turned,
}

/// What a turn did, for [`EventBase::set_turn_hook`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct TurnInfo {
    /// From the return of one enter to the call of the next: everything but waiting.
    pub busy: Duration,
    /// Completions handled.
    pub completions: u32,
}

/// The hook, and the turn that it has not been told about.
#[derive(Default)]
pub(super) struct TurnHook {
    call: Hook<dyn FnMut(&TurnInfo)>,
    /// When that turn began, and its completions.
    turn: Cell<Option<(u64, u32)>>,
}

impl TurnHook {
    pub(super) fn clear(&self) {
        self.call.clear();
    }
}

thread_local! {
    /// How many loops this thread is in: one runs inside a callback of another.
    static LOOPS: Cell<u32> = const { Cell::new(0) };
}

/// Whether this thread is in a callback of some loop.
pub(crate) fn in_a_loop() -> bool {
    LOOPS.get() != 0
}

/// Whether, and how soon, to leave the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    No,
    AfterTurn,
    Now,
}

impl EventBase {
    /// Runs until nothing is left to wait for, or until told to stop (`event_base_dispatch`).
    ///
    /// # Errors
    /// [`Error::Io`] when the kernel refuses the ring's service for good; [`Error::Invalid`] when
    /// called from a callback of the same base; [`Error::Forked`] in a child process.
    pub fn run(&self) -> Result<Exit, Error> {
        self.run_with(RunFlags::empty())
    }

    /// Runs as the flags say (`event_base_loop`).
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_with(&self, flags: RunFlags) -> Result<Exit, Error> {
        if std::process::id() != self.0.pid {
            return Err(Error::Forked { parent: self.0.pid });
        }
        if self.0.buffers_in_use.get() != 0 {
            return Err(Error::Busy {
                what: "bufferevent's",
            });
        }
        if self.0.running.replace(true) {
            return Err(Error::Invalid {
                what: "run",
                why: "the loop is running already; a callback may not run it again",
            });
        }
        LOOPS.set(LOOPS.get() + 1);
        let _running = Running(&self.0);
        self.0.stop.set(Stop::No);
        self.0.stop_at_passed.set(false);
        loop {
            let alive = self.turn(flags)?;
            if self.0.stop.get() != Stop::No {
                if self.0.stop_at_passed.get() {
                    self.0.stop_at.set(u64::MAX);
                }
                return Ok(Exit::Stopped);
            }
            if !alive {
                return Ok(Exit::Idle);
            }
            if flags.intersects(RunFlags::ONCE | RunFlags::NONBLOCK) {
                return Ok(Exit::Turned);
            }
        }
    }

    /// Leaves the loop once the callback that runs now has returned (`event_base_loopbreak`).
    /// Completions that are there already are handled by the next run.
    pub fn stop(&self) {
        self.0.stop.set(Stop::Now);
    }

    /// Leaves the loop at the end of this turn, when its callbacks have all run
    /// (`event_base_loopexit` without a time).
    pub fn stop_after_turn(&self) {
        if self.0.stop.get() == Stop::No {
            self.0.stop.set(Stop::AfterTurn);
        }
    }

    /// Leaves the loop at the end of the turn in which `after` has passed; keeps it alive until
    /// then (`event_base_loopexit`).
    pub fn stop_after(&self, after: Duration) {
        let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        self.0.stop_at.set(self.fresh_now().saturating_add(after));
    }

    /// Reports every turn to `hook`: how long the loop was busy and with how many completions.
    /// Costs two readings of the clock a turn.
    pub fn set_turn_hook(&self, hook: impl FnMut(&TurnInfo) + 'static) {
        self.0.turn_hook.turn.set(None);
        self.0.turn_hook.call.set(Box::new(hook));
    }

    /// One turn. False when nothing is left to wait for.
    fn turn(&self, flags: RunFlags) -> Result<bool, Error> {
        let base = &*self.0;
        self.resume_suspended();
        self.start_dirty();
        self.serve_line();
        if self.is_idle() && !flags.contains(RunFlags::NO_EXIT_ON_EMPTY) {
            if let Some(spent) = self.with_driver(|driver| driver.pop_spent()) {
                self.clear_up(spent, &mut None);
            }
            return Ok(false);
        }
        let wait = self.how_long(flags);
        self.report_turn();
        let entered = self.with_driver(|driver| {
            let entered = driver.enter(wait);
            base.now.set(driver.now());
            entered
        });
        entered.map_err(|source| Error::io("io_uring_enter", source))?;
        base.tally.turn();
        let (completions, drained) = self.dispatch_completions();
        if base.stop.get() != Stop::Now && drained {
            // Timers only once nothing has arrived any more: I/O that coincides wins.
            self.expire_timers();
        }
        self.run_fifo();
        if base.turn_hook.call.is_set() {
            base.turn_hook.turn.set(Some((base.now.get(), completions)));
        }
        Ok(true)
    }

    /// Tells the turn hook about the turn that ends here, just before the next enter.
    fn report_turn(&self) {
        let hook = &self.0.turn_hook;
        let Some((began, completions)) = hook.turn.take() else {
            return;
        };
        let ended = self.with_driver(|driver| driver.now());
        let info = TurnInfo {
            busy: Duration::from_nanos(ended.saturating_sub(began)),
            completions,
        };
        hook.call.call(|hook| hook(&info));
    }

    /// Has every source that asked for it hand its I/O to the driver.
    fn start_dirty(&self) {
        let mut list = std::mem::take(&mut *self.0.dirty.borrow_mut());
        // Callbacks may mark more; they join the same pass, up to a bound, so that their I/O
        // leaves with this enter.
        for _ in 0..2 {
            list.reverse();
            let left = Unstarted {
                base: &self.0,
                list: &mut list,
            };
            while let Some(key) = left.list.pop() {
                if let Some(source) = self.0.source_by(key)
                    && source.registration().take_dirty()
                {
                    source.start_io(self);
                }
            }
            drop(left);
            let mut dirty = self.0.dirty.borrow_mut();
            if dirty.is_empty() {
                // Keep the larger allocation: steady state allocates nothing.
                if dirty.capacity() < list.capacity() {
                    *dirty = list;
                }
                return;
            }
            std::mem::swap(&mut *dirty, &mut list);
        }
        let mut dirty = self.0.dirty.borrow_mut();
        dirty.splice(0..0, list);
    }

    fn is_idle(&self) -> bool {
        let base = &*self.0;
        base.active.get() == 0
            && base.stop_at.get() == u64::MAX
            && base.dirty.borrow().is_empty()
            && base.fifo.borrow().iter().all(|queue| queue.is_empty())
    }

    fn how_long(&self, flags: RunFlags) -> Wait {
        let base = &*self.0;
        let work = !base.dirty.borrow().is_empty()
            || base.groups.has_resumed()
            || base.put_off.borrow().is_some()
            || self.unparks()
            || base.fifo.borrow().iter().any(|queue| !queue.is_empty());
        if work || flags.contains(RunFlags::NONBLOCK) || base.stop.get() != Stop::No {
            return Wait::Poll;
        }
        match base.spin {
            SpinPolicy::Always => return Wait::Poll,
            SpinPolicy::Adaptive => {
                let quiet = base.now.get().saturating_sub(base.tally.last_completion());
                if quiet < ADAPTIVE_SPIN_NS {
                    return Wait::Poll;
                }
            }
            SpinPolicy::None => {}
        }
        let deadline = base
            .timers
            .borrow()
            .next()
            .unwrap_or(u64::MAX)
            .min(base.stop_at.get())
            .min(base.groups.next_poll())
            .min(base.quiet.next())
            .min(self.next_turn());
        if deadline == u64::MAX {
            return Wait::Until(None);
        }
        match deadline.saturating_sub(self.fresh_now()) {
            0 => Wait::Poll,
            left => Wait::Until(Some(Duration::from_nanos(left))),
        }
    }

    /// Hands completions to their sources. How many, and whether none is left.
    fn dispatch_completions(&self) -> (u32, bool) {
        let base = &*self.0;
        if base.put_off.borrow().is_some()
            && let Some(completion) = base.put_off.take()
        {
            self.complete(completion);
        }
        for handled in 0..COMPLETIONS_PER_TURN {
            let (mut completion, spent) =
                self.with_driver(|driver| (driver.next(), driver.pop_spent()));
            if let Some(spent) = spent {
                self.clear_up(spent, &mut completion);
            }
            let Some(completion) = completion else {
                if handled != 0 {
                    base.tally.completed_at(base.now.get());
                }
                return (handled, true);
            };
            self.complete(completion);
            if base.stop.get() == Stop::Now {
                return (handled + 1, false);
            }
        }
        base.tally.completed_at(base.now.get());
        (COMPLETIONS_PER_TURN, false)
    }

    #[inline(always)]
    fn complete(&self, completion: Completion) {
        let ours = completion.token >> 32 == u64::from(self.0.number);
        debug_assert!(ours, "a completion came to a base that did not ask for it");
        if ours && let Some(source) = self.0.source(completion.token as u32) {
            source.completed(self, completion);
        }
    }

    /// Does what the driver left for when it is not borrowed: drops users' payloads, whose
    /// destructors may call anything, and logs, since a logger may, too. Neither may cost the
    /// completion that came beside it.
    #[cold]
    fn clear_up(&self, first: Spent, completion: &mut Option<Completion>) {
        let mut each = Each::default();
        let mut next = Some(first);
        while let Some(spent) = next {
            each.run(|| spent.let_go());
            next = self.with_driver(|driver| driver.pop_spent());
        }
        if each.panicked() {
            self.0.put_off.replace(completion.take());
        }
        each.finish();
    }

    fn expire_timers(&self) {
        let base = &*self.0;
        let now = base.now.get();
        if now >= base.stop_at.get() {
            // Taken back when the loop returns for it: a panic that comes first leaves it to the
            // next run.
            base.stop_at_passed.set(true);
            self.stop_after_turn();
        }
        self.check_quiet();
        self.give_turns();
        loop {
            let expired = base.timers.borrow_mut().expire(now);
            let Some(key) = expired else { return };
            if let Some(source) = base.source_by(key) {
                source.registration().timer_seen(now);
                source.timer_fired(self);
            }
            if base.stop.get() == Stop::Now {
                return;
            }
        }
    }

    /// Runs what is in the FIFO now, the most urgent queue first, and, where there is only one
    /// queue, of what these callbacks queue in their turn as much as [`CALLBACKS_PER_TURN`] leaves
    /// room for: recursion is bounded, and the kernel is not starved.
    fn run_fifo(&self) {
        let base = &*self.0;
        let queues = base.fifo.borrow().len();
        for priority in 0..queues {
            let ready = base.fifo.borrow()[priority].len();
            let most = match queues {
                1 => ready.max(CALLBACKS_PER_TURN),
                _ => ready,
            };
            for _ in 0..most {
                if base.stop.get() == Stop::Now {
                    return;
                }
                let Some(key) = base.fifo.borrow_mut()[priority].pop_front() else {
                    break;
                };
                if let Some(source) = base.source_by(key)
                    && source.registration().take_queued()
                {
                    source.deferred(self);
                }
            }
            if ready != 0 && queues > 1 {
                // Something more urgent may have become ready: look at the kernel first.
                return;
            }
        }
    }
}

/// Sources whose I/O is still to be begun, last first. Those that a panic in a callback leaves wait
/// for the next turn.
struct Unstarted<'a> {
    base: &'a Base,
    list: &'a mut Vec<Key>,
}

impl Drop for Unstarted<'_> {
    fn drop(&mut self) {
        if !self.list.is_empty() {
            let mut dirty = self.base.dirty.borrow_mut();
            dirty.splice(0..0, self.list.drain(..).rev());
        }
    }
}

/// Marks the base as not running again, also when a callback panics.
struct Running<'a>(&'a Base);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(false);
        LOOPS.set(LOOPS.get() - 1);
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Exit::Idle => "nothing left to wait for",
            Exit::Stopped => "stopped",
            Exit::Turned => "one turn done",
        })
    }
}
