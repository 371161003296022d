//! The filter: a bufferevent over another one, with a transformation between them.

use std::cell::Cell;
use std::rc::{Rc, Weak};

use super::{Changed, End, Nature, Rest, Transport};
use crate::bufferevent::buffers::Side;
use crate::bufferevent::machine::{Fin, Hold, Life, Link, Machine, StreamEnd};
use crate::bufferevent::shell::{Cx, Inner};
use crate::bufferevent::types::{Events, FilterResult, FlushEnd, FlushMode, FlushResult};
use crate::bufferevent::{BufferEvent, Handler, Options};
use crate::error::Error;
use crate::evbuffer::EvBuffer;
use crate::event_base::Interest;
use crate::event_base::hook::{Each, Hook};
use crate::sys::Errno;

/// What a filter does to the bytes that pass through it (`bufferevent_filter_cb`).
///
/// Each method moves bytes from `src` to `dst`, transforming them. `limit` is how many `dst` should
/// get at most, to stay within its mark; going over it is allowed. The mode says whether to hold
/// bytes back as is convenient (`Normal`), to hand over what there is (`Flush`), or that this was
/// the last of it (`Finished`). A method that is not implemented passes bytes on as they are.
pub trait Filter {
    /// Received bytes: from the underlying's input to the filter's input.
    fn input(
        &mut self,
        src: &mut EvBuffer,
        dst: &mut EvBuffer,
        limit: Option<usize>,
        _mode: FlushMode,
    ) -> FilterResult {
        pass(src, dst, limit)
    }

    /// Bytes to send: from the filter's output to the underlying's output.
    fn output(
        &mut self,
        src: &mut EvBuffer,
        dst: &mut EvBuffer,
        limit: Option<usize>,
        _mode: FlushMode,
    ) -> FilterResult {
        pass(src, dst, limit)
    }
}

/// Moves bytes on as they are, by reference.
fn pass(src: &mut EvBuffer, dst: &mut EvBuffer, limit: Option<usize>) -> FilterResult {
    let n = limit.unwrap_or(usize::MAX).min(src.len());
    match src.remove_buffer(dst, n) {
        Ok(_) => FilterResult::Ok,
        Err(_) => FilterResult::Error,
    }
}

/// What a filter is: the object, and what stands below it.
pub(in crate::bufferevent) struct Filtering {
    under: BufferEvent,
    /// Out while it runs: what it writes to its own bufferevent is picked up afterwards.
    object: Hook<dyn Filter>,
    /// The generation of the callbacks that it put on the underlying.
    callbacks: Cell<u32>,
    /// The underlying's stream is over; told once its bytes have passed.
    below_end: Cell<Option<StreamEnd>>,
    /// The input filter, the output filter was told that this was the last of it.
    finished: [Cell<bool>; 2],
    /// Somebody waits for what is below to drain.
    awaits_below: Cell<bool>,
}

impl BufferEvent {
    /// A bufferevent whose bytes pass through `filter` on their way to and from `underlying`
    /// (`bufferevent_filter_new`). Filters stack to any depth.
    ///
    /// It takes over the callbacks of the underlying and enables it; the underlying reads only
    /// while the filter's READ is enabled. With `CLOSE_ON_FREE`, freeing the filter frees the
    /// underlying; without, the underlying stays, with no callbacks but those that the program
    /// has set on it since. The filter object is dropped with the bufferevent (`free_context`).
    ///
    /// # Errors
    /// [`Error::Freed`] when the underlying was freed; [`Error::Invalid`] for `UNLOCK_CALLBACKS`
    /// without `DEFER_CALLBACKS`.
    pub fn filter(
        underlying: &BufferEvent,
        filter: impl Filter + 'static,
        options: Options,
    ) -> Result<Self, Error> {
        crate::bufferevent::check_options(options)?;
        let base = underlying.base()?;
        let object = Hook::default();
        object.set(Box::new(filter) as Box<dyn Filter>);
        let filtering = Filtering {
            under: underlying.clone(),
            object,
            callbacks: Cell::new(0),
            below_end: Cell::new(None),
            finished: Default::default(),
            awaits_below: Cell::new(false),
        };
        let inner = Inner::create(&base, options, Link::Up, filtering);
        underlying.set_handler(Under {
            filter: Rc::downgrade(&inner),
            under: Rc::downgrade(&underlying.0),
        })?;
        let callbacks = underlying.0.shell.handler.generation();
        inner.transport.callbacks.set(callbacks);
        let under = Cx::new(underlying, &base);
        under.machine_mut().hold_read(Hold::Filter);
        underlying.enable(Interest::READ | Interest::WRITE)?;
        Ok(BufferEvent(inner))
    }

    /// The bufferevent under a filter; none for what moves bytes by itself
    /// (`bufferevent_get_underlying`).
    pub fn underlying(&self) -> Option<BufferEvent> {
        self.0.transport.under().cloned()
    }
}

/// The callbacks of a filter's underlying.
struct Under {
    filter: Weak<Inner<Filtering>>,
    under: Weak<Inner>,
}

impl Under {
    fn with(&self, f: impl FnOnce(&Filtering, &Cx<'_>)) {
        let Some(inner) = self.filter.upgrade() else {
            return;
        };
        let Ok(base) = inner.shell.live() else { return };
        let bev = BufferEvent(inner.clone());
        let cx = Cx::new(&bev, &base);
        f(&inner.transport, &cx);
        cx.settle();
    }
}

impl Handler for Under {
    fn read(&mut self, _: &BufferEvent) {
        self.with(|filtering, cx| {
            filtering.run_all(cx, Way::In, FlushMode::Normal);
        });
    }

    fn write(&mut self, _: &BufferEvent) {
        self.with(|filtering, cx| {
            filtering.run_all(cx, Way::Out, FlushMode::Normal);
            filtering.below_drained(cx);
        });
    }

    fn event(&mut self, under: &BufferEvent, events: Events) {
        self.with(|filtering, cx| {
            let errno = under.last_error();
            filtering.below_event(cx, events, errno);
        });
    }
}

impl Drop for Under {
    /// With the underlying goes what the filter moves bytes over.
    fn drop(&mut self) {
        let Some(under) = self.under.upgrade() else {
            return;
        };
        if under.shell.is_freed() {
            self.with(|_, cx| {
                let gone = Errno::from_raw(libc::ENOTCONN);
                let both = Events::READING | Events::WRITING | Events::ERROR;
                cx.machine_mut().handle_forwarded(both, Some(gone));
                cx.mark_dirty();
            });
        }
    }
}

/// How often in a row a filter is run again for what it wrote to its own bufferevent.
const MOST_NESTED: u32 = 64;

/// A direction of a filter as the machine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// What one call of a filter did, in bytes.
struct Ran {
    result: FilterResult,
    consumed: usize,
    produced: usize,
    /// Left in the source.
    left: usize,
    /// The destination had nothing before.
    was_empty: bool,
    /// Something was written to the source meanwhile.
    nested: bool,
}

impl Ran {
    /// Whether to call it again: it said so, and it did something.
    fn goes_on(&self) -> bool {
        let moved = self.consumed != 0 || self.produced != 0;
        self.result == FilterResult::Ok && moved && self.left != 0
    }
}

impl Transport for Filtering {
    fn nature(&self) -> Nature {
        Nature {
            in_memory: true,
            follows: true,
        }
    }

    fn pump(&self, cx: &Cx<'_>) {
        cx.machine_mut().show_end();
        if cx.shell().life() == Life::Flushing {
            return self.hand_down(cx);
        }
        self.run_all(cx, Way::Out, FlushMode::Normal);
        self.end_direction(cx);
        self.run_all(cx, Way::In, FlushMode::Normal);
        self.show_end(cx);
    }

    fn changed(&self, cx: &Cx<'_>, what: Changed) {
        match what {
            Changed::Enabled(interest) => {
                // It may have been disabled by a time-out or by the end of its stream.
                if let Some(under) = self.below(cx) {
                    let off = interest - under.machine().enabled();
                    if !off.is_empty() {
                        let _gone = self.under.enable(off);
                    }
                }
                cx.mark_dirty();
            }
            Changed::OutputGrew => {
                self.run_all(cx, Way::Out, FlushMode::Normal);
            }
            Changed::InputHasRoom => cx.mark_dirty(),
            Changed::Reopened => {
                self.below_end.set(None);
                for finished in &self.finished {
                    finished.set(false);
                }
            }
            Changed::Pace if cx.machine().timeouts().1 != 0 => cx.bev.watch_progress(),
            Changed::Pace => {}
        }
    }

    fn flush(&self, cx: &Cx<'_>, interest: Interest, mode: FlushMode) -> FlushResult {
        let mut produced = false;
        if interest.contains(Interest::READ) {
            produced |= self.run_all(cx, Way::In, mode);
        }
        if interest.contains(Interest::WRITE) && !cx.is_freed() {
            produced |= self.run_all(cx, Way::Out, mode);
        }
        match self.under.flush(interest, mode) {
            Err(_) => FlushResult::Failed,
            Ok(FlushResult::Nothing) if produced => FlushResult::Produced,
            Ok(result) => result,
        }
    }

    fn rest(&self, _: &Cx<'_>, _: &mut Machine, _: usize) -> Rest {
        // What it waits for, the underlying waits for.
        Rest {
            waits: false,
            look_at: u64::MAX,
        }
    }

    /// Lets the underlying read exactly while this may, all the way down.
    fn settled(&self, cx: &Cx<'_>) {
        let Some(under) = self.below(cx) else { return };
        let machine = cx.machine();
        let hold = match machine.hold() {
            Hold::Relay => Hold::Relay,
            _ if machine.wants_read() => Hold::Free,
            _ => Hold::Filter,
        };
        drop(machine);
        if under.machine().hold() == hold {
            return;
        }
        let resumed = under.machine_mut().hold_read(hold);
        if resumed {
            under.mark_dirty();
        }
        under.transport().changed(&under, Changed::Pace);
        under.settle();
    }

    fn made_way(&self, cx: &Cx<'_>) -> bool {
        // What it has passed on counts where it moves: its own output may stand still behind the
        // mark of what is below.
        let since = cx.machine().written_at();
        self.under.down().any(|bev| {
            let below = Cx::new(bev, cx.base);
            let moves = bev.0.transport.under().is_none();
            !below.is_freed()
                && (below.machine().written_at() > since
                    || moves && below.transport().made_way(&below))
        })
    }

    fn closing(&self, cx: &Cx<'_>) {
        self.hand_down(cx);
    }

    fn is_cut(&self) -> bool {
        self.under.is_freed()
    }

    fn end(&self, cx: &Cx<'_>, how: End) {
        let mut each = Each::default();
        each.run(|| self.object.clear());
        let Some(under) = self.below(cx) else {
            return each.finish();
        };
        if how != End::LetGo && cx.shell().closes() {
            each.run(|| under.end(how));
            return each.finish();
        }
        let shell = under.shell();
        if shell.handler.generation() == self.callbacks.get() {
            let _gone = self.under.clear_callbacks();
        }
        under.machine_mut().hold_read(Hold::Free);
        under.mark_dirty();
        each.run(|| under.settle());
        each.finish();
    }

    fn under(&self) -> Option<&BufferEvent> {
        Some(&self.under)
    }

    fn await_below(&self) {
        self.awaits_below.set(true);
        self.under.0.transport.await_below();
    }
}

impl Filtering {
    /// The underlying, unless it was freed.
    fn below<'a>(&'a self, cx: &Cx<'a>) -> Option<Cx<'a>> {
        (!self.under.is_freed()).then(|| Cx::new(&self.under, cx.base))
    }

    /// Something happened to the underlying, which holds for this one as well.
    fn below_event(&self, cx: &Cx<'_>, events: Events, errno: Option<Errno>) {
        let reading = events.contains(Events::READING);
        let end = if events.contains(Events::EOF) {
            Some(StreamEnd::Eof)
        } else if reading && events.contains(Events::ERROR) {
            Some(StreamEnd::Error(
                errno.unwrap_or(Errno::from_raw(libc::EIO)),
            ))
        } else {
            None
        };
        let mut rest = events;
        if let Some(end) = end {
            self.below_end.set(Some(end));
            rest.remove(Events::READING | Events::EOF);
            if !events.contains(Events::WRITING) {
                rest.remove(Events::ERROR);
            }
        }
        if !rest.is_empty() {
            cx.machine_mut().handle_forwarded(rest, errno);
        }
        if let Some(end @ StreamEnd::Error(_)) = end
            && cx.machine().hold() == Hold::Relay
        {
            // The relay gives up what waits, and wants to know now. An end in order waits behind
            // it.
            self.below_end.set(None);
            cx.ended(end);
            return;
        }
        self.show_end(cx);
    }

    /// The underlying has sent: whoever stopped producing because of what waited below goes on.
    fn below_drained(&self, cx: &Cx<'_>) {
        if !self.awaits_below.get() || cx.is_freed() {
            return;
        }
        let mut machine = cx.machine_mut();
        if cx.bev.backlog() <= machine.marks(Interest::WRITE).0 {
            self.awaits_below.set(false);
            machine.handle_writable();
        }
    }

    /// Runs a filter while it makes way and may; whether it produced anything.
    fn run_all(&self, cx: &Cx<'_>, way: Way, mode: FlushMode) -> bool {
        let mut produced = false;
        let mut nested = 0;
        while let Some(limit) = self.may_run(cx, way, mode) {
            let Some(ran) = self.run(cx, way, mode, limit) else {
                break;
            };
            produced |= ran.produced != 0;
            nested += u32::from(ran.nested);
            if nested >= MOST_NESTED {
                // It writes to itself each time: the loop gets its turn in between.
                cx.mark_dirty();
                break;
            }
            if cx.is_freed() || !ran.goes_on() {
                break;
            }
        }
        produced
    }

    /// Whether the filter has something to do in a direction, and up to what limit.
    fn may_run(&self, cx: &Cx<'_>, way: Way, mode: FlushMode) -> Option<Option<usize>> {
        let under = self.below(cx)?;
        let machine = cx.machine();
        let (idle, room) = match way {
            Way::In => {
                let idle = !machine.wants_read() || under.shell().input_len() == 0;
                let room = machine.room(cx.shell().input_len());
                (idle, Some(room).filter(|&room| room != usize::MAX))
            }
            Way::Out => {
                let idle = !machine.wants_write(cx.shell().output_len());
                let room = under.machine().output_room(under.shell().output_len());
                (idle || room == Some(0), room)
            }
        };
        match mode {
            FlushMode::Normal => (!idle).then_some(room),
            FlushMode::Flush | FlushMode::Finished => Some(None),
        }
    }

    /// One call of the filter, and what follows from it. `None` when it runs already further up,
    /// or a buffer is in use.
    fn run(&self, cx: &Cx<'_>, way: Way, mode: FlushMode, limit: Option<usize>) -> Option<Ran> {
        let under = self.below(cx)?;
        let finished = &self.finished[way as usize];
        // The last of it is the last of it once.
        let mode = match mode {
            FlushMode::Finished if finished.get() => FlushMode::Flush,
            mode => mode,
        };
        let (own, below) = (&cx.shell().buffers, &under.shell().buffers);
        let (src, dst, side) = match way {
            Way::In => (below, own, Side::Input),
            Way::Out => (own, below, Side::Output),
        };
        let guards = (cx.unless_interrupted(), under.unless_interrupted());
        let ran = self.object.call(|filter| {
            if mode == FlushMode::Finished {
                // Also if it panics.
                finished.set(true);
            }
            let _using = cx.base.using_buffer();
            // An input is drained, an output appended to, without more; the other end is frozen
            // to everybody but its owner and the filter.
            src.lend(side, way == Way::Out, |src| {
                let lent = dst.lend(side, way == Way::In, |dst| match way {
                    Way::In => filter.input(src, dst, limit, mode),
                    Way::Out => filter.output(src, dst, limit, mode),
                });
                lent.map(|(result, there)| (result, there, src.len()))
            })
        });
        std::mem::forget(guards);
        cx.buffer_is_back();
        under.buffer_is_back();
        let Some(Ok((Ok((result, there, left)), here))) = ran else {
            cx.mark_dirty();
            return None;
        };
        let ran = Ran {
            result,
            consumed: here.before.saturating_sub(left),
            produced: there.after.saturating_sub(there.before),
            left: here.after,
            was_empty: there.before == 0,
            nested: here.after > left,
        };
        self.account(cx, &under, way, &ran);
        Some(ran)
    }

    /// Tells both machines what the filter moved.
    fn account(&self, cx: &Cx<'_>, under: &Cx<'_>, way: Way, ran: &Ran) {
        if cx.is_freed() {
            return;
        }
        let bad = Errno::from_raw(libc::EILSEQ);
        let now = cx.now();
        match way {
            Way::In => {
                if ran.produced != 0 {
                    let input = cx.shell().input_len();
                    cx.machine_mut().handle_received(input, now);
                }
                if ran.result == FilterResult::Error {
                    cx.ended(StreamEnd::Error(bad));
                }
                if !under.is_freed() {
                    under.input_changed();
                    under.settle();
                }
            }
            Way::Out => {
                if ran.produced != 0 && !under.is_freed() {
                    under.output_grew(ran.was_empty);
                    under.settle();
                }
                if cx.is_freed() {
                    return;
                }
                if ran.consumed != 0 {
                    let output = cx.shell().output_len();
                    cx.machine_mut().handle_sent(output, now);
                }
                if ran.result == FilterResult::Error {
                    cx.write_failed(bad);
                }
            }
        }
    }

    /// The underlying's stream ended: the filter gets its last chance, then the end is told.
    fn show_end(&self, cx: &Cx<'_>) {
        let Some(end) = self.below_end.get() else {
            return;
        };
        let Some(under) = self.below(cx) else { return };
        if under.machine().is_open_again() {
            // Another descriptor: the end was that of the one before.
            self.below_end.set(None);
            self.finished[Way::In as usize].set(false);
            return;
        }
        if cx.is_freed() || !cx.machine().wants_read() {
            return;
        }
        let before = under.shell().input_len();
        if before != 0 {
            self.run_all(cx, Way::In, FlushMode::Normal);
        }
        if cx.is_freed() || !cx.machine().wants_read() {
            return; // full, paused or failed: later, or never
        }
        let left = under.shell().input_len();
        if left != 0 && left < before {
            // It was full in between, and drained: not the last of it yet.
            cx.mark_dirty();
            return;
        }
        if !self.finished[Way::In as usize].get() {
            self.run_all(cx, Way::In, FlushMode::Finished);
        }
        if cx.is_freed() {
            return;
        }
        if cx.machine().enabled().contains(Interest::READ) {
            self.below_end.set(None);
            cx.ended(end);
        }
    }

    /// `shutdown_write` on a filter: its last bytes, then the underlying's end.
    fn end_direction(&self, cx: &Cx<'_>) {
        if cx.is_freed() || cx.machine().fin() != Fin::Wanted {
            return;
        }
        self.run_all(cx, Way::Out, FlushMode::Finished);
        if cx.is_freed() || cx.shell().output_len() != 0 {
            return;
        }
        cx.machine_mut().set_fin(Fin::Sent);
        let _gone = self.under.shutdown_write();
    }

    /// `close_after_flush` on a filter: it hands its last bytes down and goes; the underlying
    /// flushes and reports.
    fn hand_down(&self, cx: &Cx<'_>) {
        if cx.base.buffers_are_lent() && cx.shell().buffers.are_lent() {
            // It runs further up: once it has returned.
            cx.mark_dirty();
            return;
        }
        self.run_all(cx, Way::Out, FlushMode::Finished);
        if cx.is_freed() {
            return;
        }
        let stuck = cx.shell().output_len();
        // What went down to one that was freed is lost as well, however much that was.
        let broken = self.under.is_freed();
        let Some((deadline, report)) = cx.take_close() else {
            return;
        };
        let closes = cx.shell().closes();
        let (_, write_timeout) = cx.machine().timeouts();
        let mut each = Each::default();
        each.run(|| cx.end(End::LetGo));
        let under = Cx::new(&self.under, cx.base);
        if !closes || under.is_freed() {
            each.run(|| {
                report(match (stuck, broken) {
                    (0, false) => FlushEnd::Flushed,
                    (unsent, _) => FlushEnd::Failed { unsent },
                });
            });
            return each.finish();
        }
        let told = move |end| {
            report(match (end, stuck) {
                (FlushEnd::Flushed, 0) => FlushEnd::Flushed,
                (FlushEnd::Flushed, unsent) => FlushEnd::Failed { unsent },
                (FlushEnd::TimedOut { unsent }, _) => FlushEnd::TimedOut {
                    unsent: unsent + stuck,
                },
                (FlushEnd::Failed { unsent }, _) => FlushEnd::Failed {
                    unsent: unsent + stuck,
                },
            });
        };
        let (read, own) = under.machine().timeouts();
        if own == 0 && write_timeout != 0 {
            // What it would have timed itself is sent from below now.
            under
                .machine_mut()
                .set_timeouts(read, write_timeout, cx.now());
        }
        each.run(|| under.begin_close(deadline, Box::new(told)));
        each.run(|| under.settle());
        each.finish();
    }
}
