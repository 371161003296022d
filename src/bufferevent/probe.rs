//! What the simulation asks: does a direction stand still, and until when may it?

use super::{BufferEvent, Flavour};
use crate::event_base::EventBase;
use crate::rate_limit::Direction;

impl BufferEvent {
    /// If the direction wants to move bytes and has no operation in flight: until when its limits hold it up; `None`
    /// when nothing does, so that it ought to have one.
    pub(crate) fn standstill(&self, base: &EventBase, direction: Direction) -> Option<Option<u64>> {
        let inner = &self.0;
        let socket = &inner.socket;
        if inner.freed.get() || !matches!(inner.flavour, Flavour::Socket) || socket.fd().is_none() {
            return None;
        }
        let idle = match direction {
            Direction::Read => {
                inner.wants_receive() && !socket.receiving() && !inner.registration.is_in_line()
            }
            Direction::Write => {
                inner.core.borrow().wants_write(inner.output_len()) && !socket.sending()
            }
        };
        if !idle {
            return None;
        }
        let mut limits = inner.limits.borrow_mut();
        let limits = limits.as_deref_mut();
        Some(limits.and_then(|limits| limits.limiter.held_up_until(direction, base.now())))
    }

    /// The state of its limits.
    pub(crate) fn describe_limits(&self) -> String {
        format!("{:?}", self.0.limits.borrow())
    }
}
