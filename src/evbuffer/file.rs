//! Ranges of files in a buffer.

use super::{BufferError, EvBuffer, FILES, Seg, Spent};
use crate::sys::fdio;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

/// A part of an open file that can be put into any number of buffers (libevent:
/// `evbuffer_file_segment`). Clones share it; the file is closed when the last clone, and the last
/// buffer that holds a part of it, is gone (keep another `Arc` of the file to keep it open).
///
/// The file must not shrink below the segment while it is in use; reading past its end is an
/// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) error when it happens.
#[derive(Clone)]
pub struct FileSegment {
    inner: Arc<Inner>,
}

struct Inner {
    file: Arc<File>,
    offset: u64,
    len: u64,
    cleanup: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

impl FileSegment {
    /// The part of `file` from `offset`, `len` bytes long, or up to its present end (libevent:
    /// `evbuffer_file_segment_new`).
    ///
    /// # Errors
    /// `InvalidInput` when offset plus length overflow or exceed a file's possible size; what
    /// `fstat` answers when the length is asked from the file.
    pub fn new(file: impl Into<Arc<File>>, offset: u64, len: Option<u64>) -> io::Result<Self> {
        let file = file.into();
        let len = match len {
            Some(len) => len,
            None => file.metadata()?.len().saturating_sub(offset),
        };
        match offset.checked_add(len) {
            Some(end) if end <= i64::MAX as u64 => {}
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(FileSegment {
            inner: Arc::new(Inner {
                file,
                offset,
                len,
                cleanup: Mutex::new(Vec::new()),
            }),
        })
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.inner.len
    }

    /// True when it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.inner.len == 0
    }

    /// Calls `cleanup` when the last reference to the segment is gone (libevent:
    /// `evbuffer_file_segment_add_cleanup_cb`).
    pub fn on_free(&self, cleanup: impl FnOnce() + Send + 'static) {
        if let Ok(mut list) = self.inner.cleanup.lock() {
            list.push(Box::new(cleanup));
        }
    }
}

impl fmt::Debug for FileSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSegment")
            .field("offset", &self.inner.offset)
            .field("len", &self.inner.len)
            .finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let list = self.cleanup.get_mut();
        for cleanup in list.map(std::mem::take).unwrap_or_default() {
            cleanup();
        }
    }
}

/// Part of a file segment that waits in a buffer.
#[derive(Clone)]
pub(crate) struct FileRange {
    segment: FileSegment,
    /// From the file's start, bytes.
    offset: u64,
    len: usize,
}

impl FileRange {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn advance(&mut self, n: usize) {
        let n = n.min(self.len);
        self.offset += n as u64;
        self.len -= n;
    }

    pub(super) fn split_to(&mut self, n: usize) -> FileRange {
        let mut front = self.clone();
        front.len = n.min(self.len);
        self.advance(n);
        front
    }

    /// Sends at most `max` of its bytes to `to` inside the kernel.
    pub(super) fn send_to(&self, to: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
        let file = self.segment.inner.file.as_fd();
        let wanted = self.len.min(max);
        match fdio::sendfile(to, file, self.offset, wanted)? {
            0 if wanted > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            sent => Ok(sent),
        }
    }

    /// Fills `out` from the range's byte `skip` on.
    pub(super) fn read_exact(&self, skip: usize, out: &mut [u8]) -> io::Result<()> {
        let file = &self.segment.inner.file;
        file.read_exact_at(out, self.offset + skip as u64)
    }
}

impl EvBuffer {
    /// Appends `len` bytes of `file` from `offset`, or all up to its present end, without reading
    /// them (libevent: `evbuffer_add_file`).
    ///
    /// They are read when they are needed: [`EvBuffer::write_to`] hands the file to the kernel, and
    /// operations that take `&mut self` and look at the bytes read what they need. Operations on
    /// `&self` see the bytes before the first file range only (`copyout` sees all); call
    /// [`EvBuffer::load`] first.
    ///
    /// # Errors
    /// As [`FileSegment::new`]; a frozen end; a length past [`EvBuffer::MAX_LEN`].
    pub fn add_file(
        &mut self,
        file: impl Into<Arc<File>>,
        offset: u64,
        len: Option<u64>,
    ) -> Result<(), BufferError> {
        let segment = FileSegment::new(file, offset, len)?;
        self.add_file_segment(&segment, 0, None)
    }

    /// Appends `len` bytes of `segment` from its byte `offset`, or all the rest (libevent:
    /// `evbuffer_add_file_segment`).
    ///
    /// # Errors
    /// [`BufferError::OutOfRange`] when that lies outside of the segment; a frozen end; a length
    /// past [`EvBuffer::MAX_LEN`].
    pub fn add_file_segment(
        &mut self,
        segment: &FileSegment,
        offset: u64,
        len: Option<u64>,
    ) -> Result<(), BufferError> {
        self.check_end()?;
        let out_of_range = |position: u64| BufferError::OutOfRange {
            position: usize::try_from(position).unwrap_or(usize::MAX),
            len: usize::try_from(segment.len()).unwrap_or(usize::MAX),
        };
        let rest = segment
            .len()
            .checked_sub(offset)
            .ok_or_else(|| out_of_range(offset))?;
        let len = len.unwrap_or(rest);
        if len > rest {
            return Err(out_of_range(offset.saturating_add(len)));
        }
        let len = usize::try_from(len).map_err(|_| BufferError::TooLong)?;
        self.check_growth(len)?;
        if len > 0 {
            self.push_seg(Seg::File(FileRange {
                segment: segment.clone(),
                offset: segment.inner.offset + offset,
                len,
            }));
            self.flags |= FILES;
            self.changed(len, 0);
        }
        Ok(())
    }

    /// Reads the file ranges among the first `n` bytes (at most all) into memory.
    ///
    /// # Errors
    /// What reading the file answers; `UnexpectedEof` when it has become too short. The buffer's
    /// content is as before.
    #[inline]
    pub fn load(&mut self, n: usize) -> io::Result<()> {
        if self.flags & FILES == 0 {
            return Ok(());
        }
        // Files are closed, and their waiters told, when the buffer is whole again.
        let mut spent = Spent::new();
        self.load_files(n, &mut spent)
    }
}
