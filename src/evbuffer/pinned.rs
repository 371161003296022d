//! What a buffer's bytes pin, and copies that let go of it.
//!
//! A received byte keeps the whole slot that it arrived in. What waits is therefore copied: into
//! blocks that fit, several pieces to a block, charged to the arena of the slot, so that its cap
//! covers slots and copies.

use super::owner::drop_empty_tail;
use super::{EvBuffer, Seg, count_copy};
use crate::arena::{Piece, Segment};

/// Largest block that is taken ahead of need when small pieces arrive one after the other, bytes.
const MAX_AHEAD_BYTES: usize = 4096;

/// What becomes of the slot that a received piece lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pinning {
    /// The buffer keeps it until the bytes are drained. Nothing is copied.
    Slot,
    /// The bytes are copied at once, and the slot goes back, where that saves memory.
    CopyOut,
}

impl EvBuffer {
    /// Copies what pins slots of an arena into blocks that fit, so that the slots go back; returns
    /// the bytes copied. For received bytes that are kept for long: a short message otherwise holds
    /// its whole slot. Segments that fill most of their slot stay where they are.
    ///
    /// The copies count against the cap of their arena
    /// ([`ArenaStats::charged_bytes`](crate::arena::ArenaStats::charged_bytes)) until they are
    /// drained and nobody else refers to them.
    ///
    /// ```
    /// use evring::arena::{Arena, ArenaConfig};
    /// use evring::evbuffer::EvBuffer;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let arena = Arena::new(ArenaConfig::default().slot_size(4096).max_bytes(1 << 20))?;
    /// let slot = arena.take().expect("the first one");
    /// let mut buffer = EvBuffer::from(slot.filled_with(b"short"));
    /// assert_eq!(buffer.held_bytes(), 4096);
    /// assert_eq!(buffer.compact(), 5);
    /// assert_eq!(buffer.held_bytes(), 16);
    /// assert_eq!(arena.stats().slots_live, 0);
    /// assert_eq!(arena.stats().charged_bytes, 128); // with header and link
    /// # Ok(())
    /// # }
    /// ```
    pub fn compact(&mut self) -> usize {
        self.compact_small(usize::MAX)
    }

    /// Memory that the buffer's bytes keep from being freed: slots and blocks whole, however little
    /// of them is used, and the bytes of owners. Not counted: static data, files, and the links
    /// between segments (64 bytes each). Takes one step for each segment.
    pub fn held_bytes(&self) -> usize {
        let mut held = 0;
        let mut last: Option<&Segment> = None;
        for seg in &self.chain {
            let Seg::Mem(segment) = seg else { continue };
            if !last.is_some_and(|last| last.shares_memory(segment)) {
                held += segment.pinned_bytes();
            }
            last = Some(segment);
        }
        held
    }

    /// Appends a received piece, frozen or not.
    #[inline]
    pub(crate) fn push_received(&mut self, piece: Piece, pinning: Pinning) {
        match pinning {
            Pinning::Slot => self.push_piece(piece),
            Pinning::CopyOut => self.push_copied(piece),
        }
    }

    fn push_copied(&mut self, piece: Piece) {
        let piece = Segment::from(piece);
        if !is_worth_copying(&piece) {
            return self.push_piece(piece.into_piece());
        }
        let ahead = match self.chain.back() {
            // Twice the last block, so that many small pieces share few blocks.
            Some(Seg::Mem(tail)) if tail.is_heap() => {
                tail.block_capacity().saturating_mul(2).min(MAX_AHEAD_BYTES)
            }
            _ => 0,
        };
        self.append_copy(&piece, piece.len().max(ahead));
        let copied = piece.len();
        count_copy(copied);
        drop(piece);
        self.changed(copied, 0);
    }

    /// Copies segments of at most `limit` bytes that pin a slot into blocks of the heap, merging
    /// neighbours, so that their slots go back to the arena; returns the bytes copied.
    pub(crate) fn compact_small(&mut self, limit: usize) -> usize {
        let small = |seg: &Seg| match seg {
            Seg::Mem(segment) => segment.len() <= limit && is_worth_copying(segment),
            Seg::File(_) => false,
        };
        if !self.chain.iter().any(small) {
            return 0;
        }
        let mut before = std::mem::take(&mut self.chain);
        let mut copied = 0;
        // Bytes of the neighbours that are copied together, from here on.
        let mut run = 0;
        while let Some(front) = before.front() {
            if small(front) {
                if run == 0 {
                    let neighbours = before.iter().take_while(|seg| small(seg));
                    run = neighbours.map(Seg::len).sum();
                }
                if let Seg::Mem(segment) = front {
                    self.append_copy(segment, run);
                }
                run -= front.len();
                copied += front.len();
                before.drop_front();
            } else {
                drop_empty_tail(&mut self.chain);
                before.move_front_to(&mut self.chain);
            }
        }
        count_copy(copied);
        copied
    }

    /// Copies a segment to the chain's end: to the room there, and then to blocks for `wanted`
    /// bytes.
    fn append_copy(&mut self, segment: &Segment, mut wanted: usize) {
        let mut data: &[u8] = segment;
        loop {
            if let Some(Seg::Mem(tail)) = self.chain.back_mut() {
                let n = tail.room().min(data.len());
                tail.append(&data[..n]);
                data = &data[n..];
                wanted -= n;
            }
            if data.is_empty() {
                return;
            }
            self.push_seg(Seg::Mem(segment.copy_room(wanted)));
        }
    }

    /// The first segment among the first `n` bytes whose copies are charged to an arena.
    pub(super) fn received_within(&self, n: usize) -> Option<&Segment> {
        let mut left = n;
        self.chain.iter().find_map(|seg| {
            let within = left > 0;
            left = left.saturating_sub(seg.len());
            match seg {
                Seg::Mem(segment) if within && segment.is_received() => Some(segment),
                _ => None,
            }
        })
    }
}

/// True when the segment pins a slot of which it fills less than three quarters: a copy is smaller.
fn is_worth_copying(segment: &Segment) -> bool {
    segment.is_slot() && segment.len() < segment.block_capacity() / 4 * 3
}
