//! Signalfd and signal masks.

use super::check;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::{io, mem, ptr};

/// One signal as read from a signal descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caught {
    /// The signal's number, `libc::SIG*`.
    pub signal: i32,
    /// The process that sent it, 0 if the kernel did.
    pub sender_pid: u32,
}

/// Blocks `signals` for the calling thread. Threads started later inherit it.
///
/// # Errors
///
/// `InvalidInput` for a number that is no signal.
pub fn block(signals: &[i32]) -> io::Result<()> {
    let set = set_of(signals)?;
    // SAFETY: the set lives across the call; nobody asks for the old mask. It returns its error.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) } {
        0 => Ok(()),
        err => Err(io::Error::from_raw_os_error(err)),
    }
}

/// Creates a descriptor that is readable when one of `signals`, which should be blocked, is
/// pending.
///
/// # Errors
///
/// `InvalidInput` for a number that is no signal.
pub fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = set_of(signals)?;
    // SAFETY: the set is borrowed for the call; -1 asks for a new descriptor.
    let fd = check(unsafe { libc::signalfd(-1, &raw const set, FLAGS) })?;
    // SAFETY: the kernel just made this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes one pending signal from a signal descriptor; `None` when there is none.
pub fn read(fd: RawFd) -> io::Result<Option<Caught>> {
    // SAFETY: signalfd_siginfo is plain numbers, all zeroes is valid.
    let mut info: libc::signalfd_siginfo = unsafe { mem::zeroed() };
    let size = mem::size_of::<libc::signalfd_siginfo>();
    // SAFETY: the kernel writes at most `size` bytes into `info`.
    let ret = unsafe { libc::read(fd, (&raw mut info).cast(), size) };
    if ret < 0 {
        return match io::Error::last_os_error() {
            err if err.kind() == io::ErrorKind::WouldBlock => Ok(None),
            err => Err(err),
        };
    }
    if ret as usize != size {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a signal descriptor",
        ));
    }
    Ok(Some(Caught {
        signal: info.ssi_signo as i32,
        sender_pid: info.ssi_pid,
    }))
}

const FLAGS: libc::c_int = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;

fn set_of(signals: &[i32]) -> io::Result<libc::sigset_t> {
    // SAFETY: sigset_t is plain numbers, and sigemptyset initialises it.
    let mut set = unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        set
    };
    for signal in signals {
        // SAFETY: the set is initialised; a bad number is refused with EINVAL.
        check(unsafe { libc::sigaddset(&raw mut set, *signal) })?;
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_blocked_signal_arrives_at_the_descriptor() {
        // Sent to this thread alone, lest another test's thread take the process's signal and die
        // of it.
        block(&[libc::SIGUSR2]).expect("block");
        let fd = signal_fd(&[libc::SIGUSR2]).expect("a signalfd");
        assert_eq!(read(fd.as_raw_fd()).expect("none yet"), None);
        // SAFETY: signals the calling thread, which has the signal blocked.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR2) };
        let caught = read(fd.as_raw_fd()).expect("read").expect("one signal");
        assert_eq!(caught.signal, libc::SIGUSR2);
        assert_eq!(caught.sender_pid, std::process::id());
        assert_eq!(read(fd.as_raw_fd()).expect("taken"), None);
    }

    #[test]
    fn a_number_that_is_no_signal_is_an_error() {
        assert!(signal_fd(&[4711]).is_err());
        assert!(block(&[-1]).is_err());
    }
}
