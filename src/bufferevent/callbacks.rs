//! What the user's code is called with, and how it is called.

use std::fmt;
use std::rc::Rc;

use super::core::Stage;
use super::types::{Events, Options};
use super::{BufferEvent, Inner};
use crate::event_base::EventBase;

/// The callbacks of a bufferevent as one object; each does nothing unless implemented.
///
/// A callback may do anything to any bufferevent, its own included: write, change callbacks,
/// free it, stop the loop. None runs after [`BufferEvent::free`].
pub trait Handler {
    /// There is something to read (`readcb`): the input has at least the low mark.
    fn read(&mut self, _bev: &BufferEvent) {}
    /// The output was drained to its low mark (`writecb`).
    fn write(&mut self, _bev: &BufferEvent) {}
    /// Something happened: connected, end of stream, error, time-out (`eventcb`).
    fn event(&mut self, _bev: &BufferEvent, _events: Events) {}
}

type DataFn = Box<dyn FnMut(&BufferEvent)>;
type EventFn = Box<dyn FnMut(&BufferEvent, Events)>;

/// The callbacks of a bufferevent as closures.
///
/// ```
/// use evring::{BufferEvent, Callbacks, Events};
///
/// let callbacks = Callbacks::new()
///     .on_read(|bev| drop(bev.transfer_to(bev))) // echo
///     .on_event(|bev, events| {
///         if events.intersects(Events::EOF | Events::ERROR) {
///             bev.free();
///         }
///     });
/// # drop(callbacks);
/// ```
#[derive(Default)]
#[must_use = "callbacks do nothing until they are set on a bufferevent"]
pub struct Callbacks {
    read: Option<DataFn>,
    write: Option<DataFn>,
    event: Option<EventFn>,
}

impl Callbacks {
    /// No callbacks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Called when there is something to read.
    pub fn on_read(mut self, f: impl FnMut(&BufferEvent) + 'static) -> Self {
        self.read = Some(Box::new(f));
        self
    }

    /// Called when the output was drained to its low mark.
    pub fn on_write(mut self, f: impl FnMut(&BufferEvent) + 'static) -> Self {
        self.write = Some(Box::new(f));
        self
    }

    /// Called when something happened.
    pub fn on_event(mut self, f: impl FnMut(&BufferEvent, Events) + 'static) -> Self {
        self.event = Some(Box::new(f));
        self
    }
}

impl Callbacks {
    pub(super) fn handles(&self) -> Handles {
        Handles {
            write: self.write.is_some(),
            event: self.event.is_some(),
        }
    }
}

impl Handler for Callbacks {
    fn read(&mut self, bev: &BufferEvent) {
        if let Some(f) = &mut self.read {
            f(bev);
        }
    }

    fn write(&mut self, bev: &BufferEvent) {
        if let Some(f) = &mut self.write {
            f(bev);
        }
    }

    fn event(&mut self, bev: &BufferEvent, events: Events) {
        if let Some(f) = &mut self.event {
            f(bev, events);
        }
    }
}

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callbacks")
            .field("read", &self.read.is_some())
            .field("write", &self.write.is_some())
            .field("event", &self.event.is_some())
            .finish()
    }
}

/// Of which stages there is something to call. To skip a write callback that nobody set is worth it: each message that
/// leaves makes one due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handles {
    write: bool,
    event: bool,
}

impl Handles {
    /// Those of a handler, whose methods may all do something.
    pub(super) const ALL: Handles = Handles {
        write: true,
        event: true,
    };

    /// Reading is always among them: what is left in the input is looked after then.
    fn contains(self, stage: Stage) -> bool {
        match stage {
            Stage::Read => true,
            Stage::Write => self.write,
            Stage::Connected | Stage::Events => self.event,
        }
    }
}

/// A run of callbacks. Ends it also when one of them panics: whoever catches that may go on with the loop.
struct Calling<'a> {
    inner: &'a Rc<Inner>,
    base: &'a EventBase,
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.inner.calling.set(None);
        if !self.inner.freed.get() && self.inner.core.borrow().has_pending() {
            self.inner.defer_callbacks(self.base);
        }
        if std::thread::panicking() {
            // Who called does not get to it.
            self.inner.sync(self.base);
        }
    }
}

/// The handler while it is called; it goes back also when it panics.
struct Lent<'a> {
    inner: &'a Inner,
    handler: Option<Box<dyn Handler>>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        // Kept only if it was not replaced, cleared or freed meanwhile. Otherwise it is dropped
        // here, with no borrow held: it may own the last handle to something.
        if !self.inner.handler_changed.get() && !self.inner.freed.get() {
            self.inner.handler.set(self.handler.take());
        }
    }
}

impl Inner {
    /// Runs the callbacks that are due, here if that is allowed, from the FIFO if not.
    pub(super) fn run_callbacks(self: &Rc<Self>, base: &EventBase) {
        let core = self.core.borrow();
        if !core.has_pending() {
            return;
        }
        let deferred = core.options.contains(Options::DEFER_CALLBACKS);
        match self.calling.get() {
            // The run that is under way comes to it.
            Some(stage) if core.pending_after(stage) => return,
            Some(_) => {}
            None if deferred || !base.calls_inline() => {}
            None => {
                drop(core);
                return self.call(base);
            }
        }
        drop(core);
        self.defer_callbacks(base);
    }

    /// Has the callbacks that are due run from the FIFO.
    pub(super) fn defer_callbacks(self: &Rc<Self>, base: &EventBase) {
        self.registration.enqueue(base);
    }

    /// One run: every stage that is due, in order. What becomes due meanwhile for an earlier stage waits for the FIFO.
    pub(super) fn call(self: &Rc<Self>, base: &EventBase) {
        let bev = BufferEvent(self.clone());
        let _calling = Calling { inner: self, base };
        let mut last = None;
        while !self.freed.get() {
            let due = self.core.borrow_mut().take_after(last);
            let Some((stage, events)) = due else { break };
            self.calling.set(Some(stage));
            last = Some(stage);
            if self.handles.get().contains(stage) {
                self.call_stage(&bev, base, stage, events);
            }
        }
    }

    fn call_stage(&self, bev: &BufferEvent, base: &EventBase, stage: Stage, events: Events) {
        let Some(handler) = self.handler.take() else {
            return;
        };
        self.handler_changed.set(false);
        let mut lent = Lent {
            inner: self,
            handler: Some(handler),
        };
        let Some(handler) = &mut lent.handler else {
            return;
        };
        match stage {
            Stage::Read => {
                let before = self.input_len();
                handler.read(bev);
                self.after_read_callback(base, before);
            }
            Stage::Write => handler.write(bev),
            Stage::Connected | Stage::Events => handler.event(bev, events),
        }
    }

    /// The read callback returned: a small rest is copied out of its slot, and a full buffer is
    /// shown again if the callback made some way.
    fn after_read_callback(&self, base: &EventBase, before: usize) {
        if self.freed.get() {
            return;
        }
        let left = self.input_len();
        if left == 0 {
            return;
        }
        if left <= base.slot_size() / super::COPY_OUT_FRACTION
            && let Ok(mut input) = self.input.try_borrow_mut()
        {
            input.compact_small(left);
        }
        let mut core = self.core.borrow_mut();
        if core.is_full() && left < before {
            core.trigger(true, false, Events::empty());
        }
    }
}
