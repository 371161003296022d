//! The floor: a TCP echo server or proxy as a bare io_uring loop.
//!
//! Multishot accept, multishot receive into a window of provided buffers, and sends of the very
//! slots that were received, gathered when there are several. One `enter` a turn submits, waits and
//! reaps. Half-close is carried through. There is nothing else: no timeouts, no callbacks, no
//! high-water mark (what a peer does not read waits in slots until the pool is spent, then reading
//! stops).
//!
//! It is also where a feature of the kernel is tried before evring takes it over. [`FloorArgs`]
//! turns each of them on: registered descriptors, buffers that are filled incrementally, receives
//! in bundles, waits for several completions.

mod args;
mod files;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};

use io_uring::{cqueue, opcode, types};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

pub use self::args::FloorArgs;
use self::files::Files;
use crate::ring::{Ring, multishot_recv, set_up};
use crate::server::{ServerArgs, set_nodelay};
use crate::window::{Chunk, Filling, Window};

/// Pieces of one gathered send; the kernel takes 1024, beyond this there is nothing left to save.
const MAX_GATHER: usize = 64;

/// Where received bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Back to where they came from.
    Echo,
    /// To a connection of their own to this address, and back.
    Proxy(SocketAddr),
}

/// Serves until the process is told to go. It listens only once the kernel has granted what was
/// asked for.
///
/// # Errors
///
/// The options do not go together, the kernel lacks one, the ring could not be set up, or accepting
/// failed (a bare loop has no way to go on from that).
pub fn serve(server: &ServerArgs, route: Route, args: &FloorArgs) -> io::Result<()> {
    let mut uring = set_up()?;
    args.check(uring.params())?;
    let ring = Ring::new(&mut uring, args.batch())?;
    let window = Window::new(&ring, args.slot, args.window, args.filling())?;
    let files = if args.registered_files {
        Files::register(ring.submitter())?
    } else {
        Files::NONE
    };
    let listener = server.start()?;
    // The ring waits by itself; a nonblocking listener is of no use to it.
    listener.set_nonblocking(false)?;
    let mut floor = Floor {
        ring,
        window,
        filling: args.filling(),
        files,
        route,
        upstream: match route {
            Route::Echo => None,
            Route::Proxy(addr) => Some(Box::new(addr.into())),
        },
        listen_fd: listener.as_raw_fd(),
        ends: Vec::new(),
        free_pairs: Vec::new(),
        to_send: Vec::new(),
        starved: Vec::new(),
    };
    floor.accept()?;
    let want = u32::from(!args.spin);
    loop {
        floor.turn(want)?;
    }
}

/// `user_data` = kind << 32 | index of the end.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
enum Kind {
    Accept,
    Connect,
    Recv,
    Send,
    Cancel,
}

impl Kind {
    const fn of(self, end: usize) -> u64 {
        (self as u64) << 32 | end as u64
    }

    fn parse(user_data: u64) -> (Self, usize) {
        let kind = match user_data >> 32 {
            0 => Self::Accept,
            1 => Self::Connect,
            2 => Self::Recv,
            3 => Self::Send,
            _ => Self::Cancel,
        };
        (kind, (user_data & u64::from(u32::MAX)) as usize)
    }
}

/// One socket. Ends come in pairs (2k, 2k + 1): client and upstream; an echo uses only the first
/// and is its own other.
#[derive(Debug)]
struct End {
    /// -1: not in use.
    fd: RawFd,
    /// Operations the kernel has not finished with; the descriptor is closed at zero.
    ops: u32,
    queue: VecDeque<Chunk>,
    flight: Vec<Chunk>,
    gather: Option<Box<Gather>>,
    /// In `to_send`.
    listed: bool,
    /// The other end has nothing more to say.
    fin: bool,
    /// That was passed on.
    shut: bool,
    /// An error on either side: nothing new is started.
    broken: bool,
}

/// What a gathered send points to while the kernel has it.
#[derive(Debug)]
struct Gather {
    iovecs: [libc::iovec; MAX_GATHER],
    header: libc::msghdr,
}

impl End {
    fn new() -> Self {
        Self {
            fd: -1,
            ops: 0,
            queue: VecDeque::new(),
            flight: Vec::new(),
            gather: None,
            listed: false,
            fin: false,
            shut: false,
            broken: false,
        }
    }
}

struct Floor<'a> {
    ring: Ring<'a>,
    window: Window,
    filling: Filling,
    files: Files,
    route: Route,
    upstream: Option<Box<SockAddr>>,
    listen_fd: RawFd,
    ends: Vec<End>,
    free_pairs: Vec<usize>,
    /// Ends that got something to send in this turn: sent together at its end.
    to_send: Vec<usize>,
    /// Ends whose receive found no slot.
    starved: Vec<usize>,
}

impl Floor<'_> {
    fn turn(&mut self, want: u32) -> io::Result<()> {
        self.window.refill();
        if !self.starved.is_empty() && !self.window.is_empty() {
            for end in std::mem::take(&mut self.starved) {
                self.recv(end)?;
            }
        }
        self.ring.enter(want)?;
        while let Some(cqe) = self.ring.reap() {
            self.complete(&cqe)?;
        }
        self.ring.reaped();
        for at in 0..self.to_send.len() {
            let end = self.to_send[at];
            self.ends[end].listed = false;
            self.send(end)?;
        }
        self.to_send.clear();
        Ok(())
    }

    fn complete(&mut self, cqe: &cqueue::Entry) -> io::Result<()> {
        let (kind, end) = Kind::parse(cqe.user_data());
        match kind {
            Kind::Accept => self.accepted(cqe),
            Kind::Connect => self.connected(end, cqe.result()),
            Kind::Recv => self.received(end, cqe),
            Kind::Send => self.sent(end, cqe.result()),
            Kind::Cancel => {
                self.ends[end].ops -= 1;
                self.list(end);
                Ok(())
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        let entry = opcode::AcceptMulti::new(types::Fd(self.listen_fd))
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(Kind::Accept.of(0));
        // SAFETY: the entry points to nothing.
        unsafe { self.ring.push(&entry) }
    }

    fn accepted(&mut self, cqe: &cqueue::Entry) -> io::Result<()> {
        if cqe.result() < 0 {
            return Err(io::Error::from_raw_os_error(-cqe.result()));
        }
        let client = self.free_pairs.pop().unwrap_or_else(|| {
            self.ends.extend([End::new(), End::new()]);
            self.ends.len() - 2
        });
        self.ends[client].fd = cqe.result();
        set_nodelay(cqe.result());
        self.files
            .add(self.ring.submitter(), client, cqe.result())?;
        match self.route {
            Route::Echo => self.recv(client)?,
            Route::Proxy(addr) => self.connect(client ^ 1, addr)?,
        }
        if !cqueue::more(cqe.flags()) {
            self.accept()?;
        }
        Ok(())
    }

    fn connect(&mut self, end: usize, addr: SocketAddr) -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        let fd = socket.into_raw_fd();
        set_nodelay(fd);
        self.files.add(self.ring.submitter(), end, fd)?;
        self.ends[end].fd = fd;
        self.ends[end].ops += 1;
        let (fd, fixed) = self.files.target(end, fd);
        let to = self.upstream.as_ref().expect("a proxy has an upstream");
        let entry = opcode::Connect::new(fd, to.as_ptr().cast(), to.len())
            .build()
            .flags(fixed)
            .user_data(Kind::Connect.of(end));
        // SAFETY: the address is boxed and lives as long as the loop.
        unsafe { self.ring.push(&entry) }
    }

    fn connected(&mut self, end: usize, result: i32) -> io::Result<()> {
        self.ends[end].ops -= 1;
        if result < 0 {
            return self.break_off(end);
        }
        self.recv(end)?;
        self.recv(end ^ 1)
    }

    fn recv(&mut self, end: usize) -> io::Result<()> {
        if self.ends[end].broken {
            self.list(end);
            return Ok(());
        }
        self.ends[end].ops += 1;
        let (fd, fixed) = self.files.target(end, self.ends[end].fd);
        let entry = multishot_recv(fd, self.filling)
            .flags(fixed)
            .user_data(Kind::Recv.of(end));
        // SAFETY: the entry points to nothing; the slots it draws are the window's, which is never
        // unmapped.
        unsafe { self.ring.push(&entry) }
    }

    fn received(&mut self, end: usize, cqe: &cqueue::Entry) -> io::Result<()> {
        let more = cqueue::more(cqe.flags());
        if !more {
            self.ends[end].ops -= 1;
        }
        let result = cqe.result();
        if let Some(slot) = cqueue::buffer_select(cqe.flags()) {
            let goes_on = cqueue::buffer_more(cqe.flags());
            let other = self.other(end);
            let to = &mut self.ends[other];
            self.window
                .taken(slot, result.max(0) as u32, goes_on, &mut to.queue);
            if to.shut {
                for chunk in to.queue.drain(..) {
                    self.window.put_back(chunk.slot);
                }
            } else if result > 0 {
                self.list(other);
            }
        }
        match result {
            1.. if more => Ok(()),
            1.. => self.recv(end),
            0 => {
                let other = self.other(end);
                self.ends[other].fin = true;
                self.list(other);
                Ok(())
            }
            _ if result == -libc::ENOBUFS => {
                self.starved.push(end);
                Ok(())
            }
            _ => self.break_off(end),
        }
    }

    /// Sends what is queued for `end`, unless a send is under way; passes the other end's end on
    /// once all is sent.
    fn send(&mut self, at: usize) -> io::Result<()> {
        let end = &mut self.ends[at];
        if !end.flight.is_empty() {
            return Ok(());
        }
        if end.queue.is_empty() {
            if end.fin && !end.shut {
                end.shut = true;
                // SAFETY: no memory is involved; a socket that is no longer connected is only an
                // error.
                unsafe { libc::shutdown(end.fd, libc::SHUT_WR) };
            }
            return self.close_if_over(at);
        }
        let count = end.queue.len().min(MAX_GATHER);
        end.flight.extend(end.queue.drain(..count));
        self.send_flight(at)
    }

    fn send_flight(&mut self, at: usize) -> io::Result<()> {
        let end = &mut self.ends[at];
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let (fd, fixed) = self.files.target(at, end.fd);
        // SAFETY: a chunk lies within its slot.
        let start =
            |chunk: &Chunk| unsafe { self.window.slot(chunk.slot).add(chunk.start as usize) };
        let entry = if let [chunk] = end.flight.as_slice() {
            opcode::Send::new(fd, start(chunk), chunk.len)
                .flags(flags)
                .build()
        } else {
            let gather = end.gather.get_or_insert_with(|| {
                // SAFETY: both are plain C structs, for which all-zero is a value.
                Box::new(unsafe { std::mem::zeroed() })
            });
            for (iovec, chunk) in gather.iovecs.iter_mut().zip(&end.flight) {
                iovec.iov_base = start(chunk).cast();
                iovec.iov_len = chunk.len as usize;
            }
            gather.header.msg_iov = gather.iovecs.as_mut_ptr();
            gather.header.msg_iovlen = end.flight.len() as _;
            opcode::SendMsg::new(fd, &raw const gather.header)
                .flags(flags as u32)
                .build()
        };
        end.ops += 1;
        // SAFETY: the slots in flight go back to the pool, and the boxed header is touched again,
        // only after this send's completion.
        unsafe {
            self.ring
                .push(&entry.flags(fixed).user_data(Kind::Send.of(at)))
        }
    }

    fn sent(&mut self, at: usize, result: i32) -> io::Result<()> {
        let end = &mut self.ends[at];
        end.ops -= 1;
        if result < 0 || end.broken {
            for chunk in end.flight.drain(..) {
                self.window.put_back(chunk.slot);
            }
            return self.break_off(at);
        }
        let mut left = result as u32;
        let mut done = 0;
        for chunk in &mut end.flight {
            if left < chunk.len {
                chunk.start += left;
                chunk.len -= left;
                break;
            }
            left -= chunk.len;
            self.window.put_back(chunk.slot);
            done += 1;
        }
        if done == end.flight.len() {
            end.flight.clear();
            self.list(at);
            return Ok(());
        }
        end.flight.drain(..done);
        self.send_flight(at)
    }

    fn list(&mut self, at: usize) {
        let end = &mut self.ends[at];
        if !end.listed {
            end.listed = true;
            self.to_send.push(at);
        }
    }

    /// An error on either side ends both: what is queued is dropped, what the kernel has is
    /// cancelled, and both are closed once that has come back. (Shutting down instead is not
    /// enough: a multishot receive that still found data gets no completion for the end.)
    fn break_off(&mut self, at: usize) -> io::Result<()> {
        for at in [at, self.other(at)] {
            self.list(at);
            let end = &mut self.ends[at];
            if end.broken || end.fd < 0 {
                continue;
            }
            end.fin = true;
            end.shut = true;
            end.broken = true;
            for chunk in end.queue.drain(..) {
                self.window.put_back(chunk.slot);
            }
            end.ops += 1;
            let entry = opcode::AsyncCancel2::new(self.files.cancel(at, end.fd).all())
                .build()
                .user_data(Kind::Cancel.of(at));
            // SAFETY: the entry points to nothing.
            unsafe { self.ring.push(&entry)? };
        }
        Ok(())
    }

    fn close_if_over(&mut self, at: usize) -> io::Result<()> {
        let other = self.other(at);
        let over = |end: &End| end.shut && end.ops == 0;
        if self.ends[at].fd < 0 || !over(&self.ends[at]) || !over(&self.ends[other]) {
            return Ok(());
        }
        for at in [at, other] {
            let end = &mut self.ends[at];
            if end.fd >= 0 {
                self.files.remove(self.ring.submitter(), at)?;
                // SAFETY: the descriptor is this end's own and no operation on it is left.
                unsafe { libc::close(end.fd) };
            }
            end.fd = -1;
            end.fin = false;
            end.shut = false;
            end.broken = false;
        }
        self.starved.retain(|starved| *starved & !1 != at & !1);
        self.free_pairs.push(at & !1);
        Ok(())
    }

    fn other(&self, end: usize) -> usize {
        match self.route {
            Route::Echo => end,
            Route::Proxy(_) => end ^ 1,
        }
    }
}
