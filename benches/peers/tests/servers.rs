//! Every peer serves what it is asked to, byte for byte, and ends as the comparison expects it to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    child: Child,
    addr: SocketAddr,
}

impl Server {
    /// `None` where the peer was built without its library (exit code 3).
    fn start(binary: &str, arguments: &[String]) -> Option<Self> {
        let mut child = Command::new(binary)
            .args(["--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary was built with this test");
        let stdout = child.stdout.take().expect("piped");
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("stdout is text");
        let Some(addr) = line.trim().strip_prefix("listening on ") else {
            let code = child.wait().expect("it has ended").code();
            assert_eq!(code, Some(3), "{binary} did not start: {line:?}");
            return None;
        };
        let addr = addr.parse().expect("an address follows");
        Some(Self { child, addr })
    }

    fn stop(mut self) {
        let pid = self.child.id() as libc::pid_t;
        // SAFETY: no memory is involved; the child has not been waited for, so the pid is still its
        // own.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
        let status = self.child.wait().expect("the child is ours");
        assert_eq!(status.code(), Some(0));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// After so many bytes what a client sends repeats: a prime, so that messages of a round size all
/// differ.
const PERIOD: usize = 251;

/// Sends `messages` of `size` bytes on each of so many connections at once, and compares what comes
/// back.
fn exchange(addr: SocketAddr, connections: usize, size: usize, messages: usize) {
    let stream: Vec<u8> = (0..PERIOD as u8).cycle().take(PERIOD + size).collect();
    let message = |index: usize| &stream[index * size % PERIOD..][..size];
    thread::scope(|threads| {
        for _ in 0..connections {
            let mut reader = TcpStream::connect(addr).expect("the server listens");
            reader.set_read_timeout(Some(PATIENCE)).expect("not zero");
            reader.set_write_timeout(Some(PATIENCE)).expect("not zero");
            let mut writer = reader.try_clone().expect("descriptors are left");
            threads.spawn(move || {
                for index in 0..messages {
                    writer.write_all(message(index)).expect("the server reads");
                }
            });
            threads.spawn(move || {
                let mut answer = vec![0; size];
                for index in 0..messages {
                    reader.read_exact(&mut answer).expect("the server answers");
                    assert!(answer == message(index), "message {index} of {size} B");
                }
            });
        }
    });
}

fn serves(server: &Server) {
    for (connections, size, messages) in [
        (1, 1, 500),
        (64, 64, 100),
        (8, 16 * 1024, 50),
        (2, 1 << 20, 5),
    ] {
        exchange(server.addr, connections, size, messages);
    }
}

/// A client that says all it has, ends its direction, and only then reads: it gets all of it and
/// then the end.
fn carries_half_close(server: &Server) {
    let mut stream = TcpStream::connect(server.addr).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    let sent: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
    let mut writer = stream.try_clone().expect("descriptors are left");
    let bytes = sent.clone();
    let writing = thread::spawn(move || {
        writer.write_all(&bytes).expect("the server reads");
        writer.shutdown(Shutdown::Write).expect("still connected");
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).expect("an orderly end");
    writing.join().expect("all was sent");
    assert!(
        got == sent,
        "{} of {} bytes came back",
        got.len(),
        sent.len()
    );
}

/// Clients that vanish take nothing down and leave no descriptor behind.
fn survives_resets(server: &Server) {
    let descriptors = || {
        std::fs::read_dir(format!("/proc/{}/fd", server.child.id()))
            .expect("the server runs")
            .count()
    };
    let before = descriptors();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(server.addr).expect("the server listens");
        stream.write_all(&[7; 5000]).expect("connected");
        // With linger 0 closing sends a reset.
        SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .expect("a TCP socket");
    }
    exchange(server.addr, 4, 100, 10);
    let end = Instant::now() + PATIENCE;
    while descriptors() > before {
        assert!(Instant::now() < end, "{} -> {}", before, descriptors());
        thread::sleep(Duration::from_millis(5));
    }
}

fn echo(binary: &str, arguments: &[&str]) {
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    if let Some(server) = Server::start(binary, &arguments) {
        serves(&server);
        survives_resets(&server);
        server.stop();
    }
}

fn proxy(binary: &str, arguments: &[&str]) {
    let upstream = Server::start(env!("CARGO_BIN_EXE_floor-echo"), &[]).expect("needs no library");
    let mut with_upstream = vec!["--upstream".to_owned(), upstream.addr.to_string()];
    with_upstream.extend(arguments.iter().map(ToString::to_string));
    if let Some(server) = Server::start(binary, &with_upstream) {
        serves(&server);
        carries_half_close(&server);
        survives_resets(&server);
        server.stop();
    }
    upstream.stop();
}

#[test]
fn floor_echo() {
    echo(env!("CARGO_BIN_EXE_floor-echo"), &[]);
    echo(env!("CARGO_BIN_EXE_floor-echo"), &["--spin"]);
}

#[test]
fn floor_echo_whose_window_is_too_small() {
    let small = ["--slot", "512", "--window", "2"];
    echo(env!("CARGO_BIN_EXE_floor-echo"), &small);
}

#[test]
fn floor_echo_carries_half_close() {
    let server = Server::start(env!("CARGO_BIN_EXE_floor-echo"), &[]).expect("needs no library");
    carries_half_close(&server);
    server.stop();
}

#[test]
fn floor_proxy() {
    proxy(env!("CARGO_BIN_EXE_floor-proxy"), &[]);
    proxy(
        env!("CARGO_BIN_EXE_floor-proxy"),
        &["--slot", "512", "--window", "2"],
    );
}

/// What the floor can be told to try, each by itself and together, with slots of a common and of an
/// odd size.
const TRIALS: [&[&str]; 10] = [
    &["--registered-files"],
    &["--incremental"],
    &["--incremental", "--slot", "1000", "--window", "2"],
    &["--bundle"],
    &["--bundle", "--slot", "1000", "--window", "3"],
    &["--bundle", "--slot", "100", "--window", "300"],
    &["--min-wait", "200"],
    &["--min-wait", "50", "--min-wait-for", "3"],
    &[
        "--registered-files",
        "--incremental",
        "--min-wait",
        "50",
        "--slot",
        "100000",
    ],
    &[
        "--registered-files",
        "--bundle",
        "--min-wait",
        "50",
        "--slot",
        "512",
    ],
];

/// Many connections at once, more than the window has slots, of which a slot may hold bytes of
/// several; and streams of several megabytes, in messages of all sizes.
fn serves_much(server: &Server) {
    exchange(server.addr, 300, 64, 10);
    exchange(server.addr, 3, 4 << 20, 2);
    thread::scope(|threads| {
        for (connections, size, messages) in [(20, 7, 300), (4, 9001, 100), (2, 1 << 20, 3)] {
            threads.spawn(move || exchange(server.addr, connections, size, messages));
        }
    });
}

#[test]
fn floor_echo_on_trial() {
    for arguments in TRIALS {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let server =
            Server::start(env!("CARGO_BIN_EXE_floor-echo"), &arguments).expect("needs no library");
        serves(&server);
        serves_much(&server);
        carries_half_close(&server);
        survives_resets(&server);
        server.stop();
    }
}

#[test]
fn floor_proxy_on_trial() {
    let upstream = Server::start(env!("CARGO_BIN_EXE_floor-echo"), &[]).expect("needs no library");
    for arguments in TRIALS {
        let mut with_upstream = vec!["--upstream".to_owned(), upstream.addr.to_string()];
        with_upstream.extend(arguments.iter().map(ToString::to_string));
        let server = Server::start(env!("CARGO_BIN_EXE_floor-proxy"), &with_upstream)
            .expect("needs no library");
        serves(&server);
        serves_much(&server);
        carries_half_close(&server);
        survives_resets(&server);
        server.stop();
    }
    upstream.stop();
}

/// An idle connection gets its answer although nothing else makes up the wanted number, and a loop
/// whose wait has run into its microseconds sleeps on.
#[test]
fn floor_waits_for_a_batch_without_turning() {
    let arguments = ["--min-wait", "1000"].map(str::to_owned);
    let server =
        Server::start(env!("CARGO_BIN_EXE_floor-echo"), &arguments).expect("needs no library");
    let mut stream = TcpStream::connect(server.addr).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    let turns = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id()))
            .expect("the server runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let switches = line.expect("the kernel counts them").trim().parse::<u64>();
        switches.expect("a number")
    };
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(20));
        let before = turns();
        thread::sleep(Duration::from_millis(100));
        let idle = turns() - before;
        assert!(idle < 10, "{idle} waits in 100 ms without traffic");
        stream.write_all(&[42]).expect("the server reads");
        let mut answer = [0];
        stream.read_exact(&mut answer).expect("the server answers");
        assert_eq!(answer, [42]);
    }
    server.stop();
}

#[test]
fn floor_says_why_it_does_not_start() {
    for (arguments, why) in [
        (&["--bundle", "--incremental"][..], "leave one of them out"),
        (&["--spin", "--min-wait", "9"], "leave one of them out"),
        (&["--min-wait", "0"], "0 is not in 1.."),
        (&["--min-wait-for", "9"], "--min-wait <MICROSECONDS>"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_floor-echo"))
            .args(arguments)
            .output()
            .expect("the binary was built with this test");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{said}");
        assert!(output.stdout.is_empty(), "it must not say that it listens");
    }
}

#[test]
fn floor_proxy_drops_clients_of_an_upstream_that_refuses() {
    // A port that was just free and has nobody listening.
    let refusing = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("the loopback is there");
    let arguments = ["--upstream".to_owned(), refusing.to_string()];
    let server =
        Server::start(env!("CARGO_BIN_EXE_floor-proxy"), &arguments).expect("needs no library");
    let mut stream = TcpStream::connect(server.addr).expect("the proxy listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    let mut nothing = [0];
    assert!(matches!(stream.read(&mut nothing), Ok(0) | Err(_)));
    server.stop();
}

#[test]
fn epoll_echo() {
    echo(env!("CARGO_BIN_EXE_epoll-echo"), &[]);
    echo(env!("CARGO_BIN_EXE_epoll-echo"), &["--spin"]);
}

#[test]
fn libevent_echo() {
    echo(env!("CARGO_BIN_EXE_libevent-echo"), &[]);
}

#[test]
fn libevent_proxy() {
    proxy(env!("CARGO_BIN_EXE_libevent-proxy"), &[]);
}

#[test]
fn tokio_echo() {
    echo(env!("CARGO_BIN_EXE_tokio-echo"), &[]);
}

#[test]
fn tokio_proxy() {
    proxy(env!("CARGO_BIN_EXE_tokio-proxy"), &[]);
}

#[test]
fn monoio_echo() {
    echo(env!("CARGO_BIN_EXE_monoio-echo"), &[]);
}

#[test]
fn libevent_pair() {
    for size in ["1", "64", "100000"] {
        let output = Command::new(env!("CARGO_BIN_EXE_libevent-pair"))
            .args(["--size", size, "--round-trips", "100", "--batches", "3"])
            .output()
            .expect("the binary was built with this test");
        if output.status.code() == Some(3) {
            return;
        }
        assert!(output.status.success(), "{output:?}");
        let report: serde_json::Value =
            serde_json::from_slice(&output.stdout).expect("one JSON object");
        let times = report["ns_per_round_trip"].as_array().expect("an array");
        assert_eq!(times.len(), 3);
        assert!(times.iter().all(|ns| ns.as_f64() > Some(0.0)), "{report}");
    }
}
