//! What moves the bytes: the seam between the event base and the kernel.
//!
//! [`Driver`] states all that the layers above ask of a kernel. Two backends supply it:
//! [`uring::Uring`], the ring, and a simulated one for finding bugs by the thousand. The
//! layers above hold no system call of their own on a connection's path, so whatever
//! runs on one backend runs on the other.
//!
//! An operation is handed over whole ([`Op`] owns the memory it names, I1) together with a
//! *token*, the number of the source it belongs to; its completions carry both back.

use std::io;

use crate::arena::{Arena, Piece};
use crate::evbuffer::EvBuffer;
pub(crate) use crate::ring::{Cap, Completion, Op, OpId, Wait};
use crate::ring::{Caps, Notice, RingCounters};
use crate::sys::{Errno, SockAddr};
pub(crate) use descriptor::{Descriptor, HangUp, KeepAlive, SendHow, SocketOption};

mod descriptor;
#[cfg(test)]
pub(crate) mod sim;
#[cfg(test)]
mod tests;
pub(crate) mod uring;

/// The most pieces that one send gathers. Linux takes 1,024; past 64 the gain is gone.
pub(crate) const SEND_PIECES: usize = 64;

/// What a driver leaves to its base.
#[derive(Debug)]
pub(crate) enum Spent {
    /// A user's payload that no operation holds any more: its destructor may call back.
    Payload(Piece),
    /// Something for the log: a logger may call back, too.
    Notice(Notice),
}

impl Spent {
    /// Deals with it. The driver is not borrowed.
    pub(crate) fn let_go(self) {
        match self {
            Spent::Payload(piece) => drop(piece),
            Spent::Notice(notice) => notice.log(),
        }
    }
}

/// A backend. One per event base, used by one thread.
#[allow(
    dead_code,
    reason = "listener and transports take its looks at descriptors up one by one"
)]
pub(crate) trait Driver {
    /// Queues an operation. It is begun at the latest by the next [`enter`](Self::enter), and
    /// lives until a completion without `more` (I2, I3). Never fails: what the kernel refuses
    /// is reported by a completion.
    fn push(&mut self, token: u64, op: Op) -> OpId;

    /// Queues a send of at most `most` bytes from the front of `output`, in at most [`SEND_PIECES`]
    /// pieces; says how many bytes it was given. They stay in the buffer: whoever hears of the
    /// completion drains what was sent.
    fn send(
        &mut self,
        token: u64,
        fd: i32,
        output: &EvBuffer,
        most: usize,
        how: SendHow,
    ) -> (OpId, usize);

    /// Asks that an operation end early. It still completes: with `ECANCELED`, or with what it
    /// had moved before.
    fn cancel(&mut self, op: OpId);

    /// What an operation's [`push`](Self::push) gave along, while it is in flight.
    #[cfg(debug_assertions)]
    fn token_of(&self, op: OpId) -> Option<u64>;

    /// Hands out receive buffers until the window is full again; says how many are out.
    fn refill(&mut self) -> usize;

    /// Begins what was queued and waits as told. A signal or a full completion queue is not
    /// an error: the call returns and the caller reaps.
    fn enter(&mut self, wait: Wait) -> io::Result<()>;

    /// The next completion, if one is there.
    fn next(&mut self) -> Option<Completion>;

    /// Monotonic time in nanoseconds.
    fn now(&self) -> u64;

    /// The memory that receives are filled from.
    fn arena(&self) -> &Arena;

    /// The memory, if slots of it may come back on other threads while the loop sleeps.
    fn shared_arena(&self) -> Option<&Arena> {
        None
    }

    /// What the backend can do.
    fn caps(&self) -> &Caps;

    /// What it has done so far.
    fn counters(&self) -> RingCounters;

    /// Operations that have not had their last completion.
    fn in_flight(&self) -> usize;

    /// What is to be dealt with once the driver is not borrowed, since it runs the user's code.
    /// What is not asked for is kept.
    fn pop_spent(&mut self) -> Option<Spent> {
        None
    }

    /// A new socket of a family (`AF_*`) and type (`SOCK_*`), close-on-exec and non-blocking.
    fn socket(&mut self, family: i32, kind: i32) -> io::Result<i32>;

    /// Gives a socket its local address.
    fn bind(&mut self, fd: i32, addr: &SockAddr) -> io::Result<()>;

    /// Makes a bound socket accept connections; so many may wait.
    fn listen(&mut self, fd: i32, backlog: i32) -> io::Result<()>;

    /// Sets an option of a socket.
    fn set_option(&mut self, fd: i32, option: SocketOption) -> io::Result<()>;

    /// A socket's own address.
    fn local_addr(&self, fd: i32) -> io::Result<SockAddr>;

    /// The address of a socket's peer; `ENOTCONN` without one.
    fn peer_addr(&self, fd: i32) -> io::Result<SockAddr>;

    /// What a descriptor that comes from outside is. Not for a hot path: one or three system calls.
    fn describe(&self, fd: i32) -> Descriptor;

    /// Whether the connection is over for good, whatever waits to be received. A multishot receive
    /// on TCP that takes bytes behind which a reset stands is not woken for the reset; this look
    /// finds it. Not for a hot path: one system call.
    fn hang_up(&self, fd: i32) -> HangUp;

    /// How many bytes a receive or read would find; 0 where the descriptor does not know.
    fn readable_bytes(&self, fd: i32) -> usize;

    /// Whether a receive or read would complete at once: with bytes, an end or an error. Not for a
    /// hot path: one system call.
    fn is_readable(&self, fd: i32) -> bool;

    /// How many bytes the peer of a TCP connection has acknowledged since the connection began: a
    /// number that only rises, and says whether a send that is not complete makes way. `None` for
    /// anything but TCP.
    fn acked(&self, fd: i32) -> Option<u64>;

    /// How many bytes that a TCP connection has taken its peer has not acknowledged; 0 for anything
    /// else.
    fn unacked(&self, fd: i32) -> usize;

    /// Ends the sending direction (FIN).
    fn shutdown_write(&mut self, fd: i32) -> io::Result<()>;

    /// Takes the error that a socket holds (`SO_ERROR`).
    fn take_error(&mut self, fd: i32) -> io::Result<Option<Errno>>;

    /// Closes a descriptor on which no operation is in flight (I6, kept by the caller).
    fn close(&mut self, fd: i32);

    /// Ends the backend: everything in flight is cancelled and drained with a bound (I8), then
    /// the descriptors are closed.
    fn end(self: Box<Self>, descriptors: &[i32]);
}
