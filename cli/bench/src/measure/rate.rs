//! How exact, how fair and how dear a proxy's rate limit is.
//!
//! Every connection sends as fast as it is let; what comes out at the other end is counted,
//! compared and timed. The proxy sees its clients on one side and an upstream on the other; both
//! are here, in one loop of one thread.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use evring_cli_common::cpu::CpuTime;
use evring_cli_common::failure::Failure;
use evring_cli_common::pattern::Pattern;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use socket2::SockRef;

use super::{STALL, cpu};

/// Connections that wait to be accepted at a time.
const BATCH: usize = 64;
/// Read at once at most; also what a sender offers unless it is told to write less.
const IO_BYTES: usize = 64 << 10;
/// Events taken a turn.
const EVENTS: usize = 256;
/// How often the bytes that have arrived are noted.
const SAMPLE: Duration = Duration::from_millis(5);

/// The direction that is limited, as the proxy sees its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// What clients send.
    Read,
    /// What clients receive.
    Write,
}

/// A limit.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// What it limits.
    pub direction: Direction,
    /// Bytes a second.
    pub rate: u64,
    /// Whether each connection has it for itself, or all have it together.
    pub own: bool,
    /// How often a tick's bytes become available. They are lost when the machine keeps a proxy
    /// waiting for longer.
    pub tick: Duration,
}

impl Limit {
    /// The options that `evring proxy` and `libevent-proxy` understand alike.
    pub fn arguments(&self) -> [String; 4] {
        let scope = if self.own { "" } else { "group-" };
        let direction = match self.direction {
            Direction::Read => "read",
            Direction::Write => "write",
        };
        [
            format!("--{scope}limit-{direction}"),
            self.rate.to_string(),
            "--tick".to_owned(),
            self.tick.as_millis().to_string(),
        ]
    }
}

/// What goes through the limit.
#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    /// Connections that send all the time.
    pub connections: usize,
    /// Bytes that a sender offers at once; without it as many as go in.
    pub write_bytes: Option<usize>,
    /// Time before the measured one. With a thousand connections a group takes a second or two to
    /// settle.
    pub warm_up: Duration,
    /// Time measured: many ticks.
    pub measured: Duration,
}

/// What was found.
#[derive(Debug, Clone, Copy)]
pub struct Limited {
    /// Bytes that arrived in the measured time.
    pub bytes: u64,
    /// How far the rate was from the limit: 0.01 is 1 % too fast. The rate is the slope of a line
    /// through samples of what has arrived, so that it makes no difference to it whether the
    /// measured time begins just before or just after a tick.
    pub error: f64,
    /// Jain's index over the bytes of each connection: 1 for equal shares, 1/n when one of n has
    /// all.
    pub jain: f64,
    /// The smallest share, where 1 is a fair one.
    pub least_share: f64,
    /// What the proxy used.
    pub proxy: CpuTime,
}

impl Limited {
    /// The proxy's processor time for a megabyte (10⁶ bytes), in microseconds.
    pub fn cpu_us_per_megabyte(&self) -> f64 {
        self.proxy.ran.as_secs_f64() * 1e6 / (self.bytes as f64 / 1e6)
    }
}

/// Loads the proxy at `proxy`, process `pid`, which was started with [`Limit::arguments`] and whose
/// upstream is `upstream`.
///
/// # Errors
///
/// A connection that fails or breaks off; a byte that is another; nothing arrives; a process that
/// is not there.
pub fn run(
    upstream: &TcpListener,
    proxy: SocketAddr,
    pid: u32,
    limit: &Limit,
    traffic: &Traffic,
) -> Result<Limited, Failure> {
    let wrong = |error| Failure::new("the connections through the proxy", error);
    let mut ends = Ends::connect(upstream, proxy, limit.direction, traffic).map_err(wrong)?;
    ends.move_for(traffic.warm_up).map_err(wrong)?;
    let (earlier, before) = (ends.received(), cpu(pid)?);
    let samples = ends.move_for(traffic.measured).map_err(wrong)?;
    let (later, after) = (ends.received(), cpu(pid)?);
    let moved: Vec<f64> = earlier
        .iter()
        .zip(&later)
        .map(|(earlier, later)| (later - earlier) as f64)
        .collect();
    let total: f64 = moved.iter().sum();
    if total == 0.0 {
        return Err(Failure::line("nothing came through the rate limit"));
    }
    let sharers = if limit.own { moved.len() } else { 1 };
    let expected = limit.rate as f64 * sharers as f64;
    let least = moved.iter().copied().fold(f64::INFINITY, f64::min);
    Ok(Limited {
        bytes: total as u64,
        error: slope(&samples) / expected - 1.0,
        jain: jain(&moved),
        least_share: least * moved.len() as f64 / total,
        proxy: after.since(&before),
    })
}

fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// The slope of the line through the points (seconds, bytes) that has the least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean_x = points.iter().map(|point| point.0).sum::<f64>() / count;
    let mean_y = points.iter().map(|point| point.1).sum::<f64>() / count;
    let covariance: f64 = points
        .iter()
        .map(|(x, y)| (x - mean_x) * (y - mean_y))
        .sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    covariance / variance
}

/// One end of a connection, and how many bytes of the pattern it has sent or received.
struct End {
    stream: TcpStream,
    bytes: u64,
}

/// The clients of a proxy and the upstream behind it. In the loop, senders are numbered first.
struct Ends {
    epoll: rustix::fd::OwnedFd,
    pattern: Pattern,
    write_bytes: usize,
    senders: Vec<End>,
    receivers: Vec<End>,
    scratch: Vec<u8>,
}

impl Ends {
    fn connect(
        upstream: &TcpListener,
        proxy: SocketAddr,
        direction: Direction,
        traffic: &Traffic,
    ) -> io::Result<Self> {
        // On Linux the time limit for receiving is that for accepting.
        SockRef::from(upstream).set_read_timeout(Some(STALL))?;
        let count = traffic.connections.max(1);
        let (mut clients, mut served) = (Vec::new(), Vec::new());
        while clients.len() < count {
            for _ in 0..BATCH.min(count - clients.len()) {
                clients.push(TcpStream::connect_timeout(&proxy, STALL)?);
            }
            while served.len() < clients.len() {
                served.push(upstream.accept()?.0);
            }
        }
        let (senders, receivers) = match direction {
            Direction::Read => (clients, served),
            Direction::Write => (served, clients),
        };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let sending = senders
            .iter()
            .zip(std::iter::repeat(epoll::EventFlags::OUT));
        let receiving = receivers
            .iter()
            .zip(std::iter::repeat(epoll::EventFlags::IN));
        for ((stream, interest), index) in sending.chain(receiving).zip(0..) {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            epoll::add(&epoll, stream, epoll::EventData::new_u64(index), interest)?;
        }
        let end = |stream| End { stream, bytes: 0 };
        Ok(Self {
            epoll,
            pattern: Pattern::new(),
            write_bytes: traffic.write_bytes.unwrap_or(IO_BYTES).clamp(1, IO_BYTES),
            senders: senders.into_iter().map(end).collect(),
            receivers: receivers.into_iter().map(end).collect(),
            scratch: vec![0; IO_BYTES],
        })
    }

    /// What each receiver has.
    fn received(&self) -> Vec<u64> {
        self.receivers.iter().map(|end| end.bytes).collect()
    }

    /// Moves bytes for so long. Gives what had arrived by when: (seconds, bytes), every few
    /// milliseconds.
    fn move_for(&mut self, time: Duration) -> io::Result<Vec<(f64, f64)>> {
        let began = Instant::now();
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: SAMPLE.subsec_nanos().into(),
        };
        let mut events = Vec::with_capacity(EVENTS);
        let (mut samples, mut total) = (Vec::new(), 0);
        loop {
            let elapsed = began.elapsed();
            if elapsed >= time {
                return Ok(samples);
            }
            if elapsed >= SAMPLE * samples.len() as u32 {
                samples.push((elapsed.as_secs_f64(), total as f64));
            }
            epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout))?;
            for event in events.drain(..) {
                let event: epoll::Event = event;
                let index = event.data.u64() as usize;
                match index.checked_sub(self.senders.len()) {
                    None => self.send(index)?,
                    Some(index) => total += self.receive(index)?,
                }
            }
        }
    }

    fn send(&mut self, index: usize) -> io::Result<()> {
        let end = &mut self.senders[index];
        let piece = self.pattern.piece(end.bytes, self.write_bytes);
        match end.stream.write(&piece) {
            Ok(sent) => end.bytes += sent as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn receive(&mut self, index: usize) -> io::Result<u64> {
        let end = &mut self.receivers[index];
        let got = match end.stream.read(&mut self.scratch) {
            Ok(0) => return Err(io::Error::other("the proxy closed one")),
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error),
        };
        let wrong = self
            .pattern
            .first_difference(end.bytes, &self.scratch[..got]);
        if let Some(at) = wrong {
            let text = format!("byte {at} is not what was sent");
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        end.bytes += got as u64;
        Ok(got as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_through_steps_has_their_slope() {
        // Ten bytes every tenth of a second, seen every hundredth.
        let stairs: Vec<(f64, f64)> = (0..1000)
            .map(|at| (f64::from(at) / 100.0, f64::from(at / 10) * 10.0))
            .collect();
        assert!((slope(&stairs) - 100.0).abs() < 0.1, "{}", slope(&stairs));
    }

    #[test]
    fn equal_shares_are_fair() {
        assert_eq!(jain(&[3.0, 3.0, 3.0]), 1.0);
        assert_eq!(jain(&[0.0, 0.0, 5.0, 0.0]), 0.25);
    }
}
