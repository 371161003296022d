//! A safe io_uring for one thread: owned operations, a window of receive slots, one `enter`.
//!
//! ```text
//!   push(token, Op) ──► table of operations ──► submission queue ─┐
//!                        owns the memory (I1)                     │ enter(Wait)
//!   next() ◄── Completion ◄── batch of entries ◄── completion queue ◄─┘
//!                 │ Piece
//!   refill() ──► window of published slots ◄── arena
//! ```
//!
//! The kernel fills slots that the [arena](crate::arena) lends it and sends from wherever the
//! pieces lie. Everything that it may touch belongs to the operation's entry in the table until the
//! last completion (I1, I2), so that no call here is unsafe. What this kernel lacks is replaced,
//! see [`Caps`].
//!
//! A steady ring allocates nothing for an operation or a completion: entries, vectors of pieces,
//! iovecs and headers are recycled.
//!
//! ```no_run
//! use evring::arena::{Arena, ArenaConfig};
//! use evring::ring::{Op, Ring, RingConfig, Wait};
//! use std::os::fd::AsRawFd;
//!
//! let mut ring = Ring::new(&RingConfig::default())?;
//! let arena = Arena::new(ArenaConfig::default())?;
//! ring.attach_window(&arena, 128)?;
//! let socket = std::net::TcpStream::connect("127.0.0.1:7000")?;
//! let fd = socket.as_raw_fd();
//! let recv = Op::Recv {
//!     fd,
//!     multishot: true,
//!     max_len: 0,
//!     arm_limit: 0,
//!     bundle: false,
//!     poll_first: true,
//! };
//! ring.push(1, recv);
//! loop {
//!     ring.enter(Wait::Until(None))?;
//!     while let Some(done) = ring.next() {
//!         if let Some(piece) = done.buffer {
//!             ring.push(2, Op::Send { fd, pieces: piece.into(), wait_all: true });
//!         }
//!     }
//!     ring.refill();
//! }
//! # #[allow(unreachable_code)]
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | file | concept |
//! |---|---|
//! | `op` | operations, ids, completions |
//! | `setup`, `error` | the set-up ladder, and why it may fail |
//! | `caps`, `probe` | what the kernel can do |
//! | `submit` | operations become entries; the submission queue never overflows |
//! | `enter` | the one place where the kernel is entered |
//! | `reap` | completions are taken and their memory released |
//! | `table` | operations in flight |
//! | `window`, `fixed` | memory the kernel knows in advance |
//! | `notice` | what there is to say, until it may be logged |
//! | `close` | dropping a ring with operations in flight |
#![allow(unsafe_code)]

mod caps;
mod close;
mod enter;
mod error;
mod fixed;
mod notice;
mod op;
mod probe;
mod reap;
mod setup;
mod submit;
mod table;
mod window;

#[cfg(test)]
mod tests;

pub use crate::sys::host::Release;
pub use crate::sys::{Errno, SockAddr};
pub use caps::{CAPS_VARIABLE, Cap, Caps, CapsMask};
pub use enter::Wait;
pub use error::{SetupError, UnknownCap};
pub use notice::Notice;
pub use op::{Completion, MAX_PIECES, Op, OpId, Pieces};
pub use setup::RingConfig;
pub use window::DEFAULT_WINDOW;

use crate::arena::{Arena, Piece};
use crate::sys::fork::ForkGuard;
use crate::sys::pipe_shield::PipeShield;
use crate::sys::uring;
use io_uring::{IoUring, squeue};
use log::Level;
use reap::{Batch, Cqe};
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};
use table::{Gather, Table};

/// A safe io_uring that belongs to one thread.
///
/// In a forked child its calls fail with `ECHILD` and leave the parent's queues alone; the child
/// builds a ring of its own (I11; libevent's `event_reinit`). Dropping it cancels what is in flight
/// and waits for that, for about a second; what the kernel then still holds is leaked, never freed
/// (I8).
pub struct Ring {
    uring: IoUring,
    /// What `enter` calls the ring: the index of its registered descriptor, or the descriptor.
    enter_fd: RawFd,
    /// Flags that go with `enter_fd`.
    enter_flags: u32,
    caps: Caps,
    table: Table,
    batch: Batch,
    /// What is left of a bundle that is being given out slot by slot.
    parts: VecDeque<Cqe>,
    /// Entries for which the submission queue has no room yet (I3).
    backlog: VecDeque<squeue::Entry>,
    /// Completions that come from the ring itself, not from the kernel.
    ready: VecDeque<Cqe>,
    window: Option<window::Window>,
    fixed: Option<fixed::Fixed>,
    #[expect(
        clippy::vec_box,
        reason = "in flight they must not move: the kernel knows their address"
    )]
    spare_gathers: Vec<Box<Gather>>,
    /// See [`Ring::pop_spent`].
    spent: Vec<Piece>,
    spare_pieces: Vec<Vec<Piece>>,
    counters: RingCounters,
    notices: notice::Notices,
    /// Writes in flight: each may raise a SIGPIPE while the kernel is entered.
    writes: u32,
    /// Without [`Cap::DEFER_TASKRUN`] a write may go on at any return from the kernel, so this
    /// stays until none is in flight.
    shield: Option<PipeShield>,
    fork: ForkGuard,
    /// One thread submits, and the registered descriptor is known to that thread only.
    not_send: PhantomData<*mut ()>,
}

/// What a ring has done since it was set up. All of them only ever rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RingCounters {
    /// Calls of `io_uring_enter`.
    pub enters: u64,
    /// Entries that the kernel took.
    pub sqes: u64,
    /// Completions that were reaped, notifications and those of cancels included.
    pub cqes: u64,
    /// Times the completion queue was found overflown; the kernel keeps what does not fit.
    pub overflows: u64,
    /// Times `enter` gave `EBUSY`: completions had to be reaped first.
    pub ebusy: u64,
    /// Times `enter` was interrupted by a signal.
    pub eintr: u64,
    /// Times the kernel had no memory for an operation; it was submitted again.
    pub eagain: u64,
    /// Times the kernel said that completions were lost. The ring is of no use from then on.
    pub lost: u64,
    /// Receives that found no slot.
    pub enobufs: u64,
    /// Multishot operations that ended and want to be armed again.
    pub rearms: u64,
    /// Completions that no operation in flight claims.
    pub stale: u64,
    /// Operations that had to wait since the submission queue was full and the kernel took nothing.
    pub backlogged: u64,
    /// Zero-copy sends that had their notification.
    pub zc_sent: u64,
    /// Those of them whose bytes were copied after all.
    pub zc_copied: u64,
}

impl Ring {
    /// Sets a ring up for the calling thread, with everything this kernel offers and the mask
    /// leaves.
    ///
    /// # Errors
    ///
    /// [`SetupError`] names the cause and the remedy: io_uring forbidden by sysctl or seccomp, a
    /// kernel that is too old, limits of memory or descriptors, an unknown name in `EVRING_CAPS`.
    pub fn new(config: &RingConfig) -> Result<Ring, SetupError> {
        let setup::Built { uring, caps } = setup::build(config)?;
        let mut ring = Ring {
            enter_fd: uring.as_raw_fd(),
            enter_flags: 0,
            uring,
            caps,
            table: Table::new(),
            batch: Batch::new(),
            parts: VecDeque::new(),
            backlog: VecDeque::new(),
            ready: VecDeque::new(),
            window: None,
            fixed: None,
            spare_gathers: Vec::new(),
            spent: Vec::new(),
            spare_pieces: Vec::new(),
            counters: RingCounters::default(),
            notices: notice::Notices::default(),
            writes: 0,
            shield: None,
            fork: ForkGuard::new(),
            not_send: PhantomData,
        };
        ring.register_descriptor();
        Ok(ring)
    }

    /// What this kernel gives the ring.
    #[inline]
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// What the ring has done so far.
    #[inline]
    pub fn counters(&self) -> RingCounters {
        self.counters
    }

    /// How many operations have been pushed and not had their last completion.
    #[inline]
    pub fn in_flight(&self) -> usize {
        self.table.live()
    }

    /// How many submission entries the ring settled for.
    pub fn entries(&self) -> u32 {
        self.uring.params().sq_entries()
    }

    /// Whether this is a forked child of the process that set the ring up: every use is an error
    /// (I11).
    #[inline]
    pub fn is_inherited(&self) -> bool {
        self.fork.is_child()
    }

    /// Gives the ring a window of `size` slots of `arena` (a power of two; [`DEFAULT_WINDOW`] is a
    /// good one) to receive into, and publishes them.
    ///
    /// Where the kernel has no buffer ring, or RLIMIT_MEMLOCK leaves no room for one, receives take
    /// slots of their own; that is no error.
    ///
    /// # Errors
    ///
    /// [`SetupError::Size`] if the size is none, [`SetupError::WindowAttached`] the second time.
    pub fn attach_window(&mut self, arena: &Arena, size: u16) -> Result<(), SetupError> {
        if self.window.is_some() {
            return Err(SetupError::WindowAttached);
        }
        if self.is_inherited() {
            return Err(SetupError::Os {
                what: "a window for a ring of the parent process",
                errno: Errno::CHILD,
            });
        }
        self.window = Some(window::Window::attach(
            &self.uring,
            &mut self.caps,
            arena,
            size,
            &mut self.notices,
        )?);
        Ok(())
    }

    /// Publishes slots until the window is full or the arena spent. Meant to be called once a turn.
    ///
    /// Gives how many were published: receives that ended with `ENOBUFS` are worth arming again
    /// when it is not 0.
    #[inline]
    pub fn refill(&mut self) -> usize {
        match &mut self.window {
            // The buffer ring is the parent's: its tail is not for a child to move (I11).
            Some(window) if !self.fork.is_child() => window.refill(&mut self.notices),
            _ => 0,
        }
    }

    /// How many slots are published and await data.
    pub fn window_published(&self) -> usize {
        self.window.as_ref().map_or(0, window::Window::published)
    }

    /// Registers the chunks of `arena`, from which zero-copy sends then save a page lookup; called
    /// again, also those it has got since. Gives how many are registered.
    ///
    /// Registered memory counts against RLIMIT_MEMLOCK. Where that ends, or the kernel cannot do
    /// it, the ring makes do with what there is; 0 is no error. One arena for each ring: the first
    /// one stays.
    pub fn register_fixed(&mut self, arena: &Arena) -> usize {
        if self.is_inherited() {
            return 0;
        }
        if self.fixed.is_none() && self.caps.has(Cap::FIXED_BUFFERS) {
            match fixed::Fixed::new(&self.uring, arena) {
                Ok(fixed) => self.fixed = Some(fixed),
                Err(errno) => self.notices.note(
                    Level::Warn,
                    format_args!("no memory is registered for zero-copy sends: {errno}"),
                ),
            }
        }
        self.fixed
            .as_mut()
            .map_or(0, |fixed| fixed.extend(&self.uring, &mut self.notices))
    }

    /// What an operation's push gave along, while it is in flight.
    #[cfg(debug_assertions)]
    pub(crate) fn token_of(&self, op: OpId) -> Option<u64> {
        self.table.token_of(op.as_u64())
    }

    /// An empty vector for the pieces of a gathered send, recycled from earlier ones.
    #[inline]
    pub fn take_pieces(&mut self) -> Vec<Piece> {
        self.spare_pieces.pop().unwrap_or_default()
    }

    /// Gives a vector back that [`Ring::take_pieces`] gave and that was not pushed after all.
    pub fn give_pieces(&mut self, mut pieces: Vec<Piece>) {
        for piece in pieces.drain(..) {
            self.let_go(piece);
        }
        if pieces.capacity() > 0 && self.spare_pieces.len() < MAX_SPARE {
            self.spare_pieces.push(pieces);
        }
    }

    /// A payload of somebody else's that no operation holds any more. Dropping it may run a
    /// destructor of theirs, which may want this very ring: whoever owns the ring drops it when the
    /// ring is free again.
    #[inline]
    pub fn pop_spent(&mut self) -> Option<Piece> {
        self.spent.pop()
    }

    /// Something that the ring has to say, the latest first, to be logged when nobody has the ring
    /// borrowed.
    #[inline]
    pub fn pop_notice(&mut self) -> Option<Notice> {
        self.notices.pop()
    }

    /// Keeps a warning of whoever works with the ring, to be told with its own.
    #[cold]
    pub(crate) fn warn(&mut self, text: fmt::Arguments<'_>) {
        self.notices.note(Level::Warn, text);
    }

    /// An operation needs a piece no longer.
    #[inline]
    pub(super) fn let_go(&mut self, piece: Piece) {
        if piece.is_foreign() {
            self.spent.push(piece);
        }
    }

    fn register_descriptor(&mut self) {
        let fd = self.uring.as_raw_fd();
        match uring::register_ring_fd(fd) {
            Ok(index) => {
                self.caps.add(Cap::REGISTERED_RING);
                if self.caps.has(Cap::REGISTERED_RING) {
                    self.enter_fd = index;
                    self.enter_flags = uring::ENTER_REGISTERED_RING;
                } else if let Err(errno) = uring::unregister_ring_fd(fd, index) {
                    let text = format_args!("a ring's descriptor stays registered: {errno}");
                    self.notices.note(Level::Debug, text);
                }
            }
            // A thread can register 16 of them; without it enter looks the descriptor up.
            Err(errno) => {
                let text = format_args!("a ring's descriptor is not registered: {errno}");
                self.notices.note(Level::Debug, text);
            }
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("fd", &self.uring.as_raw_fd())
            .field("entries", &self.entries())
            .field("in_flight", &self.in_flight())
            .field("window_published", &self.window_published())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

/// How many vectors and headers are kept for later sends: as many as a busy proxy has in flight.
const MAX_SPARE: usize = 1024;
