//! The arena: chunks of mapped memory, the slots cut from them, and their pool.

use super::block::{Header, Kind, release};
use super::map::Mapping;
use super::piece::Piece;
use super::pool;
use crossbeam_queue::SegQueue;
use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Bytes of one chunk, the unit in which an arena grows.
pub const CHUNK_BYTES: usize = 2 * 1024 * 1024;

/// Smallest slot size, bytes: a page.
const MIN_SLOT_BYTES: usize = 4096;

/// Size and limit of an [`Arena`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaConfig {
    /// Bytes of a slot: a power of two from 4 KiB to 2 MiB. Default 16 KiB.
    pub slot_size: usize,
    /// Cap on the bytes of all slots; at least one slot is given. Default 256 MiB. Memory is
    /// mapped chunk by chunk as it is needed. The reserve slot does not count.
    pub max_bytes: usize,
}

impl Default for ArenaConfig {
    fn default() -> Self {
        ArenaConfig {
            slot_size: 16 * 1024,
            max_bytes: 256 * 1024 * 1024,
        }
    }
}

/// Why an arena could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArenaError {
    /// The slot size is not a power of two from 4 KiB to 2 MiB.
    #[error("slot size {0} is not a power of two from 4096 to {CHUNK_BYTES} bytes")]
    SlotSize(usize),
    /// More slots than can be numbered.
    #[error("{0} slots are more than can be numbered: use larger slots or a lower cap")]
    TooManySlots(usize),
    /// The kernel refused to map memory.
    #[error(
        "cannot map {bytes} bytes for buffers ({source}): check RLIMIT_AS and vm.overcommit_memory"
    )]
    Map {
        /// Bytes asked for.
        bytes: usize,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// What an arena holds at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ArenaStats {
    /// Slots out: published to the kernel, in flight, or in buffers; the reserve slot included.
    pub slots_live: usize,
    /// Slots mapped and free.
    pub slots_free: usize,
    /// Slots that the cap allows.
    pub slots_max: usize,
    /// Chunks mapped.
    pub chunks: usize,
    /// Slots that came back from another thread than the one that takes them.
    pub remote_returns: u64,
    /// Times `take` had to answer that all slots are out.
    pub starved: u64,
    /// Free heap blocks, nodes and owners in the calling thread's pool, bytes.
    pub heap_pooled_bytes: u64,
    /// Times that pool had to ask the allocator.
    pub heap_misses: u64,
}

/// A pool of equal slots that the kernel fills and drains, capped and growing by chunks of 2 MiB.
///
/// The handle is cheap to clone. The memory lives until the last handle, slot and piece is gone.
/// Taking is LIFO, so that a lightly loaded arena keeps to its warm slots.
///
/// ```
/// use evring::arena::{Arena, ArenaConfig};
///
/// # fn main() -> Result<(), evring::arena::ArenaError> {
/// let arena = Arena::new(ArenaConfig { slot_size: 4096, max_bytes: 8192 })?;
/// let slot = arena.take().expect("two slots under this cap");
/// let piece = slot.filled_with(b"from the wire");
/// assert_eq!(&piece[..], b"from the wire");
/// assert_eq!(arena.available(), 1);
/// drop(piece);
/// assert_eq!(arena.available(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Arena {
    shared: Arc<Shared>,
}

/// State behind an [`Arena`] and all slots that are out.
pub(super) struct Shared {
    slot_size: usize,
    max_slots: usize,
    pool: Mutex<Pool>,
    /// Slots dropped by other threads than `taker`, so that these never contend for the pool.
    returned: SegQueue<Idle>,
    remote_returns: AtomicU64,
    /// The thread that took a slot last (its `thread_token`).
    taker: AtomicUsize,
    starved: AtomicU64,
    reserve: Idle,
    reserve_out: AtomicBool,
    leak: AtomicBool,
    /// The taker waits for a slot: whoever returns one on another thread rings.
    wanted: AtomicBool,
    bell: OnceLock<Bell>,
    /// Memory of the reserve slot, and its header.
    reserve_memory: Option<(Mapping, Vec<Header>)>,
}

/// Wakes the taker of slots. Called on any thread.
type Bell = Box<dyn Fn() + Send + Sync>;

struct Pool {
    free: Vec<Idle>,
    chunks: Vec<Chunk>,
    /// Slots cut from all chunks so far.
    cut: usize,
}

struct Chunk {
    memory: Mapping,
    /// Never grown or shrunk: slots point into it. (A `Box` would claim its content for itself.)
    headers: Vec<Header>,
}

/// The header of a slot that is not out; owned by the arena.
#[derive(Clone, Copy)]
struct Idle(NonNull<Header>);

// SAFETY: an idle slot's header is touched by whoever pops it, one thread at a time; the pool's
// mutex and the queue order these accesses.
unsafe impl Send for Idle {}
// SAFETY: a shared Idle only lets its address be copied; `reserve_out` decides who may use it.
unsafe impl Sync for Idle {}
// SAFETY: headers hold atomics and constants; raw pointers in them point into memory that `Shared`
// owns and that any thread may reach through a slot.
unsafe impl Send for Shared {}
// SAFETY: everything mutable is behind the mutex, the queue or atomics.
unsafe impl Sync for Shared {}

impl Arena {
    /// Maps the first chunk and the reserve slot.
    ///
    /// # Errors
    /// [`ArenaError`]: a slot size out of range, or memory that the kernel refuses.
    pub fn new(config: ArenaConfig) -> Result<Self, ArenaError> {
        let slot_size = config.slot_size;
        if !slot_size.is_power_of_two() || !(MIN_SLOT_BYTES..=CHUNK_BYTES).contains(&slot_size) {
            return Err(ArenaError::SlotSize(slot_size));
        }
        let max_slots = (config.max_bytes / slot_size).max(1);
        // One number is spare for the reserve slot.
        if max_slots >= u32::MAX as usize {
            return Err(ArenaError::TooManySlots(max_slots));
        }
        let memory = map(slot_size)?;
        let mut header = vec![Header::idle_slot(
            memory.base(),
            slot_size,
            max_slots as u32,
            std::ptr::null(),
        )];
        // SAFETY: a vector's pointer is never null.
        let reserve = Idle(unsafe { NonNull::new_unchecked(header.as_mut_ptr()) });
        let shared = Arc::new(Shared {
            slot_size,
            max_slots,
            pool: Mutex::new(Pool {
                free: Vec::new(),
                chunks: Vec::new(),
                cut: 0,
            }),
            returned: SegQueue::new(),
            remote_returns: AtomicU64::new(0),
            taker: AtomicUsize::new(thread_token()),
            starved: AtomicU64::new(0),
            reserve,
            reserve_out: AtomicBool::new(false),
            leak: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            bell: OnceLock::new(),
            reserve_memory: Some((memory, header)),
        });
        // SAFETY: the reserve header is idle and nobody else knows it yet.
        unsafe { (*reserve.0.as_ptr()).arena = Arc::as_ptr(&shared) };
        let arena = Arena { shared };
        arena.grow(&mut arena.shared.lock())?;
        Ok(arena)
    }

    /// Bytes of each slot.
    pub fn slot_size(&self) -> usize {
        self.shared.slot_size
    }

    /// Slots that the cap allows. Slot numbers lie below it; the reserve slot's number is equal.
    pub fn max_slots(&self) -> usize {
        self.shared.max_slots
    }

    /// The slot freed last, or one from a new chunk; `None` while all that the cap (or the kernel)
    /// allows are out.
    pub fn take(&self) -> Option<Slot> {
        let shared = &*self.shared;
        let token = thread_token();
        if shared.taker.load(Ordering::Relaxed) != token {
            shared.taker.store(token, Ordering::Relaxed);
        }
        let mut pool = shared.lock();
        let idle = match pool.free.pop() {
            Some(idle) => idle,
            None => self.take_slow(&mut pool)?,
        };
        drop(pool);
        Some(self.slot(idle))
    }

    /// The one slot kept outside the cap, so that a starved arena can still receive; `None` while
    /// it is out.
    pub fn take_reserve(&self) -> Option<Slot> {
        let out = self.shared.reserve_out.swap(true, Ordering::Acquire);
        (!out).then(|| self.slot(self.shared.reserve))
    }

    /// Whom to wake when a slot comes back from another thread while one is wanted. The first one stays.
    pub(crate) fn set_bell(&self, bell: impl Fn() + Send + Sync + 'static) {
        let _has_one = self.shared.bell.set(Box::new(bell));
    }

    /// Whether [`set_bell`](Self::set_bell) was called.
    pub(crate) fn has_bell(&self) -> bool {
        self.shared.bell.get().is_some()
    }

    /// The caller is about to look for a slot, and to sleep if there is none: the next one that comes back from another
    /// thread after this rings the bell, once.
    pub(crate) fn want(&self) {
        self.shared.wanted.store(true, Ordering::Relaxed);
        // With the one in `ring`: either the caller sees the slot, or its returner sees the wish.
        fence(Ordering::SeqCst);
    }

    /// How many slots [`Arena::take`] could give now: the free ones and those not mapped yet.
    pub fn available(&self) -> usize {
        let shared = &*self.shared;
        let pool = shared.lock();
        pool.free.len() + shared.returned.len() + (shared.max_slots - pool.cut)
    }

    /// Counts for ledgers and operators.
    pub fn stats(&self) -> ArenaStats {
        let shared = &*self.shared;
        let heap = pool::heap_stats();
        let pool = shared.lock();
        let free = pool.free.len() + shared.returned.len();
        ArenaStats {
            slots_live: pool.cut.saturating_sub(free)
                + usize::from(shared.reserve_out.load(Ordering::Relaxed)),
            slots_free: free,
            slots_max: shared.max_slots,
            chunks: pool.chunks.len(),
            remote_returns: shared.remote_returns.load(Ordering::Relaxed),
            starved: shared.starved.load(Ordering::Relaxed),
            heap_pooled_bytes: heap.pooled_bytes,
            heap_misses: heap.misses,
        }
    }

    /// Address and length of every chunk mapped so far, in order, for a fixed-buffer registration.
    pub fn chunk_iovecs(&self) -> Vec<libc::iovec> {
        let pool = self.shared.lock();
        pool.chunks
            .iter()
            .map(|chunk| libc::iovec {
                iov_base: chunk.memory.base().as_ptr().cast(),
                iov_len: chunk.headers.len() * self.shared.slot_size,
            })
            .collect()
    }

    /// With `true`, the memory is never unmapped: for a ring that had to give up waiting for the
    /// kernel to let go of it (I8).
    pub fn set_leak(&self, leak: bool) {
        self.shared.leak.store(leak, Ordering::Relaxed);
    }

    /// True when both handles stand for the same memory.
    pub fn same_as(&self, other: &Arena) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    #[cold]
    fn take_slow(&self, pool: &mut Pool) -> Option<Idle> {
        let shared = &*self.shared;
        while let Some(idle) = shared.returned.pop() {
            pool.free.push(idle);
        }
        if pool.free.is_empty()
            && pool.cut < shared.max_slots
            && let Err(error) = self.grow(pool)
        {
            log::warn!("buffers stay at {} slots: {error}", pool.cut);
        }
        let idle = pool.free.pop();
        if idle.is_none() {
            shared.starved.fetch_add(1, Ordering::Relaxed);
        }
        idle
    }

    /// Maps one more chunk and cuts it, as far as the cap allows.
    fn grow(&self, pool: &mut Pool) -> Result<(), ArenaError> {
        let shared = &*self.shared;
        let memory = map(CHUNK_BYTES)?;
        let slots = (CHUNK_BYTES / shared.slot_size).min(shared.max_slots - pool.cut);
        let mut headers: Vec<Header> = (0..slots)
            .map(|slot| {
                // SAFETY: `slots * slot_size` lies within the chunk.
                let data = unsafe { memory.base().add(slot * shared.slot_size) };
                Header::idle_slot(
                    data,
                    shared.slot_size,
                    (pool.cut + slot) as u32,
                    Arc::as_ptr(&self.shared),
                )
            })
            .collect();
        // Room for every slot that exists, so that a slot coming home never allocates.
        pool.free.reserve(pool.cut + slots - pool.free.len());
        // The lowest address is taken first.
        let base = headers.as_mut_ptr();
        for slot in (0..slots).rev() {
            // SAFETY: within the headers, which never move again.
            pool.free
                .push(Idle(unsafe { NonNull::new_unchecked(base.add(slot)) }));
        }
        pool.cut += slots;
        pool.chunks.push(Chunk { memory, headers });
        Ok(())
    }

    /// Sends an idle slot out, with its first reference and a strong count on the arena.
    #[inline]
    fn slot(&self, idle: Idle) -> Slot {
        // SAFETY: the caller has just popped it (or won `reserve_out`), so it is ours alone; the
        // header lives as long as `Shared`.
        unsafe {
            idle.0.as_ref().first_reference();
            Arc::increment_strong_count(Arc::as_ptr(&self.shared));
        }
        Slot { header: idle.0 }
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("slot_size", &self.slot_size())
            .field("stats", &self.stats())
            .finish()
    }
}

impl Shared {
    /// A slot came back on another thread than the taker's.
    fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.wanted.load(Ordering::Relaxed)
            && self.wanted.swap(false, Ordering::Relaxed)
            && let Some(bell) = self.bell.get()
        {
            bell();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        // The pool's state is whole between any two of its steps, so a panic elsewhere while the
        // lock was held has not spoiled it.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !self.leak.load(Ordering::Relaxed) {
            return;
        }
        // I8: the kernel may still write there; headers may still be pointed to by leaked slots.
        let pool = self.pool.get_mut().unwrap_or_else(PoisonError::into_inner);
        std::mem::forget(std::mem::take(&mut pool.chunks));
        std::mem::forget(self.reserve_memory.take());
    }
}

/// Returns a slot that nobody refers to any more to its arena.
///
/// # Safety
/// `header` is a slot's, its reference count has fallen to zero, and it still has its strong count
/// on the arena.
pub(super) unsafe fn come_home(header: NonNull<Header>) {
    // SAFETY: the strong count that the slot took when it went out is adopted here, once.
    let shared = unsafe {
        let arena = header.as_ref().arena;
        Arc::from_raw(arena)
    };
    let at_home = shared.taker.load(Ordering::Relaxed) == thread_token();
    if header == shared.reserve.0 {
        shared.reserve_out.store(false, Ordering::Release);
    } else if at_home {
        shared.lock().free.push(Idle(header));
    } else {
        shared.returned.push(Idle(header));
        shared.remote_returns.fetch_add(1, Ordering::Relaxed);
    }
    if !at_home {
        shared.ring();
    }
}

/// A slot held exclusively: the kernel may write it (I12). Dropping it returns it to the pool.
pub struct Slot {
    header: NonNull<Header>,
}

// SAFETY: a slot is the sole owner of its bytes (but for pieces already split off, M3).
unsafe impl Send for Slot {}
// SAFETY: shared access only reads constants of the header.
unsafe impl Sync for Slot {}

impl Slot {
    /// Its number in the arena: below [`Arena::max_slots`], or equal to it for the reserve slot.
    pub fn index(&self) -> u32 {
        self.header().index
    }

    /// The chunk it lies in, counted as in [`Arena::chunk_iovecs`]; `u32::MAX` for the reserve
    /// slot, which lies in none.
    pub fn chunk(&self) -> u32 {
        let header = self.header();
        // SAFETY: a slot that is out keeps its arena alive by its strong count.
        let shared = unsafe { &*header.arena };
        if header.index as usize == shared.max_slots {
            return u32::MAX;
        }
        header.index / (CHUNK_BYTES / shared.slot_size) as u32
    }

    /// Start of its bytes.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.header().data()
    }

    /// Bytes it has.
    pub fn capacity(&self) -> usize {
        self.header().capacity()
    }

    /// Turns the first `len` bytes (at most the capacity) into a shared, immutable piece.
    ///
    /// # Safety
    /// The kernel (or whoever was given the pointer) has finished with this slot and writes it no
    /// more (I12).
    pub unsafe fn filled(self, len: usize) -> Piece {
        let header = self.header;
        std::mem::forget(self);
        let len = len.min(
            // SAFETY: the reference just taken over keeps the header alive (M1).
            unsafe { header.as_ref() }.capacity(),
        );
        // SAFETY: the slot's one reference moves to the piece; nobody writes the range again, by
        // the caller's contract; the bytes are initialised (M2).
        unsafe { Piece::from_raw(header.as_ref().data(), len, header) }
    }

    /// Splits `len` bytes from `offset` off as a shared piece, while the rest stays writable: for
    /// incremental buffers. Clamped to the slot's bounds.
    ///
    /// # Safety
    /// Nobody writes that range again as long as this slot is out (I12, M3).
    pub unsafe fn share(&self, offset: usize, len: usize) -> Piece {
        let header = self.header();
        let offset = offset.min(header.capacity());
        let len = len.min(header.capacity() - offset);
        header.retain();
        // SAFETY: one new reference for the piece; in bounds; never written again by contract.
        unsafe { Piece::from_raw(header.data().add(offset), len, self.header) }
    }

    /// Copies as much of `bytes` as fits into the slot and turns it into a piece: what a kernel
    /// would do, for drivers that are not one.
    pub fn filled_with(self, bytes: &[u8]) -> Piece {
        let len = bytes.len().min(self.capacity());
        // SAFETY: the slot is exclusive and `len` within it; `bytes` cannot overlap it, since
        // safe code has no reference into an exclusive slot. Afterwards nobody writes it.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.as_mut_ptr(), len);
            self.filled(len)
        }
    }

    fn header(&self) -> &Header {
        // SAFETY: the slot's reference keeps its header alive (M1).
        unsafe { self.header.as_ref() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: gives up the slot's one reference (M1).
        unsafe { release(self.header) };
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug_assert_eq!(self.header().kind(), Kind::Slot);
        f.debug_struct("Slot")
            .field("index", &self.index())
            .field("capacity", &self.capacity())
            .finish()
    }
}

fn map(bytes: usize) -> Result<Mapping, ArenaError> {
    Mapping::new(bytes).map_err(|source| ArenaError::Map { bytes, source })
}

/// A number that differs between living threads: the address of a thread-local.
#[inline]
fn thread_token() -> usize {
    thread_local!(static TOKEN: u8 = const { 0 });
    TOKEN
        .try_with(|token| std::ptr::from_ref(token) as usize)
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(slots: usize) -> Arena {
        Arena::new(ArenaConfig {
            slot_size: 4096,
            max_bytes: slots * 4096,
        })
        .expect("a small arena maps")
    }

    #[test]
    fn refuses_bad_slot_sizes() {
        for slot_size in [0, 1, 4095, 5000, CHUNK_BYTES * 2, usize::MAX] {
            let config = ArenaConfig {
                slot_size,
                max_bytes: 1 << 20,
            };
            assert!(matches!(Arena::new(config), Err(ArenaError::SlotSize(s)) if s == slot_size));
        }
    }

    #[test]
    fn gives_at_least_one_slot_and_never_more_than_the_cap() {
        let arena = small(0);
        assert_eq!(arena.max_slots(), 1);
        let arena = small(700); // more than one chunk of 512
        let slots: Vec<_> = std::iter::from_fn(|| arena.take()).collect();
        assert_eq!(slots.len(), 700);
        assert_eq!(arena.available(), 0);
        assert_eq!(arena.stats().chunks, 2);
        assert_eq!(arena.stats().starved, 1);
        let mut seen: Vec<_> = slots.iter().map(Slot::index).collect();
        seen.sort_unstable();
        assert!(seen.iter().copied().eq(0..700));
        assert_eq!(slots[0].chunk(), 0);
        assert_eq!(slots[699].chunk(), 1);
        let iovecs = arena.chunk_iovecs();
        assert_eq!(iovecs.len(), 2);
        assert_eq!(iovecs[1].iov_len, (700 - 512) * 4096);
        drop(slots);
        assert_eq!(arena.available(), 700);
        assert_eq!(arena.stats().slots_live, 0);
    }

    #[test]
    fn takes_last_in_first_out() {
        let arena = small(8);
        let a = arena.take().expect("free");
        let b = arena.take().expect("free");
        let (first, second) = (a.index(), b.index());
        drop(a);
        drop(b);
        assert_eq!(arena.take().expect("free").index(), second);
        let held = arena.take().expect("free");
        assert_eq!(held.index(), second);
        assert_eq!(arena.take().expect("free").index(), first);
    }

    #[test]
    fn the_reserve_is_one_slot_outside_the_cap() {
        let arena = small(1);
        let all = arena.take().expect("one");
        assert!(arena.take().is_none());
        let reserve = arena.take_reserve().expect("kept for this");
        assert_eq!(reserve.index(), 1);
        assert_eq!(reserve.chunk(), u32::MAX);
        assert!(arena.take_reserve().is_none());
        assert_eq!(arena.stats().slots_live, 2);
        let piece = reserve.filled_with(b"x");
        assert!(arena.take_reserve().is_none());
        drop(piece);
        assert!(arena.take_reserve().is_some());
        drop(all);
        assert_eq!(arena.stats().slots_live, 0);
    }

    #[test]
    fn a_piece_outlives_its_arena() {
        let arena = small(2);
        let piece = arena.take().expect("free").filled_with(b"still here");
        drop(arena);
        let copy = piece.clone();
        drop(piece);
        assert_eq!(&copy[..], b"still here");
    }

    #[test]
    fn a_slot_dropped_on_another_thread_comes_back() {
        let arena = small(1);
        for round in 1..=50 {
            let piece = arena.take().expect("came back").filled_with(b"abc");
            let sent = std::thread::spawn(move || piece.len());
            assert_eq!(sent.join().expect("no panic"), 3);
            assert_eq!(arena.stats().remote_returns, round);
            assert_eq!(arena.available(), 1);
        }
    }

    #[test]
    fn many_threads_take_and_drop() {
        let arena = small(16);
        let rounds = if cfg!(miri) { 20 } else { 2000 };
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let arena = arena.clone();
                scope.spawn(move || {
                    for _ in 0..rounds {
                        let Some(slot) = arena.take() else { continue };
                        let piece = slot.filled_with(&[thread; 100]);
                        let copy = piece.clone();
                        drop(piece);
                        assert!(copy.iter().all(|&byte| byte == thread));
                    }
                });
            }
        });
        assert_eq!(arena.stats().slots_live, 0);
        assert_eq!(arena.available(), 16);
    }

    #[test]
    fn shared_parts_of_a_slot_hold_it() {
        let arena = small(1);
        let slot = arena.take().expect("free");
        // SAFETY: nobody else has the pointer; the two ranges are written once, before sharing.
        let (a, b) = unsafe {
            slot.as_mut_ptr().write_bytes(b'a', 10);
            let a = slot.share(0, 10);
            slot.as_mut_ptr().add(10).write_bytes(b'b', 10);
            (a, slot.share(10, usize::MAX))
        };
        assert_eq!(&a[..], [b'a'; 10]);
        assert_eq!(b.len(), 4086);
        drop(slot);
        drop(a);
        assert_eq!(arena.available(), 0);
        drop(b);
        assert_eq!(arena.available(), 1);
    }

    #[test]
    fn a_leaked_arena_stays_mapped() {
        let arena = small(1);
        let slot = arena.take().expect("free");
        let pointer = slot.as_mut_ptr();
        arena.set_leak(true);
        drop(slot);
        drop(arena);
        // SAFETY: leaked on purpose, so still mapped, and nobody else uses it.
        unsafe { pointer.write(1) };
    }
}
