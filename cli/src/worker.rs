//! One base with its listener and its connections; a server has one worker a thread.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use evring::{
    Addr, Counters, EventBase, ListenOptions, Listener, Remote, RunFlags, SpinPolicy, Timer,
};
use evring_cli_common::failure::Failure;

use crate::bursts::Notices;
use crate::gate::Gate;
use crate::limits::Capacity;
use crate::listen_claim::ListenClaim;
use crate::live::{LIVE_INTERVAL, SharedSample, turn_histogram};
use crate::service::Service;

/// What a worker is made from.
#[derive(Clone)]
pub struct Plan {
    /// Where to listen; `None` for a worker that is handed its connections.
    pub listen: Option<Addr>,
    /// Whether other workers listen there too.
    pub reuse_port: bool,
    /// How the base waits.
    pub spin: SpinPolicy,
    /// How many connections to take on.
    pub capacity: Capacity,
    /// The most memory that received data may take, in bytes.
    pub memory: usize,
    /// Bytes of a receive slot.
    pub slot: usize,
    /// Where to leave what the live line shows.
    pub sample: Option<SharedSample>,
    /// Where to report.
    pub notices: Notices,
}

/// Makes the service of a worker, on the worker's thread.
pub type MakeService = Arc<dyn Fn(&EventBase) -> Rc<dyn Service> + Send + Sync>;

/// The workers that have still to end, and the base that waits for them.
#[derive(Clone)]
pub struct Team {
    working: Arc<AtomicUsize>,
    lead: Remote,
}

/// What a worker leaves when it ends.
pub struct Outcome {
    /// The base's counters.
    pub counters: Counters,
    /// The service's counters.
    pub counts: Vec<(&'static str, u64)>,
    /// Connections served.
    pub served: u64,
    /// Connections that were closed although data was still to be sent.
    pub cut_off: usize,
}

/// A worker on the current thread.
pub struct Worker {
    base: EventBase,
    service: Rc<dyn Service>,
    gate: Rc<Gate>,
    listener: RefCell<Option<Listener>>,
    listener_paused: Cell<bool>,
    /// Workers without a listener of their own, to hand connections to.
    followers: RefCell<Vec<Remote>>,
    next_follower: Cell<usize>,
    team: RefCell<Option<Team>>,
    leads: Cell<bool>,
    timers: RefCell<Vec<Timer>>,
    draining: Cell<bool>,
    cut_off: Cell<usize>,
    notices: Notices,
}

/// A worker on a thread of its own.
pub struct Spawned {
    /// Where it listens, if it does.
    pub addr: Option<Addr>,
    /// The way to its base.
    pub remote: Remote,
    thread: JoinHandle<Result<Outcome, Failure>>,
}

/// What the kernel holds to receive into, in all: more than that no longer stays in the cache.
const WINDOW_BYTES: usize = 2 << 20;

/// How many slots of that size it holds; as many as the library would, where they are small.
fn window_of(slot: usize) -> u16 {
    u16::try_from(WINDOW_BYTES / slot)
        .unwrap_or(u16::MAX)
        .clamp(8, 128)
}

/// How long past the grace a worker waits for its service before it closes what is left.
const GRACE_MARGIN: Duration = Duration::from_millis(500);

thread_local! {
    /// The worker of this thread, for what other threads and gates send it.
    static CURRENT: RefCell<Option<Rc<Worker>>> = const { RefCell::new(None) };
}

/// Runs `f` on this thread's worker, if there is one.
pub fn with_current(f: impl FnOnce(&Rc<Worker>)) {
    let current = CURRENT.with_borrow(Clone::clone);
    if let Some(worker) = current {
        f(&worker);
    }
}

impl Team {
    /// A team of `size` workers; the base behind `lead` is stopped when the last has ended.
    pub fn new(size: usize, lead: Remote) -> Self {
        Self {
            working: Arc::new(AtomicUsize::new(size)),
            lead,
        }
    }

    fn one_is_done(&self) {
        if self.working.fetch_sub(1, Ordering::AcqRel) == 1 {
            // A base that is gone needs no stopping.
            let _ = self.lead.stop();
        }
    }
}

impl Worker {
    /// Sets a worker up on this thread and starts accepting.
    pub fn build(plan: &Plan, make: &MakeService) -> Result<Rc<Self>, Failure> {
        let base = EventBase::builder()
            .spin(plan.spin)
            .max_buffer_bytes(plan.memory)
            .slot_size(plan.slot)
            .window(window_of(plan.slot))
            .build()
            .map_err(|error| Failure::line(error.to_string()))?;
        let service = make(&base);
        let gate = {
            let base = base.clone();
            Gate::new(plan.capacity.connections, move || {
                base.defer(|_| with_current(|worker| worker.one_left()));
            })
        };
        let worker = Rc::new(Self {
            base,
            service,
            gate,
            listener: RefCell::default(),
            listener_paused: Cell::new(false),
            followers: RefCell::default(),
            next_follower: Cell::new(0),
            team: RefCell::default(),
            leads: Cell::new(false),
            timers: RefCell::default(),
            draining: Cell::new(false),
            cut_off: Cell::new(0),
            notices: plan.notices.clone(),
        });
        worker.start(plan)?;
        CURRENT.set(Some(worker.clone()));
        Ok(worker)
    }

    /// Runs until it is stopped; closes what is left.
    pub fn run(self: Rc<Self>) -> Result<Outcome, Failure> {
        let result = self.base.run_with(RunFlags::NO_EXIT_ON_EMPTY);
        self.close_listener();
        for timer in self.timers.take() {
            timer.cancel();
        }
        self.cut_off.set(self.cut_off.get() + self.service.abort());
        CURRENT.set(None);
        result.map_err(|error| Failure::new("the event loop failed", error))?;
        Ok(Outcome {
            counters: self.base.counters(),
            counts: self.service.counts(),
            served: self.gate.served(),
            cut_off: self.cut_off.get(),
        })
    }

    /// The worker's base.
    pub fn base(&self) -> &EventBase {
        &self.base
    }

    /// The address it listens on, with the port that the kernel chose.
    pub fn local_addr(&self) -> Option<Addr> {
        self.listener.borrow().as_ref()?.local_addr().ok()
    }

    /// Makes it one of a team that ends together.
    pub fn join(&self, team: Team) {
        self.team.replace(Some(team));
    }

    /// Makes it the one whose base waits for the others.
    pub fn lead(&self, team: Team) {
        self.leads.set(true);
        self.join(team);
    }

    /// Deals accepted connections out to `followers` and itself in turn.
    pub fn deal_to(&self, followers: Vec<Remote>) {
        self.followers.replace(followers);
    }

    /// Stops accepting, sends what is buffered within `grace`, then leaves the team.
    pub fn drain(self: &Rc<Self>, grace: Duration) {
        if self.draining.replace(true) {
            return;
        }
        self.close_listener();
        self.service.clone().drain(grace);
        let weak = Rc::downgrade(self);
        let overdue = self
            .base
            .timer(grace.saturating_add(GRACE_MARGIN), move |_| {
                if let Some(worker) = weak.upgrade() {
                    worker
                        .cut_off
                        .set(worker.cut_off.get() + worker.service.abort());
                    worker.leave();
                }
            });
        match overdue {
            Ok(timer) => self.timers.borrow_mut().push(timer),
            // Without a clock there is no grace.
            Err(_) => self.leave(),
        }
        self.one_left();
    }

    /// Takes a connection over from the worker that accepted it.
    fn serve(self: &Rc<Self>, fd: OwnedFd) {
        if self.draining.get() {
            return;
        }
        self.service.clone().serve(fd, self.gate.enter());
        if self.gate.is_full() && !self.listener_paused.replace(true) {
            if let Some(listener) = &*self.listener.borrow() {
                listener.pause();
            }
            self.notices.event(&format!(
                "serving as many connections as allowed ({}): more wait until some close",
                self.gate.limit()
            ));
        }
    }

    fn accepted(self: &Rc<Self>, fd: OwnedFd) {
        let followers = self.followers.borrow();
        let turn = self.next_follower.get();
        self.next_follower.set((turn + 1) % (followers.len() + 1));
        match followers.get(turn) {
            Some(remote) => {
                // A follower that has ended drops the connection, as this worker would.
                let _ = remote.post(move |_| with_current(|worker| worker.serve(fd)));
            }
            None => self.serve(fd),
        }
    }

    /// A connection is gone: there may be room again, or nothing left to wait for.
    fn one_left(self: &Rc<Self>) {
        if self.draining.get() {
            if self.gate.open() == 0 {
                self.leave();
            }
        } else if !self.gate.is_full()
            && self.listener_paused.replace(false)
            && let Some(listener) = &*self.listener.borrow()
        {
            listener.resume();
        }
    }

    fn leave(&self) {
        // The lead runs on, for a second signal, until all have left.
        if !self.leads.get() {
            self.base.stop();
        }
        if let Some(team) = self.team.take() {
            team.one_is_done();
        }
    }

    fn start(self: &Rc<Self>, plan: &Plan) -> Result<(), Failure> {
        if let Some(addr) = &plan.listen {
            self.listen(addr, plan)?;
        }
        if let Some(sample) = &plan.sample {
            self.feed(sample.clone())?;
        }
        Ok(())
    }

    fn listen(self: &Rc<Self>, addr: &Addr, plan: &Plan) -> Result<(), Failure> {
        let weak = Rc::downgrade(self);
        let options = ListenOptions::default()
            .backlog(plan.capacity.backlog)
            .reuse_port(plan.reuse_port)
            .nodelay(true);
        let listener = Listener::bind(&self.base, addr, options, move |_, accepted| {
            if let Some(worker) = weak.upgrade() {
                worker.accepted(accepted.into_fd());
            }
        })
        .map_err(|error| match error {
            // Its call names the address once more.
            evring::Error::Io { cause, .. } => cannot_listen(addr, cause),
            other => cannot_listen(addr, other),
        })?;
        let notices = self.notices.clone();
        listener.on_error(move |_, error| notices.event(&format!("cannot accept: {error}")));
        self.listener.replace(Some(listener));
        Ok(())
    }

    fn close_listener(&self) {
        if let Some(listener) = self.listener.take() {
            listener.close();
        }
    }

    /// Feeds the live line: loop turns as they happen, the rest as often as it is drawn.
    fn feed(self: &Rc<Self>, sample: SharedSample) -> Result<(), Failure> {
        let turns = Rc::new(RefCell::new(turn_histogram()));
        let hook = turns.clone();
        self.base.set_turn_hook(move |turn| {
            if turn.completions > 0 {
                let nanos = u64::try_from(turn.busy.as_nanos()).unwrap_or(u64::MAX);
                hook.borrow_mut().saturating_record(nanos);
            }
        });
        let weak = Rc::downgrade(self);
        self.every(LIVE_INTERVAL, move |_| {
            let Some(worker) = weak.upgrade() else { return };
            if let Ok(mut sample) = sample.lock() {
                sample.connections = worker.gate.open();
                sample.moved = worker.service.moved();
                // Both histograms have the same bounds, so nothing is out of range.
                let _ = sample.turns.add(&*turns.borrow());
                turns.borrow_mut().reset();
            }
        })
    }

    /// Calls `f` again and again for as long as the worker runs.
    pub fn every(&self, period: Duration, f: impl FnMut(&Timer) + 'static) -> Result<(), Failure> {
        let timer = self
            .base
            .interval(period, f)
            .map_err(|error| Failure::new("cannot start a timer", error))?;
        self.timers.borrow_mut().push(timer);
        Ok(())
    }
}

/// Makes sure that nobody else listens on `addr`.
pub fn claim(addr: &Addr) -> Result<ListenClaim, Failure> {
    ListenClaim::check(addr).map_err(|error| cannot_listen(addr, error))
}

/// A failure to listen on `addr`.
fn cannot_listen(addr: &Addr, error: impl std::fmt::Display) -> Failure {
    Failure::new(format!("cannot listen on {addr}"), error)
}

/// Starts a worker on a thread of its own and waits until it accepts.
///
/// When it ends before its team does, the team's lead is stopped too.
pub fn spawn(
    name: &str,
    plan: Plan,
    make: MakeService,
    team: Option<Team>,
) -> Result<Spawned, Failure> {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let body = move || {
        let mut alarm = team.as_ref().map(|team| Alarm(Some(team.lead.clone())));
        let worker = match Worker::build(&plan, &make) {
            Ok(worker) => worker,
            Err(failure) => {
                // The receiver waits for this message, below.
                let _ = ready.send(Err(failure));
                return Err(Failure::line("a worker did not start"));
            }
        };
        if let Some(team) = team {
            worker.join(team);
        }
        let remote = worker
            .base()
            .remote()
            .map_err(|error| Failure::new("cannot start a worker", error));
        let told = remote.map(|remote| (worker.local_addr(), remote));
        let _ = ready.send(told);
        drop(ready);
        let outcome = worker.run()?;
        if let Some(alarm) = &mut alarm {
            alarm.0 = None;
        }
        Ok(outcome)
    };
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|error| Failure::new("cannot start a thread", error))?;
    match is_ready.recv() {
        Ok(Ok((addr, remote))) => Ok(Spawned {
            addr,
            remote,
            thread,
        }),
        Ok(Err(failure)) => {
            let _ = thread.join();
            Err(failure)
        }
        Err(_) => Err(Failure::line("a worker thread panicked while it started")),
    }
}

impl Spawned {
    /// Stops it at once, unless it has ended by itself, and waits for it.
    pub fn stop(self) -> Result<Outcome, Failure> {
        // A base that is gone needs no stopping.
        let _ = self.remote.stop();
        self.thread
            .join()
            .unwrap_or_else(|_| Err(Failure::line("a worker thread panicked")))
    }
}

/// Stops the team's lead when a worker's thread ends by a failure or a panic.
struct Alarm(Option<Remote>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(lead) = &self.0 {
            // A base that is gone needs no stopping.
            let _ = lead.stop();
        }
    }
}
