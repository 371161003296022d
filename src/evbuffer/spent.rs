//! What a buffer is done with, kept until its destructors may run.

use super::{CONTENT, EvBuffer, FILES, Seg, spare};
use crate::arena::{Chain, MAX_BLOCK_BYTES, Segment};
use std::io;

/// Segments that a buffer is done with, and whose end runs code of the user: the destructor of an
/// owner, or what waits for the end of a file segment. Drop it where nothing is borrowed.
#[derive(Debug, Default)]
pub(crate) struct Spent {
    chain: Chain<Seg>,
}

impl Spent {
    /// Nothing.
    pub(crate) const fn new() -> Self {
        Spent {
            chain: Chain::new(),
        }
    }

    /// True when there is nothing to drop.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.chain.is_empty()
    }

    /// Takes over what `other` has.
    #[allow(dead_code, reason = "for buffers that C holds")]
    pub(crate) fn append(&mut self, other: &mut Spent) {
        self.chain.append(&mut other.chain);
    }
}

impl EvBuffer {
    /// Whether dropping what it holds may run code of the user.
    #[inline]
    pub(crate) fn has_owners(&self) -> bool {
        self.flags & CONTENT != 0
    }

    /// As [`drain_front`](EvBuffer::drain_front), but what has a destructor of the user's goes to
    /// `spent` rather than away.
    #[inline]
    pub(crate) fn drain_front_into(&mut self, n: usize, spent: &mut Spent) -> usize {
        if self.flags & CONTENT == 0 {
            return self.drain_front(n);
        }
        let drained = self.cut_front(n, spent);
        self.tell();
        drained
    }

    /// As [`load`](EvBuffer::load), but files that are read to their end go to `spent`.
    pub(crate) fn load_into(&mut self, n: usize, spent: &mut Spent) -> io::Result<()> {
        if self.flags & FILES == 0 {
            return Ok(());
        }
        self.load_files(n, spent)
    }

    /// Drains content whose end may run code of the user, and panic: the buffer is whole before
    /// that, and its callbacks hear of the change in any case.
    #[cold]
    pub(super) fn drain_owned(&mut self, n: usize) -> usize {
        let mut spent = Spent::new();
        let drained = self.cut_front(n, &mut spent);
        drop(spent);
        self.tell();
        drained
    }

    /// Takes off the first `n` bytes, or all when there are fewer, and accounts for them.
    fn cut_front(&mut self, n: usize, spent: &mut Spent) -> usize {
        let drained = n.min(self.len);
        let mut rest = drained;
        while let Some(front) = self.chain.front_mut() {
            if rest < front.len() {
                front.advance(rest);
                break;
            }
            rest -= front.len();
            if front.is_owned() {
                self.chain.move_front_to(&mut spent.chain);
            } else {
                spare::retire_front(&mut self.chain);
            }
        }
        if drained == self.len {
            self.flags &= !CONTENT;
        }
        self.account(0, drained);
        drained
    }

    pub(super) fn load_files(&mut self, n: usize, spent: &mut Spent) -> io::Result<()> {
        let mut before = std::mem::take(&mut self.chain);
        let mut passed = 0;
        let mut result = Ok(());
        while passed < n {
            match before.front_mut() {
                None => break,
                Some(Seg::Mem(segment)) => {
                    passed += segment.len();
                    before.move_front_to(&mut self.chain);
                }
                Some(Seg::File(range)) => {
                    let wanted = range.len().min(n - passed).min(MAX_BLOCK_BYTES);
                    let mut block = Segment::with_capacity(wanted);
                    result = range.read_exact(0, &mut block.spare()[..wanted]);
                    if result.is_err() {
                        break;
                    }
                    block.commit(wanted);
                    range.advance(wanted);
                    if range.len() == 0 {
                        before.move_front_to(&mut spent.chain);
                    }
                    passed += wanted;
                    self.push_seg(Seg::Mem(block));
                }
            }
        }
        self.chain.append(&mut before);
        if self.chain.iter().all(|seg| matches!(seg, Seg::Mem(_))) {
            self.flags &= !FILES;
        }
        result
    }
}
