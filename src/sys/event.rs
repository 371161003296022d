//! Eventfd: waking a thread that sleeps in its ring.

use super::check;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Creates an event descriptor with count zero: non-blocking, closed on exec.
pub fn event_fd() -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: the kernel just made this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds one to the count: the descriptor becomes readable. Callable from every thread.
///
/// A count that is full means a wake-up is pending already, which is success.
pub fn notify(fd: RawFd) -> io::Result<()> {
    let one = 1_u64;
    // SAFETY: reads the eight bytes of `one`.
    let ret = unsafe { libc::write(fd, (&raw const one).cast(), 8) };
    if ret == 8 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        err if err.kind() == io::ErrorKind::WouldBlock => Ok(()),
        err => Err(err),
    }
}

/// Takes the count and sets it to zero; 0 if nobody notified.
pub fn drain(fd: RawFd) -> io::Result<u64> {
    let mut count = 0_u64;
    // SAFETY: writes at most the eight bytes of `count`.
    let ret = unsafe { libc::read(fd, (&raw mut count).cast(), 8) };
    if ret == 8 {
        return Ok(count);
    }
    match io::Error::last_os_error() {
        err if err.kind() == io::ErrorKind::WouldBlock => Ok(0),
        err => Err(err),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn notifications_add_up_and_drain_takes_them() {
        let fd = event_fd().expect("an eventfd");
        assert_eq!(drain(fd.as_raw_fd()).expect("empty"), 0);
        notify(fd.as_raw_fd()).expect("notify");
        notify(fd.as_raw_fd()).expect("notify");
        assert_eq!(drain(fd.as_raw_fd()).expect("two"), 2);
        assert_eq!(drain(fd.as_raw_fd()).expect("empty"), 0);
    }
}
