//! The buffers of a bufferevent, as the user sees them.

use super::BufferEvent;
use super::buffers::Side;
use super::shell::Cx;
use crate::error::Error;
use crate::evbuffer::EvBuffer;

/// One buffer of a bufferevent. It holds nothing borrowed: each call looks the buffer up.
///
/// The input may be drained but not appended to, the output appended to but not drained: what
/// is not allowed is an error of the buffer and changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct BufferView<'a> {
    bev: &'a BufferEvent,
    side: Side,
}

impl<'a> BufferView<'a> {
    pub(super) fn new(bev: &'a BufferEvent, side: Side) -> Self {
        BufferView { bev, side }
    }

    /// Bytes in the buffer; none when the bufferevent was freed. While a closure of
    /// [`with`](Self::with) has the buffer it is the length that it had when that was called.
    pub fn len(&self) -> usize {
        self.bev.0.shell.buffers.len(self.side)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands the buffer to `f`. What it drains from the input makes room for more, what it appends
    /// to the output is sent by the end of the turn.
    ///
    /// `f` may call anything on any bufferevent. Until it returns this buffer is its own: what is
    /// written to the output meanwhile goes behind what `f` leaves there, and what is changed about
    /// the bufferevent (marks, time-outs, triggers) takes effect afterwards. Of an output `f` sees
    /// what the kernel has not begun to take.
    ///
    /// # Errors
    /// [`Error::Freed`]; [`Error::Busy`] within another closure on the same buffer.
    pub fn with<R>(&self, f: impl FnOnce(&mut EvBuffer) -> R) -> Result<R, Error> {
        let base = self.bev.live()?;
        let cx = Cx::new(self.bev, &base);
        let guard = cx.unless_interrupted();
        let using = base.using_buffer();
        let lent = self.bev.0.shell.buffers.lend(self.side, false, f);
        drop(using);
        std::mem::forget(guard);
        cx.buffer_is_back();
        let (result, change) = lent?;
        if cx.is_freed() {
            return Ok(result);
        }
        match self.side {
            Side::Input => cx.input_changed(),
            Side::Output if change.grew() || change.shrank() => {
                cx.output_grew(change.before == 0);
            }
            Side::Output => {}
        }
        cx.settle();
        Ok(result)
    }
}
