//! The CPU time of a process, all its threads, and how long they were kept waiting for a CPU.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use crate::failure::Failure;

/// A reading of a process's threads, to be subtracted from a later one.
#[derive(Debug, Clone)]
pub struct CpuReading {
    threads: HashMap<u32, Times>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Times {
    run_ns: u64,
    wait_ns: u64,
}

/// What a process's threads did between two readings.
#[derive(Debug, Clone, Copy)]
pub struct CpuUse {
    /// Time on a CPU, in user space and in the kernel.
    pub ran: Duration,
    /// Time ready to run while something else had the CPU: on a core of its own next to nothing.
    pub waited: Duration,
}

/// Reads `/proc/PID/task/*/schedstat`: nanoseconds for each thread, up to date to the last scheduler tick. Threads of
/// io_uring's worker pool are among them.
///
/// # Errors
///
/// The process is gone, or the kernel keeps no such account.
pub fn read(pid: u32) -> Result<CpuReading, Failure> {
    let path = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(&path).map_err(|error| Failure::new(&path, error))?;
    let mut threads = HashMap::new();
    for task in tasks.flatten() {
        let tid = task.file_name().to_str().and_then(|tid| tid.parse().ok());
        // A thread may end between the listing and this.
        let text = fs::read_to_string(task.path().join("schedstat")).ok();
        let times = text.as_deref().and_then(Times::parse);
        if let Some((tid, times)) = tid.zip(times) {
            threads.insert(tid, times);
        }
    }
    match threads.is_empty() {
        true => Err(Failure::new(path, "no thread's times can be read")),
        false => Ok(CpuReading { threads }),
    }
}

impl CpuReading {
    /// What was used since `earlier`. The share of threads that have ended meanwhile is not known and not counted.
    pub fn since(&self, earlier: &Self) -> CpuUse {
        let (mut run_ns, mut wait_ns) = (0, 0);
        for (tid, now) in &self.threads {
            let then = earlier.threads.get(tid).copied().unwrap_or_default();
            run_ns += now.run_ns.saturating_sub(then.run_ns);
            wait_ns += now.wait_ns.saturating_sub(then.wait_ns);
        }
        CpuUse {
            ran: Duration::from_nanos(run_ns),
            waited: Duration::from_nanos(wait_ns),
        }
    }
}

impl Times {
    /// "run_ns wait_ns timeslices"
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split_ascii_whitespace().map(str::parse);
        Some(Self {
            run_ns: fields.next()?.ok()?,
            wait_ns: fields.next()?.ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn counts_the_time_of_a_second_thread() {
        let before = read(std::process::id()).expect("this process is alive");
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
        let used = read(std::process::id())
            .expect("this process is alive")
            .since(&before);
        stop.send(()).expect("the worker waits");
        worker.join().expect("the worker ends");
        assert!(used.ran > Duration::from_millis(5), "{used:?}");
    }
}
