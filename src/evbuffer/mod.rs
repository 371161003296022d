//! A queue of bytes: appended at the end, drained from the front, moved between buffers by
//! reference (libevent: `struct evbuffer`).
//!
//! ```text
//!   EvBuffer { chain, len, flags, extra }
//!                │
//!                ▼ one pooled node each
//!              [ slot 16384 ] ─► [ heap 100 + room 412 ] ─► [ file 1 MiB ] ─► [ shared 5 ]
//! ```
//!
//! A buffer works without a base and reads no clock. It is `Send`. An empty one owns no memory.
//! Segments are shared by reference counting: what is being sent stays where it lies (I7), whatever
//! happens to the buffer meanwhile.
//!
//! Invariants: only the last segment may be empty (it then has room); `len` is the sum of the
//! segments' lengths; an empty buffer that was drained has no segments.

mod bytes_traits;
mod callbacks;
mod counters;
mod error;
mod fd;
mod file;
mod owner;
mod pinned;
mod prepend;
mod reserve;
mod search;
mod seg;
mod shape;
mod spare;
mod spent;
mod std_io;
mod view;

pub use callbacks::{CallbackId, Change};
pub use counters::copied_bytes;
pub use error::BufferError;
pub use file::FileSegment;
#[allow(unused_imports, reason = "for the input of bufferevents")]
pub(crate) use pinned::Pinning;
pub use reserve::Reservation;
pub use search::{Eol, Ptr};
pub(crate) use spent::Spent;
pub use view::Segments;

use crate::arena::{Chain, MAX_BLOCK_BYTES, MIN_BLOCK_BYTES, Piece, Segment};
use callbacks::Extra;
use counters::count_copy;
use seg::Seg;

/// Nothing may be drained or prepended.
const FROZEN_START: u8 = 1;
/// Nothing may be appended.
const FROZEN_END: u8 = 2;
/// There may be file ranges in the chain.
const FILES: u8 = 4;
/// There are callbacks.
const WATCHED: u8 = 8;
/// There may be bytes in the chain whose owner's destructor is code of the user.
const OWNERS: u8 = 16;
/// Changes are noted for the callbacks, and told only when the buffer's holder says so.
const HELD: u8 = 32;
/// What flags say about the content; it moves with the bytes. Dropping such content runs code of
/// the user: an owner's destructor, or what waits for a file segment's end.
const CONTENT: u8 = FILES | OWNERS;

/// A queue of bytes in segments; see the [module](self) for its shape.
///
/// ```
/// use evring::evbuffer::EvBuffer;
///
/// # fn main() -> Result<(), evring::evbuffer::BufferError> {
/// let mut buffer = EvBuffer::new();
/// buffer.add(b"hello ")?;
/// buffer.add(b"world")?;
/// let mut word = [0; 5];
/// assert_eq!(buffer.remove(&mut word)?, 5);
/// assert_eq!(&word, b"hello");
/// assert_eq!(buffer.len(), 6);
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct EvBuffer {
    chain: Chain<Seg>,
    len: usize,
    extra: Option<Box<Extra>>,
    /// Whose buffer it is: a number that its bufferevent gave it; 0 = nobody's.
    id: u32,
    flags: u8,
}

const _: () = assert!(size_of::<EvBuffer>() <= 48);

impl EvBuffer {
    /// Most bytes that a buffer can count: `isize::MAX`.
    pub const MAX_LEN: usize = isize::MAX as usize;

    /// An empty buffer; allocates nothing (libevent: `evbuffer_new`).
    #[inline]
    pub const fn new() -> Self {
        EvBuffer {
            chain: Chain::new(),
            len: 0,
            extra: None,
            id: 0,
            flags: 0,
        }
    }

    /// Bytes in the buffer (libevent: `evbuffer_get_length`).
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there are no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a copy of `data` (libevent: `evbuffer_add`).
    ///
    /// # Errors
    /// A frozen end; a length past [`EvBuffer::MAX_LEN`].
    #[inline]
    pub fn add(&mut self, data: &[u8]) -> Result<(), BufferError> {
        if self.flags & (FROZEN_END | WATCHED) == 0
            && data.len() <= Self::MAX_LEN.saturating_sub(self.len)
            && let Some(Seg::Mem(tail)) = self.chain.back_mut()
            && tail.append(data)
        {
            self.len += data.len();
            count_copy(data.len());
            return Ok(());
        }
        self.add_slow(data)
    }

    /// Appends a piece by reference (libevent: `evbuffer_add_reference`). `Bytes`, `Vec<u8>` and
    /// static data convert into pieces; see [`EvBuffer::add_owner`] for anything else.
    ///
    /// # Errors
    /// A frozen end; a length past [`EvBuffer::MAX_LEN`].
    pub fn add_piece(&mut self, piece: impl Into<Piece>) -> Result<(), BufferError> {
        self.check_end()?;
        let piece = piece.into();
        self.check_growth(piece.len())?;
        self.flags |= content_of(&piece);
        self.push_piece(piece);
        Ok(())
    }

    /// Appends the bytes of `owner` by reference and drops it when they are drained and no longer
    /// in use (libevent: `evbuffer_add_reference` with a cleanup callback).
    ///
    /// # Errors
    /// A frozen end; a length past [`EvBuffer::MAX_LEN`]. The owner is dropped.
    pub fn add_owner<T>(&mut self, owner: T) -> Result<(), BufferError>
    where
        T: AsRef<[u8]> + Send + 'static,
    {
        self.add_piece(bytes::Bytes::from_owner(owner))
    }

    /// Moves everything in `from` to the end of this buffer, by reference, in constant time
    /// (libevent: `evbuffer_add_buffer`). A few bytes that were written behind others are copied
    /// into the room there instead: many of them share a block then.
    ///
    /// # Errors
    /// This end or the other's front frozen; a length past [`EvBuffer::MAX_LEN`].
    pub fn add_buffer(&mut self, from: &mut EvBuffer) -> Result<(), BufferError> {
        self.check_end()?;
        from.check_start()?;
        self.check_growth(from.len)?;
        self.take_all(from);
        Ok(())
    }

    /// Drops the first `n` bytes, or all when there are fewer; returns how many (libevent:
    /// `evbuffer_drain`).
    ///
    /// # Errors
    /// A frozen front.
    #[inline]
    pub fn drain(&mut self, n: usize) -> Result<usize, BufferError> {
        self.check_start()?;
        Ok(self.drain_front(n))
    }

    /// Copies the first bytes to `out` and drains them; returns how many: the lesser of both
    /// lengths (libevent: `evbuffer_remove`).
    ///
    /// # Errors
    /// A frozen front; a file range that cannot be read.
    #[inline]
    pub fn remove(&mut self, out: &mut [u8]) -> Result<usize, BufferError> {
        // A bufferevent's input has a frozen end, which is no matter here.
        if self.flags & (FROZEN_START | FILES | WATCHED) == 0
            && let Some(Seg::Mem(front)) = self.chain.front_mut()
            && out.len() <= front.len()
        {
            out.copy_from_slice(&front[..out.len()]);
            front.advance(out.len());
            self.len -= out.len();
            count_copy(out.len());
            if front.is_empty() {
                self.drop_drained();
            }
            return Ok(out.len());
        }
        self.remove_slow(out)
    }

    /// Moves the first `n` bytes, or all when there are fewer, to the end of `to`, by reference;
    /// returns how many (libevent: `evbuffer_remove_buffer`).
    ///
    /// # Errors
    /// This front or the other's end frozen; the other's length past [`EvBuffer::MAX_LEN`].
    pub fn remove_buffer(&mut self, to: &mut EvBuffer, n: usize) -> Result<usize, BufferError> {
        self.check_start()?;
        to.check_end()?;
        let n = n.min(self.len);
        to.check_growth(n)?;
        Ok(self.transfer(to, n))
    }

    /// Splits the first `n` bytes, or all when there are fewer, off into a buffer of their own, by
    /// reference. The new buffer has no callbacks and is not frozen.
    ///
    /// # Errors
    /// A frozen front.
    pub fn split_to(&mut self, n: usize) -> Result<EvBuffer, BufferError> {
        let mut front = EvBuffer::new();
        self.remove_buffer(&mut front, n)?;
        Ok(front)
    }

    /// Appends what `from` holds, by reference, and leaves it there (libevent:
    /// `evbuffer_add_buffer_reference`).
    ///
    /// # Errors
    /// A frozen end; a length past [`EvBuffer::MAX_LEN`].
    pub fn add_buffer_reference(&mut self, from: &EvBuffer) -> Result<(), BufferError> {
        self.check_end()?;
        self.check_growth(from.len)?;
        for seg in from.chain.iter().filter(|seg| seg.len() > 0) {
            self.push_seg(seg.share());
        }
        self.flags |= from.flags & CONTENT;
        self.changed(from.len, 0);
        Ok(())
    }

    /// Refuses drains and prepends from now on (libevent: `evbuffer_freeze` at start).
    pub fn freeze_start(&mut self) {
        self.flags |= FROZEN_START;
    }

    /// Allows drains and prepends again (libevent: `evbuffer_unfreeze` at start).
    pub fn unfreeze_start(&mut self) {
        self.flags &= !FROZEN_START;
    }

    /// Refuses appends from now on (libevent: `evbuffer_freeze` at end).
    pub fn freeze_end(&mut self) {
        self.flags |= FROZEN_END;
    }

    /// Allows appends again (libevent: `evbuffer_unfreeze` at end).
    pub fn unfreeze_end(&mut self) {
        self.flags &= !FROZEN_END;
    }

    #[inline(never)]
    fn add_slow(&mut self, data: &[u8]) -> Result<(), BufferError> {
        self.check_end()?;
        self.check_growth(data.len())?;
        if self.chain.is_empty()
            && let Some(mut spare) = spare::take(data.len())
            && let Seg::Mem(block) = spare.get_mut()
            && block.append(data)
        {
            self.chain.link_back(spare);
        } else {
            self.append_bytes(data);
        }
        count_copy(data.len());
        self.changed(data.len(), 0);
        Ok(())
    }

    /// Drops a first segment that was drained to its last byte.
    fn drop_drained(&mut self) {
        if self.len == 0 {
            spare::retire(&mut self.chain);
        } else {
            self.chain.drop_front();
        }
    }

    fn remove_slow(&mut self, out: &mut [u8]) -> Result<usize, BufferError> {
        self.check_start()?;
        let wanted = out.len().min(self.len);
        self.load(wanted)?;
        let mut filled = 0;
        for (at, bytes) in self.clip(0, wanted) {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            filled = at + bytes.len();
        }
        count_copy(filled);
        Ok(self.drain_front(filled))
    }

    /// Copies `data` to the chain's end, without a look at freezes and without counting it.
    fn append_bytes(&mut self, mut data: &[u8]) {
        loop {
            let mut tail_bytes = 0;
            if let Some(Seg::Mem(tail)) = self.chain.back_mut() {
                let n = tail.room().min(data.len());
                tail.append(&data[..n]);
                data = &data[n..];
                if data.is_empty() {
                    return;
                }
                tail_bytes = if tail.is_heap() {
                    tail.block_capacity()
                } else {
                    0
                };
            }
            if data.is_empty() {
                return;
            }
            self.push_seg(Seg::Mem(Segment::with_capacity(block_size(
                data.len(),
                tail_bytes,
            ))));
        }
    }

    /// Appends a segment to the chain; replaces an empty one at the end.
    #[inline]
    fn push_seg(&mut self, seg: Seg) {
        match self.chain.back_mut() {
            Some(tail) if tail.len() == 0 => *tail = seg,
            _ => self.chain.push_back(seg),
        }
    }

    /// Puts a segment at the chain's front.
    fn unshift_seg(&mut self, seg: Seg) {
        self.chain.push_front(seg);
    }

    /// Adjusts the length, and tells the callbacks.
    #[inline]
    fn changed(&mut self, added: usize, deleted: usize) {
        self.account(added, deleted);
        self.tell();
    }

    /// Adjusts the length. The callbacks hear of it from [`tell`](Self::tell), once everything
    /// that the operation changes is whole.
    #[inline]
    fn account(&mut self, added: usize, deleted: usize) {
        self.len = self.len + added - deleted;
        if self.flags & WATCHED != 0 {
            self.note_change(added, deleted);
        }
    }

    /// Tells the callbacks, unless they are held back.
    #[inline]
    fn tell(&mut self) {
        if self.flags & (WATCHED | HELD) == WATCHED {
            self.tell_watched();
        }
    }

    #[inline]
    fn check_start(&self) -> Result<(), BufferError> {
        if self.flags & FROZEN_START != 0 {
            return Err(BufferError::FrozenStart);
        }
        Ok(())
    }

    #[inline]
    fn check_end(&self) -> Result<(), BufferError> {
        if self.flags & FROZEN_END != 0 {
            return Err(BufferError::FrozenEnd);
        }
        Ok(())
    }

    #[inline]
    fn check_growth(&self, added: usize) -> Result<(), BufferError> {
        if added > Self::MAX_LEN.saturating_sub(self.len) {
            return Err(BufferError::TooLong);
        }
        Ok(())
    }
}

/// Capacity to ask for when `needed` bytes follow a block of `previous`: doubling, so that many
/// small appends share few blocks, between the pool's smallest and largest class.
#[inline]
fn block_size(needed: usize, previous: usize) -> usize {
    needed
        .max(previous.saturating_mul(2))
        .clamp(MIN_BLOCK_BYTES, MAX_BLOCK_BYTES)
}

/// The flag of a piece whose last reference runs code of the user.
#[inline]
fn content_of(piece: &Piece) -> u8 {
    if piece.is_foreign() { OWNERS } else { 0 }
}

/// Appends `from` to `to` without leaving an empty segment in the middle.
fn append_chain(to: &mut Chain<Seg>, from: &mut Chain<Seg>) {
    if let Some(tail) = to.back_mut()
        && tail.len() == 0
        && let Some(first) = from.pop_front()
    {
        *tail = first;
    }
    to.append(from);
}

#[cfg(test)]
mod tests;
