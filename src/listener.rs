//! Accepting connections.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;

use crate::addr::Addr;
use crate::driver::{Completion, Driver, Op, OpId, SocketOption};
use crate::error::Error;
use crate::event_base::EventBase;
use crate::event_base::registration::Registration;
use crate::event_base::source::Source;
use crate::sys::{self, Errno};

/// How long a listener that can not accept (no descriptors, no memory) waits before it tries
/// again, in nanoseconds. Connections wait in the backlog meanwhile.
const RETRY_NS: u64 = 100_000_000;

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
}

impl Default for ListenOptions {
    /// A backlog of 1,024; no sharing of the port, no TCP_NODELAY.
    fn default() -> Self {
        ListenOptions {
            backlog: 1024,
            reuse_port: false,
            nodelay: false,
            v6_only: false,
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
}

/// A connection that was accepted: non-blocking, closed on exec, and on drop.
#[derive(Debug)]
pub struct Accepted {
    fd: OwnedFd,
}

impl Accepted {
    /// The socket, for [`BufferEvent::socket`](crate::BufferEvent::socket).
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// The peer's address. Asked of the kernel only when it is called.
    ///
    /// # Errors
    /// `ENOTCONN` when the peer reset the connection meanwhile.
    pub fn peer_addr(&self) -> io::Result<Addr> {
        Addr::try_from(sys::net::peer_addr(self.fd.as_raw_fd())?)
    }
}

/// A listening socket (`struct evconnlistener`).
///
/// A cheap handle; the listener lives until [`close`](Self::close) or the end of its base.
///
/// ```
/// use evring::{Addr, EventBase, ListenOptions, Listener};
///
/// let base = EventBase::new()?;
/// let addr: Addr = "127.0.0.1:0".parse()?;
/// let listener = Listener::bind(&base, &addr, ListenOptions::default(), |listener, accepted| {
///     println!("connection from {:?}", accepted.peer_addr());
///     listener.close();
/// })?;
/// let Addr::Inet(at) = listener.local_addr()? else { unreachable!() };
/// let client = std::net::TcpStream::connect(at);
/// base.run()?; // until the one connection was accepted and the listener closed
/// # drop(client);
/// # Ok::<(), evring::Error>(())
/// ```
#[derive(Clone)]
pub struct Listener(Rc<Inner>);

type AcceptFn = Box<dyn FnMut(&Listener, Accepted)>;
type ErrorFn = Box<dyn FnMut(&Listener, &io::Error)>;

struct Inner {
    registration: Registration,
    /// −1 once closed.
    fd: Cell<i32>,
    op: Cell<Option<OpId>>,
    paused: Cell<bool>,
    closed: Cell<bool>,
    /// The last accept failed for want of something; told once until one succeeds.
    failing: Cell<bool>,
    /// When to try again, in the driver's time; `u64::MAX`: not waiting.
    retry_at: Cell<u64>,
    /// Accepted between `pause` and the end of the kernel's accept.
    held_back: RefCell<VecDeque<Accepted>>,
    on_accept: RefCell<Option<AcceptFn>>,
    on_error: RefCell<Option<ErrorFn>>,
}

impl Listener {
    /// Listens on `addr` and calls `on_accept` with each connection (`evconnlistener_new_bind`).
    ///
    /// Port 0 takes a free port: see [`local_addr`](Self::local_addr). A TCP address is reused at
    /// once after a server that had it ended (SO_REUSEADDR).
    ///
    /// # Errors
    /// [`Error::Io`] with the address when the kernel refuses it: in use, not of this machine, no
    /// permission.
    pub fn bind(
        base: &EventBase,
        addr: &Addr,
        options: ListenOptions,
        on_accept: impl FnMut(&Listener, Accepted) + 'static,
    ) -> Result<Self, Error> {
        let fd = listening_socket(base, addr, &options)
            .map_err(|source| Error::io(format!("listening on {addr}"), source))?;
        Ok(Self::new(base, fd, Box::new(on_accept)))
    }

    /// Accepts from a socket that listens already (`evconnlistener_new`). It is closed with the
    /// listener.
    ///
    /// # Errors
    /// [`Error::Io`] when the descriptor can not be made non-blocking.
    pub fn adopt(
        base: &EventBase,
        fd: OwnedFd,
        on_accept: impl FnMut(&Listener, Accepted) + 'static,
    ) -> Result<Self, Error> {
        sys::net::set_nonblocking(fd.as_raw_fd(), true)
            .map_err(|source| Error::io("adopting a listening socket", source))?;
        Ok(Self::new(base, fd.into_raw_fd(), Box::new(on_accept)))
    }

    fn new(base: &EventBase, fd: i32, on_accept: AcceptFn) -> Self {
        let inner = Rc::new(Inner {
            registration: Registration::new(),
            fd: Cell::new(fd),
            op: Cell::new(None),
            paused: Cell::new(false),
            closed: Cell::new(false),
            failing: Cell::new(false),
            retry_at: Cell::new(u64::MAX),
            held_back: RefCell::default(),
            on_accept: RefCell::new(Some(on_accept)),
            on_error: RefCell::new(None),
        });
        inner.registration.join(base, inner.clone());
        inner.arm(base);
        inner.registration.set_active(base, true);
        Listener(inner)
    }

    /// Calls `f` when connections can not be accepted (`evconnlistener_set_error_cb`): no
    /// descriptors left (EMFILE, ENFILE), no memory. Once for each time that it begins to fail: the
    /// listener goes on, tries ten times a second and accepts what waits as soon as it can.
    pub fn on_error(&self, f: impl FnMut(&Listener, &io::Error) + 'static) {
        let old = self.0.on_error.replace(Some(Box::new(f)));
        drop(old);
    }

    /// Stops accepting; connections wait in the backlog (`evconnlistener_disable`). A paused
    /// listener keeps no loop alive.
    pub fn pause(&self) {
        let inner = &self.0;
        if inner.closed.get() || inner.paused.replace(true) {
            return;
        }
        if let Some(base) = inner.base() {
            inner.registration.set_active(&base, false);
            if let Some(op) = inner.op.get() {
                base.cancel(op);
            }
        }
    }

    /// Accepts again (`evconnlistener_enable`).
    pub fn resume(&self) {
        let inner = &self.0;
        if inner.closed.get() || !inner.paused.replace(false) {
            return;
        }
        if let Some(base) = inner.base() {
            inner.registration.set_active(&base, true);
            inner.registration.mark_dirty(&base);
        }
    }

    /// Whether it was paused.
    pub fn is_paused(&self) -> bool {
        self.0.paused.get()
    }

    /// The address it listens on, with the real port (`evconnlistener_get_fd`, `getsockname`).
    ///
    /// # Errors
    /// [`Error::Freed`] once closed; [`Error::Io`].
    pub fn local_addr(&self) -> Result<Addr, Error> {
        if self.0.closed.get() {
            return Err(Error::Freed { what: "listener" });
        }
        let base = self.base()?;
        base.with_driver(|driver| driver.local_addr(self.0.fd.get()))
            .and_then(Addr::try_from)
            .map_err(|source| Error::io("getsockname", source))
    }

    /// The base it lives on.
    ///
    /// # Errors
    /// [`Error::Freed`] when the base is gone.
    pub fn base(&self) -> Result<EventBase, Error> {
        self.0.base().ok_or(Error::Freed { what: "event base" })
    }

    /// Stops accepting for good (`evconnlistener_free`). The socket is closed as soon as the
    /// kernel has let go of it: by the next turns of the loop, or with the base.
    pub fn close(&self) {
        let inner = &self.0;
        if inner.closed.replace(true) {
            return;
        }
        let callbacks = (inner.on_accept.take(), inner.on_error.take());
        let held_back = inner.held_back.take();
        if let Some(base) = inner.base() {
            match inner.op.get() {
                Some(op) => base.cancel(op),
                None => inner.finish(&base),
            }
        }
        drop((callbacks, held_back));
    }
}

impl Inner {
    fn base(&self) -> Option<EventBase> {
        self.registration.base()
    }

    fn arm(&self, base: &EventBase) {
        let waits = self.retry_at.get() != u64::MAX;
        if self.op.get().is_some() || self.paused.get() || self.closed.get() || waits {
            return;
        }
        let op = Op::Accept {
            fd: self.fd.get(),
            multishot: true,
        };
        self.op.set(Some(self.registration.push(base, op)));
    }

    /// Nothing is in flight: the socket goes (I6).
    fn finish(&self, base: &EventBase) {
        let fd = self.fd.replace(-1);
        if fd >= 0 {
            base.with_driver(|driver| driver.close(fd));
        }
        self.registration.set_active(base, false);
        self.registration.leave(base);
    }

    fn accepted(self: &Rc<Self>, base: &EventBase, fd: OwnedFd) {
        self.failing.set(false);
        base.tally().accepted();
        let accepted = Accepted { fd };
        if self.paused.get() {
            self.held_back.borrow_mut().push_back(accepted);
        } else {
            self.hand_over(accepted);
        }
    }

    fn hand_over(self: &Rc<Self>, accepted: Accepted) {
        let callback = self.on_accept.borrow_mut().take();
        if let Some(mut callback) = callback {
            callback(&Listener(self.clone()), accepted);
            if !self.closed.get() {
                *self.on_accept.borrow_mut() = Some(callback);
            }
        }
    }

    /// An accept failed. The connection that it was for stays in the backlog, or is gone.
    fn refused(self: &Rc<Self>, base: &EventBase, errno: Errno) {
        match errno.raw() {
            // Of the network, about the one connection: accept(2) says to go on.
            libc::ECANCELED
            | libc::EINTR
            | libc::EAGAIN
            | libc::ECONNABORTED
            | libc::EPROTO
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::ENONET
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP => {}
            _ => {
                let at = base.now().saturating_add(RETRY_NS);
                self.retry_at.set(at);
                self.registration.arm(base, at);
                if !self.failing.replace(true) {
                    self.report(&io::Error::from(errno));
                }
            }
        }
    }

    fn report(self: &Rc<Self>, error: &io::Error) {
        let callback = self.on_error.borrow_mut().take();
        match callback {
            Some(mut callback) => {
                callback(&Listener(self.clone()), error);
                if !self.closed.get() {
                    self.on_error.borrow_mut().get_or_insert(callback);
                }
            }
            None => log::warn!("accepting connections: {error}; trying again until it works"),
        }
    }
}

impl Source for Inner {
    fn registration(&self) -> &Registration {
        &self.registration
    }

    fn completed(self: Rc<Self>, base: &EventBase, completion: Completion) {
        if !completion.more {
            self.op.set(None);
        }
        if !self.closed.get() {
            match (completion.result, completion.accepted) {
                (Ok(_), Some(fd)) => self.accepted(base, fd),
                (Ok(_), None) => {}
                (Err(errno), _) => self.refused(base, errno),
            }
        }
        if self.op.get().is_some() {
            return;
        }
        if self.closed.get() {
            self.finish(base);
        } else {
            self.registration.mark_dirty(base);
        }
    }

    fn start_io(self: Rc<Self>, base: &EventBase) {
        while !self.paused.get() {
            let held_back = self.held_back.borrow_mut().pop_front();
            let Some(accepted) = held_back else { break };
            self.hand_over(accepted);
        }
        self.arm(base);
    }

    fn timer_fired(self: Rc<Self>, base: &EventBase) {
        if self.retry_at.get() <= base.now() {
            self.retry_at.set(u64::MAX);
            self.registration.mark_dirty(base);
        }
    }

    fn base_ended(self: Rc<Self>) -> Option<i32> {
        self.closed.set(true);
        let callbacks = (self.on_accept.take(), self.on_error.take());
        drop(callbacks);
        Some(self.fd.replace(-1)).filter(|&fd| fd >= 0)
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("fd", &self.0.fd.get())
            .field("paused", &self.0.paused.get())
            .field("closed", &self.0.closed.get())
            .finish_non_exhaustive()
    }
}

fn listening_socket(base: &EventBase, addr: &Addr, options: &ListenOptions) -> io::Result<i32> {
    let target = sys::SockAddr::try_from(addr)?;
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
        return Ok(());
    };
    driver.set_option(fd, SocketOption::ReuseAddr(true))?;
    driver.set_option(fd, SocketOption::ReusePort(options.reuse_port))?;
    // Accepted sockets inherit it: no call a connection.
    driver.set_option(fd, SocketOption::NoDelay(options.nodelay))?;
    if inet.is_ipv6() {
        driver.set_option(fd, SocketOption::V6Only(options.v6_only))?;
    }
    Ok(())
}
