//! Bases, members and peers on simulated time, around a real group.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use evring::rate_limit::{
    Demand, Direction, Grant, Group, Launch, Limiter, Port, RateLimitConfig, Resumed, Suspension,
};

pub const SECOND: u64 = 1_000_000_000;
/// The most bytes of one operation.
pub const SLOT: u32 = 16 * 1024;

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Traffic {
    /// Writes without end, a slot at a time.
    Bulk,
    /// Writes without end, 200 bytes at a time.
    Small,
    /// Writes so many bytes each interval, as soon as it may.
    Paced { bytes: usize, every_ns: u64 },
    /// Waits for data that never comes.
    Silent,
    /// Writes to a peer that takes nothing.
    Stalls,
    /// Reads: nothing until a moment, then that many bytes.
    ReadsAt { first_ns: u64, bytes: usize },
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    pub total: u64,
    pub jain: f64,
    pub fullest_tick: u64,
    pub longest_wait_ns: u64,
    pub launches: u64,
    pub smallest_launch: u32,
}

pub struct Sim {
    pub group: Group,
    tick_ns: u64,
    now_ns: u64,
    bases: Vec<Base>,
    members: Vec<Member>,
    events: BinaryHeap<Reverse<(u64, u64, usize)>>,
    happenings: Vec<Option<Event>>,
    sequence: u64,
    random: u64,
    in_tick: u64,
    tick: u64,
    report: Report,
}

struct Base {
    port: Port,
    woken: Arc<AtomicBool>,
    timer_ns: Option<u64>,
    /// It polls only at multiples of this.
    turn_ns: u64,
}

struct Member {
    limiter: Limiter,
    traffic: Traffic,
    moved: u64,
    /// Bytes to write, or to read.
    pending: usize,
    suspended_since: Option<u64>,
    in_flight: bool,
    /// An idle receive in flight, or a wait for readability.
    idle: Option<Option<Grant>>,
}

enum Event {
    Launch(usize),
    Complete(usize, Grant),
    Poll(usize),
    Arrive(usize),
}

impl Sim {
    pub fn new(config: &RateLimitConfig, bases: usize, seed: u64) -> Self {
        let group = Group::new(config, seed, 0);
        let bases = (0..bases)
            .map(|_| {
                let woken = Arc::new(AtomicBool::new(false));
                let flag = Arc::clone(&woken);
                Base {
                    port: group.attach(move || flag.store(true, Ordering::Relaxed)),
                    woken,
                    timer_ns: None,
                    turn_ns: 1,
                }
            })
            .collect();
        let report = Report {
            total: 0,
            jain: 1.0,
            fullest_tick: 0,
            longest_wait_ns: 0,
            launches: 0,
            smallest_launch: u32::MAX,
        };
        Self {
            group,
            tick_ns: config.tick().as_nanos() as u64,
            now_ns: 0,
            bases,
            members: Vec::new(),
            events: BinaryHeap::new(),
            happenings: Vec::new(),
            sequence: 0,
            random: seed | 1,
            in_tick: 0,
            tick: 0,
            report,
        }
    }

    pub fn join(&mut self, traffic: Traffic) -> usize {
        let index = self.members.len();
        let mut limiter = Limiter::new();
        let base = index % self.bases.len();
        limiter
            .join(&self.bases[base].port, index as u64)
            .expect("the group is open");
        let pending = match traffic {
            Traffic::Bulk | Traffic::Small | Traffic::Stalls => usize::MAX,
            Traffic::Paced { .. } | Traffic::Silent | Traffic::ReadsAt { .. } => 0,
        };
        self.members.push(Member {
            limiter,
            traffic,
            moved: 0,
            pending,
            suspended_since: None,
            in_flight: false,
            idle: None,
        });
        match traffic {
            Traffic::Paced { .. } => self.at(0, Event::Arrive(index)),
            Traffic::ReadsAt { first_ns, .. } => {
                self.at(0, Event::Launch(index));
                self.at(first_ns, Event::Arrive(index));
            }
            _ => self.at(0, Event::Launch(index)),
        }
        index
    }

    /// Makes a base's turns so long that it polls late.
    pub fn slow_down(&mut self, base: usize, turn_ns: u64) {
        self.bases[base].turn_ns = turn_ns;
    }

    pub fn moved(&self, member: usize) -> u64 {
        self.members[member].moved
    }

    pub fn run(&mut self, until_ns: u64) {
        while let Some(&Reverse((at_ns, _, index))) = self.events.peek() {
            if at_ns >= until_ns {
                break;
            }
            self.events.pop();
            self.now_ns = at_ns;
            match self.happenings[index].take().expect("each happens once") {
                Event::Launch(member) => self.launch(member),
                Event::Complete(member, grant) => self.complete(member, grant),
                Event::Poll(base) => self.poll(base),
                Event::Arrive(member) => self.arrive(member),
            }
            self.arm();
        }
        self.now_ns = until_ns;
    }

    pub fn report(&mut self) -> Report {
        let moved: Vec<_> = self.members.iter().map(|member| member.moved).collect();
        Report {
            total: moved.iter().sum(),
            jain: jain(&moved),
            fullest_tick: self.report.fullest_tick.max(self.in_tick),
            ..self.report
        }
    }

    fn launch(&mut self, index: usize) {
        let now_ns = self.now_ns;
        let member = &mut self.members[index];
        if member.in_flight || member.idle.is_some() {
            return;
        }
        let direction = member.direction();
        let slot = SLOT as usize;
        let demand = match member.traffic {
            Traffic::Small => Demand::ready(200),
            Traffic::Bulk | Traffic::Paced { .. } | Traffic::Stalls => {
                Demand::ready(member.pending.min(slot))
            }
            Traffic::ReadsAt { .. } if member.pending > 0 => Demand::ready(slot),
            Traffic::Silent | Traffic::ReadsAt { .. } => Demand::idle(slot),
        };
        if demand.bytes == 0 {
            member.limiter.stop(direction);
            return;
        }
        match member.limiter.launch(direction, demand, now_ns) {
            Launch::Granted(grant) => {
                if let Some(since) = member.suspended_since.take() {
                    self.report.longest_wait_ns = self.report.longest_wait_ns.max(now_ns - since);
                }
                self.report.launches += 1;
                self.report.smallest_launch = self.report.smallest_launch.min(grant.bytes());
                if !demand.ready {
                    member.idle = Some(Some(grant));
                } else if member.traffic != Traffic::Stalls {
                    member.in_flight = true;
                    let after_ns = 10_000 + self.draw() % 90_000;
                    self.at(now_ns + after_ns, Event::Complete(index, grant));
                } else {
                    member.in_flight = true;
                }
            }
            Launch::Suspended(Suspension::Group { until_ns }) => {
                assert!(until_ns > now_ns, "until {until_ns} at {now_ns}");
                member.suspended_since.get_or_insert(now_ns);
            }
            Launch::Suspended(Suspension::Own { until_ns }) => {
                self.at(until_ns, Event::Launch(index))
            }
            Launch::AwaitReadable => {
                assert!(!demand.ready);
                member.idle = Some(None);
            }
        }
    }

    fn complete(&mut self, index: usize, grant: Grant) {
        let now_ns = self.now_ns;
        let member = &mut self.members[index];
        let moved = member.pending.min(grant.bytes() as usize);
        let direction = member.direction();
        member.limiter.complete(direction, grant, moved, now_ns);
        member.moved += moved as u64;
        member.in_flight = false;
        if !matches!(member.traffic, Traffic::Bulk | Traffic::Small) {
            member.pending -= moved;
        }
        if now_ns / self.tick_ns != self.tick {
            self.tick = now_ns / self.tick_ns;
            self.in_tick = 0;
        }
        self.in_tick += moved as u64;
        self.report.fullest_tick = self.report.fullest_tick.max(self.in_tick);
        self.at(now_ns, Event::Launch(index));
    }

    fn arrive(&mut self, index: usize) {
        let now_ns = self.now_ns;
        let member = &mut self.members[index];
        match member.traffic {
            Traffic::Paced { bytes, every_ns } => {
                member.pending += bytes;
                self.at(now_ns + every_ns, Event::Arrive(index));
                self.at(now_ns, Event::Launch(index));
            }
            Traffic::ReadsAt { bytes, .. } => {
                member.pending += bytes;
                match member.idle.take() {
                    Some(Some(grant)) => self.complete(index, grant),
                    _ => self.at(now_ns, Event::Launch(index)),
                }
            }
            _ => unreachable!("nothing arrives for {:?}", member.traffic),
        }
    }

    fn poll(&mut self, base: usize) {
        let mut resumed = Vec::new();
        self.bases[base].woken.store(false, Ordering::Relaxed);
        if self.bases[base]
            .timer_ns
            .is_some_and(|timer_ns| timer_ns <= self.now_ns)
        {
            self.bases[base].timer_ns = None;
        }
        self.bases[base].port.poll(self.now_ns, &mut resumed);
        for Resumed { token, direction } in resumed {
            let index = token as usize;
            assert_eq!(direction, self.members[index].direction());
            assert_eq!(index % self.bases.len(), base, "told to another base");
            self.at(self.now_ns, Event::Launch(index));
        }
    }

    /// Sets the bases' timers as a loop does before it sleeps.
    fn arm(&mut self) {
        for index in 0..self.bases.len() {
            let base = &mut self.bases[index];
            if base.woken.swap(false, Ordering::Relaxed) {
                // Another thread takes some microseconds to wake.
                let at_ns = (self.now_ns + 5_000).next_multiple_of(base.turn_ns);
                self.at(at_ns, Event::Poll(index));
                continue;
            }
            let Some(next_ns) = base.port.next_poll() else {
                continue;
            };
            let next_ns = next_ns.max(self.now_ns).next_multiple_of(base.turn_ns);
            if base.timer_ns.is_none_or(|timer_ns| next_ns < timer_ns) {
                base.timer_ns = Some(next_ns);
                self.at(next_ns, Event::Poll(index));
            }
        }
    }

    fn at(&mut self, at_ns: u64, event: Event) {
        self.sequence += 1;
        self.happenings.push(Some(event));
        self.events
            .push(Reverse((at_ns, self.sequence, self.happenings.len() - 1)));
    }

    fn draw(&mut self) -> u64 {
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

impl Member {
    fn direction(&self) -> Direction {
        match self.traffic {
            Traffic::Silent | Traffic::ReadsAt { .. } => Direction::Read,
            _ => Direction::Write,
        }
    }
}

/// Jain's index of fairness: 1 if all moved the same.
pub fn jain(moved: &[u64]) -> f64 {
    let sum: f64 = moved.iter().map(|&bytes| bytes as f64).sum();
    let squares: f64 = moved.iter().map(|&bytes| (bytes as f64).powi(2)).sum();
    if squares == 0.0 {
        1.0
    } else {
        sum * sum / (moved.len() as f64 * squares)
    }
}
