//! Looking at a buffer's bytes: segments, copies, contiguous views.

use super::{BufferError, EvBuffer, FILES, Ptr, Seg, count_copy};
use crate::arena::{self, Chain, Piece, Segment};
use bytes::Bytes;
use std::io::IoSlice;

impl EvBuffer {
    /// The bytes, segment by segment, without a copy, up to the first file range (libevent:
    /// `evbuffer_peek`).
    ///
    /// ```
    /// use evring::evbuffer::EvBuffer;
    ///
    /// # fn main() -> Result<(), evring::evbuffer::BufferError> {
    /// let mut buffer = EvBuffer::from("static ");
    /// buffer.add(b"and copied")?;
    /// let segments: Vec<&[u8]> = buffer.segments().collect();
    /// assert_eq!(segments, [&b"static "[..], b"and copied"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn segments(&self) -> Segments<'_> {
        Segments {
            chain: self.chain.iter(),
        }
    }

    /// The bytes one by one, up to the first file range.
    pub fn iter_bytes(&self) -> impl Iterator<Item = u8> + '_ {
        self.segments().flatten().copied()
    }

    /// Fills `out` with slices of at most `len` bytes from `start` on, and returns how many slices
    /// these bytes need, which may be more than `out` has (libevent: `evbuffer_peek`). Up to the
    /// first file range.
    pub fn peek<'a>(&'a self, start: Ptr, len: usize, out: &mut [IoSlice<'a>]) -> usize {
        let end = start.pos().saturating_add(len);
        let mut needed = 0;
        for (_, bytes) in self.clip(start.pos(), end) {
            if let Some(slot) = out.get_mut(needed) {
                *slot = IoSlice::new(bytes);
            }
            needed += 1;
        }
        needed
    }

    /// Bytes of the first segment, all that can be seen without a copy (empty when a file range is
    /// first).
    pub fn contiguous(&self) -> &[u8] {
        self.segments().next().unwrap_or_default()
    }

    /// Length of the first segment in memory (libevent: `evbuffer_get_contiguous_space`).
    pub fn contiguous_len(&self) -> usize {
        self.contiguous().len()
    }

    /// Bytes before the first file range: all that operations on `&self` see.
    pub fn resident_len(&self) -> usize {
        if self.flags & FILES == 0 {
            return self.len;
        }
        self.segments().map(<[u8]>::len).sum()
    }

    /// Copies the first bytes to `out` and leaves them here; returns how many: the lesser of both
    /// lengths (libevent: `evbuffer_copyout`).
    ///
    /// # Errors
    /// A file range that cannot be read; `out`'s content is then unspecified.
    pub fn copyout(&self, out: &mut [u8]) -> Result<usize, BufferError> {
        self.copyout_from(Ptr::START, out)
    }

    /// As [`EvBuffer::copyout`], from a position on (libevent: `evbuffer_copyout_from`).
    ///
    /// # Errors
    /// [`BufferError::OutOfRange`] for a position past the end; a file range that cannot be read.
    pub fn copyout_from(&self, start: Ptr, out: &mut [u8]) -> Result<usize, BufferError> {
        let mut skip = self.check_position(start.pos())?;
        let wanted = out.len().min(self.len - skip);
        let mut rest = &mut out[..wanted];
        let mut chain = self.chain.iter();
        while !rest.is_empty()
            && let Some(seg) = chain.next()
        {
            if skip >= seg.len() {
                skip -= seg.len();
                continue;
            }
            let (target, after) = rest.split_at_mut(rest.len().min(seg.len() - skip));
            match seg {
                Seg::Mem(segment) => target.copy_from_slice(&segment[skip..][..target.len()]),
                Seg::File(range) => range.read_exact(skip, target)?,
            }
            rest = after;
            skip = 0;
        }
        count_copy(wanted);
        Ok(wanted)
    }

    /// A copy of all bytes.
    ///
    /// # Errors
    /// A file range that cannot be read; no memory.
    pub fn to_vec(&self) -> Result<Vec<u8>, BufferError> {
        let mut out = Vec::new();
        out.try_reserve_exact(self.len)
            .map_err(|_| BufferError::NoMemory(self.len))?;
        out.resize(self.len, 0);
        self.copyout(&mut out)?;
        Ok(out)
    }

    /// Makes the first `n` bytes contiguous and returns them (libevent: `evbuffer_pullup`). Copies
    /// only if they lie in several segments; what is being sent stays where it is (I7).
    ///
    /// ```
    /// use evring::evbuffer::EvBuffer;
    ///
    /// # fn main() -> Result<(), evring::evbuffer::BufferError> {
    /// let mut buffer = EvBuffer::from("Content-");
    /// buffer.add_piece("Length: 5")?;
    /// assert_eq!(buffer.pullup(14)?, b"Content-Length");
    /// assert!(buffer.pullup(100).is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`BufferError::OutOfRange`] when there are fewer bytes; no memory for so many; a file range
    /// that cannot be read.
    pub fn pullup(&mut self, n: usize) -> Result<&[u8], BufferError> {
        self.pull_front(n)?;
        Ok(self.contiguous().get(..n).unwrap_or_default())
    }

    /// As [`EvBuffer::pullup`], for writing: bytes that anyone else can see are copied first.
    ///
    /// # Errors
    /// As [`EvBuffer::pullup`].
    pub fn pullup_mut(&mut self, n: usize) -> Result<&mut [u8], BufferError> {
        self.pull_front(n)?;
        if n > 0
            && let Some(Seg::Mem(front)) = self.chain.front_mut()
            && front.bytes_mut().is_none()
        {
            let mut copy = front.try_copy_room(n).ok_or(BufferError::NoMemory(n))?;
            copy.append(&front[..n]);
            count_copy(n);
            if n == front.len() {
                *front = copy;
            } else {
                front.advance(n);
                self.unshift_seg(Seg::Mem(copy));
            }
        }
        let front = match self.chain.front_mut() {
            Some(Seg::Mem(front)) => front.bytes_mut(),
            _ => None,
        };
        Ok(front
            .and_then(|bytes| bytes.get_mut(..n))
            .unwrap_or_default())
    }

    /// Takes the first segment off, by reference; `None` when the buffer is empty. At a file range
    /// that is its next 64 KiB.
    ///
    /// # Errors
    /// A frozen front; a file range that cannot be read.
    pub fn pop_piece(&mut self) -> Result<Option<Piece>, BufferError> {
        self.check_start()?;
        if self.len == 0 {
            return Ok(None);
        }
        if matches!(self.chain.front(), Some(Seg::File(_))) {
            self.load(arena::MAX_BLOCK_BYTES)?;
        }
        let n = self.contiguous_len();
        Ok(Some(self.take_piece(n)))
    }

    /// Takes the first `n` bytes off as one piece, copying only if they lie in several segments.
    ///
    /// # Errors
    /// As [`EvBuffer::pullup`]; a frozen front.
    pub fn remove_piece(&mut self, n: usize) -> Result<Piece, BufferError> {
        self.check_start()?;
        self.pull_front(n)?;
        Ok(self.take_piece(n))
    }

    /// All bytes as one `Bytes`: without a copy when they lie in one segment.
    ///
    /// # Errors
    /// A file range that cannot be read; no memory.
    pub fn into_bytes(mut self) -> Result<Bytes, BufferError> {
        self.unfreeze_start();
        let piece = self.remove_piece(self.len)?;
        Ok(piece.into())
    }

    /// The in-memory bytes between two positions, with the position of each part.
    pub(super) fn clip(&self, from: usize, to: usize) -> Clip<'_> {
        Clip {
            segments: self.segments(),
            base: 0,
            from,
            to,
        }
    }

    /// The position if it is not past the end.
    pub(super) fn check_position(&self, position: usize) -> Result<usize, BufferError> {
        if position > self.len {
            return Err(BufferError::OutOfRange {
                position,
                len: self.len,
            });
        }
        Ok(position)
    }

    /// Makes the first `n` bytes lie in the first segment.
    pub(super) fn pull_front(&mut self, n: usize) -> Result<(), BufferError> {
        self.check_position(n)?;
        self.load(n)?;
        match self.chain.front() {
            Some(front) if front.len() < n => {}
            _ => return Ok(()),
        }
        let fresh = |buffer: &EvBuffer| match buffer.received_within(n) {
            Some(received) => received.try_copy_room(n),
            None => Segment::try_with_capacity(n),
        };
        let mut target = match self.chain.front_mut() {
            // The room behind the first segment takes the rest, so its bytes need not move.
            Some(Seg::Mem(front)) if front.room() >= n - front.len() => {
                match self.chain.pop_front() {
                    Some(Seg::Mem(front)) => front,
                    _ => return Ok(()),
                }
            }
            _ => fresh(self).ok_or(BufferError::NoMemory(n))?,
        };
        count_copy(n - target.len());
        // What is copied goes when the buffer is whole again: an owner's destructor may panic.
        let mut copied = Chain::new();
        while target.len() < n {
            let Some(Seg::Mem(next)) = self.chain.front_mut() else {
                break;
            };
            let part = next.len().min(n - target.len());
            target.append(&next[..part]);
            if part == next.len() {
                self.chain.move_front_to(&mut copied);
            } else {
                next.advance(part);
            }
        }
        self.unshift_seg(Seg::Mem(target));
        drop(copied);
        Ok(())
    }

    /// Takes `n` bytes, which lie in the first segment.
    #[inline]
    pub(super) fn take_piece(&mut self, n: usize) -> Piece {
        let piece = match self.chain.front_mut() {
            Some(Seg::Mem(front)) if n < front.len() => {
                let piece = front.split_to(n);
                self.changed(0, n);
                return piece;
            }
            Some(Seg::Mem(front)) => front.piece(),
            _ => return Piece::new(),
        };
        self.drain_front(piece.len());
        piece
    }
}

/// Iterator of [`EvBuffer::segments`]; never yields an empty slice.
#[derive(Debug, Clone)]
pub struct Segments<'a> {
    chain: arena::Iter<'a, Seg>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        match self.chain.next()? {
            Seg::Mem(segment) if !segment.is_empty() => Some(segment),
            // An empty segment is the last one; a file range ends what can be seen.
            _ => {
                self.chain = arena::Iter::default();
                None
            }
        }
    }
}

impl std::iter::FusedIterator for Segments<'_> {}

impl<'a> IntoIterator for &'a EvBuffer {
    type Item = &'a [u8];
    type IntoIter = Segments<'a>;

    fn into_iter(self) -> Segments<'a> {
        self.segments()
    }
}

/// The parts of the segments that lie between two positions.
#[derive(Clone)]
pub(super) struct Clip<'a> {
    segments: Segments<'a>,
    /// Position of the next segment.
    base: usize,
    from: usize,
    to: usize,
}

impl<'a> Iterator for Clip<'a> {
    /// Position of the first byte, and the bytes: never none.
    type Item = (usize, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<(usize, &'a [u8])> {
        while self.base < self.to {
            let bytes = self.segments.next()?;
            let base = self.base;
            self.base += bytes.len();
            if base >= self.from && self.base <= self.to {
                return Some((base, bytes));
            }
            let start = self.from.saturating_sub(base);
            let end = (self.to - base).min(bytes.len());
            if start < end {
                return Some((base + start, &bytes[start..end]));
            }
        }
        None
    }
}
