//! The ring as a [`Driver`].

use std::io;
use std::os::fd::IntoRawFd;

use super::{Completion, Driver, Op, OpId, Spent, Wait};
use crate::arena::{Arena, Piece};
use crate::ring::{Caps, Ring, RingConfig, RingCounters, SetupError};
use crate::sys::{Errno, net, time};

/// A ring with its arena and its window of provided buffers.
pub(crate) struct Uring {
    ring: Ring,
    arena: Arena,
    /// To be logged once nobody has the driver borrowed.
    warnings: Vec<String>,
}

impl Uring {
    pub(crate) fn new(config: &RingConfig, arena: Arena, window: u16) -> Result<Self, SetupError> {
        let mut ring = Ring::new(config)?;
        ring.attach_window(&arena, window)?;
        Ok(Uring {
            ring,
            arena,
            warnings: Vec::new(),
        })
    }
}

impl Driver for Uring {
    fn push(&mut self, token: u64, op: Op) -> OpId {
        self.ring.push(token, op)
    }

    fn cancel(&mut self, op: OpId) {
        self.ring.cancel(op);
    }

    fn refill(&mut self) -> usize {
        self.ring.refill();
        self.ring.window_published()
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.ring.enter(wait)
    }

    fn next(&mut self) -> Option<Completion> {
        self.ring.next()
    }

    fn now(&self) -> u64 {
        time::monotonic_ns()
    }

    fn arena(&self) -> &Arena {
        &self.arena
    }

    fn shared_arena(&self) -> Option<&Arena> {
        Some(&self.arena)
    }

    fn caps(&self) -> &Caps {
        self.ring.caps()
    }

    fn counters(&self) -> RingCounters {
        self.ring.counters()
    }

    fn in_flight(&self) -> usize {
        self.ring.in_flight()
    }

    fn take_pieces(&mut self) -> Vec<Piece> {
        self.ring.take_pieces()
    }

    fn give_pieces(&mut self, pieces: Vec<Piece>) {
        self.ring.give_pieces(pieces);
    }

    fn pop_spent(&mut self) -> Option<Spent> {
        let payload = self.ring.pop_spent().map(Spent::Payload);
        payload.or_else(|| self.warnings.pop().map(Spent::Warning))
    }

    fn socket(&mut self, family: i32) -> io::Result<i32> {
        net::socket(family, libc::SOCK_STREAM).map(IntoRawFd::into_raw_fd)
    }

    fn shutdown_write(&mut self, fd: i32) -> io::Result<()> {
        net::shutdown(fd, net::How::Write)
    }

    fn take_error(&mut self, fd: i32) -> io::Result<Option<Errno>> {
        net::take_error(fd)
    }

    fn close(&mut self, fd: i32) {
        self.warnings.extend(close(fd));
    }

    fn end(self: Box<Self>, descriptors: &[i32]) {
        let mut warnings = self.warnings;
        drop(self.ring);
        drop(self.arena);
        for &fd in descriptors {
            warnings.extend(close(fd));
        }
        for text in warnings {
            log::warn!("{text}");
        }
    }
}

/// Closes a descriptor; what there is to say about it.
fn close(fd: i32) -> Option<String> {
    let error = net::close(fd).err()?;
    Some(format!("closing descriptor {fd}: {error}"))
}
