//! Addresses: in use, stale, bound again at once; Unix sockets.

mod common;

use std::net::TcpListener;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::time::Duration;

use common::{SOON, Server, assert_echoes, connect, evring, noise};

#[test]
fn an_address_in_use_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = taken.local_addr().expect("bound").to_string();
    for arguments in [
        &["echo", "--listen", &addr] as &[&str],
        &["proxy", "--listen", &addr],
        &["proxy", "--listen", &addr, "--upstream", "127.0.0.1:1"],
        &["echo", "--listen", &addr, "--threads", "2"],
    ] {
        let ended = evring(arguments);
        ended.assert_one_line(1, &addr);
        assert!(
            ended
                .stderr
                .to_lowercase()
                .contains("address already in use"),
            "{ended:?}"
        );
    }
}

#[test]
fn an_address_of_another_machine_is_told() {
    evring(&["echo", "--listen", "203.0.113.1:1"]).assert_one_line(1, "203.0.113.1:1");
    evring(&["echo", "--listen", "unix:/nowhere/at/all"]).assert_one_line(1, "/nowhere/at/all");
}

#[test]
fn a_port_can_be_bound_again_at_once() {
    for threads in ["1", "2"] {
        let mut server = Server::start(&["echo", "--listen", "127.0.0.1:0", "--threads", threads]);
        for _ in 0..5 {
            let addr = server.addr.clone();
            // Closed by the server first, so that its side waits in TIME_WAIT.
            let mut stream = server.connect();
            assert_echoes(&mut stream, b"hello");
            server.process.signal("TERM");
            drop(common::read_all(stream));
            let ended = server.process.wait(SOON);
            assert_eq!(ended.code, Some(0), "{ended:?}");
            server = Server::start(&["echo", "--listen", &addr, "--threads", threads]);
            assert_eq!(server.addr, addr);
        }
    }
}

#[test]
fn a_killed_servers_port_is_taken_over() {
    let mut server = Server::echo();
    for _ in 0..5 {
        let addr = server.addr.clone();
        assert_echoes(&mut server.connect(), b"hello");
        server.process.signal("KILL");
        assert_eq!(server.process.wait(SOON).code, None);
        server = Server::start(&["echo", "--listen", &addr]);
    }
}

#[test]
fn ipv6_is_served_where_there_is_any() {
    if TcpListener::bind("[::1]:0").is_err() {
        return eprintln!("skipped: this machine has no IPv6");
    }
    let echo = Server::start(&["echo", "--listen", "[::1]:0"]);
    let proxy = Server::start(&["proxy", "--listen", "[::1]:0", "--upstream", &echo.addr]);
    assert_echoes(&mut connect(proxy.socket_addr()), b"hello");
}

#[test]
fn unix_sockets_are_served_by_path_and_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("echo.sock");
    let listen = format!("unix:{}", path.display());
    let name = format!("evring-test-{}", std::process::id());
    let echo = Server::start(&["echo", "--listen", &listen]);
    assert_eq!(echo.addr, listen);
    let proxy = Server::start(&[
        "proxy",
        "--listen",
        &format!("unix:@{name}"),
        "--upstream",
        &listen,
        "--stats",
    ]);
    assert_echoes(&mut unix(&path), &noise(1, 300_000));
    let abstract_addr = {
        use std::os::linux::net::SocketAddrExt;
        SocketAddr::from_abstract_name(&name).expect("a short name")
    };
    let mut stream = UnixStream::connect_addr(&abstract_addr).expect("it listens");
    stream.set_read_timeout(Some(SOON)).expect("a time limit");
    assert_echoes(&mut stream, &noise(2, 100_000));
    drop(stream);
    assert_eq!(proxy.stop().stat("bytes_copied"), 0);
    assert!(path.exists());
    echo.stop();
    assert!(!path.exists(), "the socket file is removed at exit");
}

#[test]
fn a_unix_socket_is_shared_by_threads() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("echo.sock");
    let listen = format!("unix:{}", path.display());
    let echo = Server::start(&["echo", "--listen", &listen, "--threads", "3", "--stats"]);
    let mut streams: Vec<_> = (0..9).map(|_| unix(&path)).collect();
    for stream in &mut streams {
        assert_echoes(stream, b"hello");
    }
    drop(streams);
    assert_eq!(echo.stop().stat("connections"), 9);
}

#[test]
fn a_stale_socket_file_is_replaced_and_a_live_one_is_in_use() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("echo.sock");
    let listen = format!("unix:{}", path.display());
    let killed = Server::start(&["echo", "--listen", &listen]);
    evring(&["echo", "--listen", &listen]).assert_one_line(1, "ddress already in use");
    assert_echoes(&mut unix(&path), b"still there");
    killed.process.signal("KILL");
    assert_eq!(killed.process.wait(SOON).code, None);
    assert!(path.exists());
    let second = Server::start(&["echo", "--listen", &listen]);
    assert_echoes(&mut unix(&path), b"hello");
    second.stop();

    std::fs::write(&path, "precious").expect("written");
    evring(&["echo", "--listen", &listen]).assert_one_line(1, "not a socket");
    assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
}

fn unix(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("it listens");
    let limit = Some(Duration::from_secs(20));
    stream.set_read_timeout(limit).expect("a time limit");
    stream.set_write_timeout(limit).expect("a time limit");
    stream
}
