//! What a user can do to a bufferevent beyond reading, writing and enabling: trigger callbacks, give it
//! another descriptor, base or priority, bound its operations.

use std::os::fd::{IntoRawFd, OwnedFd};
use std::rc::Rc;

use super::core::Link;
use super::types::{Events, TriggerOptions};
use super::{BufferEvent, Flavour, Inner};
use crate::error::Error;
use crate::event_base::{EventBase, Interest};

impl BufferEvent {
    /// Runs the read or write callback as if bytes had moved (`bufferevent_trigger`): each only if its buffer is past the
    /// low mark, unless the options say to ignore the marks.
    ///
    /// Inside a callback of the same bufferevent it runs afterwards.
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn trigger(&self, interest: Interest, options: TriggerOptions) -> Result<(), Error> {
        let base = self.live()?;
        let ignore = options.contains(TriggerOptions::IGNORE_WATERMARKS);
        let (input, output) = (self.0.input_len(), self.0.output_len());
        let (read_low, write_low) = (
            self.watermarks(Interest::READ).0,
            self.watermarks(Interest::WRITE).0,
        );
        let read = interest.contains(Interest::READ) && (ignore || input >= read_low);
        let write = interest.contains(Interest::WRITE) && (ignore || output <= write_low);
        self.0
            .triggered(&base, read, write, Events::empty(), options);
        Ok(())
    }

    /// Runs the event callback with the given flags (`bufferevent_trigger_event`). Nothing else of the bufferevent changes.
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn trigger_event(&self, events: Events, options: TriggerOptions) -> Result<(), Error> {
        let base = self.live()?;
        self.0.triggered(&base, false, false, events, options);
        Ok(())
    }

    /// Goes on with another descriptor, or with none (`bufferevent_setfd`). Operations on the old one are cancelled; it
    /// stays open and is the caller's again. Bytes that the kernel had received from it but not shown are dropped: see
    /// [`finish_reading`](Self::finish_reading) for a way not to lose them.
    ///
    /// Buffers, marks, time-outs, callbacks and priority stay. With WRITE enabled and nothing to send the write callback runs
    /// once.
    ///
    /// # Errors
    /// [`Error::Invalid`] for pairs and filters, or while it closes.
    pub fn set_fd(&self, fd: Option<OwnedFd>) -> Result<(), Error> {
        let base = self.live()?;
        self.0.change_fd(&base, fd, false)
    }

    /// As [`set_fd`](Self::set_fd), but with `CLOSE_ON_FREE` the old descriptor is closed, once the kernel has let go of it
    /// (`bufferevent_replacefd`).
    ///
    /// # Errors
    /// As [`set_fd`](Self::set_fd).
    pub fn replace_fd(&self, fd: Option<OwnedFd>) -> Result<(), Error> {
        let base = self.live()?;
        self.0.change_fd(&base, fd, self.0.closes())
    }

    /// Moves it to another base (`bufferevent_base_set`). It stays in its rate-limit group.
    ///
    /// # Errors
    /// [`Error::Invalid`], and no change, for pairs and filters, or while anything is in flight: disable it and let the loop
    /// turn first.
    pub fn set_base(&self, base: &EventBase) -> Result<(), Error> {
        let old = self.live()?;
        let inner = &self.0;
        let busy = inner.socket.in_flight() != 0
            || inner.registration.is_dirty()
            || inner.registration.is_queued()
            || inner.calling.get().is_some()
            || inner.is_closing()
            || !matches!(inner.flavour, Flavour::Socket);
        if busy {
            return Err(Error::Invalid {
                what: "set_base",
                why: "only a socket bufferevent with nothing in flight can change its base",
            });
        }
        if Rc::ptr_eq(&old.0, &base.0) {
            return Ok(());
        }
        let port = inner.port_on(base)?;
        inner.registration.move_to(&old, base, inner.clone())?;
        inner.move_limits(port);
        inner
            .registration
            .set_priority(super::default_priority(base));
        inner.mark_dirty(base);
        inner.sync(base);
        Ok(())
    }

    /// Sets which queue its callbacks run from; 0 is the most urgent (`bufferevent_priority_set`). The default is the middle
    /// one of the base's.
    ///
    /// # Errors
    /// [`Error::Invalid`] for pairs and filters, or beyond the base's priorities.
    pub fn set_priority(&self, priority: usize) -> Result<(), Error> {
        let base = self.live()?;
        let known = u8::try_from(priority)
            .ok()
            .filter(|_| priority < base.priorities());
        match (&self.0.flavour, known) {
            (Flavour::Socket, Some(priority)) => self.0.registration.set_priority(priority),
            _ => {
                return Err(Error::Invalid {
                    what: "set_priority",
                    why: "only sockets have one, from 0 to one less than the base has",
                });
            }
        }
        Ok(())
    }

    /// Which queue its callbacks run from (`bufferevent_get_priority`).
    pub fn priority(&self) -> usize {
        self.0.registration.priority()
    }

    /// Bounds what one receive brings, in bytes; 0 is the default, a whole slot
    /// (`bufferevent_set_max_single_read`).
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn set_max_single_read(&self, bytes: usize) -> Result<(), Error> {
        self.live()?;
        self.0.socket.set_max_single_read(bytes);
        Ok(())
    }

    /// Bounds what one send takes, in bytes; 0 is the default, 1 MiB (`bufferevent_set_max_single_write`).
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn set_max_single_write(&self, bytes: usize) -> Result<(), Error> {
        self.live()?;
        self.0.socket.set_max_single_write(bytes);
        Ok(())
    }

    /// The bounds of one receive and of one send as they were set, in bytes; 0: the default
    /// (`bufferevent_get_max_single_read`, `bufferevent_get_max_single_write`).
    pub fn max_single(&self) -> (usize, usize) {
        self.0.socket.max_single()
    }

    /// Whether the output is longer than its high mark: time to stop producing. The write callback tells when it has
    /// fallen to the low mark.
    pub fn output_above_high(&self) -> bool {
        let output = self.0.output_len();
        self.0.core.borrow().output_above_high(output)
    }
}

impl Inner {
    fn triggered(
        self: &Rc<Self>,
        base: &EventBase,
        read: bool,
        write: bool,
        events: Events,
        options: TriggerOptions,
    ) {
        if !read && !write && events.is_empty() {
            return;
        }
        if options.contains(TriggerOptions::DEFER_CALLBACKS) {
            self.core.borrow_mut().trigger_later(read, write, events);
            self.defer_callbacks(base);
        } else {
            self.core.borrow_mut().trigger(read, write, events);
            self.run_callbacks(base);
        }
        self.sync(base);
    }

    fn change_fd(
        self: &Rc<Self>,
        base: &EventBase,
        fd: Option<OwnedFd>,
        close_old: bool,
    ) -> Result<(), Error> {
        if !matches!(self.flavour, Flavour::Socket) || self.is_closing() {
            return Err(Error::Invalid {
                what: "set_fd",
                why: "only a socket bufferevent that is not closing can change its descriptor",
            });
        }
        let link = if fd.is_some() { Link::Up } else { Link::Absent };
        self.forget_grants(base);
        self.socket
            .change_fd(base, fd.map(IntoRawFd::into_raw_fd), close_old);
        let mut core = self.core.borrow_mut();
        core.set_link(link, base.now());
        core.owe_write();
        drop(core);
        self.mark_dirty(base);
        self.sync(base);
        Ok(())
    }
}
