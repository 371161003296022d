//! One run: one server, one work, its figures.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use evring_cli_common::failure::Failure;
use evring_cli_common::report::Report;
use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::Bench;
use super::interrupt::Stop;
use super::measure::pair::{self, Trips};
use super::measure::rate::{self, Limit, Traffic};
use super::measure::syscalls::{self, Counter};
use super::measure::{accept, buffer, bulk, idle};
use super::metric::Metric;
use super::process::{Process, Serving};
use super::result::Run;
use super::servers::Server;
use super::statistics::median;
use super::upstream::Upstream;
use super::workload::{IDLE_CONNECTIONS, Kind, LIMIT_RATE, LIMIT_TICK, Load, RateLimit, Work};

/// A run in which the server, or the load generator where it has its core to itself, had to wait
/// that share of the time for its core was disturbed by something else, and is made again, so many
/// times at most.
const DISTURBED: f64 = 0.03;
const TRIES: usize = 4;

/// Beyond the time asked for, a load run may take this long to connect, to drain and to report.
const LOAD_GRACE: Duration = Duration::from_secs(30);

/// For how long system calls are counted at least.
const COUNTED_AT_LEAST: Duration = Duration::from_secs(1);

/// A run of `server`, made again if something else disturbed it, for as long as there are
/// `retries`.
///
/// # Errors
/// When a server or the load fails, or a signal comes.
pub fn run(bench: &Bench, server: &Server, work: Work, retries: &mut usize) -> Result<Run, Stop> {
    let mut tries = 0;
    loop {
        bench.interrupt.check()?;
        tries += 1;
        match once(bench, server, work)? {
            Some(run) if !run.disturbed || tries >= TRIES || *retries == 0 => return Ok(run),
            Some(_) => *retries -= 1,
            None if tries >= TRIES => {
                let why = "nothing came back, however often tried: other work has the cores \
                           (--nice -20 as root, or later)";
                return Err(Failure::new(&server.name, why).into());
            }
            None => {}
        }
    }
}

/// `None` when nothing at all came back in the time, as on a machine that has none to spare.
fn once(bench: &Bench, server: &Server, work: Work) -> Result<Option<Run>, Stop> {
    match work {
        Work::Load(load) => message_load(bench, server, &load),
        Work::Bulk => bulk_stream(bench, server),
        Work::Accept => accepts(bench, server).map(Some),
        Work::Idle => idle_memory(bench, server).map(Some),
        Work::Pair => round_trips(bench, server).map(Some),
        Work::Rate(limit) => limited(bench, server, &limit).map(Some),
        // It takes its turns by itself, see `buffers`.
        Work::Buffer => Err(Failure::line("a buffer is no server").into()),
    }
}

fn message_load(bench: &Bench, server: &Server, load: &Load) -> Result<Option<Run>, Stop> {
    let times = bench.times(Work::Load(*load));
    let report = loaded(bench, server, load, |target| {
        generate(bench, target, load, times)
    })?;
    Ok(figures(&report, load))
}

/// The system calls of a server for each message, in a run that is not timed: counting disturbs.
///
/// # Errors
/// As [`run`].
pub fn syscalls(
    bench: &Bench,
    server: &Server,
    load: &Load,
    counter: &Counter,
) -> Result<f64, Stop> {
    // Everything is counted, from the accepts on: long enough for those not to matter, and no
    // warm-up, which would be counted too.
    let seconds = bench.times(Work::Load(*load)).0.max(COUNTED_AT_LEAST);
    let times = (seconds, Duration::ZERO);
    loaded(bench, server, load, |target| {
        let counted = syscalls::count(counter, target.serving.pid(), || {
            Ok(generate(bench, target, load, times))
        });
        let (calls, report) = counted?;
        match report?.messages {
            0 => Err(Failure::line("nothing came back while system calls were counted").into()),
            messages => Ok(calls as f64 / messages as f64),
        }
    })
}

/// What the load generator is given: a server, and what is behind it.
struct Target {
    serving: Serving,
    upstream: Upstream,
}

/// Starts `server`, and what it needs behind it, for `work`, and ends both.
fn loaded<T>(
    bench: &Bench,
    server: &Server,
    load: &Load,
    work: impl FnOnce(&Target) -> Result<T, Stop>,
) -> Result<T, Stop> {
    let upstream = Upstream::start_for(bench, load)?;
    let serving = server.start(bench, upstream.address(), load.spin)?;
    let mut target = Target { serving, upstream };
    let found = work(&target);
    // A server that has died is the cause of whatever the load generator says.
    target.serving.check()?;
    let found = found.map_err(|stop| named(server, stop))?;
    target.serving.stop(&bench.interrupt)?;
    target.upstream.stop(&bench.interrupt)?;
    Ok(found)
}

/// Runs the load generator for the times to be measured and before that.
fn generate(
    bench: &Bench,
    target: &Target,
    load: &Load,
    (seconds, warm_up): (Duration, Duration),
) -> Result<Report, Stop> {
    let mut command = vec![bench.evring.clone(), "load".to_owned(), "--json".to_owned()];
    let mut option = |name: &str, value: String| command.extend([name.to_owned(), value]);
    option("--connect", target.serving.address.clone());
    if let Upstream::Load(port) = &target.upstream {
        option("--upstream", port.address.clone());
    }
    option("--connections", load.connections.to_string());
    option("--size", load.size.to_string());
    option("--seconds", seconds.as_secs_f64().to_string());
    option("--warm-up", warm_up.as_secs_f64().to_string());
    option("--watch-pid", target.serving.pid().to_string());
    if let Some(rate) = bench.settings.rate {
        option("--rate", rate.to_string());
    }
    // A sleeper would be woken late for what is due.
    let on_time = bench.settings.rate.is_some() && load.load_is_alone();
    if load.load_spins || on_time {
        command.push("--spin".to_owned());
    }
    let command = bench.launcher.command(bench.cores.load, &command);
    let limit = seconds + warm_up + LOAD_GRACE;
    let text = Process::start("the load generator", command)?.output(limit, &bench.interrupt)?;
    let report: Report = serde_json::from_str(&text)
        .map_err(|error| Failure::new("the load generator's report", error))?;
    if report.errors > 0 {
        let kinds = report.error_kinds.iter();
        let why: Vec<_> = kinds
            .map(|(kind, count)| format!("{kind} ({count} times)"))
            .collect();
        return Err(Failure::new("the load", why.join(", ")).into());
    }
    Ok(report)
}

fn figures(report: &Report, load: &Load) -> Option<Run> {
    let server = report.watched_cpu?;
    let own = report.own_cpu?;
    let us_per_message = server.us_per_message.filter(|us| *us > 0.0)?;
    let latency = &report.latency_us;
    let spinning_load = load.load_spins || report.open_loop.is_some() && load.load_is_alone();
    Some(Run {
        values: BTreeMap::from([
            (Metric::CpuUsPerMessage, us_per_message),
            (Metric::MessagesPerSecond, report.messages_per_second),
            (Metric::P50Us, latency.p50),
            (Metric::P99Us, latency.p99),
            (Metric::P999Us, latency.p999),
            (Metric::MaxUs, latency.max),
        ]),
        // One that shares its core with the upstream always waits.
        disturbed: server.kept_waiting > DISTURBED
            || (load.load_is_alone() && own.kept_waiting > DISTURBED),
        server_busy: Some(server.busy),
        // Of one that spins it says nothing.
        load_busy: (!spinning_load).then_some(own.busy),
        latency_curve: report.latency_curve.clone(),
    })
}

fn bulk_stream(bench: &Bench, server: &Server) -> Result<Option<Run>, Stop> {
    let (sink, upstream) = listen()?;
    let (seconds, warm_up) = bench.times(Work::Bulk);
    let found = served(
        bench,
        server,
        Some(&upstream.to_string()),
        |address, pid| bulk::run(&sink, address, pid, warm_up, seconds),
    )?;
    Ok((found.bytes > 0).then(|| Run {
        values: BTreeMap::from([
            (Metric::BytesPerCpuSecond, found.bytes_per_cpu_second()),
            (Metric::BytesPerSecond, found.bytes_per_second()),
        ]),
        ..shares(found.proxy.ran, found.proxy.waited, found.elapsed)
    }))
}

fn accepts(bench: &Bench, server: &Server) -> Result<Run, Stop> {
    let (measured, warm_up) = bench.times(Work::Accept);
    let options = accept::Options {
        measured,
        warm_up,
        ..accept::Options::default()
    };
    let found = served(bench, server, None, |address, pid| {
        accept::run(address, pid, &options)
    })?;
    Ok(Run {
        values: BTreeMap::from([
            (Metric::CpuUsPerConnection, found.cpu_us_per_connection()),
            (Metric::ConnectionsPerSecond, found.per_second()),
        ]),
        ..shares(found.server.ran, found.server.waited, found.elapsed)
    })
}

fn idle_memory(bench: &Bench, server: &Server) -> Result<Run, Stop> {
    let found = served(bench, server, None, |address, pid| {
        idle::run(address, pid, IDLE_CONNECTIONS)
    })?;
    Ok(Run {
        values: BTreeMap::from([(Metric::BytesPerConnection, found.bytes_per_connection())]),
        ..Run::default()
    })
}

/// Round trips of a batch over a pair, and batches: a run is short, and its median one figure.
const TRIPS: Trips = Trips {
    size: 64,
    round_trips: 50_000,
    batches: 5,
};

fn round_trips(bench: &Bench, server: &Server) -> Result<Run, Stop> {
    let each = on_core(bench, || trips(server, &TRIPS))?;
    Ok(Run {
        values: BTreeMap::from([(Metric::NsPerRoundTrip, median(&each))]),
        ..Run::default()
    })
}

fn trips(server: &Server, trips: &Trips) -> Result<Vec<f64>, Failure> {
    match server.file() {
        None => pair::evring(trips),
        Some(program) => pair::libevent(program, trips),
    }
}

/// Tries whether a program that is no server works.
///
/// # Errors
/// When it does not.
pub fn try_program(server: &Server, kind: Kind) -> Result<(), Failure> {
    match (kind, server.file()) {
        (Kind::Buffer, Some(program)) => buffer::run(program, Some("formatted"), 1).map(drop),
        (Kind::Buffer, None) => Ok(()),
        _ => {
            let one = Trips {
                round_trips: 1,
                batches: 1,
                ..TRIPS
            };
            trips(server, &one).map(drop)
        }
    }
}

fn limited(bench: &Bench, server: &Server, limit: &RateLimit) -> Result<Run, Stop> {
    let sink = listen()?;
    let (measured, warm_up) = bench.times(Work::Rate(*limit));
    let traffic = Traffic {
        connections: limit.connections,
        write_bytes: None,
        warm_up,
        measured,
    };
    let limit = Limit {
        direction: limit.direction,
        rate: LIMIT_RATE,
        own: false,
        tick: LIMIT_TICK,
    };
    let server = server.with(limit.arguments());
    let found = served(bench, &server, Some(&sink.1), |address, pid| {
        rate::run(&sink.0, address, pid, &limit, &traffic)
    })?;
    Ok(Run {
        values: BTreeMap::from([
            (Metric::CpuUsPerMegabyte, found.cpu_us_per_megabyte()),
            (Metric::RateErrorPercent, found.error * 100.0),
            (Metric::Fairness, found.jain),
        ]),
        ..shares(found.proxy.ran, found.proxy.waited, measured)
    })
}

/// Where a stream ends, behind a proxy.
fn listen() -> Result<(TcpListener, String), Failure> {
    let port = |error| Failure::new("a port for the end of a stream", error);
    let sink = TcpListener::bind("127.0.0.1:0").map_err(port)?;
    let address = sink.local_addr().map_err(port)?.to_string();
    Ok((sink, address))
}

fn shares(ran: Duration, waited: Duration, elapsed: Duration) -> Run {
    let share = |time: Duration| time.as_secs_f64() / elapsed.as_secs_f64().max(1e-9);
    Run {
        server_busy: Some(share(ran)),
        disturbed: share(waited) > DISTURBED,
        ..Run::default()
    }
}

/// Starts `server`, measures it from the load's core, and ends it.
fn served<T: Send>(
    bench: &Bench,
    server: &Server,
    upstream: Option<&str>,
    measure: impl FnOnce(SocketAddr, u32) -> Result<T, Failure> + Send,
) -> Result<T, Stop> {
    let mut serving = server.start(bench, upstream, false)?;
    let address: SocketAddr = serving
        .address
        .parse()
        .map_err(|error| Failure::new(format!("{}: {}", server.name, serving.address), error))?;
    let pid = serving.pid();
    let found = on_core(bench, || measure(address, pid));
    // A signal makes system calls fail: not the server's fault.
    bench.interrupt.check()?;
    serving.check()?;
    let found = found.map_err(|failure| Failure::new(&server.name, failure))?;
    serving.stop(&bench.interrupt)?;
    Ok(found)
}

/// Runs `f` on the load's core with the priority of what is measured. Threads that it starts
/// inherit both.
pub fn on_core<T: Send>(
    bench: &Bench,
    f: impl FnOnce() -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    let core = bench.cores.load;
    let pinned = move || {
        let mut cores = CpuSet::new();
        cores.set(core);
        sched_setaffinity(None, &cores)
            .map_err(|error| Failure::new(format!("cannot run on core {core}"), error))?;
        if bench.settings.nice != 0 {
            // Of this thread only, as Linux has it.
            setpriority_process(None, bench.settings.nice)
                .map_err(|error| Failure::new("cannot set the priority", error))?;
        }
        f()
    };
    std::thread::scope(|threads| {
        let thread = threads.spawn(pinned);
        let joined = thread.join();
        joined.unwrap_or_else(|_| Err(Failure::line("a measurement panicked")))
    })
}

fn named(server: &Server, stop: Stop) -> Stop {
    match stop {
        Stop::Failed(failure) => Failure::new(&server.name, failure).into(),
        Stop::Interrupted => Stop::Interrupted,
    }
}
