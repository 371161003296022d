//! A bufferevent's own limits.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use evring::rate_limit::{ConfigError, RATE_LIMIT_MAX, RateLimitConfig};
use evring::ring::{Cap, CapsMask};
use evring::{
    BufferEvent, Callbacks, Error, EventBase, Events, Exit, FlushEnd, Interest, Options, RunFlags,
};

use crate::shared::*;

const RATE: usize = 40_000;
const TOTAL: usize = 8 * RATE;

#[test]
fn rule_43_a_config_says_what_is_wrong_with_it() {
    let tick = Some(Duration::from_micros(999));
    for (config, why) in [
        (RateLimitConfig::new(0, 1, 1, 1, None), "read rate is 0"),
        (RateLimitConfig::new(1, 1, 2, 1, None), "raise the burst"),
        (RateLimitConfig::new(1, usize::MAX, 1, 1, None), "maximum"),
        (RateLimitConfig::new(1, 1, 1, 1, tick), "at least 1 ms"),
    ] {
        let error: ConfigError = config.expect_err("refused");
        assert!(error.to_string().contains(why), "{error}");
    }
    let default = RateLimitConfig::new(1, 1, 1, 1, None).expect("valid");
    assert_eq!(default.tick(), Duration::from_secs(1));
}

#[test]
fn rule_44_writes_keep_to_the_rate() {
    keeps_to_the_rate(|bev| bev.write(&vec![1; TOTAL]).unwrap());
}

/// Read ahead of its sends, but sent no faster; alone, and with bytes in memory around it.
#[test]
fn rule_44_a_file_segment_keeps_to_the_rate() {
    for around in [0, 1_000] {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; TOTAL]).unwrap();
        let len = TOTAL - 2 * around;
        keeps_to_the_rate(move |bev| {
            bev.write(&vec![1; around]).unwrap();
            bev.output()
                .with(|output| output.add_file(file, 0, Some(len as u64)))
                .unwrap()
                .unwrap();
            bev.write(&vec![1; around]).unwrap();
        });
    }
}

/// What `write` appends, [`TOTAL`] bytes, arrives whole and takes its time.
fn keeps_to_the_rate(write: impl FnOnce(&BufferEvent)) {
    let base = base();
    let (client, server) = tcp_pair();
    let bev = socket(&base, server);
    let began = base.clock_ns();
    bev.set_rate_limit(Some(&per_tick(RATE))).unwrap();
    write(&bev);
    let received = sink(client);
    let ended = Rc::new(Cell::new(None));
    let end = ended.clone();
    bev.close_after_flush(None, move |how| end.set(Some(how)))
        .unwrap();
    assert_eq!(
        base.run().unwrap(),
        Exit::Idle,
        "a flush obeys limits, and ends"
    );
    assert_eq!(ended.get(), Some(FlushEnd::Flushed));
    assert_eq!(received.join().unwrap(), TOTAL);
    // The first tick's bytes were there at once.
    let least = (TOTAL / RATE - 1) as u64 * TICK_NS;
    assert!(base.clock_ns() - began >= least);
    assert_clean(&base);
}

#[test]
fn rule_44_reads_keep_to_the_rate_on_every_rung() {
    for without in [Cap::empty(), Cap::RECV_ARM_LIMIT, Cap::BUFFER_RING] {
        let base = EventBase::builder()
            .caps_mask(CapsMask::default().without(without))
            .build()
            .expect("a ring");
        give_up(&base);
        let (client, server) = tcp_pair();
        let bev = socket(&base, server);
        let peer = sender(client, TOTAL);
        reads_keep_to_the_rate(&base, &bev);
        peer.join().unwrap();
    }
}

#[test]
fn rule_44_reads_of_other_descriptors_keep_to_the_rate() {
    let base = base();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let bev = BufferEvent::socket(&base, Some(ours.into()), Options::CLOSE_ON_FREE).unwrap();
    let peer = std::thread::spawn(move || theirs.write_all(&vec![1; TOTAL]).map(|()| theirs));
    reads_keep_to_the_rate(&base, &bev);
    drop(peer.join().unwrap());

    let (ours, mut theirs) = std::io::pipe().unwrap();
    let bev = BufferEvent::socket(&base, Some(ours.into()), Options::CLOSE_ON_FREE).unwrap();
    let peer = std::thread::spawn(move || theirs.write_all(&vec![1; TOTAL]).map(|()| theirs));
    reads_keep_to_the_rate(&base, &bev);
    drop(peer.join().unwrap());
}

/// `TOTAL` bytes come in, and at no moment more than `RATE` bytes a tick have.
fn reads_keep_to_the_rate(base: &EventBase, bev: &BufferEvent) {
    // A bucket that is there already keeps its ticks.
    let began = base.clock_ns();
    let free = if bev.rate_limit().is_some() { RATE } else { 0 };
    bev.set_rate_limit(Some(&per_tick(RATE))).unwrap();
    let all = Rc::new(Cell::new(0));
    let seen = all.clone();
    read_until(bev, move |bev, total| {
        let allowed = free + allowance(&bev.base().unwrap(), began, RATE);
        assert!(total <= allowed, "{total} bytes where {allowed} may");
        seen.set(total);
        total == TOTAL
    });
    bev.enable(Interest::READ).unwrap();
    assert_eq!(base.run().unwrap(), Exit::Stopped);
    assert_eq!(all.get(), TOTAL);
    bev.free();
    base.run_with(RunFlags::NONBLOCK).unwrap();
}

#[test]
fn rule_44_tiny_rates_are_exact() {
    let base = base();
    let (client, server) = tcp_pair();
    let bev = socket(&base, server);
    let peer = sender(client, 20);
    let began = base.clock_ns();
    bev.set_rate_limit(Some(&per_tick(3))).unwrap();
    read_until(&bev, move |bev, total| {
        let allowed = allowance(&bev.base().unwrap(), began, 3);
        assert!(total <= allowed, "{total} bytes where {allowed} may");
        total == 20
    });
    bev.enable(Interest::READ).unwrap();
    assert_eq!(base.run().unwrap(), Exit::Stopped);
    assert_eq!(bev.input().len(), 0);
    drop(peer.join().unwrap());
}

#[test]
fn rule_45_decrements_suspend_and_resume() {
    let base = base();
    let (client, server) = tcp_pair();
    let bev = socket(&base, server);
    assert_eq!(bev.read_limit().unwrap(), isize::MAX);
    assert_eq!(bev.max_to_write().unwrap(), RATE_LIMIT_MAX);
    bev.decrement_read_limit(5).unwrap();
    assert_eq!(
        bev.read_limit().unwrap(),
        isize::MAX,
        "nothing to take from"
    );

    bev.set_rate_limit(Some(&per_hour(1_000))).unwrap();
    assert_eq!(bev.rate_limit(), Some(per_hour(1_000)));
    assert_eq!(bev.read_limit().unwrap(), 1_000);
    bev.enable(Interest::READ).unwrap();
    base.run_with(RunFlags::NONBLOCK).unwrap();
    assert_eq!(
        bev.max_to_read().unwrap(),
        1_000,
        "a receive in flight holds it"
    );

    // A receive waits; the decrement takes its budget away from under it.
    bev.decrement_read_limit(1_200).unwrap();
    assert_eq!(bev.read_limit().unwrap(), -200);
    assert_eq!(bev.max_to_read().unwrap(), 0);
    let got = Rc::new(Cell::new(0));
    let seen = got.clone();
    read_until(&bev, move |_, total| {
        seen.set(total);
        true
    });
    let peer = sender(client, 5_000).join().unwrap();
    base.stop_after(Duration::from_millis(50));
    assert_eq!(base.run().unwrap(), Exit::Stopped);
    assert_eq!(got.get(), 0, "suspended");

    // Above the burst, from where it is.
    bev.decrement_read_limit(-5_200).unwrap();
    assert_eq!(bev.read_limit().unwrap(), 5_000);
    while got.get() < 5_000 {
        assert_eq!(base.run().unwrap(), Exit::Stopped);
        assert_ne!(got.get(), 0, "the refill resumes it");
    }
    assert_eq!(bev.read_limit().unwrap(), 0);
    drop(peer);
}

#[test]
fn rule_45_write_decrements_have_their_own_bucket() {
    let base = base();
    let (client, server) = tcp_pair();
    let bev = socket(&base, server);
    bev.set_rate_limit(Some(&per_hour(1_000))).unwrap();
    bev.decrement_write_limit(1_000).unwrap();
    assert_eq!(
        (bev.write_limit().unwrap(), bev.read_limit().unwrap()),
        (0, 1_000)
    );
    bev.write(&[1; 300]).unwrap();
    base.stop_after(Duration::from_millis(50));
    assert_eq!(
        base.run().unwrap(),
        Exit::Stopped,
        "what waits keeps the loop alive"
    );
    assert_eq!(bev.output().len(), 300);
    bev.decrement_write_limit(-100).unwrap();
    base.stop_after(Duration::from_millis(50));
    base.run().unwrap();
    assert_eq!(bev.output().len(), 200);
    assert_eq!(bev.write_limit().unwrap(), 0);
    bev.free();
    drop(client);
}

#[test]
fn rule_47_lifted_limits_resume_at_once() {
    let base = base();
    let (client, server) = tcp_pair();
    let bev = socket(&base, server);
    let peer = sender(client, TOTAL);
    bev.set_rate_limit(Some(&per_hour(10))).unwrap();
    let lift = bev.clone();
    read_until(&bev, |_, total| total == TOTAL);
    bev.write(&[1; 1_000]).unwrap();
    bev.enable(Interest::READ).unwrap();
    base.timer(Duration::from_millis(60), move |_| {
        assert!(!lift.output().is_empty(), "held up");
        lift.set_rate_limit(None).unwrap();
        assert_eq!(lift.rate_limit(), None);
        assert_eq!(lift.read_limit().unwrap(), isize::MAX);
    })
    .unwrap();
    assert_eq!(base.run().unwrap(), Exit::Stopped);
    assert_eq!(bev.output().len(), 0);
    drop(peer.join().unwrap());
}

#[test]
fn rule_47_limits_set_while_operations_are_in_flight() {
    let base = base();
    let (client, server) = tcp_pair();
    let bev = socket(&base, server);
    let peer = sender(client, 64 * RATE);
    let at = Rc::new(Cell::new(None));
    let limited = at.clone();
    read_until(&bev, move |bev, total| {
        let base = bev.base().unwrap();
        let Some((since, before)) = limited.get() else {
            // A receive is in flight that knows no bound. What it still brings is charged.
            bev.set_rate_limit(Some(&per_tick(RATE))).unwrap();
            limited.set(Some((base.clock_ns(), total)));
            return false;
        };
        // The window of slots at most arrives before the cancel does.
        let unbounded = 128 * (16 << 10);
        let allowed = unbounded + allowance(&base, since, RATE);
        assert!(
            total - before <= allowed,
            "{total} bytes where {allowed} may"
        );
        total - before >= 8 * RATE && bev.read_limit().unwrap() <= RATE as isize
    });
    bev.enable(Interest::READ).unwrap();
    assert_eq!(base.run().unwrap(), Exit::Stopped);
    assert!(at.get().is_some());
    bev.free();
    peer.join().unwrap();
}

#[test]
fn rule_47_other_limits_hold_from_the_moment_they_are_set() {
    let base = base();
    let (client, server) = tcp_pair();
    let bev = socket(&base, server);
    let received = sink(client);
    bev.set_rate_limit(Some(&per_hour(1_000))).unwrap();
    bev.write(&vec![1; TOTAL]).unwrap();
    let reconfigured = bev.clone();
    base.timer(Duration::from_millis(30), move |_| {
        assert_eq!(reconfigured.output().len(), TOTAL - 1_000);
        reconfigured.set_rate_limit(Some(&per_tick(RATE))).unwrap();
        assert!(reconfigured.write_limit().unwrap() <= RATE as isize);
    })
    .unwrap();
    bev.close_after_flush(None, |end| assert_eq!(end, FlushEnd::Flushed))
        .unwrap();
    assert_eq!(base.run().unwrap(), Exit::Idle);
    assert_eq!(received.join().unwrap(), TOTAL);
}

#[test]
fn rule_22_a_suspended_direction_has_no_running_timer() {
    let base = base();
    let (client, server) = tcp_pair();
    let bev = socket(&base, server);
    // In the socket before the time-out starts to run.
    let peer = sender(client, 30).join().unwrap();
    let tick = Some(Duration::from_millis(200));
    let config = RateLimitConfig::new(10, 10, 10, 10, tick).unwrap();
    bev.set_rate_limit(Some(&config)).unwrap();
    let timeout = Some(Duration::from_millis(50));
    bev.set_timeouts(timeout, timeout).unwrap();
    bev.write(&[1; 30]).unwrap();
    let log = Rc::new(RefCell::new(Vec::new()));
    let (read, event) = (log.clone(), log.clone());
    bev.set_callbacks(
        Callbacks::new()
            .on_read(move |bev| {
                let n = bev.read(&mut [0; 64]);
                read.borrow_mut().push(format!("{n} bytes"));
            })
            .on_event(move |bev, what| {
                event.borrow_mut().push(format!("{what:?}"));
                bev.free();
            }),
    )
    .unwrap();
    bev.enable(Interest::READ).unwrap();
    assert_eq!(base.run().unwrap(), Exit::Idle);
    // Three ticks' worth came, each after a suspension longer than the time-out. The last byte
    // of each tick's ten leaves the direction suspended: the time-out comes a tick later.
    let timed_out = format!("{:?}", Events::READING | Events::TIMEOUT);
    assert_eq!(
        *log.borrow(),
        ["10 bytes", "10 bytes", "10 bytes", &timed_out]
    );
    drop(peer);
}

#[test]
fn a_disabled_or_freed_one_keeps_no_loop_alive() {
    let base = base();
    let (client, server) = tcp_pair();
    let bev = socket(&base, server);
    bev.set_rate_limit(Some(&per_hour(10))).unwrap();
    bev.write(&[1; 1_000]).unwrap();
    let pause = bev.clone();
    base.timer(Duration::from_millis(20), move |_| {
        pause.disable(Interest::WRITE).unwrap()
    })
    .unwrap();
    assert_eq!(base.run().unwrap(), Exit::Idle);
    assert_eq!(bev.output().len(), 990);
    bev.enable(Interest::WRITE).unwrap();
    let free = bev.clone();
    base.timer(Duration::from_millis(20), move |_| free.free())
        .unwrap();
    assert_eq!(base.run().unwrap(), Exit::Idle);
    assert!(matches!(bev.set_rate_limit(None), Err(Error::Freed { .. })));
    assert!(matches!(bev.max_to_read(), Err(Error::Freed { .. })));
    assert_clean(&base);
    drop(client);
}

#[test]
fn rule_47_pairs_and_filters_have_no_limits() {
    struct Plain;
    impl evring::Filter for Plain {}
    let base = base();
    let (near, far) = BufferEvent::pair(&base, Options::empty()).unwrap();
    let (_client, server) = tcp_pair();
    let limited = socket(&base, server);
    let own = per_tick(2 * RATE);
    limited.set_rate_limit(Some(&own)).unwrap();
    let over = |below| BufferEvent::filter(below, Plain, Options::CLOSE_ON_FREE).unwrap();
    let (over_pair, over_socket) = (over(&far), over(&limited));
    let config = per_tick(RATE);
    let group = base.rate_limit_group(&config);
    let refused = |answer| matches!(answer, Err(Error::Invalid { .. }));
    for bev in [&near, &over_pair, &over_socket, &over(&over_socket)] {
        assert!(refused(bev.set_rate_limit(Some(&config))));
        assert!(refused(bev.set_rate_limit(None)));
        assert!(refused(bev.add_to_group(&group)) && refused(bev.remove_from_group()));
        assert!(refused(bev.decrement_read_limit(1)) && refused(bev.decrement_write_limit(1)));
        assert!(refused(bev.read_limit().map(drop)) && refused(bev.write_limit().map(drop)));
        assert!(refused(bev.max_to_read().map(drop)) && refused(bev.max_to_write().map(drop)));
        assert!(bev.rate_limit().is_none() && bev.group().is_none());
    }
    assert_eq!(group.members(), 0);
    assert_eq!(
        limited.rate_limit(),
        Some(own),
        "that of the socket below is as it was"
    );
}

#[test]
fn limits_outlive_the_descriptor() {
    let base = base();
    let (old_client, old_server) = tcp_pair();
    let bev = socket(&base, old_server);
    bev.set_rate_limit(Some(&per_tick(RATE))).unwrap();
    bev.enable(Interest::READ).unwrap();
    base.run_with(RunFlags::NONBLOCK).unwrap();
    // A receive holds the whole bucket; it goes with its descriptor, the budget stays.
    let (client, server) = tcp_pair();
    bev.replace_fd(Some(server.into())).unwrap();
    assert_eq!(bev.max_to_read().unwrap(), RATE);
    let peer = sender(client, TOTAL);
    reads_keep_to_the_rate(&base, &bev);
    drop((peer.join().unwrap(), old_client));
}

#[test]
fn rule_14_a_file_segment_obeys_write_limits() {
    const LIMIT: usize = 5_000;
    let content: Vec<u8> = (0..500_000u32).map(|i| (i % 251) as u8).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    for in_group in [false, true] {
        let base = base();
        let (client, server) = tcp_pair();
        let bev = socket(&base, server);
        if in_group {
            let group = base.rate_limit_group(&per_hour(LIMIT));
            bev.add_to_group(&group).unwrap();
        } else {
            bev.set_rate_limit(Some(&per_hour(LIMIT))).unwrap();
        }
        bev.write(b"before ").unwrap();
        let segment = file.try_clone().unwrap();
        bev.output()
            .with(|output| output.add_file(segment, 100, Some(400_000)))
            .unwrap()
            .unwrap();
        bev.write(b" after").unwrap();
        let all = bev.output().len();
        base.stop_after(Duration::from_millis(50));
        base.run().unwrap();
        assert_eq!(all - bev.output().len(), LIMIT, "the first tick's bytes");
        assert_eq!(bev.max_to_write().unwrap(), 0);

        // The rest goes out once the limits are gone, and all of it in order.
        bev.set_rate_limit(None).unwrap();
        bev.remove_from_group().unwrap();
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            let mut client = client;
            client.read_to_end(&mut got).unwrap();
            got
        });
        bev.close_after_flush(None, |end| assert_eq!(end, FlushEnd::Flushed))
            .unwrap();
        assert_eq!(base.run().unwrap(), Exit::Idle);
        let expected = [b"before ", &content[100..400_100], b" after"].concat();
        assert!(reader.join().unwrap() == expected);
    }
}
