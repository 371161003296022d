use std::time::Duration;

use super::*;
use crate::bufferevent::{Callbacks, Events, Filter, FilterResult, FlushEnd};
use crate::driver::sim::{Faults, SLOT_BYTES, Sim};
use crate::error::Error;
use crate::evbuffer::EvBuffer;
use crate::relay::{RelayEnd, RelayOptions, relay};

const SECOND: Duration = Duration::from_secs(1);

/// A base whose clock goes on only when the loop sleeps.
fn base() -> EventBase {
    let (sim, _world) = Sim::new(1, Faults::none(), false);
    let built = EventBase::builder().build_on(Box::new(sim), SLOT_BYTES);
    built.expect("a simulated base")
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

/// Collects what a bufferevent receives, and its events.
#[derive(Clone, Default)]
struct Seen {
    bytes: Rc<RefCell<Vec<u8>>>,
    events: Rc<RefCell<Vec<Events>>>,
    writes: Rc<Cell<usize>>,
}

impl Seen {
    fn by(bev: &BufferEvent) -> Self {
        let seen = Seen::default();
        let (reads, events, writes) = (seen.clone(), seen.clone(), seen.clone());
        let callbacks = Callbacks::new()
            .on_read(move |bev| {
                let mut chunk = [0; 700];
                let n = bev.read(&mut chunk);
                reads.bytes.borrow_mut().extend_from_slice(&chunk[..n]);
                if !bev.input().is_empty() {
                    bev.trigger(Interest::READ, crate::TriggerOptions::DEFER_CALLBACKS)
                        .expect("it is open");
                }
            })
            .on_write(move |_| writes.writes.set(writes.writes.get() + 1))
            .on_event(move |bev, event| {
                events.events.borrow_mut().push(event);
                if event.contains(Events::TIMEOUT) {
                    bev.base().expect("it is open").stop();
                }
            });
        bev.set_callbacks(callbacks).expect("it is open");
        seen
    }
}

#[test]
fn what_is_written_to_an_added_transport_is_read_from_it_in_order() {
    for options in [Options::empty(), Options::DEFER_CALLBACKS] {
        for (len, stride, high) in [
            (1, 1, 0),
            (4_096, 100, 0),
            (10_000, usize::MAX, 1_000),
            (300_000, 70_000, 65_536),
        ] {
            let base = base();
            let (bev, inner) = Loopback::make(&base, options, stride);
            let seen = Seen::by(&bev);
            bev.set_watermarks(Interest::READ, 0, high).expect("open");
            bev.enable(Interest::READ).expect("open");
            bev.write(&pattern(len)).expect("open");
            bev.shutdown_write().expect("open");
            assert!(seen.bytes.borrow().is_empty(), "only the loop pumps it");
            base.run().expect("the loop runs");
            let line = &inner.transport;
            assert!(*seen.bytes.borrow() == pattern(len), "{len} by {stride}");
            assert!(seen.writes.get() >= 1, "the write callback");
            let end = Events::READING | Events::EOF;
            assert_eq!(*seen.events.borrow(), [end], "once, after all bytes");
            assert!(line.was_told(Told::Changed(Changed::Enabled(Interest::READ))));
            assert!(line.was_told(Told::Changed(Changed::OutputGrew)));
            let stopped = high != 0 && len >= high;
            let has_room = Told::Changed(Changed::InputHasRoom);
            assert_eq!(line.was_told(has_room), stopped, "{len} and {high}");
            bev.write(b"more").expect_err("its stream has ended");
        }
    }
}

#[test]
fn enables_hold_an_added_transport_and_a_flush_passes_them() {
    let base = base();
    let (bev, inner) = Loopback::make(&base, Options::empty(), usize::MAX);
    bev.write(b"held").expect("open");
    base.run().expect("the loop runs");
    assert_eq!((bev.input().len(), bev.output().len()), (0, 4));
    let both = Interest::READ | Interest::WRITE;
    for (mode, moved) in [
        (FlushMode::Flush, FlushResult::Produced),
        (FlushMode::Finished, FlushResult::Nothing),
    ] {
        assert_eq!(bev.flush(both, mode).expect("open"), moved);
        assert!(inner.transport.was_told(Told::Flush(both, mode)));
    }
    assert_eq!((bev.input().len(), bev.output().len()), (4, 0));
    bev.free();
}

#[test]
fn either_direction_of_an_added_transport_times_out() {
    let kinds = [false, true].map(|outside| {
        let deferral = [Options::empty(), Options::DEFER_CALLBACKS];
        deferral.map(|options| (outside, options))
    });
    for (outside, options) in kinds.into_iter().flatten() {
        for (direction, interest, way) in [
            (Direction::Read, Interest::READ, Events::READING),
            (Direction::Write, Interest::WRITE, Events::WRITING),
        ] {
            let base = base();
            let (bev, inner) = Loopback::make_as(outside, &base, options, 0);
            let seen = Seen::by(&bev);
            let (read, write) = match direction {
                Direction::Read => (Some(SECOND), None),
                Direction::Write => (None, Some(SECOND)),
            };
            bev.set_timeouts(read, write).expect("open");
            bev.enable(Interest::READ).expect("open");
            if direction == Direction::Write {
                bev.write(b"that nobody takes").expect("open");
            }
            let began = base.clock_ns();
            base.run().expect("the loop runs");
            assert_eq!(*seen.events.borrow(), [way | Events::TIMEOUT]);
            assert!(base.clock_ns() - began >= 1_000_000_000, "not before");
            assert!(inner.transport.was_told(Told::TimedOut(direction)));
            assert!(!bev.enabled().contains(interest), "it is disabled");
            bev.free();
        }
    }
}

#[test]
fn bytes_that_move_restart_the_timers_of_an_added_transport() {
    for outside in [false, true] {
        let base = base();
        let options = Options::empty();
        let (bev, _inner) = Loopback::make_as(outside, &base, options, usize::MAX);
        let seen = Seen::by(&bev);
        bev.set_timeouts(Some(SECOND), Some(SECOND)).expect("open");
        bev.enable(Interest::READ).expect("open");
        let (writer, left) = (bev.clone(), Cell::new(4));
        let ticking = base.interval(SECOND / 2, move |timer| {
            writer.write(b".").expect("open");
            left.set(left.get() - 1);
            if left.get() == 0 {
                timer.cancel();
            }
        });
        let _ticking = ticking.expect("a timer");
        let began = base.clock_ns();
        base.run().expect("the loop runs");
        assert_eq!(*seen.bytes.borrow(), b"....");
        let late = Events::READING | Events::TIMEOUT;
        assert_eq!(*seen.events.borrow(), [late], "nothing waits to be written");
        assert!(
            base.clock_ns() - began >= 3_000_000_000,
            "a second of silence"
        );
        bev.free();
    }
}

#[test]
fn a_close_flushes_an_added_transport_or_tells_what_it_did_not_take() {
    for (stride, end, how) in [
        (3, FlushEnd::Flushed, End::Free),
        (0, FlushEnd::TimedOut { unsent: 8 }, End::Reset),
    ] {
        let base = base();
        let (bev, inner) = Loopback::make(&base, Options::CLOSE_ON_FREE, stride);
        bev.write(b"the last").expect("open");
        let told = Rc::new(Cell::new(None));
        let report = told.clone();
        bev.close_after_flush(Some(SECOND), move |end| report.set(Some(end)))
            .expect("open");
        base.run().expect("the loop runs");
        assert_eq!(told.get(), Some(end));
        assert!(bev.is_freed());
        let line = &inner.transport;
        for step in [
            Told::Closing,
            Told::Ended(how),
            Told::Released { close: true },
        ] {
            assert!(line.was_told(step), "{step:?}");
        }
        let reported = || matches!(bev.write(b"x"), Err(Error::Freed { .. }));
        assert!(reported());
    }
}

#[test]
fn each_way_to_end_reaches_an_added_transport() {
    let base = base();
    for (end, told) in [
        (BufferEvent::free as fn(&BufferEvent), End::Free),
        (BufferEvent::reset, End::Reset),
    ] {
        let (bev, inner) = Loopback::make(&base, Options::empty(), 1);
        end(&bev);
        end(&bev);
        let all = inner.transport.told.borrow().clone();
        assert_eq!(all, [Told::Ended(told), Told::Released { close: false }]);
    }
    let (bev, inner) = Loopback::make(&base, Options::empty(), 0);
    bev.write(b"on its way").expect("open");
    let done = Rc::new(Cell::new(false));
    let was = done.clone();
    bev.finish_reading(move |_| was.set(true)).expect("open");
    assert!(inner.transport.was_told(Told::StopReads));
    drop(base);
    assert!(bev.is_freed() && done.get());
    assert!(inner.transport.was_told(Told::BaseEnded));
}

#[test]
fn what_needs_a_descriptor_is_refused_by_an_added_transport() {
    let base = base();
    let (bev, inner) = Loopback::make(&base, Options::empty(), 1);
    let refused = [
        bev.connect("127.0.0.1:1"),
        bev.connect_in_progress(),
        bev.set_fd(None),
        bev.set_nodelay(true),
        bev.set_keepalive(None),
        bev.set_max_single_read(1),
        bev.set_rate_limit(None),
        bev.set_base(&base),
        bev.set_priority(0),
    ];
    for (at, result) in refused.iter().enumerate() {
        assert!(matches!(result, Err(Error::Invalid { .. })), "{at}");
    }
    assert_eq!((bev.fd(), bev.partner()), (None, None));
    assert!(inner.transport.told.borrow().is_empty());
    bev.free();
}

/// Turns each byte over, both ways.
struct Invert;

impl Invert {
    fn turn(from: &mut EvBuffer, to: &mut EvBuffer, limit: Option<usize>) -> FilterResult {
        let n = from.len().min(limit.unwrap_or(usize::MAX)).min(500);
        let mut bytes = vec![0; n];
        let read = from.remove(&mut bytes).expect("bytes in memory");
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
        to.add(&bytes[..read]).expect("room");
        FilterResult::Ok
    }
}

impl Filter for Invert {
    fn input(
        &mut self,
        from: &mut EvBuffer,
        to: &mut EvBuffer,
        limit: Option<usize>,
        _mode: FlushMode,
    ) -> FilterResult {
        Invert::turn(from, to, limit)
    }

    fn output(
        &mut self,
        from: &mut EvBuffer,
        to: &mut EvBuffer,
        limit: Option<usize>,
        _mode: FlushMode,
    ) -> FilterResult {
        Invert::turn(from, to, limit)
    }
}

#[test]
fn a_filter_runs_over_an_added_transport() {
    for (len, stride) in [(1, 1), (5_000, 300), (100_000, usize::MAX)] {
        let base = base();
        let (line, inner) = Loopback::make(&base, Options::CLOSE_ON_FREE, stride);
        let filter = BufferEvent::filter(&line, Invert, Options::CLOSE_ON_FREE);
        let filter = filter.expect("a filter");
        let seen = Seen::by(&filter);
        filter.enable(Interest::READ).expect("open");
        filter.write(&pattern(len)).expect("open");
        filter.shutdown_write().expect("open");
        base.run().expect("the loop runs");
        assert!(*seen.bytes.borrow() == pattern(len), "{len} by {stride}");
        assert_eq!(*seen.events.borrow(), [Events::READING | Events::EOF]);
        filter.free();
        assert!(line.is_freed() && inner.transport.was_told(Told::Ended(End::Free)));
    }
}

#[test]
fn a_relay_joins_an_added_transport_to_another() {
    for (len, stride) in [(1, 1), (50_000, 900), (400_000, usize::MAX)] {
        let base = base();
        let (line, _inner) = Loopback::make(&base, Options::empty(), stride);
        let (near, far) = BufferEvent::pair(&base, Options::empty()).expect("a pair");
        let options = RelayOptions::default().high(20_000);
        let joined = relay(&near, &line, options).expect("a relay");
        let report = Rc::new(Cell::new(None));
        let told = report.clone();
        joined.on_end(move |end| told.set(Some((end.end, end.a_to_b, end.b_to_a))));
        let seen = Seen::by(&far);
        far.enable(Interest::READ).expect("open");
        far.write(&pattern(len)).expect("open");
        far.shutdown_write().expect("open");
        base.run().expect("the loop runs");
        assert!(*seen.bytes.borrow() == pattern(len), "{len} by {stride}");
        let bytes = len as u64;
        assert_eq!(report.get(), Some((RelayEnd::Finished, bytes, bytes)));
        far.free();
    }
}
