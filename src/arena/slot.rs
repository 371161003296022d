//! A slot: a part of an arena that one holder may write.

use super::CHUNK_BYTES;
use super::header::{Header, Kind, release};
use super::piece::Piece;
use std::fmt;
use std::ptr::NonNull;

/// A slot held exclusively: the kernel may write it (I12). Dropping it returns it to the pool.
pub struct Slot {
    /// Holds one reference.
    pub(super) header: NonNull<Header>,
}

// SAFETY: a slot is the sole owner of its bytes (but for pieces already split off, M3).
unsafe impl Send for Slot {}
// SAFETY: shared access only reads constants of the header.
unsafe impl Sync for Slot {}

impl Slot {
    /// Its number in the arena: below `Arena::max_slots`, or equal to it for the reserve slot.
    pub fn index(&self) -> u32 {
        self.header().index
    }

    /// The chunk it lies in, counted as in `Arena::chunk_iovecs`; `u32::MAX` for the reserve
    /// slot, which lies in none.
    pub fn chunk(&self) -> u32 {
        let header = self.header();
        // SAFETY: a slot that is out keeps its arena alive by its strong count.
        let shared = unsafe { &*header.arena };
        if header.index as usize == shared.max_slots {
            return u32::MAX;
        }
        header.index / (CHUNK_BYTES / shared.slot_size) as u32
    }

    /// Start of its bytes.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.header().data()
    }

    /// Bytes it has.
    pub fn capacity(&self) -> usize {
        self.header().capacity()
    }

    /// Turns the first `len` bytes (at most the capacity) into a shared, immutable piece.
    ///
    /// # Safety
    /// The kernel (or whoever was given the pointer) has finished with this slot and writes it no
    /// more (I12).
    pub unsafe fn filled(self, len: usize) -> Piece {
        let header = self.header;
        std::mem::forget(self);
        let len = len.min(
            // SAFETY: the reference just taken over keeps the header alive (M1).
            unsafe { header.as_ref() }.capacity(),
        );
        // SAFETY: the slot's one reference moves to the piece; nobody writes the range again, by
        // the caller's contract; the bytes are initialised (M2).
        unsafe { Piece::from_raw(header.as_ref().data(), len, header) }
    }

    /// Splits `len` bytes from `offset` off as a shared piece, while the rest stays writable: for
    /// incremental buffers. Clamped to the slot's bounds.
    ///
    /// # Safety
    /// Nobody writes that range again as long as this slot is out (I12, M3).
    pub unsafe fn share(&self, offset: usize, len: usize) -> Piece {
        let header = self.header();
        let offset = offset.min(header.capacity());
        let len = len.min(header.capacity() - offset);
        header.retain();
        // SAFETY: one new reference for the piece; in bounds; never written again by contract.
        unsafe { Piece::from_raw(header.data().add(offset), len, self.header) }
    }

    /// Copies as much of `bytes` as fits into the slot and turns it into a piece: what a kernel
    /// would do, for drivers that are not one.
    pub fn filled_with(self, bytes: &[u8]) -> Piece {
        let len = bytes.len().min(self.capacity());
        // SAFETY: the slot is exclusive and `len` within it; `bytes` cannot overlap it, since
        // safe code has no reference into an exclusive slot. Afterwards nobody writes it.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.as_mut_ptr(), len);
            self.filled(len)
        }
    }

    fn header(&self) -> &Header {
        // SAFETY: the slot's reference keeps its header alive (M1).
        unsafe { self.header.as_ref() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: gives up the slot's one reference (M1).
        unsafe { release(self.header) };
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug_assert_eq!(self.header().kind(), Kind::Slot);
        f.debug_struct("Slot")
            .field("index", &self.index())
            .field("capacity", &self.capacity())
            .finish()
    }
}
