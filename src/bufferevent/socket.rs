//! The calls of a bufferevent that has a descriptor.

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::machine::Link;
use super::shell::{Cx, Inner};
use super::transport::socket::Socket;
use super::types::Options;
use super::{BufferEvent, check_options};
use crate::addr::Addr;
use crate::driver::{KeepAlive, SocketOption};
use crate::error::Error;
use crate::event_base::EventBase;

/// Between keep-alive probes that are not answered, and how many: Linux' own count, but a minute
/// and a half instead of eleven.
const KEEPALIVE_INTERVAL_S: u32 = 10;
const KEEPALIVE_PROBES: u32 = 9;

impl BufferEvent {
    /// A bufferevent over a connected stream socket (TCP or Unix), or over none yet
    /// (`bufferevent_socket_new`).
    ///
    /// WRITE is enabled, READ is not. The descriptor stays open after [`free`](Self::free) unless
    /// [`Options::CLOSE_ON_FREE`] is given. Pipes and terminals work too, on plain reads and
    /// writes.
    ///
    /// # Errors
    /// [`Error::Invalid`] for `UNLOCK_CALLBACKS` without `DEFER_CALLBACKS`.
    pub fn socket(base: &EventBase, fd: Option<OwnedFd>, options: Options) -> Result<Self, Error> {
        check_options(options)?;
        Ok(Self::over(base, options, Socket::new(base, fd)))
    }

    fn over(base: &EventBase, options: Options, socket: Socket) -> Self {
        let link = match socket.fd() {
            None => Link::Absent,
            Some(_) => Link::Up,
        };
        BufferEvent(Inner::create(base, options, link, socket))
    }

    /// [`socket`](Self::socket) over a descriptor of a driver that is not the kernel.
    #[cfg(test)]
    pub(crate) fn simulated(base: &EventBase, fd: i32, family: i32, options: Options) -> Self {
        use crate::driver::Descriptor;
        let descriptor = match family {
            libc::AF_UNSPEC => Descriptor {
                family: None,
                readable: true,
                writable: true,
                regular: false,
            },
            family => Descriptor::socket(family),
        };
        Self::over(base, options, Socket::simulated(fd, &descriptor))
    }

    /// [`replace_fd`](Self::replace_fd) with such a descriptor.
    #[cfg(test)]
    pub(crate) fn simulate_another(&self, fd: i32) {
        let closes = self.lowest().0.shell.closes();
        self.change_fd(Some(fd), closes).expect("a socket below");
    }

    /// Begins to connect to `addr` (`bufferevent_socket_connect`). A socket is made if there is
    /// none.
    ///
    /// Ends with one `CONNECTED` event, one `ERROR` event, or, where a write time-out is set and
    /// passes first, one `WRITING | TIMEOUT` event that abandons it; never from inside this call.
    ///
    /// # Errors
    /// [`Error::BadAddress`] for what is no address; [`Error::Io`] when no socket can be made;
    /// [`Error::Invalid`] when it is connected or connecting, or has no descriptor of its own.
    pub fn connect<A>(&self, addr: A) -> Result<(), Error>
    where
        A: TryInto<Addr, Error: Into<Error>>,
    {
        let addr = addr.try_into().map_err(Into::into)?;
        self.on_socket("connect", |cx, socket| socket.connect(cx, &addr))
    }

    /// Expects the descriptor's own connect, begun by the caller, to end: reports it as
    /// [`connect`](Self::connect) does (`bufferevent_socket_connect` without an address).
    ///
    /// # Errors
    /// [`Error::Invalid`] without a descriptor.
    pub fn connect_in_progress(&self) -> Result<(), Error> {
        self.on_socket("connect_in_progress", |cx, socket| {
            socket.connect_in_progress(cx)
        })
    }

    /// The descriptor, if there is one (`bufferevent_getfd`): of a filter, the one below it. It
    /// stays the bufferevent's.
    pub fn fd(&self) -> Option<i32> {
        self.lowest().0.transport.socket()?.fd()
    }

    /// Sends small segments at once instead of waiting for more (TCP_NODELAY); of a filter, the
    /// socket below it.
    ///
    /// # Errors
    /// [`Error::Io`] when the descriptor is no TCP socket; [`Error::Invalid`] without one.
    pub fn set_nodelay(&self, on: bool) -> Result<(), Error> {
        self.set_option("set_nodelay", "TCP_NODELAY", SocketOption::NoDelay(on))
    }

    /// Probes an idle TCP connection after `idle` without traffic; none turns it off
    /// (SO_KEEPALIVE). Of a filter, the socket below it.
    ///
    /// # Errors
    /// As [`set_nodelay`](Self::set_nodelay).
    pub fn set_keepalive(&self, idle: Option<Duration>) -> Result<(), Error> {
        let keepalive = idle.map(|idle| KeepAlive {
            idle_s: u32::try_from(idle.as_secs()).unwrap_or(u32::MAX).max(1),
            interval_s: KEEPALIVE_INTERVAL_S,
            probes: KEEPALIVE_PROBES,
        });
        let option = SocketOption::KeepAlive(keepalive);
        self.set_option("set_keepalive", "SO_KEEPALIVE", option)
    }

    fn set_option(
        &self,
        what: &'static str,
        name: &str,
        option: SocketOption,
    ) -> Result<(), Error> {
        let base = self.live()?;
        let fd = self.fd().ok_or(Error::Invalid {
            what,
            why: "there is no descriptor: a pair has none, a socket after connect or set_fd",
        })?;
        base.with_driver(|driver| driver.set_option(fd, option))
            .map_err(|source| Error::io(name, source))
    }

    /// The same for what only a bufferevent with a descriptor of its own can do.
    pub(super) fn on_socket<R>(
        &self,
        what: &'static str,
        f: impl FnOnce(&Cx<'_>, &Socket) -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.command(|cx| match self.0.transport.socket() {
            Some(socket) => f(cx, socket),
            None => Err(Error::Invalid {
                what,
                why: "it moves its bytes in memory; only a bufferevent over a descriptor can do it",
            }),
        })?
    }
}
