//! Callbacks on change, and the rarely used state that they share a box with.

use super::{EvBuffer, WATCHED};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

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
    callbacks: Vec<Entry>,
    /// Changes that the immediate callbacks have not heard of.
    now: Pending,
    /// Changes that the deferred callbacks have not heard of.
    later: Pending,
    /// Asks for a later `run_deferred`; with it, callbacks are deferred.
    schedule: Option<Box<dyn FnMut() + Send>>,
    scheduled: bool,
    running: bool,
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
    /// Out while it runs.
    call: Option<Callback>,
}

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
            now: Pending::default(),
            later: Pending::default(),
            schedule: None,
            scheduled: false,
            running: false,
            max_read: 0,
            max_len: None,
        }
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

impl EvBuffer {
    /// Calls `call` after every operation that changes the length (libevent: `evbuffer_add_cb`).
    /// It gets the buffer, already changed, and what happened. The one added last is called first.
    ///
    /// It may change the buffer; that is reported in a further round after all callbacks ran, never
    /// by recursion. After 16 rounds what remains is reported with the next change.
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
            call: Some(Box::new(call)),
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
        drop(extra.callbacks.remove(at));
        if extra.callbacks.is_empty() {
            self.flags &= !WATCHED;
            extra.now = Pending::default();
            extra.later = Pending::default();
        }
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
        let pending = std::mem::take(&mut extra.later);
        if pending.is_empty() {
            return false;
        }
        let change = pending.change(self.len());
        self.call_each(&change, |entry| !entry.no_defer);
        true
    }

    /// Notes a change and runs or schedules the callbacks. Called with `WATCHED` set.
    #[cold]
    pub(super) fn changed_watched(&mut self, added: usize, deleted: usize) {
        let Some(extra) = &mut self.extra else {
            return;
        };
        extra.now.note(added, deleted);
        if extra.schedule.is_some() {
            extra.later.note(added, deleted);
            if !extra.scheduled && !extra.later.is_empty() {
                extra.scheduled = true;
                if let Some(schedule) = &mut extra.schedule {
                    schedule();
                }
            }
        }
        if extra.running {
            // The round that is under way picks it up.
            return;
        }
        extra.running = true;
        for _ in 0..MAX_ROUNDS {
            let Some(extra) = &mut self.extra else {
                return;
            };
            let pending = std::mem::take(&mut extra.now);
            if pending.is_empty() {
                break;
            }
            let deferred = extra.schedule.is_some();
            let change = pending.change(self.len);
            self.call_each(&change, |entry| entry.no_defer || !deferred);
        }
        if let Some(extra) = &mut self.extra {
            extra.running = false;
        }
    }

    /// Calls the enabled callbacks that `wanted` picks, newest first. Each may add and remove
    /// callbacks: an added one waits for the next change, a removed one is not called any more.
    fn call_each(&mut self, change: &Change, wanted: impl Fn(&Entry) -> bool) {
        // Entries are in the order of their ids, and new ones get higher ids: going down by id finds
        // each of those that were there once, whatever is added or removed meanwhile.
        let mut below = u64::MAX;
        loop {
            let Some(extra) = &mut self.extra else {
                return;
            };
            let mut entries = extra.callbacks.iter_mut();
            let Some(entry) = entries.rfind(|entry| entry.id.0 < below) else {
                return;
            };
            below = entry.id.0;
            if !entry.enabled || !wanted(entry) {
                continue;
            }
            let id = entry.id;
            let Some(mut call) = entry.call.take() else {
                continue;
            };
            call(self, change);
            self.with_callback(id, |entry| entry.call = Some(call));
        }
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
