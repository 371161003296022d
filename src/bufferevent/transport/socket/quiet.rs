//! Broken connections that no receive tells of.
//!
//! A multishot receive that takes bytes while a reset stands behind them reports no more and is
//! never woken again (Linux 6.18, TCP); and a side that stands still, for a mark, a limit, a relay
//! or for want of memory, has no receive that could tell. So the base looks after connections that
//! have gone quiet ([`EventBase::check_when_quiet`](crate::event_base::EventBase)): once, some time
//! after the last bytes, at no cost a message. One that stands still is watched by a poll from then
//! on.

use super::Socket;
use super::receive::{Incoming, Receiving};
use super::unseen::Unseen;
use crate::bufferevent::machine::{Hold, Machine, StreamEnd};
use crate::bufferevent::shell::Cx;
use crate::driver::{HangUp, Op};
use crate::sys::Errno;

/// Whether the base is going to look after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    Not,
    /// Nothing was heard since it looked last.
    Silent,
    Heard,
}

impl Socket {
    /// Bytes came and, as far as is known, no more are there.
    pub(super) fn hear(&self, cx: &Cx<'_>) {
        if self.listed.replace(Listed::Heard) == Listed::Not {
            cx.base.check_when_quiet(&cx.shell().reg);
        }
    }

    /// Has the base look whether the connection still stands.
    pub(super) fn list_for_check(&self, cx: &Cx<'_>) {
        if self.listed.get() == Listed::Not {
            self.listed.set(Listed::Silent);
            cx.base.check_when_quiet(&cx.shell().reg);
        }
    }

    /// It reads nothing now. If that is a pause, a connection that breaks meanwhile is noticed.
    pub(super) fn stand_still(&self, cx: &Cx<'_>) {
        if self.receiving.get() == Receiving::Idle && self.may_break_unseen(cx) {
            self.list_for_check(cx);
        }
    }

    fn may_break_unseen(&self, cx: &Cx<'_>) -> bool {
        let known = matches!(self.incoming.get(), Incoming::Ended | Incoming::Broken);
        self.fd().is_some() && !known && cx.machine().is_paused()
    }

    /// The base looks; true to be asked again.
    pub(super) fn look(&self, cx: &Cx<'_>) -> bool {
        if self.listed.get() == Listed::Heard {
            self.listed.set(Listed::Silent);
            return true;
        }
        self.listed.set(Listed::Not);
        let Some(fd) = self.fd() else { return false };
        let receiving = self.receiving.get();
        let still = !receiving.may_bring();
        if still && !self.may_break_unseen(cx) {
            return false;
        }
        match cx.base.with_driver(|driver| driver.hang_up(fd)) {
            HangUp::Failed => self.broken(cx),
            HangUp::None if still && receiving.watch().is_none() => {
                let op = Op::Poll {
                    fd,
                    events: 0,
                    multishot: false,
                };
                let watch = self.push(cx, op);
                self.receiving.set(receiving.watched_by(Some(watch)));
            }
            // Its send was told of a reset that the receive was not. Another one tells of the end.
            HangUp::Ended if !still => self.stop_receive(cx),
            // Both directions are over: there is nothing left that could break.
            HangUp::None | HangUp::Ended => {}
        }
        false
    }

    /// The poll of one that stands still has ended.
    pub(super) fn watch_ended(&self, cx: &Cx<'_>, result: Result<u32, Errno>) {
        if result.is_ok_and(|events| events & libc::POLLERR as u32 != 0) {
            self.broken(cx);
        }
        cx.mark_dirty();
    }

    /// The poll of one that stands still is not needed any more.
    pub(super) fn unwatch(&self, cx: &Cx<'_>) {
        let receiving = self.receiving.get();
        if let Some(op) = receiving.watch() {
            self.orphan(cx, op);
            self.receiving.set(receiving.watched_by(None));
        }
    }

    /// The connection is broken, and nothing has said so.
    fn broken(&self, cx: &Cx<'_>) {
        if self.receiving.get().may_bring() {
            // Cancelled, the receive answers with the error; or the next one does.
            return self.stop_receive(cx);
        }
        let fd = self.fd.get();
        let waits = cx.base.with_driver(|driver| driver.readable_bytes(fd));
        let relayed = cx.machine().hold() == Hold::Relay || self.backlogged.get();
        if waits != 0 && !relayed {
            // In order: what the kernel has received comes first, once it is read on.
            return;
        }
        let errno = cx
            .base
            .with_driver(|driver| driver.take_error(fd))
            .ok()
            .flatten()
            .unwrap_or(Errno::from_raw(libc::ECONNRESET));
        self.stream_ended(cx, StreamEnd::Error(errno));
    }

    /// An end that a side which stands still may be told: all that was received was shown to it,
    /// or nobody wants it any more.
    pub(super) fn show_end_of_paused(unseen: &mut Unseen, machine: &mut Machine) {
        let gives_up = machine.hold() == Hold::Relay;
        if !unseen.is_drained() && !gives_up || !unseen.is_broken() {
            return;
        }
        if let Some(end) = unseen.take_end() {
            machine.keep_end(end);
            machine.show_end_of_paused();
        }
    }
}
