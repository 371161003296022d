//! Keeping `SIGPIPE` away from writes to a pipe or socket that nobody reads any more.
//!
//! Sends can ask for it (`MSG_NOSIGNAL`); writes can not before Linux 6.18. At the default
//! disposition the signal kills the process, and a library may not leave that to its programs, nor
//! change the disposition for them. So the calling thread has the signal blocked while the kernel
//! writes, and what came of it is taken away before it is let through again.

use std::marker::PhantomData;
use std::{mem, ptr};

/// While it lives, no write of this thread raises `SIGPIPE`: it only gives `EPIPE`.
#[derive(Debug)]
pub(crate) struct PipeShield {
    /// The thread had the signal blocked before: it stays so.
    was_blocked: bool,
    /// One waited already, and goes on waiting.
    was_pending: bool,
    /// A signal mask is the thread's own.
    not_send: PhantomData<*mut ()>,
}

impl PipeShield {
    /// Raises the shield; `None` when there is nothing to fear, since the process ignores the
    /// signal.
    pub(crate) fn raise() -> Option<Self> {
        if is_ignored() {
            return None;
        }
        let set = only_sigpipe();
        let mut old = no_signals();
        // SAFETY: both sets live across the call, which overwrites the second with the old mask.
        let failed =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut old) };
        if failed != 0 {
            return None;
        }
        let was_blocked = has_sigpipe(&old);
        Some(PipeShield {
            was_blocked,
            // One that was not blocked was delivered at once: it can not be pending.
            was_pending: was_blocked && is_pending(),
            not_send: PhantomData,
        })
    }
}

impl Drop for PipeShield {
    fn drop(&mut self) {
        let set = only_sigpipe();
        if !self.was_pending {
            let at_once = libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            // SAFETY: set and time live across the call; it takes the signal if it is pending.
            unsafe { libc::sigtimedwait(&raw const set, ptr::null_mut(), &raw const at_once) };
        }
        if !self.was_blocked {
            // SAFETY: the set lives across the call; nobody asks for the old mask.
            unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()) };
        }
    }
}

/// Whether the process ignores the signal, as a Rust program does unless it says otherwise.
fn is_ignored() -> bool {
    // SAFETY: sigaction is plain numbers and pointers, all zeroes is a valid one.
    let mut now: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: asks only; what the kernel writes outlives the call.
    let failed = unsafe { libc::sigaction(libc::SIGPIPE, ptr::null(), &raw mut now) };
    failed == 0 && now.sa_sigaction == libc::SIG_IGN
}

fn is_pending() -> bool {
    let mut pending = no_signals();
    // SAFETY: the set outlives the call, which overwrites it.
    let failed = unsafe { libc::sigpending(&raw mut pending) };
    failed == 0 && has_sigpipe(&pending)
}

fn has_sigpipe(set: &libc::sigset_t) -> bool {
    // SAFETY: the set is initialised and borrowed for the call.
    unsafe { libc::sigismember(ptr::from_ref(set), libc::SIGPIPE) == 1 }
}

fn only_sigpipe() -> libc::sigset_t {
    let mut set = no_signals();
    // SAFETY: the set is initialised; SIGPIPE is a signal.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGPIPE) };
    set
}

fn no_signals() -> libc::sigset_t {
    // SAFETY: sigset_t is plain numbers, and sigemptyset initialises it.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        set
    }
}
