//! Starts the built command and talks to it; shared by the integration tests.
//!
//! Everything is bounded: each wait has a limit, and each child is killed when its handle is
//! dropped.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub mod upstream;

/// How long anything that should happen at once may take on a loaded machine.
pub const SOON: Duration = Duration::from_secs(20);

/// The command under test.
pub const EVRING: &str = env!("CARGO_BIN_EXE_evring");

/// A child process whose output is collected.
pub struct Process {
    child: Child,
    stdout: Collected,
    stderr: Collected,
}

/// How a process ended.
pub struct Ended {
    /// The exit code; `None` when a signal killed it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A running server and the address it listens on.
pub struct Server {
    pub process: Process,
    pub addr: String,
}

struct Collected {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Collected {
    fn of(source: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let sink = text.clone();
        let reader = std::thread::spawn(move || {
            let mut lines = BufReader::new(source);
            let mut line = Vec::new();
            while matches!(lines.read_until(b'\n', &mut line), Ok(n) if n > 0) {
                sink.lock()
                    .expect("no panic")
                    .push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Self {
            text,
            reader: Some(reader),
        }
    }

    fn now(&self) -> String {
        self.text.lock().expect("no panic").clone()
    }

    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("no panic");
        }
        self.now()
    }
}

impl Process {
    /// Starts a command with its output collected.
    pub fn start(mut command: Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stdout = Collected::of(child.stdout.take().expect("piped"));
        let stderr = Collected::of(child.stderr.take().expect("piped"));
        Self {
            child,
            stdout,
            stderr,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> String {
        self.stdout.now()
    }

    pub fn stderr(&self) -> String {
        self.stderr.now()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("ours to wait for").is_none()
    }

    /// Sends a signal by name, as `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("sh")
            .arg("-c")
            .arg(format!("kill -{name} {}", self.pid()))
            .status()
            .expect("a shell");
        assert!(status.success(), "kill -{name}");
    }

    /// Waits for a line with `text` on standard error.
    pub fn wait_for_stderr(&mut self, text: &str) {
        eventually(SOON, &format!("'{text}' on standard error"), || {
            self.stderr().contains(text).then_some(())
        });
    }

    /// Waits until it has ended by itself.
    pub fn wait(mut self, limit: Duration) -> Ended {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("ours to wait for") {
                break status;
            }
            if start.elapsed() > limit {
                panic!(
                    "still running after {limit:?}\nstdout: {}\nstderr: {}",
                    self.stdout(),
                    self.stderr()
                );
            }
            pause();
        };
        Ended {
            code: status.code(),
            stdout: self.stdout.all(),
            stderr: self.stderr.all(),
        }
    }

    /// The most memory it has had resident, in bytes.
    pub fn peak_memory(&self) -> u64 {
        self.status_kib("VmHWM:") * 1024
    }

    fn status_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("it is running");
        let line = status
            .lines()
            .find(|line| line.starts_with(field))
            .expect("a known field");
        line.split_whitespace()
            .nth(1)
            .and_then(|n| n.parse().ok())
            .expect("a number")
    }

    /// Descriptors that it has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .expect("it is running")
            .count()
    }

    /// Processor time used so far.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("running");
        let after_name = stat.rsplit(')').next().expect("a name in parentheses");
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        // utime and stime, in hundredths of a second on every Linux that matters here.
        let ticks: u64 = fields[11..=12]
            .iter()
            .map(|n| n.parse::<u64>().expect("a number"))
            .sum();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts `evring` with arguments and waits until it listens.
    pub fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(EVRING);
        command.args(arguments);
        Self::start_command(command)
    }

    /// Starts a command that will print `listening on ADDR`.
    pub fn start_command(command: Command) -> Self {
        Self::start_when(command, |out, _| {
            let line = out
                .lines()
                .find_map(|line| line.strip_prefix("listening on "));
            line.filter(|_| out.contains('\n')).map(str::to_owned)
        })
    }

    /// Starts a command and waits until its outputs tell an address.
    pub fn start_when(command: Command, addr: impl Fn(&str, &str) -> Option<String>) -> Self {
        let what = format!("{command:?}");
        let mut process = Process::start(command);
        let addr = eventually(SOON, &format!("{what} to listen"), || {
            let running = process.is_running();
            let addr = addr(&process.stdout(), &process.stderr());
            if addr.is_none() && !running {
                panic!("{what} ended: {}", process.stderr.all());
            }
            addr
        });
        Self { process, addr }
    }

    /// An echo server on a free port.
    pub fn echo() -> Self {
        Self::start(&["echo", "--listen", "127.0.0.1:0"])
    }

    /// A proxy on a free port.
    pub fn proxy(upstream: &str, more: &[&str]) -> Self {
        let arguments = ["proxy", "--listen", "127.0.0.1:0", "--upstream", upstream];
        Self::start(&[&arguments, more].concat())
    }

    pub fn socket_addr(&self) -> SocketAddr {
        self.addr.parse().expect("a TCP address")
    }

    pub fn port(&self) -> u16 {
        self.socket_addr().port()
    }

    /// A connection to it, with time limits.
    pub fn connect(&self) -> TcpStream {
        connect(self.socket_addr())
    }

    /// Ends it by SIGTERM and checks that it ended well.
    pub fn stop(self) -> Ended {
        self.process.signal("TERM");
        let ended = self.process.wait(SOON);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended
    }
}

/// As much of an output as a failed assertion shows.
const SHOWN_BYTES: usize = 2000;

impl std::fmt::Debug for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |text: &str| text.chars().take(SHOWN_BYTES).collect::<String>();
        write!(
            f,
            "exit code {:?}\nstdout: {}\nstderr: {}",
            self.code,
            shown(&self.stdout),
            shown(&self.stderr)
        )
    }
}

impl Ended {
    /// The value of a counter that `--stats` printed.
    pub fn stat(&self, name: &str) -> u64 {
        let row = self.stdout.lines().find_map(|line| {
            let (key, value) = line.split_once(' ')?;
            (key == name).then(|| value.trim().parse().expect("a number"))
        });
        row.unwrap_or_else(|| panic!("no '{name}' in {}", self.stdout))
    }

    /// Checks that it failed with `code` and told why in one line that contains `what`.
    pub fn assert_one_line(&self, code: i32, what: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        assert!(self.stderr.starts_with("evring: "), "{self:?}");
        assert!(self.stderr.contains(what), "'{what}' in {self:?}");
    }
}

/// Runs `evring` to its end.
pub fn evring(arguments: &[&str]) -> Ended {
    let mut command = Command::new(EVRING);
    command.args(arguments);
    Process::start(command).wait(Duration::from_secs(60))
}

/// A connection with time limits on everything.
pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&addr, SOON).expect("a listening server");
    stream.set_read_timeout(Some(SOON)).expect("a time limit");
    stream.set_write_timeout(Some(SOON)).expect("a time limit");
    stream
}

/// Sends `message` and checks that it comes back.
pub fn assert_echoes(stream: &mut (impl Read + Write), message: &[u8]) {
    stream.write_all(message).expect("written");
    let mut answer = vec![0; message.len()];
    stream.read_exact(&mut answer).expect("an answer");
    assert!(answer == message, "another answer");
}

/// Reads until the end of the stream, or until it breaks: what came and whether it ended well.
pub fn read_all(mut stream: impl Read) -> (Vec<u8>, std::io::Result<()>) {
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes).map(drop);
    (bytes, end)
}

/// Writes until neither the server nor any kernel takes more, and gives the number of bytes.
pub fn stuff(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    stream.set_nonblocking(true).expect("an option");
    let mut written = 0;
    let mut stuck_since = Instant::now();
    while stuck_since.elapsed() < Duration::from_millis(500) {
        match stream.write(&bytes[written..]) {
            Ok(n) => {
                written += n;
                stuck_since = Instant::now();
            }
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        assert!(written < bytes.len(), "no bound on what is taken");
    }
    stream.set_nonblocking(false).expect("an option");
    written
}

/// Asks for a value again and again until there is one.
pub fn eventually<T>(limit: Duration, what: &str, mut f: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = f() {
            return value;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} for {what}");
        pause();
    }
}

/// Between two looks at a condition.
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

/// A port that nobody listens on. Another process could take it; none does here.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

/// `python3 SCRIPT ARGUMENTS`, from `tests/scripts`.
pub fn python(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.arg("-u").arg(script_path(script)).args(arguments);
    command
}

/// Where a script of the tests is.
pub fn script_path(script: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/scripts")
        .join(script)
}

/// Whether a program can be run; says so when a test is skipped for it.
pub fn has_program(name: &str, test: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {name}")])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        eprintln!("skipped {test}: {name} is not installed");
    }
    found
}

/// Bytes that do not compress and do not repeat, from a seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Bytes that the kernel holds for a loopback TCP connection from `from` to `to`: not yet
/// acknowledged to `from`, not yet read by `to`'s owner.
pub fn queued_between(from: SocketAddr, to: SocketAddr) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("procfs");
    let key = |local: SocketAddr, remote: SocketAddr| {
        let hex = |addr: SocketAddr| match addr {
            SocketAddr::V4(v4) => {
                format!(
                    "{:08X}:{:04X}",
                    u32::from_ne_bytes(v4.ip().octets()),
                    v4.port()
                )
            }
            SocketAddr::V6(_) => panic!("IPv4 only"),
        };
        format!("{} {}", hex(local), hex(remote))
    };
    let queue = |local, remote, place: usize| {
        let key = key(local, remote);
        let line = table.lines().find(|line| line.contains(&key));
        line.map_or(0, |line| {
            let queues = line.split_whitespace().nth(4).expect("queues");
            let hex = queues.split(':').nth(place).expect("two queues");
            u64::from_str_radix(hex, 16).expect("a number")
        })
    };
    queue(from, to, 0) + queue(to, from, 1)
}
