//! A piece that may own the room around it: what a buffer writes into.

use super::block::Block;
use super::header::{self, Header, Kind, release};
use super::piece::Piece;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::NonNull;

#[cfg(test)]
mod tests;

/// A range of bytes, plus the unwritten room behind it that this segment alone may fill.
///
/// ```text
///   block:  [ drained ..... | bytes .......... | room ........ ]
///             ▲               ▲ ptr      len     ▲ ptr + len
///             └ room in front, but only while no one else refers to the block
/// ```
///
/// Pieces cloned out of a segment share its bytes and never its room, so appending stays possible
/// while earlier bytes are being sent.
pub struct Segment {
    ptr: NonNull<u8>,
    len: usize,
    /// Bytes behind `ptr + len`, within the block, that no one else reads or writes (M3).
    room: usize,
    owner: Option<NonNull<Header>>,
}

// SAFETY: bytes are immutable while shared, the room is exclusive (M3), the count is atomic.
unsafe impl Send for Segment {}
// SAFETY: shared access only reads bytes that are not written without `&mut`.
unsafe impl Sync for Segment {}

impl Segment {
    /// An empty segment over a fresh heap block with room for at least `min` bytes.
    #[inline]
    pub fn with_capacity(min: usize) -> Self {
        Self::over(header::new_block(min))
    }

    /// As [`Segment::with_capacity`], but `None` where the allocator refuses a large block.
    pub fn try_with_capacity(min: usize) -> Option<Self> {
        header::try_new_block(min).map(Self::over)
    }

    /// An empty segment over a fresh block for a copy of up to `n` bytes out of this one, charged
    /// to the arena that they come from. It fits tightly: its room may be less.
    pub(crate) fn copy_room(&self, n: usize) -> Self {
        Self::over(header::new_copy(self.header(), n))
    }

    /// As [`Segment::try_with_capacity`], for a copy of bytes of this one, charged to the arena
    /// that they come from.
    pub(crate) fn try_copy_room(&self, min: usize) -> Option<Self> {
        header::try_new_copy(self.header(), min).map(Self::over)
    }

    /// True when copies of its bytes are charged to an arena.
    pub(crate) fn is_received(&self) -> bool {
        self.header()
            .is_some_and(|header| matches!(header.kind(), Kind::Slot | Kind::Charged))
    }

    /// True when both lie in the same slot, block, or foreign bytes.
    pub(crate) fn shares_memory(&self, other: &Segment) -> bool {
        self.owner.is_some() && self.owner == other.owner
    }

    /// Bytes of memory that it keeps: its slot or block whole, foreign bytes as far as they were
    /// given, nothing for static data.
    pub(crate) fn pinned_bytes(&self) -> usize {
        self.header().map_or(0, Header::capacity)
    }

    #[inline]
    fn over(header: NonNull<Header>) -> Self {
        // SAFETY: the fresh block's one reference is ours (M1); nobody else knows it, so all of it
        // is our room (M3).
        unsafe {
            Segment {
                ptr: NonNull::new_unchecked(header.as_ref().data()),
                len: 0,
                room: header.as_ref().capacity(),
                owner: Some(header),
            }
        }
    }

    /// An empty segment whose room lies in front: prepends fill it from the block's end backwards.
    pub fn for_prepend(min: usize) -> Self {
        let mut segment = Self::with_capacity(min);
        segment.room_to_front();
        segment
    }

    /// Gives the room behind an empty segment to its front, where prepends can use it as long as
    /// nobody else refers to the block. Does nothing to a segment with bytes.
    #[inline]
    pub fn room_to_front(&mut self) {
        if self.len == 0 {
            // SAFETY: at most one past the block's end.
            self.ptr = unsafe { self.ptr.add(self.room) };
            self.room = 0;
        }
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when it has no bytes (it may have room).
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that can still be appended.
    #[inline]
    pub fn room(&self) -> usize {
        self.room
    }

    /// Capacity of the block behind it; its own length when the bytes are somebody else's.
    pub fn block_capacity(&self) -> usize {
        self.header().map_or(self.len, Header::capacity)
    }

    /// True when its bytes lie in a slot of an arena.
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

    /// True when its bytes lie in a heap block of this library.
    pub fn is_heap(&self) -> bool {
        self.header()
            .is_some_and(|header| !matches!(header.kind(), Kind::Slot | Kind::Foreign))
    }

    /// Turns all of a pooled heap block that nobody else refers to back into room, without its
    /// bytes; returns the block's size class. `None`, and nothing changed, for any other memory.
    #[inline]
    pub fn recycle(&mut self) -> Option<usize> {
        let header = self.header()?;
        if header.kind() != Kind::Pooled || !header.is_unique() {
            return None;
        }
        let (data, capacity, class) = (header.data(), header.capacity(), header.index as usize);
        // SAFETY: a header's data pointer is never null; as the sole reference we may take all of
        // the block back (M3).
        self.ptr = unsafe { NonNull::new_unchecked(data) };
        self.len = 0;
        self.room = capacity;
        Some(class)
    }

    /// True when nobody else refers to its memory.
    pub fn is_unique(&self) -> bool {
        self.header().is_some_and(Header::is_unique)
    }

    /// Appends all of `bytes` if they fit into the room; false, and nothing changed, if not.
    #[inline]
    pub fn append(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.room {
            return false;
        }
        // SAFETY: the room is ours alone (M3) and large enough; `bytes` cannot lie in it, since
        // nobody has a reference to it while we are borrowed mutably.
        unsafe {
            let end = self.ptr.as_ptr().add(self.len);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), end, bytes.len());
        }
        self.len += bytes.len();
        self.room -= bytes.len();
        true
    }

    /// The room behind the bytes; initialised memory, of unspecified content.
    #[inline]
    pub fn spare(&mut self) -> &mut [u8] {
        // SAFETY: exclusive (M3), initialised (M2), alive (M1), borrowed with us.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr().add(self.len), self.room) }
    }

    /// Makes the first `n` bytes of the room part of the bytes; at most the room. Returns how many.
    #[inline]
    pub fn commit(&mut self, n: usize) -> usize {
        let n = n.min(self.room);
        self.len += n;
        self.room -= n;
        n
    }

    /// Bytes that can be put in front without a copy: none while the block is shared or foreign.
    pub fn front_room(&self) -> usize {
        match self.header() {
            Some(header) if header.kind() != Kind::Foreign && header.is_unique() => {
                self.ptr.as_ptr() as usize - header.data() as usize
            }
            _ => 0,
        }
    }

    /// Puts as much of the end of `bytes` as fits in front of its bytes; returns how many.
    pub fn prepend(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.front_room());
        // SAFETY: `front_room` bytes before `ptr` lie in the block, and as the sole reference we
        // may take drained bytes back (M3); `bytes` cannot lie there, nobody has a reference to it.
        unsafe {
            let start = self.ptr.sub(n);
            let source = bytes.as_ptr().add(bytes.len() - n);
            std::ptr::copy_nonoverlapping(source, start.as_ptr(), n);
            self.ptr = start;
        }
        self.len += n;
        n
    }

    /// Its bytes for writing, when nobody else refers to them and they are not foreign.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        let header = self.header()?;
        if header.kind() == Kind::Foreign || !header.is_unique() {
            return None;
        }
        // SAFETY: sole reference, borrowed mutably (M3); initialised (M2).
        Some(unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) })
    }

    /// Drops the first `n` bytes (all, when it has fewer).
    #[inline]
    pub fn advance(&mut self, n: usize) {
        let n = n.min(self.len);
        // SAFETY: at most one past the end of the bytes.
        self.ptr = unsafe { self.ptr.add(n) };
        self.len -= n;
    }

    /// Keeps the first `n` bytes. The room is lost unless nobody else refers to the memory.
    pub fn truncate(&mut self, n: usize) {
        if n >= self.len {
            return;
        }
        let cut = self.len - n;
        self.len = n;
        // The bytes cut off may be visible to others: they become room only for a sole owner.
        self.room = match self.bytes_mut() {
            Some(_) => self.room + cut,
            None => 0,
        };
    }

    /// A piece of the whole range, sharing the memory.
    #[inline]
    pub fn piece(&self) -> Piece {
        self.piece_of(self.len)
    }

    /// A piece of the first `n` bytes (at most all), sharing the memory.
    #[inline]
    pub fn piece_of(&self, n: usize) -> Piece {
        if let Some(header) = self.header() {
            header.retain();
        }
        // SAFETY: one new reference; the bytes before the room are never written again while
        // others see them (M3).
        unsafe { Piece::from_parts(self.ptr, n.min(self.len), self.owner) }
    }

    /// Splits the first `n` bytes off (all, when it has fewer); the room stays here.
    pub fn split_to(&mut self, n: usize) -> Piece {
        let piece = self.piece_of(n);
        self.advance(n);
        piece
    }

    /// Gives the room up.
    #[inline]
    pub fn into_piece(self) -> Piece {
        let this = ManuallyDrop::new(self);
        // SAFETY: the reference moves (M1); without the segment nobody writes the room.
        unsafe { Piece::from_parts(this.ptr, this.len, this.owner) }
    }

    #[inline]
    fn header(&self) -> Option<&Header> {
        // SAFETY: the segment's reference keeps its header alive (M1).
        self.owner.as_ref().map(|header| unsafe { header.as_ref() })
    }
}

impl From<Piece> for Segment {
    /// Without room.
    #[inline]
    fn from(piece: Piece) -> Self {
        let (ptr, len, owner) = piece.into_parts();
        Segment {
            ptr,
            len,
            room: 0,
            owner,
        }
    }
}

impl From<Block> for Segment {
    /// All of the block becomes room if nobody else refers to it, bytes if somebody does.
    fn from(mut block: Block) -> Self {
        if block.bytes_mut().is_none() {
            return Segment::from(Piece::from_block(block, ..));
        }
        let header = block.into_raw();
        // SAFETY: the unique reference moves here, so all of the block is ours (M3).
        unsafe {
            Segment {
                ptr: NonNull::new_unchecked(header.as_ref().data()),
                len: 0,
                room: header.as_ref().capacity(),
                owner: Some(header),
            }
        }
    }
}

impl Deref for Segment {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: initialised (M2), alive (M1), not written without `&mut self` (M3).
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for Segment {
    #[inline]
    fn drop(&mut self) {
        if let Some(header) = self.owner {
            // SAFETY: gives up the segment's one reference (M1).
            unsafe { release(header) };
        }
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.header().map(Header::kind) {
            None => "static",
            Some(Kind::Slot) => "slot",
            Some(Kind::Pooled | Kind::Exact | Kind::Charged) => "heap",
            Some(Kind::Foreign) => "shared",
        };
        write!(f, "{kind} {}", self.len)?;
        if self.room > 0 {
            write!(f, "+{}", self.room)?;
        }
        Ok(())
    }
}
