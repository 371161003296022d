//! An immutable range of bytes, shared by reference counting.

use super::block::Block;
use super::header::{self, Header, Kind, release};
use bytes::Bytes;
use std::fmt;
use std::ops::{Bound, Deref, RangeBounds};
use std::ptr::NonNull;

/// An immutable range of bytes with shared ownership: part of a slot, of a heap block, of a
/// [`Bytes`], or of static data. Three words; cloning and splitting copy no bytes.
///
/// ```text
///   ptr ──► first byte        len        owner ──► header of the block, or none when static
/// ```
///
/// A piece keeps all of its block alive: a short one cut from a large slot pins the slot.
///
/// ```
/// use evring::arena::Piece;
///
/// let mut rest = Piece::from(b"hello world".to_vec());
/// let hello = rest.split_to(5);
/// rest.advance(1);
/// assert_eq!((&hello[..], &rest[..]), (&b"hello"[..], &b"world"[..]));
/// assert_eq!(bytes::Bytes::from(rest), "world");
/// ```
pub struct Piece {
    ptr: NonNull<u8>,
    len: usize,
    owner: Option<NonNull<Header>>,
}

// SAFETY: the bytes are never written while a piece can see them (M3); the count is atomic.
unsafe impl Send for Piece {}
// SAFETY: as above.
unsafe impl Sync for Piece {}

impl Piece {
    /// An empty piece.
    pub const fn new() -> Self {
        Self::from_static(&[])
    }

    /// A piece of static data; nothing is counted or freed.
    pub const fn from_static(bytes: &'static [u8]) -> Self {
        Piece {
            // A slice's pointer is never null.
            ptr: NonNull::from_ref(bytes).cast(),
            len: bytes.len(),
            owner: None,
        }
    }

    /// A copy of `bytes` in a pooled heap block.
    pub fn copy_from(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Piece::new();
        }
        let mut block = Block::with_capacity(bytes.len());
        if let Some(room) = block.bytes_mut() {
            room[..bytes.len()].copy_from_slice(bytes);
        }
        Self::from_block(block, ..bytes.len())
    }

    /// A range of a block; clamped to the block's bounds.
    pub fn from_block(block: Block, range: impl RangeBounds<usize>) -> Self {
        let (start, end) = clamp(range, block.capacity());
        let header = block.into_raw();
        // SAFETY: the block's reference moves to the piece; the range is in bounds and initialised
        // (M2). Other `Block` handles can write only once they are the sole reference (M3).
        unsafe { Piece::from_raw(header.as_ref().data().add(start), end - start, header) }
    }

    /// # Safety
    /// `ptr..ptr + len` lies in the bytes of `header`, is initialised, and nobody writes it while a
    /// piece can see it (M3). The caller hands over one reference (M1).
    #[inline]
    pub(super) unsafe fn from_raw(ptr: *mut u8, len: usize, header: NonNull<Header>) -> Self {
        Piece {
            // SAFETY: a header's data pointer is never null.
            ptr: unsafe { NonNull::new_unchecked(ptr) },
            len,
            owner: Some(header),
        }
    }

    /// As [`Piece::from_raw`], for an owner that may be static.
    ///
    /// # Safety
    /// As [`Piece::from_raw`]; without an owner the bytes are static.
    #[inline]
    pub(super) unsafe fn from_parts(
        ptr: NonNull<u8>,
        len: usize,
        owner: Option<NonNull<Header>>,
    ) -> Self {
        Piece { ptr, len, owner }
    }

    /// Gives the parts and the reference away.
    #[inline]
    pub(super) fn into_parts(self) -> (NonNull<u8>, usize, Option<NonNull<Header>>) {
        let parts = (self.ptr, self.len, self.owner);
        std::mem::forget(self);
        parts
    }

    /// The first byte's address: stable as long as any piece of the same block lives.
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        self.ptr.as_ptr()
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when it has no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// True when its bytes lie in a slot of an arena.
    #[inline]
    pub fn is_slot(&self) -> bool {
        self.header()
            .is_some_and(|header| header.kind() == Kind::Slot)
    }

    /// True when its bytes are somebody else's: the last reference runs their destructor.
    #[inline]
    pub(crate) fn is_foreign(&self) -> bool {
        self.header()
            .is_some_and(|header| header.kind() == Kind::Foreign)
    }

    /// True when no other piece, slot or block refers to the same memory; static data never is.
    #[inline]
    pub fn is_unique(&self) -> bool {
        self.header().is_some_and(Header::is_unique)
    }

    /// Bytes of memory that it keeps alive: its block's capacity; its own length when the bytes
    /// are somebody else's.
    pub fn pinned_bytes(&self) -> usize {
        self.header().map_or(self.len, Header::capacity)
    }

    /// Splits the first `n` bytes off (all, when it has fewer) and leaves the rest.
    #[must_use = "the bytes split off are gone from this piece"]
    pub fn split_to(&mut self, n: usize) -> Piece {
        if n >= self.len {
            return std::mem::take(self);
        }
        let front = self.slice(..n);
        self.advance(n);
        front
    }

    /// Drops the first `n` bytes (all, when it has fewer).
    #[inline]
    pub fn advance(&mut self, n: usize) {
        let n = n.min(self.len);
        // SAFETY: at most one past the end of the range.
        self.ptr = unsafe { self.ptr.add(n) };
        self.len -= n;
    }

    /// Keeps the first `n` bytes.
    #[inline]
    pub fn truncate(&mut self, n: usize) {
        self.len = self.len.min(n);
    }

    /// A piece of the same memory; the range is clamped to its bounds.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Piece {
        let (start, end) = clamp(range, self.len);
        if start == end {
            return Piece::new();
        }
        let mut piece = self.clone();
        piece.truncate(end);
        piece.advance(start);
        piece
    }

    #[inline]
    fn header(&self) -> Option<&Header> {
        // SAFETY: the piece's reference keeps its header alive (M1).
        self.owner.as_ref().map(|header| unsafe { header.as_ref() })
    }
}

impl Deref for Piece {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: initialised (M2), kept alive by the owner (M1), not written while visible (M3).
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for Piece {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Clone for Piece {
    #[inline]
    fn clone(&self) -> Self {
        if let Some(header) = self.header() {
            header.retain();
        }
        Piece {
            ptr: self.ptr,
            len: self.len,
            owner: self.owner,
        }
    }
}

impl Drop for Piece {
    #[inline]
    fn drop(&mut self) {
        if let Some(header) = self.owner {
            // SAFETY: gives up the piece's one reference (M1).
            unsafe { release(header) };
        }
    }
}

impl Default for Piece {
    fn default() -> Self {
        Piece::new()
    }
}

impl From<Bytes> for Piece {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            return Piece::new();
        }
        let len = bytes.len();
        let header = header::new_foreign(bytes);
        // SAFETY: the `Bytes` in the header keeps its range alive, initialised and immutable.
        unsafe { Piece::from_raw(header.as_ref().data(), len, header) }
    }
}

impl From<Vec<u8>> for Piece {
    fn from(bytes: Vec<u8>) -> Self {
        Piece::from(Bytes::from(bytes))
    }
}

impl From<&'static [u8]> for Piece {
    fn from(bytes: &'static [u8]) -> Self {
        Piece::from_static(bytes)
    }
}

impl From<&'static str> for Piece {
    fn from(text: &'static str) -> Self {
        Piece::from_static(text.as_bytes())
    }
}

impl From<Piece> for Bytes {
    /// Without a copy.
    fn from(piece: Piece) -> Bytes {
        match piece.owner {
            _ if piece.is_empty() => Bytes::new(),
            // SAFETY: a piece without an owner is a slice of static data.
            None => Bytes::from_static(unsafe {
                std::slice::from_raw_parts(piece.ptr.as_ptr(), piece.len)
            }),
            Some(header) if piece.header().is_some_and(|h| h.kind() == Kind::Foreign) => {
                // SAFETY: just checked to be Foreign; `piece` holds a reference meanwhile.
                let bytes = unsafe { header::foreign_bytes(header) };
                bytes.slice_ref(&piece)
            }
            Some(_) => Bytes::from_owner(piece),
        }
    }
}

impl PartialEq for Piece {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Eq for Piece {}

impl std::hash::Hash for Piece {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self[..].hash(state);
    }
}

impl std::borrow::Borrow<[u8]> for Piece {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq<[u8]> for Piece {
    fn eq(&self, other: &[u8]) -> bool {
        self[..] == *other
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.header().map(Header::kind) {
            None => "static",
            Some(Kind::Slot) => "slot",
            Some(Kind::Pooled | Kind::Exact | Kind::Charged) => "heap",
            Some(Kind::Foreign) => "shared",
        };
        write!(f, "Piece({kind}, {} bytes)", self.len)
    }
}

/// Start and end of `range` within `0..len`, start not after end.
fn clamp(range: impl RangeBounds<usize>, len: usize) -> (usize, usize) {
    let end = match range.end_bound() {
        Bound::Included(&end) => end.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => len,
    }
    .min(len);
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    }
    .min(end);
    (start, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_and_slices_clamp() {
        let mut piece = Piece::copy_from(b"0123456789");
        assert_eq!(&piece.split_to(3)[..], b"012");
        assert_eq!(&piece.slice(1..3)[..], b"45");
        assert_eq!(&piece.slice(5..usize::MAX)[..], b"89");
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = piece.slice(5..2);
        assert!(reversed.is_empty());
        piece.advance(usize::MAX);
        assert!(piece.is_empty());
        assert!(piece.split_to(9).is_empty());
    }

    #[test]
    fn bytes_go_through_without_a_copy() {
        let bytes = Bytes::from(vec![7u8; 100]);
        let address = bytes.as_ptr();
        let mut piece = Piece::from(bytes);
        piece.advance(10);
        let back = Bytes::from(piece.clone());
        assert_eq!(back.as_ptr() as usize, address as usize + 10);
        drop(piece);
        assert_eq!(&back[..], [7u8; 90]);

        let heap = Piece::copy_from(b"heap");
        let address = heap.as_ptr();
        let bytes = Bytes::from(heap);
        assert_eq!(bytes.as_ptr(), address);
        assert_eq!(Bytes::from(Piece::from_static(b"static")), "static");
        assert!(Bytes::from(Piece::new()).is_empty());
    }

    #[test]
    fn a_foreign_owner_is_dropped_once() {
        struct Owner(
            #[expect(dead_code, reason = "counted, not read")] std::sync::Arc<()>,
            [u8; 4],
        );
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                &self.1
            }
        }
        let ledger = std::sync::Arc::new(());
        let piece = Piece::from(Bytes::from_owner(Owner(ledger.clone(), *b"data")));
        let copy = piece.clone();
        drop(piece);
        assert_eq!(std::sync::Arc::strong_count(&ledger), 2);
        assert_eq!(&copy[..], b"data");
        drop(copy);
        assert_eq!(std::sync::Arc::strong_count(&ledger), 1);
    }

    #[test]
    fn uniqueness_follows_clones() {
        let piece = Piece::copy_from(b"x");
        assert!(piece.is_unique());
        let copy = piece.clone();
        assert!(!piece.is_unique());
        drop(copy);
        assert!(piece.is_unique());
        assert!(!Piece::from_static(b"x").is_unique());
    }
}
