//! How many bytes this thread has copied in user space.

use std::cell::Cell;

thread_local!(static COPIED: Cell<u64> = const { Cell::new(0) });

/// Bytes that buffer operations on this thread have copied in user space since it started: what
/// went in by `add`, came out by `remove`, was pulled up or compacted. Bytes that travel by
/// reference do not count, so that a proxy can prove that it copies none.
///
/// ```
/// use evring::evbuffer::{EvBuffer, copied_bytes};
///
/// # fn main() -> Result<(), evring::evbuffer::BufferError> {
/// let (mut from, mut to) = (EvBuffer::new(), EvBuffer::new());
/// from.add(b"copied once")?;
/// let before = copied_bytes();
/// to.add_buffer(&mut from)?; // by reference
/// assert_eq!(copied_bytes(), before);
/// # Ok(())
/// # }
/// ```
pub fn copied_bytes() -> u64 {
    COPIED.with(Cell::get)
}

#[inline]
pub(super) fn count_copy(bytes: usize) {
    COPIED.with(|copied| copied.set(copied.get().wrapping_add(bytes as u64)));
}
