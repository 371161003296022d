//! The loop: it hands work to the kernel, reaps completions and runs callbacks.
//!
//! One turn of [`EventBase::run`]:
//!
//! ```text
//!   start I/O that callbacks asked for  ->  refill the receive window
//!        ^                                        |
//!        |                                        v
//!   callback FIFO  <-  timers  <-  completions  <-  one enter: submit + wait
//! ```
//!
//! A base belongs to the thread that made it. Other threads reach it through [`Remote`].

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::rc::{Rc, Weak};
use std::time::Duration;

use slab::Slab;

mod builder;
mod counters;
mod fd_event;
pub(crate) mod groups;
pub(crate) mod hook;
mod memory;
mod quiet;
pub(crate) mod registration;
mod remote;
mod signal;
pub(crate) mod source;
mod timer;
mod timers;
mod turn;

pub use builder::{EventBaseBuilder, SpinPolicy};
pub use counters::Counters;
pub use fd_event::{FdEvent, Interest};
pub use remote::Remote;
pub(crate) use remote::Route;
pub use signal::{Signal, block_signals};
pub use timer::Timer;
pub(crate) use turn::in_a_loop;
pub use turn::{Exit, RunFlags, TurnInfo};

use crate::driver::{Completion, Driver, Op, OpId};
use crate::error::Error;
use crate::ring::Caps;
use hook::{Each, Hook};
use registration::{Key, Place, Registration, Shared};
use source::Source;
use timers::Timers;
use turn::TurnHook;

/// The shortest line for receive slots in which it is worth looking for those that have left.
const PURGE_LINE_FROM: usize = 64;

/// A loop with its ring, its arena and everything that lives on it (`struct event_base`).
///
/// A cheap handle: clones stand for the same base. The base ends when the last clone is gone;
/// everything on it is then freed, whatever handles to it are left. A closure that lives on the
/// base and owns a clone of it keeps it alive: closures get at their base through the handle they
/// are called with, or own a [`WeakEventBase`].
///
/// ```
/// use evring::EventBase;
/// use std::time::Duration;
///
/// let base = EventBase::new()?;
/// base.timer(Duration::from_millis(1), |_timer| println!("a millisecond later"))?;
/// base.run()?; // returns: nothing is left to wait for
/// # Ok::<(), evring::Error>(())
/// ```
#[derive(Clone)]
pub struct EventBase(pub(crate) Rc<Base>);

/// What the clones of a handle share.
pub(crate) struct Base {
    /// `None` only while the base is being dropped.
    driver: RefCell<Option<Box<dyn Driver>>>,
    /// Unique in the process; upper half of the tokens that the driver gets.
    number: u32,
    sources: RefCell<Slab<Known>>,
    /// How many sources ever joined.
    last_stamp: Cell<u32>,
    timers: RefCell<Timers>,
    /// Callbacks that wait for their turn, a queue per priority.
    fifo: RefCell<Vec<VecDeque<Key>>>,
    /// Sources with I/O to begin before the next enter.
    dirty: RefCell<Vec<Key>>,
    /// Readers that wait for receive slots, in the order in which they ran out.
    line: RefCell<VecDeque<Place>>,
    last_ticket: Cell<u32>,
    /// How long the line may get before those that have left are sorted out.
    purge_line_at: Cell<usize>,
    /// The driver's time, read once after each enter.
    now: Cell<u64>,
    /// Sources that keep the loop alive.
    active: Cell<usize>,
    stop: Cell<turn::Stop>,
    /// When to stop, in the driver's time; `u64::MAX`: never.
    stop_at: Cell<u64>,
    /// The loop is about to return for it.
    stop_at_passed: Cell<bool>,
    /// The one completion that was taken from the driver when something panicked beside it.
    put_off: RefCell<Option<Completion>>,
    running: Cell<bool>,
    /// Closures of users that hold a buffer of some bufferevent right now.
    buffers_in_use: Cell<u32>,
    spin: SpinPolicy,
    tally: counters::Tally,
    turn_hook: TurnHook,
    remote: RefCell<Option<Rc<remote::Inbox>>>,
    groups: groups::Groups,
    /// What other threads reach by a route.
    shared: RefCell<HashMap<Key, Shared>>,
    pid: u32,
    memory: memory::Memory,
    quiet: quiet::Quiet,
    slot_size: usize,
}

/// A source in the table of its base.
struct Known {
    source: Rc<dyn Source>,
    stamp: u32,
}

/// A handle that does not keep the base alive, from [`EventBase::downgrade`]: for closures that
/// live on the base.
#[derive(Clone)]
pub struct WeakEventBase(Weak<Base>);

impl WeakEventBase {
    /// The base, unless it has ended.
    pub fn upgrade(&self) -> Option<EventBase> {
        self.0.upgrade().map(EventBase)
    }
}

impl fmt::Debug for WeakEventBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakEventBase")
            .field("ended", &(self.0.strong_count() == 0))
            .finish_non_exhaustive()
    }
}

impl EventBase {
    /// A base with the default ring, arena and window (`event_base_new`).
    ///
    /// # Errors
    /// [`Error::Setup`] when the kernel gives no ring; it names the sysctl, the seccomp filter or
    /// the limit in the way.
    pub fn new() -> Result<Self, Error> {
        Self::builder().build()
    }

    /// A base with other sizes or policies (`event_config_new`).
    pub fn builder() -> EventBaseBuilder {
        EventBaseBuilder::default()
    }

    /// What this kernel gives the base, and what is used instead of what it lacks.
    pub fn caps(&self) -> Caps {
        self.0.with_driver(|driver| driver.caps().clone())
    }

    /// How many priorities callbacks have; 0 runs first (`event_base_get_npriorities`).
    pub fn priorities(&self) -> usize {
        self.0.fifo.borrow().len()
    }

    /// How many sources keep the loop from ending by itself: bufferevents that want to move
    /// data, listeners, timers, signals (`event_base_get_num_events`).
    pub fn active(&self) -> usize {
        self.0.active.get()
    }

    /// Operations that the kernel has not finished, those of freed objects included; not the one by
    /// which other threads wake the loop.
    pub fn in_flight(&self) -> usize {
        // The inbox has exactly one, from when it is made until the base ends.
        let own = usize::from(self.0.remote.borrow().is_some());
        let all = self.0.with_driver(|driver| driver.in_flight());
        all.saturating_sub(own)
    }

    /// Receive slots that are in some buffer, in the window or in flight, in slots of
    /// [`slot_size`](EventBaseBuilder::slot_size) bytes.
    pub fn slots_live(&self) -> usize {
        self.0
            .with_driver(|driver| driver.arena().stats().slots_live)
    }

    /// A handle for closures that live on the base, which would keep it alive with a clone of this
    /// one.
    ///
    /// ```
    /// use evring::EventBase;
    /// use std::time::Duration;
    ///
    /// let base = EventBase::new()?;
    /// let weak = base.downgrade();
    /// base.defer(move |_| {
    ///     if let Some(base) = weak.upgrade() {
    ///         base.stop_after(Duration::ZERO);
    ///     }
    /// });
    /// base.run()?;
    /// # Ok::<(), evring::Error>(())
    /// ```
    pub fn downgrade(&self) -> WeakEventBase {
        WeakEventBase(Rc::downgrade(&self.0))
    }

    /// The driver's time in nanoseconds: as of this turn, or, outside of the loop, right now.
    pub(crate) fn now(&self) -> u64 {
        if self.0.running.get() {
            self.0.now.get()
        } else {
            self.fresh_now()
        }
    }

    /// The driver's time now; for what is set from outside a turn.
    pub(crate) fn fresh_now(&self) -> u64 {
        let now = self.0.with_driver(|driver| driver.now());
        self.0.now.set(now);
        now
    }

    /// What other threads reach by the route of a source.
    fn shared(&self, key: Key) -> Option<Rc<dyn Any>> {
        let shared = self.0.shared.borrow();
        shared.get(&key).map(|shared| shared.object.clone())
    }

    /// Queues an operation for source `token`.
    pub(crate) fn push(&self, token: u32, op: Op) -> OpId {
        let token = self.0.number_token(token);
        self.0.with_driver(|driver| driver.push(token, op))
    }

    pub(crate) fn cancel(&self, op: OpId) {
        self.0.with_driver(|driver| driver.cancel(op));
    }

    pub(crate) fn with_driver<R>(&self, f: impl FnOnce(&mut dyn Driver) -> R) -> R {
        self.0.with_driver(f)
    }

    /// Keeps the loop from being run while a user's closure holds a buffer: completions would
    /// find it in use.
    pub(crate) fn using_buffer(&self) -> impl Drop + '_ {
        struct Using<'a>(&'a Cell<u32>);
        impl Drop for Using<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        let count = &self.0.buffers_in_use;
        count.set(count.get() + 1);
        Using(count)
    }

    /// Whether the loop runs.
    pub(crate) fn is_running(&self) -> bool {
        self.0.running.get()
    }

    /// Whether any closure holds a buffer right now.
    pub(crate) fn buffers_are_lent(&self) -> bool {
        self.0.buffers_in_use.get() != 0
    }

    /// Queues a send by way of `push`, which gets the token to give to the driver.
    pub(crate) fn push_send<R>(
        &self,
        token: u32,
        push: impl FnOnce(&mut dyn Driver, u64) -> R,
    ) -> R {
        let token = self.0.number_token(token);
        self.0.with_driver(|driver| push(driver, token))
    }

    pub(crate) fn tally(&self) -> &counters::Tally {
        &self.0.tally
    }

    /// Whether callbacks may run in the middle of a completion: with several priorities they
    /// all go through the FIFO, which is where the order is kept.
    pub(crate) fn calls_inline(&self) -> bool {
        self.0.fifo.borrow().len() == 1
    }

    pub(crate) fn slot_size(&self) -> usize {
        self.0.slot_size
    }

    /// Runs a closure from the callback FIFO, in this turn or the next one
    /// (`event_base_once` without a descriptor or a time).
    pub fn defer(&self, f: impl FnOnce(&EventBase) + 'static) {
        struct Once {
            registration: Registration,
            f: Hook<dyn FnOnce(&EventBase)>,
        }
        impl Source for Once {
            fn registration(&self) -> &Registration {
                &self.registration
            }
            fn completed(self: Rc<Self>, _: &EventBase, _: Completion) {}
            fn deferred(self: Rc<Self>, base: &EventBase) {
                self.registration.leave(base);
                if let Some(f) = self.f.take() {
                    f(base);
                }
            }
            fn base_ended(self: Rc<Self>, _close: &mut Vec<i32>) {
                self.f.clear();
            }
        }
        let once = Rc::new(Once {
            registration: Registration::new(),
            f: Hook::with(Box::new(f)),
        });
        once.registration.join(self, once.clone());
        once.registration.enqueue(self);
    }

    /// One-shot timer: runs `f` once, `after` from now (`evtimer_new`, `event_add`).
    ///
    /// The timer keeps the loop alive until it has fired or is cancelled. It lives on without its
    /// handle.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a duration beyond the clock's range (584 years).
    pub fn timer(&self, after: Duration, f: impl FnMut(&Timer) + 'static) -> Result<Timer, Error> {
        Timer::new(self, after, None, Box::new(f))
    }

    /// Repeating timer: runs `f` every `period`, first one period from now (`EV_PERSIST`).
    ///
    /// A turn that takes longer than the period delays calls; it does not bunch them up.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a period of zero or beyond the clock's range.
    pub fn interval(
        &self,
        period: Duration,
        f: impl FnMut(&Timer) + 'static,
    ) -> Result<Timer, Error> {
        Timer::new(self, period, Some(period), Box::new(f))
    }

    /// Runs `f` whenever the process gets signal `signum` (`evsignal_new`).
    ///
    /// The signal is blocked in the calling thread and read through a signalfd. Threads that were
    /// started before must have it blocked too, or they take it: call [`block_signals`] first thing
    /// in `main`.
    ///
    /// # Errors
    /// [`Error::Io`] when the number is no signal or the process has no descriptor left.
    pub fn signal(&self, signum: i32, f: impl FnMut(&Signal) + 'static) -> Result<Signal, Error> {
        Signal::new(self, signum, Box::new(f))
    }

    /// Runs `f` each time the descriptor becomes readable or writable, as asked (`event_new`
    /// with `EV_PERSIST`).
    ///
    /// The descriptor stays the caller's, and must stay open until the event is cancelled.
    /// Readiness is reported as an edge: read until the descriptor would block.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty interest.
    pub fn fd_event(
        &self,
        fd: i32,
        interest: Interest,
        f: impl FnMut(&FdEvent, Interest) + 'static,
    ) -> Result<FdEvent, Error> {
        FdEvent::new(self, fd, interest, Box::new(f))
    }

    /// A handle for other threads.
    ///
    /// # Errors
    /// [`Error::Io`] when the process has no descriptor left for the eventfd.
    pub fn remote(&self) -> Result<Remote, Error> {
        Ok(self.inbox()?.remote())
    }

    /// What wakes the loop from any thread. It does nothing once the base is gone.
    fn waker(&self) -> Result<impl Fn() + Send + Sync + use<>, Error> {
        Ok(self.inbox()?.waker())
    }

    fn inbox(&self) -> Result<Rc<remote::Inbox>, Error> {
        if let Some(inbox) = &*self.0.remote.borrow() {
            return Ok(inbox.clone());
        }
        let inbox = remote::Inbox::new(self)?;
        *self.0.remote.borrow_mut() = Some(inbox.clone());
        Ok(inbox)
    }
}

impl Base {
    pub(crate) fn with_driver<R>(&self, f: impl FnOnce(&mut dyn Driver) -> R) -> R {
        let mut driver = self.driver.borrow_mut();
        f(&mut **driver.as_mut().expect("taken only by drop"))
    }
}

impl Base {
    /// The number of a source as the driver gets it: with that of its base.
    fn number_token(&self, token: u32) -> u64 {
        u64::from(self.number) << 32 | u64::from(token)
    }

    fn add_source(&self, source: Rc<dyn Source>) -> Key {
        let stamp = self.last_stamp.get().wrapping_add(1);
        self.last_stamp.set(stamp);
        let token = self.sources.borrow_mut().insert(Known { source, stamp });
        let token = u32::try_from(token).ok().filter(|&token| token != u32::MAX);
        Key {
            token: token.expect("the table holds Rc's: 2^32 of them do not fit in memory"),
            stamp,
        }
    }

    fn remove_source(&self, token: u32) -> Option<Rc<dyn Source>> {
        let gone = self.sources.borrow_mut().try_remove(token as usize);
        gone.map(|known| known.source)
    }

    /// The source of an operation's token.
    fn source(&self, token: u32) -> Option<Rc<dyn Source>> {
        let sources = self.sources.borrow();
        sources
            .get(token as usize)
            .map(|known| known.source.clone())
    }

    /// The source that a list names, unless it has left since.
    fn source_by(&self, key: Key) -> Option<Rc<dyn Source>> {
        let sources = self.sources.borrow();
        sources
            .get(key.token as usize)
            .filter(|known| known.stamp == key.stamp)
            .map(|known| known.source.clone())
    }

    /// Puts a reader at the end of the line for receive slots.
    fn enter_line(&self, place: Place) {
        let mut line = self.line.borrow_mut();
        if line.len() >= self.purge_line_at.get().max(PURGE_LINE_FROM) {
            let sources = self.sources.borrow();
            line.retain(|place| {
                let known = sources.get(place.token as usize);
                known.is_some_and(|known| known.source.registration().holds(*place))
            });
            self.purge_line_at.set(2 * line.len());
        }
        line.push_back(place);
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        let Some(driver) = self.driver.get_mut().take() else {
            return;
        };
        // The user's code runs below: reports, and destructors of closures, of jobs and of what is
        // buffered. By now every handle finds the base gone. One that panics must not keep the
        // others from their end.
        let mut each = Each::default();
        if let Some(inbox) = self.remote.get_mut().take() {
            each.run(|| inbox.close());
        }
        let mut close = Vec::new();
        let sources = std::mem::take(self.sources.get_mut());
        for (_, known) in &sources {
            let source = Rc::clone(&known.source);
            each.run(|| source.base_ended(&mut close));
        }
        for (_, shared) in self.shared.get_mut().drain() {
            each.run(|| drop(shared));
        }
        each.run(|| self.turn_hook.clear());
        each.run(|| self.groups.clear());
        // The sources go last: some own a descriptor that an operation still names (I6).
        each.run(|| driver.end(&close));
        for known in sources {
            each.run(|| drop(known));
        }
        each.finish();
    }
}

impl fmt::Debug for EventBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventBase")
            .field("active", &self.active())
            .field("running", &self.0.running.get())
            .field("priorities", &self.priorities())
            .finish_non_exhaustive()
    }
}
