//! How a listening socket is set up.

use std::io;

use crate::addr::Addr;
use crate::driver::{Driver, SocketOption};
use crate::event_base::EventBase;
use crate::sys::SockAddr;

/// How a listener is set up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListenOptions {
    /// Connections that the kernel keeps until they are accepted. The system caps it
    /// (`net.core.somaxconn`).
    pub backlog: i32,
    /// Several listeners, one a thread or process, may share a TCP port (SO_REUSEPORT,
    /// `LEV_OPT_REUSEABLE_PORT`).
    pub reuse_port: bool,
    /// Accepted TCP connections send small segments at once (TCP_NODELAY).
    pub nodelay: bool,
    /// An IPv6 listener takes no IPv4 connections (IPV6_V6ONLY, `LEV_OPT_BIND_IPV6ONLY`).
    pub v6_only: bool,
    /// A TCP connection is accepted only once it has sent something (TCP_DEFER_ACCEPT,
    /// `LEV_OPT_DEFERRED_ACCEPT`): for protocols in which the client speaks first. Linux gives a
    /// silent one up after about a second.
    pub deferred_accept: bool,
    /// It begins paused: [`Listener::resume`](super::Listener::resume) begins to accept
    /// (`LEV_OPT_DISABLED`).
    pub disabled: bool,
}

impl Default for ListenOptions {
    /// A backlog of 1,024, and everything else off.
    fn default() -> Self {
        ListenOptions {
            backlog: 1024,
            reuse_port: false,
            nodelay: false,
            v6_only: false,
            deferred_accept: false,
            disabled: false,
        }
    }
}

impl ListenOptions {
    /// Sets [`backlog`](Self::backlog).
    pub fn backlog(mut self, connections: i32) -> Self {
        self.backlog = connections;
        self
    }

    /// Sets [`reuse_port`](Self::reuse_port).
    pub fn reuse_port(mut self, on: bool) -> Self {
        self.reuse_port = on;
        self
    }

    /// Sets [`nodelay`](Self::nodelay).
    pub fn nodelay(mut self, on: bool) -> Self {
        self.nodelay = on;
        self
    }

    /// Sets [`v6_only`](Self::v6_only).
    pub fn v6_only(mut self, on: bool) -> Self {
        self.v6_only = on;
        self
    }

    /// Sets [`deferred_accept`](Self::deferred_accept).
    pub fn deferred_accept(mut self, on: bool) -> Self {
        self.deferred_accept = on;
        self
    }

    /// Sets [`disabled`](Self::disabled).
    pub fn disabled(mut self, on: bool) -> Self {
        self.disabled = on;
        self
    }
}

/// A socket that listens on `addr`.
pub(super) fn listening_socket(
    base: &EventBase,
    addr: &Addr,
    options: &ListenOptions,
) -> io::Result<i32> {
    let target = SockAddr::try_from(addr)?;
    base.with_driver(|driver| {
        let fd = driver.socket(target.family(), libc::SOCK_STREAM)?;
        let listening = set_up(driver, fd, addr, options).and_then(|()| {
            driver.bind(fd, &target)?;
            driver.listen(fd, options.backlog)
        });
        if listening.is_err() {
            driver.close(fd);
        }
        listening.map(|()| fd)
    })
}

fn set_up(
    driver: &mut dyn Driver,
    fd: i32,
    addr: &Addr,
    options: &ListenOptions,
) -> io::Result<()> {
    let Addr::Inet(inet) = addr else {
        if options.reuse_port {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "Unix sockets do not share an address: leave reuse_port off",
            ));
        }
        return Ok(());
    };
    driver.set_option(fd, SocketOption::ReuseAddr(true))?;
    driver.set_option(fd, SocketOption::ReusePort(options.reuse_port))?;
    // Accepted sockets inherit it: no call a connection.
    driver.set_option(fd, SocketOption::NoDelay(options.nodelay))?;
    if inet.is_ipv6() {
        driver.set_option(fd, SocketOption::V6Only(options.v6_only))?;
    }
    if options.deferred_accept {
        driver.set_option(fd, SocketOption::DeferAccept(true))?;
    }
    Ok(())
}
