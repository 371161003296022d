//! The arena: chunks of mapped memory, the slots cut from them, and their pool.

use super::budget::Budget;
use super::config::{ArenaConfig, ArenaError, ArenaStats, CHUNK_BYTES, MIN_SLOT_BYTES};
use super::header::Header;
use super::map::Mapping;
use super::pool;
use super::slot::Slot;
use crossbeam_queue::SegQueue;
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// A pool of equal slots that the kernel fills and drains, capped and growing by chunks of 2 MiB.
///
/// Bytes that are copied out of its slots into blocks of the heap
/// ([`EvBuffer::compact`](crate::evbuffer::EvBuffer::compact)) count against the same cap as long
/// as their block lives, wherever it goes: they take the place of slots.
///
/// The handle is cheap to clone. The memory lives until the last handle, slot and piece is gone.
/// Taking is LIFO, so that a lightly loaded arena keeps to its warm slots.
///
/// ```
/// use evring::arena::{Arena, ArenaConfig};
///
/// # fn main() -> Result<(), evring::arena::ArenaError> {
/// let arena = Arena::new(ArenaConfig::default().slot_size(4096).max_bytes(8192))?;
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
    pub(super) shared: Arc<Shared>,
}

/// State behind an [`Arena`] and all slots that are out.
pub(super) struct Shared {
    pub(super) slot_size: usize,
    pub(super) max_slots: usize,
    pub(super) budget: Budget,
    pool: Mutex<Pool>,
    /// Slots dropped by other threads than `taker`, so that these never contend for the pool.
    pub(super) returned: SegQueue<Idle>,
    remote_returns: AtomicU64,
    /// The thread that took a slot last (its `thread_token`).
    taker: AtomicUsize,
    starved: AtomicU64,
    reserve: Idle,
    reserve_out: AtomicBool,
    leak: AtomicBool,
    /// The taker waits for a slot: whoever returns one on another thread wakes it.
    wanted: AtomicBool,
    waker: OnceLock<Waker>,
    /// Memory of the reserve slot, and its header.
    reserve_memory: Option<(Mapping, Vec<Header>)>,
}

/// Wakes the taker of slots. Called on any thread.
type Waker = Box<dyn Fn() + Send + Sync>;

pub(super) struct Pool {
    /// Taken from the end: what was used last is warm.
    pub(super) free: Vec<Idle>,
    chunks: Vec<Chunk>,
    /// Slots cut from all chunks so far.
    pub(super) cut: usize,
    /// How many of `free`, from its start, have given their pages back to the kernel.
    pub(super) released: usize,
    /// The kernel refused a chunk, and that was said.
    refused: bool,
}

/// The kernel gave no memory for more slots.
#[derive(Debug)]
pub(crate) struct Refusal {
    cut: usize,
    error: ArenaError,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { cut, error } = self;
        write!(f, "buffers stay at {cut} slots: {error}")
    }
}

struct Chunk {
    memory: Mapping,
    /// Never grown or shrunk: slots point into it. (A `Box` would claim its content for itself.)
    headers: Vec<Header>,
}

/// The header of a slot that is not out; owned by the arena.
#[derive(Clone, Copy)]
pub(super) struct Idle(NonNull<Header>);

impl Idle {
    /// Start of the slot's bytes.
    pub(super) fn data(&self) -> *mut u8 {
        // SAFETY: the header of an idle slot lives as long as its arena, which holds this value.
        unsafe { self.0.as_ref() }.data()
    }
}

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
            budget: Budget::new(config.max_bytes, slot_size, max_slots),
            pool: Mutex::new(Pool {
                free: Vec::new(),
                chunks: Vec::new(),
                cut: 0,
                released: 0,
                refused: false,
            }),
            returned: SegQueue::new(),
            remote_returns: AtomicU64::new(0),
            taker: AtomicUsize::new(thread_token()),
            starved: AtomicU64::new(0),
            reserve,
            reserve_out: AtomicBool::new(false),
            leak: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            waker: OnceLock::new(),
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
    /// allows are out, or copies have taken their place.
    pub fn take(&self) -> Option<Slot> {
        self.take_or(|refusal| log::warn!("{refusal}"))
    }

    /// The same for who may not log just now: `refused` is told when the kernel gives no more
    /// memory, once until it does.
    #[inline]
    pub(crate) fn take_or(&self, refused: impl FnOnce(Refusal)) -> Option<Slot> {
        let shared = &*self.shared;
        let token = thread_token();
        if shared.taker.load(Ordering::Relaxed) != token {
            shared.taker.store(token, Ordering::Relaxed);
        }
        let mut pool = shared.lock();
        if shared.budget.charged() != 0 && !shared.has_room(&pool) {
            shared.starved.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let idle = match pool.free.pop() {
            Some(idle) => idle,
            None => {
                let (slot, refusal) = self.take_slow(pool);
                // The pool is free: the logger is the program's, and may drop a piece.
                if let Some(refusal) = refusal {
                    refused(refusal);
                }
                return slot;
            }
        };
        if pool.released > pool.free.len() {
            pool.released = pool.free.len();
        }
        drop(pool);
        Some(self.slot(idle))
    }

    /// The one slot kept outside the cap, so that a starved arena can still receive; `None` while
    /// it is out.
    pub fn take_reserve(&self) -> Option<Slot> {
        let out = self.shared.reserve_out.swap(true, Ordering::Acquire);
        (!out).then(|| self.slot(self.shared.reserve))
    }

    /// Whom to wake when a slot comes back from another thread while one is wanted. The first one
    /// stays.
    pub(crate) fn set_waker(&self, waker: impl Fn() + Send + Sync + 'static) {
        let _has_one = self.shared.waker.set(Box::new(waker));
    }

    /// Whether [`set_waker`](Self::set_waker) was called.
    pub(crate) fn has_waker(&self) -> bool {
        self.shared.waker.get().is_some()
    }

    /// The caller is about to look for a slot, and to sleep if there is none: the next one that
    /// comes back from another thread after this calls the waker, once.
    pub(crate) fn want(&self) {
        self.shared.wanted.store(true, Ordering::Relaxed);
        // With the one in `wake`: either the caller sees the slot, or its returner sees the wish.
        fence(Ordering::SeqCst);
    }

    /// How many slots [`Arena::take`] could give now, one after the other: what slots and copies
    /// leave of the cap, free or not mapped yet.
    pub fn available(&self) -> usize {
        self.shared.available(&self.shared.lock())
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
            charged_bytes: shared.budget.charged(),
            chunks: pool.chunks.len(),
            remote_returns: shared.remote_returns.load(Ordering::Relaxed),
            starved: shared.starved.load(Ordering::Relaxed),
            heap_pooled_bytes: heap.pooled_bytes,
            heap_misses: heap.misses,
        }
    }

    /// Address and length of every chunk mapped so far, in order, for a fixed-buffer registration.
    pub fn chunk_iovecs(&self) -> Vec<libc::iovec> {
        self.shared.budget.keep_pages();
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
    fn take_slow(&self, mut pool: MutexGuard<'_, Pool>) -> (Option<Slot>, Option<Refusal>) {
        let shared = &*self.shared;
        while let Some(idle) = shared.returned.pop() {
            pool.free.push(idle);
        }
        let mut refusal = None;
        if pool.free.is_empty() && pool.cut < shared.max_slots {
            let refused = self.grow(&mut pool).err();
            let before = std::mem::replace(&mut pool.refused, refused.is_some());
            let cut = pool.cut;
            refusal = refused
                .filter(|_| !before)
                .map(|error| Refusal { cut, error });
        }
        let idle = pool.free.pop();
        drop(pool);
        if idle.is_none() {
            shared.starved.fetch_add(1, Ordering::Relaxed);
        }
        (idle.map(|idle| self.slot(idle)), refusal)
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
    /// The calling thread gave something back: if it is not the taker's, wakes the taker that
    /// waits.
    pub(super) fn wake_from_elsewhere(&self) {
        if self.taker.load(Ordering::Relaxed) != thread_token() {
            self.wake();
        }
    }

    /// A slot came back on another thread than the taker's.
    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.wanted.load(Ordering::Relaxed)
            && self.wanted.swap(false, Ordering::Relaxed)
            && let Some(waker) = self.waker.get()
        {
            waker();
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Pool> {
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
        shared.wake();
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
