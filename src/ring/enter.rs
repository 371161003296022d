//! The one place where the kernel is entered, and what each of its answers means.

use super::caps::Cap;
use super::{Errno, Ring};
use crate::sys::pipe_shield::PipeShield;
use crate::sys::uring;
use log::Level;
use std::io;
use std::time::Duration;

/// How long [`Ring::enter`] may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// Submit only. The kernel is not entered if there is nothing to submit, and completions may
    /// stay with it until one of the other two.
    Submit,
    /// Submit, and fetch what has completed. For a base that spins.
    Poll,
    /// Submit, then wait for a completion: at most so long, or without an end for `None`.
    Until(Option<Duration>),
}

/// How long to wait for the kernel to get memory for an operation before it is tried again.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(10);

impl Ring {
    /// Hands what was pushed to the kernel and waits as told.
    ///
    /// Returns early when completions are there already, when a signal interrupts the wait, or when
    /// the kernel wants completions reaped first; so the caller reaps ([`Ring::next`]) until there
    /// is none, looks at its clock and comes back. Not having got a completion in time is no error.
    ///
    /// # Errors
    ///
    /// `ECHILD` in a forked child; `EBADR` when the kernel had no memory to keep completions that
    /// did not fit the queue, and lost some. Both mean that this ring is to be given up. Anything
    /// else is a fault of the system, and what was pushed stays queued (I3).
    pub fn enter(&mut self, wait: Wait) -> io::Result<()> {
        if self.fork.is_child() {
            return Err(Errno::CHILD.into());
        }
        if !self.backlog.is_empty() {
            self.drain_backlog();
        }
        let (to_submit, overflown) = self.submission_state();
        let has_completions = self.has_completions();
        let (want, flags, timeout) = match wait {
            Wait::Submit => (0, 0, None),
            Wait::Poll | Wait::Until(Some(Duration::ZERO)) => (0, uring::ENTER_GETEVENTS, None),
            // Sleeping with work at hand would delay it.
            Wait::Until(_) if has_completions || overflown || !self.backlog.is_empty() => {
                (0, uring::ENTER_GETEVENTS, None)
            }
            Wait::Until(timeout) => (1, uring::ENTER_GETEVENTS | self.wait_flags(), timeout),
        };
        if overflown {
            self.note_overflow();
        }
        // With nothing in flight there is nothing to fetch: work in memory alone makes no system
        // call.
        let fruitless = wait == Wait::Submit || has_completions || self.in_flight() == 0;
        if to_submit == 0 && want == 0 && fruitless {
            return Ok(());
        }
        match self.enter_kernel(to_submit, want, flags, timeout) {
            Ok(()) => Ok(()),
            Err(errno) => self.recover(errno, has_completions),
        }
    }

    /// Submits what is queued, without waiting. False when the kernel took nothing.
    pub(super) fn flush(&mut self) -> bool {
        let (before, _) = self.submission_state();
        let flushed = self.enter_kernel(before, 0, 0, None);
        if let Err(errno) = flushed {
            let text = format_args!("submitting is put off: {errno}");
            self.notices.note(Level::Debug, text);
            self.count(errno);
        }
        self.submission_state().0 < before
    }

    /// Whether [`Ring::next`] has something to give without entering the kernel.
    #[inline]
    pub(super) fn has_completions(&mut self) -> bool {
        !self.parts.is_empty()
            || !self.batch.is_empty()
            || !self.ready.is_empty()
            || !self.uring.completion().is_empty()
    }

    /// How many entries are queued, and whether the kernel holds completions that did not fit.
    #[inline]
    fn submission_state(&mut self) -> (u32, bool) {
        let queue = self.uring.submission();
        (queue.len() as u32, queue.cq_overflow())
    }

    #[inline]
    fn wait_flags(&self) -> u32 {
        if self.caps.has(Cap::NO_IOWAIT) {
            uring::ENTER_NO_IOWAIT
        } else {
            0
        }
    }

    #[inline]
    fn enter_kernel(
        &mut self,
        to_submit: u32,
        want: u32,
        flags: u32,
        timeout: Option<Duration>,
    ) -> Result<(), Errno> {
        self.counters.enters += 1;
        let flags = flags | self.enter_flags;
        let _shield = match self.writes {
            0 => self.shield.take(),
            _ => self.shielded(),
        };
        // SAFETY: the ring is ours and open; what its entries point to belongs to the table until
        // their last completion (I1, I2).
        let taken = unsafe { uring::enter(self.enter_fd, to_submit, want, flags, timeout) }?;
        self.counters.sqes += u64::from(taken);
        Ok(())
    }

    /// Keeps SIGPIPE from this thread while writes are in flight: for the one call where what they
    /// do happens inside of it, or for longer.
    #[cold]
    fn shielded(&mut self) -> Option<PipeShield> {
        if self.caps.has(Cap::DEFER_TASKRUN) {
            return PipeShield::raise();
        }
        if self.shield.is_none() {
            self.shield = PipeShield::raise();
        }
        None
    }

    /// What to do about an answer that is not success.
    #[cold]
    pub(super) fn recover(&mut self, errno: Errno, has_completions: bool) -> io::Result<()> {
        self.count(errno);
        match errno.raw() {
            // The deadline passed.
            libc::ETIME => Ok(()),
            // A signal. Whoever waits looks at the clock and comes back; who polls does so anyway.
            libc::EINTR => Ok(()),
            // Completions overflow and have to be reaped first. This fetches those that the queue
            // has room for; what was pushed stays queued.
            libc::EBUSY => self.fetch_only(0, None),
            // No memory for an operation. Completions to come may free some; a pause keeps this
            // from spinning.
            libc::EAGAIN | libc::ENOMEM if has_completions => self.fetch_only(0, None),
            libc::EAGAIN | libc::ENOMEM => self.fetch_only(1, Some(SHORTAGE_PAUSE)),
            libc::EBADR => {
                let text = "the kernel lost completions: this ring has to be given up";
                self.notices.note(Level::Error, format_args!("{text}"));
                Err(errno.into())
            }
            // EBADF, EBADFD, EEXIST (another thread), EFAULT, EINVAL, ENXIO, EOPNOTSUPP: the ring
            // is not usable, or not from here.
            _ => Err(errno.into()),
        }
    }

    fn fetch_only(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        match self.enter_kernel(0, want, uring::ENTER_GETEVENTS, timeout) {
            Ok(()) => Ok(()),
            Err(errno) => {
                self.count(errno);
                match errno.raw() {
                    libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN | libc::ENOMEM => Ok(()),
                    _ => Err(errno.into()),
                }
            }
        }
    }

    fn count(&mut self, errno: Errno) {
        match errno.raw() {
            libc::EBUSY => self.counters.ebusy += 1,
            libc::EINTR => self.counters.eintr += 1,
            libc::EAGAIN | libc::ENOMEM => self.counters.eagain += 1,
            libc::EBADR => self.counters.lost += 1,
            _ => {}
        }
    }

    #[cold]
    fn note_overflow(&mut self) {
        if self.counters.overflows == 0 {
            let text = "the completion queue overflowed: give the ring more cq_entries";
            self.warn(format_args!("{text}"));
        }
        self.counters.overflows += 1;
    }
}
