//! `evring run-pinned`, a command for `evring bench` itself: puts a process on its core, then
//! becomes the program to be measured.
//!
//! What it sets is kept across `exec`, so that the program needs to know nothing of it, and no
//! code has to run between `fork` and `exec`.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use evring_cli_common::failure::Failure;
use rustix::process::{
    Signal, getppid, set_parent_process_death_signal, setpriority_process, setsid,
};
use rustix::thread::{CpuSet, sched_setaffinity};

/// The name of the command.
const NAME: &str = "run-pinned";

/// `evring run-pinned`.
#[derive(Debug, Clone, Args)]
pub struct LaunchArgs {
    /// The core to run on
    #[arg(long)]
    core: usize,
    /// The priority to run with
    #[arg(long, allow_hyphen_values = true)]
    nice: i32,
    /// The process whose end is this one's too
    #[arg(long)]
    parent: u32,
    /// What to become
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Where and how everything that is measured runs.
#[derive(Debug, Clone)]
pub struct Launcher {
    evring: PathBuf,
    nice: i32,
}

impl Launcher {
    /// A launcher by way of the `evring` binary.
    pub fn new(evring: PathBuf, nice: i32) -> Self {
        Self { evring, nice }
    }

    /// `command` on `core`, ready to be spawned. Spawn it from the main thread: the program ends
    /// with the thread that did.
    pub fn command(&self, core: usize, command: &[String]) -> Command {
        let mut launch = Command::new(&self.evring);
        launch
            .arg(NAME)
            .args(["--core", &core.to_string()])
            .args(["--nice", &self.nice.to_string()])
            .args(["--parent", &std::process::id().to_string()])
            .arg("--")
            .args(command);
        launch
    }
}

/// Becomes the program.
///
/// # Errors
/// When the kernel refuses the core or the priority, or there is no such program.
pub fn run(args: &LaunchArgs) -> Result<Infallible, Failure> {
    end_with(args.parent)?;
    // A session of its own: a terminal's ^C reaches the harness alone, which then ends the rest in
    // order, and the scheduler weighs it by its own priority where it groups by session.
    setsid().map_err(|error| Failure::new("cannot start a session", error))?;
    let mut cores = CpuSet::new();
    if args.core >= CpuSet::MAX_CPU {
        return Err(Failure::line(format!("there is no core {}", args.core)));
    }
    cores.set(args.core);
    sched_setaffinity(None, &cores)
        .map_err(|error| Failure::new(format!("cannot run on core {}", args.core), error))?;
    if args.nice != 0 {
        setpriority_process(None, args.nice).map_err(|error| {
            let remedy = "a priority below 0 needs root";
            Failure::new(
                format!("cannot set --nice {}", args.nice),
                format!("{error}; {remedy}"),
            )
        })?;
        // Only where the kernel groups by session.
        let _ = std::fs::write("/proc/self/autogroup", args.nice.to_string());
    }
    let program = &args.command[0];
    let error = Command::new(program).args(&args.command[1..]).exec();
    Err(Failure::new(
        format!("cannot run {}", program.display()),
        error,
    ))
}

/// Asks the kernel for SIGTERM when the harness dies, however it dies.
fn end_with(parent: u32) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| Failure::new("cannot ask to be ended", error))?;
    // It may have died before that.
    let alive =
        getppid().is_some_and(|pid| u32::try_from(pid.as_raw_nonzero().get()) == Ok(parent));
    match alive {
        true => Ok(()),
        false => Err(Failure::line("the comparison has ended")),
    }
}
