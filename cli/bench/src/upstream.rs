//! What a proxy passes messages on to.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use evring_cli_common::failure::Failure;
use socket2::{Domain, Socket, Type};

use super::Bench;
use super::interrupt::{Interrupt, Stop};
use super::process::Serving;
use super::servers::{self, SUBJECT};
use super::workload::{Kind, Load};

/// The upstream of a server.
#[derive(Debug)]
pub enum Upstream {
    /// An echo has none.
    None,
    /// An echo server, on the load's core.
    Echo(Box<Serving>),
    /// The load generator itself, once it runs.
    Load(ReservedPort),
}

impl Upstream {
    /// Starts what a server of `kind` needs behind it.
    ///
    /// # Errors
    /// When it does not come to listen.
    pub fn start(bench: &Bench, kind: Kind) -> Result<Self, Stop> {
        if !kind.is_proxy() {
            return Ok(Self::None);
        }
        let echo = servers::find(SUBJECT, Kind::Echo, Path::new("."), &bench.evring);
        let echo = echo.unwrap_or_else(|| Err(Failure::line("there is no echo server")))?;
        let serving = echo.start_on(bench, bench.cores.load, None, false)?;
        Ok(Self::Echo(Box::new(serving)))
    }

    /// Starts what a server under `load` needs behind it, or finds a place where the load generator
    /// will be that.
    ///
    /// # Errors
    /// As [`Upstream::start`], and without a free port.
    pub fn start_for(bench: &Bench, load: &Load) -> Result<Self, Stop> {
        match load.load_is_upstream() {
            true => Ok(Self::Load(ReservedPort::find()?)),
            false => Self::start(bench, load.kind),
        }
    }

    /// Where the server finds it.
    pub fn address(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Echo(serving) => Some(&serving.address),
            Self::Load(port) => Some(&port.address),
        }
    }

    /// Ends it, if it is a process of its own.
    ///
    /// # Errors
    /// As [`Serving::stop`].
    pub fn stop(self, interrupt: &Interrupt) -> Result<(), Stop> {
        match self {
            Self::Echo(serving) => serving.stop(interrupt),
            Self::None | Self::Load(_) => Ok(()),
        }
    }
}

/// A port of the loopback for somebody who does not listen yet.
///
/// While this is kept, the kernel gives the port to nobody who asks for any: neither to another
/// server nor to a connection, which would connect to itself. Who was told it can listen there.
#[derive(Debug)]
pub struct ReservedPort {
    pub address: String,
    _socket: Socket,
}

impl ReservedPort {
    fn find() -> Result<Self, Failure> {
        let reserve = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            // Lets others bind the port too, as long as none of them listens. This one never does.
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
            let address = socket.local_addr()?;
            Ok((socket, address.as_socket()))
        };
        let failed = |error: std::io::Error| Failure::new("a port for the upstream", error);
        let (socket, address) = reserve().map_err(failed)?;
        let address =
            address.ok_or_else(|| Failure::line("a port for the upstream has no number"))?;
        Ok(Self {
            address: address.to_string(),
            _socket: socket,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_reserved_port_is_for_who_was_told() {
        let port = ReservedPort::find().expect("a free port");
        let refused = TcpStream::connect(&port.address).expect_err("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let address: SocketAddr = port.address.parse().expect("an address");
        // As `evring` looks at a port before it listens.
        let probe = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        probe.set_reuse_address(true).expect("set");
        probe.bind(&address.into()).expect("ours for the taking");
        drop(probe);
        let listener = TcpListener::bind(&port.address).expect("free for who was told");
        TcpStream::connect(&port.address).expect("somebody listens");
        drop(listener);
        let other = ReservedPort::find().expect("another");
        assert_ne!(port.address, other.address);
    }
}
