//! One line for a burst of like events, however many there are.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use evring_cli_common::console::Console;

/// How long after a printed line its like is only counted.
const QUIET: Duration = Duration::from_secs(1);

/// Events kept apart at once; more kinds than this share the last place.
const KINDS_MAX: usize = 16;

/// Where all workers report events that may come in bursts.
#[derive(Debug, Clone)]
pub struct Notices {
    console: Console,
    bursts: Arc<Mutex<Bursts>>,
}

impl Notices {
    /// Notices that are printed on `console`.
    pub fn new(console: Console) -> Self {
        Self {
            console,
            bursts: Arc::default(),
        }
    }

    /// Tells of an event, unless its like was told within the last second.
    pub fn event(&self, text: &str) {
        let line = self.lock().event(Instant::now(), text);
        if let Some(line) = line {
            self.console.note(&line);
        }
    }

    /// Tells of what was only counted so far.
    pub fn rest(&self) {
        let lines = self.lock().rest();
        lines.iter().for_each(|line| self.console.note(line));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Bursts> {
        self.bursts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Decides which of many events are worth a line.
///
/// The first event of a kind is told at once. Those within a second after it are
/// counted, and the next one told after that says how many were passed over.
#[derive(Debug, Default)]
pub struct Bursts {
    kinds: Vec<Kind>,
}

#[derive(Debug)]
struct Kind {
    text: String,
    told: Instant,
    passed_over: u64,
}

impl Bursts {
    /// The line to print for an event described by `text` at `now`, if any.
    pub fn event(&mut self, now: Instant, text: &str) -> Option<String> {
        let Some(kind) = self.kinds.iter_mut().find(|kind| kind.text == text) else {
            if self.kinds.len() == KINDS_MAX {
                self.kinds.pop();
            }
            self.kinds.push(Kind {
                text: text.to_owned(),
                told: now,
                passed_over: 0,
            });
            return Some(text.to_owned());
        };
        if now.saturating_duration_since(kind.told) < QUIET {
            kind.passed_over += 1;
            return None;
        }
        kind.told = now;
        match std::mem::take(&mut kind.passed_over) {
            0 => Some(text.to_owned()),
            n => Some(format!("{text} ({n} more since the last report)")),
        }
    }

    /// The lines for what was counted and never told, as at exit.
    pub fn rest(&mut self) -> Vec<String> {
        self.kinds
            .drain(..)
            .filter(|kind| kind.passed_over > 0)
            .map(|kind| {
                format!(
                    "{} ({} more since the last report)",
                    kind.text, kind.passed_over
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_one_line() {
        let mut bursts = Bursts::default();
        let start = Instant::now();
        assert_eq!(bursts.event(start, "refused").as_deref(), Some("refused"));
        for ms in 1..1000 {
            assert_eq!(
                bursts.event(start + Duration::from_millis(ms), "refused"),
                None
            );
        }
        let later = bursts.event(start + QUIET, "refused").expect("a new burst");
        assert_eq!(later, "refused (999 more since the last report)");
        assert!(bursts.rest().is_empty());
    }

    #[test]
    fn kinds_are_told_apart_and_bounded() {
        let mut bursts = Bursts::default();
        let now = Instant::now();
        for n in 0..100 {
            assert!(bursts.event(now, &format!("kind {n}")).is_some());
        }
        assert_eq!(bursts.kinds.len(), KINDS_MAX);
    }

    #[test]
    fn what_was_passed_over_is_told_at_the_end() {
        let mut bursts = Bursts::default();
        let now = Instant::now();
        assert!(bursts.event(now, "reset").is_some());
        assert!(bursts.event(now, "reset").is_none());
        assert_eq!(bursts.rest(), ["reset (1 more since the last report)"]);
    }
}
