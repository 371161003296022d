//! More completions than one turn handles.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::clock::Clock;
use crate::driver::sim::socket::Kind;
use crate::{BufferEvent, Callbacks, Options};

/// More than a turn handles, and less than two do.
const MANY: usize = 1_500;

/// Many that send a byte each, all at once; calls `sent` for each byte that has left.
fn crowd(clock: &Clock, sent: impl Fn(usize) + Clone + 'static) -> Vec<BufferEvent> {
    let count = Rc::new(Cell::new(0));
    let one = |_| {
        let [near, _far] = clock.sockets(Kind::Inet);
        let bev = clock.over(near, Kind::Inet, Options::empty());
        let (count, sent) = (count.clone(), sent.clone());
        let wrote = Callbacks::new().on_write(move |_| {
            count.set(count.get() + 1);
            sent(count.get());
        });
        bev.set_callbacks(wrote).unwrap();
        bev
    };
    let bevs: Vec<_> = (0..MANY).map(one).collect();
    clock.run(1);
    count.set(0);
    for bev in &bevs {
        bev.write(b"x").unwrap();
    }
    bevs
}

#[test]
fn what_waits_its_turn_has_it_before_the_last_of_many_completions() {
    let clock = Clock::new();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let (base, log) = (clock.base.clone(), seen.clone());
    let _bevs = crowd(&clock, move |count| {
        if count == 1 {
            let log = log.clone();
            base.defer(move |_| log.borrow_mut().push("deferred"));
        } else if count == MANY {
            log.borrow_mut().push("the last");
        }
    });
    clock.run(1);
    assert_eq!(*seen.borrow(), ["deferred", "the last"]);
}

/// A time-out that is due together with the bytes that it waits for is none.
#[test]
fn a_timer_waits_for_completions_that_are_there_with_it_however_many() {
    let clock = Clock::new();
    let sent = Rc::new(Cell::new(0));
    let count = sent.clone();
    let _bevs = crowd(&clock, move |so_far| count.set(so_far));
    sent.set(0);
    let (at, count) = (Rc::new(Cell::new(None)), sent.clone());
    let fired = at.clone();
    let timer = clock
        .base
        .timer(Duration::ZERO, move |_| fired.set(Some(count.get())));
    timer.unwrap();
    clock.run(1);
    assert_eq!(at.get(), Some(MANY));
}
