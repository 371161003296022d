//! User code that panics: whoever catches that may go on with the loop, and nothing is lost.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::Duration;

use evring::{
    Addr, BufferEvent, Callbacks, EvBuffer, EventBase, Exit, Filter, FilterResult, FlushMode,
    Interest, ListenOptions, Listener, Options, RunFlags,
};

/// A bound on everything that waits in these tests.
const BOUND: Duration = Duration::from_secs(30);

/// Panics without a message on the console.
fn boom() {
    resume_unwind(Box::new("boom"));
}

/// Turns until it holds, catching what panics; how many panics.
fn turn_until(base: &EventBase, mut holds: impl FnMut() -> bool) -> usize {
    let mut panics = 0;
    for _ in 0..10_000 {
        if holds() {
            return panics;
        }
        base.stop_after(Duration::from_millis(20));
        let flags = RunFlags::ONCE | RunFlags::NO_EXIT_ON_EMPTY;
        let turned = catch_unwind(AssertUnwindSafe(|| base.run_with(flags)));
        panics += usize::from(turned.is_err());
    }
    panic!("it never held");
}

/// Runs until nothing is left to wait for; a stop that was set before may come first.
fn run_out(base: &EventBase) {
    if base.run().unwrap() == Exit::Stopped {
        assert_eq!(base.run().unwrap(), Exit::Idle);
    }
}

/// A count of calls, and a closure that counts and panics at the given calls.
fn panicking(at: &'static [usize]) -> (Rc<Cell<usize>>, impl FnMut()) {
    let calls = Rc::new(Cell::new(0));
    let count = calls.clone();
    (calls, move || {
        count.set(count.get() + 1);
        if at.contains(&count.get()) {
            boom();
        }
    })
}

#[test]
fn a_timer_that_panics_keeps_no_loop_alive_and_can_be_armed_again() {
    let base = EventBase::new().unwrap();
    let (calls, mut call) = panicking(&[1]);
    let timer = base.timer(Duration::ZERO, move |_| call()).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| base.run())).is_err());
    assert_eq!((base.active(), timer.is_pending()), (0, false));
    assert_eq!(base.run().unwrap(), Exit::Idle);
    timer.rearm(Duration::ZERO).unwrap();
    assert_eq!(base.run().unwrap(), Exit::Idle);
    assert_eq!(calls.get(), 2);
}

#[test]
fn timers_and_deferred_callbacks_behind_one_that_panics_run_in_the_next_run() {
    let base = EventBase::new().unwrap();
    let ran = Rc::new(RefCell::new(Vec::new()));
    for name in 0..6 {
        let ran = ran.clone();
        let call = move || {
            ran.borrow_mut().push(name);
            if name % 2 == 0 {
                boom();
            }
        };
        if name < 3 {
            base.timer(Duration::ZERO, move |_| call()).unwrap();
        } else {
            base.defer(move |_| call());
        }
    }
    let panics = turn_until(&base, || ran.borrow().len() == 6);
    assert_eq!(panics, 3);
    ran.borrow_mut().sort_unstable();
    assert_eq!(*ran.borrow(), [0, 1, 2, 3, 4, 5]);
    run_out(&base);
}

/// The callbacks of one bufferevent that come behind the one that panics in the same run.
#[test]
fn callbacks_behind_one_that_panics_run_in_the_next_run() {
    use evring::{Callbacks, Events, TriggerOptions};
    for options in [Options::empty(), Options::DEFER_CALLBACKS] {
        for priorities in [1, 3] {
            let base = EventBase::builder().priorities(priorities).build().unwrap();
            let (ours, _theirs) = UnixStream::pair().unwrap();
            let options = options | Options::CLOSE_ON_FREE;
            let bev = BufferEvent::socket(&base, Some(ours.into()), options).unwrap();
            let ran = Rc::new(RefCell::new(Vec::new()));
            let say = |name: &'static str| {
                let ran = ran.clone();
                move || {
                    ran.borrow_mut().push(name);
                    boom();
                }
            };
            let (read, write, event) = (say("read"), say("write"), say("event"));
            bev.set_callbacks(
                Callbacks::new()
                    .on_read(move |_| read())
                    .on_write(move |_| write())
                    .on_event(move |_, _| event()),
            )
            .unwrap();
            let trigger = bev.clone();
            // All three at once, from the FIFO.
            base.defer(move |_| {
                let later = TriggerOptions::DEFER_CALLBACKS | TriggerOptions::IGNORE_WATERMARKS;
                trigger.trigger_event(Events::EOF, later).unwrap();
                let both = Interest::READ | Interest::WRITE;
                trigger.trigger(both, later).unwrap();
            });
            let panics = turn_until(&base, || ran.borrow().len() == 3);
            assert_eq!(
                (panics, &**ran.borrow()),
                (3, &["read", "write", "event"][..])
            );
            bev.free();
            run_out(&base);
        }
    }
}

#[test]
fn an_interval_goes_on_after_it_panicked() {
    let base = EventBase::new().unwrap();
    let (calls, mut call) = panicking(&[1, 3]);
    let timer = base
        .interval(Duration::from_millis(1), move |_| call())
        .unwrap();
    assert_eq!(turn_until(&base, || calls.get() >= 5), 2);
    timer.cancel();
    run_out(&base);
}

#[test]
fn jobs_behind_one_that_panics_run_without_another_post() {
    let base = EventBase::new().unwrap();
    let remote = base.remote().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    for job in 0..8 {
        let tell = tell.clone();
        remote
            .post(move |_| {
                tell.send(job).unwrap();
                if job % 3 == 0 {
                    boom();
                }
            })
            .unwrap();
    }
    let mut jobs = Vec::new();
    let panics = turn_until(&base, || {
        jobs.extend(told.try_iter());
        jobs.len() == 8
    });
    assert_eq!((panics, jobs), (3, (0..8).collect()));
}

#[test]
fn a_listener_accepts_the_next_after_its_callback_panicked() {
    for pausing in [false, true] {
        let base = EventBase::new().unwrap();
        let at: Addr = "127.0.0.1:0".parse().unwrap();
        let (calls, mut call) = panicking(&[1, 3]);
        let options = ListenOptions::default();
        let listener = Listener::bind(&base, &at, options, move |listener, accepted| {
            if pausing {
                // The others are held back, and handed over when it goes on.
                listener.pause();
                listener.resume();
            }
            drop(accepted);
            call();
        })
        .unwrap();
        let Addr::Inet(at) = listener.local_addr().unwrap() else {
            unreachable!()
        };
        let clients: Vec<_> = (0..5).map(|_| TcpStream::connect(at).unwrap()).collect();
        assert_eq!(turn_until(&base, || calls.get() == 5), 2);
        for mut client in clients {
            client.set_read_timeout(Some(BOUND)).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        }
        listener.close();
        run_out(&base);
    }
}

/// A socket that does not listen yet: the error callback panics, and the listener goes on to try.
/// It is called again when the socket ceases to listen.
#[test]
fn a_listener_goes_on_after_its_error_callback_panicked() {
    use rustix::net::{AddressFamily, Shutdown, SocketType};
    for held in [false, true] {
        let base = EventBase::new().unwrap();
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        rustix::net::bind(&socket, &any).unwrap();
        let at = rustix::net::getsockname(&socket).unwrap();
        let at = std::net::SocketAddr::try_from(at).unwrap();
        let accepted = Rc::new(Cell::new(0));
        let count = accepted.clone();
        let listener =
            Listener::lend(&base, &socket, move |_, _| count.set(count.get() + 1)).unwrap();
        let (errors, mut call) = panicking(&[1, 2]);
        listener.on_error(move |listener, _| {
            if held {
                // What it does before it panics holds.
                listener.pause();
            }
            call();
        });
        assert_eq!(turn_until(&base, || errors.get() == 1), 1);
        assert_eq!(listener.is_paused(), held);
        rustix::net::listen(&socket, 5).unwrap();
        listener.resume();
        let client = TcpStream::connect(at).unwrap();
        assert_eq!(turn_until(&base, || accepted.get() == 1), 0);
        drop(client);
        rustix::net::shutdown(&socket, Shutdown::Read).unwrap();
        assert_eq!(
            turn_until(&base, || errors.get() == 2),
            1,
            "it is called again"
        );
        listener.close();
        run_out(&base);
        assert_eq!(base.in_flight(), 0);
    }
}

#[test]
fn a_watched_descriptor_is_watched_on_after_a_panic() {
    let base = EventBase::new().unwrap();
    let (mut theirs, ours) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let (calls, mut call) = panicking(&[1, 2]);
    let fd = ours.as_raw_fd();
    let event = base
        .fd_event(fd, Interest::READ, move |_, _| {
            let mut byte = [0; 8];
            while (&ours).read(&mut byte).is_ok() {}
            call();
        })
        .unwrap();
    for round in 1..=4 {
        theirs.write_all(b"x").unwrap();
        turn_until(&base, || calls.get() == round);
    }
    event.cancel();
    run_out(&base);
}

#[test]
fn a_turn_hook_is_called_on_after_it_panicked() {
    let base = EventBase::new().unwrap();
    let (calls, mut call) = panicking(&[2, 4]);
    base.set_turn_hook(move |_| call());
    assert_eq!(turn_until(&base, || calls.get() >= 6), 2);
}

#[test]
fn a_stop_that_was_asked_for_outlives_a_panic_in_its_turn() {
    let base = EventBase::new().unwrap();
    base.stop_after(Duration::ZERO);
    base.timer(Duration::ZERO, |_| boom()).unwrap();
    base.defer(|_| {});
    assert!(catch_unwind(AssertUnwindSafe(|| base.run())).is_err());
    let stopped = base.run_with(RunFlags::NO_EXIT_ON_EMPTY).unwrap();
    assert_eq!(stopped, Exit::Stopped);
}

/// A destructor that panics while the base ends: the others have their end, and no descriptor is
/// left.
/// A payload whose destructor panics, but not on top of another panic.
struct Bomb(Vec<u8>);

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            boom();
        }
    }
}

#[test]
fn what_waits_behind_a_payload_whose_destructor_panics_is_sent() {
    struct Pass;
    impl Filter for Pass {}
    for (filtered, paired) in [(false, false), (true, false), (false, true), (true, true)] {
        for (size, behind) in [(1, 1), (64, 3 << 20), (200_000, 300_000)] {
            let base = EventBase::new().unwrap();
            let (below, peer) = if paired {
                BufferEvent::pair(&base, Options::empty()).unwrap()
            } else {
                let (ours, theirs) = UnixStream::pair().unwrap();
                let over = |fd: UnixStream| {
                    BufferEvent::socket(&base, Some(fd.into()), Options::CLOSE_ON_FREE).unwrap()
                };
                (over(ours), over(theirs))
            };
            let bev = match filtered {
                true => BufferEvent::filter(&below, Pass, Options::empty()).unwrap(),
                false => below,
            };
            let drained = Rc::new(Cell::new(0));
            let count = drained.clone();
            bev.set_callbacks(Callbacks::new().on_write(move |bev| {
                count.set(count.get() + usize::from(bev.output().is_empty()));
            }))
            .unwrap();
            peer.enable(Interest::READ).unwrap();
            let case = format!("filtered {filtered}, paired {paired}: {size}, then {behind}");
            let mut bombs = 0;
            for payload in [size, behind] {
                let written = catch_unwind(AssertUnwindSafe(|| {
                    bev.output()
                        .with(|output| output.add_owner(Bomb(vec![1; payload])))
                        .unwrap()
                }));
                bombs += usize::from(written.is_err());
            }
            bombs += turn_until(&base, || peer.input().len() == size + behind);
            // A pair hands payloads on: they go with the reader's buffer.
            assert_eq!(bombs == 0, paired, "{case}");
            turn_until(&base, || drained.get() != 0 && bev.output().is_empty());
            let gone = catch_unwind(AssertUnwindSafe(|| drop((bev, peer, base))));
            drop(gone);
        }
    }
}

#[test]
fn a_base_ends_whole_when_a_destructor_panics() {
    struct Panics(Rc<Cell<usize>>);
    impl Drop for Panics {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
            boom();
        }
    }
    let dropped = Rc::new(Cell::new(0));
    let base = EventBase::new().unwrap();
    let mut peers = Vec::new();
    let panics = Panics(dropped.clone());
    let timer = base
        .timer(BOUND, move |_| {
            let _kept = &panics;
        })
        .unwrap();
    let panics = Panics(dropped.clone());
    let at: Addr = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(&base, &at, ListenOptions::default(), move |_, _| {
        let _kept = &panics;
    })
    .unwrap();
    let Addr::Inet(at) = listener.local_addr().unwrap() else {
        unreachable!()
    };
    for _ in 0..3 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_read_timeout(Some(BOUND)).unwrap();
        BufferEvent::socket(&base, Some(ours.into()), Options::CLOSE_ON_FREE).unwrap();
        peers.push(theirs);
    }
    let panics = Panics(dropped.clone());
    base.set_turn_hook(move |_| {
        let _kept = &panics;
    });
    base.run_with(RunFlags::NONBLOCK).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(base))).is_err());
    assert_eq!(dropped.get(), 3);
    for mut peer in peers {
        assert_eq!(peer.read(&mut [0]).unwrap(), 0, "a descriptor is left open");
    }
    assert!(TcpStream::connect(at).is_err(), "the listener is left open");
    assert!(timer.base().is_err() && listener.fd().is_none());
}

#[test]
fn what_a_base_keeps_is_dropped_although_one_of_it_panics() {
    struct Panics<const N: usize>(Rc<Cell<usize>>);
    impl<const N: usize> Drop for Panics<N> {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
            if N.is_multiple_of(2) {
                boom();
            }
        }
    }
    let dropped = Rc::new(Cell::new(0));
    let base = EventBase::new().unwrap();
    base.set_local(Panics::<0>(dropped.clone()));
    base.set_local(Panics::<1>(dropped.clone()));
    base.set_local(Panics::<2>(dropped.clone()));
    base.set_local(Panics::<3>(dropped.clone()));
    // One that is let go by the program is dropped by the program, with nothing borrowed.
    let replaced = base.set_local(Panics::<0>(dropped.clone()));
    assert!(catch_unwind(AssertUnwindSafe(|| drop(replaced))).is_err());
    assert!(base.local::<Panics<0>>().is_some());
    // In a job of another thread, as well.
    let remote = base.remote().unwrap();
    std::thread::spawn(move || remote.post(|base| drop(base.take_local::<Panics<2>>())))
        .join()
        .unwrap()
        .unwrap();
    assert_eq!(turn_until(&base, || base.local::<Panics<2>>().is_none()), 1);
    assert_eq!(dropped.get(), 2);
    assert!(catch_unwind(AssertUnwindSafe(|| drop(base))).is_err());
    assert_eq!(dropped.get(), 5);
}

/// A peer's end that does not block, and ours.
fn over_socket(base: &EventBase) -> (BufferEvent, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let bev = BufferEvent::socket(base, Some(ours.into()), Options::CLOSE_ON_FREE).unwrap();
    (bev, theirs)
}

/// The same, under so many filters.
fn filtered<F: Filter + 'static>(
    base: &EventBase,
    filters: usize,
    mut filter: impl FnMut() -> F,
) -> (BufferEvent, UnixStream) {
    let (below, peer) = over_socket(base);
    let over = |below, _| BufferEvent::filter(&below, filter(), Options::CLOSE_ON_FREE).unwrap();
    ((0..filters).fold(below, over), peer)
}

/// Whether the peer has seen the end of the stream.
fn sees_end(peer: &mut UnixStream) -> bool {
    let mut data = vec![0; 1 << 20];
    loop {
        match peer.read(&mut data) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

/// Filters that panic the first time, in one direction or in both.
struct Startled {
    input: bool,
    output: bool,
}

impl Filter for Startled {
    fn input(
        &mut self,
        src: &mut EvBuffer,
        dst: &mut EvBuffer,
        _: Option<usize>,
        _: FlushMode,
    ) -> FilterResult {
        if std::mem::take(&mut self.input) {
            boom();
        }
        dst.add_buffer(src).unwrap();
        FilterResult::Ok
    }

    fn output(
        &mut self,
        src: &mut EvBuffer,
        dst: &mut EvBuffer,
        _: Option<usize>,
        _: FlushMode,
    ) -> FilterResult {
        if std::mem::take(&mut self.output) {
            boom();
        }
        dst.add_buffer(src).unwrap();
        FilterResult::Ok
    }
}

#[test]
fn what_a_panicking_filter_left_is_passed_on_without_another_write() {
    for filters in [1, 2, 3] {
        for (input, output) in [(true, false), (false, true), (true, true)] {
            for (size, echoed) in [(1, false), (1, true), (100_000, false), (100_000, true)] {
                let base = EventBase::new().unwrap();
                let (bev, mut peer) = filtered(&base, filters, || Startled { input, output });
                bev.set_callbacks(Callbacks::new().on_read(|bev| bev.transfer_to(bev)))
                    .unwrap();
                bev.enable(Interest::READ).unwrap();
                // All at rest.
                for _ in 0..3 {
                    base.run_with(RunFlags::NONBLOCK).unwrap();
                }
                if echoed {
                    peer.write_all(&vec![7; size]).unwrap();
                } else {
                    let write = AssertUnwindSafe(|| bev.write(&vec![7; size]));
                    assert_eq!(catch_unwind(write).is_err(), output);
                }
                let (mut got, mut data) = (0, vec![0; size]);
                turn_until(&base, || {
                    got += peer.read(&mut data).unwrap_or(0);
                    got == size
                });
            }
        }
    }
}

#[test]
fn a_closure_that_panics_with_a_buffer_in_its_hands_holds_nothing_up() {
    struct Pass;
    impl Filter for Pass {}
    for filters in [0, 1] {
        for (high, size) in [(1, 2), (100, 150), (40_000, 70_000)] {
            let base = EventBase::new().unwrap();
            let (bev, mut peer) = filtered(&base, filters, || Pass);
            bev.set_watermarks(Interest::READ, 0, high).unwrap();
            bev.enable(Interest::READ).unwrap();
            peer.write_all(&vec![1; size]).unwrap();
            turn_until(&base, || bev.input().len() == high);
            for _ in 0..3 {
                base.run_with(RunFlags::NONBLOCK).unwrap();
            }
            let take = || {
                bev.input().with(|input| {
                    input.drain(high).unwrap();
                    boom();
                })
            };
            assert!(catch_unwind(AssertUnwindSafe(take)).is_err());
            // Reading goes on, although nobody could say that there is room.
            turn_until(&base, || bev.input().len() == size - high);
            let write = || {
                bev.output().with(|output| {
                    output.add(b"answer").unwrap();
                    boom();
                })
            };
            assert!(catch_unwind(AssertUnwindSafe(write)).is_err());
            let (mut got, mut data) = (0, [0; 8]);
            turn_until(&base, || {
                got += peer.read(&mut data).unwrap_or(0);
                got == 6
            });
        }
    }
}

/// A filter, a callback or a payload whose destructor panics while its bufferevent ends: the
/// connection is closed all the same, and every report made.
#[test]
fn a_bufferevent_ends_whole_when_a_destructor_panics() {
    struct Fragile(#[allow(dead_code, reason = "dropped")] Option<Bomb>);
    impl Filter for Fragile {}
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum How {
        Free,
        Close,
        Late,
    }
    for filters in [0, 1, 2] {
        for (of_filter, of_callback, of_payload) in [
            (true, false, false),
            (false, true, false),
            (false, false, true),
            (true, true, true),
        ] {
            for how in [How::Free, How::Close, How::Late] {
                let base = EventBase::new().unwrap();
                let fragile = || Fragile(of_filter.then(|| Bomb(Vec::new())));
                let (bev, mut peer) = filtered(&base, filters, fragile);
                let kept = of_callback.then(|| Bomb(Vec::new()));
                bev.set_callbacks(Callbacks::new().on_read(move |_| _ = &kept))
                    .unwrap();
                bev.enable(Interest::READ).unwrap();
                if of_payload {
                    bev.disable(Interest::WRITE).unwrap();
                    bev.output()
                        .with(|output| output.add_owner(Bomb(vec![1; 3_000])))
                        .unwrap()
                        .unwrap();
                }
                let reports = Rc::new(Cell::new(0));
                let (first, second) = (reports.clone(), reports.clone());
                let done = bev.finish_reading(move |_| first.set(first.get() + 1));
                done.unwrap();
                let close = |deadline| {
                    let told = second.clone();
                    bev.close_after_flush(deadline, move |_| told.set(told.get() + 1))
                        .unwrap();
                };
                let end = AssertUnwindSafe(|| match how {
                    How::Free => bev.free(),
                    How::Close => close(None),
                    How::Late => close(Some(Duration::from_millis(1))),
                });
                drop(catch_unwind(end));
                let case = format!("{filters}: {of_filter}, {of_callback}, {of_payload}, {how:?}");
                turn_until(&base, || sees_end(&mut peer));
                drop(peer);
                let expected = if how == How::Free { 1 } else { 2 };
                turn_until(&base, || reports.get() == expected);
                run_out(&base);
                assert!(bev.is_freed() && reports.get() == expected, "{case}");
            }
        }
    }
}
