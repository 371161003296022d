//! The ring of a bare io_uring loop, with one `enter` a turn.
//!
//! This and the [`window`](crate::window) are the floor's own, deliberately apart from evring's
//! `ring` layer: they must not share what they are the measure of. They expect a kernel that has
//! everything (6.1) and just fail elsewhere; what is on trial says what it needs.

use std::io;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{
    CompletionQueue, EnterFlags, IoUring, SubmissionQueue, Submitter, cqueue, opcode, squeue, types,
};

use crate::window::{BUFFER_GROUP, Filling};

const SQ_ENTRIES: u32 = 1024;
/// Completions that find room; a wait for more could not end.
pub const CQ_ENTRIES: u32 = 16 * 1024;

/// `ioprio` bits of a receive that the io-uring crate keeps to itself.
const RECV_POLL_FIRST: u16 = 1;
const RECV_MULTISHOT: u16 = 2;
const RECV_BUNDLE: u16 = 1 << 4;

/// A wait that shall bring several completions at once.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// How many end it at once.
    pub wanted: u32,
    /// After so long any one ends it.
    pub microseconds: u32,
}

/// The end of a batching wait in which nothing came. The kernel needs one: without it, such a wait
/// ends after its microseconds even if nothing is there, and an idle loop would turn all the time.
const IDLE: Timespec = Timespec::new().sec(3600);

/// A ring made for one thread that submits and reaps in the same call.
pub fn set_up() -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .setup_cqsize(CQ_ENTRIES);
    let without_array = builder.clone().setup_no_sqarray().build(SQ_ENTRIES);
    without_array.or_else(|_| builder.build(SQ_ENTRIES))
}

/// The ring's three halves, borrowed for the loop's life (the registered ring fd lives in the
/// submitter).
#[allow(missing_debug_implementations)]
pub struct Ring<'a> {
    submitter: Submitter<'a>,
    sq: SubmissionQueue<'a>,
    cq: CompletionQueue<'a>,
    batch: Option<Batch>,
}

impl<'a> Ring<'a> {
    /// Splits `uring` and registers its descriptor. With a `batch`, waits are of that kind.
    pub fn new(uring: &'a mut IoUring, batch: Option<Batch>) -> io::Result<Self> {
        let (mut submitter, sq, cq) = uring.split();
        submitter.register_ring_fd()?;
        Ok(Self {
            submitter,
            sq,
            cq,
            batch,
        })
    }

    /// What registers with the ring.
    pub fn submitter(&self) -> &Submitter<'a> {
        &self.submitter
    }

    /// Submits what was pushed, runs what the kernel has deferred, and waits until `want`
    /// completions are there (or a batch of them).
    pub fn enter(&mut self, want: u32) -> io::Result<()> {
        self.sq.sync();
        let queued = u32::try_from(self.sq.len()).expect("at most SQ_ENTRIES");
        let entered = match self.batch {
            Some(batch) if want > 0 => self.enter_for(queued, batch),
            // SAFETY: no argument block is passed; the flags ask for nothing else.
            _ => unsafe {
                let flags = EnterFlags::GETEVENTS.bits();
                self.submitter
                    .enter::<libc::sigset_t>(queued, want, flags, None)
            },
        };
        self.sq.sync();
        self.cq.sync();
        match entered.map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) | Err((Some(libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => Ok(()),
            Err((_, error)) => Err(error),
        }
    }

    /// An `enter` that waits for a batch.
    fn enter_for(&self, queued: u32, batch: Batch) -> io::Result<usize> {
        let args = SubmitArgs::new()
            .min_wait_usec(batch.microseconds)
            .timespec(&IDLE);
        let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        // SAFETY: EXT_ARG says that the argument is such a block; it and the time it points to
        // outlive the call.
        let entered = unsafe {
            self.submitter
                .enter(queued, batch.wanted, flags.bits(), Some(&args))
        };
        entered.or_else(|error| match error.raw_os_error() {
            Some(libc::ETIME) => Ok(0),
            _ => Err(error),
        })
    }

    /// The next completion of those that the last [`enter`](Self::enter) brought.
    pub fn reap(&mut self) -> Option<cqueue::Entry> {
        self.cq.next()
    }

    /// Gives the kernel back the queue entries that [`reap`](Self::reap) took.
    pub fn reaped(&mut self) {
        self.cq.sync();
    }

    /// Queues `entry`; a full queue is flushed first.
    ///
    /// # Safety
    ///
    /// All memory that `entry` points to must stay valid, and unaliased where the kernel writes it,
    /// until its last completion.
    pub unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: passed on to the caller.
        while unsafe { self.sq.push(entry) }.is_err() {
            self.enter(0)?;
        }
        Ok(())
    }
}

/// A receive that stays armed and takes a slot of the window for each completion, or several. It
/// tries only once the socket is readable: what is armed has just been found empty or is new.
pub fn multishot_recv(fd: types::Fd, filling: Filling) -> squeue::Entry {
    let bundle = match filling {
        Filling::Slot | Filling::Incremental => 0,
        Filling::Bundle => RECV_BUNDLE,
    };
    opcode::Recv::new(fd, std::ptr::null_mut(), 0)
        .ioprio(RECV_MULTISHOT | RECV_POLL_FIRST | bundle)
        .buf_group(BUFFER_GROUP)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT)
}
