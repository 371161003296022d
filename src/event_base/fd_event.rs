//! Readiness of any descriptor.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::{Rc, Weak};

use bitflags::bitflags;

use super::source::Source;
use super::{Base, EventBase};
use crate::driver::{Completion, Op, OpId};
use crate::error::Error;
use crate::sys::Errno;

bitflags! {
    /// Directions of a descriptor or a bufferevent (`EV_READ`, `EV_WRITE`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Interest: u8 {
        /// Reading.
        const READ = 2;
        /// Writing.
        const WRITE = 4;
    }
}

const POLLIN: u32 = libc::POLLIN as u32;
const POLLOUT: u32 = libc::POLLOUT as u32;

/// Watches a descriptor for readiness, from [`EventBase::fd_event`] (`struct event`).
///
/// A cheap handle; dropping it leaves the event in place.
#[derive(Clone)]
pub struct FdEvent(Rc<Inner>);

type Callback = Box<dyn FnMut(&FdEvent, Interest)>;

struct Inner {
    base: Weak<Base>,
    token: Cell<u32>,
    fd: i32,
    interest: Interest,
    op: Cell<Option<OpId>>,
    cancelled: Cell<bool>,
    active: Cell<bool>,
    callback: RefCell<Option<Callback>>,
}

impl FdEvent {
    pub(super) fn new(
        base: &EventBase,
        fd: i32,
        interest: Interest,
        callback: Callback,
    ) -> Result<Self, Error> {
        if interest.is_empty() || fd < 0 {
            return Err(Error::Invalid {
                what: "fd_event",
                why: "it takes an open descriptor, and READ, WRITE or both",
            });
        }
        let inner = Rc::new(Inner {
            base: base.downgrade(),
            token: Cell::new(0),
            fd,
            interest,
            op: Cell::new(None),
            cancelled: Cell::new(false),
            active: Cell::new(false),
            callback: RefCell::new(Some(callback)),
        });
        inner.token.set(base.add_source(inner.clone()));
        inner.watch(base);
        base.set_active(&inner.active, true);
        Ok(FdEvent(inner))
    }

    /// Stops watching (`event_del`). The callback is not called again; the descriptor may be
    /// closed.
    pub fn cancel(&self) {
        let inner = &self.0;
        if inner.cancelled.replace(true) {
            return;
        }
        let callback = inner.callback.borrow_mut().take();
        drop(callback);
        if let Some(base) = inner.base.upgrade().map(EventBase) {
            match inner.op.get() {
                // It keeps the loop from ending until the kernel has let go of the descriptor.
                Some(op) => base.cancel(op),
                None => inner.retire(&base),
            }
        }
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
        let base = self.0.base.upgrade();
        base.map(EventBase)
            .ok_or(Error::Freed { what: "event base" })
    }
}

impl Inner {
    /// Nothing is in flight: leaves the base.
    fn retire(&self, base: &EventBase) {
        base.set_active(&self.active, false);
        base.remove_source(self.token.get());
    }

    fn watch(&self, base: &EventBase) {
        let mut events = 0;
        if self.interest.contains(Interest::READ) {
            events |= POLLIN;
        }
        if self.interest.contains(Interest::WRITE) {
            events |= POLLOUT;
        }
        self.op.set(Some(base.push(
            self.token.get(),
            Op::Poll {
                fd: self.fd,
                events,
                multishot: true,
            },
        )));
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
    fn completed(self: Rc<Self>, base: &EventBase, completion: Completion) {
        if !completion.more {
            self.op.set(None);
        }
        let mut dead = false;
        if !self.cancelled.get() {
            let ready = match completion.result {
                // An error or a hang-up is for every direction to find out.
                Ok(events) if events & (libc::POLLERR | libc::POLLHUP) as u32 != 0 => self.interest,
                Ok(events) => {
                    let mut ready = Interest::empty();
                    ready.set(Interest::READ, events & POLLIN != 0);
                    ready.set(Interest::WRITE, events & POLLOUT != 0);
                    ready
                }
                Err(errno) => {
                    dead = !completion.more && !passes(errno);
                    match dead {
                        true => self.interest,
                        false => Interest::empty(),
                    }
                }
            };
            // What passes (no memory at this moment) tells nothing about the descriptor.
            let callback = match ready.is_empty() {
                true => None,
                false => self.callback.borrow_mut().take(),
            };
            if let Some(mut callback) = callback {
                callback(&FdEvent(self.clone()), ready);
                if !self.cancelled.get() {
                    *self.callback.borrow_mut() = Some(callback);
                }
            }
        }
        if self.cancelled.get() {
            if self.op.get().is_none() {
                self.retire(base);
            }
        } else if dead {
            // The descriptor can not be watched (closed, or not pollable): said once.
            FdEvent(self).cancel();
        } else if self.op.get().is_none() {
            self.watch(base);
        }
    }

    fn base_ended(self: Rc<Self>) -> Option<i32> {
        self.cancelled.set(true);
        let callback = self.callback.borrow_mut().take();
        drop(callback);
        None
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
