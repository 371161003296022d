//! What the comments of libevent's bufferevent header promise and no numbered rule says.

use std::cell::{Cell, RefCell};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use evring::rate_limit::RateLimitConfig;
use evring::{
    BufferEvent, Callbacks, EvBuffer, EventBase, Events, Filter, FlushMode, FlushResult, Interest,
    Options, RunFlags, evbuffer,
};

/// Passes bytes on as they are.
struct Plain;

impl Filter for Plain {}

fn socket(base: &EventBase) -> (BufferEvent, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let bev = BufferEvent::socket(base, Some(ours.into()), Options::CLOSE_ON_FREE).unwrap();
    (bev, theirs)
}

fn pair(base: &EventBase) -> (BufferEvent, BufferEvent) {
    let (a, b) = BufferEvent::pair(base, Options::empty()).unwrap();
    b.enable(Interest::READ).unwrap();
    (a, b)
}

#[test]
fn base_is_the_one_it_lives_on() {
    let base = EventBase::builder().priorities(7).build().unwrap();
    let (bev, _far) = socket(&base);
    assert_eq!(bev.base().unwrap().priorities(), 7);
    bev.free();
    assert!(bev.base().is_err());
}

/// Seen by a duplicate of the descriptor; through filters as well.
#[test]
fn tcp_options_reach_the_socket_and_are_taken_back() {
    use rustix::net::sockopt::{socket_keepalive, tcp_keepidle};
    struct Pass;
    impl Filter for Pass {}
    for filters in [0, 2] {
        let base = EventBase::new().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let seen = client.try_clone().unwrap();
        let fd = Some(client.into());
        let below = BufferEvent::socket(&base, fd, Options::CLOSE_ON_FREE).unwrap();
        let bev = (0..filters).fold(below, |below, _| {
            BufferEvent::filter(&below, Pass, Options::CLOSE_ON_FREE).unwrap()
        });
        for on in [true, false, true] {
            bev.set_nodelay(on).unwrap();
            assert_eq!(seen.nodelay().unwrap(), on);
            let idle = on.then_some(Duration::from_secs(77));
            bev.set_keepalive(idle).unwrap();
            assert_eq!(socket_keepalive(&seen).unwrap(), on);
            if let Some(idle) = idle {
                assert_eq!(tcp_keepidle(&seen).unwrap(), idle);
            }
        }
        let (unix, _far) = socket(&base);
        assert!(unix.set_nodelay(true).is_err(), "no TCP");
    }
}

#[test]
fn cleared_callbacks_are_called_no_more_and_dropped() {
    let base = EventBase::new().unwrap();
    let (bev, mut far) = socket(&base);
    let held = Rc::new(Cell::new(0));
    let count = held.clone();
    bev.set_callbacks(Callbacks::new().on_read(move |_| count.set(count.get() + 1)))
        .unwrap();
    bev.enable(Interest::READ).unwrap();
    bev.clear_callbacks().unwrap();
    assert_eq!(Rc::strong_count(&held), 1);
    std::io::Write::write_all(&mut far, b"x").unwrap();
    while bev.input().is_empty() {
        base.run_with(evring::RunFlags::ONCE).unwrap();
    }
    assert_eq!(held.get(), 0);
}

#[test]
fn write_buffer_and_read_buffer_move_by_reference() {
    let base = EventBase::new().unwrap();
    let (a, b) = pair(&base);
    let mut source = EvBuffer::new();
    source.add_piece(vec![7; 100_000]).unwrap();
    let before = evbuffer::copied_bytes();
    a.write_buffer(&mut source).unwrap();
    assert!(source.is_empty(), "it is drained");
    base.run().unwrap();
    let mut sink = EvBuffer::new();
    assert_eq!(b.read_buffer(&mut sink).unwrap(), 100_000);
    assert_eq!((b.input().len(), sink.len()), (0, 100_000));
    assert_eq!(evbuffer::copied_bytes(), before);
}

#[test]
fn what_is_appended_to_the_output_buffer_is_sent() {
    let base = EventBase::new().unwrap();
    let (bev, mut far) = socket(&base);
    let append = |bev: &BufferEvent| bev.output().with(|output| output.add(b"by hand"));
    append(&bev).unwrap().unwrap();
    base.run().unwrap();
    let mut got = [0; 7];
    far.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"by hand");

    let (under, far) = pair(&base);
    let filter = BufferEvent::filter(&under, Plain, Options::CLOSE_ON_FREE).unwrap();
    append(&filter).unwrap().unwrap();
    base.run().unwrap();
    assert_eq!(far.input().len(), 7, "through a filter without a trigger");
}

#[test]
fn the_write_callback_waits_for_the_low_mark() {
    let base = EventBase::new().unwrap();
    let (a, b) = pair(&base);
    let calls = Rc::new(Cell::new(0));
    let count = calls.clone();
    a.set_callbacks(Callbacks::new().on_write(move |_| count.set(count.get() + 1)))
        .unwrap();
    a.set_watermarks(Interest::WRITE, 3, 0).unwrap();
    b.set_watermarks(Interest::READ, 0, 5).unwrap();
    a.write(b"0123456789").unwrap();
    base.run().unwrap();
    assert_eq!((a.output().len(), calls.get()), (5, 0));
    b.read(&mut [0; 2]);
    base.run().unwrap();
    assert_eq!((a.output().len(), calls.get()), (3, 1));
}

#[test]
fn enable_and_set_timeouts_restart_a_timeout() {
    let base = EventBase::new().unwrap();
    let quiet = Duration::from_millis(120);
    for restart in [
        (|bev: &BufferEvent, _| bev.enable(Interest::READ)) as fn(&BufferEvent, Duration) -> _,
        |bev, quiet| bev.set_timeouts(Some(quiet), None),
    ] {
        let (bev, _far) = socket(&base);
        let events = Rc::new(RefCell::new(Vec::new()));
        let seen = events.clone();
        bev.set_callbacks(Callbacks::new().on_event(move |_, what| {
            seen.borrow_mut().push((what, Instant::now()));
        }))
        .unwrap();
        bev.set_timeouts(Some(quiet), None).unwrap();
        bev.enable(Interest::READ).unwrap();
        let restarted = Rc::new(Cell::new(None));
        let (when, again) = (restarted.clone(), bev.clone());
        base.timer(quiet / 2, move |_| {
            when.set(Some(Instant::now()));
            restart(&again, quiet).unwrap();
        })
        .unwrap();
        base.run().unwrap();
        let events = events.borrow();
        let [(what, at)] = events[..] else {
            panic!("one event, not {events:?}")
        };
        assert_eq!(what, Events::READING | Events::TIMEOUT);
        let waited = at - restarted.get().expect("the timer came first");
        // The loop's time is read once a turn: a little less than asked for is right.
        assert!(waited >= quiet * 9 / 10, "{waited:?} after the restart");
    }
}

#[test]
fn a_flush_goes_past_the_marks_of_what_is_below() {
    let base = EventBase::new().unwrap();
    let (under, far) = BufferEvent::pair(&base, Options::empty()).unwrap();
    under.set_watermarks(Interest::WRITE, 0, 2).unwrap();
    let filter = BufferEvent::filter(&under, Plain, Options::CLOSE_ON_FREE).unwrap();
    filter.write(b"abcde").unwrap();
    assert_eq!((under.output().len(), filter.output().len()), (2, 3));
    let flushed = filter.flush(Interest::WRITE, FlushMode::Flush).unwrap();
    assert_eq!(flushed, FlushResult::Produced);
    assert_eq!((far.input().len(), filter.output().len()), (5, 0));
}

#[test]
fn a_filter_object_is_dropped_with_its_bufferevent() {
    struct Told(Rc<Cell<bool>>);
    impl Filter for Told {}
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    let base = EventBase::new().unwrap();
    let (under, _far) = pair(&base);
    let dropped = Rc::new(Cell::new(false));
    let filter =
        BufferEvent::filter(&under, Told(dropped.clone()), Options::CLOSE_ON_FREE).unwrap();
    assert!(!dropped.get());
    filter.free();
    assert!(dropped.get());
}

#[test]
fn a_groups_buckets_are_read_and_moved_one_by_one() {
    use evring::rate_limit::{Direction, RateLimitConfig};
    let base = EventBase::new().unwrap();
    let config = RateLimitConfig::new(100, 100, 200, 200, None).unwrap();
    let group = base.rate_limit_group(&config);
    let now = base.clock_ns();
    let levels = || {
        (
            group.limit(Direction::Read, now),
            group.limit(Direction::Write, now),
        )
    };
    assert_eq!(levels(), (100, 200));
    group.decrement(Direction::Read, 150, now);
    assert_eq!(levels(), (-50, 200));
    group.decrement(Direction::Write, 1, now);
    group.decrement(Direction::Read, -50, now);
    assert_eq!(levels(), (0, 199));
}

/// Whether the far end has seen the end.
type Far = Box<dyn FnMut() -> bool>;

/// A bufferevent of each flavour, with something of its own that tells when it is gone.
fn of_each_flavour(base: &EventBase) -> Vec<(&'static str, BufferEvent, Far)> {
    let at_end = |mut far: UnixStream| -> Far {
        far.set_nonblocking(true).unwrap();
        Box::new(move || matches!(far.read(&mut [0; 8]), Ok(0)))
    };
    let (over, far) = socket(base);
    let mut all = vec![("socket", over, at_end(far))];
    let (near, far) = BufferEvent::pair(base, Options::empty()).unwrap();
    all.push(("pair", near, Box::new(move || far.partner().is_none())));
    let (under, far) = socket(base);
    let filter = BufferEvent::filter(&under, Plain, Options::CLOSE_ON_FREE).unwrap();
    all.push(("filter", filter, at_end(far)));
    all
}

#[test]
fn a_set_up_that_fails_frees_what_it_guards() {
    fn set_up(bev: BufferEvent, fails: bool) -> Result<BufferEvent, evring::Error> {
        let bev = bev.free_on_drop();
        bev.write(b"")?;
        bev.enable(Interest::READ)?;
        if fails {
            // A pair and a filter have no limits, and no base has so many priorities.
            let slow = RateLimitConfig::new(1, 1, 1, 1, None).unwrap();
            bev.set_rate_limit(Some(&slow))?;
            bev.set_priority(9)?;
        }
        Ok(bev.keep())
    }
    for fails in [true, false] {
        let base = EventBase::new().unwrap();
        for (flavour, bev, mut is_over) in of_each_flavour(&base) {
            let handle = bev.clone();
            let kept = set_up(bev, fails);
            assert_eq!(kept.is_err(), fails, "{flavour}");
            assert_eq!(handle.is_freed(), fails, "{flavour}");
            base.run_with(RunFlags::NONBLOCK).unwrap();
            if fails {
                // Nothing is left that keeps the loop: it goes on until descriptors are closed.
                base.run().unwrap();
            }
            assert_eq!(is_over(), fails, "{flavour}");
            if let Ok(kept) = kept {
                assert_eq!(kept, handle);
                kept.free();
            }
        }
    }
}

#[test]
fn a_guard_frees_in_a_panic_and_minds_no_free_before_it() {
    let base = EventBase::new().unwrap();
    for (flavour, bev, mut is_over) in of_each_flavour(&base) {
        let handle = bev.clone();
        let set_up = move || {
            let guard = bev.free_on_drop();
            assert_eq!(
                guard.enabled(),
                Interest::WRITE,
                "it is used like its bufferevent"
            );
            std::panic::resume_unwind(Box::new("midway"));
        };
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(set_up));
        assert!(caught.is_err() && handle.is_freed(), "{flavour}");
        base.run().unwrap();
        assert!(is_over(), "{flavour}");
    }
    let (bev, _far) = socket(&base);
    let guard = bev.clone().free_on_drop();
    bev.free();
    assert!(guard.is_freed());
    drop(guard);
    let guard = bev.free_on_drop();
    drop(base);
    drop(guard);
}

/// Received bytes pin the slot that they came in. A small rest does not, and what a close drops
/// does not.
#[test]
fn a_small_rest_in_the_input_pins_no_slot_and_a_close_lets_go_of_all() {
    for (arrives, taken, pins) in [(100, 50, false), (8_000, 7_900, false), (8_000, 100, true)] {
        let base = EventBase::builder().slot_size(16 << 10).build().unwrap();
        base.run_with(evring::RunFlags::NONBLOCK).unwrap();
        let idle = base.slots_live();
        let (bev, mut far) = socket(&base);
        let got = Rc::new(Cell::new(0));
        let sum = got.clone();
        bev.set_callbacks(Callbacks::new().on_read(move |bev| {
            sum.set(bev.input().len());
            bev.read(&mut vec![0; taken]);
        }))
        .unwrap();
        bev.enable(Interest::READ).unwrap();
        std::io::Write::write_all(&mut far, &vec![7; arrives]).unwrap();
        while got.get() == 0 {
            base.run_with(evring::RunFlags::ONCE).unwrap();
        }
        assert_eq!(got.get(), arrives);
        bev.disable(Interest::READ).unwrap();
        base.run_with(evring::RunFlags::NONBLOCK).unwrap();
        assert_eq!(base.slots_live() > idle, pins, "{arrives} less {taken}");
        assert_eq!(bev.input().len(), arrives - taken);
        bev.write(&vec![7; 8 << 20]).unwrap();
        bev.close_after_flush(None, |_| {}).unwrap();
        base.run_with(evring::RunFlags::NONBLOCK).unwrap();
        assert!(!bev.is_freed(), "it still has to send");
        assert_eq!((bev.input().len(), base.slots_live()), (0, idle));
    }
}

/// Nobody reads them yet: they share memory instead of a slot each.
#[test]
fn many_small_messages_in_the_input_pin_few_slots() {
    let base = EventBase::builder().slot_size(16 << 10).build().unwrap();
    base.run_with(evring::RunFlags::NONBLOCK).unwrap();
    let idle = base.slots_live();
    let (bev, mut far) = socket(&base);
    bev.enable(Interest::READ).unwrap();
    for message in 1..=100 {
        std::io::Write::write_all(&mut far, &[message; 64]).unwrap();
        while bev.input().len() < 64 * usize::from(message) {
            base.run_with(evring::RunFlags::ONCE).unwrap();
        }
    }
    let live = base.slots_live();
    assert!(live <= idle + 2, "{live} slots, {idle} before");
    let got = bev.input().with(|input| input.to_vec().unwrap()).unwrap();
    let sent = |at: usize| u8::try_from(at / 64 + 1).unwrap();
    assert!(got.iter().enumerate().all(|(at, byte)| *byte == sent(at)));
}
