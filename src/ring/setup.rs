//! The ladder by which a ring is set up: everything first, then without what is refused.

use super::caps::{Cap, Caps, CapsMask};
use super::error::SetupError;
use super::probe;
use crate::sys::host::{self, Release};
use crate::sys::{Errno, limits};
use io_uring::IoUring;
use std::io;

/// Fewest submission entries that a shortage of memory may shrink a ring to.
const MIN_ENTRIES: u32 = 64;
/// Most submission entries that the kernel takes.
const MAX_ENTRIES: u32 = 32_768;
/// Completion entries for each submission entry, unless configured: the queue shall never overflow.
const CQ_FACTOR: u32 = 4;

/// How large a ring is, and what it shall do without.
#[derive(Clone, Debug)]
pub struct RingConfig {
    /// Submission entries, rounded up to a power of two; 1024 by default, at most 32,768. When
    /// memory is short the ring settles for fewer, down to 64.
    pub entries: u32,
    /// Completion entries, rounded up to a power of two; 0, the default, means four times
    /// `entries`.
    pub cq_entries: u32,
    /// Abilities of the kernel not to be used; those that `EVRING_CAPS` masks come on top.
    pub caps_mask: CapsMask,
}

impl Default for RingConfig {
    fn default() -> RingConfig {
        RingConfig {
            entries: 1024,
            cq_entries: 0,
            caps_mask: CapsMask::default(),
        }
    }
}

impl RingConfig {
    /// Sets [`entries`](Self::entries).
    pub fn entries(mut self, entries: u32) -> Self {
        self.entries = entries;
        self
    }

    /// Sets [`cq_entries`](Self::cq_entries).
    pub fn cq_entries(mut self, entries: u32) -> Self {
        self.cq_entries = entries;
        self
    }

    /// Sets [`caps_mask`](Self::caps_mask).
    pub fn caps_mask(mut self, mask: CapsMask) -> Self {
        self.caps_mask = mask;
        self
    }
}

/// A ring that the kernel accepted, and what it can do.
pub(super) struct Built {
    pub(super) uring: IoUring,
    pub(super) caps: Caps,
}

pub(super) fn build(config: &RingConfig) -> Result<Built, SetupError> {
    let mask = config.caps_mask.union(CapsMask::from_environment()?);
    let entries = config.entries.max(1);
    if entries > MAX_ENTRIES {
        let (value, max) = (entries, MAX_ENTRIES);
        return Err(SetupError::Size {
            what: "number of entries",
            value,
            min: 1,
            max,
        });
    }
    let cq_entries = match config.cq_entries {
        0 => entries * CQ_FACTOR,
        wanted => wanted.max(entries),
    };
    let (uring, accepted) = climb_down(entries, cq_entries, Cap::SETUP.difference(mask.masked()))?;
    let release = Release::running();
    require_features(&uring, release)?;
    let found = accepted | probe::probe(&uring).map_err(refused)?;
    let caps = Caps::new(found, mask, release);
    log::debug!(
        "ring set up: {} submission entries, {caps}",
        uring.params().sq_entries()
    );
    Ok(Built { uring, caps })
}

/// Tries with all of `flags`, then without what is refused, newest first, and with fewer entries
/// when memory is short.
fn climb_down(
    mut entries: u32,
    mut cq_entries: u32,
    mut flags: Cap,
) -> Result<(IoUring, Cap), SetupError> {
    /// Flags in the order in which the kernel lost them, seen backwards in time.
    const NEWEST_FIRST: [Cap; 5] = [
        Cap::NO_SQARRAY,
        Cap::DEFER_TASKRUN,
        Cap::SINGLE_ISSUER,
        Cap::COOP_TASKRUN,
        Cap::SUBMIT_ALL,
    ];
    loop {
        let tried = consistent(flags);
        let err = match attempt(entries, cq_entries, tried) {
            Ok(uring) => return Ok((uring, tried)),
            Err(err) => Errno::from(err),
        };
        match err.raw() {
            libc::EINVAL => match NEWEST_FIRST.into_iter().find(|flag| flags.contains(*flag)) {
                Some(flag) => {
                    log::debug!(
                        "the kernel refuses {}",
                        flag.name().unwrap_or("a set-up flag")
                    );
                    flags -= flag;
                }
                None => {
                    let (release, lacks) = (Release::running(), "IORING_SETUP_CLAMP or CQSIZE");
                    return Err(SetupError::TooOld { release, lacks });
                }
            },
            libc::ENOMEM if entries > MIN_ENTRIES => {
                entries /= 2;
                cq_entries = (cq_entries / 2).max(entries);
                log::warn!("memory is short for a ring: trying with {entries} entries");
            }
            libc::ENOMEM => return Err(memlock("a ring", entries)),
            libc::EMFILE | libc::ENFILE => {
                let limit = limits::open_files().map_or(0, |limit| limit.soft);
                return Err(SetupError::TooManyFiles { errno: err, limit });
            }
            _ => return Err(refused(err)),
        }
    }
}

/// Leaves out what makes no sense without, or together with, other flags.
fn consistent(mut flags: Cap) -> Cap {
    if !flags.contains(Cap::SINGLE_ISSUER) {
        flags -= Cap::DEFER_TASKRUN;
    }
    if flags.contains(Cap::DEFER_TASKRUN) {
        flags -= Cap::COOP_TASKRUN;
    }
    flags
}

fn attempt(entries: u32, cq_entries: u32, flags: Cap) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_clamp().setup_cqsize(cq_entries);
    if flags.contains(Cap::SINGLE_ISSUER) {
        builder.setup_single_issuer();
    }
    if flags.contains(Cap::DEFER_TASKRUN) {
        builder.setup_defer_taskrun();
    }
    if flags.contains(Cap::COOP_TASKRUN) {
        builder.setup_coop_taskrun();
    }
    if flags.contains(Cap::SUBMIT_ALL) {
        builder.setup_submit_all();
    }
    if flags.contains(Cap::NO_SQARRAY) {
        builder.setup_no_sqarray();
    }
    builder.build(entries)
}

/// What the ring cannot do without; all of it is older than Linux 6.1.
fn require_features(uring: &IoUring, release: Release) -> Result<(), SetupError> {
    let params = uring.params();
    let lacks = if !params.is_feature_nodrop() {
        "IORING_FEAT_NODROP"
    } else if !params.is_feature_ext_arg() {
        "IORING_FEAT_EXT_ARG"
    } else if !params.is_feature_fast_poll() {
        "IORING_FEAT_FAST_POLL"
    } else if !params.is_feature_submit_stable() {
        "IORING_FEAT_SUBMIT_STABLE"
    } else {
        return Ok(());
    };
    Err(SetupError::TooOld { release, lacks })
}

/// Tells the reasons apart for which a kernel refuses io_uring altogether.
fn refused(errno: Errno) -> SetupError {
    match errno.raw() {
        libc::EPERM | libc::EACCES => match host::io_uring_disabled() {
            Some(value @ 1..) => SetupError::Disabled { value },
            _ if host::seccomp_filtered() => SetupError::Seccomp { errno },
            _ => SetupError::Forbidden { errno },
        },
        libc::ENOSYS if host::seccomp_filtered() => SetupError::Seccomp { errno },
        libc::ENOSYS => SetupError::Missing {
            release: Release::running(),
        },
        _ => SetupError::Os {
            what: "io_uring_setup",
            errno,
        },
    }
}

pub(super) fn memlock(what: &'static str, entries: u32) -> SetupError {
    let limit = limits::locked_memory_bytes().map_or(0, |limit| limit.soft);
    SetupError::Memlock {
        what,
        entries,
        limit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_need_or_replace_others_follow_them() {
        let flags = consistent(Cap::SETUP);
        assert!(flags.contains(Cap::DEFER_TASKRUN) && !flags.contains(Cap::COOP_TASKRUN));
        let flags = consistent(Cap::SETUP.difference(Cap::SINGLE_ISSUER));
        assert!(!flags.contains(Cap::DEFER_TASKRUN) && flags.contains(Cap::COOP_TASKRUN));
    }

    #[test]
    fn refusals_without_sysctl_and_filter_are_told_apart() {
        assert!(matches!(
            refused(Errno::from_raw(libc::ENODEV)),
            SetupError::Os { .. }
        ));
        if !host::seccomp_filtered() {
            let missing = refused(Errno::from_raw(libc::ENOSYS));
            assert!(matches!(missing, SetupError::Missing { .. }));
        }
    }

    #[test]
    fn sizes_out_of_range_are_errors() {
        let config = RingConfig {
            entries: 1 << 20,
            ..RingConfig::default()
        };
        assert!(matches!(build(&config), Err(SetupError::Size { .. })));
    }
}
