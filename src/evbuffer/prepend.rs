//! What goes in at the front.

use super::counters::count_copy;
use super::{BufferError, EvBuffer, Seg, block_size, content_of, spare};
use crate::arena::{Piece, Segment};

impl EvBuffer {
    /// Puts a copy of `data` in front (libevent: `evbuffer_prepend`).
    ///
    /// # Errors
    /// A frozen front; a length past [`EvBuffer::MAX_LEN`].
    pub fn prepend(&mut self, data: &[u8]) -> Result<(), BufferError> {
        self.check_start()?;
        self.check_growth(data.len())?;
        let mut rest = data;
        if let Some(Seg::Mem(front)) = self.chain.front_mut()
            && !front.is_empty()
        {
            let taken = front.prepend(rest);
            rest = &rest[..rest.len() - taken];
        }
        while !rest.is_empty() {
            let spare = spare::take(rest.len());
            match spare {
                Some(link) => self.chain.link_front(link),
                None => {
                    let block = Segment::with_capacity(block_size(rest.len(), 0));
                    self.unshift_seg(Seg::Mem(block));
                }
            }
            let Some(Seg::Mem(block)) = self.chain.front_mut() else {
                break;
            };
            block.room_to_front();
            let taken = block.prepend(rest);
            rest = &rest[..rest.len() - taken];
        }
        count_copy(data.len());
        self.changed(data.len(), 0);
        Ok(())
    }

    /// Puts a piece in front, by reference.
    ///
    /// # Errors
    /// A frozen front; a length past [`EvBuffer::MAX_LEN`].
    pub fn prepend_piece(&mut self, piece: impl Into<Piece>) -> Result<(), BufferError> {
        self.check_start()?;
        let piece = piece.into();
        self.check_growth(piece.len())?;
        let len = piece.len();
        if len > 0 {
            self.flags |= content_of(&piece);
            self.unshift_seg(Seg::Mem(piece.into()));
            self.changed(len, 0);
        }
        Ok(())
    }

    /// Moves everything in `from` in front of this buffer, by reference (libevent:
    /// `evbuffer_prepend_buffer`).
    ///
    /// # Errors
    /// Either front frozen; a length past [`EvBuffer::MAX_LEN`].
    pub fn prepend_buffer(&mut self, from: &mut EvBuffer) -> Result<(), BufferError> {
        self.check_start()?;
        from.check_start()?;
        self.check_growth(from.len)?;
        self.take_all_front(from);
        Ok(())
    }
}
