//! Plain reads and writes on borrowed descriptors, for buffers that work without a base.

use super::check;
use super::pipe_shield::PipeShield;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// Most bytes that one call asks the kernel for; it takes no more itself (`MAX_RW_COUNT`).
const MAX_RW_BYTES: usize = 0x7fff_f000;

/// Reads into the slices in order; 0 at the end of the stream. Goes on after a signal.
pub(crate) fn readv(fd: BorrowedFd<'_>, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    let count = count_of(into.len());
    retry(|| {
        // SAFETY: IoSliceMut has iovec's layout by std's promise; the slices are borrowed mutably
        // and the descriptor is open for the duration of the call.
        unsafe { libc::readv(fd.as_raw_fd(), into.as_mut_ptr().cast(), count) }
    })
}

/// Writes the slices in order, as far as the descriptor takes them. Goes on after a signal; raises
/// no `SIGPIPE`.
pub(crate) fn writev(fd: BorrowedFd<'_>, from: &[IoSlice<'_>]) -> io::Result<usize> {
    let count = count_of(from.len());
    let _shield = PipeShield::raise();
    retry(|| {
        // SAFETY: IoSlice has iovec's layout by std's promise; the slices are borrowed and the
        // descriptor is open for the duration of the call.
        unsafe { libc::writev(fd.as_raw_fd(), from.as_ptr().cast(), count) }
    })
}

/// Sends `len` bytes of the file `from`, from `offset` on, to `to`, without a way through user
/// space. 0 when the file has ended. Raises no `SIGPIPE`.
pub(crate) fn sendfile(
    to: BorrowedFd<'_>,
    from: BorrowedFd<'_>,
    offset: u64,
    len: usize,
) -> io::Result<usize> {
    let mut offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let len = len.min(MAX_RW_BYTES);
    let _shield = PipeShield::raise();
    retry(|| {
        // SAFETY: both descriptors are open, and `offset` outlives the call.
        unsafe { libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), &raw mut offset, len) }
    })
}

/// How many bytes can be read without blocking, where the descriptor knows that (`FIONREAD`).
pub(crate) fn bytes_waiting(fd: RawFd) -> io::Result<usize> {
    let mut waiting: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, to a place that outlives the call.
    check(unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut waiting) })?;
    Ok(usize::try_from(waiting).unwrap_or(0))
}

/// Whether a descriptor was opened for reading, and whether for writing.
pub(crate) fn access(fd: RawFd) -> io::Result<(bool, bool)> {
    // SAFETY: takes numbers only.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    let mode = flags & libc::O_ACCMODE;
    Ok((mode != libc::O_WRONLY, mode != libc::O_RDONLY))
}

/// Whether a descriptor is a regular file, which no operation ever waits for.
pub(crate) fn is_regular(fd: RawFd) -> bool {
    // SAFETY: stat is plain numbers, all zeroes is a valid one.
    let mut stat: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes one stat, to a place that outlives the call.
    let found = check(unsafe { libc::fstat(fd, &raw mut stat) });
    found.is_ok() && stat.st_mode & libc::S_IFMT == libc::S_IFREG
}

/// Whether both directions are over (`POLLHUP`), and whether it holds an error (`POLLERR`). Does
/// not wait, and takes nothing.
pub(crate) fn hung_up(fd: RawFd) -> (bool, bool) {
    let found = poll_now(fd, 0);
    let holds = |event: libc::c_short| found & event != 0;
    (holds(libc::POLLHUP), holds(libc::POLLERR))
}

/// Whether a read would find something: bytes, an end, an error. Does not wait.
pub(crate) fn is_readable(fd: RawFd) -> bool {
    poll_now(fd, libc::POLLIN) != 0
}

/// Which of `events` hold, and of those that always count; none when it can not be asked.
fn poll_now(fd: RawFd, events: libc::c_short) -> libc::c_short {
    let mut poll = libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    // SAFETY: one entry, which outlives the call; a time-out of 0 does not wait.
    let found = unsafe { libc::poll(&raw mut poll, 1, 0) };
    if found > 0 { poll.revents } else { 0 }
}

fn count_of(slices: usize) -> libc::c_int {
    const IOV_MAX: usize = 1024;
    slices.min(IOV_MAX) as libc::c_int
}

fn retry(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        if let Ok(done) = usize::try_from(call()) {
            return Ok(done);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
