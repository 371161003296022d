//! The ring of a bare io_uring loop, with one `enter` a turn.
//!
//! This and the [`window`](crate::window) are the floor's own, deliberately apart from evring's `ring` layer: they must
//! not share what they are the measure of. They expect a kernel that has everything (6.1) and just fail elsewhere.

use std::io;

use io_uring::{
    CompletionQueue, EnterFlags, IoUring, SubmissionQueue, Submitter, cqueue, opcode, squeue, types,
};

use crate::window::BUFFER_GROUP;

const SQ_ENTRIES: u32 = 1024;
const CQ_ENTRIES: u32 = 16 * 1024;

/// `ioprio` bits of a receive that the io-uring crate keeps to itself.
const RECV_POLL_FIRST: u16 = 1;
const RECV_MULTISHOT: u16 = 2;

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

/// The ring's three halves, borrowed for the loop's life (the registered ring fd lives in the submitter).
#[allow(missing_debug_implementations)]
pub struct Ring<'a> {
    submitter: Submitter<'a>,
    sq: SubmissionQueue<'a>,
    cq: CompletionQueue<'a>,
}

impl<'a> Ring<'a> {
    /// Splits `uring` and registers its descriptor.
    pub fn new(uring: &'a mut IoUring) -> io::Result<Self> {
        let (mut submitter, sq, cq) = uring.split();
        submitter.register_ring_fd()?;
        Ok(Self { submitter, sq, cq })
    }

    /// What registers with the ring.
    pub fn submitter(&self) -> &Submitter<'a> {
        &self.submitter
    }

    /// Submits what was pushed, runs what the kernel has deferred, and waits until `want` completions are there.
    pub fn enter(&mut self, want: u32) -> io::Result<()> {
        self.sq.sync();
        let queued = u32::try_from(self.sq.len()).expect("at most SQ_ENTRIES");
        // SAFETY: no argument block is passed; the flags ask for nothing else.
        let entered = unsafe {
            self.submitter
                .enter::<libc::sigset_t>(queued, want, EnterFlags::GETEVENTS.bits(), None)
        };
        self.sq.sync();
        self.cq.sync();
        match entered.map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) | Err((Some(libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => Ok(()),
            Err((_, error)) => Err(error),
        }
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
    /// All memory that `entry` points to must stay valid, and unaliased where the kernel writes it, until its last
    /// completion.
    pub unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: passed on to the caller.
        while unsafe { self.sq.push(entry) }.is_err() {
            self.enter(0)?;
        }
        Ok(())
    }
}

/// A receive that stays armed and takes a slot of the window for each completion. It tries only once the socket is
/// readable: what is armed has just been found empty or is new.
pub fn multishot_recv(fd: libc::c_int) -> squeue::Entry {
    opcode::Recv::new(types::Fd(fd), std::ptr::null_mut(), 0)
        .ioprio(RECV_MULTISHOT | RECV_POLL_FIRST)
        .buf_group(BUFFER_GROUP)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT)
}
