//! What the base calls: each entry from the loop.

use std::rc::Rc;

use super::settle::Interrupted;
use super::{Cx, Inner};
use crate::bufferevent::BufferEvent;
use crate::bufferevent::machine::Life;
use crate::bufferevent::transport::Transport;
use crate::driver::Completion;
use crate::event_base::EventBase;
use crate::event_base::hook::Each;
use crate::event_base::registration::Registration;
use crate::event_base::source::{Feeding, Offer, Source};
use crate::rate_limit::Direction;

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
