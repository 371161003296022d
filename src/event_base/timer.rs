//! Timers of the user.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::EventBase;
use super::hook::{Hook, finally};
use super::registration::Registration;
use super::source::Source;
use crate::driver::Completion;
use crate::error::Error;

/// A one-shot or repeating timer, from [`EventBase::timer`] and [`EventBase::interval`]
/// (`struct event` with `EV_TIMEOUT`).
///
/// A cheap handle; dropping it leaves the timer running.
#[derive(Clone)]
pub struct Timer(Rc<Inner>);

type Callback = dyn FnMut(&Timer);

struct Inner {
    /// It is on the base while it is going to fire.
    registration: Registration,
    /// When it is due, in the driver's time; `u64::MAX`: not at all.
    due: Cell<u64>,
    period: Cell<u64>,
    callback: Hook<Callback>,
}

impl Timer {
    pub(super) fn new(
        base: &EventBase,
        after: Duration,
        period: Option<Duration>,
        callback: Box<Callback>,
    ) -> Result<Self, Error> {
        let period = match period {
            Some(Duration::ZERO) => {
                return Err(Error::Invalid {
                    what: "interval",
                    why: "a period is at least one nanosecond",
                });
            }
            Some(period) => nanoseconds(period)?,
            None => 0,
        };
        let timer = Timer(Rc::new(Inner {
            registration: Registration::new(),
            due: Cell::new(u64::MAX),
            period: Cell::new(period),
            callback: Hook::with(callback),
        }));
        timer.0.begin(base, nanoseconds(after)?);
        Ok(timer)
    }

    /// Has it fire `after` from now, instead of when it was due; also after it has fired or was
    /// cancelled (`evtimer_add`).
    ///
    /// # Errors
    /// [`Error::Freed`] when the base is gone, [`Error::Invalid`] beyond the clock's range.
    pub fn rearm(&self, after: Duration) -> Result<(), Error> {
        let base = self.base()?;
        let after = nanoseconds(after)?;
        self.0.begin(&base, after);
        Ok(())
    }

    /// Takes it back: it does not fire until it is re-armed (`evtimer_del`).
    pub fn cancel(&self) {
        self.0.due.set(u64::MAX);
        if let Ok(base) = self.base() {
            self.0.registration.leave(&base);
        }
    }

    /// Whether it is going to fire (`evtimer_pending`).
    pub fn is_pending(&self) -> bool {
        self.0.due.get() != u64::MAX
    }

    /// The base that it runs on.
    ///
    /// # Errors
    /// [`Error::Freed`] when the base is gone.
    pub fn base(&self) -> Result<EventBase, Error> {
        let base = self.0.registration.base();
        base.ok_or(Error::Freed { what: "event base" })
    }
}

impl Inner {
    fn begin(self: &Rc<Self>, base: &EventBase, after: u64) {
        if !self.registration.is_joined() {
            self.registration.join(base, self.clone());
        }
        self.due.set(base.fresh_now().saturating_add(after));
        self.registration.arm(base, self.due.get());
        self.registration.set_active(base, true);
    }
}

impl Source for Inner {
    fn registration(&self) -> &Registration {
        &self.registration
    }

    fn completed(self: Rc<Self>, _: &EventBase, _: Completion) {}

    fn timer_fired(self: Rc<Self>, base: &EventBase) {
        let now = base.now();
        if self.due.get() > now {
            self.registration.arm(base, self.due.get());
            return;
        }
        if self.period.get() != 0 {
            self.due.set(now.saturating_add(self.period.get()));
            self.registration.arm(base, self.due.get());
        } else {
            self.due.set(u64::MAX);
        }
        // Also when it panics: a timer that has fired must not keep the loop alive.
        let _retire = finally(|| {
            if self.due.get() == u64::MAX {
                self.registration.leave(base);
            }
        });
        self.callback.call(|call| call(&Timer(self.clone())));
    }

    fn base_ended(self: Rc<Self>, _close: &mut Vec<i32>) {
        self.due.set(u64::MAX);
        self.callback.clear();
    }
}

fn nanoseconds(duration: Duration) -> Result<u64, Error> {
    u64::try_from(duration.as_nanos()).map_err(|_| Error::Invalid {
        what: "timer",
        why: "the clock counts 584 years",
    })
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer")
            .field("pending", &self.is_pending())
            .finish_non_exhaustive()
    }
}
