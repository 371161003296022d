//! The table of operations in flight: who pushed them, and the memory that the kernel may touch
//! (I1).

use super::op::{GENERATIONS, Kind, index_of, user_data};
use crate::arena::{Piece, Slot};
use crate::sys::SockAddr;
use std::sync::atomic::{AtomicU32, Ordering};

/// Operations in flight, found by index. Vacant entries form a list; an index is reused last in,
/// first out, with its generation counted up each time.
#[derive(Debug)]
pub(super) struct Table {
    entries: Vec<Entry>,
    /// First vacant entry, [`NONE`] without one.
    vacant: u32,
    live: usize,
    /// Where the generations of a new index begin.
    first_generation: u32,
}

#[derive(Debug)]
pub(super) struct Entry {
    /// `user_data` of the operation that lives here; 0 when vacant.
    id: u64,
    /// The caller's token; the next vacant entry when vacant.
    pub(super) token: u64,
    generation: u32,
    /// Result of a zero-copy send that waits for its notification.
    pub(super) zc_result: Option<i32>,
    held: Held,
}

/// Memory that the kernel may touch until the operation's last completion.
#[derive(Debug)]
#[expect(dead_code, reason = "pieces and addresses are only kept, and dropped")]
pub(super) enum Held {
    Nothing,
    Slot(Slot),
    Piece(Piece),
    Gather(Box<Gather>),
    Addr(Box<SockAddr>),
}

/// Several pieces, and the arrays by which the kernel finds them. Boxed, since the kernel knows the
/// address of the header; recycled, since a proxy gathers for every send.
pub(super) struct Gather {
    pub(super) pieces: Vec<Piece>,
    pub(super) iovecs: Vec<libc::iovec>,
    pub(super) header: libc::msghdr,
}

const NONE: u32 = u32::MAX;

/// How far the first generations of two rings are apart: odd, so that all differ, and such that
/// those of rings made one after the other lie far from each other.
const GENERATION_STEP: u32 = 0x9E_3779;

impl Table {
    pub(super) fn new() -> Table {
        // Another for each ring: an id that is used with the wrong ring names nothing there.
        static TABLES: AtomicU32 = AtomicU32::new(0);
        let table = TABLES.fetch_add(1, Ordering::Relaxed);
        Table {
            entries: Vec::new(),
            vacant: NONE,
            live: 0,
            first_generation: table.wrapping_mul(GENERATION_STEP) % GENERATIONS,
        }
    }

    /// How many operations are in flight.
    #[inline]
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// Takes over an operation's memory and gives its id.
    #[inline]
    pub(super) fn insert(&mut self, kind: Kind, token: u64, held: Held) -> u64 {
        if self.vacant == NONE {
            self.grow();
        }
        let index = self.vacant;
        let entry = &mut self.entries[index as usize];
        debug_assert_eq!(entry.id, 0, "a vacant entry holds no operation");
        self.vacant = entry.token as u32;
        let id = user_data(kind, entry.generation, index);
        entry.id = id;
        entry.token = token;
        entry.zc_result = None;
        // A vacant entry holds nothing, so there is nothing to drop.
        std::mem::forget(std::mem::replace(&mut entry.held, held));
        self.live += 1;
        id
    }

    /// The operation with this id; `None` if it has had its last completion.
    #[inline]
    pub(super) fn get(&mut self, id: u64) -> Option<&mut Entry> {
        self.entries
            .get_mut(index_of(id))
            .filter(|entry| entry.id == id)
    }

    /// The token of the operation with this id, while it is in flight.
    #[cfg(debug_assertions)]
    pub(super) fn token_of(&self, id: u64) -> Option<u64> {
        let entry = self.entries.get(index_of(id))?;
        (entry.id == id).then_some(entry.token)
    }

    /// Ends an operation that is in the table and gives back its memory (I2: the caller has seen
    /// its last completion).
    #[inline]
    pub(super) fn remove(&mut self, id: u64) -> Held {
        let index = index_of(id);
        let entry = &mut self.entries[index];
        debug_assert_eq!(entry.id, id, "only a live operation ends");
        entry.id = 0;
        entry.generation = (entry.generation + 1) % GENERATIONS;
        entry.token = u64::from(self.vacant);
        self.vacant = index as u32;
        self.live -= 1;
        std::mem::replace(&mut entry.held, Held::Nothing)
    }

    /// The ids of all operations in flight.
    pub(super) fn ids(&self) -> impl Iterator<Item = u64> {
        self.entries
            .iter()
            .map(|entry| entry.id)
            .filter(|id| *id != 0)
    }

    #[cold]
    fn grow(&mut self) {
        // Entry numbers are 32 bits wide and the last one means none: no machine has memory for so
        // many.
        let index = u32::try_from(self.entries.len()).unwrap_or(NONE);
        assert!(index < NONE, "four billion operations in flight");
        self.entries.push(Entry {
            id: 0,
            token: u64::from(NONE),
            generation: self.first_generation,
            zc_result: None,
            held: Held::Nothing,
        });
        self.vacant = index;
    }

    /// Begins anew, with nothing in flight.
    #[cfg(test)]
    pub(super) fn begin_with_generation(&mut self, first_generation: u32) {
        assert_eq!(self.live, 0);
        *self = Table {
            first_generation,
            ..Table::new()
        };
    }

    /// Pretends that an index has been used many times.
    #[cfg(test)]
    pub(super) fn set_generation(&mut self, index: usize, generation: u32) {
        self.entries[index].generation = generation;
    }
}

impl Gather {
    pub(super) fn new() -> Box<Gather> {
        Box::new(Gather {
            pieces: Vec::new(),
            iovecs: Vec::new(),
            // SAFETY: msghdr is plain numbers and pointers, all zeroes is a valid empty header.
            header: unsafe { std::mem::zeroed() },
        })
    }
}

impl std::fmt::Debug for Gather {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gather")
            .field("pieces", &self.pieces.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_its_operation_until_it_ends() {
        let mut table = Table::new();
        let first = table.insert(Kind::Nop, 1, Held::Nothing);
        let second = table.insert(Kind::Nop, 2, Held::Nothing);
        assert_eq!(table.get(first).map(|entry| entry.token), Some(1));
        assert_eq!(table.ids().count(), 2);
        table.remove(first);
        assert!(table.get(first).is_none());
        assert_eq!(table.get(second).map(|entry| entry.token), Some(2));
        let reused = table.insert(Kind::Nop, 3, Held::Nothing);
        assert_eq!(index_of(reused), index_of(first));
        assert_ne!(reused, first);
        assert!(table.get(first).is_none());
        table.remove(second);
        table.remove(reused);
        assert_eq!(table.live(), 0);
    }

    #[test]
    fn a_kind_that_differs_is_no_match() {
        let mut table = Table::new();
        let id = table.insert(Kind::Nop, 1, Held::Nothing);
        let other = user_data(Kind::Recv, 0, index_of(id) as u32);
        assert!(table.get(other).is_none());
        assert!(table.get(u64::from(u32::MAX)).is_none());
        assert!(table.get(0).is_none());
    }

    #[test]
    fn generations_go_round() {
        let mut table = Table::new();
        table.begin_with_generation(0);
        let first = table.insert(Kind::Nop, 1, Held::Nothing);
        table.remove(first);
        table.set_generation(index_of(first), GENERATIONS - 1);
        let last = table.insert(Kind::Nop, 2, Held::Nothing);
        assert!(table.get(first).is_none());
        table.remove(last);
        let round = table.insert(Kind::Nop, 3, Held::Nothing);
        assert_eq!(round, first);
        assert_eq!(table.get(round).map(|entry| entry.token), Some(3));
    }

    #[test]
    fn entries_stay_small() {
        assert!(std::mem::size_of::<Entry>() <= 64);
    }
}
