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
pub(crate) use crate::ring::{Cap, Completion, Op, OpId, Pieces, Wait};
use crate::ring::{Caps, RingCounters};
use crate::sys::Errno;

#[cfg(test)]
pub(crate) mod sim;
pub(crate) mod uring;

/// What a driver leaves to its base.
#[derive(Debug)]
pub(crate) enum Spent {
    /// A user's payload that no operation holds any more: its destructor may call back.
    Payload(Piece),
    /// A warning for the log: a logger may call back, too.
    Warning(String),
}

impl Spent {
    /// Deals with it. The driver is not borrowed.
    pub(crate) fn let_go(self) {
        match self {
            Spent::Payload(piece) => drop(piece),
            Spent::Warning(text) => log::warn!("{text}"),
        }
    }
}

/// A backend. One per event base, used by one thread.
pub(crate) trait Driver {
    /// Queues an operation. It is begun at the latest by the next [`enter`](Self::enter), and
    /// lives until a completion without `more` (I2, I3). Never fails: what the kernel refuses
    /// is reported by a completion.
    fn push(&mut self, token: u64, op: Op) -> OpId;

    /// Asks that an operation end early. It still completes: with `ECANCELED`, or with what it
    /// had moved before.
    fn cancel(&mut self, op: OpId);

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

    /// An empty vector for what a send gathers; recycled once it was pushed.
    fn take_pieces(&mut self) -> Vec<Piece>;

    /// Takes such a vector back that was not pushed.
    fn give_pieces(&mut self, pieces: Vec<Piece>);

    /// A user's payload that no operation holds any more, to be dropped by the caller once the
    /// driver is not borrowed: its destructor may call back. One that is not asked for is kept.
    /// What is to be dealt with once the driver is not borrowed, since it runs the user's code.
    /// What is not asked for is kept.
    fn pop_spent(&mut self) -> Option<Spent> {
        None
    }

    /// A new stream socket of a family (`AF_*`), close-on-exec and non-blocking.
    fn socket(&mut self, family: i32) -> io::Result<i32>;

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
