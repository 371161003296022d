//! Operations, and what comes back of them.

use super::Errno;
use crate::arena::{Piece, Slot};
use crate::sys::SockAddr;
use std::fmt;
use std::num::NonZeroU64;
use std::os::fd::{OwnedFd, RawFd};

/// Most pieces that one send or write gathers (the kernel's `UIO_MAXIOV`); what exceeds it is not
/// sent, as with every short send.
pub const MAX_PIECES: usize = 1024;

/// Names an operation from [`Ring::push`](super::Ring::push) to its last completion.
///
/// Made of kind (8 bits), generation (24 bits) and index (32 bits), and given to the kernel as
/// `user_data`. An id that has had its last completion names nothing any more, until the generation
/// of its index has gone round after 16,777,216 operations.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(NonZeroU64);

impl OpId {
    /// The id as a number, for tables of one's own; never 0.
    #[inline]
    pub const fn as_u64(self) -> u64 {
        self.0.get()
    }

    /// The id of a number that [`OpId::as_u64`] gave, or that a driver without a kernel made up; 0
    /// becomes an id that names nothing.
    #[inline]
    pub const fn from_u64(raw: u64) -> OpId {
        match NonZeroU64::new(raw) {
            Some(id) => OpId(id),
            None => OpId(NonZeroU64::MAX),
        }
    }
}

impl fmt::Debug for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, generation, index) = split(self.as_u64());
        write!(
            f,
            "OpId(kind {kind}, generation {generation}, index {index})"
        )
    }
}

/// Something for the kernel to do. Owns all memory that the kernel touches for it (I1).
///
/// Descriptors are numbers: the caller keeps them open until the operation's last completion (I6).
#[derive(Debug)]
#[non_exhaustive]
pub enum Op {
    /// Receives into slots that the kernel picks from the window.
    ///
    /// Without [`Cap::RECV_MULTISHOT`](super::Cap::RECV_MULTISHOT) it completes once, with `more`
    /// false. Without [`Cap::BUFFER_RING`](super::Cap::BUFFER_RING) the ring takes a slot of the
    /// arena itself. `ENOBUFS` means that no slot was left: arm it again once
    /// [`Ring::refill`](super::Ring::refill) has published some.
    Recv {
        /// A socket.
        fd: RawFd,
        /// Complete for every arrival, until an error, the end of the stream or a cancel.
        multishot: bool,
        /// Bytes that one completion may carry at most; 0 means a whole slot.
        max_len: u32,
        /// Bytes after which a multishot receive ends by itself; 0 means never. It may overshoot by
        /// less than one slot. Without [`Cap::RECV_ARM_LIMIT`](super::Cap::RECV_ARM_LIMIT) a single
        /// receive of at most that length takes its place.
        arm_limit: u32,
        /// Let the kernel fill several slots at a time, up to `arm_limit`; it looks at so many for
        /// each receive, which pays where much arrives at once. Each slot has a completion of its
        /// own all the same. Only for a multishot receive with an `arm_limit` and no `max_len`, and
        /// with [`Cap::RECV_BUNDLE`](super::Cap::RECV_BUNDLE).
        bundle: bool,
        /// Wait for data before the first attempt: saves it when nothing is there yet.
        poll_first: bool,
    },
    /// Receives once, into a slot of one's own.
    RecvSlot {
        /// A socket.
        fd: RawFd,
        /// Where the bytes go; comes back as the completion's buffer.
        slot: Slot,
        /// Bytes to receive at most; 0 means the whole slot.
        max_len: u32,
        /// Wait for data before the first attempt.
        poll_first: bool,
    },
    /// Reads once, for descriptors that are no sockets (receiving from those gives `ENOTSOCK`).
    Read {
        /// A pipe, terminal or the like.
        fd: RawFd,
        /// Where the bytes go; comes back as the completion's buffer.
        slot: Slot,
        /// Bytes to read at most; 0 means the whole slot.
        max_len: u32,
    },
    /// Sends pieces in their order. One at a time for each socket (I4). Never raises `SIGPIPE`.
    Send {
        /// A socket.
        fd: RawFd,
        /// What to send.
        pieces: Pieces,
        /// Complete only when all is sent or an error occurs.
        wait_all: bool,
    },
    /// Sends pieces without a copy, all of them, and completes when the kernel is done with their
    /// memory.
    ///
    /// Without [`Cap::SEND_ZC`](super::Cap::SEND_ZC) it copies. Unix sockets refuse it
    /// (`EOPNOTSUPP`).
    SendZc {
        /// A TCP socket.
        fd: RawFd,
        /// What to send.
        pieces: Pieces,
    },
    /// Writes pieces in their order, for descriptors that are no sockets. A pipe that nobody reads
    /// gives `EPIPE`, and never a `SIGPIPE`.
    Write {
        /// A pipe, terminal or the like.
        fd: RawFd,
        /// What to write.
        pieces: Pieces,
    },
    /// Accepts connections, non-blocking and closed on exec: [`Completion::accepted`].
    Accept {
        /// A listening socket.
        fd: RawFd,
        /// Complete for every connection, until an error or a cancel.
        multishot: bool,
    },
    /// Connects a socket.
    Connect {
        /// A socket that is not connected.
        fd: RawFd,
        /// Where to.
        addr: SockAddr,
    },
    /// Waits for readiness: the result is what holds, of `events` (`libc::POLL*`), `POLLERR` and
    /// `POLLHUP`.
    Poll {
        /// Any descriptor that can be polled.
        fd: RawFd,
        /// What to wait for.
        events: u32,
        /// Complete whenever it becomes ready anew, until a cancel.
        multishot: bool,
    },
    /// Completes with 0 at the next enter.
    Nop,
}

/// What a send or write gathers: one piece, or several in a vector that the ring recycles
/// ([`Ring::take_pieces`](super::Ring::take_pieces)).
#[derive(Debug)]
pub struct Pieces(pub(super) Gathered);

#[derive(Debug)]
pub(super) enum Gathered {
    One(Piece),
    Many(Vec<Piece>),
}

impl Pieces {
    /// How many pieces there are.
    pub fn count(&self) -> usize {
        self.as_slice().len()
    }

    /// How many bytes they have together.
    pub fn bytes(&self) -> usize {
        self.as_slice().iter().map(|piece| piece.len()).sum()
    }

    /// The pieces in their order.
    pub fn as_slice(&self) -> &[Piece] {
        match &self.0 {
            Gathered::One(piece) => std::slice::from_ref(piece),
            Gathered::Many(pieces) => pieces,
        }
    }
}

impl From<Piece> for Pieces {
    fn from(piece: Piece) -> Pieces {
        Pieces(Gathered::One(piece))
    }
}

impl From<Vec<Piece>> for Pieces {
    fn from(pieces: Vec<Piece>) -> Pieces {
        Pieces(Gathered::Many(pieces))
    }
}

/// What became of an operation, or of one shot of a multishot one.
#[derive(Debug)]
#[non_exhaustive]
pub struct Completion {
    /// The operation.
    pub op: OpId,
    /// What its [`push`](super::Ring::push) gave along.
    pub token: u64,
    /// Bytes, descriptor, events or 0, as the operation says; or the kernel's error.
    pub result: Result<u32, Errno>,
    /// The operation lives on and will complete again. If false, this was its last completion.
    pub more: bool,
    /// The bytes that arrived, as many as `result` says.
    pub buffer: Option<Piece>,
    /// The socket has more to read already.
    pub sock_nonempty: bool,
    /// A zero-copy send whose bytes were copied after all.
    pub zc_copied: bool,
    /// The connection that an accept brought; closed if nobody takes it.
    pub accepted: Option<OwnedFd>,
}

/// What kind of operation an id names; the top byte of `user_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Recv = 1,
    RecvMulti,
    RecvSlot,
    Read,
    Send,
    SendZc,
    Write,
    Accept,
    AcceptMulti,
    Connect,
    Poll,
    PollMulti,
    Nop,
    /// An operation of the ring's own, which has no entry in the table.
    Internal = 0xFF,
}

impl Kind {
    #[inline]
    pub(super) fn of(user_data: u64) -> u8 {
        (user_data >> KIND_SHIFT) as u8
    }

    /// Whether a successful result is a descriptor that somebody has to close.
    #[inline]
    pub(super) fn yields_descriptor(user_data: u64) -> bool {
        let kind = Kind::of(user_data);
        kind == Kind::Accept as u8 || kind == Kind::AcceptMulti as u8
    }

    /// Whether the operation was meant to complete more than once.
    #[inline]
    pub(super) fn is_multishot(user_data: u64) -> bool {
        let kind = Kind::of(user_data);
        kind == Kind::RecvMulti as u8
            || kind == Kind::AcceptMulti as u8
            || kind == Kind::PollMulti as u8
    }
}

/// How many generations an index has before they go round.
pub(super) const GENERATIONS: u32 = 1 << 24;
const GENERATION_SHIFT: u32 = 32;
const KIND_SHIFT: u32 = 56;

/// `user_data` of the ring's own operations.
pub(super) const INTERNAL: u64 = (Kind::Internal as u64) << KIND_SHIFT;

#[inline]
pub(super) fn user_data(kind: Kind, generation: u32, index: u32) -> u64 {
    (kind as u64) << KIND_SHIFT | u64::from(generation) << GENERATION_SHIFT | u64::from(index)
}

#[inline]
pub(super) fn index_of(user_data: u64) -> usize {
    user_data as u32 as usize
}

fn split(user_data: u64) -> (u8, u32, u32) {
    let generation = (user_data >> GENERATION_SHIFT) as u32 % GENERATIONS;
    (Kind::of(user_data), generation, user_data as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_apart_as_they_were_put_together() {
        let raw = user_data(Kind::Poll, GENERATIONS - 1, u32::MAX);
        assert_eq!(split(raw), (Kind::Poll as u8, GENERATIONS - 1, u32::MAX));
        assert_eq!(index_of(raw), u32::MAX as usize);
        assert_ne!(user_data(Kind::Recv, 0, 0), 0);
        assert!(Kind::is_multishot(user_data(Kind::RecvMulti, 7, 7)));
        assert!(!Kind::is_multishot(user_data(Kind::Recv, 7, 7)));
    }

    #[test]
    fn pieces_count_their_bytes() {
        let many = Pieces::from(vec![Piece::copy_from(b"ab"), Piece::copy_from(b"cde")]);
        assert_eq!((many.count(), many.bytes()), (2, 5));
        assert_eq!(Pieces::from(Piece::copy_from(b"x")).count(), 1);
        assert_eq!(Pieces::from(Vec::new()).bytes(), 0);
    }
}
