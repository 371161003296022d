//! The load generator: it measures, checks every byte, and tells when something is wrong.

mod common;

use std::io::{Read, Write};
use std::time::Duration;

use common::{Ended, Server, evring, free_port, upstream};

fn load(addr: &str, more: &[&str]) -> (Ended, serde_json::Value) {
    let ended = evring(&[&["load", "--connect", addr, "--json"], more].concat());
    let report = serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {ended:?}"));
    (ended, report)
}

#[test]
fn a_report_has_rates_latencies_and_no_errors() {
    let echo = Server::echo();
    for (connections, size, depth) in [
        ("1", "1", "1"),
        ("16", "64", "4"),
        ("4", "16k", "1"),
        ("2", "1M", "3"),
    ] {
        let (ended, report) = load(
            &echo.addr,
            &[
                "--connections",
                connections,
                "--size",
                size,
                "--depth",
                depth,
                "--seconds",
                "0.5",
            ],
        );
        assert_eq!(
            (ended.code, ended.stderr.as_str()),
            (Some(0), ""),
            "{ended:?}"
        );
        assert_eq!(report["errors"], 0, "{report}");
        assert_eq!(report["connected"].to_string(), connections);
        let messages = report["messages"].as_u64().expect("a number");
        let bytes = messages * report["size_bytes"].as_u64().expect("a number");
        assert!(messages > 0);
        assert_eq!(report["bytes"].as_u64(), Some(bytes));
        let latency = |name: &str| report["latency_us"][name].as_f64().expect("a number");
        let ladder = ["p50", "p90", "p99", "p99.9", "max"].map(latency);
        assert!(ladder[0] > 0.0 && ladder.is_sorted(), "{ladder:?}");
    }
}

/// Echoes; the connection that brings the thousandth byte is kept waiting once.
fn stalling_echo(stall: Duration) -> String {
    let addr = upstream::serve(move |mut stream| {
        let mut bytes = [0; 4096];
        let mut passed = 0;
        while let Ok(n @ 1..) = stream.read(&mut bytes) {
            if passed < 1000 && passed + n >= 1000 {
                std::thread::sleep(stall);
            }
            passed += n;
            if stream.write_all(&bytes[..n]).is_err() {
                return;
            }
        }
    });
    addr.to_string()
}

#[test]
fn an_open_loop_shows_a_stall_that_a_closed_loop_hardly_sees() {
    const STALL: Duration = Duration::from_millis(400);
    let common = ["--connections", "1", "--size", "10", "--seconds", "1"];
    let open_loop = [&common[..], &["--rate", "1000"]].concat();
    let (ended, report) = load(&stalling_echo(STALL), &open_loop);
    assert_eq!(ended.code, Some(0), "{report}");
    let ms = |quantile: &str| report["latency_us"][quantile].as_f64().expect("a number") / 1e3;
    // Whoever was due while the server slept waited for the rest of the sleep: some 400 of the
    // thousand messages, 300 of them for more than 100 ms.
    assert!(ms("max") >= 390.0, "{report}");
    assert!(ms("p99") >= 300.0, "{report}");
    assert!(ms("p90") >= 100.0, "{report}");
    assert_eq!(report["open_loop"]["rate"], 1000.0, "{report}");
    let behind = &report["open_loop"]["behind_us"];
    assert!(behind["max"].as_f64().expect("a number") > 0.0, "{report}");

    let (ended, report) = load(&stalling_echo(STALL), &common);
    assert_eq!(ended.code, Some(0), "{report}");
    let max = report["latency_us"]["max"].as_f64().expect("a number");
    assert!(max / 1e3 >= 390.0, "{report}");
}

#[test]
fn a_rate_is_kept_over_all_connections() {
    let echo = Server::echo();
    let (ended, report) = load(
        &echo.addr,
        &[
            "--connections",
            "7",
            "--rate",
            "500",
            "--seconds",
            "1",
            "--warm-up",
            "0.2",
        ],
    );
    assert_eq!(ended.code, Some(0), "{report}");
    let messages = report["messages"].as_u64().expect("a number");
    // A machine that is kept busy may fall behind; nothing makes it run ahead but what the warm-up
    // left over.
    let seconds = report["seconds"].as_f64().expect("a number");
    let due = (500.0 * (seconds + 0.4)) as u64;
    assert!((1..=due).contains(&messages), "{report}");
    let ended = evring(&["load", "--connect", &echo.addr, "--rate", "0"]);
    ended.assert_one_line(2, "above 0");
    let ended = evring(&[
        "load",
        "--connect",
        &echo.addr,
        "--rate",
        "9",
        "--depth",
        "2",
    ]);
    ended.assert_one_line(2, "--depth");
}

#[test]
fn the_cpu_time_of_a_watched_process_is_reported() {
    let echo = Server::echo();
    let pid = echo.process.pid().to_string();
    let options = ["--seconds", "0.5", "--warm-up", "0.1", "--watch-pid", &pid];
    let (ended, report) = load(&echo.addr, &options);
    assert_eq!(ended.code, Some(0), "{report}");
    for cpu in ["watched_cpu", "own_cpu"] {
        let value = |name: &str| report[cpu][name].as_f64().expect("a number");
        assert!(
            value("us_per_message") > 0.0 && value("busy") > 0.0,
            "{report}"
        );
    }
    assert!(
        report["latency_curve"].as_array().expect("points").len() > 2,
        "{report}"
    );

    let ended = evring(&["load", "--connect", &echo.addr, "--watch-pid", "4294967295"]);
    ended.assert_one_line(1, "no such process");
}

#[test]
fn people_get_a_report_too() {
    let echo = Server::echo();
    let ended = evring(&["load", "--connect", &echo.addr, "--seconds", "0.2"]);
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(0), ""),
        "{ended:?}"
    );
    for word in ["messages", "each way", "p99.9", "errors"] {
        assert!(ended.stdout.contains(word), "{ended:?}");
    }
}

#[test]
fn a_load_runs_through_the_proxy_and_over_unix_sockets() {
    let dir = tempfile::tempdir().expect("a directory");
    let listen = format!("unix:{}", dir.path().join("p").display());
    let proxy = Server::start(&["proxy", "--listen", &listen, "--stats"]);
    let (ended, report) = load(
        &listen,
        &["--connections", "8", "--seconds", "0.3", "--spin"],
    );
    assert_eq!(ended.code, Some(0), "{report}");
    let stats = proxy.stop();
    assert_eq!(
        stats.stat("bytes_from_clients"),
        stats.stat("bytes_to_clients")
    );
    assert_eq!(stats.stat("bytes_copied"), 0);
}

#[test]
fn a_load_is_the_proxys_upstream_as_well() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("u");
    for upstream in [
        format!("127.0.0.1:{}", free_port()),
        format!("unix:{}", socket.display()),
    ] {
        // It connects to its upstream no sooner than a client comes.
        let proxy = Server::proxy(&upstream, &["--stats"]);
        let mut bytes = 0;
        for more in [&["--spin", "--connections", "1"][..], &["--size", "16k"]] {
            let options = ["--upstream", &upstream, "--seconds", "0.3"];
            let (ended, report) = load(&proxy.addr, &[&options, more].concat());
            assert_eq!(
                (ended.code, ended.stderr.as_str()),
                (Some(0), ""),
                "{ended:?}"
            );
            assert_eq!(report["errors"], 0, "{report}");
            assert_eq!(report["connected"], report["connections"], "{report}");
            bytes += report["bytes"].as_u64().expect("a number");
        }
        let stats = proxy.stop();
        assert_eq!(stats.stderr, "", "{stats:?}");
        assert_eq!(stats.stat("upstream_failures"), 0);
        assert!(stats.stat("bytes_to_clients") >= bytes && bytes > 0);
        assert!(!socket.exists());
    }
}

#[test]
fn an_upstream_that_cannot_be_is_one_line() {
    let echo = Server::echo();
    let load = |upstream: &str| evring(&["load", "--connect", &echo.addr, "--upstream", upstream]);
    let ended = load(&echo.addr);
    ended.assert_one_line(1, &echo.addr);
    for part in ["--upstream", "already in use", "choose a free address"] {
        assert!(ended.stderr.contains(part), "'{part}' in {ended:?}");
    }
    load("unix:/nowhere/at/all").assert_one_line(1, "/nowhere/at/all");
    load("127.0.0.1:0").assert_one_line(2, "a port that the proxy can be told");
    load("localhost:7").assert_one_line(2, "--upstream");
}

#[test]
fn nobody_there_is_an_error() {
    let addr = format!("127.0.0.1:{}", free_port());
    let ended = evring(&["load", "--connect", &addr, "--connections", "3"]);
    ended.assert_one_line(1, "onnection refused");
    let (ended, report) = load(&addr, &["--connections", "3"]);
    assert_eq!(
        (ended.code, report["messages"].as_u64()),
        (Some(1), Some(0))
    );
    assert_eq!(report["errors"], 3, "{report}");
    assert!(
        report["error_kinds"].to_string().contains("refused"),
        "{report}"
    );
}

#[test]
fn a_changed_byte_is_noticed() {
    let addr = upstream::serve(|mut stream| {
        let mut bytes = [0; 4096];
        let mut passed = 0;
        while let Ok(n @ 1..) = stream.read(&mut bytes) {
            if passed < 50_000 && passed + n >= 50_000 {
                bytes[n - 1] ^= 0x10;
            }
            passed += n;
            if stream.write_all(&bytes[..n]).is_err() {
                return;
            }
        }
    });
    let (ended, report) = load(&addr.to_string(), &["--connections", "1", "--seconds", "5"]);
    assert_eq!(ended.code, Some(1), "{report}");
    assert!(
        report["error_kinds"].to_string().contains("other bytes"),
        "{report}"
    );
}

#[test]
fn a_server_that_goes_away_or_stays_silent_is_an_error() {
    let addr = upstream::serve(|mut stream| {
        let mut bytes = [0; 64];
        // The test sees what came of it.
        let _ = stream
            .read_exact(&mut bytes)
            .and_then(|()| stream.write_all(&bytes));
    });
    let (ended, report) = load(&addr.to_string(), &["--connections", "2", "--seconds", "5"]);
    assert_eq!(
        (ended.code, report["errors"].as_u64()),
        (Some(1), Some(2)),
        "{report}"
    );

    let addr = upstream::serve(|stream| drop(common::read_all(stream)));
    let (ended, report) = load(
        &addr.to_string(),
        &["--connections", "2", "--seconds", "0.2"],
    );
    assert_eq!(
        (ended.code, report["messages"].as_u64()),
        (Some(1), Some(0)),
        "{report}"
    );
    assert!(
        report["error_kinds"].to_string().contains("no answer"),
        "{report}"
    );
}

#[test]
fn more_connections_than_open_files_is_told_at_once() {
    let limited = |open_files: u32, more: &str| {
        let mut command = std::process::Command::new("sh");
        let line = format!(
            "ulimit -n {open_files}; exec {} load --connect 127.0.0.1:1 --connections 100 {more}",
            common::EVRING
        );
        command.args(["-c", &line]);
        common::Process::start(command).wait(common::SOON)
    };
    limited(64, "").assert_one_line(1, "ulimit -n");
    // Enough for one end of each.
    limited(200, "").assert_one_line(1, "onnection refused");
    let upstream = format!("--upstream 127.0.0.1:{}", free_port());
    limited(200, &upstream).assert_one_line(1, "ulimit -n");
}
