//! The filter flavour: a bufferevent over another one, with a transformation between them.

use std::cell::{Cell, RefCell, RefMut};
use std::fmt;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::callbacks::Handles;
use super::core::Fin;
use super::types::{Events, FilterResult, FlushEnd, FlushMode, FlushResult};
use super::{BufferEvent, Flavour, Handler, Inner, Options};
use crate::error::Error;
use crate::evbuffer::EvBuffer;
use crate::event_base::{EventBase, Interest};
use crate::sys::Errno;

/// What a filter does to the bytes that pass through it (`bufferevent_filter_cb`).
///
/// Each method moves bytes from `src` to `dst`, transforming them. `limit` is how many `dst` should get at most, to stay
/// within its mark; going over it is allowed. The mode says whether to hold bytes back as is convenient
/// (`Normal`), to hand over what there is (`Flush`), or that this was the last of it (`Finished`). A method that is not
/// implemented passes bytes on as they are.
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

/// A direction of a filter as the machine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// What a filter holds.
pub(super) struct Filtering {
    under: BufferEvent,
    /// Taken while it runs: what it writes to its own bufferevent is picked up afterwards.
    filter: RefCell<Option<Box<dyn Filter>>>,
    /// The underlying's stream has ended; told once its bytes have passed.
    ended: Cell<bool>,
}

impl Filtering {
    pub(super) fn under(&self) -> &BufferEvent {
        &self.under
    }
}

impl fmt::Debug for Filtering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filtering")
            .field("under", &self.under)
            .field("ended", &self.ended.get())
            .finish_non_exhaustive()
    }
}

impl BufferEvent {
    /// A bufferevent whose bytes pass through `filter` on their way to and from `underlying`
    /// (`bufferevent_filter_new`). Filters stack to any depth.
    ///
    /// It takes over the callbacks of the underlying and enables it; the underlying reads only while the filter's READ is
    /// enabled. With `CLOSE_ON_FREE`, freeing the filter frees the underlying; without, the underlying stays, with no
    /// callbacks. The filter object is dropped with the bufferevent (`free_context`).
    ///
    /// # Errors
    /// [`Error::Freed`] when the underlying was freed; [`Error::Invalid`] for `UNLOCK_CALLBACKS` without `DEFER_CALLBACKS`.
    pub fn filter(
        underlying: &BufferEvent,
        filter: impl Filter + 'static,
        options: Options,
    ) -> Result<Self, Error> {
        super::check_options(options)?;
        let base = underlying.base()?;
        let flavour = Flavour::Filter(Box::new(Filtering {
            under: underlying.clone(),
            filter: RefCell::new(Some(Box::new(filter))),
            ended: Cell::new(false),
        }));
        let inner = Inner::new(&base, options, flavour, None);
        underlying.set_handler(Under {
            filter: Rc::downgrade(&inner),
        })?;
        underlying.0.core.borrow_mut().hold_read(true);
        underlying.enable(Interest::READ | Interest::WRITE)?;
        Ok(BufferEvent(inner))
    }

    /// The bufferevent under a filter; none for other flavours (`bufferevent_get_underlying`).
    pub fn underlying(&self) -> Option<BufferEvent> {
        match &self.0.flavour {
            Flavour::Filter(filtering) => Some(filtering.under.clone()),
            _ => None,
        }
    }
}

/// The callbacks of a filter's underlying.
struct Under {
    filter: Weak<Inner>,
}

impl Under {
    fn with(&self, f: impl FnOnce(&Rc<Inner>, &EventBase, &Filtering)) {
        let Some(inner) = self.filter.upgrade() else {
            return;
        };
        let Ok(base) = inner.live() else { return };
        if let Flavour::Filter(filtering) = &inner.flavour {
            f(&inner, &base, filtering);
        }
    }
}

impl Handler for Under {
    fn read(&mut self, _: &BufferEvent) {
        self.with(|inner, base, filtering| {
            inner.filter_in(base, filtering, FlushMode::Normal);
        });
    }

    fn write(&mut self, _: &BufferEvent) {
        self.with(|inner, base, filtering| {
            inner.filter_out(base, filtering, FlushMode::Normal);
        });
    }

    fn event(&mut self, under: &BufferEvent, events: Events) {
        self.with(|inner, base, filtering| {
            if events.contains(Events::EOF) {
                filtering.ended.set(true);
                inner.show_filter_end(base, filtering);
            } else {
                let errno = under.last_error();
                inner.core.borrow_mut().handle_forwarded(events, errno);
                inner.run_callbacks(base);
            }
            inner.sync(base);
        });
    }
}

/// The filter while it is called; it goes back also when it panics.
struct Lent<'a> {
    inner: &'a Inner,
    filtering: &'a Filtering,
    filter: Option<Box<dyn Filter>>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        // One whose bufferevent was freed meanwhile is dropped here, with no borrow held.
        if !self.inner.freed.get() {
            *self.filtering.filter.borrow_mut() = self.filter.take();
        }
    }
}

/// The buffers that a filter may drain and append to for once.
struct Thawed<'a> {
    src: RefMut<'a, EvBuffer>,
    dst: RefMut<'a, EvBuffer>,
    way: Way,
}

impl Drop for Thawed<'_> {
    fn drop(&mut self) {
        match self.way {
            Way::In => self.dst.freeze_end(),
            Way::Out => self.src.freeze_start(),
        }
    }
}

impl Inner {
    /// Lets the underlying read exactly while the filter may, all the way down.
    pub(super) fn sync_hold(&self, base: &EventBase, filtering: &Filtering) {
        let hold = !self.core.borrow().wants_read();
        let under = &filtering.under.0;
        let resumed = under.core.borrow_mut().hold_read(hold);
        if let Flavour::Filter(below) = &under.flavour {
            under.sync_hold(base, below);
        }
        if resumed {
            under.mark_dirty(base);
        }
        under.sync(base);
    }

    /// What a filter does before the next enter: bytes that waited for an enable or for room.
    pub(super) fn start_filter_io(self: &Rc<Self>, base: &EventBase, filtering: &Filtering) {
        self.filter_out(base, filtering, FlushMode::Normal);
        self.end_filter_direction(base, filtering);
        self.filter_in(base, filtering, FlushMode::Normal);
        self.show_filter_end(base, filtering);
    }

    /// Runs the input filter while it makes way and may; whether it produced anything.
    pub(super) fn filter_in(
        self: &Rc<Self>,
        base: &EventBase,
        filtering: &Filtering,
        mode: FlushMode,
    ) -> bool {
        let mut produced = false;
        loop {
            let core = self.core.borrow();
            let idle = !core.wants_read() || filtering.under.input().is_empty();
            if mode == FlushMode::Normal && idle {
                break;
            }
            let limit = match (mode, core.room(self.input_len())) {
                (FlushMode::Normal, room) if room != usize::MAX => Some(room),
                _ => None,
            };
            drop(core);
            let Some(step) = self.run_filter(base, filtering, Way::In, limit, mode) else {
                break;
            };
            if step.produced != 0 {
                produced = true;
                let now = base.now();
                self.core
                    .borrow_mut()
                    .handle_received(self.input_len(), now);
            }
            if step.consumed != 0 {
                filtering.under.0.input_drained(base);
            }
            if step.result == FilterResult::Error {
                let bad = Errno::from_raw(libc::EILSEQ);
                self.core.borrow_mut().handle_read_error(bad);
            }
            if !step.goes_on() || step.left == 0 {
                break;
            }
        }
        self.run_callbacks(base);
        if !self.freed.get() {
            self.sync_hold(base, filtering);
            self.sync(base);
        }
        produced
    }

    /// Runs the output filter while it makes way and may; whether it produced anything.
    pub(super) fn filter_out(
        self: &Rc<Self>,
        base: &EventBase,
        filtering: &Filtering,
        mode: FlushMode,
    ) -> bool {
        let under = &filtering.under.0;
        let mut produced = false;
        loop {
            let waiting = self.output_len();
            let full = under.output_room();
            let core = self.core.borrow();
            let idle = !core.wants_write(waiting) || full == Some(0);
            drop(core);
            if mode == FlushMode::Normal && idle {
                break;
            }
            let limit = full.filter(|_| mode == FlushMode::Normal);
            let Some(step) = self.run_filter(base, filtering, Way::Out, limit, mode) else {
                break;
            };
            if step.produced != 0 {
                produced = true;
                under.output_grew(base, step.was_empty);
            }
            if step.consumed != 0 {
                let now = base.now();
                self.core.borrow_mut().handle_sent(self.output_len(), now);
            }
            if step.result == FilterResult::Error {
                let bad = Errno::from_raw(libc::EILSEQ);
                self.core.borrow_mut().handle_write_error(bad);
            }
            if !step.goes_on() || step.left == 0 {
                break;
            }
        }
        self.run_callbacks(base);
        self.sync(base);
        produced
    }

    /// One call of the filter. `None` when it runs already further up, or a buffer is in use.
    fn run_filter(
        self: &Rc<Self>,
        base: &EventBase,
        filtering: &Filtering,
        way: Way,
        limit: Option<usize>,
        mode: FlushMode,
    ) -> Option<Step> {
        let taken = filtering.filter.borrow_mut().take();
        if taken.is_none() {
            self.mark_dirty(base);
            return None;
        }
        let mut lent = Lent {
            inner: self,
            filtering,
            filter: taken,
        };
        let filter = lent.filter.as_mut()?;
        let under = &filtering.under.0;
        let (src, dst) = match way {
            Way::In => (&under.input, &self.input),
            Way::Out => (&self.output, &under.output),
        };
        let (Ok(src), Ok(dst)) = (src.try_borrow_mut(), dst.try_borrow_mut()) else {
            self.mark_dirty(base);
            return None;
        };
        let mut thawed = Thawed { src, dst, way };
        let (src, dst) = (&mut *thawed.src, &mut *thawed.dst);
        let (before, had) = (src.len(), dst.len());
        src.unfreeze_start();
        dst.unfreeze_end();
        let _using = base.using_buffer();
        let result = match way {
            Way::In => filter.input(src, dst, limit, mode),
            Way::Out => filter.output(src, dst, limit, mode),
        };
        if self.freed.get() {
            return None;
        }
        Some(Step {
            result,
            consumed: before.saturating_sub(src.len()),
            produced: dst.len().saturating_sub(had),
            left: src.len(),
            was_empty: had == 0,
        })
    }

    /// The underlying's stream ended: the filter gets its last chance, then the end is told.
    fn show_filter_end(self: &Rc<Self>, base: &EventBase, filtering: &Filtering) {
        if !filtering.ended.get() || !self.core.borrow().wants_read() {
            return;
        }
        let before = filtering.under.input().len();
        if before != 0 {
            self.filter_in(base, filtering, FlushMode::Normal);
        }
        if self.freed.get() || !self.core.borrow().wants_read() {
            return; // full, paused or failed: later, or never
        }
        let left = filtering.under.input().len();
        if left != 0 && left < before {
            // It was full in between, and drained: not the last of it yet.
            self.mark_dirty(base);
            return;
        }
        self.filter_in(base, filtering, FlushMode::Finished);
        if self.freed.get() {
            return;
        }
        let mut core = self.core.borrow_mut();
        if core.enabled().contains(Interest::READ) {
            core.handle_eof();
            drop(core);
            self.run_callbacks(base);
        }
    }

    /// `shutdown_write` on a filter: its last bytes, then the underlying's end.
    fn end_filter_direction(self: &Rc<Self>, base: &EventBase, filtering: &Filtering) {
        if self.core.borrow().fin() != Fin::Wanted {
            return;
        }
        self.filter_out(base, filtering, FlushMode::Finished);
        if self.freed.get() || self.output_len() != 0 {
            return;
        }
        self.core.borrow_mut().set_fin(Fin::Sent);
        let _freed = filtering.under.shutdown_write();
    }

    /// What a flush does to a filter and what is under it.
    pub(super) fn flush_filter(
        self: &Rc<Self>,
        base: &EventBase,
        filtering: &Filtering,
        interest: Interest,
        mode: FlushMode,
    ) -> FlushResult {
        let mut produced = false;
        if interest.contains(Interest::READ) {
            produced |= self.filter_in(base, filtering, mode);
        }
        if interest.contains(Interest::WRITE) && !self.freed.get() {
            produced |= self.filter_out(base, filtering, mode);
        }
        match filtering.under.flush(interest, mode) {
            Err(_) => FlushResult::Failed,
            Ok(FlushResult::Failed) => FlushResult::Failed,
            Ok(FlushResult::Produced) => FlushResult::Produced,
            Ok(FlushResult::Nothing) if produced => FlushResult::Produced,
            Ok(FlushResult::Nothing) => FlushResult::Nothing,
        }
    }

    /// `close_after_flush` on a filter: it hands its last bytes down and goes; the underlying flushes and reports.
    pub(super) fn close_filter(
        self: &Rc<Self>,
        base: &EventBase,
        filtering: &Filtering,
        deadline: Option<Duration>,
        report: Box<dyn FnOnce(FlushEnd)>,
    ) {
        self.replace_handler(None, Handles::ALL);
        self.filter_out(base, filtering, FlushMode::Finished);
        let stuck = self.output_len();
        let under = filtering.under.clone();
        let closes = self.closes();
        self.free_and_under(base, false);
        if !closes || under.is_freed() {
            let end = match stuck {
                0 => FlushEnd::Flushed,
                unsent => FlushEnd::Failed { unsent },
            };
            let _freed = under.clear_callbacks();
            report(end);
            return;
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
        let _freed = under.close_after_flush(deadline, told);
    }

    /// A filter is being freed: so is the underlying, or it is handed back.
    pub(super) fn leave_filter(&self, base: &EventBase, filtering: &Filtering, free: bool) {
        let filter = filtering.filter.borrow_mut().take();
        drop(filter);
        let under = &filtering.under;
        if free {
            under.free();
        } else if under.clear_callbacks().is_ok() {
            under.0.core.borrow_mut().hold_read(false);
            under.0.mark_dirty(base);
        }
    }
}

/// What one call of a filter did, in bytes.
struct Step {
    result: FilterResult,
    consumed: usize,
    produced: usize,
    /// Left in the source.
    left: usize,
    /// The destination had nothing before.
    was_empty: bool,
}

impl Step {
    /// Whether to call it again: it said so, and it did something.
    fn goes_on(&self) -> bool {
        self.result == FilterResult::Ok && (self.consumed != 0 || self.produced != 0)
    }
}
