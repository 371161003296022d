//! A descriptor as a transport: which operations are in flight on it, and what their completions
//! mean to the state machine.
//!
//! | file | concept |
//! |---|---|
//! | `connect` | making a socket, connecting it |
//! | `receive` | arming the one receive, and what it brings |
//! | `unseen` | what was received while the input could not take it |
//! | `quiet` | broken connections that no receive tells of |
//! | `send` | the one send |
//! | `gate` | rate limits before both |
//! | `descriptor` | what the descriptor is; changing it, letting go of it (I6) |

use std::cell::Cell;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};

use super::{Changed, End, Rest, Transport};
use crate::bufferevent::machine::{Life, Link, Machine, StreamEnd};
use crate::bufferevent::seldom::Seldom;
use crate::bufferevent::shell::Cx;
use crate::bufferevent::types::{FlushMode, FlushResult};
#[cfg(test)]
use crate::driver::Descriptor;
use crate::driver::{Completion, Op, OpId};
use crate::event_base::source::{Feeding, Offer};
use crate::event_base::{EventBase, Interest};
use crate::rate_limit::Direction;

mod connect;
mod descriptor;
pub(in crate::bufferevent) mod gate;
mod quiet;
mod receive;
mod send;
mod unseen;

use descriptor::Kind;
use gate::Limits;
use quiet::Listed;
use receive::{Incoming, Receiving};
use send::Sending;
use unseen::Unseen;

/// The descriptor and its operations.
pub(in crate::bufferevent) struct Socket {
    /// −1: none.
    fd: Cell<i32>,
    /// All operations that have not had their last completion.
    in_flight: Cell<u32>,
    /// Those among them that belong to descriptors that were let go of.
    orphaned: Cell<u32>,
    receiving: Cell<Receiving>,
    sending: Cell<Sending>,
    connect: Cell<Option<OpId>>,
    rare: Seldom<Rare>,
    unseen: Seldom<Unseen>,
    limits: Seldom<Limits>,
    /// See `set_receive_bound`.
    receive_bound: Cell<u32>,
    /// What it received waits in somebody else's output.
    backlogged: Cell<bool>,
    /// Somebody above times the progress of its sends.
    watched: Cell<bool>,
    kind: Cell<Kind>,
    incoming: Cell<Incoming>,
    listed: Cell<Listed>,
    seldom_set: Cell<Marks>,
}

bitflags::bitflags! {
    /// What is asked for seldom.
    #[derive(Clone, Copy, Debug)]
    struct Marks: u8 {
        /// `connect` made the socket.
        const MADE_HERE = 1;
        /// Its end is to be a reset.
        const RESETS = 2;
        /// The base is to tell it when memory is ample again, whether it still waits for that or
        /// not.
        const TOLD_WHEN_AMPLE = 4;
        /// The receive under way, or the last, goes to the reserved slot: what it brings is copied
        /// out at once, for the next in line.
        const IN_RESERVE = 8;
        /// There is something to receive, as far as is known; only of one that waits for a slot.
        const READABLE = 16;
        /// Its sends fail: what is still to be sent waits for nobody.
        const SENDS_FAIL = 32;
    }
}

/// What hardly any socket has.
#[derive(Debug, Default)]
struct Rare {
    /// Descriptors to be closed once nothing of them is in flight (I6).
    retired: Vec<i32>,
    /// What the peer had acknowledged when somebody looked last.
    acked: Option<u64>,
    /// 0: the default.
    max_single_read: u32,
    max_single_write: u32,
}

/// What a completion was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Receive,
    /// The poll of a limit that waits for something to read.
    Poll,
    Watch,
    Send,
    Connect,
    /// It belongs to a descriptor that was let go of.
    Orphan,
}

impl Socket {
    pub(in crate::bufferevent) fn new(base: &EventBase, fd: Option<OwnedFd>) -> Self {
        let kind = fd.as_ref().map_or(Kind::Inet, |fd| {
            Kind::of(&base.with_driver(|driver| driver.describe(fd.as_raw_fd())))
        });
        Self::over(fd.map_or(-1, IntoRawFd::into_raw_fd), kind)
    }

    /// Over a descriptor that the kernel knows nothing of.
    #[cfg(test)]
    pub(in crate::bufferevent) fn simulated(fd: i32, descriptor: &Descriptor) -> Self {
        Self::over(fd, Kind::of(descriptor))
    }

    fn over(fd: i32, kind: Kind) -> Self {
        Socket {
            fd: Cell::new(fd),
            in_flight: Cell::new(0),
            orphaned: Cell::new(0),
            receiving: Cell::new(Receiving::Idle),
            sending: Cell::new(Sending::Idle),
            connect: Cell::new(None),
            rare: Seldom::default(),
            unseen: Seldom::default(),
            limits: Seldom::default(),
            receive_bound: Cell::new(0),
            backlogged: Cell::new(false),
            watched: Cell::new(false),
            kind: Cell::new(kind),
            incoming: Cell::new(Incoming::Messages),
            listed: Cell::new(Listed::Not),
            seldom_set: Cell::new(Marks::empty()),
        }
    }

    pub(in crate::bufferevent) fn fd(&self) -> Option<i32> {
        Some(self.fd.get()).filter(|&fd| fd >= 0)
    }

    pub(in crate::bufferevent) fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    pub(in crate::bufferevent) fn limits(&self) -> &Seldom<Limits> {
        &self.limits
    }

    pub(in crate::bufferevent) fn set_max_single_read(&self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.rare.with_made(|rare| rare.max_single_read = bytes);
    }

    pub(in crate::bufferevent) fn set_max_single_write(&self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.rare.with_made(|rare| rare.max_single_write = bytes);
    }

    pub(in crate::bufferevent) fn max_single(&self) -> (usize, usize) {
        (self.single_read() as usize, self.single_write() as usize)
    }

    fn single_read(&self) -> u32 {
        self.rare.with(|rare| rare.max_single_read).unwrap_or(0)
    }

    fn single_write(&self) -> u32 {
        self.rare.with(|rare| rare.max_single_write).unwrap_or(0)
    }

    /// Says whether it may read on now that could not before.
    pub(in crate::bufferevent) fn set_backlogged(&self, backlogged: bool) -> bool {
        self.backlogged.set(backlogged);
        !backlogged && self.receiving.get().is_parked()
    }

    /// Has progress told of as the kernel takes bytes, for somebody above who times it.
    pub(in crate::bufferevent) fn watch_progress(&self, cx: &Cx<'_>, watch: bool) {
        self.watched.set(watch);
        self.note_acknowledged(cx);
        self.quicken_send(cx);
    }

    /// Bounds what one receive may bring before it is armed again, in bytes; 0: no bound. Whoever
    /// can pause reading bounds with it what arrives in spite of the pause.
    pub(in crate::bufferevent) fn set_receive_bound(&self, bytes: usize) {
        self.receive_bound
            .set(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    fn is_marked(&self, mark: Marks) -> bool {
        self.seldom_set.get().contains(mark)
    }

    fn mark(&self, mark: Marks, is: bool) {
        let mut marks = self.seldom_set.get();
        marks.set(mark, is);
        self.seldom_set.set(marks);
    }

    fn push(&self, cx: &Cx<'_>, op: Op) -> OpId {
        self.in_flight.set(self.in_flight.get() + 1);
        cx.base.push(cx.shell().reg.token(), op)
    }

    /// Books a completion: what it was for, and whether its operation is done.
    fn book(&self, completion: &Completion) -> Role {
        let op = completion.op;
        let receiving = self.receiving.get();
        let role = if receiving.op() == Some(op) {
            receiving.role()
        } else if self.sending.get().op() == Some(op) {
            Role::Send
        } else if self.connect.get() == Some(op) {
            Role::Connect
        } else {
            Role::Orphan
        };
        if completion.more {
            return role;
        }
        debug_assert!(self.in_flight.get() > 0, "an operation ends once (I2)");
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
        match role {
            Role::Receive | Role::Poll => self.receiving.set(Receiving::Idle),
            Role::Watch => self.receiving.set(receiving.watched_by(None)),
            Role::Connect => self.connect.set(None),
            Role::Orphan => self.orphan_ended(),
            // Taken by `sent`, with what it took.
            Role::Send => {}
        }
        role
    }

    fn orphan_ended(&self) {
        self.orphaned.set(self.orphaned.get().saturating_sub(1));
    }

    /// An operation goes on for nobody: cancelled, and what it still brings is dropped.
    fn orphan(&self, cx: &Cx<'_>, op: OpId) {
        self.orphaned.set(self.orphaned.get() + 1);
        cx.shell().reg.cancel(cx.base, op);
    }

    /// Nobody reads any more, and nothing is said of the connection until it is closed.
    fn is_closing_down(&self, cx: &Cx<'_>) -> bool {
        cx.shell().life().drops_input()
    }
}

impl Transport for Socket {
    fn completed(&self, cx: &Cx<'_>, completion: Completion) {
        let role = self.book(&completion);
        if cx.is_freed() {
            if role == Role::Send && !completion.more {
                self.sending.set(Sending::Idle);
            }
            return;
        }
        match role {
            Role::Receive => self.received(cx, completion),
            Role::Poll => self.polled(cx, completion.result.is_ok()),
            Role::Watch => self.watch_ended(cx, completion.result),
            Role::Send => self.sent(cx, completion),
            Role::Connect => self.connected(cx, completion.result),
            Role::Orphan => self.close_retired(cx.base),
        }
    }

    /// Begins what is due: shows what waited unseen, sends, ends the direction, receives.
    fn pump(&self, cx: &Cx<'_>) {
        self.deliver(cx);
        let output = cx.shell().output_len();
        let mut machine = cx.machine_mut();
        if machine.write_event_due(output) {
            machine.handle_writable();
        }
        drop(machine);
        self.begin_send(cx);
        self.end_direction(cx);
        self.withdraw_paused_receive(cx);
        self.begin_receive(cx, None);
    }

    fn changed(&self, cx: &Cx<'_>, what: Changed) {
        match what {
            Changed::Enabled(_) | Changed::OutputGrew | Changed::InputHasRoom => cx.mark_dirty(),
            Changed::Pace => self.quicken_send(cx),
            Changed::Reopened => {}
        }
    }

    fn flush(&self, _: &Cx<'_>, _: Interest, _: FlushMode) -> FlushResult {
        // Its output is always on its way.
        FlushResult::Nothing
    }

    fn rest(&self, cx: &Cx<'_>, machine: &mut Machine, output: usize) -> Rest {
        let waits = machine.wants_read()
            || machine.wants_write(output)
            || machine.link() == Link::Connecting
            || machine.fin_due(output)
            || machine.write_event_due(output)
            || self.sending.get() != Sending::Idle
            || cx.shell().life() != Life::Open;
        Rest {
            waits,
            look_at: self.settle_limits(cx, machine, output),
        }
    }

    fn time_passed(&self, cx: &Cx<'_>, now: u64) {
        self.expire_limits(cx, now);
    }

    fn made_way(&self, cx: &Cx<'_>) -> bool {
        self.peer_acknowledged(cx)
    }

    fn timed_out(&self, cx: &Cx<'_>, direction: Direction) {
        if direction == Direction::Write {
            self.abandon_write(cx);
        }
    }

    fn closing(&self, cx: &Cx<'_>) {
        self.unseen.take();
        self.unwatch(cx);
    }

    fn stop_reads(&self, cx: &Cx<'_>) {
        self.show_unseen(cx);
        self.stop_receive(cx);
    }

    fn reads_stopped(&self) -> bool {
        !self.receiving.get().may_bring()
    }

    fn peer_may_send(&self) -> bool {
        let over = matches!(self.incoming.get(), Incoming::Ended | Incoming::Broken);
        self.fd().is_some() && self.kind.get().reads() && !over
    }

    fn slots_came_back(&self, cx: &Cx<'_>, offer: Offer) -> Feeding {
        self.receive_again(cx, offer)
    }

    fn check_quiet(&self, cx: &Cx<'_>) -> bool {
        self.look(cx)
    }

    fn spare_memory(&self, cx: &Cx<'_>) {
        self.copy_out(cx);
    }

    fn unpark(&self, cx: &Cx<'_>) {
        self.read_on(cx);
    }

    fn take_turn(&self, cx: &Cx<'_>) -> bool {
        self.read_a_share(cx)
    }

    fn budget_came_back(&self, cx: &Cx<'_>, direction: Direction) {
        self.reopen_gate(direction);
        cx.mark_dirty();
    }

    fn end(&self, cx: &Cx<'_>, how: End) {
        self.mark(Marks::RESETS, how == End::Reset);
        self.cancel_all(cx);
        self.limits.take();
    }

    fn is_quiet(&self) -> bool {
        self.in_flight.get() == 0
    }

    fn release(&self, cx: &Cx<'_>, close: bool) {
        self.let_go(cx.base, close);
    }

    fn base_ended(&self) -> Option<i32> {
        self.unseen.take();
        self.limits.take();
        Some(self.fd.replace(-1)).filter(|&fd| fd >= 0)
    }

    fn socket(&self) -> Option<&Socket> {
        Some(self)
    }
}

/// What a stream's end means to a socket that is read from.
fn is_eof(end: StreamEnd) -> bool {
    end == StreamEnd::Eof
}
