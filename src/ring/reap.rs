//! Completions are taken from the queue in batches; the memory of finished operations is released.

use super::op::{INTERNAL, Kind};
use super::table::Held;
use super::{Completion, Errno, OpId, Ring};
use crate::arena::{Piece, Slot};
use crate::sys::uring;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Completions taken with one store to the queue's head.
const BATCH: usize = 64;

/// A completion as the kernel gave it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cqe {
    pub(super) user_data: u64,
    pub(super) result: i32,
    pub(super) flags: u32,
}

impl Cqe {
    /// The buffer of the window that the kernel used.
    #[inline]
    fn buffer_id(&self) -> Option<u16> {
        let has_one = self.flags & uring::CQE_F_BUFFER != 0;
        has_one.then_some((self.flags >> uring::CQE_BUFFER_SHIFT) as u16)
    }
}

/// Completions that were taken from the queue and not given out yet.
#[derive(Debug)]
pub(super) struct Batch {
    entries: Box<[Cqe; BATCH]>,
    next: usize,
    len: usize,
}

impl Batch {
    pub(super) fn new() -> Batch {
        Batch {
            entries: Box::new([Cqe::default(); BATCH]),
            next: 0,
            len: 0,
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.next == self.len
    }

    #[inline]
    fn pop(&mut self) -> Option<Cqe> {
        if self.is_empty() {
            return None;
        }
        // `len` never exceeds the array.
        let cqe = self.entries.get(self.next).copied();
        self.next += 1;
        cqe
    }
}

impl Ring {
    /// The next completion; `None` when there is no more without entering the kernel again.
    ///
    /// What an operation held is released with its last completion, except for what the completion
    /// gives out. Completions of cancels are swallowed; a zero-copy send completes once, with its
    /// notification.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would borrow the ring while its items are used"
    )]
    #[inline]
    pub fn next(&mut self) -> Option<Completion> {
        loop {
            let cqe = match self.parts.pop_front() {
                Some(part) => part,
                None => match self.batch.pop() {
                    Some(cqe) => self.first_part(cqe),
                    None if self.fetch() => continue,
                    None => self.ready.pop_front()?,
                },
            };
            if let Some(completion) = self.complete(cqe) {
                return Some(completion);
            }
        }
    }

    /// Takes a batch from the queue. False when the queue is empty.
    #[inline]
    fn fetch(&mut self) -> bool {
        if self.fork.is_child() {
            return false;
        }
        let mut len = 0;
        let mut queue = self.uring.completion();
        for (entry, cqe) in self.batch.entries.iter_mut().zip(&mut queue) {
            let (user_data, result, flags) = (cqe.user_data(), cqe.result(), cqe.flags());
            *entry = Cqe {
                user_data,
                result,
                flags,
            };
            len += 1;
        }
        self.batch.next = 0;
        self.batch.len = len;
        self.counters.cqes += len as u64;
        len > 0
    }

    /// A bundle becomes one completion for each slot that it filled, of which this gives the first;
    /// anything else stays what it is.
    #[inline]
    fn first_part(&mut self, cqe: Cqe) -> Cqe {
        let (Some(id), Some(window)) = (cqe.buffer_id(), &self.window) else {
            return cqe;
        };
        match window.len_of(id) {
            Some(len) if cqe.result > len as i32 => self.take_apart(cqe, id, len),
            _ => cqe,
        }
    }

    /// Takes a bundle apart, in the order in which the kernel took the slots. The operation's state
    /// is its last part's.
    fn take_apart(&mut self, cqe: Cqe, mut id: u16, mut len: u32) -> Cqe {
        let window = self.window.as_ref().expect("a bundle came from it");
        let goes_on = cqe.flags & uring::CQE_FLAGS | uring::CQE_F_MORE | uring::CQE_F_SOCK_NONEMPTY;
        let mut left = cqe.result as u32;
        while left > 0 {
            let part = left.min(len);
            left -= part;
            let flags = match left {
                0 => cqe.flags & uring::CQE_FLAGS,
                _ => goes_on,
            };
            self.parts.push_back(Cqe {
                user_data: cqe.user_data,
                result: part as i32,
                flags: flags | u32::from(id) << uring::CQE_BUFFER_SHIFT,
            });
            id = window.following(id);
            len = window.len_of(id).unwrap_or(left);
        }
        self.parts.pop_front().unwrap_or(cqe)
    }

    /// Accounts for a completion; `None` if it is nobody else's business.
    #[inline]
    fn complete(&mut self, cqe: Cqe) -> Option<Completion> {
        let slot = match (cqe.buffer_id(), &mut self.window) {
            (Some(id), Some(window)) => window.consume(id),
            _ => None,
        };
        let id = cqe.user_data;
        let Some(entry) = self.table.get(id) else {
            self.unclaimed(cqe, slot);
            return None;
        };
        let token = entry.token;
        let more = cqe.flags & uring::CQE_F_MORE != 0;
        let mut result = cqe.result;
        let mut zc_copied = false;
        if Kind::of(id) == Kind::SendZc as u8 {
            if more {
                // The notification is still to come, and the memory stays pinned until then (I2).
                entry.zc_result = Some(result);
                return None;
            }
            if cqe.flags & uring::CQE_F_NOTIF != 0 {
                zc_copied = result as u32 & uring::NOTIF_USAGE_ZC_COPIED != 0;
                result = entry.zc_result.unwrap_or(result);
                self.counters.zc_sent += 1;
                self.counters.zc_copied += u64::from(zc_copied);
            }
        }
        let result = match u32::try_from(result) {
            Ok(value) => Ok(value),
            Err(_) => Err(self.failed(Errno::from_raw(-result))),
        };
        let len = result.unwrap_or(0) as usize;
        let mut buffer = slot.and_then(|slot| filled(slot, len));
        if !more {
            if Kind::is_multishot(id) {
                self.counters.rearms += 1;
            } else if Kind::of(id) == Kind::Write as u8 {
                self.writes -= 1;
            }
            match self.table.remove(id) {
                Held::Nothing | Held::Addr(_) => {}
                Held::Piece(piece) => self.let_go(piece),
                Held::Slot(slot) => buffer = filled(slot, len),
                Held::Gather(gather) => self.recycle(gather),
            }
        }
        let accepted = match result {
            Ok(fd) if Kind::yields_descriptor(id) => {
                // SAFETY: the kernel made this descriptor for this one completion, which is handed
                // on once (I5's rule for slots, kept here for descriptors).
                Some(unsafe { OwnedFd::from_raw_fd(fd as i32) })
            }
            _ => None,
        };
        let sock_nonempty = cqe.flags & uring::CQE_F_SOCK_NONEMPTY != 0;
        Some(Completion {
            op: OpId::from_u64(id),
            token,
            result,
            more,
            buffer,
            sock_nonempty,
            zc_copied,
            accepted,
        })
    }

    #[cold]
    fn failed(&mut self, errno: Errno) -> Errno {
        if errno == Errno::NOBUFS {
            self.counters.enobufs += 1;
        }
        errno
    }

    /// A completion without an operation: of a cancel, or a stale one whose slot goes home (I5) and
    /// whose descriptor is closed.
    #[cold]
    fn unclaimed(&mut self, cqe: Cqe, slot: Option<Slot>) {
        drop(slot);
        if cqe.user_data == INTERNAL {
            return;
        }
        self.counters.stale += 1;
        let id = OpId::from_u64(cqe.user_data);
        self.warn(format_args!(
            "a completion that no operation claims: {id:?}"
        ));
        if Kind::yields_descriptor(cqe.user_data) && cqe.result >= 0 {
            close_unwanted(cqe.result);
        }
    }
}

/// Closes a descriptor that nobody wants.
fn close_unwanted(fd: RawFd) {
    // SAFETY: the kernel made it for an accept, and its completion is told to nobody: nobody else
    // owns it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

/// What arrived in a slot, or the slot goes home when nothing did.
#[inline]
fn filled(slot: Slot, len: usize) -> Option<Piece> {
    if len == 0 {
        return None;
    }
    // SAFETY: the kernel has completed the receive that was given this slot, reported `len` bytes,
    // and writes it no more (I12): the slot was in one operation, or in one buffer id, only.
    Some(unsafe { slot.filled(len) })
}
