//! Signals of the process.

use std::cell::RefCell;
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use super::hook::{Hook, finally};
use super::{EventBase, FdEvent, Interest};
use crate::error::Error;
use crate::sys::signal;

/// Blocks signals in the calling thread, and so in every thread that it starts later.
///
/// Call it first thing in `main`, with all the signals that any base is going to take: a thread
/// that does not have a signal blocked may be the one that the kernel delivers it to.
///
/// # Errors
/// [`Error::Io`] when a number is no signal.
pub fn block_signals(signals: &[i32]) -> Result<(), Error> {
    signal::block(signals)
        .map(drop)
        .map_err(|source| Error::io(format!("blocking signals {signals:?}"), source))
}

/// A signal that a base takes, from [`EventBase::signal`] (`evsignal`).
///
/// A cheap handle; dropping it leaves the signal in place.
#[derive(Clone)]
pub struct Signal(Rc<Inner>);

struct Inner {
    signum: i32,
    fd: OwnedFd,
    event: RefCell<Option<FdEvent>>,
    callback: Hook<Callback>,
}

type Callback = dyn FnMut(&Signal);

impl Signal {
    pub(super) fn new(
        base: &EventBase,
        signum: i32,
        callback: Box<Callback>,
    ) -> Result<Self, Error> {
        block_signals(&[signum])?;
        let fd = signal::signal_fd(&[signum])
            .map_err(|source| Error::io(format!("signalfd for signal {signum}"), source))?;
        let signal = Signal(Rc::new(Inner {
            signum,
            fd,
            event: RefCell::new(None),
            callback: Hook::with(callback),
        }));
        // The closure holds the signal and the event holds the closure: cancel() parts them.
        let held = signal.clone();
        let event = base.fd_event(
            signal.0.fd.as_raw_fd(),
            Interest::READ,
            move |event, _ready| {
                if let Ok(base) = event.base() {
                    held.deliver(&base);
                }
            },
        )?;
        *signal.0.event.borrow_mut() = Some(event);
        Ok(signal)
    }

    /// Calls back for each signal that is pending. Equal signals that are pending merge, as they do
    /// for a handler.
    fn deliver(&self, base: &EventBase) {
        // The descriptor tells only what comes anew: after a panic those that are left have their
        // turn from the FIFO.
        let _rest = finally(|| {
            if std::thread::panicking() {
                let signal = self.clone();
                base.defer(move |base| signal.deliver(base));
            }
        });
        while self.0.event.borrow().is_some()
            && let Ok(Some(_caught)) = signal::read(self.0.fd.as_raw_fd())
        {
            self.0.callback.call(|call| call(self));
        }
    }

    /// The signal's number.
    pub fn signum(&self) -> i32 {
        self.0.signum
    }

    /// The base that takes it.
    ///
    /// # Errors
    /// [`Error::Freed`] when it was cancelled or the base is gone.
    pub fn base(&self) -> Result<EventBase, Error> {
        let event = self.0.event.borrow();
        let event = event.as_ref().ok_or(Error::Freed { what: "signal" })?;
        event.base()
    }

    /// Stops taking the signal. It stays blocked: its default action does not return.
    pub fn cancel(&self) {
        let event = self.0.event.borrow_mut().take();
        if let Some(event) = event {
            event.cancel();
        }
        self.0.callback.clear();
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signal")
            .field("signum", &self.0.signum)
            .field("pending", &self.0.event.borrow().is_some())
            .finish()
    }
}
