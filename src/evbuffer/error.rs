//! What a buffer operation can refuse.

use std::io;

/// Why an operation on an [`EvBuffer`](super::EvBuffer) was refused. The buffer is as before.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum BufferError {
    /// The front is frozen: nothing may be drained or prepended (libevent: `evbuffer_freeze` at
    /// start). A bufferevent freezes the front of its output.
    #[error("the buffer's front is frozen: only its owner drains it")]
    FrozenStart,
    /// The end is frozen: nothing may be appended. A bufferevent freezes the end of its input.
    #[error("the buffer's end is frozen: only its owner appends to it")]
    FrozenEnd,
    /// The length would pass [`EvBuffer::MAX_LEN`](super::EvBuffer::MAX_LEN).
    #[error("the buffer would become longer than can be counted")]
    TooLong,
    /// A position or length lies past the end.
    #[error("position {position} lies past the buffer's end at {len}")]
    OutOfRange {
        /// What was asked for, bytes from the front.
        position: usize,
        /// The buffer's length in bytes.
        len: usize,
    },
    /// The allocator refused a block of this many bytes.
    #[error("no memory for {0} contiguous bytes")]
    NoMemory(usize),
    /// The buffer holds as many bytes as its limit for reads allows.
    #[error("the buffer is at its limit of {0} bytes: drain it before reading more")]
    Full(usize),
    /// A file range in the buffer could not be read, or a descriptor failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<BufferError> for io::Error {
    fn from(error: BufferError) -> io::Error {
        let kind = match error {
            BufferError::Io(error) => return error,
            BufferError::FrozenStart | BufferError::FrozenEnd => io::ErrorKind::PermissionDenied,
            BufferError::TooLong | BufferError::OutOfRange { .. } => io::ErrorKind::InvalidInput,
            BufferError::NoMemory(_) => io::ErrorKind::OutOfMemory,
            BufferError::Full(_) => io::ErrorKind::WouldBlock,
        };
        io::Error::new(kind, error)
    }
}
