//! What an event base drives.

use std::rc::Rc;

use super::EventBase;
use super::registration::Registration;
use crate::driver::Completion;
use crate::rate_limit::Direction;

/// What a reader in the line for slots is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// There are slots in the window again.
    Window,
    /// The window is empty; there is the reserved slot.
    Reserve,
    /// Nobody moves a byte: those that were parked have a share each, since whoever reads them may
    /// wait for just that.
    Turn,
}

/// What became of a reader that was offered a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feeding {
    /// It leaves the line, and receives.
    Fed,
    /// It leaves the line without a slot of the window: it does not want one any more, or has one
    /// of its own.
    Left,
    /// It waits on: what holds it up is not the lack of slots alone.
    Passed,
    /// The reserved slot is out.
    NoneLeft,
}

/// Something that has operations, timers or callbacks on an event base: a bufferevent, a
/// listener, a timer, a signal.
///
/// The base knows a source by its token and calls it; it never knows what kind it is. No
/// borrow of the base is held during any of these calls.
pub(crate) trait Source {
    /// What the base holds of it.
    fn registration(&self) -> &Registration;

    /// One of its operations completed.
    fn completed(self: Rc<Self>, base: &EventBase, completion: Completion);

    /// The turn is about to hand work to the kernel: push what is due. Called once after each
    /// [`Registration::mark_dirty`].
    fn start_io(self: Rc<Self>, _base: &EventBase) {}

    /// Its turn in the callback FIFO. Called once after each [`Registration::enqueue`].
    fn deferred(self: Rc<Self>, _base: &EventBase) {}

    /// A deadline that it set has passed. It may be one that no longer matters (timers are
    /// re-armed lazily): the source decides.
    fn timer_fired(self: Rc<Self>, _base: &EventBase) {}

    /// It waited for receive slots ([`Registration::wait_for_slots`]) and is offered one now. It is
    /// out of the line during the call, and goes back where the answer says that it waits on.
    fn slots_came_back(self: Rc<Self>, _base: &EventBase, _offer: Offer) -> Feeding {
        Feeding::Left
    }

    /// Memory has become short ([`EventBase::slots_are_low`]): hold what is held as tightly as can
    /// be.
    fn memory_is_short(self: Rc<Self>, _base: &EventBase) {}

    /// Memory is no longer short, and it was parked ([`EventBase::park`]).
    fn unpark(self: Rc<Self>, _base: &EventBase) {}

    /// Memory is short, it was parked, and nothing moves: receives a share, if there is something
    /// to receive. False when not: it stays parked.
    fn take_turn(self: Rc<Self>, _base: &EventBase) -> bool {
        false
    }

    /// It was listed ([`EventBase::check_when_quiet`]) some time ago: looks whether its connection
    /// still stands. True to be called again.
    fn check_quiet(self: Rc<Self>, _base: &EventBase) -> bool {
        false
    }

    /// A rate limit that held one of its directions up lets go of it.
    fn budget_came_back(self: Rc<Self>, _base: &EventBase, _direction: Direction) {}

    /// The base ends: let go of callbacks and buffers, and tell what was promised in any case.
    /// First of all add to `close` what is to be closed once nothing is in flight any more: the
    /// user's code that runs here may panic.
    fn base_ended(self: Rc<Self>, close: &mut Vec<i32>);
}
