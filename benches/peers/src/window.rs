//! The window of provided buffers: what receives are filled into, and how the kernel tells what it
//! has filled.

use std::collections::VecDeque;
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

/// `IOU_PBUF_RING_INC`, which the io-uring crate keeps to itself.
const RING_INCREMENTAL: u16 = 2;

/// How the kernel fills slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filling {
    /// A completion takes a slot, however little it received.
    Slot,
    /// A slot takes one completion's bytes after the other's, whichever connection they are of,
    /// until it is full (`IOU_PBUF_RING_INC`).
    Incremental,
    /// A completion takes as many slots as it has bytes for (`IORING_RECVSEND_BUNDLE`).
    Bundle,
}

/// Received bytes, where they lie.
#[derive(Debug, Clone, Copy)]
pub struct Chunk {
    /// Where to [put it back](Window::put_back) to.
    pub slot: u16,
    /// Where they begin in the slot.
    pub start: u32,
    /// How many they are.
    pub len: u32,
}

/// What has to be known of each slot, by slot.
#[derive(Debug)]
enum Books {
    /// Nothing: it is one chunk, or free.
    Slot,
    Incremental(Vec<Shared>),
    /// The position in the ring at which it was published last. The entry there says which slot it
    /// was, and how long it was to the kernel; entries are written anew only after all completions
    /// were reaped.
    Bundle(Vec<u16>),
}

/// A slot that several chunks lie in.
#[derive(Debug, Clone, Copy, Default)]
struct Shared {
    /// Bytes that completions have told of: where the next one's begin.
    filled: u32,
    /// Chunks that were not put back yet, and one more as long as the kernel goes on filling the
    /// slot.
    users: u32,
}

/// Slots of one size, a last-in-first-out pool of them, and the ring through which the kernel is
/// given a small window of that pool.
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
    books: Books,
}

impl Window {
    /// Maps slots of `slot_bytes` and registers a buffer ring that shows the kernel at most
    /// `window` of them at a time.
    ///
    /// # Errors
    ///
    /// The sizes make no window, memory is short, or the kernel does not know such a ring.
    pub fn new(
        ring: &Ring<'_>,
        slot_bytes: u32,
        window: u16,
        filling: Filling,
    ) -> io::Result<Self> {
        let slot_bytes = slot_bytes as usize;
        let ring_entries = window.checked_next_power_of_two().unwrap_or(u16::MAX);
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
        let (books, flags) = match filling {
            Filling::Slot => (Books::Slot, 0),
            Filling::Incremental => (
                Books::Incremental(vec![Shared::default(); slot_count]),
                RING_INCREMENTAL,
            ),
            Filling::Bundle => (Books::Bundle(vec![0; slot_count]), 0),
        };
        // SAFETY: the entries are a zeroed, page-aligned mapping of the size told, which is never
        // unmapped.
        let registered = unsafe {
            ring.submitter().register_buf_ring_with_flags(
                entries.as_ptr() as u64,
                ring_entries,
                BUFFER_GROUP,
                flags,
            )
        };
        registered.map_err(|error| match (filling, error.raw_os_error()) {
            (Filling::Incremental, Some(libc::EINVAL)) => io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel has no incrementally filled buffers (Linux 6.12): do without --incremental",
            ),
            _ => error,
        })?;
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
            books,
        })
    }

    /// Publishes the most recently freed slots until the window is full. Called once a turn, when
    /// all completions have been reaped.
    pub fn refill(&mut self) {
        let before = self.tail;
        while self.published < self.window {
            let Some(slot) = self.free.pop() else { break };
            let (addr, len) = (self.slot(slot) as u64, self.slot_bytes as u32);
            let position = self.tail & self.mask;
            // Fields are set one by one because entry 0's last field is the ring's tail.
            let entry = self.entry(position);
            entry.set_addr(addr);
            entry.set_len(len);
            entry.set_bid(slot);
            match &mut self.books {
                Books::Slot => {}
                Books::Incremental(shared) => {
                    shared[usize::from(slot)] = Shared {
                        filled: 0,
                        users: 1,
                    };
                }
                Books::Bundle(positions) => positions[usize::from(slot)] = position,
            }
            self.tail = self.tail.wrapping_add(1);
            self.published += 1;
        }
        if self.tail != before {
            // SAFETY: `entries` is the first entry of a registered ring, whose tail the kernel only
            // reads.
            let tail = unsafe {
                AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut())
            };
            tail.store(self.tail, Ordering::Release);
        }
    }

    /// Notes what the completion of a receive says: `bytes` (none at a stream's end) were received
    /// into `slot`, and where they went on, into those published after it; `goes_on` that the
    /// kernel keeps the slot (`IORING_CQE_F_BUF_MORE`). The bytes are appended to `chunks`, each of
    /// which is to be put back.
    pub fn taken(&mut self, slot: u16, bytes: u32, goes_on: bool, chunks: &mut VecDeque<Chunk>) {
        match &mut self.books {
            Books::Slot => {
                self.published -= 1;
                if bytes == 0 {
                    self.free.push(slot);
                } else {
                    chunks.push_back(Chunk {
                        slot,
                        start: 0,
                        len: bytes,
                    });
                }
            }
            Books::Incremental(shared) => {
                let of = &mut shared[usize::from(slot)];
                if bytes > 0 {
                    chunks.push_back(Chunk {
                        slot,
                        start: of.filled,
                        len: bytes,
                    });
                    of.filled += bytes;
                    of.users += 1;
                }
                debug_assert!(of.filled as usize <= self.slot_bytes);
                if !goes_on {
                    self.published -= 1;
                    self.put_back(slot);
                }
            }
            Books::Bundle(positions) => {
                let mut position = positions[usize::from(slot)];
                let mut left = bytes;
                while left > 0 {
                    let entry = self.entry(position);
                    // The kernel may have cut the entry short: to what it knew to be in the socket.
                    let (slot, len) = (entry.bid(), left.min(entry.len()));
                    assert!(len > 0, "the kernel filled an empty slot");
                    chunks.push_back(Chunk {
                        slot,
                        start: 0,
                        len,
                    });
                    left -= len;
                    self.published -= 1;
                    position = (position + 1) & self.mask;
                }
            }
        }
    }

    /// Whether the kernel has no slot left to receive into.
    pub fn is_empty(&self) -> bool {
        self.published == 0
    }

    /// Puts a chunk of `slot` back. Once nothing else is in the slot it is the next to be
    /// published.
    pub fn put_back(&mut self, slot: u16) {
        if let Books::Incremental(shared) = &mut self.books {
            let of = &mut shared[usize::from(slot)];
            of.users -= 1;
            if of.users > 0 {
                return;
            }
        }
        self.free.push(slot);
    }

    /// Where `slot` begins.
    pub fn slot(&self, slot: u16) -> *mut u8 {
        // SAFETY: slot ids come from `free` and lie within the mapping.
        unsafe { self.slots.as_ptr().add(usize::from(slot) * self.slot_bytes) }
    }

    fn entry(&mut self, position: u16) -> &mut BufRingEntry {
        // SAFETY: the index is masked to the mapped entries. Those between the kernel's head and
        // the tail are only read, and the kernel writes none while this thread is not in it.
        unsafe { &mut *self.entries.as_ptr().add(usize::from(position & self.mask)) }
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use io_uring::{cqueue, types};

    use super::*;
    use crate::ring::{multishot_recv, set_up};

    /// Receives `parts`, each written when the one before has arrived, in slots of 1000 bytes of
    /// which the kernel is shown 8. Gives the chunks of each part and how many completions told of
    /// it; what they hold was compared, and no slot is missing in the end.
    fn receive(filling: Filling, parts: &[usize]) -> Vec<(Vec<Chunk>, usize)> {
        let mut uring = set_up().expect("a kernel with io_uring");
        let mut ring = Ring::new(&mut uring, None).expect("a ring");
        let mut window = Window::new(&ring, 1000, 8, filling).expect("a recent kernel");
        let slots = window.free.len();
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback is there");
        let addr = listener.local_addr().expect("it is bound");
        let mut writer = TcpStream::connect(addr).expect("it listens");
        let (reader, _) = listener.accept().expect("it was connected to");
        let entry = multishot_recv(types::Fd(reader.as_raw_fd()), filling);
        // SAFETY: the entry points to nothing; the slots it draws are never unmapped.
        unsafe { ring.push(&entry).expect("there is room") };

        let mut all = Vec::new();
        let mut written = 0_usize;
        for part in parts {
            let bytes: Vec<u8> = (written..written + part).map(|at| at as u8).collect();
            writer.write_all(&bytes).expect("it reads");
            written += part;
            let mut chunks = VecDeque::new();
            let mut left = *part;
            let mut completions = 0;
            while left > 0 {
                window.refill();
                ring.enter(1).expect("it waits");
                while let Some(cqe) = ring.reap() {
                    if let Some(slot) = cqueue::buffer_select(cqe.flags()) {
                        let got = u32::try_from(cqe.result()).expect("bytes came");
                        left -= got as usize;
                        completions += 1;
                        let goes_on = cqueue::buffer_more(cqe.flags());
                        window.taken(slot, got, goes_on, &mut chunks);
                    }
                    if !cqueue::more(cqe.flags()) {
                        // SAFETY: as above.
                        unsafe { ring.push(&entry).expect("there is room") };
                    }
                }
                ring.reaped();
            }
            let got = chunks.iter().flat_map(|chunk| {
                let start = window.slot(chunk.slot);
                // SAFETY: the kernel has filled this part of the slot, and leaves it alone until it
                // is put back.
                let filled = unsafe {
                    std::slice::from_raw_parts(start.add(chunk.start as usize), chunk.len as usize)
                };
                filled.iter().copied()
            });
            assert!(got.eq(bytes.iter().copied()));
            all.push((Vec::from(chunks), completions));
        }
        for chunk in all.iter().flat_map(|(chunks, _)| chunks) {
            window.put_back(chunk.slot);
        }
        let partly_filled = match &window.books {
            Books::Incremental(shared) => shared.iter().filter(|of| of.users > 0).count(),
            Books::Slot | Books::Bundle(_) => usize::from(window.published),
        };
        assert_eq!(usize::from(window.published), partly_filled);
        assert_eq!(window.free.len() + usize::from(window.published), slots);
        all
    }

    #[test]
    fn a_completion_takes_a_slot() {
        for ((chunks, completions), slots) in receive(Filling::Slot, &[10, 20, 2500])
            .into_iter()
            .zip([1, 1, 3])
        {
            assert_eq!((chunks.len(), completions), (slots, slots));
            assert!(chunks.iter().all(|chunk| chunk.start == 0));
        }
    }

    #[test]
    fn incrementally_a_slot_takes_several_messages() {
        let parts = receive(Filling::Incremental, &[10, 20, 1500, 970, 30, 9000]);
        let place = |part: usize, at: usize| {
            let chunk: &Chunk = &parts[part].0[at];
            (chunk.slot, chunk.start, chunk.len)
        };
        let (first, second) = (place(0, 0).0, place(2, 1).0);
        assert_eq!(place(0, 0), (first, 0, 10));
        assert_eq!(place(1, 0), (first, 10, 20));
        assert_eq!(place(2, 0), (first, 30, 970));
        assert_ne!(first, second);
        assert_eq!(place(2, 1), (second, 0, 530));
    }

    #[test]
    fn a_bundle_takes_the_slots_it_needs() {
        let sizes = [10, 20, 4500, 1, 7000, 8000, 999, 20_000];
        let parts = receive(Filling::Bundle, &sizes);
        for ((chunks, completions), size) in parts.iter().zip(sizes) {
            assert!(chunks.iter().all(|chunk| chunk.start == 0));
            assert!(chunks.len() >= size.div_ceil(1000) && *completions <= chunks.len());
        }
        let (chunks, completions) = &parts[7];
        assert!(*completions < chunks.len() / 2, "the kernel makes bundles");
    }
}
