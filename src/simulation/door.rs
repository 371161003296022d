//! A listener on a simulated port: scripted peers and bufferevents connect to it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::rc::Rc;
use std::time::Duration;

use super::end::{End, Finish};
use super::scenario::Scenario;
use crate::driver::sim::dice::Dice;
use crate::driver::sim::remote::Remote;
use crate::driver::sim::socket::Kind;
use crate::event_base::{EventBase, Interest};
use crate::listener::Accepted;
use crate::sys::Errno;
use crate::{Addr, BufferEvent, ListenOptions, Listener, Options};

/// Its port; those of other connections begin at 1.
const PORT: u16 = 30_000;

/// How late peers connect and things happen to the listener, at most.
const LAST_NS: u64 = 10_000_000_000;

/// The listener, and what the simulation knows of it.
pub(super) struct Door {
    listener: Listener,
    socket: usize,
    closed: Cell<bool>,
    failures: Cell<u32>,
    accepted: Cell<u32>,
    /// Dice of its own, so that seeds without a listener stay what they were.
    dice: RefCell<Dice>,
}

impl Door {
    pub(super) fn make(scenario: &Rc<Scenario>, base: &EventBase, mut dice: Dice) -> Rc<Self> {
        let addr = Addr::from(SocketAddr::from(([127, 0, 0, 1], PORT)));
        let options = ListenOptions::default().backlog(dice.pick(&[1, 2, 1024]));
        let weak = Rc::downgrade(scenario);
        let listener = Listener::bind(base, &addr, options, move |_, accepted| {
            let scenario = weak.upgrade().expect("it outlives its callbacks");
            let door = scenario
                .door
                .borrow()
                .clone()
                .expect("it was accepted there");
            door.enters(&scenario, accepted);
        });
        let listener = listener.expect("a free port");
        let bound = listener.local_addr().expect("it listens");
        assert_eq!(bound, addr);
        let socket = scenario.world.borrow().net.listener_on(PORT);
        let door = Rc::new(Door {
            listener,
            socket,
            closed: Cell::new(false),
            failures: Cell::new(0),
            accepted: Cell::new(0),
            dice: RefCell::new(dice),
        });
        let weak = Rc::downgrade(&door);
        door.listener.on_error(move |_, _| {
            let door = weak.upgrade().expect("it outlives its callbacks");
            door.failures.set(door.failures.get() + 1);
        });
        door.clone().people(scenario, base);
        door
    }

    /// Those who come, and what happens meanwhile.
    fn people(self: Rc<Self>, scenario: &Rc<Scenario>, base: &EventBase) {
        let peers = self.dice.borrow_mut().range(1..7);
        for _ in 0..peers {
            let (sends, expects) = (scenario.stream(), scenario.stream());
            let mut dice = self.dice.borrow_mut();
            let total = dice.pick(&[0, 1, 50, 1000, 3000, 10_000]);
            let remote = Remote::new(&mut dice, sends, total, expects);
            let capacity = dice.pick(&[100, 5000, 70_000]);
            let late = dice.pick(&[1, 1_000_000, LAST_NS]);
            let wait = dice.range(0..late);
            let mut world = scenario.world.borrow_mut();
            let at = world.now + wait;
            let socket = world.net.socket(Kind::Inet, capacity);
            world.net.play(socket, remote);
            world.net.dial(at, socket, PORT);
        }
        let ours = self.dice.borrow_mut().range(0..3);
        for _ in 0..ours {
            let streams = (scenario.stream(), scenario.stream());
            let absent = BufferEvent::socket(base, None, Options::CLOSE_ON_FREE);
            let absent = absent.expect("good options");
            let length = self.dice.borrow_mut().pick(&[0, 50, 1000, 10_000]);
            let finish = Finish::Shutdown;
            let end = End::new(scenario, absent, streams, length, false, finish, false);
            end.enable(Interest::READ);
            end.connect(PORT);
            end.write(1000);
        }
        let calls = self.dice.borrow_mut().range(0..6);
        for _ in 0..calls {
            let after = Duration::from_nanos(self.dice.borrow_mut().range(0..LAST_NS));
            let door = self.clone();
            let timer = base.timer(after, move |_| door.random_call());
            timer.expect("a short time");
        }
    }

    fn random_call(&self) {
        let what = self.dice.borrow_mut().range(0..20);
        match what {
            0..9 => self.listener.pause(),
            9..19 => self.listener.resume(),
            _ => self.close(),
        }
    }

    /// A connection was accepted: it becomes an end, or is turned away.
    fn enters(&self, scenario: &Rc<Scenario>, accepted: Accepted) {
        assert!(!self.closed.get(), "accepted by a listener that was closed");
        assert!(!self.listener.is_paused(), "accepted by one that is paused");
        self.accepted.set(self.accepted.get() + 1);
        if let Err(error) = accepted.peer_addr() {
            let gone = Errno::from_raw(libc::ENOTCONN);
            assert_eq!(error.errno(), Some(gone), "{error}");
        }
        if self.dice.borrow_mut().percent(15) {
            return drop(accepted);
        }
        let owned = accepted.into_fd();
        let (client, streams) = {
            let world = scenario.world.borrow();
            let client = world.net.peer_of(world.net.socket_of(owned.as_raw_fd()));
            let client = client.expect("accepted sockets are connected");
            (client, world.net.streams_of(client))
        };
        let ends = scenario.ends.borrow().clone();
        let ours = ends
            .iter()
            .find(|end| !end.bev.is_freed() && end.socket() == Some(client));
        let streams = match (streams, ours) {
            (Some((sends, expects)), _) => (expects, sends),
            (None, Some(end)) => (end.expects, end.writes),
            // It was freed while it waited, and nobody knows its streams any more.
            (None, None) => return drop(owned),
        };
        let base = self.listener.base().expect("it runs");
        let fd = owned.into_raw_fd();
        let bev = BufferEvent::simulated(&base, fd, libc::AF_INET, Options::CLOSE_ON_FREE);
        let length = self.dice.borrow_mut().pick(&[0, 50, 1000, 10_000]);
        let end = End::new(
            scenario,
            bev,
            streams,
            length,
            false,
            Finish::Shutdown,
            false,
        );
        if let Some(client) = ours {
            end.peer.set(Some(client.number));
            client.peer.set(Some(end.number));
        }
        end.begin();
    }

    pub(super) fn calm_down(&self) {
        self.listener.resume();
    }

    /// What must hold when all that could move has moved.
    pub(super) fn check(&self, scenario: &Scenario) {
        let waiting = scenario.world.borrow().net.waiting(self.socket);
        assert!(
            self.closed.get() || waiting == 0,
            "{waiting} connections wait for a listener that accepted {} and failed {} times",
            self.accepted.get(),
            self.failures.get()
        );
    }

    pub(super) fn close(&self) {
        self.closed.set(true);
        self.listener.close();
    }
}
