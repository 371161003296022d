//! What a source has on its base: all of it, in one place.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::remote::Route;
use super::source::Source;
use super::{Base, EventBase};
use crate::driver::{Op, OpId};
use crate::error::Error;

/// The token of a source that is on no base.
const NONE: u32 = u32::MAX;

/// Names a source in the lists of its base. The lists hold no reference: a key whose source has
/// left finds nothing, also when its token was given to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// The source's index in the base's table.
    pub(super) token: u32,
    /// Counts the sources that ever joined the base.
    pub(super) stamp: u32,
}

impl Key {
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.stamp) << 32 | u64::from(self.token)
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Key {
            token: bits as u32,
            stamp: (bits >> 32) as u32,
        }
    }
}

/// A place in the line for receive slots: the source's token, and the ticket that it drew.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) token: u32,
    pub(super) ticket: u32,
}

/// A source's registration with its base: every [`Source`] owns one.
///
/// The base's lists hold keys. What says that a source is in a list is the flag here, so a source
/// is in each at most once, and one that leaves has left them all.
pub(crate) struct Registration {
    base: Cell<Weak<Base>>,
    /// The earliest entry that the base's timer heap has for it; `u64::MAX`: none.
    armed: Cell<u64>,
    token: Cell<u32>,
    stamp: Cell<u32>,
    /// Its ticket for the line of those that wait for receive slots; 0: it does not wait.
    ticket: Cell<u32>,
    priority: Cell<u8>,
    /// Keeps the loop alive.
    active: Cell<bool>,
    /// In the list of those with I/O to begin.
    dirty: Cell<bool>,
    /// In the callback FIFO.
    queued: Cell<bool>,
}

// Every connection pays for one.
const _: () = assert!(size_of::<Registration>() <= 32);

impl Default for Registration {
    fn default() -> Self {
        Self::new()
    }
}

impl Registration {
    /// On no base yet.
    pub(crate) fn new() -> Self {
        Registration {
            base: Cell::new(Weak::new()),
            armed: Cell::new(u64::MAX),
            token: Cell::new(NONE),
            stamp: Cell::new(0),
            ticket: Cell::new(0),
            priority: Cell::new(0),
            active: Cell::new(false),
            dirty: Cell::new(false),
            queued: Cell::new(false),
        }
    }

    /// Joins a base, which keeps `source`, the owner of this registration, until it leaves.
    pub(crate) fn join(&self, base: &EventBase, source: Rc<dyn Source>) {
        debug_assert!(!self.is_joined(), "a source is on one base");
        debug_assert!(std::ptr::eq(self, source.registration()));
        let key = base.0.add_source(source);
        self.token.set(key.token);
        self.stamp.set(key.stamp);
        self.base.set(Rc::downgrade(&base.0));
    }

    /// Leaves the base that it is on. Only once nothing of it is in flight: the token is used
    /// again. The base lets go of the source.
    pub(crate) fn leave(&self, base: &EventBase) {
        if self.is_joined() {
            self.unshare(base);
            let gone = self.detach(base);
            // The user's closures may have destructors: nothing is borrowed.
            drop(gone);
        }
    }

    /// Leaves `old` for `new`, and takes along the route by which other threads reach it.
    ///
    /// # Errors
    /// [`Error::Invalid`] with work to begin or callbacks to run; [`Error::Io`] when the new base
    /// can not be reached by other threads for the lack of a descriptor. Nothing has changed then.
    pub(crate) fn move_to(&self, old: &EventBase, new: &EventBase) -> Result<(), Error> {
        if !self.is_quiet() {
            return Err(Error::Invalid {
                what: "set_base",
                why: "it has something to do on its base: let the loop turn first",
            });
        }
        let known = old.0.shared.borrow().contains_key(&self.key());
        // Made before anything changes: it may fail.
        let inbox = known.then(|| new.inbox()).transpose()?;
        let shared = old.0.shared.borrow_mut().remove(&self.key());
        let source = self.detach(old).ok_or(Error::Freed { what: "source" })?;
        self.join(new, source);
        if let (Some(inbox), Some(shared)) = (inbox, shared) {
            let route = shared.route.clone();
            new.0.shared.borrow_mut().insert(self.key(), shared);
            route.move_to(&inbox, self.key());
        }
        Ok(())
    }

    /// Out of the table and of all lists.
    fn detach(&self, base: &EventBase) -> Option<Rc<dyn Source>> {
        debug_assert!(Rc::as_ptr(&base.0) == self.base_ptr());
        self.set_active(base, false);
        self.dirty.set(false);
        self.queued.set(false);
        self.ticket.set(0);
        self.armed.set(u64::MAX);
        base.0.remove_source(self.token.replace(NONE))
    }

    fn base_ptr(&self) -> *const Base {
        let weak = self.base.take();
        let ptr = weak.as_ptr();
        self.base.set(weak);
        ptr
    }

    /// Whether it is on this base.
    pub(crate) fn is_on(&self, base: &EventBase) -> bool {
        std::ptr::eq(self.base_ptr(), Rc::as_ptr(&base.0)) && self.is_joined()
    }

    /// Whether it is on a base.
    pub(crate) fn is_joined(&self) -> bool {
        self.token.get() != NONE
    }

    /// The base that it is on, or was on last; `None` when that is gone.
    #[inline]
    pub(crate) fn base(&self) -> Option<EventBase> {
        let weak = self.base.take();
        let base = weak.upgrade();
        self.base.set(weak);
        base.map(EventBase)
    }

    /// Its index in the table of its base, by which completions find it.
    pub(crate) fn token(&self) -> u32 {
        self.token.get()
    }

    /// By which the lists of its base name it.
    pub(crate) fn key(&self) -> Key {
        Key {
            token: self.token.get(),
            stamp: self.stamp.get(),
        }
    }

    /// Queues an operation whose completions it gets.
    pub(crate) fn push(&self, base: &EventBase, op: Op) -> OpId {
        base.push(self.token.get(), op)
    }

    /// Whether it has no I/O to begin and no callbacks to run. It may wait for a slot: it gives
    /// that place up when it moves.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.dirty.get() && !self.queued.get()
    }

    /// Says that it keeps the loop alive from now on, or no longer.
    pub(crate) fn set_active(&self, base: &EventBase, is: bool) {
        if self.active.get() != is && (self.is_joined() || !is) {
            self.active.set(is);
            let active = base.0.active.get();
            base.0.active.set(if is { active + 1 } else { active - 1 });
        }
    }

    /// Whether it keeps the loop alive.
    pub(crate) fn is_active(&self) -> bool {
        self.active.get()
    }

    /// Has its `start_io` called before the next enter.
    #[inline]
    pub(crate) fn mark_dirty(&self, base: &EventBase) {
        if self.is_joined() && !self.dirty.replace(true) {
            base.0.dirty.borrow_mut().push(self.key());
        }
    }

    /// Whether its `start_io` is to be called before the next enter.
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty.get()
    }

    pub(super) fn take_dirty(&self) -> bool {
        self.dirty.replace(false)
    }

    /// Has its `deferred` called from the FIFO, from the queue of its priority.
    pub(crate) fn enqueue(&self, base: &EventBase) {
        if !self.is_joined() || self.queued.replace(true) {
            return;
        }
        let mut fifo = base.0.fifo.borrow_mut();
        match fifo.as_mut_slice() {
            [only] => only.push_back(self.key()),
            queues => {
                let priority = self.priority().min(queues.len() - 1);
                queues[priority].push_back(self.key());
            }
        }
    }

    pub(super) fn take_queued(&self) -> bool {
        self.queued.replace(false)
    }

    /// Goes to the end of the line for receive slots, unless it has a place in it.
    pub(crate) fn wait_for_slots(&self, base: &EventBase) {
        if self.is_joined() && self.ticket.get() == 0 {
            base.tally().starved();
            let place = self.draw_ticket(base);
            base.0.enter_line(place);
        }
    }

    pub(super) fn draw_ticket(&self, base: &EventBase) -> Place {
        let ticket = base.0.last_ticket.get().wrapping_add(1).max(1);
        base.0.last_ticket.set(ticket);
        self.ticket.set(ticket);
        Place {
            token: self.token.get(),
            ticket,
        }
    }

    /// Gives its place in that line up.
    pub(crate) fn leave_line(&self) {
        self.ticket.set(0);
    }

    /// Whether it waits for a receive slot.
    pub(crate) fn is_in_line(&self) -> bool {
        self.ticket.get() != 0
    }

    pub(super) fn holds(&self, place: Place) -> bool {
        self.ticket.get() == place.ticket
    }

    /// Has its `timer_fired` called once `at` has passed. A later entry of the heap stays: the
    /// source is called for that, too, and decides for itself.
    #[inline]
    pub(crate) fn arm(&self, base: &EventBase, at: u64) {
        if self.is_late_for(at) && self.is_joined() {
            self.armed.set(at);
            base.0.timers.borrow_mut().arm(at, self.key());
        }
    }

    /// Whether its `timer_fired` would be called too late for `at`.
    #[inline]
    pub(crate) fn is_late_for(&self, at: u64) -> bool {
        at < self.armed.get()
    }

    /// Its `timer_fired` was called at `now`: the entry that was armed has gone from the heap if
    /// its time has passed.
    pub(crate) fn timer_seen(&self, now: u64) {
        if self.armed.get() <= now {
            self.armed.set(u64::MAX);
        }
    }

    /// The queue that its callbacks run from: 0 is the most urgent.
    pub(crate) fn priority(&self) -> usize {
        usize::from(self.priority.get())
    }

    /// From which queue its callbacks run from now on. What is queued stays where it is.
    pub(crate) fn set_priority(&self, priority: u8) {
        self.priority.set(priority);
    }

    /// Makes `object`, the owner of this registration, known to other threads: what they post by
    /// the route is handed to it, on whatever base it is then.
    ///
    /// # Errors
    /// [`Error::Io`] when the process has no descriptor left for the base's eventfd.
    pub(crate) fn share(&self, base: &EventBase, object: Rc<dyn Any>) -> Result<Arc<Route>, Error> {
        if let Some(shared) = base.0.shared.borrow().get(&self.key()) {
            return Ok(shared.route.clone());
        }
        let inbox = base.inbox()?;
        let route = Route::to(&inbox, self.key());
        let shared = Shared {
            object,
            route: route.clone(),
        };
        base.0.shared.borrow_mut().insert(self.key(), shared);
        Ok(route)
    }

    /// Remotes reach it no longer: what they ask of it is told that it was freed.
    pub(crate) fn unshare(&self, base: &EventBase) {
        let gone = base.0.shared.borrow_mut().remove(&self.key());
        drop(gone);
    }
}

/// What other threads reach by a route.
pub(super) struct Shared {
    pub(super) object: Rc<dyn Any>,
    route: Arc<Route>,
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("joined", &self.is_joined())
            .field("token", &self.token.get())
            .field("active", &self.active.get())
            .field("dirty", &self.dirty.get())
            .field("queued", &self.queued.get())
            .field("in_line", &self.is_in_line())
            .finish_non_exhaustive()
    }
}
