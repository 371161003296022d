//! A bufferevent as other threads see it.

use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::{self, ThreadId};
use std::time::Duration;

use super::types::{Events, FlushMode, TriggerOptions};
use super::{BufferEvent, Options};
use crate::arena::Piece;
use crate::error::Error;
use crate::evbuffer::EvBuffer;
use crate::event_base::{Interest, Route, in_a_loop};

/// A `THREADSAFE` bufferevent for other threads, from [`BufferEvent::remote`].
///
/// Calls are posted to the loop and carried out there in the order of each sender; a burst of them
/// wakes a sleeping loop once. They follow the bufferevent when it moves to another base
/// ([`BufferEvent::set_base`]), those that still wait included. What is asked of a bufferevent that
/// was freed meanwhile is dropped. This takes the place of locking (`bufferevent_lock`):
/// [`with`](Self::with) runs a closure on the loop, where nothing else touches the bufferevent.
#[derive(Clone)]
pub struct RemoteBufferEvent {
    /// Leads to it, on whatever base it is.
    route: Arc<Route>,
    /// The thread of the loop.
    home: ThreadId,
}

impl BufferEvent {
    /// A handle for other threads (`BEV_OPT_THREADSAFE`).
    ///
    /// # Errors
    /// [`Error::Invalid`] without the option [`Options::THREADSAFE`]; [`Error::Io`] when there is
    /// no descriptor for the base's eventfd.
    ///
    /// ```
    /// use evring::{BufferEvent, EventBase, Options, RunFlags};
    ///
    /// let base = EventBase::new()?;
    /// let (near, far) = BufferEvent::pair(&base, Options::THREADSAFE)?;
    /// let (remote, stop) = (near.remote()?, base.remote()?);
    /// let thread = std::thread::spawn(move || {
    ///     remote.write(b"from another thread")?;
    ///     let queued = remote.with(|bev| bev.output().len())?;
    ///     stop.stop()?;
    ///     Ok::<usize, evring::Error>(queued)
    /// });
    /// base.run_with(RunFlags::NO_EXIT_ON_EMPTY)?;
    /// assert_eq!(thread.join().expect("no panic")?, 19);
    /// # drop(far);
    /// # Ok::<(), evring::Error>(())
    /// ```
    pub fn remote(&self) -> Result<RemoteBufferEvent, Error> {
        let base = self.live()?;
        if !self
            .0
            .shell
            .machine
            .borrow()
            .options
            .contains(Options::THREADSAFE)
        {
            return Err(Error::Invalid {
                what: "remote",
                why: "make the bufferevent with Options::THREADSAFE",
            });
        }
        Ok(RemoteBufferEvent {
            route: self.0.shell.reg.share(&base, Rc::new(self.clone()))?,
            home: thread::current().id(),
        })
    }
}

impl RemoteBufferEvent {
    /// Appends a copy of `data` to the output (`bufferevent_write`).
    ///
    /// # Errors
    /// [`Error::Freed`] when the base is gone. That the bufferevent is gone is not known here.
    pub fn write(&self, data: &[u8]) -> Result<(), Error> {
        self.write_piece(Piece::copy_from(data))
    }

    /// Appends a shared payload to the output.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_piece(&self, payload: impl Into<Piece>) -> Result<(), Error> {
        let payload = payload.into();
        self.post(move |bev| bev.write_piece(payload))
    }

    /// Moves a whole buffer to the output (`bufferevent_write_buffer`).
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_buffer(&self, mut buffer: EvBuffer) -> Result<(), Error> {
        self.post(move |bev| bev.write_buffer(&mut buffer))
    }

    /// As [`BufferEvent::enable`].
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn enable(&self, interest: Interest) -> Result<(), Error> {
        self.post(move |bev| bev.enable(interest))
    }

    /// As [`BufferEvent::disable`].
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn disable(&self, interest: Interest) -> Result<(), Error> {
        self.post(move |bev| bev.disable(interest))
    }

    /// As [`BufferEvent::flush`], without its answer.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn flush(&self, interest: Interest, mode: FlushMode) -> Result<(), Error> {
        self.post(move |bev| bev.flush(interest, mode).map(drop))
    }

    /// As [`BufferEvent::trigger`].
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn trigger(&self, interest: Interest, options: TriggerOptions) -> Result<(), Error> {
        self.post(move |bev| bev.trigger(interest, options))
    }

    /// As [`BufferEvent::trigger_event`].
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn trigger_event(&self, events: Events, options: TriggerOptions) -> Result<(), Error> {
        self.post(move |bev| bev.trigger_event(events, options))
    }

    /// As [`BufferEvent::free`].
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn free(&self) -> Result<(), Error> {
        self.post(|bev| {
            bev.free();
            Ok(())
        })
    }

    /// As [`BufferEvent::close_after_flush`], without a report.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn close_after_flush(&self, deadline: Option<Duration>) -> Result<(), Error> {
        self.post(move |bev| bev.close_after_flush(deadline, |_end| {}))
    }

    /// Runs `f` on the loop, with the bufferevent to itself, and waits for what it returns. A loop
    /// that is not being run makes it wait until it is. It is for threads that may wait: a callback
    /// of any loop may not, since two loops that wait for each other would do so for ever.
    ///
    /// # Errors
    /// [`Error::Freed`] when the bufferevent or the base is gone, or goes before `f` has run, or
    /// when `f` panics; [`Error::Invalid`] on the loop's own thread, which would wait for itself
    /// (use the [`BufferEvent`] there), and in a callback of another loop (use
    /// [`call`](Self::call), and [`Remote::post`](crate::Remote::post) to bring the answer back).
    pub fn with<R: Send + 'static>(
        &self,
        f: impl FnOnce(&BufferEvent) -> R + Send + 'static,
    ) -> Result<R, Error> {
        if thread::current().id() == self.home {
            return Err(Error::Invalid {
                what: "with",
                why: "the loop's own thread would wait for itself; use the BufferEvent",
            });
        }
        if in_a_loop() {
            return Err(Error::Invalid {
                what: "with",
                why: "a callback that waits for another loop stops its own, for ever if that waits \
                      for this one; use call, which hands the answer to a closure",
            });
        }
        let (answer, wait) = mpsc::sync_channel(1);
        self.call(f, move |result| {
            // Nobody waits any more only if the caller's thread is gone.
            let _gone = answer.send(result);
        })?;
        wait.recv()
            .unwrap_or(Err(Error::Freed { what: "event base" }))
    }

    /// Runs `f` on the loop, with the bufferevent to itself, and hands what it returns to `done`,
    /// which runs there, too.
    ///
    /// # Errors
    /// [`Error::Freed`] when the base is gone; `done` gets it when the bufferevent is.
    pub fn call<R>(
        &self,
        f: impl FnOnce(&BufferEvent) -> R + Send + 'static,
        done: impl FnOnce(Result<R, Error>) + Send + 'static,
    ) -> Result<(), Error> {
        self.route.post(move |object| {
            let bev = object.and_then(|object| object.downcast::<BufferEvent>().ok());
            done(match bev {
                Some(bev) => Ok(f(&bev)),
                None => Err(super::FREED),
            });
        })
    }

    fn post(
        &self,
        f: impl FnOnce(&BufferEvent) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        self.call(f, |result| {
            if let Ok(Err(error)) | Err(error) = result {
                log::debug!("a remote call on a bufferevent: {error}");
            }
        })
    }
}

impl fmt::Debug for RemoteBufferEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteBufferEvent").finish_non_exhaustive()
    }
}
