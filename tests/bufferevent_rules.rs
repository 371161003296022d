//! The socket flavour, rule by rule: tests are named after the rules of the bufferevent's
//! behaviour.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::Duration;

use evring::{
    Addr, BufferEvent, Callbacks, Error, EventBase, Events, Exit, Handler, Interest, Options,
    RunFlags, TriggerOptions,
};

const BOTH: Interest = Interest::all();
const SOON: Duration = Duration::from_millis(10);

type Log = Rc<RefCell<Vec<String>>>;

/// A bufferevent that closes its descriptor, and the other end of the connection.
fn made(base: &EventBase) -> (BufferEvent, UnixStream) {
    made_with(base, Options::CLOSE_ON_FREE)
}

fn made_with(base: &EventBase, options: Options) -> (BufferEvent, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let bev = BufferEvent::socket(base, Some(ours.into()), options).unwrap();
    (bev, theirs)
}

/// Callbacks that write down what they are called with.
fn logged(bev: &BufferEvent) -> Log {
    let log = Log::default();
    let (read, write, event) = (log.clone(), log.clone(), log.clone());
    bev.set_callbacks(
        Callbacks::new()
            .on_read(move |bev| {
                read.borrow_mut()
                    .push(format!("read {}", bev.input().len()))
            })
            .on_write(move |_| write.borrow_mut().push("write".into()))
            .on_event(move |_, what| {
                let names: Vec<_> = what.iter_names().map(|(name, _)| name).collect();
                event.borrow_mut().push(names.join("|"));
            }),
    )
    .unwrap();
    log
}

fn taken(log: &Log) -> Vec<String> {
    std::mem::take(&mut log.borrow_mut())
}

/// Runs the loop until the condition holds, a bounded number of turns.
fn run_until(base: &EventBase, mut holds: impl FnMut() -> bool) {
    let tick = base.interval(Duration::from_millis(1), |_| {}).unwrap();
    for _ in 0..5000 {
        if holds() {
            tick.cancel();
            return;
        }
        base.run_with(RunFlags::ONCE).unwrap();
    }
    panic!("it never held");
}

/// A few turns that do not wait: whatever was to happen has.
fn settle(base: &EventBase) {
    for _ in 0..5 {
        base.run_with(RunFlags::NONBLOCK | RunFlags::NO_EXIT_ON_EMPTY)
            .unwrap();
    }
}

#[test]
fn rule_01_defaults() {
    let base = EventBase::new().unwrap();
    let (bev, _far) = made(&base);
    assert_eq!(bev.enabled(), Interest::WRITE);
    assert_eq!(bev.watermarks(Interest::READ), (0, 0));
    assert_eq!(bev.watermarks(Interest::WRITE), (0, 0));
    assert_eq!(
        base.run().unwrap(),
        Exit::Idle,
        "alone and idle it keeps no loop alive"
    );
}

#[test]
fn rule_02_explicit_enable_of_write_calls_back_once_each_time() {
    let base = EventBase::new().unwrap();
    let (bev, _far) = made(&base);
    let log = logged(&bev);
    base.run().unwrap();
    assert!(taken(&log).is_empty(), "creation fires none");
    for _ in 0..2 {
        bev.enable(Interest::WRITE).unwrap();
        assert!(taken(&log).is_empty(), "not from inside the call");
        base.run().unwrap();
        assert_eq!(taken(&log), ["write"]);
    }
    bev.enable(Interest::WRITE).unwrap();
    bev.disable(Interest::WRITE).unwrap();
    base.run().unwrap();
    assert!(taken(&log).is_empty(), "not what was disabled again");
    bev.enable(Interest::WRITE).unwrap();
    base.run().unwrap();
    assert_eq!(taken(&log), ["write"]);
    let (ours, _far) = UnixStream::pair().unwrap();
    bev.replace_fd(Some(ours.into())).unwrap();
    base.run().unwrap();
    assert_eq!(taken(&log), ["write"], "set_fd, too");
}

#[test]
fn rule_03_disable_keeps_output_and_it_goes_out_on_enable() {
    let base = EventBase::new().unwrap();
    let (bev, mut far) = made(&base);
    bev.disable(Interest::WRITE).unwrap();
    bev.write(b"kept").unwrap();
    settle(&base);
    assert_eq!(bev.output().len(), 4);
    bev.enable(Interest::WRITE).unwrap();
    base.run_with(RunFlags::ONCE).unwrap();
    let mut got = [0; 4];
    far.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"kept");
}

#[test]
fn rule_03_io_starts_in_the_same_turn() {
    let base = EventBase::new().unwrap();
    let (bev, mut far) = made(&base);
    let writer = bev.clone();
    base.timer(Duration::ZERO, move |timer| {
        writer.write(b"now").unwrap();
        timer.base().unwrap().stop_after_turn();
    })
    .unwrap();
    base.run().unwrap();
    // The turn that wrote has ended; the next enter, whatever it is for, carries the send.
    base.run_with(RunFlags::NONBLOCK).unwrap();
    far.set_nonblocking(true).unwrap();
    let mut got = [0; 3];
    far.read_exact(&mut got).unwrap();
}

#[test]
fn rule_04_input_takes_no_appends_and_output_no_drains() {
    let base = EventBase::new().unwrap();
    let (bev, _far) = made(&base);
    bev.disable(Interest::WRITE).unwrap();
    bev.write(b"out").unwrap();
    assert!(bev.input().with(|input| input.add(b"x")).unwrap().is_err());
    assert!(
        bev.output()
            .with(|output| output.drain(1))
            .unwrap()
            .is_err()
    );
    assert_eq!((bev.input().len(), bev.output().len()), (0, 3));
}

#[test]
fn rule_05_without_a_descriptor_timeouts_run() {
    let base = EventBase::new().unwrap();
    let bev = BufferEvent::socket(&base, None, Options::empty()).unwrap();
    let log = logged(&bev);
    bev.set_timeouts(Some(SOON), None).unwrap();
    bev.enable(Interest::READ).unwrap();
    base.run().unwrap();
    assert_eq!(taken(&log), ["READING|TIMEOUT"]);
    assert_eq!(bev.fd(), None);
}

#[test]
fn rule_06_read_callback_from_the_low_mark_on() {
    let base = EventBase::new().unwrap();
    let (bev, mut far) = made(&base);
    let log = logged(&bev);
    bev.set_watermarks(Interest::READ, 5, 0).unwrap();
    bev.enable(Interest::READ).unwrap();
    far.write_all(b"1234").unwrap();
    run_until(&base, || bev.input().len() == 4);
    assert!(taken(&log).is_empty());
    far.write_all(b"5").unwrap();
    run_until(&base, || bev.input().len() == 5);
    assert_eq!(taken(&log), ["read 5"]);
    bev.set_watermarks(Interest::READ, 1, 0).unwrap();
    settle(&base);
    assert!(taken(&log).is_empty(), "lowering the mark fires nothing");
    bev.trigger(Interest::READ, TriggerOptions::empty())
        .unwrap();
    assert_eq!(taken(&log), ["read 5"], "trigger does");
}

#[test]
fn rule_07_input_never_exceeds_the_high_mark_and_draining_resumes() {
    let base = EventBase::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    let bev = BufferEvent::socket(&base, Some(ours.into()), Options::CLOSE_ON_FREE).unwrap();
    bev.set_watermarks(Interest::READ, 0, 10).unwrap();
    bev.enable(Interest::READ).unwrap();
    far.write_all(b"0123456789abcdefghijABC").unwrap();
    let mut got = Vec::new();
    let mut ten = [0; 10];
    for len in [10, 10, 3] {
        run_until(&base, || bev.input().len() >= len);
        settle(&base);
        assert_eq!(bev.input().len(), len);
        assert_eq!(bev.read(&mut ten), len);
        got.extend_from_slice(&ten[..len]);
    }
    assert_eq!(got, b"0123456789abcdefghijABC");
}

#[test]
fn rule_08_no_spin_when_callback_does_not_drain() {
    let base = EventBase::new().unwrap();
    let (bev, mut far) = made(&base);
    let calls = Rc::new(Cell::new(0));
    let count = calls.clone();
    bev.set_watermarks(Interest::READ, 0, 4).unwrap();
    bev.set_callbacks(Callbacks::new().on_read(move |_| count.set(count.get() + 1)))
        .unwrap();
    bev.enable(Interest::READ).unwrap();
    far.write_all(b"12345678").unwrap();
    run_until(&base, || bev.input().len() == 4);
    let before = calls.get();
    settle(&base);
    assert_eq!(calls.get(), before);
}

#[test]
fn rule_08_called_again_while_full_and_making_way() {
    let base = EventBase::new().unwrap();
    let (bev, mut far) = made(&base);
    let log = Log::default();
    let seen = log.clone();
    bev.disable(Interest::READ).unwrap();
    bev.set_callbacks(Callbacks::new().on_read(move |bev| {
        seen.borrow_mut()
            .push(format!("read {}", bev.input().len()));
        bev.read(&mut [0; 1]);
    }))
    .unwrap();
    bev.enable(Interest::READ).unwrap();
    far.write_all(b"123456").unwrap();
    run_until(&base, || bev.input().len() == 5);
    taken(&log);
    // Now the mark falls below what is there: full, and it stays so for two more calls.
    bev.set_watermarks(Interest::READ, 0, 3).unwrap();
    bev.trigger(Interest::READ, TriggerOptions::empty())
        .unwrap();
    settle(&base);
    assert_eq!(taken(&log), ["read 5", "read 4", "read 3"]);
}

#[test]
fn rule_09_end_of_stream_disables_read_and_keeps_the_rest() {
    let base = EventBase::new().unwrap();
    let (bev, mut far) = made(&base);
    let log = logged(&bev);
    bev.set_watermarks(Interest::READ, 100, 0).unwrap();
    bev.enable(Interest::READ).unwrap();
    far.write_all(b"below the low mark").unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    base.run().unwrap();
    assert_eq!(
        taken(&log),
        ["READING|EOF"],
        "no read callback for data below low"
    );
    assert_eq!(bev.enabled(), Interest::WRITE);
    assert_eq!(bev.input().len(), 18, "the data stays readable");
    bev.write(b"half-close works").unwrap();
    base.run().unwrap();
    let mut got = [0; 16];
    far.read_exact(&mut got).unwrap();
    taken(&log);
    bev.enable(Interest::READ).unwrap();
    base.run().unwrap();
    assert_eq!(
        taken(&log),
        ["READING|EOF"],
        "enabling READ again reports it again"
    );
}

#[test]
fn rule_09_while_suspended_the_end_is_not_reported() {
    let base = EventBase::new().unwrap();
    let (bev, mut far) = made(&base);
    let log = logged(&bev);
    bev.set_watermarks(Interest::READ, 0, 4).unwrap();
    bev.enable(Interest::READ).unwrap();
    far.write_all(b"full").unwrap();
    run_until(&base, || bev.input().len() == 4);
    drop(far);
    settle(&base);
    assert_eq!(taken(&log), ["read 4"]);
    bev.read(&mut [0; 4]);
    base.run().unwrap();
    assert_eq!(taken(&log), ["READING|EOF"]);
}

#[test]
fn rule_10_read_error_with_its_number() {
    let base = EventBase::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    let bev = BufferEvent::socket(&base, Some(ours.into()), Options::CLOSE_ON_FREE).unwrap();
    let log = logged(&bev);
    bev.enable(Interest::READ).unwrap();
    rustix::net::sockopt::set_socket_linger(&far, Some(Duration::ZERO)).unwrap();
    drop(far);
    base.run().unwrap();
    assert_eq!(taken(&log), ["READING|ERROR"]);
    assert_eq!(bev.last_error().unwrap().raw(), libc::ECONNRESET);
    assert_eq!(bev.enabled(), Interest::WRITE);
}

#[test]
fn rule_11_write_callback_at_or_below_the_low_mark() {
    let base = EventBase::new().unwrap();
    let (bev, far) = made(&base);
    let log = logged(&bev);
    bev.write(b"x").unwrap();
    base.run().unwrap();
    assert_eq!(taken(&log), ["write"], "at nothing, without a mark");
    drop(far);
    // With a mark: not before the output is down to it, and then before it is empty.
    const MARK: usize = 600_000;
    for options in [Options::empty(), Options::DEFER_CALLBACKS] {
        let (bev, far) = made_with(&base, options | Options::CLOSE_ON_FREE);
        let lengths = Rc::new(RefCell::new(Vec::new()));
        let seen = lengths.clone();
        bev.set_callbacks(
            Callbacks::new().on_write(move |bev| seen.borrow_mut().push(bev.output().len())),
        )
        .unwrap();
        bev.set_watermarks(Interest::WRITE, MARK, 0).unwrap();
        bev.write(&vec![7; 1 << 20]).unwrap();
        settle(&base);
        assert!(lengths.borrow().is_empty(), "{} wait", bev.output().len());
        far.set_nonblocking(true).unwrap();
        let mut left = vec![0; 4096];
        run_until(&base, || {
            let _nothing_yet = (&far).read(&mut left);
            !lengths.borrow().is_empty()
        });
        let first = lengths.borrow()[0];
        assert!((1..=MARK).contains(&first), "called at {first}");
        bev.free();
    }
}

#[test]
fn rule_12_write_has_no_high_mark_but_tells_when_it_is_passed() {
    let base = EventBase::new().unwrap();
    let (bev, _far) = made(&base);
    bev.disable(Interest::WRITE).unwrap();
    bev.set_watermarks(Interest::WRITE, 0, 3).unwrap();
    bev.write(b"123").unwrap();
    assert!(!bev.output_above_high());
    bev.write(b"4").unwrap();
    assert!(bev.output_above_high());
    assert_eq!(bev.output().len(), 4);
}

#[test]
fn rule_13_write_error_keeps_the_output_and_raises_no_signal() {
    let base = EventBase::new().unwrap();
    let (bev, far) = made(&base);
    let log = logged(&bev);
    drop(far);
    bev.write(b"nobody").unwrap();
    base.run().unwrap();
    assert_eq!(taken(&log), ["WRITING|ERROR"]);
    assert_eq!(bev.last_error().unwrap().raw(), libc::EPIPE);
    assert_eq!((bev.enabled(), bev.output().len()), (Interest::empty(), 6));
}

#[test]
fn rule_15_deferred_order_and_merged_events() {
    let base = EventBase::new().unwrap();
    let (bev, _far) = made_with(&base, Options::CLOSE_ON_FREE | Options::DEFER_CALLBACKS);
    let log = logged(&bev);
    let now = TriggerOptions::IGNORE_WATERMARKS;
    bev.trigger_event(Events::TIMEOUT | Events::READING, now)
        .unwrap();
    bev.trigger(BOTH, now).unwrap();
    bev.trigger_event(Events::CONNECTED, now).unwrap();
    bev.trigger_event(Events::ERROR | Events::WRITING, now)
        .unwrap();
    assert!(taken(&log).is_empty());
    base.run().unwrap();
    assert_eq!(
        taken(&log),
        [
            "CONNECTED",
            "read 0",
            "write",
            "READING|WRITING|ERROR|TIMEOUT"
        ]
    );
}

#[test]
fn rule_15_callbacks_set_inside_a_callback_hold_for_the_rest_of_the_run() {
    let base = EventBase::new().unwrap();
    let (bev, _far) = made_with(&base, Options::CLOSE_ON_FREE | Options::DEFER_CALLBACKS);
    let log = Log::default();
    let (first, second) = (log.clone(), log.clone());
    bev.set_callbacks(
        Callbacks::new()
            .on_read(move |bev| {
                first.borrow_mut().push("old read".into());
                let new = second.clone();
                bev.set_callbacks(
                    Callbacks::new().on_write(move |_| new.borrow_mut().push("new write".into())),
                )
                .unwrap();
            })
            .on_write(|_| panic!("replaced")),
    )
    .unwrap();
    bev.trigger(BOTH, TriggerOptions::IGNORE_WATERMARKS)
        .unwrap();
    base.run().unwrap();
    assert_eq!(taken(&log), ["old read", "new write"]);
}

#[test]
fn rule_16_unlock_needs_defer() {
    let base = EventBase::new().unwrap();
    let refused = BufferEvent::socket(&base, None, Options::UNLOCK_CALLBACKS);
    assert!(matches!(refused, Err(Error::Invalid { .. })));
    assert!(BufferEvent::pair(&base, Options::UNLOCK_CALLBACKS).is_err());
    struct Plain;
    impl evring::Filter for Plain {}
    let (under, _far) = made(&base);
    let refused = BufferEvent::filter(&under, Plain, Options::UNLOCK_CALLBACKS);
    assert!(matches!(refused, Err(Error::Invalid { .. })));
    assert_eq!(under.enabled(), Interest::WRITE, "nothing has changed");
    let both = Options::UNLOCK_CALLBACKS | Options::DEFER_CALLBACKS;
    BufferEvent::socket(&base, None, both).unwrap();
}

#[test]
fn rule_17_trigger_respects_marks_unless_told_not_to() {
    let base = EventBase::new().unwrap();
    let (bev, _far) = made(&base);
    let log = logged(&bev);
    bev.disable(Interest::WRITE).unwrap();
    bev.write(b"waiting").unwrap();
    bev.set_watermarks(Interest::READ, 1, 0).unwrap();
    bev.trigger(BOTH, TriggerOptions::empty()).unwrap();
    assert!(taken(&log).is_empty());
    bev.trigger(BOTH, TriggerOptions::IGNORE_WATERMARKS)
        .unwrap();
    assert_eq!(taken(&log), ["read 0", "write"]);
    bev.trigger(
        Interest::READ,
        TriggerOptions::IGNORE_WATERMARKS | TriggerOptions::DEFER_CALLBACKS,
    )
    .unwrap();
    assert!(taken(&log).is_empty());
    base.run().unwrap();
    assert_eq!(taken(&log), ["read 0"]);
    bev.trigger_event(Events::EOF, TriggerOptions::empty())
        .unwrap();
    assert_eq!(taken(&log), ["EOF"]);
}

/// What a callback does to the world, for `rule_18`.
type Deed = fn(&BufferEvent, &BufferEvent);

#[test]
fn rule_18_callbacks_may_do_anything() {
    struct Doer {
        peer: BufferEvent,
        deed: Deed,
        calls: Rc<Cell<u32>>,
    }
    impl Doer {
        fn act(&self, bev: &BufferEvent) {
            assert!(!bev.is_freed(), "no callback after free");
            self.calls.set(self.calls.get() + 1);
            (self.deed)(bev, &self.peer);
        }
    }
    impl Handler for Doer {
        fn read(&mut self, bev: &BufferEvent) {
            self.act(bev);
        }
        fn write(&mut self, bev: &BufferEvent) {
            self.act(bev);
        }
        fn event(&mut self, bev: &BufferEvent, _: Events) {
            self.act(bev);
        }
    }
    let deeds: [Deed; 8] = [
        |bev, _| bev.free(),
        |_, peer| peer.free(),
        |bev, peer| {
            peer.free();
            bev.free();
        },
        |bev, _| bev.clear_callbacks().unwrap(),
        |bev, _| bev.base().unwrap().stop(),
        |bev, peer| {
            let _freed = bev.write(b"more").and(peer.write(b"more"));
        },
        |bev, _| {
            // Refused inside the loop; a write to a filter calls back outside of it, too.
            let again = bev.base().unwrap().run_with(RunFlags::NONBLOCK);
            assert!(matches!(again, Ok(_) | Err(Error::Invalid { .. })));
        },
        |bev, _| {
            // Itself, nested: afterwards, not inside.
            bev.trigger(Interest::READ, TriggerOptions::IGNORE_WATERMARKS)
                .unwrap();
            bev.clear_callbacks().unwrap();
        },
    ];
    for flavour in FLAVOURS {
        for options in [
            Options::CLOSE_ON_FREE,
            Options::CLOSE_ON_FREE | Options::DEFER_CALLBACKS,
        ] {
            for deed in deeds {
                for event in [None, Some(Interest::READ), Some(Interest::WRITE)] {
                    let base = EventBase::new().unwrap();
                    let (bev, peer) = flavour(&base, options);
                    let calls = Rc::new(Cell::new(0));
                    let count = calls.clone();
                    bev.set_handler(Doer {
                        peer: peer.clone(),
                        deed,
                        calls: count,
                    })
                    .unwrap();
                    peer.enable(BOTH).unwrap();
                    match event {
                        None => bev
                            .trigger_event(Events::EOF, TriggerOptions::DEFER_CALLBACKS)
                            .unwrap(),
                        Some(Interest::READ) => {
                            bev.enable(Interest::READ).unwrap();
                            peer.write(b"x").unwrap();
                        }
                        Some(_) => bev.write(b"y").unwrap(),
                    }
                    for _ in 0..100 {
                        if calls.get() != 0 {
                            break;
                        }
                        base.run_with(RunFlags::NONBLOCK | RunFlags::NO_EXIT_ON_EMPTY)
                            .unwrap();
                    }
                    assert!(calls.get() >= 1);
                    settle(&base);
                    bev.free();
                    peer.free();
                    base.run().unwrap();
                    assert_eq!((base.active(), base.in_flight()), (0, 0));
                }
            }
        }
    }
}

/// Two bufferevents that are joined, of each flavour.
type Joined = fn(&EventBase, Options) -> (BufferEvent, BufferEvent);

const FLAVOURS: [Joined; 3] = [sockets, pairs, filters];

fn sockets(base: &EventBase, options: Options) -> (BufferEvent, BufferEvent) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let make = |fd: UnixStream| BufferEvent::socket(base, Some(fd.into()), options).unwrap();
    (make(ours), make(theirs))
}

fn pairs(base: &EventBase, options: Options) -> (BufferEvent, BufferEvent) {
    BufferEvent::pair(base, options).unwrap()
}

fn filters(base: &EventBase, options: Options) -> (BufferEvent, BufferEvent) {
    struct Plain;
    impl evring::Filter for Plain {}
    let (under, peer) = sockets(base, options);
    (BufferEvent::filter(&under, Plain, options).unwrap(), peer)
}

#[test]
fn rule_19_free_does_not_flush_and_closes_on_request() {
    let base = EventBase::new().unwrap();
    let (bev, mut far) = made(&base);
    bev.write(b"never sent").unwrap();
    bev.free();
    base.run().unwrap();
    let mut got = Vec::new();
    far.read_to_end(&mut got).unwrap();
    assert!(got.is_empty());
    let (ours, mut far) = UnixStream::pair().unwrap();
    let raw = ours.as_raw_fd();
    let kept = ours.try_clone().unwrap();
    let bev = BufferEvent::socket(&base, Some(ours.into()), Options::empty()).unwrap();
    assert_eq!(bev.fd(), Some(raw));
    bev.free();
    base.run().unwrap();
    assert!(is_open(raw), "without CLOSE_ON_FREE it stays open");
    drop(kept);
    far.set_nonblocking(true).unwrap();
    assert!(far.read(&mut [0; 1]).is_err(), "and connected");
    close(raw);
}

#[test]
fn rule_20_without_close_on_free_the_underlying_stays_usable() {
    struct Plain;
    impl evring::Filter for Plain {}
    let base = EventBase::new().unwrap();
    let (under, mut far) = made(&base);
    let filter = BufferEvent::filter(&under, Plain, Options::empty()).unwrap();
    let log = logged(&filter);
    filter.free();
    under.enable(Interest::READ).unwrap();
    far.write_all(b"in").unwrap();
    run_until(&base, || under.input().len() == 2);
    under.write(b"out").unwrap();
    run_until(&base, || under.output().is_empty());
    let mut got = [0; 3];
    far.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"out");
    assert!(taken(&log).is_empty(), "its callbacks are cleared");
    under.free();
}

#[test]
fn rule_22_and_23_timeouts_fire_once_and_bytes_restart_them() {
    let base = EventBase::new().unwrap();
    let (bev, far) = made(&base);
    let log = logged(&bev);
    let quiet = Duration::from_millis(60);
    bev.set_timeouts(Some(quiet), Some(quiet)).unwrap();
    bev.enable(Interest::READ).unwrap();
    let sent = Rc::new(Cell::new(0));
    let count = sent.clone();
    let writer = far.try_clone().unwrap();
    base.interval(quiet / 3, move |timer| {
        (&writer).write_all(b"x").unwrap();
        count.set(count.get() + 1);
        if count.get() == 6 {
            timer.cancel();
        }
    })
    .unwrap();
    base.run().unwrap();
    let log = taken(&log);
    assert_eq!(
        log.last().map(String::as_str),
        Some("READING|TIMEOUT"),
        "{log:?}"
    );
    assert_eq!(
        log.iter().filter(|entry| entry.contains("TIMEOUT")).count(),
        1,
        "{log:?}"
    );
    assert_eq!(sent.get(), 6, "each byte restarted it");
    assert_eq!(
        bev.enabled(),
        Interest::WRITE,
        "nothing to send: no write time-out"
    );
}

#[test]
fn rule_24_an_explicit_write_enable_times_out_without_a_descriptor() {
    let base = EventBase::new().unwrap();
    let bev = BufferEvent::socket(&base, None, Options::empty()).unwrap();
    let log = logged(&bev);
    bev.set_timeouts(None, Some(SOON)).unwrap();
    base.run().unwrap();
    assert!(taken(&log).is_empty());
    bev.enable(Interest::WRITE).unwrap();
    base.run().unwrap();
    assert_eq!(taken(&log), ["WRITING|TIMEOUT"]);
    let (under, _far) = made(&base);
    struct Plain;
    impl evring::Filter for Plain {}
    let filter = BufferEvent::filter(&under, Plain, Options::CLOSE_ON_FREE).unwrap();
    let log = logged(&filter);
    filter.set_timeouts(None, Some(SOON)).unwrap();
    filter.enable(Interest::WRITE).unwrap();
    base.run().unwrap();
    assert_eq!(taken(&log), ["WRITING|TIMEOUT"], "a filter likewise");
}

/// Whether this process has a descriptor of that number open.
fn is_open(fd: RawFd) -> bool {
    std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok()
}

/// Closes what a bufferevent was given without `CLOSE_ON_FREE`.
fn close(fd: RawFd) {
    assert!(is_open(fd), "it stays open");
    // SAFETY: the bufferevent that had it by number is done with it, and nothing else owns it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

/// A listener whose backlog is full: connects to it neither succeed nor fail.
fn stuck_listener() -> (OwnedFd, Addr, Vec<TcpStream>) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&fd, &std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listen(&fd, 0).unwrap();
    let at = std::net::SocketAddr::try_from(getsockname(&fd).unwrap()).unwrap();
    let filler = (0..8)
        .map_while(|_| TcpStream::connect_timeout(&at, Duration::from_millis(100)).ok())
        .collect();
    (fd, Addr::from(at), filler)
}

#[test]
fn rule_25_a_connect_that_times_out_is_reported_once_and_abandoned() {
    let base = EventBase::new().unwrap();
    let (_listener, addr, _filler) = stuck_listener();
    let bev = BufferEvent::socket(&base, None, Options::CLOSE_ON_FREE).unwrap();
    let log = logged(&bev);
    bev.set_timeouts(None, Some(SOON)).unwrap();
    bev.connect(&addr).unwrap();
    assert!(
        matches!(bev.connect(&addr), Err(Error::Invalid { .. })),
        "one at a time"
    );
    base.run().unwrap();
    assert_eq!(taken(&log), ["WRITING|TIMEOUT"]);
    bev.free();
    base.run().unwrap();
    assert_eq!(base.in_flight(), 0);
}

#[test]
fn rule_21_free_during_a_connect_cancels_it() {
    let base = EventBase::new().unwrap();
    let (_listener, addr, _filler) = stuck_listener();
    let bev = BufferEvent::socket(&base, None, Options::CLOSE_ON_FREE).unwrap();
    bev.connect(&addr).unwrap();
    settle(&base);
    assert_eq!(base.in_flight(), 1);
    let fd = bev.fd().unwrap();
    bev.free();
    base.run().unwrap();
    assert_eq!((base.active(), base.in_flight()), (0, 0));
    assert!(!is_open(fd), "the socket is closed");
}

#[test]
fn rule_26_connected_alone_once_also_over_unix_sockets() {
    let base = EventBase::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let bev = BufferEvent::socket(&base, None, Options::CLOSE_ON_FREE).unwrap();
    let log = logged(&bev);
    bev.connect(Addr::unix(&path).unwrap()).unwrap();
    assert!(taken(&log).is_empty(), "never from inside the call");
    base.run().unwrap();
    assert_eq!(taken(&log), ["CONNECTED"]);
    drop(listener);
}

#[test]
fn rule_26_without_an_address_the_descriptor_is_connecting_already() {
    let base = EventBase::new().unwrap();
    let (bev, _far) = made(&base);
    let log = logged(&bev);
    bev.connect_in_progress().unwrap();
    base.run().unwrap();
    assert_eq!(taken(&log), ["CONNECTED"]);
    let none = BufferEvent::socket(&base, None, Options::empty()).unwrap();
    assert!(none.connect_in_progress().is_err());
    // One that fails: the socket knows how.
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::NONBLOCK, None).unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let begun = rustix::net::connect(&socket, &nobody);
    // Over the loopback it may fail at once; then there is nothing to wait for.
    if begun == Err(rustix::io::Errno::INPROGRESS) {
        let bev = BufferEvent::socket(&base, Some(socket), Options::CLOSE_ON_FREE).unwrap();
        let log = logged(&bev);
        bev.connect_in_progress().unwrap();
        assert!(bev.connect_in_progress().is_err(), "one at a time");
        run_until(&base, || !log.borrow().is_empty());
        assert_eq!(taken(&log), ["ERROR"]);
        assert_eq!(bev.last_error().unwrap().raw(), libc::ECONNREFUSED);
        bev.free();
    }
}

#[test]
fn rule_27_failure_without_direction_and_a_second_try_works() {
    let base = EventBase::new().unwrap();
    let free_port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let bev = BufferEvent::socket(&base, None, Options::CLOSE_ON_FREE).unwrap();
    let log = logged(&bev);
    bev.enable(Interest::READ).unwrap();
    bev.connect(Addr::from(free_port)).unwrap();
    base.run().unwrap();
    assert_eq!(taken(&log), ["ERROR"]);
    assert_eq!(bev.last_error().unwrap().raw(), libc::ECONNREFUSED);
    assert_eq!(bev.enabled(), BOTH, "enabled is unchanged");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    bev.connect(Addr::from(listener.local_addr().unwrap()))
        .unwrap();
    run_until(&base, || !log.borrow().is_empty());
    assert_eq!(taken(&log), ["CONNECTED"]);
    bev.free();
}

#[test]
fn rule_29_set_fd_stops_the_old_and_starts_the_new() {
    let base = EventBase::builder().priorities(3).build().unwrap();
    let (bev, mut old_far) = made(&base);
    bev.set_priority(0).unwrap();
    bev.enable(Interest::READ).unwrap();
    settle(&base);
    assert_eq!(bev.priority(), 0);
    let connects = BufferEvent::socket(&base, None, Options::CLOSE_ON_FREE).unwrap();
    connects.set_priority(2).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let log = logged(&connects);
    connects.connect(listener.local_addr().unwrap()).unwrap();
    assert_eq!(connects.priority(), 2, "a connect changes none");
    run_until(&base, || !log.borrow().is_empty());
    assert_eq!(
        (taken(&log), connects.priority()),
        (vec!["CONNECTED".to_string()], 2)
    );
    connects.free();
    let old = bev.fd().unwrap();
    let (ours, mut far) = UnixStream::pair().unwrap();
    bev.set_fd(Some(ours.into())).unwrap();
    settle(&base);
    old_far.write_all(b"old").unwrap();
    far.write_all(b"new").unwrap();
    run_until(&base, || bev.input().len() == 3);
    let mut got = [0; 3];
    bev.read(&mut got);
    assert_eq!(&got, b"new");
    assert_eq!(bev.priority(), 0, "priority survives");
    close(old);
    let replaced = bev.fd().unwrap();
    let (ours, _far) = UnixStream::pair().unwrap();
    bev.replace_fd(Some(ours.into())).unwrap();
    settle(&base);
    assert!(!is_open(replaced), "replace_fd closes it");
    // The end of a stream belongs to the connection that it was sent on.
    bev.shutdown_write().unwrap();
    settle(&base);
    assert!(bev.write(b"refused").is_err());
    let (ours, mut far) = UnixStream::pair().unwrap();
    bev.replace_fd(Some(ours.into())).unwrap();
    bev.write(b"more").unwrap();
    run_until(&base, || bev.output().is_empty());
    let mut got = [0; 4];
    far.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"more");
    bev.free();
    base.run().unwrap();
    assert_eq!((base.active(), base.in_flight()), (0, 0));
}

#[test]
fn rule_30_set_base_only_while_nothing_is_in_flight() {
    let one = EventBase::builder().priorities(7).build().unwrap();
    let two = EventBase::new().unwrap();
    let (bev, mut far) = made(&one);
    bev.set_priority(6).unwrap();
    let log = logged(&bev);
    bev.enable(Interest::READ).unwrap();
    settle(&one);
    assert!(matches!(bev.set_base(&two), Err(Error::Invalid { .. })));
    bev.disable(Interest::READ).unwrap();
    far.write_all(b"a").unwrap();
    settle(&one);
    // What came in spite of the pause ended the receive: now it may move.
    bev.set_base(&two).unwrap();
    assert_eq!(one.active(), 0);
    assert_eq!(bev.priority(), 0, "the middle one of its new base");
    bev.enable(Interest::READ).unwrap();
    far.write_all(b"b").unwrap();
    run_until(&two, || bev.input().len() == 2);
    assert_eq!(taken(&log).last().map(String::as_str), Some("read 2"));
    let (a, _b) = BufferEvent::pair(&one, Options::empty()).unwrap();
    assert!(a.set_base(&two).is_err(), "only sockets");
    bev.free();
    two.run().unwrap();
}

#[test]
fn rule_31_priorities_order_callbacks_of_a_turn() {
    let base = EventBase::builder().priorities(3).build().unwrap();
    let order = Rc::new(RefCell::new(Vec::new()));
    let mut keep = Vec::new();
    for priority in [2, 0, 1, 2, 0] {
        let (bev, far) = made(&base);
        assert_eq!(bev.priority(), 1, "the middle one by default");
        bev.set_priority(priority).unwrap();
        let order = order.clone();
        bev.set_callbacks(Callbacks::new().on_read(move |_| order.borrow_mut().push(priority)))
            .unwrap();
        bev.trigger(Interest::READ, TriggerOptions::IGNORE_WATERMARKS)
            .unwrap();
        keep.push((bev, far));
    }
    base.run().unwrap();
    assert_eq!(*order.borrow(), [0, 0, 1, 2, 2]);
    assert!(keep[0].0.set_priority(3).is_err());
    let (pair, _) = BufferEvent::pair(&base, Options::empty()).unwrap();
    assert!(pair.set_priority(0).is_err());
}

#[test]
fn max_single_read_and_write_bound_one_operation() {
    let base = EventBase::new().unwrap();
    let (bev, mut far) = made(&base);
    let log = logged(&bev);
    assert_eq!(bev.max_single(), (0, 0));
    bev.set_max_single_read(3).unwrap();
    bev.set_max_single_write(2).unwrap();
    bev.enable(Interest::READ).unwrap();
    far.write_all(b"1234567").unwrap();
    run_until(&base, || bev.input().len() == 7);
    assert_eq!(taken(&log), ["read 3", "read 6", "read 7"]);
    let before = base.counters().sends;
    bev.write(b"abcde").unwrap();
    run_until(&base, || bev.output().is_empty());
    assert_eq!(base.counters().sends - before, 3);
    let mut got = [0; 5];
    far.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"abcde");
    bev.free();
    // A pipe, which is read plainly.
    let (reader, mut writer) = std::io::pipe().unwrap();
    let reader = Some(OwnedFd::from(reader));
    let bev = BufferEvent::socket(&base, reader, Options::CLOSE_ON_FREE).unwrap();
    let log = logged(&bev);
    bev.set_max_single_read(3).unwrap();
    bev.enable(Interest::READ).unwrap();
    writer.write_all(b"1234567").unwrap();
    run_until(&base, || bev.input().len() == 7);
    assert_eq!(taken(&log), ["read 3", "read 6", "read 7"]);
    bev.free();
}

#[test]
fn threadsafe_remote_keeps_each_senders_order() {
    let base = EventBase::new().unwrap();
    let (bev, mut far) = made_with(&base, Options::CLOSE_ON_FREE | Options::THREADSAFE);
    let (plain, _f) = made(&base);
    assert!(matches!(plain.remote(), Err(Error::Invalid { .. })));
    let remote = bev.remote().unwrap();
    assert!(
        matches!(remote.with(|_| ()), Err(Error::Invalid { .. })),
        "it would wait for itself"
    );
    const SENDERS: u8 = 4;
    const EACH: usize = 500;
    let threads: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let remote = remote.clone();
            std::thread::spawn(move || {
                for i in 0..EACH {
                    remote.write(&[sender, i as u8]).unwrap();
                }
                remote.with(|bev| bev.enabled()).unwrap()
            })
        })
        .collect();
    let last = remote.clone();
    let ender = std::thread::spawn(move || {
        let all = threads
            .into_iter()
            .map(|t| t.join().unwrap())
            .all(|e| e == Interest::WRITE);
        last.close_after_flush(None).unwrap();
        assert!(all);
    });
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        far.read_to_end(&mut got).unwrap();
        got
    });
    base.run_with(RunFlags::NO_EXIT_ON_EMPTY | RunFlags::ONCE)
        .unwrap();
    while !bev.is_freed() || base.active() != 0 {
        base.run_with(RunFlags::NO_EXIT_ON_EMPTY | RunFlags::ONCE)
            .unwrap();
    }
    ender.join().unwrap();
    let got = reader.join().unwrap();
    assert_eq!(got.len(), SENDERS as usize * EACH * 2);
    for sender in 0..SENDERS {
        let seen: Vec<u8> = got
            .chunks(2)
            .filter(|c| c[0] == sender)
            .map(|c| c[1])
            .collect();
        let wanted: Vec<u8> = (0..EACH).map(|i| i as u8).collect();
        assert_eq!(seen, wanted);
    }
    drop(base);
    assert!(matches!(remote.write(b"x"), Err(Error::Freed { .. })));
    let from_elsewhere = std::thread::spawn(move || remote.with(|_| ()));
    assert!(matches!(
        from_elsewhere.join().unwrap(),
        Err(Error::Freed { .. })
    ));
}

#[test]
fn a_buffer_in_use_is_an_error_not_a_panic() {
    let base = EventBase::new().unwrap();
    let (bev, _far) = made(&base);
    let nested = bev
        .output()
        .with(|_| bev.output().with(|_| ()).map_err(|error| error.to_string()))
        .unwrap();
    assert!(nested.unwrap_err().contains("output"));
    // A write is no error: it goes behind what the closure leaves.
    bev.output()
        .with(|output| {
            bev.write(b"later").unwrap();
            output.add(b"first, ").unwrap();
        })
        .unwrap();
    assert_eq!(bev.output().len(), 12);
    assert_eq!(
        bev.output()
            .with(|output| output.to_vec().unwrap())
            .unwrap(),
        b"first, later"
    );
    let run = bev.input().with(|_| base.run().is_err()).unwrap();
    assert!(run, "nor may the loop run meanwhile");
    bev.input().with(|_| bev.free()).unwrap();
    assert!(bev.is_freed());
    base.run().unwrap();
}

#[test]
fn everything_asked_of_a_freed_one_is_an_error() {
    let base = EventBase::new().unwrap();
    let (bev, _far) = made(&base);
    bev.free();
    bev.free();
    assert!(matches!(bev.write(b"x"), Err(Error::Freed { .. })));
    assert!(bev.enable(BOTH).is_err() && bev.disable(BOTH).is_err());
    assert!(
        bev.connect(Addr::from(
            "127.0.0.1:1".parse::<std::net::SocketAddr>().unwrap()
        ))
        .is_err()
    );
    assert_eq!(bev.read(&mut [0; 4]), 0);
    assert!(bev.input().with(|_| ()).is_err());
    assert!(bev.close_after_flush(None, |_| {}).is_err());
    let (orphan, _far) = made(&base);
    base.run().unwrap();
    drop(base);
    assert!(matches!(orphan.write(b"x"), Err(Error::Freed { .. })));
    orphan.free();
}

#[test]
fn rule_14_a_file_segment_is_sent_in_order_with_the_rest() {
    let base = EventBase::new().unwrap();
    let (bev, mut far) = made(&base);
    let content: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    bev.write(b"before ").unwrap();
    bev.output()
        .with(|output| output.add_file(file, 100, Some(900_000)))
        .unwrap()
        .unwrap();
    bev.write(b" after").unwrap();
    bev.close_after_flush(None, |end| assert_eq!(end, evring::FlushEnd::Flushed))
        .unwrap();
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        far.read_to_end(&mut got).unwrap();
        got
    });
    base.run().unwrap();
    let got = reader.join().unwrap();
    let wanted = [b"before ", &content[100..900_100], b" after"].concat();
    assert!(got == wanted, "{} of {}", got.len(), wanted.len());
}

#[test]
fn rule_14_a_file_that_became_too_short_is_a_write_error() {
    let base = EventBase::new().unwrap();
    let (bev, far) = made(&base);
    let log = logged(&bev);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[7; 1000]).unwrap();
    let shrinks = file.try_clone().unwrap();
    bev.disable(Interest::WRITE).unwrap();
    bev.output()
        .with(|output| output.add_file(file, 0, None))
        .unwrap()
        .unwrap();
    shrinks.set_len(10).unwrap();
    bev.enable(Interest::WRITE).unwrap();
    base.run().unwrap();
    assert_eq!(taken(&log), ["WRITING|ERROR"]);
    assert_eq!(bev.output().len(), 1000, "what was not sent is kept");
    drop(far);
}

#[test]
fn rule_08_no_second_call_when_the_callback_disabled_reading() {
    let base = EventBase::new().unwrap();
    let (bev, mut far) = made(&base);
    let calls = Rc::new(Cell::new(0));
    let count = calls.clone();
    bev.set_callbacks(Callbacks::new().on_read(move |bev| {
        count.set(count.get() + 1);
        bev.read(&mut [0; 2]);
        bev.disable(Interest::READ).unwrap();
        // Full even after what was drained.
        bev.set_watermarks(Interest::READ, 0, 4).unwrap();
    }))
    .unwrap();
    bev.enable(Interest::READ).unwrap();
    far.write_all(b"12345678").unwrap();
    run_until(&base, || calls.get() != 0);
    settle(&base);
    assert_eq!((calls.get(), bev.input().len()), (1, 6));
}

#[test]
fn rule_17_deferred_trigger_inside_a_callback_waits_for_the_fifo() {
    let base = EventBase::new().unwrap();
    let (bev, _far) = made(&base);
    let log = Log::default();
    let (read, write) = (log.clone(), log.clone());
    bev.set_callbacks(
        Callbacks::new()
            .on_read(move |bev| {
                read.borrow_mut().push("read".into());
                bev.trigger(Interest::WRITE, TriggerOptions::DEFER_CALLBACKS)
                    .unwrap();
            })
            .on_write(move |_| write.borrow_mut().push("write".into())),
    )
    .unwrap();
    bev.trigger(Interest::READ, TriggerOptions::empty())
        .unwrap();
    assert_eq!(taken(&log), ["read"], "not in the same run of callbacks");
    base.run().unwrap();
    assert_eq!(taken(&log), ["write"]);
}

#[test]
fn rule_23_two_time_outs_at_once_are_two_events() {
    let base = EventBase::new().unwrap();
    let bev = BufferEvent::socket(&base, None, Options::empty()).unwrap();
    let log = logged(&bev);
    bev.set_timeouts(Some(SOON), Some(SOON)).unwrap();
    bev.enable(BOTH).unwrap();
    base.run().unwrap();
    assert_eq!(taken(&log), ["READING|TIMEOUT", "WRITING|TIMEOUT"]);
}
