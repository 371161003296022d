//! Dropping a ring: everything is cancelled and drained, with a bound; past it memory is leaked,
//! never freed under the kernel's hands (I8).

use super::caps::Cap;
use super::op::INTERNAL;
use super::{OpId, Ring, Wait};
use crate::arena::Arena;
use crate::sys::uring;
use io_uring::{opcode, types};
use log::Level;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// How long the kernel has to let go of what is in flight.
const DRAIN_BOUND: Duration = Duration::from_secs(1);
/// How long to wait before cancelling again what the last attempt did not reach.
const CANCEL_AGAIN: Duration = Duration::from_millis(50);

impl Drop for Ring {
    fn drop(&mut self) {
        // The queues, and what the kernel writes, are the parent's; a child's copies are just
        // memory.
        if self.fork.is_child() {
            return;
        }
        if !self.drain(DRAIN_BOUND) {
            self.leak();
        }
        if self.enter_flags & uring::ENTER_REGISTERED_RING != 0
            && let Err(errno) = uring::unregister_ring_fd(self.uring.as_raw_fd(), self.enter_fd)
        {
            let text = format_args!("a ring's descriptor stays registered: {errno}");
            self.notices.note(Level::Debug, text);
        }
        // Both are taken back here since the ring's own end is asynchronous: what they lock counts
        // against RLIMIT_MEMLOCK until then.
        if let Some(window) = &mut self.window {
            window.detach(&self.uring, &mut self.notices);
        }
        if let Some(fixed) = &mut self.fixed {
            fixed.unregister(&self.uring, &mut self.notices);
        }
        self.notices.log_all();
    }
}

impl Ring {
    /// Cancels everything and waits until the kernel holds nothing; false when the bound passed
    /// first.
    fn drain(&mut self, bound: Duration) -> bool {
        let deadline = Instant::now() + bound;
        while self.in_flight() > 0 {
            let now = Instant::now();
            if now >= deadline {
                return false;
            }
            self.cancel_everything();
            let again = deadline.min(now + CANCEL_AGAIN);
            if let Err(err) = self.reap_until(again) {
                let text = format_args!("a ring cannot be drained: {err}");
                self.notices.note(Level::Error, text);
                return false;
            }
        }
        true
    }

    fn cancel_everything(&mut self) {
        if self.caps.has(Cap::CANCEL_ANY) {
            let everything = types::CancelBuilder::any().all();
            self.enqueue(
                opcode::AsyncCancel2::new(everything)
                    .build()
                    .user_data(INTERNAL),
            );
            return;
        }
        let ids: Vec<u64> = self.table.ids().collect();
        for id in ids {
            self.cancel(OpId::from_u64(id));
        }
    }

    fn reap_until(&mut self, deadline: Instant) -> std::io::Result<()> {
        while self.in_flight() > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.enter(Wait::Until(Some(left)))?;
            // A connection that an accept brings is closed with its completion.
            while self.next().is_some() {}
        }
        Ok(())
    }

    /// Gives up on what the kernel still holds: neither freed nor used again.
    #[cold]
    fn leak(&mut self) {
        let operations = self.in_flight();
        let text = format_args!(
            "{operations} operations did not end within {DRAIN_BOUND:?} of being cancelled: their memory is leaked"
        );
        self.notices.note(Level::Error, text);
        std::mem::forget(std::mem::replace(
            &mut self.table,
            super::table::Table::new(),
        ));
        std::mem::forget(std::mem::take(&mut self.backlog));
        if let Some(mut window) = self.window.take() {
            window.detach(&self.uring, &mut self.notices);
            window.leak();
        }
        if let Some(fixed) = self.fixed.take() {
            fixed.leak();
        }
    }

    /// The arena from which the ring receives.
    pub fn window_arena(&self) -> Option<&Arena> {
        self.window.as_ref().map(|window| window.arena())
    }
}
