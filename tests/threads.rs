//! Bases and bufferevents as other threads see them.

use std::cell::{Cell, RefCell};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use evring::{BufferEvent, Callbacks, Error, EventBase, Options, RunFlags};

/// A bound on everything that waits in these tests.
const BOUND: Duration = Duration::from_secs(30);

fn shared(base: &EventBase) -> (BufferEvent, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(BOUND)).unwrap();
    let options = Options::CLOSE_ON_FREE | Options::THREADSAFE;
    let bev = BufferEvent::socket(base, Some(ours.into()), options).unwrap();
    (bev, theirs)
}

/// What the peer gets, once the loop has sent so much.
fn got(base: &EventBase, peer: &mut UnixStream, bytes: usize) -> String {
    let sent = base.counters().bytes_out;
    let mut turns = 0;
    while base.counters().bytes_out < sent + bytes as u64 {
        base.stop_after(Duration::from_millis(20));
        base.run_with(RunFlags::ONCE | RunFlags::NO_EXIT_ON_EMPTY)
            .unwrap();
        turns += 1;
        assert!(turns < 10_000, "it is not sent");
    }
    let mut data = vec![0; 64];
    let n = peer.read(&mut data).unwrap();
    String::from_utf8_lossy(&data[..n]).into_owned()
}

/// The old base is not run: what was posted before the move and not carried out moves along.
#[test]
fn a_remote_follows_its_bufferevent_to_another_base() {
    for waiting in [false, true] {
        let (one, two) = (EventBase::new().unwrap(), EventBase::new().unwrap());
        let ((moves, mut far), (stays, mut other)) = (shared(&one), shared(&two));
        let (remote, native) = (moves.remote().unwrap(), stays.remote().unwrap());
        if waiting {
            remote.write(b"before ").unwrap();
        }
        moves.set_base(&two).unwrap();
        remote.write(b"after").unwrap();
        let expected = if waiting { "before after" } else { "after" };
        assert_eq!(got(&two, &mut far, expected.len()), expected);
        // What is left in the queue of the old base reaches nobody, whoever has its number there.
        let (stranger, mut strange) = shared(&one);
        let strangers = stranger.remote().unwrap();
        strangers.write(b"own").unwrap();
        assert_eq!(got(&one, &mut strange, 3), "own");
        moves.free();
        native.write(b"still").unwrap();
        assert_eq!(got(&two, &mut other, 5), "still");
        assert!(!stays.is_freed());
        // And its own remote tells that it was freed.
        let (tell, told) = mpsc::channel();
        remote
            .call(|_| (), move |result| tell.send(result).unwrap())
            .unwrap();
        two.run_with(RunFlags::ONCE | RunFlags::NO_EXIT_ON_EMPTY)
            .unwrap();
        assert!(matches!(told.recv().unwrap(), Err(Error::Freed { .. })));
        drop(two);
        assert!(matches!(remote.write(b"x"), Err(Error::Freed { .. })));
    }
}

/// The old base runs before the new one: it finds that the bufferevent is gone from there, and
/// leaves its posts alone.
#[test]
fn the_old_base_of_a_bufferevent_takes_none_of_its_posts() {
    const POSTS: usize = 3;
    for strangers in [0, 4] {
        let (one, two) = (EventBase::new().unwrap(), EventBase::new().unwrap());
        let (moves, _far) = shared(&one);
        let remote = moves.remote().unwrap();
        let (tell, told) = mpsc::channel();
        for post in 0..POSTS {
            let tell = tell.clone();
            let done = move |result: Result<(), Error>| {
                tell.send((post, result.is_ok())).unwrap();
            };
            remote.call(|_| (), done).unwrap();
        }
        moves.set_base(&two).unwrap();
        // Others have on either base what numbers it had, or has, on the other.
        let _strangers: Vec<_> = (0..strangers)
            .map(|_| (shared(&one), shared(&two)))
            .collect();
        one.run_with(RunFlags::ONCE | RunFlags::NO_EXIT_ON_EMPTY)
            .unwrap();
        assert!(told.try_recv().is_err(), "the old base took a post");
        two.run_with(RunFlags::ONCE | RunFlags::NO_EXIT_ON_EMPTY)
            .unwrap();
        let all: Vec<_> = told.try_iter().collect();
        assert_eq!(all, [(0, true), (1, true), (2, true)]);
    }
}

#[test]
fn posts_of_one_sender_keep_their_order_among_bases_and_bufferevents() {
    let base = EventBase::new().unwrap();
    let (bev, _peer) = shared(&base);
    let (direct, routed) = (base.remote().unwrap(), bev.remote().unwrap());
    let (tell, told) = mpsc::channel();
    let sender = thread::spawn(move || {
        for n in 0..200 {
            let tell = tell.clone();
            if n % 3 == 0 {
                direct.post(move |_| tell.send(n).unwrap()).unwrap();
            } else {
                routed.call(move |_| tell.send(n).unwrap(), |_| {}).unwrap();
            }
        }
        direct.stop().unwrap();
    });
    base.run_with(RunFlags::NO_EXIT_ON_EMPTY).unwrap();
    sender.join().unwrap();
    let order: Vec<i32> = told.try_iter().collect();
    assert_eq!(order, (0..200).collect::<Vec<_>>());
}

#[test]
fn a_thread_that_waits_for_a_bufferevent_is_answered_when_the_base_ends() {
    for round in 0..50 {
        let base = EventBase::new().unwrap();
        let (bev, _peer) = shared(&base);
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let remote = bev.remote().unwrap();
                thread::spawn(move || while remote.with(|bev| bev.enabled()).is_ok() {})
            })
            .collect();
        for _ in 0..round {
            base.run_with(RunFlags::ONCE | RunFlags::NO_EXIT_ON_EMPTY)
                .unwrap();
        }
        drop(base);
        for thread in waiting {
            thread.join().unwrap();
        }
    }
}

/// Two loops that wait for each other from inside their callbacks would do so for ever.
#[test]
fn a_callback_may_not_wait_for_another_loop() {
    let other = EventBase::new().unwrap();
    let (bev, _peer) = shared(&other);
    let remote = bev.remote().unwrap();
    let asker = thread::spawn(move || {
        let base = EventBase::new().unwrap();
        let (tell, told) = mpsc::channel();
        base.defer(move |_| {
            tell.send(remote.with(|bev| bev.enabled())).unwrap();
            let tell = tell.clone();
            remote
                .call(|bev| bev.enabled(), move |got| tell.send(got).unwrap())
                .unwrap();
        });
        base.run().unwrap();
        let refused = told.recv().unwrap();
        assert!(matches!(refused, Err(Error::Invalid { what: "with", .. })));
        told.recv().unwrap().unwrap();
    });
    while !asker.is_finished() {
        other.stop_after(Duration::from_millis(20));
        other.run_with(RunFlags::NO_EXIT_ON_EMPTY).unwrap();
    }
    asker.join().unwrap();
}

#[test]
fn a_weak_handle_keeps_no_base() {
    let base = EventBase::new().unwrap();
    let weak = base.downgrade();
    assert_eq!(weak.upgrade().map(|base| base.active()), Some(0));
    let inside = weak.clone();
    base.set_turn_hook(move |_| drop(inside.upgrade()));
    drop(base);
    assert!(weak.upgrade().is_none());
}

/// What only the thread of the loop has.
#[derive(Default)]
struct Clients(RefCell<Vec<BufferEvent>>);

#[test]
fn a_posted_closure_reaches_what_its_loops_thread_keeps() {
    for posters in [1, 4] {
        let base = EventBase::new().unwrap();
        let (client, mut far) = shared(&base);
        let by_route = client.remote().unwrap();
        assert!(base.local::<Clients>().is_none());
        assert!(base.set_local(Clients::default()).is_none());
        base.set_local(Cell::new(0_usize));
        let clients = base.local::<Clients>().unwrap();
        clients.0.borrow_mut().push(client);
        let threads: Vec<_> = (0..posters)
            .map(|_| {
                let (remote, by_route) = (base.remote().unwrap(), by_route.clone());
                thread::spawn(move || {
                    let posted = remote.post(|base| {
                        let clients = base.local::<Clients>().unwrap();
                        clients.0.borrow()[0].write(b"post").unwrap();
                    });
                    posted.unwrap();
                    let stop = move |bev: &BufferEvent| {
                        let base = bev.base().unwrap();
                        let done = base.local::<Cell<usize>>().unwrap();
                        done.set(done.get() + 1);
                        if done.get() == posters {
                            base.stop_after_turn();
                        }
                    };
                    by_route.call(stop, |stopped| stopped.unwrap()).unwrap();
                })
            })
            .collect();
        base.run_with(RunFlags::NO_EXIT_ON_EMPTY).unwrap();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        base.run().unwrap();
        assert_eq!(base.local::<Cell<usize>>().unwrap().get(), posters);
        let mut news = vec![0; 4 * posters];
        far.read_exact(&mut news).unwrap();
        assert_eq!(news, b"post".repeat(posters));
    }
}

#[test]
fn what_a_base_keeps_is_replaced_taken_out_and_dropped_at_its_end() {
    let log: Rc<RefCell<Vec<&str>>> = Rc::default();
    struct Tells(Rc<RefCell<Vec<&'static str>>>, &'static str);
    impl Drop for Tells {
        fn drop(&mut self) {
            self.0.borrow_mut().push(self.1);
        }
    }
    /// Another type of the same shape.
    struct Other(Tells);
    let (one, two) = (EventBase::new().unwrap(), EventBase::new().unwrap());
    one.set_local(Tells(log.clone(), "first"));
    two.set_local(Tells(log.clone(), "of another base"));
    one.set_local(Other(Tells(log.clone(), "of another type")));
    let held = one.local::<Tells>().unwrap();
    let old = one.set_local(Tells(log.clone(), "second")).unwrap();
    assert!(Rc::ptr_eq(&held, &old) && log.borrow().is_empty());
    drop((held, old));
    assert_eq!(log.take(), ["first"]);
    drop(one.take_local::<Tells>().unwrap());
    assert!(one.local::<Tells>().is_none() && one.take_local::<Tells>().is_none());
    assert_eq!(log.take(), ["second"]);
    // At the end of the base its own goes after what its callbacks own.
    let (bev, _far) = shared(&one);
    let owned = Tells(log.clone(), "a callback");
    let reads = move |_: &BufferEvent| assert_eq!(owned.0.borrow().len(), 0);
    bev.set_callbacks(Callbacks::new().on_read(reads)).unwrap();
    let kept = one.local::<Other>().unwrap();
    assert_eq!(kept.0.1, "of another type");
    drop(kept);
    drop(one);
    assert_eq!(log.take(), ["a callback", "of another type"]);
    let kept = two.local::<Tells>().unwrap();
    drop(two);
    assert!(log.borrow().is_empty(), "somebody holds it");
    drop(kept);
    assert_eq!(log.take(), ["of another base"]);
}
