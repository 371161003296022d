//! Readiness of any descriptor.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use super::EventBase;
use super::hook::{Hook, finally};
use super::registration::Registration;
use super::source::Source;
use crate::direction::Interest;
use crate::driver::{Completion, Op, OpId};
use crate::error::Error;
use crate::sys::Errno;

const POLLIN: u32 = libc::POLLIN as u32;
const POLLOUT: u32 = libc::POLLOUT as u32;

/// Watches a descriptor for readiness, from [`EventBase::fd_event`] (`struct event`).
///
/// A cheap handle; dropping it leaves the event in place.
#[derive(Clone)]
pub struct FdEvent(Rc<Inner>);

type Callback = dyn FnMut(&FdEvent, Interest);

struct Inner {
    registration: Registration,
    fd: i32,
    interest: Interest,
    op: Cell<Option<OpId>>,
    cancelled: Cell<bool>,
    callback: Hook<Callback>,
}

impl FdEvent {
    pub(super) fn new(
        base: &EventBase,
        fd: i32,
        interest: Interest,
        callback: Box<Callback>,
    ) -> Result<Self, Error> {
        if interest.is_empty() || fd < 0 {
            return Err(Error::Invalid {
                what: "fd_event",
                why: "it takes an open descriptor, and READ, WRITE or both",
            });
        }
        let inner = Rc::new(Inner {
            registration: Registration::new(),
            fd,
            interest,
            op: Cell::new(None),
            cancelled: Cell::new(false),
            callback: Hook::with(callback),
        });
        inner.registration.join(base, inner.clone());
        inner.watch(base);
        inner.registration.set_active(base, true);
        Ok(FdEvent(inner))
    }

    /// Stops watching (`event_del`). The callback is not called again; the descriptor may be
    /// closed.
    pub fn cancel(&self) {
        let inner = &self.0;
        if inner.cancelled.replace(true) {
            return;
        }
        if let Some(base) = inner.registration.base() {
            match inner.op.get() {
                // It keeps the loop from ending until the kernel has let go of the descriptor.
                Some(op) => self.0.registration.cancel(&base, op),
                None => inner.registration.leave(&base),
            }
        }
        inner.callback.clear();
    }

    /// The descriptor that is watched.
    pub fn fd(&self) -> i32 {
        self.0.fd
    }

    /// The base that watches it.
    ///
    /// # Errors
    /// [`Error::Freed`] when the base is gone.
    pub fn base(&self) -> Result<EventBase, Error> {
        let base = self.0.registration.base();
        base.ok_or(Error::Freed { what: "event base" })
    }
}

impl Inner {
    fn watch(&self, base: &EventBase) {
        let mut events = 0;
        if self.interest.contains(Interest::READ) {
            events |= POLLIN;
        }
        if self.interest.contains(Interest::WRITE) {
            events |= POLLOUT;
        }
        let op = Op::Poll {
            fd: self.fd,
            events,
            multishot: true,
        };
        self.op.set(Some(self.registration.push(base, op)));
    }

    /// For which directions a completion asks the callback to look; and whether the descriptor can
    /// not be watched at all.
    fn ready(&self, completion: &Completion) -> (Interest, bool) {
        match completion.result {
            // An error or a hang-up is for every direction to find out.
            Ok(events) if events & (libc::POLLERR | libc::POLLHUP) as u32 != 0 => {
                (self.interest, false)
            }
            Ok(events) => {
                let mut ready = Interest::empty();
                ready.set(Interest::READ, events & POLLIN != 0);
                ready.set(Interest::WRITE, events & POLLOUT != 0);
                (ready, false)
            }
            // What passes (no memory at this moment) tells nothing about the descriptor.
            Err(errno) if completion.more || passes(errno) => (Interest::empty(), false),
            Err(_) => (self.interest, true),
        }
    }

    /// After a completion, whatever its callback did.
    fn go_on(self: &Rc<Self>, base: &EventBase, dead: bool) {
        if self.cancelled.get() {
            if self.op.get().is_none() {
                self.registration.leave(base);
            }
        } else if dead {
            // The descriptor can not be watched (closed, or not pollable): said once.
            FdEvent(self.clone()).cancel();
        } else if self.op.get().is_none() {
            self.watch(base);
        }
    }
}

/// Whether a watch that ended with this error can be begun again.
fn passes(errno: Errno) -> bool {
    matches!(
        errno.raw(),
        libc::ENOMEM | libc::EAGAIN | libc::EINTR | libc::ECANCELED
    )
}

impl Source for Inner {
    fn registration(&self) -> &Registration {
        &self.registration
    }

    fn completed(self: Rc<Self>, base: &EventBase, completion: Completion) {
        if !completion.more {
            self.op.set(None);
        }
        let (ready, dead) = self.ready(&completion);
        let _go_on = finally(|| self.go_on(base, dead));
        if !ready.is_empty() && !self.cancelled.get() {
            self.callback
                .call(|call| call(&FdEvent(self.clone()), ready));
        }
    }

    fn base_ended(self: Rc<Self>, _close: &mut Vec<i32>) {
        self.cancelled.set(true);
        self.callback.clear();
    }
}

impl fmt::Debug for FdEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FdEvent")
            .field("fd", &self.0.fd)
            .field("interest", &self.0.interest)
            .field("cancelled", &self.0.cancelled.get())
            .finish_non_exhaustive()
    }
}
