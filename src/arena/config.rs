//! What an arena is asked for, and what it tells of itself.

use std::io;

/// Bytes of one chunk, the unit in which an arena grows.
pub const CHUNK_BYTES: usize = 2 * 1024 * 1024;

/// Smallest slot size, bytes: a page.
pub(super) const MIN_SLOT_BYTES: usize = 4096;

/// Size and limit of an `Arena`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaConfig {
    /// Bytes of a slot: a power of two from 4 KiB to 2 MiB. Default 16 KiB.
    pub slot_size: usize,
    /// Cap on the bytes of all slots and of the copies made of what they held; at least one slot
    /// is given. Default 256 MiB. Memory is mapped chunk by chunk as it is needed. The reserve slot
    /// does not count.
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

impl ArenaConfig {
    /// Sets [`slot_size`](Self::slot_size).
    pub fn slot_size(mut self, bytes: usize) -> Self {
        self.slot_size = bytes;
        self
    }

    /// Sets [`max_bytes`](Self::max_bytes).
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }
}

/// Why an arena could not be made.
#[derive(thiserror::Error)]
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
    /// Bytes of the heap blocks that hold copies of what slots held, headers included: they count
    /// against the cap as slots do.
    pub charged_bytes: usize,
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
