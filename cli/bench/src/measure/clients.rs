//! Connections to an echo server, or to a proxy in front of one, a batch at a time.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use evring_cli_common::failure::Failure;
use evring_cli_common::pattern::{Pattern, connection_offset};
use socket2::{Domain, Protocol, Socket, Type};

use super::STALL;

/// Bytes of the message that a connection sends.
pub const MESSAGE_BYTES: usize = 64;

/// The source addresses that take turns, 127.0.0.2 onwards: a port that a closed connection still
/// waits on (TIME_WAIT) is free at the next address.
const SOURCES: u8 = 64;

/// Makes connections and has each of them say one message.
#[derive(Debug)]
pub struct Clients {
    server: SocketAddr,
    pattern: Pattern,
    made: usize,
}

impl Clients {
    pub fn new(server: SocketAddr) -> Self {
        Self {
            server,
            pattern: Pattern::new(),
            made: 0,
        }
    }

    /// Makes `count` connections, sends a message on each, and waits until all have come back as
    /// they were sent.
    pub fn open(&mut self, count: usize) -> Result<Vec<TcpStream>, Failure> {
        let first = self.made;
        let mut streams = Vec::with_capacity(count);
        for _ in 0..count {
            streams.push(self.connect()?);
            self.made += 1;
        }
        for (stream, index) in streams.iter_mut().zip(first..) {
            let message = self.pattern.piece(connection_offset(index), MESSAGE_BYTES);
            let sent = stream.write_all(&message);
            sent.map_err(|error| self.failure(index, error))?;
        }
        let mut answer = [0; MESSAGE_BYTES];
        for (stream, index) in streams.iter_mut().zip(first..) {
            let came = stream.read_exact(&mut answer);
            came.map_err(|error| self.failure(index, error))?;
            let at = connection_offset(index);
            if self.pattern.first_difference(at, &answer).is_some() {
                return Err(self.failure(index, "other bytes came back than were sent"));
            }
        }
        Ok(streams)
    }

    /// Ends the streams, this side first, and waits until the server has ended them all too.
    pub fn close(&self, streams: Vec<TcpStream>) -> Result<(), Failure> {
        for stream in &streams {
            let ended = stream.shutdown(std::net::Shutdown::Write);
            ended.map_err(|error| Failure::new("ending a connection", error))?;
        }
        for mut stream in streams {
            match stream.read(&mut [0]) {
                Ok(0) => {}
                // The server closed it while something was still under way to it.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
                Ok(_) => return Err(Failure::line("more came back than was sent")),
                Err(error) => return Err(Failure::new("waiting for the server's end", error)),
            }
        }
        Ok(())
    }

    fn connect(&self) -> Result<TcpStream, Failure> {
        let connected = (|| {
            let domain = Domain::for_address(self.server);
            let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
            if self.server.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
                let last = 2 + (self.made % usize::from(SOURCES)) as u8;
                let source = SocketAddr::from(([127, 0, 0, last], 0));
                socket.bind(&source.into())?;
            }
            socket.connect_timeout(&self.server.into(), STALL)?;
            socket.set_tcp_nodelay(true)?;
            socket.set_read_timeout(Some(STALL))?;
            socket.set_write_timeout(Some(STALL))?;
            Ok(TcpStream::from(socket))
        })();
        connected.map_err(|error: std::io::Error| self.failure(self.made, error))
    }

    fn failure(&self, index: usize, why: impl std::fmt::Display) -> Failure {
        Failure::new(format!("connection {index} to {}", self.server), why)
    }
}
