//! The header of refcounted memory: where the bytes lie, who counts, and where they go home to.

use super::pool;
use super::slots;
use bytes::Bytes;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::mem::{ManuallyDrop, align_of, size_of};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Weak};

/// Where a header's bytes come from, and so where they go when the last reference is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A pooled heap block; `index` is its class.
    Pooled,
    /// A heap block of an exact size, not pooled.
    Exact,
    /// A heap block that is charged to an arena; `index` is its class, or [`NO_CLASS`] for one of
    /// an exact size, and `arena` its arena, with a weak count.
    Charged,
    /// A slot of an arena; `index` is its number, `arena` its arena.
    Slot,
    /// Somebody else's bytes, kept alive by the `Bytes` in the enclosing [`Foreign`].
    Foreign,
}

/// Stands for the class of a charged block that has an exact size.
const NO_CLASS: u32 = u32::MAX;

/// What every reference points to.
///
/// ```text
///   heap block:  [ Header, padded to 64 ][ data … capacity ]       one allocation; a small one
///                [ Header, padded to 48 ][ data … capacity ]
///   slot:        [ Header ] in its chunk's table ──data──► slot    in the mapping
///   foreign:     [ Header | Bytes ]                                a pooled cell
/// ```
///
/// The first word is the count; a header in a free list reuses it as its link.
#[repr(C)]
pub(super) struct Header {
    refs: AtomicUsize,
    data: *mut u8,
    capacity: usize,
    /// For a slot: its arena, with one strong count while the slot is out. For a charged block: its
    /// arena, with one weak count, so that a copy does not keep the slots mapped.
    pub(super) arena: *const slots::Shared,
    pub(super) index: u32,
    kind: Kind,
}

/// A header with the owner of foreign bytes behind it.
#[repr(C)]
pub(super) struct Foreign {
    header: Header,
    bytes: Bytes,
}

const _: () = assert!(size_of::<Header>() <= pool::SMALL_HEADER_BYTES);
const _: () = assert!(size_of::<Foreign>() <= pool::FOREIGN_BYTES && align_of::<Foreign>() <= 16);

impl Header {
    /// The header of a slot that waits in its arena; it has no reference yet.
    pub(super) fn idle_slot(
        data: NonNull<u8>,
        capacity: usize,
        index: u32,
        arena: *const slots::Shared,
    ) -> Self {
        Header {
            refs: AtomicUsize::new(0),
            data: data.as_ptr(),
            capacity,
            arena,
            index,
            kind: Kind::Slot,
        }
    }

    /// The start of the bytes.
    #[inline]
    pub(super) fn data(&self) -> *mut u8 {
        self.data
    }

    #[inline]
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    #[inline]
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Gives the first reference to a header that has none.
    #[inline]
    pub(super) fn first_reference(&self) {
        self.refs.store(1, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn is_unique(&self) -> bool {
        // Acquire: the drops of all other references happened before what the sole owner does now.
        self.refs.load(Ordering::Acquire) == 1
    }

    #[inline]
    pub(super) fn retain(&self) {
        let before = self.refs.fetch_add(1, Ordering::Relaxed);
        if before > isize::MAX as usize {
            // Only a program that leaks references by the quintillion gets here; going on would
            // free memory in use.
            std::process::abort();
        }
    }
}

/// Drops one reference; the last one sends the memory home.
///
/// # Safety
/// The caller gives up a reference that it holds (M1).
#[inline]
pub(super) unsafe fn release(header: NonNull<Header>) {
    // SAFETY: the reference given up keeps the header alive until here (M1).
    let shared = unsafe { header.as_ref() };
    // A sole owner needs no atomic read-modify-write: nobody is left who could clone.
    if !shared.is_unique() {
        if shared.refs.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire);
    }
    // SAFETY: the count is zero, or was one and ours: nobody else has a reference (M1).
    unsafe { dispose(header) };
}

/// # Safety
/// Nobody has a reference any more.
#[inline]
unsafe fn dispose(header: NonNull<Header>) {
    // SAFETY: the header is still whole; its memory goes home only below.
    let (kind, index) = unsafe { (header.as_ref().kind, header.as_ref().index) };
    match kind {
        // SAFETY: taken from this class's pool in `new_block`, now unreferenced.
        Kind::Pooled => unsafe { pool::give(index as usize, header.cast()) },
        // SAFETY: unreferenced, passed on.
        _ => unsafe { dispose_rare(header, kind) },
    }
}

/// # Safety
/// As [`dispose`].
#[inline(never)]
unsafe fn dispose_rare(header: NonNull<Header>, kind: Kind) {
    match kind {
        Kind::Slot => {
            // SAFETY: unreferenced, as the caller states; its arena is kept by its strong count.
            unsafe { slots::come_home(header) }
        }
        Kind::Foreign => {
            // SAFETY: a Foreign header is the first field of a Foreign; its Bytes is initialised
            // and dropped exactly once, here; the cell came from the pool's class.
            unsafe {
                let foreign = header.cast::<Foreign>();
                std::ptr::drop_in_place(&raw mut (*foreign.as_ptr()).bytes);
                pool::give(pool::FOREIGN, header.cast());
            }
        }
        Kind::Charged => {
            // SAFETY: unreferenced, as the caller states.
            unsafe { discharge(header) }
        }
        Kind::Exact | Kind::Pooled => {
            // SAFETY: allocated in `new_exact` with the layout that its capacity gives.
            unsafe {
                let layout = exact_layout(header.as_ref().capacity);
                if let Some(layout) = layout {
                    dealloc(header.as_ptr().cast(), layout);
                }
            }
        }
    }
}

/// A fresh heap block with one reference.
#[inline]
pub(super) fn new_block(min: usize) -> NonNull<Header> {
    let Some(class) = pool::class_of(min) else {
        // No memory: the same end as that of any other allocation that fails.
        return new_exact(min).unwrap_or_else(|| handle_alloc_error(Layout::new::<Header>()));
    };
    new_pooled(class)
}

/// As [`new_block`], but `None` where the allocator refuses a large one.
#[inline]
pub(super) fn try_new_block(min: usize) -> Option<NonNull<Header>> {
    match pool::class_of(min) {
        Some(class) => Some(new_pooled(class)),
        None => new_exact(min),
    }
}

#[inline]
fn new_pooled(class: usize) -> NonNull<Header> {
    let (object, fresh) = pool::take(class);
    let header = object.cast::<Header>();
    if fresh {
        init_pooled(header, class);
    } else {
        // SAFETY: the cell is ours and large enough; a recycled one keeps every field of its
        // header but the first word.
        unsafe { (&raw mut (*header.as_ptr()).refs).write(AtomicUsize::new(1)) };
    }
    header
}

#[cold]
fn init_pooled(header: NonNull<Header>, class: usize) {
    // SAFETY: a fresh cell of this class has HEADER_BYTES and the class's bytes behind them.
    unsafe {
        header.write(Header {
            refs: AtomicUsize::new(1),
            data: header.cast::<u8>().as_ptr().add(pool::header_bytes(class)),
            capacity: pool::class_bytes(class),
            arena: std::ptr::null(),
            index: class as u32,
            kind: Kind::Pooled,
        });
    }
}

#[cold]
fn new_exact(capacity: usize) -> Option<NonNull<Header>> {
    let layout = exact_layout(capacity)?;
    // SAFETY: the layout has at least a header's size.
    let object = NonNull::new(unsafe { alloc_zeroed(layout) })?;
    let header = object.cast::<Header>();
    // SAFETY: freshly allocated with room for the header and `capacity` bytes behind it.
    unsafe {
        header.write(Header {
            refs: AtomicUsize::new(1),
            data: object.as_ptr().add(pool::HEADER_BYTES),
            capacity,
            arena: std::ptr::null(),
            index: 0,
            kind: Kind::Exact,
        });
    }
    Some(header)
}

fn exact_layout(capacity: usize) -> Option<Layout> {
    let size = capacity.checked_add(pool::HEADER_BYTES)?;
    // At malloc's own alignment zeroed memory comes from calloc, which need not touch fresh pages.
    Layout::from_size_align(size, 16).ok()
}

/// A fresh block for a copy of `n` bytes out of `origin`'s memory, charged to the arena that it
/// belongs to; plain where that is none, or gone. It fits tightly: it may have room for only a
/// part.
pub(super) fn new_copy(origin: Option<&Header>, n: usize) -> NonNull<Header> {
    let header = new_pooled(pool::tight_class(n));
    charge(header, origin);
    header
}

/// As [`new_copy`], with room for at least `min` bytes; `None` where the allocator refuses.
pub(super) fn try_new_copy(origin: Option<&Header>, min: usize) -> Option<NonNull<Header>> {
    let header = try_new_block(min)?;
    charge(header, origin);
    Some(header)
}

/// Charges a fresh heap block to the arena that `origin` belongs to.
fn charge(header: NonNull<Header>, origin: Option<&Header>) {
    let Some(arena) = origin.and_then(account_of) else {
        return;
    };
    // SAFETY: the block is fresh: the caller alone knows it.
    let block = unsafe { &mut *header.as_ptr() };
    if block.kind == Kind::Exact {
        block.index = NO_CLASS;
    }
    arena.charge(cost(block));
    block.kind = Kind::Charged;
    block.arena = Arc::downgrade(&arena).into_raw();
}

/// The arena that pays for copies of what a header stands for.
fn account_of(header: &Header) -> Option<Arc<slots::Shared>> {
    match header.kind {
        // SAFETY: a slot that is out has a strong count, which stays with it.
        Kind::Slot => Some(Arc::clone(&*ManuallyDrop::new(unsafe {
            Arc::from_raw(header.arena)
        }))),
        // SAFETY: a charged block has a weak count, which stays with it.
        Kind::Charged => ManuallyDrop::new(unsafe { Weak::from_raw(header.arena) }).upgrade(),
        _ => None,
    }
}

/// Bytes that a charged block counts for: its capacity, its header and the link of a chain.
fn cost(header: &Header) -> usize {
    let before_data = match header.index {
        NO_CLASS => pool::HEADER_BYTES,
        class => pool::header_bytes(class as usize),
    };
    before_data + header.capacity + pool::NODE_BYTES
}

/// Gives a charged block's memory and its charge back.
///
/// # Safety
/// Nobody has a reference any more.
#[cold]
unsafe fn discharge(header: NonNull<Header>) {
    // SAFETY: unreferenced, so ours alone.
    let block = unsafe { &mut *header.as_ptr() };
    let cost = cost(block);
    // SAFETY: adopts the weak count that `charge` left here, once.
    let arena = unsafe { Weak::from_raw(block.arena) };
    block.arena = std::ptr::null();
    block.kind = match block.index {
        NO_CLASS => Kind::Exact,
        _ => Kind::Pooled,
    };
    // SAFETY: unreferenced, and what it was before it was charged.
    unsafe { dispose(header) };
    if let Some(arena) = arena.upgrade() {
        arena.discharge(cost);
    }
}

/// Wraps foreign bytes in a header with one reference.
pub(super) fn new_foreign(bytes: Bytes) -> NonNull<Header> {
    let (object, _) = pool::take(pool::FOREIGN);
    let foreign = object.cast::<Foreign>();
    // SAFETY: the cell is ours, FOREIGN_BYTES large and aligned to 16.
    unsafe {
        foreign.write(Foreign {
            header: Header {
                refs: AtomicUsize::new(1),
                data: bytes.as_ptr().cast_mut(),
                capacity: bytes.len(),
                arena: std::ptr::null(),
                index: 0,
                kind: Kind::Foreign,
            },
            bytes,
        });
    }
    foreign.cast()
}

/// The `Bytes` behind a foreign header.
///
/// # Safety
/// `header` is of kind `Foreign`, and the caller holds a reference for `'a`.
pub(super) unsafe fn foreign_bytes<'a>(header: NonNull<Header>) -> &'a Bytes {
    // SAFETY: by the contract above the enclosing value is a live Foreign.
    unsafe { &(*header.cast::<Foreign>().as_ptr()).bytes }
}
