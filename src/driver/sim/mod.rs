//! A [`Driver`] without a kernel: the same seed, the same run.
//!
//! Sockets, clock and faults live in a [`World`], which the test keeps a hand on: it makes the
//! sockets, plays their far ends with scripts, and looks at what moved. The driver itself checks
//! what the layers above owe the kernel: one send in flight a socket (I4), no descriptor used or
//! closed too late or too early (I6), every operation ended once (I2).
//!
//! | file | concept |
//! |---|---|
//! | `dice` | randomness, the trace, the bytes of a stream |
//! | `faults` | what goes wrong, drawn per seed |
//! | `socket`, `net` | connections, what is under way on them |
//! | `datagram` | datagrams, and servers that answer them |
//! | `listen` | ports, backlogs, and the descriptors of what is accepted |
//! | `remote` | scripted peers |
//! | `world` | operations, completions, the clock |

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

pub(crate) mod datagram;
pub(crate) mod dice;
mod faults;
mod listen;
pub(crate) mod net;
pub(crate) mod remote;
pub(crate) mod socket;
mod world;

use super::Wait;
use super::{Completion, Descriptor, Driver, HangUp, Op, OpId, SEND_PIECES, SendHow, SocketOption};
use crate::arena::{Arena, ArenaConfig};
use crate::evbuffer::EvBuffer;
use crate::ring::{Cap, Caps, CapsMask, Pieces, RingCounters};
use crate::sys::host::Release;
use crate::sys::{Errno, SockAddr};
pub(crate) use faults::Faults;
pub(crate) use world::{Move, World};

/// Bytes of a slot: the least that an arena allows, so that data is spread over many.
pub(crate) const SLOT_BYTES: usize = 4096;

/// The simulated driver of one base.
pub(crate) struct Sim {
    world: Rc<RefCell<World>>,
    /// Clones of what the world has: the trait hands out references.
    arena: Arena,
    caps: Caps,
}

impl Sim {
    /// A driver, and the world it lives in.
    pub(crate) fn new(seed: u64, faults: Faults, print: bool) -> (Self, Rc<RefCell<World>>) {
        let arena = Arena::new(
            ArenaConfig::default()
                .slot_size(SLOT_BYTES)
                .max_bytes(SLOT_BYTES * faults.slots),
        )
        .expect("memory for a small arena");
        let world = World::new(seed, faults, arena.clone(), print);
        let world = Rc::new(RefCell::new(world));
        let sim = Sim {
            world: world.clone(),
            arena,
            caps: Caps::new(Cap::all(), CapsMask::default(), Release::new(6, 18, 0)),
        };
        (sim, world)
    }
}

impl Driver for Sim {
    fn push(&mut self, token: u64, op: Op) -> OpId {
        self.world.borrow_mut().push(token, op)
    }

    fn send(
        &mut self,
        token: u64,
        fd: i32,
        output: &EvBuffer,
        most: usize,
        how: SendHow,
    ) -> (OpId, usize) {
        let mut pieces = Vec::new();
        let bytes = output.gather(most, SEND_PIECES, &mut pieces);
        (self.push(token, how.op(fd, Pieces::from(pieces))), bytes)
    }

    fn cancel(&mut self, op: OpId) {
        self.world.borrow_mut().cancel(op.as_u64());
    }

    #[cfg(debug_assertions)]
    fn token_of(&self, op: OpId) -> Option<u64> {
        self.world.borrow().token_of(op.as_u64())
    }

    fn refill(&mut self) -> usize {
        self.world.borrow_mut().refill()
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.world.borrow_mut().enter(wait);
        Ok(())
    }

    fn next(&mut self) -> Option<Completion> {
        self.world.borrow_mut().next()
    }

    fn now(&self) -> u64 {
        self.world.borrow().now
    }

    fn arena(&self) -> &Arena {
        &self.arena
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn counters(&self) -> RingCounters {
        self.world.borrow().counters
    }

    fn in_flight(&self) -> usize {
        self.world.borrow().in_flight()
    }

    fn socket(&mut self, family: i32, kind: i32) -> io::Result<i32> {
        let socket = self.world.borrow_mut().new_socket(family, kind);
        Ok(net::fd_of(socket))
    }

    fn bind(&mut self, fd: i32, addr: &SockAddr) -> io::Result<()> {
        let bound = self.world.borrow_mut().bind(fd, addr);
        bound.map_err(io::Error::from)
    }

    fn listen(&mut self, fd: i32, backlog: i32) -> io::Result<()> {
        self.world.borrow_mut().listen(fd, backlog);
        Ok(())
    }

    fn set_option(&mut self, fd: i32, option: SocketOption) -> io::Result<()> {
        let set = self.world.borrow_mut().set_option(fd, option);
        set.map_err(io::Error::from)
    }

    fn local_addr(&self, fd: i32) -> io::Result<SockAddr> {
        Ok(self.world.borrow().net.local_addr(fd))
    }

    fn peer_addr(&self, fd: i32) -> io::Result<SockAddr> {
        let addr = self.world.borrow().net.peer_addr(fd);
        addr.map_err(io::Error::from)
    }

    fn describe(&self, fd: i32) -> Descriptor {
        self.world.borrow().net.describe(fd)
    }

    fn hang_up(&self, fd: i32) -> HangUp {
        self.world.borrow().net.hang_up(fd)
    }

    fn readable_bytes(&self, fd: i32) -> usize {
        self.world.borrow().net.readable_bytes(fd)
    }

    fn is_readable(&self, fd: i32) -> bool {
        let net = &self.world.borrow().net;
        net.is_readable(net.index(fd))
    }

    fn acked(&self, fd: i32) -> Option<u64> {
        self.world.borrow().net.acked(fd)
    }

    fn unacked(&self, fd: i32) -> usize {
        self.world.borrow().net.unacked(fd)
    }

    fn shutdown_write(&mut self, fd: i32) -> io::Result<()> {
        let ended = self.world.borrow_mut().shutdown_write(fd);
        ended.map_err(io::Error::from)
    }

    fn take_error(&mut self, fd: i32) -> io::Result<Option<Errno>> {
        Ok(self.world.borrow_mut().take_error(fd))
    }

    fn close(&mut self, fd: i32) {
        self.world.borrow_mut().close(fd);
    }

    fn end(self: Box<Self>, descriptors: &[i32]) {
        if std::thread::panicking() {
            return;
        }
        let mut world = self.world.borrow_mut();
        world.end();
        for &fd in descriptors {
            world.close(fd);
        }
        world.sweep();
    }
}
