//! The state machine of a bufferevent: no I/O, no clock, no buffers of its own.
//!
//! What happened comes in through `handle_*`, what the user wants through commands, each with
//! the buffer's length and the time where they matter. What is to be done is asked for:
//! `wants_*` says whether an operation should be in flight, `deadline` when to look at the
//! time again, `take_after` which callbacks are due. Every flavour drives the same machine.

use super::types::{Events, Options};
use crate::event_base::Interest;
use crate::sys::Errno;

/// What stands behind the bufferevent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Nothing yet: no descriptor.
    Absent,
    /// A connect is under way.
    Connecting,
    /// Bytes can move.
    Up,
    /// A connect failed or was abandoned.
    Failed,
}

/// Whether the sending direction was, or is to be, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fin {
    Open,
    /// To be sent once the output is empty.
    Wanted,
    Sent,
}

/// Callbacks that are due.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    read: bool,
    write: bool,
    events: Events,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default)]
struct Half {
    low: usize,
    /// Zero: no high mark.
    high: usize,
    /// Nanoseconds; zero: none.
    timeout: u64,
    /// The last time that the timer was restarted.
    since: u64,
}

/// The stages of a run of callbacks, in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Connected,
    Read,
    Write,
    Events,
}

/// The machine. Lengths are in bytes, times in nanoseconds of the driver's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Core {
    rd: Half,
    wr: Half,
    /// 0: none.
    errno: i32,
    pending: Pending,
    /// Triggered to run from the FIFO; joins `pending` there.
    later: Pending,
    pub(super) options: Options,
    enabled: Interest,
    link: Link,
    fin: Fin,
    /// The input reached its high mark and has not been drained below it.
    full: bool,
    /// A filter above does not want more.
    held: bool,
    /// Reading was finished for good.
    finished_reading: bool,
    /// WRITE was enabled by a call and the write callback for it is still owed.
    write_owed: bool,
    /// Directions that a rate limit holds up.
    suspended: Interest,
}

impl Core {
    pub(super) fn new(options: Options, link: Link) -> Self {
        Core {
            rd: Half::default(),
            wr: Half::default(),
            errno: 0,
            pending: Pending::default(),
            later: Pending::default(),
            options,
            enabled: Interest::WRITE,
            link,
            fin: Fin::Open,
            full: false,
            held: false,
            finished_reading: false,
            write_owed: false,
            suspended: Interest::empty(),
        }
    }

    // What to do.

    /// Whether a receive should be under way, and what it brings be shown.
    pub(super) fn wants_read(&self) -> bool {
        self.enabled.contains(Interest::READ)
            && !self.full
            && !self.held
            && !self.finished_reading
            && self.link == Link::Up
    }

    /// Whether a send should be under way.
    pub(super) fn wants_write(&self, output: usize) -> bool {
        output != 0 && self.enabled.contains(Interest::WRITE) && self.link == Link::Up
    }

    /// How much the input may still take: its high mark less its length.
    pub(super) fn room(&self, input: usize) -> usize {
        match self.rd.high {
            0 => usize::MAX,
            high => high.saturating_sub(input),
        }
    }

    /// Whether the sending direction is to be ended now.
    pub(super) fn fin_due(&self, output: usize) -> bool {
        self.fin == Fin::Wanted && output == 0 && self.link == Link::Up
    }

    /// Whether a write callback is owed for an explicit enable, and can be paid.
    pub(super) fn write_due(&self, output: usize) -> bool {
        self.write_owed && output == 0 && self.link == Link::Up
    }

    /// When the earliest time-out is, if one runs.
    pub(super) fn deadline(&self, output: usize) -> Option<u64> {
        let read = self.reads_timed().then(|| due(&self.rd));
        let write = self.writes_timed(output).then(|| due(&self.wr));
        read.into_iter().chain(write).min()
    }

    /// Takes the first stage of the callbacks that are due, of those that come after `last` in a run.
    pub(super) fn take_after(&mut self, last: Option<Stage>) -> Option<(Stage, Events)> {
        let pending = &mut self.pending;
        let connected = pending.events & Events::CONNECTED;
        if last.is_none() && !connected.is_empty() {
            pending.events.remove(connected);
            return Some((Stage::Connected, connected));
        }
        if last < Some(Stage::Read) && std::mem::take(&mut pending.read) {
            return Some((Stage::Read, Events::empty()));
        }
        if last < Some(Stage::Write) && std::mem::take(&mut pending.write) {
            return Some((Stage::Write, Events::empty()));
        }
        if last < Some(Stage::Events) && !pending.events.is_empty() {
            return Some((Stage::Events, std::mem::take(&mut pending.events)));
        }
        None
    }

    /// Whether all that is due comes after `stage` in a run of callbacks, and so within the run that is there.
    pub(super) fn pending_after(&self, stage: Stage) -> bool {
        let pending = &self.pending;
        let earliest = if pending.events.contains(Events::CONNECTED) {
            Stage::Connected
        } else if pending.read {
            Stage::Read
        } else if pending.write {
            Stage::Write
        } else {
            Stage::Events
        };
        earliest > stage
    }

    pub(super) fn has_pending(&self) -> bool {
        self.pending.read || self.pending.write || !self.pending.events.is_empty()
    }

    /// Reading is over, for this connection. The end of the stream is not to be told any more, should it be due.
    pub(super) fn finish_reading(&mut self) {
        self.finished_reading = true;
        self.enabled.remove(Interest::READ);
        if self.pending.events.contains(Events::EOF) {
            self.pending.events.remove(Events::READING | Events::EOF);
        }
    }

    pub(super) fn clear_pending(&mut self) {
        self.pending = Pending::default();
        self.later = Pending::default();
    }

    /// The FIFO has come to what was triggered for it.
    pub(super) fn handle_deferred(&mut self) {
        let later = std::mem::take(&mut self.later);
        self.trigger(later.read, later.write, later.events);
    }

    // What happened.

    /// Bytes were appended to the input, which is now `input` long.
    pub(super) fn handle_received(&mut self, input: usize, now: u64) {
        self.rd.since = now;
        self.pending.read |= input >= self.rd.low;
        self.full = self.room(input) == 0;
    }

    /// The peer ended its direction, and all before it was shown.
    pub(super) fn handle_eof(&mut self) {
        self.enabled.remove(Interest::READ);
        self.pending.events |= Events::READING | Events::EOF;
    }

    pub(super) fn handle_read_error(&mut self, errno: Errno) {
        self.enabled.remove(Interest::READ);
        self.fail(Events::READING | Events::ERROR, errno);
    }

    /// Bytes left the output, which is now `output` long.
    pub(super) fn handle_sent(&mut self, output: usize, now: u64) {
        self.wr.since = now;
        self.write_owed = false;
        self.pending.write |= output <= self.wr.low;
    }

    pub(super) fn handle_write_error(&mut self, errno: Errno) {
        self.enabled.remove(Interest::WRITE);
        self.fail(Events::WRITING | Events::ERROR, errno);
    }

    pub(super) fn handle_connected(&mut self, now: u64) {
        self.link = Link::Up;
        self.rd.since = now;
        self.wr.since = now;
        self.pending.events |= Events::CONNECTED;
    }

    pub(super) fn handle_connect_error(&mut self, errno: Errno) {
        self.link = Link::Failed;
        self.fail(Events::ERROR, errno);
    }

    /// The owed write callback of an explicit enable.
    pub(super) fn handle_writable(&mut self) {
        self.write_owed = false;
        self.pending.write = true;
    }

    /// An event of the bufferevent below, which holds for this one as well.
    pub(super) fn handle_forwarded(&mut self, events: Events, errno: Option<Errno>) {
        if events.intersects(Events::ERROR | Events::TIMEOUT) {
            if events.contains(Events::READING) {
                self.enabled.remove(Interest::READ);
            }
            if events.contains(Events::WRITING) {
                self.enabled.remove(Interest::WRITE);
            }
        }
        self.pending.events |= events;
        if events.contains(Events::ERROR) {
            self.errno = errno.map_or(0, Errno::raw);
        }
    }

    /// Time has passed: whether reading timed out.
    pub(super) fn handle_read_time(&mut self, now: u64) -> bool {
        let late = self.reads_timed() && due(&self.rd) <= now;
        if late {
            self.enabled.remove(Interest::READ);
            self.pending.events |= Events::READING | Events::TIMEOUT;
        }
        late
    }

    /// Time has passed: whether writing, or the connect, timed out.
    pub(super) fn handle_write_time(&mut self, output: usize, now: u64) -> bool {
        let late = self.writes_timed(output) && due(&self.wr) <= now;
        if late {
            self.enabled.remove(Interest::WRITE);
            self.write_owed = false;
            self.pending.events |= Events::WRITING | Events::TIMEOUT;
            if self.link == Link::Connecting {
                self.link = Link::Failed;
            }
        }
        late
    }

    /// The input's length changed by the user's hand. Says whether reading may go on that
    /// could not before.
    pub(super) fn handle_input_changed(&mut self, input: usize, now: u64) -> bool {
        let was_full = self.full;
        self.full = self.room(input) == 0;
        if was_full && !self.full {
            self.rd.since = now;
        }
        was_full && !self.full
    }

    /// The output became longer than nothing.
    pub(super) fn handle_output_begun(&mut self, now: u64) {
        self.wr.since = now;
    }

    // What the user wants.

    pub(super) fn enable(&mut self, interest: Interest, now: u64) {
        self.enabled |= interest;
        if interest.contains(Interest::READ) {
            self.rd.since = now;
        }
        if interest.contains(Interest::WRITE) {
            self.wr.since = now;
            self.write_owed = true;
        }
    }

    pub(super) fn disable(&mut self, interest: Interest) {
        self.enabled.remove(interest);
        if interest.contains(Interest::WRITE) {
            self.write_owed = false;
        }
    }

    /// A rate limit holds directions up, or no longer does, which restarts their time-outs.
    pub(super) fn suspend(&mut self, interest: Interest, suspended: bool, now: u64) {
        let resumed = if suspended {
            Interest::empty()
        } else {
            self.suspended & interest
        };
        self.suspended.set(interest, suspended);
        if resumed.contains(Interest::READ) {
            self.rd.since = now;
        }
        if resumed.contains(Interest::WRITE) {
            self.wr.since = now;
        }
    }

    /// A filter above takes no more, or does again; says whether reading resumes with it.
    pub(super) fn hold_read(&mut self, hold: bool) -> bool {
        let resumed = self.held && !hold;
        self.held = hold;
        resumed && self.wants_read()
    }

    /// A new descriptor with WRITE enabled: its first readiness is told, as after an enable.
    pub(super) fn owe_write(&mut self) {
        self.write_owed = self.enabled.contains(Interest::WRITE);
    }

    /// Whether the output is above its high mark.
    pub(super) fn output_above_high(&self, output: usize) -> bool {
        self.wr.high != 0 && output > self.wr.high
    }

    /// No write callback is owed for an enable: nothing can ever become writable.
    pub(super) fn forgive_write(&mut self) {
        self.write_owed = false;
    }

    /// How much the output may still take from a filter above; `None`: no bound.
    pub(super) fn output_room(&self, output: usize) -> Option<usize> {
        (self.wr.high != 0).then(|| self.wr.high.saturating_sub(output))
    }

    pub(super) fn enabled(&self) -> Interest {
        self.enabled
    }

    pub(super) fn set_timeouts(&mut self, read: u64, write: u64, now: u64) {
        self.rd.timeout = read;
        self.wr.timeout = write;
        self.rd.since = now;
        self.wr.since = now;
    }

    /// Whether a time-out is set for either direction.
    pub(super) fn is_timed(&self) -> bool {
        self.rd.timeout != 0 || self.wr.timeout != 0
    }

    pub(super) fn timeouts(&self) -> (u64, u64) {
        (self.rd.timeout, self.wr.timeout)
    }

    /// Sets the marks; answers as [`handle_input_changed`](Self::handle_input_changed).
    pub(super) fn set_marks(
        &mut self,
        interest: Interest,
        low: usize,
        high: usize,
        input: usize,
        now: u64,
    ) -> bool {
        if interest.contains(Interest::WRITE) {
            self.wr.low = low;
            self.wr.high = high;
        }
        if interest.contains(Interest::READ) {
            self.rd.low = low;
            self.rd.high = high;
            return self.handle_input_changed(input, now);
        }
        false
    }

    pub(super) fn marks(&self, interest: Interest) -> (usize, usize) {
        let half = if interest.contains(Interest::READ) {
            &self.rd
        } else {
            &self.wr
        };
        (half.low, half.high)
    }

    pub(super) fn set_link(&mut self, link: Link, now: u64) {
        self.link = link;
        self.finished_reading = false;
        self.rd.since = now;
        self.wr.since = now;
        if self.fin == Fin::Sent {
            // That was another connection. One that is wanted, but not sent yet, is for this one.
            self.fin = Fin::Open;
        }
    }

    pub(super) fn link(&self) -> Link {
        self.link
    }

    pub(super) fn set_fin(&mut self, fin: Fin) {
        self.fin = fin;
    }

    pub(super) fn fin(&self) -> Fin {
        self.fin
    }

    pub(super) fn errno(&self) -> Option<Errno> {
        (self.errno != 0).then(|| Errno::from_raw(self.errno))
    }

    /// Makes callbacks due as if something had happened.
    pub(super) fn trigger(&mut self, read: bool, write: bool, events: Events) {
        self.pending.read |= read;
        self.pending.write |= write;
        self.pending.events |= events;
    }

    /// As [`trigger`](Self::trigger), but from the FIFO: not within a run of callbacks that is under way.
    pub(super) fn trigger_later(&mut self, read: bool, write: bool, events: Events) {
        self.later.read |= read;
        self.later.write |= write;
        self.later.events |= events;
    }

    /// Whether the input is at its high mark and the user reads (the read callback may be called again).
    pub(super) fn is_full(&self) -> bool {
        self.full && self.enabled.contains(Interest::READ)
    }

    fn reads_timed(&self) -> bool {
        self.rd.timeout != 0
            && self.enabled.contains(Interest::READ)
            && !self.full
            && !self.held
            && !self.suspended.contains(Interest::READ)
    }

    fn writes_timed(&self, output: usize) -> bool {
        self.wr.timeout != 0
            && (self.link == Link::Connecting
                || (self.enabled.contains(Interest::WRITE)
                    && !self.suspended.contains(Interest::WRITE)
                    && (output != 0 || self.write_owed)))
    }

    fn fail(&mut self, events: Events, errno: Errno) {
        self.pending.events |= events;
        self.errno = errno.raw();
    }
}

fn due(half: &Half) -> u64 {
    half.since.saturating_add(half.timeout)
}
