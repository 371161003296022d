//! How a bufferevent ends: by a close that flushes, by being freed, or with its base.

use super::{Cx, Done, Report};
use crate::bufferevent::BufferEvent;
use crate::bufferevent::machine::{Due, Facts, Life, Step, step};
use crate::bufferevent::transport::{Changed, End};
use crate::bufferevent::types::FlushEnd;
use crate::event_base::hook::Each;

/// How long the peer has to end its own direction once all was sent. Closing a socket with
/// unread bytes resets the connection, and a reset may overtake what was sent last.
const LINGER_NS: u64 = 2_000_000_000;

/// Whom to tell of the end, and when it is at the latest.
pub(super) struct Ending {
    /// In the driver's time; `u64::MAX`: none.
    pub(super) deadline: u64,
    pub(super) report: Option<Report>,
    /// Called once nothing is received any more.
    pub(super) dones: Vec<Done>,
}

impl Default for Ending {
    fn default() -> Self {
        Ending {
            deadline: u64::MAX,
            report: None,
            dones: Vec::new(),
        }
    }
}

impl Ending {
    /// Tells all who wait for the end.
    pub(super) fn tell(self, bev: &BufferEvent, end: FlushEnd) {
        let Ending { report, dones, .. } = self;
        // One that panics takes nothing from the others.
        let _rest = Telling {
            bev,
            dones: dones.into_iter(),
            report: report.map(|report| (report, end)),
        };
    }
}

/// Reports that are still to be made; made in any case.
struct Telling<'a> {
    bev: &'a BufferEvent,
    dones: std::vec::IntoIter<Done>,
    report: Option<(Report, FlushEnd)>,
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        let next = self.dones.next();
        let last = match next {
            Some(_) => None,
            None => self.report.take(),
        };
        if next.is_none() && last.is_none() {
            return;
        }
        // The rest is told when this goes out of scope, also by a panic.
        let _rest = Telling {
            bev: self.bev,
            dones: std::mem::take(&mut self.dones),
            report: self.report.take(),
        };
        if let Some(done) = next {
            done(self.bev);
        } else if let Some((report, end)) = last {
            report(end);
        }
    }
}

impl Cx<'_> {
    // The end of a bufferevent.

    /// Receives no more; `done` once all that the kernel had received is in the input.
    pub(in crate::bufferevent) fn begin_stop_reads(&self, done: Done) {
        let shell = self.shell();
        shell.ending.with_made(|ending| ending.dones.push(done));
        shell.life.set(Life::StoppingReads);
        shell.machine.borrow_mut().finish_reading();
        self.transport().stop_reads(self);
        self.mark_dirty();
    }

    /// Sends what is buffered, ends the stream in order, frees.
    pub(in crate::bufferevent) fn begin_close(&self, deadline: u64, report: Report) {
        let shell = self.shell();
        let now = self.now();
        let closing = Ending {
            deadline,
            report: Some(report),
            dones: Vec::new(),
        };
        let previous = shell.ending.replace(Some(Box::new(closing)));
        shell.life.set(Life::Flushing);
        let mut machine = shell.machine.borrow_mut();
        machine.set_handled(Due::READ);
        machine.clear_due();
        machine.close(now);
        drop(machine);
        self.mark_dirty();
        // Nobody reads it any more, and others may wait for its slots.
        let (handler, input) = (shell.handler.take(), shell.buffers.clear_input());
        self.transport().changed(self, Changed::Pace);
        let mut each = Each::default();
        // Filters, destructors, the earlier report: the user's code, and it is on its way by now.
        each.run(|| drop(handler));
        each.run(|| drop(input));
        if !shell.is_freed() {
            each.run(|| self.transport().closing(self));
        }
        if let Some(previous) = previous {
            // Closed twice: the later deadline and report hold, the earlier report is told so.
            let unsent = shell.output_len();
            each.run(|| previous.tell(self.bev, FlushEnd::Failed { unsent }));
        }
        each.finish();
    }

    /// A close that is under way ends by then, at the latest.
    pub(in crate::bufferevent) fn shorten_deadline(&self, latest: u64) {
        let shell = self.shell();
        if !shell.life.get().is_closing() {
            return;
        }
        shell
            .ending
            .with(|ending| ending.deadline = ending.deadline.min(latest));
        self.transport().changed(self, Changed::Pace);
    }

    /// Takes the report of a close that goes on elsewhere, and its deadline.
    pub(in crate::bufferevent) fn take_close(&self) -> Option<(u64, Report)> {
        let ending = self.shell().ending.take()?;
        let Ending {
            deadline, report, ..
        } = *ending;
        report.map(|report| (deadline, report))
    }

    /// The connection broke while it was read from to its end.
    pub(in crate::bufferevent) fn break_close(&self) {
        let end = match self.shell().output_len() {
            0 => FlushEnd::Flushed,
            unsent => FlushEnd::Failed { unsent },
        };
        self.finish_close(end, End::Free);
    }

    /// Takes what ends a step further, if there is anything.
    pub(in crate::bufferevent) fn progress(&self) {
        let shell = self.shell();
        match shell.life.get() {
            Life::Open | Life::Freed => {}
            Life::StoppingReads => {
                if self.transport().reads_stopped() {
                    shell.life.set(Life::Open);
                    if let Some(ending) = shell.ending.take() {
                        ending.tell(self.bev, FlushEnd::Flushed);
                    }
                }
            }
            life => self.progress_close(life),
        }
    }

    fn progress_close(&self, life: Life) {
        let shell = self.shell();
        let machine = shell.machine.borrow();
        let unsent = shell.output_len();
        let transport = self.transport();
        let facts = Facts {
            life,
            link: machine.link(),
            fin: machine.fin(),
            unsent,
            cut: machine.write_is_off() || unsent != 0 && transport.is_cut(),
            peer_may_send: transport.peer_may_send(),
        };
        drop(machine);
        match step(&facts) {
            Step::Wait => {}
            Step::Linger => {
                shell.life.set(Life::Lingering);
                let latest = self.now().saturating_add(LINGER_NS);
                self.shorten_deadline(latest);
                // Receive, to see the peer's end; what comes is dropped.
                self.mark_dirty();
            }
            Step::End(end) => {
                let how = match end {
                    FlushEnd::Flushed => End::Free,
                    _ => End::Reset,
                };
                self.finish_close(end, how);
            }
        }
    }

    /// The deadline of a close may have passed; says whether it ended.
    pub(super) fn deadline_passed(&self, now: u64) -> bool {
        let shell = self.shell();
        let life = shell.life.get();
        if !life.is_closing() || shell.close_deadline() > now {
            return false;
        }
        let unsent = shell.output_len();
        match life {
            Life::Lingering => self.finish_close(FlushEnd::Flushed, End::Free),
            _ => self.finish_close(FlushEnd::TimedOut { unsent }, End::Reset),
        }
        true
    }

    /// A close ends: frees, then reports.
    pub(in crate::bufferevent) fn finish_close(&self, end: FlushEnd, how: End) {
        let ending = self.shell().ending.take();
        let unsent = self.bev.unsent();
        let mut each = Each::default();
        each.run(|| self.end(how));
        if let Some(ending) = ending {
            let end = match end {
                FlushEnd::Flushed => FlushEnd::Flushed,
                FlushEnd::TimedOut { .. } => FlushEnd::TimedOut { unsent },
                FlushEnd::Failed { .. } => FlushEnd::Failed { unsent },
            };
            each.run(|| ending.tell(self.bev, end));
        }
        each.finish();
    }

    /// Frees it: the one way by which a bufferevent goes before its base does.
    pub(in crate::bufferevent) fn end(&self, how: End) {
        let shell = self.shell();
        if shell.life.replace(Life::Freed) == Life::Freed {
            return;
        }
        let unsent = self.bev.unsent();
        shell.reg.unshare(self.base);
        let mut each = Each::default();
        each.run(|| self.transport().end(self, how));
        self.leave_if_quiet();
        shell.empty(self.bev, unsent, &mut each);
        each.finish();
    }

    /// Once nothing is in flight: closes the descriptor (I6) and leaves the base.
    pub(in crate::bufferevent) fn leave_if_quiet(&self) {
        let shell = self.shell();
        let quiet = self.transport().is_quiet();
        if quiet {
            self.transport().release(self, shell.closes());
        }
        // Until then it keeps the loop from ending, so that the descriptor is closed for sure.
        shell.reg.set_active(self.base, !quiet);
        if quiet {
            shell.reg.leave(self.base);
        }
    }
}
