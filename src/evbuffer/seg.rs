//! One link of a buffer's chain.

use super::file::FileRange;
use crate::arena::Segment;
use std::fmt;

/// Bytes in memory, or a range of a file that is not read yet.
pub(super) enum Seg {
    Mem(Segment),
    File(FileRange),
}

impl Seg {
    #[inline]
    pub(super) fn len(&self) -> usize {
        match self {
            Seg::Mem(segment) => segment.len(),
            Seg::File(range) => range.len(),
        }
    }

    /// Whether its last reference runs code of the user.
    #[inline]
    pub(super) fn is_owned(&self) -> bool {
        match self {
            Seg::Mem(segment) => segment.is_foreign(),
            Seg::File(_) => true,
        }
    }

    /// Drops the first `n` bytes; `n` is below the length.
    #[inline]
    pub(super) fn advance(&mut self, n: usize) {
        match self {
            Seg::Mem(segment) => segment.advance(n),
            Seg::File(range) => range.advance(n),
        }
    }

    /// Splits the first `n` bytes off, without a copy.
    pub(super) fn split_to(&mut self, n: usize) -> Seg {
        match self {
            Seg::Mem(segment) => Seg::Mem(segment.split_to(n).into()),
            Seg::File(range) => Seg::File(range.split_to(n)),
        }
    }

    /// The same bytes once more, shared.
    pub(super) fn share(&self) -> Seg {
        match self {
            Seg::Mem(segment) => Seg::Mem(segment.piece().into()),
            Seg::File(range) => Seg::File(range.clone()),
        }
    }
}

impl fmt::Debug for Seg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seg::Mem(segment) => segment.fmt(f),
            Seg::File(range) => write!(f, "file {}", range.len()),
        }
    }
}
