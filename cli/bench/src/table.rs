//! The tables on the terminal.

use super::metric::Metric;
use super::result::{CaseResult, Results};
use super::rounds::disturbed_line;
use super::statistics::Summary;
use super::verdict::{Comparison, Verdict};

/// A case: the servers' figures, then the subject's ratios to the others.
pub fn case(result: &CaseResult) -> String {
    let mut out = format!("\n{}: {}; {}\n", result.name, result.title, result.extent());
    if let Some(line) = disturbed_line(result) {
        out += &format!("  {line}\n");
    }
    out += &figures(result).print();
    out += &ratios(result).print();
    out
}

fn figures(result: &CaseResult) -> Table {
    let mut metrics: Vec<Metric> = result
        .contenders
        .iter()
        .flat_map(|contender| contender.figures.keys().copied())
        .collect();
    metrics.sort_unstable();
    metrics.dedup();
    let any = |of: fn(&super::result::ContenderResult) -> Option<f64>| {
        result
            .contenders
            .iter()
            .any(|contender| of(contender).is_some())
    };
    let (server_busy, load_busy) = (any(|c| c.server_busy), any(|c| c.load_busy));
    let mut heading = vec!["medians".to_owned()];
    heading.extend(metrics.iter().map(|metric| metric.heading().to_owned()));
    heading.extend(server_busy.then(|| "server busy".to_owned()));
    heading.extend(load_busy.then(|| "load busy".to_owned()));
    let mut table = Table::new(heading);
    for contender in &result.contenders {
        let mut row = vec![contender.name.clone()];
        row.extend(
            metrics
                .iter()
                .map(|metric| match contender.figures.get(metric) {
                    Some(summary) => metric.format(summary.median),
                    None => "–".to_owned(),
                }),
        );
        let share = |value: Option<f64>| match value {
            Some(share) => format!("{:.0} %", share * 100.0),
            None => "–".to_owned(),
        };
        row.extend(server_busy.then(|| share(contender.server_busy)));
        row.extend(load_busy.then(|| share(contender.load_busy)));
        if contender.spins {
            row.push("spins".to_owned());
        }
        table.row(row);
    }
    table
}

fn ratios(result: &CaseResult) -> Table {
    let main: Vec<&Comparison> = on(result, result.metric).collect();
    let mut others: Vec<Metric> = result.comparisons.iter().map(|c| c.metric).collect();
    others.retain(|metric| *metric != result.metric);
    others.dedup();
    let has_goals = main.iter().any(|comparison| comparison.goal.is_some());
    let mut heading = vec![
        result.ratio_heading(),
        match result.is_of_operations() {
            true => "ratio".to_owned(),
            false => result.metric.heading().to_owned(),
        },
        "[95 %]".to_owned(),
        "verdict".to_owned(),
    ];
    heading.extend(has_goals.then(|| "goal".to_owned()));
    heading.extend(others.iter().map(|metric| metric.heading().to_owned()));
    let mut table = Table::new(heading);
    // Words stand left, as names do.
    table
        .left
        .extend([3, 4].into_iter().filter(|&at| at == 3 || has_goals));
    for comparison in main {
        let mut row = vec![
            comparison.baseline.clone(),
            format!("{:.3}", comparison.ratio.median),
            interval(&comparison.ratio),
            comparison.verdict.text().to_owned(),
        ];
        row.extend(has_goals.then(|| goal(comparison)));
        row.extend(others.iter().map(|&metric| {
            let mut same = on(result, metric);
            let other = same.find(|other| other.baseline == comparison.baseline);
            other.map_or("–".to_owned(), short)
        }));
        table.row(row);
    }
    table
}

fn on(result: &CaseResult, metric: Metric) -> impl Iterator<Item = &Comparison> {
    result
        .comparisons
        .iter()
        .filter(move |c| c.metric == metric)
}

/// `[0.684–0.694]`
pub fn interval(ratio: &Summary) -> String {
    format!("[{:.3}–{:.3}]", ratio.low, ratio.high)
}

/// `≤ 0.62: missed`, or nothing without a goal.
pub fn goal(comparison: &Comparison) -> String {
    match (comparison.goal, comparison.against_goal) {
        (Some(goal), Some(verdict)) => format!("{}: {}", goal.text(), verdict.text()),
        _ => String::new(),
    }
}

/// A ratio in one word: where the rounds do not agree on a difference there is none to show.
pub fn short(comparison: &Comparison) -> String {
    match comparison.verdict {
        Verdict::Better | Verdict::Worse => format!("{:.3}", comparison.ratio.median),
        Verdict::NoDifference => "≈ 1".to_owned(),
        Verdict::TooFewRounds | Verdict::TooBusy => "?".to_owned(),
    }
}

/// Every goal, and how it stands.
pub fn goals(results: &Results) -> Option<String> {
    let heading = ["goals", "figure", "", "[95 %]", "goal", ""];
    let mut table = Table::new(heading.map(str::to_owned).to_vec());
    table.left.extend([1, 5]);
    let goals = results.goals();
    for goal in &goals {
        let beside = goal.comparison.map(|c| format!(" / {}", c.baseline));
        table.row(vec![
            format!("{}{}", goal.case, beside.unwrap_or_default()),
            goal.metric.heading().to_owned(),
            goal.value.clone(),
            goal.comparison
                .map_or(String::new(), |c| interval(&c.ratio)),
            goal.goal.text(),
            goal.verdict.text().to_owned(),
        ]);
    }
    (!goals.is_empty()).then(|| format!("\n{}", table.print()))
}

/// Columns as wide as their widest cell; the first one and those of words stand left.
struct Table {
    left: Vec<usize>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(heading: Vec<String>) -> Self {
        Self {
            left: vec![0],
            rows: vec![heading],
        }
    }

    fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    fn print(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let cells = row
                .iter()
                .enumerate()
                .map(|(at, cell)| match self.left.contains(&at) {
                    true => format!("{cell:<width$}", width = widths[at]),
                    false => format!("{cell:>width$}", width = widths[at]),
                });
            let line = cells.collect::<Vec<_>>().join("  ");
            out += &format!("  {}\n", line.trim_end());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_the_letters() {
        let mut table = Table::new(["µs", "a", "word"].map(str::to_owned).to_vec());
        table.left.push(2);
        table.row(["evring", "1.25", "x"].map(str::to_owned).to_vec());
        table.row(["é", "100", "≤ 0.62: met"].map(str::to_owned).to_vec());
        assert_eq!(
            table.print(),
            "  µs         a  word\n  evring  1.25  x\n  é        100  ≤ 0.62: met\n"
        );
    }
}
