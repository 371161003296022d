//! The filter flavour. Tests are named after the rules of the bufferevent's behaviour.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use evring::{
    BufferEvent, Callbacks, EvBuffer, EventBase, Events, Filter, FilterResult, FlushEnd, FlushMode,
    FlushResult, Interest, Options, RelayOptions, relay,
};

#[path = "../examples/zlib.rs"]
#[allow(dead_code, reason = "its main is for the example")]
mod zlib;
use zlib::Zlib;

const BOTH: Interest = Interest::all();

/// Adds `add` to every byte on its way out and takes it away on its way in.
struct Shift(u8);

impl Shift {
    fn step(src: &mut EvBuffer, dst: &mut EvBuffer, limit: Option<usize>, add: u8) -> FilterResult {
        let n = limit.unwrap_or(usize::MAX).min(src.len());
        let mut bytes = vec![0; n];
        if src.remove(&mut bytes).is_err() {
            return FilterResult::Error;
        }
        for byte in &mut bytes {
            *byte = byte.wrapping_add(add);
        }
        match dst.add(&bytes) {
            Ok(()) => FilterResult::Ok,
            Err(_) => FilterResult::Error,
        }
    }
}

impl Filter for Shift {
    fn input(
        &mut self,
        src: &mut EvBuffer,
        dst: &mut EvBuffer,
        limit: Option<usize>,
        _: FlushMode,
    ) -> FilterResult {
        Self::step(src, dst, limit, self.0.wrapping_neg())
    }

    fn output(
        &mut self,
        src: &mut EvBuffer,
        dst: &mut EvBuffer,
        limit: Option<usize>,
        _: FlushMode,
    ) -> FilterResult {
        Self::step(src, dst, limit, self.0)
    }
}

fn over_pair(base: &EventBase, filter: impl Filter + 'static) -> (BufferEvent, BufferEvent) {
    let (under, far) = BufferEvent::pair(base, Options::empty()).unwrap();
    let bev = BufferEvent::filter(&under, filter, Options::CLOSE_ON_FREE).unwrap();
    (bev, far)
}

fn contents(bev: &BufferEvent) -> Vec<u8> {
    bev.input()
        .with(|input| {
            let mut all = vec![0; input.len()];
            input.remove(&mut all).unwrap();
            all
        })
        .unwrap()
}

#[test]
fn rule_37_takes_over_the_callbacks_and_reads_only_while_its_read_is_enabled() {
    let base = EventBase::new().unwrap();
    let (under, far) = BufferEvent::pair(&base, Options::empty()).unwrap();
    under
        .set_callbacks(Callbacks::new().on_read(|_| panic!("taken over")))
        .unwrap();
    let bev = BufferEvent::filter(&under, Shift(1), Options::empty()).unwrap();
    assert_eq!(bev.underlying().as_ref(), Some(&under));
    far.write(b"bcd").unwrap();
    base.run().unwrap();
    assert_eq!(
        (under.input().len(), bev.input().len()),
        (0, 0),
        "READ is not enabled yet"
    );
    bev.enable(Interest::READ).unwrap();
    base.run().unwrap();
    assert_eq!(contents(&bev), b"abc");
    bev.free();
    assert!(!under.is_freed(), "without CLOSE_ON_FREE it stays");
    far.write(b"raw").unwrap();
    base.run().unwrap();
    assert_eq!(contents(&under), b"raw");
}

#[test]
fn rule_38_the_output_filter_runs_inside_write() {
    let base = EventBase::new().unwrap();
    let (bev, far) = over_pair(&base, Shift(1));
    far.enable(Interest::READ).unwrap();
    bev.write(b"abc").unwrap();
    assert_eq!(contents(&far), b"bcd");
    assert_eq!(bev.output().len(), 0);
}

#[test]
fn rule_38_limits_are_the_marks() {
    let base = EventBase::new().unwrap();
    let (bev, far) = over_pair(&base, Shift(1));
    bev.set_watermarks(Interest::READ, 0, 3).unwrap();
    bev.enable(BOTH).unwrap();
    far.write(b"bcdefg").unwrap();
    base.run().unwrap();
    assert_eq!(contents(&bev), b"abc");
    base.run().unwrap();
    assert_eq!(contents(&bev), b"def", "draining it lets the rest through");
    let under = bev.underlying().unwrap();
    under.set_watermarks(Interest::WRITE, 0, 2).unwrap();
    bev.write(b"abcde").unwrap();
    assert_eq!((under.output().len(), bev.output().len()), (2, 3));
    far.enable(Interest::READ).unwrap();
    base.run().unwrap();
    assert_eq!(
        contents(&far),
        b"bcdef",
        "it goes on as the underlying drains"
    );
}

#[test]
fn rule_38_writes_nested_in_the_filter_are_picked_up_later() {
    struct Nested {
        own: Rc<RefCell<Option<BufferEvent>>>,
        depth: Cell<u32>,
    }
    impl Filter for Nested {
        fn output(
            &mut self,
            src: &mut EvBuffer,
            dst: &mut EvBuffer,
            limit: Option<usize>,
            mode: FlushMode,
        ) -> FilterResult {
            let own = self.own.borrow_mut().take();
            if let Some(bev) = own {
                let depth = self.depth.replace(1);
                // Before and after it moves what it was called for: behind it in both cases.
                bev.write(b" later").unwrap();
                let result = Shift(1).output(src, dst, limit, mode);
                bev.write(b" still").unwrap();
                self.depth.set(depth);
                return result;
            }
            assert_eq!(self.depth.get(), 0, "called from within itself");
            Shift(1).output(src, dst, limit, mode)
        }
    }
    for options in [Options::empty(), Options::DEFER_CALLBACKS] {
        for loops in [false, true] {
            let base = EventBase::new().unwrap();
            let own = Rc::new(RefCell::new(None));
            let nested = Nested {
                own: own.clone(),
                depth: Cell::new(0),
            };
            let (under, far) = BufferEvent::pair(&base, Options::empty()).unwrap();
            let options = options | Options::CLOSE_ON_FREE;
            let bev = BufferEvent::filter(&under, nested, options).unwrap();
            *own.borrow_mut() = Some(bev.clone());
            far.enable(Interest::READ).unwrap();
            if loops {
                // From a callback of the loop.
                let writer = bev.clone();
                base.defer(move |_| writer.write(b"now").unwrap());
                base.run().unwrap();
            } else {
                bev.write(b"now").unwrap();
            }
            let passed: Vec<u8> = b"now later still".iter().map(|byte| byte + 1).collect();
            assert_eq!(contents(&far), passed, "{options:?} {loops}");
            assert_eq!(bev.output().len(), 0);
        }
    }
}

#[test]
fn rule_39_need_more_waits_and_an_error_is_reported_with_its_direction() {
    struct Lines;
    impl Filter for Lines {
        fn input(
            &mut self,
            src: &mut EvBuffer,
            dst: &mut EvBuffer,
            _: Option<usize>,
            _: FlushMode,
        ) -> FilterResult {
            let mut all = vec![0; src.len()];
            src.copyout(&mut all).unwrap();
            if all.contains(&b'!') {
                return FilterResult::Error;
            }
            match all.iter().rposition(|&b| b == b'\n') {
                Some(end) => src
                    .remove_buffer(dst, end + 1)
                    .map_or(FilterResult::Error, |_| FilterResult::Ok),
                None => FilterResult::NeedMore,
            }
        }
    }
    let base = EventBase::new().unwrap();
    let (bev, far) = over_pair(&base, Lines);
    let events = Rc::new(RefCell::new(Vec::new()));
    let seen = events.clone();
    bev.set_callbacks(Callbacks::new().on_event(move |bev, what| {
        seen.borrow_mut()
            .push((what, bev.last_error().map(|e| e.raw())));
    }))
    .unwrap();
    bev.enable(BOTH).unwrap();
    far.write(b"half").unwrap();
    base.run().unwrap();
    assert_eq!(bev.input().len(), 0);
    far.write(b" a line\nand more").unwrap();
    base.run().unwrap();
    assert_eq!(contents(&bev), b"half a line\n");
    far.write(b"!").unwrap();
    base.run().unwrap();
    assert_eq!(
        *events.borrow(),
        [(Events::READING | Events::ERROR, Some(libc::EILSEQ))]
    );
    assert_eq!(bev.enabled(), Interest::WRITE);
}

#[test]
fn rule_39_finished_before_the_end_is_forwarded() {
    struct Tail(Rc<RefCell<Vec<FlushMode>>>);
    impl Filter for Tail {
        fn input(
            &mut self,
            src: &mut EvBuffer,
            dst: &mut EvBuffer,
            _: Option<usize>,
            mode: FlushMode,
        ) -> FilterResult {
            self.0.borrow_mut().push(mode);
            if mode == FlushMode::Finished {
                dst.add(b"tail").unwrap();
                let n = src.len();
                src.drain(n).unwrap();
                return FilterResult::Ok;
            }
            FilterResult::NeedMore
        }
    }
    let base = EventBase::new().unwrap();
    let modes = Rc::default();
    let (bev, far) = over_pair(&base, Tail(Rc::clone(&modes)));
    let order = Rc::new(RefCell::new(Vec::new()));
    let (read, event) = (order.clone(), order.clone());
    bev.set_callbacks(
        Callbacks::new()
            .on_read(move |bev| {
                read.borrow_mut()
                    .push(String::from_utf8(contents(bev)).unwrap())
            })
            .on_event(move |_, what| event.borrow_mut().push(format!("{what:?}"))),
    )
    .unwrap();
    bev.enable(BOTH).unwrap();
    far.write(b"head").unwrap();
    far.free();
    base.run().unwrap();
    assert_eq!(
        *order.borrow(),
        [
            "tail".to_string(),
            format!("{:?}", Events::READING | Events::EOF)
        ]
    );
    assert_eq!(
        modes
            .borrow()
            .iter()
            .filter(|&&mode| mode == FlushMode::Finished)
            .count(),
        1
    );
}

#[test]
fn rule_39_an_ok_that_does_nothing_does_not_loop() {
    struct Lazy(Rc<Cell<u32>>);
    impl Filter for Lazy {
        fn input(
            &mut self,
            _: &mut EvBuffer,
            _: &mut EvBuffer,
            _: Option<usize>,
            _: FlushMode,
        ) -> FilterResult {
            self.0.set(self.0.get() + 1);
            FilterResult::Ok
        }
    }
    let base = EventBase::new().unwrap();
    let calls = Rc::new(Cell::new(0));
    let (bev, far) = over_pair(&base, Lazy(calls.clone()));
    bev.enable(BOTH).unwrap();
    far.write(b"x").unwrap();
    base.run().unwrap();
    assert!((1..10).contains(&calls.get()), "{}", calls.get());
}

#[test]
fn rule_40_filters_stack_and_flush_goes_all_the_way_down() {
    let base = EventBase::new().unwrap();
    let (under, far) = BufferEvent::pair(&base, Options::empty()).unwrap();
    let mut bev = under.clone();
    for _ in 0..20 {
        bev = BufferEvent::filter(&bev, Shift(1), Options::CLOSE_ON_FREE).unwrap();
    }
    bev.enable(BOTH).unwrap();
    bev.write(b"AAA").unwrap();
    assert_eq!(
        bev.flush(Interest::WRITE, FlushMode::Flush).unwrap(),
        FlushResult::Produced
    );
    assert_eq!(
        contents(&far),
        b"UUU",
        "the pair at the bottom was flushed, too"
    );
    far.write(b"UVW").unwrap();
    base.run().unwrap();
    assert_eq!(contents(&bev), b"ABC");
    bev.free();
    assert!(under.is_freed(), "CLOSE_ON_FREE at every level");
    assert_eq!(base.active(), 0);
}

fn text(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| b"the quick brown fox "[(i + i / 777) % 20])
        .collect()
}

#[test]
fn zlib_over_a_socket_both_ways_with_half_close() {
    let base = EventBase::new().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let socket = BufferEvent::socket(&base, Some(ours.into()), Options::CLOSE_ON_FREE).unwrap();
    let bev = BufferEvent::filter(&socket, Zlib::new(), Options::CLOSE_ON_FREE).unwrap();
    let got = Rc::new(RefCell::new(Vec::new()));
    let sink = got.clone();
    let answer = text(700_000);
    let reply = answer.clone();
    bev.set_callbacks(
        Callbacks::new()
            .on_read(move |bev| sink.borrow_mut().extend(contents(bev)))
            .on_event(move |bev, what| {
                assert_eq!(what, Events::READING | Events::EOF);
                bev.write(&reply).unwrap();
                bev.close_after_flush(None, |how| assert_eq!(how, FlushEnd::Flushed))
                    .unwrap();
            }),
    )
    .unwrap();
    bev.enable(BOTH).unwrap();
    let question = text(900_000);
    let asked = question.clone();
    let peer = std::thread::spawn(move || {
        let mut deflate = flate2::write::ZlibEncoder::new(&theirs, flate2::Compression::best());
        deflate.write_all(&asked).unwrap();
        deflate.finish().unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let mut got = Vec::new();
        flate2::read::ZlibDecoder::new(&theirs)
            .read_to_end(&mut got)
            .unwrap();
        got
    });
    base.run().unwrap();
    assert!(*got.borrow() == question);
    assert!(peer.join().unwrap() == answer);
    assert_eq!((base.active(), base.in_flight()), (0, 0));
}

#[test]
fn zlib_garbage_is_an_error_and_a_cut_stream_an_end() {
    for (bytes, wanted) in [
        (
            b"this is no zlib stream at all".to_vec(),
            Events::READING | Events::ERROR,
        ),
        (
            {
                let mut deflate =
                    flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                deflate.write_all(&text(100_000)).unwrap();
                let mut whole = deflate.finish().unwrap();
                whole.truncate(whole.len() / 2);
                whole
            },
            Events::READING | Events::EOF,
        ),
    ] {
        let base = EventBase::new().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let socket = BufferEvent::socket(&base, Some(ours.into()), Options::CLOSE_ON_FREE).unwrap();
        let bev = BufferEvent::filter(&socket, Zlib::new(), Options::CLOSE_ON_FREE).unwrap();
        let seen = Rc::new(Cell::new(Events::empty()));
        let what = seen.clone();
        bev.set_callbacks(Callbacks::new().on_event(move |bev, events| {
            what.set(events);
            bev.free();
        }))
        .unwrap();
        bev.enable(BOTH).unwrap();
        theirs.write_all(&bytes).unwrap();
        drop(theirs);
        base.run().unwrap();
        assert_eq!(seen.get(), wanted);
        assert_eq!((base.active(), base.in_flight()), (0, 0));
    }
}

#[test]
fn relay_joins_a_filter_and_a_socket() {
    let base = EventBase::new().unwrap();
    let (plain_ours, plain_theirs) = UnixStream::pair().unwrap();
    let (shifted_ours, shifted_theirs) = UnixStream::pair().unwrap();
    let adopt = |fd: UnixStream| {
        BufferEvent::socket(&base, Some(fd.into()), Options::CLOSE_ON_FREE).unwrap()
    };
    let plain = adopt(plain_ours);
    let shifted =
        BufferEvent::filter(&adopt(shifted_ours), Shift(3), Options::CLOSE_ON_FREE).unwrap();
    relay(&plain, &shifted, RelayOptions::default()).unwrap();
    let sent = text(500_000);
    let out = sent.clone();
    let writing = std::thread::spawn(move || {
        (&plain_theirs).write_all(&out).unwrap();
        plain_theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        (&plain_theirs).read_to_end(&mut back).unwrap();
        back
    });
    let reading = std::thread::spawn(move || {
        let mut got = Vec::new();
        (&shifted_theirs).read_to_end(&mut got).unwrap();
        (&shifted_theirs).write_all(b"DEF").unwrap();
        got
    });
    base.run().unwrap();
    let expected: Vec<u8> = sent.iter().map(|byte| byte + 3).collect();
    assert!(reading.join().unwrap() == expected);
    assert_eq!(writing.join().unwrap(), b"ABC");
    assert_eq!((base.active(), base.in_flight()), (0, 0));
}

#[test]
fn rule_38_the_input_filter_is_not_called_with_nothing() {
    struct NeverEmpty;
    impl Filter for NeverEmpty {
        fn input(
            &mut self,
            src: &mut EvBuffer,
            dst: &mut EvBuffer,
            _: Option<usize>,
            mode: FlushMode,
        ) -> FilterResult {
            if src.is_empty() && mode == FlushMode::Normal {
                return FilterResult::Error;
            }
            dst.add_buffer(src).unwrap();
            FilterResult::Ok
        }
    }
    let base = EventBase::new().unwrap();
    let (bev, far) = over_pair(&base, NeverEmpty);
    bev.enable(Interest::READ).unwrap();
    base.run().unwrap();
    far.write(b"some").unwrap();
    base.run().unwrap();
    assert_eq!((bev.enabled(), bev.input().len()), (BOTH, 4));
}

#[test]
fn a_close_that_is_cut_short_counts_what_went_down_as_unsent() {
    for (bytes, filters, inside) in [(13, 1, true), (100_000, 2, true), (13, 2, false)] {
        let base = EventBase::new().unwrap();
        // The partner reads nothing.
        let (bottom, partner) = BufferEvent::pair(&base, Options::CLOSE_ON_FREE).unwrap();
        let mut top = bottom.clone();
        for _ in 0..filters {
            top = BufferEvent::filter(&top, Shift(1), Options::CLOSE_ON_FREE).unwrap();
        }
        top.write(&vec![7; bytes]).unwrap();
        assert_eq!(bottom.output().len(), bytes, "all went down");
        let told = Rc::new(Cell::new(None));
        let tell = told.clone();
        let close = move |bev: &BufferEvent| {
            let tell = tell.clone();
            bev.close_after_flush(None, move |end| tell.set(Some(end)))
                .unwrap();
            bev.free();
        };
        match inside {
            // While a buffer is in use nothing is handed down.
            true => top.input().with(|_| close(&top)).unwrap(),
            false => {
                close(&top);
                bottom.free();
            }
        }
        base.run().unwrap();
        let unsent = bytes;
        assert_eq!(told.get(), Some(FlushEnd::Failed { unsent }), "{filters}");
        partner.free();
    }
}
