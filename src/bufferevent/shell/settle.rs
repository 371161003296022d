//! The end of each entry: callbacks that are due, the timer, the base's lists.

use std::cell::RefMut;

use super::{COPY_OUT_FRACTION, Cx, SHORT_COPY_OUT_FRACTION};
use crate::bufferevent::machine::{Life, Machine, Stage};
use crate::bufferevent::types::{Events, Options};

impl<'a> Cx<'a> {
    // The end of each entry.

    /// Runs the callbacks that are due, and brings the timer and the base's lists up to date: the
    /// last thing that every entry does.
    #[inline]
    pub(in crate::bufferevent) fn settle(&self) {
        let shell = self.shell;
        let quiet = !shell.buffers.are_watched() && !shell.machine.borrow().has_due();
        if quiet && shell.calling.get().is_some() {
            // Whoever runs the callbacks does the rest after them.
            return;
        }
        self.settle_now();
    }

    #[inline(never)]
    pub(super) fn settle_now(&self) {
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
    pub(super) fn tell_watchers(&self) {
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
    pub(in crate::bufferevent) fn unless_interrupted(&self) -> impl Drop + '_ {
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
            return self.waits_for_nothing(machine);
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

    /// Whether it moves its bytes in memory, and no time-out and no close is under way.
    #[inline]
    fn waits_for_nothing(&self, machine: &Machine) -> bool {
        let shell = self.shell;
        shell.nature.in_memory
            && !machine.is_timed()
            && !shell.reg.is_active()
            && shell.life.get() == Life::Open
    }

    /// Brings the timer and the base's lists up to date.
    #[inline(never)]
    pub(super) fn arm(&self, mut machine: RefMut<'a, Machine>) {
        let shell = self.shell;
        if shell.nature.follows {
            drop(machine);
            self.transport().settled(self);
            machine = shell.machine.borrow_mut();
        }
        if self.waits_for_nothing(&machine) {
            return;
        }
        let ending = shell.life.get() != Life::Open;
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
    pub(super) fn call(&self) {
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
pub(super) struct Interrupted<'r, 'a>(pub(super) &'r Cx<'a>);

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
