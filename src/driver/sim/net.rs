//! The simulated network: sockets, what is under way between them, and the scripted peers.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::datagram::{Flying, Server, Weather};
use super::dice::{Dice, Trace};
use super::listen::Handed;
use super::remote::{Finish, Remote};
use super::socket::{Kind, Packet, Socket};
use crate::driver::{Descriptor, HangUp};
use crate::sys::{Errno, SockAddr};

/// The first simulated descriptor: no process has so many real ones.
const FIRST_FD: i32 = 1 << 28;

/// Ports from here on belong to connections; those below are for listening.
const FIRST_EPHEMERAL_PORT: u16 = 32_768;

/// What a connect to a port meets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// This socket, which waits at the other end.
    Accepts(usize),
    /// This listening socket.
    Listens(usize),
    /// An error, at once or later.
    Refuses(i32),
    /// Nobody.
    Silent,
}

#[derive(Debug)]
pub(crate) struct Net {
    pub(super) sockets: Vec<Socket>,
    pub(super) ports: BTreeMap<u16, Target>,
    /// Connections that scripted peers make: when, who, where to.
    pub(super) dials: Vec<(u64, usize, u16)>,
    pub(super) servers: BTreeMap<u16, Server>,
    pub(super) flying: Vec<Flying>,
    /// What happens to datagrams.
    pub(crate) weather: Weather,
    /// Accepted connections, by socket.
    pub(super) handed: BTreeMap<usize, Handed>,
    /// Nanoseconds that a packet is under way at most.
    latency: u64,
    calm: bool,
}

/// The descriptor of a socket.
pub(crate) fn fd_of(socket: usize) -> i32 {
    FIRST_FD + i32::try_from(socket).expect("a scenario has few sockets")
}

/// The socket of a descriptor that was not accepted.
pub(crate) fn numbered(fd: i32) -> usize {
    let index = fd.checked_sub(FIRST_FD).filter(|index| *index >= 0);
    index.expect("a descriptor that was not accepted") as usize
}

/// The address of an end that has no port of its own.
fn address_of(port: Option<u16>, socket: usize) -> SockAddr {
    let port = port.unwrap_or(FIRST_EPHEMERAL_PORT + socket as u16);
    SockAddr::from(SocketAddr::from(([127, 0, 0, 1], port)))
}

impl Net {
    pub(super) fn new(latency: u64) -> Self {
        Net {
            sockets: Vec::new(),
            ports: BTreeMap::new(),
            dials: Vec::new(),
            servers: BTreeMap::new(),
            flying: Vec::new(),
            weather: Weather::default(),
            handed: BTreeMap::new(),
            latency,
            calm: false,
        }
    }

    pub(crate) fn socket(&mut self, kind: Kind, capacity: usize) -> usize {
        self.sockets.push(Socket::new(kind, capacity));
        self.sockets.len() - 1
    }

    /// Joins two sockets.
    pub(crate) fn join(&mut self, a: usize, b: usize) {
        for (one, other) in [(a, b), (b, a)] {
            self.sockets[one].peer = Some(other);
            self.sockets[one].connected = true;
        }
    }

    /// Has a script play a socket.
    pub(crate) fn play(&mut self, socket: usize, remote: Remote) {
        self.sockets[socket].remote = Some(Box::new(remote));
    }

    /// Says what a connect to `port` meets.
    pub(crate) fn listen(&mut self, port: u16, target: Target) {
        self.ports.insert(port, target);
    }

    pub(super) fn target(&self, port: u16) -> Target {
        let target = self.ports.get(&port).copied();
        target.unwrap_or(Target::Refuses(libc::ECONNREFUSED))
    }

    /// The socket behind a descriptor.
    pub(crate) fn socket_of(&self, fd: i32) -> usize {
        match fd.checked_sub(FIRST_FD).filter(|index| *index >= 0) {
            Some(index) => index as usize,
            None => self.handed_as(fd).expect("a simulated descriptor"),
        }
    }

    /// Whether a descriptor is a simulated one.
    pub(super) fn knows(&self, fd: i32) -> bool {
        fd >= FIRST_FD || self.handed_as(fd).is_some()
    }

    /// The open socket behind a descriptor.
    pub(super) fn index(&self, fd: i32) -> usize {
        let index = self.socket_of(fd);
        assert!(
            self.sockets[index].open,
            "descriptor {index} is used after close"
        );
        index
    }

    /// From now on every peer reads, and nobody dawdles.
    pub(super) fn calm(&mut self, now: u64) {
        self.calm = true;
        for socket in &mut self.sockets {
            if let Some(remote) = &mut socket.remote {
                remote.deaf = false;
                remote.pace = remote.pace.min(1_000_000);
                remote.state.next_at = now;
            }
        }
    }

    /// When something happens next without anybody's doing.
    pub(super) fn next_event(&self) -> Option<u64> {
        let wires = self.sockets.iter().filter_map(|s| s.wire.front());
        let peers = self.sockets.iter().filter_map(|s| {
            let remote = s.remote.as_ref().filter(|_| s.open && s.connected)?;
            Some(remote.state.next_at).filter(|at| *at != u64::MAX)
        });
        let dials = self.dials.iter().map(|(at, _, _)| *at);
        wires
            .map(|(at, _)| *at)
            .chain(peers)
            .chain(dials)
            .chain(self.next_datagram())
            .min()
    }

    /// Lets all that is due by `now` happen.
    pub(super) fn advance(&mut self, now: u64, dice: &mut Dice, trace: &mut Trace) {
        while self.next_event().is_some_and(|at| at <= now) {
            self.dial_due(now, dice, trace);
            self.land(now);
            for socket in 0..self.sockets.len() {
                while let Some(packet) = self.sockets[socket].arrival(now) {
                    self.arrive(socket, packet, now, dice, trace);
                }
                let socket_ref = &mut self.sockets[socket];
                let due = socket_ref.open && socket_ref.connected;
                if let Some(mut remote) = socket_ref.remote.take() {
                    if due && remote.state.next_at <= now {
                        self.step(socket, &mut remote, now, dice, trace);
                    }
                    self.sockets[socket].remote = Some(remote);
                }
            }
        }
    }

    fn arrive(&mut self, to: usize, packet: Packet, now: u64, dice: &mut Dice, trace: &mut Trace) {
        let socket = &mut self.sockets[to];
        if !socket.open {
            // Nobody is there any more: whoever sends is told so.
            let from = socket.peer;
            if let (Packet::Data(_), Some(from)) = (packet, from)
                && self.sockets[from].open
            {
                self.sockets[from].break_with(libc::ECONNRESET);
            }
            return;
        }
        match packet {
            Packet::Data(_) if socket.dead => {}
            Packet::Data(bytes) => {
                trace.note(now, "  data arrives", &[to as u64, bytes.len() as u64]);
                socket.delivered += bytes.len() as u64;
                socket.arrived.extend(bytes);
            }
            Packet::Fin => {
                trace.note(now, "  end arrives", &[to as u64]);
                socket.fin_arrived = true;
            }
            Packet::Reset => {
                trace.note(now, "  reset arrives", &[to as u64]);
                socket.break_with(libc::ECONNRESET);
                if dice.percent(30) {
                    socket.arrived.clear();
                }
            }
        }
        self.wake(to, now, dice);
    }

    /// Has a scripted peer look again soon.
    fn wake(&mut self, socket: usize, now: u64, dice: &mut Dice) {
        let socket = &mut self.sockets[socket];
        if let Some(remote) = &mut socket.remote {
            let at = now + dice.range(0..remote.pace + 1);
            remote.state.next_at = remote.state.next_at.min(at);
        }
    }

    /// Puts a packet on the wire towards the peer of `from`.
    pub(super) fn post(&mut self, from: usize, packet: Packet, now: u64, dice: &mut Dice) {
        let Some(to) = self.sockets[from].peer else {
            return;
        };
        let latency = if self.calm { 0 } else { self.latency };
        let at = now + dice.range(0..latency + 1);
        self.sockets[to].post(at, packet);
    }

    /// How many bytes `from` may send now.
    pub(super) fn room_to_send(&self, from: usize) -> usize {
        let peer = self.sockets[from].peer;
        peer.map_or(0, |peer| self.sockets[peer].room())
    }

    /// Whether sending can only fail: the other end of a Unix socket or pipe is closed.
    pub(super) fn peer_is_gone(&self, from: usize) -> bool {
        let socket = &self.sockets[from];
        let peer = socket.peer.map(|peer| &self.sockets[peer]);
        socket.kind != Kind::Inet && peer.is_some_and(|peer| !peer.open)
    }

    /// Takes `n` bytes that have arrived.
    pub(super) fn take(&mut self, socket: usize, n: usize, now: u64, dice: &mut Dice) -> Vec<u8> {
        let taken: Vec<u8> = self.sockets[socket].arrived.drain(..n).collect();
        self.sockets[socket].received += n as u64;
        if let Some(peer) = self.sockets[socket].peer {
            self.wake(peer, now, dice);
        }
        taken
    }

    pub(super) fn shutdown(
        &mut self,
        socket: usize,
        now: u64,
        dice: &mut Dice,
    ) -> Result<(), Errno> {
        let this = &mut self.sockets[socket];
        if this.kind == Kind::Plain {
            return Err(Errno::from_raw(libc::ENOTSOCK));
        }
        if this.dead || !this.connected {
            return Err(Errno::from_raw(libc::ENOTCONN));
        }
        if !std::mem::replace(&mut this.fin_sent, true) {
            self.post(socket, Packet::Fin, now, dice);
        }
        Ok(())
    }

    /// Closes a socket: in order, or with a reset when something was left unread.
    pub(super) fn close(&mut self, socket: usize, now: u64, dice: &mut Dice) {
        let this = &mut self.sockets[socket];
        this.open = false;
        if this.backlog.is_some() {
            return self.end_listening(socket, now, dice);
        }
        let unread = !this.arrived.is_empty() || this.wire_bytes != 0;
        this.arrived.clear();
        if this.dead {
            return;
        }
        if (unread || this.resets_on_close) && this.kind != Kind::Plain {
            self.post(socket, Packet::Reset, now, dice);
        } else if !std::mem::replace(&mut this.fin_sent, true) {
            self.post(socket, Packet::Fin, now, dice);
        }
    }

    // What a driver tells of descriptors.

    pub(super) fn describe(&self, fd: i32) -> Descriptor {
        match self.sockets[self.index(fd)].kind {
            Kind::Plain => Descriptor {
                family: None,
                readable: true,
                writable: true,
                regular: false,
            },
            kind => Descriptor::socket(kind.family()),
        }
    }

    pub(super) fn hang_up(&self, fd: i32) -> HangUp {
        let at = self.index(fd);
        let socket = &self.sockets[at];
        let over = match socket.kind {
            Kind::Inet => socket.fin_arrived && socket.fin_sent,
            Kind::Datagram => false,
            Kind::Unix | Kind::Plain => socket.fin_arrived && self.peer_is_gone(at),
        };
        match (socket.error, over || socket.dead) {
            (Some(_), _) => HangUp::Failed,
            (None, true) => HangUp::Ended,
            (None, false) => HangUp::None,
        }
    }

    pub(super) fn readable_bytes(&self, fd: i32) -> usize {
        self.sockets[self.index(fd)].arrived.len()
    }

    pub(super) fn acked(&self, fd: i32) -> Option<u64> {
        let socket = &self.sockets[self.index(fd)];
        let peer = socket.peer.filter(|_| socket.kind == Kind::Inet)?;
        Some(self.sockets[peer].delivered)
    }

    pub(super) fn unacked(&self, fd: i32) -> usize {
        let socket = &self.sockets[self.index(fd)];
        let peer = socket.peer.filter(|_| socket.kind == Kind::Inet);
        peer.map_or(0, |peer| self.sockets[peer].wire_bytes)
    }

    pub(super) fn local_addr(&self, fd: i32) -> SockAddr {
        let at = self.index(fd);
        address_of(self.sockets[at].port, at)
    }

    /// All of them are at one address, and only their ports differ.
    pub(super) fn peer_addr(&self, fd: i32) -> Result<SockAddr, Errno> {
        let socket = &self.sockets[self.index(fd)];
        match socket.peer.filter(|_| !socket.dead) {
            Some(peer) => Ok(address_of(self.sockets[peer].port, peer)),
            None => Err(Errno::from_raw(libc::ENOTCONN)),
        }
    }

    /// Breaks a connection, both ways.
    pub(super) fn reset(&mut self, socket: usize, errno: i32) {
        self.sockets[socket].break_with(errno);
        if let Some(peer) = self.sockets[socket].peer {
            self.sockets[peer].break_with(libc::ECONNRESET);
        }
    }

    /// One step of a scripted peer.
    fn step(
        &mut self,
        at: usize,
        remote: &mut Remote,
        now: u64,
        dice: &mut Dice,
        trace: &mut Trace,
    ) {
        remote.state.next_at = u64::MAX;
        remote.state.steps += 1;
        if self.sockets[at].dead {
            trace.note(now, "  peer sees a reset", &[at as u64]);
            self.close(at, now, dice);
            return;
        }
        if remote.resets_after == Some(remote.state.steps) {
            trace.note(now, "  peer resets", &[at as u64]);
            self.post(at, Packet::Reset, now, dice);
            self.sockets[at].dead = true;
            self.close(at, now, dice);
            return;
        }
        let mut moved = false;
        let readable = self.sockets[at].arrived.len().min(remote.chunk);
        if readable != 0 && !remote.deaf {
            let bytes = self.take(at, readable, now, dice);
            remote.take(bytes);
            moved = true;
        }
        let socket = &self.sockets[at];
        remote.state.saw_end |= socket.fin_arrived && socket.arrived.is_empty();
        let n = remote.wants_to_send().min(remote.chunk);
        let n = n.min(self.room_to_send(at));
        if n != 0 && !self.sockets[at].fin_sent {
            let bytes = remote.give(n);
            self.sockets[at].sent += n as u64;
            self.post(at, Packet::Data(bytes), now, dice);
            moved = true;
        }
        if remote.has_sent_all() && !self.sockets[at].fin_sent {
            trace.note(now, "  peer has sent all", &[at as u64, remote.state.sent]);
            match remote.finish {
                Finish::HalfClose => self.half_close(at, now, dice),
                Finish::Wait if remote.state.saw_end => self.half_close(at, now, dice),
                Finish::Wait => {}
                Finish::Close => return self.close(at, now, dice),
                Finish::Reset => {
                    self.post(at, Packet::Reset, now, dice);
                    self.sockets[at].dead = true;
                    return self.close(at, now, dice);
                }
            }
        }
        if remote.state.saw_end && self.sockets[at].fin_sent {
            trace.note(now, "  peer closes", &[at as u64]);
            return self.close(at, now, dice);
        }
        if moved {
            remote.state.next_at = now + 1 + dice.range(0..remote.pace + 1);
        }
    }

    fn half_close(&mut self, at: usize, now: u64, dice: &mut Dice) {
        if self.shutdown(at, now, dice).is_err() {
            // A pipe has no half-close: it is closed.
            self.close(at, now, dice);
        }
    }

    // What a scenario checks.

    pub(crate) fn is_open(&self, socket: usize) -> bool {
        self.sockets[socket].open
    }

    pub(crate) fn is_dead(&self, socket: usize) -> bool {
        self.sockets[socket].dead
    }

    /// Whether a receive would have something to tell.
    pub(crate) fn is_readable(&self, socket: usize) -> bool {
        self.sockets[socket].readable()
    }

    /// Bytes that receives were given, and that were taken from sends.
    pub(crate) fn moved(&self, socket: usize) -> (u64, u64) {
        (self.sockets[socket].received, self.sockets[socket].sent)
    }

    pub(crate) fn can_send(&self, socket: usize) -> bool {
        self.room_to_send(socket) != 0
    }

    pub(crate) fn fin_sent(&self, socket: usize) -> bool {
        self.sockets[socket].fin_sent
    }

    pub(crate) fn kind(&self, socket: usize) -> Kind {
        self.sockets[socket].kind
    }

    /// Whether a script plays it.
    pub(crate) fn is_remote(&self, socket: usize) -> bool {
        self.sockets[socket].remote.is_some()
    }

    pub(crate) fn len(&self) -> usize {
        self.sockets.len()
    }
}
