//! Bugs that were fixed, one test each, named after what went wrong.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use evring::rate_limit::{Direction, RateLimitConfig};
use evring::{
    Addr, BufferEvent, Callbacks, EventBase, Events, FlushEnd, Interest, Options, RelayEnd,
    RelayOptions, RelaySide, RunFlags, relay,
};

fn over(base: &EventBase, stream: UnixStream) -> BufferEvent {
    BufferEvent::socket(base, Some(stream.into()), Options::CLOSE_ON_FREE).expect("a bufferevent")
}

#[test]
fn a_shutdown_asked_for_before_the_connect_was_forgotten() {
    let base = EventBase::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = Addr::from(listener.local_addr().unwrap());
    let bev = BufferEvent::socket(&base, None, Options::CLOSE_ON_FREE).unwrap();
    bev.write(b"all there is").unwrap();
    bev.shutdown_write().unwrap();
    bev.connect(&addr).unwrap();
    assert!(bev.write(b"more").is_err(), "the direction stays shut");
    let peer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        all
    });
    bev.set_callbacks(Callbacks::new().on_event(|bev, events| {
        if events.contains(Events::EOF) {
            bev.free();
        }
    }))
    .unwrap();
    bev.enable(Interest::READ).unwrap();
    base.run().unwrap();
    assert_eq!(peer.join().unwrap(), "all there is");
}

#[test]
fn a_buffer_held_by_a_closure_outlived_the_free_within_it() {
    let base = EventBase::new().unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let bev = over(&base, ours);
    let before = Rc::new(Cell::new(0));
    let live = before.clone();
    bev.set_callbacks(Callbacks::new().on_read(move |bev| {
        live.set(bev.base().unwrap().slots_live());
        let freed = bev.input().with(|_input| bev.free());
        freed.unwrap();
    }))
    .unwrap();
    bev.enable(Interest::READ).unwrap();
    theirs.write_all(&[7; 16_384]).unwrap();
    base.run().unwrap();
    // The handle is still there; the memory went back to the window.
    assert!(bev.is_freed());
    assert_eq!(base.slots_live(), before.get());
}

#[test]
fn an_end_of_stream_that_was_due_was_told_after_reading_was_finished() {
    let base = EventBase::new().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.shutdown(Shutdown::Write).unwrap();
    let options = Options::CLOSE_ON_FREE | Options::DEFER_CALLBACKS;
    let bev = BufferEvent::socket(&base, Some(ours.into()), options).unwrap();
    let told = Rc::new(RefCell::new(Vec::new()));
    let (writes, events) = (told.clone(), told.clone());
    bev.set_callbacks(
        Callbacks::new()
            .on_write(move |bev| {
                writes.borrow_mut().push("write");
                let writes = writes.clone();
                let finished = bev.finish_reading(move |bev| {
                    writes.borrow_mut().push("finished");
                    bev.free();
                });
                finished.unwrap();
            })
            .on_event(move |_, _| events.borrow_mut().push("event")),
    )
    .unwrap();
    // Both are due in one deferred run: the write callback for the enable, and the end.
    bev.enable(Interest::READ | Interest::WRITE).unwrap();
    base.run().unwrap();
    assert_eq!(*told.borrow(), ["write", "finished"]);
}

#[test]
fn a_relay_whose_last_bytes_were_refused_said_that_it_finished() {
    let base = EventBase::new().unwrap();
    let (mut left, a) = UnixStream::pair().unwrap();
    let (right, b) = UnixStream::pair().unwrap();
    let options = RelayOptions::default().high(16 << 20);
    let joined = relay(&over(&base, a), &over(&base, b), options).unwrap();
    let report = Rc::new(Cell::new(None));
    let told = report.clone();
    joined.on_end(move |how| told.set(Some(*how)));

    const TOTAL: usize = 4 << 20;
    let sender = std::thread::spawn(move || {
        left.write_all(&vec![1; TOTAL]).unwrap();
        left.shutdown(Shutdown::Write).unwrap();
        left
    });
    right.shutdown(Shutdown::Write).unwrap();
    // It reads nothing, and goes once the relay has all of it.
    let mut right = Some(right);
    let watched = joined.clone();
    base.interval(Duration::from_millis(20), move |timer| {
        if watched.bytes().0 == TOTAL as u64 && right.take().is_none() {
            timer.cancel();
        }
    })
    .unwrap();
    base.run().unwrap();
    drop(sender.join());
    let report = report.get().expect("it ended");
    assert!(report.undelivered > 0, "{report:?}");
    let RelayEnd::Failed { side, .. } = report.end else {
        panic!("it failed: {report:?}");
    };
    assert_eq!(side, RelaySide::B);
}

#[test]
fn a_relay_counted_what_it_could_not_deliver_twice() {
    let base = EventBase::new().unwrap();
    let (mut left, a) = UnixStream::pair().unwrap();
    let (right, b) = UnixStream::pair().unwrap();
    let joined = relay(&over(&base, a), &over(&base, b), RelayOptions::default()).unwrap();
    let report = Rc::new(Cell::new(None));
    let told = report.clone();
    joined.on_end(move |how| told.set(Some(*how)));
    // Sends to it are refused, although its own stream goes on.
    right.shutdown(Shutdown::Read).unwrap();
    left.write_all(&[1; 1000]).unwrap();
    let mut peers = vec![left, right];
    let watched = joined.clone();
    base.interval(Duration::from_millis(5), move |timer| {
        // One after the other, once the relay has tried.
        if watched.bytes().0 == 1000 && peers.pop().is_none() {
            timer.cancel();
        }
    })
    .unwrap();
    base.run().unwrap();
    let report = report.get().expect("it ended");
    assert_eq!(report.undelivered, 1000, "{report:?}");
}

#[test]
fn connecting_a_connected_bufferevent_is_refused() {
    let base = EventBase::new().unwrap();
    let (ours, mut far) = UnixStream::pair().unwrap();
    let bev = over(&base, ours);
    let anywhere: Addr = "127.0.0.1:9".parse().unwrap();
    assert!(matches!(
        bev.connect(&anywhere),
        Err(evring::Error::Invalid { .. })
    ));
    bev.write(b"still connected").unwrap();
    base.run().unwrap();
    let mut got = [0; 15];
    far.read_exact(&mut got).unwrap();
}

#[test]
fn a_buffer_put_in_the_outputs_place_is_sent_whole() {
    let base = EventBase::new().unwrap();
    let (ours, mut far) = UnixStream::pair().unwrap();
    let bev = over(&base, ours);
    // More than the socket takes: the send stays under way.
    bev.write(&vec![b'x'; 4 << 20]).unwrap();
    base.run_with(RunFlags::NONBLOCK).unwrap();
    let taken = bev.output().with(std::mem::take).unwrap();
    // What the kernel has begun to take is on its way, and not in what was taken out.
    let under_way = (4 << 20) - taken.len();
    assert!(under_way != 0 && bev.output().len() == under_way);
    bev.write(b"new").unwrap();
    bev.close_after_flush(None, |_| {}).unwrap();
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        far.read_to_end(&mut got).unwrap();
        got
    });
    base.run().unwrap();
    let got = reader.join().unwrap();
    assert_eq!(got.len(), under_way + 3, "each byte once");
    assert!(got.ends_with(b"xnew"));
}

#[test]
fn a_close_of_a_pair_waited_for_a_partner_that_was_gone() {
    let base = EventBase::new().unwrap();
    let (closing, partner) = BufferEvent::pair(&base, Options::empty()).unwrap();
    let told = Rc::new(Cell::new(None));
    let report = told.clone();
    closing.write(b"nobody reads this").unwrap();
    closing
        .close_after_flush(None, move |end| report.set(Some(end)))
        .unwrap();
    base.timer(Duration::from_millis(1), move |_| partner.free())
        .unwrap();
    base.timer(Duration::from_secs(10), |timer| {
        timer.base().unwrap().stop();
    })
    .unwrap();
    let waiting = told.clone();
    base.interval(Duration::from_millis(1), move |timer| {
        if waiting.get().is_some() {
            timer.base().unwrap().stop();
        }
    })
    .unwrap();
    base.run().unwrap();
    assert_eq!(told.get(), Some(FlushEnd::Failed { unsent: 17 }));
}

thread_local! {
    /// What a payload's destructor, which has to be `Send`, finds the world by.
    static WORLD: RefCell<Option<(EventBase, BufferEvent)>> = const { RefCell::new(None) };
    static DROPPED: Cell<u32> = const { Cell::new(0) };
}

/// A payload whose destructor calls back.
struct Calling(Vec<u8>);

impl AsRef<[u8]> for Calling {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        let world = WORLD.with_borrow(Clone::clone);
        let Some((base, bev)) = world else { return };
        DROPPED.set(DROPPED.get() + 1);
        let _in_flight = base.in_flight();
        bev.write(b"dropped").expect("another bufferevent takes it");
    }
}

#[test]
fn the_destructor_of_a_payload_in_flight_found_the_ring_borrowed() {
    for pieces in [1, 3] {
        let base = EventBase::new().expect("a base");
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (other, mut told) = UnixStream::pair().expect("a pair");
        let bev = over(&base, ours);
        WORLD.set(Some((base.clone(), over(&base, other))));
        DROPPED.set(0);
        for _ in 0..pieces {
            // More than the socket takes: the send stays in flight.
            let payload = bytes::Bytes::from_owner(Calling(vec![7; 1 << 19]));
            bev.write_piece(payload).expect("it is not freed");
        }
        base.run_with(RunFlags::NONBLOCK).expect("a turn");
        // The operation holds the last reference from here on.
        bev.free();
        base.run().expect("until all is cancelled and told");
        assert_eq!(DROPPED.get(), pieces);
        let mut got = vec![0; 7 * pieces as usize];
        told.read_exact(&mut got).expect("each destructor wrote");
        WORLD.set(None);
        drop(theirs);
    }
}

#[test]
fn a_base_whose_last_handle_goes_inside_a_callback() {
    let holder: Rc<RefCell<Option<EventBase>>> = Rc::default();
    let base = EventBase::new().expect("a base");
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    let bev = over(&base, ours);
    let mine = holder.clone();
    let called = Rc::new(Cell::new(false));
    let seen = called.clone();
    bev.set_callbacks(Callbacks::new().on_read(move |bev| {
        let last = mine.borrow_mut().take();
        drop(last);
        bev.write(b"still there: the loop that runs holds it")
            .expect("the loop holds the base");
        seen.set(true);
        bev.free();
    }))
    .expect("callbacks");
    bev.enable(Interest::READ).expect("enabled");
    theirs.write_all(b"x").expect("written");
    let weak = base.clone();
    *holder.borrow_mut() = Some(base);
    weak.run().expect("a run");
    drop(weak);
    assert!(called.get() && bev.is_freed());
    let mut rest = Vec::new();
    theirs.read_to_end(&mut rest).expect("closed");
}

#[test]
fn a_callback_that_panicked_was_never_called_again() {
    let base = EventBase::new().expect("a base");
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    let bev = over(&base, ours);
    let calls = Rc::new(Cell::new(0));
    let count = calls.clone();
    bev.set_callbacks(Callbacks::new().on_read(move |bev| {
        count.set(count.get() + 1);
        bev.read(&mut [0; 8]);
        assert!(count.get() != 1, "the first time");
        bev.base().expect("it runs").stop();
        bev.free();
    }))
    .expect("callbacks");
    bev.enable(Interest::READ).expect("enabled");
    theirs.write_all(b"x").expect("written");
    let run = std::panic::AssertUnwindSafe(|| base.run());
    assert!(std::panic::catch_unwind(run).is_err());
    // Whoever catches the panic may go on: the handler is in its place again, the bufferevent not
    // stuck in a call.
    theirs.write_all(b"y").expect("written");
    base.stop_after(Duration::from_secs(10));
    base.run().expect("a run");
    assert_eq!(calls.get(), 2);
}

#[test]
fn what_others_had_to_send_was_forgotten_when_a_callback_panicked() {
    let base = EventBase::new().expect("a base");
    let (ours, _theirs) = UnixStream::pair().expect("a pair");
    let (also_ours, mut far) = UnixStream::pair().expect("a pair");
    let (panicking, other) = (over(&base, ours), over(&base, also_ours));
    panicking
        .set_callbacks(Callbacks::new().on_write(|_| panic!("before the others are begun")))
        .expect("callbacks");
    panicking.enable(Interest::WRITE).expect("enabled");
    other.write(b"sent").expect("written");
    let run = std::panic::AssertUnwindSafe(|| base.run());
    assert!(std::panic::catch_unwind(run).is_err());
    for _ in 0..5 {
        base.run_with(RunFlags::NONBLOCK).expect("a turn");
    }
    far.set_nonblocking(true).expect("a flag");
    let mut got = [0; 4];
    far.read_exact(&mut got).expect("it was sent");
    assert_eq!(base.active(), 0, "nothing keeps the loop alive");
}

/// Panics once, in the middle of its work.
struct PanicsOnce(bool);

impl evring::Filter for PanicsOnce {
    fn input(
        &mut self,
        src: &mut evring::EvBuffer,
        dst: &mut evring::EvBuffer,
        _limit: Option<usize>,
        _mode: evring::FlushMode,
    ) -> evring::FilterResult {
        src.remove_buffer(dst, 1).expect("both are thawed");
        assert!(std::mem::replace(&mut self.0, true), "the first time");
        src.remove_buffer(dst, usize::MAX).expect("as before");
        evring::FilterResult::Ok
    }
}

#[test]
fn a_filter_that_panicked_was_gone_and_the_loop_spun() {
    let base = EventBase::new().expect("a base");
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    let filter = BufferEvent::filter(
        &over(&base, ours),
        PanicsOnce(false),
        Options::CLOSE_ON_FREE,
    )
    .expect("a filter");
    filter
        .set_callbacks(Callbacks::new().on_read(|bev| {
            if bev.input().len() == 6 {
                bev.base().expect("it runs").stop();
            }
        }))
        .expect("callbacks");
    filter.enable(Interest::READ).expect("enabled");
    theirs.write_all(b"abc").expect("written");
    let run = std::panic::AssertUnwindSafe(|| base.run());
    assert!(std::panic::catch_unwind(run).is_err());
    let frozen = filter.input().with(|input| input.add(b"x").is_err());
    assert!(frozen.expect("it is no longer in use"));
    theirs.write_all(b"def").expect("written");
    base.stop_after(Duration::from_secs(10));
    base.run().expect("a run");
    let mut got = [0; 8];
    assert_eq!(filter.read(&mut got), 6);
    assert_eq!(&got[..6], b"abcdef");
}

/// So many bytes a tick both ways.
fn limit(rate: usize, tick: Duration) -> RateLimitConfig {
    RateLimitConfig::new(rate, rate, rate, rate, Some(tick)).expect("good limits")
}

const HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn a_group_that_refused_a_member_left_it_suspended_for_ever() {
    let base = EventBase::new().expect("a base");
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    let bev = over(&base, ours);
    bev.set_rate_limit(Some(&limit(10, Duration::from_millis(20))))
        .expect("a socket");
    bev.write(&[1; 30]).expect("written");
    bev.close_after_flush(None, |end| assert_eq!(end, FlushEnd::Flushed))
        .expect("a live one");
    for _ in 0..3 {
        base.run_with(RunFlags::NONBLOCK).expect("a turn");
    }
    assert_eq!(bev.output().len(), 20, "suspended");
    let group = base.rate_limit_group(&limit(10, HOUR));
    group.free().expect("no members");
    assert!(bev.add_to_group(&group).is_err());
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).expect("the end");
        all.len()
    });
    let remote = base.remote().expect("a descriptor");
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(10));
        let _done = remote.stop();
    });
    assert_eq!(base.run().expect("a run"), evring::Exit::Idle);
    assert_eq!(reader.join().expect("no panic"), 30);
}

/// A base whose slots a reader holds that keeps all that it gets; the connection that it read from
/// comes with it.
fn spent_base() -> (EventBase, BufferEvent, TcpStream) {
    let base = EventBase::builder()
        .max_buffer_bytes(2 << 20)
        .window(4)
        .build()
        .expect("a ring");
    let (far, near) = tcp_pair();
    let hog = BufferEvent::socket(&base, Some(near.into()), Options::CLOSE_ON_FREE).expect("live");
    hog.enable(Interest::READ).expect("enabled");
    far.set_nonblocking(true).expect("a flag");
    let (mut quiet, mut held) = (0, 0);
    while quiet < 1_000 {
        let _full = (&far).write(&[7; 64 << 10]);
        base.run_with(RunFlags::NONBLOCK).expect("a turn");
        let holds = hog.input().len();
        quiet = if holds == held { quiet + 1 } else { 0 };
        held = holds;
    }
    assert!(base.counters().starved > 0, "{}", base.counters());
    (base, hog, far)
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let far = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    (far, listener.accept().expect("a connection waits").0)
}

/// A reader of so many bytes that have arrived.
fn reader(base: &EventBase, bytes: usize) -> (BufferEvent, TcpStream) {
    let (mut far, near) = tcp_pair();
    far.write_all(&vec![1; bytes]).expect("room for it");
    let bev = BufferEvent::socket(base, Some(near.into()), Options::CLOSE_ON_FREE).expect("live");
    (bev, far)
}

#[test]
fn readers_without_a_slot_passed_the_budget_of_a_group_round_and_round() {
    const BUDGET: usize = 1_000;
    let (base, _hog, _far) = spent_base();
    let group = base.rate_limit_group(&limit(BUDGET, HOUR));
    let read = Rc::new(Cell::new(0));
    let mut readers = Vec::new();
    for _ in 0..3 {
        let (bev, far) = reader(&base, 10 * BUDGET);
        bev.add_to_group(&group).expect("an open group");
        let sum = read.clone();
        bev.set_callbacks(Callbacks::new().on_read(move |bev| {
            let drained = bev.input().with(|input| {
                let n = input.len();
                input.drain(n).expect("thawed")
            });
            sum.set(sum.get() + drained.expect("live"));
        }))
        .expect("callbacks");
        bev.enable(Interest::READ).expect("enabled");
        readers.push((bev, far));
    }
    base.stop_after(Duration::from_secs(10));
    while read.get() < BUDGET {
        let exit = base.run_with(RunFlags::ONCE).expect("a turn");
        assert_eq!(exit, evring::Exit::Turned, "{} bytes", read.get());
    }
    base.stop_after(Duration::from_millis(100));
    base.run().expect("a run");
    let most = BUDGET + group.min_share();
    assert!((BUDGET..most).contains(&read.get()), "{} bytes", read.get());
    assert!(group.limit(Direction::Read, base.clock_ns()) <= 0);
    // And then there was quiet.
    let turns = base.counters().turns;
    base.stop_after(Duration::from_millis(100));
    base.run().expect("a run");
    let more = base.counters().turns - turns;
    assert!(more < 100, "{more} turns with nothing to do");
}

#[test]
fn a_reader_whose_limit_was_spent_when_it_got_a_slot_was_never_woken() {
    let (base, hog, hog_far) = spent_base();
    let (bev, _far) = reader(&base, 100_000);
    let tick = Duration::from_millis(20);
    bev.set_rate_limit(Some(&limit(50_000, tick)))
        .expect("a socket");
    bev.enable(Interest::READ).expect("enabled");
    // It reads what the reserved slot takes, keeps it, and waits for another.
    let starved = base.counters().starved;
    for _ in 0..1_000 {
        base.run_with(RunFlags::NONBLOCK).expect("a turn");
    }
    assert!(
        base.counters().starved > starved && !bev.input().is_empty(),
        "starved {} then {}, {} bytes in",
        starved,
        base.counters().starved,
        bev.input().len()
    );
    bev.decrement_read_limit(100_000).expect("live");
    base.run_with(RunFlags::NONBLOCK).expect("a turn");
    drop(hog_far);
    hog.free();
    bev.set_callbacks(Callbacks::new().on_read(|bev| {
        if bev.input().len() == 100_000 {
            bev.base().expect("it runs").stop();
        }
    }))
    .expect("callbacks");
    base.stop_after(Duration::from_secs(10));
    base.run().expect("a run");
    assert_eq!(bev.input().len(), 100_000);
}
