//! How many system calls a running server makes, whatever program it is.
//!
//! `perf` counts them in the kernel, at little cost; where it may not, `strace` stops the server at
//! each, which slows it several times over. Both disturb, so this belongs in a pass of its own and
//! not in one that is timed.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use evring_cli_common::failure::Failure;
use rustix::process::{Pid, Signal, kill_process};

use super::external::program;

/// The kernel's event: the entry of any system call.
const EVENT: &str = "raw_syscalls:sys_enter";

/// A program that counts system calls and was seen to work here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Counter {
    /// `perf stat`, with a tracepoint.
    Perf(PathBuf),
    /// `strace -c`.
    Strace(PathBuf),
}

/// Finds a program that can count: `perf` if it may, else `strace`.
///
/// # Errors
///
/// Neither can; the text says why for each.
pub fn counter() -> Result<Counter, Failure> {
    perf().or_else(|perf| {
        strace().map_err(|strace| {
            Failure::new(
                "system calls cannot be counted",
                format!("{perf}; {strace}"),
            )
        })
    })
}

/// `perf`, tried on a process of its own.
pub fn perf() -> Result<Counter, Failure> {
    works("perf", perf_stat, perf_count).map(Counter::Perf)
}

/// `strace`, tried on a process of its own.
pub fn strace() -> Result<Counter, Failure> {
    works("strace", strace_summary, strace_count).map(Counter::Strace)
}

/// Where a program is that counted the calls of `true`.
fn works(
    name: &str,
    command: fn(&Path) -> Command,
    count: fn(&[u8]) -> Option<u64>,
) -> Result<PathBuf, Failure> {
    let found = program(name).ok_or_else(|| Failure::new(name, "not installed"))?;
    let output = command(&found)
        .args(["--", "true"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Failure::new(name, error))?;
    match count(&output.stderr) {
        Some(1..) => Ok(found),
        _ => Err(Failure::new(name, complaint(&output))),
    }
}

/// Counts the system calls of process `pid`, all its threads, while `work` runs; gives the count
/// and what `work` gave.
///
/// # Errors
///
/// Those of `work`; the process is gone; the counting program may not attach to it.
pub fn count<T>(
    counter: &Counter,
    pid: u32,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<(u64, T), Failure> {
    match counter {
        Counter::Perf(perf) => with_perf(perf, pid, work),
        Counter::Strace(strace) => with_strace(strace, pid, work),
    }
}

/// Why a program did not do it, in a line: perf says more than that.
fn complaint(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let told = lines.clone().find(|line| {
        let line = line.to_ascii_lowercase();
        line.contains("permi") || line.contains("not supported") || line.contains("can't access")
    });
    let line = told.or_else(|| lines.next());
    line.map_or_else(
        || output.status.to_string(),
        |line| line.trim_start_matches(['\\', '_', ' ']).to_owned(),
    )
}

fn perf_stat(perf: &Path) -> Command {
    let mut command = Command::new(perf);
    command
        .env("LC_ALL", "C")
        .args(["stat", "-x", ",", "-e", EVENT]);
    command
}

fn strace_summary(strace: &Path) -> Command {
    let mut command = Command::new(strace);
    command.env("LC_ALL", "C").args(["-c", "-f"]);
    command
}

/// `perf stat -p PID -- cat` counts from before `cat` starts until it ends, which it does when its
/// input ends. So a line that comes back says that the counting has begun, and no time has to be
/// guessed.
fn with_perf<T>(
    perf: &Path,
    pid: u32,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<(u64, T), Failure> {
    let mut child = perf_stat(perf)
        .args(["-p", &pid.to_string(), "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Failure::new("perf", error))?;
    let (mut stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let began = stdin.as_mut().zip(stdout).is_some_and(|(stdin, stdout)| {
        let mut line = String::new();
        let said = stdin.write_all(b"begin\n");
        said.is_ok() && BufReader::new(stdout).read_line(&mut line).is_ok() && line == "begin\n"
    });
    let done = began.then(work).transpose();
    drop(stdin);
    let output = child
        .wait_with_output()
        .map_err(|error| Failure::new("perf", error))?;
    match (done?, perf_count(&output.stderr)) {
        (Some(done), Some(calls)) => Ok((calls, done)),
        _ => Err(Failure::new("perf", complaint(&output))),
    }
}

/// The number in a line such as `1646,,raw_syscalls:sys_enter,…`. An event that never came is `<not
/// counted>`.
fn perf_count(text: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines().filter(|line| line.contains(EVENT));
    match lines.find_map(|line| line.split(',').next())? {
        "<not counted>" => Some(0),
        number => number.parse().ok(),
    }
}

fn with_strace<T>(
    strace: &Path,
    pid: u32,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<(u64, T), Failure> {
    let wrong = |why: &dyn std::fmt::Display| Failure::new("strace", why);
    let mut child = strace_summary(strace)
        .args(["-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| wrong(&error))?;
    let Some(stderr) = child.stderr.take() else {
        return Err(wrong(&"no standard error"));
    };
    let mut stderr = BufReader::new(stderr);
    let mut first = String::new();
    // It tells of each thread that it holds from now on, or why it does not.
    let attached = stderr.read_line(&mut first).is_ok() && first.contains("attached");
    // The pipe must not fill up meanwhile.
    let rest = thread::spawn(move || {
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).map(|_| rest)
    });
    let done = attached.then(work).transpose();
    interrupt(&child);
    let ended = child.wait();
    let rest = rest.join().ok().and_then(Result::ok).unwrap_or_default();
    ended.map_err(|error| wrong(&error))?;
    match (done?, strace_count(rest.as_bytes())) {
        (Some(done), Some(calls)) => Ok((calls, done)),
        (Some(_), None) => Err(wrong(&"no counts came")),
        (None, _) => Err(wrong(&first.trim())),
    }
}

/// What ends strace without ending what it traces.
fn interrupt(child: &Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended by itself; then there is nothing to tell it.
        let _ = kill_process(pid, Signal::INT);
    }
}

/// The number under `calls` in the last row of strace's table; versions differ in which other
/// columns they leave empty.
fn strace_count(text: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(text);
    let header = text.lines().find(|line| line.contains("usecs/call"))?;
    let end = header.find(" calls")? + " calls".len();
    let total = text.lines().rfind(|line| line.ends_with(" total"))?;
    total.get(..end)?.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_perf_prints_is_read() {
        let line = b"1646,,raw_syscalls:sys_enter,671830,100.00,,\n";
        assert_eq!(perf_count(line), Some(1646));
        let none = b"<not counted>,,raw_syscalls:sys_enter,0,100.00,,\n";
        assert_eq!(perf_count(none), Some(0));
        let refused =
            b"event syntax error: 'raw_syscalls:sys_enter'\n  can't access trace events\n";
        assert_eq!(perf_count(refused), None);
    }

    #[test]
    fn what_strace_prints_is_read() {
        let new = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 75.00    0.074775          17      4232        12 getppid
------ ----------- ----------- --------- --------- ----------------
100.00    0.074775          17      4242        12 total
";
        assert_eq!(strace_count(new.as_bytes()), Some(4242));
        let old = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
100.00    0.074775                  4242           total
";
        assert_eq!(strace_count(old.as_bytes()), Some(4242));
        assert_eq!(
            strace_count(b"strace: attach: Operation not permitted"),
            None
        );
    }
}
