//! The case of the buffers: a program that links both libraries takes the turns, one operation
//! after another, and gives the ratios of its rounds.

use std::collections::BTreeMap;

use evring_cli_common::failure::Failure;

use super::Bench;
use super::interrupt::Stop;
use super::measure::buffer::{self, Row};
use super::metric::Metric;
use super::plan::Planned;
use super::result::{CaseResult, ContenderResult, Run};
use super::statistics::Summary;
use super::verdict::{Comparison, Goal};
use super::work;

/// All operations.
///
/// # Errors
/// When the program fails.
pub fn run(bench: &Bench, planned: &Planned) -> Result<CaseResult, Stop> {
    let mut files = planned.contenders.iter().map(|c| c.server.file());
    let program = files.find_map(|file| file);
    let program = program.ok_or_else(|| Failure::line("there is no program to compare buffers"))?;
    let rounds = u32::try_from(bench.settings.rounds).unwrap_or(u32::MAX);
    let found = work::on_core(bench, || buffer::run(program, None, rounds))?;
    let command = vec![program.display().to_string()];
    Ok(CaseResult {
        name: planned.case.name.to_owned(),
        suite: planned.case.suite.name().to_owned(),
        title: format!("{} ({})", planned.case.work.title(None), found.libevent),
        metric: planned.case.metric,
        subject: "EvBuffer".to_owned(),
        rounds: found.rounds,
        seconds: None,
        connections: None,
        message_bytes: None,
        contenders: found
            .rows
            .iter()
            .map(|row| figures(row, &command))
            .collect(),
        comparisons: found.rows.iter().filter_map(comparison).collect(),
        limits: Vec::new(),
        disturbed: 0,
    })
}

fn name(row: &Row) -> String {
    format!("{} {}", row.case, row.size)
}

fn figures(row: &Row, command: &[String]) -> ContenderResult {
    let run = Run {
        values: BTreeMap::from([
            (Metric::EvBufferNs, row.evring_ns),
            (Metric::EvbufferNs, row.libevent_ns),
        ]),
        ..Run::default()
    };
    ContenderResult::of(name(row), command.to_vec(), false, vec![run])
}

fn comparison(row: &Row) -> Option<Comparison> {
    let ratio = Summary::of(&row.ratios)?;
    let ratios = row.ratios.clone();
    let goal = Some(Goal::AtMost(row.target));
    Some(Comparison::new(
        name(row),
        Metric::EvBufferNs,
        ratios,
        ratio,
        false,
        goal,
    ))
}
