//! Measurements for the comparison, one a module.
//!
//! Each drives a server that already runs (or, for pairs and buffers, none at all), ends within a
//! bounded time, and gives plain numbers. Starting the servers, pinning them to cores, taking turns
//! and calling a difference are not done here. What a measurement does itself runs on the thread
//! that calls it and on threads started by it, so it keeps to the cores of its caller.

use std::process::{Command, Stdio};
use std::time::Duration;

use evring_cli_common::cpu::CpuReading;
use evring_cli_common::failure::Failure;
use serde::de::DeserializeOwned;

pub mod accept;
pub mod buffer;
pub mod bulk;
mod clients;
pub mod external;
pub mod idle;
pub mod pair;
pub mod rate;
pub mod syscalls;

/// Any one step of a measurement, a connection made or an answer awaited, fails when it takes
/// longer than this.
const STALL: Duration = Duration::from_secs(5);

/// What the threads of a server have used so far.
fn cpu(pid: u32) -> Result<CpuReading, Failure> {
    CpuReading::take(pid).ok_or_else(|| {
        Failure::line(format!(
            "process {pid} is gone, or keeps no account of its time"
        ))
    })
}

/// Runs a program to its end and reads the one JSON value that it prints.
fn json_of<T: DeserializeOwned>(mut command: Command) -> Result<T, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Failure::new(&program, error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let text = match said.trim() {
            "" => output.status.to_string(),
            said => said.to_owned(),
        };
        return Err(Failure::new(program, text));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| Failure::new(program, error))
}
