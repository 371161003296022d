//! What moves the bytes of a bufferevent, apart from what a bufferevent is.
//!
//! A transport sits below a shell ([`super::shell`]), which has the buffers, the machine and the
//! callbacks. It is told what happened to it and what the user wants, and reports facts: through
//! the machine's `handle_*` and the reports of [`Cx`]. It never calls a callback, and never brings
//! the timer or the base's lists up to date: the shell settles all that once, at the end of each
//! entry.
//!
//! | file | transport |
//! |---|---|
//! | `socket` | a descriptor: TCP, Unix, pipes, terminals |
//! | `pair` | another bufferevent, back to back in memory |
//! | `filter` | a bufferevent below, with a transformation between |
//!
//! To add one, implement [`Transport`] in a file of its own and make the bufferevent with
//! [`Inner::create`](super::shell::Inner::create). `loopback`, which only tests have, is one that
//! was added so: no other file knows of it, and filters and relays work over it.

use super::BufferEvent;
use super::machine::Machine;
use super::shell::Cx;
use super::types::{FlushMode, FlushResult};
use crate::driver::Completion;
use crate::event_base::Interest;
use crate::event_base::source::{Feeding, Offer};
use crate::rate_limit::Direction;

pub(super) mod filter;
#[cfg(test)]
mod loopback;
pub(super) mod pair;
pub(super) mod socket;

use socket::Socket;

/// What changed by the user's hand, or by the shell's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Changed {
    /// Directions were enabled by a call.
    Enabled(Interest),
    /// Bytes were appended to the output.
    OutputGrew,
    /// The input has room again.
    InputHasRoom,
    /// A time-out, a mark or a deadline: what is in flight may take too long to tell of progress.
    Pace,
    /// A new connection below: what was known of the old one is over.
    Reopened,
}

/// How a bufferevent goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// In order: the peer sees the end of the stream.
    Free,
    /// What is below stays with the program.
    LetGo,
    /// Cut short: the peer sees a reset, where the transport has one.
    Reset,
}

/// What a transport waits for when nothing is left to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    /// Something outside of the process may still happen: the loop stays alive.
    pub(super) waits: bool,
    /// When to call [`Transport::time_passed`]; `u64::MAX`: not by time.
    pub(super) look_at: u64,
}

/// What the shell has to know of a transport beforehand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Nature {
    /// It never waits for the kernel: without a time-out there is nothing to bring up to date. One
    /// that does keeps the loop alive for as long as it reads: [`Rest::waits`] is true then,
    /// whatever its output is.
    pub(super) in_memory: bool,
    /// It moves its bytes over another bufferevent, [`Transport::under`], and wants
    /// [`Transport::settled`].
    pub(super) follows: bool,
}

/// What moves the bytes.
pub(super) trait Transport {
    /// Asked once, when the bufferevent is made.
    fn nature(&self) -> Nature {
        Nature::default()
    }

    /// One of its operations completed. Also called after the bufferevent was freed, as long as
    /// it is not [quiet](Self::is_quiet).
    fn completed(&self, _cx: &Cx<'_>, completion: Completion) {
        drop(completion);
    }

    /// Begins what is due, before the base hands work to the kernel.
    fn pump(&self, cx: &Cx<'_>);

    /// Something changed. What it begins for it may wait for the next [`pump`](Self::pump).
    fn changed(&self, cx: &Cx<'_>, what: Changed);

    /// Moves bytes now that would wait otherwise.
    fn flush(&self, cx: &Cx<'_>, interest: Interest, mode: FlushMode) -> FlushResult;

    /// What it waits for.
    fn rest(&self, cx: &Cx<'_>, machine: &mut Machine, output: usize) -> Rest;

    /// The shell is about to settle: brings in line what follows this bufferevent's state.
    fn settled(&self, _cx: &Cx<'_>) {}

    /// The time that [`Rest::look_at`] named has passed, or another one.
    fn time_passed(&self, _cx: &Cx<'_>, _now: u64) {}

    /// The write timer is about to fire: whether bytes made way that no completion told of.
    fn made_way(&self, _cx: &Cx<'_>) -> bool {
        false
    }

    /// A direction timed out, or the connect did.
    fn timed_out(&self, _cx: &Cx<'_>, _direction: Direction) {}

    /// A close began: the shell's life is `Flushing`. What it has to do for it is done by the next
    /// [`pump`](Self::pump).
    fn closing(&self, _cx: &Cx<'_>) {}

    /// Receives no more from now on; what was received but not shown goes to the input.
    fn stop_reads(&self, _cx: &Cx<'_>) {}

    /// Whether nothing can come in any more after [`stop_reads`](Self::stop_reads).
    fn reads_stopped(&self) -> bool {
        true
    }

    /// Whether nobody is there to take what is written.
    fn is_cut(&self) -> bool {
        false
    }

    /// Whether the peer may still send when all of ours was sent.
    fn peer_may_send(&self) -> bool {
        false
    }

    /// It waited for receive slots and is offered one.
    fn slots_came_back(&self, _cx: &Cx<'_>, _offer: Offer) -> Feeding {
        Feeding::Left
    }

    /// It moved bytes not long ago, or stands still, and nothing was heard since: looks whether the
    /// connection still stands. True to be asked again.
    fn check_quiet(&self, _cx: &Cx<'_>) -> bool {
        false
    }

    /// Memory has become short: holds what it holds as tightly as it can.
    fn spare_memory(&self, _cx: &Cx<'_>) {}

    /// Memory is no longer short.
    fn unpark(&self, _cx: &Cx<'_>) {}

    /// Memory is short, and nothing moves: receives a share, if it was parked and there is
    /// something to receive. False when not.
    fn take_turn(&self, _cx: &Cx<'_>) -> bool {
        true
    }

    /// A rate limit that held a direction up lets go of it.
    fn budget_came_back(&self, _cx: &Cx<'_>, _direction: Direction) {}

    /// The bufferevent was freed: cancels what is in flight and lets go of what is below.
    fn end(&self, cx: &Cx<'_>, how: End);

    /// Whether no operation is in flight.
    fn is_quiet(&self) -> bool {
        true
    }

    /// Nothing is in flight after the end: lets go of descriptors, or closes them.
    fn release(&self, _cx: &Cx<'_>, _close: bool) {}

    /// The base ended; the answer is the descriptor to close once its operations are over.
    fn base_ended(&self) -> Option<i32> {
        None
    }

    /// The bufferevent below, if it moves the bytes.
    fn under(&self) -> Option<&BufferEvent> {
        None
    }

    /// Whoever is above waits for what was passed on to [`under`](Self::under) to drain, and is to
    /// get a write callback then.
    fn await_below(&self) {}

    /// The descriptor that it moves bytes over by itself.
    fn socket(&self) -> Option<&Socket> {
        None
    }

    /// The other side, for a transport that has one in this process.
    fn partner(&self) -> Option<BufferEvent> {
        None
    }
}
