//! Memory that the kernel and the buffers share: slots, heap blocks, and the pieces cut from them.
//!
//! ```text
//!   Arena ── chunk (2 MiB, mmap) ── chunk ── …            one reserve slot, outside the cap
//!              │ cut in slots
//!   Slot  ─────┤ exclusive, the kernel may write it (I12)
//!              │ filled(len)
//!   Piece ─────┘ immutable range, shared by reference counting ──► buffers, sends, `bytes::Bytes`
//!
//!   Block      refcounted heap memory, size-classed, from a pool of the thread; one that holds a
//!              copy of what slots held is charged to their arena, whose cap covers both
//!   Segment    a Piece that may also own the unwritten room behind it: what a buffer appends to
//!   Chain<T>   singly linked list on pooled nodes; appending one chain to another is O(1)
//! ```
//!
//! Everything here is `Send` and `Sync` where that makes sense; nothing depends on a ring or a
//! base. A piece keeps its slot, and the slot its arena, so a buffer that outlives its base stays
//! valid.
//!
//! # Rules of ownership inside a block
//!
//! Numbered like the design's invariants, because SAFETY comments cite them.
//!
//! - **M1** A block's header lives until its reference count falls to zero; each `Block`, `Piece`,
//!   `Segment` and `Slot` holds exactly one reference.
//! - **M2** Every byte of a block is initialised from the day it is allocated (zeroed or mapped),
//!   so exposing bytes that nobody wrote is harmless to memory safety.
//! - **M3** The bytes of a block are divided into ranges: ranges that pieces read (never written
//!   again while anyone else can see them), and at most one room, owned by exactly one segment or
//!   slot, which alone may write it. Only a sole reference may take back what was drained.
#![allow(unsafe_code)]

mod block;
mod budget;
mod chain;
mod config;
mod header;
mod map;
mod piece;
mod pool;
mod segment;
mod slot;
mod slots;

pub use block::Block;
pub use chain::{Chain, Iter, IterMut, Link};
pub use config::{ArenaConfig, ArenaError, ArenaStats, CHUNK_BYTES};
pub use piece::Piece;
pub(crate) use pool::{BLOCK_CLASSES, class_of as block_class};
pub use pool::{HeapStats, MAX_BLOCK_BYTES, MIN_BLOCK_BYTES, heap_stats};
pub use segment::Segment;
pub use slot::Slot;
pub use slots::Arena;

#[cfg(test)]
mod tests;
