//! Bufferevents: buffers that fill and drain by themselves.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

mod buffers;
mod callbacks;
mod closing;
mod control;
mod guard;
mod limits;
mod machine;
#[cfg(test)]
mod probe;
mod remote;
mod seldom;
mod shell;
mod socket;
mod stack;
mod transport;
mod types;
mod view;

pub use callbacks::{Callbacks, Handler};
pub use guard::FreeOnDrop;
pub use remote::RemoteBufferEvent;
pub use transport::filter::Filter;
pub use types::{Events, FilterResult, FlushEnd, FlushMode, FlushResult, Options, TriggerOptions};
pub use view::BufferView;

use crate::error::Error;
use crate::evbuffer::{BufferError, EvBuffer};
use crate::event_base::{EventBase, Interest};
use crate::sys::Errno;
use buffers::Side;
use machine::{Due, StreamEnd};
use shell::{Cx, Inner};
use transport::Changed;
use transport::socket::Socket;

/// An input buffer and an output buffer that the kernel fills and drains, with callbacks
/// (`struct bufferevent`).
///
/// A cheap handle. The bufferevent itself lives from its creation until [`free`](Self::free) or the
/// end of its base, whether or not a handle is kept; what is asked of it afterwards is answered
/// with [`Error::Freed`].
///
/// ```
/// use evring::{BufferEvent, Callbacks, EventBase, Interest, Options};
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
///
/// let base = EventBase::new()?;
/// let (ours, mut theirs) = UnixStream::pair()?;
/// let bev = BufferEvent::socket(&base, Some(ours.into()), Options::CLOSE_ON_FREE)?;
/// bev.set_callbacks(
///     Callbacks::new()
///         .on_read(|bev| bev.transfer_to(bev)) // what came in goes out: an echo
///         // The end of the stream: unlike free(), this sends what is buffered first.
///         .on_event(|bev, _events| bev.close_after_flush(None, |_end| {})),
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
const _: () = assert!(size_of::<Inner<Socket>>() <= 360);

const FREED: Error = Error::Freed {
    what: "bufferevent",
};

impl BufferEvent {
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
    /// to send calls the write callback once. Enabling READ again after the end of the stream
    /// reports it again.
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

    /// Pauses the given directions; what is buffered stays (`bufferevent_disable`). What the kernel
    /// has begun to send is still sent; what it has received already waits unseen.
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

    /// Appends a copy of `data` to the output (`bufferevent_write`). It is sent by the end of the
    /// turn at the latest.
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

    /// Moves the whole input to the output of `other`, by reference; how many bytes. `other` may be
    /// the same bufferevent.
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
    /// The read callback is called when the input has at least `low`; reading pauses while it has
    /// `high` or more. The write callback is called when the output has `low` or less; filters
    /// above pause at its `high`. A `high` of zero means none.
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
    /// The read timer runs while READ is enabled and the input below its high mark, the write timer
    /// while there is something to send or a connect is under way. Each byte moved restarts them.
    /// When one fires its direction is disabled and a `TIMEOUT` event reported.
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

    /// Moves bytes now that would wait otherwise (`bufferevent_flush`): runs filters with the mode,
    /// past their marks, and moves the bytes of a pair whatever is enabled. A socket needs no
    /// flush: its output is always on its way.
    ///
    /// # Errors
    /// [`Error::Freed`].
    pub fn flush(&self, interest: Interest, mode: FlushMode) -> Result<FlushResult, Error> {
        self.command(|cx| cx.transport().flush(cx, interest, mode))
    }

    /// The error number that came with the last `ERROR` event.
    pub fn last_error(&self) -> Option<Errno> {
        self.0.shell.machine.borrow().errno()
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
