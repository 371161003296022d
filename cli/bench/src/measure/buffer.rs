//! EvBuffer beside libevent's evbuffer: the rows of `evring-evbuffer-peer`.
//!
//! That program links both and interleaves them itself, within one process and on one core, so
//! there are no turns to be taken here.

use std::path::Path;
use std::process::Command;

use evring_cli_common::failure::Failure;
use serde::Deserialize;

/// What the program found.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Buffers {
    /// evring's version.
    pub evring: String,
    /// libevent's version.
    pub libevent: String,
    /// Rounds of each case.
    pub rounds: usize,
    /// The cases.
    pub rows: Vec<Row>,
}

/// A case at one size; times are medians, in nanoseconds of processor time for one operation.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Row {
    /// What is done, and the unit of `size`.
    pub case: String,
    /// Bytes or segments.
    pub size: usize,
    /// What it takes EvBuffer.
    pub evring_ns: f64,
    /// What it takes evbuffer.
    pub libevent_ns: f64,
    /// Of these medians: below 1 EvBuffer needs less.
    pub ratio: f64,
    /// The ratio that the project wants at most.
    pub target: f64,
    /// Of every round.
    pub ratios: Vec<f64>,
}

/// Runs `program` with so many rounds a case, all cases or those whose name contains `filter`. A
/// case takes about 10 ms a round.
///
/// # Errors
///
/// The program is not there, was built without libevent, or fails.
pub fn run(program: &Path, filter: Option<&str>, rounds: u32) -> Result<Buffers, Failure> {
    let mut command = Command::new(program);
    command.args(filter).arg(rounds.to_string()).arg("--json");
    super::json_of(command)
}
