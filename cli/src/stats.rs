//! The counters that `--stats` prints at exit.

use crate::worker::Outcome;

/// One line a counter, `name value`, summed over all workers.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut rows = Rows::default();
    for outcome in outcomes {
        rows.add("connections", outcome.served);
        for &(name, value) in &outcome.counts {
            rows.add(name, value);
        }
        for (name, value) in outcome.counters.iter() {
            rows.add(name, value);
        }
    }
    rows.print()
}

/// Sums by name, in the order in which the names came.
#[derive(Debug, Default)]
struct Rows(Vec<(&'static str, u64)>);

impl Rows {
    fn add(&mut self, name: &'static str, value: u64) {
        match self.0.iter_mut().find(|row| row.0 == name) {
            Some(row) => row.1 = row.1.saturating_add(value),
            None => self.0.push((name, value)),
        }
    }

    fn print(&self) -> String {
        let width = self.0.iter().map(|row| row.0.len()).max().unwrap_or(0);
        let line = |(name, value): &(&str, u64)| format!("{name:<width$} {value}\n");
        self.0.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_summed_and_aligned() {
        let mut rows = Rows::default();
        rows.add("turns", 1);
        rows.add("bytes_copied", 0);
        rows.add("turns", 2);
        assert_eq!(rows.print(), "turns        3\nbytes_copied 0\n");
    }
}
