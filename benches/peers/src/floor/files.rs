//! Which descriptor an operation names: the end's own, or the one registered for it.

use std::io;
use std::os::fd::RawFd;

use io_uring::types::CancelBuilder;
use io_uring::{Submitter, squeue, types};

use crate::server::raise_descriptor_limit;

/// Slots a table of registered descriptors has at most; 8 bytes each.
const MAX_SLOTS: u64 = 1 << 16;

/// The table of registered descriptors, where there is one. An end's slot has the number of the
/// end.
#[derive(Debug)]
pub(super) struct Files {
    /// 0: nothing is registered.
    slots: u32,
}

impl Files {
    /// Without a table: every operation goes by the end's own descriptor.
    pub(super) const NONE: Self = Self { slots: 0 };

    /// Registers an empty table, as long as the limit of open descriptors lets it be.
    pub(super) fn register(submitter: &Submitter<'_>) -> io::Result<Self> {
        let slots = raise_descriptor_limit().min(MAX_SLOTS) as u32;
        submitter.register_files_sparse(slots).map_err(|error| {
            let why = format!(
                "no table of {slots} registered descriptors: {error}; lower the limit of open \
                 descriptors (ulimit -n), or do without --registered-files"
            );
            io::Error::new(error.kind(), why)
        })?;
        Ok(Self { slots })
    }

    /// Puts the descriptor of a new end into its slot.
    pub(super) fn add(&self, submitter: &Submitter<'_>, end: usize, fd: RawFd) -> io::Result<()> {
        if self.slots == 0 {
            return Ok(());
        }
        if end >= self.slots as usize {
            let why = format!(
                "more than {} connections at once: raise the limit of open descriptors (ulimit -Hn), \
                 or do without --registered-files",
                self.slots / 2
            );
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, why));
        }
        submitter.register_files_update(end as u32, &[fd]).map(drop)
    }

    /// Empties the slot of an end that is about to be closed.
    pub(super) fn remove(&self, submitter: &Submitter<'_>, end: usize) -> io::Result<()> {
        if self.slots == 0 {
            return Ok(());
        }
        submitter.register_files_update(end as u32, &[-1]).map(drop)
    }

    /// What an operation on `end` names, and the flag that says which of the two it is.
    pub(super) fn target(&self, end: usize, fd: RawFd) -> (types::Fd, squeue::Flags) {
        if self.slots == 0 {
            (types::Fd(fd), squeue::Flags::empty())
        } else {
            (types::Fd(end as RawFd), squeue::Flags::FIXED_FILE)
        }
    }

    /// The same for a cancel, which says it in its own way.
    pub(super) fn cancel(&self, end: usize, fd: RawFd) -> CancelBuilder {
        if self.slots == 0 {
            CancelBuilder::fd(types::Fd(fd))
        } else {
            CancelBuilder::fd(types::Fixed(end as u32))
        }
    }
}
