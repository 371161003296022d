//! Messages out and back: sending, checking, and what makes the next one due.

use std::rc::Rc;
use std::time::Instant;

use bytes::Buf;
use evring::EvBuffer;
use evring_cli_common::failure::Failure;

use super::tally::Tally;
use super::{Client, Phase, Run, Stream};

/// Messages of an open loop that are written in one go; then the loop looks what came back.
const PACED_AT_ONCE: usize = 256;

impl Run {
    /// Writes `count` messages that began at `begun`.
    pub(super) fn send(&self, client: &Client, count: usize, begun: Instant) {
        let mut stream = client.stream.borrow_mut();
        let mut left = count * self.args.size;
        while left > 0 {
            let piece = self.pattern.piece(stream.origin + stream.sent, left);
            let len = piece.len();
            if client.bev.write_piece(piece).is_err() {
                // It was freed by an error, whose callback has counted it.
                return;
            }
            stream.sent += len as u64;
            left -= len;
        }
        stream.begun_at.extend(std::iter::repeat_n(begun, count));
    }

    /// Open loop: from here on messages go out when they are due.
    pub(super) fn start_pacing(self: &Rc<Self>) -> Result<(), Failure> {
        let weak = Rc::downgrade(self);
        let timer = self.base.timer(std::time::Duration::ZERO, move |_| {
            if let Some(run) = weak.upgrade() {
                run.pace();
            }
        });
        let timer = timer.map_err(|error| Failure::new("cannot start a timer", error))?;
        *self.pacer.borrow_mut() = Some(timer);
        Ok(())
    }

    /// Open loop: writes what is due, whatever is still under way, and comes back when more is.
    pub(super) fn pace(self: &Rc<Self>) {
        let measuring = self.phase.get() == Phase::Measuring;
        if !measuring && self.phase.get() != Phase::WarmingUp {
            return;
        }
        let mut now = Instant::now();
        for _ in 0..PACED_AT_ONCE {
            let taken = self.schedule.borrow_mut().as_mut().map(|s| s.take(now));
            let Some((number, due)) = taken.flatten() else {
                break;
            };
            let Some(client) = self.client_for(number) else {
                return;
            };
            now = Instant::now();
            self.send(&client, 1, due);
            let mut tally = self.tally.borrow_mut();
            if measuring && tally.was_due_while_measured(due) {
                tally.record_behind(now.saturating_duration_since(due));
            }
        }
        let next = self.schedule.borrow().as_ref().map(|s| s.next_due());
        if let (Some(next), Some(timer)) = (next, self.pacer.borrow().as_ref()) {
            let wait = next.saturating_duration_since(Instant::now());
            if let Err(error) = timer.rearm(wait) {
                self.give_up(&Failure::new("cannot start a timer", error));
            }
        }
    }

    /// The connection that carries message `number`: one after another, those passed over that
    /// broke.
    fn client_for(&self, number: u64) -> Option<Rc<Client>> {
        let clients = self.clients.borrow();
        let first = (number % clients.len() as u64) as usize;
        let mut order = clients[first..].iter().chain(&clients[..first]);
        order.find(|c| !c.stream.borrow().ended).cloned()
    }

    /// Checks what came back; closed loop: answers every whole message by another.
    pub(super) fn received(self: &Rc<Self>, client: &Client) -> Result<(), String> {
        let mut input = EvBuffer::new();
        client
            .bev
            .read_buffer(&mut input)
            .map_err(|error| error.to_string())?;
        let now = Instant::now();
        let size = self.args.size as u64;
        let messages = {
            let mut stream = client.stream.borrow_mut();
            let before = stream.received / size;
            while input.has_remaining() {
                let chunk = input.chunk();
                let len = chunk.len();
                if stream.received + len as u64 > stream.sent {
                    return Err("more bytes came back than were sent".to_owned());
                }
                let position = stream.origin + stream.received;
                if self.pattern.first_difference(position, chunk).is_some() {
                    return Err("other bytes came back than were sent".to_owned());
                }
                stream.received += len as u64;
                input.advance(len);
            }
            stream.received / size - before
        };
        self.answered(client, messages, now);
        Ok(())
    }

    fn answered(self: &Rc<Self>, client: &Client, messages: u64, now: Instant) {
        let phase = self.phase.get();
        {
            let mut tally = self.tally.borrow_mut();
            let mut stream = client.stream.borrow_mut();
            for _ in 0..messages {
                let Some(begun) = stream.begun_at.pop_front() else {
                    break;
                };
                if self.latency_counts(&tally, begun) {
                    tally.record_latency(now.saturating_duration_since(begun));
                }
            }
            if phase == Phase::Measuring {
                tally.messages += messages;
                tally.bytes += messages * self.args.size as u64;
            }
        }
        if phase == Phase::Finishing {
            self.retire_if_quiet(client);
        } else if self.args.rate.is_none() {
            self.send(client, messages as usize, now);
        }
    }

    /// Closed loop: what comes back within the measured time counts. Open loop: what was due within
    /// it counts, also when it comes back afterwards; else the slowest would be left out.
    fn latency_counts(&self, tally: &Tally, begun: Instant) -> bool {
        match self.args.rate {
            None => self.phase.get() == Phase::Measuring,
            Some(_) => tally.was_due_while_measured(begun),
        }
    }

    /// Open loop: a message that never came back has waited at least until now.
    pub(super) fn record_unanswered(&self, tally: &mut Tally, stream: &Stream) {
        if self.args.rate.is_none() {
            return;
        }
        for &due in &stream.begun_at {
            if tally.was_due_while_measured(due) {
                tally.record_latency(due.elapsed());
            }
        }
    }
}
