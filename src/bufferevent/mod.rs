//! Bufferevents: buffers that fill and drain by themselves.

use std::fmt;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

mod buffers;
mod callbacks;
mod control;
mod limits;
mod machine;
#[cfg(test)]
mod probe;
mod remote;
mod seldom;
mod shell;
mod transport;
mod types;
mod view;

pub use callbacks::{Callbacks, Handler};
pub use remote::RemoteBufferEvent;
pub use transport::filter::Filter;
pub use types::{Events, FilterResult, FlushEnd, FlushMode, FlushResult, Options, TriggerOptions};
pub use view::BufferView;

use crate::addr::Addr;
use crate::driver::{KeepAlive, SocketOption};
use crate::error::Error;
use crate::evbuffer::{BufferError, EvBuffer};
use crate::event_base::{EventBase, Interest};
use crate::sys::Errno;
use buffers::Side;
use machine::{Due, Fin, Hold, Link, StreamEnd};
use shell::{Cx, Inner};
use transport::socket::Socket;
use transport::{Changed, End};

/// An input buffer and an output buffer that the kernel fills and drains, with callbacks
/// (`struct bufferevent`).
///
/// A cheap handle. The bufferevent itself lives from its creation until [`free`](Self::free) or the end of
/// its base, whether or not a handle is kept; what is asked of it afterwards is answered with
/// [`Error::Freed`].
///
/// ```
/// use evring::{BufferEvent, Callbacks, EventBase, Events, Interest, Options};
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
///
/// let base = EventBase::new()?;
/// let (ours, mut theirs) = UnixStream::pair()?;
/// let bev = BufferEvent::socket(&base, Some(ours.into()), Options::CLOSE_ON_FREE)?;
/// bev.set_callbacks(
///     Callbacks::new()
///         .on_read(|bev| bev.transfer_to(bev)) // what came in goes out: an echo
///         .on_event(|bev, events| {
///             if events.contains(Events::EOF) {
///                 // Unlike free(), this sends what is buffered first.
///                 bev.close_after_flush(None, |_end| {}).ok();
///             }
///         }),
/// )?;
/// bev.enable(Interest::READ)?;
///
/// theirs.write_all(b"ping")?;
/// theirs.shutdown(std::net::Shutdown::Write)?;
/// base.run()?; // until the end of the stream freed the bufferevent
/// let mut answer = String::new();
/// theirs.read_to_string(&mut answer)?;
/// assert_eq!(answer, "ping");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct BufferEvent(Rc<Inner>);

// With the two counters of its Rc it is what an idle connection costs before anything of its
// user's.
const _: () = assert!(size_of::<Inner<Socket>>() <= 376);

/// Between keep-alive probes that are not answered, and how many: Linux' own count, but a minute
/// and a half instead of eleven.
const KEEPALIVE_INTERVAL_S: u32 = 10;
const KEEPALIVE_PROBES: u32 = 9;

const FREED: Error = Error::Freed {
    what: "bufferevent",
};

impl BufferEvent {
    /// A bufferevent over a connected stream socket (TCP or Unix), or over none yet
    /// (`bufferevent_socket_new`).
    ///
    /// WRITE is enabled, READ is not. The descriptor stays open after [`free`](Self::free) unless
    /// [`Options::CLOSE_ON_FREE`] is given. Pipes and terminals work too, on plain reads and writes.
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

    /// Sets the callbacks, all at once (`bufferevent_setcb`). Set from inside a callback they hold
    /// for the later callbacks of the same run.
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn set_callbacks(&self, callbacks: Callbacks) -> Result<(), Error> {
        self.live()?;
        let handled = callbacks.handled();
        self.0
            .shell
            .replace_handler(Some(Box::new(callbacks)), handled);
        Ok(())
    }

    /// Sets one object that has all the callbacks (`bufferevent_setcb`).
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn set_handler(&self, handler: impl Handler + 'static) -> Result<(), Error> {
        self.live()?;
        let handler = Box::new(handler);
        self.0.shell.replace_handler(Some(handler), Due::ALL);
        Ok(())
    }

    /// Sets no callbacks.
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn clear_callbacks(&self) -> Result<(), Error> {
        self.live()?;
        self.0.shell.replace_handler(None, Due::READ);
        Ok(())
    }

    /// Lets bytes move in the given directions (`bufferevent_enable`).
    ///
    /// Restarts the time-outs of these directions. Enabling WRITE on a connected one with nothing
    /// to send calls the write callback once. Enabling READ again after the end of the stream reports it again.
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn enable(&self, interest: Interest) -> Result<(), Error> {
        self.command(|cx| {
            let now = cx.now();
            cx.machine_mut().enable(interest, now);
            cx.transport().changed(cx, Changed::Enabled(interest));
            cx.mark_dirty();
        })
    }

    /// Pauses the given directions; what is buffered stays (`bufferevent_disable`). What the kernel has
    /// begun to send is still sent; what it has received already waits unseen.
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn disable(&self, interest: Interest) -> Result<(), Error> {
        self.command(|cx| cx.machine_mut().disable(interest))
    }

    /// Which directions are enabled (`bufferevent_get_enabled`).
    pub fn enabled(&self) -> Interest {
        self.0.shell.machine.borrow().enabled()
    }

    /// Appends a copy of `data` to the output (`bufferevent_write`). It is sent by the end of the turn
    /// at the latest.
    ///
    /// # Errors
    /// [`Error::Freed`]; [`Error::Invalid`] after [`shutdown_write`](Self::shutdown_write).
    pub fn write(&self, data: &[u8]) -> Result<(), Error> {
        self.append(|output| output.add(data))
    }

    /// Moves all of `buffer` to the output, by reference (`bufferevent_write_buffer`).
    ///
    /// # Errors
    /// As [`write`](Self::write); `buffer` is then as it was.
    pub fn write_buffer(&self, buffer: &mut EvBuffer) -> Result<(), Error> {
        self.append(|output| output.add_buffer(buffer))
    }

    /// Appends a shared payload to the output without copying it (`evbuffer_add_reference`).
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_piece(&self, payload: impl Into<crate::arena::Piece>) -> Result<(), Error> {
        self.append(|output| output.add_piece(payload))
    }

    /// Moves bytes from the input into `data`; how many (`bufferevent_read`). None when it was
    /// freed.
    ///
    /// A file range in the input that can not be read gives none either, and is reported by a
    /// `READING | ERROR` event.
    pub fn read(&self, data: &mut [u8]) -> usize {
        let Ok(base) = self.live() else { return 0 };
        let cx = Cx::new(self, &base);
        if let Some(mut input) = self.0.shell.buffers.input()
            && !input.has_owners()
        {
            // Nothing of the user's runs: plain bytes.
            let removed = input.remove(data).unwrap_or(0);
            drop(input);
            cx.input_changed();
            cx.settle();
            return removed;
        }
        match self.input().with(|input| input.remove(data)) {
            Ok(Ok(n)) => n,
            Ok(Err(error)) => {
                cx.ended(StreamEnd::Error(errno_of(&error)));
                cx.settle();
                0
            }
            Err(_) => 0,
        }
    }

    /// Moves the whole input to the end of `buffer`, by reference; how many bytes
    /// (`bufferevent_read_buffer`).
    ///
    /// # Errors
    /// [`Error::Freed`], or what `buffer` refuses.
    pub fn read_buffer(&self, buffer: &mut EvBuffer) -> Result<usize, Error> {
        self.input().with(|input| {
            let moved = input.len();
            buffer.add_buffer(input)?;
            Ok(moved)
        })?
    }

    /// Moves the whole input to the output of `other`, by reference; how many bytes. `other` may be the
    /// same bufferevent.
    ///
    /// # Errors
    /// As [`write`](Self::write) on `other`; the input is then as it was.
    pub fn transfer_to(&self, other: &BufferEvent) -> Result<usize, Error> {
        let base = self.live()?;
        let here = Cx::new(self, &base);
        if other.0.shell.is_on(&base) {
            return here.transfer(&Cx::new(other, &base));
        }
        let other_base = other.live()?;
        here.transfer(&Cx::new(other, &other_base))
    }

    /// The buffer that received bytes are read from (`bufferevent_get_input`).
    pub fn input(&self) -> BufferView<'_> {
        BufferView::new(self, Side::Input)
    }

    /// The buffer that bytes to be sent are appended to (`bufferevent_get_output`).
    pub fn output(&self) -> BufferView<'_> {
        BufferView::new(self, Side::Output)
    }

    /// Sets the marks of the given directions, in bytes (`bufferevent_setwatermark`).
    ///
    /// The read callback is called when the input has at least `low`; reading pauses while it has `high` or
    /// more. The write callback is called when the output has `low` or less; filters above pause at its `high`. A
    /// `high` of zero means none.
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn set_watermarks(&self, interest: Interest, low: usize, high: usize) -> Result<(), Error> {
        self.command(|cx| {
            let input = cx.shell().input_len();
            let now = cx.now();
            let mut machine = cx.machine_mut();
            let resumed = machine.set_marks(interest, low, high, input, now);
            drop(machine);
            if resumed {
                cx.resume_input();
            }
            cx.transport().changed(cx, Changed::Pace);
            cx.mark_dirty();
        })
    }

    /// The low and the high mark of one direction (`bufferevent_getwatermark`).
    pub fn watermarks(&self, interest: Interest) -> (usize, usize) {
        self.0.shell.machine.borrow().marks(interest)
    }

    /// Sets the inactivity time-outs; none or zero is off (`bufferevent_set_timeouts`).
    ///
    /// The read timer runs while READ is enabled and the input below its high mark, the write timer while
    /// there is something to send or a connect is under way. Each byte moved restarts them. When one fires its direction
    /// is disabled and a `TIMEOUT` event reported.
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn set_timeouts(
        &self,
        read: Option<Duration>,
        write: Option<Duration>,
    ) -> Result<(), Error> {
        let ns = |timeout: Option<Duration>| {
            timeout.map_or(0, |t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX))
        };
        self.command(|cx| {
            let now = cx.now();
            cx.machine_mut().set_timeouts(ns(read), ns(write), now);
            cx.transport().changed(cx, Changed::Pace);
        })
    }

    /// Moves bytes now that would wait otherwise (`bufferevent_flush`): runs filters with the mode, past their marks, and
    /// moves the bytes of a pair whatever is enabled. A socket needs no flush: its output is always on its way.
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn flush(&self, interest: Interest, mode: FlushMode) -> Result<FlushResult, Error> {
        self.command(|cx| cx.transport().flush(cx, interest, mode))
    }

    /// Ends the sending direction once the output is empty: the peer sees the end of the stream, reading goes on. Later
    /// writes are refused.
    ///
    /// A pipe's write end, or a file, is closed for it, which needs `CLOSE_ON_FREE`.
    ///
    /// # Errors
    /// [`Error::Freed`]; [`Error::Invalid`] for a terminal, which has no half-close, and for a pipe
    /// that may not be closed.
    pub fn shutdown_write(&self) -> Result<(), Error> {
        let socket = self.0.transport.socket();
        if socket.is_some_and(|socket| !socket.can_end_direction(self.0.shell.closes())) {
            self.live()?;
            return Err(Error::Invalid {
                what: "shutdown_write",
                why: "a terminal has no half-close, and a pipe ends by being closed: make the \
                      bufferevent with CLOSE_ON_FREE",
            });
        }
        self.command(|cx| {
            let mut machine = cx.machine_mut();
            if machine.fin() == Fin::Open {
                machine.set_fin(Fin::Wanted);
            }
            drop(machine);
            cx.mark_dirty();
        })
    }

    /// Frees the bufferevent (`bufferevent_free`): no callback runs any more, buffered bytes are
    /// dropped, operations cancelled. With `CLOSE_ON_FREE` the descriptor is closed once the kernel has let go of it.
    /// Freeing twice does nothing.
    pub fn free(&self) {
        self.end(End::Free);
    }

    /// As [`free`](Self::free), but the peer sees a reset, not the end of a stream: for a transfer
    /// that was cut short and must not look whole. It needs `CLOSE_ON_FREE`, and a transport that
    /// knows resets: TCP, a pair, a filter over either. Elsewhere the peer sees an end.
    pub fn reset(&self) {
        self.end(End::Reset);
    }

    fn end(&self, how: End) {
        if let Some(base) = self.0.shell.reg.base() {
            Cx::new(self, &base).end(how);
        }
    }

    /// Sends what is buffered, ends the stream in order, then frees; `report` says how it ended. No
    /// other callback runs from now on, received bytes are dropped.
    ///
    /// Without a deadline the flush takes as long as the peer needs. After it the peer gets at most two seconds to end
    /// its own direction, so that a reset does not overtake the last bytes.
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn close_after_flush(
        &self,
        deadline: Option<Duration>,
        report: impl FnOnce(FlushEnd) + 'static,
    ) -> Result<(), Error> {
        self.command(|cx| {
            let deadline = deadline_of(cx, deadline);
            cx.begin_close(deadline, Box::new(report));
        })
    }

    /// Stops receiving for good and calls `done` when it has: all that the kernel had received for this bufferevent is
    /// then in the input, whatever the high mark. The callbacks run on meanwhile; the end of the stream is not
    /// reported any more.
    ///
    /// For an orderly end: what was received was acknowledged to the peer, and can be answered or passed on before
    /// [`close_after_flush`](Self::close_after_flush).
    ///
    /// `done` is called in any case, also when the bufferevent is freed or closed first.
    ///
    /// # Errors
    /// [`Error::Freed`]; [`Error::Invalid`] once it is closing.
    pub fn finish_reading(&self, done: impl FnOnce(&BufferEvent) + 'static) -> Result<(), Error> {
        self.finish_reading_boxed(Box::new(done))
    }

    /// The same for any depth of filters, without a type for each.
    fn finish_reading_boxed(&self, done: Box<dyn FnOnce(&BufferEvent)>) -> Result<(), Error> {
        let base = self.live()?;
        if self.0.shell.life().is_closing() {
            return Err(Error::Invalid {
                what: "finish_reading",
                why: "it is closing already",
            });
        }
        let cx = Cx::new(self, &base);
        let Some(under) = self.underlying().filter(|under| !under.is_freed()) else {
            cx.begin_stop_reads(done);
            cx.settle();
            return Ok(());
        };
        // What the underlying still brings passes the filter at once, when it has all come.
        cx.machine_mut().finish_reading();
        let filter = self.clone();
        under.finish_reading_boxed(Box::new(move |_| {
            let _freed = filter.flush(Interest::READ, FlushMode::Flush);
            done(&filter);
        }))
    }

    /// Ends a close that is under way within so long, at the latest.
    pub(crate) fn shorten_deadline(&self, within: Duration) {
        for bev in self.down() {
            let _freed = bev.command(|cx| cx.shorten_deadline(deadline_of(cx, Some(within))));
        }
    }

    /// Says that what it received is still waiting to be sent somewhere: while memory is short it
    /// receives no more.
    pub(crate) fn set_backlogged(&self, backlogged: bool) {
        let lowest = self.lowest();
        if let Some(socket) = lowest.0.transport.socket()
            && socket.set_backlogged(backlogged)
        {
            let _freed = lowest.command(|cx| cx.mark_dirty());
        }
    }

    /// Bounds what one receive brings before it is armed again, and so what arrives in spite of a
    /// pause, in bytes; 0: no bound but the receive window.
    pub(crate) fn set_receive_bound(&self, bytes: usize) {
        if let Some(socket) = self.lowest().0.transport.socket() {
            socket.set_receive_bound(bytes);
        }
    }

    /// Has the progress of what is sent told as the kernel takes bytes, not as operations end.
    pub(crate) fn watch_progress(&self) {
        let lowest = self.lowest();
        if let Some(socket) = lowest.0.transport.socket() {
            let _freed = lowest.command(|cx| socket.watch_progress(cx, true));
        }
    }

    /// When a byte moved last, here or below, in the driver's time; also one that only the peer's
    /// acknowledgement tells of.
    pub(crate) fn moved_at(&self) -> u64 {
        let mut latest = 0;
        for bev in self.down() {
            let _freed = bev.command(|cx| {
                if cx.transport().made_way(cx) {
                    let now = cx.now();
                    cx.machine_mut().handle_progress(now);
                }
            });
            latest = latest.max(bev.0.shell.machine.borrow().moved_at());
        }
        latest
    }

    /// Keeps it from reading, or lets it read again, for a relay.
    pub(crate) fn hold_for_relay(&self, hold: bool) {
        let hold = match hold {
            true => Hold::Relay,
            false => Hold::Free,
        };
        let _freed = self.command(|cx| {
            let resumed = cx.machine_mut().hold_read(hold);
            if resumed {
                cx.transport().changed(cx, Changed::InputHasRoom);
            }
            cx.mark_dirty();
        });
    }

    /// Bytes that wait to leave, here and in whatever it passes them on to.
    #[inline]
    pub(crate) fn backlog(&self) -> usize {
        let here = self.0.shell.output_len();
        match self.0.shell.follows() {
            true => self
                .down()
                .skip(1)
                .fold(here, |all, bev| all + bev.0.shell.output_len()),
            false => here,
        }
    }

    /// Bytes that would be lost if it ended now: its own, and what went down to those that end with
    /// it.
    fn unsent(&self) -> usize {
        let mut ends = true;
        let with_it = self.down().take_while(|bev| {
            let counts = ends;
            ends = bev.0.shell.closes();
            counts
        });
        with_it.map(|bev| bev.0.shell.output_len()).sum()
    }

    /// Has the write callback called once [`backlog`](Self::backlog) is down to the low mark.
    pub(crate) fn await_drain(&self) {
        self.0.transport.await_below();
    }

    /// Whether anything can come in, and whether anything can go out: a pipe has one of both.
    pub(crate) fn directions(&self) -> (bool, bool) {
        match self.lowest().0.transport.socket() {
            Some(socket) => (socket.reads(), socket.writes()),
            None => (true, true),
        }
    }

    /// This one and those below it.
    fn down(&self) -> impl Iterator<Item = &BufferEvent> {
        std::iter::successors(Some(self), |bev| bev.0.transport.under())
    }

    /// The one that moves the bytes by itself.
    fn lowest(&self) -> &BufferEvent {
        match self.0.shell.follows() {
            true => self.down().last().unwrap_or(self),
            false => self,
        }
    }

    /// The error number that came with the last `ERROR` event.
    pub fn last_error(&self) -> Option<Errno> {
        self.0.shell.machine.borrow().errno()
    }

    /// The descriptor, if there is one (`bufferevent_getfd`): of a filter, the one below it. It stays the bufferevent's.
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

    /// The other side of a pair, or none when it was freed or this is no pair
    /// (`bufferevent_pair_get_partner`).
    pub fn partner(&self) -> Option<BufferEvent> {
        self.0.transport.partner()
    }

    /// The base it lives on (`bufferevent_get_base`).
    ///
    /// # Errors
    /// [`Error::Freed`] when it was freed or the base is gone.
    pub fn base(&self) -> Result<EventBase, Error> {
        self.live()
    }

    /// Whether it was freed.
    pub fn is_freed(&self) -> bool {
        self.0.shell.is_freed()
    }

    /// The base, unless this was freed.
    fn live(&self) -> Result<EventBase, Error> {
        self.0.shell.live()
    }

    /// A call of the user: enters, and settles what followed from it.
    fn command<R>(&self, f: impl FnOnce(&Cx<'_>) -> R) -> Result<R, Error> {
        let base = self.live()?;
        let cx = Cx::new(self, &base);
        let result = f(&cx);
        cx.settle();
        Ok(result)
    }

    /// The same for what only a bufferevent with a descriptor of its own can do.
    fn on_socket<R>(
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

    /// Appends to the output by way of `f`, and has it sent.
    fn append(
        &self,
        f: impl FnOnce(&mut EvBuffer) -> Result<(), BufferError>,
    ) -> Result<(), Error> {
        let base = self.live()?;
        let cx = Cx::new(self, &base);
        cx.check_writable()?;
        Ok(cx.append(f)?)
    }
}

impl PartialEq for BufferEvent {
    /// Whether both handles stand for the same bufferevent.
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for BufferEvent {}

impl fmt::Debug for BufferEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("BufferEvent");
        debug
            .field("fd", &self.fd())
            .field("enabled", &self.enabled())
            .field("input", &self.0.shell.input_len())
            .field("output", &self.0.shell.output_len())
            .field("freed", &self.is_freed());
        debug.finish_non_exhaustive()
    }
}

/// # Errors
/// [`Error::Invalid`] for a combination that libevent refuses, too.
fn check_options(options: Options) -> Result<(), Error> {
    if options.contains(Options::UNLOCK_CALLBACKS) && !options.contains(Options::DEFER_CALLBACKS) {
        return Err(Error::Invalid {
            what: "bufferevent options",
            why: "UNLOCK_CALLBACKS needs DEFER_CALLBACKS",
        });
    }
    Ok(())
}

/// The error number of a buffer that could not be read.
fn errno_of(error: &BufferError) -> Errno {
    let raw = match error {
        BufferError::Io(error) => error.raw_os_error(),
        _ => None,
    };
    Errno::from_raw(raw.unwrap_or(libc::EIO))
}

/// When so much time has passed, in the driver's time; `u64::MAX` for no limit.
fn deadline_of(cx: &Cx<'_>, within: Option<Duration>) -> u64 {
    let after = within.map(|d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
    after.map_or(u64::MAX, |after| cx.now().saturating_add(after))
}
