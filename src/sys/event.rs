//! Eventfd: waking a thread that sleeps in its ring.

use super::check;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Creates an event descriptor with count zero: non-blocking, closed on exec.
pub fn event_fd() -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: the kernel just made this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    #[test]
    fn notifications_add_up_and_a_read_takes_them() {
        let mut event = File::from(event_fd().expect("an eventfd"));
        let mut count = [0; 8];
        let empty = event.read(&mut count).expect_err("it does not block");
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        for _ in 0..2 {
            event.write_all(&1_u64.to_ne_bytes()).expect("notify");
        }
        event.read_exact(&mut count).expect("two");
        assert_eq!(u64::from_ne_bytes(count), 2);
    }
}
