//! An end of the stream that is known and not told yet.

use super::StreamEnd;
use crate::sys::Errno;

/// In four bytes, of which every connection has four: 0 for none, the error number, or
/// [`EOF`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeptEnd(i32);

const EOF: i32 = -1;

impl KeptEnd {
    pub(super) fn is_kept(self) -> bool {
        self.0 != 0
    }

    pub(super) fn keep(&mut self, end: StreamEnd) {
        self.0 = match end {
            StreamEnd::Eof => EOF,
            // An error without a number is one all the same.
            StreamEnd::Error(errno) if errno.raw() == 0 => libc::EIO,
            StreamEnd::Error(errno) => errno.raw(),
        };
    }

    pub(super) fn take(&mut self) -> Option<StreamEnd> {
        match std::mem::take(&mut self.0) {
            0 => None,
            EOF => Some(StreamEnd::Eof),
            errno => Some(StreamEnd::Error(Errno::from_raw(errno))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_comes_back_as_it_was_kept_once() {
        let mut kept = KeptEnd::default();
        assert!(!kept.is_kept());
        assert_eq!(kept.take(), None);
        for end in [
            StreamEnd::Eof,
            StreamEnd::Error(Errno::from_raw(libc::ECONNRESET)),
        ] {
            kept.keep(end);
            assert!(kept.is_kept());
            assert_eq!((kept.take(), kept.take()), (Some(end), None));
        }
        kept.keep(StreamEnd::Error(Errno::from_raw(0)));
        assert_eq!(
            kept.take(),
            Some(StreamEnd::Error(Errno::from_raw(libc::EIO)))
        );
    }
}
