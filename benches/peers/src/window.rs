//! The window of provided buffers that receives draw from.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::ring::Ring;

/// The buffer group all receives draw from.
pub const BUFFER_GROUP: u16 = 0;

/// Memory that slots may take in all; a page of it is real only once it was used.
const POOL_BYTES: usize = 256 << 20;
const PAGE_BYTES: usize = 4096;

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
            ring.submitter().register_buf_ring_with_flags(
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
