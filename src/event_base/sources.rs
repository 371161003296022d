//! The calls that put a source on a base: timers, signals, readiness, work for later.

use std::rc::Rc;
use std::time::Duration;

use super::hook::Hook;
use super::registration::Registration;
use super::source::Source;
use super::{EventBase, FdEvent, Signal, Timer};
use crate::direction::Interest;
use crate::driver::Completion;
use crate::error::Error;

impl EventBase {
    /// Runs a closure from the callback FIFO, in this turn or the next one
    /// (`event_base_once` without a descriptor or a time).
    pub fn defer(&self, f: impl FnOnce(&EventBase) + 'static) {
        struct Once {
            registration: Registration,
            f: Hook<dyn FnOnce(&EventBase)>,
        }
        impl Source for Once {
            fn registration(&self) -> &Registration {
                &self.registration
            }
            fn completed(self: Rc<Self>, _: &EventBase, _: Completion) {}
            fn deferred(self: Rc<Self>, base: &EventBase) {
                self.registration.leave(base);
                if let Some(f) = self.f.take() {
                    f(base);
                }
            }
            fn base_ended(self: Rc<Self>, _close: &mut Vec<i32>) {
                self.f.clear();
            }
        }
        let once = Rc::new(Once {
            registration: Registration::new(),
            f: Hook::with(Box::new(f)),
        });
        once.registration.join(self, once.clone());
        once.registration.enqueue(self);
    }

    /// One-shot timer: runs `f` once, `after` from now (`evtimer_new`, `event_add`).
    ///
    /// The timer keeps the loop alive until it has fired or is cancelled. It lives on without its
    /// handle.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a duration beyond the clock's range (584 years).
    pub fn timer(&self, after: Duration, f: impl FnMut(&Timer) + 'static) -> Result<Timer, Error> {
        Timer::new(self, after, None, Box::new(f))
    }

    /// Repeating timer: runs `f` every `period`, first one period from now (`EV_PERSIST`).
    ///
    /// A turn that takes longer than the period delays calls; it does not bunch them up.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a period of zero or beyond the clock's range.
    pub fn interval(
        &self,
        period: Duration,
        f: impl FnMut(&Timer) + 'static,
    ) -> Result<Timer, Error> {
        Timer::new(self, period, Some(period), Box::new(f))
    }

    /// Runs `f` whenever the process gets signal `signum` (`evsignal_new`).
    ///
    /// The signal is blocked in the calling thread and read through a signalfd. Threads that were
    /// started before must have it blocked too, or they take it: call
    /// [`block_signals`](super::block_signals) first thing in `main`.
    ///
    /// # Errors
    /// [`Error::Io`] when the number is no signal or the process has no descriptor left.
    pub fn signal(&self, signum: i32, f: impl FnMut(&Signal) + 'static) -> Result<Signal, Error> {
        Signal::new(self, signum, Box::new(f))
    }

    /// Runs `f` each time the descriptor becomes readable or writable, as asked (`event_new`
    /// with `EV_PERSIST`).
    ///
    /// The descriptor stays the caller's, and must stay open until the event is cancelled.
    /// Readiness is reported as an edge: read until the descriptor would block.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty interest.
    pub fn fd_event(
        &self,
        fd: i32,
        interest: Interest,
        f: impl FnMut(&FdEvent, Interest) + 'static,
    ) -> Result<FdEvent, Error> {
        FdEvent::new(self, fd, interest, Box::new(f))
    }
}
