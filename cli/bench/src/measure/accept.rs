//! What a connection costs a server from its accept to its close.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use evring_cli_common::cpu::CpuTime;
use evring_cli_common::failure::Failure;

use super::clients::Clients;
use super::cpu;

/// How connections follow each other.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Connections that are open together: so many are made, say one message each, and are closed,
    /// then come the next.
    pub at_once: usize,
    /// Time before the measured one, with the same work.
    pub warm_up: Duration,
    /// Time measured; the last batch is finished.
    pub measured: Duration,
    /// The measurement ends early after so many connections: each leaves a port in TIME_WAIT for a
    /// minute.
    pub most: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            at_once: 32,
            warm_up: Duration::from_millis(150),
            measured: Duration::from_millis(500),
            most: 50_000,
        }
    }
}

/// What came out of the measured time.
#[derive(Debug, Clone, Copy)]
pub struct Accepted {
    /// Connections made, answered and closed.
    pub connections: u64,
    /// The time measured.
    pub elapsed: Duration,
    /// What the server used for them.
    pub server: CpuTime,
}

impl Accepted {
    /// The server's processor time for one connection, in microseconds.
    pub fn cpu_us_per_connection(&self) -> f64 {
        self.server.ran.as_secs_f64() * 1e6 / self.connections as f64
    }

    /// Connections a second.
    pub fn per_second(&self) -> f64 {
        self.connections as f64 / self.elapsed.as_secs_f64()
    }
}

/// Makes connections to the echo server at `server` (or to a proxy in front of one), process `pid`.
/// Each sends 64 bytes, gets them back and is closed, by this side first.
///
/// # Errors
///
/// A connection that is refused, breaks off, brings other bytes or stalls; a process that is not
/// there.
pub fn run(server: SocketAddr, pid: u32, options: &Options) -> Result<Accepted, Failure> {
    let mut clients = Clients::new(server);
    let mut batches = |time: Duration, most: u64| {
        let began = Instant::now();
        let mut connections = 0;
        // At least one, however short the time.
        while connections == 0 || (began.elapsed() < time && connections < most) {
            let streams = clients.open(options.at_once.max(1))?;
            connections += streams.len() as u64;
            clients.close(streams)?;
        }
        Ok((connections, began.elapsed()))
    };
    batches(options.warm_up, options.most)?;
    let before = cpu(pid)?;
    let (connections, elapsed) = batches(options.measured, options.most)?;
    let server = cpu(pid)?.since(&before);
    Ok(Accepted {
        connections,
        elapsed,
        server,
    })
}
