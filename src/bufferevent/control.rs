//! What a user can do to a bufferevent beyond reading, writing and enabling: trigger callbacks,
//! give it another descriptor, base or priority, bound its operations.

use std::os::fd::{IntoRawFd, OwnedFd};
use std::rc::Rc;

use super::machine::{Life, Link};
use super::shell::{Cx, default_priority};
use super::transport::Changed;
use super::types::{Events, TriggerOptions};
use super::{BufferEvent, Socket};
use crate::error::Error;
use crate::event_base::{EventBase, Interest};

impl BufferEvent {
    /// Runs the read or write callback as if bytes had moved (`bufferevent_trigger`): each only if
    /// its buffer is past the low mark, unless the options say to ignore the marks.
    ///
    /// Inside a callback of the same bufferevent it runs afterwards.
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn trigger(&self, interest: Interest, options: TriggerOptions) -> Result<(), Error> {
        let ignore = options.contains(TriggerOptions::IGNORE_WATERMARKS);
        self.command(|cx| {
            let (input, output) = (cx.shell().input_len(), cx.shell().output_len());
            let machine = cx.machine();
            let (read_low, write_low) = (machine.read_mark(), machine.marks(Interest::WRITE).0);
            drop(machine);
            let read = interest.contains(Interest::READ) && (ignore || input >= read_low);
            let write = interest.contains(Interest::WRITE) && (ignore || output <= write_low);
            triggered(cx, read, write, Events::empty(), options);
        })
    }

    /// Runs the event callback with the given flags (`bufferevent_trigger_event`). Nothing else of
    /// the bufferevent changes.
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn trigger_event(&self, events: Events, options: TriggerOptions) -> Result<(), Error> {
        self.command(|cx| triggered(cx, false, false, events, options))
    }

    /// Goes on with another descriptor, or with none (`bufferevent_setfd`); of a filter, what is
    /// below it does. Operations on the old one are cancelled; it stays open and is the caller's
    /// again. Of what was being sent to it, the bytes that it took are gone; the rest goes to the
    /// new one. Bytes that the kernel had received from it but not shown are dropped: see
    /// [`finish_reading`](Self::finish_reading) for a way not to lose them.
    ///
    /// Buffers, marks, time-outs, callbacks and priority stay. With WRITE enabled and nothing to
    /// send the write callback runs once.
    ///
    /// # Errors
    /// [`Error::Invalid`] for pairs, or while it closes.
    pub fn set_fd(&self, fd: Option<OwnedFd>) -> Result<(), Error> {
        self.change_fd(fd, false)
    }

    /// As [`set_fd`](Self::set_fd), but with `CLOSE_ON_FREE` the old descriptor is closed, once the
    /// kernel has let go of it (`bufferevent_replacefd`).
    ///
    /// # Errors
    /// As [`set_fd`](Self::set_fd).
    pub fn replace_fd(&self, fd: Option<OwnedFd>) -> Result<(), Error> {
        self.change_fd(fd, self.lowest().0.shell.closes())
    }

    pub(super) fn change_fd(
        &self,
        fd: Option<impl IntoRawFd>,
        close_old: bool,
    ) -> Result<(), Error> {
        if let Some(under) = self.0.transport.under() {
            under.change_fd(fd, close_old)?;
            return self.command(|cx| {
                let now = cx.now();
                cx.machine_mut().set_link(Link::Up, now);
                cx.transport().changed(cx, Changed::Reopened);
                cx.mark_dirty();
            });
        }
        self.on_socket("set_fd", |cx, socket| {
            if cx.shell().life() != Life::Open {
                return Err(Error::Invalid {
                    what: "set_fd",
                    why: "it is on its way to its end",
                });
            }
            let link = if fd.is_some() { Link::Up } else { Link::Absent };
            socket.forget_grants(cx);
            socket.change_fd(cx, fd.map(IntoRawFd::into_raw_fd), close_old);
            let now = cx.now();
            let mut machine = cx.machine_mut();
            machine.set_link(link, now);
            machine.expect_write_event();
            drop(machine);
            cx.mark_dirty();
            Ok(())
        })
    }

    /// Moves it to another base (`bufferevent_base_set`). It stays in its rate-limit group.
    ///
    /// # Errors
    /// [`Error::Invalid`], and no change, for pairs and filters, or while anything is in flight:
    /// disable it and let the loop turn first.
    pub fn set_base(&self, base: &EventBase) -> Result<(), Error> {
        let old = self.live()?;
        let shell = &self.0.shell;
        let socket = self.0.transport.socket();
        let quiet = shell.reg.is_quiet() && !shell.is_calling() && shell.life() == Life::Open;
        let Some(socket) = socket.filter(|socket| socket.in_flight() == 0 && quiet) else {
            return Err(Error::Invalid {
                what: "set_base",
                why: "only a socket bufferevent with nothing in flight can change its base",
            });
        };
        if Rc::ptr_eq(&old.0, &base.0) {
            return Ok(());
        }
        let port = socket.port_on(base)?;
        shell.reg.move_to(&old, base)?;
        shell.reg.set_priority(default_priority(base));
        socket.moved(port, shell.reg.key().to_bits());
        let cx = Cx::new(self, base);
        cx.mark_dirty();
        cx.settle();
        Ok(())
    }

    /// Sets which queue its callbacks run from; 0 is the most urgent (`bufferevent_priority_set`).
    /// The default is the middle one of the base's.
    ///
    /// # Errors
    /// [`Error::Invalid`] for pairs and filters, or beyond the base's priorities.
    pub fn set_priority(&self, priority: usize) -> Result<(), Error> {
        let base = self.live()?;
        let known = u8::try_from(priority)
            .ok()
            .filter(|_| priority < base.priorities());
        match (self.0.transport.socket(), known) {
            (Some(_), Some(priority)) => {
                self.0.shell.reg.set_priority(priority);
                Ok(())
            }
            _ => Err(Error::Invalid {
                what: "set_priority",
                why: "only sockets have one, from 0 to one less than the base has",
            }),
        }
    }

    /// Which queue its callbacks run from (`bufferevent_get_priority`).
    pub fn priority(&self) -> usize {
        self.0.shell.reg.priority()
    }

    /// Bounds what one receive brings, in bytes; 0 is the default, a whole slot
    /// (`bufferevent_set_max_single_read`).
    ///
    /// # Errors
    /// [`Error::Freed`]; [`Error::Invalid`] for pairs and filters.
    pub fn set_max_single_read(&self, bytes: usize) -> Result<(), Error> {
        self.on_socket("set_max_single_read", |_, socket| {
            socket.set_max_single_read(bytes);
            Ok(())
        })
    }

    /// Bounds what one send takes, in bytes; 0 is the default, 1 MiB
    /// (`bufferevent_set_max_single_write`).
    ///
    /// # Errors
    /// [`Error::Freed`]; [`Error::Invalid`] for pairs and filters.
    pub fn set_max_single_write(&self, bytes: usize) -> Result<(), Error> {
        self.on_socket("set_max_single_write", |_, socket| {
            socket.set_max_single_write(bytes);
            Ok(())
        })
    }

    /// The bounds of one receive and of one send as they were set, in bytes; 0: the default
    /// (`bufferevent_get_max_single_read`, `bufferevent_get_max_single_write`).
    pub fn max_single(&self) -> (usize, usize) {
        let socket = self.0.transport.socket();
        socket.map_or((0, 0), Socket::max_single)
    }

    /// Whether the output is longer than its high mark, with what waits below a filter counted:
    /// time to stop producing. The write callback tells when it has fallen to the low mark.
    pub fn output_above_high(&self) -> bool {
        let waiting = self.backlog();
        let above = self.0.shell.machine.borrow().output_above_high(waiting);
        if above && waiting > self.0.shell.output_len() {
            self.await_drain();
        }
        above
    }
}

fn triggered(cx: &Cx<'_>, read: bool, write: bool, events: Events, options: TriggerOptions) {
    if !read && !write && events.is_empty() {
        return;
    }
    if options.contains(TriggerOptions::DEFER_CALLBACKS) {
        cx.machine_mut().trigger_later(read, write, events);
        cx.shell().reg.enqueue(cx.base);
    } else {
        cx.machine_mut().trigger(read, write, events);
    }
}
