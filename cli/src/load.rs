//! `evring load`: a closed loop against an echo server, every byte checked.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use bytes::Buf;
use evring::{BufferEvent, EvBuffer, EventBase, Events, Handler, Interest, Options};
use hdrhistogram::Histogram;

use crate::args::LoadArgs;
use crate::failure::Failure;
use crate::limits;
use crate::live::{Console, LIVE_INTERVAL};
use crate::pattern::{Pattern, connection_offset};
use crate::report::{Latency, Report, latency_histogram};
use crate::server::{print_line, seconds};
use crate::{shutdown, units};

/// Runs the command. Says whether data moved and nothing went wrong.
pub fn run(args: &LoadArgs) -> Result<bool, Failure> {
    let console = Console::new();
    check_limits(args)?;
    let base = EventBase::builder()
        .spin(args.spin.into())
        .build()
        .map_err(|error| Failure::line(error.to_string()))?;
    let run = Rc::new(Run {
        base: base.clone(),
        args: args.clone(),
        pattern: Pattern::new(),
        phase: Cell::new(Phase::Connecting),
        clients: RefCell::default(),
        tally: RefCell::new(Tally::new(args.connections as usize)),
    });
    let watched = Rc::downgrade(&run);
    let _signals = shutdown::watch(&base, move || {
        if let Some(run) = watched.upgrade() {
            run.interrupt();
        }
    })?;
    run.begin(&console)?;
    base.run_with(evring::RunFlags::NO_EXIT_ON_EMPTY)
        .map_err(|error| Failure::new("the event loop failed", error))?;
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
    let most = limits::outgoing_connections(open_files);
    match args.connections as usize <= most {
        true => Ok(()),
        false => Err(Failure::line(format!(
            "{} connections need more open files than the limit of {open_files} allows: raise \
             it (ulimit -n) or ask for at most {most}",
            args.connections
        ))),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Connections are being made; nothing is sent.
    Connecting,
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
}

/// What the run has seen so far.
struct Tally {
    connecting: usize,
    to_connect: usize,
    connected: usize,
    /// Connections that still have something to do.
    alive: usize,
    started: Option<Instant>,
    measured: Duration,
    messages: u64,
    bytes: u64,
    latency: Histogram<u64>,
    errors: BTreeMap<String, u64>,
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
    /// When each message under way was written.
    written_at: VecDeque<Instant>,
    up: bool,
    ended: bool,
}

struct Callbacks {
    run: Weak<Run>,
    client: Weak<Client>,
}

impl Tally {
    fn new(connections: usize) -> Self {
        Self {
            connecting: 0,
            to_connect: connections,
            connected: 0,
            alive: 0,
            started: None,
            measured: Duration::ZERO,
            messages: 0,
            bytes: 0,
            latency: latency_histogram(),
            errors: BTreeMap::new(),
        }
    }

    fn error(&mut self, what: impl Into<String>, count: u64) {
        *self.errors.entry(what.into()).or_default() += count;
    }
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
                    written_at: VecDeque::with_capacity(self.args.depth as usize),
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
            let mut tally = self.tally.borrow_mut();
            if self.phase.get() != Phase::Connecting || tally.connecting + tally.to_connect > 0 {
                return;
            }
            tally.started = Some(Instant::now());
        }
        if self.tally.borrow().alive == 0 {
            return self.end();
        }
        self.phase.set(Phase::Measuring);
        if let Err(failure) = self.after(self.args.seconds, |run| run.stop_sending()) {
            self.tally.borrow_mut().error(failure.to_string(), 1);
            return self.end();
        }
        let clients = self.clients.borrow().clone();
        for client in clients {
            if !client.stream.borrow().ended {
                self.send(&client, self.args.depth as usize, Instant::now());
            }
        }
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

    /// Writes `count` messages.
    fn send(&self, client: &Client, count: usize, now: Instant) {
        let mut stream = client.stream.borrow_mut();
        let mut left = count * self.args.size;
        while left > 0 {
            let piece = self.pattern.piece(stream.origin + stream.sent, left);
            let len = piece.len();
            if client.bev.write_piece(piece).is_err() {
                // It was freed by an error, whose callback has counted it.
                return;
            }
            stream.sent += len as u64;
            left -= len;
        }
        stream.written_at.extend(std::iter::repeat_n(now, count));
    }

    /// Checks what came back; answers every whole message by another.
    fn received(self: &Rc<Self>, client: &Client) -> Result<(), String> {
        let mut input = EvBuffer::new();
        client
            .bev
            .read_buffer(&mut input)
            .map_err(|error| error.to_string())?;
        let now = Instant::now();
        let size = self.args.size as u64;
        let messages = {
            let mut stream = client.stream.borrow_mut();
            let before = stream.received / size;
            while input.has_remaining() {
                let chunk = input.chunk();
                let len = chunk.len();
                if stream.received + len as u64 > stream.sent {
                    return Err("more bytes came back than were sent".to_owned());
                }
                let position = stream.origin + stream.received;
                if self.pattern.first_difference(position, chunk).is_some() {
                    return Err("other bytes came back than were sent".to_owned());
                }
                stream.received += len as u64;
                input.advance(len);
            }
            stream.received / size - before
        };
        self.answered(client, messages, now);
        Ok(())
    }

    fn answered(self: &Rc<Self>, client: &Client, messages: u64, now: Instant) {
        let measuring = self.phase.get() == Phase::Measuring;
        {
            let mut tally = self.tally.borrow_mut();
            let mut stream = client.stream.borrow_mut();
            for _ in 0..messages {
                let Some(written_at) = stream.written_at.pop_front() else {
                    break;
                };
                if measuring {
                    let nanos = now.saturating_duration_since(written_at).as_nanos();
                    tally
                        .latency
                        .saturating_record(u64::try_from(nanos).unwrap_or(u64::MAX));
                }
            }
            if measuring {
                tally.messages += messages;
                tally.bytes += messages * self.args.size as u64;
            }
        }
        if measuring {
            self.send(client, messages as usize, now);
        } else {
            self.retire_if_quiet(client);
        }
    }

    /// The time is up: counts no more, and waits for what is under way.
    fn stop_sending(self: &Rc<Self>) {
        if self.phase.get() != Phase::Measuring {
            return;
        }
        self.phase.set(Phase::Finishing);
        {
            let mut tally = self.tally.borrow_mut();
            tally.measured = tally
                .started
                .map_or(Duration::ZERO, |started| started.elapsed());
        }
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
            let mut tally = self.tally.borrow_mut();
            tally.measured = tally
                .started
                .map_or(Duration::ZERO, |started| started.elapsed());
        }
        self.phase.set(Phase::Done);
        self.base.stop();
    }

    fn live_line(&self) -> String {
        let tally = self.tally.borrow();
        match (self.phase.get(), tally.started) {
            (Phase::Connecting, _) | (_, None) => {
                format!(
                    "connecting: {} of {}",
                    tally.connected, self.args.connections
                )
            }
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
                let missing = stream.written_at.len() as u64;
                if missing > 0 {
                    tally.error("no answer", missing);
                }
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
