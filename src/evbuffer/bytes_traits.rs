//! A buffer as a `bytes::Buf` and `bytes::BufMut`, and what converts into one.

use super::{BufferError, EvBuffer, FROZEN_END, FROZEN_START, Seg, block_size, content_of};
use crate::arena::{Piece, Segment};
use bytes::buf::UninitSlice;
use bytes::{Buf, BufMut, Bytes};
use std::io::IoSlice;

impl Buf for EvBuffer {
    /// The bytes in memory before the first file range; 0 while the front is frozen.
    fn remaining(&self) -> usize {
        if self.flags & FROZEN_START != 0 {
            return 0;
        }
        self.resident_len()
    }

    fn chunk(&self) -> &[u8] {
        if self.flags & FROZEN_START != 0 {
            return &[];
        }
        self.contiguous()
    }

    fn chunks_vectored<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        if self.flags & FROZEN_START != 0 {
            return 0;
        }
        let mut count = 0;
        for (slot, bytes) in out.iter_mut().zip(self.segments()) {
            *slot = IoSlice::new(bytes);
            count += 1;
        }
        count
    }

    /// As [`EvBuffer::drain`]: stops at the end rather than panic.
    fn advance(&mut self, n: usize) {
        let _ = self.drain(n);
    }

    /// Without a copy when the bytes lie in one segment. Gives what there is when that is less.
    fn copy_to_bytes(&mut self, n: usize) -> Bytes {
        let n = n.min(self.remaining());
        // All of it is in memory and not frozen: what remains to fail is the allocator.
        self.remove_piece(n).map(Bytes::from).unwrap_or_default()
    }
}

// The trait is declared unsafe because callers write to uninitialised memory through it. Nothing
// here does: the room is initialised memory of the arena, and committing it is a safe call.
#[allow(
    unsafe_code,
    reason = "the trait is unsafe to implement; no pointer is touched here"
)]
// SAFETY: `chunk_mut` lends the room behind the last segment, `advance_mut` commits at most that;
// the room stays the same in between, since the buffer is borrowed mutably.
unsafe impl BufMut for EvBuffer {
    /// What is left to [`EvBuffer::MAX_LEN`]; 0 while the end is frozen. As the trait demands, its
    /// `put` methods panic on more: use [`EvBuffer::add`] on buffers that may be frozen.
    fn remaining_mut(&self) -> usize {
        if self.flags & FROZEN_END != 0 {
            return 0;
        }
        Self::MAX_LEN.saturating_sub(self.len)
    }

    unsafe fn advance_mut(&mut self, n: usize) {
        if let Some(Seg::Mem(tail)) = self.chain.back_mut() {
            let added = tail.commit(n);
            self.changed(added, 0);
        }
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        if self.remaining_mut() == 0 {
            return UninitSlice::new(&mut []);
        }
        if self.tail_room() == 0 {
            let previous = match self.chain.back() {
                Some(Seg::Mem(tail)) if tail.is_heap() => tail.block_capacity(),
                _ => 0,
            };
            self.push_seg(Seg::Mem(Segment::with_capacity(block_size(0, previous))));
        }
        match self.chain.back_mut() {
            Some(Seg::Mem(tail)) => UninitSlice::new(tail.spare()),
            _ => UninitSlice::new(&mut []),
        }
    }

    fn put_slice(&mut self, data: &[u8]) {
        assert!(self.add(data).is_ok(), "the buffer's end is frozen");
    }
}

impl From<Piece> for EvBuffer {
    fn from(piece: Piece) -> Self {
        let mut buffer = EvBuffer::new();
        buffer.flags |= content_of(&piece);
        buffer.push_piece(piece);
        buffer
    }
}

impl From<Bytes> for EvBuffer {
    fn from(bytes: Bytes) -> Self {
        Piece::from(bytes).into()
    }
}

impl From<Vec<u8>> for EvBuffer {
    fn from(bytes: Vec<u8>) -> Self {
        Piece::from(bytes).into()
    }
}

impl From<String> for EvBuffer {
    fn from(text: String) -> Self {
        Piece::from(text.into_bytes()).into()
    }
}

impl From<&'static [u8]> for EvBuffer {
    fn from(bytes: &'static [u8]) -> Self {
        Piece::from(bytes).into()
    }
}

impl From<&'static str> for EvBuffer {
    fn from(text: &'static str) -> Self {
        Piece::from(text).into()
    }
}

impl TryFrom<EvBuffer> for Bytes {
    type Error = BufferError;

    /// As [`EvBuffer::into_bytes`].
    fn try_from(buffer: EvBuffer) -> Result<Bytes, BufferError> {
        buffer.into_bytes()
    }
}

/// Appending an iterator stops at the first item that is refused: at once, if the end is frozen.
macro_rules! extend {
    ($($item:ty, |$buffer:ident, $value:ident| $add:expr;)*) => {$(
        impl<'a> Extend<$item> for EvBuffer {
            fn extend<I: IntoIterator<Item = $item>>(&mut self, items: I) {
                let $buffer = self;
                for $value in items {
                    if $add.is_err() {
                        return;
                    }
                }
            }
        }

        impl<'a> FromIterator<$item> for EvBuffer {
            fn from_iter<I: IntoIterator<Item = $item>>(items: I) -> Self {
                let mut buffer = EvBuffer::new();
                buffer.extend(items);
                buffer
            }
        }
    )*};
}

extend! {
    &'a [u8], |buffer, bytes| buffer.add(bytes);
    &'a u8, |buffer, byte| buffer.add(&[*byte]);
    u8, |buffer, byte| buffer.add(&[byte]);
    Piece, |buffer, piece| buffer.add_piece(piece);
    Bytes, |buffer, bytes| buffer.add_piece(bytes);
    Vec<u8>, |buffer, bytes| buffer.add_piece(bytes);
}
