//! Receive memory: the window, the line of those that ran out, and who goes without while it is
//! short.
//!
//! Memory is *short* from when less than a quarter of it is left until three eighths are. Then
//!
//! - whoever has bytes that wait for a peer to read them receives no more ([`EventBase::park`]),
//!   until these have gone or memory is ample again: who sits on memory can not take that of who
//!   does not;
//! - everybody else receives a share at a time ([`EventBase::slot_share`]), which gets smaller as
//!   memory does, so that what is left never runs out by many who take a little;
//! - what waits is copied out of its slots, as tightly as can be.
//!
//! Those that are parked may wait for each other, with nobody else there to free any memory: a peer
//! that is read from first, and only then reads. When no byte has left for a fifth of a second,
//! each of them receives a share, as long as the cap allows.
//!
//! Should nothing be left all the same, those that hold nothing at all receive into the reserved
//! slot, one after the other.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use super::EventBase;
use super::registration::{Key, Registration};
use super::source::{Feeding, Offer};

/// The least that a receive is launched for while memory is short.
const LEAST_SHARE: usize = 512;

/// How long nothing may move before those that are parked have their turn.
const STANDSTILL_NS: u64 = 200_000_000;

/// What one that may read on is taken to receive before memory is looked at again.
const UNPARKED_BYTES: usize = 256 << 10;

/// What a base knows of its memory.
#[derive(Debug)]
pub(super) struct Memory {
    short: Cell<bool>,
    /// What received bytes take has reached the cap.
    spent: Cell<bool>,
    share: Cell<u32>,
    /// Those that receive nothing until it is ample again.
    parked: RefCell<VecDeque<Key>>,
    /// When to look whether anything moves; `u64::MAX`: not at all.
    turn_at: Cell<u64>,
    /// Bytes that had been sent when that was set.
    sent: Cell<u64>,
}

impl Default for Memory {
    fn default() -> Self {
        Memory {
            short: Cell::new(false),
            spent: Cell::new(false),
            share: Cell::new(0),
            parked: RefCell::default(),
            turn_at: Cell::new(u64::MAX),
            sent: Cell::new(0),
        }
    }
}

impl EventBase {
    /// Whether memory is short, as of the last refill.
    pub(crate) fn slots_are_low(&self) -> bool {
        self.0.memory.short.get()
    }

    /// Whether received bytes take all that they may: then only those receive that hold none.
    pub(crate) fn memory_is_spent(&self) -> bool {
        self.0.memory.spent.get()
    }

    /// What one receive may bring while memory is short, in bytes.
    pub(crate) fn slot_share(&self) -> u32 {
        self.0.memory.share.get()
    }

    /// Has the source's `unpark` called once memory is ample again.
    pub(crate) fn park(&self, registration: &Registration) {
        self.0
            .memory
            .parked
            .borrow_mut()
            .push_back(registration.key());
        self.look_for_a_standstill();
    }

    fn look_for_a_standstill(&self) {
        let memory = &self.0.memory;
        if memory.turn_at.get() == u64::MAX && !memory.parked.borrow().is_empty() {
            memory.turn_at.set(self.now().saturating_add(STANDSTILL_NS));
            memory.sent.set(self.tally().bytes_sent());
        }
    }

    /// When [`give_turns`](Self::give_turns) is due next; `u64::MAX`: never. It keeps no loop
    /// alive.
    pub(super) fn next_turn(&self) -> u64 {
        self.0.memory.turn_at.get()
    }

    /// Gives those that are parked a share each if nothing has moved for a while.
    pub(super) fn give_turns(&self) {
        let memory = &self.0.memory;
        if memory.turn_at.get() > self.0.now.get() {
            return;
        }
        memory.turn_at.set(u64::MAX);
        let stands = memory.sent.get() == self.tally().bytes_sent();
        if stands && memory.short.get() && !memory.spent.get() {
            let mut parked = std::mem::take(&mut *memory.parked.borrow_mut());
            parked.retain(|&key| {
                let source = self.0.source_by(key);
                source.is_some_and(|source| !source.take_turn(self))
            });
            let mut new = memory.parked.borrow_mut();
            parked.append(&mut new);
            *new = parked;
        }
        self.look_for_a_standstill();
    }

    /// Tops the receive window up, and lets readers that ran out of slots try again: each that
    /// waits is served before any is served twice.
    pub(super) fn serve_line(&self) {
        if !self.0.line.borrow().is_empty() {
            self.want_slots();
        }
        let published = self.with_driver(|driver| driver.refill());
        self.look_at_memory(published);
        if !self.0.line.borrow().is_empty() {
            self.feed_line(published);
        }
    }

    fn look_at_memory(&self, published: usize) {
        let memory = &self.0.memory;
        let (available, all) = self.with_driver(|driver| {
            let arena = driver.arena();
            (arena.available(), arena.max_slots())
        });
        let left = available + published;
        // What one turn may take before this is looked at again.
        let margin = published.min(all / 8);
        let was_short = memory.short.get();
        let short = match was_short {
            false => left <= all / 4 + margin,
            true => left < all * 3 / 8 + margin || left <= all / 4,
        };
        memory
            .spent
            .set(short && self.held_bytes(published) >= all * self.slot_size());
        if short {
            let each = left * self.slot_size() / (4 * self.0.sources.borrow().len().max(1));
            let most = (self.slot_size() / 2).max(LEAST_SHARE);
            let share = each.clamp(LEAST_SHARE, most);
            memory.share.set(u32::try_from(share).unwrap_or(u32::MAX));
        }
        memory.short.set(short);
        if short && !was_short {
            self.each_source(|source, base| source.memory_is_short(base));
        } else if self.unparks() {
            self.unpark_some(left.saturating_sub(all / 4));
        }
    }

    /// Lets as many of the parked read on as can each fill what a receive is armed for, before
    /// memory is short again: all at once they would take it all, and make all others wait.
    #[cold]
    fn unpark_some(&self, slots: usize) {
        let each = (UNPARKED_BYTES / self.slot_size()).max(1);
        for _ in 0..(slots / each).max(1) {
            let Some(key) = self.0.memory.parked.borrow_mut().pop_front() else {
                return;
            };
            if let Some(source) = self.0.source_by(key) {
                source.unpark(self);
            }
        }
    }

    /// Whether some of those that were parked may read on with the next turn.
    pub(super) fn unparks(&self) -> bool {
        let memory = &self.0.memory;
        !memory.short.get() && !memory.parked.borrow().is_empty()
    }

    /// What received bytes take outside of the window: slots whole, copies as they are charged.
    fn held_bytes(&self, published: usize) -> usize {
        let stats = self.with_driver(|driver| driver.arena().stats());
        let slots = stats.slots_live.saturating_sub(published);
        slots * self.slot_size() + stats.charged_bytes
    }

    /// Calls `f` with every source there is now.
    fn each_source(&self, f: impl Fn(std::rc::Rc<dyn super::source::Source>, &EventBase)) {
        let all: Vec<_> = {
            let sources = self.0.sources.borrow();
            sources
                .iter()
                .map(|(_, known)| known.source.clone())
                .collect()
        };
        for source in all {
            f(source, self);
        }
    }

    fn feed_line(&self, mut published: usize) {
        let waiting = self.0.line.borrow().len();
        for _ in 0..waiting {
            let offer = match published {
                0 => Offer::Reserve,
                _ => Offer::Window,
            };
            let Some(place) = self.0.line.borrow_mut().pop_front() else {
                return;
            };
            let Some(source) = self.0.source(place.token) else {
                continue;
            };
            let registration = source.registration();
            if !registration.holds(place) {
                continue;
            }
            registration.leave_line();
            let feeding = source.clone().slots_came_back(self, offer);
            let waits = !registration.is_in_line() && registration.is_joined();
            match feeding {
                Feeding::Fed => published = published.saturating_sub(1),
                Feeding::Left => {}
                Feeding::Passed if waits => {
                    let place = registration.draw_ticket(self);
                    self.0.line.borrow_mut().push_back(place);
                }
                Feeding::Passed => {}
                Feeding::NoneLeft => {
                    if waits {
                        let place = registration.draw_ticket(self);
                        self.0.line.borrow_mut().push_front(place);
                    }
                    return;
                }
            }
        }
    }

    /// Slots that come back on another thread are to wake the loop, should it sleep for the lack
    /// of them.
    #[cold]
    fn want_slots(&self) {
        let arena = self.with_driver(|driver| driver.shared_arena().cloned());
        let Some(arena) = arena else { return };
        if !arena.has_waker() {
            match self.waker() {
                Ok(waker) => arena.set_waker(waker),
                Err(error) => log::warn!("slots that other threads return wake no loop: {error}"),
            }
        }
        arena.want();
    }
}
