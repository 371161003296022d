//! SIGINT and SIGTERM: what is buffered is finished, within the grace; a second one is obeyed at
//! once.

mod common;

use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::{
    Process, SOON, Server, assert_echoes, eventually, noise, queued_between, read_all, stuff,
    upstream,
};

/// An upstream that accepts and reads only when told to; gives each connection to the test.
fn silent_upstream() -> (String, mpsc::Receiver<TcpStream>) {
    let (sender, receiver) = mpsc::channel();
    let addr = upstream::serve(move |stream| {
        // A test that ended needs no more connections.
        let _ = sender.send(stream);
    });
    (addr.to_string(), receiver)
}

#[test]
fn the_first_signal_ends_an_idle_server_at_once() {
    for signal in ["TERM", "INT"] {
        for command in ["echo", "proxy"] {
            let server = Server::start(&[command, "--listen", "127.0.0.1:0", "--grace", "60"]);
            server.process.signal(signal);
            let ended = server.process.wait(Duration::from_secs(5));
            assert_eq!(ended.code, Some(0), "{command}, {signal}: {ended:?}");
        }
    }
}

#[test]
fn idle_connections_do_not_use_up_the_grace() {
    let echo = Server::echo();
    let proxy = Server::proxy(&echo.addr, &["--grace", "60"]);
    let mut streams: Vec<_> = (0..10).map(|_| proxy.connect()).collect();
    for stream in &mut streams {
        assert_echoes(stream, b"hello");
    }
    proxy.process.signal("TERM");
    for stream in streams {
        let (rest, end) = read_all(stream);
        assert!(rest.is_empty() && end.is_ok(), "{end:?}");
    }
    assert_eq!(proxy.process.wait(Duration::from_secs(10)).code, Some(0));
}

#[test]
fn what_the_proxy_holds_is_delivered_after_the_signal() {
    let (addr, accepted) = silent_upstream();
    let proxy = Server::proxy(&addr, &["--grace", "20", "--stats"]);
    let mut client = proxy.connect();
    let bytes = noise(7, 32 << 20);
    let written = stuff(&mut client, &bytes) as u64;
    let stream = accepted.recv_timeout(SOON).expect("the proxy connects");
    // What the proxy never took from the kernel it can not deliver.
    let from = client.local_addr().expect("connected");
    let held_by_kernel = queued_between(from, proxy.socket_addr());
    proxy.process.signal("TERM");
    // It accepts no more, and gives the port up at once.
    let addr = proxy.socket_addr();
    eventually(SOON, "the port to be free", || TcpListener::bind(addr).ok());
    stream.set_read_timeout(Some(SOON)).expect("a time limit");
    let (received, end) = read_all(stream);
    assert!(end.is_ok(), "{end:?}");
    assert!(bytes.starts_with(&received), "other bytes came");
    let delivered = received.len() as u64;
    assert_eq!(
        delivered,
        written - held_by_kernel,
        "every byte that it took"
    );
    drop(client);
    let ended = proxy.process.wait(SOON);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert_eq!(ended.stat("bytes_from_clients"), delivered);
}

#[test]
fn what_the_echo_server_holds_is_delivered_after_the_signal() {
    let echo = Server::start(&[
        "echo",
        "--listen",
        "127.0.0.1:0",
        "--grace",
        "20",
        "--stats",
    ]);
    let mut client = echo.connect();
    let bytes = noise(8, 32 << 20);
    let written = stuff(&mut client, &bytes) as u64;
    let peak = echo.process.peak_memory();
    assert!(peak < 64 << 20, "{peak} bytes for one that never reads");
    let from = client.local_addr().expect("connected");
    let held_by_kernel = queued_between(from, echo.socket_addr());
    echo.process.signal("TERM");
    let (received, _) = read_all(&client);
    assert!(bytes.starts_with(&received), "other bytes came back");
    let returned = received.len() as u64;
    assert_eq!(returned, written - held_by_kernel, "every byte it took");
    drop(client);
    let ended = echo.process.wait(SOON);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stat("bytes_echoed"), returned);
}

#[test]
fn the_grace_bounds_the_end() {
    let (addr, accepted) = silent_upstream();
    let proxy = Server::proxy(&addr, &["--grace", "0.3"]);
    let mut client = proxy.connect();
    stuff(&mut client, &noise(9, 32 << 20));
    let _never_reads = accepted.recv_timeout(SOON).expect("the proxy connects");
    proxy.process.signal("TERM");
    let start = Instant::now();
    let ended = proxy.process.wait(Duration::from_secs(10));
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("1 connection"), "{ended:?}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (addr, accepted) = silent_upstream();
    let proxy = Server::proxy(&addr, &["--grace", "600"]);
    let mut client = proxy.connect();
    stuff(&mut client, &noise(10, 32 << 20));
    let _never_reads = accepted.recv_timeout(SOON).expect("the proxy connects");
    let addr = proxy.socket_addr();
    proxy.process.signal("TERM");
    eventually(SOON, "the first signal's effect", || {
        TcpListener::bind(addr).ok()
    });
    let mut process = proxy.process;
    assert!(process.is_running(), "data is still to be sent");
    process.signal("TERM");
    let ended = process.wait(Duration::from_secs(5));
    assert_eq!(ended.code, Some(128 + 15), "{ended:?}");
}

#[test]
fn all_threads_end() {
    let echo = Server::echo();
    let proxy = Server::proxy(&echo.addr, &["--threads", "4", "--grace", "60", "--stats"]);
    let mut streams: Vec<_> = (0..16).map(|_| proxy.connect()).collect();
    for stream in &mut streams {
        assert_echoes(stream, b"hello");
    }
    proxy.process.signal("INT");
    for stream in streams {
        assert!(read_all(stream).1.is_ok());
    }
    let ended = proxy.process.wait(Duration::from_secs(10));
    assert_eq!(
        (ended.code, ended.stat("connections")),
        (Some(0), 16),
        "{ended:?}"
    );
}

#[test]
fn a_signal_ends_a_load_with_its_report() {
    let echo = Server::echo();
    let mut command = std::process::Command::new(common::EVRING);
    command.args([
        "load",
        "--connect",
        &echo.addr,
        "--connections",
        "2",
        "--seconds",
        "600",
        "--json",
    ]);
    let load = Process::start(command);
    let mut probe = echo.connect();
    assert_echoes(&mut probe, b"the server is up");
    eventually(SOON, "some load", || {
        (load.cpu_time() > Duration::from_millis(100)).then_some(())
    });
    load.signal("INT");
    let ended = load.wait(SOON);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert!(report["messages"].as_u64().expect("a number") > 0);
}

#[test]
fn a_closed_standard_output_does_not_hurt() {
    let mut command = std::process::Command::new("sh");
    command.args([
        "-c",
        &format!(
            "{} caps | true; {} --help | true; echo listening on done",
            common::EVRING,
            common::EVRING
        ),
    ]);
    let ended = Process::start(command).wait(SOON);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}
