//! A quiet stage for tests of one thing at a time: a base on a simulated kernel, a connection or
//! two, and virtual time.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::driver::sim::net::fd_of;
use crate::driver::sim::socket::Kind;
use crate::driver::sim::{Faults, SLOT_BYTES, Sim, World};
use crate::{BufferEvent, Callbacks, EventBase, Events, Filter, FlushEnd, Options};

/// Bytes that may be under way in a direction.
pub(super) const CAPACITY: usize = 5_000;

/// How far things that happen one after the other are apart.
pub(super) const STEP: Duration = Duration::from_millis(600);

/// When something happened, in milliseconds of virtual time since the start, and what.
pub(super) type Log = Rc<RefCell<Vec<(u64, Events)>>>;

/// A filter that passes bytes on as they are.
pub(super) struct Pass;

impl Filter for Pass {}

/// A base, the world that it lives in, and when it began.
pub(super) struct Clock {
    pub(super) world: Rc<RefCell<World>>,
    pub(super) base: EventBase,
    began: u64,
}

impl Clock {
    /// On a kernel without vices.
    pub(super) fn new() -> Self {
        Self::with(1, Faults::none())
    }

    pub(super) fn with(seed: u64, faults: Faults) -> Self {
        let (sim, world) = Sim::new(seed, faults, false);
        let base = EventBase::builder()
            .build_on(Box::new(sim), SLOT_BYTES)
            .expect("a simulated base");
        let began = base.clock_ns();
        Clock { world, base, began }
    }

    /// A connection: two sockets.
    pub(super) fn sockets(&self, kind: Kind) -> [usize; 2] {
        let mut world = self.world.borrow_mut();
        let sockets = [0; 2].map(|_| world.net.socket(kind, CAPACITY));
        world.net.join(sockets[0], sockets[1]);
        sockets
    }

    pub(super) fn over(&self, socket: usize, kind: Kind, options: Options) -> BufferEvent {
        let options = options | Options::CLOSE_ON_FREE;
        BufferEvent::simulated(&self.base, fd_of(socket), kind.family(), options)
    }

    /// Two bufferevents with a connection between them.
    pub(super) fn connection(&self, kind: Kind, options: Options) -> (BufferEvent, BufferEvent) {
        let [near, far] = self.sockets(kind);
        let make = |socket| self.over(socket, kind, options);
        (make(near), make(far))
    }

    /// Writes down the time-outs and other events of a bufferevent.
    pub(super) fn log(&self, bev: &BufferEvent) -> Log {
        let log = Log::default();
        let (told, began) = (log.clone(), self.began);
        let events = Callbacks::new().on_event(move |bev, events| {
            let now = bev.base().expect("it runs").clock_ns();
            told.borrow_mut().push(((now - began) / 1_000_000, events));
        });
        bev.set_callbacks(events).expect("alive");
        log
    }

    /// Has `f` called every `STEP`, so many times.
    pub(super) fn every_step(&self, times: u32, mut f: impl FnMut() + 'static) {
        let mut left = times;
        let timer = self.base.interval(STEP, move |timer| {
            f();
            left -= 1;
            if left == 0 {
                timer.cancel();
            }
        });
        timer.expect("a short time");
    }

    pub(super) fn run(&self, seconds: u64) {
        self.base.stop_after(Duration::from_secs(seconds));
        self.base.run().expect("the loop runs");
    }

    /// Closes it after its flush; when, in milliseconds since the start, and how it ended.
    pub(super) fn close(
        &self,
        bev: &BufferEvent,
        deadline: Option<Duration>,
    ) -> Rc<Cell<Option<(u64, FlushEnd)>>> {
        let told = Rc::new(Cell::new(None));
        let (end, began, base) = (told.clone(), self.began, self.base.downgrade());
        let report = move |how| {
            let now = base.upgrade().map_or(0, |base| base.clock_ns());
            end.set(Some((now.saturating_sub(began) / 1_000_000, how)));
        };
        bev.close_after_flush(deadline, report).expect("alive");
        told
    }
}
