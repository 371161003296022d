//! What every bufferevent is, whatever moves its bytes: buffers, machine, callbacks, its place on
//! the base, and its end.
//!
//! There is one way in and one way out. Whoever enters (a call of the user, a completion, a
//! timer, the base) gets a [`Cx`], changes things through the machine and the transport, and
//! leaves through [`Cx::settle`], which runs the callbacks that are due and brings the timer and
//! the base's lists up to date. A bufferevent ends by [`Cx::end`] or with its base.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::fmt;
use std::rc::Rc;

use super::BufferEvent;
use super::buffers::{self, Buffers, Side};
use super::callbacks::Handler;
use super::machine::{Due, Facts, Fin, Life, Link, Machine, Stage, Step, StreamEnd, step};
use super::seldom::Seldom;
use super::transport::{Changed, End, Nature, Transport};
use super::types::{Events, FlushEnd, Options};
use crate::driver::Completion;
use crate::error::Error;
use crate::evbuffer::{BufferError, EvBuffer};
use crate::event_base::EventBase;
use crate::event_base::hook::{Each, Hook};
use crate::event_base::registration::Registration;
use crate::event_base::source::{Feeding, Offer, Source};
use crate::rate_limit::Direction;
use crate::sys::Errno;

/// What stays in the input after the read callback is copied out of its slot when it is no
/// longer than this part of the slot: a 64-byte message must not pin 16 KiB.
pub(super) const COPY_OUT_FRACTION: usize = 8;

/// The same while memory is short, for whatever waits.
pub(super) const SHORT_COPY_OUT_FRACTION: usize = 2;

/// How long the peer has to end its own direction once all was sent. Closing a socket with
/// unread bytes resets the connection, and a reset may overtake what was sent last.
const LINGER_NS: u64 = 2_000_000_000;

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

/// Whom to tell of the end, and when it is at the latest.
struct Ending {
    /// In the driver's time; `u64::MAX`: none.
    deadline: u64,
    report: Option<Report>,
    /// Called once nothing is received any more.
    dones: Vec<Done>,
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

impl Default for Ending {
    fn default() -> Self {
        Ending {
            deadline: u64::MAX,
            report: None,
            dones: Vec::new(),
        }
    }
}

impl Ending {
    /// Tells all who wait for the end.
    fn tell(self, bev: &BufferEvent, end: FlushEnd) {
        let Ending { report, dones, .. } = self;
        // One that panics takes nothing from the others.
        let _rest = Telling {
            bev,
            dones: dones.into_iter(),
            report: report.map(|report| (report, end)),
        };
    }
}

/// Reports that are still to be made; made in any case.
struct Telling<'a> {
    bev: &'a BufferEvent,
    dones: std::vec::IntoIter<Done>,
    report: Option<(Report, FlushEnd)>,
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        let next = self.dones.next();
        let last = match next {
            Some(_) => None,
            None => self.report.take(),
        };
        if next.is_none() && last.is_none() {
            return;
        }
        // The rest is told when this goes out of scope, also by a panic.
        let _rest = Telling {
            bev: self.bev,
            dones: std::mem::take(&mut self.dones),
            report: self.report.take(),
        };
        if let Some(done) = next {
            done(self.bev);
        } else if let Some((report, end)) = last {
            report(end);
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

    // The end of each entry.

    /// Runs the callbacks that are due, and brings the timer and the base's lists up to date: the
    /// last thing that every entry does.
    #[inline]
    pub(super) fn settle(&self) {
        let shell = self.shell;
        let quiet = !shell.buffers.are_watched() && !shell.machine.borrow().has_due();
        if quiet && shell.calling.get().is_some() {
            // Whoever runs the callbacks does the rest after them.
            return;
        }
        self.settle_now();
    }

    #[inline(never)]
    fn settle_now(&self) {
        let shell = self.shell;
        if shell.is_freed() || self.base.buffers_are_lent() && shell.buffers.are_lent() {
            // Whoever has lent a buffer settles when it is back.
            return;
        }
        if shell.buffers.are_watched() {
            self.tell_watchers();
            if shell.is_freed() {
                return;
            }
        }
        let mut machine = shell.machine.borrow_mut();
        if machine.has_due() {
            let deferred = machine.options.contains(Options::DEFER_CALLBACKS);
            match shell.calling.get() {
                // The run that is under way comes to it.
                Some(stage) if machine.due_after(stage) => return,
                Some(_) => return shell.reg.enqueue(self.base),
                None if deferred || !self.base.calls_inline() => shell.reg.enqueue(self.base),
                None => {
                    drop(machine);
                    self.call();
                    if shell.is_freed() {
                        return;
                    }
                    machine = shell.machine.borrow_mut();
                }
            }
        } else if shell.calling.get().is_some() {
            return;
        }
        if !self.rests_as_before(&machine) {
            self.arm(machine);
        }
    }

    /// Tells the buffers' own callbacks. They have a buffer in their hands, as any closure of
    /// [`BufferView::with`](super::BufferView::with): nobody else is called meanwhile, and what
    /// they did to either buffer takes effect afterwards.
    #[cold]
    fn tell_watchers(&self) {
        let guard = Interrupted(self);
        let using = self.base.using_buffer();
        let told = self.shell.buffers.tell_watchers();
        drop(using);
        std::mem::forget(guard);
        self.buffer_is_back();
        if self.is_freed() {
            return;
        }
        if told.output.grew() {
            if told.output.before == 0 {
                let now = self.now();
                self.machine_mut().handle_output_begun(now);
            }
            self.mark_dirty();
        }
        if told.input.shrank() {
            self.input_changed();
        }
    }

    /// A guard while the user's code has something of it in its hands, outside of any callback:
    /// dropped by a panic it leaves everything to the next turn. To be forgotten otherwise.
    pub(super) fn unless_interrupted(&self) -> impl Drop + '_ {
        Interrupted(self)
    }

    /// Whether nothing that the base knows of it can have changed: what every message comes to.
    #[inline]
    fn rests_as_before(&self, machine: &Machine) -> bool {
        let shell = self.shell;
        if shell.nature.follows || shell.life.get() != Life::Open {
            return false;
        }
        if shell.nature.in_memory || !shell.reg.is_active() {
            return shell.nature.in_memory && !machine.is_timed() && !shell.reg.is_active();
        }
        // With I/O to begin before the loop waits, it comes here again after that.
        if shell.reg.is_dirty() && self.base.is_running() {
            return true;
        }
        if !machine.wants_read() || shell.looks_by_time.get() {
            return false;
        }
        // It waits for its peer whatever happens to its output, and mostly the timer is set early
        // enough.
        !machine.is_timed() || !shell.reg.is_late_for(machine.deadline(shell.output_len()))
    }

    /// Brings the timer and the base's lists up to date.
    #[inline(never)]
    fn arm(&self, mut machine: RefMut<'a, Machine>) {
        let shell = self.shell;
        if shell.nature.follows {
            drop(machine);
            self.transport().settled(self);
            machine = shell.machine.borrow_mut();
        }
        let ending = shell.life.get() != Life::Open;
        if shell.nature.in_memory && !machine.is_timed() && !ending && !shell.reg.is_active() {
            return;
        }
        let output = shell.output_len();
        let rest = self.transport().rest(self, &mut machine, output);
        let mut deadline = machine.deadline(output).min(rest.look_at);
        drop(machine);
        if ending {
            deadline = deadline.min(shell.close_deadline());
        }
        if deadline != u64::MAX {
            shell.reg.arm(self.base, deadline);
        }
        let active = rest.waits || deadline != u64::MAX;
        shell.reg.set_active(self.base, active);
    }

    /// One run: every stage that is due, in order. What becomes due meanwhile for an earlier
    /// stage waits for the FIFO.
    fn call(&self) {
        let shell = self.shell();
        let _run = Run(self);
        let mut last = None;
        while !shell.is_freed() {
            let due = shell.machine.borrow_mut().take_after(last);
            let Some((stage, events)) = due else { break };
            shell.calling.set(Some(stage));
            last = Some(stage);
            self.call_stage(stage, events);
        }
    }

    fn call_stage(&self, stage: Stage, events: Events) {
        let shell = self.shell();
        match stage {
            Stage::Read => {
                let before = shell.input_len();
                let called = shell.handler.call(|handler| handler.read(self.bev));
                if called.is_some() && !shell.is_freed() {
                    self.after_read_callback(before);
                }
            }
            Stage::Write => {
                shell.handler.call(|handler| handler.write(self.bev));
            }
            Stage::Connected | Stage::Events => {
                shell
                    .handler
                    .call(|handler| handler.event(self.bev, events));
            }
        }
    }

    /// The read callback returned: a small rest is copied out of its slot, any rest while slots
    /// are short, and a full buffer is shown again if the callback made some way.
    fn after_read_callback(&self, before: usize) {
        let shell = self.shell();
        let left = shell.input_len();
        if left == 0 {
            return;
        }
        let slot = self.base.slot_size();
        if self.base.slots_are_low() {
            shell.buffers.copy_out_input(slot / SHORT_COPY_OUT_FRACTION);
        } else if left <= slot / COPY_OUT_FRACTION {
            shell.buffers.copy_out_input(left);
        }
        let mut machine = shell.machine.borrow_mut();
        if machine.is_full() && left < before {
            machine.trigger(true, false, Events::empty());
        }
    }

    // The end of a bufferevent.

    /// Receives no more; `done` once all that the kernel had received is in the input.
    pub(super) fn begin_stop_reads(&self, done: Done) {
        let shell = self.shell();
        shell.ending.with_made(|ending| ending.dones.push(done));
        shell.life.set(Life::StoppingReads);
        shell.machine.borrow_mut().finish_reading();
        self.transport().stop_reads(self);
        self.mark_dirty();
    }

    /// Sends what is buffered, ends the stream in order, frees.
    pub(super) fn begin_close(&self, deadline: u64, report: Report) {
        let shell = self.shell();
        let now = self.now();
        let closing = Ending {
            deadline,
            report: Some(report),
            dones: Vec::new(),
        };
        let previous = shell.ending.replace(Some(Box::new(closing)));
        shell.life.set(Life::Flushing);
        let mut machine = shell.machine.borrow_mut();
        machine.set_handled(Due::READ);
        machine.clear_due();
        machine.close(now);
        drop(machine);
        self.mark_dirty();
        // Nobody reads it any more, and others may wait for its slots.
        let (handler, input) = (shell.handler.take(), shell.buffers.clear_input());
        self.transport().changed(self, Changed::Pace);
        let mut each = Each::default();
        // Filters, destructors, the earlier report: the user's code, and it is on its way by now.
        each.run(|| drop(handler));
        each.run(|| drop(input));
        if !shell.is_freed() {
            each.run(|| self.transport().closing(self));
        }
        if let Some(previous) = previous {
            // Closed twice: the later deadline and report hold, the earlier report is told so.
            let unsent = shell.output_len();
            each.run(|| previous.tell(self.bev, FlushEnd::Failed { unsent }));
        }
        each.finish();
    }

    /// A close that is under way ends by then, at the latest.
    pub(super) fn shorten_deadline(&self, latest: u64) {
        let shell = self.shell();
        if !shell.life.get().is_closing() {
            return;
        }
        shell
            .ending
            .with(|ending| ending.deadline = ending.deadline.min(latest));
        self.transport().changed(self, Changed::Pace);
    }

    /// Takes the report of a close that goes on elsewhere, and its deadline.
    pub(super) fn take_close(&self) -> Option<(u64, Report)> {
        let ending = self.shell().ending.take()?;
        let Ending {
            deadline, report, ..
        } = *ending;
        report.map(|report| (deadline, report))
    }

    /// The connection broke while it was read from to its end.
    pub(super) fn break_close(&self) {
        let end = match self.shell().output_len() {
            0 => FlushEnd::Flushed,
            unsent => FlushEnd::Failed { unsent },
        };
        self.finish_close(end, End::Free);
    }

    /// Takes what ends a step further, if there is anything.
    pub(super) fn progress(&self) {
        let shell = self.shell();
        match shell.life.get() {
            Life::Open | Life::Freed => {}
            Life::StoppingReads => {
                if self.transport().reads_stopped() {
                    shell.life.set(Life::Open);
                    if let Some(ending) = shell.ending.take() {
                        ending.tell(self.bev, FlushEnd::Flushed);
                    }
                }
            }
            life => self.progress_close(life),
        }
    }

    fn progress_close(&self, life: Life) {
        let shell = self.shell();
        let machine = shell.machine.borrow();
        let unsent = shell.output_len();
        let transport = self.transport();
        let facts = Facts {
            life,
            link: machine.link(),
            fin: machine.fin(),
            unsent,
            cut: machine.write_is_off() || unsent != 0 && transport.is_cut(),
            peer_may_send: transport.peer_may_send(),
        };
        drop(machine);
        match step(&facts) {
            Step::Wait => {}
            Step::Linger => {
                shell.life.set(Life::Lingering);
                let latest = self.now().saturating_add(LINGER_NS);
                self.shorten_deadline(latest);
                // Receive, to see the peer's end; what comes is dropped.
                self.mark_dirty();
            }
            Step::End(end) => {
                let how = match end {
                    FlushEnd::Flushed => End::Free,
                    _ => End::Reset,
                };
                self.finish_close(end, how);
            }
        }
    }

    /// The deadline of a close may have passed; says whether it ended.
    fn deadline_passed(&self, now: u64) -> bool {
        let shell = self.shell();
        let life = shell.life.get();
        if !life.is_closing() || shell.close_deadline() > now {
            return false;
        }
        let unsent = shell.output_len();
        match life {
            Life::Lingering => self.finish_close(FlushEnd::Flushed, End::Free),
            _ => self.finish_close(FlushEnd::TimedOut { unsent }, End::Reset),
        }
        true
    }

    /// A close ends: frees, then reports.
    pub(super) fn finish_close(&self, end: FlushEnd, how: End) {
        let ending = self.shell().ending.take();
        let unsent = self.bev.unsent();
        let mut each = Each::default();
        each.run(|| self.end(how));
        if let Some(ending) = ending {
            let end = match end {
                FlushEnd::Flushed => FlushEnd::Flushed,
                FlushEnd::TimedOut { .. } => FlushEnd::TimedOut { unsent },
                FlushEnd::Failed { .. } => FlushEnd::Failed { unsent },
            };
            each.run(|| ending.tell(self.bev, end));
        }
        each.finish();
    }

    /// Frees it: the one way by which a bufferevent goes before its base does.
    pub(super) fn end(&self, how: End) {
        let shell = self.shell();
        if shell.life.replace(Life::Freed) == Life::Freed {
            return;
        }
        let unsent = self.bev.unsent();
        shell.reg.unshare(self.base);
        let mut each = Each::default();
        each.run(|| self.transport().end(self, how));
        self.leave_if_quiet();
        shell.empty(self.bev, unsent, &mut each);
        each.finish();
    }

    /// Once nothing is in flight: closes the descriptor (I6) and leaves the base.
    pub(super) fn leave_if_quiet(&self) {
        let shell = self.shell();
        let quiet = self.transport().is_quiet();
        if quiet {
            self.transport().release(self, shell.closes());
        }
        // Until then it keeps the loop from ending, so that the descriptor is closed for sure.
        shell.reg.set_active(self.base, !quiet);
        if quiet {
            shell.reg.leave(self.base);
        }
    }
}

/// A run of callbacks. Ends it also when one of them panics: whoever catches that may go on with
/// the loop.
struct Run<'r, 'a>(&'r Cx<'a>);

impl Drop for Run<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        let shell = self.0.shell();
        shell.calling.set(None);
        if !shell.is_freed() && shell.machine.borrow().has_due() {
            shell.reg.enqueue(self.0.base);
        }
        if std::thread::panicking() && !shell.is_freed() {
            // Who called does not get to it.
            self.0.arm(shell.machine.borrow_mut());
        }
    }
}

/// Dropped only by a panic in the user's code (the destructor of a payload, a filter, a closure
/// that has a buffer): whoever catches that may go on with the loop, and finds everything still to
/// be done.
struct Interrupted<'r, 'a>(&'r Cx<'a>);

impl Drop for Interrupted<'_, '_> {
    #[cold]
    fn drop(&mut self) {
        let shell = self.0.shell;
        if shell.is_freed() {
            return;
        }
        self.0.mark_dirty();
        let mut machine = shell.machine.borrow_mut();
        machine.handle_input_changed(shell.input_len(), self.0.now());
        if machine.has_due() && shell.calling.get().is_none() {
            shell.reg.enqueue(self.0.base);
        }
        if !shell.nature.follows {
            // What follows it is user code as well: the next turn brings that in line.
            self.0.arm(machine);
        }
    }
}

impl<T: Transport + 'static> Source for Inner<T> {
    fn registration(&self) -> &Registration {
        &self.shell.reg
    }

    fn completed(self: Rc<Self>, base: &EventBase, completion: Completion) {
        let bev = BufferEvent(self);
        let cx = Cx::new(&bev, base);
        let guard = Interrupted(&cx);
        cx.transport.completed(&cx, completion);
        std::mem::forget(guard);
        if cx.is_freed() {
            if cx.transport.is_quiet() && cx.shell.reg.is_joined() {
                cx.leave_if_quiet();
            }
            return;
        }
        cx.settle();
    }

    fn start_io(self: Rc<Self>, base: &EventBase) {
        let bev = BufferEvent(self);
        let cx = Cx::new(&bev, base);
        if cx.is_freed() {
            return;
        }
        let guard = Interrupted(&cx);
        cx.transport.pump(&cx);
        cx.progress();
        std::mem::forget(guard);
        cx.settle();
    }

    fn deferred(self: Rc<Self>, base: &EventBase) {
        let bev = BufferEvent(self);
        let cx = Cx::new(&bev, base);
        if cx.is_freed() {
            return;
        }
        cx.machine_mut().handle_deferred();
        cx.call();
        cx.settle();
    }

    fn timer_fired(self: Rc<Self>, base: &EventBase) {
        let bev = BufferEvent(self);
        let cx = Cx::new(&bev, base);
        let now = base.now();
        let shell = cx.shell();
        if cx.is_freed() || cx.deadline_passed(now) {
            return;
        }
        cx.transport().time_passed(&cx, now);
        // Each direction with a call of its own, if the callbacks are not deferred.
        let late = cx.machine().read_is_late(now);
        if late {
            cx.machine_mut().handle_read_timeout();
            cx.transport().timed_out(&cx, Direction::Read);
            cx.settle();
            if cx.is_freed() {
                return;
            }
        }
        let late = cx.machine().write_is_late(shell.output_len(), now);
        if late {
            if cx.transport().made_way(&cx) {
                cx.machine_mut().handle_progress(now);
            } else {
                cx.machine_mut().handle_write_timeout();
                cx.transport().timed_out(&cx, Direction::Write);
            }
        }
        cx.progress();
        cx.settle();
    }

    fn budget_came_back(self: Rc<Self>, base: &EventBase, direction: Direction) {
        let bev = BufferEvent(self);
        let cx = Cx::new(&bev, base);
        if !cx.is_freed() {
            cx.transport().budget_came_back(&cx, direction);
        }
    }

    fn slots_came_back(self: Rc<Self>, base: &EventBase, offer: Offer) -> Feeding {
        let bev = BufferEvent(self);
        let cx = Cx::new(&bev, base);
        if cx.is_freed() {
            return Feeding::Left;
        }
        let feeding = cx.transport().slots_came_back(&cx, offer);
        // A limit may have told when to ask again.
        cx.settle();
        feeding
    }

    fn memory_is_short(self: Rc<Self>, base: &EventBase) {
        let bev = BufferEvent(self);
        let cx = Cx::new(&bev, base);
        if !cx.is_freed() {
            cx.transport().spare_memory(&cx);
        }
    }

    fn unpark(self: Rc<Self>, base: &EventBase) {
        let bev = BufferEvent(self);
        let cx = Cx::new(&bev, base);
        if !cx.is_freed() {
            cx.transport().unpark(&cx);
        }
    }

    fn take_turn(self: Rc<Self>, base: &EventBase) -> bool {
        let bev = BufferEvent(self);
        let cx = Cx::new(&bev, base);
        if cx.is_freed() {
            return true;
        }
        let taken = cx.transport().take_turn(&cx);
        cx.settle();
        taken
    }

    fn check_quiet(self: Rc<Self>, base: &EventBase) -> bool {
        let bev = BufferEvent(self);
        let cx = Cx::new(&bev, base);
        if cx.is_freed() {
            return false;
        }
        let again = cx.transport().check_quiet(&cx);
        cx.settle();
        again
    }

    fn base_ended(self: Rc<Self>, close: &mut Vec<i32>) {
        let bev = BufferEvent(self);
        let shell = &bev.0.shell;
        let was = shell.life.replace(Life::Freed);
        let fd = bev.0.transport.base_ended();
        close.extend(fd.filter(|_| shell.closes()));
        if was != Life::Freed {
            let unsent = shell.output_len();
            let mut each = Each::default();
            shell.empty(&bev, unsent, &mut each);
            each.finish();
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
