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
pub use signal::{Signal, block_signals};
pub use timer::Timer;
pub use turn::{Exit, RunFlags, TurnInfo};

use crate::driver::{Driver, Op, OpId};
use crate::error::Error;
use crate::ring::Caps;
use source::Source;
use timers::Timers;
use turn::TurnHook;

/// A loop with its ring, its arena and everything that lives on it (`struct event_base`).
///
/// A cheap handle: clones stand for the same base. The base ends when the last clone is gone;
/// everything on it is then freed, whatever handles to it are left. A closure that lives on the base and owns a clone
/// of it keeps it alive: closures get at their base through the handle they are called with.
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
    sources: RefCell<Slab<Rc<dyn Source>>>,
    timers: RefCell<Timers>,
    /// Callbacks that wait for their turn, a queue per priority.
    fifo: RefCell<Vec<VecDeque<Rc<dyn Source>>>>,
    /// Sources with I/O to begin before the next enter.
    dirty: RefCell<Vec<Rc<dyn Source>>>,
    /// Readers that wait for receive slots, in the order in which they ran out.
    starved: RefCell<VecDeque<Rc<dyn Source>>>,
    /// The driver's time, read once after each enter.
    now: Cell<u64>,
    /// Sources that keep the loop alive.
    active: Cell<usize>,
    stop: Cell<turn::Stop>,
    /// When to stop, in the driver's time; `u64::MAX`: never.
    stop_at: Cell<u64>,
    running: Cell<bool>,
    /// Closures of users that hold a buffer of some bufferevent right now.
    buffers_in_use: Cell<u32>,
    spin: SpinPolicy,
    tally: counters::Tally,
    turn_hook: RefCell<Option<TurnHook>>,
    remote: RefCell<Option<Rc<remote::Inbox>>>,
    groups: groups::Groups,
    /// What remotes address by number.
    shared: RefCell<HashMap<u64, Rc<dyn Any>>>,
    next_shared: Cell<u64>,
    pid: u32,
    slots_low: Cell<bool>,
    slot_size: usize,
}

impl EventBase {
    /// A base with the default ring, arena and window (`event_base_new`).
    ///
    /// # Errors
    /// [`Error::Setup`] when the kernel gives no ring; it names the sysctl, the seccomp filter or the
    /// limit in the way.
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

    /// Operations that the kernel has not finished, those of freed objects included; not the one by which other threads wake
    /// the loop.
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

    pub(crate) fn downgrade(&self) -> Weak<Base> {
        Rc::downgrade(&self.0)
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

    /// Registers a source; the answer is its token.
    pub(crate) fn add_source(&self, source: Rc<dyn Source>) -> u32 {
        let token = self.0.sources.borrow_mut().insert(source);
        u32::try_from(token).expect("the slab holds Rc's: 2^32 of them do not fit in memory")
    }

    /// Makes an object known to remotes; the answer is its number, never 0 and never used again.
    pub(crate) fn share(&self, object: Rc<dyn Any>) -> u64 {
        let id = self.0.next_shared.get();
        self.0.next_shared.set(id + 1);
        self.0.shared.borrow_mut().insert(id, object);
        id
    }

    /// The object that remotes know under a number.
    pub(crate) fn shared(&self, id: u64) -> Option<Rc<dyn Any>> {
        self.0.shared.borrow().get(&id).cloned()
    }

    /// Remotes know it no longer; nothing for number 0.
    pub(crate) fn unshare(&self, id: u64) {
        if id != 0 {
            let gone = self.0.shared.borrow_mut().remove(&id);
            drop(gone);
        }
    }

    /// Forgets a source. Only once nothing of it is in flight: a token is used again.
    pub(crate) fn remove_source(&self, token: u32) {
        let gone = self.0.sources.borrow_mut().try_remove(token as usize);
        // Dropped here, with no borrow held: a user's closure may have a destructor.
        drop(gone);
    }

    /// Says that a source keeps the loop alive from now on, or no longer.
    pub(crate) fn set_active(&self, was: &Cell<bool>, is: bool) {
        if was.replace(is) != is {
            let active = self.0.active.get();
            self.0.active.set(if is { active + 1 } else { active - 1 });
        }
    }

    /// Queues an operation for source `token`.
    pub(crate) fn push(&self, token: u32, op: Op) -> OpId {
        self.0
            .with_driver(|driver| driver.push(u64::from(token), op))
    }

    pub(crate) fn cancel(&self, op: OpId) {
        self.0.with_driver(|driver| driver.cancel(op));
    }

    /// Has the source's `start_io` called before the next enter. The caller keeps it from being
    /// there twice.
    pub(crate) fn mark_dirty(&self, source: Rc<dyn Source>) {
        self.0.dirty.borrow_mut().push(source);
    }

    /// Has the source's `deferred` called from the FIFO. The caller keeps it from being there
    /// twice.
    pub(crate) fn enqueue(&self, source: Rc<dyn Source>) {
        let mut fifo = self.0.fifo.borrow_mut();
        match fifo.as_mut_slice() {
            [only] => only.push_back(source),
            queues => {
                let priority = source.priority().min(queues.len() - 1);
                queues[priority].push_back(source);
            }
        }
    }

    /// Has the source's `timer_fired` called once `at` has passed.
    pub(crate) fn arm_timer(&self, at: u64, token: u32) {
        self.0.timers.borrow_mut().arm(at, token);
    }

    /// Puts a reader at the end of the line for receive slots.
    pub(crate) fn wait_for_slots(&self, source: Rc<dyn Source>) {
        self.tally().starved();
        self.0.starved.borrow_mut().push_back(source);
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

    pub(crate) fn tally(&self) -> &counters::Tally {
        &self.0.tally
    }

    /// Whether callbacks may run in the middle of a completion: with several priorities they
    /// all go through the FIFO, which is where the order is kept.
    pub(crate) fn calls_inline(&self) -> bool {
        self.0.fifo.borrow().len() == 1
    }

    /// Whether fewer than a quarter of the receive slots are left, as of the last refill.
    pub(crate) fn slots_are_low(&self) -> bool {
        self.0.slots_low.get()
    }

    pub(crate) fn slot_size(&self) -> usize {
        self.0.slot_size
    }

    /// Runs a closure from the callback FIFO, in this turn or the next one
    /// (`event_base_once` without a descriptor or a time).
    pub fn defer(&self, f: impl FnOnce(&EventBase) + 'static) {
        type Job = Box<dyn FnOnce(&EventBase)>;
        struct Once {
            f: Cell<Option<Job>>,
        }
        impl Source for Once {
            fn completed(self: Rc<Self>, _: &EventBase, _: crate::driver::Completion) {}
            fn deferred(self: Rc<Self>, base: &EventBase) {
                if let Some(f) = self.f.take() {
                    f(base);
                }
            }
            fn base_ended(self: Rc<Self>) -> Option<i32> {
                None
            }
        }
        self.enqueue(Rc::new(Once {
            f: Cell::new(Some(Box::new(f))),
        }));
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
    /// The signal is blocked in the calling thread and read through a signalfd. Threads that were started
    /// before must have it blocked too, or they take it: call [`block_signals`] first thing in `main`.
    ///
    /// # Errors
    /// [`Error::Io`] when the number is no signal or the process has no descriptor left.
    pub fn signal(&self, signum: i32, f: impl FnMut(&Signal) + 'static) -> Result<Signal, Error> {
        Signal::new(self, signum, Box::new(f))
    }

    /// Runs `f` each time the descriptor becomes readable or writable, as asked (`event_new`
    /// with `EV_PERSIST`).
    ///
    /// The descriptor stays the caller's, and must stay open until the event is cancelled. Readiness is reported as an
    /// edge: read until the descriptor would block.
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
    fn bell(&self) -> Result<impl Fn() + Send + Sync + use<>, Error> {
        Ok(self.inbox()?.bell())
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

impl Drop for Base {
    fn drop(&mut self) {
        if let Some(inbox) = self.remote.get_mut().take() {
            inbox.close();
        }
        let Some(driver) = self.driver.get_mut().take() else {
            return;
        };
        // Destructors of users' closures run below: by now every handle finds the base gone.
        let mut close = Vec::new();
        let sources = std::mem::take(self.sources.get_mut());
        for (_, source) in &sources {
            close.extend(Rc::clone(source).base_ended());
        }
        self.shared.get_mut().clear();
        self.fifo.get_mut().clear();
        self.dirty.get_mut().clear();
        self.starved.get_mut().clear();
        self.groups.clear();
        // The sources go last: some own a descriptor that an operation still names (I6).
        driver.end(&close);
        drop(sources);
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
