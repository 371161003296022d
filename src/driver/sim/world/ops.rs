//! What each operation does when it goes on.

use super::super::listen::{KNOCK_AGAIN_NS, Knock};
use super::super::net::{Target, fd_of};
use super::super::socket::Packet;
use super::{Entry, Move, World, name_of};
use crate::arena::{Piece, Slot};
use crate::driver::{HangUp, Op};
use crate::sys::Errno;

impl World {
    /// A fault that ends an operation with an error.
    fn misfortune(&mut self, at: usize) -> Option<Errno> {
        if self.dice.permille(self.faults.no_memory) {
            return Some(Errno::from_raw(libc::ENOMEM));
        }
        if self.dice.permille(self.faults.broken) {
            let errno = self.dice.pick(&[libc::ECONNRESET, libc::ETIMEDOUT]);
            self.net.reset(at, errno);
        }
        None
    }

    pub(super) fn receive(&mut self, id: u64, at: usize) {
        if !self.net.sockets[at].readable() {
            return;
        }
        if self.ops[&id].deaf {
            return;
        }
        if let Some(errno) = self.misfortune(at) {
            return self.finish(id, Err(errno));
        }
        if self.dice.permille(self.faults.spurious) {
            let errno = self
                .dice
                .pick(&[libc::ECANCELED, libc::EINTR, libc::EAGAIN]);
            self.idle_enters = 0;
            return self.finish(id, Err(Errno::from_raw(errno)));
        }
        if self.net.is_datagram(at) {
            return self.receive_datagram(id, at);
        }
        loop {
            let available = self.net.sockets[at].arrived.len();
            let entry = self.ops.get_mut(&id).expect("looked up by the caller");
            let own_slot = !matches!(entry.op, Op::Recv { .. });
            if available == 0 {
                let socket = &mut self.net.sockets[at];
                let no_slot = !own_slot && self.window.is_empty();
                if no_slot && socket.readable() && self.dice.percent(50) {
                    // The kernel picks a buffer before it looks.
                    return self.finish(id, Err(Errno::NOBUFS));
                }
                match socket.error.take() {
                    Some(errno) => self.finish(id, Err(errno)),
                    None if socket.fin_arrived || socket.dead => self.finish(id, Ok(0)),
                    None => {}
                }
                return;
            }
            let (slot, most, multishot, limit) = match entry.op {
                Op::Recv {
                    multishot,
                    max_len,
                    arm_limit,
                    ..
                } => {
                    let Some(slot) = self.window.pop() else {
                        self.counters.enobufs += 1;
                        return self.finish(id, Err(Errno::NOBUFS));
                    };
                    (slot, max_len, multishot, arm_limit as usize)
                }
                Op::RecvSlot { max_len, .. } | Op::Read { max_len, .. } => {
                    (take_slot(entry), max_len, false, 0)
                }
                ref other => unreachable!("no receive: {other:?}"),
            };
            let most = match most {
                0 => slot.capacity(),
                most => slot.capacity().min(most as usize),
            };
            // A single receive stands in for one with a limit.
            let most = match limit {
                limit if limit != 0 && !multishot => most.min(limit),
                _ => most,
            };
            let mut n = available.min(most);
            if self.dice.permille(self.faults.split) {
                n = self.dice.part(n);
            }
            let bytes = self.net.take(at, n, self.now, &mut self.dice);
            self.log_move(id, at, false, n);
            let entry = self.ops.get_mut(&id).expect("still there");
            entry.moved += n;
            let spent = limit != 0 && entry.moved >= limit;
            let more = multishot && !spent && !self.dice.permille(self.faults.end_multishot);
            self.complete(id, Ok(n as u32), more, Some(slot.filled_with(&bytes)));
            if !more {
                return;
            }
            let socket = &self.net.sockets[at];
            let reset_behind = socket.is_reset() && socket.arrived.is_empty();
            if reset_behind && self.dice.permille(self.faults.deaf_to_resets) {
                self.note("  hears no reset", &[id, at as u64]);
                self.ops.get_mut(&id).expect("it goes on").deaf = true;
                return;
            }
            if self.dice.permille(self.faults.split) {
                // The rest another time.
                return;
            }
        }
    }

    /// One datagram a completion, cut to the slot.
    fn receive_datagram(&mut self, id: u64, at: usize) {
        if let Some(errno) = self.net.sockets[at].error.take() {
            return self.finish(id, Err(errno));
        }
        while !self.net.sockets[at].datagrams.arrived.is_empty() {
            let entry = self.ops.get_mut(&id).expect("looked up by the caller");
            let (slot, most, multishot) = match entry.op {
                Op::Recv {
                    multishot, max_len, ..
                } => {
                    let Some(slot) = self.window.pop() else {
                        return self.finish(id, Err(Errno::NOBUFS));
                    };
                    (slot, max_len as usize, multishot)
                }
                Op::RecvSlot { max_len, .. } | Op::Read { max_len, .. } => {
                    (take_slot(entry), max_len as usize, false)
                }
                ref other => unreachable!("no receive: {other:?}"),
            };
            let first = self.net.sockets[at].datagrams.arrived.pop_front();
            let bytes = first.expect("one has arrived");
            let most = if most == 0 {
                slot.capacity()
            } else {
                most.min(slot.capacity())
            };
            let n = bytes.len().min(most);
            let more = multishot && !self.dice.permille(self.faults.end_multishot);
            self.complete(id, Ok(n as u32), more, Some(slot.filled_with(&bytes[..n])));
            if !more {
                return;
            }
        }
    }

    pub(super) fn send(&mut self, id: u64, at: usize) {
        let entry = &self.ops[&id];
        let (pieces, wait_all) = match &entry.op {
            Op::Send {
                pieces, wait_all, ..
            } => (pieces, *wait_all),
            Op::Write { pieces, .. } => (pieces, false),
            other => unreachable!("no send: {other:?}"),
        };
        let (moved, total) = (entry.moved, pieces.bytes());
        if self.net.is_datagram(at) {
            let bytes = range_of(pieces.as_slice(), 0, total);
            let sent = self.net.send_datagram(at, &bytes, self.now, &mut self.dice);
            let refused = Errno::from_raw(libc::EDESTADDRREQ);
            return self.finish(id, if sent { Ok(total as u32) } else { Err(refused) });
        }
        assert_ne!(total, 0, "an empty send");
        let socket = &mut self.net.sockets[at];
        assert!(!socket.fin_sent, "a send behind the end of the stream");
        let gone = socket.dead || self.net.peer_is_gone(at);
        if gone {
            let told = self.net.sockets[at].error;
            let result = match (moved, told) {
                (0, Some(errno)) => {
                    self.net.sockets[at].error = None;
                    Err(errno)
                }
                (0, None) => Err(Errno::from_raw(libc::EPIPE)),
                (moved, _) => Ok(moved as u32),
            };
            return self.finish(id, result);
        }
        let mut n = self.net.room_to_send(at).min(total - moved);
        if n == 0 {
            return;
        }
        if self.dice.permille(self.faults.split) {
            n = self.dice.part(n);
        }
        let bytes = range_of(pieces.as_slice(), moved, n);
        if moved == 0
            && let Some(errno) = self.misfortune(at)
        {
            return self.finish(id, Err(errno));
        }
        if moved == 0 && self.dice.permille(self.faults.interrupted) {
            let errno = self.dice.pick(&[libc::EINTR, libc::EAGAIN]);
            self.idle_enters = 0;
            return self.finish(id, Err(Errno::from_raw(errno)));
        }
        self.idle_enters = 0;
        let packet = Packet::Data(bytes);
        self.net.post(at, packet, self.now, &mut self.dice);
        self.net.sockets[at].sent += n as u64;
        self.log_move(id, at, true, n);
        let entry = self.ops.get_mut(&id).expect("looked up above");
        entry.moved += n;
        let moved = entry.moved;
        if moved == total || !wait_all {
            self.finish(id, Ok(moved as u32));
        }
    }

    pub(super) fn meets(&self, addr: &crate::sys::SockAddr) -> Target {
        let port = addr.to_socket_addr().map_or(0, |addr| addr.port());
        self.net.target(port)
    }

    pub(super) fn connect(&mut self, id: u64, at: usize) {
        let Op::Connect { addr, .. } = &self.ops[&id].op else {
            return;
        };
        if self.net.is_datagram(at) {
            // It only notes where to.
            self.net.sockets[at].datagrams.to = addr.to_socket_addr().map(|addr| addr.port());
            return self.finish(id, Ok(0));
        }
        if self.ops[&id].due > self.now {
            return;
        }
        match self.meets(addr) {
            Target::Silent => {}
            Target::Listens(listener) => match self.net.knock(at, listener, &mut self.dice) {
                Knock::Refused => self.finish(id, Err(Errno::from_raw(libc::ECONNREFUSED))),
                Knock::Full => {
                    let entry = self.ops.get_mut(&id).expect("looked up above");
                    entry.due = self.now + KNOCK_AGAIN_NS;
                }
                Knock::Taken => self.finish(id, Ok(0)),
            },
            Target::Refuses(errno) => self.finish(id, Err(Errno::from_raw(errno))),
            Target::Accepts(peer) if self.net.sockets[peer].peer.is_some() => {
                // It has one connection to give.
                self.finish(id, Err(Errno::from_raw(libc::ECONNREFUSED)));
            }
            Target::Accepts(peer) if !self.net.sockets[peer].open => {
                self.finish(id, Err(Errno::from_raw(libc::ECONNREFUSED)));
            }
            Target::Accepts(peer) => {
                self.net.sockets[at].kind = self.net.sockets[peer].kind;
                self.net.join(at, peer);
                self.finish(id, Ok(0));
            }
        }
    }

    /// Takes connections out of the backlog; now and then there is no descriptor for one.
    pub(super) fn accept(&mut self, id: u64, at: usize) {
        let Op::Accept { multishot, .. } = self.ops[&id].op else {
            return;
        };
        while self.net.waiting(at) != 0 {
            if self.dice.permille(self.faults.no_descriptor) {
                let errno = self.dice.pick(&[libc::EMFILE, libc::ENFILE, libc::ENOBUFS]);
                return self.finish(id, Err(Errno::from_raw(errno)));
            }
            let (socket, fd) = self.net.take_waiting(at);
            let more = multishot && !self.dice.permille(self.faults.end_multishot);
            self.bring(id, Ok(socket as u32), more, None, Some(fd));
            if !more || self.dice.permille(self.faults.split) {
                return;
            }
        }
    }

    pub(super) fn poll(&mut self, id: u64, at: usize) {
        let Op::Poll { events, .. } = self.ops[&id].op else {
            return;
        };
        let socket = &self.net.sockets[at];
        let found = match events as i16 {
            libc::POLLIN if socket.readable() => events,
            libc::POLLIN => 0,
            // It looks for nothing but the end.
            0 => match self.net.hang_up(fd_of(at)) {
                HangUp::Failed => libc::POLLERR as u32,
                HangUp::Ended => libc::POLLHUP as u32,
                HangUp::None => 0,
            },
            _ if socket.connected || socket.error.is_some() => events,
            _ => 0,
        };
        if found != 0 {
            self.finish(id, Ok(found));
        }
    }

    fn log_move(&mut self, op: u64, socket: usize, write: bool, bytes: usize) {
        if let Some(moves) = &mut self.moves {
            moves.push(Move {
                at: self.now,
                socket,
                write,
                bytes: bytes as u64,
                op,
                queued_at: self.ops[&op].queued_at,
            });
        }
    }
}

/// The part of `pieces` from `skip` on, `n` bytes.
fn range_of(pieces: &[Piece], skip: usize, n: usize) -> Vec<u8> {
    let bytes = pieces.iter().flat_map(|piece| piece.iter().copied());
    bytes.skip(skip).take(n).collect()
}

/// An operation's own slot, for the completion that ends it.
fn take_slot(entry: &mut Entry) -> Slot {
    let (_, fd) = name_of(&entry.op);
    let op = std::mem::replace(
        &mut entry.op,
        Op::Recv {
            fd,
            multishot: false,
            max_len: 0,
            arm_limit: 0,
            bundle: false,
            poll_first: false,
        },
    );
    match op {
        Op::RecvSlot { slot, .. } | Op::Read { slot, .. } => slot,
        other => unreachable!("no slot of its own: {other:?}"),
    }
}
