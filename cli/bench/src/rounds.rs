//! The rounds of a case: its servers take turns, A B C, C B A, and so on, because a machine drifts
//! more within minutes than the servers differ.

use std::time::{Duration, Instant};

use evring_cli_common::units;

use super::interrupt::Stop;
use super::metric::Metric;
use super::plan::{Contender, Planned};
use super::result::{CaseResult, ContenderResult, Run};
use super::servers::SUBJECT;
use super::verdict::{Comparison, Limit};
use super::work;
use super::workload::Work;
use super::{Bench, buffers};

/// How far all cases together have come.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    /// Seconds that everything, and what is done, was expected to take.
    total: f64,
    done: f64,
}

impl Progress {
    /// Nothing is done yet of `planned`.
    pub fn new(bench: &Bench, planned: &[Planned]) -> Self {
        let expected = |planned: &Planned| {
            let round = planned
                .contenders
                .iter()
                .map(|c| expected_seconds(bench, c))
                .sum::<f64>();
            round * (rounds_of(bench, planned) + 1) as f64
        };
        Self {
            started: Instant::now(),
            total: planned.iter().map(expected).sum(),
            done: 0.0,
        }
    }

    /// A line about it.
    fn line(&self, what: &str) -> String {
        let part = (self.done / self.total.max(1e-9)).min(1.0);
        // Before anything is done, what was expected; then what it has come to.
        let pace = match self.done > 0.0 {
            true => self.started.elapsed().as_secs_f64() / self.done,
            false => 1.0,
        };
        let left = (self.total - self.done).max(0.0) * pace;
        format!("{:>3.0} % | {} left | {what}", part * 100.0, about(left))
    }
}

/// A duration as rough as it is known.
fn about(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s => format!("{:.0} min", s / 60.0),
    }
}

fn expected_seconds(bench: &Bench, contender: &Contender) -> f64 {
    let (seconds, warm_up) = bench.times(contender.work);
    let measured = match contender.work {
        // It takes as long as it takes.
        Work::Idle | Work::Pair | Work::Buffer => Duration::ZERO,
        _ => seconds + warm_up,
    };
    (measured + contender.work.overhead()).as_secs_f64()
}

/// All rounds of a case.
///
/// # Errors
/// When a server fails or a signal comes.
pub fn run(bench: &Bench, planned: &Planned, progress: &mut Progress) -> Result<CaseResult, Stop> {
    if planned.case.work == Work::Buffer {
        bench.console.draw(&progress.line(planned.case.name));
        return buffers::run(bench, planned);
    }
    let contenders = &planned.contenders;
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); contenders.len()];
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    // Round 0 warms the machine up (frequency, page cache, slab caches) and is thrown away.
    let rounds = rounds_of(bench, planned);
    let mut retries = contenders.len() * (rounds + 1);
    for round in 0..=rounds {
        for &index in &order {
            let contender = &contenders[index];
            let turn = match round {
                0 => "warm-up".to_owned(),
                round => format!("round {round} of {rounds}"),
            };
            let what = format!("{}: {turn}, {}", planned.case.name, contender.name);
            bench.console.draw(&progress.line(&what));
            let tries = if round == 0 { &mut 0 } else { &mut retries };
            let run = work::run(bench, &contender.server, contender.work, tries)?;
            if round > 0 {
                runs[index].push(run);
            }
            progress.done += expected_seconds(bench, contender);
        }
        order.reverse();
    }
    let mut result = result(bench, planned, runs);
    count_syscalls(bench, planned, &mut result);
    Ok(result)
}

/// The rounds of a case: of those that take long half of what was asked for, but enough for an
/// interval.
fn rounds_of(bench: &Bench, planned: &Planned) -> usize {
    let rounds = bench.settings.rounds;
    match planned.case.slow {
        true => (rounds / 2).max(8).min(rounds),
        false => rounds,
    }
}

/// Counts the system calls for a message, where it says something and can be done.
fn count_syscalls(bench: &Bench, planned: &Planned, result: &mut CaseResult) {
    let Some(counter) = bench
        .counter
        .as_ref()
        .filter(|_| planned.case.against.is_none())
    else {
        return;
    };
    for (contender, figures) in planned.contenders.iter().zip(&mut result.contenders) {
        if let Work::Load(load) = contender.work
            && contender.work.counts_syscalls()
        {
            bench.console.draw(&format!(
                "{}: system calls of {}",
                planned.case.name, contender.name
            ));
            match work::syscalls(bench, &contender.server, &load, counter) {
                Ok(calls) => figures.add(Metric::SyscallsPerMessage, calls),
                // What was measured stays; the next case finds the interrupt as well.
                Err(Stop::Interrupted) => break,
                Err(Stop::Failed(failure)) => bench.console.note(&format!(
                    "{}: the system calls of {} were not counted: {failure}",
                    planned.case.name, contender.name
                )),
            }
        }
    }
    let subject = &result.contenders[0];
    if planned.contenders[0].server.name == SUBJECT {
        let bounds = planned.case.limits.iter();
        result.limits = bounds
            .filter_map(|(metric, goal)| {
                Some(Limit::of(*metric, subject.figures.get(metric)?, *goal))
            })
            .collect();
    }
}

fn result(bench: &Bench, planned: &Planned, runs: Vec<Vec<Run>>) -> CaseResult {
    let (case, contenders) = (&planned.case, &planned.contenders);
    let subject = &contenders[0];
    let mut comparisons = Vec::new();
    for metric in [case.metric].iter().chain(case.others) {
        for (other, baseline) in contenders.iter().zip(&runs).skip(1) {
            // The goals are evring's, in the closed loop.
            let is_goal = *metric == case.metric
                && subject.server.name == SUBJECT
                && bench.settings.rate.is_none();
            let goals = case.goals.iter().filter(|_| is_goal);
            let goal = goals
                .clone()
                .find(|goal| goal.0 == other.name)
                .map(|goal| goal.1);
            let baseline = (other.name.as_str(), baseline.as_slice());
            comparisons.extend(Comparison::of(&runs[0], baseline, *metric, goal));
        }
    }
    let disturbed = runs.iter().flatten().filter(|run| run.disturbed).count();
    let spins = |contender: &Contender| {
        matches!(contender.work, Work::Load(load) if load.spin) && contender.server.can_spin
    };
    let results = contenders.iter().zip(runs).map(|(contender, runs)| {
        let command = contender.server.command();
        ContenderResult::of(contender.name.clone(), command, spins(contender), runs)
    });
    CaseResult {
        name: case.name.to_owned(),
        suite: case.suite.name().to_owned(),
        title: case.work.title(bench.settings.rate),
        metric: case.metric,
        subject: subject.name.clone(),
        rounds: rounds_of(bench, planned),
        seconds: match case.work {
            Work::Idle | Work::Pair | Work::Buffer => None,
            work => Some(bench.times(work).0.as_secs_f64()),
        },
        connections: match (case.work, case.against) {
            (Work::Load(load), None) if !load.spin => Some(load.connections),
            _ => None,
        },
        message_bytes: match case.work {
            Work::Load(load) => Some(load.size),
            _ => None,
        },
        contenders: results.collect(),
        comparisons,
        limits: Vec::new(),
        disturbed,
    }
}

/// How many runs stayed disturbed, as a line; none if none did.
pub fn disturbed_line(case: &CaseResult) -> Option<String> {
    let runs = units::count(case.disturbed, "run");
    let stayed = if case.disturbed == 1 { "was" } else { "were" };
    (case.disturbed > 0)
        .then(|| format!("{runs} {stayed} disturbed by other work, however often made again"))
}
