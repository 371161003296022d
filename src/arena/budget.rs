//! What copies of received bytes cost their arena.
//!
//! Small messages that wait are copied out of their slots, so that a byte does not pin 16 KiB. The
//! blocks they go to are charged to the arena: header, capacity and the link of a chain. Slots that
//! are out and charged bytes together stay within the cap, since `take` gives no slot beyond it;
//! idle slots whose place the copies took give their pages back to the kernel.
//!
//! A copy is never refused: it is made to free a slot, and what has arrived cannot be sent back. So
//! that the loop can go on receiving whatever the copies have taken, a sixteenth of the slots stays
//! available to it: memory ends at the cap, this sixteenth and what is copied out of it. Who holds
//! much must not be received from in a shortage; that is the business of the receivers.

use super::map;
use super::slots::{Pool, Shared};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The part of all slots that copies leave to the kernel, as a divisor; at least one slot.
const KEPT_FRACTION: usize = 16;
/// After how many slots' worth of new charges idle slots are looked at, as a shift.
const RELEASE_STEP_SHIFT: u32 = 4;

/// The account of an arena.
#[derive(Debug)]
pub(super) struct Budget {
    /// The cap: slots that are out and charged bytes, but for `kept_slots`.
    max_bytes: usize,
    /// Slots that may be out whatever is charged.
    kept_slots: usize,
    /// Bits of a charge that tell no step apart.
    step_shift: u32,
    charged: AtomicUsize,
    /// The kernel has pinned the chunks' pages: they must not be exchanged.
    pinned: AtomicBool,
}

impl Budget {
    pub(super) fn new(max_bytes: usize, slot_size: usize, max_slots: usize) -> Self {
        Budget {
            max_bytes: max_bytes.max(slot_size),
            kept_slots: (max_slots / KEPT_FRACTION).max(1),
            step_shift: slot_size.trailing_zeros() + RELEASE_STEP_SHIFT,
            charged: AtomicUsize::new(0),
            pinned: AtomicBool::new(false),
        }
    }

    /// Bytes of all charged blocks that live.
    #[inline]
    pub(super) fn charged(&self) -> usize {
        self.charged.load(Ordering::Relaxed)
    }

    /// From now on no page goes back to the kernel.
    pub(super) fn keep_pages(&self) {
        self.pinned.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    /// Counts a block of `bytes`, header and link included.
    pub(super) fn charge(&self, bytes: usize) {
        let budget = &self.budget;
        let before = budget.charged.fetch_add(bytes, Ordering::Relaxed);
        if before >> budget.step_shift != (before + bytes) >> budget.step_shift {
            self.release_idle();
        }
    }

    /// Gives the charge of a block back: there may be room for another slot.
    pub(super) fn discharge(&self, bytes: usize) {
        let before = self.budget.charged.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "more given back than charged");
        self.wake_from_elsewhere();
    }

    /// Whether one more slot may go out.
    #[cold]
    pub(super) fn has_room(&self, pool: &Pool) -> bool {
        self.room(pool) > 0
    }

    /// Slots that could go out, one after the other.
    pub(super) fn available(&self, pool: &Pool) -> usize {
        self.room(pool).min(self.max_slots - self.out(pool))
    }

    /// Slots for which the budget has room, if there are so many.
    fn room(&self, pool: &Pool) -> usize {
        let out = self.out(pool);
        let taken = out * self.slot_size + self.budget.charged();
        let left = self.budget.max_bytes.saturating_sub(taken) / self.slot_size;
        left.max(self.budget.kept_slots.saturating_sub(out))
    }

    /// Slots that are out, without the reserve slot.
    fn out(&self, pool: &Pool) -> usize {
        pool.cut
            .saturating_sub(pool.free.len() + self.returned.len())
    }

    /// Gives the pages of as many idle slots back to the kernel as the charged bytes displace; the
    /// coldest first.
    #[cold]
    fn release_idle(&self) {
        if self.budget.pinned.load(Ordering::Relaxed) {
            return;
        }
        let mut pool = self.lock();
        let left = self.budget.max_bytes.saturating_sub(self.budget.charged());
        let resident = pool.cut - pool.released;
        let excess = resident.saturating_sub(left / self.slot_size);
        let start = pool.released;
        let end = pool.free.len().min(start + excess);
        for idle in &pool.free[start.min(end)..end] {
            // SAFETY: an idle slot has no owner, and the pool is locked: nobody reads or writes it.
            // It stays initialised: untouched pages read as zero (M2).
            unsafe { map::release_pages(idle.data(), self.slot_size) };
        }
        pool.released = end.max(start);
    }
}
