//! Reading from and writing to a file descriptor, without a base.

use super::{BufferError, EvBuffer, Seg};
use crate::arena::{MAX_BLOCK_BYTES, MIN_BLOCK_BYTES, Segment};
use crate::sys::fdio;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Most bytes of one [`EvBuffer::read_from`] unless set otherwise.
const DEFAULT_MAX_READ: usize = 64 * 1024;
/// Slices of one [`EvBuffer::write_to`].
const MAX_WRITE_SLICES: usize = 64;

impl EvBuffer {
    /// Writes at most `max` bytes from the front to `fd` with one system call and drains what was
    /// taken; returns how many (libevent: `evbuffer_write_atmost`; with `None`, `evbuffer_write`).
    /// File ranges go from file to descriptor inside the kernel where it can do that.
    ///
    /// A peer that is gone gives `EPIPE`, and never a SIGPIPE.
    ///
    /// # Errors
    /// A frozen front; what the kernel answers, [`WouldBlock`](io::ErrorKind::WouldBlock) included.
    pub fn write_to(&mut self, fd: impl AsFd, max: Option<usize>) -> Result<usize, BufferError> {
        self.check_start()?;
        let max = max.unwrap_or(usize::MAX).min(self.len);
        if max == 0 {
            return Ok(0);
        }
        let fd = fd.as_fd();
        let written = match self.chain.front() {
            Some(Seg::File(range)) => match range.send_to(fd, max) {
                Err(error) if cannot_splice(&error) => {
                    self.load(max.min(MAX_BLOCK_BYTES))?;
                    self.write_memory(fd, max)?
                }
                sent => sent?,
            },
            _ => self.write_memory(fd, max)?,
        };
        Ok(self.drain_front(written))
    }

    /// Reads at most `max` bytes from `fd` and appends them, with one read; returns how many, 0 at
    /// the end of the stream (libevent: `evbuffer_read`). The limits of
    /// [`EvBuffer::set_max_read`] and [`EvBuffer::set_max_len`] apply.
    ///
    /// # Errors
    /// A frozen end; [`BufferError::Full`] when the limit on the length is reached; what the kernel
    /// answers, [`WouldBlock`](io::ErrorKind::WouldBlock) included.
    pub fn read_from(&mut self, fd: impl AsFd, max: Option<usize>) -> Result<usize, BufferError> {
        self.check_end()?;
        let fd = fd.as_fd();
        let limit = self.max_len().unwrap_or(Self::MAX_LEN);
        let allowed = limit.saturating_sub(self.len);
        if allowed == 0 {
            return Err(BufferError::Full(limit));
        }
        let wanted = max.unwrap_or(usize::MAX).min(self.max_read()).min(allowed);
        if wanted == 0 {
            return Ok(0);
        }
        // Ask how much waits, so that a short message does not take a large block. Where that is
        // unknown, or nothing waits yet, a small block will do.
        let waiting = fdio::bytes_waiting(fd.as_raw_fd())
            .unwrap_or(0)
            .max(MIN_BLOCK_BYTES);
        let wanted = wanted.min(waiting);
        let mut empty = [];
        let (tail, room) = match self.chain.back_mut() {
            Some(Seg::Mem(tail)) => {
                let room = tail.room().min(wanted);
                (&mut tail.spare()[..room], room)
            }
            _ => (&mut empty[..], 0),
        };
        let rest = (wanted - room).min(MAX_BLOCK_BYTES);
        let mut block = (rest > 0).then(|| Segment::with_capacity(rest));
        let spare = match &mut block {
            Some(block) => &mut block.spare()[..rest],
            None => &mut [],
        };
        let read = fdio::readv(fd, &mut [IoSliceMut::new(tail), IoSliceMut::new(spare)])?;
        if let Some(Seg::Mem(tail)) = self.chain.back_mut() {
            tail.commit(read.min(room));
        }
        if let Some(mut block) = block
            && read > room
        {
            block.commit(read - room);
            self.push_seg(Seg::Mem(block));
        }
        self.changed(read, 0);
        Ok(read)
    }

    /// Sets the most bytes that one [`EvBuffer::read_from`] takes, 0 for the default of 64 KiB
    /// (libevent 2.2: `evbuffer_set_max_read`).
    pub fn set_max_read(&mut self, bytes: usize) {
        self.extra_mut().max_read = bytes;
    }

    /// The most bytes that one [`EvBuffer::read_from`] takes (libevent 2.2:
    /// `evbuffer_get_max_read`).
    pub fn max_read(&self) -> usize {
        match &self.extra {
            Some(extra) if extra.max_read > 0 => extra.max_read,
            _ => DEFAULT_MAX_READ,
        }
    }

    /// Sets the length at which [`EvBuffer::read_from`] stops: it never reads the buffer longer
    /// than that. Other operations are not bound by it.
    pub fn set_max_len(&mut self, bytes: Option<usize>) {
        self.extra_mut().max_len = bytes;
    }

    /// The length at which [`EvBuffer::read_from`] stops.
    pub fn max_len(&self) -> Option<usize> {
        self.extra.as_ref().and_then(|extra| extra.max_len)
    }

    /// Writes bytes in memory at the front, at most `max`.
    fn write_memory(&self, fd: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); MAX_WRITE_SLICES];
        let mut count = 0;
        for (slot, (_, bytes)) in slices.iter_mut().zip(self.clip(0, max)) {
            *slot = IoSlice::new(bytes);
            count += 1;
        }
        fdio::writev(fd, &slices[..count])
    }
}

/// True for errors that mean: these two descriptors do not go together, copy instead.
fn cannot_splice(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::ENOSYS | libc::ENOTSUP | libc::EOVERFLOW)
    )
}
