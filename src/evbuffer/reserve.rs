//! Room to write into before the bytes count.

use super::{BufferError, EvBuffer, Seg};
use crate::arena::Segment;
use std::fmt;

impl EvBuffer {
    /// Makes sure that at least `n` bytes can be appended next without another block (libevent:
    /// `evbuffer_expand`).
    ///
    /// # Errors
    /// No memory; a length past [`EvBuffer::MAX_LEN`].
    pub fn expand(&mut self, n: usize) -> Result<(), BufferError> {
        self.check_growth(n)?;
        if self.tail_room() < n {
            let block = Segment::try_with_capacity(n).ok_or(BufferError::NoMemory(n))?;
            self.push_seg(Seg::Mem(block));
        }
        Ok(())
    }

    /// Room for at least `n` contiguous bytes at the end, to be filled and committed (libevent:
    /// `evbuffer_reserve_space` with one extent, `evbuffer_commit_space`). Nothing changes until
    /// then.
    ///
    /// ```
    /// use evring::evbuffer::EvBuffer;
    ///
    /// # fn main() -> Result<(), evring::evbuffer::BufferError> {
    /// let mut buffer = EvBuffer::new();
    /// let mut room = buffer.reserve_space(100)?;
    /// room.as_mut_slice()[..2].copy_from_slice(b"ok");
    /// room.commit(2)?;
    /// assert_eq!(buffer.len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// A frozen end; no memory; a length past [`EvBuffer::MAX_LEN`].
    pub fn reserve_space(&mut self, n: usize) -> Result<Reservation<'_>, BufferError> {
        self.check_end()?;
        self.check_growth(n)?;
        let tail = self.tail_room();
        if tail >= n {
            return Ok(Reservation {
                buffer: self,
                tail,
                block: None,
            });
        }
        let block = Segment::try_with_capacity(n).ok_or(BufferError::NoMemory(n))?;
        Ok(Reservation {
            buffer: self,
            tail: 0,
            block: Some(block),
        })
    }

    /// As [`EvBuffer::reserve_space`], but in up to two extents: what is left of the last block,
    /// and a fresh one for the rest (libevent: `evbuffer_reserve_space` with two extents).
    ///
    /// # Errors
    /// As [`EvBuffer::reserve_space`].
    pub fn reserve_vectored(&mut self, n: usize) -> Result<Reservation<'_>, BufferError> {
        self.check_end()?;
        self.check_growth(n)?;
        let tail = self.tail_room();
        let block = match n.checked_sub(tail) {
            None | Some(0) => None,
            Some(rest) => {
                Some(Segment::try_with_capacity(rest).ok_or(BufferError::NoMemory(rest))?)
            }
        };
        Ok(Reservation {
            buffer: self,
            tail,
            block,
        })
    }

    /// Room behind the last segment.
    pub(super) fn tail_room(&self) -> usize {
        match self.chain.back() {
            Some(Seg::Mem(tail)) => tail.room(),
            _ => 0,
        }
    }
}

/// Room at a buffer's end that was reserved and not yet committed. Dropping it changes nothing.
///
/// The room may hold leftovers of earlier uses: commit only what was written.
pub struct Reservation<'a> {
    buffer: &'a mut EvBuffer,
    /// Room offered behind the last segment.
    tail: usize,
    block: Option<Segment>,
}

impl Reservation<'_> {
    /// Bytes reserved; at least what was asked for.
    pub fn len(&self) -> usize {
        self.tail + self.block.as_ref().map_or(0, Segment::room)
    }

    /// True when there is no room, after a reservation of zero bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first extent: all of it after [`EvBuffer::reserve_space`].
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let [first, second] = self.extents();
        if first.is_empty() { second } else { first }
    }

    /// Both extents, to be filled in this order; either may be empty.
    pub fn extents(&mut self) -> [&mut [u8]; 2] {
        let tail = match self.buffer.chain.back_mut() {
            Some(Seg::Mem(tail)) if self.tail > 0 => tail.spare(),
            _ => &mut [],
        };
        [tail, self.block.as_mut().map_or(&mut [], Segment::spare)]
    }

    /// Makes the first `n` bytes of the room part of the buffer.
    ///
    /// # Errors
    /// [`BufferError::OutOfRange`] when more than reserved, [`BufferError::TooLong`] past
    /// [`EvBuffer::MAX_LEN`]; nothing is committed then.
    pub fn commit(self, n: usize) -> Result<(), BufferError> {
        if n > self.len() {
            return Err(BufferError::OutOfRange {
                position: n,
                len: self.len(),
            });
        }
        self.buffer.check_growth(n)?;
        let mut rest = n;
        if self.tail > 0
            && let Some(Seg::Mem(tail)) = self.buffer.chain.back_mut()
        {
            rest -= tail.commit(rest);
        }
        if let Some(mut block) = self.block
            && rest > 0
        {
            block.commit(rest);
            self.buffer.push_seg(Seg::Mem(block));
        }
        self.buffer.changed(n, 0);
        Ok(())
    }
}

impl fmt::Debug for Reservation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reservation({} bytes)", self.len())
    }
}
