//! Groups of rate-limited members on simulated time: exactness, fairness, bounds, and that whoever
//! is suspended wakes. Threads are real only in the last part.

mod rate_limit_sim;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use evring::rate_limit::{
    Demand, Direction, Group, GroupError, Launch, Limiter, Pacing, RateLimitConfig, Resumed,
    Suspension, Totals,
};
use proptest::prelude::*;
use rate_limit_sim::{Report, SECOND, SLOT, Sim, Traffic, jain};

fn config(rate: usize, burst: usize) -> RateLimitConfig {
    RateLimitConfig::new(rate, burst, rate, burst, None).expect("valid")
}

fn granted(launch: Launch) -> evring::rate_limit::Grant {
    match launch {
        Launch::Granted(grant) => grant,
        other => panic!("not granted: {other:?}"),
    }
}

/// Rate, fairness and the bound per tick of `count` equal members over `seconds`.
fn run(
    count: usize,
    traffic: Traffic,
    config: RateLimitConfig,
    bases: usize,
    seconds: u64,
) -> Report {
    let mut sim = Sim::new(&config, bases, 0x5EED + count as u64);
    for _ in 0..count {
        sim.join(traffic);
    }
    sim.run(seconds * SECOND);
    sim.report()
}

fn assert_exact(what: &str, report: &Report, config: &RateLimitConfig, seconds: u64) {
    let direction = Direction::Write;
    let ticks = (seconds * SECOND) as f64 / config.tick().as_nanos() as f64;
    let expected = config.rate(direction) as f64 * ticks;
    let off = report.total as f64 / expected - 1.0;
    println!(
        "{what}: {:+.4} % of the rate, Jain {:.5}, fullest tick {} of burst {}, longest wait {} ms, {} launches",
        off * 100.0,
        report.jain,
        report.fullest_tick,
        config.burst(direction),
        report.longest_wait_ns / 1_000_000,
        report.launches,
    );
    assert!(off.abs() <= 0.005, "{what}: {:.3} % off", off * 100.0);
    assert!(
        report.fullest_tick <= config.burst(direction) as u64 + u64::from(SLOT),
        "{what}: a tick beyond the burst"
    );
    assert!(report.jain >= 0.99, "{what}: Jain {}", report.jain);
}

#[test]
fn rule_46_groups_are_exact_and_fair() {
    let seconds = 10;
    for pacing in [Pacing::Tick, Pacing::SubTick] {
        for (count, rate) in [(1, 2_000_000), (30, 2_000_000), (1_000, 2_000_000)] {
            for traffic in [Traffic::Bulk, Traffic::Small] {
                for bases in [1, 3] {
                    let config = config(rate, rate).with_pacing(pacing);
                    let report = run(count, traffic, config, bases, seconds);
                    let what = format!("{count} × {traffic:?}, {pacing:?}, {bases} bases");
                    assert_exact(&what, &report, &config, seconds);
                }
            }
        }
    }
}

#[test]
fn rule_46_short_ticks_and_bursts_above_the_rate() {
    for pacing in [Pacing::Tick, Pacing::SubTick] {
        for (rate, burst, tick_ms) in [
            (50_000, 50_000, 10),
            (100_000, 300_000, 100),
            (999, 1_999, 7),
        ] {
            let tick = Some(Duration::from_millis(tick_ms));
            let config = RateLimitConfig::new(rate, burst, rate, burst, tick)
                .expect("valid")
                .with_pacing(pacing);
            let report = run(30, Traffic::Bulk, config, 2, 10);
            assert_exact(
                &format!("{rate} B per {tick_ms} ms, burst {burst}, {pacing:?}"),
                &report,
                &config,
                10,
            );
        }
    }
}

#[test]
fn rule_46_bulk_members_take_what_modest_ones_leave() {
    let config = config(1_000_000, 1_000_000);
    let mut sim = Sim::new(&config, 2, 1);
    let bulk: Vec<_> = (0..10).map(|_| sim.join(Traffic::Bulk)).collect();
    let modest: Vec<_> = (0..10)
        .map(|_| {
            sim.join(Traffic::Paced {
                bytes: 1_000,
                every_ns: SECOND / 10,
            })
        })
        .collect();
    sim.run(20 * SECOND);
    let moved = |members: &[usize]| {
        members
            .iter()
            .map(|&member| sim.moved(member))
            .collect::<Vec<_>>()
    };
    let modest_total: u64 = moved(&modest).iter().sum();
    let total = modest_total + moved(&bulk).iter().sum::<u64>();
    assert!(
        (total as f64 / 20_000_000.0 - 1.0).abs() < 0.005,
        "{total} of 20 MB"
    );
    assert!(
        modest_total >= 1_900_000,
        "modest members moved {modest_total} of the 2 MB that they wanted"
    );
    assert!(jain(&moved(&bulk)) > 0.99, "{:?}", moved(&bulk));
}

#[test]
fn rule_46_only_members_that_want_to_move_data_are_counted() {
    let config = config(1_000_000, 1_000_000);
    let mut sim = Sim::new(&config, 1, 2);
    let busy: Vec<_> = (0..3).map(|_| sim.join(Traffic::Bulk)).collect();
    for _ in 0..997 {
        sim.join(Traffic::Silent);
    }
    sim.run(10 * SECOND);
    let total: u64 = busy.iter().map(|&member| sim.moved(member)).sum();
    assert!(
        (total as f64 / 10_000_000.0 - 1.0).abs() < 0.005,
        "{total} of 10 MB"
    );
    // 17 operations of a whole slot a second, at best, for each 333,333 bytes. The first tick
    // does not know yet who is busy and makes many small ones.
    let launches = sim.report().launches;
    assert!(
        launches < 3 * 10 * 25 + 1_500,
        "{launches} launches: shares were cut for idle members"
    );
}

#[test]
fn rule_46_a_tight_group_goes_round() {
    // 320 bytes a tick, 64 at a time: 5 of 30 members move in each tick.
    let tick = Some(Duration::from_millis(100));
    let config = RateLimitConfig::new(320, 320, 320, 320, tick).expect("valid");
    let report = run(30, Traffic::Bulk, config, 2, 60);
    assert_exact("tight", &report, &config, 60);
    assert_eq!(report.smallest_launch, 64);
    assert!(
        report.longest_wait_ns <= 8 * SECOND / 10,
        "waited {} ns for one round of 6 ticks",
        report.longest_wait_ns
    );
}

#[test]
fn rule_46_min_share_zero_works() {
    let config = config(10, 10);
    let mut sim = Sim::new(&config, 1, 3);
    sim.group.set_min_share(0).expect("0 is allowed");
    for _ in 0..30 {
        sim.join(Traffic::Bulk);
    }
    sim.run(90 * SECOND);
    let report = sim.report();
    assert_eq!(report.total, 900);
    assert!(report.jain >= 0.99, "{}", report.jain);
}

#[test]
fn rule_46_min_share_is_clamped_to_the_rates() {
    let config = RateLimitConfig::new(50, 50, 20, 90, None).expect("valid");
    let group = Group::new(&config, 0, 0);
    assert_eq!(group.min_share(), 20);
    group.set_config(&self::config(1_000, 1_000), 0);
    assert_eq!(
        group.min_share(),
        64,
        "what was asked for returns with higher rates"
    );
    group.set_min_share(5_000).expect("allowed");
    assert_eq!(group.min_share(), 1_000);
    assert_eq!(
        group.set_min_share(usize::MAX),
        Err(GroupError::MinShareTooLarge(usize::MAX))
    );
}

#[test]
fn stalled_senders_do_not_starve_the_others() {
    let config = config(1_000_000, 1_000_000);
    let mut sim = Sim::new(&config, 1, 4);
    let busy = sim.join(Traffic::Bulk);
    for _ in 0..9 {
        sim.join(Traffic::Stalls);
    }
    sim.run(20 * SECOND);
    // The stalled ones hold up to their share of the first ticks, and then nothing.
    let moved = sim.moved(busy);
    assert!(moved >= 18_000_000, "{moved} of 20 MB");
}

#[test]
fn a_base_slower_than_the_ticks_gets_its_share() {
    let tick = Some(Duration::from_millis(1));
    let config = RateLimitConfig::new(40_000, 40_000, 40_000, 40_000, tick).expect("valid");
    let mut sim = Sim::new(&config, 2, 6);
    sim.slow_down(1, 5_000_000);
    let members: Vec<_> = (0..20).map(|_| sim.join(Traffic::Bulk)).collect();
    sim.run(2 * SECOND);
    let moved: Vec<_> = members.iter().map(|&member| sim.moved(member)).collect();
    // A member of the slow base moves one share a turn, the fast ones have the rest.
    assert!(
        moved
            .iter()
            .skip(1)
            .step_by(2)
            .all(|&bytes| bytes >= 400 * 2_000),
        "{moved:?}"
    );
    let total: u64 = moved.iter().sum();
    assert!(
        (total as f64 / 80_000_000.0 - 1.0).abs() < 0.005,
        "{total} of 80 MB"
    );
}

#[test]
fn idle_receives_that_fire_at_once_stay_within_the_burst() {
    for burst in [1_000_000, 1_100_000, 3_000_000] {
        let config = config(1_000_000, burst);
        let mut sim = Sim::new(&config, 1, 5);
        for _ in 0..500 {
            sim.join(Traffic::ReadsAt {
                first_ns: 5 * SECOND + SECOND / 2,
                bytes: 100_000,
            });
        }
        for _ in 0..5 {
            sim.join(Traffic::ReadsAt {
                first_ns: 0,
                bytes: usize::MAX,
            });
        }
        sim.run(20 * SECOND);
        let report = sim.report();
        println!(
            "burst {burst}: fullest tick {}, {} bytes read",
            report.fullest_tick, report.total
        );
        assert!(
            report.fullest_tick <= burst as u64 + u64::from(SLOT),
            "{} in a tick",
            report.fullest_tick
        );
        assert!(
            report.total >= 19_900_000,
            "{} bytes read in 20 s at 1 MB/s",
            report.total
        );
        assert_eq!(report.total, sim.group.totals().read);
    }
}

#[test]
fn a_member_joins_leaves_and_moves_while_operations_are_in_flight() {
    let group = Group::new(&config(1_000, 1_000), 1, 0);
    let other = Group::new(&config(1_000, 1_000), 2, 0);
    let (port, other_port) = (group.attach(|| ()), other.attach(|| ()));
    let mut limiter = Limiter::new();
    assert!(limiter.is_unlimited());
    assert_eq!(limiter.limit(Direction::Write, 0), isize::MAX);
    assert_eq!(limiter.max_to_move(Direction::Write, 0), isize::MAX);

    // Launched without a limit, completed with one.
    let grant = granted(limiter.launch(Direction::Write, Demand::ready(500), 0));
    limiter.join(&port, 1).expect("open");
    limiter.complete(Direction::Write, grant, 500, 0);
    assert_eq!(
        (group.limit(Direction::Write, 0), group.totals().written),
        (500, 500)
    );

    // Launched in one group, completed in another: each byte counts once.
    let grant = granted(limiter.launch(Direction::Write, Demand::ready(300), 0));
    assert_eq!(
        group.limit(Direction::Write, 0),
        500,
        "what is in flight has not moved"
    );
    limiter.join(&other_port, 1).expect("open");
    limiter.complete(Direction::Write, grant, 300, 0);
    assert_eq!((group.totals().written, other.totals().written), (500, 300));
    assert_eq!(other.limit(Direction::Write, 0), 700);
    assert_eq!(
        group.limit(Direction::Write, 3 * SECOND),
        1_000,
        "the first group has its bytes back"
    );
    assert_eq!((group.members(), other.members()), (0, 1));

    limiter.leave();
    assert!(limiter.is_unlimited());
    assert_eq!(
        granted(limiter.launch(Direction::Read, Demand::idle(SLOT as usize), 0)).bytes(),
        SLOT
    );
    group.reset_totals();
    assert_eq!(group.totals(), Totals::default());
}

#[test]
fn rule_46_freeing_a_group_with_members_is_refused_and_dissolving_resumes_them() {
    let woken = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&woken);
    let group = Group::new(&config(10, 10), 1, 0);
    let port = group.attach(move || flag.store(true, Ordering::Relaxed));
    let mut limiter = Limiter::new();
    limiter.join(&port, 77).expect("open");
    let grant = granted(limiter.launch(Direction::Write, Demand::ready(100), 0));
    assert!(matches!(
        limiter.launch(Direction::Write, Demand::ready(100), 0),
        Launch::Suspended(Suspension::Group { until_ns: SECOND })
    ));
    assert_eq!(group.free(), Err(GroupError::HasMembers { members: 1 }));
    group.dissolve();
    assert!(woken.load(Ordering::Relaxed));
    let mut resumed = Vec::new();
    port.poll(0, &mut resumed);
    assert_eq!(
        resumed,
        [Resumed {
            token: 77,
            direction: Direction::Write
        }]
    );
    assert_eq!(
        granted(limiter.launch(Direction::Write, Demand::ready(100), 0)).bytes(),
        100
    );
    limiter.complete(Direction::Write, grant, 10, 0);
    assert!(limiter.group().is_none());
    assert_eq!(limiter.join(&port, 77), Err(GroupError::Freed));
    drop(group);
    group_outlives_its_handles();
}

fn group_outlives_its_handles() {
    let mut limiter = Limiter::new();
    {
        let group = Group::new(&config(10, 10), 1, 0);
        limiter.join(&group.attach(|| ()), 1).expect("open");
    }
    assert_eq!(
        granted(limiter.launch(Direction::Write, Demand::ready(100), 0)).bytes(),
        10
    );
    assert_eq!(limiter.group().expect("a member keeps it").members(), 1);
}

#[test]
fn rule_46_a_reconfiguration_wakes_the_bases_of_those_who_wait() {
    let woken = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&woken);
    let group = Group::new(&config(100, 100), 1, 0);
    let port = group.attach(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let mut member = Limiter::new();
    member.join(&port, 5).expect("open");
    group.decrement(Direction::Write, 100, 0);
    let suspended = member.launch(Direction::Write, Demand::ready(10), 0);
    assert!(matches!(suspended, Launch::Suspended(_)));
    assert_eq!(port.next_poll(), Some(SECOND));

    let tick = Some(Duration::from_millis(1));
    let faster = RateLimitConfig::new(100, 100, 100, 100, tick).expect("valid");
    group.set_config(&faster, 0);
    assert_eq!(
        woken.load(Ordering::Relaxed),
        1,
        "it would sleep for a second"
    );
    let mut resumed = Vec::new();
    port.poll(0, &mut resumed);
    assert_eq!((resumed.len(), port.next_poll()), (0, Some(SECOND / 1000)));
}

#[test]
fn rule_45_decrements_suspend_and_resume() {
    let mut limiter = Limiter::new();
    assert_eq!(
        limiter.decrement(Direction::Read, 5, 0),
        None,
        "no own limit: nothing to take from"
    );
    limiter.set_config(Some(&config(100, 100)), 0);
    assert_eq!(
        limiter.decrement(Direction::Read, 150, 0),
        Some(Suspension::Own { until_ns: SECOND })
    );
    assert_eq!(
        (
            limiter.limit(Direction::Read, 0),
            limiter.max_to_move(Direction::Read, 0)
        ),
        (-50, 0)
    );
    assert_eq!(limiter.limit(Direction::Write, 0), 100);
    assert!(matches!(
        limiter.launch(Direction::Read, Demand::idle(SLOT as usize), 0),
        Launch::Suspended(Suspension::Own { until_ns: SECOND })
    ));
    assert_eq!(limiter.decrement(Direction::Read, -1_000, 0), None);
    assert_eq!(
        granted(limiter.launch(Direction::Read, Demand::idle(SLOT as usize), 0)).bytes(),
        950
    );

    // A group's decrement resumes who waits.
    let woken = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&woken);
    let group = Group::new(&config(100, 100), 1, 0);
    let port = group.attach(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let mut member = Limiter::new();
    member.join(&port, 5).expect("open");
    group.decrement(Direction::Write, 250, 0);
    assert_eq!(group.limit(Direction::Write, 0), -150);
    let suspended = member.launch(Direction::Write, Demand::ready(10), 0);
    assert_eq!(
        suspended,
        Launch::Suspended(Suspension::Group {
            until_ns: 2 * SECOND
        })
    );
    // At the next refill: bytes may come back that shorten the wait, but wake nobody yet.
    assert_eq!(port.next_poll(), Some(SECOND));
    group.decrement(Direction::Write, -100, 0);
    assert_eq!(woken.load(Ordering::Relaxed), 0);
    group.decrement(Direction::Write, -100, 0);
    group.decrement(Direction::Write, -200, 0);
    assert_eq!(
        woken.load(Ordering::Relaxed),
        1,
        "woken once until it polls"
    );
    assert_eq!(port.next_poll(), Some(0));
    let mut resumed = Vec::new();
    port.poll(0, &mut resumed);
    assert_eq!(
        resumed,
        [Resumed {
            token: 5,
            direction: Direction::Write
        }]
    );
    assert_eq!(port.next_poll(), None, "nobody waits: no timer");
    assert_eq!(
        granted(member.launch(Direction::Write, Demand::ready(10), 0)).bytes(),
        10
    );
    assert_eq!(group.limit(Direction::Write, 0), 250);
}

#[test]
fn a_member_that_stops_hands_its_share_on() {
    let group = Group::new(&config(100, 100), 1, 0);
    group.set_min_share(100).expect("allowed");
    let port = group.attach(|| ());
    let mut members: Vec<Limiter> = (0..3).map(|_| Limiter::new()).collect();
    for (token, member) in members.iter_mut().enumerate() {
        member.join(&port, token as u64).expect("open");
    }
    group.decrement(Direction::Write, 100, 0);
    for member in &mut members {
        assert!(matches!(
            member.launch(Direction::Write, Demand::ready(100), 0),
            Launch::Suspended(_)
        ));
    }
    let mut resumed = Vec::new();
    port.poll(SECOND, &mut resumed);
    for already in 1..=3 {
        assert_eq!(resumed.len(), already, "one at a time: {resumed:?}");
        members[resumed[already - 1].token as usize].stop(Direction::Write);
        port.poll(SECOND, &mut resumed);
    }
    assert_eq!(group.limit(Direction::Write, SECOND), 100);
}

#[test]
fn group_of_a_base_that_is_gone_wakes_nobody() {
    let group = Group::new(&config(10, 10), 1, 0);
    let port = group.attach(|| panic!("its base is gone"));
    let mut member = Limiter::new();
    member.join(&port, 1).expect("open");
    group.decrement(Direction::Write, 10, 0);
    assert!(matches!(
        member.launch(Direction::Write, Demand::ready(1), 0),
        Launch::Suspended(_)
    ));
    drop(port);
    group.decrement(Direction::Write, -10, 0);
    let again = group.attach(|| ());
    assert_eq!(
        again.next_poll(),
        None,
        "the id is not taken over while a member uses it"
    );
}

/// What a random test does to a group and its members.
#[derive(Clone, Debug)]
enum Step {
    Launch {
        member: usize,
        bytes: usize,
        ready: bool,
        write: bool,
    },
    Complete {
        pick: usize,
        percent: u64,
    },
    Stop {
        member: usize,
        write: bool,
    },
    Join {
        member: usize,
        group: usize,
    },
    Leave {
        member: usize,
    },
    SetOwn {
        member: usize,
        rate: Option<usize>,
    },
    SetGroup {
        group: usize,
        rate: usize,
        paced: bool,
    },
    Decrement {
        group: usize,
        write: bool,
        bytes: i32,
    },
    MinShare {
        group: usize,
        bytes: usize,
    },
    Advance {
        ns: u64,
    },
    Poll {
        port: usize,
    },
    Clock {
        to: u64,
    },
}

fn steps() -> impl Strategy<Value = Step> {
    let (member, group) = (0..6usize, 0..2usize);
    prop_oneof![
        8 => (member.clone(), 0..100_000usize, any::<bool>(), any::<bool>())
            .prop_map(|(member, bytes, ready, write)| Step::Launch { member, bytes, ready, write }),
        6 => (any::<usize>(), 0..=100u64)
            .prop_map(|(pick, percent)| Step::Complete { pick, percent }),
        1 => (member.clone(), any::<bool>())
            .prop_map(|(member, write)| Step::Stop { member, write }),
        1 => (member.clone(), group.clone())
            .prop_map(|(member, group)| Step::Join { member, group }),
        1 => member.clone().prop_map(|member| Step::Leave { member }),
        1 => (member, prop::option::of(1..50_000usize))
            .prop_map(|(member, rate)| Step::SetOwn { member, rate }),
        1 => (group.clone(), 1..50_000usize, any::<bool>())
            .prop_map(|(group, rate, paced)| Step::SetGroup { group, rate, paced }),
        1 => (group.clone(), any::<bool>(), -200_000..200_000i32)
            .prop_map(|(group, write, bytes)| Step::Decrement { group, write, bytes }),
        1 => (group, 0..5_000usize).prop_map(|(group, bytes)| Step::MinShare { group, bytes }),
        4 => (0..3 * SECOND).prop_map(|ns| Step::Advance { ns }),
        3 => (0..4usize).prop_map(|port| Step::Poll { port }),
        1 => any::<u64>().prop_map(|to| Step::Clock { to: to / 2 }),
    ]
}

fn direction(write: bool) -> Direction {
    if write {
        Direction::Write
    } else {
        Direction::Read
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever was done to groups, limits and the clock: once operations end and time passes,
    /// every member that waits is told to go on, and may.
    #[test]
    fn every_suspended_member_wakes(steps in prop::collection::vec(steps(), 1..150)) {
        let mut now = 1_000_000u64;
        let group = |seed| Group::new(&config(10_000, 20_000), seed, now);
        let groups: Vec<_> = (0..2).map(group).collect();
        let ports: Vec<_> = (0..4).map(|port| groups[port / 2].attach(|| ())).collect();
        let mut members: Vec<_> = (0..6).map(|_| Limiter::new()).collect();
        let mut waiting = [[false; 2]; 6];
        let mut flying = Vec::new();
        let mut resumed = Vec::new();

        for step in steps {
            match step {
                Step::Launch { member, bytes, ready, write } => {
                    let demand = Demand { bytes, ready: ready || write };
                    waiting[member][usize::from(write)] = false;
                    match members[member].launch(direction(write), demand, now) {
                        Launch::Granted(grant) => {
                            prop_assert!(grant.bytes() as usize <= bytes);
                            prop_assert!(grant.bytes() > 0 || bytes == 0);
                            flying.push((member, write, grant));
                        }
                        Launch::Suspended(Suspension::Group { .. }) => {
                            waiting[member][usize::from(write)] = true;
                        }
                        Launch::Suspended(Suspension::Own { until_ns }) => {
                            prop_assert!(until_ns > now);
                        }
                        Launch::AwaitReadable => prop_assert!(!demand.ready),
                    }
                }
                Step::Complete { pick, percent } if !flying.is_empty() => {
                    let (member, write, grant) = flying.swap_remove(pick % flying.len());
                    let moved = u64::from(grant.bytes()) * percent / 100;
                    members[member].complete(direction(write), grant, moved as usize, now);
                }
                Step::Complete { .. } => {}
                Step::Stop { member, write } => {
                    members[member].stop(direction(write));
                    waiting[member][usize::from(write)] = false;
                }
                Step::Join { member, group } => {
                    members[member].join(&ports[group * 2 + member % 2], member as u64).expect("open");
                    waiting[member] = [false; 2];
                }
                Step::Leave { member } => {
                    members[member].leave();
                    waiting[member] = [false; 2];
                }
                Step::SetOwn { member, rate } => {
                    let config = rate.map(|rate| config(rate, rate * 2));
                    members[member].set_config(config.as_ref(), now);
                }
                Step::SetGroup { group, rate, paced } => {
                    let pacing = if paced { Pacing::SubTick } else { Pacing::Tick };
                    let config = config(rate, rate + rate / 2).with_pacing(pacing);
                    groups[group].set_config(&config, now);
                }
                Step::Decrement { group, write, bytes } => {
                    groups[group].decrement(direction(write), bytes as isize, now);
                }
                Step::MinShare { group, bytes } => groups[group].set_min_share(bytes).expect("allowed"),
                Step::Advance { ns } => now += ns,
                Step::Poll { port } => {
                    ports[port].poll(now, &mut resumed);
                    for Resumed { token, direction } in resumed.drain(..) {
                        waiting[token as usize][usize::from(direction == Direction::Write)] = false;
                    }
                }
                Step::Clock { to } => now = to,
            }
        }

        // Nobody touches the limits any more; operations end; bases do as they are told.
        for (member, write, grant) in flying.drain(..) {
            let moved = grant.bytes() as usize;
            members[member].complete(direction(write), grant, moved, now);
        }
        for _ in 0..20_000 {
            for port in &ports {
                port.poll(now, &mut resumed);
            }
            for Resumed { token, direction } in resumed.drain(..) {
                let (member, write) = (token as usize, direction == Direction::Write);
                if !waiting[member][usize::from(write)] {
                    continue;
                }
                waiting[member][usize::from(write)] = false;
                match members[member].launch(direction, Demand::ready(1_000), now) {
                    Launch::Granted(grant) => {
                        let moved = grant.bytes() as usize;
                        prop_assert!(moved > 0);
                        members[member].complete(direction, grant, moved, now);
                        members[member].stop(direction);
                    }
                    Launch::Suspended(Suspension::Own { .. }) => {}
                    other => prop_assert!(false, "resumed, but {other:?}"),
                }
            }
            if waiting == [[false; 2]; 6] {
                break;
            }
            let next = ports.iter().filter_map(|port| port.next_poll()).min();
            prop_assert!(next.is_some(), "somebody waits and no base has a timer: {waiting:?}");
            now = next.expect("checked above").max(now + 1);
        }
        prop_assert_eq!(waiting, [[false; 2]; 6], "waits for ever");

        // Nothing was lost or made: idle groups are full again and free to go.
        drop(members);
        for group in &groups {
            let full = now + 1_000_000 * SECOND;
            group.set_config(&group.config().with_pacing(Pacing::Tick), now);
            for direction in [Direction::Read, Direction::Write] {
                let burst = group.config().burst(direction) as isize;
                prop_assert_eq!(group.limit(direction, full), burst);
            }
            prop_assert_eq!(group.free(), Ok(()));
        }
    }
}

/// Several threads, each a base with its members. The clock goes on once nobody has anything to do.
#[test]
fn threads_share_one_budget_exactly() {
    for some_fall_short in [false, true] {
        let moved = share_among_threads(some_fall_short);
        assert!(jain(&moved) >= 0.99, "{moved:?}");
    }
}

fn share_among_threads(some_fall_short: bool) -> Vec<u64> {
    const THREADS: usize = 4;
    const MEMBERS: usize = 8;
    const TICKS: u64 = 200;
    let tick_ns = 1_000_000;
    let rate = 100_000usize;
    let config = RateLimitConfig::new(rate, rate, rate, rate, Some(Duration::from_millis(1)))
        .expect("valid");
    let group = Group::new(&config, 9, 0);
    let clock = AtomicU64::new(0);
    let woken_since = AtomicBool::new(false);
    let barrier = Barrier::new(THREADS);
    let moved: Mutex<Vec<u64>> = Mutex::default();

    let base = |thread: usize| {
        let woken = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&woken);
        let port = group.attach(move || flag.store(true, Ordering::SeqCst));
        let mut members: Vec<_> = (0..MEMBERS).map(|_| Limiter::new()).collect();
        for (token, member) in members.iter_mut().enumerate() {
            member.join(&port, token as u64).expect("open");
        }
        let mut sums = [0u64; MEMBERS];
        let mut resumed: Vec<_> = (0..MEMBERS as u64)
            .map(|token| Resumed {
                token,
                direction: Direction::Write,
            })
            .collect();
        // Threads with large and with small writes.
        let bytes = if thread.is_multiple_of(2) { 5_000 } else { 300 };
        let mut round = 0;
        barrier.wait();
        while clock.load(Ordering::SeqCst) < TICKS * tick_ns {
            let now = clock.load(Ordering::SeqCst);
            woken.store(false, Ordering::SeqCst);
            port.poll(now, &mut resumed);
            while let Some(Resumed { token, direction }) = resumed.pop() {
                let member = &mut members[token as usize];
                while let Launch::Granted(grant) =
                    member.launch(direction, Demand::ready(bytes), now)
                {
                    round += 1;
                    let granted = grant.bytes() as usize;
                    let short = some_fall_short && round % 3 == 0;
                    let moved = if short { granted.div_ceil(2) } else { granted };
                    member.complete(direction, grant, moved, now);
                    sums[token as usize] += moved as u64;
                }
            }
            barrier.wait();
            woken_since.fetch_or(woken.load(Ordering::SeqCst), Ordering::SeqCst);
            if barrier.wait().is_leader() && !woken_since.swap(false, Ordering::SeqCst) {
                clock.fetch_add(tick_ns, Ordering::SeqCst);
            }
            barrier.wait();
        }
        moved.lock().expect("no panics").extend(sums);
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let base = &base;
            scope.spawn(move || base(thread));
        }
    });

    let moved = moved.into_inner().expect("no panics");
    let total: u64 = moved.iter().sum();
    let totals = group.totals();
    assert_eq!((totals.read, totals.written), (0, total));
    let limit = TICKS * rate as u64;
    println!("{total} of {limit} bytes, Jain {:.4}", jain(&moved));
    assert!(
        total <= limit + 64 && total as f64 >= limit as f64 * 0.995,
        "{total} of {limit}"
    );
    assert_eq!(group.members(), 0);
    assert_eq!(
        group.limit(Direction::Write, 2 * TICKS * tick_ns),
        rate as isize,
        "the ledger is even"
    );
    moved
}
