//! The two buffers of a bufferevent: whose bytes an operation has taken, and what holds while a
//! closure of the user has one of them in its hands.
//!
//! A buffer is *lent* to user code ([`Buffers::lend`]): to closures of
//! [`BufferView::with`](super::BufferView::with) and to filters. While it is lent
//!
//! - its length is the one that it had when it was lent;
//! - the bytes that an operation has taken from the output are set aside, and put back in front
//!   afterwards, whichever buffer user code has left in the place: they are on their way, and
//!   neither doubled by a buffer that moved elsewhere nor lost with one that was dropped;
//! - what is written to the output goes behind it when it comes back.
//!
//! The shell settles nothing meanwhile: whoever has lent a buffer does it afterwards.

use std::cell::{Cell, RefCell, RefMut};

use crate::error::Error;
use crate::evbuffer::{EvBuffer, Spent};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Input,
    Output,
}

/// How often in a row the callbacks of a buffer are told what they did themselves.
const MOST_TOLD: usize = 4;

/// Tells the buffers of bufferevents apart; 0 is the id of any other buffer.
type BufferId = u32;

thread_local! {
    /// Buffers of this thread that are lent, the innermost last.
    static LENT: RefCell<Vec<Lent>> = const { RefCell::new(Vec::new()) };
    static NEXT_ID: Cell<BufferId> = const { Cell::new(1) };
}

/// A buffer that user code has in its hands.
struct Lent {
    /// Where it belongs.
    place: *const RefCell<EvBuffer>,
    len: usize,
    /// Written meanwhile.
    late: EvBuffer,
}

/// How a buffer's length changed, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Change {
    pub(super) before: usize,
    pub(super) after: usize,
}

impl Change {
    pub(super) fn grew(&self) -> bool {
        self.after > self.before
    }

    pub(super) fn shrank(&self) -> bool {
        self.after < self.before
    }
}

/// What callbacks of the buffers did to either.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) input: Change,
    pub(super) output: Change,
}

/// Input and output.
pub(super) struct Buffers {
    input: RefCell<EvBuffer>,
    output: RefCell<EvBuffer>,
    /// Bytes at the front of the output that an operation has taken.
    taken: Cell<u32>,
    /// The output is another buffer than the one that these bytes were taken from.
    replaced: Cell<bool>,
    /// One of them has callbacks of its own.
    watched: Cell<bool>,
}

/// What is said of a buffer that is lent already.
pub(super) fn busy(side: Side) -> Error {
    Error::Busy {
        what: match side {
            Side::Input => "input",
            Side::Output => "output",
        },
    }
}

impl Buffers {
    pub(super) fn new() -> Self {
        let id = NEXT_ID.get();
        NEXT_ID.set(id.checked_add(1).unwrap_or(1));
        let (mut input, mut output) = (EvBuffer::new(), EvBuffer::new());
        input.freeze_end();
        output.freeze_start();
        for buffer in [&mut input, &mut output] {
            buffer.bind(id);
            buffer.hold_callbacks();
        }
        Buffers {
            input: RefCell::new(input),
            output: RefCell::new(output),
            taken: Cell::new(0),
            replaced: Cell::new(false),
            watched: Cell::new(false),
        }
    }

    fn place(&self, side: Side) -> &RefCell<EvBuffer> {
        match side {
            Side::Input => &self.input,
            Side::Output => &self.output,
        }
    }

    /// Bytes in a buffer; of one that is lent, as of then.
    pub(super) fn len(&self, side: Side) -> usize {
        let place = self.place(side);
        match place.try_borrow() {
            Ok(buffer) => buffer.len(),
            Err(_lent) => with_lent(place, |lent| lent.len + lent.late.len()).unwrap_or(0),
        }
    }

    /// Whether one of them is lent.
    pub(super) fn are_lent(&self) -> bool {
        self.input.try_borrow().is_err() || self.output.try_borrow().is_err()
    }

    /// The input, unless it is lent.
    pub(super) fn input(&self) -> Option<RefMut<'_, EvBuffer>> {
        self.input.try_borrow_mut().ok()
    }

    /// The output, unless it is lent.
    pub(super) fn output(&self) -> Option<RefMut<'_, EvBuffer>> {
        self.output.try_borrow_mut().ok()
    }

    /// An operation has taken the first `n` bytes of the output.
    pub(super) fn take(&self, n: usize) {
        // An operation moves less than 4 GiB.
        self.taken.set(u32::try_from(n).unwrap_or(u32::MAX));
        self.replaced.set(false);
    }

    /// How many bytes that are.
    pub(super) fn taken(&self) -> usize {
        self.taken.get() as usize
    }

    /// The operation is over. True when the output is not the buffer that it took its bytes from:
    /// what it did not move belongs to the connection that it was on.
    pub(super) fn give_back(&self) -> bool {
        self.taken.set(0);
        self.replaced.replace(false)
    }

    /// Drops the first `n` bytes of the output; how many are left, and what is to be dropped with
    /// no borrow held: destructors of the user's payloads may write.
    #[inline]
    pub(super) fn drain_output(&self, n: usize) -> (usize, Spent) {
        let mut spent = Spent::new();
        let Some(mut output) = self.output() else {
            debug_assert!(false, "completions come while nothing is lent");
            return (self.len(Side::Output), spent);
        };
        output.drain_front_into(n, &mut spent);
        (output.len(), spent)
    }

    /// Appends to the output by way of `f`; behind it, when it is lent. Then copies small pieces
    /// that pin slots, up to `copy_out` bytes each, when what was added is no longer either.
    pub(super) fn append<R, E>(
        &self,
        copy_out: usize,
        f: impl FnOnce(&mut EvBuffer) -> Result<R, E>,
    ) -> (Result<R, E>, Change) {
        let Some(mut output) = self.output() else {
            let mut late = EvBuffer::new();
            let result = f(&mut late);
            with_lent(&self.output, |lent| lent.late.take_all(&mut late));
            return (result, Change::default());
        };
        let before = output.len();
        let result = f(&mut output);
        let after = output.len();
        if copy_out != 0 && after.saturating_sub(before) <= copy_out {
            output.compact_small(copy_out);
        }
        (result, Change { before, after })
    }

    /// Copies pieces of up to `limit` bytes out of the slots that they pin.
    pub(super) fn copy_out_input(&self, limit: usize) {
        if let Some(mut input) = self.input() {
            input.compact_small(limit);
        }
    }

    /// The same for both.
    pub(super) fn copy_out(&self, limit: usize) {
        self.copy_out_input(limit);
        if let Some(mut output) = self.output() {
            output.compact_small(limit);
        }
    }

    /// Hands a buffer to `f`; `thaw` lets it drain an output, append to an input.
    ///
    /// # Errors
    /// [`Error::Busy`] when it is lent already.
    pub(super) fn lend<R>(
        &self,
        side: Side,
        thaw: bool,
        f: impl FnOnce(&mut EvBuffer) -> R,
    ) -> Result<(R, Change), Error> {
        let mut loan = self.lend_guarded(side, thaw)?;
        let result = f(&mut loan.buffer);
        let change = loan.end();
        Ok((result, change))
    }

    fn lend_guarded(&self, side: Side, thaw: bool) -> Result<Loan<'_>, Error> {
        let place = self.place(side);
        let Ok(mut buffer) = place.try_borrow_mut() else {
            return Err(busy(side));
        };
        let before = buffer.len();
        let taken = match side {
            Side::Input => 0,
            Side::Output => self.taken(),
        };
        let aside = match taken {
            0 => EvBuffer::new(),
            taken => buffer.set_aside(taken),
        };
        buffer.unhold_callbacks();
        if thaw {
            thaw_front_or_end(&mut buffer, side);
        }
        let lent = Lent {
            place,
            len: before,
            late: EvBuffer::new(),
        };
        LENT.with_borrow_mut(|all| all.push(lent));
        Ok(Loan {
            buffers: self,
            id: buffer.bound_id(),
            buffer,
            side,
            aside,
            before,
            after: before,
            ended: false,
        })
    }

    /// Whether callbacks of the buffers themselves may have something to hear.
    pub(super) fn are_watched(&self) -> bool {
        self.watched.get()
    }

    /// Tells the buffers' own callbacks what happened since, with nothing borrowed but what they
    /// are called with. What they write to the output goes behind it. Says what they changed.
    #[cold]
    pub(super) fn tell_watchers(&self) -> Told {
        let len = |side| Change {
            before: self.len(side),
            after: self.len(side),
        };
        let mut told = Told {
            input: len(Side::Input),
            output: len(Side::Output),
        };
        let mut watched = false;
        for side in [Side::Input, Side::Output] {
            for _ in 0..MOST_TOLD {
                let Ok(buffer) = self.place(side).try_borrow() else {
                    // Whoever has lent it tells.
                    return told;
                };
                watched |= buffer.is_watched();
                let due = buffer.callbacks_due();
                drop(buffer);
                if !due || self.lend(side, false, EvBuffer::tell_callbacks).is_err() {
                    break;
                }
            }
        }
        self.watched.set(watched);
        told.input.after = self.len(Side::Input);
        told.output.after = self.len(Side::Output);
        told
    }

    /// Takes all out of both, as far as they are not lent, for the caller to drop with no borrow
    /// held.
    pub(super) fn clear(&self) -> (EvBuffer, EvBuffer) {
        self.taken.set(0);
        let output = self.output().map(|mut output| std::mem::take(&mut *output));
        (self.clear_input(), output.unwrap_or_default())
    }

    /// The same for the input, which goes on to be one.
    pub(super) fn clear_input(&self) -> EvBuffer {
        let Some(mut input) = self.input() else {
            return EvBuffer::new();
        };
        let mut empty = EvBuffer::new();
        empty.freeze_end();
        empty.hold_callbacks();
        empty.bind(input.bound_id());
        std::mem::replace(&mut *input, empty)
    }
}

fn with_lent<R>(place: *const RefCell<EvBuffer>, f: impl FnOnce(&mut Lent) -> R) -> Option<R> {
    LENT.with_borrow_mut(|all| all.iter_mut().rfind(|lent| lent.place == place).map(f))
}

/// A buffer in the hands of user code; it comes back also when that panics.
struct Loan<'a> {
    buffers: &'a Buffers,
    buffer: RefMut<'a, EvBuffer>,
    side: Side,
    id: BufferId,
    aside: EvBuffer,
    before: usize,
    after: usize,
    ended: bool,
}

impl Loan<'_> {
    fn end(mut self) -> Change {
        self.put_back();
        Change {
            before: self.before,
            after: self.after,
        }
    }

    fn put_back(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let buffer = &mut *self.buffer;
        buffer.hold_callbacks();
        let aside = std::mem::take(&mut self.aside);
        if buffer.bound_id() != self.id {
            buffer.bind(self.id);
            self.buffers.replaced.set(!aside.is_empty());
        }
        if !aside.is_empty() {
            buffer.put_aside_back(aside);
        }
        let lent = LENT.with_borrow_mut(Vec::pop);
        if let Some(Lent { mut late, .. }) = lent
            && !late.is_empty()
        {
            buffer.take_all(&mut late);
        }
        match self.side {
            Side::Input => buffer.freeze_end(),
            Side::Output => buffer.freeze_start(),
        }
        if buffer.is_watched() {
            self.buffers.watched.set(true);
        }
        self.after = buffer.len();
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.put_back();
    }
}

fn thaw_front_or_end(buffer: &mut EvBuffer, side: Side) {
    match side {
        Side::Input => buffer.unfreeze_end(),
        Side::Output => buffer.unfreeze_start(),
    }
}
