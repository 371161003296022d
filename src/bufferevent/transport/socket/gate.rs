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
use crate::rate_limit::{Demand, Direction, Grant, Launch, Limiter, Resumed, Suspension};

/// What a receive of a group's member asks for while it may have to wait for data, in slots: enough to go on
/// for hundreds of messages, little enough that many members find room.
const IDLE_RECEIVE_SLOTS: usize = 4;

/// The least worth asking for instead of waiting for readability first, which costs an operation more.
const IDLE_RECEIVE_BYTES: usize = 1024;

/// A message that came last of at most this part of what an idle receive may hold is worth a multishot of
/// small receives: several such messages, none longer.
const SMALL_PART: u32 = 4;

/// From so many slots on a grant is worth a multishot receive; below, a single one uses all of it.
const MULTISHOT_SLOTS: u32 = 2;

/// The most that one receive is launched for.
const MOST_BYTES: u32 = 1 << 30;

/// The group says when to ask again.
const UNTIL_TOLD: u64 = u64::MAX;

/// The limits of one bufferevent.
#[derive(Debug, Default)]
pub(in crate::bufferevent) struct Limits {
    pub(in crate::bufferevent) limiter: Limiter,
    /// Of the group that it is in.
    pub(in crate::bufferevent) port: Option<Rc<GroupPort>>,
    read: Gate,
    write: Gate,
    /// The socket was readable when it was looked at last: the next receive will not wait.
    readable: bool,
    /// What the last receive brought; 0: not known, or not all that there was.
    last_bytes: u32,
    /// The most that one completion of the receive in flight can bring.
    most_bytes: u32,
}

/// One direction.
#[derive(Debug, Default)]
pub(in crate::bufferevent) struct Gate {
    /// Of the operation in flight.
    grant: Option<Grant>,
    /// Do not ask for budget before; 0: ask.
    closed_until: u64,
    /// Suspended by the last answer.
    suspended: bool,
}

/// How to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bufferevent) enum Receive {
    /// Not now.
    Wait,
    /// Not before the socket is readable.
    AwaitReadable,
    /// With at most so many bytes until it is launched again, and in each completion; 0: no bound.
    Launch {
        multishot: bool,
        bytes: u32,
        each: u32,
        poll_first: bool,
    },
}

/// What the socket asks before it pushes an operation, and tells afterwards.
impl Socket {
    /// How to receive, `bytes` at most until the next launch (0: no bound); `multishot`: if that
    /// can be.
    pub(super) fn gate_receive(&self, cx: &Cx<'_>, multishot: bool, bytes: u32) -> Receive {
        let mut slot = self.limits.borrow_mut();
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
        let mut slot = self.limits.borrow_mut();
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
        if let Some(limits) = self.limits.borrow_mut().as_deref_mut() {
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
        if let Some(limits) = self.limits.borrow_mut().as_deref_mut() {
            limits.settle(cx.base, Direction::Write, completion);
        }
    }

    /// The poll that the gate asked for ended.
    pub(super) fn note_readable(&self, readable: bool) {
        if let Some(limits) = self.limits.borrow_mut().as_deref_mut() {
            limits.readable = readable;
        }
    }

    /// No receive was launched after all: there was no slot for it.
    pub(super) fn return_receive(&self, cx: &Cx<'_>) {
        if let Some(limits) = self.limits.borrow_mut().as_deref_mut()
            && let Some(grant) = limits.read.grant.take()
        {
            let now = cx.now();
            limits.limiter.complete(Direction::Read, grant, 0, now);
        }
    }

    /// The operations in flight concern this bufferevent no longer.
    pub(in crate::bufferevent) fn forget_grants(&self, cx: &Cx<'_>) {
        let mut slot = self.limits.borrow_mut();
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
        let limits = self.limits.borrow();
        let group = limits.as_ref().and_then(|limits| limits.limiter.group());
        group.map(|group| base.group_port(&group)).transpose()
    }

    /// It has moved there, as `member` of its group: wakes come by that port from now on.
    pub(super) fn move_limits(&self, port: Option<Rc<GroupPort>>, member: u64) {
        let mut slot = self.limits.borrow_mut();
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
        let mut slot = self.limits.borrow_mut();
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
        let mut slot = self.limits.borrow_mut();
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
        if let Some(limits) = self.limits.borrow_mut().as_deref_mut() {
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
        let mut slot = self.limits.borrow_mut();
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
        let limits = self.limits.borrow();
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

impl Limits {
    pub(in crate::bufferevent) fn gate(&mut self, direction: Direction) -> &mut Gate {
        match direction {
            Direction::Read => &mut self.read,
            Direction::Write => &mut self.write,
        }
    }

    /// Asks for budget, unless it is known that there is none.
    fn launch(&mut self, base: &EventBase, direction: Direction, demand: Demand) -> Launch {
        let now = base.now();
        let until_ns = self.gate(direction).closed_until;
        if until_ns > now {
            return Launch::Suspended(Suspension::Own { until_ns });
        }
        let launch = self.limiter.launch(direction, demand, now);
        let gate = self.gate(direction);
        (gate.closed_until, gate.suspended) = match &launch {
            Launch::Granted(_) | Launch::AwaitReadable => (0, false),
            Launch::Suspended(Suspension::Own { until_ns }) => (*until_ns, true),
            Launch::Suspended(Suspension::Group { .. }) => (UNTIL_TOLD, true),
        };
        if gate.closed_until == UNTIL_TOLD
            && let Some(port) = &self.port
        {
            base.await_budget(port);
        }
        launch
    }

    fn launch_receive(&mut self, base: &EventBase, multishot: bool, wanted: u32) -> Receive {
        let slot = u32::try_from(base.slot_size()).unwrap_or(u32::MAX);
        let shared = self.limiter.is_member();
        let wanted = wanted as usize;
        let launch = match (shared, self.readable) {
            (false, _) => self.launch(base, Direction::Read, Demand::idle(wanted)),
            // One slot at a time, so that nothing is held once the data is in.
            (true, true) => {
                let bytes = wanted.min(base.slot_size());
                self.launch(base, Direction::Read, Demand::ready(bytes))
            }
            // No more than its part of what all of them may hold, or few would find room.
            (true, false) => match self.idle_bytes(base) {
                0 => {
                    // It asks for nothing: what it holds goes to others, and it waits for none.
                    self.limiter.stop(Direction::Read);
                    let gate = self.gate(Direction::Read);
                    (gate.closed_until, gate.suspended) = (0, false);
                    Launch::AwaitReadable
                }
                bytes => self.launch(base, Direction::Read, Demand::idle(bytes.min(wanted))),
            },
        };
        let readable = std::mem::take(&mut self.readable);
        match launch {
            Launch::Granted(grant) => {
                let bytes = grant.bytes();
                self.read.grant = Some(grant);
                // A multishot overshoots by less than one of its receives: with that left out it keeps to the grant.
                let each = match (shared, readable) {
                    _ if !multishot => None,
                    (true, true) => None,
                    _ if bytes / slot >= MULTISHOT_SLOTS => Some(slot),
                    (true, false) => Some(bytes / SMALL_PART),
                    (false, _) => None,
                };
                let last = self.last_bytes;
                let each = each.filter(|&each| each == slot || (1..=each).contains(&last));
                self.most_bytes = each.unwrap_or(bytes).min(slot);
                Receive::Launch {
                    multishot: each.is_some(),
                    bytes: each.map_or(bytes, |each| bytes - (each - 1)),
                    each: each.filter(|&each| each < slot).unwrap_or(0),
                    poll_first: !readable,
                }
            }
            Launch::AwaitReadable => Receive::AwaitReadable,
            Launch::Suspended(_) => {
                self.readable = readable;
                Receive::Wait
            }
        }
    }

    /// What a receive that may have to wait for data asks for as a member of a group; 0: nothing.
    fn idle_bytes(&self, base: &EventBase) -> usize {
        let share = self.limiter.idle_share().unwrap_or(0);
        let most = share.min(IDLE_RECEIVE_SLOTS * base.slot_size());
        let several =
            self.last_bytes != 0 && self.last_bytes as usize <= most / SMALL_PART as usize;
        match most {
            _ if most >= MULTISHOT_SLOTS as usize * base.slot_size() || several => most,
            IDLE_RECEIVE_BYTES.. => most.min(base.slot_size()),
            _ => 0,
        }
    }

    fn settle(&mut self, base: &EventBase, direction: Direction, completion: &Completion) {
        let moved = completion.result.unwrap_or(0);
        let now = base.now();
        let gate = self.gate(direction);
        let part = match &mut gate.grant {
            Some(grant) if completion.more => Some(grant.split(moved)),
            grant => grant.take(),
        };
        match part {
            Some(part) => self.limiter.complete(direction, part, moved as usize, now),
            // Launched before there was a limit.
            None => self.limiter.charge(direction, moved as usize, now),
        }
    }
}

impl Gate {
    /// Bytes that the operation in flight may still move.
    pub(in crate::bufferevent) fn granted(&self) -> u32 {
        self.grant.as_ref().map_or(0, Grant::bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate_limit::RateLimitConfig;

    const SLOT: u32 = 16 << 10;

    fn config(rate: u32, burst: u32) -> RateLimitConfig {
        let (rate, burst) = (rate as usize, burst as usize);
        RateLimitConfig::new(rate, burst, rate, burst, None).expect("valid")
    }

    fn own(base: &EventBase, rate: u32) -> Limits {
        let mut limits = Limits::default();
        let limiter = &mut limits.limiter;
        limiter.set_config(Some(&config(rate, rate)), base.now());
        limits
    }

    fn member(base: &EventBase, rate: u32, burst: u32) -> Limits {
        let mut limits = Limits::default();
        let group = base.rate_limit_group(&config(rate, burst));
        let port = base.group_port(&group).expect("a descriptor");
        limits.limiter.join(port.port(), 0).expect("open");
        limits.port = Some(port);
        limits
    }

    fn launched(multishot: bool, bytes: u32, poll_first: bool) -> Receive {
        Receive::Launch {
            multishot,
            bytes,
            each: 0,
            poll_first,
        }
    }

    #[test]
    fn a_multishot_keeps_to_its_grant_although_it_overshoots() {
        let base = EventBase::new().expect("a ring");
        let mut limits = own(&base, 10 * SLOT);
        let receive = limits.launch_receive(&base, true, MOST_BYTES);
        assert_eq!(receive, launched(true, 9 * SLOT + 1, true));
        assert_eq!(limits.read.granted(), 10 * SLOT);
        // All is granted: nothing is left for another.
        assert_eq!(limits.launch_receive(&base, true, 1), Receive::Wait);
        assert!(limits.read.suspended && limits.read.closed_until > base.now());
    }

    #[test]
    fn a_small_grant_is_a_single_receive_of_all_of_it() {
        let base = EventBase::new().expect("a ring");
        for rate in [1, 1_000, 2 * SLOT - 1] {
            let receive = own(&base, rate).launch_receive(&base, true, MOST_BYTES);
            assert_eq!(receive, launched(false, rate, true));
        }
        let receive = own(&base, 10 * SLOT).launch_receive(&base, false, MOST_BYTES);
        assert_eq!(receive, launched(false, 10 * SLOT, true), "Unix sockets");
        let receive = own(&base, 10 * SLOT).launch_receive(&base, true, 100);
        assert_eq!(receive, launched(false, 100, true), "a high mark");
    }

    #[test]
    fn a_member_waits_for_data_with_what_the_group_can_spare() {
        let base = EventBase::new().expect("a ring");
        let mut spares = member(&base, 100 * SLOT, 200 * SLOT);
        let much = IDLE_RECEIVE_SLOTS as u32 * SLOT;
        let receive = spares.launch_receive(&base, true, MOST_BYTES);
        assert_eq!(receive, launched(true, much - (SLOT - 1), true));

        let mut tight = member(&base, 2 * SLOT, 2 * SLOT);
        let receive = tight.launch_receive(&base, true, MOST_BYTES);
        assert_eq!(receive, launched(false, SLOT, true));
        // The slack is spent, and a 256th of the rate not worth it: the next has to know of data.
        let receive = tight.launch_receive(&base, true, MOST_BYTES);
        assert_eq!(receive, Receive::AwaitReadable);
        tight.readable = true;
        let receive = tight.launch_receive(&base, true, MOST_BYTES);
        assert_eq!(receive, launched(false, SLOT, false));
        assert!(!tight.readable, "until it is known anew");
    }

    #[test]
    fn small_messages_are_received_by_a_multishot_of_small_receives() {
        let base = EventBase::new().expect("a ring");
        // A slot and a 256th of the rate for all; alone it may have it all.
        let mut limits = member(&base, 100 * SLOT, 100 * SLOT);
        let share = SLOT + 100 * SLOT / 256;
        assert_eq!(
            limits.launch_receive(&base, true, MOST_BYTES),
            launched(false, SLOT, true),
            "nothing is known of its messages yet"
        );
        limits.limiter.complete(
            Direction::Read,
            limits.read.grant.take().expect("granted"),
            64,
            base.now(),
        );
        limits.last_bytes = 64;
        let each = share / SMALL_PART;
        assert_eq!(
            limits.launch_receive(&base, true, MOST_BYTES),
            Receive::Launch {
                multishot: true,
                bytes: share - (each - 1),
                each,
                poll_first: true,
            }
        );
        assert_eq!(
            limits.read.granted(),
            share,
            "what it may overshoot by is granted"
        );
        limits.limiter.complete(
            Direction::Read,
            limits.read.grant.take().expect("granted"),
            64,
            base.now(),
        );
        limits.last_bytes = each + 1;
        let receive = limits.launch_receive(&base, true, MOST_BYTES);
        assert_eq!(receive, launched(false, SLOT, true), "too large for it");
    }
}
