//! What a run of the load generator has seen so far.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use evring_cli_common::cpu::{CpuReading, CpuTime};
use evring_cli_common::report::latency_histogram;
use hdrhistogram::Histogram;

/// Counts of the run, and the clock of the measured time.
pub struct Tally {
    /// Connects under way.
    pub connecting: usize,
    /// Connects not yet begun.
    pub to_connect: usize,
    /// Connections that were made.
    pub connected: usize,
    /// Connections that still have something to do.
    pub alive: usize,
    /// When the measured time began.
    pub started: Option<Instant>,
    /// How long it was, once it has ended.
    pub measured: Duration,
    /// Messages that came back within it, and their bytes.
    pub messages: u64,
    pub bytes: u64,
    /// Nanoseconds from write (open loop: from the moment the message was due) to the last byte.
    pub latency: Histogram<u64>,
    /// Open loop: nanoseconds from the moment a message was due to its write.
    pub behind: Histogram<u64>,
    /// What went wrong, and how often.
    pub errors: BTreeMap<String, u64>,
    watch: CpuWatch,
    /// The CPU time of the load generator and of the process watched.
    pub own_cpu: Option<CpuTime>,
    pub watched_cpu: Option<CpuTime>,
}

/// Readings at the start of the measured time.
struct CpuWatch {
    watched_pid: Option<u32>,
    own: Option<CpuReading>,
    watched: Option<CpuReading>,
}

impl Tally {
    /// Nothing seen yet; `connections` to be made.
    pub fn new(connections: usize, watched_pid: Option<u32>) -> Self {
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
            behind: latency_histogram(),
            errors: BTreeMap::new(),
            watch: CpuWatch {
                watched_pid,
                own: None,
                watched: None,
            },
            own_cpu: None,
            watched_cpu: None,
        }
    }

    /// Counts `count` errors of a kind.
    pub fn error(&mut self, what: impl Into<String>, count: u64) {
        *self.errors.entry(what.into()).or_default() += count;
    }

    /// The measured time begins.
    pub fn start_clock(&mut self) {
        self.watch.watched = self.watch.watched_pid.and_then(CpuReading::take);
        self.watch.own = CpuReading::take(std::process::id());
        self.started = Some(Instant::now());
    }

    /// The measured time ends.
    pub fn stop_clock(&mut self) {
        self.measured = self
            .started
            .map_or(Duration::ZERO, |started| started.elapsed());
        let used = |pid, before: &Option<CpuReading>| {
            let before = before.as_ref()?;
            Some(CpuReading::take(pid)?.since(before))
        };
        self.own_cpu = used(std::process::id(), &self.watch.own);
        self.watched_cpu = self
            .watch
            .watched_pid
            .and_then(|pid| used(pid, &self.watch.watched));
    }

    /// Whether a message that was due at `due` is one of those whose latency counts in an open
    /// loop: due within the measured time, whenever it comes back.
    pub fn was_due_while_measured(&self, due: Instant) -> bool {
        self.started.is_some_and(|started| due >= started)
    }

    /// Adds a latency.
    pub fn record_latency(&mut self, latency: Duration) {
        self.latency.saturating_record(nanos(latency));
    }

    /// Adds how late a message of an open loop was written.
    pub fn record_behind(&mut self, late: Duration) {
        self.behind.saturating_record(nanos(late));
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
