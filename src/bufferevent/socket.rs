//! The socket flavour: which operations are in flight on a descriptor, and what their
//! completions mean to the state machine.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use super::Inner;
use super::core::{Fin, Link};
use super::gate::Receive;
use crate::addr::Addr;
use crate::arena::Piece;
use crate::driver::{Cap, Completion, Op, OpId, Pieces};
use crate::error::Error;
use crate::evbuffer::EvBuffer;
use crate::event_base::EventBase;
use crate::event_base::source::{Feeding, Offer};
use crate::sys::{self, Errno};

/// The most pieces that one send gathers. Linux takes 1,024; past 64 the gain is gone.
const SEND_PIECES: usize = 64;

/// The most bytes that one send takes, so that one connection's backlog does not pin the arena in
/// one operation.
const SEND_BYTES: usize = 1 << 20;

/// The same while a write time-out is set: a send that waits for all hides its progress, and the
/// timer must see some.
const TIMED_SEND_BYTES: usize = 256 << 10;

/// What a receive that nothing bounds is armed for, where bundles can be had.
const UNBOUND_ARM_BYTES: u32 = 1 << 20;

/// How much of a file range is read ahead of a send.
const FILE_READ_BYTES: usize = 256 << 10;

/// Between keep-alive probes that are not answered, and how many: Linux' own count, but a minute and a half
/// instead of eleven.
const KEEPALIVE_INTERVAL_S: u32 = 10;
const KEEPALIVE_PROBES: u32 = 9;

/// What an operation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Receive,
    Send,
    Connect,
    /// It belongs to a descriptor that was let go of.
    Stray,
}

/// What the descriptor is, as far as it matters how to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A TCP socket: multishot receives.
    Inet,
    /// A Unix socket: single receives. Since it knows how much is queued (6.17) Linux does not look for the end
    /// of the stream behind the last byte, and a multishot receive that takes the byte misses an end that had come before.
    Unix,
    /// A pipe or a terminal: it takes reads and writes instead of receives and sends.
    Plain,
}

impl Kind {
    fn of(fd: i32) -> Self {
        sys::net::family(fd).map_or(Kind::Plain, Self::of_family)
    }

    fn of_family(family: i32) -> Self {
        match family {
            libc::AF_UNIX => Kind::Unix,
            _ => Kind::Inet,
        }
    }
}

/// What the last receive says about the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Incoming {
    /// It took what was there.
    Messages,
    /// It filled a slot and left more behind: the next may fill several at once.
    Bulk,
    /// The end of the stream.
    Ended,
}

/// How the receiving direction ended.
#[derive(Clone, Copy, Debug)]
enum End {
    Eof,
    Error(Errno),
}

/// What a receive brought while the input could not take it: past the high mark, or paused.
#[derive(Debug, Default)]
struct Unseen {
    bytes: EvBuffer,
    end: Option<End>,
}

/// The descriptor and its operations.
pub(super) struct Socket {
    /// −1: none.
    fd: Cell<i32>,
    receive: Cell<Option<OpId>>,
    send: Cell<Option<OpId>>,
    connect: Cell<Option<OpId>>,
    /// All operations that have not had their last completion.
    in_flight: Cell<u32>,
    /// Those among them that belong to `retired` descriptors.
    strays: Cell<u32>,
    /// Descriptors to be closed once there are no strays (I6).
    #[expect(
        clippy::box_collection,
        reason = "16 bytes less in every socket; nearly none has any"
    )]
    retired: Cell<Option<Box<Vec<i32>>>>,
    unseen: RefCell<Option<Box<Unseen>>>,
    /// The cancellation of the receive was asked for.
    stopping: Cell<bool>,
    /// The receive is only a poll: a limit asks to wait until there is something to read.
    polling: Cell<bool>,
    /// See `set_receive_bound`.
    receive_bound: Cell<u32>,
    /// 0: the default.
    max_single_read: Cell<u32>,
    max_single_write: Cell<u32>,
    /// See `disown_send`.
    send_disowned: Cell<bool>,
    /// What it received waits in somebody else's output.
    backlogged: Cell<bool>,
    kind: Cell<Kind>,
    /// `connect` made the socket.
    made_here: Cell<bool>,
    incoming: Cell<Incoming>,
}

impl Socket {
    pub(super) fn new(fd: Option<OwnedFd>) -> Self {
        let kind = fd
            .as_ref()
            .map_or(Kind::Inet, |fd| Kind::of(fd.as_raw_fd()));
        Self::over(fd.map_or(-1, IntoRawFd::into_raw_fd), kind)
    }

    /// Over a descriptor that the kernel knows nothing of; family 0 stands for a pipe.
    #[cfg(test)]
    pub(super) fn simulated(fd: i32, family: i32) -> Self {
        let kind = match family {
            libc::AF_UNSPEC => Kind::Plain,
            _ => Kind::of_family(family),
        };
        Self::over(fd, kind)
    }

    fn over(fd: i32, kind: Kind) -> Self {
        Socket {
            fd: Cell::new(fd),
            receive: Cell::new(None),
            send: Cell::new(None),
            connect: Cell::new(None),
            in_flight: Cell::new(0),
            strays: Cell::new(0),
            retired: Cell::default(),
            unseen: RefCell::default(),
            stopping: Cell::new(false),
            polling: Cell::new(false),
            receive_bound: Cell::new(0),
            max_single_read: Cell::new(0),
            max_single_write: Cell::new(0),
            send_disowned: Cell::new(false),
            backlogged: Cell::new(false),
            kind: Cell::new(kind),
            made_here: Cell::new(false),
            incoming: Cell::new(Incoming::Messages),
        }
    }

    pub(super) fn fd(&self) -> Option<i32> {
        Some(self.fd.get()).filter(|&fd| fd >= 0)
    }

    pub(super) fn take_fd(&self) -> Option<i32> {
        Some(self.fd.replace(-1)).filter(|&fd| fd >= 0)
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    pub(super) fn sending(&self) -> bool {
        self.send.get().is_some()
    }

    pub(super) fn at_end(&self) -> bool {
        self.incoming.get() == Incoming::Ended
    }

    pub(super) fn set_nodelay(&self, on: bool) -> Result<(), Error> {
        let fd = self.required_fd("set_nodelay")?;
        sys::net::set_nodelay(fd, on).map_err(|source| Error::io("TCP_NODELAY", source))
    }

    pub(super) fn set_keepalive(&self, idle: Option<Duration>) -> Result<(), Error> {
        let fd = self.required_fd("set_keepalive")?;
        let keepalive = idle.map(|idle| sys::net::KeepAlive {
            idle_s: u32::try_from(idle.as_secs()).unwrap_or(u32::MAX).max(1),
            interval_s: KEEPALIVE_INTERVAL_S,
            probes: KEEPALIVE_PROBES,
        });
        sys::net::set_keepalive(fd, keepalive).map_err(|source| Error::io("SO_KEEPALIVE", source))
    }

    fn required_fd(&self, what: &'static str) -> Result<i32, Error> {
        self.fd().ok_or(Error::Invalid {
            what,
            why: "there is no descriptor yet; connect first",
        })
    }

    /// Books a completion: what it was for, and whether its operation is done.
    pub(super) fn settle(&self, completion: &Completion) -> Role {
        let op = Some(completion.op);
        let (role, cell) = if op == self.receive.get() {
            (Role::Receive, Some(&self.receive))
        } else if op == self.send.get() {
            (Role::Send, Some(&self.send))
        } else if op == self.connect.get() {
            (Role::Connect, Some(&self.connect))
        } else {
            (Role::Stray, None)
        };
        if !completion.more {
            debug_assert!(self.in_flight.get() > 0, "an operation ends once (I2)");
            self.in_flight.set(self.in_flight.get().saturating_sub(1));
            match cell {
                Some(cell) => cell.set(None),
                None => self.strays.set(self.strays.get().saturating_sub(1)),
            }
            if role == Role::Receive {
                self.stopping.set(false);
            }
        }
        role
    }

    /// Cancels whatever is in flight; what it still brings is dropped.
    pub(super) fn cancel_all(&self, base: &EventBase) {
        for cell in [&self.receive, &self.send, &self.connect] {
            if let Some(op) = cell.take() {
                self.strays.set(self.strays.get() + 1);
                base.cancel(op);
            }
        }
        self.polling.set(false);
        self.forget_unseen();
    }

    /// Lets go of the descriptors: nothing is in flight.
    pub(super) fn release(&self, base: &EventBase, close: bool) {
        self.close_retired(base);
        if let Some(fd) = self.take_fd()
            && close
        {
            base.with_driver(|driver| driver.close(fd));
        }
    }

    pub(super) fn forget_unseen(&self) {
        let unseen = self.unseen.take();
        drop(unseen);
    }

    /// Goes on with another descriptor. The old one's operations are cancelled; it is closed after them if
    /// `close_old` says so.
    pub(super) fn change_fd(&self, base: &EventBase, fd: Option<i32>, close_old: bool) {
        self.cancel_all(base);
        let old = self.fd.replace(fd.unwrap_or(-1));
        if close_old && old >= 0 {
            self.retire(old);
        }
        self.kind.set(fd.map_or(Kind::Inet, Kind::of));
        self.made_here.set(false);
        self.incoming.set(Incoming::Messages);
        self.stopping.set(false);
        self.close_retired(base);
    }

    pub(super) fn set_max_single_read(&self, bytes: usize) {
        self.max_single_read
            .set(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    pub(super) fn set_max_single_write(&self, bytes: usize) {
        self.max_single_write
            .set(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    pub(super) fn max_single(&self) -> (usize, usize) {
        let (read, write) = (self.max_single_read.get(), self.max_single_write.get());
        (read as usize, write as usize)
    }

    /// What a write time-out stops: a send that makes no way, a connect.
    pub(super) fn abandon(&self, base: &EventBase) {
        if let Some(op) = self.connect.take() {
            self.strays.set(self.strays.get() + 1);
            base.cancel(op);
        }
        if let Some(op) = self.send.get() {
            base.cancel(op);
        }
    }

    /// Ends the receive that is under way, if there is one.
    pub(super) fn stop_receive(&self, base: &EventBase) {
        if let Some(op) = self.receive.get()
            && !self.stopping.replace(true)
        {
            base.cancel(op);
        }
    }

    /// The user took the bytes of the send under way out of the output: its completion drains none.
    pub(super) fn disown_send(&self) {
        self.send_disowned.set(self.send.get().is_some());
    }

    pub(super) fn set_backlogged(&self, backlogged: bool) {
        self.backlogged.set(backlogged);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    pub(super) fn receiving(&self) -> bool {
        self.receive.get().is_some()
    }

    /// Bounds what one receive may bring before it is armed again, in bytes; 0: no bound. Whoever can pause
    /// reading bounds with it what arrives in spite of the pause.
    pub(super) fn set_receive_bound(&self, bytes: usize) {
        self.receive_bound
            .set(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Has a descriptor closed once nothing of it is in flight.
    fn retire(&self, fd: i32) {
        let mut fds = self.retired.take().unwrap_or_default();
        fds.push(fd);
        self.retired.set(Some(fds));
    }

    /// Closes the descriptors that wait for their operations, if none is left.
    fn close_retired(&self, base: &EventBase) {
        if self.strays.get() == 0 {
            for fd in self.retired.take().into_iter().flat_map(|fds| *fds) {
                base.with_driver(|driver| driver.close(fd));
            }
        }
    }

    fn push(&self, base: &EventBase, token: u32, op: Op) -> OpId {
        self.in_flight.set(self.in_flight.get() + 1);
        base.push(token, op)
    }
}

impl Inner {
    pub(super) fn connect(self: &Rc<Self>, base: &EventBase, addr: &Addr) -> Result<(), Error> {
        let socket = &self.socket;
        let link = self.core.borrow().link();
        match (link, socket.fd()) {
            (Link::Connecting, _) => {
                return Err(Error::Invalid {
                    what: "connect",
                    why: "a connect is under way; wait for its event or free the bufferevent",
                });
            }
            // An adopted socket may be connected or not: it knows.
            (Link::Up, Some(fd)) if sys::net::peer_addr(fd).is_ok() => {
                return Err(Error::Invalid {
                    what: "connect",
                    why: "it is connected; give it another descriptor or make another bufferevent",
                });
            }
            (Link::Failed, Some(fd)) if socket.made_here.get() => {
                // A socket whose connect failed can not be used again.
                socket.retire(fd);
                socket.fd.set(-1);
                socket.close_retired(base);
            }
            _ => {}
        }
        let target = sys::SockAddr::try_from(addr)
            .map_err(|source| Error::io(format!("address {addr}"), source))?;
        if socket.fd().is_none() {
            let fd = base
                .with_driver(|driver| driver.socket(target.family()))
                .map_err(|source| Error::io(format!("socket for {addr}"), source))?;
            socket.fd.set(fd);
            socket.made_here.set(true);
            socket.kind.set(Kind::of_family(target.family()));
        }
        let fd = socket.fd.get();
        self.core
            .borrow_mut()
            .set_link(Link::Connecting, base.now());
        let op = socket.push(
            base,
            self.registration.token(),
            Op::Connect { fd, addr: target },
        );
        socket.connect.set(Some(op));
        self.sync(base);
        Ok(())
    }

    pub(super) fn connect_in_progress(self: &Rc<Self>, base: &EventBase) -> Result<(), Error> {
        let fd = self.socket.required_fd("connect_in_progress")?;
        self.core
            .borrow_mut()
            .set_link(Link::Connecting, base.now());
        let op = self.socket.push(
            base,
            self.registration.token(),
            Op::Poll {
                fd,
                events: libc::POLLOUT as u32,
                multishot: false,
            },
        );
        self.socket.connect.set(Some(op));
        self.sync(base);
        Ok(())
    }

    pub(super) fn socket_completed(
        self: &Rc<Self>,
        base: &EventBase,
        role: Role,
        completion: Completion,
    ) {
        match role {
            Role::Receive => self.received(base, completion),
            Role::Send => {
                self.settle_send(base, &completion);
                self.sent(base, completion.result);
            }
            Role::Connect => self.connected(base, completion.result),
            Role::Stray => self.socket.close_retired(base),
        }
    }

    /// Begins what is due: shows what waited unseen, sends, ends the direction, receives.
    pub(super) fn start_socket_io(self: &Rc<Self>, base: &EventBase) {
        self.deliver(base);
        let output = self.output_len();
        let mut core = self.core.borrow_mut();
        if core.write_due(output) {
            core.handle_writable();
        }
        drop(core);
        self.begin_send(base);
        self.end_direction(base);
        self.withdraw_paused_receive(base);
        self.arm_receive(base);
    }

    /// The base has slots again, or offers the reserved one: receive. Whoever keeps what it received does not get
    /// the reserved one: it would keep it, too.
    pub(super) fn receive_again(self: &Rc<Self>, base: &EventBase, offer: Offer) -> Feeding {
        let socket = &self.socket;
        if socket.receive.get().is_some() || !self.wants_receive() {
            // It was paused meanwhile: whoever resumes it arms the receive.
            return Feeding::Left;
        }
        if offer == Offer::Window && socket.kind.get() != Kind::Plain {
            self.arm_receive(base);
            return match socket.receiving() {
                true => Feeding::Fed,
                // Held up by a limit rather than by memory: whoever lifts that arms the receive.
                false => Feeding::Left,
            };
        }
        if socket.kind.get() == Kind::Plain {
            return self.read_again(base);
        }
        let backlogged = socket.backlogged.get() || self.output_len() != 0;
        if self.input_len() != 0 || backlogged && offer == Offer::ReserveForTheIdle {
            return Feeding::Passed;
        }
        let Some(slot) = base.with_driver(|driver| driver.arena().take_reserve()) else {
            return Feeding::Dry;
        };
        self.launch_into_slot(base, Feeding::Fed, |fd, max_len| Op::RecvSlot {
            fd,
            slot,
            max_len,
            poll_first: false,
        })
    }

    /// Begins a receive into a slot of its own, bounded as the gate says; `fed` if it began.
    fn launch_into_slot(
        self: &Rc<Self>,
        base: &EventBase,
        fed: Feeding,
        op: impl FnOnce(i32, u32) -> Op,
    ) -> Feeding {
        let socket = &self.socket;
        let single = socket.max_single_read.get();
        let bytes = match self.gate_receive(base, false, single) {
            Receive::Launch { bytes, .. } => bytes,
            // It keeps its place in this line as well: outside it would only find out again, once the
            // limit allows, that there is no slot, and meanwhile hold the budget of another.
            Receive::Wait => return Feeding::Passed,
            Receive::AwaitReadable => {
                self.mark_dirty(base);
                return Feeding::Left;
            }
        };
        let op = socket.push(base, self.registration.token(), op(socket.fd.get(), bytes));
        socket.receive.set(Some(op));
        fed
    }

    /// As [`receive_again`](Self::receive_again) for a pipe or a terminal, which can not receive into the window: it reads
    /// into a slot that the window left, or into the reserved one.
    fn read_again(self: &Rc<Self>, base: &EventBase) -> Feeding {
        if self.input_len() != 0 {
            return Feeding::Passed;
        }
        let slot = base.with_driver(|driver| {
            let arena = driver.arena();
            arena.take().or_else(|| arena.take_reserve())
        });
        let Some(slot) = slot else {
            return Feeding::Passed;
        };
        self.launch_into_slot(base, Feeding::Left, |fd, max_len| Op::Read {
            fd,
            slot,
            max_len,
        })
    }

    fn received(self: &Rc<Self>, base: &EventBase, completion: Completion) {
        let socket = &self.socket;
        if !completion.more {
            self.mark_dirty(base);
        }
        if socket.polling.take() {
            return self.polled(completion.result.is_ok());
        }
        self.settle_receive(base, &completion);
        match (completion.result, completion.buffer) {
            (Ok(n), Some(piece)) if n != 0 => {
                let full = piece.len() == base.slot_size();
                socket.incoming.set(match full && completion.sock_nonempty {
                    true => Incoming::Bulk,
                    false => Incoming::Messages,
                });
                self.take_in(base, piece);
            }
            (Ok(_), _) => self.ended(base, End::Eof),
            (Err(errno), _) => match errno.raw() {
                libc::ENOBUFS => {
                    self.registration.wait_for_slots(base);
                }
                libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
                _ => self.ended(base, End::Error(errno)),
            },
        }
    }

    /// Bytes came in: to the input if it may take them, to wait unseen if not.
    fn take_in(self: &Rc<Self>, base: &EventBase, piece: Piece) {
        let n = piece.len();
        base.tally().received(n);
        if self.drops_input() {
            return;
        }
        let mut core = self.core.borrow_mut();
        if core.wants_read()
            && self.socket.unseen.borrow().is_none()
            && let Ok(mut input) = self.input.try_borrow_mut()
            && n <= core.room(input.len())
        {
            append_received(&mut input, piece, base);
            core.handle_received(input.len(), base.now());
            return;
        }
        drop(core);
        self.unseen(|unseen| unseen.bytes.push_piece(piece));
        if self.quiets() {
            self.show_unseen(base);
        } else {
            self.deliver(base);
        }
        // Let the receive bring no more of it than it has to (I10).
        if self.socket.unseen.borrow().is_some() {
            self.socket.stop_receive(base);
        }
    }

    fn drops_input(&self) -> bool {
        let closing = self.closing.borrow();
        closing.as_ref().is_some_and(|c| c.drops_input())
    }

    pub(super) fn quiets(&self) -> bool {
        let closing = self.closing.borrow();
        closing.as_ref().is_some_and(|c| c.quiets())
    }

    /// Moves all that waits unseen to the input, whatever its high mark; an end that waits behind it stays.
    pub(super) fn show_unseen(self: &Rc<Self>, base: &EventBase) {
        let mut slot = self.socket.unseen.borrow_mut();
        let (Some(unseen), Ok(mut input)) = (slot.as_deref_mut(), self.input.try_borrow_mut())
        else {
            return;
        };
        if unseen.bytes.is_empty() {
            return;
        }
        input.take_all(&mut unseen.bytes);
        self.core
            .borrow_mut()
            .handle_received(input.len(), base.now());
        if unseen.end.is_none() {
            *slot = None;
        }
    }

    fn ended(self: &Rc<Self>, base: &EventBase, end: End) {
        let eof = matches!(end, End::Eof);
        self.socket.incoming.set(match eof {
            true => Incoming::Ended,
            false => Incoming::Messages,
        });
        if self.drops_input() {
            if !eof {
                self.break_closing(base);
            }
            return;
        }
        self.unseen(|unseen| unseen.end = Some(end));
        self.deliver(base);
    }

    fn unseen(&self, f: impl FnOnce(&mut Unseen)) {
        f(self.socket.unseen.borrow_mut().get_or_insert_default());
    }

    /// Shows what waited unseen: bytes as far as the high mark allows, or else the end. The end
    /// never in one go with bytes: their callback may pause reading.
    fn deliver(self: &Rc<Self>, base: &EventBase) {
        let mut slot = self.socket.unseen.borrow_mut();
        let Some(unseen) = slot.as_deref_mut() else {
            return;
        };
        let mut core = self.core.borrow_mut();
        if !core.wants_read() {
            return;
        }
        let Ok(mut input) = self.input.try_borrow_mut() else {
            return;
        };
        if !unseen.bytes.is_empty() {
            let n = core.room(input.len()).min(unseen.bytes.len());
            unseen.bytes.transfer(&mut input, n);
            core.handle_received(input.len(), base.now());
        } else if let Some(end) = unseen.end.take() {
            match end {
                End::Eof => core.handle_eof(),
                End::Error(errno) => core.handle_read_error(errno),
            }
        }
        if unseen.bytes.is_empty() && unseen.end.is_none() {
            *slot = None;
        } else if core.wants_read() {
            drop((core, input, slot));
            self.mark_dirty(base);
        }
    }

    pub(super) fn wants_receive(&self) -> bool {
        let core = self.core.borrow();
        match self.closing.borrow().as_deref() {
            None => core.wants_read() && self.socket.unseen.borrow().is_none(),
            // Whatever is enabled meanwhile: it has finished reading.
            Some(closing) if closing.quiets() => false,
            // It reads and drops until the end: its peer may need to be read from before it reads.
            Some(_) => !self.socket.at_end() && core.link() == Link::Up,
        }
    }

    fn arm_receive(self: &Rc<Self>, base: &EventBase) {
        let socket = &self.socket;
        let Some(fd) = socket.fd() else { return };
        if socket.receive.get().is_some() || self.registration.is_in_line() || !self.wants_receive()
        {
            return;
        }
        let room = self.core.borrow().room(self.input_len());
        let multishot = socket.kind.get() == Kind::Inet;
        let bound = match (u32::try_from(room), socket.receive_bound.get()) {
            _ if socket.kind.get() == Kind::Plain => socket.max_single_read.get(),
            (Ok(room), 0) => room,
            (Ok(room), bound) => room.min(bound),
            // Armed again now and then, so that the next arm is as what arrives asks for: a bundle needs a limit.
            (Err(_no_mark), 0) if multishot && has_bundles(base) => UNBOUND_ARM_BYTES,
            (Err(_no_mark), bound) => bound,
        };
        let op = match self.gate_receive(base, multishot, bound) {
            Receive::Wait => return,
            Receive::AwaitReadable => {
                socket.polling.set(true);
                Op::Poll {
                    fd,
                    events: libc::POLLIN as u32,
                    multishot: false,
                }
            }
            Receive::Launch { bytes, .. } if socket.kind.get() == Kind::Plain => {
                let Some(slot) = base.with_driver(|driver| driver.arena().take()) else {
                    self.return_receive(base);
                    self.registration.wait_for_slots(base);
                    return;
                };
                Op::Read {
                    fd,
                    slot,
                    max_len: bytes,
                }
            }
            Receive::Launch {
                multishot,
                bytes,
                each,
                poll_first,
            } => Op::Recv {
                fd,
                multishot,
                max_len: match (socket.max_single_read.get(), each) {
                    (0, each) => each,
                    (single, 0) => single,
                    (single, each) => single.min(each),
                },
                poll_first,
                arm_limit: bytes,
                bundle: socket.incoming.get() == Incoming::Bulk,
            },
        };
        if !socket.polling.get() {
            base.tally().receive_armed();
        }
        let op = socket.push(base, self.registration.token(), op);
        socket.receive.set(Some(op));
        socket.stopping.set(false);
    }

    /// Hands the front of the output to the kernel; one send at a time (I4).
    fn begin_send(self: &Rc<Self>, base: &EventBase) {
        let socket = &self.socket;
        let Some(fd) = socket.fd() else { return };
        if socket.send.get().is_some() {
            return;
        }
        let Ok(mut output) = self.output.try_borrow_mut() else {
            return;
        };
        let core = self.core.borrow();
        if !core.wants_write(output.len()) {
            return;
        }
        let timed = core.timeouts().1 != 0 || self.closing.borrow().is_some();
        let most = match socket.max_single_write.get() {
            0 if timed => TIMED_SEND_BYTES,
            0 => SEND_BYTES,
            set => set as usize,
        };
        drop(core);
        if let Err(error) = output.load(most.min(FILE_READ_BYTES)) {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            let mut core = self.core.borrow_mut();
            core.handle_write_error(Errno::from_raw(errno));
            return;
        }
        if base.slots_are_low() {
            // What the kernel can not take at once would keep a slot for each small message.
            output.compact_small(base.slot_size() / super::COPY_OUT_FRACTION);
        }
        let Some(most) = self.gate_send(base, output.len().min(most)) else {
            return;
        };
        let pieces = base.with_driver(|driver| {
            let mut pieces = driver.take_pieces();
            output.gather(most, SEND_PIECES, &mut pieces);
            match (pieces.pop(), pieces.is_empty()) {
                (Some(only), true) => {
                    driver.give_pieces(pieces);
                    Pieces::from(only)
                }
                (last, _) => {
                    pieces.extend(last);
                    Pieces::from(pieces)
                }
            }
        });
        drop(output);
        let op = if socket.kind.get() == Kind::Plain {
            Op::Write { fd, pieces }
        } else {
            Op::Send {
                fd,
                pieces,
                wait_all: true,
            }
        };
        base.tally().send_begun();
        let op = socket.push(base, self.registration.token(), op);
        socket.send.set(Some(op));
    }

    fn sent(self: &Rc<Self>, base: &EventBase, result: Result<u32, Errno>) {
        let disowned = self.socket.send_disowned.take();
        match result {
            Ok(n) => {
                base.tally().sent(n as usize);
                let mut output = self.output.borrow_mut();
                if !disowned {
                    output.drain_front(n as usize);
                }
                self.core.borrow_mut().handle_sent(output.len(), base.now());
            }
            Err(errno) => match errno.raw() {
                libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
                _ => self.core.borrow_mut().handle_write_error(errno),
            },
        }
        self.mark_dirty_after_send(base, result.is_err());
    }

    /// More to send, a direction to end or a flush to conclude: at the end of the turn.
    fn mark_dirty_after_send(self: &Rc<Self>, base: &EventBase, failed: bool) {
        let more = failed
            || self.output_len() != 0
            || self.core.borrow().fin() == Fin::Wanted
            || self.closing.borrow().is_some();
        if more {
            self.mark_dirty(base);
        }
    }

    /// The output is out: sends the end of the stream if that was asked for.
    fn end_direction(self: &Rc<Self>, base: &EventBase) {
        let due = self.core.borrow().fin_due(self.output_len());
        let Some(fd) = self.socket.fd() else { return };
        if !due || self.socket.send.get().is_some() {
            return;
        }
        self.core.borrow_mut().set_fin(Fin::Sent);
        let ended = base.with_driver(|driver| driver.shutdown_write(fd));
        if let Err(error) = ended {
            // ENOTCONN: the peer is gone, which the receive reports with its own error.
            log::debug!("shutdown of descriptor {fd}: {error}");
        }
    }

    fn connected(self: &Rc<Self>, base: &EventBase, result: Result<u32, Errno>) {
        let fd = self.socket.fd.get();
        let error = match result {
            Err(errno) => Some(errno),
            // A connect that was begun elsewhere: the socket knows how it went.
            Ok(_) => base
                .with_driver(|driver| driver.take_error(fd))
                .unwrap_or_else(|error| error.raw_os_error().map(Errno::from_raw)),
        };
        let mut core = self.core.borrow_mut();
        match error {
            None => core.handle_connected(base.now()),
            Some(errno) => core.handle_connect_error(errno),
        }
        drop(core);
        self.mark_dirty(base);
    }
}

fn has_bundles(base: &EventBase) -> bool {
    base.with_driver(|driver| driver.caps().has(Cap::RECV_BUNDLE))
}

/// Appends received bytes by reference; a small piece behind others is copied, so that many of
/// them share one block instead of pinning a slot each.
fn append_received(input: &mut EvBuffer, piece: Piece, base: &EventBase) {
    let small = piece.len() <= base.slot_size() / super::COPY_OUT_FRACTION;
    if small && !input.is_empty() && piece.is_slot() {
        input.unfreeze_end();
        let added = input.add(&piece);
        input.freeze_end();
        if added.is_ok() {
            return;
        }
    }
    input.push_piece(piece);
}
