//! What a buffer's owner may do when it is frozen to everyone else: a bufferevent drains its
//! output, appends to its input, and lends pieces to the kernel.

use super::{CONTENT, EvBuffer, Seg, WATCHED, append_chain, spare};
use crate::arena::{Chain, Piece};

/// The most that a move copies into the room at the end of where it goes, bytes.
pub(super) const SMALL_MOVE_BYTES: usize = 256;

impl EvBuffer {
    /// Makes it the buffer that `id` names, or nobody's: 0. The number stays with this buffer when
    /// it is moved or swapped; what is split off, and what takes its place, has none.
    pub(crate) fn bind(&mut self, id: u32) {
        self.id = id;
    }

    /// The number given by [`bind`](Self::bind); 0 = nobody's.
    #[inline]
    pub(crate) fn bound_id(&self) -> u32 {
        self.id
    }

    /// Clones pieces from the front for a send: at most `max_bytes` and `max_pieces`, up to the
    /// first file range. Appends them to `out`; returns their bytes. When it returns 0 and the
    /// buffer is not empty, a file range is first: [`EvBuffer::load`] as much as is to be sent.
    pub(crate) fn gather(
        &self,
        max_bytes: usize,
        max_pieces: usize,
        out: &mut Vec<Piece>,
    ) -> usize {
        let mut gathered = 0;
        let mut pieces = 0;
        for seg in &self.chain {
            let Seg::Mem(segment) = seg else { break };
            if gathered == max_bytes || pieces == max_pieces {
                break;
            }
            if segment.is_empty() {
                continue;
            }
            let piece = segment.piece_of(max_bytes - gathered);
            gathered += piece.len();
            pieces += 1;
            out.push(piece);
        }
        gathered
    }

    /// Drops the first `n` bytes, or all when there are fewer, frozen or not; returns how many.
    #[inline]
    pub(crate) fn drain_front(&mut self, n: usize) -> usize {
        if self.flags & CONTENT != 0 {
            return self.drain_owned(n);
        }
        if n >= self.len {
            let drained = self.len;
            spare::retire(&mut self.chain);
            self.changed(0, drained);
            return drained;
        }
        let mut rest = n;
        while let Some(front) = self.chain.front_mut() {
            if rest < front.len() {
                front.advance(rest);
                break;
            }
            rest -= front.len();
            spare::retire_front(&mut self.chain);
        }
        self.changed(0, n);
        n
    }

    /// Appends a piece by reference, frozen or not. One that would pass [`EvBuffer::MAX_LEN`]
    /// cannot exist in memory beside what is there. A piece of the user's comes by `add_piece`.
    #[inline]
    pub(crate) fn push_piece(&mut self, piece: Piece) {
        debug_assert!(
            !piece.is_foreign() || self.flags & CONTENT != 0,
            "not marked"
        );
        let len = piece.len();
        if len > 0 {
            self.push_seg(Seg::Mem(piece.into()));
            self.changed(len, 0);
        }
    }

    /// Appends all of `from`, frozen or not.
    #[inline(always)]
    pub(crate) fn take_all(&mut self, from: &mut EvBuffer) {
        let moved = from.len;
        if moved == 0 {
            return;
        }
        if self.chain.is_empty() && (self.flags | from.flags) & (WATCHED | CONTENT) == 0 {
            // What a message comes to.
            self.chain.append(&mut from.chain);
            self.len = moved;
            from.len = 0;
            return;
        }
        self.take_all_behind(from, moved);
    }

    fn take_all_behind(&mut self, from: &mut EvBuffer, moved: usize) {
        if self.len == 0 || moved > SMALL_MOVE_BYTES || !self.copy_to_tail(from) {
            append_chain(&mut self.chain, &mut from.chain);
        }
        if (self.flags | from.flags) & (WATCHED | CONTENT) == 0 {
            self.len += moved;
            from.len = 0;
            return;
        }
        self.took_all(from, moved);
    }

    /// Copies the few bytes that `from` has into the room at the end, and says whether it did: a
    /// byte that is moved by reference keeps a block to itself, and many writes of one byte each
    /// would keep hundreds of times what they are. Only bytes of plain blocks: what lies in a slot,
    /// or is charged to an arena, is moved as it is.
    fn copy_to_tail(&mut self, from: &mut EvBuffer) -> bool {
        let Some(Seg::Mem(only)) = from.chain.front() else {
            return false;
        };
        let plain = only.is_heap() && !only.is_received();
        if !plain || only.len() != from.len {
            return false;
        }
        let Some(Seg::Mem(tail)) = self.chain.back_mut() else {
            return false;
        };
        if !tail.append(only) {
            return false;
        }
        super::count_copy(only.len());
        from.chain.clear();
        true
    }

    /// Puts all of `from` in front, frozen or not.
    pub(super) fn take_all_front(&mut self, from: &mut EvBuffer) {
        let moved = from.len;
        if moved == 0 {
            return;
        }
        let mut chain = std::mem::take(&mut from.chain);
        if self.len == 0 {
            self.chain.clear();
        }
        append_chain(&mut chain, &mut self.chain);
        self.chain = chain;
        self.took_all(from, moved);
    }

    /// Accounts for all of `from`, whose segments are here.
    fn took_all(&mut self, from: &mut EvBuffer, moved: usize) {
        self.flags |= from.flags & CONTENT;
        from.flags &= !CONTENT;
        from.account(0, moved);
        self.account(moved, 0);
        from.tell();
        self.tell();
    }

    /// Takes the first `n` bytes off, or all when there are fewer, by reference, frozen or not, and
    /// tells nobody: they belong to an operation, and [`put_aside_back`](Self::put_aside_back)
    /// follows. The new buffer is bound to nobody and not frozen.
    pub(crate) fn set_aside(&mut self, n: usize) -> EvBuffer {
        let mut front = EvBuffer::new();
        let watched = self.flags & WATCHED;
        self.flags &= !WATCHED;
        self.transfer(&mut front, n);
        self.flags |= watched;
        front
    }

    /// Puts what was set aside in front, frozen or not, and tells nobody.
    pub(crate) fn put_aside_back(&mut self, mut front: EvBuffer) {
        let watched = self.flags & WATCHED;
        self.flags &= !WATCHED;
        self.take_all_front(&mut front);
        self.flags |= watched;
    }

    /// Moves the first `n` bytes, or all when there are fewer, to the end of `to`, by reference,
    /// frozen or not; returns how many.
    #[inline]
    pub(crate) fn transfer(&mut self, to: &mut EvBuffer, n: usize) -> usize {
        if n >= self.len {
            let moved = self.len;
            to.take_all(self);
            return moved;
        }
        self.transfer_part(to, n)
    }

    fn transfer_part(&mut self, to: &mut EvBuffer, n: usize) -> usize {
        if n > 0 {
            self.move_front(&mut to.chain, n);
            to.flags |= self.flags & CONTENT;
            self.account(0, n);
            to.account(n, 0);
            self.tell();
            to.tell();
        }
        n
    }

    /// Moves the first `n` bytes, fewer than there are, to the end of `to`.
    fn move_front(&mut self, to: &mut Chain<Seg>, n: usize) {
        drop_empty_tail(to);
        let mut rest = n;
        while rest > 0 {
            match self.chain.front_mut() {
                Some(front) if rest < front.len() => {
                    let part = front.split_to(rest);
                    to.push_back(part);
                    return;
                }
                Some(front) => {
                    rest -= front.len();
                    self.chain.move_front_to(to);
                }
                None => return,
            }
        }
    }
}

/// Removes an empty segment from the end.
pub(super) fn drop_empty_tail(chain: &mut Chain<Seg>) {
    if chain.back().is_some_and(|tail| tail.len() == 0) {
        let mut kept = Chain::new();
        while chain.front().is_some_and(|seg| seg.len() > 0) {
            chain.move_front_to(&mut kept);
        }
        *chain = kept;
    }
}
