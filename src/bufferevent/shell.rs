//! What every bufferevent is, whatever moves its bytes: buffers, machine, callbacks, its place on
//! the base, and its end.
//!
//! There is one way in and one way out. Whoever enters (a call of the user, a completion, a
//! timer, the base) gets a [`Cx`], changes things through the machine and the transport, and
//! leaves through [`Cx::settle`], which runs the callbacks that are due and brings the timer and
//! the base's lists up to date. A bufferevent ends by [`Cx::end`] or with its base.
//!
//! | file | concept |
//! |---|---|
//! | `settle` | the end of each entry: callbacks, timer, lists |
//! | `end` | closes, and the end |
//! | `source` | what the base calls |

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::fmt;
use std::rc::Rc;

use super::BufferEvent;
use super::buffers::{self, Buffers, Side};
use super::callbacks::Handler;
use super::machine::{Due, Fin, Life, Link, Machine, Stage, StreamEnd};
use super::seldom::Seldom;
use super::transport::{Changed, Nature, Transport};
use super::types::{FlushEnd, Options};
use crate::error::Error;
use crate::evbuffer::{BufferError, EvBuffer};
use crate::event_base::EventBase;
use crate::event_base::hook::{Each, Hook};
use crate::event_base::registration::Registration;
use crate::sys::Errno;

mod end;
mod settle;
mod source;

use end::Ending;

/// What stays in the input after the read callback is copied out of its slot when it is no
/// longer than this part of the slot: a 64-byte message must not pin 16 KiB.
pub(super) const COPY_OUT_FRACTION: usize = 8;

/// The same while memory is short, for whatever waits.
pub(super) const SHORT_COPY_OUT_FRACTION: usize = 2;

pub(super) type Report = Box<dyn FnOnce(FlushEnd)>;

pub(super) type Done = Box<dyn FnOnce(&BufferEvent)>;

/// What the handles share: a shell, and the transport that moves its bytes.
pub(super) struct Inner<T: ?Sized = dyn Transport> {
    pub(super) shell: Shell,
    pub(super) transport: T,
}

/// What is the same for every transport.
pub(super) struct Shell {
    pub(super) reg: Registration,
    pub(super) machine: RefCell<Machine>,
    pub(super) buffers: Buffers,
    pub(super) handler: Hook<dyn Handler>,
    /// In a run of callbacks: at which stage of it.
    calling: Cell<Option<Stage>>,
    life: Cell<Life>,
    nature: Nature,
    /// The transport has something to look at by time, whatever the machine says.
    looks_by_time: Cell<bool>,
    ending: Seldom<Ending>,
}

impl<T: Transport + 'static> Inner<T> {
    /// A new one, registered with its base.
    pub(super) fn create(
        base: &EventBase,
        options: Options,
        link: Link,
        transport: T,
    ) -> Rc<Inner<T>> {
        let shell = Shell {
            reg: Registration::new(),
            machine: RefCell::new(Machine::new(options, link)),
            buffers: Buffers::new(),
            handler: Hook::default(),
            calling: Cell::new(None),
            life: Cell::new(Life::Open),
            nature: transport.nature(),
            looks_by_time: Cell::new(false),
            ending: Seldom::default(),
        };
        shell.reg.set_priority(default_priority(base));
        let inner = Rc::new(Inner { shell, transport });
        inner.shell.reg.join(base, inner.clone());
        inner
    }
}

/// The middle one of the base's.
pub(super) fn default_priority(base: &EventBase) -> u8 {
    u8::try_from(base.priorities() / 2).unwrap_or(u8::MAX)
}

impl Shell {
    pub(super) fn is_freed(&self) -> bool {
        self.life.get() == Life::Freed
    }

    pub(super) fn life(&self) -> Life {
        self.life.get()
    }

    pub(super) fn is_calling(&self) -> bool {
        self.calling.get().is_some()
    }

    pub(super) fn input_len(&self) -> usize {
        self.buffers.len(Side::Input)
    }

    pub(super) fn output_len(&self) -> usize {
        self.buffers.len(Side::Output)
    }

    /// The base, unless this was freed.
    pub(super) fn live(&self) -> Result<EventBase, Error> {
        if self.is_freed() {
            return Err(super::FREED);
        }
        match self.reg.base() {
            Some(base) => Ok(base),
            None => Err(Error::Freed { what: "event base" }),
        }
    }

    /// Whether it moves its bytes over another bufferevent.
    pub(super) fn follows(&self) -> bool {
        self.nature.follows
    }

    /// Whether it lives, and on this base.
    pub(super) fn is_on(&self, base: &EventBase) -> bool {
        !self.is_freed() && self.reg.is_on(base)
    }

    pub(super) fn replace_handler(&self, handler: Option<Box<dyn Handler>>, handled: Due) {
        self.machine.borrow_mut().set_handled(handled);
        match handler {
            Some(handler) => self.handler.set(handler),
            None => self.handler.clear(),
        }
    }

    pub(super) fn closes(&self) -> bool {
        let machine = self.machine.borrow();
        machine.options.contains(Options::CLOSE_ON_FREE)
    }

    /// Says whether the transport has something to look at by time: [`Transport::rest`] is asked at
    /// the end of each entry then.
    pub(super) fn look_by_time(&self, looks: bool) {
        self.looks_by_time.set(looks);
    }

    /// The deadline of a close that is under way; `u64::MAX`: none.
    pub(super) fn close_deadline(&self) -> u64 {
        self.ending
            .with(|ending| ending.deadline)
            .unwrap_or(u64::MAX)
    }

    /// Lets go of all that is the user's, of a bufferevent that was just freed.
    ///
    /// With no borrow held: destructors of payloads and closures are the user's code, and one that
    /// panics keeps neither the others nor the reports.
    fn empty(&self, bev: &BufferEvent, unsent: usize, each: &mut Each) {
        let ending = self.ending.take();
        self.machine.borrow_mut().clear_due();
        let (input, output) = self.buffers.clear();
        each.run(|| drop(input));
        each.run(|| drop(output));
        each.run(|| self.handler.clear());
        if let Some(ending) = ending {
            each.run(|| ending.tell(bev, FlushEnd::Failed { unsent }));
        }
    }
}

/// A bufferevent on its base, within one entry.
#[derive(Clone, Copy)]
pub(super) struct Cx<'a> {
    pub(super) bev: &'a BufferEvent,
    pub(super) base: &'a EventBase,
    // Where they are depends on the transport's alignment: looked up once an entry.
    shell: &'a Shell,
    transport: &'a dyn Transport,
}

impl<'a> Cx<'a> {
    #[inline]
    pub(super) fn new(bev: &'a BufferEvent, base: &'a EventBase) -> Self {
        let Inner { shell, transport } = &*bev.0;
        Cx {
            bev,
            base,
            shell,
            transport,
        }
    }

    pub(super) fn shell(&self) -> &'a Shell {
        self.shell
    }

    pub(super) fn transport(&self) -> &'a dyn Transport {
        self.transport
    }

    pub(super) fn machine(&self) -> Ref<'a, Machine> {
        self.shell().machine.borrow()
    }

    pub(super) fn machine_mut(&self) -> RefMut<'a, Machine> {
        self.shell().machine.borrow_mut()
    }

    pub(super) fn now(&self) -> u64 {
        self.base.now()
    }

    pub(super) fn is_freed(&self) -> bool {
        self.shell().is_freed()
    }

    /// Has the transport pumped before the next enter.
    pub(super) fn mark_dirty(&self) {
        if !self.is_freed() {
            self.shell().reg.mark_dirty(self.base);
        }
    }

    // What transports report.

    /// The front of the output, `n` bytes, is gone, and the payloads that went with it.
    pub(super) fn sent(&self, n: usize) {
        let (left, spent) = self.shell.buffers.drain_output(n);
        self.machine_mut().handle_sent(left, self.now());
        // The user's code: last, should it panic.
        drop(spent);
    }

    /// The stream that is read ended, and all before it was shown.
    pub(super) fn ended(&self, end: StreamEnd) {
        self.machine_mut().handle_end(end);
    }

    pub(super) fn write_failed(&self, errno: Errno) {
        self.machine_mut().handle_write_error(errno);
    }

    // Entries of the user's calls.

    /// Whether its user may write.
    pub(super) fn check_writable(&self) -> Result<(), Error> {
        if self.machine().fin() != Fin::Open {
            return Err(Error::Invalid {
                what: "write",
                why: "the sending direction was shut down",
            });
        }
        if self.shell.follows() && self.transport.under().is_some_and(BufferEvent::is_freed) {
            return Err(Error::Freed {
                what: "bufferevent below the filter",
            });
        }
        Ok(())
    }

    /// Appends to the output by way of `f`, or to what follows when the output is lent.
    #[inline]
    pub(super) fn append(
        &self,
        f: impl FnOnce(&mut EvBuffer) -> Result<(), BufferError>,
    ) -> Result<(), BufferError> {
        let (result, change) = self.shell.buffers.append(self.appended_copy_out(), f);
        if change.grew() {
            self.output_grew(change.before == 0);
        }
        self.settle();
        result
    }

    /// Up to what length pieces that are written are copied out of their slots: a message that
    /// waits must not keep a whole slot from everybody else while memory is short.
    fn appended_copy_out(&self) -> usize {
        match self.base.slots_are_low() {
            true => self.base.slot_size() / SHORT_COPY_OUT_FRACTION,
            false => 0,
        }
    }

    /// Moves the whole input to the output of `there`, by reference; how many bytes.
    pub(super) fn transfer(&self, there: &Cx<'_>) -> Result<usize, Error> {
        let buffers = &self.shell().buffers;
        let Some(mut input) = buffers.input() else {
            return Err(buffers::busy(Side::Input));
        };
        let moved = input.len();
        if moved == 0 {
            return Ok(0);
        }
        there.check_writable()?;
        let copy_out = there.appended_copy_out();
        let (result, change) = there
            .shell()
            .buffers
            .append(copy_out, |output| output.add_buffer(&mut input));
        drop(input);
        if result.is_ok() {
            // Nothing is borrowed: filters run here.
            if change.grew() {
                there.output_grew(change.before == 0);
            }
            if !self.is_freed() {
                self.input_changed();
            }
        }
        if self.bev != there.bev {
            there.settle();
        }
        self.settle();
        result?;
        Ok(moved)
    }

    /// The output was appended to: on with it. Pairs and filters move bytes at once, sockets by
    /// the end of the turn, so that writes of one turn leave in one operation.
    #[inline]
    pub(super) fn output_grew(&self, was_empty: bool) {
        if was_empty {
            let now = self.now();
            self.machine_mut().handle_output_begun(now);
        }
        self.transport().changed(self, Changed::OutputGrew);
    }

    /// The input's length or its mark changed by the user's hand: there may be room for more.
    #[inline(always)]
    pub(super) fn input_changed(&self) {
        if self.machine().minds_input() {
            self.input_moved();
        }
    }

    #[cold]
    fn input_moved(&self) {
        let input = self.shell().input_len();
        let resumed = self.machine_mut().handle_input_changed(input, self.now());
        if resumed {
            self.resume_input();
        }
    }

    /// The input has room that it had not before.
    pub(super) fn resume_input(&self) {
        self.transport().changed(self, Changed::InputHasRoom);
        self.mark_dirty();
    }

    /// A buffer that was lent has come back: what was freed meanwhile is emptied now.
    pub(super) fn buffer_is_back(&self) {
        let shell = self.shell();
        if shell.is_freed() {
            drop(shell.buffers.clear());
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("life", &self.shell.life.get())
            .finish_non_exhaustive()
    }
}
