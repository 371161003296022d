//! The CPU time of another process, all its threads.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// A reading of a process's threads, to be subtracted from a later one.
#[derive(Debug, Clone)]
pub struct CpuReading {
    run_ns: HashMap<u32, u64>,
}

impl CpuReading {
    /// Reads `/proc/PID/task/*/schedstat`: nanoseconds on a CPU for each thread, kernel time included, up to date to
    /// the last scheduler tick. Threads of io_uring's worker pool are among them. `None` if the process is gone.
    pub fn take(pid: u32) -> Option<Self> {
        let mut run_ns = HashMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
            let Some(tid) = task.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // A thread may end between the listing and this.
            let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else {
                continue;
            };
            if let Some(ns) = text.split(' ').next().and_then(|field| field.parse().ok()) {
                run_ns.insert(tid, ns);
            }
        }
        (!run_ns.is_empty()).then_some(Self { run_ns })
    }

    /// What was used since `earlier`. The share of threads that have ended meanwhile is not known and not counted.
    pub fn since(&self, earlier: &Self) -> Duration {
        let used_ns = self
            .run_ns
            .iter()
            .map(|(tid, ns)| ns.saturating_sub(earlier.run_ns.get(tid).copied().unwrap_or(0)))
            .sum();
        Duration::from_nanos(used_ns)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn counts_the_time_of_a_second_thread() {
        let before = CpuReading::take(std::process::id()).expect("this process is alive");
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let (done, finished) = std::sync::mpsc::channel();
        let worker = std::thread::spawn(move || {
            let end = Instant::now() + Duration::from_millis(100);
            while Instant::now() < end {}
            done.send(()).expect("the test waits");
            // Stays alive until it was counted.
            wait.recv().expect("the test says when");
        });
        finished.recv().expect("the worker answers");
        let used = CpuReading::take(std::process::id())
            .expect("this process is alive")
            .since(&before);
        stop.send(()).expect("the worker waits");
        worker.join().expect("the worker ends");
        assert!(used > Duration::from_millis(5), "{used:?}");
    }
}
