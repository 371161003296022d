//! The proxy's rate limits, as a client sees them.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{Server, assert_echoes, noise};

/// Bytes a second.
const RATE: usize = 1_000_000;
/// On one connection: little enough to lie in buffers while it is written before it is read.
const TOTAL: usize = RATE / 4;
/// 20 ms of it are there at once, and idle receives of a group may hold a slot.
const FREE: usize = RATE / 50 + (16 << 10) + 64;

/// Sends and gets back `TOTAL` bytes on each stream; how long that took.
fn echo_all(streams: Vec<TcpStream>) -> Duration {
    let began = Instant::now();
    std::thread::scope(|threads| {
        for mut stream in streams {
            threads.spawn(move || assert_echoes(&mut stream, &noise(7, TOTAL)));
        }
    });
    began.elapsed()
}

fn takes_at_least(bytes: usize, elapsed: Duration) {
    let least = Duration::from_secs_f64((bytes - FREE) as f64 / RATE as f64);
    assert!(elapsed >= least, "{bytes} bytes in {elapsed:?}");
}

#[test]
fn each_connection_keeps_to_its_limit() {
    let echo = Server::echo();
    for option in ["--limit-read", "--limit-write"] {
        let proxy = Server::proxy(&echo.addr, &[option, "1MB/s", "--tick", "20"]);
        // Both at once take as long as one.
        takes_at_least(TOTAL, echo_all(vec![proxy.connect(), proxy.connect()]));
        proxy.stop();
    }
}

#[test]
fn all_connections_of_all_threads_share_the_group_limit() {
    let echo = Server::echo();
    for option in ["--group-limit-read", "--group-limit-write"] {
        let limits = [option, "1MB/s", "--tick", "20", "--threads", "2"];
        let proxy = Server::proxy(&echo.addr, &limits);
        let streams = (0..4).map(|_| proxy.connect()).collect();
        takes_at_least(4 * TOTAL, echo_all(streams));
        proxy.stop();
    }
}

#[test]
fn small_messages_pass_under_tight_group_limits() {
    let echo = Server::echo();
    let limits = [
        "--group-limit-read",
        "1MB/s:2MB",
        "--limit-write",
        "1MB",
        "--threads",
        "2",
    ];
    let proxy = Server::proxy(&echo.addr, &limits);
    let mut streams: Vec<_> = (0..20).map(|_| proxy.connect()).collect();
    for _ in 0..50 {
        for stream in &mut streams {
            stream.write_all(b"ping").expect("sent");
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).expect("echoed");
            assert_eq!(&answer, b"ping");
        }
    }
    proxy.stop();
}
