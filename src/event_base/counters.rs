//! What a base has done so far: every claim of speed starts here.

use std::cell::Cell;
use std::fmt;

use super::EventBase;
use crate::evbuffer;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the base was made, from [`EventBase::counters`].
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Every counter with its name, in the order of the fields.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }
    };
}

counters! {
    /// Turns of the loop.
    turns,
    /// Calls of `io_uring_enter`.
    enters,
    /// Operations handed to the kernel.
    sqes,
    /// Completions reaped.
    cqes,
    /// Bytes received by bufferevents.
    bytes_in,
    /// Bytes sent by bufferevents.
    bytes_out,
    /// Payload bytes that this thread copied in user space, by whatever buffer.
    bytes_copied,
    /// Connections accepted.
    accepts,
    /// Receives armed. One a connection is the best case: multishot receives live on, for a
    /// mebibyte where bundles can be had.
    receives_armed,
    /// Sends begun.
    sends,
    /// Times that a reader found no receive slot.
    starved,
    /// Completions that found the completion queue full and were kept by the kernel.
    cq_overflows,
}

/// The counters that the base itself keeps.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    turns: Cell<u64>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    accepts: Cell<u64>,
    receives_armed: Cell<u64>,
    sends: Cell<u64>,
    starved: Cell<u64>,
    last_completion: Cell<u64>,
}

fn add(cell: &Cell<u64>, n: u64) {
    cell.set(cell.get().wrapping_add(n));
}

impl Tally {
    pub(crate) fn turn(&self) {
        add(&self.turns, 1);
    }
    pub(crate) fn received(&self, bytes: usize) {
        add(&self.bytes_in, bytes as u64);
    }
    /// Bytes that sends have taken so far.
    pub(crate) fn bytes_sent(&self) -> u64 {
        self.bytes_out.get()
    }

    pub(crate) fn sent(&self, bytes: usize) {
        add(&self.bytes_out, bytes as u64);
    }
    pub(crate) fn accepted(&self) {
        add(&self.accepts, 1);
    }
    pub(crate) fn receive_armed(&self) {
        add(&self.receives_armed, 1);
    }
    pub(crate) fn send_begun(&self) {
        add(&self.sends, 1);
    }
    pub(crate) fn starved(&self) {
        add(&self.starved, 1);
    }
    pub(crate) fn completed_at(&self, now: u64) {
        self.last_completion.set(now);
    }
    pub(crate) fn last_completion(&self) -> u64 {
        self.last_completion.get()
    }
}

impl EventBase {
    /// What the base has done so far.
    pub fn counters(&self) -> Counters {
        let ring = self.with_driver(|driver| driver.counters());
        let tally = self.tally();
        Counters {
            turns: tally.turns.get(),
            enters: ring.enters,
            sqes: ring.sqes,
            cqes: ring.cqes,
            bytes_in: tally.bytes_in.get(),
            bytes_out: tally.bytes_out.get(),
            bytes_copied: evbuffer::copied_bytes(),
            accepts: tally.accepts.get(),
            receives_armed: tally.receives_armed.get(),
            sends: tally.sends.get(),
            starved: tally.starved.get(),
            cq_overflows: ring.overflows,
        }
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.iter().enumerate() {
            let gap = if index == 0 { "" } else { " " };
            write!(f, "{gap}{name}={value}")?;
        }
        Ok(())
    }
}
