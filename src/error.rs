//! What can go wrong, each with its cause and its remedy.

use std::{fmt, io};

use crate::arena::ArenaError;
use crate::evbuffer::BufferError;
use crate::rate_limit::{ConfigError, GroupError, ParseRateError};
use crate::ring::{SetupError, UnknownCap};
use crate::sys::Errno;

/// An error of a call into evring.
///
/// What happens to a connection later (end of stream, reset, time-out) is not an error of a
/// call: it comes through the event callback.
///
/// Its text names the cause, which is therefore not told again by
/// [`source`](std::error::Error::source). `{:?}` gives the same text, since that is what a program
/// shows whose `main` returns an error.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel gave no ring, or not the memory for it.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The arena of slots could not be made.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// A system call was refused.
    #[error("{call}: {cause}")]
    Io {
        /// What was asked of the kernel, with its argument.
        call: String,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// An address could not be read or does not fit a socket address.
    #[error("address '{given}': {why}")]
    BadAddress {
        /// The text or path as it was given.
        given: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The object was freed (or its base is gone): the call did nothing.
    #[error("{what} was freed; make a new one")]
    Freed {
        /// What kind of object.
        what: &'static str,
    },
    /// An argument, or the state of the object, does not allow the call; nothing changed.
    #[error("{what}: {why}")]
    Invalid {
        /// The call.
        what: &'static str,
        /// Why it was refused and what would be accepted.
        why: &'static str,
    },
    /// A buffer is being used by a closure that is still running (`BufferView::with` within
    /// itself); nothing changed.
    #[error("the {what} buffer is in use by a closure further up; let it return first")]
    Busy {
        /// Which buffer.
        what: &'static str,
    },
    /// A buffer refused the operation; nothing changed.
    #[error(transparent)]
    Buffer(#[from] BufferError),
    /// A rate-limit group refused; nothing changed.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The process forked: a child may not use its parent's base.
    #[error("this event base belongs to the process {parent}; make a new base after fork")]
    Forked {
        /// The process that made the base.
        parent: u32,
    },
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// `{:?}` of an error is its text, for all errors of the library.
macro_rules! debug_is_text {
    ($($error:ty),+) => {$(
        impl fmt::Debug for $error {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )+};
}

debug_is_text!(
    Error,
    SetupError,
    UnknownCap,
    ArenaError,
    BufferError,
    ConfigError,
    GroupError,
    ParseRateError
);

impl Error {
    pub(crate) fn io(call: impl Into<String>, cause: io::Error) -> Self {
        Error::Io {
            call: call.into(),
            cause,
        }
    }

    /// The system's error number behind this error, if there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Io { cause, .. } => cause.raw_os_error().map(Errno::from_raw),
            _ => None,
        }
    }
}
