//! What may be said of two servers that took turns, and what may not.

use serde::{Deserialize, Serialize};

use super::metric::Metric;
use super::result::Run;
use super::statistics::Summary;

/// A difference smaller than this is not called one, whatever the rounds say: code placement alone
/// can make it.
const SMALLEST_DIFFERENCE: f64 = 0.01;

/// Rounds with a run that stayed disturbed do not count. With fewer others than this nothing can be
/// said.
const FEWEST_ROUNDS: usize = 6;

/// The ratio of two servers' figures, round by round, and what follows from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Whose figure the subject's is divided by.
    pub baseline: String,
    pub metric: Metric,
    /// Of each round that counts.
    pub ratios: Vec<f64>,
    pub ratio: Summary,
    pub verdict: Verdict,
    /// What the project wants the ratio to be.
    pub goal: Option<Goal>,
    pub against_goal: Option<GoalVerdict>,
}

/// A bound on one of the subject's own figures, and how it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    pub metric: Metric,
    pub value: f64,
    pub goal: Goal,
    pub verdict: GoalVerdict,
}

/// What the subject is, compared with the baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Better,
    Worse,
    /// The interval holds 1, or the difference is too small to be one.
    NoDifference,
    TooFewRounds,
    TooBusy,
}

/// A bound on a ratio.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

/// How a ratio stands to its goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GoalVerdict {
    /// The whole interval is.
    Met,
    /// The whole interval is beyond.
    Missed,
    /// The interval holds the goal.
    WithinNoise,
    /// Too few or too disturbed rounds.
    Unknown,
}

impl Comparison {
    /// Compares the runs of the `subject` with those of the `baseline` in the same rounds; `None`
    /// when they have no such figure.
    pub fn of(
        subject: &[Run],
        (name, baseline): (&str, &[Run]),
        metric: Metric,
        goal: Option<Goal>,
    ) -> Option<Self> {
        let rounds: Vec<_> = subject.iter().zip(baseline).collect();
        let calm = |(a, b): &&(&Run, &Run)| !a.disturbed && !b.disturbed;
        let calm: Vec<_> = rounds.iter().filter(calm).copied().collect();
        // Of fewer rounds than that nothing could have been said on a calm machine either.
        let enough = calm.len() >= FEWEST_ROUNDS;
        let too_busy = !enough && rounds.len() >= FEWEST_ROUNDS;
        let counted = if enough { calm } else { rounds };
        let ratio = |(a, b): &(&Run, &Run)| Some(a.values.get(&metric)? / b.values.get(&metric)?);
        let ratios: Vec<f64> = counted
            .iter()
            .filter_map(ratio)
            .filter(|r| r.is_finite())
            .collect();
        let ratio = Summary::of(&ratios)?;
        Some(Self::new(
            name.to_owned(),
            metric,
            ratios,
            ratio,
            too_busy,
            goal,
        ))
    }

    /// What follows from the `ratio` of the rounds' `ratios`.
    pub fn new(
        baseline: String,
        metric: Metric,
        ratios: Vec<f64>,
        ratio: Summary,
        too_busy: bool,
        goal: Option<Goal>,
    ) -> Self {
        let verdict = if too_busy {
            Verdict::TooBusy
        } else {
            Verdict::of(&ratio, metric)
        };
        let against_goal = goal.map(|goal| match verdict {
            Verdict::TooBusy | Verdict::TooFewRounds => GoalVerdict::Unknown,
            _ => goal.verdict(&ratio),
        });
        Self {
            baseline,
            metric,
            ratios,
            ratio,
            verdict,
            goal,
            against_goal,
        }
    }
}

impl Limit {
    /// How a figure of the subject's stands to its bound.
    pub fn of(metric: Metric, figure: &Summary, goal: Goal) -> Self {
        Self {
            metric,
            value: figure.median,
            goal,
            verdict: goal.verdict(figure),
        }
    }
}

impl Verdict {
    fn of(ratio: &Summary, metric: Metric) -> Self {
        let apart = ratio.low > 1.0 || ratio.high < 1.0;
        let large = (ratio.median - 1.0).abs() >= SMALLEST_DIFFERENCE;
        match () {
            () if !ratio.sure => Self::TooFewRounds,
            () if !apart || !large => Self::NoDifference,
            () if (ratio.median < 1.0) == metric.less_is_better() => Self::Better,
            () => Self::Worse,
        }
    }

    /// As the tables say it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::NoDifference => "no difference",
            Self::TooFewRounds => "too few rounds",
            Self::TooBusy => "too busy to say",
        }
    }
}

impl Goal {
    /// The bound.
    pub fn bound(self) -> f64 {
        match self {
            Self::AtMost(bound) | Self::AtLeast(bound) => bound,
        }
    }

    /// As the tables say it: `≤ 0.62`.
    pub fn text(self) -> String {
        match self {
            Self::AtMost(bound) => format!("≤ {bound}"),
            Self::AtLeast(bound) => format!("≥ {bound}"),
        }
    }

    fn verdict(self, ratio: &Summary) -> GoalVerdict {
        let (met, missed) = match self {
            Self::AtMost(bound) => (ratio.high <= bound, ratio.low > bound),
            Self::AtLeast(bound) => (ratio.low >= bound, ratio.high < bound),
        };
        match (met, missed) {
            (true, _) => GoalVerdict::Met,
            (_, true) => GoalVerdict::Missed,
            _ => GoalVerdict::WithinNoise,
        }
    }
}

impl GoalVerdict {
    /// As the tables say it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "missed",
            Self::WithinNoise => "within the noise",
            Self::Unknown => "cannot be said",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(values: &[f64]) -> Vec<Run> {
        let run = |&value: &f64| Run {
            values: [(Metric::CpuUsPerMessage, value)].into(),
            ..Run::default()
        };
        values.iter().map(run).collect()
    }

    fn compare(subject: &[Run], baseline: &[Run], goal: Option<Goal>) -> Comparison {
        Comparison::of(subject, ("other", baseline), Metric::CpuUsPerMessage, goal)
            .expect("figures")
    }

    const EVEN: [f64; 8] = [10.0, 20.0, 10.0, 20.0, 10.0, 20.0, 10.0, 20.0];

    fn scaled(by: f64) -> Vec<Run> {
        runs(&EVEN.map(|value| value * by))
    }

    #[test]
    fn only_runs_of_the_same_round_are_compared() {
        // The machine halves its speed every other round; the ratio does not move.
        let comparison = compare(&scaled(0.5), &runs(&EVEN), None);
        assert_eq!(comparison.ratio.median, 0.5);
        assert_eq!((comparison.ratio.min, comparison.ratio.max), (0.5, 0.5));
        assert_eq!(comparison.verdict, Verdict::Better);
        assert_eq!(
            compare(&scaled(2.0), &runs(&EVEN), None).verdict,
            Verdict::Worse
        );
    }

    #[test]
    fn what_the_rounds_do_not_agree_on_is_no_difference() {
        let wavering = runs(&[9.0, 22.0, 9.0, 22.0, 9.0, 22.0, 9.0, 22.0]);
        let comparison = compare(&wavering, &runs(&EVEN), Some(Goal::AtMost(1.0)));
        assert_eq!(comparison.verdict, Verdict::NoDifference);
        assert_eq!(comparison.against_goal, Some(GoalVerdict::WithinNoise));
    }

    #[test]
    fn less_than_a_percent_is_no_difference_however_sure() {
        let comparison = compare(&scaled(0.995), &runs(&EVEN), None);
        assert_eq!(comparison.verdict, Verdict::NoDifference);
        assert_eq!(
            compare(&scaled(0.98), &runs(&EVEN), None).verdict,
            Verdict::Better
        );
    }

    #[test]
    fn more_messages_a_second_are_better() {
        let rates = |by: f64| -> Vec<Run> {
            let run = |value: f64| Run {
                values: [(Metric::MessagesPerSecond, value * by)].into(),
                ..Run::default()
            };
            EVEN.map(run).into()
        };
        let baseline = rates(1.0);
        let verdict = |by| {
            Comparison::of(
                &rates(by),
                ("other", &baseline),
                Metric::MessagesPerSecond,
                None,
            )
            .expect("figures")
            .verdict
        };
        assert_eq!(verdict(1.5), Verdict::Better);
        assert_eq!(verdict(0.5), Verdict::Worse);
    }

    #[test]
    fn few_rounds_say_nothing() {
        let few = compare(
            &scaled(0.1)[..5],
            &runs(&EVEN[..5]),
            Some(Goal::AtMost(0.2)),
        );
        assert_eq!(few.verdict, Verdict::TooFewRounds);
        assert_eq!(few.against_goal, Some(GoalVerdict::Unknown));
    }

    #[test]
    fn disturbed_rounds_do_not_count_and_too_many_of_them_say_nothing() {
        let mut subject = scaled(0.5);
        subject[0].values.insert(Metric::CpuUsPerMessage, 1000.0);
        subject[0].disturbed = true;
        let comparison = compare(&subject, &runs(&EVEN), None);
        assert_eq!(comparison.ratios.len(), 7);
        assert_eq!(comparison.verdict, Verdict::Better);
        subject[1].disturbed = true;
        subject[2].disturbed = true;
        let comparison = compare(&subject, &runs(&EVEN), Some(Goal::AtMost(0.9)));
        assert_eq!(comparison.verdict, Verdict::TooBusy);
        assert_eq!(comparison.against_goal, Some(GoalVerdict::Unknown));
    }

    #[test]
    fn a_goal_is_met_by_the_whole_interval() {
        let at = |by, goal| compare(&scaled(by), &runs(&EVEN), Some(goal)).against_goal;
        assert_eq!(at(0.6, Goal::AtMost(0.62)), Some(GoalVerdict::Met));
        assert_eq!(at(0.7, Goal::AtMost(0.62)), Some(GoalVerdict::Missed));
        assert_eq!(at(1.1, Goal::AtLeast(1.0)), Some(GoalVerdict::Met));
        assert_eq!(at(0.9, Goal::AtLeast(1.0)), Some(GoalVerdict::Missed));
    }

    #[test]
    fn a_round_in_which_the_baseline_has_nothing_does_not_count() {
        let mut baseline = runs(&EVEN);
        baseline[3].values.insert(Metric::CpuUsPerMessage, 0.0);
        let comparison = compare(&scaled(0.5), &baseline, None);
        assert_eq!(comparison.ratios.len(), 7);
        assert_eq!(comparison.verdict, Verdict::Better);
    }

    #[test]
    fn what_was_not_measured_is_not_compared() {
        let none = vec![Run::default(); 8];
        let nothing = Comparison::of(
            &none,
            ("other", &runs(&EVEN)),
            Metric::CpuUsPerMessage,
            None,
        );
        assert_eq!(nothing, None);
    }
}
