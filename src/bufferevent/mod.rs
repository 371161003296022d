//! Bufferevents: buffers that fill and drain by themselves.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

mod callbacks;
mod closing;
mod control;
mod core;
mod filter;
mod gate;
mod limits;
mod pair;
#[cfg(test)]
mod probe;
mod remote;
mod socket;
mod types;
mod view;

pub use callbacks::{Callbacks, Handler};
pub use filter::Filter;
pub use remote::RemoteBufferEvent;
pub use types::{Events, FilterResult, FlushEnd, FlushMode, FlushResult, Options, TriggerOptions};
pub use view::BufferView;

use crate::addr::Addr;
use crate::driver::Completion;
use crate::error::Error;
use crate::evbuffer::EvBuffer;
use crate::event_base::registration::Registration;
use crate::event_base::source::{Feeding, Offer, Source};
use crate::event_base::{EventBase, Interest};
use crate::rate_limit::Direction;
use crate::sys::Errno;
use callbacks::Handles;
use closing::Closing;
use core::{Core, Fin, Link, Stage};
use filter::Filtering;
use gate::Limits;
use pair::Pair;
use socket::Socket;

/// What stays in the input after the read callback is copied out of its slot when it is no
/// longer than this part of the slot: a 64-byte message must not pin 16 KiB.
const COPY_OUT_FRACTION: usize = 8;

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
///         .on_read(|bev| drop(bev.transfer_to(bev))) // what came in goes out: an echo
///         .on_event(|bev, events| {
///             if events.contains(Events::EOF) {
///                 // Unlike free(), this sends what is buffered first.
///                 drop(bev.close_after_flush(None, |_end| {}));
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
pub struct BufferEvent(pub(crate) Rc<Inner>);

/// What the handles share.
pub(crate) struct Inner {
    registration: Registration,
    core: RefCell<Core>,
    input: RefCell<EvBuffer>,
    output: RefCell<EvBuffer>,
    handler: Cell<Option<Box<dyn Handler>>>,
    flavour: Flavour,
    /// Without a descriptor for the flavours that never have one.
    socket: Socket,
    closing: RefCell<Option<Box<Closing>>>,
    limits: RefCell<Option<Box<Limits>>>,
    /// In a run of callbacks: at which stage of it.
    calling: Cell<Option<Stage>>,
    /// The handler was set or cleared while it ran.
    handler_changed: Cell<bool>,
    handles: Cell<Handles>,
    freed: Cell<bool>,
}

// With the two counters of its Rc it is what an idle connection costs before anything of its user's.
const _: () = assert!(size_of::<Inner>() <= 376);

/// Where the bytes come from and go to.
enum Flavour {
    Socket,
    Pair(Box<Pair>),
    Filter(Box<Filtering>),
}

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
        Ok(BufferEvent(Inner::new(base, options, Flavour::Socket, fd)))
    }

    /// [`socket`](Self::socket) over a descriptor of a driver that is not the kernel.
    #[cfg(test)]
    pub(crate) fn simulated(base: &EventBase, fd: i32, family: i32, options: Options) -> Self {
        let socket = Socket::simulated(fd, family);
        BufferEvent(Inner::over(base, options, Flavour::Socket, socket))
    }

    /// Begins to connect to `addr` (`bufferevent_socket_connect`). A socket is made if there is
    /// none.
    ///
    /// Ends with one `CONNECTED` event, one `ERROR` event, or, where a write time-out is set and
    /// passes first, one `WRITING | TIMEOUT` event that abandons it; never from inside this call.
    ///
    /// # Errors
    /// [`Error::Io`] when no socket can be made; [`Error::Invalid`] when it is connected or
    /// connecting.
    pub fn connect(&self, addr: &Addr) -> Result<(), Error> {
        let base = self.live()?;
        self.0.connect(&base, addr)
    }

    /// Expects the descriptor's own connect, begun by the caller, to end: reports it as
    /// [`connect`](Self::connect) does (`bufferevent_socket_connect` without an address).
    ///
    /// # Errors
    /// [`Error::Invalid`] without a descriptor.
    pub fn connect_in_progress(&self) -> Result<(), Error> {
        let base = self.live()?;
        self.0.connect_in_progress(&base)
    }

    /// Sets the callbacks, all at once (`bufferevent_setcb`). Set from inside a callback they hold
    /// for the later callbacks of the same run.
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn set_callbacks(&self, callbacks: Callbacks) -> Result<(), Error> {
        self.live()?;
        let handles = callbacks.handles();
        self.0.replace_handler(Some(Box::new(callbacks)), handles);
        Ok(())
    }

    /// Sets one object that has all the callbacks (`bufferevent_setcb`).
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn set_handler(&self, handler: impl Handler + 'static) -> Result<(), Error> {
        self.live()?;
        self.0
            .replace_handler(Some(Box::new(handler)), Handles::ALL);
        Ok(())
    }

    /// Sets no callbacks.
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn clear_callbacks(&self) -> Result<(), Error> {
        self.live()?;
        self.0.replace_handler(None, Handles::ALL);
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
        let base = self.live()?;
        self.0.core.borrow_mut().enable(interest, base.now());
        match &self.0.flavour {
            Flavour::Socket => {}
            Flavour::Pair(pair) => {
                self.0.core.borrow_mut().forgive_write();
                self.0.move_pair(&base, pair);
            }
            Flavour::Filter(filtering) => self.0.sync_hold(&base, filtering),
        }
        self.0.mark_dirty(&base);
        self.0.sync(&base);
        Ok(())
    }

    /// Pauses the given directions; what is buffered stays (`bufferevent_disable`). What the kernel has
    /// begun to send is still sent; what it has received already waits unseen.
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn disable(&self, interest: Interest) -> Result<(), Error> {
        let base = self.live()?;
        self.0.core.borrow_mut().disable(interest);
        if let Flavour::Filter(filtering) = &self.0.flavour {
            self.0.sync_hold(&base, filtering);
        }
        self.0.sync(&base);
        Ok(())
    }

    /// Which directions are enabled (`bufferevent_get_enabled`).
    pub fn enabled(&self) -> Interest {
        self.0.core.borrow().enabled()
    }

    /// Appends a copy of `data` to the output (`bufferevent_write`). It is sent by the end of the turn
    /// at the latest.
    ///
    /// # Errors
    /// [`Error::Freed`]; [`Error::Invalid`] after [`shutdown_write`](Self::shutdown_write).
    pub fn write(&self, data: &[u8]) -> Result<(), Error> {
        self.0.append(|output| Ok(output.add(data)?))
    }

    /// Moves all of `buffer` to the output, by reference (`bufferevent_write_buffer`).
    ///
    /// # Errors
    /// As [`write`](Self::write); `buffer` is then as it was.
    pub fn write_buffer(&self, buffer: &mut EvBuffer) -> Result<(), Error> {
        self.0.append(|output| Ok(output.add_buffer(buffer)?))
    }

    /// Appends a shared payload to the output without copying it (`evbuffer_add_reference`).
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_piece(&self, payload: impl Into<crate::arena::Piece>) -> Result<(), Error> {
        self.0.append(|output| Ok(output.add_piece(payload)?))
    }

    /// Moves bytes from the input into `data`; how many (`bufferevent_read`). None when it was freed.
    pub fn read(&self, data: &mut [u8]) -> usize {
        self.input()
            .with(|input| input.remove(data).unwrap_or_default())
            .unwrap_or_default()
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
        self.input().with(|input| {
            let moved = input.len();
            if moved != 0 {
                other.write_buffer(input)?;
            }
            Ok(moved)
        })?
    }

    /// The buffer that received bytes are read from (`bufferevent_get_input`).
    pub fn input(&self) -> BufferView<'_> {
        BufferView::new(&self.0, view::Side::Input)
    }

    /// The buffer that bytes to be sent are appended to (`bufferevent_get_output`).
    pub fn output(&self) -> BufferView<'_> {
        BufferView::new(&self.0, view::Side::Output)
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
        let base = self.live()?;
        let input = self.0.input_len();
        let mut core = self.0.core.borrow_mut();
        core.set_marks(interest, low, high, input, base.now());
        drop(core);
        self.0.mark_dirty(&base);
        self.0.sync(&base);
        Ok(())
    }

    /// The low and the high mark of one direction (`bufferevent_getwatermark`).
    pub fn watermarks(&self, interest: Interest) -> (usize, usize) {
        self.0.core.borrow().marks(interest)
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
        let base = self.live()?;
        let ns = |timeout: Option<Duration>| {
            timeout.map_or(0, |t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX))
        };
        let now = base.now();
        let mut core = self.0.core.borrow_mut();
        core.set_timeouts(ns(read), ns(write), now);
        drop(core);
        self.0.sync(&base);
        Ok(())
    }

    /// Moves bytes now that would wait otherwise (`bufferevent_flush`): runs filters with the mode, past their marks, and
    /// moves the bytes of a pair whatever is enabled. A socket needs no flush: its output is always on its way.
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn flush(&self, interest: Interest, mode: FlushMode) -> Result<FlushResult, Error> {
        let base = self.live()?;
        Ok(match &self.0.flavour {
            Flavour::Socket => FlushResult::Nothing,
            Flavour::Pair(pair) => match self.0.flush_pair(&base, pair, interest, mode) {
                true => FlushResult::Produced,
                false => FlushResult::Nothing,
            },
            Flavour::Filter(filtering) => self.0.flush_filter(&base, filtering, interest, mode),
        })
    }

    /// Ends the sending direction once the output is empty: the peer sees the end of the stream, reading goes on. Later
    /// writes are refused.
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn shutdown_write(&self) -> Result<(), Error> {
        let base = self.live()?;
        let mut core = self.0.core.borrow_mut();
        if core.fin() == Fin::Open {
            core.set_fin(Fin::Wanted);
        }
        drop(core);
        self.0.mark_dirty(&base);
        self.0.sync(&base);
        Ok(())
    }

    /// Frees the bufferevent (`bufferevent_free`): no callback runs any more, buffered bytes are
    /// dropped, operations cancelled. With `CLOSE_ON_FREE` the descriptor is closed once the kernel has let go of it.
    /// Freeing twice does nothing.
    pub fn free(&self) {
        match self.0.base() {
            Some(base) => self.0.free(&base),
            None => self.0.freed.set(true),
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
        let base = self.live()?;
        let report = Box::new(report);
        match &self.0.flavour {
            Flavour::Filter(filtering) => {
                self.0.close_filter(&base, filtering, deadline, report);
            }
            _ => self.0.begin_closing(&base, deadline, report),
        }
        Ok(())
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
        if self.0.is_closing() && !self.0.quiets() {
            return Err(Error::Invalid {
                what: "finish_reading",
                why: "it is closing already",
            });
        }
        let Some(under) = self.underlying() else {
            self.0.begin_quieting(&base, done);
            return Ok(());
        };
        // What the underlying still brings passes the filter at once, when it has all come.
        self.0.core.borrow_mut().finish_reading();
        let filter = self.clone();
        under.finish_reading_boxed(Box::new(move |_| {
            let _freed = filter.flush(Interest::READ, FlushMode::Flush);
            done(&filter);
        }))
    }

    /// Ends a close that is under way within so long, at the latest.
    pub(crate) fn hasten_close(&self, within: Duration) {
        if let Ok(base) = self.live() {
            self.0.hasten_closing(&base, within);
        }
        if let Some(under) = self.underlying() {
            under.hasten_close(within);
        }
    }

    /// Says that what it received is still waiting to be sent somewhere: it gets no slot out of turn.
    pub(crate) fn set_backlogged(&self, backlogged: bool) {
        self.0.socket.set_backlogged(backlogged);
    }

    /// Bounds what one receive brings before it is armed again, and so what arrives in spite of a pause, in
    /// bytes; 0: no bound but the receive window.
    pub(crate) fn set_receive_bound(&self, bytes: usize) {
        match &self.0.flavour {
            Flavour::Filter(filtering) => filtering.under().set_receive_bound(bytes),
            _ => self.0.socket.set_receive_bound(bytes),
        }
    }

    /// The error number that came with the last `ERROR` event.
    pub fn last_error(&self) -> Option<Errno> {
        self.0.core.borrow().errno()
    }

    /// The descriptor, if there is one (`bufferevent_getfd`): of a filter, the one below it. It stays the bufferevent's.
    pub fn fd(&self) -> Option<i32> {
        match &self.0.flavour {
            Flavour::Filter(filtering) => filtering.under().fd(),
            _ => self.0.socket.fd(),
        }
    }

    /// Sends small segments at once instead of waiting for more (TCP_NODELAY).
    ///
    /// # Errors
    /// [`Error::Io`] when the descriptor is no TCP socket; [`Error::Invalid`] without one.
    pub fn set_nodelay(&self, on: bool) -> Result<(), Error> {
        self.live()?;
        self.0.socket.set_nodelay(on)
    }

    /// Probes an idle TCP connection after `idle` without traffic; none turns it off (SO_KEEPALIVE).
    ///
    /// # Errors
    /// As [`set_nodelay`](Self::set_nodelay).
    pub fn set_keepalive(&self, idle: Option<Duration>) -> Result<(), Error> {
        self.live()?;
        self.0.socket.set_keepalive(idle)
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
        self.0.freed.get()
    }

    /// The base, unless this was freed.
    fn live(&self) -> Result<EventBase, Error> {
        self.0.live()
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
            .field("input", &self.0.input_len())
            .field("output", &self.0.output_len())
            .field("freed", &self.0.freed.get());
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

/// The middle one of the base's.
fn default_priority(base: &EventBase) -> u8 {
    u8::try_from(base.priorities() / 2).unwrap_or(u8::MAX)
}

impl Inner {
    /// A new one, registered with its base.
    fn new(base: &EventBase, options: Options, flavour: Flavour, fd: Option<OwnedFd>) -> Rc<Self> {
        Inner::over(base, options, flavour, Socket::new(fd))
    }

    fn over(base: &EventBase, mut options: Options, flavour: Flavour, socket: Socket) -> Rc<Self> {
        let link = match flavour {
            Flavour::Socket if socket.fd().is_none() => Link::Absent,
            _ => Link::Up,
        };
        if matches!(flavour, Flavour::Pair(_)) {
            options |= Options::DEFER_CALLBACKS;
        }
        let inner = Rc::new(Inner {
            registration: Registration::new(),
            core: RefCell::new(Core::new(options, link)),
            input: RefCell::new(EvBuffer::new()),
            output: RefCell::new(EvBuffer::new()),
            handler: Cell::new(None),
            flavour,
            socket,
            closing: RefCell::new(None),
            limits: RefCell::new(None),
            calling: Cell::new(None),
            handler_changed: Cell::new(false),
            handles: Cell::new(Handles::ALL),
            freed: Cell::new(false),
        });
        inner.freeze();
        inner.registration.set_priority(default_priority(base));
        inner.registration.join(base, inner.clone());
        inner
    }

    fn base(&self) -> Option<EventBase> {
        self.registration.base()
    }

    fn live(&self) -> Result<EventBase, Error> {
        if self.freed.get() {
            return Err(FREED);
        }
        self.base().ok_or(Error::Freed { what: "event base" })
    }

    /// Length of the input; what a closure that holds the buffer would see is not known then.
    fn input_len(&self) -> usize {
        self.input.try_borrow().map_or(0, |input| input.len())
    }

    fn output_len(&self) -> usize {
        self.output.try_borrow().map_or(0, |output| output.len())
    }

    /// The user may not append to the input, nor drain the output.
    fn freeze(&self) {
        self.input.borrow_mut().freeze_end();
        let mut output = self.output.borrow_mut();
        output.freeze_start();
        output.bind();
    }

    /// Appends to the output by way of `f`, and has it sent.
    fn append(
        self: &Rc<Self>,
        f: impl FnOnce(&mut EvBuffer) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let base = self.live()?;
        if self.core.borrow().fin() != Fin::Open {
            return Err(Error::Invalid {
                what: "write",
                why: "the sending direction was shut down",
            });
        }
        let Ok(mut output) = self.output.try_borrow_mut() else {
            return Err(Error::Busy { what: "output" });
        };
        let before = output.len();
        let was_empty = before == 0;
        let done = f(&mut output);
        let grew = !output.is_empty();
        let small = base.slot_size() / COPY_OUT_FRACTION;
        if base.slots_are_low() && output.len().saturating_sub(before) <= small {
            // A small message that waits must not keep a whole slot from everybody else.
            output.compact_small(small);
        }
        drop(output);
        done?;
        if grew {
            self.output_grew(&base, was_empty);
        }
        Ok(())
    }

    /// The output was appended to: on with it. Pairs and filters move bytes at once, sockets by the end of
    /// the turn, so that writes of one turn leave in one operation.
    fn output_grew(self: &Rc<Self>, base: &EventBase, was_empty: bool) {
        if was_empty {
            self.core.borrow_mut().handle_output_begun(base.now());
        }
        match &self.flavour {
            Flavour::Socket => self.mark_dirty(base),
            Flavour::Pair(pair) => {
                self.pair_wrote(base, pair);
                self.sync_in_memory(base);
            }
            Flavour::Filter(filtering) => {
                self.filter_out(base, filtering, FlushMode::Normal);
            }
        }
    }

    /// The input was drained: there may be room for more.
    fn input_drained(self: &Rc<Self>, base: &EventBase) {
        let resumed = self
            .core
            .borrow_mut()
            .handle_input_changed(self.input_len(), base.now());
        if resumed {
            if let Flavour::Pair(pair) = &self.flavour {
                self.pull_pair(base, pair);
            }
            if let Flavour::Filter(filtering) = &self.flavour {
                self.sync_hold(base, filtering);
            }
            self.mark_dirty(base);
            self.sync(base);
        }
    }

    /// How much a filter above may append to the output.
    fn output_room(&self) -> Option<usize> {
        self.core.borrow().output_room(self.output_len())
    }

    fn is_closing(&self) -> bool {
        self.closing.borrow().is_some()
    }

    fn replace_handler(&self, handler: Option<Box<dyn Handler>>, handles: Handles) {
        self.handler_changed.set(true);
        self.handles.set(handles);
        let old = self.handler.replace(handler);
        // Dropped with no borrow held: closures may own handles.
        drop(old);
    }

    /// Has `start_io` called before the next enter.
    fn mark_dirty(self: &Rc<Self>, base: &EventBase) {
        if !self.freed.get() {
            self.registration.mark_dirty(base);
        }
    }

    /// [`sync`](Self::sync) for what never waits for the kernel: nothing to do without a time-out.
    fn sync_in_memory(self: &Rc<Self>, base: &EventBase) {
        let plain =
            !self.registration.is_active() && !self.core.borrow().is_timed() && !self.is_closing();
        if !plain {
            self.sync(base);
        }
    }

    /// Brings the timer and the loop's count of active sources up to date.
    fn sync(self: &Rc<Self>, base: &EventBase) {
        if self.freed.get() || self.calling.get().is_some() {
            // Whoever runs the callbacks does it after them.
            return;
        }
        let limited_until = self.sync_limits(base);
        let core = self.core.borrow();
        let output = self.output_len();
        let mut deadline = core.deadline(output).unwrap_or(u64::MAX).min(limited_until);
        let socket = matches!(self.flavour, Flavour::Socket);
        // Pairs and filters wait for nothing outside of the process: what can move has moved.
        let mut active = deadline != u64::MAX
            || socket
                && (core.wants_read()
                    || core.wants_write(output)
                    || core.link() == Link::Connecting
                    || core.fin_due(output)
                    || core.write_due(output)
                    || self.socket.sending());
        drop(core);
        if let Some(closing) = &*self.closing.borrow() {
            deadline = deadline.min(closing.deadline());
            active |= socket || deadline != u64::MAX;
        }
        self.registration.arm(base, deadline);
        self.registration.set_active(base, active);
    }

    fn free(self: &Rc<Self>, base: &EventBase) {
        self.free_and_under(base, self.closes());
    }

    /// Frees it, and on request what is under it.
    fn free_and_under(self: &Rc<Self>, base: &EventBase, under: bool) {
        if self.freed.replace(true) {
            return;
        }
        let handler = self.handler.take();
        let closing = self.closing.borrow_mut().take();
        let unsent = self.output_len();
        self.core.borrow_mut().clear_pending();
        self.registration.unshare(base);
        for buffer in [&self.input, &self.output] {
            // A closure further up that holds the buffer keeps it; it goes with the last handle.
            if let Ok(mut buffer) = buffer.try_borrow_mut() {
                let _dropped = std::mem::take(&mut *buffer);
            }
        }
        self.socket.cancel_all(base);
        self.drop_limits();
        self.finish_if_drained(base);
        match &self.flavour {
            Flavour::Socket => {}
            Flavour::Pair(pair) => self.leave_pair(base, pair),
            Flavour::Filter(filtering) => self.leave_filter(base, filtering, under),
        }
        // Last, with no borrow held: they are the user's.
        drop(handler);
        self.conclude(closing, unsent);
    }

    /// Once nothing is in flight: closes the descriptor (I6) and leaves the base.
    fn finish_if_drained(&self, base: &EventBase) {
        let drained = self.socket.in_flight() == 0;
        if drained {
            let close = self.closes();
            self.socket.release(base, close);
            self.registration.leave(base);
            return;
        }
        // Until then it keeps the loop from ending, so that the descriptor is closed for sure.
        self.registration.set_active(base, true);
    }

    fn closes(&self) -> bool {
        let core = self.core.borrow();
        core.options.contains(Options::CLOSE_ON_FREE)
    }
}

impl Source for Inner {
    fn registration(&self) -> &Registration {
        &self.registration
    }

    fn completed(self: Rc<Self>, base: &EventBase, completion: Completion) {
        let role = self.socket.settle(&completion);
        if self.freed.get() {
            drop(completion);
            if self.socket.in_flight() == 0 {
                self.finish_if_drained(base);
            }
            return;
        }
        self.socket_completed(base, role, completion);
        if self.freed.get() {
            return;
        }
        self.run_callbacks(base);
        self.sync(base);
    }

    fn start_io(self: Rc<Self>, base: &EventBase) {
        if self.freed.get() {
            return;
        }
        match &self.flavour {
            Flavour::Socket => self.start_socket_io(base),
            Flavour::Pair(pair) => self.move_pair(base, pair),
            Flavour::Filter(filtering) => self.start_filter_io(base, filtering),
        }
        self.progress_closing(base);
        self.run_callbacks(base);
        self.sync(base);
    }

    fn deferred(self: Rc<Self>, base: &EventBase) {
        if self.freed.get() {
            return;
        }
        self.core.borrow_mut().handle_deferred();
        self.call(base);
        match self.flavour {
            Flavour::Pair(_) => self.sync_in_memory(base),
            Flavour::Socket | Flavour::Filter(_) => self.sync(base),
        }
    }

    fn timer_fired(self: Rc<Self>, base: &EventBase) {
        let now = base.now();
        if self.freed.get() || self.closing_timer_fired(base, now) {
            return;
        }
        self.expire_limits(base, now);
        // Each direction with a call of its own, if the callbacks are not deferred.
        if self.core.borrow_mut().handle_read_time(now) {
            self.run_callbacks(base);
        }
        if self.freed.get() {
            return;
        }
        let output = self.output_len();
        if self.core.borrow_mut().handle_write_time(output, now) {
            self.socket.abandon(base);
        }
        self.progress_closing(base);
        self.run_callbacks(base);
        self.sync(base);
    }

    fn budget_came_back(self: Rc<Self>, base: &EventBase, direction: Direction) {
        if !self.freed.get() {
            self.reopen(base, direction);
        }
    }

    fn slots_came_back(self: Rc<Self>, base: &EventBase, offer: Offer) -> Feeding {
        let feeding = if self.freed.get() {
            Feeding::Left
        } else {
            self.receive_again(base, offer)
        };
        // A limit may have told when to ask again.
        self.sync(base);
        feeding
    }

    fn base_ended(self: Rc<Self>, close: &mut Vec<i32>) {
        self.freed.set(true);
        close.extend(self.socket.take_fd().filter(|_| self.closes()));
        let handler = self.handler.take();
        let closing = self.closing.borrow_mut().take();
        for buffer in [&self.input, &self.output] {
            if let Ok(mut buffer) = buffer.try_borrow_mut() {
                let _dropped = std::mem::take(&mut *buffer);
            }
        }
        self.socket.forget_unseen();
        self.drop_limits();
        drop((handler, closing));
    }
}
