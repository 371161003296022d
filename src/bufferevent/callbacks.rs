//! What the user's code is called with, and how it is called.

use std::fmt;

use super::BufferEvent;
use super::machine::Due;
use super::types::Events;

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

/// The callbacks of a bufferevent as closures. What they return is dropped: results that nobody
/// can act on need no more than to be the last expression.
///
/// ```
/// use evring::{BufferEvent, Callbacks, Events};
///
/// let callbacks = Callbacks::new()
///     .on_read(|bev| bev.transfer_to(bev)) // echo
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
    pub fn on_read<R>(mut self, mut f: impl FnMut(&BufferEvent) -> R + 'static) -> Self {
        self.read = Some(Box::new(move |bev| drop(f(bev))));
        self
    }

    /// Called when the output was drained to its low mark.
    pub fn on_write<R>(mut self, mut f: impl FnMut(&BufferEvent) -> R + 'static) -> Self {
        self.write = Some(Box::new(move |bev| drop(f(bev))));
        self
    }

    /// Called when something happened.
    pub fn on_event<R>(mut self, mut f: impl FnMut(&BufferEvent, Events) -> R + 'static) -> Self {
        self.event = Some(Box::new(move |bev, events| drop(f(bev, events))));
        self
    }
}

impl Callbacks {
    /// What there is something to call for. Reading is always among them: what is left in the input
    /// is looked after then.
    pub(super) fn handled(&self) -> Due {
        let mut handled = Due::READ;
        if self.write.is_some() {
            handled |= Due::WRITE;
        }
        if self.event.is_some() {
            handled |= Due::EVENTS;
        }
        handled
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
