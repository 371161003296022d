//! Timers of the user.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::source::Source;
use super::{Base, EventBase};
use crate::driver::Completion;
use crate::error::Error;

/// A one-shot or repeating timer, from [`EventBase::timer`] and [`EventBase::interval`]
/// (`struct event` with `EV_TIMEOUT`).
///
/// A cheap handle; dropping it leaves the timer running.
#[derive(Clone)]
pub struct Timer(Rc<Inner>);

type Callback = Box<dyn FnMut(&Timer)>;

struct Inner {
    base: Weak<Base>,
    token: Cell<u32>,
    registered: Cell<bool>,
    /// When it is due, in the driver's time; `u64::MAX`: not at all.
    due: Cell<u64>,
    /// The earliest entry that the base's heap has for it; `u64::MAX`: none.
    armed: Cell<u64>,
    period: Cell<u64>,
    active: Cell<bool>,
    callback: RefCell<Option<Callback>>,
}

impl Timer {
    pub(super) fn new(
        base: &EventBase,
        after: Duration,
        period: Option<Duration>,
        callback: Callback,
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
        let inner = Rc::new(Inner {
            base: base.downgrade(),
            token: Cell::new(0),
            registered: Cell::new(false),
            due: Cell::new(u64::MAX),
            armed: Cell::new(u64::MAX),
            period: Cell::new(period),
            active: Cell::new(false),
            callback: RefCell::new(Some(callback)),
        });
        let timer = Timer(inner);
        timer.rearm(after)?;
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
        let inner = &*self.0;
        if !inner.registered.replace(true) {
            inner.token.set(base.add_source(self.0.clone()));
        }
        inner.due.set(base.fresh_now().saturating_add(after));
        inner.arm(&base);
        base.set_active(&inner.active, true);
        Ok(())
    }

    /// Takes it back: it does not fire until it is re-armed (`evtimer_del`).
    pub fn cancel(&self) {
        self.0.due.set(u64::MAX);
        if let Ok(base) = self.base() {
            self.0.retire(&base);
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
        let base = self.0.base.upgrade();
        base.map(EventBase)
            .ok_or(Error::Freed { what: "event base" })
    }
}

impl Inner {
    /// Sees that the heap has an entry no later than when the timer is due.
    fn arm(&self, base: &EventBase) {
        if self.due.get() < self.armed.get() {
            self.armed.set(self.due.get());
            base.arm_timer(self.due.get(), self.token.get());
        }
    }

    /// Leaves the base: it keeps the loop alive no longer.
    fn retire(&self, base: &EventBase) {
        base.set_active(&self.active, false);
        if self.registered.replace(false) {
            self.armed.set(u64::MAX);
            base.remove_source(self.token.get());
        }
    }
}

impl Source for Inner {
    fn completed(self: Rc<Self>, _: &EventBase, _: Completion) {}

    fn timer_fired(self: Rc<Self>, base: &EventBase) {
        let now = base.now();
        // A stale entry (of this timer, or of a source that had the token before) changes nothing.
        if self.armed.get() <= now {
            self.armed.set(u64::MAX);
        }
        if self.due.get() > now {
            if self.due.get() != u64::MAX {
                self.arm(base);
            }
            return;
        }
        if self.period.get() != 0 {
            self.due.set(now.saturating_add(self.period.get()));
            self.arm(base);
        } else {
            self.due.set(u64::MAX);
        }
        let callback = self.callback.borrow_mut().take();
        if let Some(mut callback) = callback {
            callback(&Timer(self.clone()));
            *self.callback.borrow_mut() = Some(callback);
        }
        if self.due.get() == u64::MAX {
            self.retire(base);
        }
    }

    fn base_ended(self: Rc<Self>) -> Option<i32> {
        self.due.set(u64::MAX);
        let callback = self.callback.borrow_mut().take();
        drop(callback);
        None
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
