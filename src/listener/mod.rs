//! Accepting connections.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;

use crate::addr::Addr;
use crate::driver::{Completion, Op, OpId, SocketOption};
use crate::error::Error;
use crate::event_base::hook::{Hook, finally};
use crate::event_base::registration::Registration;
use crate::event_base::source::Source;
use crate::event_base::{EventBase, WeakEventBase};
use crate::sys::Errno;

mod options;
#[cfg(test)]
mod tests;

pub use options::ListenOptions;
use options::listening_socket;

/// How long a listener that can not accept (no descriptors, no memory) waits before it tries
/// again, in nanoseconds. Connections wait in the backlog meanwhile.
const RETRY_NS: u64 = 100_000_000;

/// A connection that was accepted: non-blocking, closed on exec, and on drop.
#[derive(Debug)]
pub struct Accepted {
    fd: OwnedFd,
    base: WeakEventBase,
}

impl Accepted {
    /// The socket, for [`BufferEvent::socket`](crate::BufferEvent::socket).
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// The peer's address. Asked of the kernel only when it is called.
    ///
    /// # Errors
    /// [`Error::Io`] (`ENOTCONN`) when the peer reset the connection meanwhile; [`Error::Freed`]
    /// when the base is gone.
    pub fn peer_addr(&self) -> Result<Addr, Error> {
        let base = self.base.upgrade();
        let base = base.ok_or(Error::Freed { what: "event base" })?;
        let fd = self.fd.as_raw_fd();
        base.with_driver(|driver| driver.peer_addr(fd))
            .and_then(Addr::try_from)
            .map_err(|source| Error::io("getpeername", source))
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
/// let at = "127.0.0.1:0".parse()?;
/// let listener = Listener::bind(&base, &at, ListenOptions::default(), |listener, accepted| {
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

type AcceptFn = dyn FnMut(&Listener, Accepted);
type ErrorFn = dyn FnMut(&Listener, &io::Error);

struct Inner {
    registration: Registration,
    /// −1 once closed.
    fd: Cell<i32>,
    op: Cell<Option<OpId>>,
    state: Cell<Accepting>,
    /// The last accept failed for want of something; told once until one succeeds.
    failing: Cell<bool>,
    /// Accepted between `pause` and the end of the kernel's accept.
    held_back: RefCell<VecDeque<Accepted>>,
    on_accept: Hook<AcceptFn>,
    on_error: Hook<ErrorFn>,
}

/// What a listener is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    /// Connections are accepted: an accept is in flight, or begins by the end of the turn.
    Armed,
    /// The program paused it.
    Paused,
    /// An accept failed for want of something: it tries again once this has passed, in the driver's
    /// time.
    Backoff(u64),
    /// For good. An accept may still be in flight.
    Closed,
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
        Ok(Self::new(base, fd, Box::new(on_accept), options.disabled))
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
        let option = SocketOption::NonBlocking(true);
        base.with_driver(|driver| driver.set_option(fd.as_raw_fd(), option))
            .map_err(|source| Error::io("adopting a listening socket", source))?;
        Ok(Self::new(
            base,
            fd.into_raw_fd(),
            Box::new(on_accept),
            false,
        ))
    }

    /// As [`adopt`](Self::adopt), but the socket stays the caller's (`evconnlistener_new` without
    /// `LEV_OPT_CLOSE_ON_FREE`): the listener works on a duplicate of the descriptor, and closes
    /// only that. Afterwards the socket goes on to listen, and can be given to another.
    ///
    /// # Errors
    /// As [`adopt`](Self::adopt), or when the process has no descriptor left.
    pub fn lend(
        base: &EventBase,
        socket: impl AsFd,
        on_accept: impl FnMut(&Listener, Accepted) + 'static,
    ) -> Result<Self, Error> {
        let own = socket.as_fd().try_clone_to_owned();
        let own = own.map_err(|source| Error::io("duplicating a listening socket", source))?;
        Self::adopt(base, own, on_accept)
    }

    fn new(base: &EventBase, fd: i32, on_accept: Box<AcceptFn>, disabled: bool) -> Self {
        let inner = Rc::new(Inner {
            registration: Registration::new(),
            fd: Cell::new(fd),
            op: Cell::new(None),
            state: Cell::new(match disabled {
                true => Accepting::Paused,
                false => Accepting::Armed,
            }),
            failing: Cell::new(false),
            held_back: RefCell::default(),
            on_accept: Hook::with(on_accept),
            on_error: Hook::new(),
        });
        inner.registration.join(base, inner.clone());
        inner.arm(base);
        inner.registration.set_active(base, !disabled);
        Listener(inner)
    }

    /// Calls `f` with each connection from now on (`evconnlistener_set_cb`).
    pub fn set_callback(&self, f: impl FnMut(&Listener, Accepted) + 'static) {
        if !self.0.is_closed() {
            self.0.on_accept.set(Box::new(f));
        }
    }

    /// Calls `f` when connections can not be accepted (`evconnlistener_set_error_cb`): no
    /// descriptors left (EMFILE, ENFILE), no memory. Once for each time that it begins to fail: the
    /// listener goes on, tries ten times a second and accepts what waits as soon as it can.
    pub fn on_error(&self, f: impl FnMut(&Listener, &io::Error) + 'static) {
        if !self.0.is_closed() {
            self.0.on_error.set(Box::new(f));
        }
    }

    /// Stops accepting; connections wait in the backlog (`evconnlistener_disable`). A paused
    /// listener keeps no loop alive.
    pub fn pause(&self) {
        let inner = &self.0;
        if inner.is_closed() || inner.state.replace(Accepting::Paused) == Accepting::Paused {
            return;
        }
        if let Some(base) = inner.registration.base() {
            inner.registration.set_active(&base, false);
            if let Some(op) = inner.op.get() {
                inner.registration.cancel(&base, op);
            }
        }
    }

    /// Accepts again (`evconnlistener_enable`).
    pub fn resume(&self) {
        let inner = &self.0;
        if !self.is_paused() {
            return;
        }
        inner.state.set(Accepting::Armed);
        if let Some(base) = inner.registration.base() {
            inner.registration.set_active(&base, true);
            inner.registration.mark_dirty(&base);
        }
    }

    /// Whether it was paused.
    pub fn is_paused(&self) -> bool {
        self.0.state.get() == Accepting::Paused
    }

    /// The descriptor, until it is closed (`evconnlistener_get_fd`). It stays the listener's.
    pub fn fd(&self) -> Option<i32> {
        match self.0.is_closed() {
            true => None,
            false => Some(self.0.fd.get()),
        }
    }

    /// The address it listens on, with the real port (`getsockname`).
    ///
    /// # Errors
    /// [`Error::Freed`] once closed; [`Error::Io`].
    pub fn local_addr(&self) -> Result<Addr, Error> {
        let fd = self.fd().ok_or(Error::Freed { what: "listener" })?;
        let base = self.base()?;
        base.with_driver(|driver| driver.local_addr(fd))
            .and_then(Addr::try_from)
            .map_err(|source| Error::io("getsockname", source))
    }

    /// The base it lives on (`evconnlistener_get_base`).
    ///
    /// # Errors
    /// [`Error::Freed`] when the base is gone.
    pub fn base(&self) -> Result<EventBase, Error> {
        let base = self.0.registration.base();
        base.ok_or(Error::Freed { what: "event base" })
    }

    /// Stops accepting for good (`evconnlistener_free`). The socket is closed as soon as the
    /// kernel has let go of it: by the next turns of the loop, or with the base.
    pub fn close(&self) {
        let inner = &self.0;
        if inner.state.replace(Accepting::Closed) == Accepting::Closed {
            return;
        }
        let held_back = inner.held_back.take();
        if let Some(base) = inner.registration.base() {
            match inner.op.get() {
                Some(op) => inner.registration.cancel(&base, op),
                None => inner.finish(&base),
            }
        }
        drop(held_back);
        inner.let_go();
    }
}

impl Inner {
    fn is_closed(&self) -> bool {
        self.state.get() == Accepting::Closed
    }

    /// Drops both callbacks: they are the user's, so nothing is borrowed.
    fn let_go(&self) {
        self.on_accept.clear();
        self.on_error.clear();
    }

    fn arm(&self, base: &EventBase) {
        if self.op.get().is_none() && self.state.get() == Accepting::Armed {
            let op = Op::Accept {
                fd: self.fd.get(),
                multishot: true,
            };
            self.op.set(Some(self.registration.push(base, op)));
        }
    }

    /// Nothing is in flight: the socket goes (I6).
    fn finish(&self, base: &EventBase) {
        let fd = self.fd.replace(-1);
        if fd >= 0 {
            base.with_driver(|driver| driver.close(fd));
        }
        self.registration.leave(base);
    }

    fn accepted(self: &Rc<Self>, base: &EventBase, fd: OwnedFd) {
        self.failing.set(false);
        base.tally().accepted();
        let base = base.downgrade();
        let accepted = Accepted { fd, base };
        if self.state.get() == Accepting::Paused {
            self.held_back.borrow_mut().push_back(accepted);
        } else {
            self.hand_over(accepted);
        }
    }

    fn hand_over(self: &Rc<Self>, accepted: Accepted) {
        self.on_accept
            .call(|call| call(&Listener(self.clone()), accepted));
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
            | libc::ENOPROTOOPT => {}
            // Want of something, or a socket that does not listen at all.
            _ => {
                if self.state.get() == Accepting::Armed {
                    let at = base.now().saturating_add(RETRY_NS);
                    self.state.set(Accepting::Backoff(at));
                    self.registration.arm(base, at);
                }
                if !self.failing.replace(true) {
                    self.report(&io::Error::from(errno));
                }
            }
        }
    }

    fn report(self: &Rc<Self>, error: &io::Error) {
        match self.on_error.is_set() {
            true => {
                self.on_error
                    .call(|call| call(&Listener(self.clone()), error));
            }
            false => log::warn!("accepting connections: {error}; trying again until it works"),
        }
    }

    /// Whether connections that came while it was paused are to be handed over.
    fn may_hand_over(&self) -> bool {
        !matches!(self.state.get(), Accepting::Paused | Accepting::Closed)
            && !self.held_back.borrow().is_empty()
    }

    /// After a completion, whatever its callback did.
    fn go_on(&self, base: &EventBase) {
        if self.op.get().is_some() {
            return;
        }
        match self.is_closed() {
            true => self.finish(base),
            false => self.registration.mark_dirty(base),
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
        let _go_on = finally(|| self.go_on(base));
        if !self.is_closed() {
            match (completion.result, completion.accepted) {
                (Ok(_), Some(fd)) => self.accepted(base, fd),
                (Ok(_), None) => {}
                (Err(errno), _) => self.refused(base, errno),
            }
        }
    }

    fn start_io(self: Rc<Self>, base: &EventBase) {
        // Also when a callback panics: the next connection has its turn.
        let _go_on = finally(|| {
            self.arm(base);
            if self.may_hand_over() {
                self.registration.mark_dirty(base);
            }
        });
        while self.may_hand_over() {
            let held_back = self.held_back.borrow_mut().pop_front();
            let Some(accepted) = held_back else { break };
            self.hand_over(accepted);
        }
    }

    fn timer_fired(self: Rc<Self>, base: &EventBase) {
        match self.state.get() {
            Accepting::Backoff(at) if at <= base.now() => {
                self.state.set(Accepting::Armed);
                self.registration.mark_dirty(base);
            }
            Accepting::Backoff(at) => self.registration.arm(base, at),
            _ => {}
        }
    }

    fn base_ended(self: Rc<Self>, close: &mut Vec<i32>) {
        self.state.set(Accepting::Closed);
        close.extend(Some(self.fd.replace(-1)).filter(|&fd| fd >= 0));
        self.held_back.take();
        self.let_go();
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("fd", &self.0.fd.get())
            .field("state", &self.0.state.get())
            .finish_non_exhaustive()
    }
}
