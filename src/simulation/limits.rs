//! Random rate limits: of single bufferevents, of groups that they move between, changed at any
//! moment.
//!
//! What the limits let through is watched from outside, see [`watch`](super::watch).

use std::time::Duration;

use super::scenario::Scenario;
use super::watch::{At, Watch};
use crate::BufferEvent;
use crate::event_base::EventBase;
use crate::rate_limit::{Direction, Group, Pacing, RATE_LIMIT_MAX, RateLimitConfig};

/// What every limit allows from the calm on, in bytes a second: enough for all that a scenario
/// moves.
const CALM_RATE: u128 = 20_000;

/// Groups of a scenario at most, those whose handle was dropped left out.
const MOST_GROUPS: usize = 3;

/// The limits of a scenario.
#[derive(Default)]
pub(super) struct Limits {
    /// None of the calls below do anything in a scenario without limits.
    pub(super) on: bool,
    /// Socket bufferevents, by the numbers that the watch knows them by.
    bevs: Vec<BufferEvent>,
    groups: Vec<(usize, Group)>,
    pub(super) watch: Watch,
}

impl Scenario {
    /// Tells of a new socket bufferevent, which may have limits before anything moves.
    pub(super) fn limited(&self, base: &EventBase, bev: BufferEvent) -> BufferEvent {
        if !self.limits.borrow().on {
            return bev;
        }
        let number = self.limits.borrow().bevs.len();
        self.limits.borrow_mut().bevs.push(bev.clone());
        self.limits.borrow_mut().watch.add(bev.clone());
        let calls = self.dice.borrow_mut().range(0..3);
        for _ in 0..calls {
            self.limit(base, number);
        }
        bev
    }

    /// Some call about the limits of some bufferevent, or of a group.
    pub(super) fn limit_call(&self, base: &EventBase) {
        let count = self.limits.borrow().bevs.len() as u64;
        if count != 0 {
            let number = self.dice.borrow_mut().range(0..count) as usize;
            self.limit(base, number);
        }
    }

    fn limit(&self, base: &EventBase, number: usize) {
        if self.calm.get() {
            return;
        }
        let (what, bytes) = {
            let mut dice = self.dice.borrow_mut();
            let bytes = dice.part(10_000) as isize;
            (
                dice.range(0..100),
                if dice.percent(50) { bytes } else { -bytes },
            )
        };
        self.note_limit("limit call", &[number as u64, what]);
        let bev = self.limits.borrow().bevs[number].clone();
        match what {
            _ if bev.is_freed() => {}
            0..25 => {
                let config = self.draw_limits();
                self.set_own(number, Some(&config));
            }
            25..35 => self.set_own(number, None),
            35..55 => self.join(base, number),
            55..60 => {
                bev.remove_from_group().expect("a live socket");
                self.watch(|watch, at| watch.leave(number, at));
            }
            60..75 => {
                let (direction, decremented) = if what & 1 == 0 {
                    (Direction::Read, bev.decrement_read_limit(bytes))
                } else {
                    (Direction::Write, bev.decrement_write_limit(bytes))
                };
                decremented.expect("a live socket");
                self.watch(|watch, at| watch.decrement(number, direction, bytes, at));
            }
            _ => self.group_call(base, what, bytes),
        }
    }

    /// A call about one of the groups.
    fn group_call(&self, base: &EventBase, what: u64, bytes: isize) {
        let count = self.limits.borrow().groups.len() as u64;
        if count == 0 {
            return;
        }
        let place = self.dice.borrow_mut().range(0..count) as usize;
        let (number, group) = self.limits.borrow().groups[place].clone();
        match what {
            75..82 => {
                let config = self.draw_limits();
                group.set_config(&config, base.now());
                self.watch(|watch, at| watch.set_group(number, config, at));
            }
            82..90 => {
                let direction = [Direction::Read, Direction::Write][(what & 1) as usize];
                group.decrement(direction, bytes, base.now());
                self.watch(|watch, at| watch.decrement_group(number, direction, bytes, at));
            }
            90..94 => {
                let share = self.dice.borrow_mut().pick(&[0, 1, 64, 2_000, 100_000]);
                group.set_min_share(share).expect("not beyond the maximum");
                self.watch(|watch, _| watch.set_min_share(number, share));
            }
            94..96 => {
                self.watch(|watch, _| watch.end_group(number));
                group.dissolve();
            }
            // Its members go on as before, and keep it.
            _ => drop(self.limits.borrow_mut().groups.remove(place)),
        }
    }

    fn set_own(&self, number: usize, config: Option<&RateLimitConfig>) {
        let bev = self.limits.borrow().bevs[number].clone();
        self.watch(|watch, at| watch.set_own(number, config, at));
        bev.set_rate_limit(config).expect("a live socket");
        assert_eq!(bev.rate_limit().as_ref(), config);
    }

    fn join(&self, base: &EventBase, number: usize) {
        let (bev, count, made) = {
            let limits = self.limits.borrow();
            let made = limits.watch.groups();
            (limits.bevs[number].clone(), limits.groups.len(), made)
        };
        let fresh = count == 0 || count < MOST_GROUPS && self.dice.borrow_mut().percent(30);
        if fresh {
            let config = self.draw_limits();
            let seed = self.dice.borrow_mut().range(0..u64::MAX);
            let group = Group::new(&config, seed, base.now());
            self.limits.borrow_mut().groups.push((made, group));
            self.watch(|watch, at| watch.add_group(config, at));
        }
        let place = match fresh {
            true => count,
            false => self.dice.borrow_mut().range(0..count as u64) as usize,
        };
        let (group_number, group) = self.limits.borrow().groups[place].clone();
        let open = bev.add_to_group(&group).is_ok();
        if open {
            self.watch(|watch, at| watch.join(number, group_number, at));
        } else {
            // It was dissolved, and nobody needs it any more.
            self.limits.borrow_mut().groups.remove(place);
        }
    }

    /// Limits that are much too slow, or do not bind, or anything between.
    fn draw_limits(&self) -> RateLimitConfig {
        let mut dice = self.dice.borrow_mut();
        let mut flow = || {
            let rates = [1, 50, 1_000, 1_000, 10_000, 100_000, RATE_LIMIT_MAX];
            let rate = dice.pick(&rates);
            let times = dice.pick(&[1, 1, 2, 10]);
            (rate, rate.saturating_mul(times).min(RATE_LIMIT_MAX))
        };
        let (read, write) = (flow(), flow());
        let tick = dice.pick(&[1, 7, 20, 100, 100, 1_000, 1_000, 20_000]);
        let pacing = dice.pick(&[Pacing::Tick, Pacing::SubTick]);
        let tick = Some(Duration::from_millis(tick));
        let config = RateLimitConfig::new(read.0, read.1, write.0, write.1, tick);
        config.expect("a rate within its burst").with_pacing(pacing)
    }

    /// Makes the limits that are too slow for all to move until the end a little faster; the others
    /// stay.
    pub(super) fn calm_limits(&self, base: &EventBase) {
        let fast = |config: &RateLimitConfig| {
            [Direction::Read, Direction::Write]
                .iter()
                .all(|&direction| {
                    let a_second = config.rate(direction) as u128 * 1_000;
                    a_second >= CALM_RATE * config.tick().as_millis() && config.tick().as_secs() < 2
                })
        };
        let bevs = self.limits.borrow().bevs.clone();
        for (number, bev) in bevs.iter().enumerate() {
            if bev.is_freed() {
                continue;
            }
            if bev.rate_limit().is_some_and(|config| !fast(&config)) {
                let config = self.draw_until(fast);
                self.set_own(number, Some(&config));
            }
            if let Some(group) = bev.group().filter(|group| !fast(&group.config())) {
                let config = self.draw_until(fast);
                group.set_config(&config, base.now());
                self.watch(|watch, at| watch.set_group_of(number, config, at));
            }
        }
    }

    fn draw_until(&self, good: impl Fn(&RateLimitConfig) -> bool) -> RateLimitConfig {
        loop {
            let config = self.draw_limits();
            if good(&config) {
                return config;
            }
        }
    }

    /// Looks at all limits before the kernel is entered again: what they let through, and who
    /// stands still.
    pub(super) fn watch_limits(&self, base: &EventBase) {
        if !self.limits.borrow().on {
            return;
        }
        self.watch(|watch, _| watch.look_again());
        let (why, until) = self.standing_still(base);
        self.world.borrow_mut().expect_awake(why, until);
    }

    /// Who stands still without a reason, and when the first of the others may go on.
    fn standing_still(&self, base: &EventBase) -> (String, u64) {
        let (mut why, mut first) = (String::new(), u64::MAX);
        for (number, bev) in self.limits.borrow().bevs.iter().enumerate() {
            for direction in [Direction::Read, Direction::Write] {
                match bev.standstill(base, direction) {
                    None => {}
                    Some(Some(until)) => {
                        self.note_limit("  held up", &[number as u64, direction as u64, until]);
                        first = first.min(until);
                    }
                    Some(None) => {
                        let limits = bev.describe_limits();
                        why += &format!("{number} could {direction}: {bev:?}, {limits}; ");
                    }
                }
            }
        }
        (why, first)
    }

    /// When all is quiet nobody waits for budget.
    pub(super) fn check_limits(&self, base: &EventBase) {
        self.watch(|_, _| {});
        let (why, until) = self.standing_still(base);
        assert!(why.is_empty(), "quiet, but {why}");
        assert_eq!(until, u64::MAX, "somebody still waits for budget");
    }

    /// Lets go of everything.
    pub(super) fn forget_limits(&self) {
        self.limits.take();
    }

    fn note_limit(&self, what: &str, numbers: &[u64]) {
        self.world.borrow_mut().note(what, numbers);
    }

    /// Has the watch take in what has moved until now, and then a change.
    fn watch(&self, change: impl FnOnce(&mut Watch, At)) {
        let mut world = self.world.borrow_mut();
        let moves = world.take_moves();
        let at = At {
            now: world.now,
            next_op: world.next_op(),
        };
        drop(world);
        let mut limits = self.limits.borrow_mut();
        limits.watch.moved(&moves);
        change(&mut limits.watch, at);
    }
}
