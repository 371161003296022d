//! The gate before a socket's operations: rate limits of the bufferevent itself and of its group.
//!
//! An operation is charged when it is launched, for as many bytes as it is bounded to, and
//! settled when it completes (I9). Without limits the gate is one pointer that is null.

use std::rc::Rc;

use super::quiet::Listed;
use super::receive::Receiving;
use super::{Marks, Socket};
use crate::bufferevent::machine::Machine;
use crate::bufferevent::shell::Cx;
use crate::driver::Completion;
use crate::error::Error;
use crate::event_base::groups::GroupPort;
use crate::event_base::{EventBase, Interest};
use crate::rate_limit::{Demand, Direction, Launch, Resumed};

mod limits;
#[cfg(test)]
mod tests;

use limits::MOST_BYTES;
pub(in crate::bufferevent) use limits::{Limits, Receive};

/// The group says when to ask again.
const UNTIL_TOLD: u64 = u64::MAX;

/// What the socket asks before it pushes an operation, and tells afterwards.
impl Socket {
    /// How to receive, `bytes` at most until the next launch (0: no bound); `multishot`: if that
    /// can be.
    pub(super) fn gate_receive(&self, cx: &Cx<'_>, multishot: bool, bytes: u32) -> Receive {
        let mut slot = self.limits.lend();
        let Some(limits) = slot.as_deref_mut() else {
            return Receive::Launch {
                multishot,
                bytes,
                each: 0,
                poll_first: true,
            };
        };
        let wanted = match bytes {
            0 => MOST_BYTES,
            bytes => bytes.min(MOST_BYTES),
        };
        let answer = limits.launch_receive(cx.base, multishot, wanted);
        suspend(cx, Interest::READ, limits.read.suspended);
        answer
    }

    /// How much of `bytes` to send now; none: the direction is suspended.
    pub(super) fn gate_send(&self, cx: &Cx<'_>, bytes: usize) -> Option<usize> {
        let mut slot = self.limits.lend();
        let Some(limits) = slot.as_deref_mut() else {
            return Some(bytes);
        };
        let launched = limits.launch(cx.base, Direction::Write, Demand::ready(bytes));
        suspend(cx, Interest::WRITE, limits.write.suspended);
        match launched {
            Launch::Granted(grant) => {
                let granted = grant.bytes();
                limits.write.grant = Some(grant);
                Some(granted as usize)
            }
            Launch::Suspended(_) | Launch::AwaitReadable => None,
        }
    }

    /// A receive completed, or a part of it.
    pub(super) fn settle_receive(&self, cx: &Cx<'_>, completion: &Completion) {
        if let Some(limits) = self.limits.lend().as_deref_mut() {
            // Without a slot a receive ends once there is something to receive: to ask as if
            // there were nothing would be answered with a poll, over and over.
            let no_slot = matches!(completion.result, Err(errno) if errno.raw() == libc::ENOBUFS);
            limits.readable = completion.sock_nonempty || no_slot;
            if let Ok(moved @ 1..) = completion.result {
                limits.last_bytes = if moved < limits.most_bytes { moved } else { 0 };
            }
            limits.settle(cx.base, Direction::Read, completion);
        }
    }

    /// A send completed.
    pub(super) fn settle_send(&self, cx: &Cx<'_>, completion: &Completion) {
        if let Some(limits) = self.limits.lend().as_deref_mut() {
            limits.settle(cx.base, Direction::Write, completion);
        }
    }

    /// The poll that the gate asked for ended.
    pub(super) fn note_readable(&self, readable: bool) {
        if let Some(limits) = self.limits.lend().as_deref_mut() {
            limits.readable = readable;
        }
    }

    /// No receive was launched after all: there was no slot for it.
    pub(super) fn return_receive(&self, cx: &Cx<'_>) {
        if let Some(limits) = self.limits.lend().as_deref_mut()
            && let Some(grant) = limits.read.grant.take()
        {
            let now = cx.now();
            limits.limiter.complete(Direction::Read, grant, 0, now);
        }
    }

    /// The operations in flight concern this bufferevent no longer.
    pub(in crate::bufferevent) fn forget_grants(&self, cx: &Cx<'_>) {
        let mut slot = self.limits.lend();
        let Some(limits) = slot.as_deref_mut() else {
            return;
        };
        for direction in [Direction::Read, Direction::Write] {
            if let Some(grant) = limits.gate(direction).grant.take() {
                limits.limiter.complete(direction, grant, 0, cx.now());
            }
        }
        limits.readable = false;
    }

    /// The port of its group, if it is in one, on a base that it is about to move to.
    pub(in crate::bufferevent) fn port_on(
        &self,
        base: &EventBase,
    ) -> Result<Option<Rc<GroupPort>>, Error> {
        let limits = self.limits.lend();
        let group = limits.as_ref().and_then(|limits| limits.limiter.group());
        group.map(|group| base.group_port(&group)).transpose()
    }

    /// It has moved there, as `member` of its group: wakes come by that port from now on.
    pub(super) fn move_limits(&self, port: Option<Rc<GroupPort>>, member: u64) {
        let mut slot = self.limits.lend();
        let Some(limits) = slot.as_deref_mut() else {
            return;
        };
        if let Some(port) = &port
            && limits.limiter.join(port.port(), member).is_err()
        {
            // Dissolved: it limits nobody any more.
            limits.limiter.leave();
        }
        limits.port = port;
        limits.read.closed_until = 0;
        limits.write.closed_until = 0;
    }

    /// It lives on another base now, with nothing in flight.
    pub(in crate::bufferevent) fn moved(&self, port: Option<Rc<GroupPort>>, member: u64) {
        self.receiving.set(Receiving::Idle);
        self.listed.set(Listed::Not);
        self.mark(Marks::TOLD_WHEN_AMPLE, false);
        self.move_limits(port, member);
    }

    /// A paused receive gives its share of a group back.
    pub(super) fn withdraw_paused_receive(&self, cx: &Cx<'_>) {
        if self.holds_paused_share() && !self.wants_receive(cx) {
            self.stop_receive(cx);
        }
    }

    /// Brings the limits in line with what is wanted now; when to look again, `u64::MAX`: not by
    /// time.
    pub(super) fn settle_limits(&self, cx: &Cx<'_>, machine: &mut Machine, output: usize) -> u64 {
        let mut slot = self.limits.lend();
        let Some(limits) = slot.as_deref_mut() else {
            return u64::MAX;
        };
        let reads = self.receive_is_wanted(cx.shell().life(), machine);
        let writes = machine.wants_write(output);
        let mut next = u64::MAX;
        for (direction, interest, wants) in [
            (Direction::Read, Interest::READ, reads),
            (Direction::Write, Interest::WRITE, writes),
        ] {
            if !wants {
                limits.limiter.stop(direction);
                let gate = limits.gate(direction);
                (gate.closed_until, gate.suspended) = (0, false);
                machine.suspend(interest, false, cx.now());
            }
            let until = limits.gate(direction).closed_until;
            next = next.min(if until == 0 { u64::MAX } else { until });
        }
        drop(slot);
        if self.holds_paused_share() && !reads {
            // At the end of the turn, unless the pause is over by then.
            cx.mark_dirty();
        }
        next
    }

    /// Time has passed: directions whose own bucket is filled again get their turn.
    pub(super) fn expire_limits(&self, cx: &Cx<'_>, now: u64) {
        let mut slot = self.limits.lend();
        let Some(limits) = slot.as_deref_mut() else {
            return;
        };
        for direction in [Direction::Read, Direction::Write] {
            let gate = limits.gate(direction);
            if (1..=now).contains(&gate.closed_until) {
                gate.closed_until = 0;
                cx.base.resume_later(Resumed {
                    token: cx.shell().reg.key().to_bits(),
                    direction,
                });
            }
        }
    }

    /// The budget of a suspended direction came back.
    pub(super) fn reopen_gate(&self, direction: Direction) {
        if let Some(limits) = self.limits.lend().as_deref_mut() {
            limits.gate(direction).closed_until = 0;
        }
    }

    /// Changes the limits by way of `change`, and has everything launched again under the new
    /// ones.
    pub(in crate::bufferevent) fn change_limits(
        &self,
        cx: &Cx<'_>,
        change: impl FnOnce(&mut Limits) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut slot = self.limits.lend();
        let limits = slot.get_or_insert_default();
        let changed = change(limits);
        if changed.is_ok() {
            // Else whoever is suspended stays so: nothing below has it ask again.
            limits.read.closed_until = 0;
            limits.write.closed_until = 0;
        }
        if limits.limiter.is_unlimited() {
            // With it go the grants: what they were taken from is gone, or left.
            *slot = None;
            suspend(cx, Interest::READ | Interest::WRITE, false);
        }
        cx.shell().look_by_time(slot.is_some());
        drop(slot);
        changed?;
        // What is in flight was bounded by the limits of before.
        self.stop_receive(cx);
        cx.mark_dirty();
        Ok(())
    }

    /// A receive may hold bytes that other members could use.
    fn holds_paused_share(&self) -> bool {
        let limits = self.limits.lend();
        let shared = limits
            .as_deref()
            .is_some_and(|limits| limits.limiter.is_member() && limits.read.grant.is_some());
        shared
            && matches!(
                self.receiving.get(),
                Receiving::Armed(_) | Receiving::Polling(_)
            )
    }
}

/// A time-out does not run while a limit is what it waits for.
fn suspend(cx: &Cx<'_>, interest: Interest, suspended: bool) {
    let now = cx.now();
    cx.machine_mut().suspend(interest, suspended, now);
}
