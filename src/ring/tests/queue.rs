//! Queues that are full, and waits that end early.

use super::*;
use std::collections::HashSet;

#[test]
fn pushing_more_than_the_queue_holds_flushes_it() {
    let mut rig = Rig::new("");
    assert_eq!(rig.ring.entries(), 64);
    for token in 0..1000 {
        rig.ring.push(token, Op::Nop);
    }
    assert!(rig.ring.counters().enters > 0, "the queue was flushed");
    let seen: HashSet<u64> = (0..1000).map(|_| rig.wait().token).collect();
    assert_eq!(seen.len(), 1000);
    assert_eq!(rig.ring.in_flight(), 0);
    rig.close();
}

#[test]
fn an_overflown_completion_queue_loses_nothing() {
    let config = RingConfig::default().entries(4).cq_entries(4);
    let mut ring = Ring::new(&config).expect("a small ring");
    for token in 0..100 {
        ring.push(token, Op::Nop);
        ring.enter(Wait::Poll).expect("enter");
    }
    let mut seen = HashSet::new();
    let deadline = Instant::now() + PATIENCE;
    while seen.len() < 100 {
        assert!(Instant::now() < deadline, "{ring:?}");
        while let Some(done) = ring.next() {
            assert!(seen.insert(done.token));
        }
        if ring.in_flight() > 0 {
            ring.enter(Wait::Until(Some(PATIENCE))).expect("enter");
        }
    }
    assert!(ring.counters().overflows > 0);
    assert_eq!(ring.counters().lost, 0);
}

#[test]
fn a_wait_ends_at_its_deadline() {
    let mut rig = Rig::new("");
    let (_client, server) = pair();
    let op = rig.recv(1, &server);
    let start = Instant::now();
    rig.ring
        .enter(Wait::Until(Some(Duration::from_millis(20))))
        .expect("no error");
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert!(rig.ring.next().is_none());
    // The first wait submitted, so that the kernel reported that; this one has nothing but its
    // deadline.
    let start = Instant::now();
    rig.ring
        .enter(Wait::Until(Some(Duration::from_millis(20))))
        .expect("no error");
    assert!(start.elapsed() >= Duration::from_millis(20));
    rig.ring
        .enter(Wait::Until(Some(Duration::ZERO)))
        .expect("no error");
    rig.finish(op);
    rig.close();
}

#[test]
fn a_signal_ends_a_wait_without_an_error() {
    extern "C" fn ignore(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = ignore;
    // SAFETY: a handler that does nothing, installed without SA_RESTART for a signal no one else
    // uses.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        assert_eq!(
            libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()),
            0
        );
    }
    let mut rig = Rig::new("");
    // SAFETY: names the calling thread.
    let this = unsafe { libc::pthread_self() } as usize;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let sender = std::thread::spawn(move || {
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            // SAFETY: the thread waits for this one to end before it does.
            unsafe { libc::pthread_kill(this as libc::pthread_t, libc::SIGUSR1) };
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    while rig.ring.counters().eintr == 0 {
        rig.ring
            .enter(Wait::Until(Some(PATIENCE)))
            .expect("an interruption is no error");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    sender.join().expect("the sender ends");
    rig.close();
}

#[test]
fn submitting_nothing_enters_nothing() {
    let mut rig = Rig::new("");
    let before = rig.ring.counters().enters;
    rig.ring.enter(Wait::Submit).expect("enter");
    assert_eq!(rig.ring.counters().enters, before);
    rig.ring.push(1, Op::Nop);
    rig.ring.enter(Wait::Poll).expect("enter");
    rig.ring
        .enter(Wait::Poll)
        .expect("what is there is not fetched twice");
    rig.ring.enter(Wait::Until(None)).expect("nor waited for");
    assert_eq!(rig.ring.counters().enters, before + 1);
    assert_eq!(rig.wait().token, 1);
    rig.close();
}

#[test]
fn generations_go_round_without_confusion() {
    let mut rig = Rig::new("");
    rig.ring.table.begin_with_generation(0);
    let first = rig.ring.push(1, Op::Nop);
    assert_eq!(rig.wait().op, first);
    rig.ring.table.set_generation(0, op::GENERATIONS - 1);
    let last = rig.ring.push(2, Op::Nop);
    assert_eq!(rig.wait().op, last);
    let again = rig.ring.push(3, Op::Nop);
    assert_eq!(again, first, "the generation went round");
    assert_eq!(rig.wait().token, 3);
    rig.close();
}

#[test]
fn a_bad_descriptor_is_a_completion_and_stops_no_other() {
    for mask in ["", "-submit_all"] {
        let mut rig = Rig::new(mask);
        rig.ring.push(
            1,
            Op::Accept {
                fd: -1,
                multishot: true,
            },
        );
        rig.ring.push(2, Op::Nop);
        let mut seen = [rig.wait(), rig.wait()];
        seen.sort_by_key(|done| done.token);
        assert_eq!(seen[0].result, Err(Errno::from_raw(libc::EBADF)));
        assert_eq!(seen[1].result, Ok(0));
        rig.close();
    }
}

#[test]
fn a_failed_enter_keeps_everything_queued() {
    for mask in ["", "-no_sqarray"] {
        let mut rig = Rig::new(mask);
        // As if the kernel would not let us in for a while.
        let enter_fd = std::mem::replace(&mut rig.ring.enter_fd, -1);
        for token in 0..200 {
            rig.ring.push(token, Op::Nop);
        }
        assert!(rig.ring.enter(Wait::Until(None)).is_err());
        assert!(rig.ring.counters().backlogged > 0);
        assert_eq!(rig.ring.in_flight(), 200);
        rig.ring.enter_fd = enter_fd;
        for token in 0..200 {
            assert_eq!(
                rig.wait().token,
                token,
                "in the order in which they were pushed"
            );
        }
        assert!(rig.ring.backlog.is_empty());
        rig.close();
    }
}

#[test]
fn every_answer_of_the_kernel_has_a_meaning() {
    let mut rig = Rig::new("");
    for harmless in [
        libc::ETIME,
        libc::EINTR,
        libc::EBUSY,
        libc::EAGAIN,
        libc::ENOMEM,
    ] {
        let start = Instant::now();
        rig.ring
            .recover(Errno::from_raw(harmless), false)
            .expect("the caller comes back");
        assert!(start.elapsed() < PATIENCE, "a pause is short");
    }
    for fatal in [
        libc::EBADR,
        libc::EBADF,
        libc::EEXIST,
        libc::ENXIO,
        libc::EFAULT,
        libc::EINVAL,
    ] {
        let err = rig
            .ring
            .recover(Errno::from_raw(fatal), false)
            .expect_err("the caller is told");
        assert_eq!(err.raw_os_error(), Some(fatal));
    }
    let counters = rig.ring.counters();
    let seen = (
        counters.eintr,
        counters.ebusy,
        counters.eagain,
        counters.lost,
    );
    assert_eq!(seen, (1, 1, 2, 1));
    rig.close();
}

#[test]
fn more_rings_than_a_thread_can_register() {
    let mut rigs: Vec<Rig> = (0..20).map(|_| Rig::new("")).collect();
    let registered = |rig: &Rig| rig.ring.caps().has(Cap::REGISTERED_RING);
    assert!(rigs.iter().any(registered) && !rigs.iter().all(registered));
    for rig in &mut rigs {
        rig.ring.push(1, Op::Nop);
        assert_eq!(rig.wait().token, 1);
    }
    for rig in rigs {
        rig.close();
    }
    assert!(
        registered(&Rig::new("")),
        "a ring that goes gives its place back"
    );
}

/// Runs `child` in a forked process, with the exit code that it gives.
///
/// # Safety
///
/// `child` takes no lock that another thread may hold; the allocator's are safe.
unsafe fn exit_code_of_child(child: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs what the caller vouches for, and ends.
    unsafe {
        match libc::fork() {
            0 => libc::_exit(child()),
            pid => {
                let mut status = 0;
                assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
                libc::WEXITSTATUS(status)
            }
        }
    }
}

#[test]
fn a_child_is_refused_and_does_no_harm() {
    let mut rig = Rig::new("");
    let (mut client, server) = pair();
    let op = rig.recv(1, &server);
    rig.ring.enter(Wait::Submit).expect("arm");
    // SAFETY: the ring takes no lock.
    let code = unsafe {
        exit_code_of_child(|| {
            let refused = rig.ring.enter(Wait::Poll).map_err(|err| err.raw_os_error());
            rig.ring.cancel(op);
            let pushed = rig.ring.push(7, Op::Nop);
            let answer = rig.ring.next();
            let told = answer
                .is_some_and(|answer| answer.op == pushed && answer.result == Err(Errno::CHILD));
            i32::from(refused == Err(Some(libc::ECHILD)) && told && rig.ring.is_inherited())
        })
    };
    assert_eq!(code, 1);
    client.write_all(b"still here").expect("data");
    assert_eq!(&rig.wait().buffer.expect("data")[..], b"still here");
    rig.finish(op);
    rig.close();
}

/// Without `single_issuer` the kernel would let a child register things with its parent's ring, and
/// the buffer ring is memory that both share: a child moves neither (I11).
#[test]
fn a_child_leaves_the_window_and_the_registrations_of_its_parent_alone() {
    for mask in ["", "-single_issuer", "-single_issuer,-defer_taskrun"] {
        let mut rig = Rig::new(mask);
        let (mut client, server) = pair();
        let op = rig.recv(1, &server);
        rig.ring.enter(Wait::Submit).expect("arm");
        // One slot is out: there is room in the window for a child to fill.
        client.write_all(b"first").expect("data");
        let first = rig.wait().buffer.expect("data");
        let published = rig.ring.window_published();
        let config = RingConfig {
            caps_mask: mask.parse().expect("a mask of known names"),
            ..RingConfig::default()
        };
        let mut bare = Ring::new(&config).expect("a ring without a window");
        let arena = rig.arena.clone();
        // SAFETY: the arena's lock is this thread's alone, and the allocator's are safe.
        let code = unsafe {
            exit_code_of_child(|| {
                let refilled = rig.ring.refill();
                let untouched = rig.ring.window_published() == published;
                let registered = rig.ring.register_fixed(&arena);
                let attached = bare.attach_window(&arena, 16).is_err();
                i32::from(refilled == 0 && untouched)
                    + 2 * i32::from(registered == 0)
                    + 4 * i32::from(attached)
            })
        };
        assert_eq!(code, 7, "{mask}");
        // The parent does all of it as if nothing had been.
        drop(first);
        assert!(rig.ring.refill() > 0, "{mask}");
        bare.attach_window(&arena, 16).expect("a window of its own");
        rig.ring.register_fixed(&arena);
        for round in 0..40 {
            let sent = [round; 700];
            client.write_all(&sent).expect("data");
            let got = rig.wait();
            assert_eq!(got.buffer.as_deref(), Some(&sent[..]), "{mask}");
            rig.ring.refill();
            if !got.more {
                panic!("{mask}: the receive ended: {got:?}");
            }
        }
        rig.finish(op);
        drop((arena, bare));
        rig.close();
    }
}

#[test]
fn a_child_can_drop_the_ring_and_set_up_its_own() {
    let mut rig = Rig::new("");
    let (mut client, server) = pair();
    let op = rig.recv(1, &server);
    let big = Piece::from(pattern(8 << 20));
    rig.send(2, &server, big.clone());
    rig.ring.enter(Wait::Poll).expect("both are under way");
    // SAFETY: the arena's lock is this thread's alone, and the allocator's are safe. The copy of
    // the ring is the child's own; the original is forgotten with the child's memory.
    let code = unsafe {
        exit_code_of_child(|| {
            drop(std::ptr::read(&raw const rig.ring));
            let Ok(mut ring) = Ring::new(&RingConfig::default()) else {
                return 2;
            };
            ring.push(3, Op::Nop);
            let entered = ring.enter(Wait::Until(None)).is_ok();
            i32::from(entered && ring.next().is_some_and(|done| done.token == 3))
        })
    };
    assert_eq!(code, 1);
    client.write_all(b"still here").expect("data");
    let len = big.len();
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; len];
        client
            .read_exact(&mut got)
            .expect("the parent's send goes on");
        got
    });
    let mut seen = [rig.wait(), rig.wait()];
    seen.sort_by_key(|done| done.token);
    assert_eq!(&seen[0].buffer.take().expect("data")[..], b"still here");
    assert_eq!(seen[1].result, Ok(len as u32));
    assert!(reader.join().expect("the reader is content") == big[..]);
    if seen[0].more {
        rig.finish(op);
    }
    rig.close();
}
