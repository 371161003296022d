//! What an event base drives.

use std::rc::Rc;

use super::EventBase;
use crate::driver::Completion;
use crate::rate_limit::Direction;

/// Something that has operations, timers or callbacks on an event base: a bufferevent, a
/// listener, a timer, a signal.
///
/// The base knows a source by its token and calls it; it never knows what kind it is. No
/// borrow of the base is held during any of these calls.
pub(crate) trait Source {
    /// One of its operations completed.
    fn completed(self: Rc<Self>, base: &EventBase, completion: Completion);

    /// The turn is about to hand work to the kernel: push what is due. Called once after each
    /// [`EventBase::mark_dirty`].
    fn start_io(self: Rc<Self>, _base: &EventBase) {}

    /// Its turn in the callback FIFO. Called once after each [`EventBase::enqueue`].
    fn deferred(self: Rc<Self>, _base: &EventBase) {}

    /// A deadline that it set has passed. It may be one that no longer matters (timers are
    /// re-armed lazily): the source decides.
    fn timer_fired(self: Rc<Self>, _base: &EventBase) {}

    /// It waited for receive slots ([`EventBase::wait_for_slots`]) and there are some now.
    /// Says whether it took its chance.
    fn slots_came_back(self: Rc<Self>, _base: &EventBase, _reserve: bool) -> bool {
        false
    }

    /// A rate limit that held one of its directions up lets go of it.
    fn budget_came_back(self: Rc<Self>, _base: &EventBase, _direction: Direction) {}

    /// The base ends: let go of callbacks and buffers. The descriptor to close once nothing is
    /// in flight any more is the answer.
    fn base_ended(self: Rc<Self>) -> Option<i32>;

    /// The queue its callbacks run from: 0 is the most urgent.
    fn priority(&self) -> usize {
        0
    }
}
