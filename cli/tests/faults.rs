//! Peers and upstreams that refuse, vanish, reset or never read.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{
    SOON, Server, assert_echoes, eventually, free_port, noise, read_all, stuff, upstream,
};

/// Has the next close answered by a reset.
fn reset_on_close(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    socket.set_linger(Some(Duration::ZERO)).expect("an option");
}

/// Waits until the proxy has closed what belonged to connections that are gone.
fn wait_for_open_files(server: &Server, before: usize) {
    eventually(SOON, "descriptors to be closed", || {
        (server.process.open_files() <= before).then_some(())
    });
}

#[test]
fn a_refusing_upstream_is_told_once_a_burst_and_served_when_it_is_back() {
    let port = free_port();
    let upstream = format!("127.0.0.1:{port}");
    let mut proxy = Server::proxy(&upstream, &["--stats"]);
    let before = proxy.process.open_files();
    let start = Instant::now();
    for _ in 0..50 {
        let (bytes, _closed_or_reset) = read_all(proxy.connect());
        assert!(bytes.is_empty());
    }
    let bursts = start.elapsed().as_secs() as usize + 1;
    proxy.process.wait_for_stderr(&upstream);
    wait_for_open_files(&proxy, before);
    let told = proxy.process.stderr();
    assert!(told.to_lowercase().contains("connection refused"), "{told}");
    assert!(told.lines().count() <= bursts, "{told}");

    let echo = Server::start(&["echo", "--listen", &upstream]);
    assert_echoes(&mut proxy.connect(), b"back again");
    echo.stop();
    let ended = proxy.stop();
    assert_eq!(ended.stat("upstream_failures"), 50);
    assert_eq!(ended.stat("connections"), 51);
}

#[test]
fn a_silent_upstream_is_given_up() {
    // A listener with a full backlog answers nobody.
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    listener.bind(&any.into()).expect("bound");
    listener.listen(0).expect("listening");
    let listener = TcpListener::from(listener);
    let addr = listener.local_addr().expect("bound");
    let short = Duration::from_millis(300);
    let mut fill = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&addr, short) {
        fill.push(stream);
        assert!(fill.len() < 100, "the backlog has no end");
    }
    let mut proxy = Server::proxy(&addr.to_string(), &["--connect-timeout", "0.3"]);
    let (bytes, _closed_or_reset) = read_all(proxy.connect());
    assert!(bytes.is_empty());
    proxy.process.wait_for_stderr("no answer within 0.3 s");
}

#[test]
fn an_upstream_that_dies_mid_stream_ends_its_clients_only() {
    let first = Server::echo();
    let upstream = first.addr.clone();
    let proxy = Server::proxy(&upstream, &[]);
    let before = proxy.process.open_files();
    let mut clients: Vec<_> = (0..8).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        assert_echoes(client, &noise(1, 100_000));
    }
    let mut busy = clients[0].try_clone().expect("a descriptor");
    let writer = std::thread::spawn(move || {
        let block = noise(2, 65536);
        while busy.write_all(&block).is_ok() {}
    });
    first.process.signal("KILL");
    for client in &clients {
        // Closed or reset; in any case not left waiting.
        let (_, end) = read_all(client);
        if let Err(error) = end {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
    writer.join().expect("the writer was told, too");
    drop(clients);
    wait_for_open_files(&proxy, before);
    let _second = Server::start(&["echo", "--listen", &upstream]);
    assert_echoes(&mut proxy.connect(), b"the next one");
    proxy.stop();
}

#[test]
fn what_the_upstream_sent_before_it_closed_is_delivered() {
    let sent = noise(3, 3_000_000);
    let copy = sent.clone();
    let addr = upstream::serve(move |mut stream| {
        // The test sees what is missing.
        let _ = stream.write_all(&copy);
    });
    let proxy = Server::proxy(&addr.to_string(), &[]);
    for _ in 0..10 {
        let (received, end) = read_all(proxy.connect());
        assert!(
            received == sent && end.is_ok(),
            "{} bytes, {end:?}",
            received.len()
        );
    }
    proxy.stop();
}

#[test]
fn a_client_that_resets_mid_stream_is_forgotten() {
    let (ended, end) = mpsc::channel();
    let addr = upstream::serve(move |stream| {
        let mut writer = stream.try_clone().expect("a descriptor");
        std::thread::spawn(move || {
            let block = noise(4, 65536);
            while writer.write_all(&block).is_ok() {}
        });
        let (received, _closed_or_reset) = read_all(stream);
        // The test waits for as many as it has begun.
        let _ = ended.send(received.len());
    });
    let proxy = Server::proxy(&addr.to_string(), &[]);
    let before = proxy.process.open_files();
    for _ in 0..20 {
        let mut client = proxy.connect();
        client.write_all(&noise(5, 10_000)).expect("written");
        let mut some = [0; 1000];
        client.read_exact(&mut some).expect("the upstream floods");
        reset_on_close(&client);
        drop(client);
    }
    for _ in 0..20 {
        assert!(end.recv_timeout(SOON).expect("the upstream is told") <= 10_000);
    }
    wait_for_open_files(&proxy, before);
    proxy.stop();
}

#[test]
fn clients_that_leave_with_both_ways_full_are_forgotten() {
    let echo = Server::echo();
    let proxy = Server::proxy(&echo.addr, &[]);
    let before = (proxy.process.open_files(), echo.process.open_files());
    // More than the kernel's buffers on both ways take, which grow with the speed of what passes.
    let bytes = Arc::new(noise(7, 96 << 20));
    let stuffers: Vec<_> = (0..6)
        .map(|index| {
            let mut client = proxy.connect();
            let bytes = bytes.clone();
            std::thread::spawn(move || {
                stuff(&mut client, &bytes);
                match index % 3 {
                    0 => reset_on_close(&client),
                    1 => client.shutdown(Shutdown::Write).expect("half-closed"),
                    // Closed with bytes unread, which is a reset by the kernel.
                    _ => {}
                }
            })
        })
        .collect();
    for stuffer in stuffers {
        stuffer.join().expect("stuffed");
    }
    wait_for_open_files(&proxy, before.0);
    wait_for_open_files(&echo, before.1);
    assert_echoes(&mut proxy.connect(), b"the next one");
}

#[test]
fn an_upstream_that_stops_reading_holds_no_client_that_left() {
    const TAKEN: usize = 10 << 20;
    let (sender, accepted) = mpsc::channel();
    let addr = upstream::serve(move |stream| {
        let mut writer = stream.try_clone().expect("a descriptor");
        sender.send(stream).expect("the test waits");
        // Fills the way back, too, until the proxy closes it.
        let block = noise(8, 65536);
        while writer.write_all(&block).is_ok() {}
    });
    let proxy = Server::proxy(&addr.to_string(), &["--high", "16M"]);
    let before = proxy.process.open_files();
    let mut client = proxy.connect();
    stuff(&mut client, &noise(9, 64 << 20));
    let mut stream = accepted.recv_timeout(SOON).expect("the proxy connects");
    reset_on_close(&client);
    drop(client);
    // Enough for the proxy to read on and to see the client's end, not enough for it to get rid
    // of all that it holds.
    let mut taken = vec![0; TAKEN];
    stream.read_exact(&mut taken).expect("the proxy holds more");
    wait_for_open_files(&proxy, before);
}

#[test]
fn a_peer_that_never_reads_is_bounded_and_disturbs_nobody() {
    let (sender, stuck) = mpsc::channel();
    let first = Mutex::new(Some(sender));
    let addr = upstream::serve(move |stream| {
        let sender = first.lock().expect("no panic").take();
        match sender {
            Some(sender) => sender.send(stream).expect("the test waits"),
            None => upstream::echo(stream),
        }
    });
    let proxy = Server::proxy(&addr.to_string(), &[]);
    let mut client = proxy.connect();
    let total = 200 << 20;
    let writer = std::thread::spawn(move || {
        let block = noise(6, 1 << 20);
        for _ in 0..total / block.len() {
            client
                .write_all(&block)
                .expect("the upstream reads in the end");
        }
        client.shutdown(Shutdown::Write).expect("half-closed");
        read_all(client)
    });
    let stream = stuck.recv_timeout(SOON).expect("the proxy connects");
    eventually(SOON, "the proxy to be stuck", || {
        let before = proxy.process.cpu_time();
        std::thread::sleep(Duration::from_millis(300));
        (proxy.process.cpu_time() - before <= Duration::from_millis(10)).then_some(())
    });
    for seed in 0..20 {
        assert_echoes(&mut proxy.connect(), &noise(seed, 500_000));
    }
    let peak = proxy.process.peak_memory();
    assert!(peak < 64 << 20, "{peak} bytes for one that never reads");
    assert!(!writer.is_finished(), "somebody took it all");

    stream.set_read_timeout(Some(SOON)).expect("a time limit");
    let (received, end) = read_all(&stream);
    assert!(end.is_ok(), "{end:?}");
    assert_eq!(received.len(), total);
    let block = noise(6, 1 << 20);
    assert!(
        received.chunks(block.len()).all(|chunk| chunk == block),
        "other bytes came"
    );
    drop(stream);
    writer.join().expect("written").1.expect("the end");
    proxy.stop();
}

#[test]
fn spent_memory_makes_readers_wait_and_loses_nothing() {
    const CLIENTS: usize = 16;
    let (go, gate) = {
        let gate = std::sync::Arc::new((Mutex::new(false), std::sync::Condvar::new()));
        (gate.clone(), gate)
    };
    let addr = upstream::serve(move |mut stream| {
        let open = gate.0.lock().expect("no panic");
        let open = gate
            .1
            .wait_timeout_while(open, SOON, |open| !*open)
            .expect("no panic");
        drop(open);
        // Reads to the end, then sends everything back: the proxy needs memory for both ways.
        let (bytes, _) = read_all(&stream);
        let _ = stream.write_all(&bytes);
    });
    let proxy = Server::proxy(&addr.to_string(), &["--memory", "2M", "--stats"]);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|index| {
            let mut client = proxy.connect();
            std::thread::spawn(move || {
                let sent = noise(index as u64, 12 << 20);
                client.write_all(&sent).expect("written in the end");
                client.shutdown(Shutdown::Write).expect("half-closed");
                let (received, end) = read_all(&client);
                assert!(end.is_ok(), "{index}: {end:?}");
                assert!(received == sent, "{index}: {} bytes", received.len());
            })
        })
        .collect();
    eventually(SOON, "the proxy to be stuck", || {
        let before = proxy.process.cpu_time();
        std::thread::sleep(Duration::from_millis(300));
        (proxy.process.cpu_time() - before <= Duration::from_millis(20)).then_some(())
    });
    *go.0.lock().expect("no panic") = true;
    go.1.notify_all();
    for client in clients {
        client.join().expect("all came back");
    }
    let ended = proxy.stop();
    assert_eq!(
        ended.stat("bytes_to_clients"),
        (CLIENTS * (12 << 20)) as u64
    );
    assert!(ended.stat("starved") > 0, "{ended:?}");
}
