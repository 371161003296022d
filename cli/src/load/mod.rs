//! `evring load`: messages to an echo server in a closed or an open loop, every byte checked.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use evring::{BufferEvent, EventBase, Events, Handler, Interest, Options, Timer};
use evring_cli_common::console::{Console, print_line};
use evring_cli_common::cpu::CpuReading;
use evring_cli_common::failure::Failure;
use evring_cli_common::pattern::{Pattern, connection_offset};
use evring_cli_common::report::{Latency, OpenLoop, Report, curve};
use evring_cli_common::units;

use crate::args::LoadArgs;
use crate::limits;
use crate::live::LIVE_INTERVAL;
use crate::server::seconds;
use crate::shutdown;

mod schedule;
mod tally;
mod traffic;
mod upstream;

use schedule::Schedule;
use tally::Tally;
use upstream::Upstream;

/// Runs the command. Says whether data moved and nothing went wrong.
pub fn run(args: &LoadArgs) -> Result<bool, Failure> {
    let console = Console::new();
    check_limits(args)?;
    check_watched(args)?;
    let spin = args.spin.into();
    // It listens before the first connection is made, which a proxy passes on to it.
    let upstream = match &args.upstream {
        Some(addr) => Some(Upstream::listen(addr, spin, &console)?),
        None => None,
    };
    let base = match &upstream {
        Some(upstream) => upstream.base().clone(),
        None => EventBase::builder()
            .spin(spin)
            .build()
            .map_err(|error| Failure::line(error.to_string()))?,
    };
    let run = Rc::new(Run {
        base: base.clone(),
        args: args.clone(),
        pattern: Pattern::new(),
        phase: Cell::new(Phase::Connecting),
        clients: RefCell::default(),
        tally: RefCell::new(Tally::new(args.connections as usize, args.watch_pid)),
        schedule: RefCell::default(),
        pacer: RefCell::default(),
    });
    let watched = Rc::downgrade(&run);
    let _signals = shutdown::watch(&base, move || {
        if let Some(run) = watched.upgrade() {
            run.interrupt();
        }
    })?;
    run.begin(&console)?;
    let ran = match upstream {
        Some(upstream) => upstream.run(),
        None => base
            .run_with(evring::RunFlags::NO_EXIT_ON_EMPTY)
            .map(drop)
            .map_err(|error| Failure::new("the event loop failed", error)),
    };
    ran?;
    console.clear();
    let report = run.finish();
    if args.json {
        print_line(&serde_json::to_string(&report).expect("no map has odd keys"));
    } else if report.connected == 0 && report.errors > 0 {
        let why: Vec<_> = report.error_kinds.keys().map(String::as_str).collect();
        let what = format!("no connection to {}", report.target);
        return Err(Failure::new(what, why.join(", ")));
    } else {
        print_line(&report.to_string());
    }
    Ok(report.is_success())
}

/// Connects under way at once; more would overflow a listener's backlog.
const CONNECTING_MAX: usize = 256;

/// How long all connections may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long after the measured time messages may still come back.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

fn check_limits(args: &LoadArgs) -> Result<(), Failure> {
    let open_files = limits::raise_open_files();
    // As the upstream it has the far end of each as well.
    let fds_each = if args.upstream.is_some() { 2 } else { 1 };
    let most = limits::outgoing_connections(open_files, fds_each);
    match args.connections as usize <= most {
        true => Ok(()),
        false => Err(Failure::line(format!(
            "{} connections need more open files than the limit of {open_files} allows: raise \
             it (ulimit -n) or ask for at most {most}",
            args.connections
        ))),
    }
}

fn check_watched(args: &LoadArgs) -> Result<(), Failure> {
    match args.watch_pid {
        Some(pid) if CpuReading::take(pid).is_none() => Err(Failure::line(format!(
            "--watch-pid {pid}: there is no such process, or this kernel keeps no account of its \
             CPU time"
        ))),
        _ => Ok(()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Connections are being made; nothing is sent.
    Connecting,
    /// Messages pass; nothing counts yet.
    WarmingUp,
    /// The time that counts.
    Measuring,
    /// What is under way comes back; nothing new is sent.
    Finishing,
    Done,
}

struct Run {
    base: EventBase,
    args: LoadArgs,
    pattern: Pattern,
    phase: Cell<Phase>,
    clients: RefCell<Vec<Rc<Client>>>,
    tally: RefCell<Tally>,
    /// Open loop: what is due when, and the timer that looks after it.
    schedule: RefCell<Option<Schedule>>,
    pacer: RefCell<Option<Timer>>,
}

struct Client {
    bev: BufferEvent,
    stream: RefCell<Stream>,
}

/// A connection's place in its stream.
struct Stream {
    /// Where the stream begins in the pattern.
    origin: u64,
    sent: u64,
    received: u64,
    /// When each message under way was written; open loop: when it was due.
    begun_at: VecDeque<Instant>,
    up: bool,
    ended: bool,
}

struct Callbacks {
    run: Weak<Run>,
    client: Weak<Client>,
}

impl Run {
    fn begin(self: &Rc<Self>, console: &Console) -> Result<(), Failure> {
        let weak = Rc::downgrade(self);
        self.after(CONNECT_TIMEOUT, move |run| run.connect_overdue())?;
        if console.is_live() {
            let console = console.clone();
            self.base
                .interval(LIVE_INTERVAL, move |_| {
                    if let Some(run) = weak.upgrade() {
                        console.draw(&run.live_line());
                    }
                })
                .map_err(|error| Failure::new("cannot start a timer", error))?;
        }
        self.connect_more();
        Ok(())
    }

    fn after(
        self: &Rc<Self>,
        time: Duration,
        f: impl Fn(&Rc<Run>) + 'static,
    ) -> Result<(), Failure> {
        let weak = Rc::downgrade(self);
        let fire = move |_: &evring::Timer| {
            if let Some(run) = weak.upgrade() {
                f(&run);
            }
        };
        self.base
            .timer(time, fire)
            .map(drop)
            .map_err(|error| Failure::new("cannot start a timer", error))
    }

    /// Starts connects until enough are under way.
    fn connect_more(self: &Rc<Self>) {
        while self.phase.get() == Phase::Connecting {
            {
                let mut tally = self.tally.borrow_mut();
                if tally.to_connect == 0 || tally.connecting == CONNECTING_MAX {
                    break;
                }
                tally.to_connect -= 1;
                tally.connecting += 1;
                tally.alive += 1;
            }
            if let Err(error) = self.connect() {
                let mut tally = self.tally.borrow_mut();
                tally.connecting -= 1;
                tally.alive -= 1;
                tally.error(error.to_string(), 1);
            }
        }
        self.start_if_ready();
    }

    fn connect(self: &Rc<Self>) -> Result<(), evring::Error> {
        let bev = BufferEvent::socket(&self.base, None, Options::CLOSE_ON_FREE)?;
        let client = {
            let mut clients = self.clients.borrow_mut();
            let client = Rc::new(Client {
                bev: bev.clone(),
                stream: RefCell::new(Stream {
                    origin: connection_offset(clients.len()),
                    sent: 0,
                    received: 0,
                    begun_at: VecDeque::with_capacity(self.args.depth as usize),
                    up: false,
                    ended: false,
                }),
            });
            clients.push(client.clone());
            client
        };
        let started = bev
            .set_handler(Callbacks {
                run: Rc::downgrade(self),
                client: Rc::downgrade(&client),
            })
            .and_then(|()| bev.connect(&self.args.connect));
        if started.is_err() {
            client.stream.borrow_mut().ended = true;
            bev.free();
        }
        started
    }

    fn connected(self: &Rc<Self>, client: &Client) -> Result<(), evring::Error> {
        client.stream.borrow_mut().up = true;
        {
            let mut tally = self.tally.borrow_mut();
            tally.connecting -= 1;
            tally.connected += 1;
        }
        if self.args.connect.is_tcp() {
            client.bev.set_nodelay(true)?;
        }
        client.bev.enable(Interest::READ)?;
        self.connect_more();
        Ok(())
    }

    /// Once every connection is made or has failed: sends the first messages.
    fn start_if_ready(self: &Rc<Self>) {
        {
            let tally = self.tally.borrow();
            if self.phase.get() != Phase::Connecting || tally.connecting + tally.to_connect > 0 {
                return;
            }
        }
        if self.tally.borrow().alive == 0 {
            return self.end();
        }
        self.phase.set(Phase::WarmingUp);
        let started = match self.args.warm_up.is_zero() {
            true => self.start_measuring(),
            false => self.after(self.args.warm_up, |run| {
                if let Err(failure) = run.start_measuring() {
                    run.give_up(&failure);
                }
            }),
        };
        if let Err(failure) = started.and_then(|()| self.start_sending()) {
            self.give_up(&failure);
        }
    }

    /// From here on messages count.
    fn start_measuring(self: &Rc<Self>) -> Result<(), Failure> {
        if self.phase.get() != Phase::WarmingUp {
            return Ok(());
        }
        self.tally.borrow_mut().start_clock();
        self.phase.set(Phase::Measuring);
        self.after(self.args.seconds, |run| run.stop_sending())
    }

    fn start_sending(self: &Rc<Self>) -> Result<(), Failure> {
        if let Some(rate) = self.args.rate {
            *self.schedule.borrow_mut() = Some(Schedule::new(Instant::now(), rate));
            return self.start_pacing();
        }
        let clients = self.clients.borrow().clone();
        for client in clients {
            if !client.stream.borrow().ended {
                self.send(&client, self.args.depth as usize, Instant::now());
            }
        }
        Ok(())
    }

    fn give_up(&self, failure: &Failure) {
        self.tally.borrow_mut().error(failure.to_string(), 1);
        self.end();
    }

    fn connect_overdue(self: &Rc<Self>) {
        if self.phase.get() != Phase::Connecting {
            return;
        }
        let why = format!("no connection within {}", seconds(CONNECT_TIMEOUT));
        // No more are begun: those that are missing count as errors like those under way.
        let never_begun = std::mem::take(&mut self.tally.borrow_mut().to_connect);
        self.tally
            .borrow_mut()
            .error(why.clone(), never_begun as u64);
        let clients = self.clients.borrow().clone();
        for client in clients {
            if !client.stream.borrow().up {
                self.lost(&client, &why);
            }
        }
    }

    /// The time is up: counts no more, and waits for what is under way.
    fn stop_sending(self: &Rc<Self>) {
        if self.phase.get() != Phase::Measuring {
            return;
        }
        self.phase.set(Phase::Finishing);
        self.tally.borrow_mut().stop_clock();
        if self.after(ANSWER_TIMEOUT, |run| run.end()).is_err() {
            return self.end();
        }
        let clients = self.clients.borrow().clone();
        for client in clients {
            self.retire_if_quiet(&client);
        }
    }

    fn retire_if_quiet(&self, client: &Client) {
        let quiet = {
            let stream = client.stream.borrow();
            !stream.ended && stream.received == stream.sent
        };
        if quiet && self.phase.get() == Phase::Finishing {
            self.retire(client);
        }
    }

    /// A connection broke: counts why.
    fn lost(self: &Rc<Self>, client: &Client, why: &str) {
        let was_up = client.stream.borrow().up;
        if client.stream.borrow().ended {
            return;
        }
        {
            let mut tally = self.tally.borrow_mut();
            tally.error(why, 1);
            if !was_up {
                tally.connecting -= 1;
            }
        }
        self.retire(client);
        self.connect_more();
    }

    fn retire(&self, client: &Client) {
        client.stream.borrow_mut().ended = true;
        client.bev.free();
        let alive = {
            let mut tally = self.tally.borrow_mut();
            tally.alive -= 1;
            tally.alive
        };
        if alive == 0 && self.phase.get() != Phase::Connecting {
            self.end();
        }
    }

    /// A signal: reports what there is.
    fn interrupt(self: &Rc<Self>) {
        match self.phase.get() {
            Phase::Measuring => self.stop_sending(),
            _ => self.end(),
        }
    }

    fn end(&self) {
        if self.phase.get() == Phase::Measuring {
            // Every connection broke before the time was up.
            self.tally.borrow_mut().stop_clock();
        }
        self.phase.set(Phase::Done);
        self.base.stop();
    }

    fn live_line(&self) -> String {
        let tally = self.tally.borrow();
        match (self.phase.get(), tally.started) {
            (Phase::Connecting, _) => {
                format!(
                    "connecting: {} of {}",
                    tally.connected, self.args.connections
                )
            }
            (Phase::WarmingUp, _) | (_, None) => "warming up".to_owned(),
            (_, Some(started)) => {
                let elapsed = started.elapsed().as_secs_f64();
                let rate = tally.messages as f64 / elapsed.max(1e-3);
                format!(
                    "{elapsed:>5.1} s | {} messages | {}/s | p50 {} p99 {}",
                    units::grouped(tally.messages),
                    units::grouped(rate as u64),
                    units::nanos(tally.latency.value_at_quantile(0.5)),
                    units::nanos(tally.latency.value_at_quantile(0.99)),
                )
            }
        }
    }

    /// Frees what is left and adds the sums up.
    fn finish(&self) -> Report {
        let mut tally = self.tally.borrow_mut();
        for client in self.clients.take() {
            let stream = client.stream.borrow();
            if !stream.ended {
                let missing = stream.begun_at.len() as u64;
                if missing > 0 {
                    tally.error("no answer", missing);
                }
                self.record_unanswered(&mut tally, &stream);
                client.bev.free();
            }
        }
        let seconds = tally.measured.as_secs_f64();
        let rate = |n: u64| {
            if seconds > 0.0 {
                n as f64 / seconds
            } else {
                0.0
            }
        };
        Report {
            target: self.args.connect.to_string(),
            connections: self.args.connections as usize,
            connected: tally.connected,
            size_bytes: self.args.size,
            depth: self.args.depth,
            seconds,
            messages: tally.messages,
            bytes: tally.bytes,
            messages_per_second: rate(tally.messages),
            bytes_per_second: rate(tally.bytes),
            latency_us: Latency::of(&tally.latency),
            latency_curve: curve(&tally.latency),
            open_loop: self.args.rate.map(|rate| OpenLoop {
                rate,
                behind_us: Latency::of(&tally.behind),
            }),
            own_cpu: tally.own_cpu.map(|cpu| cpu.over(seconds, tally.messages)),
            watched_cpu: tally
                .watched_cpu
                .map(|cpu| cpu.over(seconds, tally.messages)),
            errors: tally.errors.values().sum(),
            error_kinds: tally.errors.clone(),
        }
    }
}

impl Handler for Callbacks {
    fn read(&mut self, _bev: &BufferEvent) {
        let (Some(run), Some(client)) = (self.run.upgrade(), self.client.upgrade()) else {
            return;
        };
        if let Err(why) = run.received(&client) {
            run.lost(&client, &why);
        }
    }

    fn event(&mut self, bev: &BufferEvent, events: Events) {
        let (Some(run), Some(client)) = (self.run.upgrade(), self.client.upgrade()) else {
            return;
        };
        if events.contains(Events::CONNECTED) {
            if let Err(error) = run.connected(&client) {
                run.lost(&client, &error.to_string());
            }
            return;
        }
        let why = match bev.last_error() {
            Some(errno) if events.contains(Events::ERROR) => errno.to_string(),
            _ if events.contains(Events::EOF) => "the server closed the connection".to_owned(),
            _ => "the connection failed".to_owned(),
        };
        run.lost(&client, &why);
    }
}
