//! Why a ring could not be set up, and what to do about it.

use super::caps::{CAPS_VARIABLE, Cap};
use crate::sys::Errno;
use crate::sys::host::Release;
use std::fmt;
use thiserror::Error;

/// Why a ring could not be set up. Every message names the cause and the remedy.
#[derive(Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The sysctl `kernel.io_uring_disabled` forbids io_uring.
    #[error(
        "io_uring is forbidden by the sysctl kernel.io_uring_disabled={value}: {}",
        sysctl_remedy(*.value)
    )]
    Disabled {
        /// The sysctl's value: 1 (a group and administrators may) or 2 (nobody may).
        value: u8,
    },
    /// A seccomp filter, as containers have it, forbids io_uring.
    #[error(
        "io_uring is forbidden by a seccomp filter ({errno}): run the container with a profile that \
         allows io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Seccomp {
        /// What the filter answers.
        errno: Errno,
    },
    /// A security module or something else unknown forbids io_uring.
    #[error(
        "io_uring is forbidden ({errno}), but neither by kernel.io_uring_disabled nor by seccomp: \
         ask the policy of the security module (SELinux, AppArmor) or the virtual machine monitor"
    )]
    Forbidden {
        /// What the kernel answers.
        errno: Errno,
    },
    /// This kernel has no io_uring.
    #[error("Linux {release} has no io_uring: run Linux 6.1 or later, built with CONFIG_IO_URING")]
    Missing {
        /// The kernel's release.
        release: Release,
    },
    /// This kernel's io_uring lacks something indispensable.
    #[error("the io_uring of Linux {release} lacks {lacks}: run Linux 6.1 or later")]
    TooOld {
        /// The kernel's release.
        release: Release,
        /// What is indispensable and missing.
        lacks: &'static str,
    },
    /// There is not enough memory that may be locked, even for the smallest ring.
    #[error(
        "not enough memory for {what}, even with {entries} entries: RLIMIT_MEMLOCK is {limit} bytes for \
         all processes of this user; raise it (ulimit -l, LimitMEMLOCK= of systemd) or run fewer rings"
    )]
    Memlock {
        /// What was to be set up.
        what: &'static str,
        /// How many entries the last attempt had.
        entries: u32,
        /// The soft limit, in bytes.
        limit: u64,
    },
    /// There are too many open descriptors.
    #[error(
        "no descriptor is left for a ring ({errno}): RLIMIT_NOFILE is {limit}; raise it (ulimit -n, \
         LimitNOFILE= of systemd) or close descriptors"
    )]
    TooManyFiles {
        /// `EMFILE` (the process's limit) or `ENFILE` (the system's).
        errno: Errno,
        /// The process's soft limit.
        limit: u64,
    },
    /// A size is out of range.
    #[error("{what} of {value} is out of range: choose a power of two from {min} to {max}")]
    Size {
        /// Which size.
        what: &'static str,
        /// What was asked for.
        value: u32,
        /// The smallest.
        min: u32,
        /// The largest.
        max: u32,
    },
    /// A window is attached to this ring already.
    #[error("the ring has its window of published slots already: attach it once")]
    WindowAttached,
    /// The environment variable `EVRING_CAPS` holds an unknown name.
    #[error("environment variable {CAPS_VARIABLE}: {0}")]
    Caps(UnknownCap),
    /// The kernel refused for a reason that has no remedy of its own.
    #[error("{what} failed: {errno}")]
    Os {
        /// What was attempted.
        what: &'static str,
        /// What the kernel answers.
        errno: Errno,
    },
}

impl From<UnknownCap> for SetupError {
    fn from(unknown: UnknownCap) -> Self {
        SetupError::Caps(unknown)
    }
}

/// A word in a [`CapsMask`](super::CapsMask) that is no known name with a sign.
#[derive(Clone, PartialEq, Eq)]
pub struct UnknownCap {
    pub(super) word: String,
}

impl fmt::Display for UnknownCap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "unknown ability `{}`; write -NAME or +NAME with one of",
            self.word
        )?;
        for (i, name) in Cap::names().enumerate() {
            write!(f, "{} {name}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl std::error::Error for UnknownCap {}

fn sysctl_remedy(value: u8) -> &'static str {
    match value {
        1 => "set it to 0, or add the user to the group kernel.io_uring_group",
        _ => "set it to 0 (sysctl -w kernel.io_uring_disabled=0)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_cause_and_remedy() {
        let memlock = SetupError::Memlock {
            what: "a ring",
            entries: 64,
            limit: 65_536,
        };
        for word in ["RLIMIT_MEMLOCK", "65536", "64 entries", "ulimit -l"] {
            assert!(memlock.to_string().contains(word), "{memlock}");
        }
        let disabled = SetupError::Disabled { value: 2 };
        assert!(
            disabled
                .to_string()
                .contains("sysctl -w kernel.io_uring_disabled=0")
        );
    }
}
