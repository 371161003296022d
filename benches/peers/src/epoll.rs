//! epoll and nonblocking reads and writes, as thin as they get.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// An epoll instance and the events of its last wait.
#[allow(missing_debug_implementations)]
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

/// What a wait tells about one descriptor.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    /// What the descriptor was added with.
    pub token: u64,
    /// `EPOLLIN`, `EPOLLOUT`, `EPOLLHUP`, ... bits.
    pub events: u32,
}

/// The bits that mean a read will not block: data, an end, or an error.
pub const READABLE: u32 = (libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLERR) as u32;
/// Wait for data.
pub const IN: u32 = libc::EPOLLIN as u32;
/// Wait for room.
pub const OUT: u32 = libc::EPOLLOUT as u32;

impl Epoll {
    /// An instance that takes up to `batch` events a wait.
    pub fn new(batch: usize) -> io::Result<Self> {
        // SAFETY: no memory is involved.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            // SAFETY: just created, owned by nobody else.
            fd: unsafe { OwnedFd::from_raw_fd(fd) },
            events: vec![libc::epoll_event { events: 0, u64: 0 }; batch],
        })
    }

    /// Watches `fd`, level-triggered.
    pub fn add(&self, fd: RawFd, token: u64, events: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, events)
    }

    /// Changes what `fd` is watched for.
    pub fn modify(&self, fd: RawFd, token: u64, events: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, events)
    }

    fn control(&self, what: libc::c_int, fd: RawFd, token: u64, events: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: `event` is valid for the call.
        let done = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), what, fd, &mut event) };
        check(done as isize).map(drop)
    }

    /// Waits up to `timeout_ms` (-1: for ever) and gives the number of events, read with
    /// [`ready`](Self::ready).
    pub fn wait(&mut self, timeout_ms: i32) -> io::Result<usize> {
        // SAFETY: the kernel fills at most `events.len()` entries.
        let count = unsafe {
            libc::epoll_wait(
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as libc::c_int,
                timeout_ms,
            )
        };
        match check(count as isize) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            other => other,
        }
    }

    /// The event at `index` of the last wait.
    pub fn ready(&self, index: usize) -> Ready {
        let event = self.events[index];
        Ready {
            token: event.u64,
            events: event.events,
        }
    }
}

/// Reads what there is, up to `buffer`; 0 is the end of the stream, `WouldBlock` means nothing now.
pub fn read(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes into it.
    check(unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) })
}

/// Writes as much as fits now; `WouldBlock` means nothing does.
pub fn write(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the kernel reads at most `bytes.len()` bytes.
    check(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) })
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
