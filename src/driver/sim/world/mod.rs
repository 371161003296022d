//! The simulated kernel: operations in flight, completions, and the clock.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;

use super::dice::{Dice, Trace};
use super::faults::Faults;
use super::net::{Net, Target};
use super::socket::Kind;
use crate::arena::{Arena, Piece, Slot};
use crate::driver::{Completion, Op, OpId, Wait};
use crate::ring::RingCounters;
use crate::sys::Errno;

/// Enters in a row without a byte moved, an operation ended or the clock moved on: then the loop
/// spins.
const MOST_IDLE_ENTERS: u32 = 300;

/// Enters of a whole scenario: more means that it goes round in circles.
const MOST_ENTERS: u64 = 300_000;

/// Nanoseconds that a connect takes at most.
const MOST_CONNECT_NS: u64 = 300_000_000;

mod descriptors;
mod ops;

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) net: Net,
    pub(crate) trace: Trace,
    pub(super) faults: Faults,
    dice: Dice,
    arena: Arena,
    window: Vec<Slot>,
    /// Everything without a last completion that was reaped.
    ops: BTreeMap<u64, Entry>,
    cancels: Vec<u64>,
    ready: VecDeque<Completion>,
    next_id: u64,
    reaped: usize,
    idle_enters: u32,
    pub(super) counters: RingCounters,
    /// What moved since somebody looked, if anybody wants to know.
    moves: Option<Vec<Move>>,
    /// What whoever watches holds against a loop that goes to sleep now, and the latest moment at
    /// which it is to be awake.
    expect_awake: Option<(String, u64)>,
}

/// Bytes that an operation moved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) at: u64,
    pub(crate) socket: usize,
    pub(crate) write: bool,
    pub(crate) bytes: u64,
    /// The operation, and when it was queued. Numbers grow.
    pub(crate) op: u64,
    pub(crate) queued_at: u64,
}

#[derive(Debug)]
struct Entry {
    token: u64,
    op: Op,
    queued_at: u64,
    stage: Stage,
    /// Bytes moved by a send, or since a receive was armed.
    moved: usize,
    /// A receive that took the bytes before a reset, and is not woken for it.
    deaf: bool,
    /// When a connect ends.
    due: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Queued,
    Begun,
    /// Its last completion waits to be reaped.
    Done,
}

impl World {
    pub(super) fn new(seed: u64, faults: Faults, arena: Arena, print: bool) -> Self {
        World {
            now: 1_000_000_000,
            net: Net::new(faults.latency),
            trace: Trace::new(print),
            faults,
            dice: Dice::new(seed ^ 0x5EED_0FD1_CE00_0000),
            arena,
            window: Vec::new(),
            ops: BTreeMap::new(),
            cancels: Vec::new(),
            ready: VecDeque::new(),
            next_id: 1,
            reaped: 0,
            idle_enters: 0,
            counters: RingCounters::default(),
            moves: None,
            expect_awake: None,
        }
    }

    /// What has moved since the last call; nothing is kept before the first.
    pub(crate) fn take_moves(&mut self) -> Vec<Move> {
        self.moves.replace(Vec::new()).unwrap_or_default()
    }

    /// Has the far end of a connection, which nobody plays, take bytes that have arrived; how many.
    pub(crate) fn take_arrived(&mut self, socket: usize, most: usize) -> usize {
        let n = self.net.sockets[socket].arrived.len().min(most);
        self.net.take(socket, n, self.now, &mut self.dice);
        n
    }

    /// Has the far end of a connection, which nobody plays, end its stream.
    pub(crate) fn end_stream(&mut self, socket: usize) {
        let ended = self.net.shutdown(socket, self.now, &mut self.dice);
        ended.expect("a connected socket");
    }

    /// The number that the next operation gets.
    pub(crate) fn next_op(&self) -> u64 {
        self.next_id
    }

    /// Unless the next enter only polls: it must not sleep at all (`why` is not empty), or not
    /// longer than until then.
    pub(crate) fn expect_awake(&mut self, why: String, until: u64) {
        self.expect_awake = Some((why, until));
    }

    /// From now on all is well, and everything that can move shall.
    pub(crate) fn calm(&mut self) {
        let (window, slots) = (self.faults.window, self.faults.slots);
        self.faults = Faults {
            window,
            slots,
            ..Faults::none()
        };
        self.net.calm(self.now);
    }

    pub(crate) fn note(&mut self, what: &str, numbers: &[u64]) {
        self.trace.note(self.now, what, numbers);
    }

    pub(super) fn push(&mut self, token: u64, op: Op) -> OpId {
        let id = self.next_id;
        self.next_id += 1;
        let (name, fd) = name_of(&op);
        if self.net.knows(fd) {
            let socket = self.net.index(fd);
            let same = self
                .ops
                .values()
                .filter(|entry| name_of(&entry.op) == (name, fd));
            let polls = matches!(op, Op::Poll { .. });
            assert!(
                polls || same.count() == 0,
                "two of {name} on socket {socket} (I4)"
            );
            self.note(name, &[id, socket as u64]);
        }
        let entry = Entry {
            token,
            op,
            queued_at: self.now,
            stage: Stage::Queued,
            moved: 0,
            deaf: false,
            due: 0,
        };
        self.ops.insert(id, entry);
        OpId::from_u64(id)
    }

    #[cfg(debug_assertions)]
    pub(super) fn token_of(&self, id: u64) -> Option<u64> {
        self.ops.get(&id).map(|entry| entry.token)
    }

    pub(super) fn cancel(&mut self, id: u64) {
        self.note("cancel", &[id]);
        if !self.cancels.contains(&id) {
            self.cancels.push(id);
        }
    }

    pub(super) fn refill(&mut self) -> usize {
        while self.window.len() < self.faults.window {
            let Some(slot) = self.arena.take() else { break };
            self.window.push(slot);
        }
        self.window.len()
    }

    pub(super) fn enter(&mut self, wait: Wait) {
        self.counters.enters += 1;
        self.idle_enters += 1;
        assert!(
            self.idle_enters < MOST_IDLE_ENTERS,
            "the loop spins: {} operations in flight: {:?}",
            self.ops.len(),
            self.ops
        );
        assert!(
            self.counters.enters < MOST_ENTERS,
            "the scenario does not end"
        );
        self.reaped = 0;
        let expected = self.expect_awake.take();
        if self.dice.permille(self.faults.early) {
            // EBUSY: nothing was taken. The clock goes on all the same.
            self.now += self.dice.range(0..1000);
            self.counters.ebusy += 1;
            return;
        }
        for entry in self.ops.values_mut().filter(|e| e.stage == Stage::Queued) {
            entry.stage = Stage::Begun;
            entry.due = self.now + self.dice.range(0..MOST_CONNECT_NS);
        }
        let Wait::Until(limit) = wait else {
            self.now += self.dice.range(0..1000);
            self.pump();
            return;
        };
        let limit = limit.map(|limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
        if let Some((why, until)) = expected {
            assert!(why.is_empty(), "the loop sleeps while {why}");
            let awake = self.now.saturating_add(limit.unwrap_or(u64::MAX));
            assert!(awake <= until, "it sleeps until {awake}, not {until}");
        }
        let deadline = limit.map(|limit| {
            let late = self.dice.range(0..self.faults.oversleep + 1);
            self.now.saturating_add(limit).saturating_add(late)
        });
        loop {
            self.pump();
            if !self.ready.is_empty() {
                return;
            }
            if self.dice.permille(self.faults.early) {
                self.counters.eintr += 1;
                return;
            }
            if !self.cancels.is_empty() {
                continue;
            }
            let Some(next) = self.next_event().into_iter().chain(deadline).min() else {
                panic!("the loop waits for nothing: {:?}", self.ops);
            };
            if next > self.now {
                self.idle_enters = 0;
                self.now = next;
            }
            if deadline.is_some_and(|deadline| deadline <= self.now) {
                self.pump();
                return;
            }
        }
    }

    fn next_event(&self) -> Option<u64> {
        let connects = self.ops.values().filter(|entry| {
            entry.stage == Stage::Begun
                && match &entry.op {
                    Op::Connect { addr, .. } => !matches!(self.meets(addr), Target::Silent),
                    _ => false,
                }
        });
        let connects = connects.map(|entry| entry.due);
        connects.chain(self.net.next_event()).min()
    }

    /// What a cancelled receive is told that was not woken for it.
    fn error_behind(&mut self, fd: Option<i32>) -> Errno {
        let at = fd.map(|fd| self.net.index(fd));
        let error = at.and_then(|at| self.net.sockets[at].error.take());
        error.unwrap_or(Errno::CANCELED)
    }

    /// Has everything go as far as it can.
    fn pump(&mut self) {
        self.sweep();
        self.net.advance(self.now, &mut self.dice, &mut self.trace);
        self.settle_cancels();
        let begun = |(id, entry): (&u64, &Entry)| (entry.stage == Stage::Begun).then_some(*id);
        let mut ids: Vec<u64> = self.ops.iter().filter_map(begun).collect();
        if ids.len() > 1 {
            let first = self.dice.range(0..ids.len() as u64) as usize;
            ids.rotate_left(first);
        }
        let mut left = Vec::new();
        for id in ids {
            if self.dice.permille(self.faults.lazy) {
                left.push(id);
            } else {
                self.progress(id);
            }
        }
        if self.ready.is_empty() {
            for id in left {
                self.progress(id);
            }
        }
    }

    fn settle_cancels(&mut self) {
        for id in std::mem::take(&mut self.cancels) {
            if self.dice.permille(self.faults.late_cancel) {
                self.cancels.push(id);
                continue;
            }
            if self.dice.permille(self.faults.data_before_cancel) {
                self.progress(id);
            }
            let Some(entry) = self.ops.get(&id).filter(|e| e.stage != Stage::Done) else {
                continue;
            };
            let is_send = matches!(entry.op, Op::Send { .. } | Op::Write { .. });
            let deaf = entry.deaf.then_some(name_of(&entry.op).1);
            let result = match (is_send, entry.moved) {
                (true, moved) if moved != 0 => Ok(moved as u32),
                _ if deaf.is_some() => Err(self.error_behind(deaf)),
                _ => Err(Errno::CANCELED),
            };
            self.finish(id, result);
        }
    }

    /// Has one operation go on, if it is one that can.
    fn progress(&mut self, id: u64) {
        let Some(entry) = self.ops.get(&id).filter(|e| e.stage == Stage::Begun) else {
            return;
        };
        let (_, fd) = name_of(&entry.op);
        if !self.net.knows(fd) {
            // A real one, by which other threads wake the base. None does.
            return;
        }
        let at = self.net.index(fd);
        let plain = self.net.kind(at) == Kind::Plain;
        match &entry.op {
            Op::Recv { .. } | Op::RecvSlot { .. } | Op::Send { .. } if plain => {
                self.finish(id, Err(Errno::NOTSOCK));
            }
            Op::Recv { .. } | Op::RecvSlot { .. } | Op::Read { .. } => self.receive(id, at),
            Op::Send { .. } | Op::Write { .. } => self.send(id, at),
            Op::Connect { .. } => self.connect(id, at),
            Op::Poll { .. } => self.poll(id, at),
            Op::Accept { .. } => self.accept(id, at),
            other => panic!("not simulated: {other:?}"),
        }
    }

    fn finish(&mut self, id: u64, result: Result<u32, Errno>) {
        self.complete(id, result, false, None);
    }

    fn complete(&mut self, id: u64, result: Result<u32, Errno>, more: bool, buffer: Option<Piece>) {
        self.bring(id, result, more, buffer, None);
    }

    fn bring(
        &mut self,
        id: u64,
        result: Result<u32, Errno>,
        more: bool,
        buffer: Option<Piece>,
        accepted: Option<OwnedFd>,
    ) {
        let entry = self.ops.get_mut(&id).expect("only what lives completes");
        assert_ne!(entry.stage, Stage::Done, "an operation ends once (I2)");
        if !more {
            entry.stage = Stage::Done;
        }
        // A receive that finds no slot makes no way, nor does one cancelled to be armed again: but
        // a cancel that was asked for does.
        if !matches!(result, Err(Errno::NOBUFS)) {
            self.idle_enters = 0;
        }
        let (_, fd) = name_of(&entry.op);
        let socket = self.net.index(fd);
        let received = matches!(entry.op, Op::Recv { .. } | Op::RecvSlot { .. });
        let more_waits = received && result.is_ok() && !self.net.sockets[socket].arrived.is_empty();
        let completion = Completion {
            op: OpId::from_u64(id),
            token: entry.token,
            result,
            more,
            buffer,
            // The kernel may say so; it need not.
            sock_nonempty: more_waits && self.dice.percent(70),
            zc_copied: false,
            accepted,
        };
        let number = match result {
            Ok(n) => u64::from(n),
            Err(errno) => u64::MAX - errno.raw() as u64,
        };
        self.trace.note(
            self.now,
            match result {
                Ok(_) => "  done",
                Err(_) => "  failed",
            },
            &[id, socket as u64, number, u64::from(more)],
        );
        self.ready.push_back(completion);
    }

    pub(super) fn next(&mut self) -> Option<Completion> {
        if self.reaped >= self.faults.budget {
            return None;
        }
        let completion = self.ready.pop_front()?;
        self.reaped += 1;
        self.counters.cqes += 1;
        if !completion.more {
            let gone = self.ops.remove(&completion.op.as_u64());
            assert!(gone.is_some(), "an operation ends once (I2)");
        }
        Some(completion)
    }

    /// Operations on simulated descriptors that were not reaped.
    pub(super) fn in_flight(&self) -> usize {
        let ours = |entry: &&Entry| self.net.knows(name_of(&entry.op).1);
        self.ops.values().filter(ours).count()
    }

    /// Closes the connections whose descriptors the program has dropped.
    pub(crate) fn sweep(&mut self) {
        for socket in self.net.dropped() {
            self.note("  dropped", &[socket as u64]);
            self.net.close(socket, self.now, &mut self.dice);
        }
    }

    /// Everything in flight ends, and its memory with it.
    pub(super) fn end(&mut self) {
        self.ready.clear();
        self.ops.clear();
        self.cancels.clear();
        self.window.clear();
    }

    /// Slots that the world itself holds.
    pub(crate) fn slots_held(&self) -> usize {
        self.window.len()
    }

    pub(crate) fn arena(&self) -> &Arena {
        &self.arena
    }
}

/// What kind of thing an operation does, and on which descriptor.
fn name_of(op: &Op) -> (&'static str, i32) {
    match op {
        Op::Recv { fd, .. } | Op::RecvSlot { fd, .. } | Op::Read { fd, .. } => ("receive", *fd),
        Op::Send { fd, .. } | Op::SendZc { fd, .. } | Op::Write { fd, .. } => ("send", *fd),
        Op::Connect { fd, .. } => ("connect", *fd),
        Op::Poll { fd, .. } => ("poll", *fd),
        Op::Accept { fd, .. } => ("accept", *fd),
        Op::Nop => ("nop", -1),
    }
}
