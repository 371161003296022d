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
    let config = RingConfig {
        entries: 4,
        cq_entries: 4,
        ..RingConfig::default()
    };
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
    // The first wait submitted, so that the kernel reported that; this one has nothing but its deadline.
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
    // SAFETY: a handler that does nothing, installed without SA_RESTART for a signal no one else uses.
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
fn a_child_is_refused_and_does_no_harm() {
    let mut rig = Rig::new("");
    let (mut client, server) = pair();
    let op = rig.recv(1, &server);
    rig.ring.enter(Wait::Submit).expect("arm");
    rig.ring
        .table
        .insert(op::Kind::Nop, 0, table::Held::Nothing);
    rig.ring.ready.reserve(4);
    // SAFETY: the child only uses the ring, whose refusals allocate nothing any more, and `_exit`.
    let status = unsafe {
        match libc::fork() {
            0 => {
                let refused = rig.ring.enter(Wait::Poll).is_err() && rig.ring.is_inherited();
                rig.ring.cancel(op);
                libc::_exit(i32::from(refused));
            }
            pid => {
                let mut status = 0;
                assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
                libc::WEXITSTATUS(status)
            }
        }
    };
    assert_eq!(status, 1);
    let id = rig
        .ring
        .table
        .ids()
        .find(|id| *id != op.0)
        .expect("the placeholder");
    rig.ring.table.remove(id);
    client.write_all(b"still here").expect("data");
    assert_eq!(&rig.wait().buffer.expect("data")[..], b"still here");
    rig.finish(op);
    rig.close();
}
