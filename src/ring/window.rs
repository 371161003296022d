//! The window: slots published to the kernel, which fills them with what arrives.
//!
//! A small window is refilled from the arena's LIFO pool once a turn, so that the kernel writes to
//! memory that is still in the cache. Where the kernel has no ring of provided buffers, or memory
//! is short for it, every receive takes a slot of its own instead.

use super::caps::{Cap, Caps};
use super::error::SetupError;
use super::notice::Notices;
use super::setup;
use crate::arena::{Arena, Slot};
use crate::sys::Errno;
use io_uring::{IoUring, types::BufRingEntry};
use log::Level;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

/// The group of provided buffers that a window registers.
pub(super) const GROUP: u16 = 0;
/// Slots that a window publishes unless told otherwise.
pub const DEFAULT_WINDOW: u16 = 128;
/// Most slots that the kernel takes in one window.
const MAX_WINDOW: u16 = 1 << 15;

#[derive(Debug)]
pub(super) struct Window {
    arena: Arena,
    size: u16,
    buffers: Option<BufferRing>,
    /// A receive without a buffer ring found no slot since the last refill.
    starved: bool,
}

/// A ring of provided buffers: the kernel takes entries from its head, the window adds at its tail.
///
/// A buffer's id is its entry's index, so that the entries a bundle took are those behind the one
/// it names.
#[derive(Debug)]
struct BufferRing {
    memory: Pages,
    mask: u16,
    tail: u16,
    /// The slot behind each entry that is published; the kernel may write it (I12).
    slots: Box<[Option<Slot>]>,
    /// How many entries are published.
    published: u16,
}

impl Window {
    /// Registers a window of `size` slots and publishes what the arena has.
    pub(super) fn attach(
        uring: &IoUring,
        caps: &mut Caps,
        arena: &Arena,
        size: u16,
        notices: &mut Notices,
    ) -> Result<Window, SetupError> {
        if !size.is_power_of_two() || size > MAX_WINDOW {
            let (value, max) = (u32::from(size), u32::from(MAX_WINDOW));
            return Err(SetupError::Size {
                what: "window",
                value,
                min: 1,
                max,
            });
        }
        let mut window = Window {
            arena: arena.clone(),
            size,
            buffers: None,
            starved: false,
        };
        if caps.has(Cap::BUFFER_RING) {
            match BufferRing::register(uring, size) {
                Ok(buffers) => window.buffers = Some(buffers),
                Err(errno) => {
                    let err = match errno.raw() {
                        libc::ENOMEM => setup::memlock("a window", u32::from(size)),
                        _ => SetupError::Os {
                            what: "registering a window",
                            errno,
                        },
                    };
                    let text = format_args!("every receive takes a slot of its own: {err}");
                    notices.note(Level::Warn, text);
                    caps.remove(Cap::BUFFER_RING);
                }
            }
        }
        window.refill(notices);
        Ok(window)
    }

    pub(super) fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Whether the kernel picks the slots.
    #[inline]
    pub(super) fn is_provided(&self) -> bool {
        self.buffers.is_some()
    }

    /// Publishes slots until the window is full or the arena is spent; gives how many.
    #[inline]
    pub(super) fn refill(&mut self, notices: &mut Notices) -> usize {
        match &mut self.buffers {
            Some(buffers) if buffers.published == self.size => 0,
            Some(buffers) => buffers.publish(&self.arena, notices),
            None => {
                let starved = std::mem::take(&mut self.starved);
                if starved { self.published() } else { 0 }
            }
        }
    }

    /// How many slots await data.
    pub(super) fn published(&self) -> usize {
        match &self.buffers {
            Some(buffers) => usize::from(buffers.published),
            None => self.arena.available().min(usize::from(self.size)),
        }
    }

    /// A slot for a receive of its own, where there is no buffer ring.
    pub(super) fn take_slot(&mut self, notices: &mut Notices) -> Option<Slot> {
        let slot = take(&self.arena, notices);
        self.starved |= slot.is_none();
        slot
    }

    /// Takes the slot that a completion names out of the window: the kernel is done with it (I5).
    #[inline]
    pub(super) fn consume(&mut self, buffer_id: u16) -> Option<Slot> {
        let buffers = self.buffers.as_mut()?;
        let slot = buffers.slots.get_mut(usize::from(buffer_id))?.take();
        buffers.published -= u16::from(slot.is_some());
        slot
    }

    /// Bytes that the kernel sees in a published buffer.
    #[inline]
    pub(super) fn len_of(&self, buffer_id: u16) -> Option<u32> {
        self.buffers.as_ref()?.len_of(buffer_id)
    }

    /// The buffer that the kernel takes after this one.
    #[inline]
    pub(super) fn following(&self, buffer_id: u16) -> u16 {
        (buffer_id + 1) & (self.size - 1)
    }

    /// Takes the window back from the kernel; its slots go home when it is dropped. No operation
    /// may be in flight.
    pub(super) fn detach(&mut self, uring: &IoUring, notices: &mut Notices) {
        if self.buffers.is_some()
            && let Err(err) = uring.submitter().unregister_buf_ring(GROUP)
        {
            let text = format_args!("the window goes with its ring: {err}");
            notices.note(Level::Debug, text);
        }
    }

    /// Keeps the arena's memory mapped for ever (I8).
    pub(super) fn leak(self) {
        self.arena.set_leak(true);
        std::mem::forget(self);
    }
}

impl BufferRing {
    fn register(uring: &IoUring, size: u16) -> Result<BufferRing, Errno> {
        let memory = Pages::map(usize::from(size) * size_of::<BufRingEntry>())?;
        let addr = memory.base.as_ptr() as u64;
        // SAFETY: page-aligned zeroed memory with room for `size` entries; the kernel keeps its
        // pages referenced until the group is unregistered or the ring is gone.
        unsafe {
            uring
                .submitter()
                .register_buf_ring_with_flags(addr, size, GROUP, 0)
        }
        .map_err(Errno::from)?;
        Ok(BufferRing {
            memory,
            mask: size - 1,
            tail: 0,
            slots: std::iter::repeat_with(|| None)
                .take(usize::from(size))
                .collect(),
            published: 0,
        })
    }

    fn publish(&mut self, arena: &Arena, notices: &mut Notices) -> usize {
        let before = self.tail;
        loop {
            let id = self.tail & self.mask;
            // Completions of single receives may come later than those of others that took later
            // entries: the entry is free once its own has come.
            if self.slots[usize::from(id)].is_some() {
                break;
            }
            let Some(slot) = take(arena, notices) else {
                break;
            };
            // SAFETY: the index is below the number of entries. The kernel does not read this
            // entry: its slot came back, so its head is beyond the entry, and our tail not yet.
            let entry = unsafe { &mut *self.entries().add(usize::from(id)) };
            entry.set_addr(slot.as_mut_ptr() as u64);
            entry.set_len(slot.capacity() as u32);
            entry.set_bid(id);
            self.slots[usize::from(id)] = Some(slot);
            self.published += 1;
            self.tail = self.tail.wrapping_add(1);
        }
        if self.tail != before {
            // SAFETY: the ring's tail lies in its first entry, aligned, and only this thread stores
            // to it.
            let tail = unsafe {
                let tail = BufRingEntry::tail(self.entries().cast_const());
                AtomicU16::from_ptr(tail.cast_mut())
            };
            tail.store(self.tail, Ordering::Release);
        }
        usize::from(self.tail.wrapping_sub(before))
    }

    /// The kernel may have shortened an entry that it then did not use.
    #[inline]
    fn len_of(&self, id: u16) -> Option<u32> {
        let id = usize::from(id);
        self.slots.get(id)?.as_ref()?;
        // SAFETY: the index is below the number of entries, as `slots` has one for each. The kernel
        // writes an entry's length only while it is entered, on this thread, and this is the field
        // alone (the tail, which shares entry 0 with it, is not touched). The slot behind it is the
        // kernel's until `consume` (I12).
        Some(unsafe { (*self.entries().add(id)).len() })
    }

    #[inline]
    fn entries(&self) -> *mut BufRingEntry {
        self.memory.base.as_ptr().cast()
    }
}

/// A slot of the arena, whose refusal is told with what the ring has to say.
#[inline]
fn take(arena: &Arena, notices: &mut Notices) -> Option<Slot> {
    arena.take_or(|refusal| notices.note(Level::Warn, format_args!("{refusal}")))
}

/// Whether the kernel knows rings of provided buffers: registers one and takes it back.
pub(super) fn is_supported(uring: &IoUring) -> bool {
    match BufferRing::register(uring, 1) {
        Ok(_buffers) => uring.submitter().unregister_buf_ring(GROUP).is_ok(),
        // Short memory says nothing about the kernel; attaching a window will tell.
        Err(errno) => errno.raw() == libc::ENOMEM,
    }
}

/// Private zeroed pages.
#[derive(Debug)]
struct Pages {
    base: NonNull<u8>,
    bytes: usize,
}

impl Pages {
    fn map(bytes: usize) -> Result<Pages, Errno> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing of
        // ours.
        let base = unsafe { libc::mmap(ptr::null_mut(), bytes, prot, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let base = NonNull::new(base.cast()).ok_or(Errno::from_raw(libc::ENOMEM))?;
        Ok(Pages { base, bytes })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`. If the kernel still uses it as a buffer ring, it holds
        // references to the pages themselves.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
