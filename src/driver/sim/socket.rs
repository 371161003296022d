//! Stream sockets of the simulated kernel: bounded buffers, a wire between them, two ends of a
//! stream.

use std::collections::VecDeque;

use super::datagram::Datagrams;
use super::remote::Remote;
use crate::sys::Errno;

/// What a simulated descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Inet,
    Unix,
    /// An IPv4 socket for datagrams.
    Datagram,
    /// A pipe or terminal, both ways: it takes reads and writes, and has no half-close.
    Plain,
}

impl Kind {
    /// The address family that the layers above know it by; 0 for no socket at all.
    pub(crate) fn family(self) -> i32 {
        match self {
            Kind::Inet | Kind::Datagram => libc::AF_INET,
            Kind::Unix => libc::AF_UNIX,
            Kind::Plain => libc::AF_UNSPEC,
        }
    }

    pub(super) fn of_family(family: i32) -> Self {
        match family {
            libc::AF_UNIX => Kind::Unix,
            _ => Kind::Inet,
        }
    }
}

/// What travels on the wire towards a socket.
#[derive(Debug)]
pub(super) enum Packet {
    Data(Vec<u8>),
    Fin,
    Reset,
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(super) kind: Kind,
    pub(super) open: bool,
    pub(super) connected: bool,
    pub(super) peer: Option<usize>,
    /// Arrived, not received yet.
    pub(super) arrived: VecDeque<u8>,
    /// Under way, with the time of arrival; in order.
    pub(super) wire: VecDeque<(u64, Packet)>,
    pub(super) wire_bytes: usize,
    /// Bytes that may be under way and arrived together.
    pub(super) capacity: usize,
    pub(super) fin_arrived: bool,
    pub(super) fin_sent: bool,
    /// Broken: nothing moves any more.
    pub(super) dead: bool,
    /// The error that the next call is told (`SO_ERROR`).
    pub(super) error: Option<Errno>,
    /// Bytes handed to receives, bytes taken from sends.
    pub(super) received: u64,
    pub(super) sent: u64,
    /// Bytes that came over the wire, received or not.
    pub(super) delivered: u64,
    /// What it has if it is for datagrams.
    pub(super) datagrams: Datagrams,
    /// Connections that wait to be accepted, and how many may; if it listens.
    pub(super) backlog: Option<(usize, VecDeque<usize>)>,
    /// Where it is bound.
    pub(super) port: Option<u16>,
    /// Close resets the connection.
    pub(super) resets_on_close: bool,
    /// Who plays this end, if it is not the base under test.
    pub(super) remote: Option<Box<Remote>>,
}

impl Socket {
    pub(super) fn new(kind: Kind, capacity: usize) -> Self {
        Socket {
            kind,
            open: true,
            connected: false,
            peer: None,
            arrived: VecDeque::new(),
            wire: VecDeque::new(),
            wire_bytes: 0,
            capacity,
            fin_arrived: false,
            fin_sent: false,
            dead: false,
            error: None,
            received: 0,
            sent: 0,
            delivered: 0,
            datagrams: Datagrams::default(),
            backlog: None,
            port: None,
            resets_on_close: false,
            remote: None,
        }
    }

    /// How many more bytes may be sent to it.
    pub(super) fn room(&self) -> usize {
        self.capacity
            .saturating_sub(self.arrived.len() + self.wire_bytes)
    }

    /// Puts a packet on the wire, not to overtake what is there.
    pub(super) fn post(&mut self, at: u64, packet: Packet) {
        let at = self.wire.back().map_or(at, |(last, _)| at.max(*last));
        if let Packet::Data(bytes) = &packet {
            self.wire_bytes += bytes.len();
        }
        self.wire.push_back((at, packet));
    }

    /// The next packet that has arrived by `now`.
    pub(super) fn arrival(&mut self, now: u64) -> Option<Packet> {
        if self.wire.front()?.0 > now {
            return None;
        }
        let (_, packet) = self.wire.pop_front()?;
        if let Packet::Data(bytes) = &packet {
            self.wire_bytes -= bytes.len();
        }
        Some(packet)
    }

    /// Breaks it with an error.
    pub(super) fn break_with(&mut self, errno: i32) {
        if !self.dead {
            self.dead = true;
            self.error = Some(Errno::from_raw(errno));
        }
        self.wire.clear();
        self.wire_bytes = 0;
    }

    /// Whether it was broken by its peer, and nobody was told.
    pub(super) fn is_reset(&self) -> bool {
        self.kind == Kind::Inet && self.dead && self.error.is_some()
    }

    /// Whether a receive has something to tell.
    pub(super) fn readable(&self) -> bool {
        !self.arrived.is_empty()
            || !self.datagrams.arrived.is_empty()
            || self.error.is_some()
            || self.fin_arrived
            || self.dead
    }
}
