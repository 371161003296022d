//! The measurements of the comparison, on real servers.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use evring_bench::measure::external::{self, External};
use evring_bench::measure::rate::{self, Direction, Limit, Traffic};
use evring_bench::measure::{accept, buffer, bulk, idle, pair, syscalls};
use evring_cli_common::failure::Failure;

use common::{Server, assert_echoes, upstream};

/// Long enough for the scheduler's accounts to move.
const SHORT: Duration = Duration::from_millis(50);

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a free port")
}

fn addr(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().expect("bound")
}

#[test]
fn connections_are_made_and_closed() {
    let server = Server::echo();
    let before = server.process.open_files();
    for at_once in [1, 32] {
        let options = accept::Options {
            at_once,
            warm_up: Duration::ZERO,
            measured: SHORT,
            most: 100,
        };
        let found = accept::run(server.socket_addr(), server.process.pid(), &options)
            .expect("the server serves");
        assert!(found.connections > 0 && found.connections < 100 + at_once as u64);
        assert!(found.cpu_us_per_connection().is_finite() && found.per_second() > 0.0);
    }
    common::eventually(common::SOON, "every descriptor to be closed", || {
        (server.process.open_files() <= before).then_some(())
    });
}

#[test]
fn other_bytes_than_were_sent_are_told() {
    let liar = upstream::serve(|mut stream| {
        let mut message = [0; 64];
        if stream.read_exact(&mut message).is_ok() {
            message[63] ^= 1;
            stream.write_all(&message).ok();
        }
    });
    let failure = accept::run(liar, std::process::id(), &accept::Options::default());
    let failure = failure.expect_err("a byte is wrong").to_string();
    assert!(failure.contains("other bytes"), "{failure}");
}

#[test]
fn idle_connections_hold_memory() {
    let server = Server::echo();
    let found = idle::run(server.socket_addr(), server.process.pid(), 100).expect("it serves");
    assert_eq!((found.connections, found.counted), (100, 80));
    assert!(found.bytes_per_connection().is_finite());

    const HOARD_BYTES: usize = 1 << 18;
    let hoarder = upstream::serve(|stream| {
        let hoard = vec![1_u8; HOARD_BYTES];
        upstream::echo(stream);
        drop(std::hint::black_box(hoard));
    });
    let found = idle::run(hoarder, std::process::id(), 100).expect("it serves");
    let each = found.bytes_per_connection();
    // The server is this process, and what other tests free meanwhile counts too.
    assert!(each > HOARD_BYTES as f64 / 2.0, "{each} B a connection");
}

#[test]
fn idle_needs_more_files_than_there_are() {
    let many = idle::most_connections() as usize + 1;
    let failure = idle::run(([127, 0, 0, 1], 1).into(), 1, many).expect_err("too many");
    assert!(failure.to_string().contains("ulimit"), "{failure}");
}

#[test]
fn bulk_passes_through_a_proxy() {
    let sink = listener();
    let proxy = Server::proxy(&addr(&sink).to_string(), &[]);
    // Whoever tries first whether it is ready does not disturb.
    drop(proxy.connect());
    let found = bulk::run(
        &sink,
        proxy.socket_addr(),
        proxy.process.pid(),
        SHORT,
        SHORT,
    )
    .expect("the proxy passes bytes on");
    assert!(found.bytes > 0 && found.elapsed >= SHORT);
    assert!(found.bytes_per_second() > 0.0 && found.bytes_per_cpu_second() > 0.0);
}

#[test]
fn bulk_tells_a_wrong_byte() {
    let sink = listener();
    let to = addr(&sink);
    let liar = upstream::serve(move |mut stream| {
        let mut onward = std::net::TcpStream::connect(to).expect("the sink listens");
        let mut bytes = vec![0; 100_000];
        if stream.read_exact(&mut bytes).is_ok() {
            bytes[77_777] ^= 1;
            onward.write_all(&bytes).ok();
        }
    });
    let failure = bulk::run(&sink, liar, std::process::id(), SHORT, SHORT);
    let failure = failure.expect_err("a byte is wrong").to_string();
    assert!(failure.contains("byte 77777"), "{failure}");
}

#[test]
fn bulk_ends_where_nothing_listens() {
    let nobody = addr(&listener());
    let failure = bulk::run(&listener(), nobody, std::process::id(), SHORT, SHORT);
    let failure = failure.expect_err("nothing to send to").to_string();
    assert!(failure.contains("refused"), "{failure}");
}

/// Ends its process if the test does not.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn external_proxy_serves(proxy: External) {
    let installed = match external::find(proxy) {
        Ok(installed) => installed,
        Err(failure) => return eprintln!("skipped {proxy:?}: {failure}"),
    };
    let echo = Server::echo();
    let ready = installed.prepare(echo.socket_addr()).expect("a directory");
    let mut running = Running(ready.command().spawn().expect("it is installed"));
    external::wait_until_accepting(ready.listen, &mut running.0, common::SOON).expect("it starts");
    let options = accept::Options {
        measured: SHORT,
        ..accept::Options::default()
    };
    accept::run(ready.listen, running.0.id(), &options).expect("it passes bytes on both ways");

    let sink = listener();
    let ready = installed.prepare(addr(&sink)).expect("a directory");
    let mut bulk_running = Running(ready.command().spawn().expect("it is installed"));
    external::wait_until_accepting(ready.listen, &mut bulk_running.0, common::SOON)
        .expect("it starts");
    bulk::run(&sink, ready.listen, bulk_running.0.id(), SHORT, SHORT).expect("it passes bytes on");

    for mut running in [running, bulk_running] {
        let pid = running.0.id().to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(told.expect("a kill program").success());
        let status = running.0.wait().expect("ours to wait for");
        assert!(external::ended_well(status), "{status}");
    }
}

#[test]
fn haproxy_serves() {
    external_proxy_serves(External::HaProxy);
    external_proxy_serves(External::HaProxySplice);
}

#[test]
fn nginx_serves() {
    external_proxy_serves(External::Nginx);
}

#[test]
fn a_proxy_that_ends_is_not_waited_for() {
    let nobody = addr(&listener());
    let mut child = Command::new("false")
        .stdout(Stdio::null())
        .spawn()
        .expect("a program that fails");
    let failure = external::wait_until_accepting(nobody, &mut child, common::SOON);
    let failure = failure.expect_err("it has ended").to_string();
    assert!(failure.contains("ended before"), "{failure}");
}

#[test]
fn a_rate_limit_is_measured() {
    for (direction, own) in [
        (Direction::Read, false),
        (Direction::Write, false),
        (Direction::Read, true),
    ] {
        let limit = Limit {
            direction,
            rate: 2_000_000,
            own,
            tick: Duration::from_millis(10),
        };
        let traffic = Traffic {
            connections: 3,
            write_bytes: (!own).then_some(2000),
            warm_up: SHORT,
            measured: 6 * SHORT,
        };
        let upstream = listener();
        let arguments = limit.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let proxy = Server::proxy(&addr(&upstream).to_string(), &arguments);
        let found = rate::run(
            &upstream,
            proxy.socket_addr(),
            proxy.process.pid(),
            &limit,
            &traffic,
        )
        .expect("the proxy passes bytes on");
        // How far off it is depends on how long the machine keeps this thread or the proxy waiting.
        assert!(found.bytes > 0 && found.error > -1.0, "{found:?}");
        assert!(found.jain > 0.3 && found.jain < 1.0 + 1e-9, "{found:?}");
        assert!((0.0..=1.0).contains(&found.least_share), "{found:?}");
        assert!(found.cpu_us_per_megabyte().is_finite());
    }
}

#[test]
fn a_pair_exchanges_messages() {
    let trips = pair::Trips {
        size: 1000,
        round_trips: 50,
        batches: 3,
    };
    let each = pair::evring(&trips).expect("a ring");
    assert_eq!(each.len(), 3);
    assert!(each.iter().all(|&ns| ns > 0.0), "{each:?}");
}

/// Another process writes it: a child that a test on another thread starts at this moment would
/// inherit the open file, and a file that is open for writing cannot be run.
fn write_script(path: &Path, script: &str) {
    let status = Command::new("sh")
        .args([
            "-c",
            r#"printf '#!/bin/sh\n%s\n' "$2" > "$1" && chmod +x "$1""#,
        ])
        .arg("sh")
        .arg(path)
        .arg(script)
        .status();
    assert!(status.expect("a shell").success());
}

#[test]
fn what_the_other_side_of_a_pair_says_is_read_or_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("libevent-pair");
    let libevent = |script: &str| {
        write_script(&program, script);
        pair::libevent(&program, &pair::Trips::default()).map_err(|failure| failure.to_string())
    };
    let each = libevent("echo '{\"size\": 64, \"ns_per_round_trip\": [1.5, 2]}'");
    assert_eq!(each, Ok(vec![1.5, 2.0]));
    for (script, told) in [
        (
            "echo built without libevent >&2; exit 3",
            "without libevent",
        ),
        ("echo nonsense", "expected"),
        ("exit 4", "4"),
    ] {
        let failure = libevent(script).expect_err(script);
        assert!(failure.contains(told), "{failure}");
    }
}

#[test]
fn what_the_buffers_need_is_read_or_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("buffers");
    write_script(
        &program,
        r#"[ "$*" = "peek 7 --json" ] && echo '{"evring": "0.1.0", "libevent": "2.1.12", "rounds": 7, "rows": [
            {"case": "peek, segments", "size": 64, "evring_ns": 70.5, "libevent_ns": 84.5, "ratio": 0.83,
             "target": 1.0, "ratios": [0.8, 0.9]}]}'"#,
    );
    let buffers = buffer::run(&program, Some("peek"), 7).expect("it ran");
    assert_eq!(buffers.libevent, "2.1.12");
    assert_eq!((buffers.rows[0].size, buffers.rows[0].ratio), (64, 0.83));
    write_script(&program, "echo built without libevent >&2; exit 1");
    let failure = buffer::run(&program, None, 7).expect_err("no libevent");
    assert!(failure.to_string().contains("libevent"), "{failure}");
}

#[test]
fn system_calls_are_counted() {
    let server = Server::echo();
    for counter in [syscalls::perf(), syscalls::strace()] {
        let counter = match counter {
            Ok(counter) => counter,
            Err(failure) => {
                eprintln!("skipped: {failure}");
                continue;
            }
        };
        let mut stream = server.connect();
        let counted = syscalls::count(&counter, server.process.pid(), || {
            for _ in 0..10 {
                assert_echoes(&mut stream, b"one after the other");
            }
            Ok(())
        });
        let (calls, ()) = counted.unwrap_or_else(|failure| panic!("{counter:?}: {failure}"));
        // A lone message takes one or two; the server may also have looked at the clock or its
        // counters.
        assert!((10..100).contains(&calls), "{counter:?}: {calls} calls");
    }
}

#[test]
fn work_that_fails_and_processes_that_are_gone_are_told() {
    let Ok(counter) = syscalls::counter() else {
        return;
    };
    let server = Server::echo();
    let pid = server.process.pid();
    let failed: Result<(u64, ()), _> =
        syscalls::count(&counter, pid, || Err(Failure::line("no luck")));
    let failure = failed.expect_err("the work failed").to_string();
    assert!(failure.contains("no luck"), "{failure}");
    server.stop();
    syscalls::count(&counter, pid, || Ok(())).expect_err("nobody is there");
}
