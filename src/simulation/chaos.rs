//! Random calls at random moments.

use std::rc::Rc;
use std::time::Duration;

use super::end::End;
use crate::Addr;
use crate::event_base::Interest;

impl End {
    /// In so many of a hundred cases, some call; none once all is calm.
    pub(super) fn random_call(self: &Rc<Self>, percent: u32) {
        let scenario = self.scenario();
        let limit = scenario.dice.borrow_mut().percent(percent / 4);
        if let (true, Ok(base)) = (limit, self.bev.base()) {
            scenario.limit_call(&base);
        }
        let call = {
            let mut dice = scenario.dice.borrow_mut();
            dice.percent(percent).then(|| dice.range(0..100))
        };
        let Some(call) = call.filter(|_| self.live() && !scenario.calm.get()) else {
            return;
        };
        let (coin, bytes, time) = {
            let mut dice = scenario.dice.borrow_mut();
            let time = dice.pick(&[0, 1, 1_000_000, 20_000_000, 500_000_000]);
            (
                dice.percent(50),
                dice.part(10_000),
                Duration::from_nanos(time),
            )
        };
        let interest = match (coin, bytes % 3) {
            (true, _) => Interest::READ,
            (false, 0) => Interest::READ | Interest::WRITE,
            (false, _) => Interest::WRITE,
        };
        let some_time = coin.then_some(time);
        match call {
            0..12 => {
                self.note("disable", &[u64::from(interest.bits())]);
                self.bev.disable(interest).expect("it is not freed");
            }
            12..30 => {
                self.note("enable", &[u64::from(interest.bits())]);
                self.enable(interest);
            }
            30..42 => {
                let high = if coin { 0 } else { bytes };
                let low = if bytes % 4 == 0 { bytes / 2 } else { 0 };
                self.note("watermarks", &[low as u64, high as u64]);
                self.slack.set(self.bev.input().len());
                let set = self.bev.set_watermarks(interest, low, high);
                set.expect("it is not freed");
            }
            42..50 => {
                self.note("timeouts", &[time.as_nanos() as u64]);
                let set = self.bev.set_timeouts(some_time, Some(time));
                set.expect("it is not freed");
            }
            50..58 => self.set_handler(),
            58..66 if self.echo => self.drain_all(),
            58..66 => self.drain(bytes),
            66..78 => self.write(bytes),
            78..80 if !self.shut.get() => self.shutdown(),
            80..82 => self.stop_reading(),
            82..84 => self.close(some_time),
            84..86 => self.free(),
            86..88 => self.call_another(),
            88..91 => self.reconnect(),
            91..93 => self.bev.base().expect("it is not freed").stop(),
            93..95 => self.bev.base().expect("it is not freed").stop_after_turn(),
            95..98 => self.within_a_buffer(),
            _ => self.call_later(time),
        }
    }

    /// Something happens to another bufferevent, inside of this one's callback.
    fn call_another(&self) {
        let scenario = self.scenario();
        let other = {
            let ends = scenario.ends.borrow();
            let n = scenario.dice.borrow_mut().range(0..ends.len() as u64);
            ends[n as usize].clone()
        };
        if other.number != self.number {
            other.random_call(100);
        }
    }

    /// Tries again after a connect that failed.
    fn reconnect(self: &Rc<Self>) {
        if self.link_failed.get() && self.again.get() < 4 {
            self.again.set(self.again.get() + 1);
            self.connect(self.port.get());
        }
    }

    pub(super) fn connect(&self, port: u16) {
        self.note("connect", &[u64::from(port)]);
        self.link_failed.set(false);
        self.connecting.set(true);
        self.port.set(port);
        let addr = Addr::from(std::net::SocketAddr::from(([127, 0, 0, 1], port)));
        self.bev.connect(&addr).expect("it is not connected");
    }

    /// Calls from within a closure that holds the input.
    fn within_a_buffer(self: &Rc<Self>) {
        if self.holding.replace(true) {
            // A filter called back from within the write below.
            let second = self.bev.input().with(|_| ());
            assert!(second.is_err(), "two hold one input");
            return;
        }
        let held = self.bev.input().with(|_input| {
            self.write(100);
            if self.scenario().dice.borrow_mut().percent(10) && !self.bev.is_freed() {
                self.free();
            }
            // Callbacks that became due run before `with` returns, when the input is back.
            self.holding.set(false);
        });
        held.expect("nobody else holds it");
    }

    fn call_later(self: &Rc<Self>, after: Duration) {
        let end = self.clone();
        let base = self.bev.base().expect("it is not freed");
        let timer = base.timer(after, move |_| end.random_call(100));
        timer.expect("a short time");
    }
}
