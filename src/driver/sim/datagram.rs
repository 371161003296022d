//! Datagrams: lost, doubled, late, out of order; and servers that answer them.

use std::collections::VecDeque;
use std::fmt;

use super::dice::Dice;
use super::net::Net;
use super::socket::Kind;
use crate::sys::Errno;

/// What a network does to datagrams. Chances are per thousand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    pub(crate) lost: u32,
    pub(crate) doubled: u32,
    /// Nanoseconds that one is under way at most, each for itself: they overtake one another.
    pub(crate) latency: u64,
}

/// Answers what is sent to a port: with none, one or several datagrams.
type Answer = Box<dyn FnMut(&[u8]) -> Vec<Vec<u8>>>;

pub(super) struct Server(pub(super) Answer);

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server")
    }
}

/// The datagram part of a socket.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    /// The port that it is connected to.
    pub(super) to: Option<u16>,
    pub(super) arrived: VecDeque<Vec<u8>>,
}

/// Something under way to a socket.
#[derive(Debug)]
pub(super) struct Flying {
    at: u64,
    socket: usize,
    /// Or the news that nobody serves the port.
    what: Result<Vec<u8>, Errno>,
}

impl Net {
    /// Has somebody answer what is sent to a port.
    pub(crate) fn serve(&mut self, port: u16, answer: impl FnMut(&[u8]) -> Vec<Vec<u8>> + 'static) {
        self.servers.insert(port, Server(Box::new(answer)));
    }

    /// Sends a datagram to where the socket is connected to; false if it is not.
    pub(super) fn send_datagram(
        &mut self,
        socket: usize,
        bytes: &[u8],
        now: u64,
        dice: &mut Dice,
    ) -> bool {
        let Some(to) = self.sockets[socket].datagrams.to else {
            return false;
        };
        for there in self.copies(dice) {
            match self.servers.get_mut(&to) {
                None => self.fly(
                    now + there,
                    socket,
                    Err(Errno::from_raw(libc::ECONNREFUSED)),
                ),
                Some(Server(answer)) => {
                    for reply in answer(bytes) {
                        for back in self.copies(dice) {
                            self.fly(now + there + back, socket, Ok(reply.clone()));
                        }
                    }
                }
            }
        }
        true
    }

    /// How long each copy of a datagram that arrives is under way.
    fn copies(&self, dice: &mut Dice) -> Vec<u64> {
        let Weather {
            lost,
            doubled,
            latency,
        } = self.weather;
        let count = match dice.permille(lost) {
            true => 0,
            false => 1 + usize::from(dice.permille(doubled)),
        };
        (0..count).map(|_| dice.range(0..latency + 1)).collect()
    }

    fn fly(&mut self, at: u64, socket: usize, what: Result<Vec<u8>, Errno>) {
        self.flying.push(Flying { at, socket, what });
    }

    /// When the next one arrives.
    pub(super) fn next_datagram(&self) -> Option<u64> {
        self.flying.iter().map(|flying| flying.at).min()
    }

    /// Lets all that is due by `now` arrive.
    pub(super) fn land(&mut self, now: u64) {
        let mut due: Vec<Flying> = self.flying.extract_if(.., |f| f.at <= now).collect();
        due.sort_by_key(|flying| flying.at);
        for Flying { socket, what, .. } in due {
            let socket = &mut self.sockets[socket];
            match what {
                _ if !socket.open => {}
                Ok(bytes) => socket.datagrams.arrived.push_back(bytes),
                Err(errno) => socket.error = Some(errno),
            }
        }
    }

    pub(super) fn is_datagram(&self, socket: usize) -> bool {
        self.sockets[socket].kind == Kind::Datagram
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Faults, Sim};
    use super::Weather;
    use crate::driver::{Driver, Op, SendHow, Wait};
    use crate::evbuffer::EvBuffer;
    use crate::sys::SockAddr;
    use std::net::SocketAddr;
    use std::time::Duration;

    fn receive(fd: i32, max_len: u32) -> Op {
        Op::Recv {
            fd,
            multishot: false,
            max_len,
            arm_limit: 0,
            bundle: false,
            poll_first: false,
        }
    }

    /// The next completion's result and bytes, or none within so long.
    fn next(sim: &mut Sim, within: Duration) -> Option<Result<Vec<u8>, i32>> {
        sim.refill();
        let end = sim.now() + within.as_nanos() as u64;
        loop {
            if let Some(done) = sim.next() {
                let bytes = done.buffer.map_or(Vec::new(), |piece| piece.to_vec());
                return Some(done.result.map(|_| bytes).map_err(|errno| errno.raw()));
            }
            let left = end.checked_sub(sim.now()).filter(|left| *left != 0)?;
            sim.enter(Wait::Until(Some(Duration::from_nanos(left))))
                .expect("a simulated one");
        }
    }

    fn connected(sim: &mut Sim, port: u16) -> i32 {
        let fd = sim
            .socket(libc::AF_INET, libc::SOCK_DGRAM)
            .expect("a socket");
        let addr = SockAddr::from(SocketAddr::from(([127, 0, 0, 1], port)));
        sim.push(1, Op::Connect { fd, addr });
        assert_eq!(next(sim, Duration::from_secs(1)), Some(Ok(Vec::new())));
        fd
    }

    fn ask(sim: &mut Sim, fd: i32, question: &[u8]) {
        let mut output = EvBuffer::new();
        output.add(question).expect("not frozen");
        let how = SendHow::Socket { wait_all: false };
        let (_, given) = sim.send(2, fd, &output, usize::MAX, how);
        assert_eq!(given, question.len());
        assert_eq!(next(sim, Duration::from_secs(1)), Some(Ok(Vec::new())));
    }

    #[test]
    fn a_datagram_is_answered_whole_or_cut_to_the_slot() {
        let (mut sim, world) = Sim::new(1, Faults::none(), false);
        world
            .borrow_mut()
            .net
            .serve(53, |question| vec![question.repeat(2), b"more".to_vec()]);
        let fd = connected(&mut sim, 53);
        ask(&mut sim, fd, b"who");
        for (most, expected) in [(0, &b"whowho"[..]), (2, b"mo")] {
            sim.push(3, receive(fd, most));
            let got = next(&mut sim, Duration::from_secs(1));
            assert_eq!(got, Some(Ok(expected.to_vec())));
        }
        ask(&mut sim, fd, b"x");
        sim.push(3, receive(fd, 0));
        assert_eq!(
            next(&mut sim, Duration::from_secs(1)),
            Some(Ok(b"xx".to_vec())),
            "not the rest"
        );
        sim.close(fd);
    }

    #[test]
    fn datagrams_are_lost_and_doubled_and_nobody_serves_a_port() {
        let (mut sim, world) = Sim::new(2, Faults::none(), false);
        world
            .borrow_mut()
            .net
            .serve(53, |question| vec![question.to_vec()]);
        world.borrow_mut().net.weather = Weather {
            lost: 1000,
            ..Weather::default()
        };
        let fd = connected(&mut sim, 53);
        ask(&mut sim, fd, b"lost");
        let waiting = sim.push(3, receive(fd, 0));
        assert_eq!(next(&mut sim, Duration::from_secs(5)), None);
        world.borrow_mut().net.weather = Weather {
            doubled: 1000,
            latency: 1_000_000,
            lost: 0,
        };
        let _ = waiting;
        ask_and_count(&mut sim, fd);
        let nobody = connected(&mut sim, 54);
        ask(&mut sim, nobody, b"anybody?");
        sim.push(3, receive(nobody, 0));
        let refused = next(&mut sim, Duration::from_secs(1));
        assert_eq!(refused, Some(Err(libc::ECONNREFUSED)));
    }

    /// Both ways doubled: four answers.
    fn ask_and_count(sim: &mut Sim, fd: i32) {
        let mut output = EvBuffer::new();
        output.add(b"twice").expect("not frozen");
        sim.send(
            2,
            fd,
            &output,
            usize::MAX,
            SendHow::Socket { wait_all: true },
        );
        let mut answers = 0;
        while let Some(done) = next(sim, Duration::from_secs(1)) {
            if done == Ok(b"twice".to_vec()) {
                answers += 1;
                sim.push(3, receive(fd, 0));
            }
        }
        assert_eq!(answers, 4);
    }
}
