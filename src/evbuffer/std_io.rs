//! A buffer as a reader and writer of the standard library.

use super::{BufferError, EvBuffer, Seg};
use crate::arena::MAX_BLOCK_BYTES;
use std::fmt;
use std::io::{self, BufRead, IoSlice, Read, Write};

impl EvBuffer {
    /// Appends all slices, or none; returns their bytes (libevent: `evbuffer_add_iovec`).
    ///
    /// # Errors
    /// A frozen end; a length past [`EvBuffer::MAX_LEN`].
    pub fn add_iovec(&mut self, slices: &[IoSlice<'_>]) -> Result<usize, BufferError> {
        self.check_end()?;
        let total = slices
            .iter()
            .try_fold(0usize, |sum, slice| sum.checked_add(slice.len()))
            .ok_or(BufferError::TooLong)?;
        self.check_growth(total)?;
        for slice in slices {
            self.append_bytes(slice);
        }
        super::count_copy(total);
        self.changed(total, 0);
        Ok(total)
    }

    /// Appends formatted text; returns its bytes (libevent: `evbuffer_add_printf`,
    /// `evbuffer_add_vprintf`).
    ///
    /// ```
    /// use evring::evbuffer::EvBuffer;
    ///
    /// # fn main() -> Result<(), evring::evbuffer::BufferError> {
    /// let mut buffer = EvBuffer::new();
    /// assert_eq!(buffer.add_fmt(format_args!("{}-{:02}", "a", 7))?, 4);
    /// assert_eq!(buffer.contiguous(), b"a-07");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// A frozen end; a length past [`EvBuffer::MAX_LEN`]; `InvalidData` when a value refuses to be
    /// formatted. Nothing is appended then.
    pub fn add_fmt(&mut self, arguments: fmt::Arguments<'_>) -> Result<usize, BufferError> {
        self.check_end()?;
        if let Some(text) = arguments.as_str() {
            self.add(text.as_bytes())?;
            return Ok(text.len());
        }
        let mut formatted = Formatted {
            buffer: self,
            added: 0,
            error: None,
        };
        if fmt::Write::write_fmt(&mut formatted, arguments).is_err() {
            let refused = || io::Error::new(io::ErrorKind::InvalidData, "a value refused");
            return Err(formatted.error.take().unwrap_or_else(|| refused().into()));
        }
        // From here on the text counts, and is not taken back.
        let added = std::mem::take(&mut formatted.added);
        drop(formatted);
        super::count_copy(added);
        self.changed(added, 0);
        Ok(added)
    }

    /// Takes back the last `added` bytes of the chain, which are not in the length yet.
    fn cut_back(&mut self, added: usize) {
        if added == 0 {
            return;
        }
        let mut left = self.len;
        let mut before = std::mem::take(&mut self.chain);
        while left > 0
            && let Some(mut seg) = before.pop_front()
        {
            if let Seg::Mem(segment) = &mut seg
                && segment.len() > left
            {
                segment.truncate(left);
            }
            left -= seg.len().min(left);
            self.chain.push_back(seg);
        }
    }
}

/// Takes formatted text into a buffer's chain, before it counts; takes it back on drop, so also
/// when a value panics.
struct Formatted<'a> {
    buffer: &'a mut EvBuffer,
    added: usize,
    error: Option<BufferError>,
}

impl fmt::Write for Formatted<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Cannot overflow: both are lengths of things in memory at the same time.
        let added = self.added + text.len();
        if let Err(error) = self.buffer.check_growth(added) {
            self.error = Some(error);
            return Err(fmt::Error);
        }
        self.buffer.append_bytes(text.as_bytes());
        self.added = added;
        Ok(())
    }
}

impl Drop for Formatted<'_> {
    fn drop(&mut self) {
        self.buffer.cut_back(self.added);
    }
}

impl fmt::Write for EvBuffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.add(text.as_bytes()).map_err(|_| fmt::Error)
    }
}

impl Read for EvBuffer {
    /// As [`EvBuffer::remove`]; 0 when the buffer is empty.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        Ok(self.remove(out)?)
    }

    fn read_exact(&mut self, out: &mut [u8]) -> io::Result<()> {
        if out.len() > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.remove(out)?;
        Ok(())
    }
}

impl BufRead for EvBuffer {
    /// The first segment; a file range at the front is read, 64 KiB at a time.
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.check_start()?;
        if matches!(self.chain.front(), Some(Seg::File(_))) {
            self.load(MAX_BLOCK_BYTES)?;
        }
        Ok(self.contiguous())
    }

    /// As [`EvBuffer::drain`]; does nothing when the front is frozen.
    fn consume(&mut self, n: usize) {
        let _ = self.drain(n);
    }
}

impl Write for EvBuffer {
    /// As [`EvBuffer::add`]: all or an error.
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.add(data)?;
        Ok(data.len())
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(self.add_iovec(slices)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
