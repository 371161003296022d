//! Promises of every bufferevent, varied over what moves the bytes, sizes and deferral.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

mod common;

use common::{all_of, events_of, tcp_pair, turn_until, under_filters};
use evring::{
    BufferEvent, Callbacks, EvBuffer, EventBase, Events, Filter, FilterResult, FlushEnd, FlushMode,
    Interest, Options, RelayEnd, RelayOptions, RunFlags, relay,
};

/// A bound on everything that waits in these tests.
const BOUND: Duration = Duration::from_secs(20);

fn over(base: &EventBase, fd: impl Into<OwnedFd>, options: Options) -> BufferEvent {
    let options = options | Options::CLOSE_ON_FREE;
    BufferEvent::socket(base, Some(fd.into()), options).unwrap()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}

#[test]
fn a_reset_is_told_however_it_arrives() {
    for bytes in [100, 60_000] {
        for (filters, options) in [(0, Options::empty()), (1, Options::DEFER_CALLBACKS)] {
            for mark in [0, 50] {
                let base = EventBase::new().unwrap();
                let (mut far, ours) = tcp_pair();
                far.write_all(&pattern(bytes)).unwrap();
                // A reset drops what is not sent yet: it is to come behind bytes that have arrived.
                while rustix::io::ioctl_fionread(&ours).unwrap() < bytes as u64 {
                    std::thread::yield_now();
                }
                let bev = under_filters(&over(&base, ours, options), filters, options);
                let events = events_of(&bev);
                bev.set_watermarks(Interest::READ, 0, mark).unwrap();
                rustix::net::sockopt::set_socket_linger(&far, Some(Duration::ZERO)).unwrap();
                drop(far);
                bev.enable(Interest::READ).unwrap();
                let mut got = Vec::new();
                let told = turn_until(&base, || {
                    let mut part = [0; 65_536];
                    let n = bev.read(&mut part);
                    got.extend(&part[..n]);
                    events.borrow().contains(&(Events::READING | Events::ERROR))
                });
                assert!(told, "{bytes} bytes, {filters} filters, mark {mark}");
                got.extend(all_of_input(&bev));
                assert!(got == pattern(bytes), "{} of {bytes}", got.len());
            }
        }
    }
}

fn all_of_input(bev: &BufferEvent) -> Vec<u8> {
    let mut rest = vec![0; bev.input().len()];
    let n = bev.read(&mut rest);
    rest.truncate(n);
    rest
}

#[test]
fn what_the_kernel_takes_leaves_the_output_at_once_while_somebody_times_it() {
    type Timed = fn(&BufferEvent);
    let timeout: Timed = |bev| bev.set_timeouts(None, Some(BOUND)).unwrap();
    let mark: Timed = |bev| bev.set_watermarks(Interest::WRITE, 900_000, 0).unwrap();
    for timed in [timeout, mark] {
        for before in [true, false] {
            let base = EventBase::new().unwrap();
            let (ours, mut far) = UnixStream::pair().unwrap();
            let bev = over(&base, ours, Options::empty());
            if before {
                timed(&bev);
            }
            bev.write(&pattern(1 << 20)).unwrap();
            base.run_with(RunFlags::NONBLOCK).unwrap();
            timed(&bev);
            let down = turn_until(&base, || {
                let left = bev.output().len();
                if left > (1 << 20) - 200_000 {
                    far.set_nonblocking(true).unwrap();
                    let _nothing_yet = far.read(&mut [0; 65_536]);
                }
                left <= (1 << 20) - 140_000
            });
            let left = bev.output().len();
            assert!(down && left != 0, "{left} bytes left");
        }
    }
}

#[test]
fn a_descriptor_that_changes_in_mid_send_loses_no_byte_and_doubles_none() {
    for detached in [false, true] {
        let base = EventBase::new().unwrap();
        let (first, first_far) = UnixStream::pair().unwrap();
        let (second, second_far) = UnixStream::pair().unwrap();
        let bev = over(&base, first, Options::empty());
        let data = pattern(3 << 20);
        bev.write(&data).unwrap();
        base.run_with(RunFlags::NONBLOCK).unwrap();
        if detached {
            bev.replace_fd(None).unwrap();
            base.run_with(RunFlags::NONBLOCK).unwrap();
        }
        bev.replace_fd(Some(second.into())).unwrap();
        let readers = [first_far, second_far].map(|far| thread::spawn(move || all_of(far)));
        bev.close_after_flush(None, |end| assert_eq!(end, FlushEnd::Flushed))
            .unwrap();
        base.run().unwrap();
        let [old, new] = readers.map(|reader| reader.join().unwrap());
        assert!(!old.is_empty() && !new.is_empty());
        assert!([old, new].concat() == data, "detached: {detached}");
    }
}

#[test]
fn outputs_that_are_swapped_or_assigned_under_a_send_arrive_once() {
    for swapped in [true, false] {
        let base = EventBase::new().unwrap();
        let (one, one_far) = UnixStream::pair().unwrap();
        let (two, two_far) = UnixStream::pair().unwrap();
        let (one, two) = (
            over(&base, one, Options::empty()),
            over(&base, two, Options::empty()),
        );
        one.write(&vec![b'a'; 1 << 20]).unwrap();
        base.run_with(RunFlags::NONBLOCK).unwrap();
        two.disable(Interest::WRITE).unwrap();
        two.write(&vec![b'b'; 1 << 20]).unwrap();
        one.output()
            .with(|one| match swapped {
                true => two.output().with(|two| std::mem::swap(one, two)).unwrap(),
                false => *one = EvBuffer::from("new"),
            })
            .unwrap();
        two.enable(Interest::WRITE).unwrap();
        let readers = [one_far, two_far].map(|far| thread::spawn(move || all_of(far)));
        for bev in [&one, &two] {
            bev.close_after_flush(None, |_| {}).unwrap();
        }
        base.run().unwrap();
        let got = readers.map(|reader| reader.join().unwrap()).concat();
        let count = |byte| got.iter().filter(|&&b| b == byte).count();
        assert_eq!((count(b'a'), count(b'b')), (1 << 20, 1 << 20));
        assert_eq!(count(b'n'), usize::from(!swapped));
    }
}

#[test]
fn a_pipe_gets_all_of_a_close_and_ends_with_it() {
    for filters in [0, 2] {
        let base = EventBase::new().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let bev = under_filters(
            &over(&base, OwnedFd::from(writer), Options::empty()),
            filters,
            Options::empty(),
        );
        bev.write(&pattern(1 << 20)).unwrap();
        let reading = thread::spawn(move || all_of(reader));
        let told = Rc::new(Cell::new(None));
        let end = told.clone();
        bev.close_after_flush(None, move |how| end.set(Some(how)))
            .unwrap();
        base.run().unwrap();
        assert_eq!(told.get(), Some(FlushEnd::Flushed));
        assert!(reading.join().unwrap() == pattern(1 << 20));
    }
}

#[test]
fn shutdown_write_ends_a_pipe_that_may_be_closed_and_is_refused_elsewhere() {
    let base = EventBase::new().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let bev = over(&base, OwnedFd::from(writer), Options::empty());
    bev.write(b"last").unwrap();
    bev.shutdown_write().unwrap();
    base.run().unwrap();
    assert_eq!(all_of(reader), b"last");
    let (_reader, writer) = std::io::pipe().unwrap();
    let writer = Some(OwnedFd::from(writer));
    let kept = BufferEvent::socket(&base, writer, Options::empty()).unwrap();
    assert!(kept.shutdown_write().is_err());
}

#[test]
fn an_end_waits_when_the_read_callback_disables_reading() {
    for options in [Options::empty(), Options::DEFER_CALLBACKS] {
        for (priorities, tcp) in [(1, false), (1, true), (3, false), (3, true)] {
            let base = EventBase::builder().priorities(priorities).build().unwrap();
            let (mut far, ours): (Box<dyn Write>, OwnedFd) = match tcp {
                true => {
                    let (far, ours) = tcp_pair();
                    (Box::new(far), ours.into())
                }
                false => {
                    let (ours, far) = UnixStream::pair().unwrap();
                    (Box::new(far), ours.into())
                }
            };
            let bev = over(&base, ours, options);
            let (reads, ends) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
            let (read, ended) = (reads.clone(), ends.clone());
            bev.set_callbacks(
                Callbacks::new()
                    .on_read(move |bev| {
                        read.set(read.get() + 1);
                        bev.disable(Interest::READ)
                    })
                    .on_event(move |_, events| {
                        ended.set(ended.get() + usize::from(events.contains(Events::EOF)));
                    }),
            )
            .unwrap();
            far.write_all(b"last").unwrap();
            drop(far);
            bev.enable(Interest::READ).unwrap();
            assert!(turn_until(&base, || reads.get() == 1));
            for _ in 0..20 {
                base.run_with(RunFlags::NONBLOCK).unwrap();
            }
            assert_eq!(ends.get(), 0);
            bev.enable(Interest::READ).unwrap();
            assert!(turn_until(&base, || ends.get() == 1));
        }
    }
}

#[test]
fn a_low_mark_above_the_high_one_stalls_nobody() {
    let base = EventBase::new().unwrap();
    let (ours, mut far) = UnixStream::pair().unwrap();
    let bev = over(&base, ours, Options::empty());
    bev.set_watermarks(Interest::READ, 100, 50).unwrap();
    let got = Rc::new(Cell::new(0));
    let sum = got.clone();
    bev.set_callbacks(Callbacks::new().on_read(move |bev| {
        assert!(bev.input().len() <= 50);
        sum.set(sum.get() + bev.read(&mut [0; 50]));
    }))
    .unwrap();
    bev.enable(Interest::READ).unwrap();
    far.write_all(&[0; 200]).unwrap();
    assert!(turn_until(&base, || got.get() == 200));
}

#[test]
fn what_an_output_filter_writes_to_its_own_bufferevent_follows() {
    struct Echoing(Rc<RefCell<Option<BufferEvent>>>, u32);
    impl Filter for Echoing {
        fn output(
            &mut self,
            src: &mut EvBuffer,
            dst: &mut EvBuffer,
            _: Option<usize>,
            _: FlushMode,
        ) -> FilterResult {
            dst.add_buffer(src).unwrap();
            if self.1 > 0 {
                self.1 -= 1;
                let own = self.0.borrow().clone();
                own.unwrap().write(b"+").unwrap();
            }
            FilterResult::Ok
        }
    }
    for depth in [0, 1] {
        let base = EventBase::new().unwrap();
        let (ours, far) = UnixStream::pair().unwrap();
        let below = under_filters(
            &over(&base, ours, Options::empty()),
            depth,
            Options::empty(),
        );
        let own = Rc::new(RefCell::new(None));
        let filter = Echoing(own.clone(), 50);
        let top = BufferEvent::filter(&below, filter, Options::CLOSE_ON_FREE).unwrap();
        *own.borrow_mut() = Some(top.clone());
        top.write(b"0").unwrap();
        top.close_after_flush(None, |_| {}).unwrap();
        let reading = thread::spawn(move || all_of(far));
        base.run().unwrap();
        own.take();
        assert_eq!(reading.join().unwrap().len(), 51);
    }
}

#[test]
fn a_relay_reports_when_a_side_is_freed_or_the_base_ends() {
    for freed in [true, false] {
        let base = EventBase::new().unwrap();
        let (one, _one_far) = UnixStream::pair().unwrap();
        let (two, _two_far) = UnixStream::pair().unwrap();
        let (one, two) = (
            over(&base, one, Options::empty()),
            over(&base, two, Options::empty()),
        );
        let joined = relay(&one, &two, RelayOptions::default()).unwrap();
        let told = Rc::new(Cell::new(None));
        let end = told.clone();
        joined.on_end(move |report| end.set(Some(report.end)));
        base.run_with(RunFlags::NONBLOCK).unwrap();
        match freed {
            true => {
                one.free();
                assert!(turn_until(&base, || told.get().is_some()));
                assert!(two.is_freed());
            }
            false => drop(base),
        }
        assert_eq!(told.get(), Some(RelayEnd::Closed));
    }
}

#[test]
fn reports_come_when_the_base_ends() {
    let base = EventBase::new().unwrap();
    let (ours, _far) = UnixStream::pair().unwrap();
    let (reader, _writer) = UnixStream::pair().unwrap();
    let (closing, reading) = (
        over(&base, ours, Options::empty()),
        over(&base, reader, Options::empty()),
    );
    reading.enable(Interest::READ).unwrap();
    base.run_with(RunFlags::NONBLOCK).unwrap();
    let told = Rc::new(Cell::new(0));
    for _ in 0..2 {
        let done = told.clone();
        reading
            .finish_reading(move |_| done.set(done.get() + 1))
            .unwrap();
    }
    closing.write(&vec![0; 8 << 20]).unwrap();
    let end = told.clone();
    closing
        .close_after_flush(None, move |how| {
            assert!(matches!(how, FlushEnd::Failed { unsent } if unsent != 0));
            end.set(end.get() + 10);
        })
        .unwrap();
    drop(base);
    assert_eq!(told.get(), 12);
}

#[test]
fn what_needs_a_descriptor_is_refused_in_memory_and_goes_down_through_filters() {
    let base = EventBase::new().unwrap();
    let (pair, _partner) = BufferEvent::pair(&base, Options::empty()).unwrap();
    let below = BufferEvent::socket(&base, None, Options::CLOSE_ON_FREE).unwrap();
    let filter = under_filters(&below, 1, Options::empty());
    for bev in [&pair, &filter] {
        assert!(bev.connect("127.0.0.1:9").is_err());
        assert!(bev.connect_in_progress().is_err());
        assert!(bev.set_max_single_read(1).is_err());
        assert!(bev.set_nodelay(true).is_err(), "no descriptor");
        assert_eq!(bev.fd(), None);
    }
    let (ours, mut far) = tcp_pair();
    assert!(pair.set_fd(None).is_err());
    filter.set_fd(Some(ours.into())).unwrap();
    assert!(filter.fd().is_some() && filter.fd() == below.fd());
    filter.set_nodelay(true).unwrap();
    filter.enable(Interest::READ).unwrap();
    far.write_all(b"through").unwrap();
    assert!(turn_until(&base, || filter.input().len() == 7));
}

#[test]
fn a_unix_socket_with_a_full_backlog_refuses_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("full");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    let base = EventBase::new().unwrap();
    let mut refused = false;
    for _ in 0..3 {
        let bev = BufferEvent::socket(&base, None, Options::CLOSE_ON_FREE).unwrap();
        let events = events_of(&bev);
        bev.connect(evring::Addr::unix(&path).unwrap()).unwrap();
        assert!(turn_until(&base, || !events.borrow().is_empty()));
        refused |= events.borrow().as_slice() == [Events::ERROR]
            && bev.last_error().map(evring::Errno::raw) == Some(11);
    }
    assert!(refused, "EAGAIN, as connect(2) says");
}

/// `reset` is seen as a reset, `free` as an end, through any number of filters; over what knows no
/// resets both are an end.
#[test]
fn a_reset_of_ours_is_seen_as_one_where_there_is_such_a_thing() {
    type Made = fn(&EventBase, Options) -> (BufferEvent, BufferEvent, bool);
    let made: [Made; 3] = [
        |base, options| {
            let (far, ours) = tcp_pair();
            (over(base, ours, options), over(base, far, options), true)
        },
        |base, options| {
            let (ours, far) = UnixStream::pair().unwrap();
            (over(base, ours, options), over(base, far, options), false)
        },
        |base, options| {
            let (near, far) = BufferEvent::pair(base, options | Options::CLOSE_ON_FREE).unwrap();
            (near, far, true)
        },
    ];
    let (end, broken) = (
        Events::READING | Events::EOF,
        Events::READING | Events::ERROR,
    );
    for made in made {
        for (filters, options) in [(0, Options::empty()), (2, Options::DEFER_CALLBACKS)] {
            for resets in [false, true] {
                for bytes in [0, 3_000] {
                    let base = EventBase::new().unwrap();
                    let (near, far, knows) = made(&base, options);
                    let top = under_filters(&near, filters, options);
                    let events = events_of(&far);
                    far.enable(Interest::READ).unwrap();
                    top.write(&pattern(bytes)).unwrap();
                    assert!(turn_until(&base, || far.input().len() == bytes));
                    match resets {
                        true => top.reset(),
                        false => top.free(),
                    }
                    assert!(near.is_freed());
                    assert!(turn_until(&base, || !events.borrow().is_empty()));
                    let seen = if resets && knows { broken } else { end };
                    assert_eq!(*events.borrow(), [seen], "{filters} {resets} {bytes}");
                    if seen == broken {
                        let reset = far.last_error().map(evring::Errno::raw);
                        assert_eq!(reset, Some(libc::ECONNRESET));
                    }
                    assert!(all_of_input(&far) == pattern(bytes));
                }
            }
        }
    }
}

thread_local! {
    /// What callbacks of buffers, which have to be `Send`, get at their bufferevent by.
    static WATCHED: RefCell<Option<BufferEvent>> = const { RefCell::new(None) };
}

/// Lengths of a buffer as its bufferevent tells them, and as the buffer does, at each change.
type Told = std::sync::Arc<std::sync::Mutex<Vec<(usize, usize, usize, usize)>>>;

/// Callbacks of the two buffers of `bev`; that of the input answers what came with an `!`.
fn watch_buffers(bev: &BufferEvent) -> (Told, Told) {
    let (inputs, outputs) = (Told::default(), Told::default());
    let (told_in, told_out) = (inputs.clone(), outputs.clone());
    WATCHED.set(Some(bev.clone()));
    let with_bev = |f: &dyn Fn(&BufferEvent)| WATCHED.with_borrow(|bev| f(bev.as_ref().unwrap()));
    bev.input()
        .with(|input| {
            input.add_callback(move |buffer, change| {
                with_bev(&|bev| {
                    let seen = (
                        bev.input().len(),
                        buffer.len(),
                        change.added,
                        change.deleted,
                    );
                    told_in.lock().unwrap().push(seen);
                    if change.added != 0 {
                        bev.write(b"!").unwrap();
                    }
                });
            })
        })
        .unwrap();
    bev.output()
        .with(|output| {
            output.add_callback(move |buffer, change| {
                with_bev(&|bev| {
                    let seen = (
                        bev.output().len(),
                        buffer.len(),
                        change.added,
                        change.deleted,
                    );
                    told_out.lock().unwrap().push(seen);
                    // It may look at all there is, its own bufferevent included.
                    assert!(!bev.is_freed() && bev.input().len() <= 64);
                });
            })
        })
        .unwrap();
    (inputs, outputs)
}

#[test]
fn callbacks_of_the_buffers_run_with_nothing_borrowed_and_may_write() {
    for options in [Options::empty(), Options::DEFER_CALLBACKS] {
        for filters in [0, 1] {
            for paired in [false, true] {
                let base = EventBase::new().unwrap();
                let (below, peer) = match paired {
                    true => BufferEvent::pair(&base, options).unwrap(),
                    false => {
                        let (ours, theirs) = UnixStream::pair().unwrap();
                        (over(&base, ours, options), over(&base, theirs, options))
                    }
                };
                let bev = under_filters(&below, filters, options);
                let (inputs, outputs) = watch_buffers(&bev);
                for end in [&bev, &peer] {
                    end.enable(Interest::READ | Interest::WRITE).unwrap();
                }
                let case = format!("{options:?}, {filters} filters, a pair: {paired}");
                peer.write(b"ping").unwrap();
                assert!(
                    turn_until(&base, || peer.input().len() == 1 && bev.output().is_empty()),
                    "the callback's answer arrives: {case}"
                );
                assert_eq!(bev.input().len(), 4, "{case}");
                let added: usize = inputs.lock().unwrap().iter().map(|told| told.2).sum();
                assert_eq!(added, 4, "{case}");
                for &(by_bev, by_buffer, added, deleted) in inputs.lock().unwrap().iter() {
                    // A filter has the buffer in its hands: the bufferevent tells what it had
                    // before.
                    let known = by_buffer + filters * deleted - filters * added;
                    assert_eq!(by_bev, known, "{case}");
                }
                let mut data = [0; 4];
                inputs.lock().unwrap().clear();
                assert_eq!(bev.read(&mut data), 4);
                let (_, left, _, deleted) = *inputs.lock().unwrap().last().unwrap();
                assert_eq!((left, deleted), (0, 4), "told of what was read: {case}");

                bev.write(b"more").unwrap();
                assert!(turn_until(&base, || peer.input().len() == 5), "{case}");
                let sum = |of: fn(&(usize, usize, usize, usize)) -> usize| {
                    outputs.lock().unwrap().iter().map(of).sum::<usize>()
                };
                assert!(turn_until(&base, || sum(|told| told.3) == 5), "{case}");
                assert_eq!(sum(|told| told.2), 5, "each byte once: {case}");
                WATCHED.set(None);
            }
        }
    }
}

/// Turns the loop until nothing is left to do but to wait.
fn rest(base: &EventBase) {
    for _ in 0..5 {
        base.run_with(RunFlags::NONBLOCK | RunFlags::NO_EXIT_ON_EMPTY)
            .unwrap();
    }
}

/// Ours, which nobody keeps awake, and the peer's end, which does not block.
fn resting_pair(base: &EventBase, tcp: bool, options: Options) -> (BufferEvent, Box<dyn Peer>) {
    let (bev, peer): (_, Box<dyn Peer>) = match tcp {
        true => {
            let (theirs, ours) = tcp_pair();
            theirs.set_nonblocking(true).unwrap();
            (over(base, ours, options), Box::new(theirs))
        }
        false => {
            let (theirs, ours) = UnixStream::pair().unwrap();
            theirs.set_nonblocking(true).unwrap();
            (over(base, ours, options), Box::new(theirs))
        }
    };
    (bev, peer)
}

trait Peer: Read + Write {}

impl<T: Read + Write> Peer for T {}

/// Whatever the program does from a callback of a buffer: it has that buffer in its hands, so that
/// no other callback runs within it, and finds the buffer busy; what it did takes effect after it.
#[test]
fn no_callback_runs_within_a_callback_of_a_buffer() {
    for options in [Options::empty(), Options::DEFER_CALLBACKS] {
        for (tcp, filters) in [(false, 0), (true, 0), (false, 1), (true, 2)] {
            for size in [1, 300, 100_000] {
                let base = EventBase::new().unwrap();
                let (below, mut peer) = resting_pair(&base, tcp, options);
                let bev = under_filters(&below, filters, options);
                WATCHED.set(Some(bev.clone()));
                let refused = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
                let counted = refused.clone();
                bev.input()
                    .with(|input| {
                        input.add_callback(move |_, change| {
                            if change.added == 0 {
                                return;
                            }
                            WATCHED.with_borrow(|bev| {
                                let bev = bev.as_ref().unwrap();
                                bev.write(b"!").unwrap();
                                bev.enable(Interest::READ).unwrap();
                                let again = bev.base().unwrap().run_with(RunFlags::NONBLOCK);
                                let refused = usize::from(again.is_err());
                                counted.fetch_add(refused, std::sync::atomic::Ordering::Relaxed);
                                assert!(again.is_err(), "the loop would find the buffer in use");
                            });
                        })
                    })
                    .unwrap();
                let read = Rc::new(Cell::new(0));
                let sum = read.clone();
                bev.set_callbacks(Callbacks::new().on_read(move |bev| {
                    let mut data = vec![0; bev.input().len()];
                    assert!(!data.is_empty(), "called with something to read");
                    assert_eq!(bev.read(&mut data), data.len(), "nobody has the input");
                    sum.set(sum.get() + data.len());
                }))
                .unwrap();
                bev.enable(Interest::READ).unwrap();
                rest(&base);
                peer.write_all(&pattern(size)).unwrap();
                let case = format!("{options:?}, tcp {tcp}, {filters} filters, {size} bytes");
                assert!(turn_until(&base, || read.get() == size), "{case}");
                assert_ne!(refused.load(std::sync::atomic::Ordering::Relaxed), 0);
                WATCHED.set(None);
            }
        }
    }
}

/// A connection at rest: nothing else has the loop look at what such a callback wrote.
#[test]
fn what_a_callback_of_a_buffer_writes_is_sent_from_a_connection_at_rest() {
    for (tcp, filters) in [(false, 0), (true, 0), (true, 1), (false, 2)] {
        for (of_input, from_loop) in [(true, true), (true, false), (false, true), (false, false)] {
            let base = EventBase::new().unwrap();
            let (below, mut peer) = resting_pair(&base, tcp, Options::empty());
            let bev = under_filters(&below, filters, Options::empty());
            bev.enable(Interest::READ).unwrap();
            peer.write_all(b"ping").unwrap();
            assert!(turn_until(&base, || bev.input().len() == 4));
            rest(&base);
            WATCHED.set(Some(bev.clone()));
            let mut first = true;
            let answer = move |_: &mut EvBuffer, _: &evring::evbuffer::Change| {
                if std::mem::take(&mut first) {
                    WATCHED.with_borrow(|bev| bev.as_ref().unwrap().write(b"!").unwrap());
                }
            };
            let view = if of_input { bev.input() } else { bev.output() };
            view.with(|buffer| buffer.add_callback(answer)).unwrap();
            rest(&base);
            let touched = bev.clone();
            let touch = move || match of_input {
                true => assert_eq!(touched.read(&mut [0; 4]), 4),
                false => touched.write(b"o").unwrap(),
            };
            if from_loop {
                base.defer(move |_| touch());
            } else {
                touch();
            }
            let expected: &[u8] = if of_input { b"!" } else { b"o!" };
            let (mut got, mut data) = (Vec::new(), [0; 8]);
            let all = turn_until(&base, || {
                let n = peer.read(&mut data).unwrap_or(0);
                got.extend_from_slice(&data[..n]);
                got.len() >= expected.len()
            });
            let case = format!("tcp {tcp}, {filters} filters, {of_input}, {from_loop}");
            assert!(all && got == expected, "{case}: {got:?}");
            WATCHED.set(None);
        }
    }
}

/// A callback of the input takes what comes: the input has room again, below a mark of any size.
#[test]
fn what_a_callback_of_the_input_takes_makes_room() {
    for tcp in [false, true] {
        for (high, size) in [(1, 40), (4, 3_000), (1_000, 100_000)] {
            let base = EventBase::new().unwrap();
            let (bev, mut peer) = resting_pair(&base, tcp, Options::empty());
            bev.set_watermarks(Interest::READ, 0, high).unwrap();
            let taken = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
            let sum = taken.clone();
            bev.input()
                .with(|input| {
                    input.add_callback(move |buffer, change| {
                        if change.added != 0 {
                            sum.fetch_add(buffer.len(), std::sync::atomic::Ordering::Relaxed);
                            buffer.drain(buffer.len()).unwrap();
                        }
                    })
                })
                .unwrap();
            bev.enable(Interest::READ).unwrap();
            peer.write_all(&pattern(size)).unwrap();
            let all = || taken.load(std::sync::atomic::Ordering::Relaxed) == size;
            assert!(
                turn_until(&base, all),
                "tcp {tcp}, {high}, {size}: {taken:?}"
            );
        }
    }
}

/// An echo that pauses at its mark: passing the input on makes room, to whichever output it goes.
#[test]
fn passing_the_input_on_makes_room() {
    for (tcp, filters) in [(false, 0), (true, 0), (true, 1), (false, 2)] {
        for (high, size) in [(1, 30), (100, 5_000), (4_096, 200_000)] {
            for (options, to_itself) in [
                (Options::empty(), true),
                (Options::DEFER_CALLBACKS, true),
                (Options::empty(), false),
                (Options::DEFER_CALLBACKS, false),
            ] {
                let base = EventBase::new().unwrap();
                let (below, mut peer) = resting_pair(&base, tcp, options);
                let bev = under_filters(&below, filters, options);
                let (other, far) = BufferEvent::pair(&base, Options::empty()).unwrap();
                far.enable(Interest::READ).unwrap();
                let sink = if to_itself { bev.clone() } else { other };
                bev.set_watermarks(Interest::READ, 0, high).unwrap();
                let passed = Rc::new(Cell::new(0));
                let sum = passed.clone();
                bev.set_callbacks(Callbacks::new().on_read(move |bev| {
                    sum.set(sum.get() + bev.transfer_to(&sink).unwrap());
                }))
                .unwrap();
                bev.enable(Interest::READ).unwrap();
                let case =
                    format!("tcp {tcp}, {filters}, {high}, {size}, {options:?}, {to_itself}");
                let (mut sent, mut got, mut data) = (0, 0, vec![0; 64 << 10]);
                let bytes = pattern(size);
                let all = turn_until(&base, || {
                    sent += peer.write(&bytes[sent..]).unwrap_or(0);
                    got += match to_itself {
                        true => peer.read(&mut data).unwrap_or(0),
                        false => far.read(&mut data),
                    };
                    got == size
                });
                assert!(all && passed.get() == size, "{case}: {got} of {passed:?}");
            }
        }
    }
}

/// What was sent is the readiness that enabling WRITE promised to tell of: it is told once.
#[test]
fn enabling_and_writing_is_one_write_callback() {
    for tcp in [false, true] {
        for options in [Options::empty(), Options::DEFER_CALLBACKS] {
            for size in [1, 3_000] {
                let base = EventBase::new().unwrap();
                let (bev, mut peer) = resting_pair(&base, tcp, options);
                let calls = Rc::new(Cell::new(0));
                let count = calls.clone();
                bev.set_callbacks(Callbacks::new().on_write(move |_| count.set(count.get() + 1)))
                    .unwrap();
                bev.enable(Interest::WRITE).unwrap();
                bev.write(&pattern(size)).unwrap();
                assert!(turn_until(&base, || calls.get() != 0 && bev.output().is_empty()));
                // Whatever has it looked at again.
                bev.enable(Interest::READ).unwrap();
                peer.write_all(b"more").unwrap();
                assert!(turn_until(&base, || bev.input().len() == 4));
                rest(&base);
                assert_eq!(calls.get(), 1, "tcp {tcp}, {options:?}, {size}");
            }
        }
    }
}
