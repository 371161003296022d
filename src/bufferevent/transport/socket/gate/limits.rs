//! The limits of one bufferevent, and what its operations hold of them.

use std::rc::Rc;

use super::UNTIL_TOLD;
use crate::driver::Completion;
use crate::event_base::EventBase;
use crate::event_base::groups::GroupPort;
use crate::rate_limit::{Demand, Direction, Grant, Launch, Limiter, Suspension};

/// What a receive of a group's member asks for while it may have to wait for data, in slots: enough
/// to go on for hundreds of messages, little enough that many members find room.
pub(super) const IDLE_RECEIVE_SLOTS: usize = 4;

/// The least worth asking for instead of waiting for readability first, which costs an operation
/// more.
const IDLE_RECEIVE_BYTES: usize = 1024;

/// A message that came last of at most this part of what an idle receive may hold is worth a
/// multishot of small receives: several such messages, none longer.
pub(super) const SMALL_PART: u32 = 4;

/// From so many slots on a grant is worth a multishot receive; below, a single one uses all of it.
const MULTISHOT_SLOTS: u32 = 2;

/// The most that one receive is launched for.
pub(super) const MOST_BYTES: u32 = 1 << 30;

/// The limits of one bufferevent.
#[derive(Debug, Default)]
pub(in crate::bufferevent) struct Limits {
    pub(in crate::bufferevent) limiter: Limiter,
    /// Of the group that it is in.
    pub(in crate::bufferevent) port: Option<Rc<GroupPort>>,
    pub(super) read: Gate,
    pub(super) write: Gate,
    /// The socket was readable when it was looked at last: the next receive will not wait.
    pub(super) readable: bool,
    /// What the last receive brought; 0: not known, or not all that there was.
    pub(super) last_bytes: u32,
    /// The most that one completion of the receive in flight can bring.
    pub(super) most_bytes: u32,
}

/// One direction.
#[derive(Debug, Default)]
pub(in crate::bufferevent) struct Gate {
    /// Of the operation in flight.
    pub(super) grant: Option<Grant>,
    /// Do not ask for budget before; 0: ask.
    pub(super) closed_until: u64,
    /// Suspended by the last answer.
    pub(super) suspended: bool,
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

impl Limits {
    pub(in crate::bufferevent) fn gate(&mut self, direction: Direction) -> &mut Gate {
        match direction {
            Direction::Read => &mut self.read,
            Direction::Write => &mut self.write,
        }
    }

    /// Asks for budget, unless it is known that there is none.
    pub(super) fn launch(
        &mut self,
        base: &EventBase,
        direction: Direction,
        demand: Demand,
    ) -> Launch {
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

    pub(super) fn launch_receive(
        &mut self,
        base: &EventBase,
        multishot: bool,
        wanted: u32,
    ) -> Receive {
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
                // A multishot overshoots by less than one of its receives: with that left out it
                // keeps to the grant.
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
    pub(super) fn idle_bytes(&self, base: &EventBase) -> usize {
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

    pub(super) fn settle(
        &mut self,
        base: &EventBase,
        direction: Direction,
        completion: &Completion,
    ) {
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
