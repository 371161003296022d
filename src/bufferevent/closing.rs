//! `close_after_flush`: send what is buffered, end the stream in order, free, report.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::callbacks::Handles;
use super::core::{Fin, Link};
use super::types::FlushEnd;
use super::{BufferEvent, Flavour, Inner};
use crate::evbuffer::EvBuffer;
use crate::event_base::{EventBase, Interest};

/// How long the peer has to end its own direction once all was sent. Closing a socket with
/// unread bytes resets the connection, and a reset may overtake what was sent last.
const LINGER_NS: u64 = 2_000_000_000;

type Report = Box<dyn FnOnce(FlushEnd)>;

type Done = Box<dyn FnOnce(&BufferEvent)>;

/// The last things that a bufferevent does.
pub(super) enum Closing {
    /// It receives no more; called once the kernel has let go of its receive.
    Quieting(Done),
    /// It sends what is buffered.
    Flushing {
        /// In the driver's time; `u64::MAX`: none.
        deadline: u64,
        report: Report,
    },
    /// All was sent; it waits for the peer's end. (Both read, and drop what they read.)
    Lingering { deadline: u64, report: Report },
}

impl Closing {
    pub(super) fn deadline(&self) -> u64 {
        match self {
            Closing::Quieting(_) => u64::MAX,
            Closing::Flushing { deadline, .. } | Closing::Lingering { deadline, .. } => *deadline,
        }
    }

    /// Whether what is received from now on is dropped.
    pub(super) fn drops_input(&self) -> bool {
        !self.quiets()
    }

    pub(super) fn quiets(&self) -> bool {
        matches!(self, Closing::Quieting(_))
    }

    pub(super) fn lingers(&self) -> bool {
        matches!(self, Closing::Lingering { .. })
    }

    fn end(self, how: FlushEnd) {
        match self {
            Closing::Quieting(_) => {}
            Closing::Flushing { report, .. } | Closing::Lingering { report, .. } => report(how),
        }
    }
}

impl fmt::Debug for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Closing::Quieting(_) => "Quieting",
            Closing::Flushing { .. } => "Flushing",
            Closing::Lingering { .. } => "Lingering",
        })
    }
}

impl Inner {
    /// Receives no more; `done` once all that the kernel had received is in the input.
    pub(super) fn begin_quieting(self: &Rc<Self>, base: &EventBase, done: Done) {
        let quieting = Closing::Quieting(done);
        let previous = self.closing.replace(Some(Box::new(quieting)));
        self.core.borrow_mut().finish_reading();
        self.show_unseen(base);
        self.socket.stop_receive(base);
        self.mark_dirty(base);
        self.sync(base);
        self.conclude(previous, 0);
    }

    /// A close that is under way ends within so long, at the latest.
    pub(super) fn hasten_closing(self: &Rc<Self>, base: &EventBase, within: Duration) {
        let latest = deadline_of(base, Some(within));
        if let Some(closing) = self.closing.borrow_mut().as_deref_mut() {
            match closing {
                Closing::Quieting(_) => {}
                Closing::Flushing { deadline, .. } | Closing::Lingering { deadline, .. } => {
                    *deadline = latest.min(*deadline);
                }
            }
        }
        self.sync(base);
    }

    /// Tells a close that does not go its own way to the end what became of it.
    pub(super) fn conclude(self: &Rc<Self>, closing: Option<Box<Closing>>, unsent: usize) {
        match closing.map(|closing| *closing) {
            None => {}
            Some(Closing::Quieting(done)) => done(&BufferEvent(self.clone())),
            Some(closing) => closing.end(FlushEnd::Failed { unsent }),
        }
    }

    pub(super) fn begin_closing(
        self: &Rc<Self>,
        base: &EventBase,
        deadline: Option<Duration>,
        report: Report,
    ) {
        let now = base.now();
        let deadline = deadline_of(base, deadline);
        let flushing = Closing::Flushing { deadline, report };
        let previous = self.closing.replace(Some(Box::new(flushing)));
        self.replace_handler(None, Handles::ALL);
        self.socket.forget_unseen();
        if let Ok(mut input) = self.input.try_borrow_mut() {
            // Nobody reads it any more, and others may wait for its slots.
            let mut empty = EvBuffer::new();
            empty.freeze_end();
            drop(std::mem::replace(&mut *input, empty));
        }
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
        // Closed twice: the later deadline and report hold, the earlier report is told so.
        self.conclude(previous, self.output_len());
    }

    /// The connection broke while it was read from to its end.
    pub(super) fn break_closing(self: &Rc<Self>, base: &EventBase) {
        let end = match self.output_len() {
            0 => FlushEnd::Flushed,
            unsent => FlushEnd::Failed { unsent },
        };
        self.finish_closing(base, end);
    }

    /// Takes the close a step further, if there is one.
    pub(super) fn progress_closing(self: &Rc<Self>, base: &EventBase) {
        let mut slot = self.closing.borrow_mut();
        let Some(closing) = slot.as_deref_mut() else {
            return;
        };
        if closing.quiets() {
            if !self.socket.receiving() {
                let quiet = slot.take();
                drop(slot);
                if let Some(Closing::Quieting(done)) = quiet.map(|closing| *closing) {
                    done(&BufferEvent(self.clone()));
                }
            }
            return;
        }
        let core = self.core.borrow();
        let unsent = self.output_len();
        let (link, fin) = (core.link(), core.fin());
        let broken = !core.enabled().contains(Interest::WRITE);
        drop(core);
        // What a pair's partner did not take before it was freed, nobody takes.
        let gone = matches!(&self.flavour, Flavour::Pair(pair) if pair.partner().is_none());
        let end = match link {
            Link::Connecting => None,
            Link::Up if broken || gone && unsent != 0 => Some(FlushEnd::Failed { unsent }),
            Link::Up if fin != Fin::Sent => None,
            // A pair has no socket to linger on.
            Link::Up if self.socket.fd().is_none() => Some(FlushEnd::Flushed),
            Link::Up if self.socket.at_end() => Some(FlushEnd::Flushed),
            Link::Up if closing.lingers() => None,
            Link::Up => {
                if let Some(Closing::Flushing { deadline, report }) = slot.take().map(|c| *c) {
                    let deadline = deadline.min(base.now().saturating_add(LINGER_NS));
                    *slot = Some(Box::new(Closing::Lingering { deadline, report }));
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
        if closing.deadline() > now {
            return false;
        }
        let end = if closing.lingers() {
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
        self.free(base);
        if let Some(closing) = closing {
            closing.end(end);
        }
    }
}

/// When so much time has passed, in the driver's time; `u64::MAX` for no limit.
fn deadline_of(base: &EventBase, within: Option<Duration>) -> u64 {
    let after = within.map(|d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
    after.map_or(u64::MAX, |after| base.now().saturating_add(after))
}
