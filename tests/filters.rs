//! Promises of filters, varied over what is below, how many there are, deferral, and how it ends.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

mod common;

use common::{Pass, adopt, all_of, events_of, tcp_pair, under_filters};
use evring::{
    BufferEvent, Callbacks, Error, EvBuffer, EventBase, Events, Filter, FilterResult, FlushEnd,
    FlushMode, Interest, Options, RelayOptions, RunFlags, relay,
};

const DEFERRAL: [Options; 2] = [Options::empty(), Options::DEFER_CALLBACKS];
const BOTH: Interest = Interest::all();

/// Appends a trailer to what is sent, and to what is received, each time that it is told that this
/// was the last of it.
struct Trailer;

impl Trailer {
    fn run(src: &mut EvBuffer, dst: &mut EvBuffer, mode: FlushMode) -> FilterResult {
        dst.add_buffer(src).unwrap();
        if mode == FlushMode::Finished {
            dst.add(b"!").unwrap();
        }
        FilterResult::Ok
    }
}

impl Filter for Trailer {
    fn input(
        &mut self,
        src: &mut EvBuffer,
        dst: &mut EvBuffer,
        _: Option<usize>,
        mode: FlushMode,
    ) -> FilterResult {
        Self::run(src, dst, mode)
    }

    fn output(
        &mut self,
        src: &mut EvBuffer,
        dst: &mut EvBuffer,
        _: Option<usize>,
        mode: FlushMode,
    ) -> FilterResult {
        Self::run(src, dst, mode)
    }
}

/// Turns the loop until the condition holds.
#[track_caller]
fn turn_until(base: &EventBase, holds: impl FnMut() -> bool) {
    assert!(common::turn_until(base, holds), "it never held");
}

fn settle(base: &EventBase) {
    for _ in 0..5 {
        base.run_with(RunFlags::NONBLOCK | RunFlags::NO_EXIT_ON_EMPTY)
            .unwrap();
    }
}

fn input_of(bev: &BufferEvent) -> Vec<u8> {
    let mut all = vec![0; bev.input().len()];
    let n = bev.read(&mut all);
    assert_eq!(n, all.len());
    all
}

#[test]
fn an_output_filter_is_told_of_the_last_of_it_once_however_it_ends() {
    type Ends = fn(&BufferEvent);
    let ways: [Ends; 4] = [
        |_| {},
        |bev| bev.shutdown_write().unwrap(),
        |bev| assert!(bev.flush(Interest::WRITE, FlushMode::Finished).is_ok()),
        |bev| {
            bev.flush(BOTH, FlushMode::Finished).unwrap();
            bev.flush(BOTH, FlushMode::Finished).unwrap();
            bev.shutdown_write().unwrap();
        },
    ];
    for ends in ways {
        for options in DEFERRAL {
            for turns in [false, true] {
                let base = EventBase::new().unwrap();
                let (ours, far) = UnixStream::pair().unwrap();
                let below = under_filters(&adopt(&base, ours), 1, options);
                let options = options | Options::CLOSE_ON_FREE;
                let bev = BufferEvent::filter(&below, Trailer, options).unwrap();
                bev.write(b"body").unwrap();
                ends(&bev);
                if turns {
                    settle(&base);
                }
                bev.close_after_flush(None, |end| assert_eq!(end, FlushEnd::Flushed))
                    .unwrap();
                let reading = thread::spawn(move || all_of(far));
                base.run().unwrap();
                assert_eq!(reading.join().unwrap(), b"body!");
            }
        }
    }
}

#[test]
fn an_input_filter_is_told_of_the_last_of_it_once_for_each_connection() {
    for options in DEFERRAL {
        let base = EventBase::new().unwrap();
        let (ours, mut far) = UnixStream::pair().unwrap();
        let below = under_filters(&adopt(&base, ours), 1, options);
        let options = options | Options::CLOSE_ON_FREE;
        let bev = BufferEvent::filter(&below, Trailer, options).unwrap();
        let events = events_of(&bev);
        let end = Events::READING | Events::EOF;
        bev.enable(Interest::READ).unwrap();
        far.write_all(b"first").unwrap();
        drop(far);
        turn_until(&base, || events.borrow().len() == 1);
        assert_eq!(input_of(&bev), b"first!");
        // The end is told again, its trailer not.
        bev.enable(Interest::READ).unwrap();
        turn_until(&base, || events.borrow().len() == 2);
        assert_eq!(
            (&**events.borrow(), &*input_of(&bev)),
            (&[end; 2][..], &b""[..])
        );
        // Another connection has no end yet, and then one of its own.
        let (ours, mut far) = UnixStream::pair().unwrap();
        bev.replace_fd(Some(ours.into())).unwrap();
        bev.enable(Interest::READ).unwrap();
        settle(&base);
        assert_eq!(events.borrow().len(), 2, "an end of the one before");
        far.write_all(b"second").unwrap();
        drop(far);
        turn_until(&base, || events.borrow().len() == 3);
        assert_eq!(input_of(&bev), b"second!");
    }
}

/// Without `CLOSE_ON_FREE` what is below goes on, with the callbacks that the program has put on it
/// since, if any.
#[test]
fn callbacks_that_the_program_put_on_the_underlying_outlive_the_filter() {
    for own in [false, true] {
        for options in DEFERRAL {
            let base = EventBase::new().unwrap();
            let (ours, mut far) = UnixStream::pair().unwrap();
            let below = adopt(&base, ours);
            let bev = BufferEvent::filter(&below, Pass, options).unwrap();
            let reads = Rc::new(Cell::new(0));
            let count = reads.clone();
            if own {
                let read = move |_: &BufferEvent| count.set(count.get() + 1);
                below.set_callbacks(Callbacks::new().on_read(read)).unwrap();
            }
            bev.free();
            below.enable(Interest::READ).unwrap();
            far.write_all(b"x").unwrap();
            turn_until(&base, || below.input().len() == 1);
            settle(&base);
            assert_eq!(reads.get(), u32::from(own));
            below.free();
        }
    }
}

/// A time-out, or the end of a stream, disables what is below as well; enabling the filter enables
/// that again.
#[test]
fn enabling_a_filter_enables_what_is_below_again() {
    for filters in [1, 3] {
        for options in DEFERRAL {
            let base = EventBase::new().unwrap();
            let (ours, mut far) = UnixStream::pair().unwrap();
            let below = adopt(&base, ours);
            let top = under_filters(&below, filters, options);
            let events = events_of(&top);
            let soon = Some(Duration::from_millis(5));
            below.set_timeouts(soon, None).unwrap();
            top.enable(Interest::READ).unwrap();
            turn_until(&base, || events.borrow().len() == 1);
            assert_eq!(*events.borrow(), [Events::READING | Events::TIMEOUT]);
            assert_eq!(top.enabled(), Interest::WRITE, "for this one, too");
            below.set_timeouts(None, None).unwrap();
            far.write_all(b"late").unwrap();
            settle(&base);
            assert_eq!(top.input().len(), 0);
            top.enable(Interest::READ).unwrap();
            turn_until(&base, || top.input().len() == 4);
        }
    }
}

/// A filter that writes to its own bufferevent each time it runs has always more to do; the loop
/// goes on all the same.
#[test]
fn a_filter_that_never_ends_writing_to_itself_leaves_the_loop_its_turn() {
    struct Endless(Rc<RefCell<Option<BufferEvent>>>);
    impl Filter for Endless {
        fn output(
            &mut self,
            src: &mut EvBuffer,
            dst: &mut EvBuffer,
            _: Option<usize>,
            _: FlushMode,
        ) -> FilterResult {
            dst.add_buffer(src).unwrap();
            let own = self.0.borrow().clone();
            if let Some(own) = own {
                own.write(b"+").unwrap();
            }
            FilterResult::Ok
        }
    }
    let base = EventBase::new().unwrap();
    let (below, _far) = BufferEvent::pair(&base, Options::empty()).unwrap();
    let own = Rc::new(RefCell::new(None));
    let bev = BufferEvent::filter(&below, Endless(own.clone()), Options::CLOSE_ON_FREE).unwrap();
    *own.borrow_mut() = Some(bev.clone());
    let turns = Rc::new(Cell::new(0));
    let count = turns.clone();
    base.interval(Duration::from_millis(1), move |timer| {
        count.set(count.get() + 1);
        if count.get() == 3 {
            timer.cancel();
        }
    })
    .unwrap();
    bev.write(b"0").unwrap();
    turn_until(&base, || turns.get() == 3);
    own.take();
    bev.free();
}

#[test]
fn an_error_of_an_output_filter_is_an_event_with_its_direction_and_keeps_the_output() {
    struct Refuses;
    impl Filter for Refuses {
        fn output(
            &mut self,
            _: &mut EvBuffer,
            _: &mut EvBuffer,
            _: Option<usize>,
            _: FlushMode,
        ) -> FilterResult {
            FilterResult::Error
        }
    }
    for filters in [0, 1] {
        for options in DEFERRAL {
            let base = EventBase::new().unwrap();
            let (ours, mut far) = UnixStream::pair().unwrap();
            let below = under_filters(&adopt(&base, ours), filters, options);
            let options = options | Options::CLOSE_ON_FREE;
            let bev = BufferEvent::filter(&below, Refuses, options).unwrap();
            let events = events_of(&bev);
            bev.write(b"never").unwrap();
            turn_until(&base, || !events.borrow().is_empty());
            settle(&base);
            assert_eq!(*events.borrow(), [Events::WRITING | Events::ERROR]);
            assert_eq!(bev.last_error().unwrap().raw(), libc::EILSEQ);
            assert_eq!((bev.enabled(), bev.output().len()), (Interest::empty(), 5));
            // The other direction goes on.
            bev.enable(Interest::READ).unwrap();
            far.write_all(b"in").unwrap();
            turn_until(&base, || bev.input().len() == 2);
        }
    }
}

/// The program frees what is below: that is an error of both directions, and what was written is
/// not said to be flushed.
#[test]
fn an_underlying_that_is_freed_is_an_error_and_nothing_is_flushed_any_more() {
    for waits in [0, 5] {
        for options in DEFERRAL {
            let base = EventBase::new().unwrap();
            let (ours, _far) = UnixStream::pair().unwrap();
            let below = adopt(&base, ours);
            let bev = BufferEvent::filter(&below, Pass, options | Options::CLOSE_ON_FREE).unwrap();
            let events = events_of(&bev);
            bev.enable(Interest::READ).unwrap();
            if waits != 0 {
                bev.disable(Interest::WRITE).unwrap();
                bev.write(&vec![7; waits]).unwrap();
            }
            below.free();
            turn_until(&base, || !events.borrow().is_empty());
            let both = Events::READING | Events::WRITING | Events::ERROR;
            assert_eq!(*events.borrow(), [both]);
            assert_eq!(bev.last_error().unwrap().raw(), libc::ENOTCONN);
            assert!(matches!(bev.write(b"x"), Err(Error::Freed { .. })));
            let told = Rc::new(Cell::new(None));
            let end = told.clone();
            bev.close_after_flush(None, move |how| end.set(Some(how)))
                .unwrap();
            turn_until(&base, || told.get().is_some());
            assert_eq!(told.get(), Some(FlushEnd::Failed { unsent: waits }));
        }
    }
}

/// What a filter does not let go of is not flushed, although all below it was.
#[test]
fn what_a_filter_keeps_at_a_close_is_told_as_unsent() {
    struct Keeps(usize);
    impl Filter for Keeps {
        fn output(
            &mut self,
            src: &mut EvBuffer,
            dst: &mut EvBuffer,
            _: Option<usize>,
            _: FlushMode,
        ) -> FilterResult {
            let n = src.len().saturating_sub(self.0);
            src.remove_buffer(dst, n).unwrap();
            FilterResult::NeedMore
        }
    }
    for keeps in [0, 3] {
        for (options, closes) in [(0, true), (1, true), (0, false)] {
            let base = EventBase::new().unwrap();
            let (ours, far) = UnixStream::pair().unwrap();
            let below = adopt(&base, ours);
            let mut options = DEFERRAL[options];
            options.set(Options::CLOSE_ON_FREE, closes);
            let bev = BufferEvent::filter(&below, Keeps(keeps), options).unwrap();
            bev.write(b"abcdef").unwrap();
            let told = Rc::new(Cell::new(None));
            let end = told.clone();
            bev.close_after_flush(None, move |how| end.set(Some(how)))
                .unwrap();
            if !closes {
                below.close_after_flush(None, |_| {}).unwrap();
            }
            let reading = thread::spawn(move || all_of(far));
            base.run().unwrap();
            let expected = match keeps {
                0 => FlushEnd::Flushed,
                unsent => FlushEnd::Failed { unsent },
            };
            assert_eq!(told.get(), Some(expected));
            assert_eq!(reading.join().unwrap(), b"abcdef"[..6 - keeps]);
        }
    }
}

/// A relay into a filter whose peer does not read stops, with little in memory, and goes on once
/// the peer reads.
#[test]
fn backpressure_goes_through_filters() {
    const SENT: usize = 32 << 20;
    const HIGH: usize = 256 << 10;
    for filters in [1, 2] {
        let base = EventBase::new().unwrap();
        let ((left, a), (right, b)) = (tcp_pair(), tcp_pair());
        let socket = adopt(&base, b);
        let sink = under_filters(&socket, filters, Options::empty());
        let joined = relay(&adopt(&base, a), &sink, RelayOptions::default().high(HIGH)).unwrap();
        left.set_nonblocking(true).unwrap();
        let (mut written, mut stuck) = (0, 0);
        let chunk = vec![7; 64 << 10];
        // As much as goes; then nothing more, for some turns.
        while stuck < 20 && written < SENT {
            match (&left).write(&chunk) {
                Ok(n) => (written, stuck) = (written + n, 0),
                Err(_) => stuck += 1,
            }
            base.stop_after(Duration::from_millis(2));
            base.run().unwrap();
            let waits = socket.output().len() + sink.output().len();
            assert!(waits <= 4 * HIGH, "{waits} bytes wait");
        }
        assert!(written < SENT, "{filters}: nothing held it up");
        left.set_nonblocking(false).unwrap();
        let writing = thread::spawn(move || {
            (&left).write_all(&vec![7; SENT - written]).unwrap();
            left.shutdown(std::net::Shutdown::Write).unwrap();
            left
        });
        let reading = thread::spawn(move || {
            let got = all_of(&right).len();
            drop(right);
            got
        });
        base.run().unwrap();
        assert_eq!(joined.bytes().0, SENT as u64);
        assert_eq!(reading.join().unwrap(), SENT);
        drop(writing.join().unwrap());
    }
}

/// `output_above_high` counts what waits below, and the write callback says when that has drained.
#[test]
fn a_filter_above_its_high_mark_by_what_waits_below_is_told_when_that_has_drained() {
    for filters in [1, 2] {
        for options in DEFERRAL {
            let base = EventBase::new().unwrap();
            let (ours, far) = UnixStream::pair().unwrap();
            let below = adopt(&base, ours);
            let top = under_filters(&below, filters, options);
            top.set_watermarks(Interest::WRITE, 0, 1_000).unwrap();
            let drained = Rc::new(Cell::new(false));
            let told = drained.clone();
            let socket = below.clone();
            top.write(&vec![7; 4 << 20]).unwrap();
            settle(&base);
            assert!(top.output_above_high());
            assert_eq!(top.output().len(), 0, "it waits below");
            top.set_callbacks(Callbacks::new().on_write(move |_| {
                told.set(socket.output().is_empty());
            }))
            .unwrap();
            settle(&base);
            assert!(!drained.get());
            let reading = thread::spawn(move || {
                let mut got = vec![0; 4 << 20];
                (&far).read_exact(&mut got).unwrap();
                far
            });
            turn_until(&base, || drained.get());
            assert!(!top.output_above_high());
            drop(reading.join().unwrap());
        }
    }
}

/// Whoever has a buffer in hands, closure or filter, and whoever asks meanwhile, finds its length.
#[test]
fn a_buffer_in_use_has_its_length_and_calls_meanwhile_take_effect_afterwards() {
    use evring::TriggerOptions;
    for options in DEFERRAL {
        for filters in [0, 1] {
            let base = EventBase::new().unwrap();
            let (ours, mut far) = UnixStream::pair().unwrap();
            let fd = Some(ours.into());
            let below = BufferEvent::socket(&base, fd, options | Options::CLOSE_ON_FREE).unwrap();
            let bev = under_filters(&below, filters, options);
            let log = Rc::new(RefCell::new(Vec::new()));
            let (reads, writes) = (log.clone(), log.clone());
            bev.set_callbacks(
                Callbacks::new()
                    .on_read(move |_| reads.borrow_mut().push("read"))
                    .on_write(move |_| writes.borrow_mut().push("write")),
            )
            .unwrap();
            bev.enable(Interest::READ).unwrap();
            far.write_all(b"12345").unwrap();
            turn_until(&base, || bev.input().len() == 5);
            settle(&base);
            bev.disable(Interest::WRITE).unwrap();
            bev.write(b"waits").unwrap();
            bev.set_watermarks(Interest::READ, 5, 0).unwrap();
            settle(&base);
            log.borrow_mut().clear();
            // The input has its low mark's bytes, the output more than its mark: one is due.
            bev.input()
                .with(|_| {
                    assert_eq!(bev.input().len(), 5);
                    bev.trigger(BOTH, TriggerOptions::empty()).unwrap();
                    assert!(log.borrow().is_empty(), "not under the closure");
                })
                .unwrap();
            bev.output()
                .with(|_| {
                    assert_eq!(bev.output().len(), 5);
                    bev.trigger(BOTH, TriggerOptions::empty()).unwrap();
                    bev.write(b"more").unwrap();
                    assert_eq!(bev.output().len(), 9, "with what follows");
                })
                .unwrap();
            settle(&base);
            let expected = match options.contains(Options::DEFER_CALLBACKS) {
                // Both triggers are one call from the FIFO.
                true => 1,
                false => 2,
            };
            assert_eq!(*log.borrow(), vec!["read"; expected]);
        }
    }
}
