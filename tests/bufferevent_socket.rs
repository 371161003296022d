//! The socket flavour over real sockets.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use evring::ring::Cap;
use evring::{
    Addr, BufferEvent, Callbacks, EventBase, Events, Exit, FlushEnd, Interest, Options, RunFlags,
};

/// A bound on everything that waits in these tests.
const BOUND: Duration = Duration::from_secs(10);

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (server, _) = listener.accept().expect("a connection waits");
    (client, server)
}

fn assert_clean(base: &EventBase) {
    assert_eq!(base.active(), 0, "{base:?}");
}

#[test]
fn echoes_what_it_receives_and_ends_with_the_peer() {
    let base = EventBase::new().expect("a ring");
    let (mut client, server) = tcp_pair();
    let bev = BufferEvent::socket(&base, Some(server.into()), Options::CLOSE_ON_FREE).unwrap();
    let events = Rc::new(RefCell::new(Vec::new()));
    let seen = events.clone();
    bev.set_callbacks(
        Callbacks::new()
            .on_read(|bev| {
                bev.transfer_to(bev).unwrap();
            })
            .on_event(move |bev, what| {
                seen.borrow_mut().push(what);
                bev.free();
            }),
    )
    .unwrap();
    bev.enable(Interest::READ).unwrap();
    let peer = std::thread::spawn(move || {
        let mut answer = vec![0; 300_000];
        let sent: Vec<u8> = (0..answer.len()).map(|i| (i * 7) as u8).collect();
        let mut writer = client.try_clone().unwrap();
        let out = sent.clone();
        let writing = std::thread::spawn(move || writer.write_all(&out).unwrap());
        client.read_exact(&mut answer).unwrap();
        writing.join().unwrap();
        assert!(answer == sent);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    });
    assert_eq!(base.run().unwrap(), Exit::Idle);
    peer.join().unwrap();
    assert_eq!(*events.borrow(), [Events::READING | Events::EOF]);
    assert!(bev.is_freed());
    assert_clean(&base);
    assert_eq!(base.counters().bytes_copied, 0, "{}", base.counters());
}

#[test]
fn connects_by_address_and_reports_it_once() {
    let base = EventBase::new().expect("a ring");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let bev = BufferEvent::socket(&base, None, Options::CLOSE_ON_FREE).unwrap();
    let connected = Rc::new(Cell::new(0));
    let count = connected.clone();
    bev.set_callbacks(Callbacks::new().on_event(move |bev, what| {
        if what == Events::CONNECTED {
            count.set(count.get() + 1);
        } else {
            assert_eq!(what, Events::READING | Events::EOF);
            bev.free();
        }
    }))
    .unwrap();
    bev.write(b"queued before").unwrap();
    bev.enable(Interest::READ).unwrap();
    bev.connect(Addr::from(listener.local_addr().unwrap()))
        .unwrap();
    assert_eq!(connected.get(), 0, "never from inside the call");
    let made = bev.fd().unwrap();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{made}")).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = i32::from_str_radix(flags.unwrap().trim(), 8).unwrap();
    let wanted = libc::O_NONBLOCK | libc::O_CLOEXEC;
    assert_eq!(flags & wanted, wanted, "non-blocking, and closed on exec");
    let peer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = [0; 13];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"queued before");
    });
    base.run().unwrap();
    peer.join().unwrap();
    assert_eq!(connected.get(), 1);
}

#[test]
fn refused_connect_is_an_error_without_direction() {
    let base = EventBase::new().expect("a ring");
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let bev = BufferEvent::socket(&base, None, Options::CLOSE_ON_FREE).unwrap();
    let events = Rc::new(RefCell::new(Vec::new()));
    let seen = events.clone();
    bev.set_callbacks(Callbacks::new().on_event(move |bev, what| {
        seen.borrow_mut()
            .push((what, bev.last_error().unwrap().raw(), bev.enabled()));
    }))
    .unwrap();
    bev.connect(Addr::from(gone)).unwrap();
    assert_eq!(base.run().unwrap(), Exit::Idle);
    assert_eq!(
        *events.borrow(),
        [(Events::ERROR, libc::ECONNREFUSED, Interest::WRITE)]
    );
    bev.free();
    assert_clean(&base);
}

#[test]
fn high_mark_bounds_the_input_and_nothing_is_lost() {
    let base = EventBase::new().expect("a ring");
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let bev = BufferEvent::socket(&base, Some(ours.into()), Options::CLOSE_ON_FREE).unwrap();
    const HIGH: usize = 1000;
    bev.set_watermarks(Interest::READ, 0, HIGH).unwrap();
    let sent: Vec<u8> = (0..500_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
    let got = Rc::new(RefCell::new(Vec::new()));
    let sink = got.clone();
    bev.set_callbacks(
        Callbacks::new()
            .on_read(move |bev| {
                assert!(bev.input().len() <= HIGH);
                let mut chunk = [0; 700];
                let n = bev.read(&mut chunk);
                sink.borrow_mut().extend_from_slice(&chunk[..n]);
            })
            .on_event(|bev, what| {
                assert_eq!(what, Events::READING | Events::EOF);
                if bev.input().is_empty() {
                    bev.free();
                }
            }),
    )
    .unwrap();
    bev.enable(Interest::READ).unwrap();
    let out = sent.clone();
    let peer = std::thread::spawn(move || theirs.write_all(&out).unwrap());
    base.run().unwrap();
    peer.join().unwrap();
    let mut rest = vec![0; HIGH];
    let n = bev.read(&mut rest);
    let mut got = got.take();
    got.extend_from_slice(&rest[..n]);
    assert!(got == sent, "{} of {}", got.len(), sent.len());
}

#[test]
fn close_after_flush_delivers_everything_first() {
    let base = EventBase::new().expect("a ring");
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let bev = BufferEvent::socket(&base, Some(ours.into()), Options::CLOSE_ON_FREE).unwrap();
    let payload = vec![42; 3 << 20];
    bev.write(&payload).unwrap();
    let end = Rc::new(Cell::new(None));
    let report = end.clone();
    bev.close_after_flush(Some(BOUND), move |how| report.set(Some(how)))
        .unwrap();
    let peer = std::thread::spawn(move || {
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).unwrap();
        got
    });
    base.run().unwrap();
    assert_eq!(peer.join().unwrap(), payload);
    assert_eq!(end.get(), Some(FlushEnd::Flushed));
    assert_clean(&base);
}

#[test]
fn close_after_flush_gives_up_at_its_deadline() {
    let base = EventBase::new().expect("a ring");
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let bev = BufferEvent::socket(&base, Some(ours.into()), Options::CLOSE_ON_FREE).unwrap();
    bev.write(&vec![42; 3 << 20]).unwrap();
    let end = Rc::new(Cell::new(None));
    let report = end.clone();
    bev.close_after_flush(Some(Duration::from_millis(50)), move |how| {
        report.set(Some(how))
    })
    .unwrap();
    base.run().unwrap();
    assert!(matches!(end.get(), Some(FlushEnd::TimedOut { unsent }) if unsent > 0));
    assert_clean(&base);
}

#[test]
fn timeouts_disable_their_direction_once() {
    let base = EventBase::new().expect("a ring");
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let bev = BufferEvent::socket(&base, Some(ours.into()), Options::CLOSE_ON_FREE).unwrap();
    let events = Rc::new(RefCell::new(Vec::new()));
    let seen = events.clone();
    bev.set_callbacks(Callbacks::new().on_event(move |_, what| seen.borrow_mut().push(what)))
        .unwrap();
    bev.set_timeouts(
        Some(Duration::from_millis(20)),
        Some(Duration::from_millis(40)),
    )
    .unwrap();
    bev.write(&vec![42; 3 << 20]).unwrap();
    bev.enable(Interest::READ).unwrap();
    assert_eq!(base.run().unwrap(), Exit::Idle);
    assert_eq!(
        *events.borrow(),
        [
            Events::READING | Events::TIMEOUT,
            Events::WRITING | Events::TIMEOUT
        ]
    );
    assert_eq!(bev.enabled(), Interest::empty());
    assert!(!bev.output().is_empty(), "what was not sent is kept");
    for (again, event) in [
        (Interest::WRITE, Events::WRITING),
        (Interest::READ, Events::READING),
    ] {
        assert_eq!(base.run().unwrap(), Exit::Idle);
        events.borrow_mut().clear();
        bev.enable(again).unwrap();
        assert_eq!(base.run().unwrap(), Exit::Idle);
        assert_eq!(*events.borrow(), [event | Events::TIMEOUT], "once more");
        assert_eq!(bev.enabled(), Interest::empty());
    }
    bev.free();
    base.run().unwrap();
    assert_clean(&base);
}

#[test]
fn end_of_stream_behind_data_is_seen_when_both_were_there_before() {
    let base = EventBase::new().expect("a ring");
    let (tcp_theirs, tcp_ours) = tcp_pair();
    let (unix_theirs, unix_ours) = UnixStream::pair().unwrap();
    (&tcp_theirs).write_all(b"ping").unwrap();
    tcp_theirs.shutdown(Shutdown::Write).unwrap();
    (&unix_theirs).write_all(b"ping").unwrap();
    unix_theirs.shutdown(Shutdown::Write).unwrap();
    for fd in [tcp_ours.into(), unix_ours.into()] {
        let bev = BufferEvent::socket(&base, Some(fd), Options::CLOSE_ON_FREE).unwrap();
        bev.set_callbacks(Callbacks::new().on_event(|bev, what| {
            assert_eq!(what, Events::READING | Events::EOF);
            let mut got = [0; 8];
            assert_eq!(bev.read(&mut got), 4);
            bev.free();
        }))
        .unwrap();
        bev.enable(Interest::READ).unwrap();
    }
    base.run_with(evring::RunFlags::empty()).unwrap();
    assert_clean(&base);
}

#[test]
fn pipes_work_on_plain_reads_and_writes() {
    let base = EventBase::new().expect("a ring");
    let (reader, writer) = std::io::pipe().unwrap();
    let source = BufferEvent::socket(&base, Some(reader.into()), Options::CLOSE_ON_FREE).unwrap();
    let sink = BufferEvent::socket(&base, Some(writer.into()), Options::CLOSE_ON_FREE).unwrap();
    let got = Rc::new(Cell::new(0));
    let count = got.clone();
    source
        .set_callbacks(
            Callbacks::new()
                .on_read(move |bev| {
                    count.set(
                        count.get() + bev.input().with(|b| b.drain(b.len()).unwrap()).unwrap(),
                    );
                })
                .on_event(|bev, what| {
                    assert_eq!(what, Events::READING | Events::EOF);
                    bev.free();
                }),
        )
        .unwrap();
    source.enable(Interest::READ).unwrap();
    sink.write(&vec![7; 200_000]).unwrap();
    sink.set_callbacks(Callbacks::new().on_write(BufferEvent::free))
        .unwrap();
    base.run().unwrap();
    assert_eq!(got.get(), 200_000);
    assert_clean(&base);
}

/// A stream that nothing bounds, of which much is there before each turn: after the first arm a
/// completion of the kernel brings several slots.
#[test]
fn a_stream_in_bulk_fills_several_slots_at_a_time() {
    const BYTES: usize = 12 << 20;
    const SLOT: usize = 16 << 10;
    const WAITING: usize = 3 * SLOT;
    let base = EventBase::builder()
        .slot_size(SLOT)
        .build()
        .expect("a ring");
    let (mut client, server) = tcp_pair();
    let queue = server.try_clone().unwrap();
    queue.set_read_timeout(Some(BOUND)).unwrap();
    let bev = BufferEvent::socket(&base, Some(server.into()), Options::CLOSE_ON_FREE).unwrap();
    let sent: Vec<u8> = (0..BYTES).map(|i| (i * 7 + (i >> 12)) as u8).collect();
    let got = Rc::new(RefCell::new(Vec::with_capacity(BYTES)));
    let into = got.clone();
    bev.set_callbacks(Callbacks::new().on_read(move |bev| {
        let mut more = vec![0; bev.input().len()];
        bev.read(&mut more);
        into.borrow_mut().extend(more);
    }))
    .unwrap();
    bev.enable(Interest::READ).unwrap();
    let bytes = sent.clone();
    let peer = std::thread::spawn(move || {
        client.write_all(&bytes).unwrap();
        client
    });
    let mut seen = vec![0; WAITING];
    while got.borrow().len() < BYTES {
        // All but the end arrives in heaps, if the kernel lets so much wait.
        for _ in 0..1000 {
            if peer.is_finished() || queue.peek(&mut seen).unwrap() == WAITING {
                break;
            }
            std::thread::yield_now();
        }
        base.run_with(RunFlags::NONBLOCK).unwrap();
    }
    assert!(*got.borrow() == sent, "other bytes");
    let counters = base.counters();
    if base.caps().has(Cap::RECV_BUNDLE) {
        let slots = (BYTES / SLOT) as u64;
        assert!(counters.cqes < slots * 3 / 4, "{slots} slots: {counters}");
    }
    drop(peer.join().unwrap());
}
