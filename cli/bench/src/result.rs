//! What came out, as the JSON file holds it and the table and the report show it.

use std::collections::BTreeMap;

use evring_cli_common::report::CurvePoint;
use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::metric::Metric;
use super::statistics::{Summary, median};
use super::verdict::{Comparison, Goal, GoalVerdict, Limit};

/// Everything that was measured.
#[derive(Debug, Serialize, Deserialize)]
pub struct Results {
    /// Version of this format.
    pub format: u32,
    pub machine: Machine,
    pub settings: Settings,
    pub cases: Vec<CaseResult>,
    /// Servers and cases that could not be measured, and why.
    pub left_out: Vec<String>,
    /// Whether a signal ended it before all cases were through.
    pub interrupted: bool,
}

/// The version of the format of [`Results`].
pub const FORMAT: u32 = 1;

/// How it was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// Rounds that count, after one that does not.
    pub rounds: usize,
    /// Seconds of a run that count, and those before.
    pub seconds: f64,
    pub warm_up_seconds: f64,
    pub nice: i32,
    pub server_core: usize,
    pub load_core: usize,
    /// Messages a second of the open loop; none: a closed loop.
    pub rate: Option<f64>,
}

/// One kind of work, and how the servers did it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CaseResult {
    pub name: String,
    pub suite: String,
    pub title: String,
    /// The figure that the case is about.
    pub metric: Metric,
    /// The contender that is compared with all others; the first of `contenders`.
    pub subject: String,
    pub rounds: usize,
    /// Seconds of a run that counted; none where the work takes as long as it takes.
    pub seconds: Option<f64>,
    /// Connections at once, where the work has a fixed number of them and belongs to a scaling
    /// plot.
    pub connections: Option<u32>,
    /// Of a message, where there are such.
    pub message_bytes: Option<usize>,
    pub contenders: Vec<ContenderResult>,
    pub comparisons: Vec<Comparison>,
    /// Bounds on the subject's own figures.
    pub limits: Vec<Limit>,
    /// Runs that stayed disturbed by other work on their cores.
    pub disturbed: usize,
}

/// One server, or one way to run it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContenderResult {
    pub name: String,
    pub command: Vec<String>,
    pub spins: bool,
    /// Of the runs' figures.
    pub figures: BTreeMap<Metric, Summary>,
    /// Of a core, medians.
    pub server_busy: Option<f64>,
    pub load_busy: Option<f64>,
    /// Medians over the runs, at every quantile that all runs have.
    pub latency_curve: Vec<CurvePoint>,
    pub runs: Vec<Run>,
}

/// What one run gave.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub values: BTreeMap<Metric, f64>,
    /// Whether other work had the cores for too much of the time, however often it was tried.
    pub disturbed: bool,
    /// Of a core.
    pub server_busy: Option<f64>,
    pub load_busy: Option<f64>,
    /// The latency distribution; kept as the contender's median only.
    #[serde(skip)]
    pub latency_curve: Vec<CurvePoint>,
}

/// A goal and how it stands: a ratio's, or a figure's own.
#[derive(Debug)]
pub struct GoalRow<'a> {
    pub case: &'a str,
    pub metric: Metric,
    pub value: String,
    pub goal: Goal,
    pub verdict: GoalVerdict,
    /// Of a ratio.
    pub comparison: Option<&'a Comparison>,
}

impl Results {
    /// The goals of all cases. Those of the buffers' many operations stand with their figures only.
    pub fn goals(&self) -> Vec<GoalRow<'_>> {
        let cases = self.cases.iter().filter(|case| !case.is_of_operations());
        cases.flat_map(CaseResult::goals).collect()
    }
}

impl CaseResult {
    /// The goals of this case.
    pub fn goals(&self) -> impl Iterator<Item = GoalRow<'_>> {
        let ratios = self.comparisons.iter().filter_map(|comparison| {
            Some(GoalRow {
                case: &self.name,
                metric: comparison.metric,
                value: format!("{:.3}", comparison.ratio.median),
                goal: comparison.goal?,
                verdict: comparison.against_goal?,
                comparison: Some(comparison),
            })
        });
        let limits = self.limits.iter().map(|limit| GoalRow {
            case: &self.name,
            metric: limit.metric,
            value: limit.metric.format(limit.value),
            goal: limit.goal,
            verdict: limit.verdict,
            comparison: None,
        });
        ratios.chain(limits)
    }

    /// Whether it is a list of operations, each in two ways, rather than of servers.
    pub fn is_of_operations(&self) -> bool {
        self.metric == Metric::EvBufferNs
    }

    /// What the ratios are of.
    pub fn ratio_heading(&self) -> String {
        match self.is_of_operations() {
            true => "EvBuffer / evbuffer".to_owned(),
            false => format!("{} /", self.subject),
        }
    }

    /// How long it took, for people.
    pub fn extent(&self) -> String {
        let rounds = evring_cli_common::units::count(self.rounds, "round");
        match self.seconds {
            Some(seconds) => format!("{rounds} of {seconds} s"),
            None => rounds,
        }
    }
}

impl ContenderResult {
    /// Adds a figure that was measured once, beside the rounds.
    pub fn add(&mut self, metric: Metric, value: f64) {
        self.figures.extend(Some(metric).zip(Summary::of(&[value])));
    }

    /// Sums `runs` up.
    pub fn of(name: String, command: Vec<String>, spins: bool, runs: Vec<Run>) -> Self {
        let mut metrics: Vec<Metric> = runs
            .iter()
            .flat_map(|run| run.values.keys())
            .copied()
            .collect();
        metrics.sort_unstable();
        metrics.dedup();
        let figures = metrics.into_iter().filter_map(|metric| {
            let values: Vec<f64> = runs
                .iter()
                .filter_map(|run| run.values.get(&metric).copied())
                .collect();
            Some((metric, Summary::of(&values)?))
        });
        let share = |of: fn(&Run) -> Option<f64>| {
            let shares: Vec<f64> = runs.iter().filter_map(of).collect();
            (!shares.is_empty()).then(|| median(&shares))
        };
        Self {
            name,
            command,
            spins,
            figures: figures.collect(),
            server_busy: share(|run| run.server_busy),
            load_busy: share(|run| run.load_busy),
            latency_curve: median_curve(&runs),
            runs,
        }
    }
}

/// The median over `runs` at each quantile that all of them have.
fn median_curve(runs: &[Run]) -> Vec<CurvePoint> {
    let curves: Vec<_> = runs.iter().map(|run| &run.latency_curve).collect();
    let points = curves.iter().map(|curve| curve.len()).min().unwrap_or(0);
    let point = |at: usize| CurvePoint {
        quantile: curves[0][at].quantile,
        us: median(&curves.iter().map(|curve| curve[at].us).collect::<Vec<_>>()),
    };
    (0..points).map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(cpu: f64, curve: &[f64]) -> Run {
        let point = |(at, &us): (usize, &f64)| CurvePoint {
            quantile: at as f64 / 10.0,
            us,
        };
        Run {
            values: [(Metric::CpuUsPerMessage, cpu)].into(),
            latency_curve: curve.iter().enumerate().map(point).collect(),
            ..Run::default()
        }
    }

    #[test]
    fn a_contender_is_the_median_of_its_runs() {
        let runs = vec![
            run(1.0, &[1.0, 5.0]),
            run(3.0, &[2.0]),
            run(2.0, &[9.0, 9.0, 9.0]),
        ];
        let contender = ContenderResult::of("x".into(), Vec::new(), false, runs);
        assert_eq!(contender.figures[&Metric::CpuUsPerMessage].median, 2.0);
        assert_eq!(contender.server_busy, None);
        let curve: Vec<f64> = contender
            .latency_curve
            .iter()
            .map(|point| point.us)
            .collect();
        assert_eq!(curve, [2.0], "as far as the shortest");
    }
}
