//! `evring bench`: evring and its peers on this machine, in turns.
//!
//! Server and load generator run on a core each (a proxy's upstream on the load generator's, or in
//! it). Only the ratios of runs in the same round are compared, and a difference that the rounds do
//! not agree on is not called one. Everything is on the loopback, every run of a
//! server is bounded in time, every byte that comes back is checked.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use evring_cli_common::console::{Console, print_line};
use evring_cli_common::failure::Failure;

pub mod args;
mod buffers;
mod cargo;
mod html;
mod interrupt;
pub mod launch;
mod machine;
pub mod measure;
mod metric;
mod plan;
mod process;
mod result;
mod rounds;
mod servers;
mod statistics;
mod suite;
mod table;
mod upstream;
mod verdict;
mod work;
mod workload;

use args::BenchArgs;
use interrupt::{Interrupt, Stop};
use launch::Launcher;
use machine::{Cores, Machine};
use measure::syscalls::{self, Counter};
use result::{FORMAT, Results, Settings};
use rounds::Progress;
use workload::Work;

/// What every part of a comparison needs.
#[derive(Debug)]
struct Bench {
    /// The command `evring`: the subject, the load generator and the proxies' upstream.
    evring: String,
    settings: Settings,
    cores: Cores,
    launcher: Launcher,
    interrupt: Interrupt,
    console: Console,
    /// What counts system calls, where something can.
    counter: Option<Counter>,
}

/// The defaults of rounds, seconds and warm-up, and those of a quick comparison.
const DEFAULTS: (u32, Duration, Duration) =
    (15, Duration::from_millis(500), Duration::from_millis(150));
const QUICK: (u32, Duration, Duration) =
    (7, Duration::from_millis(200), Duration::from_millis(100));

/// The exit code after a signal, as a shell gives it.
const EXIT_INTERRUPTED: u8 = 130;

/// Runs the comparison with the command `evring` at a path, and gives the exit code.
///
/// # Errors
/// When nothing can be measured at all.
pub fn run(args: &BenchArgs, evring: PathBuf) -> Result<u8, Failure> {
    let interrupt = Interrupt::watch()?;
    match compare(args, evring, interrupt) {
        Ok(code) => Ok(code),
        Err(Stop::Failed(failure)) => Err(failure),
        Err(Stop::Interrupted) => Ok(EXIT_INTERRUPTED),
    }
}

fn compare(args: &BenchArgs, evring: PathBuf, interrupt: Interrupt) -> Result<u8, Stop> {
    let cases = plan::chosen(args)?;
    plan::check_names(args)?;
    let mut bench = Bench::new(args, evring, interrupt)?;
    let machine = Machine::look();
    let peers = match &args.peers {
        Some(folder) => folder.clone(),
        None if plan::needs_peers(args) => cargo::peers(Path::new(&bench.evring), &bench.console)?,
        None => PathBuf::from("."),
    };
    bench.interrupt.check()?;
    let quiet = args.json == Path::new("-");
    let console = bench.console.clone();
    let tell = |text: &str| {
        if !quiet {
            console.clear();
            print_line(text.trim_end_matches('\n'));
        }
    };
    let (planned, mut left_out) = plan::plan(&bench, args, &peers, cases)?;
    if planned
        .iter()
        .any(|planned| planned.case.work.counts_syscalls())
    {
        match syscalls::counter() {
            Ok(counter) => bench.counter = Some(counter),
            Err(why) => left_out.push(format!("{why} (Debian: apt-get install strace)")),
        }
    }
    left_out.iter().for_each(|line| bench.console.note(line));
    if planned.is_empty() {
        return Err(Failure::line("there is nothing to compare").into());
    }
    tell(&machine.describe());
    if cfg!(debug_assertions) {
        bench
            .console
            .note("this build is not optimized: its figures mean nothing (--release)");
    }
    if let Some(line) = bench.cores.occupied() {
        bench.console.note(&line);
    }
    let mut results = Results {
        format: FORMAT,
        machine,
        settings: bench.settings.clone(),
        cases: Vec::new(),
        left_out,
        interrupted: false,
    };
    let mut failed = false;
    let mut progress = Progress::new(&bench, &planned);
    for planned in &planned {
        match rounds::run(&bench, planned, &mut progress) {
            Ok(case) => {
                tell(&table::case(&case));
                results.cases.push(case);
            }
            Err(Stop::Interrupted) => {
                results.interrupted = true;
                break;
            }
            Err(Stop::Failed(failure)) => {
                failed = true;
                let line = format!("{} is left out: {failure}", planned.case.name);
                bench.console.note(&line);
                results.left_out.push(line);
            }
        }
    }
    if let Some(goals) = table::goals(&results) {
        tell(&goals);
    }
    bench.console.clear();
    report(args, &bench.console, &results)?;
    Ok(match (results.interrupted, failed) {
        (true, _) => EXIT_INTERRUPTED,
        (false, true) => evring_cli_common::failure::EXIT_FAILURE,
        (false, false) => 0,
    })
}

/// Writes the files. Without a case there is nothing to write.
fn report(args: &BenchArgs, console: &Console, results: &Results) -> Result<(), Failure> {
    if results.interrupted {
        let cases = evring_cli_common::units::count(results.cases.len(), "case");
        console.say(&format!("evring: interrupted after {cases}"));
    }
    if results.cases.is_empty() {
        return Ok(());
    }
    let json = serde_json::to_string_pretty(results).expect("no map has odd keys");
    if args.json == Path::new("-") {
        print_line(&json);
    } else {
        write(&args.json, &json)?;
        console.say(&format!("figures: {}", args.json.display()));
    }
    write(&args.html, &html::document(results))?;
    console.say(&format!("report:  {}", args.html.display()));
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text)
        .map_err(|error| Failure::new(format!("cannot write {}", path.display()), error))
}

impl Bench {
    fn new(args: &BenchArgs, evring: PathBuf, interrupt: Interrupt) -> Result<Self, Failure> {
        let cores = Cores::choose(args.server_core, args.load_core)?;
        let (rounds, seconds, warm_up) = if args.quick { QUICK } else { DEFAULTS };
        let settings = Settings {
            rounds: args.rounds.unwrap_or(rounds) as usize,
            seconds: args.seconds.unwrap_or(seconds).as_secs_f64(),
            warm_up_seconds: args.warm_up.unwrap_or(warm_up).as_secs_f64(),
            nice: args.nice,
            server_core: cores.server,
            load_core: cores.load,
            rate: args.rate,
        };
        Ok(Self {
            launcher: Launcher::new(evring.clone(), args.nice),
            evring: evring.display().to_string(),
            settings,
            cores,
            interrupt,
            console: Console::new(),
            counter: None,
        })
    }

    /// How long a run of `work` is measured, and how long it runs before that.
    fn times(&self, work: Work) -> (Duration, Duration) {
        let scaled = |seconds: f64| Duration::from_secs_f64(seconds * work.time_factor());
        let seconds = scaled(self.settings.seconds);
        (
            seconds.max(work.least_time()),
            scaled(self.settings.warm_up_seconds),
        )
    }
}
