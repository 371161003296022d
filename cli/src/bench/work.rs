//! One run: one server, one work, its figures.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::Bench;
use super::interrupt::Stop;
use super::measure::{accept, bulk, idle};
use super::metric::Metric;
use super::process::{Process, Serving};
use super::result::Run;
use super::servers::Server;
use super::suite::{IDLE_CONNECTIONS, Kind, Load, Work};
use crate::failure::Failure;
use crate::report::Report;

/// A run in which the server, or the load generator where it has its core to itself, had to wait
/// that share of the time for its core was disturbed by something else, and is made again, so many
/// times at most.
const DISTURBED: f64 = 0.03;
const TRIES: usize = 4;

/// Beyond the time asked for, a load run may take this long to connect, to drain and to report.
const LOAD_GRACE: Duration = Duration::from_secs(30);

/// A run of `server`, made again if something else disturbed it.
///
/// # Errors
/// When a server or the load fails, or a signal comes.
pub fn run(bench: &Bench, server: &Server, work: Work) -> Result<Run, Stop> {
    let mut tries = 1;
    loop {
        bench.interrupt.check()?;
        let run = once(bench, server, work)?;
        if !run.disturbed || tries == TRIES {
            return Ok(run);
        }
        tries += 1;
    }
}

fn once(bench: &Bench, server: &Server, work: Work) -> Result<Run, Stop> {
    match work {
        Work::Load(load) => message_load(bench, server, &load),
        Work::Bulk => bulk_stream(bench, server),
        Work::Accept => accepts(bench, server),
        Work::Idle => idle_memory(bench, server),
    }
}

fn message_load(bench: &Bench, server: &Server, load: &Load) -> Result<Run, Stop> {
    let upstream = match load.kind {
        Kind::Echo => None,
        Kind::Proxy => Some(bench.start_upstream()?),
    };
    let address = upstream.as_ref().map(|upstream| upstream.address.as_str());
    let mut serving = server.start(bench, address, load.spin)?;
    let report = generate(bench, &serving, load);
    // A server that has died is the cause of whatever the load generator says.
    serving.check()?;
    let report = report.map_err(|stop| named(server, stop))?;
    serving.stop(&bench.interrupt)?;
    if let Some(upstream) = upstream {
        upstream.stop(&bench.interrupt)?;
    }
    figures(&report, load).ok_or_else(|| Failure::new(&server.name, "nothing was measured").into())
}

/// Runs the load generator.
fn generate(bench: &Bench, serving: &Serving, load: &Load) -> Result<Report, Stop> {
    let (seconds, warm_up) = bench.times(Work::Load(*load));
    let mut command = vec![bench.evring.clone(), "load".to_owned(), "--json".to_owned()];
    let mut option = |name: &str, value: String| command.extend([name.to_owned(), value]);
    option("--connect", serving.address.clone());
    option("--connections", load.connections.to_string());
    option("--size", load.size.to_string());
    option("--seconds", seconds.as_secs_f64().to_string());
    option("--warm-up", warm_up.as_secs_f64().to_string());
    option("--watch-pid", serving.pid().to_string());
    if let Some(rate) = bench.settings.rate {
        option("--rate", rate.to_string());
        if load.kind == Kind::Echo {
            // A sleeper is woken late; it has its core to itself.
            command.push("--spin".to_owned());
        }
    }
    let command = bench.launcher.command(bench.cores.load, &command);
    let limit = seconds + warm_up + LOAD_GRACE;
    let text = Process::start("the load generator", command)?.output(limit, &bench.interrupt)?;
    let report: Report = serde_json::from_str(&text)
        .map_err(|error| Failure::new("the load generator's report", error))?;
    if !report.is_success() {
        let kinds = report.error_kinds.iter();
        let why: Vec<_> = kinds
            .map(|(kind, count)| format!("{kind} ({count} times)"))
            .collect();
        let why = if why.is_empty() {
            "no message came back".to_owned()
        } else {
            why.join(", ")
        };
        return Err(Failure::new("the load", why).into());
    }
    Ok(report)
}

fn figures(report: &Report, load: &Load) -> Option<Run> {
    let server = report.watched_cpu?;
    let own = report.own_cpu?;
    let latency = &report.latency_us;
    let spinning_load = report.open_loop.is_some() && load.kind == Kind::Echo;
    Some(Run {
        values: BTreeMap::from([
            (Metric::CpuUsPerMessage, server.us_per_message?),
            (Metric::MessagesPerSecond, report.messages_per_second),
            (Metric::P50Us, latency.p50),
            (Metric::P99Us, latency.p99),
            (Metric::P999Us, latency.p999),
            (Metric::MaxUs, latency.max),
        ]),
        // A proxy's load generator shares its core with the upstream: it always waits.
        disturbed: server.kept_waiting > DISTURBED
            || (load.kind == Kind::Echo && own.kept_waiting > DISTURBED),
        server_busy: Some(server.busy),
        // Of one that spins it says nothing.
        load_busy: (!spinning_load).then_some(own.busy),
        latency_curve: report.latency_curve.clone(),
    })
}

fn bulk_stream(bench: &Bench, server: &Server) -> Result<Run, Stop> {
    let sink = TcpListener::bind("127.0.0.1:0");
    let sink = sink.map_err(|error| Failure::new("a port for the end of the stream", error))?;
    let upstream = sink
        .local_addr()
        .map_err(|error| Failure::new("a port for the end of the stream", error))?;
    let (seconds, warm_up) = bench.times(Work::Bulk);
    let found = served(
        bench,
        server,
        Some(&upstream.to_string()),
        |address, pid| bulk::run(&sink, address, pid, warm_up, seconds),
    )?;
    Ok(Run {
        values: BTreeMap::from([
            (Metric::BytesPerCpuSecond, found.bytes_per_cpu_second()),
            (Metric::BytesPerSecond, found.bytes_per_second()),
        ]),
        ..shares(found.proxy.ran, found.proxy.waited, found.elapsed)
    })
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
    serving.check()?;
    let found = found.map_err(|failure| Failure::new(&server.name, failure))?;
    serving.stop(&bench.interrupt)?;
    Ok(found)
}

/// Runs `f` on the load's core with the priority of what is measured. Threads that it starts
/// inherit both.
fn on_core<T: Send>(
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
