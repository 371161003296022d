//! The loop: timers, stopping, signals, descriptors, other threads.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use evring::{
    BufferEvent, Callbacks, Error, EventBase, Exit, Interest, Options, Remote, RunFlags, SpinPolicy,
};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn timers_fire_in_the_order_of_their_times_and_not_early() {
    let base = EventBase::new().unwrap();
    let order = Rc::new(RefCell::new(Vec::new()));
    let began = Instant::now();
    for after in [30, 10, 20] {
        let order = order.clone();
        base.timer(ms(after), move |_| {
            assert!(began.elapsed() >= ms(after));
            order.borrow_mut().push(after);
        })
        .unwrap();
    }
    assert_eq!(base.run().unwrap(), Exit::Idle);
    assert_eq!(*order.borrow(), [10, 20, 30]);
}

#[test]
fn a_cancelled_timer_neither_fires_nor_keeps_the_loop_alive() {
    let base = EventBase::new().unwrap();
    let timer = base
        .timer(Duration::from_secs(3600), |_| panic!("cancelled"))
        .unwrap();
    assert!(timer.is_pending());
    timer.cancel();
    assert!(!timer.is_pending());
    assert_eq!(base.run().unwrap(), Exit::Idle);
    let fired = Rc::new(Cell::new(0));
    let count = fired.clone();
    let again = base
        .timer(Duration::from_secs(3600), move |_| {
            count.set(count.get() + 1)
        })
        .unwrap();
    again.rearm(ms(1)).unwrap();
    base.run().unwrap();
    assert_eq!(fired.get(), 1);
    again.rearm(ms(1)).unwrap();
    base.run().unwrap();
    assert_eq!(fired.get(), 2, "also after it has fired");
}

#[test]
fn an_interval_repeats_until_it_is_cancelled_from_inside() {
    let base = EventBase::new().unwrap();
    let count = Rc::new(Cell::new(0));
    let seen = count.clone();
    base.interval(ms(1), move |timer| {
        seen.set(seen.get() + 1);
        if seen.get() == 5 {
            timer.cancel();
        }
    })
    .unwrap();
    base.run().unwrap();
    assert_eq!(count.get(), 5);
    assert!(matches!(
        base.interval(Duration::ZERO, |_| {}),
        Err(Error::Invalid { .. })
    ));
    assert!(matches!(
        base.timer(Duration::MAX, |_| {}),
        Err(Error::Invalid { .. })
    ));
}

#[test]
fn a_timer_moved_to_later_fires_only_then() {
    let base = EventBase::new().unwrap();
    let began = Instant::now();
    let timer = base
        .timer(ms(5), move |_| assert!(began.elapsed() >= ms(40)))
        .unwrap();
    timer.rearm(ms(40)).unwrap();
    base.run().unwrap();
    assert!(!timer.is_pending());
}

#[test]
fn stop_leaves_now_and_stop_after_turn_when_the_turn_is_done() {
    for (now, expected) in [(true, 1), (false, 3)] {
        let base = EventBase::new().unwrap();
        let ran = Rc::new(Cell::new(0));
        for _ in 0..3 {
            let ran = ran.clone();
            base.defer(move |base| {
                ran.set(ran.get() + 1);
                if now {
                    base.stop();
                } else {
                    base.stop_after_turn();
                }
            });
        }
        assert_eq!(base.run().unwrap(), Exit::Stopped);
        assert_eq!(ran.get(), expected);
        while base.run().unwrap() == Exit::Stopped {}
        assert_eq!(ran.get(), 3, "what was left runs next time");
    }
}

#[test]
fn stop_after_a_while_keeps_the_loop_alive_until_then() {
    let base = EventBase::new().unwrap();
    let began = Instant::now();
    base.stop_after(ms(20));
    assert_eq!(base.run().unwrap(), Exit::Stopped);
    assert!(began.elapsed() >= ms(20));
    assert_eq!(base.run().unwrap(), Exit::Idle, "once only");
}

#[test]
fn run_flags_bound_a_run() {
    let base = EventBase::new().unwrap();
    base.timer(Duration::from_secs(3600), |_| {}).unwrap();
    assert_eq!(base.run_with(RunFlags::NONBLOCK).unwrap(), Exit::Turned);
    let fired = Rc::new(Cell::new(false));
    let set = fired.clone();
    base.timer(ms(5), move |_| set.set(true)).unwrap();
    for _ in 0..100 {
        if fired.get() {
            break;
        }
        assert_eq!(base.run_with(RunFlags::ONCE).unwrap(), Exit::Turned);
    }
    assert!(fired.get());
}

#[test]
fn the_loop_does_not_run_inside_itself() {
    let base = EventBase::new().unwrap();
    base.defer(|base| assert!(matches!(base.run(), Err(Error::Invalid { .. }))));
    base.run().unwrap();
}

#[test]
fn fd_events_report_readiness_until_cancelled() {
    let base = EventBase::new().unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let log = Rc::new(RefCell::new(Vec::new()));
    let seen = log.clone();
    let event = base
        .fd_event(ours.as_raw_fd(), Interest::READ, move |event, ready| {
            seen.borrow_mut().push(ready);
            if seen.borrow().len() == 2 {
                event.cancel();
            }
        })
        .unwrap();
    base.run_with(RunFlags::NONBLOCK).unwrap();
    assert!(log.borrow().is_empty());
    theirs.write_all(b"x").unwrap();
    while log.borrow().is_empty() {
        base.run_with(RunFlags::ONCE).unwrap();
    }
    theirs.write_all(b"y").unwrap();
    assert_eq!(base.run().unwrap(), Exit::Idle);
    assert_eq!(*log.borrow(), [Interest::READ, Interest::READ]);
    assert_eq!(event.fd(), ours.as_raw_fd());
    assert_eq!((base.active(), base.in_flight()), (0, 0));
    assert!(base.fd_event(-1, Interest::READ, |_, _| {}).is_err());
    assert!(
        base.fd_event(ours.as_raw_fd(), Interest::empty(), |_, _| {})
            .is_err()
    );
}

#[test]
fn a_burst_of_posts_wakes_the_loop_once_and_keeps_each_senders_order() {
    const EACH: u32 = 2_000;
    let base = EventBase::new().unwrap();
    let remote = base.remote().unwrap();
    let ready = Arc::new(Barrier::new(3));
    let next: Arc<[AtomicU32; 2]> = Arc::default();
    let done = Arc::new(AtomicU32::new(0));
    let threads: Vec<_> = (0..2)
        .map(|sender| {
            let (remote, ready, next, done) =
                (remote.clone(), ready.clone(), next.clone(), done.clone());
            std::thread::spawn(move || {
                ready.wait();
                for i in 0..EACH {
                    let (next, done) = (next.clone(), done.clone());
                    remote
                        .post(move |base| {
                            let before = next[sender].fetch_add(1, Ordering::Relaxed);
                            assert_eq!(before, i);
                            if done.fetch_add(1, Ordering::Relaxed) + 1 == 2 * EACH {
                                base.stop();
                            }
                        })
                        .unwrap();
                }
            })
        })
        .collect();
    ready.wait();
    for thread in threads {
        thread.join().unwrap();
    }
    // All are queued: the loop was not running, and one wake is enough for all of them.
    let before = base.counters().cqes;
    assert_eq!(
        base.run_with(RunFlags::NO_EXIT_ON_EMPTY).unwrap(),
        Exit::Stopped
    );
    assert_eq!(done.load(Ordering::Relaxed), 2 * EACH);
    assert_eq!(base.counters().cqes - before, 1);
    drop(base);
    assert!(matches!(remote.post(|_| {}), Err(Error::Freed { .. })));
}

#[test]
fn spinning_bases_do_the_same_work() {
    for policy in [SpinPolicy::None, SpinPolicy::Adaptive, SpinPolicy::Always] {
        let base = EventBase::builder().spin(policy).build().unwrap();
        let fired = Rc::new(Cell::new(false));
        let set = fired.clone();
        base.timer(ms(2), move |_| set.set(true)).unwrap();
        assert_eq!(base.run().unwrap(), Exit::Idle);
        assert!(fired.get());
    }
}

#[test]
fn handles_outlive_their_base() {
    let base = EventBase::new().unwrap();
    let timer = base.timer(ms(1), |_| {}).unwrap();
    let held = Rc::new(());
    let probe = held.clone();
    base.defer(move |_| drop(probe));
    drop(base);
    assert_eq!(Rc::strong_count(&held), 1, "closures go with the base");
    assert!(matches!(timer.rearm(ms(1)), Err(Error::Freed { .. })));
    timer.cancel();
}

#[test]
fn bad_sizes_are_errors() {
    assert!(EventBase::builder().priorities(0).build().is_err());
    assert!(EventBase::builder().priorities(1000).build().is_err());
    assert!(EventBase::builder().slot_size(5000).build().is_err());
    assert!(EventBase::builder().ring_entries(1 << 30).build().is_err());
}

#[test]
fn the_turn_hook_sees_every_turn_but_the_last() {
    let base = EventBase::new().unwrap();
    let turns = Rc::new(Cell::new(0));
    let count = turns.clone();
    base.set_turn_hook(move |_| count.set(count.get() + 1));
    base.interval(ms(1), {
        let mut left = 4;
        move |timer| {
            left -= 1;
            if left == 0 {
                timer.cancel();
            }
        }
    })
    .unwrap();
    base.run().unwrap();
    assert_eq!(turns.get(), base.counters().turns - 1);
}

#[test]
fn deferred_callbacks_that_go_on_forever_leave_the_kernel_its_turn() {
    // Each queues the next, without end: timers, other threads' posts and completions get through
    // all the same.
    fn again(base: &EventBase, count: Rc<Cell<u32>>) {
        count.set(count.get() + 1);
        base.defer(move |base| again(base, count));
    }
    let base = EventBase::new().unwrap();
    let count = Rc::new(Cell::new(0));
    again(&base, count.clone());
    base.run_with(RunFlags::NONBLOCK).unwrap();
    let in_a_turn = count.get();
    assert!(
        (2..=64).contains(&in_a_turn),
        "several of them share a turn, but not without bound: {in_a_turn}"
    );
    let stopper = base.clone();
    base.timer(ms(5), move |_| stopper.stop()).unwrap();
    assert_eq!(base.run().unwrap(), Exit::Stopped);
    assert!(count.get() > in_a_turn);
}

#[test]
fn what_an_urgent_callback_makes_ready_comes_before_the_less_urgent() {
    let base = EventBase::builder().priorities(2).build().unwrap();
    let log = Rc::new(RefCell::new(Vec::new()));
    let side = |priority: usize| {
        let (mut far, near) = UnixStream::pair().unwrap();
        far.write_all(b"1").unwrap();
        let bev = BufferEvent::socket(&base, Some(near.into()), Options::CLOSE_ON_FREE).unwrap();
        bev.set_priority(priority).unwrap();
        (bev, far)
    };
    let (urgent, far) = side(0);
    let (other, _far) = side(1);
    for (bev, name, far) in [(&urgent, "urgent", Some(far)), (&other, "other", None)] {
        let (log, times) = (log.clone(), Cell::new(0));
        let read = Callbacks::new().on_read(move |bev| {
            bev.read(&mut [0; 8]);
            log.borrow_mut().push(name);
            times.set(times.get() + 1);
            if let Some(mut far) = far.as_ref().filter(|_| times.get() < 3) {
                far.write_all(b"again").unwrap();
            }
        });
        bev.set_callbacks(read).unwrap();
        bev.enable(Interest::READ).unwrap();
    }
    base.stop_after(Duration::from_secs(20));
    while log.borrow().len() < 4 {
        assert_eq!(base.run_with(RunFlags::ONCE).unwrap(), Exit::Turned);
    }
    assert_eq!(*log.borrow(), ["urgent", "urgent", "urgent", "other"]);
}

#[test]
fn posts_that_go_on_forever_leave_the_rest_of_the_loop_its_turn() {
    /// More than a loop that looks at anything else would ever get to.
    const BOUND: u32 = 100_000;
    fn again(remote: &Remote, count: Arc<AtomicU32>) {
        let next = remote.clone();
        let job = move |_: &EventBase| {
            if count.fetch_add(1, Ordering::Relaxed) < BOUND {
                again(&next, count);
            }
        };
        remote.post(job).unwrap();
    }
    let base = EventBase::new().unwrap();
    let count = Arc::new(AtomicU32::new(0));
    again(&base.remote().unwrap(), count.clone());
    let stopper = base.clone();
    base.timer(Duration::ZERO, move |_| stopper.stop()).unwrap();
    assert_eq!(base.run().unwrap(), Exit::Stopped);
    let count = count.load(Ordering::Relaxed);
    assert!(count < BOUND, "the timer had to wait for all of them");
}
