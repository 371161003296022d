//! What servers show in the live line.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use evring_cli_common::units;
use hdrhistogram::Histogram;

/// How often the live line is drawn anew.
pub const LIVE_INTERVAL: Duration = Duration::from_millis(500);

/// The longest loop turn that is told apart, in nanoseconds.
const TURN_MAX_NANOS: u64 = 60_000_000_000;

/// A histogram of loop turns in nanoseconds.
pub fn turn_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, TURN_MAX_NANOS, 2).expect("these bounds are in range")
}

/// What one worker shows the live line.
#[derive(Debug)]
pub struct Sample {
    /// Connections now.
    pub connections: usize,
    /// Bytes from clients and to clients, since the start.
    pub moved: (u64, u64),
    /// Turns since the line was drawn.
    pub turns: Histogram<u64>,
}

/// A worker's sample, written by the worker and read by whoever draws.
pub type SharedSample = Arc<Mutex<Sample>>;

/// A sample of nothing yet.
pub fn shared_sample() -> SharedSample {
    Arc::new(Mutex::new(Sample {
        connections: 0,
        moved: (0, 0),
        turns: turn_histogram(),
    }))
}

/// Makes the live line out of all workers' samples.
#[derive(Debug)]
pub struct Dashboard {
    samples: Vec<SharedSample>,
    drawn: Instant,
    moved: (u64, u64),
}

impl Dashboard {
    /// A dashboard over `samples` that starts counting at `now`.
    pub fn new(samples: Vec<SharedSample>, now: Instant) -> Self {
        Self {
            samples,
            drawn: now,
            moved: (0, 0),
        }
    }

    /// The line for the time since the last one. Empties the turn histograms.
    pub fn line(&mut self, now: Instant) -> String {
        let mut connections = 0;
        let mut moved = (0, 0);
        let mut turns = turn_histogram();
        for sample in &self.samples {
            let mut sample = sample.lock().unwrap_or_else(PoisonError::into_inner);
            connections += sample.connections;
            moved.0 += sample.moved.0;
            moved.1 += sample.moved.1;
            // Both histograms have the same bounds, so nothing is out of range.
            let _ = turns.add(&sample.turns);
            sample.turns.reset();
        }
        let seconds = now
            .saturating_duration_since(self.drawn)
            .as_secs_f64()
            .max(1e-3);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds / 1e6;
        let line = live_line(
            connections,
            rate(moved.0, self.moved.0),
            rate(moved.1, self.moved.1),
            &turns,
        );
        self.drawn = now;
        self.moved = moved;
        line
    }
}

fn live_line(connections: usize, up: f64, down: f64, turns: &Histogram<u64>) -> String {
    let turn = match turns.is_empty() {
        true => "idle".to_owned(),
        false => format!(
            "p50 {} p99 {}",
            units::nanos(turns.value_at_quantile(0.5)),
            units::nanos(turns.value_at_quantile(0.99)),
        ),
    };
    format!(
        "{connections:>5} connections | up {up:>7.1} MB/s | down {down:>7.1} MB/s | turn {turn}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_shows_rates_since_the_last_one() {
        let start = Instant::now();
        let samples = vec![shared_sample(), shared_sample()];
        let mut dashboard = Dashboard::new(samples.clone(), start);
        for (i, sample) in samples.iter().enumerate() {
            let mut sample = sample.lock().expect("nobody panicked");
            sample.connections = 3 + i;
            sample.moved = (1_000_000, 2_000_000);
            sample.turns.saturating_record(50_000);
        }
        let line = dashboard.line(start + Duration::from_secs(1));
        assert_eq!(
            line,
            "    7 connections | up     2.0 MB/s | down     4.0 MB/s | turn p50 50.2 µs p99 50.2 µs"
        );
        let line = dashboard.line(start + Duration::from_secs(2));
        assert_eq!(
            line,
            "    7 connections | up     0.0 MB/s | down     0.0 MB/s | turn idle"
        );
    }
}
