//! What echo and proxy have in common: threads, the listening address, signals, the live line
//! and the counters at the end.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use evring::{Addr, EventBase};
use evring_cli_common::console::{Console, print_line};
use evring_cli_common::failure::Failure;
use evring_cli_common::units;

use crate::args::ServerArgs;
use crate::bursts::Notices;
use crate::limits::{self, Capacity};
use crate::listen_claim::ListenClaim;
use crate::live::{Dashboard, LIVE_INTERVAL, SharedSample, shared_sample};
use crate::shutdown;
use crate::stats;
use crate::worker::{self, MakeService, Outcome, Plan, Spawned, Team, Worker};

/// A server to run.
pub struct Server {
    /// Where to listen.
    pub listen: Addr,
    /// The options that every server has.
    pub args: ServerArgs,
    /// Descriptors that a connection takes.
    pub fds_each: usize,
    /// Whether the upstream is in this process and shares its descriptors.
    pub upstream_inside: bool,
    /// Makes the service of each worker.
    pub make: MakeService,
    /// Where to report.
    pub notices: Notices,
    /// The terminal.
    pub console: Console,
}

impl Server {
    /// Serves until a signal ends it. Calls `ready` with the address once it accepts.
    ///
    /// Gives the outcomes of all workers.
    ///
    /// # Errors
    /// When the address cannot be had, the kernel gives no ring, or a loop fails.
    pub fn run(&self, ready: impl FnOnce(&Addr)) -> Result<Vec<Outcome>, Failure> {
        let threads = usize::from(self.args.threads);
        let shared = threads > 1 && self.listen.is_tcp();
        let mut claim = worker::claim(&self.listen)?;
        let samples = self.samples(threads);
        let plan = |index: usize, listen: Option<Addr>| Plan {
            listen,
            reuse_port: shared,
            spin: self.args.spin.into(),
            capacity: self.capacity(threads),
            memory: self.args.memory,
            slot: self.args.slot,
            sample: samples.get(index).cloned(),
            notices: self.notices.clone(),
        };

        let lead = Worker::build(&plan(0, Some(self.listen.clone())), &self.make)?;
        claim.bound();
        let addr = lead.local_addr().unwrap_or_else(|| self.listen.clone());
        let remote = lead.base().remote();
        let remote = remote.map_err(|error| Failure::new("cannot start", error))?;
        let team = Team::new(threads, remote);
        lead.lead(team.clone());
        let mut followers = Vec::new();
        for index in 1..threads {
            let plan = plan(index, shared.then(|| addr.clone()));
            let name = format!("evring-{index}");
            match worker::spawn(&name, plan, self.make.clone(), Some(team.clone())) {
                Ok(follower) => followers.push(follower),
                Err(failure) => {
                    stop_all(followers);
                    return Err(failure);
                }
            }
        }
        let remotes: Vec<_> = followers.iter().map(|f| f.remote.clone()).collect();
        if !shared {
            lead.deal_to(remotes.clone());
        }

        let _signals = self.watch(lead.base(), remotes, claim)?;
        self.show(&lead, samples)?;
        ready(&addr);
        let first = lead.run();
        self.console.clear();
        self.notices.rest();
        let mut outcomes = vec![first];
        outcomes.extend(stop_all(followers));
        let outcomes: Vec<_> = outcomes.into_iter().collect::<Result<_, _>>()?;
        self.tell_cut_off(&outcomes);
        Ok(outcomes)
    }

    /// On the first signal: gives the address up, and drains all workers.
    fn watch(
        &self,
        base: &EventBase,
        followers: Vec<evring::Remote>,
        claim: ListenClaim,
    ) -> Result<shutdown::Watch, Failure> {
        let grace = self.args.grace;
        let console = self.console.clone();
        shutdown::watch(base, move || {
            drop(claim);
            if console.is_live() {
                console.say("evring: stopping (a second signal stops at once)");
            }
            for remote in &followers {
                // One that has ended already has nothing to drain.
                let _ = remote.post(move |_| worker::with_current(|worker| worker.drain(grace)));
            }
            worker::with_current(|worker| worker.drain(grace));
        })
    }

    fn samples(&self, threads: usize) -> Vec<SharedSample> {
        match self.console.is_live() {
            true => (0..threads).map(|_| shared_sample()).collect(),
            false => Vec::new(),
        }
    }

    fn show(&self, lead: &Worker, samples: Vec<SharedSample>) -> Result<(), Failure> {
        if samples.is_empty() {
            return Ok(());
        }
        let dashboard = RefCell::new(Dashboard::new(samples, Instant::now()));
        let console = self.console.clone();
        lead.every(LIVE_INTERVAL, move |_| {
            console.draw(&dashboard.borrow_mut().line(Instant::now()));
        })
    }

    fn capacity(&self, threads: usize) -> Capacity {
        let fitting = Capacity::of(limits::raise_open_files(), threads, self.fds_each);
        let asked_for = match self.args.max_connections {
            None => return fitting,
            Some(0) => Capacity::UNLIMITED,
            Some(n) => Capacity {
                connections: n.div_ceil(threads),
                ..fitting
            },
        };
        if self.upstream_inside && asked_for.connections > fitting.connections {
            // Without a descriptor left for the upstream none would ever be closed.
            return fitting;
        }
        asked_for
    }

    fn tell_cut_off(&self, outcomes: &[Outcome]) {
        let cut_off: usize = outcomes.iter().map(|outcome| outcome.cut_off).sum();
        if cut_off > 0 {
            let grace = seconds(self.args.grace);
            let connections = units::count(cut_off, "connection");
            self.console.note(&format!(
                "closed {connections} with data unsent after a grace of {grace}"
            ));
        }
    }
}

/// Prints the counters of `outcomes`, summed, if they were asked for.
pub fn print_stats(args: &ServerArgs, outcomes: &[Outcome]) {
    if args.stats {
        print_line(stats::table(outcomes).trim_end());
    }
}

/// A duration for a message: `5 s`, `0.5 s`.
pub fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

/// A timeout, of which zero means none.
pub fn unless_zero(timeout: Duration) -> Option<Duration> {
    Some(timeout).filter(|timeout| !timeout.is_zero())
}

fn stop_all(workers: Vec<Spawned>) -> Vec<Result<Outcome, Failure>> {
    workers.into_iter().map(Spawned::stop).collect()
}
