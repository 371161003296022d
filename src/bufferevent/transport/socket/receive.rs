//! The one receive of a socket: how it is armed, and what it brings.

use super::gate::Receive;
use super::{Marks, Socket};
use super::{Role, descriptor::Kind};
use crate::arena::{Arena, Slot};
use crate::bufferevent::machine::{Life, Link, Machine, StreamEnd};
use crate::bufferevent::shell::Cx;
use crate::driver::{Cap, Completion, Op, OpId};
use crate::evbuffer::Pinning;
use crate::event_base::EventBase;
use crate::event_base::source::{Feeding, Offer};

/// What a receive that nothing bounds is armed for, where bundles can be had.
const UNBOUND_ARM_BYTES: u32 = 1 << 20;

/// The receive of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    Idle,
    Armed(OpId),
    /// A limit asks to wait until there is something to read.
    Polling(OpId),
    /// Its cancellation was asked for; it may still bring something.
    Stopping {
        op: OpId,
        poll: bool,
    },
    /// It stands still; a poll looks whether the connection breaks meanwhile.
    Watching(OpId),
    /// In the base's line for receive slots; perhaps a poll looks whether the connection breaks.
    InLine(Option<OpId>),
    /// Memory is short, and what it received waits somewhere: others come first until either ends.
    /// Perhaps a poll, too.
    Parked(Option<OpId>),
}

impl Receiving {
    pub(super) fn op(self) -> Option<OpId> {
        match self {
            Receiving::Idle => None,
            Receiving::InLine(watch) | Receiving::Parked(watch) => watch,
            Receiving::Armed(op)
            | Receiving::Polling(op)
            | Receiving::Stopping { op, .. }
            | Receiving::Watching(op) => Some(op),
        }
    }

    /// What a completion of its operation is.
    pub(super) fn role(self) -> Role {
        match self {
            Receiving::Idle | Receiving::Armed(_) | Receiving::Stopping { poll: false, .. } => {
                Role::Receive
            }
            Receiving::Polling(_) | Receiving::Stopping { poll: true, .. } => Role::Poll,
            Receiving::Watching(_) | Receiving::InLine(_) | Receiving::Parked(_) => Role::Watch,
        }
    }

    /// The poll that looks whether the connection breaks.
    pub(super) fn watch(self) -> Option<OpId> {
        match self {
            Receiving::Watching(op) => Some(op),
            Receiving::InLine(watch) | Receiving::Parked(watch) => watch,
            _ => None,
        }
    }

    /// The same, with `watch` for a poll that looks whether the connection breaks; only of one
    /// that has no other operation.
    pub(super) fn watched_by(self, watch: Option<OpId>) -> Self {
        match (self, watch) {
            (Receiving::InLine(_), watch) => Receiving::InLine(watch),
            (Receiving::Parked(_), watch) => Receiving::Parked(watch),
            (_, Some(op)) => Receiving::Watching(op),
            (_, None) => Receiving::Idle,
        }
    }

    pub(super) fn is_in_line(self) -> bool {
        matches!(self, Receiving::InLine(_))
    }

    pub(super) fn is_parked(self) -> bool {
        matches!(self, Receiving::Parked(_))
    }

    /// Whether an operation is in flight that may still bring bytes, or leads to one that does.
    pub(super) fn may_bring(self) -> bool {
        matches!(
            self,
            Receiving::Armed(_) | Receiving::Polling(_) | Receiving::Stopping { .. }
        )
    }
}

/// A receive that the gate lets through.
#[derive(Clone, Copy, Debug)]
struct Plan {
    multishot: bool,
    /// Bytes until it is begun again, and in each completion; 0: no bound.
    bytes: u32,
    each: u32,
    poll_first: bool,
}

/// What the last receive says about the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// It took what was there.
    Messages,
    /// It filled a slot and left more behind: the next may fill several at once.
    Bulk,
    /// The end of the stream.
    Ended,
    /// The connection broke: another receive says no more than that it ended.
    Broken,
}

impl Socket {
    #[cfg(test)]
    pub(in crate::bufferevent) fn is_receiving(&self) -> bool {
        self.receiving.get().may_bring()
    }

    #[cfg(test)]
    pub(in crate::bufferevent) fn describe(&self) -> String {
        let (receiving, sending) = (self.receiving.get(), self.sending.get());
        format!(", {receiving:?}, {sending:?}")
    }

    /// Whether it waits for memory.
    #[cfg(test)]
    pub(in crate::bufferevent) fn is_starved(&self) -> bool {
        let receiving = self.receiving.get();
        receiving.is_in_line() || receiving.is_parked()
    }

    pub(in crate::bufferevent) fn wants_receive(&self, cx: &Cx<'_>) -> bool {
        self.receive_is_wanted(cx.shell().life(), &cx.machine())
    }

    pub(super) fn receive_is_wanted(&self, life: Life, machine: &Machine) -> bool {
        match life {
            Life::Open => machine.wants_read() && !machine.keeps_end() && !self.unseen.is_some(),
            // Whatever is enabled meanwhile: it has finished reading.
            Life::StoppingReads | Life::Freed => false,
            // It reads and drops until the end: its peer may need to be read from before it reads.
            Life::Flushing | Life::Lingering => {
                self.kind.get().reads()
                    && !matches!(self.incoming.get(), Incoming::Ended | Incoming::Broken)
                    && machine.link() == Link::Up
            }
        }
    }

    /// Whether what it received waits for a peer to read it: in its own output, or in that of
    /// whoever it is relayed to. What waits in its input waits for the program, which may need
    /// more to go on.
    fn holds_memory(&self, cx: &Cx<'_>) -> bool {
        let waits = cx.shell().output_len() != 0 && !self.is_marked(Marks::SENDS_FAIL);
        waits || self.backlogged.get()
    }

    /// Begins to receive, if that is wanted and may be: the one place where receives begin.
    /// `offer` says what the base has for one that waits for memory.
    pub(super) fn begin_receive(&self, cx: &Cx<'_>, offer: Option<Offer>) -> Feeding {
        let Some(fd) = self.fd() else {
            return Feeding::Left;
        };
        let before = self.receiving.get();
        if before.may_bring() || before.is_in_line() && offer.is_none() {
            return Feeding::Left;
        }
        if !self.wants_receive(cx) {
            // Whoever resumes it begins the receive.
            self.stand_still(cx);
            return Feeding::Left;
        }
        let short = cx.base.slots_are_low();
        let parks = offer != Some(Offer::Turn) && self.holds_memory(cx);
        if short && !self.is_closing_down(cx) && parks {
            self.park(cx);
            return Feeding::Left;
        }
        if short
            && cx.base.memory_is_spent()
            && !self.is_closing_down(cx)
            && cx.shell().input_len() != 0
        {
            // What it would receive would be memory that there is not.
            if offer.is_none() {
                self.wait_in_line(cx);
                return Feeding::Left;
            }
            return Feeding::Passed;
        }
        if offer == Some(Offer::Reserve) && !self.is_marked(Marks::READABLE) {
            // Who has nothing to receive must not keep a slot, the reserved one least of all, from
            // those who have.
            return self.await_readable(cx, fd);
        }
        let kind = self.kind.get();
        let plan = match self.plan(cx, kind, short, offer) {
            Receive::Launch {
                multishot,
                bytes,
                each,
                poll_first,
            } => Plan {
                multishot,
                bytes,
                each,
                poll_first,
            },
            Receive::AwaitReadable => return self.await_readable(cx, fd),
            // In the line it keeps its place: outside it would only find out again, once the
            // limit allows, that there is no slot, and meanwhile hold the budget of another.
            Receive::Wait => {
                self.stand_still(cx);
                return match offer {
                    Some(Offer::Window) | None => Feeding::Left,
                    Some(_) => Feeding::Passed,
                };
            }
        };
        let Some(op) = self.operation(cx, fd, plan, offer) else {
            self.return_receive(cx);
            return match (offer, kind.is_plain()) {
                (None, _) => {
                    self.wait_in_line(cx);
                    Feeding::Left
                }
                // Those behind it may do with what there is in the window.
                (Some(_), true) => Feeding::Passed,
                (Some(_), false) => Feeding::NoneLeft,
            };
        };
        self.unwatch(cx);
        cx.base.tally().receive_armed();
        self.receiving.set(Receiving::Armed(self.push(cx, op)));
        match kind.is_plain() {
            // It took nothing of the window.
            true => Feeding::Left,
            false => Feeding::Fed,
        }
    }

    fn await_readable(&self, cx: &Cx<'_>, fd: i32) -> Feeding {
        let op = Op::Poll {
            fd,
            events: libc::POLLIN as u32,
            multishot: false,
        };
        self.unwatch(cx);
        self.receiving.set(Receiving::Polling(self.push(cx, op)));
        Feeding::Left
    }

    /// The operation for a receive as planned; none when it needs a slot of its own, and none is
    /// left.
    fn operation(&self, cx: &Cx<'_>, fd: i32, plan: Plan, offer: Option<Offer>) -> Option<Op> {
        let plain = self.kind.get().is_plain();
        let own_slot = plain || matches!(offer, Some(Offer::Reserve | Offer::Turn));
        let slot = match own_slot {
            // Not from within the driver: an arena that is refused memory says so to the logger.
            true => self.take_slot(&cx.base.with_driver(|driver| driver.arena().clone()), offer),
            false => None,
        };
        if own_slot && slot.is_none() && (plain || offer == Some(Offer::Reserve)) {
            return None;
        }
        self.mark(Marks::READABLE, false);
        let max_len = plan.bytes;
        Some(match slot {
            Some(slot) if plain => Op::Read { fd, slot, max_len },
            Some(slot) => Op::RecvSlot {
                fd,
                slot,
                max_len,
                poll_first: false,
            },
            None => Op::Recv {
                fd,
                multishot: plan.multishot,
                max_len: match (self.single_read(), plan.each) {
                    (0, each) => each,
                    (single, 0) => single,
                    (single, each) => single.min(each),
                },
                poll_first: plan.poll_first,
                arm_limit: plan.bytes,
                bundle: self.incoming.get() == Incoming::Bulk && !cx.base.slots_are_low(),
            },
        })
    }

    /// A slot outside of the window; the reserved one where that is offered and no other is left.
    fn take_slot(&self, arena: &Arena, offer: Option<Offer>) -> Option<Slot> {
        let (slot, reserved) = match (arena.take(), offer) {
            (Some(slot), _) => (slot, false),
            (None, Some(_)) => (arena.take_reserve()?, true),
            (None, None) => return None,
        };
        self.mark(Marks::IN_RESERVE, reserved);
        Some(slot)
    }

    /// How to receive: bounded by the mark, by whoever may pause it, by memory, by the limits.
    fn plan(&self, cx: &Cx<'_>, kind: Kind, short: bool, offer: Option<Offer>) -> Receive {
        let room = cx.machine().room(cx.shell().input_len());
        let multishot = kind == Kind::Inet && !short && offer != Some(Offer::Reserve);
        let single = self.single_read();
        let bound = match (u32::try_from(room), self.receive_bound.get()) {
            _ if kind.is_plain() || offer == Some(Offer::Reserve) => single,
            (Ok(room), 0) => room,
            (Ok(room), bound) => room.min(bound),
            // Armed again now and then, so that the next arm is as what arrives asks for: a bundle
            // needs a limit.
            (Err(_no_mark), 0) if multishot && has_bundles(cx.base) => UNBOUND_ARM_BYTES,
            (Err(_no_mark), bound) => bound,
        };
        let bound = match (short, bound) {
            (false, bound) => bound,
            (true, 0) => cx.base.slot_share(),
            (true, bound) => bound.min(cx.base.slot_share()),
        };
        let bound = match (offer, bound) {
            // What it brings is copied: a block of half a slot is enough for that.
            (Some(Offer::Reserve), 0) => half_a_slot(cx.base),
            (Some(Offer::Reserve), bound) => bound.min(half_a_slot(cx.base)),
            (_, bound) => bound,
        };
        self.gate_receive(cx, multishot, bound)
    }

    /// The base has slots again, or offers the reserved one.
    pub(super) fn receive_again(&self, cx: &Cx<'_>, offer: Offer) -> Feeding {
        if !self.receiving.get().is_in_line() {
            return Feeding::Left;
        }
        let feeding = self.begin_receive(cx, Some(offer));
        let after = self.receiving.get();
        if matches!(feeding, Feeding::Left) && after.is_in_line() {
            let stands = Receiving::Idle.watched_by(after.watch());
            self.receiving.set(stands);
        }
        feeding
    }

    fn wait_in_line(&self, cx: &Cx<'_>) {
        let watch = self.receiving.get().watch();
        self.receiving.set(Receiving::InLine(watch));
        cx.shell().reg.wait_for_slots(cx.base);
        self.list_for_check(cx);
    }

    /// Others come first while memory is short.
    fn park(&self, cx: &Cx<'_>) {
        let before = self.receiving.get();
        if !before.is_parked() {
            self.receiving.set(Receiving::Parked(before.watch()));
            if !self.is_marked(Marks::TOLD_WHEN_AMPLE) {
                self.mark(Marks::TOLD_WHEN_AMPLE, true);
                cx.base.park(&cx.shell().reg);
            }
        }
        self.list_for_check(cx);
    }

    /// Memory is no longer short: whoever was parked reads on.
    pub(super) fn read_on(&self, cx: &Cx<'_>) {
        self.mark(Marks::TOLD_WHEN_AMPLE, false);
        let parked = self.receiving.get();
        if parked.is_parked() {
            let stands = Receiving::Idle.watched_by(parked.watch());
            self.receiving.set(stands);
            cx.mark_dirty();
        }
    }

    /// Nothing moves, and memory is short: what its peer waits for may be that it is read from.
    /// Says whether it left the list of those that are parked.
    pub(super) fn read_a_share(&self, cx: &Cx<'_>) -> bool {
        let parked = self.receiving.get();
        if !parked.is_parked() {
            self.mark(Marks::TOLD_WHEN_AMPLE, false);
            return true;
        }
        let fd = self.fd.get();
        if !cx.base.with_driver(|driver| driver.is_readable(fd)) {
            return false;
        }
        self.mark(Marks::TOLD_WHEN_AMPLE, false);
        self.receiving
            .set(Receiving::Idle.watched_by(parked.watch()));
        self.begin_receive(cx, Some(Offer::Turn));
        true
    }

    /// Memory has become short: what it holds is copied as tightly as can be, and a receive that
    /// may bring more than its share ends.
    pub(super) fn copy_out(&self, cx: &Cx<'_>) {
        let half = cx.base.slot_size() / 2;
        cx.shell().buffers.copy_out(half);
        self.unseen.with(|unseen| unseen.copy_out(half));
        if self.holds_memory(cx) && !self.is_closing_down(cx) {
            self.stop_receive(cx);
        }
    }

    pub(super) fn received(&self, cx: &Cx<'_>, completion: Completion) {
        if !completion.more {
            cx.mark_dirty();
        }
        self.settle_receive(cx, &completion);
        match (completion.result, completion.buffer) {
            (Ok(n), Some(piece)) if n != 0 => {
                let full = piece.len() == cx.base.slot_size();
                self.incoming.set(match full && completion.sock_nonempty {
                    true => Incoming::Bulk,
                    false => Incoming::Messages,
                });
                if completion.more {
                    if !completion.sock_nonempty {
                        self.hear(cx);
                    }
                    if cx.base.slots_are_low() {
                        // While memory is short everybody gets a share at a time.
                        self.stop_receive(cx);
                    }
                }
                let mut pinning = Pinning::Slot;
                if self.is_marked(Marks::IN_RESERVE) {
                    self.mark(Marks::IN_RESERVE, false);
                    pinning = Pinning::CopyOut;
                }
                self.take_in(cx, piece, pinning);
            }
            (Ok(_), _) => self.stream_ended(cx, StreamEnd::Eof),
            (Err(errno), _) => match errno.raw() {
                // It ends so once there is something to receive.
                libc::ENOBUFS => {
                    self.mark(Marks::READABLE, true);
                    self.wait_in_line(cx);
                }
                libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
                _ => self.stream_ended(cx, StreamEnd::Error(errno)),
            },
        }
    }

    /// The poll that the gate asked for ended. What was found, if not data, the receive tells.
    pub(super) fn polled(&self, cx: &Cx<'_>, readable: bool) {
        self.note_readable(readable);
        self.mark(Marks::READABLE, readable);
        cx.mark_dirty();
    }

    /// Ends the receive that is under way, if there is one.
    pub(super) fn stop_receive(&self, cx: &Cx<'_>) {
        let (op, poll) = match self.receiving.get() {
            Receiving::Armed(op) => (op, false),
            Receiving::Polling(op) => (op, true),
            _ => return,
        };
        self.receiving.set(Receiving::Stopping { op, poll });
        cx.shell().reg.cancel(cx.base, op);
    }
}

fn half_a_slot(base: &EventBase) -> u32 {
    u32::try_from(base.slot_size() / 2).unwrap_or(u32::MAX)
}

fn has_bundles(base: &EventBase) -> bool {
    base.with_driver(|driver| driver.caps().has(Cap::RECV_BUNDLE))
}
