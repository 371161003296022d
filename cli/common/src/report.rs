//! What `load` found out, for people and for machines.

use std::collections::BTreeMap;
use std::fmt;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::cpu::CpuUse;
use crate::units;

/// The longest latency that is told apart, in nanoseconds.
const LATENCY_MAX_NANOS: u64 = 3_600_000_000_000;

/// A histogram of latencies in nanoseconds, with three significant digits.
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NANOS, 3).expect("these bounds are in range")
}

/// The report of one run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Where the load went.
    pub target: String,
    /// Connections asked for.
    pub connections: usize,
    /// Connections that were made.
    pub connected: usize,
    /// Bytes of a message.
    pub size_bytes: usize,
    /// Messages under way on a connection.
    pub depth: u32,
    /// Seconds measured.
    pub seconds: f64,
    /// Messages that came back unchanged.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Messages a second.
    pub messages_per_second: f64,
    /// Bytes a second, each way.
    pub bytes_per_second: f64,
    /// From the write of a message, in an open loop from the moment it was due, to its last byte
    /// back.
    pub latency_us: Latency,
    /// The same at more quantiles, for plots.
    pub latency_curve: Vec<CurvePoint>,
    /// How an open loop kept its schedule.
    pub open_loop: Option<OpenLoop>,
    /// The CPU time of the load generator itself.
    pub own_cpu: Option<CpuUse>,
    /// The CPU time of the process that was watched.
    pub watched_cpu: Option<CpuUse>,
    /// Everything that went wrong.
    pub errors: u64,
    /// The same by kind.
    pub error_kinds: BTreeMap<String, u64>,
}

/// Percentiles in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Half of the messages were at least as fast.
    pub p50: f64,
    /// 90 % were.
    pub p90: f64,
    /// 99 % were.
    pub p99: f64,
    /// 99.9 % were.
    #[serde(rename = "p99.9")]
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

/// One point of the latency distribution.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// This part of the messages was at least as fast.
    pub quantile: f64,
    /// Microseconds.
    pub us: f64,
}

/// An open loop: messages are sent on a schedule.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct OpenLoop {
    /// Messages a second that were due.
    pub rate: f64,
    /// From the moment a message was due to its write: how far the load generator fell behind.
    pub behind_us: Latency,
}

/// Points of a curve for each tenfold of the messages that are slower.
const CURVE_POINTS_PER_DECADE: u32 = 5;

/// The distribution at quantiles that come ever closer to 1, as far as there are messages to tell
/// them apart. The quantiles are the same for every run, so that runs can be laid side by side.
pub fn curve(nanos: &Histogram<u64>) -> Vec<CurvePoint> {
    let slower = |step: u32| 10f64.powf(-f64::from(step) / f64::from(CURVE_POINTS_PER_DECADE));
    (0..)
        .map(slower)
        .take_while(|slower| slower * nanos.len() as f64 >= 1.0)
        .map(|slower| CurvePoint {
            quantile: 1.0 - slower,
            us: nanos.value_at_quantile(1.0 - slower) as f64 / 1e3,
        })
        .collect()
}

impl Latency {
    /// The percentiles of a histogram in nanoseconds; all zero when it is empty.
    pub fn of(nanos: &Histogram<u64>) -> Self {
        let at = |quantile| nanos.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: nanos.max() as f64 / 1e3,
        }
    }
}

impl Report {
    /// Whether data moved and nothing went wrong.
    pub fn is_success(&self) -> bool {
        self.errors == 0 && self.messages > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Latency {
            p50,
            p90,
            p99,
            p999,
            max,
        } = self.latency_us;
        let time = |micros: f64| units::nanos((micros * 1e3).round() as u64);
        writeln!(
            f,
            "{}: {}, {} B messages, depth {}, {:.1} s",
            self.target,
            units::count(self.connected, "connection"),
            self.size_bytes,
            self.depth,
            self.seconds
        )?;
        writeln!(
            f,
            "  messages  {:>16}  {:>14}/s",
            units::grouped(self.messages),
            units::grouped(self.messages_per_second.round() as u64)
        )?;
        writeln!(
            f,
            "  bytes     {:>16}  {:>14}/s each way",
            units::bytes(self.bytes as f64),
            units::bytes(self.bytes_per_second)
        )?;
        writeln!(
            f,
            "  latency   p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
            time(p50),
            time(p90),
            time(p99),
            time(p999),
            time(max)
        )?;
        if let Some(open) = self.open_loop {
            writeln!(
                f,
                "  schedule  {:>16}  messages/s due; sent late by p50 {}  p99 {}  max {}",
                units::grouped(open.rate.round() as u64),
                time(open.behind_us.p50),
                time(open.behind_us.p99),
                time(open.behind_us.max)
            )?;
        }
        if let Some(cpu) = self.watched_cpu {
            writeln!(
                f,
                "  CPU       {:>13.2} µs  a message, {:.0} % of a core, kept waiting {:.1} % of \
                 the time",
                cpu.us_per_message.unwrap_or(0.0),
                cpu.busy * 100.0,
                cpu.kept_waiting * 100.0
            )?;
        }
        write!(f, "  errors    {:>16}", units::grouped(self.errors))?;
        for (kind, count) in &self.error_kinds {
            write!(f, "\n    {:>18}  {kind}", units::grouped(*count))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut nanos = latency_histogram();
        for n in 1..=1000 {
            nanos.record(n * 1000).expect("in range");
        }
        Report {
            target: "127.0.0.1:7000".into(),
            connections: 64,
            connected: 64,
            size_bytes: 64,
            depth: 1,
            seconds: 5.0,
            messages: 1_234_567,
            bytes: 79_012_288,
            messages_per_second: 246_913.4,
            bytes_per_second: 15_802_457.6,
            latency_us: Latency::of(&nanos),
            latency_curve: curve(&nanos),
            open_loop: None,
            own_cpu: None,
            watched_cpu: None,
            errors: 0,
            error_kinds: BTreeMap::new(),
        }
    }

    #[test]
    fn a_report_reads_well() {
        assert_eq!(
            report().to_string(),
            "127.0.0.1:7000: 64 connections, 64 B messages, depth 1, 5.0 s\n\
             \x20 messages         1,234,567         246,913/s\n\
             \x20 bytes              79.0 MB         15.8 MB/s each way\n\
             \x20 latency   p50 500 µs  p90 900 µs  p99 990 µs  p99.9 999 µs  max 1.00 ms\n\
             \x20 errors                   0"
        );
    }

    #[test]
    fn an_open_loop_and_a_watched_process_have_lines_of_their_own() {
        let mut report = report();
        report.open_loop = Some(OpenLoop {
            rate: 20_000.0,
            behind_us: report.latency_us,
        });
        report.watched_cpu = Some(CpuUse {
            seconds: 2.5,
            us_per_message: Some(2.025),
            busy: 0.5,
            kept_waiting: 0.012,
        });
        let text = report.to_string();
        let has = |line: &str| assert!(text.lines().any(|l| l == line), "{text}");
        has(
            "  schedule            20,000  messages/s due; sent late by p50 500 µs  p99 990 µs  max 1.00 ms",
        );
        has(
            "  CPU                2.02 µs  a message, 50 % of a core, kept waiting 1.2 % of the time",
        );
    }

    #[test]
    fn a_curve_ends_where_the_messages_do() {
        let curve = report().latency_curve;
        assert_eq!(
            curve.len(),
            16,
            "three tenfolds of five points, and the first"
        );
        let last = curve.last().expect("points");
        assert!((last.quantile - 0.999).abs() < 1e-9, "{last:?}");
        assert!(curve.is_sorted_by(|a, b| a.quantile < b.quantile && a.us <= b.us));
        assert!(super::curve(&latency_histogram()).is_empty());
    }

    #[test]
    fn errors_are_listed_and_fail_the_run() {
        let mut report = report();
        assert!(report.is_success());
        report.errors = 3;
        report.error_kinds.insert("connection refused".into(), 3);
        assert!(!report.is_success());
        let text = report.to_string();
        assert!(
            text.ends_with("\n                     3  connection refused"),
            "{text}"
        );
    }

    #[test]
    fn nothing_moved_is_no_success() {
        let mut report = report();
        report.messages = 0;
        assert!(!report.is_success());
        assert_eq!(Latency::of(&latency_histogram()).max, 0.0);
    }

    #[test]
    fn machines_get_the_same_names() {
        let json = serde_json::to_value(report()).expect("no map has odd keys");
        assert_eq!(json["messages"], 1_234_567);
        assert!(json["latency_us"]["p99.9"].as_f64().expect("a number") > 900.0);
        assert_eq!(json["errors"], 0);
    }
}
