//! An error number of the kernel as a value.

use std::{fmt, io};

/// An error number (`errno`) as the kernel gave it, for example `ECONNREFUSED`.
///
/// Small and `Copy`, so that a completion can carry one for nothing. Stands for what libevent
/// gives as `EVUTIL_SOCKET_ERROR()`.
///
/// ```
/// use evring::Errno;
///
/// let err = Errno::from_raw(libc::ECONNREFUSED);
/// assert_eq!(err.raw(), libc::ECONNREFUSED);
/// assert!(err.to_string().starts_with("Connection refused"));
/// let io: std::io::Error = err.into();
/// assert_eq!(io.kind(), std::io::ErrorKind::ConnectionRefused);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    /// No slot was published when data came: re-arm once slots are back.
    pub const NOBUFS: Errno = Errno(libc::ENOBUFS);
    /// The operation was cancelled.
    pub const CANCELED: Errno = Errno(libc::ECANCELED);
    /// The process is a forked child that has to build a ring of its own (I11).
    pub const CHILD: Errno = Errno(libc::ECHILD);
    /// The descriptor is no socket: read and write it as a file.
    pub const NOTSOCK: Errno = Errno(libc::ENOTSOCK);

    /// Wraps a positive error number.
    #[inline]
    pub const fn from_raw(raw: i32) -> Errno {
        Errno(raw)
    }

    /// The number itself, comparable with the `libc::E…` constants.
    #[inline]
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// What the calling thread's last failed C call left in `errno`.
    pub(crate) fn last() -> Errno {
        io::Error::last_os_error().into()
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

impl std::error::Error for Errno {}

impl From<io::Error> for Errno {
    /// `EIO` for an error that did not come from the kernel.
    fn from(err: io::Error) -> Errno {
        Errno(err.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.0)
    }
}
