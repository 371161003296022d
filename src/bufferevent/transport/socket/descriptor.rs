//! What the descriptor is, and how it is changed and let go of.

use super::receive::{Incoming, Receiving};
use super::send::Sending;
use super::{Marks, Socket};
use crate::bufferevent::shell::Cx;
use crate::driver::{Descriptor, SendHow, SocketOption};
use crate::event_base::EventBase;

/// What the descriptor is, as far as it matters how to receive and to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A TCP socket: multishot receives.
    Inet,
    /// A Unix socket: single receives. Since it knows how much is queued (6.17) Linux does not
    /// look for the end of the stream behind the last byte, and a multishot receive that takes the
    /// byte misses an end that had come before.
    Unix,
    /// A pipe, a terminal or a file: it takes reads and writes instead of receives and sends.
    Plain {
        /// It was opened for reading.
        reads: bool,
        /// It was opened for writing.
        writes: bool,
    },
}

impl Kind {
    pub(super) fn of(descriptor: &Descriptor) -> Self {
        match descriptor.family {
            Some(family) => Self::of_family(family),
            None => Kind::Plain {
                reads: descriptor.readable,
                writes: descriptor.writable,
            },
        }
    }

    pub(super) fn of_family(family: i32) -> Self {
        match family {
            libc::AF_UNIX => Kind::Unix,
            _ => Kind::Inet,
        }
    }

    pub(super) fn is_plain(self) -> bool {
        matches!(self, Kind::Plain { .. })
    }

    /// Whether anything can come in.
    pub(super) fn reads(self) -> bool {
        !matches!(self, Kind::Plain { reads: false, .. })
    }

    /// Whether anything can go out.
    pub(super) fn writes(self) -> bool {
        !matches!(self, Kind::Plain { writes: false, .. })
    }

    /// Its sending direction ends only with the descriptor: the write end of a pipe, a file.
    pub(super) fn ends_by_close(self) -> bool {
        matches!(
            self,
            Kind::Plain {
                reads: false,
                writes: true
            }
        )
    }

    pub(super) fn send_how(self, wait_all: bool) -> SendHow {
        match self {
            Kind::Plain { .. } => SendHow::Plain,
            _ => SendHow::Socket { wait_all },
        }
    }
}

impl Socket {
    pub(in crate::bufferevent) fn reads(&self) -> bool {
        self.kind.get().reads()
    }

    pub(in crate::bufferevent) fn writes(&self) -> bool {
        self.kind.get().writes()
    }

    /// Whether `shutdown_write` can end the stream, as it stands.
    pub(in crate::bufferevent) fn can_end_direction(&self, closes: bool) -> bool {
        match self.kind.get() {
            kind if kind.ends_by_close() => closes,
            kind => !kind.is_plain() || self.fd().is_none(),
        }
    }

    /// Cancels whatever is in flight; what it still brings is dropped.
    pub(super) fn cancel_all(&self, cx: &Cx<'_>) {
        self.leave_receive(cx);
        if let Some(op) = self.connect.take() {
            self.orphan(cx, op);
        }
        if let Some(op) = self.sending.replace(Sending::Idle).op() {
            self.orphan(cx, op);
        }
        self.unseen.take();
    }

    /// The receive belongs to a descriptor that is let go of.
    fn leave_receive(&self, cx: &Cx<'_>) {
        if let Some(op) = self.receiving.replace(Receiving::Idle).op() {
            self.orphan(cx, op);
        }
        cx.shell().reg.leave_line();
    }

    /// Goes on with another descriptor. The old one's operations are cancelled; it is closed after
    /// them if `close_old` says so. A send goes on to its end first: what the old descriptor took
    /// is gone, and only the rest is for the new one.
    pub(in crate::bufferevent) fn change_fd(&self, cx: &Cx<'_>, fd: Option<i32>, close_old: bool) {
        self.leave_receive(cx);
        if let Some(op) = self.connect.take() {
            self.orphan(cx, op);
        }
        self.unseen.take();
        self.leave_send(cx);
        let kind = fd.map_or(Kind::Inet, |fd| {
            Kind::of(&cx.base.with_driver(|driver| driver.describe(fd)))
        });
        let old = self.fd.replace(fd.unwrap_or(-1));
        if close_old && old >= 0 {
            self.retire(cx.base, old);
        }
        self.kind.set(kind);
        self.mark(Marks::MADE_HERE | Marks::SENDS_FAIL, false);
        self.incoming.set(Incoming::Messages);
    }

    /// Has a descriptor closed once nothing of it is in flight.
    pub(super) fn retire(&self, base: &EventBase, fd: i32) {
        self.rare.with_made(|rare| rare.retired.push(fd));
        self.close_retired(base);
    }

    /// Closes the descriptors that wait for their operations, if none is left.
    pub(super) fn close_retired(&self, base: &EventBase) {
        if self.orphaned.get() != 0 {
            return;
        }
        let retired = self.rare.with(|rare| std::mem::take(&mut rare.retired));
        for fd in retired.into_iter().flatten() {
            base.with_driver(|driver| driver.close(fd));
        }
    }

    /// Lets go of the descriptors: nothing is in flight.
    pub(super) fn let_go(&self, base: &EventBase, close: bool) {
        debug_assert_eq!(self.in_flight.get(), 0, "closed under its operations (I6)");
        self.orphaned.set(0);
        self.close_retired(base);
        let fd = self.fd.replace(-1);
        if fd < 0 || !close {
            return;
        }
        base.with_driver(|driver| {
            if self.is_marked(Marks::RESETS) && !self.kind.get().is_plain() {
                // A Unix socket knows no reset; its peer sees an end as ever.
                let _refused = driver.set_option(fd, SocketOption::ResetOnClose);
            }
            driver.close(fd);
        });
    }
}
