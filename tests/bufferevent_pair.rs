//! The pair flavour. Tests are named after the rules of the bufferevent's behaviour.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use evring::{
    BufferEvent, Callbacks, EventBase, Events, Exit, FlushEnd, FlushMode, FlushResult, Interest,
    Options,
};

const RW: Interest = Interest::all();

fn pair() -> (EventBase, BufferEvent, BufferEvent) {
    let base = EventBase::new().unwrap();
    let (a, b) = BufferEvent::pair(&base, Options::empty()).unwrap();
    (base, a, b)
}

/// Callbacks that write down what they are called with.
fn logged(bev: &BufferEvent, name: &'static str, log: &Rc<RefCell<Vec<String>>>) {
    let (read, write, event) = (log.clone(), log.clone(), log.clone());
    bev.set_callbacks(
        Callbacks::new()
            .on_read(move |bev| {
                read.borrow_mut()
                    .push(format!("{name} read {}", bev.input().len()))
            })
            .on_write(move |_| write.borrow_mut().push(format!("{name} write")))
            .on_event(move |_, what| event.borrow_mut().push(format!("{name} {what:?}"))),
    )
    .unwrap();
}

#[test]
fn rule_01_new_one_has_write_enabled_read_disabled() {
    let (base, a, b) = pair();
    assert_eq!(
        (a.enabled(), b.enabled()),
        (Interest::WRITE, Interest::WRITE)
    );
    assert_eq!(a.watermarks(Interest::READ), (0, 0));
    assert_eq!(
        base.run().unwrap(),
        Exit::Idle,
        "alone and idle it keeps no loop alive"
    );
}

#[test]
fn rule_32_moves_at_write_by_reference_with_callbacks_deferred() {
    let (base, a, b) = pair();
    let log = Rc::default();
    logged(&a, "a", &log);
    logged(&b, "b", &log);
    b.enable(Interest::READ).unwrap();
    let big = bytes::Bytes::from(vec![5; 100_000]);
    a.write_piece(big.clone()).unwrap();
    assert_eq!((a.output().len(), b.input().len()), (0, 100_000), "at once");
    assert!(log.borrow().is_empty(), "but no callback inside the call");
    base.run().unwrap();
    assert_eq!(*log.borrow(), ["b read 100000", "a write"]);
    let at = b
        .input()
        .with(|input| bytes::Buf::chunk(input).as_ptr())
        .unwrap();
    assert_eq!(at, big.as_ptr(), "the same memory");
    assert_eq!(base.counters().bytes_copied, 0);
}

#[test]
fn rule_32_moves_at_either_enable_and_up_to_the_high_mark() {
    let (base, a, b) = pair();
    b.set_watermarks(Interest::READ, 0, 10).unwrap();
    a.write(b"0123456789abcdef").unwrap();
    assert_eq!(b.input().len(), 0);
    b.enable(Interest::READ).unwrap();
    assert_eq!((a.output().len(), b.input().len()), (6, 10));
    let mut four = [0; 4];
    assert_eq!(b.read(&mut four), 4);
    base.run_with(evring::RunFlags::NONBLOCK).unwrap();
    assert_eq!(
        (a.output().len(), b.input().len()),
        (2, 10),
        "draining pulls more"
    );
    a.disable(Interest::WRITE).unwrap();
    assert_eq!(b.read(&mut four), 4);
    base.run_with(evring::RunFlags::NONBLOCK).unwrap();
    assert_eq!(
        (a.output().len(), b.input().len()),
        (2, 6),
        "a disabled source keeps its bytes"
    );
    a.enable(Interest::WRITE).unwrap();
    assert_eq!((a.output().len(), b.input().len()), (0, 8));
}

#[test]
fn rule_33_no_callback_when_nothing_moved() {
    let (base, a, b) = pair();
    let log = Rc::default();
    logged(&a, "a", &log);
    logged(&b, "b", &log);
    a.enable(RW).unwrap();
    b.enable(RW).unwrap();
    base.run().unwrap();
    assert!(log.borrow().is_empty(), "{log:?}");
}

#[test]
fn rule_34_flush_moves_regardless_of_enabled_and_finished_ends_the_stream() {
    let (base, a, b) = pair();
    let log = Rc::default();
    logged(&b, "b", &log);
    a.write(b"held").unwrap();
    assert_eq!(
        a.flush(Interest::WRITE, FlushMode::Normal).unwrap(),
        FlushResult::Nothing
    );
    assert_eq!(b.input().len(), 0);
    assert_eq!(
        a.flush(Interest::WRITE, FlushMode::Flush).unwrap(),
        FlushResult::Produced
    );
    assert_eq!(b.input().len(), 4);
    b.enable(Interest::READ).unwrap();
    a.flush(Interest::WRITE, FlushMode::Finished).unwrap();
    base.run().unwrap();
    assert_eq!(
        *log.borrow(),
        [
            "b read 4".to_string(),
            format!("b {:?}", Events::READING | Events::EOF)
        ]
    );
}

#[test]
fn rule_35_freeing_one_side_gives_the_other_the_end() {
    let (base, a, b) = pair();
    let log = Rc::default();
    logged(&b, "b", &log);
    b.enable(Interest::READ).unwrap();
    a.write(b"last words").unwrap();
    a.free();
    base.run().unwrap();
    assert_eq!(
        *log.borrow(),
        [
            "b read 10".to_string(),
            format!("b {:?}", Events::READING | Events::EOF)
        ]
    );
    assert_eq!(b.enabled(), Interest::WRITE);
}

#[test]
fn rule_35_no_write_timeout_on_a_drained_source() {
    let (base, a, b) = pair();
    let log = Rc::default();
    logged(&a, "a", &log);
    a.set_timeouts(None, Some(Duration::from_millis(5)))
        .unwrap();
    a.enable(RW).unwrap();
    b.enable(RW).unwrap();
    a.write(b"x").unwrap();
    base.run().unwrap();
    assert_eq!(*log.borrow(), ["a write"]);
}

#[test]
fn rule_35_a_source_that_nobody_reads_times_out_on_write() {
    let (base, a, _b) = pair();
    let log = Rc::default();
    logged(&a, "a", &log);
    a.set_timeouts(None, Some(Duration::from_millis(5)))
        .unwrap();
    a.write(b"x").unwrap();
    base.run().unwrap();
    assert_eq!(
        *log.borrow(),
        [format!("a {:?}", Events::WRITING | Events::TIMEOUT)]
    );
    assert_eq!(a.output().len(), 1, "what was not taken is kept");
}

#[test]
fn rule_36_partner_is_the_other_until_it_is_gone() {
    let (_base, a, b) = pair();
    assert_eq!(a.partner().as_ref(), Some(&b));
    assert!(a.fd().is_none());
    b.free();
    assert!(a.partner().is_none());
}

#[test]
fn rule_18_a_callback_may_free_its_partner_and_itself() {
    let (base, a, b) = pair();
    let calls = Rc::new(Cell::new(0));
    let (count, other) = (calls.clone(), a.clone());
    b.set_callbacks(
        Callbacks::new()
            .on_read(move |bev| {
                count.set(count.get() + 1);
                other.free();
                bev.free();
            })
            .on_event(|_, _| panic!("freed")),
    )
    .unwrap();
    b.enable(Interest::READ).unwrap();
    a.write(b"x").unwrap();
    base.run().unwrap();
    assert_eq!((calls.get(), a.is_freed(), b.is_freed()), (1, true, true));
    assert!(a.write(b"y").is_err());
    assert_eq!(base.active(), 0);
}

#[test]
fn a_long_exchange_recurses_no_deeper_than_one_callback() {
    let (base, a, b) = pair();
    const ROUNDS: u32 = 100_000;
    let rounds = Rc::new(Cell::new(0));
    for (bev, count) in [(&a, Some(rounds.clone())), (&b, None)] {
        bev.set_callbacks(Callbacks::new().on_read(move |bev| {
            if let Some(count) = &count {
                count.set(count.get() + 1);
                if count.get() == ROUNDS {
                    return bev.free();
                }
            }
            bev.transfer_to(bev).unwrap();
        }))
        .unwrap();
        bev.enable(Interest::READ).unwrap();
    }
    a.write(&[1; 64]).unwrap();
    let before = base.counters();
    base.run().unwrap();
    let after = base.counters();
    assert_eq!(rounds.get(), ROUNDS);
    assert_eq!(
        (after.sqes, after.enters),
        (before.sqes, before.enters),
        "pairs never touch the ring"
    );
    assert!(after.bytes_copied - before.bytes_copied <= 64, "{after}");
}

#[test]
fn close_after_flush_waits_for_the_partner_to_take_it() {
    let (base, a, b) = pair();
    let end = Rc::new(Cell::new(None));
    let told = end.clone();
    a.write(b"to be read later").unwrap();
    a.close_after_flush(Some(Duration::from_secs(5)), move |how| told.set(Some(how)))
        .unwrap();
    let reader = b.clone();
    base.timer(Duration::from_millis(1), move |_| {
        reader.enable(Interest::READ).unwrap()
    })
    .unwrap();
    let log = Rc::default();
    logged(&b, "b", &log);
    base.run().unwrap();
    assert_eq!(end.get(), Some(FlushEnd::Flushed));
    assert_eq!(
        *log.borrow(),
        [
            "b read 16".to_string(),
            format!("b {:?}", Events::READING | Events::EOF)
        ]
    );
}

#[test]
fn rule_32_draining_below_the_mark_pulls_at_once() {
    let (base, a, b) = pair();
    b.set_watermarks(Interest::READ, 0, 4).unwrap();
    b.enable(Interest::READ).unwrap();
    a.write(b"0123456789").unwrap();
    assert_eq!((b.input().len(), a.output().len()), (4, 6));
    let mut got = [0; 3];
    assert_eq!(b.read(&mut got), 3);
    assert_eq!((b.input().len(), a.output().len()), (4, 3));
    base.run().unwrap();
}

#[test]
fn rule_32_an_enable_of_both_reads_before_it_writes() {
    let (base, a, b) = pair();
    let log = Rc::default();
    logged(&a, "a", &log);
    logged(&b, "b", &log);
    a.disable(RW).unwrap();
    a.write(b"from a").unwrap();
    b.write(b"from b").unwrap();
    b.enable(Interest::READ).unwrap();
    a.enable(RW).unwrap();
    base.run().unwrap();
    // One run of callbacks for each, in the order in which they were first due.
    assert_eq!(
        *log.borrow(),
        ["a read 6", "a write", "b read 6", "b write"]
    );
}

/// A pair is not a descriptor that becomes writable: an enable calls back only for bytes that move.
#[test]
fn rule_33_an_enable_alone_calls_nobody_back() {
    for options in [Options::empty(), Options::DEFER_CALLBACKS] {
        let base = EventBase::new().unwrap();
        let (near, far) = BufferEvent::pair(&base, options).unwrap();
        let calls = Rc::new(Cell::new(0));
        for bev in [&near, &far] {
            let (reads, writes) = (calls.clone(), calls.clone());
            bev.set_callbacks(
                Callbacks::new()
                    .on_read(move |_| reads.set(reads.get() + 1))
                    .on_write(move |_| writes.set(writes.get() + 1)),
            )
            .unwrap();
        }
        for bev in [&near, &far, &near] {
            bev.enable(Interest::READ | Interest::WRITE).unwrap();
            base.run().unwrap();
        }
        assert_eq!(calls.get(), 0);
        near.write(b"x").unwrap();
        base.run().unwrap();
        assert_eq!(calls.get(), 2, "a read there, a write here");
    }
}

/// A file range in the input that can not be read any more: `read` gives nothing, and an event says
/// why. Whoever wants the error in its place asks the buffer.
#[test]
fn a_file_that_can_not_be_read_any_more_is_a_read_error() {
    use evring::{Events, Filter, evbuffer::BufferError};
    struct Pass;
    impl Filter for Pass {}
    for filters in [0, 2] {
        for options in [Options::empty(), Options::DEFER_CALLBACKS] {
            let base = EventBase::new().unwrap();
            let (near, far) = BufferEvent::pair(&base, options).unwrap();
            let top = (0..filters).fold(far, |below, _| {
                BufferEvent::filter(&below, Pass, options | Options::CLOSE_ON_FREE).unwrap()
            });
            let events = Rc::new(RefCell::new(Vec::new()));
            let seen = events.clone();
            top.set_callbacks(Callbacks::new().on_event(move |bev, what| {
                let errno = bev.last_error().map(evring::Errno::raw);
                seen.borrow_mut().push((what, errno));
            }))
            .unwrap();
            top.enable(Interest::READ).unwrap();
            let file = tempfile::tempfile().unwrap();
            file.set_len(50_000).unwrap();
            let whole = file.try_clone().unwrap();
            let shrinks = file.try_clone().unwrap();
            let append = |file, len| {
                let added = near
                    .output()
                    .with(|output| output.add_file(file, 0, Some(len)));
                added.unwrap().unwrap();
                base.run().unwrap();
            };
            append(whole, 100);
            let mut data = [1; 700];
            assert_eq!(top.read(&mut data), 100, "one that can");
            append(file, 50_000);
            shrinks.set_len(10).unwrap();
            assert_eq!(top.read(&mut data), 0);
            base.run().unwrap();
            let error = Events::READING | Events::ERROR;
            assert_eq!(*events.borrow(), [(error, Some(libc::EIO))]);
            assert_eq!(
                (top.enabled(), top.input().len()),
                (Interest::WRITE, 50_000)
            );
            let direct = top.input().with(|input| input.remove(&mut data)).unwrap();
            assert!(matches!(direct, Err(BufferError::Io(_))));
        }
    }
}
