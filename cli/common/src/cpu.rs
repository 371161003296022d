//! The CPU time of a process, all its threads, and how long they were kept waiting for a CPU.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A reading of a process's threads, to be subtracted from a later one.
#[derive(Debug, Clone)]
pub struct CpuReading {
    threads: HashMap<u32, Times>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Times {
    run_nanos: u64,
    wait_nanos: u64,
}

/// What a process's threads did between two readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTime {
    /// Time on a CPU, in user space and in the kernel.
    pub ran: Duration,
    /// Time ready to run while something else had the CPU: on a core of its own next to nothing.
    pub waited: Duration,
}

/// The same for people and machines, relative to the time measured.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct CpuUse {
    /// Seconds on a CPU.
    pub seconds: f64,
    /// Microseconds on a CPU for each message; none when there were no messages.
    pub us_per_message: Option<f64>,
    /// Seconds on a CPU for each second measured: 1 is a whole core.
    pub busy: f64,
    /// Seconds ready to run but kept waiting, for each second measured.
    pub kept_waiting: f64,
}

impl CpuReading {
    /// Reads `/proc/PID/task/*/schedstat`: nanoseconds for each thread, up to date to the last
    /// scheduler tick. Threads of io_uring's worker pool are among them. `None` if the process is
    /// gone or the kernel keeps no such account.
    pub fn take(pid: u32) -> Option<Self> {
        let mut threads = HashMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
            let tid = task.file_name().to_str().and_then(|tid| tid.parse().ok());
            // A thread may end between the listing and this.
            let text = fs::read_to_string(task.path().join("schedstat")).ok();
            let times = text.as_deref().and_then(Times::parse);
            if let Some((tid, times)) = tid.zip(times) {
                threads.insert(tid, times);
            }
        }
        (!threads.is_empty()).then_some(Self { threads })
    }

    /// What was used since `earlier`. The share of threads that have ended meanwhile is not known
    /// and not counted.
    pub fn since(&self, earlier: &Self) -> CpuTime {
        let (mut run_nanos, mut wait_nanos) = (0, 0);
        for (tid, now) in &self.threads {
            let then = earlier.threads.get(tid).copied().unwrap_or_default();
            run_nanos += now.run_nanos.saturating_sub(then.run_nanos);
            wait_nanos += now.wait_nanos.saturating_sub(then.wait_nanos);
        }
        CpuTime {
            ran: Duration::from_nanos(run_nanos),
            waited: Duration::from_nanos(wait_nanos),
        }
    }
}

impl CpuTime {
    /// Relates it to the `seconds` that were measured and the `messages` in them.
    pub fn over(&self, seconds: f64, messages: u64) -> CpuUse {
        let ran = self.ran.as_secs_f64();
        let share = |time: f64| if seconds > 0.0 { time / seconds } else { 0.0 };
        CpuUse {
            seconds: ran,
            us_per_message: (messages > 0).then(|| ran * 1e6 / messages as f64),
            busy: share(ran),
            kept_waiting: share(self.waited.as_secs_f64()),
        }
    }
}

impl Times {
    /// "run_nanos wait_nanos timeslices"
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split_ascii_whitespace().map(str::parse);
        Some(Self {
            run_nanos: fields.next()?.ok()?,
            wait_nanos: fields.next()?.ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(threads: &[(u32, u64, u64)]) -> CpuReading {
        let times = |&(tid, run_nanos, wait_nanos)| {
            let times = Times {
                run_nanos,
                wait_nanos,
            };
            (tid, times)
        };
        CpuReading {
            threads: threads.iter().map(times).collect(),
        }
    }

    #[test]
    fn new_threads_count_from_nothing_and_ended_ones_not_at_all() {
        let before = reading(&[(1, 100, 10), (2, 500, 50)]);
        let after = reading(&[(1, 350, 15), (3, 40, 4)]);
        let used = after.since(&before);
        assert_eq!(used.ran, Duration::from_nanos(250 + 40));
        assert_eq!(used.waited, Duration::from_nanos(5 + 4));
    }

    #[test]
    fn an_account_is_read_from_the_kernel() {
        let wanted = Times {
            run_nanos: 12,
            wait_nanos: 3,
        };
        assert_eq!(Times::parse("12 3 7\n"), Some(wanted));
        assert_eq!(Times::parse("12"), None);
        assert!(CpuReading::take(std::process::id()).is_some());
        assert!(CpuReading::take(u32::MAX).is_none(), "no such process");
    }

    #[test]
    fn shares_are_of_the_time_measured() {
        let time = CpuTime {
            ran: Duration::from_millis(500),
            waited: Duration::from_millis(20),
        };
        let used = time.over(2.0, 1000);
        assert_eq!(used.us_per_message, Some(500.0));
        assert_eq!((used.busy, used.kept_waiting), (0.25, 0.01));
        assert_eq!(time.over(0.0, 0).us_per_message, None);
    }
}
