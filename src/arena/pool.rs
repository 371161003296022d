//! The thread's free lists: heap blocks by size class, chain nodes, owners of foreign bytes.
//!
//! A freed object's first word links it to the next one, so that the lists cost no memory of their
//! own. Each list is bounded; what does not fit goes back to the allocator. An object may be freed
//! on another thread than the one that took it: it simply joins that thread's list.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::{self, NonNull};

/// Capacity in bytes of the smallest pooled block.
pub const MIN_BLOCK_BYTES: usize = 512;
/// Capacity in bytes of the largest pooled block; larger ones are allocated exactly and not pooled.
pub const MAX_BLOCK_BYTES: usize = 64 * 1024;

/// Number of block classes: 512 B, 1 KiB … 64 KiB.
pub(crate) const BLOCK_CLASSES: usize = 8;
/// Bytes of a block's header; the data follow it.
pub(super) const HEADER_BYTES: usize = 64;
/// Index of the list of chain nodes.
pub(super) const NODE: usize = BLOCK_CLASSES;
/// Index of the list of owners of foreign bytes.
pub(super) const FOREIGN: usize = BLOCK_CLASSES + 1;
/// Index of the first list of small blocks: room for a few bytes that wait alone.
const SMALL: usize = BLOCK_CLASSES + 2;
/// Bytes of the small blocks, headers included.
const SMALL_BYTES: [usize; 3] = [64, 128, 256];
/// Bytes of a small block's header; the data follow it.
pub(super) const SMALL_HEADER_BYTES: usize = 48;
const CLASSES: usize = SMALL + SMALL_BYTES.len();

/// Bytes of one chain node, and its alignment: one cache line.
pub(super) const NODE_BYTES: usize = 64;
/// Bytes of one owner of foreign bytes.
pub(super) const FOREIGN_BYTES: usize = 96;

/// How many free objects a thread keeps of each class: half a MiB of each small block class, 1 MiB
/// of each middle one, 5 MiB of the largest (one full 4 MiB burst of 64 KiB appends and some
/// slack).
#[cfg(not(any(miri, evring_no_pool)))]
const KEEP: [u32; CLASSES] = [
    1024, 512, 256, 256, 128, 64, 32, 80, 4096, 1024, 4096, 1024, 512,
];
/// Nothing: with `--cfg evring_no_pool` memory checkers see every free.
#[cfg(any(miri, evring_no_pool))]
const KEEP: [u32; CLASSES] = [0; CLASSES];

const _: () = assert!(MIN_BLOCK_BYTES << (BLOCK_CLASSES - 1) == MAX_BLOCK_BYTES);

/// What this thread's pool of heap blocks holds and has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HeapStats {
    /// Free blocks, nodes and owners waiting in the pool.
    pub pooled: u64,
    /// Their bytes, headers included.
    pub pooled_bytes: u64,
    /// Times the pool was empty and the allocator was asked; flat in steady state.
    pub misses: u64,
    /// Times the pool was full and memory went back to the allocator.
    pub spills: u64,
}

/// State of the calling thread's heap pool.
///
/// ```
/// drop(evring::arena::Block::with_capacity(600)); // from the allocator
/// let before = evring::arena::heap_stats();
/// drop(evring::arena::Block::with_capacity(600)); // from the pool
/// assert_eq!(evring::arena::heap_stats(), before);
/// ```
pub fn heap_stats() -> HeapStats {
    POOL.try_with(|pool| {
        let mut stats = HeapStats {
            misses: pool.misses.get(),
            spills: pool.spills.get(),
            ..HeapStats::default()
        };
        for (class, list) in pool.lists.iter().enumerate() {
            stats.pooled += u64::from(list.count.get());
            stats.pooled_bytes += u64::from(list.count.get()) * layout(class).size() as u64;
        }
        stats
    })
    .unwrap_or_default()
}

/// The class whose blocks have room for `min` bytes; `None` above the largest.
#[inline]
pub(crate) fn class_of(min: usize) -> Option<usize> {
    if min > MAX_BLOCK_BYTES {
        return None;
    }
    // 1..=512 gives class 0, 513..=1024 class 1, and so on: the bit length of (min-1)/512.
    let units = (min.max(1) - 1) / MIN_BLOCK_BYTES;
    Some((usize::BITS - units.leading_zeros()) as usize)
}

/// Data capacity of a block class.
#[inline]
pub(super) const fn class_bytes(class: usize) -> usize {
    if class < BLOCK_CLASSES {
        return MIN_BLOCK_BYTES << class;
    }
    SMALL_BYTES[class - SMALL] - SMALL_HEADER_BYTES
}

/// Where the data of a block class begin, bytes.
#[inline]
pub(super) const fn header_bytes(class: usize) -> usize {
    if class < BLOCK_CLASSES {
        HEADER_BYTES
    } else {
        SMALL_HEADER_BYTES
    }
}

/// The class for the first of the blocks that `n` bytes are copied to, with little waste: the
/// smallest that holds them all if they fill three quarters of it, or else the largest that they
/// fill. What is left goes to the next block.
pub(super) fn tight_class(n: usize) -> usize {
    let small = (SMALL..CLASSES).find(|&class| n <= class_bytes(class));
    small.unwrap_or_else(|| match class_of(n) {
        Some(0) => 0,
        Some(class) if n >= class_bytes(class) / 4 * 3 => class,
        Some(class) => class - 1,
        None => BLOCK_CLASSES - 1,
    })
}

/// Takes a free object of `class`, or a freshly zeroed one; true when it is fresh.
#[inline]
pub(super) fn take(class: usize) -> (NonNull<u8>, bool) {
    if let Ok(Some(free)) = POOL.try_with(|pool| pool.lists[class].pop()) {
        return (free, false);
    }
    (fresh(class), true)
}

/// Gives an object of `class` back.
///
/// # Safety
/// `object` came from [`take`] of the same class and nothing refers to it any more. Only its first
/// word is overwritten.
#[inline]
pub(super) unsafe fn give(class: usize, object: NonNull<u8>) {
    let kept = POOL
        .try_with(|pool| {
            let list = &pool.lists[class];
            if list.count.get() >= KEEP[class] {
                return false;
            }
            // SAFETY: the caller owns `object`, which is larger than a word and word-aligned.
            unsafe { list.push(object) };
            true
        })
        .unwrap_or(false);
    if !kept {
        // SAFETY: the caller owns `object`; it was allocated with this class's layout.
        unsafe { spill(class, object) };
    }
}

thread_local! {
    static POOL: Pool = const { Pool::new() };
}

struct Pool {
    lists: [FreeList; CLASSES],
    misses: Cell<u64>,
    spills: Cell<u64>,
}

struct FreeList {
    head: Cell<*mut u8>,
    count: Cell<u32>,
}

impl Pool {
    const fn new() -> Self {
        Pool {
            lists: [const {
                FreeList {
                    head: Cell::new(ptr::null_mut()),
                    count: Cell::new(0),
                }
            }; CLASSES],
            misses: Cell::new(0),
            spills: Cell::new(0),
        }
    }
}

impl FreeList {
    #[inline]
    fn pop(&self) -> Option<NonNull<u8>> {
        let head = NonNull::new(self.head.get())?;
        // SAFETY: an object in the list is owned by the list, and its first word is the link that
        // `push` wrote.
        self.head.set(unsafe { head.cast::<*mut u8>().read() });
        self.count.set(self.count.get() - 1);
        Some(head)
    }

    /// # Safety
    /// The caller hands over an object of at least one word, aligned for a pointer.
    #[inline]
    unsafe fn push(&self, object: NonNull<u8>) {
        // SAFETY: owned and aligned, by the caller's contract.
        unsafe { object.cast::<*mut u8>().write(self.head.get()) };
        self.head.set(object.as_ptr());
        self.count.set(self.count.get() + 1);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for (class, list) in self.lists.iter().enumerate() {
            while let Some(object) = list.pop() {
                // SAFETY: the list owned it; allocated by `fresh` with the same layout.
                unsafe { dealloc(object.as_ptr(), layout(class)) };
            }
        }
    }
}

#[inline]
const fn layout(class: usize) -> Layout {
    let (size, align) = match class {
        NODE => (NODE_BYTES, 64),
        FOREIGN => (FOREIGN_BYTES, 16),
        SMALL.. => (SMALL_BYTES[class - SMALL], 64),
        _ => (HEADER_BYTES + class_bytes(class), 64),
    };
    match Layout::from_size_align(size, align) {
        Ok(layout) => layout,
        Err(_) => unreachable!(),
    }
}

#[cold]
fn fresh(class: usize) -> NonNull<u8> {
    let _ = POOL.try_with(|pool| pool.misses.set(pool.misses.get() + 1));
    let layout = layout(class);
    // SAFETY: no class has size zero.
    let object = unsafe { alloc_zeroed(layout) };
    NonNull::new(object).unwrap_or_else(|| handle_alloc_error(layout))
}

/// # Safety
/// As [`give`].
#[cold]
unsafe fn spill(class: usize, object: NonNull<u8>) {
    let _ = POOL.try_with(|pool| pool.spills.set(pool.spills.get() + 1));
    // SAFETY: allocated by `fresh` with this layout, owned by the caller.
    unsafe { dealloc(object.as_ptr(), layout(class)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_cover_every_size() {
        assert_eq!(class_of(0), Some(0));
        assert_eq!(class_of(1), Some(0));
        assert_eq!(class_of(512), Some(0));
        assert_eq!(class_of(513), Some(1));
        assert_eq!(class_of(MAX_BLOCK_BYTES), Some(BLOCK_CLASSES - 1));
        assert_eq!(class_of(MAX_BLOCK_BYTES + 1), None);
        assert_eq!(class_of(usize::MAX), None);
        for min in 1..=MAX_BLOCK_BYTES {
            let class = class_of(min).expect("within the largest class");
            assert!(class_bytes(class) >= min);
            assert!(class == 0 || class_bytes(class - 1) < min);
        }
    }

    #[test]
    fn tight_classes_waste_little() {
        assert_eq!(class_bytes(tight_class(1)), 16);
        assert_eq!(class_bytes(tight_class(17)), 80);
        assert_eq!(class_bytes(tight_class(208)), 208);
        assert_eq!(class_bytes(tight_class(usize::MAX)), MAX_BLOCK_BYTES);
        for n in 1..=MAX_BLOCK_BYTES {
            // However the rest is cut, each block is filled but for the last.
            let (mut rest, mut taken) = (n, 0);
            while rest > 0 {
                let class = tight_class(rest);
                rest -= rest.min(class_bytes(class));
                taken += layout(class).size();
            }
            let allowed = n + n / 3 + 5 * HEADER_BYTES;
            assert!(taken <= allowed, "{n} bytes take {taken}");
        }
    }

    #[test]
    #[cfg_attr(any(miri, evring_no_pool), ignore = "nothing is pooled")]
    fn what_is_given_is_taken_again_last_in_first_out() {
        let (a, _) = take(3);
        let (b, _) = take(3);
        // SAFETY: both came from class 3 and are not used again before they are retaken.
        unsafe {
            give(3, a);
            give(3, b);
        }
        let (first, fresh_first) = take(3);
        let (second, fresh_second) = take(3);
        assert_eq!((first, second), (b, a));
        assert!(!fresh_first && !fresh_second);
        // SAFETY: as above.
        unsafe {
            give(3, first);
            give(3, second);
        }
    }

    #[test]
    fn a_full_list_spills() {
        let class = 6;
        let taken: Vec<_> = (0..KEEP[class] + 3).map(|_| take(class).0).collect();
        let before = heap_stats().spills;
        for object in taken {
            // SAFETY: taken from this class, not used again.
            unsafe { give(class, object) };
        }
        assert_eq!(heap_stats().spills, before + 3);
    }
}
