//! Positions, search, and lines.

use super::view::Clip;
use super::{BufferError, EvBuffer, FILES, Seg, WATCHED};
use crate::arena::{MAX_BLOCK_BYTES, Piece};
use crate::sys::find::find_byte;
use memchr::{memchr, memchr2, memmem};

/// How often a pattern's first byte may turn up without the pattern before the search changes its
/// method.
const MAX_MISLED: u32 = 8;

/// A position in a buffer, bytes from the front (libevent: `struct evbuffer_ptr`).
///
/// It is a mere number: after the buffer has changed it means the same distance from the new
/// front, and a position past the end is an error where it is used, nothing worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ptr {
    pos: usize,
}

impl Ptr {
    /// The front.
    pub const START: Ptr = Ptr { pos: 0 };

    /// Bytes from the front.
    #[inline]
    pub const fn pos(self) -> usize {
        self.pos
    }
}

/// What ends a line (libevent: `enum evbuffer_eol_style`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Eol {
    /// Any run of CR and LF (`EVBUFFER_EOL_ANY`). Several line ends in a row count as one.
    Any,
    /// LF, with or without a CR before it (`EVBUFFER_EOL_CRLF`).
    Crlf,
    /// CR LF and nothing else (`EVBUFFER_EOL_CRLF_STRICT`).
    CrlfStrict,
    /// LF (`EVBUFFER_EOL_LF`).
    Lf,
    /// A zero byte (`EVBUFFER_EOL_NUL`).
    Nul,
}

impl EvBuffer {
    /// The position `pos` bytes from the front; the end is a position too (libevent:
    /// `evbuffer_ptr_set` with `EVBUFFER_PTR_SET`).
    ///
    /// # Errors
    /// [`BufferError::OutOfRange`] past the end.
    pub fn ptr(&self, pos: usize) -> Result<Ptr, BufferError> {
        self.check_position(pos).map(|pos| Ptr { pos })
    }

    /// The position `n` bytes behind `ptr` (libevent: `evbuffer_ptr_set` with
    /// `EVBUFFER_PTR_ADD`).
    ///
    /// # Errors
    /// [`BufferError::OutOfRange`] past the end, or when the sum overflows.
    pub fn ptr_add(&self, ptr: Ptr, n: usize) -> Result<Ptr, BufferError> {
        self.ptr(ptr.pos.saturating_add(n))
    }

    /// The first place at or after `from` where `what` begins, also across segments (libevent:
    /// `evbuffer_search`). Nothing is found at the place it is looked for. Sees the bytes before
    /// the first file range: [`load`](EvBuffer::load) more if needed.
    ///
    /// ```
    /// use evring::evbuffer::{EvBuffer, Ptr};
    ///
    /// # fn main() -> Result<(), evring::evbuffer::BufferError> {
    /// let mut buffer = EvBuffer::from("one two th");
    /// buffer.add_piece("ree two")?;
    /// let three = buffer.search(b"three", Ptr::START).expect("it is there");
    /// assert_eq!(three.pos(), 8);
    /// let second = buffer.search(b"two", buffer.ptr_add(three, 1)?);
    /// assert_eq!(second.map(Ptr::pos), Some(14));
    /// # Ok(())
    /// # }
    /// ```
    pub fn search(&self, what: &[u8], from: Ptr) -> Option<Ptr> {
        self.search_range(what, from, Ptr { pos: usize::MAX })
    }

    /// As [`EvBuffer::search`], where the match must end at or before `to` (libevent:
    /// `evbuffer_search_range`).
    pub fn search_range(&self, what: &[u8], from: Ptr, to: Ptr) -> Option<Ptr> {
        let found = match what {
            [] => (from.pos <= to.pos.min(self.len)).then_some(from.pos),
            [byte] => self.find_with(from.pos, to.pos, |bytes| find_byte(*byte, bytes)),
            _ => self.find_long(what, from.pos, to.pos),
        };
        found.map(|pos| Ptr { pos })
    }

    /// The first line end at or after `from`, and its length in bytes (libevent:
    /// `evbuffer_search_eol`).
    pub fn search_eol(&self, from: Ptr, style: Eol) -> Option<(Ptr, usize)> {
        let (start, end) = (from.pos, usize::MAX);
        let (pos, len) = match style {
            Eol::Lf => (self.find_with(start, end, |bytes| memchr(b'\n', bytes))?, 1),
            Eol::Nul => (self.find_with(start, end, |bytes| memchr(0, bytes))?, 1),
            Eol::CrlfStrict => (self.find_long(b"\r\n", start, end)?, 2),
            Eol::Crlf => self.find_crlf(start)?,
            Eol::Any => {
                let pos = self.find_with(start, end, |bytes| memchr2(b'\r', b'\n', bytes))?;
                let past = self.find_with(pos, end, |bytes| {
                    bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))
                });
                (pos, past.unwrap_or_else(|| self.resident_len()) - pos)
            }
        };
        Some((Ptr { pos }, len))
    }

    /// Takes the first line off, without its line end, which is dropped; `None` while no line is
    /// complete (libevent: `evbuffer_readln`).
    ///
    /// The line shares the buffer's memory: it is copied only if it lies in several segments. Keep
    /// `line.to_vec()` rather than a short line for long, since it pins its whole block.
    ///
    /// ```
    /// use evring::evbuffer::{Eol, EvBuffer};
    ///
    /// # fn main() -> Result<(), evring::evbuffer::BufferError> {
    /// let mut buffer = EvBuffer::from("HELO there\r\nMAIL");
    /// let line = buffer.readln(Eol::Crlf)?.expect("one line is complete");
    /// assert_eq!(&line[..], b"HELO there");
    /// assert!(buffer.readln(Eol::Crlf)?.is_none());
    /// assert_eq!(buffer.len(), 4);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// A frozen front; no memory to join a line's parts; a file range that cannot be read.
    pub fn readln(&mut self, style: Eol) -> Result<Option<Piece>, BufferError> {
        self.check_start()?;
        if self.flags & (FILES | WATCHED) == 0
            && let Some(Seg::Mem(front)) = self.chain.front_mut()
            && let Some((line, eol)) = line_within(front, style)
            && line + eol < front.len()
        {
            let piece = front.split_to(line);
            front.advance(eol);
            self.len -= line + eol;
            return Ok(Some(piece));
        }
        let Some((line, eol)) = self.load_line(style)? else {
            return Ok(None);
        };
        self.pull_front(line)?;
        // One change for line and line end: take the line's bytes, then drop both together.
        let piece = match self.chain.front() {
            Some(Seg::Mem(front)) => front.piece_of(line),
            _ => Piece::new(),
        };
        self.drain_front(line + eol);
        Ok(Some(piece))
    }

    /// Length of the first line and of its line end, reading file ranges until it is complete.
    fn load_line(&mut self, style: Eol) -> Result<Option<(usize, usize)>, BufferError> {
        let mut from = Ptr::START;
        loop {
            let resident = self.resident_len();
            let complete = resident == self.len;
            let found = self.search_eol(from, style);
            if let Some((pos, eol)) = found
                && (complete || style != Eol::Any || pos.pos + eol < resident)
            {
                return Ok(Some((pos.pos, eol)));
            }
            if complete {
                return Ok(None);
            }
            // A line end may straddle the border: look at it, or at the last byte, again.
            from.pos = found.map_or(resident.saturating_sub(1), |(pos, _)| pos.pos);
            self.load(resident.saturating_add(MAX_BLOCK_BYTES))?;
        }
    }

    /// The first place that `find` finds in any part between two positions.
    #[inline]
    fn find_with(
        &self,
        from: usize,
        to: usize,
        find: impl Fn(&[u8]) -> Option<usize>,
    ) -> Option<usize> {
        self.clip(from, to)
            .find_map(|(base, bytes)| find(bytes).map(|at| base + at))
    }

    /// Finds `what`, of at least two bytes, between two positions.
    ///
    /// Looks for the first byte, which is fastest while that is rare; once it has misled too often,
    /// a finder that knows the whole pattern takes over.
    fn find_long(&self, what: &[u8], from: usize, to: usize) -> Option<usize> {
        let mut pattern = Pattern {
            what,
            misled: 0,
            finder: None,
        };
        let mut parts = self.clip(from, to);
        while let Some((base, bytes)) = parts.next() {
            if let Some(at) = find_byte(what[0], bytes)
                && let Some(at) = pattern.find_from(at, bytes, &parts)
            {
                return Some(base + at);
            }
        }
        None
    }

    /// Finds LF, and a CR before it if that is at or after `from`.
    fn find_crlf(&self, from: usize) -> Option<(usize, usize)> {
        let mut last = 0;
        for (base, bytes) in self.clip(from, usize::MAX) {
            if let Some(at) = memchr(b'\n', bytes) {
                let before = if at > 0 { bytes[at - 1] } else { last };
                let cr = usize::from(before == b'\r');
                return Some((base + at - cr, 1 + cr));
            }
            last = bytes.last().copied().unwrap_or_default();
        }
        None
    }
}

/// A pattern of at least two bytes, and how the search for it goes.
struct Pattern<'a> {
    what: &'a [u8],
    /// How often its first byte was there and the rest was not.
    misled: u32,
    finder: Option<memmem::Finder<'a>>,
}

impl Pattern<'_> {
    /// Where it begins in `bytes`, at or after `at`, where its first byte is; what begins at the
    /// border ends in the parts that `follow`. Kept out of the loop over parts, which mostly finds
    /// nothing.
    #[inline(never)]
    fn find_from(&mut self, mut at: usize, bytes: &[u8], follow: &Clip<'_>) -> Option<usize> {
        let border = bytes.len().saturating_sub(self.what.len() - 1);
        loop {
            let found = match at < border {
                true => bytes[at..].starts_with(self.what),
                false => continues(
                    self.what,
                    &bytes[at..],
                    follow.clone().map(|(_, part)| part),
                ),
            };
            if found {
                return Some(at);
            }
            at += 1;
            self.misled = self.misled.saturating_add(1);
            if self.misled > MAX_MISLED && at < border {
                let what = self.what;
                let finder = self.finder.get_or_insert_with(|| memmem::Finder::new(what));
                if let Some(skip) = finder.find(&bytes[at..]) {
                    return Some(at + skip);
                }
                at = border;
            }
            at += find_byte(self.what[0], &bytes[at..])?;
        }
    }
}

/// True when `what` is `first`, and then the parts, as far as it goes.
fn continues<'a>(what: &[u8], first: &'a [u8], parts: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut rest = what;
    for part in std::iter::once(first).chain(parts) {
        let n = part.len().min(rest.len());
        if part[..n] != rest[..n] {
            return false;
        }
        rest = &rest[n..];
        if rest.is_empty() {
            return true;
        }
    }
    false
}

/// Length of the line at the start of `bytes`, and of its line end.
#[inline]
fn line_within(bytes: &[u8], style: Eol) -> Option<(usize, usize)> {
    match style {
        Eol::Lf => memchr(b'\n', bytes).map(|at| (at, 1)),
        Eol::Nul => memchr(0, bytes).map(|at| (at, 1)),
        Eol::Crlf => memchr(b'\n', bytes).map(|at| match at {
            1.. if bytes[at - 1] == b'\r' => (at - 1, 2),
            _ => (at, 1),
        }),
        Eol::CrlfStrict => memmem::find(bytes, b"\r\n").map(|at| (at, 2)),
        Eol::Any => memchr2(b'\r', b'\n', bytes).map(|at| {
            let run = bytes[at..]
                .iter()
                .take_while(|byte| matches!(byte, b'\r' | b'\n'));
            (at, run.count())
        }),
    }
}
