//! Noticing that a process is a forked child (I11).
//!
//! A ring's queues are memory shared with the kernel and, after a fork, with the parent: a child
//! that wrote to them would push operations into its parent's ring. One page per process is marked
//! `MADV_WIPEONFORK`; it holds the number of an epoch, and a child finds zero there. The check
//! costs one load.

use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Remembers the process in which it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForkGuard {
    epoch: u64,
    page: Page,
}

impl ForkGuard {
    /// A guard for the calling process.
    pub(crate) fn new() -> ForkGuard {
        static PAGE: OnceLock<Page> = OnceLock::new();
        let page = *PAGE.get_or_init(Page::map);
        ForkGuard {
            epoch: page.current_epoch(),
            page,
        }
    }

    /// Whether this is a child forked from the process that made the guard.
    #[inline]
    pub(crate) fn is_child(&self) -> bool {
        self.page.epoch() != self.epoch
    }
}

/// The page that a fork wipes; without one the process id serves, at the price of a system call.
#[derive(Clone, Copy, Debug)]
enum Page {
    Wiped(NonNull<AtomicU64>),
    ProcessId,
}

// SAFETY: the page is never unmapped and only touched through an atomic.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    fn map() -> Page {
        const PAGE_BYTES: usize = 4096;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing of
        // ours.
        let addr = unsafe { libc::mmap(ptr::null_mut(), PAGE_BYTES, prot, flags, -1, 0) };
        if addr == libc::MAP_FAILED {
            return Page::ProcessId;
        }
        // SAFETY: the range is the mapping made above.
        if unsafe { libc::madvise(addr, PAGE_BYTES, libc::MADV_WIPEONFORK) } != 0 {
            // SAFETY: the mapping made above, which nothing refers to yet.
            unsafe { libc::munmap(addr, PAGE_BYTES) };
            return Page::ProcessId;
        }
        NonNull::new(addr.cast()).map_or(Page::ProcessId, Page::Wiped)
    }

    /// The number found in the page: zero in a child that made no guard yet.
    #[inline]
    fn epoch(&self) -> u64 {
        match self {
            // SAFETY: the page lives as long as the process, is aligned, and zeroed memory is a
            // valid atomic.
            Page::Wiped(page) => unsafe { page.as_ref() }.load(Ordering::Relaxed),
            Page::ProcessId => u64::from(std::process::id()),
        }
    }

    /// Like [`Page::epoch`], but gives a process that has no number yet one of its own.
    fn current_epoch(&self) -> u64 {
        // A child inherits the counter, so its numbers differ from all that its guards were made
        // with.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let Page::Wiped(page) = self else {
            return self.epoch();
        };
        // SAFETY: as in `epoch`.
        let page = unsafe { page.as_ref() };
        let fresh = NEXT.fetch_add(1, Ordering::Relaxed);
        match page.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => fresh,
            Err(existing) => existing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Forks, lets the child compute an exit code without allocating, and gives that code.
    fn exit_code_of_child(child: impl FnOnce() -> i32) -> i32 {
        // SAFETY: the child calls only `child`, which neither allocates nor locks, and `_exit`.
        unsafe {
            match libc::fork() {
                0 => libc::_exit(child()),
                pid => {
                    let mut status = 0;
                    assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
                    libc::WEXITSTATUS(status)
                }
            }
        }
    }

    #[test]
    fn a_child_is_noticed_and_can_make_its_own_guard() {
        let guard = ForkGuard::new();
        assert!(!guard.is_child());
        let code = exit_code_of_child(|| {
            let noticed = guard.is_child();
            let own = ForkGuard::new();
            i32::from(noticed) + 2 * i32::from(!own.is_child()) + 4 * i32::from(guard.is_child())
        });
        assert_eq!(code, 7);
        assert!(!guard.is_child());
    }

    #[test]
    fn without_the_page_the_process_id_serves() {
        let guard = ForkGuard {
            epoch: Page::ProcessId.current_epoch(),
            page: Page::ProcessId,
        };
        assert!(!guard.is_child());
        assert_eq!(exit_code_of_child(|| i32::from(guard.is_child())), 1);
    }
}
