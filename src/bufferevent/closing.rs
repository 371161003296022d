//! `close_after_flush`: send what is buffered, end the stream in order, free, report.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::core::{Fin, Link};
use super::types::FlushEnd;
use super::{BufferEvent, Inner};
use crate::event_base::{EventBase, Interest};

/// How long the peer has to end its own direction once all was sent. Closing a socket with
/// unread bytes resets the connection, and a reset may overtake what was sent last.
const LINGER_NS: u64 = 2_000_000_000;

type Report = Box<dyn FnOnce(FlushEnd)>;

/// A close under way.
pub(super) struct Closing {
    /// All was sent; waiting for the peer's end.
    lingering: bool,
    /// In the driver's time; `u64::MAX`: none.
    deadline: u64,
    report: Report,
}

impl Closing {
    pub(super) fn deadline(&self) -> u64 {
        self.deadline
    }

    /// Whether it reads and drops until the peer's end.
    pub(super) fn lingers(&self) -> bool {
        self.lingering
    }
}

impl fmt::Debug for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closing")
            .field("lingering", &self.lingering)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl Inner {
    pub(super) fn begin_closing(
        self: &Rc<Self>,
        base: &EventBase,
        deadline: Option<Duration>,
        report: Report,
    ) {
        let now = base.now();
        let after = deadline.map(|d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
        let deadline = after.map_or(u64::MAX, |after| now.saturating_add(after));
        let previous = self.closing.replace(Some(Box::new(Closing {
            lingering: false,
            deadline,
            report,
        })));
        if let Some(previous) = previous {
            // Closed twice: the later deadline and report hold, the earlier report is told so.
            (previous.report)(FlushEnd::Failed {
                unsent: self.output_len(),
            });
        }
        self.replace_handler(None);
        self.socket.forget_unseen();
        let mut core = self.core.borrow_mut();
        core.clear_pending();
        core.disable(Interest::READ | Interest::WRITE);
        core.enable(Interest::WRITE, now);
        let write_timeout = core.timeouts().1;
        core.set_timeouts(0, write_timeout, now);
        if core.fin() == Fin::Open {
            core.set_fin(Fin::Wanted);
        }
        drop(core);
        self.mark_dirty(base);
        self.sync(base);
    }

    /// Takes the close a step further, if there is one.
    pub(super) fn progress_closing(self: &Rc<Self>, base: &EventBase) {
        let mut slot = self.closing.borrow_mut();
        let Some(closing) = slot.as_deref_mut() else {
            return;
        };
        let core = self.core.borrow();
        let unsent = self.output_len();
        let (link, fin) = (core.link(), core.fin());
        let broken = !core.enabled().contains(Interest::WRITE);
        drop(core);
        let end = match link {
            Link::Connecting => None,
            Link::Up if broken => Some(FlushEnd::Failed { unsent }),
            Link::Up if fin != Fin::Sent => None,
            Link::Up if self.socket.at_end() => Some(FlushEnd::Flushed),
            Link::Up => {
                if !closing.lingering {
                    closing.lingering = true;
                    closing.deadline = closing.deadline.min(base.now() + LINGER_NS);
                    drop(slot);
                    // Receive, to see the peer's end; what comes is dropped.
                    self.mark_dirty(base);
                }
                return;
            }
            Link::Absent | Link::Failed if unsent == 0 => Some(FlushEnd::Flushed),
            Link::Absent | Link::Failed => Some(FlushEnd::Failed { unsent }),
        };
        drop(slot);
        if let Some(end) = end {
            self.finish_closing(base, end);
        }
    }

    /// The deadline of a close may have passed; says whether it ended.
    pub(super) fn closing_timer_fired(self: &Rc<Self>, base: &EventBase, now: u64) -> bool {
        let slot = self.closing.borrow();
        let Some(closing) = slot.as_deref() else {
            return false;
        };
        if closing.deadline > now {
            return false;
        }
        let end = if closing.lingering {
            FlushEnd::Flushed
        } else {
            FlushEnd::TimedOut {
                unsent: self.output_len(),
            }
        };
        drop(slot);
        self.finish_closing(base, end);
        true
    }

    fn finish_closing(self: &Rc<Self>, base: &EventBase, end: FlushEnd) {
        let closing = self.closing.borrow_mut().take();
        BufferEvent(self.clone()).0.free(base);
        if let Some(closing) = closing {
            (closing.report)(end);
        }
    }
}
