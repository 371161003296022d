//! The one send of a socket (I4): what it takes of the output, and how much it tells of its way.

use super::descriptor::Kind;
use super::{Marks, Socket};
use crate::bufferevent::machine::{Fin, Life, StreamEnd};
use crate::bufferevent::shell::{Cx, SHORT_COPY_OUT_FRACTION};
use crate::driver::{Completion, OpId};
use crate::evbuffer::Spent;
use crate::sys::Errno;

/// The most bytes that one send takes, so that one connection's backlog does not pin the arena in
/// one operation.
const SEND_BYTES: usize = 1 << 20;

/// How much of a file range is read ahead of a send.
const FILE_READ_BYTES: usize = 256 << 10;

/// The send of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    Idle,
    InFlight {
        op: OpId,
        /// It completes when all of it was taken, however long that takes.
        patient: bool,
        /// Its descriptor was let go of, and nothing is sent before it is over.
        leaving: bool,
    },
}

impl Sending {
    pub(super) fn op(self) -> Option<OpId> {
        match self {
            Sending::Idle => None,
            Sending::InFlight { op, .. } => Some(op),
        }
    }
}

impl Socket {
    pub(in crate::bufferevent) fn is_sending(&self) -> bool {
        self.sending.get() != Sending::Idle
    }

    /// Whether somebody wants to know of each byte that goes: then a send completes with what the
    /// kernel takes at once. One that waits for all of it hides its progress, and needs fewer
    /// operations.
    fn is_timed(&self, cx: &Cx<'_>) -> bool {
        self.watched.get()
            || cx.machine().timeouts().1 != 0
            || cx.shell().life() != Life::Open && cx.shell().close_deadline() != u64::MAX
    }

    /// Hands the front of the output to the kernel; one send at a time (I4).
    pub(super) fn begin_send(&self, cx: &Cx<'_>) {
        if self.is_sending() {
            return;
        }
        let Some(fd) = self.fd() else { return };
        let buffers = &cx.shell().buffers;
        let Some(mut output) = buffers.output() else {
            return;
        };
        let machine = cx.machine();
        if !machine.wants_write(output.len()) {
            return;
        }
        let most = match self.single_write() {
            0 => SEND_BYTES,
            set => set as usize,
        };
        let waits_for_mark = machine.is_above_low_mark(output.len());
        drop(machine);
        let mut spent = Spent::new();
        if let Err(error) = output.load_into(most.min(FILE_READ_BYTES), &mut spent) {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            drop(output);
            drop(spent);
            return cx.write_failed(Errno::from_raw(errno));
        }
        if cx.base.slots_are_low() {
            // What the kernel can not take at once would keep a slot for each small message.
            output.compact_small(cx.base.slot_size() / SHORT_COPY_OUT_FRACTION);
        }
        let Some(most) = self.gate_send(cx, output.len().min(most)) else {
            return;
        };
        let patient = !waits_for_mark && !self.is_timed(cx);
        let how = self.kind.get().send_how(patient);
        let token = cx.shell().reg.token();
        let (op, taken) = cx.base.push_send(token, |driver, token| {
            driver.send(token, fd, &output, most, how)
        });
        drop(output);
        drop(spent);
        self.in_flight.set(self.in_flight.get() + 1);
        buffers.take(taken);
        cx.base.tally().send_begun();
        self.sending.set(Sending::InFlight {
            op,
            patient,
            leaving: false,
        });
    }

    pub(super) fn sent(&self, cx: &Cx<'_>, completion: Completion) {
        let Sending::InFlight { leaving, .. } = self.sending.get() else {
            return;
        };
        if completion.more {
            // A zero-copy send still holds its memory.
            return;
        }
        self.sending.set(Sending::Idle);
        let buffers = &cx.shell().buffers;
        let taken = buffers.taken();
        let replaced = buffers.give_back();
        if leaving {
            self.orphan_ended();
            self.close_retired(cx.base);
        } else {
            self.settle_send(cx, &completion);
        }
        match completion.result {
            Ok(n) => {
                let n = n as usize;
                cx.base.tally().sent(n);
                if n < taken && !leaving {
                    self.note_acknowledged(cx);
                }
                // Bytes of a buffer that is here no longer were for the old descriptor.
                cx.sent(if leaving && replaced { taken } else { n });
            }
            Err(errno) => match errno.raw() {
                libc::ECANCELED | libc::EINTR | libc::EAGAIN => {
                    if leaving && replaced {
                        cx.sent(taken);
                    }
                }
                _ if leaving => {}
                _ => {
                    self.mark(Marks::SENDS_FAIL, true);
                    cx.write_failed(errno);
                }
            },
        }
        // More to send, a direction to end or a close to go on with: at the end of the turn.
        let more = completion.result.is_err()
            || cx.shell().output_len() != 0
            || cx.machine().fin() == Fin::Wanted
            || cx.shell().life() != Life::Open
            || self.receiving.get().is_parked();
        if more {
            cx.mark_dirty();
        }
    }

    /// Somebody times what is sent from now on: a send that hides its progress gives up, and
    /// another one goes on with the rest.
    pub(super) fn quicken_send(&self, cx: &Cx<'_>) {
        let Sending::InFlight {
            op,
            patient: true,
            leaving: false,
        } = self.sending.get()
        else {
            return;
        };
        if self.kind.get().is_plain() {
            return;
        }
        let waits_for_mark = cx.machine().is_above_low_mark(cx.shell().output_len());
        if waits_for_mark || self.is_timed(cx) {
            cx.shell().reg.cancel(cx.base, op);
        }
    }

    /// What a write time-out stops: a send that makes no way, a connect.
    pub(super) fn abandon_write(&self, cx: &Cx<'_>) {
        if let Some(op) = self.connect.take() {
            self.orphan(cx, op);
        }
        if let Some(op) = self.sending.get().op() {
            cx.shell().reg.cancel(cx.base, op);
        }
    }

    /// The descriptor of the send is let go of.
    pub(super) fn leave_send(&self, cx: &Cx<'_>) {
        if let Sending::InFlight {
            op,
            patient,
            leaving: false,
        } = self.sending.get()
        {
            self.orphan(cx, op);
            self.sending.set(Sending::InFlight {
                op,
                patient,
                leaving: true,
            });
        }
    }

    /// Whether the peer acknowledged anything since this was asked last: bytes that went on
    /// although no operation could say so.
    pub(super) fn peer_acknowledged(&self, cx: &Cx<'_>) -> bool {
        let Some(fd) = self.fd() else { return false };
        if self.kind.get() != Kind::Inet {
            return false;
        }
        // What the kernel took as a whole is still on its way to a peer that takes it slowly.
        let on_the_way = || {
            let unacked = cx.base.with_driver(|driver| driver.unacked(fd));
            self.watched.get() && unacked != 0
        };
        if !self.is_sending() && !on_the_way() {
            return false;
        }
        let Some(acked) = cx.base.with_driver(|driver| driver.acked(fd)) else {
            return false;
        };
        let seen = self.rare.with_made(|rare| rare.acked.replace(acked));
        seen.is_some_and(|seen| acked > seen)
    }

    /// The kernel has no room for more, and the write timer starts again: what the peer
    /// acknowledges from now on is progress, too.
    pub(super) fn note_acknowledged(&self, cx: &Cx<'_>) {
        let fd = self.fd.get();
        let timed = self.watched.get() || cx.machine().timeouts().1 != 0;
        if fd >= 0 && self.kind.get() == Kind::Inet && timed {
            let acked = cx.base.with_driver(|driver| driver.acked(fd));
            self.rare.with_made(|rare| rare.acked = acked);
        }
    }

    /// The output is out: ends the direction if that was asked for.
    pub(super) fn end_direction(&self, cx: &Cx<'_>) {
        let due = cx.machine().fin_due(cx.shell().output_len());
        if !due || self.is_sending() {
            return;
        }
        let Some(fd) = self.fd() else { return };
        cx.machine_mut().set_fin(Fin::Sent);
        let kind = self.kind.get();
        if kind.ends_by_close() {
            if cx.shell().closes() {
                self.end_by_close(cx, fd);
            }
            return;
        }
        if kind.is_plain() {
            return;
        }
        // ENOTCONN: the peer is gone, which the receive reports with its own error.
        let _gone = cx.base.with_driver(|driver| driver.shutdown_write(fd));
    }

    /// The write end of a pipe: its reader sees the end when it is closed.
    fn end_by_close(&self, cx: &Cx<'_>, fd: i32) {
        self.unwatch(cx);
        self.fd.set(-1);
        self.retire(cx.base, fd);
    }

    /// The stream ended, or broke, while a close reads to its end.
    pub(super) fn ended_while_closing(&self, cx: &Cx<'_>, end: StreamEnd) {
        if !super::is_eof(end) {
            cx.break_close();
        }
    }
}
