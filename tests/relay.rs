//! Two connections joined by a relay.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

mod common;

use common::{adopt, tcp_pair};
use evring::{
    Addr, BufferEvent, EventBase, Options, RelayEnd, RelayOptions, RelayReport, RelaySide, relay,
};

/// A bound on everything that waits in these tests.
const BOUND: Duration = Duration::from_secs(20);

/// Pseudo-random bytes from a seed (xorshift).
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// A relay between two TCP connections; the far ends and a place for its report.
fn joined(
    base: &EventBase,
    options: RelayOptions,
) -> (
    TcpStream,
    TcpStream,
    evring::Relay,
    Rc<Cell<Option<RelayReport>>>,
) {
    let (left, a) = tcp_pair();
    let (right, b) = tcp_pair();
    let relay = relay(&adopt(base, a), &adopt(base, b), options).expect("a relay");
    let report = Rc::new(Cell::new(None));
    let told = report.clone();
    relay.on_end(move |how| told.set(Some(*how)));
    (left, right, relay, report)
}

fn assert_clean(base: &EventBase) {
    assert_eq!((base.active(), base.in_flight()), (0, 0), "{base:?}");
}

#[test]
fn both_directions_arrive_whole_and_nothing_is_copied() {
    let base = EventBase::new().unwrap();
    let (left, right, _relay, report) = joined(&base, RelayOptions::default());
    let (there, back) = (noise(1, 5 << 20), noise(2, 3 << 20));
    let exchange = |mut stream: TcpStream, out: Vec<u8>| {
        thread::spawn(move || {
            let mut writer = stream.try_clone().unwrap();
            let writing = thread::spawn(move || {
                writer.write_all(&out).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            writing.join().unwrap();
            got
        })
    };
    let at_left = exchange(left, there.clone());
    let at_right = exchange(right, back.clone());
    base.run().unwrap();
    assert!(at_left.join().unwrap() == back);
    assert!(at_right.join().unwrap() == there);
    let report = report.get().expect("it ended");
    assert_eq!(report.end, RelayEnd::Finished);
    assert_eq!((report.a_to_b, report.b_to_a), (5 << 20, 3 << 20));
    assert_eq!(report.undelivered, 0);
    assert_eq!(base.counters().bytes_copied, 0, "{}", base.counters());
    assert_clean(&base);
}

#[test]
fn half_close_is_carried_through() {
    let base = EventBase::new().unwrap();
    let (mut left, mut right, _relay, report) = joined(&base, RelayOptions::default());
    let peers = thread::spawn(move || {
        left.write_all(b"question").unwrap();
        left.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        right.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"question");
        right
            .write_all(b"answer after the end of the question")
            .unwrap();
        drop(right);
        let mut got = Vec::new();
        left.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"answer after the end of the question");
    });
    base.run().unwrap();
    peers.join().unwrap();
    assert_eq!(report.get().unwrap().end, RelayEnd::Finished);
    assert_clean(&base);
}

/// What is written to one end arrives at the other; gives the first one back.
fn passes(mut left: TcpStream, right: &mut TcpStream, sent: Vec<u8>) -> TcpStream {
    let out = sent.clone();
    let writing = thread::spawn(move || {
        left.write_all(&out).unwrap();
        left
    });
    let mut got = vec![0; sent.len()];
    right.read_exact(&mut got).unwrap();
    assert!(got == sent);
    writing.join().unwrap()
}

#[test]
fn a_peer_that_never_reads_bounds_memory_and_holds_nobody_else_up() {
    let base = EventBase::new().unwrap();
    const HIGH: usize = 64 << 10;
    let (stuffing, stuck, _relay, _report) = joined(&base, RelayOptions::default().high(HIGH));
    let (left, mut right, _other, _) = joined(&base, RelayOptions::default());
    stuffing.set_nonblocking(true).unwrap();
    let remote = base.remote().unwrap();
    let peers = thread::spawn(move || {
        // Until the whole way is full: the kernel takes no more, and goes on not to.
        let chunk = vec![7; 64 << 10];
        let mut full = 0;
        while full < 50 {
            match (&stuffing).write(&chunk) {
                Ok(n) if n > 0 => full = 0,
                Ok(_) => unreachable!("a write of something is not empty"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    full += 1;
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
        let left = passes(left, &mut right, noise(3, 1 << 20));
        let keep = (stuffing, stuck, left, right);
        remote.stop().unwrap();
        keep
    });
    base.run().unwrap();
    // The window, and for the paused direction at most its mark, one arm and a slot each.
    let window = 128;
    let bound = window + 2 * (HIGH / (16 << 10)) + 2;
    let live = base.slots_live();
    assert!(live <= bound, "{live} slots live, at most {bound}");
    drop(peers.join().unwrap());
}

#[test]
fn many_peers_that_never_read_leave_slots_to_the_others() {
    // With their whole mark each, 40 of them would take all of it and more.
    const ARENA: usize = 32 << 20;
    const STUCK: usize = 40;
    let base = EventBase::builder()
        .max_buffer_bytes(ARENA)
        .build()
        .unwrap();
    let stuck: Vec<_> = (0..STUCK)
        .map(|_| joined(&base, RelayOptions::default()))
        .collect();
    let (left, mut right, _relay, _) = joined(&base, RelayOptions::default());
    let remote = base.remote().unwrap();
    let (mut peers, _relays): (Vec<_>, Vec<_>) = stuck
        .into_iter()
        .map(|(stuffing, silent, relay, report)| ((stuffing, silent), (relay, report)))
        .unzip();
    let peers = thread::spawn(move || {
        let chunk = vec![7; 256 << 10];
        for (stuffing, _) in &peers {
            stuffing.set_nonblocking(true).unwrap();
        }
        // Until none of the ways takes any more, and goes on not to.
        let mut full = 0;
        while full < 50 {
            let mut moved = false;
            for (stuffing, _) in &mut peers {
                moved |= stuffing.write(&chunk).is_ok_and(|n| n > 0);
            }
            full = if moved { 0 } else { full + 1 };
            thread::sleep(Duration::from_millis(1));
        }
        let left = passes(left, &mut right, noise(5, 4 << 20));
        let keep = (peers, left, right);
        remote.stop().unwrap();
        keep
    });
    base.run().unwrap();
    let (live, all) = (base.slots_live(), ARENA / (16 << 10));
    assert!(live < all * 15 / 16, "{live} of {all} slots are taken");
    drop(peers.join().unwrap());
}

#[test]
fn what_was_received_before_a_reset_is_delivered() {
    let base = EventBase::new().unwrap();
    let (left, mut right, _relay, report) = joined(&base, RelayOptions::default());
    let sent = noise(4, 100_000);
    let out = sent.clone();
    let peers = thread::spawn(move || {
        (&left).write_all(&out).unwrap();
        let mut got = vec![0; out.len()];
        right.read_exact(&mut got).unwrap();
        assert!(got == out);
        rustix::net::sockopt::set_socket_linger(&left, Some(Duration::ZERO)).unwrap();
        drop(left); // resets
        let mut rest = Vec::new();
        right.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
    });
    base.run().unwrap();
    peers.join().unwrap();
    let report = report.get().expect("it ended");
    assert_eq!(
        report.end,
        RelayEnd::Failed {
            side: RelaySide::A,
            errno: Some(evring::Errno::from_raw(libc::ECONNRESET)),
        }
    );
    assert_eq!(report.a_to_b, sent.len() as u64);
    assert_clean(&base);
}

#[test]
fn close_after_flush_passes_on_what_waits_behind_a_pause() {
    let base = EventBase::new().unwrap();
    let (left, mut right, relay, report) = joined(&base, RelayOptions::default().high(4 << 10));
    left.set_nonblocking(true).unwrap();
    let remote = base.remote().unwrap();
    let (told, wait) = std::sync::mpsc::channel();
    let peers = thread::spawn(move || {
        let chunk = noise(5, 1 << 20);
        let mut sent = 0_u64;
        let mut full = 0;
        while full < 50 {
            match (&left).write(&chunk) {
                Ok(n) => (sent, full) = (sent + n as u64, 0),
                Err(_) => {
                    full += 1;
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
        told.send(()).unwrap();
        let mut got = 0_u64;
        let mut buffer = vec![0; 64 << 10];
        loop {
            match right.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => got += n as u64,
                Err(error) => panic!("{error}"),
            }
        }
        (sent, got, left)
    });
    let closer = thread::spawn(move || {
        wait.recv().unwrap();
        remote.post(|base| base.stop()).unwrap();
    });
    base.run().unwrap();
    closer.join().unwrap();
    let taken = base.counters().bytes_in;
    relay.close_after_flush(BOUND);
    base.run().unwrap();
    let (sent, got, left) = peers.join().unwrap();
    let report = report.get().expect("it ended");
    assert_eq!(report.undelivered, 0);
    // All that had been taken from the kernel was passed on.
    assert_eq!(report.a_to_b, got);
    assert!(taken <= got && got <= sent, "{taken} {got} {sent}");
    drop(left);
    assert_eq!(
        (base.active(), base.in_flight()),
        (0, 0),
        "nothing but the remote's own wait"
    );
}

#[test]
fn a_refused_upstream_ends_the_relay_with_its_error() {
    let base = EventBase::new().unwrap();
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (mut client, server) = tcp_pair();
    let upstream = BufferEvent::socket(&base, None, Options::CLOSE_ON_FREE).unwrap();
    upstream.connect(Addr::from(gone)).unwrap();
    let relay = relay(&adopt(&base, server), &upstream, RelayOptions::default()).unwrap();
    let end = Rc::new(RefCell::new(None));
    let told = end.clone();
    relay.on_end(move |report| *told.borrow_mut() = Some(report.end));
    let peer = thread::spawn(move || {
        let mut got = Vec::new();
        client.read_to_end(&mut got).map(|_| got.len()).unwrap()
    });
    base.run().unwrap();
    assert_eq!(peer.join().unwrap(), 0);
    let errno = Some(evring::Errno::from_raw(libc::ECONNREFUSED));
    let side = RelaySide::B;
    assert_eq!(*end.borrow(), Some(RelayEnd::Failed { side, errno }));
    assert_clean(&base);
}

#[test]
fn idle_timeout_counts_both_directions() {
    let base = EventBase::new().unwrap();
    let idle = Duration::from_millis(150);
    let (left, right, _relay, report) =
        joined(&base, RelayOptions::default().idle_timeout(Some(idle)));
    let peers = thread::spawn(move || {
        // One way only, for longer than the time-out: the other direction alone is quiet.
        for _ in 0..10 {
            (&left).write_all(b"x").unwrap();
            let mut one = [0];
            (&right).read_exact(&mut one).unwrap();
            thread::sleep(idle / 5);
        }
        // Then nobody: both ends see the end.
        let mut rest = Vec::new();
        (&left).read_to_end(&mut rest).unwrap();
        (&right).read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
    });
    base.run().unwrap();
    peers.join().unwrap();
    let report = report.get().expect("it ended");
    assert_eq!((report.end, report.a_to_b), (RelayEnd::TimedOut, 10));
    assert_clean(&base);
}

#[test]
fn unix_sockets_relay_as_well() {
    let base = EventBase::new().unwrap();
    let (mut left, a) = UnixStream::pair().unwrap();
    let (mut right, b) = UnixStream::pair().unwrap();
    let _relay = relay(&adopt(&base, a), &adopt(&base, b), RelayOptions::default()).unwrap();
    let sent = noise(6, 1 << 20);
    let out = sent.clone();
    let writing = thread::spawn(move || {
        left.write_all(&out).unwrap();
        left.shutdown(Shutdown::Write).unwrap();
        left
    });
    let reading = thread::spawn(move || {
        let mut got = Vec::new();
        right.read_to_end(&mut got).unwrap();
        got
    });
    base.run().unwrap();
    assert!(reading.join().unwrap() == sent);
    drop(writing.join().unwrap());
    assert_clean(&base);
}

#[test]
fn a_reset_while_both_directions_are_full_ends_the_relay() {
    let base = EventBase::new().unwrap();
    let (left, right, _relay, report) = joined(&base, RelayOptions::default());
    left.set_nonblocking(true).unwrap();
    right.set_nonblocking(true).unwrap();
    let peers = thread::spawn(move || {
        // Both write and nobody reads, until nothing moves any more.
        let chunk = vec![7; 256 << 10];
        let mut quiet = 0;
        while quiet < 50 {
            let moved = [&left, &right]
                .into_iter()
                .filter(|stream| (&mut &**stream).write(&chunk).is_ok())
                .count();
            if moved == 0 {
                quiet += 1;
                thread::sleep(Duration::from_millis(1));
            } else {
                quiet = 0;
            }
        }
        // One goes; the other reads only once it has got rid of what it writes.
        drop(left);
        right.set_nonblocking(false).unwrap();
        let mut total = 0;
        while let Ok(n) = (&right).write(&chunk) {
            total += n;
            if total > 64 << 20 {
                break;
            }
        }
        let mut rest = Vec::new();
        let _reset = (&right).read_to_end(&mut rest);
    });
    base.run().unwrap();
    peers.join().unwrap();
    let end = report.get().expect("it ended").end;
    assert!(
        matches!(
            end,
            RelayEnd::Failed {
                side: RelaySide::A,
                ..
            }
        ),
        "{end:?}"
    );
    assert_clean(&base);
}

#[test]
fn a_pair_and_a_socket_relay_as_well() {
    let base = EventBase::new().unwrap();
    let (mut left, a) = tcp_pair();
    let (near, far) = BufferEvent::pair(&base, Options::empty()).unwrap();
    let relay = relay(&adopt(&base, a), &near, RelayOptions::default()).unwrap();
    let report = Rc::new(Cell::new(None));
    let told = report.clone();
    relay.on_end(move |how| told.set(Some(*how)));
    // The far side of the pair echoes, and ends with the stream.
    far.set_callbacks(
        evring::Callbacks::new()
            .on_read(|bev| {
                bev.transfer_to(bev).unwrap();
            })
            .on_event(|bev, _| bev.shutdown_write().unwrap()),
    )
    .unwrap();
    far.enable(evring::Interest::READ).unwrap();
    let sent = noise(7, 2 << 20);
    let out = sent.clone();
    let peer = thread::spawn(move || {
        let mut writer = left.try_clone().unwrap();
        let writing = thread::spawn(move || {
            writer.write_all(&out).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        left.read_to_end(&mut got).unwrap();
        writing.join().unwrap();
        got
    });
    base.run().unwrap();
    assert!(peer.join().unwrap() == sent);
    assert_eq!(report.get().expect("it ended").end, RelayEnd::Finished);
    assert_clean(&base);
}

#[test]
fn a_relay_that_ends_without_a_deadline_can_be_given_one() {
    const SENT: usize = 24 << 20;
    let base = EventBase::new().unwrap();
    // All of it is received, and more than the kernel takes for a peer who does not read waits to
    // be sent.
    let (mut left, right, relay, report) = joined(&base, RelayOptions::default().high(2 * SENT));
    right.shutdown(std::net::Shutdown::Write).unwrap();
    let remote = base.remote().unwrap();
    let peer = thread::spawn(move || {
        left.write_all(&vec![7; SENT]).unwrap();
        left.shutdown(std::net::Shutdown::Write).unwrap();
        // Its own stream has ended, and the other's with it: the relay only sends the rest.
        assert_eq!(left.read(&mut [0; 1]).unwrap(), 0);
        remote.stop().unwrap();
        left
    });
    base.run().unwrap();
    base.stop_after(Duration::from_secs(20));
    while relay.bytes().0 < SENT as u64 {
        let exit = base.run_with(evring::RunFlags::ONCE).unwrap();
        assert_eq!(exit, evring::Exit::Turned, "{:?}", relay.bytes());
    }
    base.stop_after(Duration::from_millis(50));
    base.run().unwrap();
    assert!(report.get().is_none(), "it waits for the peer");
    relay.free();
    base.stop_after(Duration::from_secs(20));
    while report.get().is_none() {
        let exit = base.run_with(evring::RunFlags::ONCE).unwrap();
        assert_eq!(exit, evring::Exit::Turned, "it still waits for the peer");
    }
    let report = report.get().expect("just seen");
    assert!(report.undelivered > 0, "{report:?}");
    drop((peer.join().unwrap(), right));
}

/// Its peer has sent more than the other side takes, so that it is not read from, and resets: the
/// relay gives up what nobody will get, and frees that side at once.
#[test]
fn a_reset_of_a_side_that_stands_still_is_noticed_whatever_waits_behind_it() {
    struct Plain;
    impl evring::Filter for Plain {}
    for filters in [0, 1] {
        let base = EventBase::new().unwrap();
        let ((left, a), (right, b)) = (tcp_pair(), tcp_pair());
        let over = |fd| match filters {
            0 => adopt(&base, fd),
            _ => BufferEvent::filter(&adopt(&base, fd), Plain, Options::CLOSE_ON_FREE).unwrap(),
        };
        let (source, sink) = (over(a), over(b));
        let options = RelayOptions::default().high(64 << 10);
        let relay = relay(&source, &sink, options).unwrap();
        let report = Rc::new(Cell::new(None));
        let told = report.clone();
        relay.on_end(move |how| told.set(Some(*how)));
        // Until nothing moves any more: turns in which the peer could write nothing.
        left.set_nonblocking(true).unwrap();
        let chunk = noise(3, 64 << 10);
        let mut stuck = 0;
        while stuck < 20 {
            match (&left).write(&chunk) {
                Ok(_) => stuck = 0,
                Err(_) => stuck += 1,
            }
            base.stop_after(Duration::from_millis(2));
            base.run().unwrap();
        }
        let passed = relay.bytes().0;
        rustix::net::sockopt::set_socket_linger(&left, Some(Duration::ZERO)).unwrap();
        drop(left);
        let began = std::time::Instant::now();
        while !source.is_freed() {
            // It may go before the loop waits for the other side.
            base.stop_after(Duration::from_millis(2));
            base.run().unwrap();
            assert!(began.elapsed() < BOUND, "{filters}: {relay:?}");
        }
        assert!(
            report.get().is_none(),
            "the other side has its time to take the rest"
        );
        relay.free();
        base.stop_after(BOUND);
        while report.get().is_none() {
            let exit = base.run_with(evring::RunFlags::ONCE).unwrap();
            assert_eq!(exit, evring::Exit::Turned, "{filters}: {relay:?}");
        }
        let report = report.get().expect("just seen");
        let errno = Some(evring::Errno::from_raw(libc::ECONNRESET));
        let side = RelaySide::A;
        assert_eq!(report.end, RelayEnd::Failed { side, errno });
        assert!(report.a_to_b >= passed, "{report:?}");
        drop(right);
    }
}

/// All of an upload is in the kernel's hands while its reader takes it slowly: that is no idleness.
#[test]
fn a_peer_that_takes_what_the_kernel_holds_is_not_idle() {
    let base = EventBase::new().unwrap();
    let idle = Duration::from_millis(300);
    let (left, a) = tcp_pair();
    let (right, b) = tcp_pair();
    rustix::net::sockopt::set_socket_recv_buffer_size(&right, 8 << 10).unwrap();
    let options = RelayOptions::default().idle_timeout(Some(idle));
    let relay = relay(&adopt(&base, a), &adopt(&base, b), options).unwrap();
    let report = Rc::new(Cell::new(None));
    let told = report.clone();
    relay.on_end(move |how| told.set(Some(*how)));
    let sent = noise(6, 1 << 20);
    let out = sent.clone();
    let peers = thread::spawn(move || {
        (&left).write_all(&out).unwrap();
        left.shutdown(Shutdown::Write).unwrap();
        let (mut got, mut part) = (Vec::new(), vec![0; 8 << 10]);
        loop {
            match (&right).read(&mut part).unwrap() {
                0 => break,
                n => got.extend_from_slice(&part[..n]),
            }
            thread::sleep(idle / 50);
        }
        got
    });
    base.run().unwrap();
    assert!(peers.join().unwrap() == sent);
    let report = report.get().expect("it ended");
    assert_eq!(report.a_to_b, sent.len() as u64);
    assert_clean(&base);
}

/// The end of a stream is known while the relay holds its source: it waits behind the bytes that
/// are still below the filters.
#[test]
fn an_end_that_comes_while_the_relay_holds_its_source_overtakes_nothing() {
    struct Plain;
    impl evring::Filter for Plain {}
    let stacked = |bev: BufferEvent, filters: usize| {
        (0..filters).fold(bev, |below, _| {
            BufferEvent::filter(&below, Plain, Options::CLOSE_ON_FREE).unwrap()
        })
    };
    for (filters, over_filters) in [(0, 0), (1, 0), (2, 0), (1, 1), (3, 2)] {
        for (high, size) in [(1, 40), (25, 5_000), (1_500, 4_500), (1_500, 300_000)] {
            for (echoes, priorities) in [(false, 1), (true, 1), (false, 2), (true, 3)] {
                let base = EventBase::builder().priorities(priorities).build();
                let base = base.unwrap();
                let (theirs, ours) = UnixStream::pair().unwrap();
                let (far, b) = tcp_pair();
                let client = stacked(adopt(&base, theirs), filters);
                let source = stacked(adopt(&base, ours), filters);
                let sink = stacked(adopt(&base, b), over_filters);
                let server = stacked(adopt(&base, far), over_filters);
                let options = RelayOptions::default().high(high);
                let relay = relay(&source, &sink, options).unwrap();
                let report = Rc::new(Cell::new(None));
                let told = report.clone();
                relay.on_end(move |how| told.set(Some(*how)));
                let got = Rc::new(RefCell::new(Vec::new()));
                let bytes = got.clone();
                let reads = evring::Callbacks::new()
                    .on_read(move |bev| {
                        bev.input().with(|input| {
                            let mut data = vec![0; input.len()];
                            input.remove(&mut data).unwrap();
                            if echoes {
                                bev.write(&data).unwrap();
                            }
                            bytes.borrow_mut().append(&mut data);
                            // It takes its time, so that the relay holds the source.
                            bev.disable(evring::Interest::READ).unwrap();
                            let again = bev.clone();
                            bev.base().unwrap().defer(move |_| {
                                let _freed = again.enable(evring::Interest::READ);
                            });
                        })
                    })
                    .on_event(|bev, _| bev.close_after_flush(None, |_| {}));
                server.set_callbacks(reads).unwrap();
                let ends = evring::Callbacks::new()
                    .on_read(|bev| bev.input().with(|input| input.drain(input.len())))
                    .on_event(|bev, _| bev.close_after_flush(None, |_| {}));
                client.set_callbacks(ends).unwrap();
                for end in [&server, &client] {
                    end.enable(evring::Interest::READ).unwrap();
                }
                let data = noise(9, size);
                client.write(&data).unwrap();
                client.shutdown_write().unwrap();
                assert_eq!(base.run().unwrap(), evring::Exit::Idle);
                let case =
                    format!("{filters}, {over_filters}: {high}, {size}, {echoes}, {priorities}");
                assert!(*got.borrow() == data, "{case}: {report:?}");
                let report: RelayReport = report.get().expect("it ended");
                assert_eq!(
                    (report.end, report.undelivered),
                    (RelayEnd::Finished, 0),
                    "{case}"
                );
            }
        }
    }
}
