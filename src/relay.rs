//! Joining two bufferevents: what one receives the other sends.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use crate::bufferevent::{BufferEvent, Events, FlushEnd, Handler};
use crate::error::Error;
use crate::event_base::hook::Hook;
use crate::event_base::{EventBase, Interest, Timer};
use crate::sys::Errno;

/// How long the rest of a connection that can no longer be written to is still read and passed
/// on, and how long the other side has to take it, when the user set no deadline.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// What one receive may bring before it is armed again, and so what arrives in spite of a pause.
const ARM_BYTES: usize = 256 << 10;

/// How a relay behaves.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RelayOptions {
    /// Reading from one side pauses while the other, with what waits below it, has more than so
    /// many bytes to send. While the base's memory is short any byte that waits is too many, so
    /// that peers who do not read leave memory to the others.
    pub high: usize,
    /// It resumes when that has fallen to so many bytes.
    pub low: usize,
    /// Ends the relay when neither direction has moved a byte for so long.
    pub idle_timeout: Option<Duration>,
}

impl Default for RelayOptions {
    /// 1 MiB and 512 KiB a direction, no time-out. A peer that takes a stream as fast as it comes
    /// stops and goes with less.
    fn default() -> Self {
        RelayOptions {
            high: 1 << 20,
            low: 512 << 10,
            idle_timeout: None,
        }
    }
}

impl RelayOptions {
    /// Sets [`high`](Self::high), and [`low`](Self::low) to half of it.
    pub fn high(mut self, bytes: usize) -> Self {
        self.high = bytes;
        self.low = bytes / 2;
        self
    }

    /// Sets [`low`](Self::low).
    pub fn low(mut self, bytes: usize) -> Self {
        self.low = bytes;
        self
    }

    /// Sets [`idle_timeout`](Self::idle_timeout).
    pub fn idle_timeout(mut self, after: Option<Duration>) -> Self {
        self.idle_timeout = after;
        self
    }
}

/// One of the two bufferevents of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelaySide {
    /// The first argument of [`relay`].
    A,
    /// The second.
    B,
}

impl RelaySide {
    fn other(self) -> Self {
        match self {
            RelaySide::A => RelaySide::B,
            RelaySide::B => RelaySide::A,
        }
    }
}

/// Why a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RelayEnd {
    /// Both sides ended their streams, and all of both was passed on.
    Finished,
    /// One side failed: to connect, to read or to write.
    Failed {
        /// Which side.
        side: RelaySide,
        /// The system's error number, if there was one.
        errno: Option<Errno>,
    },
    /// Neither direction moved a byte for the idle time-out, or a time-out of a bufferevent fired.
    TimedOut,
    /// [`Relay::close_after_flush`] or [`Relay::free`] was called, the program freed one of the
    /// two, or their base ended.
    Closed,
}

/// What a relay did.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RelayReport {
    /// Bytes passed from A to B.
    pub a_to_b: u64,
    /// Bytes passed from B to A.
    pub b_to_a: u64,
    /// Bytes that were received from one side but could not be sent to the other.
    pub undelivered: u64,
    /// Why it ended.
    pub end: RelayEnd,
}

/// Two bufferevents joined by [`relay`]. A cheap handle; the relay goes on without it.
#[derive(Clone)]
pub struct Relay(Rc<Inner>);

/// How far a relay is on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Neither side receives any more; what the kernel has received is still to come in.
    StoppingReads {
        /// Sides that may still have received something.
        sides: u8,
    },
    /// Both send what they have, and are freed.
    Flushing {
        /// Sides that are not freed yet.
        sides: u8,
    },
    Ended,
}

struct Inner {
    a: BufferEvent,
    b: BufferEvent,
    options: RelayOptions,
    a_to_b: Course,
    b_to_a: Course,
    phase: Cell<Phase>,
    undelivered: Cell<u64>,
    end: Cell<Option<RelayEnd>>,
    /// Both are to be freed so soon, at the latest.
    deadline: Cell<Option<Duration>>,
    timer: RefCell<Option<Timer>>,
    on_end: Hook<dyn FnOnce(&RelayReport)>,
}

/// What is received from one side and sent to the other.
#[derive(Default)]
struct Course {
    bytes: Cell<u64>,
    /// The source is held: its sink has too much to send.
    paused: Cell<bool>,
    /// The source has ended, or the sink takes no more.
    done: Cell<bool>,
}

const SIDES: [RelaySide; 2] = [RelaySide::A, RelaySide::B];

/// Joins two bufferevents: what `a` receives `b` sends, and the other way round, by reference.
///
/// The relay takes over their callbacks and frees both when it ends. The end of one stream is
/// carried through as a half-close. When one side fails, what was received from it is still
/// delivered to the other before both are freed; a side that does not get all of it sees a reset
/// instead of an end, so that a cut stream does not look whole. Either may still be connecting,
/// be a filter, or the end of a pipe, which has one direction.
///
/// It ends, and reports, also when the program frees one of the two, or when their base ends.
///
/// # Errors
/// [`Error::Freed`] when one was freed; [`Error::Invalid`] when both are the same, or the low mark
/// is above the high one.
pub fn relay(a: &BufferEvent, b: &BufferEvent, options: RelayOptions) -> Result<Relay, Error> {
    if a == b || options.low > options.high {
        return Err(Error::Invalid {
            what: "relay",
            why: "it takes two different bufferevents, and a low mark not above the high one",
        });
    }
    let base = a.base()?;
    b.base()?;
    let inner = Rc::new(Inner {
        a: a.clone(),
        b: b.clone(),
        options,
        a_to_b: Course::default(),
        b_to_a: Course::default(),
        phase: Cell::new(Phase::Running),
        undelivered: Cell::new(0),
        end: Cell::new(None),
        deadline: Cell::new(None),
        timer: RefCell::new(None),
        on_end: Hook::new(),
    });
    for side in SIDES {
        let bev = inner.bev(side);
        bev.set_handler(SideHandler {
            relay: inner.clone(),
            side,
        })?;
        bev.set_watermarks(Interest::WRITE, options.low, 0)?;
        bev.set_watermarks(Interest::READ, 0, 0)?;
        // 0 means "unbounded" here; a high mark of 0 must bound.
        bev.set_receive_bound(options.high.clamp(1, ARM_BYTES));
        let (reads, writes) = bev.directions();
        if !reads {
            // The write end of a pipe: nothing will ever come of it.
            inner.from(side).done.set(true);
        }
        if !writes {
            inner.from(side.other()).done.set(true);
        }
    }
    inner.watch_idle(&base)?;
    // What was received before goes first.
    for side in SIDES {
        inner.pass_on(side);
    }
    for side in SIDES {
        let (reads, writes) = inner.bev(side).directions();
        let mut interest = Interest::empty();
        interest.set(Interest::READ, reads);
        interest.set(Interest::WRITE, writes);
        inner.bev(side).enable(interest)?;
    }
    Ok(Relay(inner))
}

impl Relay {
    /// Calls `f` once, when both bufferevents have been freed.
    pub fn on_end(&self, f: impl FnOnce(&RelayReport) + 'static) {
        self.0.on_end.set(Box::new(f));
    }

    /// Bytes passed on so far: from A to B, and from B to A.
    pub fn bytes(&self) -> (u64, u64) {
        (self.0.a_to_b.bytes.get(), self.0.b_to_a.bytes.get())
    }

    /// Reads no more, sends what is buffered on both sides within `deadline`, then frees both.
    pub fn close_after_flush(&self, deadline: Duration) {
        self.0.finish(RelayEnd::Closed, Some(deadline));
    }

    /// Frees both at once. What is buffered is dropped, and a side that was to get it sees a
    /// reset.
    pub fn free(&self) {
        self.0.finish(RelayEnd::Closed, Some(Duration::ZERO));
    }
}

impl Inner {
    fn bev(&self, side: RelaySide) -> &BufferEvent {
        match side {
            RelaySide::A => &self.a,
            RelaySide::B => &self.b,
        }
    }

    /// The direction whose source is `side`.
    fn from(&self, side: RelaySide) -> &Course {
        match side {
            RelaySide::A => &self.a_to_b,
            RelaySide::B => &self.b_to_a,
        }
    }

    fn is_running(&self) -> bool {
        self.phase.get() == Phase::Running
    }

    /// Moves what `side` received to the other's output, and holds it when that is too long.
    fn pass_on(self: &Rc<Self>, side: RelaySide) {
        let (source, sink) = (self.bev(side), self.bev(side.other()));
        let course = self.from(side);
        if course.done.get() {
            // The sink takes no more: what still comes is dropped, and counted.
            let dropped = source
                .input()
                .with(|input| input.drain(input.len()).unwrap_or_default());
            self.lost(dropped.unwrap_or_default());
            return;
        }
        let Ok(moved) = source.transfer_to(sink) else {
            // Freed under the relay, by somebody else.
            self.finish(RelayEnd::Closed, Some(LAST_BYTES));
            return;
        };
        if moved == 0 {
            return;
        }
        course.bytes.set(course.bytes.get() + moved as u64);
        source.set_backlogged(true);
        if sink.backlog() > self.options.high && self.is_running() && !course.paused.replace(true) {
            sink.await_drain();
            source.hold_for_relay(true);
        }
    }

    fn lost(&self, bytes: usize) {
        self.undelivered.set(self.undelivered.get() + bytes as u64);
    }

    /// `side` has sent: its source may go on.
    fn drained(self: &Rc<Self>, side: RelaySide) {
        let source = side.other();
        let course = self.from(source);
        let left = self.bev(side).backlog();
        if left == 0 {
            self.bev(source).set_backlogged(false);
        }
        if left > self.options.low {
            // What waits below a filter is still too much.
            self.bev(side).await_drain();
            return;
        }
        if course.paused.get() && !course.done.get() && self.is_running() {
            course.paused.set(false);
            self.bev(source).hold_for_relay(false);
        }
    }

    fn event(self: &Rc<Self>, side: RelaySide, events: Events) {
        if !self.is_running() {
            // The flush of what is left tells how it ended.
            return;
        }
        if events.contains(Events::ERROR) {
            let end = RelayEnd::Failed {
                side,
                errno: self.bev(side).last_error(),
            };
            if events.contains(Events::WRITING) && !self.from(side).done.get() {
                self.write_failed(side, end);
            } else {
                self.finish(end, Some(LAST_BYTES));
            }
        } else if events.contains(Events::TIMEOUT) {
            self.finish(RelayEnd::TimedOut, Some(LAST_BYTES));
        } else if events.contains(Events::EOF) {
            self.ended(side);
        }
    }

    /// The stream from `side` is over: its sink ends once it has sent all of it.
    fn ended(self: &Rc<Self>, side: RelaySide) {
        self.from(side).done.set(true);
        if self.from(side.other()).done.get() {
            match self.end.get() {
                None => self.finish(RelayEnd::Finished, None),
                // One side failed before: the other has so long to take what is left.
                Some(failed) => self.finish(failed, Some(LAST_BYTES)),
            }
        } else {
            let _freed = self.bev(side.other()).shutdown_write();
        }
    }

    /// `side` can not be written to any more. What it still sends is passed on until its end,
    /// which as a rule is near: whoever resets a connection has nothing more to say.
    fn write_failed(self: &Rc<Self>, side: RelaySide, end: RelayEnd) {
        self.from(side.other()).done.set(true);
        self.end.set(Some(end));
        // What it has not sent is counted by its close. The other goes on to be read, and dropped:
        // it may have to get rid of that before it takes the rest.
        self.bev(side.other()).hold_for_relay(false);
        if let Ok(base) = self.bev(side).base() {
            let relay = self.clone();
            let timer = base.timer(LAST_BYTES, move |_| {
                relay.finish(end, Some(Duration::ZERO));
            });
            self.replace_timer(timer.ok());
        }
    }

    /// The program freed `side`, or put other callbacks on it; or the base ended.
    fn side_gone(self: &Rc<Self>, side: RelaySide) {
        if self.is_running() && self.bev(side).is_freed() {
            self.finish(RelayEnd::Closed, Some(LAST_BYTES));
        }
    }

    /// Ends the relay: what both sides have received is passed on and sent, then they are freed.
    fn finish(self: &Rc<Self>, end: RelayEnd, deadline: Option<Duration>) {
        if let Some(deadline) = deadline {
            let earlier = self
                .deadline
                .get()
                .map_or(deadline, |had| had.min(deadline));
            self.deadline.set(Some(earlier));
        }
        match self.phase.get() {
            Phase::Running => {}
            // It takes the deadline once it flushes.
            Phase::StoppingReads { .. } | Phase::Ended => return,
            Phase::Flushing { .. } => {
                for side in SIDES {
                    if let Some(deadline) = deadline {
                        self.bev(side).shorten_deadline(deadline);
                    }
                }
                return;
            }
        }
        self.phase.set(Phase::StoppingReads { sides: 2 });
        // A failure that came first is the reason, not what followed from it.
        self.end.set(self.end.get().or(Some(end)));
        self.replace_timer(None);
        for side in SIDES {
            let relay = self.clone();
            let stopping = self.bev(side).finish_reading(move |_| {
                relay.pass_on(side);
                relay.reads_stopped();
            });
            if stopping.is_err() {
                self.reads_stopped();
            }
        }
    }

    /// One more side receives nothing any more. Once both do, they send what they have.
    fn reads_stopped(self: &Rc<Self>) {
        match self.phase.get() {
            Phase::StoppingReads { sides: 2 } => {
                self.phase.set(Phase::StoppingReads { sides: 1 });
                return;
            }
            Phase::StoppingReads { .. } => self.phase.set(Phase::Flushing { sides: 2 }),
            _ => return,
        }
        let deadline = self.deadline.get();
        for side in SIDES {
            let relay = self.clone();
            let bev = self.bev(side);
            // The flush, too, ends when no byte moves for the idle time-out.
            let _freed = bev.set_timeouts(None, self.options.idle_timeout);
            let begun = bev.close_after_flush(deadline, move |end| relay.closed(side, end));
            if begun.is_err() {
                self.closed(side, FlushEnd::Flushed);
            }
        }
    }

    /// One of the two is gone.
    fn closed(&self, side: RelaySide, end: FlushEnd) {
        if let FlushEnd::TimedOut { unsent } | FlushEnd::Failed { unsent } = end {
            self.lost(unsent);
            if unsent != 0 && self.end.get() == Some(RelayEnd::Finished) {
                // Both streams had ended, but not all of them could be passed on.
                let errno = self.bev(side).last_error();
                self.end.set(Some(RelayEnd::Failed { side, errno }));
            }
        }
        match self.phase.get() {
            Phase::Flushing { sides: 2 } => return self.phase.set(Phase::Flushing { sides: 1 }),
            Phase::Flushing { .. } => self.phase.set(Phase::Ended),
            _ => return,
        }
        if let Some(on_end) = self.on_end.take() {
            on_end(&RelayReport {
                a_to_b: self.a_to_b.bytes.get(),
                b_to_a: self.b_to_a.bytes.get(),
                undelivered: self.undelivered.get(),
                end: self.end.get().unwrap_or(RelayEnd::Closed),
            });
        }
    }

    /// One timer for the idle time-out: when it fires early, because bytes moved meanwhile, it is
    /// set for the rest.
    fn watch_idle(self: &Rc<Self>, base: &EventBase) -> Result<(), Error> {
        let Some(after) = self.options.idle_timeout else {
            return Ok(());
        };
        for side in SIDES {
            self.bev(side).watch_progress();
        }
        let began = base.now();
        let relay = Rc::downgrade(self);
        let timer = base.timer(after, move |timer| {
            let Some(relay) = relay.upgrade() else { return };
            let Ok(base) = timer.base() else { return };
            let moved_at = relay.a.moved_at().max(relay.b.moved_at()).max(began);
            let quiet = Duration::from_nanos(base.now().saturating_sub(moved_at));
            match after.checked_sub(quiet) {
                Some(rest) if !rest.is_zero() => {
                    let _base_gone = timer.rearm(rest);
                }
                _ => relay.finish(RelayEnd::TimedOut, Some(Duration::ZERO)),
            }
        })?;
        self.replace_timer(Some(timer));
        Ok(())
    }

    fn replace_timer(&self, timer: Option<Timer>) {
        let old = self.timer.replace(timer);
        if let Some(old) = old {
            old.cancel();
        }
    }
}

/// The callbacks of one side.
struct SideHandler {
    relay: Rc<Inner>,
    side: RelaySide,
}

impl Handler for SideHandler {
    fn read(&mut self, _: &BufferEvent) {
        self.relay.pass_on(self.side);
    }

    fn write(&mut self, _: &BufferEvent) {
        self.relay.drained(self.side);
    }

    fn event(&mut self, _: &BufferEvent, events: Events) {
        self.relay.event(self.side, events);
    }
}

impl Drop for SideHandler {
    fn drop(&mut self) {
        self.relay.side_gone(self.side);
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("bytes", &self.bytes())
            .field("phase", &self.0.phase.get())
            .field("end", &self.0.end.get())
            .finish_non_exhaustive()
    }
}
