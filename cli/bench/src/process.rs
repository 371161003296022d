//! The processes of a comparison. Each is ended when its handle is dropped, whatever happens.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use evring_cli_common::failure::Failure;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::interrupt::{Interrupt, Stop};
use super::measure::external::{self, Prepared};

/// A server listens within that time.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// A server ends within that time after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// What a program said last arrives within that time after its end.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// A started program whose output is collected, so that no full pipe stops it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: Collected,
    stderr: Collected,
}

/// A server that listens.
#[derive(Debug)]
pub struct Serving {
    process: Process,
    /// Where it listens.
    pub address: String,
    /// The configuration of one that has such; gone when it is.
    configuration: Option<Prepared>,
}

#[derive(Debug)]
struct Collected {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `command`, which error messages call `name`.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn start(name: &str, mut command: Command) -> Result<Self, Failure> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let started = command.spawn();
        let mut child =
            started.map_err(|error| Failure::new(format!("{name}: cannot start"), error))?;
        Ok(Self {
            name: name.to_owned(),
            stdout: Collected::of(child.stdout.take()),
            stderr: Collected::of(child.stderr.take()),
            child,
        })
    }

    /// Waits until it has ended, and gives what it printed: its report, also when it failed but has
    /// one.
    ///
    /// # Errors
    /// When it fails without a word on standard output, takes longer than `limit`, or a signal
    /// comes.
    pub fn output(mut self, limit: Duration, interrupt: &Interrupt) -> Result<String, Stop> {
        let Some(status) = self.wait(limit, interrupt)? else {
            let what = format!("still runs after {} s", limit.as_secs());
            return Err(self.failure(&what).into());
        };
        let said = self.stdout.all();
        match status.success() || !said.is_empty() {
            true => Ok(said),
            false => Err(self.ended(status).into()),
        }
    }

    fn wait(&mut self, limit: Duration, interrupt: &Interrupt) -> Result<Option<ExitStatus>, Stop> {
        let (name, child) = (&self.name, &mut self.child);
        interrupt.wait_for(limit, || {
            let ended = child.try_wait();
            ended.map_err(|error| Failure::new(format!("{name}: cannot wait"), error))
        })
    }

    fn failure(&self, what: &str) -> Failure {
        Failure::line(format!("{}: {what}", self.name))
    }

    fn not_ready(&self, what: &str) -> Failure {
        self.failure(&format!("{what} within {} s", READY_TIMEOUT.as_secs()))
    }

    /// A failure by its exit code and what it said last.
    fn ended(&self, status: ExitStatus) -> Failure {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with code {code}"),
            (None, signal) => format!("was ended by signal {}", signal.unwrap_or(0)),
        };
        let said = self.stderr.all();
        match said.trim() {
            "" => self.failure(&how),
            // Its name and ours would only stand twice.
            said => self.failure(&format!("{how}: {}", said.trim_start_matches("evring: "))),
        }
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.child.id()).ok()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its session's whole group, for servers of several processes, also when the first of them
        // has ended: while a member lives the kernel gives the group's number to nobody else. One
        // that has not come to a group of its own is killed alone.
        if let Some(pid) = self.pid() {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Serving {
    /// Starts a server and waits for its line `listening on ADDR`.
    ///
    /// # Errors
    /// When it ends instead, says nothing for ten seconds, or a signal comes.
    pub fn start(name: &str, command: Command, interrupt: &Interrupt) -> Result<Self, Stop> {
        let mut process = Process::start(name, command)?;
        let address = interrupt.wait_for(READY_TIMEOUT, || {
            if let Some(address) = listening_on(&process.stdout.now()) {
                return Ok(Some(address));
            }
            match process.child.try_wait() {
                Ok(Some(status)) => Err(process.ended(status)),
                _ => Ok(None),
            }
        })?;
        match address {
            Some(address) => Ok(Self {
                process,
                address,
                configuration: None,
            }),
            None => Err(process.not_ready("printed no 'listening on ADDR'").into()),
        }
    }

    /// Starts a server that does not say when it listens, and waits until it `accepts`.
    ///
    /// # Errors
    /// As [`Serving::start`].
    pub fn start_silent(
        name: &str,
        command: Command,
        interrupt: &Interrupt,
        prepared: Prepared,
        accepts: impl Fn() -> bool,
    ) -> Result<Self, Stop> {
        let mut process = Process::start(name, command)?;
        let ready = interrupt.wait_for(READY_TIMEOUT, || {
            // In this order: whoever else has the port is not our server.
            let accepting = accepts();
            match process.child.try_wait() {
                Ok(Some(status)) => Err(process.ended(status)),
                _ => Ok(accepting.then_some(())),
            }
        })?;
        match ready {
            Some(()) => Ok(Self {
                process,
                address: prepared.listen.to_string(),
                configuration: Some(prepared),
            }),
            None => {
                let what = format!("did not accept on {}", prepared.listen);
                Err(process.not_ready(&what).into())
            }
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Fails if it has ended, with what it said.
    ///
    /// # Errors
    /// As told.
    pub fn check(&mut self) -> Result<(), Failure> {
        match self.process.child.try_wait() {
            Ok(Some(status)) => Err(self.process.ended(status)),
            _ => Ok(()),
        }
    }

    /// Ends it by SIGTERM and insists on exit code 0, but of programs of others that end otherwise.
    ///
    /// # Errors
    /// When it had ended before, ends otherwise, or not within ten seconds.
    pub fn stop(mut self, interrupt: &Interrupt) -> Result<(), Stop> {
        self.check()?;
        if let Some(pid) = self.process.pid() {
            let _ = kill_process(pid, Signal::TERM);
        }
        match self.process.wait(STOP_TIMEOUT, interrupt)? {
            Some(status) if status.success() => Ok(()),
            Some(status) if self.configuration.is_some() && external::ended_well(status) => Ok(()),
            Some(status) => Err(self.process.ended(status).into()),
            None => {
                let what = format!("still runs {} s after SIGTERM", STOP_TIMEOUT.as_secs());
                Err(self.process.failure(&what).into())
            }
        }
    }
}

/// The address in the first whole line that tells one.
fn listening_on(out: &str) -> Option<String> {
    let whole = &out[..out.rfind('\n')? + 1];
    let told = whole
        .lines()
        .find_map(|line| line.strip_prefix("listening on "));
    told?.split_whitespace().next().map(str::to_owned)
}

impl Collected {
    fn of(source: Option<impl Read + Send + 'static>) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let sink = text.clone();
        let reader = source.map(|source| {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(source);
                let mut line = Vec::new();
                while matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
                    let mut text = sink.lock().unwrap_or_else(PoisonError::into_inner);
                    text.append(&mut line);
                }
            })
        });
        Self { text, reader }
    }

    fn now(&self) -> String {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Everything until the end, of a process that has ended. A child that it left behind may keep
    /// the pipe open; that is not waited for.
    fn all(&self) -> String {
        let end = Instant::now() + LAST_WORDS_TIMEOUT;
        while !self.reader.as_ref().is_none_or(JoinHandle::is_finished) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_in_a_whole_line() {
        assert_eq!(listening_on("listening on 127.0.0.1:70"), None);
        let out = "starting\nlistening on 127.0.0.1:7000 (4 threads)\nmore\n";
        assert_eq!(listening_on(out).as_deref(), Some("127.0.0.1:7000"));
        assert_eq!(listening_on("nothing\n"), None);
    }

    #[test]
    fn a_process_that_fails_is_told_with_its_words() {
        let interrupt = Interrupt::watch().expect("signals");
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'no libevent here' >&2; exit 3"]);
        let started = Serving::start("peer", command, &interrupt);
        match started.expect_err("it ends") {
            Stop::Failed(failure) => assert_eq!(
                failure.to_string(),
                "peer: ended with code 3: no libevent here"
            ),
            Stop::Interrupted => panic!("no signal came"),
        }
    }

    #[test]
    fn what_a_server_leaves_behind_is_ended_with_it() {
        use std::os::unix::process::CommandExt;
        let interrupt = Interrupt::watch().expect("signals");
        let mut command = Command::new("sh");
        let line = "sleep 1000 <&- >&- 2>&- & echo listening on $!; exec sleep 1000";
        command.args(["-c", line]).process_group(0);
        let serving = match Serving::start("sh", command, &interrupt) {
            Ok(serving) => serving,
            Err(stop) => panic!("{stop:?}"),
        };
        let left_behind = serving.address.clone();
        drop(serving);
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{left_behind}/stat"));
            // Where nobody collects it, it stays as a zombie.
            Ok(stat
                .map_or(true, |stat| stat.contains(") Z "))
                .then_some(()))
        };
        let gone = interrupt.wait_for(Duration::from_secs(20), gone);
        assert!(matches!(gone, Ok(Some(()))), "{gone:?}");
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let mut command = Command::new("sleep");
        command.arg("1000");
        let process = Process::start("sleep", command).expect("a program");
        let pid = process.child.id();
        drop(process);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
