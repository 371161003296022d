//! The gate before a socket's operations: rate limits of the bufferevent itself and of its group.
//!
//! An operation is charged when it is launched, for as many bytes as it is bounded to, and
//! settled when it completes (I9). Without limits the gate is one pointer that is null.

use std::rc::Rc;

use super::{BufferEvent, Flavour, Inner};
use crate::driver::Completion;
use crate::error::Error;
use crate::event_base::groups::GroupPort;
use crate::event_base::{EventBase, Interest};
use crate::rate_limit::{
    Demand, Direction, Grant, Group, Launch, Limiter, RATE_LIMIT_MAX, RateLimitConfig, Resumed,
    Suspension,
};

/// What a receive of a group's member asks for while it may have to wait for data, in slots: enough to go on
/// for hundreds of messages, little enough that many members find room.
const IDLE_RECEIVE_SLOTS: usize = 4;

/// From so many slots on a grant is worth a multishot receive; below, a single one uses all of it.
const MULTISHOT_SLOTS: u32 = 2;

/// The most that one receive is launched for.
const MOST_BYTES: u32 = 1 << 30;

/// The group says when to ask again.
const UNTIL_TOLD: u64 = u64::MAX;

/// The limits of one bufferevent.
#[derive(Debug, Default)]
pub(super) struct Limits {
    limiter: Limiter,
    /// Of the group that it is in.
    port: Option<Rc<GroupPort>>,
    read: Gate,
    write: Gate,
    /// The socket was readable when it was looked at last: the next receive will not wait.
    readable: bool,
}

/// One direction.
#[derive(Debug, Default)]
struct Gate {
    /// Of the operation in flight.
    grant: Option<Grant>,
    /// Do not ask for budget before; 0: ask.
    closed_until: u64,
    /// Suspended by the last answer.
    suspended: bool,
}

/// How to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receive {
    /// Not now.
    Wait,
    /// Not before the socket is readable.
    AwaitReadable,
    /// With at most so many bytes until it is launched again; 0: no bound.
    Launch {
        multishot: bool,
        bytes: u32,
        poll_first: bool,
    },
}

impl BufferEvent {
    /// Sets, changes or removes the bufferevent's own limits (`bufferevent_set_rate_limit`); a group's
    /// stay.
    ///
    /// New buckets start with one tick's rate; existing ones keep their level, clipped to the new
    /// burst. What is in flight counts. A direction that was suspended goes on as soon as the new limits allow.
    ///
    /// ```
    /// use evring::rate_limit::{RATE_LIMIT_MAX, RateLimitConfig};
    /// use evring::{BufferEvent, EventBase, Options};
    ///
    /// let base = EventBase::new()?;
    /// let bev = BufferEvent::socket(&base, None, Options::empty())?;
    /// let slow = RateLimitConfig::new(1_000, 4_000, 500, 500, None)?;
    /// bev.set_rate_limit(Some(&slow))?;
    /// assert_eq!(bev.read_limit()?, 1_000);
    /// bev.decrement_read_limit(1_500)?;
    /// assert_eq!((bev.read_limit()?, bev.max_to_read()?), (-500, 0));
    /// bev.set_rate_limit(None)?;
    /// assert_eq!(bev.max_to_read()?, RATE_LIMIT_MAX);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Freed`]; [`Error::Invalid`] for a pair or a filter, which have no limits (limit the
    /// bufferevent below a filter).
    pub fn set_rate_limit(&self, config: Option<&RateLimitConfig>) -> Result<(), Error> {
        let base = self.limitable()?;
        if config.is_none() && self.rate_limit().is_none() {
            return Ok(());
        }
        self.0.change_limits(&base, |limits| {
            limits.limiter.set_config(config, base.now());
            Ok(())
        })
    }

    /// The bufferevent's own limits, if it has any.
    pub fn rate_limit(&self) -> Option<RateLimitConfig> {
        let limits = self.0.limits.borrow();
        limits.as_ref()?.limiter.config().copied()
    }

    /// Makes it a member of `group` (`bufferevent_add_to_rate_limit_group`), after it has left the group
    /// that it was in. Its own limits stay.
    ///
    /// # Errors
    /// As [`set_rate_limit`](Self::set_rate_limit); [`Error::Group`] when the group was freed;
    /// [`Error::Io`] when the process has no descriptor left. It stays in the group where it was.
    pub fn add_to_group(&self, group: &Group) -> Result<(), Error> {
        let base = self.limitable()?;
        let port = base.group_port(group)?;
        let token = u64::from(self.0.token.get());
        self.0.change_limits(&base, |limits| {
            limits.limiter.join(port.port(), token)?;
            limits.port = Some(port);
            Ok(())
        })
    }

    /// Takes it out of its group (`bufferevent_remove_from_rate_limit_group`). Nothing happens if it is in none.
    ///
    /// # Errors
    /// As [`set_rate_limit`](Self::set_rate_limit).
    pub fn remove_from_group(&self) -> Result<(), Error> {
        let base = self.limitable()?;
        if self.group().is_none() {
            return Ok(());
        }
        self.0.change_limits(&base, |limits| {
            limits.limiter.leave();
            limits.port = None;
            Ok(())
        })
    }

    /// The group that it is in.
    pub fn group(&self) -> Option<Group> {
        self.0.limits.borrow().as_ref()?.limiter.group()
    }

    /// Bytes in the own read bucket (`bufferevent_get_read_limit`): `isize::MAX` without own limits, negative
    /// after more was read than was there. The group is not looked at.
    ///
    /// # Errors
    /// As [`set_rate_limit`](Self::set_rate_limit).
    pub fn read_limit(&self) -> Result<isize, Error> {
        self.limit(Direction::Read)
    }

    /// Bytes in the own write bucket (`bufferevent_get_write_limit`); see [`read_limit`](Self::read_limit).
    ///
    /// # Errors
    /// As [`set_rate_limit`](Self::set_rate_limit).
    pub fn write_limit(&self) -> Result<isize, Error> {
        self.limit(Direction::Write)
    }

    /// The most bytes that limits let be read now, the group's included (`bufferevent_get_max_to_read`);
    /// [`RATE_LIMIT_MAX`] without any, 0 while they suspend reading.
    ///
    /// # Errors
    /// As [`set_rate_limit`](Self::set_rate_limit).
    pub fn max_to_read(&self) -> Result<usize, Error> {
        self.max_to_move(Direction::Read)
    }

    /// The most bytes that limits let be written now (`bufferevent_get_max_to_write`); see
    /// [`max_to_read`](Self::max_to_read).
    ///
    /// # Errors
    /// As [`set_rate_limit`](Self::set_rate_limit).
    pub fn max_to_write(&self) -> Result<usize, Error> {
        self.max_to_move(Direction::Write)
    }

    /// Takes bytes out of the own read bucket at once (`bufferevent_decrement_read_limit`); a negative number puts
    /// bytes in, even above the burst until the next tick. Reading is suspended or goes on accordingly.
    ///
    /// Without own limits it does nothing. The group is not touched.
    ///
    /// # Errors
    /// As [`set_rate_limit`](Self::set_rate_limit).
    pub fn decrement_read_limit(&self, bytes: isize) -> Result<(), Error> {
        self.decrement(Direction::Read, bytes)
    }

    /// The same for the write bucket (`bufferevent_decrement_write_limit`). What the kernel has begun to send
    /// is sent.
    ///
    /// # Errors
    /// As [`set_rate_limit`](Self::set_rate_limit).
    pub fn decrement_write_limit(&self, bytes: isize) -> Result<(), Error> {
        self.decrement(Direction::Write, bytes)
    }

    /// The base, unless this was freed or is of a flavour that has no limits.
    fn limitable(&self) -> Result<EventBase, Error> {
        match self.0.flavour {
            Flavour::Socket => self.live(),
            Flavour::Pair(_) | Flavour::Filter(_) => Err(Error::Invalid {
                what: "rate limit",
                why: "pairs and filters have none; limit the socket below a filter",
            }),
        }
    }

    fn limit(&self, direction: Direction) -> Result<isize, Error> {
        let base = self.limitable()?;
        let mut limits = self.0.limits.borrow_mut();
        Ok(limits.as_mut().map_or(isize::MAX, |limits| {
            limits.limiter.limit(direction, base.now())
        }))
    }

    fn max_to_move(&self, direction: Direction) -> Result<usize, Error> {
        let base = self.limitable()?;
        let mut limits = self.0.limits.borrow_mut();
        let Some(limits) = limits.as_deref_mut() else {
            return Ok(RATE_LIMIT_MAX);
        };
        let (now, limiter) = (base.now(), &mut limits.limiter);
        let more = limiter.max_to_move(direction, now);
        let own = limiter.limit(direction, now).max(0);
        // What an operation in flight may still move was taken out of it.
        let granted = limits.gate(direction).granted();
        Ok(more
            .saturating_add(granted as isize)
            .min(own)
            .unsigned_abs())
    }

    fn decrement(&self, direction: Direction, bytes: isize) -> Result<(), Error> {
        let base = self.limitable()?;
        if self.rate_limit().is_none() {
            return Ok(());
        }
        self.0.change_limits(&base, |limits| {
            // Whether it suspends shows at the next launch.
            let _suspension = limits.limiter.decrement(direction, bytes, base.now());
            Ok(())
        })
    }
}

/// What the socket asks before it pushes an operation, and tells afterwards.
impl Inner {
    /// How to receive, `bytes` at most until the next launch (0: no bound); `multishot`: if that can be.
    pub(super) fn gate_receive(&self, base: &EventBase, multishot: bool, bytes: u32) -> Receive {
        let mut slot = self.limits.borrow_mut();
        let Some(limits) = slot.as_deref_mut() else {
            return Receive::Launch {
                multishot,
                bytes,
                poll_first: true,
            };
        };
        let wanted = match bytes {
            0 => MOST_BYTES,
            bytes => bytes.min(MOST_BYTES),
        };
        let answer = limits.launch_receive(base, multishot, wanted);
        self.tell_core(base, Interest::READ, limits.read.suspended);
        answer
    }

    /// How much of `bytes` to send now; none: the direction is suspended.
    pub(super) fn gate_send(&self, base: &EventBase, bytes: usize) -> Option<usize> {
        let mut slot = self.limits.borrow_mut();
        let Some(limits) = slot.as_deref_mut() else {
            return Some(bytes);
        };
        let launched = limits.launch(base, Direction::Write, Demand::ready(bytes));
        self.tell_core(base, Interest::WRITE, limits.write.suspended);
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
    pub(super) fn settle_receive(&self, base: &EventBase, completion: &Completion) {
        if let Some(limits) = self.limits.borrow_mut().as_deref_mut() {
            limits.readable = completion.sock_nonempty;
            limits.settle(base, Direction::Read, completion);
        }
    }

    /// A send completed.
    pub(super) fn settle_send(&self, base: &EventBase, completion: &Completion) {
        if let Some(limits) = self.limits.borrow_mut().as_deref_mut() {
            limits.settle(base, Direction::Write, completion);
        }
    }

    /// The poll that the gate asked for ended. What was found, if not data, the receive will tell.
    pub(super) fn polled(&self, readable: bool) {
        if let Some(limits) = self.limits.borrow_mut().as_deref_mut() {
            limits.readable = readable;
        }
    }

    /// No receive was launched after all: there was no slot for it.
    pub(super) fn return_receive(&self, base: &EventBase) {
        if let Some(limits) = self.limits.borrow_mut().as_deref_mut()
            && let Some(grant) = limits.read.grant.take()
        {
            limits
                .limiter
                .complete(Direction::Read, grant, 0, base.now());
        }
    }

    /// The operations in flight concern this bufferevent no longer.
    pub(super) fn forget_grants(&self, base: &EventBase) {
        let mut slot = self.limits.borrow_mut();
        let Some(limits) = slot.as_deref_mut() else {
            return;
        };
        for direction in [Direction::Read, Direction::Write] {
            if let Some(grant) = limits.gate(direction).grant.take() {
                limits.limiter.complete(direction, grant, 0, base.now());
            }
        }
        limits.readable = false;
    }

    /// The port of its group, if it is in one, on a base that it is about to move to.
    pub(super) fn port_on(&self, base: &EventBase) -> Result<Option<Rc<GroupPort>>, Error> {
        let limits = self.limits.borrow();
        let group = limits.as_ref().and_then(|limits| limits.limiter.group());
        group.map(|group| base.group_port(&group)).transpose()
    }

    /// It has moved there: wakes come by that port from now on.
    pub(super) fn move_limits(&self, port: Option<Rc<GroupPort>>) {
        let mut slot = self.limits.borrow_mut();
        let Some(limits) = slot.as_deref_mut() else {
            return;
        };
        if let Some(port) = &port
            && limits
                .limiter
                .join(port.port(), u64::from(self.token.get()))
                .is_err()
        {
            // Dissolved: it limits nobody any more.
            limits.limiter.leave();
        }
        limits.port = port;
        limits.read.closed_until = 0;
        limits.write.closed_until = 0;
    }

    /// A paused receive gives its share of a group back.
    pub(super) fn withdraw_paused_receive(&self, base: &EventBase) {
        if self.holds_paused_share() {
            self.socket.stop_receive(base);
        }
    }

    /// Brings the limits in line with what is wanted now; when to look again, `u64::MAX`: not by time.
    pub(super) fn sync_limits(self: &Rc<Self>, base: &EventBase) -> u64 {
        let mut slot = self.limits.borrow_mut();
        let Some(limits) = slot.as_deref_mut() else {
            return u64::MAX;
        };
        let reads = self.wants_receive();
        let writes = self.core.borrow().wants_write(self.output_len());
        let mut next = u64::MAX;
        for (direction, interest, wants) in [
            (Direction::Read, Interest::READ, reads),
            (Direction::Write, Interest::WRITE, writes),
        ] {
            if !wants {
                limits.limiter.stop(direction);
                let gate = limits.gate(direction);
                (gate.closed_until, gate.suspended) = (0, false);
                self.tell_core(base, interest, false);
            }
            let until = limits.gate(direction).closed_until;
            next = next.min(if until == 0 { u64::MAX } else { until });
        }
        drop(slot);
        if self.holds_paused_share() {
            // At the end of the turn, unless the pause is over by then.
            self.mark_dirty(base);
        }
        next
    }

    /// Time has passed: directions whose own bucket is filled again get their turn.
    pub(super) fn expire_limits(&self, base: &EventBase, now: u64) {
        let mut slot = self.limits.borrow_mut();
        let Some(limits) = slot.as_deref_mut() else {
            return;
        };
        for direction in [Direction::Read, Direction::Write] {
            let gate = limits.gate(direction);
            if (1..=now).contains(&gate.closed_until) {
                gate.closed_until = 0;
                base.resume_later(Resumed {
                    token: u64::from(self.token.get()),
                    direction,
                });
            }
        }
    }

    /// The budget of a suspended direction came back: launch again.
    pub(super) fn reopen(self: &Rc<Self>, base: &EventBase, direction: Direction) {
        if let Some(limits) = self.limits.borrow_mut().as_deref_mut() {
            limits.gate(direction).closed_until = 0;
        }
        self.mark_dirty(base);
    }

    /// Leaves the group and forgets the limits.
    pub(super) fn drop_limits(&self) {
        let limits = self.limits.take();
        drop(limits);
    }

    /// Changes the limits by way of `change`, and has everything launched again under the new ones.
    fn change_limits(
        self: &Rc<Self>,
        base: &EventBase,
        change: impl FnOnce(&mut Limits) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut slot = self.limits.borrow_mut();
        let limits = slot.get_or_insert_default();
        let changed = change(limits);
        limits.read.closed_until = 0;
        limits.write.closed_until = 0;
        if limits.limiter.is_unlimited() {
            // With it go the grants: what they were taken from is gone, or left.
            *slot = None;
            self.tell_core(base, Interest::READ | Interest::WRITE, false);
        }
        drop(slot);
        changed?;
        // What is in flight was bounded by the limits of before.
        self.socket.stop_receive(base);
        self.mark_dirty(base);
        self.sync(base);
        Ok(())
    }

    /// A time-out does not run while a limit is what it waits for.
    fn tell_core(&self, base: &EventBase, interest: Interest, suspended: bool) {
        let mut core = self.core.borrow_mut();
        core.suspend(interest, suspended, base.now());
    }

    /// A receive that nobody wants now holds bytes that other members could use.
    fn holds_paused_share(&self) -> bool {
        let limits = self.limits.borrow();
        limits
            .as_deref()
            .is_some_and(|limits| limits.limiter.is_member() && limits.read.grant.is_some())
            && self.socket.receiving()
            && !self.socket.is_stopping()
            && !self.wants_receive()
    }
}

impl Limits {
    fn gate(&mut self, direction: Direction) -> &mut Gate {
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
            (true, false) => {
                let much = wanted.min(IDLE_RECEIVE_SLOTS * base.slot_size());
                match self.launch(base, Direction::Read, Demand::idle(much)) {
                    Launch::AwaitReadable => {
                        let little = much.min(base.slot_size());
                        self.launch(base, Direction::Read, Demand::idle(little))
                    }
                    launch => launch,
                }
            }
        };
        let readable = std::mem::take(&mut self.readable);
        match launch {
            Launch::Granted(grant) => {
                let bytes = grant.bytes();
                self.read.grant = Some(grant);
                // A multishot overshoots by less than a slot: with that left out it keeps to the grant.
                let multishot =
                    multishot && !(shared && readable) && bytes / slot >= MULTISHOT_SLOTS;
                Receive::Launch {
                    multishot,
                    bytes: if multishot { bytes - (slot - 1) } else { bytes },
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
    fn granted(&self) -> u32 {
        self.grant.as_ref().map_or(0, Grant::bytes)
    }
}
