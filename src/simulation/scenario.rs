//! What a seed stands for, and what must hold at its end.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::door::Door;
use super::end::{End, Finish};
use super::joined::Joined;
use super::limits::Limits;
use crate::bufferevent::{Filter, FilterResult, FlushMode};
use crate::driver::sim::dice::Dice;
use crate::driver::sim::net::{Target, fd_of};
use crate::driver::sim::remote::Remote;
use crate::driver::sim::socket::Kind;
use crate::driver::sim::{Faults, SLOT_BYTES, Sim, World};
use crate::event_base::Interest;
use crate::{BufferEvent, EvBuffer, EventBase, Exit, Options};

/// Virtual seconds: random calls until then, calm until then.
const CHAOS_MS: u64 = 10_000;
const CALM_AT_S: u64 = 20;
const END_AT_S: u64 = 80;

/// One run.
pub(super) struct Scenario {
    pub(super) world: Rc<RefCell<World>>,
    pub(super) dice: RefCell<Dice>,
    pub(super) ends: RefCell<Vec<Rc<End>>>,
    joined: RefCell<Vec<Rc<Joined>>>,
    pub(super) door: RefCell<Option<Rc<Door>>>,
    pub(super) limits: RefCell<Limits>,
    pub(super) calm: Cell<bool>,
    /// The base is to be dropped in the middle of it all.
    abrupt: Cell<bool>,
    /// Memory is spent at the end.
    short: Cell<bool>,
    streams: Cell<u32>,
    /// The last port that something was put behind.
    pub(super) port: Cell<u16>,
}

/// Runs a seed to its end; the answer is the hash of its trace.
pub(super) fn run(seed: u64, print: bool) -> u64 {
    let mut dice = Dice::new(seed);
    // What came later has dice of its own, so that seeds without it stay what they were.
    let mut more_dice = Dice::new(seed ^ 0x0D00_5EED_0000_0000);
    let mut faults = if dice.percent(10) {
        Faults::none()
    } else {
        Faults::draw(&mut dice)
    };
    let has_door = more_dice.percent(20);
    if faults.split + faults.lazy + faults.early + faults.spurious != 0 {
        faults.draw_more(&mut more_dice);
    }
    if print {
        eprintln!("{faults:?}");
    }
    let priorities = dice.pick(&[1, 1, 1, 3]);
    let (sim, world) = Sim::new(seed, faults, print);
    let base = EventBase::builder()
        .priorities(priorities)
        .build_on(Box::new(sim), SLOT_BYTES)
        .expect("a simulated base");
    let scenario = Rc::new(Scenario {
        world: world.clone(),
        dice: RefCell::new(dice),
        ends: RefCell::default(),
        joined: RefCell::default(),
        door: RefCell::default(),
        limits: RefCell::default(),
        calm: Cell::new(false),
        abrupt: Cell::new(false),
        short: Cell::new(false),
        streams: Cell::new(1),
        port: Cell::new(1),
    });
    scenario.limits.borrow_mut().on = scenario.dice.borrow_mut().percent(60);
    let watched = Rc::downgrade(&scenario);
    let weak_base = base.downgrade();
    base.set_turn_hook(move |_| {
        if let (Some(scenario), Some(base)) = (watched.upgrade(), weak_base.upgrade()) {
            scenario.watch_limits(&base);
        }
    });
    scenario.populate(&base);
    if has_door {
        let door = Door::make(&scenario, &base, more_dice);
        *scenario.door.borrow_mut() = Some(door);
    }
    scenario.schedule(&base);
    loop {
        let exit = base.run().expect("the loop runs");
        if exit == Exit::Idle || scenario.abrupt.get() {
            break;
        }
    }
    scenario.finish(base);
    world.borrow().trace.hash()
}

impl Scenario {
    pub(super) fn stream(&self) -> u32 {
        self.streams.set(self.streams.get() + 1);
        self.streams.get()
    }

    fn length(&self) -> u64 {
        let mut dice = self.dice.borrow_mut();
        dice.pick(&[0, 1, 50, 1000, 1000, 3000, 10_000])
    }

    fn new_socket(&self, kind: Kind) -> usize {
        let capacity = self.dice.borrow_mut().pick(&[100, 5000, 20_000, 70_000]);
        self.world.borrow_mut().net.socket(kind, capacity)
    }

    fn kind(&self) -> Kind {
        let kinds = [Kind::Inet, Kind::Inet, Kind::Inet, Kind::Unix, Kind::Plain];
        let kind = self.dice.borrow_mut().pick(&kinds);
        // Each pipe that is read holds a slot while it waits: they need as many.
        let few = self.world.borrow().arena().max_slots() < 64;
        if few && kind == Kind::Plain {
            Kind::Unix
        } else {
            kind
        }
    }

    pub(super) fn family(&self, socket: usize) -> i32 {
        self.world.borrow().net.kind(socket).family()
    }

    /// A socket whose far end is played by a script.
    fn scripted(&self, kind: Kind, sends: u32, expects: u32, echo: bool) -> usize {
        let total = self.length();
        let mut remote = Remote::new(&mut self.dice.borrow_mut(), sends, total, expects);
        remote.echo = echo;
        let socket = self.new_socket(kind);
        self.world.borrow_mut().net.play(socket, remote);
        socket
    }

    /// A connection to a scripted peer: our socket and its.
    pub(super) fn with_remote(&self, sends: u32, expects: u32) -> (usize, usize) {
        let kind = self.kind();
        let near = self.new_socket(kind);
        let far = self.scripted(kind, sends, expects, false);
        self.world.borrow_mut().net.join(near, far);
        (near, far)
    }

    fn populate(self: &Rc<Self>, base: &EventBase) {
        let connections = self.dice.borrow_mut().range(1..5);
        for _ in 0..connections {
            let what = self.dice.borrow_mut().range(0..100);
            match what {
                0..25 => self.pair(base, false),
                25..40 => self.pair(base, true),
                40..55 => self.to_remote(base),
                55..70 => self.connecting(base),
                70..80 => self.in_memory(base),
                _ => {
                    let joined = Joined::make(self, base);
                    self.joined.borrow_mut().push(joined);
                }
            }
        }
    }

    fn options(&self) -> Options {
        let mut options = Options::CLOSE_ON_FREE;
        let deferred = self.dice.borrow_mut().percent(30);
        options.set(Options::DEFER_CALLBACKS, deferred);
        options
    }

    fn finish_of(&self) -> Finish {
        let ways = [
            Finish::Shutdown,
            Finish::Shutdown,
            Finish::CloseAfterFlush,
            Finish::Nothing,
        ];
        self.dice.borrow_mut().pick(&ways)
    }

    fn end_over(self: &Rc<Self>, base: &EventBase, socket: usize, streams: (u32, u32)) {
        let family = self.family(socket);
        let bev = BufferEvent::simulated(base, fd_of(socket), family, self.options());
        let bev = self.limited(base, bev);
        let left = self.length();
        let end = End::new(self, bev, streams, left, false, self.finish_of(), false);
        end.begin();
    }

    /// Two bufferevents with a connection between them, perhaps under filters.
    fn pair(self: &Rc<Self>, base: &EventBase, echo: bool) {
        let kind = self.kind();
        let sockets = [self.new_socket(kind), self.new_socket(kind)];
        self.world.borrow_mut().net.join(sockets[0], sockets[1]);
        let family = kind.family();
        let bevs = sockets
            .map(|socket| BufferEvent::simulated(base, fd_of(socket), family, self.options()))
            .map(|bev| self.limited(base, bev));
        self.two_ends(bevs, echo);
    }

    /// Two bufferevents without a socket between them.
    fn in_memory(self: &Rc<Self>, base: &EventBase) {
        let pair = BufferEvent::pair(base, self.options()).expect("good options");
        let echo = self.dice.borrow_mut().percent(30);
        self.two_ends(pair.into(), echo);
    }

    fn two_ends(self: &Rc<Self>, mut bevs: [BufferEvent; 2], echo: bool) {
        let filters = self.dice.borrow_mut().pick(&[0, 0, 0, 1, 2]);
        for key in 0..filters {
            bevs = bevs.map(|bev| {
                let filtered = BufferEvent::filter(&bev, Mask(key), self.options());
                filtered.expect("a live bufferevent")
            });
        }
        let there = self.stream();
        let back = if echo { there } else { self.stream() };
        let [one, two] = bevs;
        let number = self.ends.borrow().len();
        let make = |bev, streams, left, echo, peer| {
            let finish = self.finish_of();
            let end = End::new(self, bev, streams, left, echo, finish, false);
            end.peer.set(Some(peer));
            end.filtered.set(filters != 0);
            end
        };
        let one = make(one, (there, back), self.length(), false, number + 1);
        let left = if echo { 0 } else { self.length() };
        let two = make(two, (back, there), left, echo, number);
        one.begin();
        two.begin();
    }

    fn to_remote(self: &Rc<Self>, base: &EventBase) {
        let (ours, theirs) = (self.stream(), self.stream());
        let (near, _far) = self.with_remote(theirs, ours);
        self.end_over(base, near, (ours, theirs));
    }

    /// A bufferevent that connects, to a peer, to an error or to nobody.
    fn connecting(self: &Rc<Self>, base: &EventBase) {
        let (ours, theirs) = (self.stream(), self.stream());
        let (what, echo) = {
            let mut dice = self.dice.borrow_mut();
            (dice.range(0..10), dice.percent(30))
        };
        let theirs = if echo { ours } else { theirs };
        let target = match what {
            0 | 1 => Target::Refuses(libc::ECONNREFUSED),
            2 => Target::Silent,
            _ => Target::Accepts(self.scripted(Kind::Inet, theirs, ours, echo)),
        };
        let port = self.port.get() + 1;
        self.port.set(port);
        self.world.borrow_mut().net.listen(port, target);
        let absent = BufferEvent::socket(base, None, self.options()).expect("good options");
        let absent = self.limited(base, absent);
        let hopeless = matches!(target, Target::Silent);
        let streams = (ours, theirs);
        let length = self.length();
        let end = End::new(
            self,
            absent,
            streams,
            length,
            false,
            self.finish_of(),
            hopeless,
        );
        end.enable(Interest::READ);
        end.write(1000);
        if !end.live() {
            return;
        }
        end.connect(port);
        end.random_call(20);
    }

    fn schedule(self: &Rc<Self>, base: &EventBase) {
        let calls = self.dice.borrow_mut().range(0..12);
        let scale = self
            .dice
            .borrow_mut()
            .pick(&[1_000_000, 100_000_000, CHAOS_MS * 1_000_000]);
        for _ in 0..calls {
            let at = Duration::from_nanos(self.dice.borrow_mut().range(0..scale));
            let scenario = self.clone();
            let timer = base.timer(at, move |timer| {
                scenario.random_call(&timer.base().expect("it runs"));
            });
            timer.expect("a short time");
        }
        let abrupt = self.dice.borrow_mut().percent(8);
        if abrupt {
            let at = Duration::from_nanos(self.dice.borrow_mut().range(0..scale));
            let scenario = self.clone();
            let timer = base.timer(at, move |timer| {
                scenario.abrupt.set(true);
                timer.base().expect("it runs").stop();
            });
            timer.expect("a short time");
        }
        let scenario = self.clone();
        let calm = base.timer(Duration::from_secs(CALM_AT_S), move |timer| {
            scenario.calm_down(&timer.base().expect("it runs"));
        });
        calm.expect("a short time");
        let scenario = self.clone();
        let end = base.timer(Duration::from_secs(END_AT_S), move |timer| {
            scenario.end(&timer.base().expect("it runs"));
        });
        end.expect("a short time");
    }

    fn random_call(&self, base: &EventBase) {
        if self.dice.borrow_mut().percent(30) {
            self.limit_call(base);
        }
        let ends = self.ends.borrow().len() as u64;
        let joined = self.joined.borrow().len() as u64;
        let n = self.dice.borrow_mut().range(0..ends + joined);
        if n < ends {
            let end = self.ends.borrow()[n as usize].clone();
            end.random_call(100);
        } else {
            let joined = self.joined.borrow()[(n - ends) as usize].clone();
            joined.disturb(self);
        }
    }

    /// From now on nothing is in the way of anything.
    fn calm_down(&self, base: &EventBase) {
        self.calm.set(true);
        self.calm_limits(base);
        let mut world = self.world.borrow_mut();
        world.note("calm", &[]);
        world.calm();
        drop(world);
        if let Some(door) = &*self.door.borrow() {
            door.calm_down();
        }
        let ends = self.ends.borrow().clone();
        for end in ends.iter().filter(|end| end.live()) {
            let both = Interest::READ | Interest::WRITE;
            end.bev.set_watermarks(both, 0, 0).expect("it is not freed");
            end.bev.set_timeouts(None, None).expect("it is not freed");
            end.drain_all();
            end.enable(both);
            end.write(usize::MAX);
        }
    }

    /// All that could move has moved: what is left must have a reason.
    fn end(&self, base: &EventBase) {
        self.short.set(base.memory_is_spent());
        self.world.borrow_mut().note("end", &[]);
        self.check_limits(base);
        let ends = self.ends.borrow().clone();
        for end in &ends {
            self.check(end);
        }
        let joined = self.joined.borrow().clone();
        for joined in &joined {
            joined.check(self);
        }
        if let Some(door) = &*self.door.borrow() {
            door.check(self);
            door.close();
        }
        for end in &ends {
            if !end.bev.is_freed() {
                end.free();
            }
            // A filter that is gone may have left it the last bytes, and nobody may read those.
            let below = std::iter::successors(end.bev.underlying(), BufferEvent::underlying);
            below.for_each(|below| below.free());
        }
        for joined in &joined {
            joined.free();
        }
    }

    fn check(&self, end: &End) {
        if self.waits_for_memory(&[&end.bev]) {
            return;
        }
        let who = format!(
            "end {} on socket {:?}: {:?} {}, memory spent: {}",
            end.number,
            end.socket(),
            end.bev,
            end.bev.describe(),
            self.short.get(),
        );
        if end.freed.get() || end.closed.borrow().is_some() {
            return;
        }
        // A close that began meanwhile is not told how the connect went.
        if (end.connecting.get() || end.link_failed.get()) && !end.closing.get() {
            let due = !end.hopeless && end.connecting.get();
            assert!(!due, "{who}: a connect without an answer");
            return;
        }
        if end.closing.get() && end.filtered.get() && end.bev.is_freed() {
            // It handed its last bytes down and is gone; what is below flushes, and tells the
            // report when its peer lets it.
            return;
        }
        if end.closing.get() {
            // Without a deadline it waits for a peer that does not read.
            let net = &self.world.borrow().net;
            let blocked = match (end.socket(), end.peer.get()) {
                (Some(socket), _) => !net.can_send(socket),
                (None, Some(peer)) => {
                    let peer = &self.ends.borrow()[peer];
                    !peer.bev.is_freed() && !peer.bev.enabled().contains(Interest::READ)
                }
                (None, None) => false,
            };
            let in_time = end.close_due.get() == u64::MAX;
            assert!(blocked && in_time, "{who}: a close that does not end");
            return;
        }
        assert!(
            !end.quieting.get() || end.quiet.get(),
            "{who}: does not finish reading"
        );
        self.check_stream(end, &who);
        let Some(socket) = end.socket().filter(|_| !end.filtered.get()) else {
            return;
        };
        let world = self.world.borrow();
        let net = &world.net;
        let enabled = end.bev.enabled();
        if enabled.contains(Interest::READ) && !end.quieting.get() {
            assert!(
                !net.is_readable(socket),
                "{who}: does not read what there is"
            );
            assert_eq!(end.bev.input().len(), 0, "{who}: was not called");
            drop(world);
            end.check_books();
        }
        let world = self.world.borrow();
        let net = &world.net;
        if enabled.contains(Interest::WRITE) && !net.is_dead(socket) {
            let output = end.bev.output().len();
            let stuck = output != 0 && net.can_send(socket);
            assert!(!stuck, "{who}: does not send");
            let (written, sent) = (end.written.get(), net.moved(socket).1);
            // What a send in flight has moved is still in the output.
            let known = if output == 0 {
                sent == written
            } else {
                sent + output as u64 >= written
            };
            assert!(known, "{who}: {written} written, {sent} sent");
            assert!(
                output != 0 || end.left.get() == 0 || end.shut.get(),
                "{who}: was not called to write"
            );
            let plain = net.kind(socket) == Kind::Plain;
            let shut = plain || !end.shut.get() || output != 0 || net.fin_sent(socket);
            assert!(shut, "{who}: does not end its direction");
        }
    }

    /// What the one end wrote, the other has read, if nothing came in between.
    fn check_stream(&self, end: &End, who: &str) {
        let Some(peer) = end.peer.get() else { return };
        let peer = self.ends.borrow()[peer].clone();
        let well = |end: &End| {
            let dead = |socket| self.world.borrow().net.is_dead(socket);
            end.live() && !end.error_told.get() && !end.socket().is_some_and(dead)
        };
        let moves = well(end) && well(&peer);
        let both = Interest::READ | Interest::WRITE;
        let enabled = end.bev.enabled() & peer.bev.enabled() == both;
        if !moves || !enabled || end.quieting.get() || peer.quieting.get() {
            return;
        }
        let (read, written) = (end.read.get(), peer.written.get());
        assert_eq!(read, written, "{who}: bytes read, and written by the peer");
        let plain = end
            .socket()
            .is_some_and(|s| self.family(s) == libc::AF_UNSPEC);
        let told = !peer.shut.get() || plain || end.eof_told.get();
        assert!(told, "{who}: was not told the end");
    }

    /// Whether one of these holds bytes that wait for their peer, while all memory is spent: it
    /// waits for those who need it. Whoever holds nothing is never excused.
    pub(super) fn waits_for_memory(&self, bevs: &[&BufferEvent]) -> bool {
        self.short.get() && bevs.iter().any(|bev| holds(bev))
    }

    /// Everything is over: nothing may be left.
    fn finish(self: Rc<Self>, base: EventBase) {
        let world = self.world.clone();
        if !self.abrupt.get() {
            assert_eq!(base.active(), 0, "sources are still active");
            assert_eq!(base.in_flight(), 0, "operations are still in flight");
            for joined in &*self.joined.borrow() {
                joined.check_ended();
            }
            let held = world.borrow().slots_held();
            let disturbed = self.joined.borrow().iter().any(|j| j.is_disturbed());
            let live = base.slots_live();
            assert!(
                disturbed || live == held,
                "{live} slots out, {held} in the window"
            );
        }
        self.forget_limits();
        let ends: Vec<Weak<End>> = self.ends.take().iter().map(Rc::downgrade).collect();
        self.joined.take();
        self.door.take();
        drop(base);
        world.borrow_mut().sweep();
        let left = ends.iter().filter(|end| end.strong_count() != 0).count();
        assert_eq!(left, 0, "callbacks outlive their base");
        let world = world.borrow();
        assert_eq!(
            world.arena().stats().slots_live,
            0,
            "slots outlive their base"
        );
        for socket in 0..world.net.len() {
            let ours = !world.net.is_remote(socket);
            assert!(
                !(ours && world.net.is_open(socket)),
                "socket {socket} is left open"
            );
        }
    }
}

/// Whether some memory is spent on what it, or one below it, has received or is to send.
fn holds(bev: &BufferEvent) -> bool {
    let own = !bev.is_freed() && (!bev.input().is_empty() || !bev.output().is_empty());
    own || bev.underlying().is_some_and(|below| holds(&below))
}

/// A filter that changes every byte, the same way back; with the key 0 it passes them on.
struct Mask(u8);

impl Mask {
    fn apply(&self, src: &mut EvBuffer, dst: &mut EvBuffer, limit: Option<usize>) -> FilterResult {
        let n = src.len().min(limit.unwrap_or(usize::MAX));
        let Ok(mut part) = src.split_to(n) else {
            return FilterResult::Error;
        };
        if self.0 == 0 {
            return match dst.add_buffer(&mut part) {
                Ok(()) => FilterResult::Ok,
                Err(_) => FilterResult::Error,
            };
        }
        let masked: Vec<u8> = part.iter_bytes().map(|byte| byte ^ self.0).collect();
        match dst.add(&masked) {
            Ok(()) => FilterResult::Ok,
            Err(_) => FilterResult::Error,
        }
    }
}

impl Filter for Mask {
    fn input(
        &mut self,
        src: &mut EvBuffer,
        dst: &mut EvBuffer,
        limit: Option<usize>,
        _mode: FlushMode,
    ) -> FilterResult {
        self.apply(src, dst, limit)
    }

    fn output(
        &mut self,
        src: &mut EvBuffer,
        dst: &mut EvBuffer,
        limit: Option<usize>,
        _mode: FlushMode,
    ) -> FilterResult {
        self.apply(src, dst, limit)
    }
}
