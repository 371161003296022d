//! Refcounted memory as its user sees it.

use super::header::{Header, Kind, new_block, release};
use std::fmt;
use std::ptr::NonNull;

/// Refcounted memory, from the heap or from a slot of an [`Arena`](super::Arena). Cloning adds a
/// reference; the last one to go returns the memory to its pool.
///
/// All of its bytes are initialised; they can be written only while it is unique.
///
/// ```
/// use evring::arena::Block;
///
/// let mut block = Block::with_capacity(600);
/// assert_eq!(block.capacity(), 1024); // the size class above
/// block.bytes_mut().expect("just made, so unique")[..2].copy_from_slice(b"hi");
/// let other = block.clone();
/// assert!(block.bytes_mut().is_none());
/// assert_eq!(&other.bytes()[..2], b"hi");
/// ```
pub struct Block {
    header: NonNull<Header>,
}

// SAFETY: a block is reached through an atomic count, and written only when unique (M3).
unsafe impl Send for Block {}
// SAFETY: shared access only reads.
unsafe impl Sync for Block {}

impl Block {
    /// A unique block with room for at least `min` bytes: the next size class (512 B … 64 KiB,
    /// recycled by the thread's pool), or exactly `min` above that.
    pub fn with_capacity(min: usize) -> Self {
        Block {
            header: new_block(min),
        }
    }

    /// Bytes it has.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.header().capacity()
    }

    /// True when this is the only reference.
    #[inline]
    pub fn is_unique(&self) -> bool {
        self.header().is_unique()
    }

    /// True when its memory is a slot of an arena.
    #[inline]
    pub fn is_slot(&self) -> bool {
        self.header().kind() == Kind::Slot
    }

    /// All of its bytes, written or not (what nobody wrote is zero or left from an earlier use).
    pub fn bytes(&self) -> &[u8] {
        let header = self.header();
        // SAFETY: initialised (M2), alive (M1), and no segment owns room in a block that a `Block`
        // handle refers to: one becomes the other by value (M3).
        unsafe { std::slice::from_raw_parts(header.data(), header.capacity()) }
    }

    /// All of its bytes for writing, when this is the only reference.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        let header = self.header();
        // SAFETY: unique and borrowed mutably: nobody else reads or writes (M3); initialised (M2).
        header
            .is_unique()
            .then(|| unsafe { std::slice::from_raw_parts_mut(header.data(), header.capacity()) })
    }

    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: this handle's reference keeps the header alive (M1).
        unsafe { self.header.as_ref() }
    }

    /// Gives the reference away.
    pub(super) fn into_raw(self) -> NonNull<Header> {
        let header = self.header;
        std::mem::forget(self);
        header
    }
}

impl Clone for Block {
    fn clone(&self) -> Self {
        self.header().retain();
        Block {
            header: self.header,
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: gives up this handle's one reference (M1).
        unsafe { release(self.header) };
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("capacity", &self.capacity())
            .field("slot", &self.is_slot())
            .field("unique", &self.is_unique())
            .finish()
    }
}
