//! Joining two bufferevents: what one receives the other sends.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use crate::bufferevent::{BufferEvent, Events, FlushEnd, Handler};
use crate::error::Error;
use crate::event_base::{EventBase, Interest, Timer};
use crate::sys::Errno;

/// How long the rest of a connection that can no longer be written to is still read and passed
/// on, and how long the other side has to take it, when the user set no deadline.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// What one receive may bring before it is armed again, and so what arrives in spite of a pause.
const ARM_BYTES: usize = 256 << 10;

/// By how much the high mark shrinks while receive slots are short.
const SHORTAGE_DIVISOR: usize = 8;

/// How a relay behaves.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RelayOptions {
    /// Reading from one side pauses while the other has more than so many bytes to send. While fewer than a quarter of
    /// the base's receive slots are left an eighth of it counts, so that peers who do not read leave memory to the others.
    pub high: usize,
    /// It resumes when that has fallen to so many bytes.
    pub low: usize,
    /// Ends the relay when neither direction has moved a byte for so long.
    pub idle_timeout: Option<Duration>,
}

impl Default for RelayOptions {
    /// 1 MiB and 512 KiB a direction, no time-out. A peer that takes a stream as fast as it comes stops and goes with less.
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
    /// [`Relay::close_after_flush`] or [`Relay::free`] was called.
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

type EndFn = Box<dyn FnOnce(&RelayReport)>;

struct Inner {
    a: BufferEvent,
    b: BufferEvent,
    options: RelayOptions,
    a_to_b: Direction,
    b_to_a: Direction,
    undelivered: Cell<u64>,
    end: Cell<Option<RelayEnd>>,
    /// Both are being flushed and freed.
    finishing: Cell<bool>,
    /// Sides that may still have received something.
    quieting: Cell<u8>,
    /// A deadline that was set while it ended already, and is not passed on yet.
    hastened: Cell<Option<Duration>>,
    /// Bufferevents that are not freed yet.
    open: Cell<u8>,
    /// When a byte moved last, in the driver's time.
    moved_at: Cell<u64>,
    timer: RefCell<Option<Timer>>,
    on_end: RefCell<Option<EndFn>>,
}

/// What is received from one side and sent to the other.
#[derive(Default)]
struct Direction {
    bytes: Cell<u64>,
    /// The source is paused: its sink has too much to send.
    paused: Cell<bool>,
    /// The source has ended, or the sink takes no more.
    done: Cell<bool>,
}

/// Joins two bufferevents: what `a` receives `b` sends, and the other way round, by reference.
///
/// The relay takes over their callbacks and frees both when it ends. The end of one stream is
/// carried through as a half-close. When one side fails, what was received from it is still
/// delivered to the other before both are freed. Either may still be connecting.
///
/// # Errors
/// [`Error::Freed`] when one was freed; [`Error::Invalid`] when both are the same, or the low mark is above the high one.
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
        a_to_b: Direction::default(),
        b_to_a: Direction::default(),
        undelivered: Cell::new(0),
        end: Cell::new(None),
        finishing: Cell::new(false),
        quieting: Cell::new(0),
        hastened: Cell::new(None),
        open: Cell::new(2),
        moved_at: Cell::new(base.now()),
        timer: RefCell::new(None),
        on_end: RefCell::new(None),
    });
    for (bev, side) in [(a, RelaySide::A), (b, RelaySide::B)] {
        bev.set_handler(SideHandler {
            relay: inner.clone(),
            side,
        })?;
        bev.set_watermarks(Interest::WRITE, options.low, 0)?;
        bev.set_watermarks(Interest::READ, 0, 0)?;
        // No bound is not what a mark of nothing means.
        bev.set_receive_bound(options.high.clamp(1, ARM_BYTES));
    }
    inner.watch_idle(&base)?;
    // What was received before goes first.
    for side in [RelaySide::A, RelaySide::B] {
        inner.pass_on(side);
    }
    a.enable(Interest::READ | Interest::WRITE)?;
    b.enable(Interest::READ | Interest::WRITE)?;
    Ok(Relay(inner))
}

impl Relay {
    /// Calls `f` once, when both bufferevents have been freed.
    pub fn on_end(&self, f: impl FnOnce(&RelayReport) + 'static) {
        let old = self.0.on_end.replace(Some(Box::new(f)));
        drop(old);
    }

    /// Bytes passed on so far: from A to B, and from B to A.
    pub fn bytes(&self) -> (u64, u64) {
        (self.0.a_to_b.bytes.get(), self.0.b_to_a.bytes.get())
    }

    /// Reads no more, sends what is buffered on both sides within `deadline`, then frees both.
    pub fn close_after_flush(&self, deadline: Duration) {
        self.0.finish(RelayEnd::Closed, Some(deadline));
    }

    /// Frees both at once; what is buffered is dropped.
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
    fn from(&self, side: RelaySide) -> &Direction {
        match side {
            RelaySide::A => &self.a_to_b,
            RelaySide::B => &self.b_to_a,
        }
    }

    /// Moves what `side` received to the other's output, and pauses it when that is too long.
    fn pass_on(self: &Rc<Self>, side: RelaySide) {
        let (source, sink) = (self.bev(side), self.bev(side.other()));
        let direction = self.from(side);
        if direction.done.get() {
            // The sink takes no more: what still comes is dropped, and counted.
            let dropped = source
                .input()
                .with(|input| input.drain(input.len()).unwrap_or_default());
            self.undelivered
                .set(self.undelivered.get() + dropped.map_or(0, |n| n as u64));
            return;
        }
        let Ok(moved) = source.transfer_to(sink) else {
            // Freed under the relay, by somebody else.
            self.finish(RelayEnd::Closed, Some(LAST_BYTES));
            return;
        };
        direction.bytes.set(direction.bytes.get() + moved as u64);
        source.set_backlogged(true);
        self.touch();
        if sink.output().len() > self.high_mark(source) && !self.finishing.get() {
            direction.paused.set(true);
            let _freed = source.disable(Interest::READ);
        }
    }

    fn high_mark(&self, source: &BufferEvent) -> usize {
        match source.base() {
            Ok(base) if base.slots_are_low() => self.options.high / SHORTAGE_DIVISOR,
            _ => self.options.high,
        }
    }

    /// `side` has sent: its source may go on.
    fn drained(self: &Rc<Self>, side: RelaySide) {
        self.touch();
        let source = side.other();
        let direction = self.from(source);
        let left = self.bev(side).output().len();
        if left == 0 {
            self.bev(source).set_backlogged(false);
        }
        // The write callback's mark is the low one. Where that is too much, another send is still to end.
        let high = self.high_mark(self.bev(source));
        if high < self.options.high && left > self.options.low.min(high / 2) {
            return;
        }
        if direction.paused.replace(false) && !direction.done.get() && !self.finishing.get() {
            let _freed = self.bev(source).enable(Interest::READ);
        }
    }

    fn event(self: &Rc<Self>, side: RelaySide, events: Events) {
        if self.finishing.get() {
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

    /// `side` can not be written to any more. What it still sends is passed on until its end, which
    /// as a rule is near: whoever resets a connection has nothing more to say.
    fn write_failed(self: &Rc<Self>, side: RelaySide, end: RelayEnd) {
        let into = self.from(side.other());
        into.done.set(true);
        self.end.set(Some(end));
        // What it has not sent is counted by its close.
        // The other goes on to be read, and dropped: it may have to get rid of that before it takes the rest.
        let _freed = self.bev(side.other()).enable(Interest::READ);
        if let Ok(base) = self.bev(side).base() {
            let relay = self.clone();
            let timer = base.timer(LAST_BYTES, move |_| relay.finish(end, Some(Duration::ZERO)));
            self.replace_timer(timer.ok());
        }
    }

    /// Ends the relay: what both sides have received is passed on and sent, then they are freed.
    fn finish(self: &Rc<Self>, end: RelayEnd, deadline: Option<Duration>) {
        if self.finishing.replace(true) {
            self.hasten(deadline);
            return;
        }
        // A failure that came first is the reason, not what followed from it.
        self.end.set(self.end.get().or(Some(end)));
        self.replace_timer(None);
        self.quieting.set(2);
        for side in [RelaySide::A, RelaySide::B] {
            let relay = self.clone();
            let quiet = self.bev(side).finish_reading(move |_| {
                relay.pass_on(side);
                relay.quiet(deadline);
            });
            if quiet.is_err() {
                self.quiet(deadline);
            }
        }
    }

    /// It ends already, but perhaps not soon enough.
    fn hasten(&self, deadline: Option<Duration>) {
        let Some(deadline) = deadline else { return };
        if self.quieting.get() != 0 {
            let earlier = self
                .hastened
                .get()
                .map_or(deadline, |had| had.min(deadline));
            self.hastened.set(Some(earlier));
            return;
        }
        for side in [RelaySide::A, RelaySide::B] {
            self.bev(side).shorten_deadline(deadline);
        }
    }

    /// One more side receives nothing any more. Once both do, they send what they have.
    fn quiet(self: &Rc<Self>, deadline: Option<Duration>) {
        self.quieting.set(self.quieting.get().saturating_sub(1));
        if self.quieting.get() != 0 {
            return;
        }
        let deadline = match (deadline, self.hastened.get()) {
            (Some(first), Some(second)) => Some(first.min(second)),
            (first, second) => first.or(second),
        };
        for side in [RelaySide::A, RelaySide::B] {
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
            self.undelivered.set(self.undelivered.get() + unsent as u64);
            if unsent != 0 && self.end.get() == Some(RelayEnd::Finished) {
                // Both streams had ended, but not all of them could be passed on.
                let errno = self.bev(side).last_error();
                self.end.set(Some(RelayEnd::Failed { side, errno }));
            }
        }
        self.open.set(self.open.get().saturating_sub(1));
        if self.open.get() != 0 {
            return;
        }
        let on_end = self.on_end.borrow_mut().take();
        if let Some(on_end) = on_end {
            on_end(&RelayReport {
                a_to_b: self.a_to_b.bytes.get(),
                b_to_a: self.b_to_a.bytes.get(),
                undelivered: self.undelivered.get(),
                end: self.end.get().unwrap_or(RelayEnd::Closed),
            });
        }
    }

    /// A byte moved: the idle time-out starts again.
    fn touch(&self) {
        if self.options.idle_timeout.is_some()
            && let Ok(base) = self.a.base()
        {
            self.moved_at.set(base.now());
        }
    }

    /// One timer for the idle time-out: when it fires early, because bytes moved meanwhile, it is
    /// set for the rest.
    fn watch_idle(self: &Rc<Self>, base: &EventBase) -> Result<(), Error> {
        let Some(after) = self.options.idle_timeout else {
            return Ok(());
        };
        let relay = Rc::downgrade(self);
        let timer = base.timer(after, move |timer| {
            let Some(relay) = relay.upgrade() else { return };
            let Ok(base) = timer.base() else { return };
            let quiet = Duration::from_nanos(base.now().saturating_sub(relay.moved_at.get()));
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

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("bytes", &self.bytes())
            .field("end", &self.0.end.get())
            .finish_non_exhaustive()
    }
}
