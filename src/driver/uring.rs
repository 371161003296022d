//! The ring as a [`Driver`].

use std::io;
use std::os::fd::IntoRawFd;

use super::{
    Completion, Descriptor, Driver, HangUp, Op, OpId, SEND_PIECES, SendHow, SocketOption, Spent,
    Wait,
};
use crate::arena::Arena;
use crate::evbuffer::EvBuffer;
use crate::ring::{Caps, Pieces, Ring, RingConfig, RingCounters, SetupError};
use crate::sys::{Errno, SockAddr, fdio, net, time};

/// A ring with its arena and its window of provided buffers.
pub(crate) struct Uring {
    ring: Ring,
    arena: Arena,
}

impl Uring {
    pub(crate) fn new(config: &RingConfig, arena: Arena, window: u16) -> Result<Self, SetupError> {
        let mut ring = Ring::new(config)?;
        ring.attach_window(&arena, window)?;
        Ok(Uring { ring, arena })
    }
}

impl Driver for Uring {
    fn push(&mut self, token: u64, op: Op) -> OpId {
        self.ring.push(token, op)
    }

    fn send(
        &mut self,
        token: u64,
        fd: i32,
        output: &EvBuffer,
        most: usize,
        how: SendHow,
    ) -> (OpId, usize) {
        let mut pieces = self.ring.take_pieces();
        let bytes = output.gather(most, SEND_PIECES, &mut pieces);
        let pieces = match (pieces.pop(), pieces.is_empty()) {
            // The vector is free for the next send at once.
            (Some(only), true) => {
                self.ring.give_pieces(pieces);
                Pieces::from(only)
            }
            (last, _) => {
                pieces.extend(last);
                Pieces::from(pieces)
            }
        };
        (self.ring.push(token, how.op(fd, pieces)), bytes)
    }

    fn cancel(&mut self, op: OpId) {
        self.ring.cancel(op);
    }

    #[cfg(debug_assertions)]
    fn token_of(&self, op: OpId) -> Option<u64> {
        self.ring.token_of(op)
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

    fn pop_spent(&mut self) -> Option<Spent> {
        let payload = self.ring.pop_spent().map(Spent::Payload);
        payload.or_else(|| self.ring.pop_notice().map(Spent::Notice))
    }

    fn socket(&mut self, family: i32, kind: i32) -> io::Result<i32> {
        net::socket(family, kind).map(IntoRawFd::into_raw_fd)
    }

    fn bind(&mut self, fd: i32, addr: &SockAddr) -> io::Result<()> {
        net::bind(fd, addr)
    }

    fn listen(&mut self, fd: i32, backlog: i32) -> io::Result<()> {
        net::listen(fd, backlog)
    }

    fn set_option(&mut self, fd: i32, option: SocketOption) -> io::Result<()> {
        match option {
            SocketOption::NoDelay(on) => net::set_nodelay(fd, on),
            SocketOption::KeepAlive(times) => net::set_keepalive(fd, times),
            SocketOption::ReuseAddr(on) => net::set_reuse_addr(fd, on),
            SocketOption::ReusePort(on) => net::set_reuse_port(fd, on),
            SocketOption::V6Only(on) => net::set_v6_only(fd, on),
            SocketOption::DeferAccept(on) => net::set_defer_accept(fd, on),
            SocketOption::NonBlocking(on) => net::set_nonblocking(fd, on),
            SocketOption::ResetOnClose => net::set_linger(fd, Some(0)),
        }
    }

    fn local_addr(&self, fd: i32) -> io::Result<SockAddr> {
        net::local_addr(fd)
    }

    fn peer_addr(&self, fd: i32) -> io::Result<SockAddr> {
        net::peer_addr(fd)
    }

    fn describe(&self, fd: i32) -> Descriptor {
        match net::family(fd) {
            Ok(family) => Descriptor::socket(family),
            Err(_) => {
                let (readable, writable) = fdio::access(fd).unwrap_or((true, true));
                Descriptor {
                    family: None,
                    readable,
                    writable,
                    regular: fdio::is_regular(fd),
                }
            }
        }
    }

    fn hang_up(&self, fd: i32) -> HangUp {
        match fdio::hung_up(fd) {
            (_, true) => HangUp::Failed,
            (true, false) => HangUp::Ended,
            (false, false) => HangUp::None,
        }
    }

    fn readable_bytes(&self, fd: i32) -> usize {
        fdio::bytes_waiting(fd).unwrap_or(0)
    }

    fn is_readable(&self, fd: i32) -> bool {
        fdio::is_readable(fd)
    }

    fn acked(&self, fd: i32) -> Option<u64> {
        net::bytes_acked(fd)
    }

    fn unacked(&self, fd: i32) -> usize {
        net::bytes_unacked(fd)
    }

    fn shutdown_write(&mut self, fd: i32) -> io::Result<()> {
        net::shutdown_write(fd)
    }

    fn take_error(&mut self, fd: i32) -> io::Result<Option<Errno>> {
        net::take_error(fd)
    }

    fn close(&mut self, fd: i32) {
        if let Err(error) = net::close(fd) {
            self.ring
                .warn(format_args!("closing descriptor {fd}: {error}"));
        }
    }

    fn end(self: Box<Self>, descriptors: &[i32]) {
        drop(self.ring);
        drop(self.arena);
        let refused: Vec<_> = descriptors
            .iter()
            .filter_map(|&fd| Some((fd, net::close(fd).err()?)))
            .collect();
        for (fd, error) in refused {
            log::warn!("closing descriptor {fd}: {error}");
        }
    }
}
