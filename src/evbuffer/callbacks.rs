//! Callbacks on change, and the rarely used state that they share a box with.

use super::{EvBuffer, HELD, WATCHED};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How often one change may set off another from within the callbacks before the rest waits for
/// the next change.
const MAX_ROUNDS: usize = 16;

/// What happened to a buffer since its callbacks last ran (libevent: `evbuffer_cb_info`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Length before, bytes.
    pub orig_len: usize,
    /// Bytes added since, at either end.
    pub added: usize,
    /// Bytes taken away since.
    pub deleted: usize,
}

/// Names a callback of a buffer (libevent: `evbuffer_cb_entry`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallbackId(u64);

/// State that most buffers do not need.
pub(super) struct Extra {
    /// In the order of their ids.
    callbacks: Vec<Entry>,
    /// Asks for a later `run_deferred`; with it, callbacks are deferred.
    schedule: Option<Box<dyn FnMut() + Send>>,
    scheduled: bool,
    /// Callbacks are being called: what they change waits for the next round. Shared with the call
    /// under way, which ends even if a callback puts another buffer in this one's place.
    running: Arc<AtomicBool>,
    /// Most bytes that one `read_from` takes; 0 = default.
    pub(super) max_read: usize,
    /// Length at which reads stop.
    pub(super) max_len: Option<usize>,
}

type Callback = Box<dyn FnMut(&mut EvBuffer, &Change) + Send>;

struct Entry {
    id: CallbackId,
    enabled: bool,
    no_defer: bool,
    /// What happened since it was called, outside of the round under way.
    unheard: Pending,
    /// What it is to hear in the round under way, or in the next one if a panic ended that round.
    due: Pending,
    place: Place,
}

/// Where a callback is while it does not run. It returns there even when its buffer has moved.
type Place = Arc<Mutex<Option<Callback>>>;

#[derive(Clone, Copy, Default)]
struct Pending {
    added: usize,
    deleted: usize,
}

impl Pending {
    fn note(&mut self, added: usize, deleted: usize) {
        self.added = self.added.saturating_add(added);
        self.deleted = self.deleted.saturating_add(deleted);
    }

    fn is_empty(self) -> bool {
        self.added == 0 && self.deleted == 0
    }

    /// The change that ends at length `len`.
    fn change(self, len: usize) -> Change {
        Change {
            orig_len: len.saturating_add(self.deleted).saturating_sub(self.added),
            added: self.added,
            deleted: self.deleted,
        }
    }
}

impl Extra {
    fn new() -> Self {
        Extra {
            callbacks: Vec::new(),
            schedule: None,
            scheduled: false,
            running: Arc::new(AtomicBool::new(false)),
            max_read: 0,
            max_len: None,
        }
    }

    /// Whether this callback waits for `run_deferred`.
    fn is_deferred(&self, entry: &Entry) -> bool {
        self.schedule.is_some() && !entry.no_defer
    }
}

impl fmt::Debug for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extra")
            .field("callbacks", &self.callbacks.len())
            .field("deferred", &self.schedule.is_some())
            .finish()
    }
}

/// A callback out of its place; goes back on drop, so also when it panics.
struct Out {
    call: Option<Callback>,
    place: Place,
}

impl Out {
    fn take(place: &Place) -> Option<Out> {
        let call = lock(place).take()?;
        Some(Out {
            call: Some(call),
            place: Arc::clone(place),
        })
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        *lock(&self.place) = self.call.take();
    }
}

/// Nothing panics while a place is locked.
fn lock(place: &Place) -> MutexGuard<'_, Option<Callback>> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends a buffer's rounds, also when a callback panics.
struct Running(Arc<AtomicBool>);

impl Running {
    /// `None` while rounds are under way.
    fn begin(running: &Arc<AtomicBool>) -> Option<Running> {
        let busy = running.swap(true, Ordering::Relaxed);
        (!busy).then(|| Running(Arc::clone(running)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl EvBuffer {
    /// Calls `call` after every operation that changes the length (libevent: `evbuffer_add_cb`).
    /// It gets the buffer, already changed, and what happened. The one added last is called first.
    ///
    /// It may change the buffer; that is reported in a further round after all callbacks ran, never
    /// by recursion. After 16 rounds what remains is reported with the next change.
    ///
    /// It may panic, and is called again afterwards. Callbacks run when the operation is complete:
    /// the buffer, and the other one where bytes move between two, are whole when the panic leaves
    /// that operation. Whoever had not been called yet hears of that change together with the next
    /// one, and so do the callbacks of the other buffer.
    ///
    /// ```
    /// use evring::evbuffer::EvBuffer;
    /// use std::sync::atomic::{AtomicUsize, Ordering};
    /// use std::sync::Arc;
    ///
    /// # fn main() -> Result<(), evring::evbuffer::BufferError> {
    /// let seen = Arc::new(AtomicUsize::new(0));
    /// let mut buffer = EvBuffer::new();
    /// let id = buffer.add_callback({
    ///     let seen = seen.clone();
    ///     move |_, change| { seen.fetch_add(change.added, Ordering::Relaxed); }
    /// });
    /// buffer.add(b"four")?;
    /// assert_eq!(seen.load(Ordering::Relaxed), 4);
    /// assert!(buffer.remove_callback(id));
    /// # Ok(())
    /// # }
    /// ```
    pub fn add_callback(
        &mut self,
        call: impl FnMut(&mut EvBuffer, &Change) + Send + 'static,
    ) -> CallbackId {
        // Process-wide, so that an id never means another buffer's callback.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = CallbackId(NEXT.fetch_add(1, Ordering::Relaxed));
        self.extra_mut().callbacks.push(Entry {
            id,
            enabled: true,
            no_defer: false,
            unheard: Pending::default(),
            due: Pending::default(),
            place: Arc::new(Mutex::new(Some(Box::new(call)))),
        });
        self.flags |= WATCHED;
        id
    }

    /// Removes a callback; false when there is none of this id (libevent:
    /// `evbuffer_remove_cb_entry`, `evbuffer_remove_cb`). It may remove itself.
    pub fn remove_callback(&mut self, id: CallbackId) -> bool {
        let Some(extra) = &mut self.extra else {
            return false;
        };
        let Some(at) = extra.callbacks.iter().position(|entry| entry.id == id) else {
            return false;
        };
        let removed = extra.callbacks.remove(at);
        if extra.callbacks.is_empty() {
            self.flags &= !WATCHED;
        }
        // What it captured may run code of its own.
        drop(removed);
        true
    }

    /// Turns a callback on or off; false when there is none of this id (libevent:
    /// `evbuffer_cb_set_flags`, `evbuffer_cb_clear_flags` with `EVBUFFER_CB_ENABLED`). It does not
    /// hear later of what happened while it was off.
    pub fn set_callback_enabled(&mut self, id: CallbackId, enabled: bool) -> bool {
        self.with_callback(id, |entry| entry.enabled = enabled)
    }

    /// Exempts a callback from deferral, or not; false when there is none of this id (libevent:
    /// `EVBUFFER_CB_NODEFER`).
    pub fn set_callback_immediate(&mut self, id: CallbackId, immediate: bool) -> bool {
        self.with_callback(id, |entry| entry.no_defer = immediate)
    }

    /// From now on callbacks do not run at once: at the first change `schedule` is called, once,
    /// and whoever it told calls [`EvBuffer::run_deferred`] later (libevent:
    /// `evbuffer_defer_callbacks`, which posts to a base).
    pub fn defer_callbacks(&mut self, schedule: impl FnMut() + Send + 'static) {
        let extra = self.extra_mut();
        extra.schedule = Some(Box::new(schedule));
        extra.scheduled = false;
    }

    /// Runs the deferred callbacks with all that happened since they last ran; true when there was
    /// something to report.
    pub fn run_deferred(&mut self) -> bool {
        let Some(extra) = &mut self.extra else {
            return false;
        };
        extra.scheduled = false;
        self.call_round(true)
    }

    /// From now on changes are noted, and told by [`tell_callbacks`](Self::tell_callbacks) only:
    /// for a buffer that is changed while something is borrowed.
    pub(crate) fn hold_callbacks(&mut self) {
        self.flags |= HELD;
    }

    /// Changes are told at once again.
    pub(crate) fn unhold_callbacks(&mut self) {
        self.flags &= !HELD;
    }

    /// Whether there are callbacks.
    pub(crate) fn is_watched(&self) -> bool {
        self.flags & WATCHED != 0
    }

    /// Whether [`tell_callbacks`](Self::tell_callbacks) would call anyone.
    #[inline]
    pub(crate) fn callbacks_due(&self) -> bool {
        self.flags & WATCHED != 0 && self.has_unheard()
    }

    /// Tells the callbacks what they have not heard of yet, held back or not.
    pub(crate) fn tell_callbacks(&mut self) {
        if self.flags & WATCHED != 0 {
            self.tell_watched();
        }
    }

    #[cold]
    fn has_unheard(&self) -> bool {
        let entries = self.extra.as_ref().map(|extra| &extra.callbacks);
        entries.is_some_and(|entries| {
            let waits = |entry: &Entry| !entry.unheard.is_empty() || !entry.due.is_empty();
            entries.iter().any(|entry| entry.enabled && waits(entry))
        })
    }

    /// Notes a change for everyone who is to hear of it. Called with `WATCHED` set.
    #[cold]
    pub(super) fn note_change(&mut self, added: usize, deleted: usize) {
        let Some(extra) = &mut self.extra else {
            return;
        };
        for entry in extra.callbacks.iter_mut().filter(|entry| entry.enabled) {
            entry.unheard.note(added, deleted);
        }
    }

    /// Calls the immediate callbacks and has the deferred ones scheduled. Called with `WATCHED` set.
    #[cold]
    pub(super) fn tell_watched(&mut self) {
        let Some(extra) = &mut self.extra else {
            return;
        };
        let waits = |entry: &Entry| extra.is_deferred(entry) && !entry.unheard.is_empty();
        if !extra.scheduled
            && extra.callbacks.iter().any(waits)
            && let Some(schedule) = &mut extra.schedule
        {
            schedule();
            extra.scheduled = true;
        }
        // In a round that is under way, the next one tells what is new.
        let Some(_running) = Running::begin(&extra.running) else {
            return;
        };
        for _ in 0..MAX_ROUNDS {
            if !self.call_round(false) {
                return;
            }
        }
    }

    /// Calls the enabled callbacks that have something to hear and are deferred or not, as asked,
    /// newest first; false when there were none. Each may add and remove callbacks: an added one
    /// waits for the next change, a removed one is not called any more.
    fn call_round(&mut self, deferred: bool) -> bool {
        let Some(extra) = &mut self.extra else {
            return false;
        };
        let len = self.len;
        let has_schedule = extra.schedule.is_some();
        let mut any = false;
        // Those who are not asked have nothing due.
        for entry in &mut extra.callbacks {
            if (has_schedule && !entry.no_defer) == deferred {
                let Pending { added, deleted } = std::mem::take(&mut entry.unheard);
                entry.due.note(added, deleted);
                any |= !entry.due.is_empty();
            }
        }
        // Entries are in the order of their ids, and new ones get higher ids: going down by id finds
        // each of those that were there once, whatever is added or removed meanwhile.
        let mut below = u64::MAX;
        while any && let Some(extra) = &mut self.extra {
            let mut entries = extra.callbacks.iter_mut();
            let Some(entry) = entries.rfind(|entry| entry.id.0 < below) else {
                break;
            };
            below = entry.id.0;
            let due = std::mem::take(&mut entry.due);
            if due.is_empty() || !entry.enabled {
                continue;
            }
            if let Some(mut out) = Out::take(&entry.place)
                && let Some(call) = &mut out.call
            {
                call(self, &due.change(len));
            }
        }
        any
    }

    fn with_callback(&mut self, id: CallbackId, change: impl FnOnce(&mut Entry)) -> bool {
        let entries = self.extra.as_mut().map(|extra| &mut extra.callbacks);
        let entry = entries.and_then(|entries| entries.iter_mut().find(|entry| entry.id == id));
        entry.map(change).is_some()
    }

    pub(super) fn extra_mut(&mut self) -> &mut Extra {
        self.extra.get_or_insert_with(|| Box::new(Extra::new()))
    }
}
