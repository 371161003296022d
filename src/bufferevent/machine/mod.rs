//! The state machine of a bufferevent: no I/O, no clock, no buffers of its own.
//!
//! What happened comes in through `handle_*`, what the user wants through commands, each with
//! the buffer's length and the time where they matter. What is to be done is asked for:
//! `wants_*` says whether an operation should be in flight, `deadline` when to look at the
//! time again, `take_after` which callbacks are due. Every transport drives the same machine.

use super::types::{Events, Options};
use crate::event_base::Interest;
use crate::sys::Errno;

mod due;
mod ending;
mod half;
mod kept;

pub(super) use due::{Due, Stage};
pub(super) use ending::{Facts, Life, Step, step};
use half::Half;
use kept::KeptEnd;

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

/// Who above keeps it from reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Hold {
    #[default]
    Free,
    /// A filter that takes no more. It reads on later, and gets every byte.
    Filter,
    /// A relay whose other side does not keep up. It is told of a broken connection at once: it
    /// then gives up what waits, and the memory with it.
    Relay,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamEnd {
    Eof,
    Error(Errno),
}

/// The machine. Lengths are in bytes, times in nanoseconds of the driver's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    rd: Half,
    wr: Half,
    due: Due,
    handled: Due,
    /// Triggered to run from the FIFO; joins `due` there.
    later: Due,
    /// 0: none.
    errno: i32,
    /// The end of what is received, known but not to be told now.
    end: KeptEnd,
    pub(super) options: Options,
    enabled: Interest,
    link: Link,
    fin: Fin,
    /// Directions that a rate limit holds up.
    suspended: Interest,
    hold: Hold,
    /// The input reached its high mark and has not been drained below it.
    full: bool,
    /// Reading was finished for good.
    finished_reading: bool,
    /// The end of the stream was told, and nothing else is known since.
    at_end: bool,
    /// WRITE was enabled by a call, and the write callback for it is still to come.
    write_event_due: bool,
}

impl Machine {
    pub(super) fn new(options: Options, link: Link) -> Self {
        Machine {
            rd: Half::default(),
            wr: Half::default(),
            due: Due::default(),
            handled: Due::READ,
            later: Due::default(),
            errno: 0,
            end: KeptEnd::default(),
            options,
            enabled: Interest::WRITE,
            link,
            fin: Fin::Open,
            suspended: Interest::empty(),
            hold: Hold::Free,
            full: false,
            finished_reading: false,
            at_end: false,
            write_event_due: false,
        }
    }

    // What to do.

    /// Whether a receive should be under way, and what it brings be shown.
    pub(super) fn wants_read(&self) -> bool {
        self.enabled.contains(Interest::READ)
            && !self.full
            && self.hold == Hold::Free
            && !self.finished_reading
            && self.link == Link::Up
    }

    /// Whether it reads, but for a mark, a limit or whoever is above: then a broken connection is
    /// looked for.
    pub(super) fn is_paused(&self) -> bool {
        self.enabled.contains(Interest::READ)
            && !self.finished_reading
            && self.link == Link::Up
            && !self.end.is_kept()
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

    /// Whether the write callback is due before the output is empty, and is not due yet.
    pub(super) fn is_above_low_mark(&self, output: usize) -> bool {
        self.wr.low != 0 && output > self.wr.low
    }

    /// Whether the sending direction is to be ended now.
    pub(super) fn fin_due(&self, output: usize) -> bool {
        self.fin == Fin::Wanted && output == 0 && self.link == Link::Up
    }

    /// Whether a write callback is due for an explicit enable, and can be made.
    pub(super) fn write_event_due(&self, output: usize) -> bool {
        self.write_event_due && output == 0 && self.link == Link::Up
    }

    /// When the earliest time-out is; `u64::MAX`: none runs.
    pub(super) fn deadline(&self, output: usize) -> u64 {
        let mut earliest = u64::MAX;
        if self.reads_timed() {
            earliest = self.rd.due();
        }
        if self.writes_timed(output) {
            earliest = earliest.min(self.wr.due());
        }
        earliest
    }

    /// Takes the first stage of the callbacks that are due, of those after `last` in a run.
    pub(super) fn take_after(&mut self, last: Option<Stage>) -> Option<(Stage, Events)> {
        self.due.take_after(last)
    }

    /// Whether all that is due comes after `stage` in a run of callbacks.
    pub(super) fn due_after(&self, stage: Stage) -> bool {
        self.due.all_after(stage)
    }

    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Says of what there is somebody to tell. What becomes due for nobody is forgotten at once.
    pub(super) fn set_handled(&mut self, handled: Due) {
        self.handled = handled;
    }

    /// Makes callbacks due, as far as somebody handles them. Each message that leaves makes a write
    /// callback due, and mostly nobody has set one.
    #[inline]
    fn make_due(&mut self, due: Due) {
        self.due |= due & self.handled;
    }

    /// Reading is over, for this connection. The end of the stream is not told any more, should
    /// it be due.
    pub(super) fn finish_reading(&mut self) {
        self.finished_reading = true;
        self.enabled.remove(Interest::READ);
        self.end = KeptEnd::default();
        if self.due.events().contains(Events::EOF) {
            self.due.remove_events(Events::READING | Events::EOF);
        }
    }

    pub(super) fn clear_due(&mut self) {
        self.due = Due::default();
        self.later = Due::default();
    }

    /// The FIFO has come to what was triggered for it.
    pub(super) fn handle_deferred(&mut self) {
        let later = std::mem::take(&mut self.later);
        self.due |= later;
    }

    // What happened.

    /// Bytes were appended to the input, which is now `input` long.
    pub(super) fn handle_received(&mut self, input: usize, now: u64) {
        self.rd.since = now;
        self.at_end = false;
        self.make_due(Due::READ.only_if(input >= self.rd.read_mark()));
        self.full = self.room(input) == 0;
    }

    /// The stream that is read ended, and all before it was shown.
    pub(super) fn handle_end(&mut self, end: StreamEnd) {
        self.enabled.remove(Interest::READ);
        self.at_end = true;
        match end {
            StreamEnd::Eof => self.make_due(Due::of_events(Events::READING | Events::EOF)),
            StreamEnd::Error(errno) => self.fail(Events::READING | Events::ERROR, errno),
        }
    }

    /// The stream ended, but that is not to be told before reading goes on.
    pub(super) fn keep_end(&mut self, end: StreamEnd) {
        if !self.end.is_kept() {
            self.end.keep(end);
        }
    }

    /// Shows an end that was kept, if reading goes on; whether it did.
    pub(super) fn show_end(&mut self) -> bool {
        if !self.end.is_kept() || !self.wants_read() {
            return false;
        }
        if let Some(end) = self.end.take() {
            self.handle_end(end);
        }
        true
    }

    /// The same for one that reads but for a mark or whoever is above: all before the end was
    /// shown to it.
    pub(super) fn show_end_of_paused(&mut self) {
        if self.enabled.contains(Interest::READ)
            && !self.finished_reading
            && let Some(end) = self.end.take()
        {
            self.handle_end(end);
        }
    }

    /// Whether an end waits to be told.
    pub(super) fn keeps_end(&self) -> bool {
        self.end.is_kept()
    }

    /// Whether the stream whose end was told goes on after all: another descriptor.
    pub(super) fn is_open_again(&self) -> bool {
        !self.at_end
    }

    /// Bytes left the output, which is now `output` long.
    pub(super) fn handle_sent(&mut self, output: usize, now: u64) {
        self.wr.since = now;
        self.write_event_due = false;
        self.make_due(Due::WRITE.only_if(output <= self.wr.low));
    }

    pub(super) fn handle_write_error(&mut self, errno: Errno) {
        self.enabled.remove(Interest::WRITE);
        self.fail(Events::WRITING | Events::ERROR, errno);
    }

    pub(super) fn handle_connected(&mut self, now: u64) {
        self.link = Link::Up;
        self.rd.since = now;
        self.wr.since = now;
        self.make_due(Due::of_events(Events::CONNECTED));
    }

    pub(super) fn handle_connect_error(&mut self, errno: Errno) {
        self.link = Link::Failed;
        self.fail(Events::ERROR, errno);
    }

    /// The write callback for an explicit enable, or for whoever waits for what is below.
    pub(super) fn handle_writable(&mut self) {
        self.write_event_due = false;
        self.make_due(Due::WRITE);
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
        self.make_due(Due::of_events(events));
        if events.contains(Events::ERROR) {
            self.errno = errno.map_or(0, Errno::raw);
        }
    }

    /// Time has passed: whether reading is late. `handle_read_timeout` makes it a time-out.
    pub(super) fn read_is_late(&self, now: u64) -> bool {
        self.reads_timed() && self.rd.due() <= now
    }

    pub(super) fn handle_read_timeout(&mut self) {
        self.enabled.remove(Interest::READ);
        self.make_due(Due::of_events(Events::READING | Events::TIMEOUT));
    }

    /// Time has passed: whether writing, or the connect, is late.
    pub(super) fn write_is_late(&self, output: usize, now: u64) -> bool {
        self.writes_timed(output) && self.wr.due() <= now
    }

    pub(super) fn handle_write_timeout(&mut self) {
        self.enabled.remove(Interest::WRITE);
        self.write_event_due = false;
        self.make_due(Due::of_events(Events::WRITING | Events::TIMEOUT));
        if self.link == Link::Connecting {
            self.link = Link::Failed;
        }
    }

    /// Bytes moved that no completion tells of: the write timer starts again.
    pub(super) fn handle_progress(&mut self, now: u64) {
        self.wr.since = now;
    }

    /// Whether the input's length is of any importance to it.
    #[inline]
    pub(super) fn minds_input(&self) -> bool {
        self.full || self.rd.high != 0
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
            self.write_event_due = true;
        }
    }

    /// An end of the stream that is due and not told yet waits until READ is enabled again.
    pub(super) fn disable(&mut self, interest: Interest) {
        self.enabled.remove(interest);
        if interest.contains(Interest::WRITE) {
            self.write_event_due = false;
        }
        if interest.contains(Interest::READ) {
            self.withdraw_end();
        }
    }

    fn withdraw_end(&mut self) {
        let events = self.due.events();
        if events.contains(Events::READING | Events::EOF) {
            self.due.remove_events(Events::READING | Events::EOF);
            self.end.keep(StreamEnd::Eof);
        } else if events.contains(Events::READING | Events::ERROR)
            && !events.contains(Events::WRITING)
        {
            self.due.remove_events(Events::READING | Events::ERROR);
            self.end.keep(StreamEnd::Error(Errno::from_raw(self.errno)));
        }
    }

    /// A close begins: only what is buffered still matters, and the write time-out with it.
    pub(super) fn close(&mut self, now: u64) {
        self.end = KeptEnd::default();
        self.enabled = Interest::empty();
        self.enable(Interest::WRITE, now);
        let write_timeout = self.wr.timeout;
        self.set_timeouts(0, write_timeout, now);
        if self.fin == Fin::Open {
            self.fin = Fin::Wanted;
        }
    }

    /// Whether WRITE is disabled: of a close, that writing failed or timed out.
    pub(super) fn write_is_off(&self) -> bool {
        !self.enabled.contains(Interest::WRITE)
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

    /// Somebody above takes no more, or does again; says whether reading resumes with it.
    pub(super) fn hold_read(&mut self, hold: Hold) -> bool {
        let resumed = self.hold != Hold::Free && hold == Hold::Free;
        self.hold = hold;
        resumed && self.wants_read()
    }

    pub(super) fn hold(&self) -> Hold {
        self.hold
    }

    /// A new descriptor with WRITE enabled: its first readiness is told, as after an enable.
    pub(super) fn expect_write_event(&mut self) {
        self.write_event_due = self.enabled.contains(Interest::WRITE);
    }

    /// Whether the output is above its high mark.
    pub(super) fn output_above_high(&self, output: usize) -> bool {
        self.wr.high != 0 && output > self.wr.high
    }

    /// No write callback is due for an enable: nothing can ever become writable.
    pub(super) fn cancel_write_event(&mut self) {
        self.write_event_due = false;
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

    /// When a byte left the output last, or the write timer was restarted.
    pub(super) fn written_at(&self) -> u64 {
        self.wr.since
    }

    /// When a byte moved last, or a timer was restarted, in either direction.
    pub(super) fn moved_at(&self) -> u64 {
        self.rd.since.max(self.wr.since)
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

    /// The length at which the read callback is due.
    pub(super) fn read_mark(&self) -> usize {
        self.rd.read_mark()
    }

    /// Another descriptor, or none: what was known of the old connection is over.
    pub(super) fn set_link(&mut self, link: Link, now: u64) {
        self.link = link;
        self.finished_reading = false;
        self.end = KeptEnd::default();
        self.at_end = false;
        self.rd.since = now;
        self.wr.since = now;
        if self.fin == Fin::Sent {
            // A FIN already sent belonged to the old connection; one still wanted applies to the
            // new.
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
        self.make_due(triggered(read, write, events));
    }

    /// As [`trigger`](Self::trigger), but from the FIFO: not within a run of callbacks that is
    /// under way.
    pub(super) fn trigger_later(&mut self, read: bool, write: bool, events: Events) {
        self.later |= triggered(read, write, events) & self.handled;
    }

    /// Whether the input is at its high mark and the user reads (the read callback may be called
    /// again).
    pub(super) fn is_full(&self) -> bool {
        self.full && self.enabled.contains(Interest::READ)
    }

    fn reads_timed(&self) -> bool {
        self.rd.timeout != 0
            && self.enabled.contains(Interest::READ)
            && !self.full
            && self.hold == Hold::Free
            && self.link != Link::Failed
            && !self.suspended.contains(Interest::READ)
    }

    fn writes_timed(&self, output: usize) -> bool {
        self.wr.timeout != 0
            && self.link != Link::Failed
            && (self.link == Link::Connecting
                || (self.enabled.contains(Interest::WRITE)
                    && !self.suspended.contains(Interest::WRITE)
                    && (output != 0 || self.write_event_due)))
    }

    fn fail(&mut self, events: Events, errno: Errno) {
        self.make_due(Due::of_events(events));
        self.errno = errno.raw();
    }
}

fn triggered(read: bool, write: bool, events: Events) -> Due {
    Due::READ.only_if(read) | Due::WRITE.only_if(write) | Due::of_events(events)
}
