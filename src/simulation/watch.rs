//! Rate limits seen from outside: what moved in the simulated kernel, held against what may.
//!
//! The arithmetic here is as plain as can be and shares nothing with the limits' own. It is told of
//! every change, and forgives what a change explains: operations launched before it, and what a
//! negative decrement put in.

use std::collections::BTreeMap;

use crate::BufferEvent;
use crate::driver::sim::net::numbered;
use crate::driver::sim::{Move, SLOT_BYTES};
use crate::rate_limit::{DEFAULT_MIN_SHARE, Direction, RateLimitConfig};

/// What idle receives of a group may take above its burst in a tick.
const IDLE_SLACK: u64 = 16 << 10;

/// A tick of a group as short as this may end before a base that oversleeps has looked.
const SHORT_TICK_NS: u64 = 20_000_000;

/// The moment of a change.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) now: u64,
    /// Operations with smaller numbers were launched before.
    pub(super) next_op: u64,
}

/// All limits of a scenario.
#[derive(Default)]
pub(super) struct Watch {
    members: Vec<Member>,
    groups: Vec<Option<Shared>>,
    /// Who is behind a socket.
    sockets: BTreeMap<usize, usize>,
}

struct Member {
    bev: BufferEvent,
    own: Option<[Meter; 2]>,
    group: Option<usize>,
    /// Operations before this one were launched outside of the group.
    joined_at_op: u64,
}

struct Shared {
    meters: [Meter; 2],
    min_share: u64,
}

/// One direction of a limit.
struct Meter {
    config: RateLimitConfig,
    direction: Direction,
    /// The start of some tick.
    origin: u64,
    /// The tick of `moved`, since the origin.
    tick: u64,
    moved: u64,
    /// Bytes put in in this tick, and all since `since`.
    bonus: u64,
    all_bonus: u64,
    /// What moved since the tick `since`, in which the limit was changed last.
    since: u64,
    all_moved: u64,
    /// What was launched before is forgiven: an operation of a smaller number, or queued before a
    /// moment.
    from_op: u64,
    from_time: u64,
}

impl Meter {
    fn pair(config: RateLimitConfig, at: At) -> [Self; 2] {
        [Direction::Read, Direction::Write].map(|direction| Meter {
            config,
            direction,
            origin: at.now,
            tick: 0,
            moved: 0,
            bonus: 0,
            all_bonus: 0,
            since: 0,
            all_moved: 0,
            from_op: at.next_op,
            from_time: 0,
        })
    }

    fn tick_ns(&self) -> u64 {
        self.config.tick().as_nanos() as u64
    }

    /// Takes over another configuration; the tick under way keeps its start.
    fn change(&mut self, config: RateLimitConfig, at: At) {
        self.go_to(at.now);
        *self = Meter {
            config,
            direction: self.direction,
            origin: self.origin + self.tick * self.tick_ns(),
            from_op: at.next_op,
            ..Meter::pair(config, at)
                .into_iter()
                .next()
                .expect("two of them")
        };
        self.go_to(at.now);
        self.since = self.tick;
    }

    fn go_to(&mut self, now: u64) {
        let tick = now.saturating_sub(self.origin) / self.tick_ns();
        if tick != self.tick {
            if self.bonus != 0 {
                // What was launched with it may linger.
                self.from_time = self.origin + tick * self.tick_ns();
            }
            (self.tick, self.moved, self.bonus) = (tick, 0, 0);
        }
    }

    fn decrement(&mut self, bytes: isize, at: At) {
        self.go_to(at.now);
        if bytes < 0 {
            self.bonus += bytes.unsigned_abs() as u64;
            self.all_bonus += bytes.unsigned_abs() as u64;
        }
    }

    /// Counts a move: `slack` may be had in a tick above the burst, `ever` since the last change
    /// above the rate.
    fn moved(&mut self, moved: &Move, who: &str, slack: u64, ever: u64) {
        self.go_to(moved.at);
        if moved.op < self.from_op || moved.queued_at < self.from_time {
            return;
        }
        self.moved += moved.bytes;
        self.all_moved += moved.bytes;
        let (rate, burst) = (
            self.config.rate(self.direction) as u64,
            self.config.burst(self.direction) as u64,
        );
        let most = burst.saturating_add(self.bonus + slack);
        assert!(
            self.moved <= most,
            "{who}: {} {:?} bytes in a tick of at most {most}, {:?}",
            self.moved,
            self.direction,
            self.config
        );
        // One rate more: the tick that a change cut short may be owed.
        let ticks = self.tick - self.since + 1;
        let most = rate
            .saturating_mul(ticks)
            .saturating_add(burst)
            .saturating_add(self.all_bonus + ever);
        assert!(
            self.all_moved <= most,
            "{who}: {} {:?} bytes in {ticks} ticks, at most {most}, {:?}",
            self.all_moved,
            self.direction,
            self.config
        );
    }
}

impl Watch {
    pub(super) fn add(&mut self, bev: BufferEvent) {
        self.members.push(Member {
            bev,
            own: None,
            group: None,
            joined_at_op: 0,
        });
        self.look_again();
    }

    /// Finds out anew who is behind which socket.
    pub(super) fn look_again(&mut self) {
        let live = |(number, member): (usize, &Member)| {
            let fd = member.bev.fd().filter(|_| !member.bev.is_freed())?;
            Some((numbered(fd), number))
        };
        self.sockets = self.members.iter().enumerate().filter_map(live).collect();
    }

    pub(super) fn groups(&self) -> usize {
        self.groups.len()
    }

    pub(super) fn set_own(&mut self, number: usize, config: Option<&RateLimitConfig>, at: At) {
        let own = &mut self.members[number].own;
        match (config, own.as_mut()) {
            (None, _) => *own = None,
            (Some(config), None) => *own = Some(Meter::pair(*config, at)),
            (Some(config), Some(meters)) => meters.iter_mut().for_each(|m| m.change(*config, at)),
        }
    }

    pub(super) fn decrement(&mut self, number: usize, way: Direction, bytes: isize, at: At) {
        if let Some(meters) = &mut self.members[number].own {
            meters[place(way)].decrement(bytes, at);
        }
    }

    pub(super) fn add_group(&mut self, config: RateLimitConfig, at: At) {
        self.groups.push(Some(Shared {
            meters: Meter::pair(config, at),
            min_share: DEFAULT_MIN_SHARE as u64,
        }));
    }

    pub(super) fn join(&mut self, number: usize, group: usize, at: At) {
        let member = &mut self.members[number];
        (member.group, member.joined_at_op) = (Some(group), at.next_op);
    }

    pub(super) fn leave(&mut self, number: usize, _: At) {
        self.members[number].group = None;
    }

    pub(super) fn set_group(&mut self, group: usize, config: RateLimitConfig, at: At) {
        if let Some(shared) = &mut self.groups[group] {
            shared.meters.iter_mut().for_each(|m| m.change(config, at));
        }
    }

    pub(super) fn set_group_of(&mut self, number: usize, config: RateLimitConfig, at: At) {
        if let Some(group) = self.members[number].group {
            self.set_group(group, config, at);
        }
    }

    pub(super) fn set_min_share(&mut self, group: usize, share: usize) {
        if let Some(shared) = &mut self.groups[group] {
            shared.min_share = shared.min_share.max(share as u64);
        }
    }

    pub(super) fn decrement_group(&mut self, group: usize, way: Direction, bytes: isize, at: At) {
        if let Some(shared) = &mut self.groups[group] {
            shared.meters[place(way)].decrement(bytes, at);
        }
    }

    /// It limits nobody any more.
    pub(super) fn end_group(&mut self, group: usize) {
        self.groups[group] = None;
    }

    /// Counts what has moved since the last look.
    pub(super) fn moved(&mut self, moves: &[Move]) {
        for moved in moves {
            let Some(&number) = self.sockets.get(&moved.socket) else {
                continue;
            };
            let which = usize::from(moved.write);
            let member = &mut self.members[number];
            if let Some(own) = &mut member.own {
                own[which].moved(moved, &format!("bufferevent {number}"), 0, 0);
            }
            let (Some(group), true) = (member.group, moved.op >= member.joined_at_op) else {
                continue;
            };
            let members = self.members.len() as u64;
            let Some(shared) = &mut self.groups[group] else {
                continue;
            };
            let meter = &mut shared.meters[which];
            let (tick_ns, rate) = (meter.tick_ns(), meter.config.rate(meter.direction) as u64);
            meter.go_to(moved.at);
            // The group gives up waiting for what lingers for longer than two refills.
            let awaited_from = meter.origin + meter.tick.saturating_sub(1) * tick_ns;
            if moved.queued_at < awaited_from || tick_ns <= SHORT_TICK_NS {
                continue;
            }
            let slack = IDLE_SLACK + shared.min_share.min(rate);
            let ever = slack + members * SLOT_BYTES as u64;
            meter.moved(moved, &format!("group {group}"), slack, ever);
        }
    }
}

fn place(direction: Direction) -> usize {
    match direction {
        Direction::Read => 0,
        Direction::Write => 1,
    }
}
