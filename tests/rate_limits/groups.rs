//! Limits that bufferevents share.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::rc::Rc;
use std::sync::Barrier;
use std::time::Duration;

use evring::rate_limit::{Direction, Group, GroupError};
use evring::{
    BufferEvent, Callbacks, Error, EventBase, Exit, FlushEnd, Interest, RelayOptions, RunFlags,
    relay,
};

use crate::shared::*;

const RATE: usize = 60_000;
const TOTAL: usize = 8 * RATE;

/// As the library's tests of the arithmetic hold it: a slot of idle receives and a minimal share.
const SLACK: usize = (16 << 10) + 64;

#[test]
fn rule_46_members_on_two_threads_share_one_limit() {
    let here = base();
    let began = here.clock_ns();
    let group = here.rate_limit_group(&per_tick(RATE));
    let ready = Barrier::new(2);
    let serve = |group: &Group| {
        let base = base();
        let (client, server) = tcp_pair();
        let received = sink(client);
        let bev = socket(&base, server);
        bev.add_to_group(group).unwrap();
        ready.wait();
        bev.write(&vec![1; TOTAL / 2]).unwrap();
        bev.close_after_flush(None, |end| assert_eq!(end, FlushEnd::Flushed))
            .unwrap();
        assert_eq!(base.run().unwrap(), Exit::Idle);
        assert_eq!(received.join().unwrap(), TOTAL / 2);
    };
    std::thread::scope(|threads| {
        threads.spawn(|| serve(&group));
        threads.spawn(|| serve(&group));
    });
    assert_eq!(group.totals().written, TOTAL as u64);
    assert!(here.clock_ns() - began >= (TOTAL / RATE - 1) as u64 * TICK_NS);
    group.reset_totals();
    assert_eq!(group.totals().written, 0);
    assert_eq!(group.free(), Ok(()), "both have left by being freed");
}

#[test]
fn rule_46_reads_of_a_group_keep_to_its_rate() {
    const MEMBERS: usize = 5;
    let base = base();
    let began = base.clock_ns();
    let group = base.rate_limit_group(&per_tick(RATE));
    let total = Rc::new(Cell::new(0));
    let mut members = Vec::new();
    let mut peers = Vec::new();
    for _ in 0..MEMBERS {
        let (client, server) = tcp_pair();
        let bev = socket(&base, server);
        bev.add_to_group(&group).unwrap();
        assert_eq!(bev.group().as_ref(), Some(&group));
        let sum = total.clone();
        let mut before = 0;
        read_until(&bev, move |bev, now| {
            sum.set(sum.get() + now - before);
            before = now;
            let allowed = allowance(&bev.base().unwrap(), began, RATE) + SLACK;
            assert!(
                sum.get() <= allowed,
                "{} bytes where {allowed} may",
                sum.get()
            );
            sum.get() == MEMBERS * TOTAL / 4
        });
        bev.enable(Interest::READ).unwrap();
        peers.push(sender(client, TOTAL / 4));
        members.push(bev);
    }
    assert_eq!(base.run().unwrap(), Exit::Stopped);
    assert_eq!(total.get(), MEMBERS * TOTAL / 4);
    assert_eq!(group.totals().read, total.get() as u64);
    for peer in peers {
        drop(peer.join().unwrap());
    }
}

#[test]
fn rule_46_all_members_get_a_share() {
    const MEMBERS: usize = 10;
    let base = base();
    let group = base.rate_limit_group(&per_tick(RATE));
    let counts = Rc::new(RefCell::new([0; MEMBERS]));
    let mut peers = Vec::new();
    for member in 0..MEMBERS {
        let (client, server) = tcp_pair();
        let bev = socket(&base, server);
        bev.add_to_group(&group).unwrap();
        let counts = counts.clone();
        read_until(&bev, move |_, total| {
            counts.borrow_mut()[member] = total;
            counts.borrow().iter().sum::<usize>() >= 20 * RATE
        });
        bev.enable(Interest::READ).unwrap();
        peers.push(sender(client, 100 * RATE));
    }
    assert_eq!(base.run().unwrap(), Exit::Stopped);
    let counts = *counts.borrow();
    // Twenty ticks of a tenth each would be 2 RATE.
    assert!(counts.iter().all(|&bytes| bytes >= RATE), "{counts:?}");
    drop(base);
    for peer in peers {
        peer.join().unwrap();
    }
}

#[test]
fn rule_46_an_idle_group_keeps_no_loop_alive() {
    let base = base();
    let group = base.rate_limit_group(&per_hour(1));
    let (client, server) = tcp_pair();
    let bev = socket(&base, server);
    bev.add_to_group(&group).unwrap();
    assert_eq!(base.active(), 0, "nothing to move");
    bev.free();
    base.run_with(RunFlags::NONBLOCK).unwrap();
    assert_clean(&base);
    drop(client);
}

#[test]
fn rule_46_a_group_with_members_is_not_freed() {
    let base = base();
    let group = base.rate_limit_group(&per_hour(100));
    let (client, server) = tcp_pair();
    let bev = socket(&base, server);
    bev.add_to_group(&group).unwrap();
    assert_eq!(group.free(), Err(GroupError::HasMembers { members: 1 }));
    bev.remove_from_group().unwrap();
    assert_eq!(bev.group(), None);
    bev.remove_from_group().unwrap();
    assert_eq!(group.free(), Ok(()));
    let refused = bev.add_to_group(&group);
    assert!(matches!(refused, Err(Error::Group(GroupError::Freed))));
    assert_eq!(bev.group(), None);

    let other = base.rate_limit_group(&per_hour(100));
    bev.add_to_group(&other).unwrap();
    assert!(bev.add_to_group(&group).is_err());
    assert_eq!(bev.group(), Some(other.clone()), "it stays where it was");

    // A member that waits goes on when the group is dissolved.
    bev.write(&[1; 300]).unwrap();
    base.stop_after(Duration::from_millis(30));
    base.run().unwrap();
    assert_eq!((bev.output().len(), bev.max_to_write().unwrap()), (200, 0));
    let dissolve = other.clone();
    base.timer(Duration::from_millis(30), move |_| dissolve.dissolve())
        .unwrap();
    bev.close_after_flush(None, |end| assert_eq!(end, FlushEnd::Flushed))
        .unwrap();
    let received = sink(client);
    assert_eq!(base.run().unwrap(), Exit::Idle);
    assert_eq!(received.join().unwrap(), 300);
}

#[test]
fn rule_46_a_member_moves_between_groups_inside_its_callback() {
    let base = base();
    let groups: Vec<_> = (0..3)
        .map(|_| base.rate_limit_group(&per_tick(RATE)))
        .collect();
    let (client, server) = tcp_pair();
    let bev = socket(&base, server);
    bev.add_to_group(&groups[0]).unwrap();
    let choice = groups.clone();
    let mut turn = 0;
    read_until(&bev, move |bev, total| {
        turn += 1;
        match turn % 4 {
            3 => bev.remove_from_group().unwrap(),
            n => bev.add_to_group(&choice[n]).unwrap(),
        }
        total == TOTAL
    });
    bev.enable(Interest::READ).unwrap();
    let peer = sender(client, TOTAL);
    assert_eq!(base.run().unwrap(), Exit::Stopped);
    bev.remove_from_group().unwrap();
    for group in &groups {
        assert_eq!(group.members(), 0);
        assert!(group.totals().read > 0, "it was in each for a while");
        assert_eq!(group.free(), Ok(()));
    }
    drop(peer.join().unwrap());
}

#[test]
fn rule_46_a_reconfigured_or_refilled_group_wakes_its_members_from_any_thread() {
    type Change = fn(&Group, u64);
    let changes: [Change; 3] = [
        |group, now| group.set_config(&per_tick(RATE), now),
        |group, now| group.decrement(Direction::Write, -(TOTAL as isize), now),
        |group, _| group.dissolve(),
    ];
    for change in changes {
        let base = base();
        let group = base.rate_limit_group(&per_hour(1_000));
        let (client, server) = tcp_pair();
        let bev = socket(&base, server);
        bev.add_to_group(&group).unwrap();
        bev.write(&vec![1; TOTAL]).unwrap();
        let mut received = client;
        let changed = group.clone();
        let changer = std::thread::spawn(move || {
            let clock = EventBase::new().expect("a ring");
            let mut first = [0; 1_000];
            received
                .read_exact(&mut first)
                .expect("the first tick's bytes");
            change(&changed, clock.clock_ns());
            sink(received).join().expect("no panic")
        });
        bev.close_after_flush(None, |end| assert_eq!(end, FlushEnd::Flushed))
            .unwrap();
        assert_eq!(base.run().unwrap(), Exit::Idle);
        assert_eq!(changer.join().unwrap(), TOTAL - 1_000);
    }
}

#[test]
fn rule_46_a_member_moves_to_another_base() {
    let (base, other) = (base(), base());
    let group = base.rate_limit_group(&per_tick(RATE));
    let (client, server) = tcp_pair();
    let bev = socket(&base, server);
    bev.add_to_group(&group).unwrap();
    base.run_with(RunFlags::NONBLOCK).unwrap();
    bev.set_base(&other).unwrap();
    assert_eq!(group.members(), 1);
    bev.write(&vec![1; TOTAL]).unwrap();
    let received = sink(client);
    bev.close_after_flush(None, |end| assert_eq!(end, FlushEnd::Flushed))
        .unwrap();
    assert_eq!(other.run().unwrap(), Exit::Idle);
    assert_eq!(received.join().unwrap(), TOTAL);
    assert_eq!(group.totals().written, TOTAL as u64);
}

#[test]
fn rule_46_limits_of_a_group_and_of_its_own_hold_both() {
    let base = base();
    let group = base.rate_limit_group(&per_hour(5_000));
    let (client, server) = tcp_pair();
    let bev = socket(&base, server);
    bev.set_rate_limit(Some(&per_hour(3_000))).unwrap();
    bev.add_to_group(&group).unwrap();
    assert_eq!(bev.max_to_write().unwrap(), 3_000);
    bev.write(&vec![1; 10_000]).unwrap();
    base.stop_after(Duration::from_millis(50));
    base.run().unwrap();
    assert_eq!(bev.output().len(), 7_000);
    assert_eq!(group.limit(Direction::Write, base.clock_ns()), 2_000);

    // What its own bucket has does not depend on the group; what it may move does.
    group.decrement(Direction::Read, 4_500, base.clock_ns());
    assert_eq!(bev.read_limit().unwrap(), 3_000);
    assert_eq!(bev.write_limit().unwrap(), 0);
    assert_eq!(bev.max_to_read().unwrap(), 500);
    group.decrement(Direction::Read, 1_000, base.clock_ns());
    assert_eq!(bev.read_limit().unwrap(), 3_000);
    assert_eq!(bev.max_to_read().unwrap(), 0);

    // Its own limit goes, the group stays.
    bev.set_rate_limit(None).unwrap();
    assert_eq!(bev.group(), Some(group.clone()));
    assert_eq!(
        bev.read_limit().unwrap(),
        isize::MAX,
        "it has none of its own"
    );
    base.stop_after(Duration::from_millis(50));
    base.run().unwrap();
    assert_eq!(bev.output().len(), 5_000);
    assert_eq!(group.limit(Direction::Write, base.clock_ns()), 0);
    drop(client);
}

#[test]
fn rule_45_a_group_has_a_bucket_for_each_direction() {
    let base = base();
    let group = base.rate_limit_group(&per_hour(1_000));
    let limits = |base: &EventBase| {
        let limit = |direction| group.limit(direction, base.clock_ns());
        (limit(Direction::Read), limit(Direction::Write))
    };
    let (client, server) = tcp_pair();
    let bev = socket(&base, server);
    bev.add_to_group(&group).unwrap();
    assert_eq!(
        bev.read_limit().unwrap(),
        isize::MAX,
        "it has none of its own"
    );
    group.decrement(Direction::Read, 1_500, base.clock_ns());
    assert_eq!(limits(&base), (-500, 1_000));
    assert_eq!(
        (bev.max_to_read().unwrap(), bev.max_to_write().unwrap()),
        (0, 1_000)
    );

    let got = Rc::new(Cell::new(0));
    let seen = got.clone();
    read_until(&bev, move |_, total| {
        seen.set(total);
        total == 700
    });
    bev.enable(Interest::READ).unwrap();
    let peer = sender(client, 700).join().unwrap();
    base.stop_after(Duration::from_millis(30));
    base.run().unwrap();
    assert_eq!(got.get(), 0, "suspended");
    // A negative number puts bytes in, above the burst as well.
    group.decrement(Direction::Read, -2_500, base.clock_ns());
    base.run().unwrap();
    assert_eq!(got.get(), 700);
    assert_eq!(limits(&base), (1_300, 1_000));
    drop(peer);
}

#[test]
fn rule_46_min_share_is_set_and_clamped() {
    let base = base();
    let group = base.rate_limit_group(&per_tick(RATE));
    assert_eq!(group.min_share(), 64);
    group.set_min_share(0).unwrap();
    assert_eq!(group.min_share(), 0);
    group.set_min_share(10 * RATE).unwrap();
    assert_eq!(group.min_share(), RATE);
    assert!(group.set_min_share(usize::MAX).is_err());
}

#[test]
fn rule_46_a_paused_member_gives_its_share_back() {
    let base = base();
    // 16 KiB for idle receives: one of the two members holds it all.
    let group = base.rate_limit_group(&per_hour(16 << 10));
    let (quiet_client, quiet) = tcp_pair();
    let (client, server) = tcp_pair();
    let holder = socket(&base, quiet);
    holder.add_to_group(&group).unwrap();
    holder.enable(Interest::READ).unwrap();
    base.run_with(RunFlags::NONBLOCK).unwrap();
    let bev = socket(&base, server);
    bev.add_to_group(&group).unwrap();
    let got = Rc::new(Cell::new(0));
    let seen = got.clone();
    read_until(&bev, move |_, total| {
        seen.set(total);
        total == 16 << 10
    });
    bev.enable(Interest::READ).unwrap();
    let peer = sender(client, 16 << 10).join().unwrap();
    let pause = holder.clone();
    base.timer(Duration::from_millis(30), move |_| {
        pause.disable(Interest::READ).unwrap()
    })
    .unwrap();
    assert_eq!(base.run().unwrap(), Exit::Stopped);
    assert_eq!(got.get(), 16 << 10, "all of it, {:?}", group.totals());
    drop((peer, quiet_client));
}

#[test]
fn a_relay_works_under_limits() {
    let base = base();
    let group = base.rate_limit_group(&per_tick(2 * RATE));
    let (client, ours) = tcp_pair();
    let (upstream, theirs) = tcp_pair();
    let (a, b) = (socket(&base, ours), socket(&base, theirs));
    for bev in [&a, &b] {
        bev.add_to_group(&group).unwrap();
        bev.set_rate_limit(Some(&per_tick(RATE))).unwrap();
    }
    let began = base.clock_ns();
    let joined = relay(&a, &b, RelayOptions::default().high(RATE / 2)).unwrap();
    let report = Rc::new(RefCell::new(None));
    let end = report.clone();
    joined.on_end(move |report| *end.borrow_mut() = Some(*report));
    let peers = [client, upstream].map(|stream| {
        let mut writer = stream.try_clone().unwrap();
        let out = std::thread::spawn(move || {
            writer.write_all(&vec![1; TOTAL]).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        (out, sink(stream))
    });
    assert_eq!(base.run().unwrap(), Exit::Idle);
    assert!(base.clock_ns() - began >= (TOTAL / RATE - 1) as u64 * TICK_NS);
    for (out, sink) in peers {
        out.join().unwrap();
        assert_eq!(sink.join().unwrap(), TOTAL);
    }
    let report = report.borrow().expect("it ended");
    assert_eq!(
        (report.a_to_b, report.b_to_a, report.undelivered),
        (TOTAL as u64, TOTAL as u64, 0)
    );
    assert_eq!(group.members(), 0);
    assert_clean(&base);
}

#[test]
fn a_thousand_suspended_members_wake() {
    const MEMBERS: usize = 1_000;
    const EACH: usize = 600;
    let base = base();
    let group = base.rate_limit_group(&per_tick(RATE));
    let mut peers = Vec::new();
    let flushed = Rc::new(Cell::new(0));
    for _ in 0..MEMBERS {
        let (client, server) = std::os::unix::net::UnixStream::pair().unwrap();
        let bev = BufferEvent::socket(&base, Some(server.into()), evring::Options::CLOSE_ON_FREE)
            .unwrap();
        bev.add_to_group(&group).unwrap();
        bev.write(&[1; EACH]).unwrap();
        let count = flushed.clone();
        bev.set_callbacks(Callbacks::new().on_write(move |bev| {
            count.set(count.get() + 1);
            bev.free();
        }))
        .unwrap();
        peers.push(client);
    }
    assert_eq!(base.run().unwrap(), Exit::Idle);
    assert_eq!(flushed.get(), MEMBERS);
    assert_eq!(group.totals().written, (MEMBERS * EACH) as u64);
    assert_clean(&base);
}
