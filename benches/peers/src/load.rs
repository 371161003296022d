//! A closed-loop load generator on epoll: every connection keeps `depth` messages under way and sends the next when one
//! has come back. Every byte that comes back is compared with what was sent.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;

use crate::cpu::{CpuReading, CpuUse};
use crate::epoll::{Epoll, IN, OUT, READABLE, Ready, read, write};
use crate::server::raise_descriptor_limit;

/// Read or written at once at most.
const IO_BYTES: usize = 64 * 1024;
/// Events taken a turn.
const BATCH: usize = 512;
/// The stream of a connection repeats after this many bytes. A prime, so that messages of a round size never begin at the
/// same place twice in a row, and small enough to stay in the cache.
const PERIOD: usize = 65_521;
/// How far apart the streams of neighbouring connections begin.
const STREAM_STRIDE: usize = 7_919;
/// Waiting that long for a connection or for any answer is a failure.
const STALL: Duration = Duration::from_secs(5);
/// Latencies are kept to three digits up to this.
const MAX_LATENCY_NS: u64 = 60_000_000_000;

/// What to send, and to whom.
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// The server
    #[arg(long, value_name = "ADDR")]
    pub connect: SocketAddr,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub connections: usize,
    /// Bytes of a message
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    pub size: usize,
    /// Messages under way on each connection
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub depth: usize,
    /// Seconds measured
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    pub seconds: f64,
    /// Seconds run before that
    #[arg(long, value_name = "S", default_value_t = 0.5)]
    pub warm_up: f64,
    /// Also report the CPU time that this process uses meanwhile
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
}

/// What came out of the measured time.
#[derive(Debug, Clone)]
pub struct Report {
    /// The time measured.
    pub elapsed: Duration,
    /// Messages that came back in it.
    pub messages: u64,
    /// Bytes of those messages, counted once (they crossed twice).
    pub bytes: u64,
    /// From the write of a message to the read of its last byte, nanoseconds.
    pub latency_ns: Histogram<u64>,
    /// Of all threads of `server_pid`.
    pub server_cpu: Option<CpuUse>,
    /// Of the load generator: near `elapsed` it was the bottleneck.
    pub load_cpu: Option<CpuUse>,
}

/// Connects, warms up, measures, waits for what is still under way, and reports.
///
/// # Errors
///
/// Arguments that make no sense, a connection that cannot be made or breaks off, bytes that differ from what was sent
/// (`InvalidData`), or no answer at all for five seconds (`TimedOut`).
pub fn run(args: &LoadArgs) -> io::Result<Report> {
    if args.connections == 0 || args.size == 0 || args.depth == 0 {
        return Err(invalid("--connections, --size and --depth are at least 1"));
    }
    let time = |seconds| {
        Duration::try_from_secs_f64(seconds).map_err(|_| invalid("that is no time in seconds"))
    };
    let (warm_up, measured) = (time(args.warm_up)?, time(args.seconds)?);
    raise_descriptor_limit();
    let mut load = Load::connect(args)?;
    load.run_for(warm_up)?;
    load.begin();
    let before = Cpus::take(args);
    let begin = Instant::now();
    load.run_for(measured)?;
    let elapsed = begin.elapsed();
    let after = Cpus::take(args);
    load.measuring = false;
    load.drain()?;
    Ok(Report {
        elapsed,
        messages: load.messages,
        bytes: load.messages * args.size as u64,
        latency_ns: load.latency_ns,
        server_cpu: after.server.zip(before.server).map(|(a, b)| a.since(&b)),
        load_cpu: after.load.zip(before.load).map(|(a, b)| a.since(&b)),
    })
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

struct Cpus {
    server: Option<CpuReading>,
    load: Option<CpuReading>,
}

impl Cpus {
    fn take(args: &LoadArgs) -> Self {
        Self {
            server: args.server_pid.and_then(CpuReading::take),
            load: CpuReading::take(std::process::id()),
        }
    }
}

struct Connection {
    stream: TcpStream,
    /// Where this connection's stream begins in the pattern.
    start: u64,
    /// Bytes written, and bytes that may be written by now.
    sent: u64,
    granted: u64,
    received: u64,
    /// When each message under way was given to the socket.
    sent_at: VecDeque<Instant>,
    waits_for_room: bool,
}

struct Load {
    epoll: Epoll,
    connections: Vec<Connection>,
    /// One period of the stream, and enough of the next for any slice to be contiguous.
    pattern: Vec<u8>,
    buffer: Vec<u8>,
    size: u64,
    measuring: bool,
    stopping: bool,
    under_way: u64,
    messages: u64,
    latency_ns: Histogram<u64>,
}

impl Load {
    fn connect(args: &LoadArgs) -> io::Result<Self> {
        let epoll = Epoll::new(BATCH)?;
        let mut connections = Vec::with_capacity(args.connections);
        for index in 0..args.connections {
            let stream = TcpStream::connect_timeout(&args.connect, STALL).map_err(|error| {
                let text = format!("connection {index} to {}: {error}", args.connect);
                io::Error::new(error.kind(), text)
            })?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll.add(stream.as_raw_fd(), index as u64, IN)?;
            connections.push(Connection {
                stream,
                start: (index * STREAM_STRIDE % PERIOD) as u64,
                sent: 0,
                granted: 0,
                received: 0,
                sent_at: VecDeque::with_capacity(args.depth),
                waits_for_room: false,
            });
        }
        let mut load = Self {
            epoll,
            connections,
            pattern: pattern(),
            buffer: vec![0; IO_BYTES],
            size: args.size as u64,
            measuring: false,
            stopping: false,
            under_way: 0,
            messages: 0,
            latency_ns: Histogram::new_with_max(MAX_LATENCY_NS, 3)
                .map_err(|error| invalid(&error.to_string()))?,
        };
        for index in 0..load.connections.len() {
            load.grant(index, args.depth, Instant::now());
            load.flush(index)?;
        }
        Ok(load)
    }

    /// From here on messages count.
    fn begin(&mut self) {
        self.measuring = true;
        self.messages = 0;
        self.latency_ns.reset();
    }

    fn run_for(&mut self, time: Duration) -> io::Result<()> {
        let end = Instant::now() + time;
        let mut last_answer = Instant::now();
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            if self.turn(end - now)? {
                last_answer = now;
            } else if now - last_answer > STALL {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer for {STALL:?}"),
                ));
            }
        }
    }

    /// Sends nothing new and waits for what is under way, so that every byte sent has been checked.
    fn drain(&mut self) -> io::Result<()> {
        self.stopping = true;
        let end = Instant::now() + STALL;
        while self.under_way > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("{} messages did not come back", self.under_way),
                ));
            }
            self.turn(left)?;
        }
        Ok(())
    }

    /// One wait and what it brought; whether it brought anything.
    fn turn(&mut self, longest: Duration) -> io::Result<bool> {
        let timeout_ms = longest.min(Duration::from_secs(1)).as_millis() as i32 + 1;
        let count = self.epoll.wait(timeout_ms)?;
        for index in 0..count {
            let Ready { token, events } = self.epoll.ready(index);
            let index = token as usize;
            if events & READABLE != 0 {
                self.receive(index)?;
            }
            if events & OUT != 0 {
                self.flush(index)?;
            }
        }
        Ok(count > 0)
    }

    fn receive(&mut self, index: usize) -> io::Result<()> {
        let connection = &mut self.connections[index];
        let got = match read(connection.stream.as_raw_fd(), &mut self.buffer) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("the server closed connection {index}"),
                ));
            }
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        let at = (connection.start + connection.received) as usize % PERIOD;
        let came_too_soon = connection.received + got as u64 > connection.sent;
        if came_too_soon || self.buffer[..got] != self.pattern[at..at + got] {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "connection {index}: bytes {}..+{got} are not those that were sent",
                    connection.received
                ),
            ));
        }
        let before = connection.received / self.size;
        connection.received += got as u64;
        let done = (connection.received / self.size - before) as usize;
        if done == 0 {
            return Ok(());
        }
        self.under_way -= done as u64;
        let sent_at = connection.sent_at.drain(..done);
        if self.measuring {
            self.messages += done as u64;
            for sent_at in sent_at {
                let latency_ns = (now - sent_at).as_nanos() as u64;
                self.latency_ns.saturating_record(latency_ns);
            }
        } else {
            drop(sent_at);
        }
        if self.stopping {
            return Ok(());
        }
        self.grant(index, done, now);
        self.flush(index)
    }

    /// Lets `connection` send `count` messages more.
    fn grant(&mut self, index: usize, count: usize, now: Instant) {
        let connection = &mut self.connections[index];
        connection.granted += count as u64 * self.size;
        connection.sent_at.extend(std::iter::repeat_n(now, count));
        self.under_way += count as u64;
    }

    fn flush(&mut self, index: usize) -> io::Result<()> {
        let connection = &mut self.connections[index];
        let fd = connection.stream.as_raw_fd();
        while connection.sent < connection.granted {
            let at = (connection.start + connection.sent) as usize % PERIOD;
            let len = (connection.granted - connection.sent).min(IO_BYTES as u64) as usize;
            match write(fd, &self.pattern[at..at + len]) {
                Ok(sent) => connection.sent += sent as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let full = connection.sent < connection.granted;
        if full != connection.waits_for_room {
            connection.waits_for_room = full;
            let events = if full { IN | OUT } else { IN };
            self.epoll.modify(fd, index as u64, events)?;
        }
        Ok(())
    }
}

/// Bytes without structure (xorshift, a fixed seed: every run sends the same).
fn pattern() -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let period: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(PERIOD)
    .collect();
    period
        .iter()
        .cycle()
        .take(PERIOD + IO_BYTES)
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn load_tells_a_wrong_byte() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback is there");
        let addr = listener.local_addr().expect("bound");
        let liar = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the load connects");
            let mut message = [0; 64];
            stream.read_exact(&mut message).expect("the load sends");
            message[63] ^= 1;
            stream.write_all(&message).ok();
            // Until the load hangs up.
            stream.read_to_end(&mut Vec::new()).ok();
        });
        let args = LoadArgs {
            connect: addr,
            connections: 1,
            size: 64,
            depth: 1,
            seconds: 0.2,
            warm_up: 0.0,
            server_pid: None,
        };
        let error = run(&args).expect_err("a byte is wrong");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        liar.join().expect("the server ends");
    }
}
