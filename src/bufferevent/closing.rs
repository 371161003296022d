//! The ways in which a bufferevent, or one of its directions, ends by a call.

use std::time::Duration;

use super::BufferEvent;
use super::machine::Fin;
use super::shell::Cx;
use super::transport::End;
use super::types::{FlushEnd, FlushMode};
use crate::error::Error;
use crate::event_base::Interest;

impl BufferEvent {
    /// Ends the sending direction once the output is empty: the peer sees the end of the stream,
    /// reading goes on. Later writes are refused.
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
    /// dropped, operations cancelled. With `CLOSE_ON_FREE` the descriptor is closed once the kernel
    /// has let go of it. Freeing twice does nothing.
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
    /// Without a deadline the flush takes as long as the peer needs. After it the peer gets at most
    /// two seconds to end its own direction, so that a reset does not overtake the last bytes.
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

    /// Stops receiving for good and calls `done` when it has: all that the kernel had received for
    /// this bufferevent is then in the input, whatever the high mark. The callbacks run on
    /// meanwhile; the end of the stream is not reported any more.
    ///
    /// For an orderly end: what was received was acknowledged to the peer, and can be answered or
    /// passed on before [`close_after_flush`](Self::close_after_flush).
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
}

/// When so much time has passed, in the driver's time; `u64::MAX` for no limit.
pub(super) fn deadline_of(cx: &Cx<'_>, within: Option<Duration>) -> u64 {
    let after = within.map(|d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
    after.map_or(u64::MAX, |after| cx.now().saturating_add(after))
}
