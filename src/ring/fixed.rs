//! Fixed registration: the arena's chunks made known to the kernel, so that zero-copy sends need no
//! page lookup. An accelerator: without it, or with a part of it, everything works.

use super::notice::Notices;
use crate::arena::{Arena, CHUNK_BYTES, Piece};
use crate::sys::Errno;
use io_uring::IoUring;
use log::Level;

/// Most buffers that the kernel lets a ring register.
const MAX_BUFFERS: usize = 1 << 14;

#[derive(Debug)]
pub(super) struct Fixed {
    /// Keeps the registered memory mapped: an address must not come to mean other memory.
    arena: Arena,
    /// Start and end address of each registered chunk, by address, with its index.
    chunks: Vec<(usize, usize, u16)>,
    capacity: usize,
    /// RLIMIT_MEMLOCK was reached: leave it at what there is.
    exhausted: bool,
}

impl Fixed {
    /// Makes room in the kernel's table for all chunks that the arena may come to have.
    pub(super) fn new(uring: &IoUring, arena: &Arena) -> Result<Fixed, Errno> {
        let bytes = arena.max_slots().saturating_mul(arena.slot_size());
        let capacity = bytes.div_ceil(CHUNK_BYTES).clamp(1, MAX_BUFFERS);
        uring
            .submitter()
            .register_buffers_sparse(capacity as u32)
            .map_err(Errno::from)?;
        let arena = arena.clone();
        Ok(Fixed {
            arena,
            chunks: Vec::new(),
            capacity,
            exhausted: false,
        })
    }

    /// Registers the chunks that the arena has got since; gives how many are registered now.
    pub(super) fn extend(&mut self, uring: &IoUring, notices: &mut Notices) -> usize {
        let known = self.chunks.len();
        let iovecs = self.arena.chunk_iovecs();
        for (index, iovec) in iovecs.iter().enumerate().take(self.capacity).skip(known) {
            if self.exhausted {
                break;
            }
            // SAFETY: a chunk of an arena that this value keeps alive; the kernel pins its pages.
            let registered = unsafe {
                uring
                    .submitter()
                    .register_buffers_update(index as u32, &[*iovec], None)
            };
            if let Err(err) = registered {
                let (known, all) = (self.chunks.len(), iovecs.len());
                let text = format_args!(
                    "{known} of {all} chunks are registered, the rest is looked up at every zero-copy send: {err} \
                     (RLIMIT_MEMLOCK; raise it with ulimit -l)",
                );
                notices.note(Level::Warn, text);
                self.exhausted = true;
                break;
            }
            let start = iovec.iov_base as usize;
            self.chunks
                .push((start, start + iovec.iov_len, index as u16));
        }
        self.chunks.len()
    }

    /// The index of the registered chunk in which the whole piece lies.
    pub(super) fn index_of(&self, piece: &Piece) -> Option<u16> {
        let start = piece.as_ptr() as usize;
        let end = start + piece.len();
        let chunk = self
            .chunks
            .iter()
            .find(|chunk| chunk.0 <= start && end <= chunk.1)?;
        Some(chunk.2)
    }

    pub(super) fn unregister(&mut self, uring: &IoUring, notices: &mut Notices) {
        if let Err(err) = uring.submitter().unregister_buffers() {
            let text = format_args!("the registered chunks go with their ring: {err}");
            notices.note(Level::Debug, text);
        }
        self.chunks.clear();
    }

    /// Keeps the arena's memory mapped for ever (I8).
    pub(super) fn leak(self) {
        self.arena.set_leak(true);
        std::mem::forget(self);
    }
}

/// Whether the kernel knows sparse tables of fixed buffers: registers one and takes it back.
pub(super) fn is_supported(uring: &IoUring) -> bool {
    let submitter = uring.submitter();
    submitter.register_buffers_sparse(1).is_ok() && submitter.unregister_buffers().is_ok()
}
