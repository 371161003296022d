//! What a message costs in instructions, by the count of callgrind: `benches/instructions.sh`.
//!
//! valgrind knows no io_uring, so the library runs on the simulated kernel here. What is spent
//! below the driver's methods and below [`next_round`] is taken off the count. Peers wait for an
//! answer before they send again, all at the same moments, so that a message takes the same way in
//! each round: a turn in which all receive, a turn in which all have sent.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::driver::sim::dice::Dice;
use crate::driver::sim::net::fd_of;
use crate::driver::sim::remote::{Finish, Remote};
use crate::driver::sim::socket::Kind;
use crate::driver::sim::{Faults, SLOT_BYTES, Sim, World};
use crate::event_base::Interest;
use crate::{BufferEvent, Callbacks, EventBase, Options, RelayOptions, relay};

/// Connections that are busy at a time: what a turn costs is shared by so many messages, twice.
const CONNECTIONS: u64 = 32;

/// The stream whose first bytes every message consists of.
const STREAM: u32 = 1;

/// So many turns a pair may take for itself alone.
const PAIR_TURNS: u64 = 100;

const SMALL: usize = 64;
const LARGE: usize = 16 << 10;

/// What is counted, by its name.
const WORKLOADS: [(&str, Workload); 6] = [
    ("echo-64", |peers| echo(peers, SMALL, false)),
    ("echo-64-timed", |peers| echo(peers, SMALL, true)),
    ("echo-16k", |peers| echo(peers, LARGE, false)),
    ("proxy-64", |peers| proxy(peers, SMALL)),
    ("proxy-16k", |peers| proxy(peers, LARGE)),
    ("pair", pair),
];

type Workload = fn(&Rc<Peers>);

/// The far ends of all connections, and how many messages they have left to send.
struct Peers {
    world: Rc<RefCell<World>>,
    base: EventBase,
    connections: RefCell<Vec<Connection>>,
    size: Cell<usize>,
    rounds: Cell<u64>,
    round: Cell<u64>,
    /// A far end that sends a byte every [`PAIR_TURNS`], to a loop that has nothing else of the
    /// kernel.
    waker: Cell<Option<usize>>,
    turns: Cell<u64>,
}

/// A client that waits for answers.
struct Connection {
    /// Socket of the bufferevent that it is answered by.
    near: usize,
    client: usize,
    /// The server behind a proxy.
    server: Option<usize>,
}

/// What the simulated kernel did for a workload.
struct Done {
    enters: u64,
    completions: u64,
    bytes_out: u64,
}

/// Runs one workload until so many messages are answered.
fn run(workload: Workload, messages: u64) -> Done {
    let faults = Faults {
        window: 256,
        slots: 1024,
        ..Faults::none()
    };
    let (sim, world) = Sim::new(1, faults, false);
    let base = EventBase::builder()
        .build_on(Box::new(sim), SLOT_BYTES)
        .expect("a simulated base");
    let peers = Rc::new(Peers {
        world,
        base: base.clone(),
        connections: RefCell::default(),
        size: Cell::new(0),
        rounds: Cell::new(messages / CONNECTIONS),
        round: Cell::new(0),
        waker: Cell::new(None),
        turns: Cell::new(0),
    });
    workload(&peers);
    let hook = peers.clone();
    base.set_turn_hook(move |_turn| next_round(&hook));
    if !peers.connections.borrow().is_empty() {
        next_round(&peers);
    }
    base.run().expect("the loop runs");
    assert_eq!(peers.round.get(), peers.rounds.get(), "all rounds");
    let counters = base.counters();
    Done {
        enters: counters.turns,
        completions: counters.cqes,
        bytes_out: counters.bytes_out,
    }
}

/// When all answers are on their way, has every client send its next message; after the last
/// round, ends all connections, and so the loop. Never inlined: `benches/instructions.sh` knows
/// it by its name.
#[inline(never)]
fn next_round(peers: &Peers) {
    let mut connections = peers.connections.borrow_mut();
    let due = peers.round.get() * peers.size.get() as u64;
    let mut world = peers.world.borrow_mut();
    if let Some(far) = peers.waker.get() {
        peers.turns.set(peers.turns.get() + 1);
        if peers.turns.get().is_multiple_of(PAIR_TURNS) {
            world.net.play(far, client(1, 1, false));
        }
    }
    let waits = |connection: &Connection| world.net.moved(connection.near).1 < due;
    if connections.iter().any(waits) || connections.is_empty() {
        return;
    }
    let over = peers.round.get() == peers.rounds.get();
    for connection in connections.iter() {
        // After the last round it reads the answer that is on its way, and closes.
        let (size, total) = (peers.size.get(), if over { 0 } else { peers.size.get() });
        world.net.play(connection.client, client(size, total, over));
        if let Some(socket) = connection.server {
            world.net.play(socket, server(size));
        }
    }
    if over {
        connections.clear();
    } else {
        peers.round.set(peers.round.get() + 1);
    }
}

/// A client for one round: it sends so much, and closes in the last.
fn client(size: usize, total: usize, last: bool) -> Remote {
    let mut remote = Remote::new(&mut Dice::new(1), STREAM, total as u64, STREAM);
    remote.finish = if last {
        Finish::HalfClose
    } else {
        Finish::Wait
    };
    remote.pace = 0;
    remote.chunk = size;
    remote.deaf = false;
    remote.resets_after = None;
    remote
}

/// A server for one round: it sends back what it receives.
fn server(size: usize) -> Remote {
    let mut remote = client(size, 0, true);
    remote.echo = true;
    remote
}

impl Peers {
    /// A bufferevent, its socket, and the socket at the far end.
    fn connect(&self) -> (BufferEvent, usize, usize) {
        let mut world = self.world.borrow_mut();
        let [near, far] = [0; 2].map(|_| world.net.socket(Kind::Inet, 2 * LARGE));
        world.net.join(near, far);
        drop(world);
        let family = Kind::Inet.family();
        let bev = BufferEvent::simulated(&self.base, fd_of(near), family, Options::CLOSE_ON_FREE);
        (bev, near, far)
    }
}

fn echo(peers: &Rc<Peers>, size: usize, timed: bool) {
    peers.size.set(size);
    for _ in 0..CONNECTIONS {
        let (bev, near, client) = peers.connect();
        if timed {
            let minute = Some(Duration::from_secs(60));
            bev.set_timeouts(minute, minute).expect("alive");
        }
        let echo = Callbacks::new()
            .on_read(|bev| {
                bev.transfer_to(bev).expect("alive");
            })
            .on_event(|bev, _end| bev.free());
        bev.set_callbacks(echo).expect("alive");
        bev.enable(Interest::READ).expect("alive");
        peers.connections.borrow_mut().push(Connection {
            near,
            client,
            server: None,
        });
    }
}

fn proxy(peers: &Rc<Peers>, size: usize) {
    peers.size.set(size);
    for _ in 0..CONNECTIONS {
        let (inner, near, client) = peers.connect();
        let (outer, _, server) = peers.connect();
        relay(&inner, &outer, RelayOptions::default()).expect("two of one base");
        peers.connections.borrow_mut().push(Connection {
            near,
            client,
            server: Some(server),
        });
    }
}

/// A message there and back between the two sides of one pair. The simulated kernel panics at a
/// loop that turns for long without it, so that it brings a byte now and then.
fn pair(peers: &Rc<Peers>) {
    let rounds = peers.rounds.get() * CONNECTIONS;
    peers.rounds.set(0);
    let (idle, _, far) = peers.connect();
    let drain = Callbacks::new().on_read(|bev| {
        assert_eq!(bev.read(&mut [0]), 1);
    });
    idle.set_callbacks(drain).expect("alive");
    idle.enable(Interest::READ).expect("alive");
    peers.waker.set(Some(far));
    let (near, far) = BufferEvent::pair(&peers.base, Options::empty()).expect("good options");
    let echo = Callbacks::new().on_read(|bev| {
        bev.transfer_to(bev).expect("alive");
    });
    far.set_callbacks(echo).expect("alive");
    let left = Cell::new(rounds);
    let other = far.clone();
    let ask = Callbacks::new().on_read(move |bev| {
        let mut answer = [0; SMALL];
        assert_eq!(bev.read(&mut answer), SMALL);
        left.set(left.get() - 1);
        if left.get() == 0 {
            for ended in [bev, &other, &idle] {
                ended.free();
            }
        } else {
            bev.write(&answer).expect("alive");
        }
    });
    near.set_callbacks(ask).expect("alive");
    for side in [&near, &far] {
        side.enable(Interest::READ | Interest::WRITE)
            .expect("alive");
    }
    near.write(&[b'x'; SMALL]).expect("alive");
}

/// The workload and the number of messages come by the environment, so that two runs of one program
/// differ in nothing else.
#[test]
#[ignore = "the program that benches/instructions.sh counts instructions of"]
fn count_instructions() {
    let name = std::env::var("EVRING_WORKLOAD").expect("EVRING_WORKLOAD names one");
    let messages = super::number("EVRING_MESSAGES").expect("EVRING_MESSAGES says how many");
    let found = WORKLOADS.iter().find(|(known, _)| *known == name);
    let (_, workload) = found.unwrap_or_else(|| panic!("no workload is called {name}"));
    let done = run(*workload, messages);
    println!(
        "{name}: {messages} messages, {} enters, {} completions",
        done.enters, done.completions
    );
}

#[test]
fn counted_workloads_take_the_way_they_say() {
    let rounds = 5;
    let messages = rounds * CONNECTIONS;
    // What one message takes: completions at least and at most, bytes sent.
    let slots = (LARGE / SLOT_BYTES) as u64;
    let expected = [
        ("echo-64", 2..=2, SMALL),
        ("echo-64-timed", 2..=2, SMALL),
        ("echo-16k", slots + 1..=2 * slots, LARGE),
        ("proxy-64", 4..=4, 2 * SMALL),
        ("proxy-16k", 2 * slots + 2..=4 * slots, 2 * LARGE),
    ];
    for (name, completions, sent) in expected {
        let (_, workload) = WORKLOADS[WORKLOADS
            .map(|(name, _)| name)
            .iter()
            .position(|known| *known == name)
            .expect("a known one")];
        let done = run(workload, messages);
        let each = done.completions / messages;
        assert!(completions.contains(&each), "{name}: {each} a message");
        assert_eq!(done.bytes_out, messages * sent as u64, "{name}");
    }
    let pair = run(pair, messages);
    assert!(pair.completions <= pair.enters / PAIR_TURNS + 1);
}
