//! Relays between two scripted peers.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::scenario::Scenario;
use crate::driver::sim::net::fd_of;
use crate::event_base::EventBase;
use crate::{BufferEvent, Options, Relay, RelayEnd, RelayOptions, RelayReport, relay};

/// A relay and what it joins.
pub(super) struct Joined {
    relay: Relay,
    bevs: [BufferEvent; 2],
    /// Sockets of the two bufferevents, and of the peers behind them.
    near: [usize; 2],
    far: [usize; 2],
    /// One of the bufferevents was freed under it.
    disturbed: std::cell::Cell<bool>,
    report: RefCell<Option<RelayReport>>,
}

impl Joined {
    pub(super) fn make(scenario: &Rc<Scenario>, base: &EventBase) -> Rc<Self> {
        let streams = [scenario.stream(), scenario.stream()];
        let one = scenario.with_remote(streams[0], streams[1]);
        let two = scenario.with_remote(streams[1], streams[0]);
        let near = [one.0, two.0];
        let far = [one.1, two.1];
        let (high, low, idle, deferred) = {
            let mut dice = scenario.dice.borrow_mut();
            let high = dice.pick(&[0, 1, 1000, 20_000, 256 << 10]);
            let idle = dice.pick(&[0, 0, 0, 20, 3000]);
            (high, dice.part(high + 1) - 1, idle, dice.percent(20))
        };
        let mut flags = Options::CLOSE_ON_FREE;
        flags.set(Options::DEFER_CALLBACKS, deferred);
        let bevs = near.map(|socket| {
            let family = scenario.family(socket);
            let bev = BufferEvent::simulated(base, fd_of(socket), family, flags);
            scenario.limited(base, bev)
        });
        let idle = (idle != 0).then(|| Duration::from_millis(idle));
        let options = RelayOptions::default()
            .high(high)
            .low(low)
            .idle_timeout(idle);
        let relay = relay(&bevs[0], &bevs[1], options).expect("two of one base");
        let joined = Rc::new(Joined {
            relay,
            bevs,
            near,
            far,
            disturbed: Default::default(),
            report: RefCell::new(None),
        });
        let told = joined.clone();
        let world = scenario.world.clone();
        joined.relay.on_end(move |report| {
            world.borrow_mut().note("relay ends", &[report.undelivered]);
            let before = told.report.replace(Some(*report));
            assert!(before.is_none(), "one report");
        });
        joined
    }

    /// A random end.
    pub(super) fn disturb(&self, scenario: &Scenario) {
        let how = scenario.dice.borrow_mut().range(0..20);
        match how {
            0 => self.relay.free(),
            1..4 => self.relay.close_after_flush(Duration::from_millis(100)),
            4 => {
                self.disturbed.set(true);
                self.bevs[0].free();
            }
            _ => {}
        }
    }

    /// What must hold when all that could move has moved.
    pub(super) fn check(&self, scenario: &Scenario) {
        let world = scenario.world.borrow();
        let report = *self.report.borrow();
        let Some(report) = report else {
            if scenario.waits_for_memory(&[&self.bevs[0], &self.bevs[1]]) {
                return;
            }
            for side in 0..2 {
                let (bev, socket) = (&self.bevs[side], self.near[side]);
                if bev.is_freed() || self.disturbed.get() {
                    continue;
                }
                let read = bev.enabled().contains(crate::Interest::READ);
                let net = &world.net;
                assert!(
                    !(read && net.is_readable(socket)),
                    "a relay does not read what there is to read on {socket}: {bev:?}"
                );
                let stuck = !bev.output().is_empty() && net.can_send(socket);
                assert!(
                    !stuck || net.is_dead(socket),
                    "a relay does not send to {socket}: {bev:?}"
                );
            }
            let ended = self.far.map(|far| !world.net.is_open(far));
            assert!(
                self.disturbed.get() || ended != [true, true],
                "both peers are gone, the relay is not"
            );
            return;
        };
        let moved = self.near.map(|socket| world.net.moved(socket));
        let (received, sent) = (moved[0].0 + moved[1].0, moved[0].1 + moved[1].1);
        if !self.disturbed.get() {
            assert!(
                sent + report.undelivered >= report.a_to_b + report.b_to_a,
                "lost without a word: {received} received, {sent} sent, {report:?}"
            );
            // What a send in flight had moved is not known yet when a deadline passes.
            assert!(
                report.undelivered <= received,
                "counted twice: {received} received, {sent} sent, {report:?}"
            );
        }
        if report.end == RelayEnd::Finished && !self.disturbed.get() {
            assert_eq!(report.undelivered, 0, "a relay that finished: {report:?}");
            assert_eq!(received, sent, "a relay that finished: {report:?}");
        }
    }

    /// Whether somebody freed a bufferevent of its.
    pub(super) fn is_disturbed(&self) -> bool {
        self.disturbed.get()
    }

    pub(super) fn free(&self) {
        self.relay.free();
    }

    /// After the very end.
    pub(super) fn check_ended(&self) {
        let told = self.report.borrow().is_some();
        assert!(told || self.disturbed.get(), "a relay tells its end");
    }
}
