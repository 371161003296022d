//! Listening: ports, backlogs, peers that connect, and the descriptors of what is accepted.

use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::dice::{Dice, Trace};
use super::net::{Net, Target};
use super::socket::Kind;
use crate::sys::Errno;

/// When a connection that found the backlog full tries again.
pub(super) const KNOCK_AGAIN_NS: u64 = 200_000_000;

/// An accepted connection's descriptor. The program owns it and may close it by a drop, so it is a
/// real one: an end of a socket pair, whose other end shows when it is closed.
#[derive(Debug)]
pub(super) struct Handed {
    fd: i32,
    other: UnixStream,
}

/// What a connect to a listener meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Knock {
    Taken,
    Full,
    Refused,
}

impl Net {
    pub(super) fn bind(&mut self, at: usize, port: u16) -> Result<(), Errno> {
        let taken = self.ports.contains_key(&port);
        if taken {
            return Err(Errno::from_raw(libc::EADDRINUSE));
        }
        // Port 0 takes any.
        self.sockets[at].port = (port != 0).then_some(port);
        Ok(())
    }

    pub(super) fn begin_listening(&mut self, at: usize, backlog: i32) {
        let most = usize::try_from(backlog).unwrap_or(0).max(1);
        self.sockets[at].backlog = Some((most, VecDeque::new()));
        if let Some(port) = self.sockets[at].port {
            self.ports.insert(port, Target::Listens(at));
        }
    }

    /// Nobody accepts any more: who waits is reset.
    pub(super) fn end_listening(&mut self, at: usize, now: u64, dice: &mut Dice) {
        if let Some(port) = self.sockets[at].port {
            self.ports.remove(&port);
        }
        let waiting = self.sockets[at].backlog.take();
        for socket in waiting.into_iter().flat_map(|(_, waiting)| waiting) {
            self.sockets[socket].resets_on_close = true;
            self.close(socket, now, dice);
        }
    }

    /// The socket that listens on a port.
    pub(crate) fn listener_on(&self, port: u16) -> usize {
        match self.target(port) {
            Target::Listens(at) => at,
            other => panic!("nobody listens on {port}: {other:?}"),
        }
    }

    /// Connects `from` to a listener, if that has room for one more.
    pub(super) fn knock(&mut self, from: usize, listener: usize, dice: &mut Dice) -> Knock {
        let Some((most, waiting)) = &self.sockets[listener].backlog else {
            return Knock::Refused;
        };
        if waiting.len() >= *most {
            return Knock::Full;
        }
        let capacity = dice.pick(&[100, 5000, 20_000, 70_000]);
        let accepted = self.socket(Kind::Inet, capacity);
        self.sockets[from].kind = Kind::Inet;
        self.join(from, accepted);
        if let Some((_, waiting)) = &mut self.sockets[listener].backlog {
            waiting.push_back(accepted);
        }
        Knock::Taken
    }

    /// Has a scripted peer connect to a port.
    pub(crate) fn dial(&mut self, at: u64, from: usize, port: u16) {
        self.dials.push((at, from, port));
    }

    pub(super) fn dial_due(&mut self, now: u64, dice: &mut Dice, trace: &mut Trace) {
        let due: Vec<_> = self.dials.extract_if(.., |(at, _, _)| *at <= now).collect();
        for (_, from, port) in due {
            let knocked = match self.target(port) {
                Target::Listens(listener) => self.knock(from, listener, dice),
                _ => Knock::Refused,
            };
            trace.note(now, "  peer connects", &[from as u64, knocked as u64]);
            match knocked {
                Knock::Taken => {}
                Knock::Full => self.dial(now + KNOCK_AGAIN_NS, from, port),
                Knock::Refused => self.close(from, now, dice),
            }
        }
    }

    /// Connections that wait to be accepted.
    pub(crate) fn waiting(&self, listener: usize) -> usize {
        let backlog = self.sockets[listener].backlog.as_ref();
        backlog.map_or(0, |(_, waiting)| waiting.len())
    }

    /// Who waits longest, and a descriptor for it.
    pub(super) fn take_waiting(&mut self, listener: usize) -> (usize, OwnedFd) {
        let backlog = self.sockets[listener].backlog.as_mut();
        let first = backlog.and_then(|(_, waiting)| waiting.pop_front());
        let socket = first.expect("somebody waits");
        let (ours, other) = UnixStream::pair().expect("descriptors for a pair");
        other.set_nonblocking(true).expect("a socket");
        let fd = ours.as_raw_fd();
        self.handed.insert(socket, Handed { fd, other });
        (socket, OwnedFd::from(ours))
    }

    /// The accepted connection that a descriptor belongs to.
    pub(super) fn handed_as(&self, fd: i32) -> Option<usize> {
        let mut handed = self.handed.iter();
        handed
            .find(|(_, handed)| handed.fd == fd)
            .map(|(at, _)| *at)
    }

    /// It is closed by the driver; says whether it was handed out.
    pub(super) fn forget_handed(&mut self, socket: usize) -> bool {
        self.handed.remove(&socket).is_some()
    }

    /// Accepted connections whose descriptors were dropped since the last look.
    pub(super) fn dropped(&mut self) -> Vec<usize> {
        let is_dropped = |handed: &mut Handed| matches!(handed.other.read(&mut [0]), Ok(0));
        let gone = self.handed.iter_mut();
        let gone: Vec<usize> = gone
            .filter_map(|(at, h)| is_dropped(h).then_some(*at))
            .collect();
        for at in &gone {
            self.handed.remove(at);
        }
        gone
    }

    /// Who is at the other end of a connection.
    pub(crate) fn peer_of(&self, socket: usize) -> Option<usize> {
        self.sockets[socket].peer
    }

    /// The streams of a scripted peer: what it sends, and what it expects.
    pub(crate) fn streams_of(&self, socket: usize) -> Option<(u32, u32)> {
        let remote = self.sockets[socket].remote.as_ref()?;
        Some((remote.sends, remote.expects))
    }
}
