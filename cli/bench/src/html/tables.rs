//! The tables of the report.

use std::fmt::Write;

use super::plots::Strip;
use super::{colour, escape};
use crate::metric::Metric;
use crate::result::{CaseResult, Results};
use crate::table::{interval, short};
use crate::verdict::{Comparison, Goal, GoalVerdict, Verdict};

/// All goals, counted and listed.
pub fn goals(results: &Results) -> String {
    let all = results.goals();
    if all.is_empty() {
        return String::new();
    }
    let tile = |verdict: GoalVerdict| {
        let count = all.iter().filter(|goal| goal.verdict == verdict).count();
        let (class, text) = (goal_class(verdict), verdict.text());
        format!("<div class=\"tile\"><b class=\"{class}\">{count}</b>{text}</div>")
    };
    let scale = scale(all.iter().filter_map(|goal| goal.comparison));
    let rows = all.iter().map(|goal| {
        let cells = vec![
            format!("<a href=\"#{0}\">{0}</a>", escape(goal.case)),
            goal.comparison
                .map_or(String::new(), |c| escape(&c.baseline)),
            goal.metric.heading().to_owned(),
            goal.value.clone(),
            goal.comparison
                .map_or(String::new(), |c| interval(&c.ratio)),
            goal.goal.text(),
            goal_verdict(goal.verdict),
            goal.comparison.map_or(String::new(), |c| strip(c, scale)),
        ];
        ("", cells)
    });
    let heading = [
        "case",
        "beside",
        "figure",
        "",
        "95 %",
        "goal",
        "",
        "ratios of the rounds",
    ];
    format!(
        "<h2>Goals</h2>\n<p>evring's figure divided by the other's, of runs in the same round; below 1 evring needs \
         less. A goal is met when the whole interval of the median is on its side.</p>\n\
         <div class=\"tiles\">{}{}{}{}</div>\n{}",
        tile(GoalVerdict::Met),
        tile(GoalVerdict::Missed),
        tile(GoalVerdict::WithinNoise),
        tile(GoalVerdict::Unknown),
        table(&heading, &[0, 1, 2, 6, 7], rows),
    )
}

/// The figures of every contender.
pub fn figures(case: &CaseResult) -> String {
    let mut metrics: Vec<Metric> = case
        .contenders
        .iter()
        .flat_map(|c| c.figures.keys().copied())
        .collect();
    metrics.sort_unstable();
    metrics.dedup();
    let mut heading = vec!["server"];
    heading.extend(metrics.iter().map(|metric| metric.heading()));
    let busy = case.contenders.iter().any(|c| c.server_busy.is_some());
    let load_busy = case.contenders.iter().any(|c| c.load_busy.is_some());
    heading.extend(busy.then_some("server busy"));
    heading.extend(load_busy.then_some("load busy"));
    let rows = case.contenders.iter().map(|contender| {
        let spins = if contender.spins {
            "<small>spins</small>"
        } else {
            ""
        };
        let mut cells = vec![format!("{}{spins}", escape(&contender.name))];
        cells.extend(metrics.iter().map(|metric| {
            contender
                .figures
                .get(metric)
                .map_or("–".to_owned(), |summary| {
                    let text = |value| metric.format(value);
                    let median = text(summary.median);
                    // One that was measured once has none.
                    match summary.min == summary.max {
                        true => median,
                        false => {
                            let (low, high) = (text(summary.low), text(summary.high));
                            format!("{median}<small>{low} – {high}</small>")
                        }
                    }
                })
        }));
        let share =
            |share: Option<f64>| share.map_or("–".to_owned(), |s| format!("{:.0} %", s * 100.0));
        cells.extend(busy.then(|| share(contender.server_busy)));
        cells.extend(load_busy.then(|| share(contender.load_busy)));
        let class = if contender.name == case.subject {
            "subject"
        } else {
            ""
        };
        (class, cells)
    });
    let titles: Vec<String> = metrics
        .iter()
        .map(|metric| format!("{}: {}", metric.heading(), metric.meaning()))
        .collect();
    format!(
        "<h3>Medians of the runs, and the interval that holds the median with 95 %</h3>\n{}\
         <p class=\"faint\"><small>{}.</small></p>\n",
        table(&heading, &[0], rows),
        titles.join("; ")
    )
}

/// The subject beside every other.
pub fn ratios(case: &CaseResult) -> String {
    let main = || case.comparisons.iter().filter(|c| c.metric == case.metric);
    let has_goals = main().any(|comparison| comparison.goal.is_some());
    let mut others: Vec<Metric> = case.comparisons.iter().map(|c| c.metric).collect();
    others.retain(|metric| *metric != case.metric);
    others.dedup();
    let (first, what) = match case.is_of_operations() {
        true => ("operation", "EvBuffer's time by evbuffer's".to_owned()),
        false => (
            "beside",
            format!(
                "{} of {}, by the others'",
                case.metric.heading(),
                escape(&case.subject)
            ),
        ),
    };
    let mut heading = vec![first, "ratio", "95 %", "rounds", "verdict"];
    if has_goals {
        heading.extend(["goal", ""]);
    }
    heading.extend(others.iter().map(|metric| metric.heading()));
    let words: &[usize] = if has_goals { &[0, 3, 4, 6] } else { &[0, 3, 4] };
    let scale = scale(main());
    let rows = main().map(|comparison| {
        let mut cells = vec![
            escape(&comparison.baseline),
            format!("{:.3}", comparison.ratio.median),
            interval(&comparison.ratio),
            strip(comparison, scale),
            verdict(comparison.verdict),
        ];
        if has_goals {
            let goal = comparison.goal.map(|goal| goal.text());
            cells.push(goal.unwrap_or_default());
            cells.push(
                comparison
                    .against_goal
                    .map(goal_verdict)
                    .unwrap_or_default(),
            );
        }
        cells.extend(others.iter().map(|metric| {
            let mut all = case.comparisons.iter();
            let same = all.find(|c| c.metric == *metric && c.baseline == comparison.baseline);
            same.map_or("–".to_owned(), short)
        }));
        ("", cells)
    });
    format!("<h3>{what}</h3>\n{}", table(&heading, words, rows))
}

/// The ends of the strips' common scale: all intervals and goals, and 1.
fn scale<'a>(comparisons: impl Iterator<Item = &'a Comparison>) -> (f64, f64) {
    let (mut least, mut most) = (1.0, 1.0);
    for comparison in comparisons {
        let goal = comparison.goal.map_or(1.0, Goal::bound);
        least = f64::min(least, comparison.ratio.low.min(goal));
        most = f64::max(most, comparison.ratio.high.max(goal));
    }
    // Beyond three times as much the exact place says little, and the rest would be squeezed.
    let most = f64::min(most, 3.0);
    let room = (most - least).max(0.1) * 0.08;
    ((least - room).max(0.0), most + room)
}

fn strip(comparison: &Comparison, scale: (f64, f64)) -> String {
    let strip = Strip {
        ratios: &comparison.ratios,
        low: comparison.ratio.low,
        high: comparison.ratio.high,
        median: comparison.ratio.median,
        goal: comparison.goal.map(Goal::bound),
        colour: colour(&comparison.baseline),
        scale,
    };
    strip.draw()
}

fn verdict(verdict: Verdict) -> String {
    let class = match verdict {
        Verdict::Better => "good",
        Verdict::Worse => "bad",
        Verdict::NoDifference | Verdict::TooFewRounds | Verdict::TooBusy => "faint",
    };
    format!("<span class=\"{class}\">{}</span>", verdict.text())
}

fn goal_verdict(verdict: GoalVerdict) -> String {
    format!(
        "<span class=\"{}\">{}</span>",
        goal_class(verdict),
        verdict.text()
    )
}

fn goal_class(verdict: GoalVerdict) -> &'static str {
    match verdict {
        GoalVerdict::Met => "good",
        GoalVerdict::Missed => "bad",
        GoalVerdict::WithinNoise => "open",
        GoalVerdict::Unknown => "faint",
    }
}

/// A row of a table: its class, and its cells as markup.
type Row = (&'static str, Vec<String>);

/// `words` are the columns whose cells stand left.
fn table(heading: &[&str], words: &[usize], rows: impl Iterator<Item = Row>) -> String {
    let cells = |tag: &str, cells: &[String]| {
        let mut out = String::new();
        for (at, cell) in cells.iter().enumerate() {
            let class = if words.contains(&at) {
                " class=\"words\""
            } else {
                ""
            };
            let _ = write!(out, "<{tag}{class}>{cell}</{tag}>");
        }
        out
    };
    let heading: Vec<String> = heading.iter().map(|text| escape(text)).collect();
    let mut out = format!(
        "<div class=\"scroll\"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n",
        cells("th", &heading)
    );
    for (class, row) in rows {
        let _ = writeln!(out, "<tr class=\"{class}\">{}</tr>", cells("td", &row));
    }
    out + "</tbody></table></div>\n"
}
