//! The two things a bare io_uring loop needs: the ring with one `enter` a turn, and a window of provided buffers.
//!
//! This is the floor's own, deliberately apart from evring's `ring` layer: it must not share what it is the
//! measure of. It expects a kernel that has everything (6.1) and just fails elsewhere.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use io_uring::{
    CompletionQueue, EnterFlags, IoUring, SubmissionQueue, Submitter, cqueue, opcode, squeue, types,
};

/// The buffer group all receives draw from.
pub const BUFFER_GROUP: u16 = 0;

const SQ_ENTRIES: u32 = 1024;
const CQ_ENTRIES: u32 = 16 * 1024;
/// Memory that slots may take in all; a page of it is real only once it was used.
const POOL_BYTES: usize = 256 << 20;
const PAGE_BYTES: usize = 4096;

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

/// Slots of one size, a last-in-first-out pool of them, and the ring through which the kernel is given a small window of
/// that pool.
#[derive(Debug)]
pub struct Window {
    entries: NonNull<BufRingEntry>,
    mask: u16,
    tail: u16,
    published: u16,
    window: u16,
    slots: NonNull<u8>,
    slot_bytes: usize,
    free: Vec<u16>,
}

impl Window {
    /// Maps slots of `slot_bytes` and registers a buffer ring that shows the kernel at most `window` of them at a time.
    pub fn new(ring: &Ring<'_>, slot_bytes: u32, window: u16) -> io::Result<Self> {
        let slot_bytes = slot_bytes as usize;
        let ring_entries = window.next_power_of_two();
        if slot_bytes == 0 || window == 0 || ring_entries > 1 << 15 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a slot has at least 1 byte, a window 1 to 32768 slots",
            ));
        }
        let slot_count = (POOL_BYTES / slot_bytes).clamp(usize::from(window), 1 << 16);
        let slots = map(slot_count * slot_bytes)?;
        let entries: NonNull<BufRingEntry> =
            map(usize::from(ring_entries) * size_of::<BufRingEntry>())?.cast();
        // SAFETY: the entries are a zeroed, page-aligned mapping of the size told, which is never unmapped.
        unsafe {
            ring.submitter.register_buf_ring_with_flags(
                entries.as_ptr() as u64,
                ring_entries,
                BUFFER_GROUP,
                0,
            )?;
        }
        Ok(Self {
            entries,
            mask: ring_entries - 1,
            tail: 0,
            published: 0,
            window,
            slots,
            slot_bytes,
            free: (0..slot_count)
                .rev()
                .map(|slot| u16::try_from(slot).expect("clamped to 65536 slots"))
                .collect(),
        })
    }

    /// Publishes the most recently freed slots until the window is full. Called once a turn.
    pub fn refill(&mut self) {
        let before = self.tail;
        while self.published < self.window {
            let Some(slot) = self.free.pop() else { break };
            // SAFETY: the index is masked to the mapped entries; between head and tail + window no entry is the
            // kernel's. Fields are set one by one because entry 0's last field is the ring's tail.
            let entry = unsafe {
                &mut *self
                    .entries
                    .as_ptr()
                    .add(usize::from(self.tail & self.mask))
            };
            entry.set_addr(self.slot(slot) as u64);
            entry.set_len(self.slot_bytes as u32);
            entry.set_bid(slot);
            self.tail = self.tail.wrapping_add(1);
            self.published += 1;
        }
        if self.tail != before {
            // SAFETY: `entries` is the first entry of a registered ring, whose tail the kernel only reads.
            let tail = unsafe {
                AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut())
            };
            tail.store(self.tail, Ordering::Release);
        }
    }

    /// Notes that the kernel took a published slot (a completion named it).
    pub fn taken(&mut self) {
        self.published -= 1;
    }

    /// Whether the kernel has no slot left to receive into.
    pub fn is_empty(&self) -> bool {
        self.published == 0
    }

    /// Puts a slot back; it is the next to be published.
    pub fn put_back(&mut self, slot: u16) {
        self.free.push(slot);
    }

    /// Where `slot` begins.
    pub fn slot(&self, slot: u16) -> *mut u8 {
        // SAFETY: slot ids come from `free` and lie within the mapping.
        unsafe { self.slots.as_ptr().add(usize::from(slot) * self.slot_bytes) }
    }
}

/// Zeroed anonymous memory, for as long as the process lives.
fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new private mapping at an address of the kernel's choice.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes.next_multiple_of(PAGE_BYTES),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(NonNull::new(at.cast()).expect("mmap gives no null"))
}
