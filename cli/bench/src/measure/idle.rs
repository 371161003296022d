//! How much memory of a server an idle connection holds.

use std::fs;
use std::net::SocketAddr;

use evring_cli_common::failure::Failure;
use rustix::process::{Resource, getrlimit};

use super::clients::Clients;

/// Connections that are opened together; a server's memory for what is being served at once stays
/// that small.
const AT_ONCE: usize = 50;

/// Descriptors that this process needs besides the connections.
const OWN_FILES: u64 = 64;

/// What was found.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    /// Connections that were open at the end.
    pub connections: usize,
    /// Connections by which the memory was divided: those beyond the first fifth.
    pub counted: usize,
    /// The server's anonymous memory with the first fifth of the connections, in bytes.
    pub before_bytes: u64,
    /// The same with all of them.
    pub after_bytes: u64,
}

impl Idle {
    /// Bytes of user memory that one more idle connection holds.
    pub fn bytes_per_connection(&self) -> f64 {
        (self.after_bytes as f64 - self.before_bytes as f64) / self.counted as f64
    }
}

/// Opens `connections` to the echo server at `server`, process `pid`; each sends 64 bytes, gets
/// them back, and stays. Gives the growth of the server's anonymous memory. What the kernel holds
/// for the sockets is not counted.
///
/// The growth is that between a fifth of the connections and all of them. A fifth is opened and
/// closed again first, so that what a server keeps of connections that are gone (free lists,
/// arenas, touched pages) is there on both sides of the difference, whether its allocator has given
/// any of it back or not. Page granularity and tables that double are what is left of error: choose
/// thousands.
///
/// # Errors
///
/// Too few open files allowed; a connection that fails or stalls; a process that is not there.
pub fn run(server: SocketAddr, pid: u32, connections: usize) -> Result<Idle, Failure> {
    if (most_connections() as usize) < connections {
        return Err(Failure::line(format!(
            "{connections} connections are more than the limit of open files allows (ulimit -n)"
        )));
    }
    let fifth = connections / 5;
    if fifth == 0 {
        return Err(Failure::line("idle memory needs 5 connections or more"));
    }
    let mut clients = Clients::new(server);
    let burst = open(&mut clients, fifth)?;
    clients.close(burst)?;
    let mut streams = open(&mut clients, fifth)?;
    let before_bytes = anonymous_bytes(pid)?;
    streams.extend(open(&mut clients, connections - fifth)?);
    let after_bytes = anonymous_bytes(pid)?;
    clients.close(streams)?;
    Ok(Idle {
        connections,
        counted: connections - fifth,
        before_bytes,
        after_bytes,
    })
}

/// How many connections this process can have open, with the limit of open files as it is.
pub fn most_connections() -> u64 {
    let soft = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    soft.saturating_sub(OWN_FILES)
}

fn open(clients: &mut Clients, count: usize) -> Result<Vec<std::net::TcpStream>, Failure> {
    let mut streams = Vec::with_capacity(count);
    while streams.len() < count {
        streams.extend(clients.open(AT_ONCE.min(count - streams.len()))?);
    }
    Ok(streams)
}

/// Memory of a process that no file backs, in RAM or swapped out, in bytes. A ring shared with the
/// kernel is not part of it, nor are pages of the program.
fn anonymous_bytes(pid: u32) -> Result<u64, Failure> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).map_err(|error| Failure::new(&path, error))?;
    sum_kib(&text, &["Anonymous:", "Swap:"])
        .map(|kib| kib * 1024)
        .ok_or_else(|| Failure::new(path, "no such figures"))
}

/// The sum of fields such as `Anonymous:       112 kB`; `None` unless all are there.
fn sum_kib(text: &str, fields: &[&str]) -> Option<u64> {
    let field = |name: &&str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
        rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    fields.iter().map(field).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_summed() {
        let text =
            "Anonymous:           112 kB\nAnonHugePages:  9 kB\nSwap:  4 kB\nSwapPss: 4 kB\n";
        assert_eq!(sum_kib(text, &["Anonymous:", "Swap:"]), Some(116));
        assert_eq!(sum_kib(text, &["Anonymous:", "Locked:"]), None);
        assert!(anonymous_bytes(std::process::id()).expect("ours") > 0);
    }
}
