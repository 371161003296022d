//! Clients and servers that others wrote, through the proxy and the echo server.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Ended, Process, SOON, Server, assert_echoes, noise, python, read_all, upstream};

const MIB: usize = 1 << 20;

#[test]
fn echo_sends_everything_back_and_ends_in_order() {
    let server = Server::start(&["echo", "--listen", "127.0.0.1:0", "--stats"]);
    let stream = server.connect();
    let sent = noise(1, 5 * MIB);
    assert!(round_trip(stream, &sent) == sent, "other bytes came back");
    let ended = server.stop();
    assert_eq!(ended.stat("connections"), 1);
    assert_eq!(ended.stat("bytes_echoed"), sent.len() as u64);
    assert_eq!(ended.stat("bytes_copied"), 0);
}

#[test]
fn a_python_client_is_served_by_the_proxy() {
    let echo = Server::echo();
    let proxy = Server::proxy(&echo.addr, &[]);
    let client = python(
        "client.py",
        &["127.0.0.1", &proxy.port().to_string(), "3000000"],
    );
    let ended = Process::start(client).wait(SOON);
    assert_eq!(
        (ended.code, ended.stdout.trim()),
        (Some(0), "ok"),
        "{ended:?}"
    );
    proxy.stop();
}

#[test]
fn without_an_upstream_the_proxy_brings_its_own() {
    let proxy = Server::start(&["proxy", "--listen", "127.0.0.1:0"]);
    assert_echoes(&mut proxy.connect(), b"hello");
    let ended = proxy.stop();
    assert!(ended.stderr.contains("evring load --connect"), "{ended:?}");
    assert!(
        !ended.stderr.contains('\r') && !ended.stderr.contains('\x1b'),
        "{ended:?}"
    );
}

#[test]
fn a_terminal_gets_a_live_line() {
    let mut command = python(
        "terminal.py",
        &[common::EVRING, "proxy", "--listen", "127.0.0.1:0"],
    );
    command.env_remove("COLUMNS");
    let ended = Process::start(command).wait(SOON);
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(0), ""),
        "{ended:?}"
    );
    assert!(ended.stdout.contains("connections |"), "{ended:?}");
    assert!(ended.stdout.contains("MB/s"), "{ended:?}");
}

#[test]
fn half_close_is_carried_through() {
    let addr = upstream::serve(upstream::count);
    let proxy = Server::proxy(&addr.to_string(), &[]);
    let mut stream = proxy.connect();
    stream.write_all(&noise(2, 100_000)).expect("written");
    stream.shutdown(Shutdown::Write).expect("half-closed");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("an answer and the end");
    assert_eq!(answer, "100000");
    proxy.stop();
}

#[test]
fn the_upstreams_half_close_leaves_the_way_there_open() {
    let (counted, count) = std::sync::mpsc::channel();
    let addr = upstream::serve(move |mut stream| {
        stream.write_all(b"greeting").expect("written");
        stream.shutdown(Shutdown::Write).expect("half-closed");
        counted
            .send(read_all(stream).0.len())
            .expect("the test waits");
    });
    let proxy = Server::proxy(&addr.to_string(), &[]);
    let mut stream = proxy.connect();
    let mut greeting = String::new();
    stream
        .read_to_string(&mut greeting)
        .expect("a greeting and the end");
    assert_eq!(greeting, "greeting");
    stream.write_all(&noise(3, 50_000)).expect("still open");
    drop(stream);
    assert_eq!(count.recv_timeout(SOON), Ok(50_000));
    proxy.stop();
}

#[test]
fn sixty_four_connections_pass_random_bytes_unchanged_and_uncopied() {
    many_streams(64, 1);
}

#[test]
fn a_gibibyte_on_sixty_four_connections_is_unchanged_and_uncopied() {
    many_streams(64, 16);
}

#[test]
fn two_threads_share_the_port() {
    let echo = Server::echo();
    let proxy = Server::proxy(&echo.addr, &["--threads", "2", "--stats"]);
    let mut streams: Vec<_> = (0..32).map(|_| proxy.connect()).collect();
    for (i, stream) in streams.iter_mut().enumerate() {
        assert_echoes(stream, &noise(i as u64, 10_000));
    }
    drop(streams);
    let ended = proxy.stop();
    assert_eq!(ended.stat("connections"), 32);
    assert_eq!(ended.stat("bytes_from_clients"), 320_000);
    assert_eq!(ended.stat("bytes_to_clients"), 320_000);
}

#[test]
fn a_spinning_server_answers() {
    for mode in ["--spin", "--spin=adaptive"] {
        let echo = Server::start(&["echo", "--listen", "127.0.0.1:0", mode]);
        assert_echoes(&mut echo.connect(), b"lone ping");
        echo.stop();
    }
}

#[test]
fn an_idle_proxy_and_its_idle_connections_take_no_time() {
    let echo = Server::echo();
    let proxy = Server::proxy(&echo.addr, &[]);
    let mut stream = proxy.connect();
    assert_echoes(&mut stream, b"before");
    let before = proxy.process.cpu_time();
    std::thread::sleep(Duration::from_secs(1));
    assert!(proxy.process.cpu_time() - before <= Duration::from_millis(50));
    assert_echoes(&mut stream, b"after");
}

#[test]
fn idle_connections_are_closed_when_asked_for() {
    let echo = Server::echo();
    let proxy = Server::proxy(&echo.addr, &["--idle-timeout", "0.2"]);
    let mut stream = proxy.connect();
    assert_echoes(&mut stream, b"hello");
    let (rest, end) = read_all(&stream);
    assert!(rest.is_empty() && end.is_ok(), "{end:?}");
    let echo = Server::start(&["echo", "--listen", "127.0.0.1:0", "--idle-timeout", "0.2"]);
    let (rest, end) = read_all(&echo.connect());
    assert!(rest.is_empty() && end.is_ok(), "{end:?}");
}

#[test]
fn a_limit_on_connections_makes_more_wait() {
    let echo = Server::echo();
    let mut proxy = Server::proxy(&echo.addr, &["--max-connections", "2"]);
    let mut first = proxy.connect();
    let mut second = proxy.connect();
    assert_echoes(&mut first, b"one");
    assert_echoes(&mut second, b"two");
    let mut third = proxy.connect();
    third.write_all(b"three").expect("the kernel takes it");
    proxy.process.wait_for_stderr("more wait until some close");
    drop(first);
    let mut answer = [0; 5];
    third.read_exact(&mut answer).expect("served after all");
    assert_eq!(&answer, b"three");
}

#[test]
fn http_bodies_of_100_mb_arrive_whole_down_and_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let body = dir.path().join("body.bin");
    std::fs::write(&body, noise(4, 100_000_000)).expect("written");
    let want = sha256(&body);
    let mut command = Command::new("python3");
    command.args([
        "-u",
        "-m",
        "http.server",
        "0",
        "--bind",
        "127.0.0.1",
        "--directory",
    ]);
    let files = Server::start_when(
        {
            command.arg(dir.path());
            command
        },
        |out, _| {
            Some(format!(
                "127.0.0.1:{}",
                out.split("port ").nth(1)?.split(' ').next()?
            ))
        },
    );
    let hasher = Server::start_when(python("hash_server.py", &[]), |out, _| {
        Some(out.strip_prefix("listening on ")?.trim().to_owned())
    });
    let down = Server::proxy(&files.addr, &["--stats"]);
    let up = Server::proxy(&hasher.addr, &["--stats"]);

    let answer = run(python(
        "http_client.py",
        &["get", &format!("http://{}/body.bin", down.addr)],
    ));
    assert_eq!(answer.stdout.trim(), want, "urllib, download");
    let url = format!("http://{}/", up.addr);
    let answer = run(python(
        "http_client.py",
        &["put", &url, body.to_str().expect("plain")],
    ));
    assert_eq!(answer.stdout.trim(), want, "urllib, upload");
    if common::has_program("curl", "HTTP by curl") {
        let copy = dir.path().join("copy.bin");
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "--max-time", "60", "-o"]).arg(&copy);
        run({
            curl.arg(format!("http://{}/body.bin", down.addr));
            curl
        });
        assert_eq!(sha256(&copy), want, "curl, download");
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "--max-time", "60", "-T"])
            .arg(&body)
            .arg(&url);
        assert_eq!(run(curl).stdout.trim(), want, "curl, upload");
    }
    for proxy in [down, up] {
        let ended = proxy.stop();
        assert!(ended.stat("bytes_to_clients") + ended.stat("bytes_from_clients") > 100_000_000);
        assert_eq!(ended.stat("bytes_copied"), 0);
    }
}

/// Runs `connections` streams of `mib` MiB each through a proxy to an echo server at once.
fn many_streams(connections: usize, mib: usize) {
    let echo = Server::echo();
    let proxy = Server::proxy(&echo.addr, &["--stats"]);
    let clients: Vec<_> = (0..connections)
        .map(|index| {
            let stream = proxy.connect();
            std::thread::spawn(move || {
                let block = |n: usize| noise((index * mib + n) as u64, MIB);
                stream_blocks(stream, mib, block);
            })
        })
        .collect();
    for client in clients {
        client.join().expect("unchanged");
    }
    let ended = proxy.stop();
    let total = (connections * mib * MIB) as u64;
    assert_eq!(ended.stat("connections"), connections as u64);
    assert_eq!(ended.stat("bytes_from_clients"), total);
    assert_eq!(ended.stat("bytes_to_clients"), total);
    assert_eq!(ended.stat("bytes_copied"), 0);
    assert_eq!(ended.stat("upstream_failures"), 0);
}

/// Sends `count` blocks and half-closes while it checks that the same come back, and no more.
fn stream_blocks(mut stream: TcpStream, count: usize, block: impl Fn(usize) -> Vec<u8> + Sync) {
    let mut writer = stream.try_clone().expect("a descriptor");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..count {
                writer.write_all(&block(n)).expect("written");
            }
            writer.shutdown(Shutdown::Write).expect("half-closed");
        });
        let mut received = vec![0; MIB];
        for n in 0..count {
            stream.read_exact(&mut received).expect("a block");
            assert!(received == block(n), "block {n} was changed");
        }
        assert_eq!(stream.read(&mut received).expect("the end"), 0);
    });
}

/// Sends everything and half-closes while it reads to the end.
fn round_trip(stream: TcpStream, sent: &[u8]) -> Vec<u8> {
    let mut writer = stream.try_clone().expect("a descriptor");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(sent).expect("written");
            writer.shutdown(Shutdown::Write).expect("half-closed");
        });
        let (received, end) = read_all(&stream);
        end.expect("the end of the stream");
        received
    })
}

fn run(command: Command) -> Ended {
    let ended = Process::start(command).wait(Duration::from_secs(60));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended
}

fn sha256(path: &Path) -> String {
    let mut command = Command::new("sha256sum");
    command.arg(path);
    let out = run(command).stdout;
    out.split(' ').next().expect("a hash").to_owned()
}
