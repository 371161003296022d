//! A transport for tests: what is written comes back, and what the shell tells it is written down.
//!
//! It stands for the transport that somebody adds next. It is made by `Inner::create`, implements
//! what it needs of [`Transport`], and nothing outside of this folder knows that it exists.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::{Changed, End, Nature, Rest, Transport};
use crate::bufferevent::machine::{Fin, Link, Machine, StreamEnd};
use crate::bufferevent::shell::{Cx, Inner};
use crate::bufferevent::types::{FlushMode, FlushResult};
use crate::bufferevent::{BufferEvent, Options};
use crate::event_base::{EventBase, Interest};
use crate::rate_limit::Direction;

mod tests;

/// What a transport is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Changed(Changed),
    Flush(Interest, FlushMode),
    TimedOut(Direction),
    Closing,
    StopReads,
    Ended(End),
    Released { close: bool },
    BaseEnded,
}

/// The end of a line whose other end is joined to it.
struct Loopback {
    told: RefCell<Vec<Told>>,
    /// Bytes that go round each time it is pumped; 0 is a line that takes nothing.
    stride: Cell<usize>,
    /// The stream that was written has ended, and so the one that is read.
    ended: Cell<bool>,
    /// It passes for one that waits for the kernel.
    outside: bool,
}

impl Loopback {
    fn make(base: &EventBase, options: Options, stride: usize) -> (BufferEvent, Rc<Inner<Self>>) {
        Self::make_as(false, base, options, stride)
    }

    fn make_as(
        outside: bool,
        base: &EventBase,
        options: Options,
        stride: usize,
    ) -> (BufferEvent, Rc<Inner<Self>>) {
        let line = Loopback {
            told: RefCell::default(),
            stride: Cell::new(stride),
            ended: Cell::new(false),
            outside,
        };
        let inner = Inner::create(base, options, Link::Up, line);
        (BufferEvent(inner.clone()), inner)
    }

    fn note(&self, told: Told) {
        self.told.borrow_mut().push(told);
    }

    fn was_told(&self, told: Told) -> bool {
        self.told.borrow().contains(&told)
    }

    /// Moves up to `most` bytes from the output to the input, or drops them when nobody reads any
    /// more; how many.
    fn carry(&self, cx: &Cx<'_>, most: usize) -> usize {
        let shell = cx.shell();
        let n = most.min(shell.output_len());
        if n == 0 {
            return 0;
        }
        if shell.life().drops_input() {
            cx.sent(n);
            return n;
        }
        let (Some(mut output), Some(mut input)) = (shell.buffers.output(), shell.buffers.input())
        else {
            cx.mark_dirty();
            return 0;
        };
        output.transfer(&mut input, n);
        let (received, left) = (input.len(), output.len());
        drop((output, input));
        let now = cx.now();
        cx.machine_mut().handle_received(received, now);
        cx.machine_mut().handle_sent(left, now);
        n
    }

    /// What may move now, by the enables and the marks.
    fn allowed(&self, cx: &Cx<'_>) -> usize {
        let shell = cx.shell();
        let machine = cx.machine();
        if !machine.wants_write(shell.output_len()) {
            return 0;
        }
        if shell.life().drops_input() {
            return self.stride.get();
        }
        match machine.wants_read() {
            true => machine.room(shell.input_len()).min(self.stride.get()),
            false => 0,
        }
    }
}

impl Transport for Loopback {
    fn nature(&self) -> Nature {
        Nature {
            in_memory: !self.outside,
            follows: false,
        }
    }

    fn pump(&self, cx: &Cx<'_>) {
        let allowed = self.allowed(cx);
        if self.carry(cx, allowed) != 0 {
            cx.mark_dirty();
        }
        let output = cx.shell().output_len();
        let mut machine = cx.machine_mut();
        if machine.write_event_due(output) {
            machine.handle_writable();
        }
        if machine.fin_due(output) {
            machine.set_fin(Fin::Sent);
            self.ended.set(true);
        }
        if self.ended.get() {
            machine.keep_end(StreamEnd::Eof);
            machine.show_end();
        }
    }

    fn changed(&self, cx: &Cx<'_>, what: Changed) {
        self.note(Told::Changed(what));
        cx.mark_dirty();
    }

    fn flush(&self, cx: &Cx<'_>, interest: Interest, mode: FlushMode) -> FlushResult {
        self.note(Told::Flush(interest, mode));
        match self.carry(cx, usize::MAX) {
            0 => FlushResult::Nothing,
            _ => FlushResult::Produced,
        }
    }

    fn rest(&self, _: &Cx<'_>, machine: &mut Machine, output: usize) -> Rest {
        Rest {
            waits: self.outside && (machine.wants_read() || machine.wants_write(output)),
            look_at: u64::MAX,
        }
    }

    fn timed_out(&self, _: &Cx<'_>, direction: Direction) {
        self.note(Told::TimedOut(direction));
    }

    fn closing(&self, _: &Cx<'_>) {
        self.note(Told::Closing);
    }

    fn stop_reads(&self, _: &Cx<'_>) {
        self.note(Told::StopReads);
    }

    fn end(&self, _: &Cx<'_>, how: End) {
        self.note(Told::Ended(how));
    }

    fn release(&self, _: &Cx<'_>, close: bool) {
        self.note(Told::Released { close });
    }

    fn base_ended(&self) -> Option<i32> {
        self.note(Told::BaseEnded);
        None
    }
}
