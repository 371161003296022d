//! The buffers of a bufferevent, as the user sees them.

use std::rc::Rc;

use super::Inner;
use crate::error::Error;
use crate::evbuffer::EvBuffer;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Input,
    Output,
}

/// One buffer of a bufferevent. It holds nothing borrowed: each call looks the buffer up.
///
/// The input may be drained but not appended to, the output appended to but not drained: what
/// is not allowed is an error of the buffer and changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct BufferView<'a> {
    inner: &'a Rc<Inner>,
    side: Side,
}

impl<'a> BufferView<'a> {
    pub(super) fn new(inner: &'a Rc<Inner>, side: Side) -> Self {
        BufferView { inner, side }
    }

    /// Bytes in the buffer; none when the bufferevent was freed.
    pub fn len(&self) -> usize {
        match self.side {
            Side::Input => self.inner.input_len(),
            Side::Output => self.inner.output_len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands the buffer to `f`. What it drains from the input makes room for more, what it appends to the
    /// output is sent by the end of the turn.
    ///
    /// `f` may call anything on any bufferevent; only this same buffer is in use until it returns.
    ///
    /// # Errors
    /// [`Error::Freed`]; [`Error::Busy`] within another closure on the same buffer.
    pub fn with<R>(&self, f: impl FnOnce(&mut EvBuffer) -> R) -> Result<R, Error> {
        let inner = self.inner;
        let base = inner.live()?;
        let (cell, what) = match self.side {
            Side::Input => (&inner.input, "input"),
            Side::Output => (&inner.output, "output"),
        };
        let Ok(mut buffer) = cell.try_borrow_mut() else {
            return Err(Error::Busy { what });
        };
        let before = buffer.len();
        let using = base.using_buffer();
        let result = f(&mut buffer);
        drop(using);
        if inner.freed.get() {
            // `f` freed it, while the buffer was in use: what is left in it goes now.
            let _dropped = std::mem::take(&mut *buffer);
        }
        let after = buffer.len();
        match self.side {
            Side::Input => buffer.freeze_end(),
            Side::Output => {
                if buffer.bound_id() == 0 {
                    // `f` put another buffer in its place: what is under way went with the old one.
                    buffer.bind(1);
                    inner.socket.disown_send();
                }
                buffer.freeze_start();
            }
        }
        drop(buffer);
        if inner.freed.get() || before == after {
            return Ok(result);
        }
        match self.side {
            Side::Input if after < before => inner.input_drained(&base),
            Side::Input => {}
            Side::Output => inner.output_grew(&base, before == 0),
        }
        Ok(result)
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("freed", &self.freed.get())
            .finish_non_exhaustive()
    }
}
