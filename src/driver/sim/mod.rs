//! A [`Driver`] without a kernel: the same seed, the same run.
//!
//! Sockets, clock and faults live in a [`World`], which the test keeps a hand on: it makes the sockets, plays
//! their far ends with scripts, and looks at what moved. The driver itself checks what the layers above
//! owe the kernel: one send in flight a socket (I4), no descriptor used or closed too late or too early (I6), every
//! operation ended once (I2).
//!
//! | file | concept |
//! |---|---|
//! | `dice` | randomness, the trace, the bytes of a stream |
//! | `faults` | what goes wrong, drawn per seed |
//! | `socket`, `net` | connections, what is under way on them |
//! | `remote` | scripted peers |
//! | `world` | operations, completions, the clock |

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

pub(crate) mod dice;
mod faults;
pub(crate) mod net;
pub(crate) mod remote;
pub(crate) mod socket;
mod world;

use super::{Completion, Driver, Op, OpId, Wait};
use crate::arena::{Arena, ArenaConfig, Piece};
use crate::ring::{Cap, Caps, CapsMask, RingCounters};
use crate::sys::Errno;
use crate::sys::host::Release;
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
        let arena = Arena::new(ArenaConfig {
            slot_size: SLOT_BYTES,
            max_bytes: SLOT_BYTES * faults.slots,
        })
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

    fn cancel(&mut self, op: OpId) {
        self.world.borrow_mut().cancel(op.as_u64());
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

    fn take_pieces(&mut self) -> Vec<Piece> {
        Vec::new()
    }

    fn give_pieces(&mut self, pieces: Vec<Piece>) {
        drop(pieces);
    }

    fn socket(&mut self, family: i32) -> io::Result<i32> {
        let socket = self.world.borrow_mut().new_socket(family);
        Ok(net::fd_of(socket))
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
    }
}
