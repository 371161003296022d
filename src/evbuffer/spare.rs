//! One drained block of each size, with its node, kept at hand by the thread.
//!
//! A buffer that is filled and emptied over and over would give its block and its node back to
//! their pools and take them again each time. Both wait here instead, and become the next buffer's
//! chain as they are.

use super::Seg;
use crate::arena::{BLOCK_CLASSES, Chain, Link, block_class};
use std::cell::Cell;

thread_local! {
    static SPARES: [Cell<Option<Link<Seg>>>; BLOCK_CLASSES] =
        const { [const { Cell::new(None) }; BLOCK_CLASSES] };
}

/// An empty segment with room for `len` bytes, if one waits.
#[inline]
pub(super) fn take(len: usize) -> Option<Link<Seg>> {
    let class = block_class(len)?;
    SPARES.try_with(|spares| spares[class].take()).ok()?
}

/// Drops the segments of a buffer that has been drained; keeps the block if there is only one and
/// nobody else refers to it.
#[inline]
pub(super) fn retire(chain: &mut Chain<Seg>) {
    if !cfg!(any(miri, evring_no_pool))
        && let Some(Seg::Mem(segment)) = chain.single_mut()
        && let Some(class) = segment.recycle()
    {
        // Without a place to wait, at the thread's end, it is dropped with the closure.
        let link = chain.unlink();
        let _ = SPARES.try_with(move |spares| spares[class].set(link));
        return;
    }
    chain.clear();
}

/// Drops a chain's first segment, which has been drained; keeps its block if nobody else refers to
/// it and no other waits.
#[inline]
pub(super) fn retire_front(chain: &mut Chain<Seg>) {
    let Some(mut link) = chain.unlink() else {
        return;
    };
    if !cfg!(any(miri, evring_no_pool))
        && let Seg::Mem(segment) = link.get_mut()
        && let Some(class) = segment.recycle()
    {
        let _ = SPARES.try_with(move |spares| match spares[class].take() {
            // The older one stays, so that a long chain goes straight to its pools.
            Some(spare) => spares[class].set(Some(spare)),
            None => spares[class].set(Some(link)),
        });
    }
}
