//! The user's side of one bufferevent: what it writes, what it expects, what its callbacks check.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use super::scenario::Scenario;
use crate::driver::sim::dice::{check_pattern, pattern_bytes};
use crate::event_base::Interest;
use crate::{BufferEvent, EvBuffer, Events, FlushEnd, Handler};

/// What happens once everything was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    Shutdown,
    CloseAfterFlush,
    Nothing,
}

/// One bufferevent and the books about it.
pub(super) struct End {
    pub(super) number: usize,
    pub(super) bev: BufferEvent,
    scenario: Weak<Scenario>,
    /// The stream it writes and how much is left of it; for an echo, what it sends back.
    pub(super) writes: u32,
    pub(super) left: Cell<u64>,
    pub(super) written: Cell<u64>,
    pub(super) expects: u32,
    pub(super) read: Cell<u64>,
    pub(super) echo: bool,
    pub(super) finish: Finish,
    /// The end that it talks to, if that is one.
    pub(super) peer: Cell<Option<usize>>,
    /// There is a filter between it and its socket.
    pub(super) filtered: Cell<bool>,
    /// Where it connects to, if it does; whether somebody answers there.
    pub(super) port: Cell<u16>,
    pub(super) hopeless: bool,
    /// The length up to which the input may be above the high mark: what it had when the mark was
    /// set.
    pub(super) slack: Cell<usize>,
    /// A closure further up holds the input: whatever else needs it is refused.
    pub(super) holding: Cell<bool>,
    /// Handlers set so far: only the last may be called.
    pub(super) handlers: Cell<u32>,
    pub(super) freed: Cell<bool>,
    pub(super) closing: Cell<bool>,
    pub(super) close_due: Cell<u64>,
    pub(super) closed: RefCell<Option<FlushEnd>>,
    pub(super) shut: Cell<bool>,
    pub(super) quieting: Cell<bool>,
    pub(super) quiet: Cell<bool>,
    /// A connect that was not answered yet.
    pub(super) connecting: Cell<bool>,
    pub(super) link_failed: Cell<bool>,
    pub(super) eof_told: Cell<bool>,
    pub(super) error_told: Cell<bool>,
    pub(super) again: Cell<u32>,
}

impl End {
    pub(super) fn new(
        scenario: &Rc<Scenario>,
        bev: BufferEvent,
        streams: (u32, u32),
        left: u64,
        echo: bool,
        finish: Finish,
        hopeless: bool,
    ) -> Rc<Self> {
        let number = scenario.ends.borrow().len();
        let end = Rc::new(End {
            number,
            bev,
            scenario: Rc::downgrade(scenario),
            writes: streams.0,
            left: Cell::new(left),
            written: Cell::new(0),
            expects: streams.1,
            read: Cell::new(0),
            echo,
            finish,
            peer: Cell::new(None),
            filtered: Cell::new(false),
            port: Cell::new(0),
            hopeless,
            slack: Cell::new(0),
            holding: Cell::new(false),
            handlers: Cell::new(0),
            freed: Cell::new(false),
            closing: Cell::new(false),
            close_due: Cell::new(u64::MAX),
            closed: RefCell::new(None),
            shut: Cell::new(false),
            quieting: Cell::new(false),
            quiet: Cell::new(false),
            connecting: Cell::new(false),
            link_failed: Cell::new(false),
            eof_told: Cell::new(false),
            error_told: Cell::new(false),
            again: Cell::new(0),
        });
        end.set_handler();
        scenario.ends.borrow_mut().push(end.clone());
        end
    }

    /// The scenario; callbacks never outlive it.
    pub(super) fn scenario(&self) -> Rc<Scenario> {
        self.scenario.upgrade().expect("it outlives its callbacks")
    }

    pub(super) fn begin(self: &Rc<Self>) {
        if !self.live() {
            // The call of another end has freed it.
            return;
        }
        self.enable(Interest::READ);
        self.write(1000);
        self.random_call(20);
    }

    pub(super) fn note(&self, what: &str, numbers: &[u64]) {
        let mut all = vec![self.number as u64];
        all.extend(numbers);
        self.scenario().world.borrow_mut().note(what, &all);
    }

    pub(super) fn socket(&self) -> Option<usize> {
        let scenario = self.scenario();
        let world = scenario.world.borrow();
        self.bev.fd().map(|fd| world.net.socket_of(fd))
    }

    /// Whether calls still do something.
    pub(super) fn live(&self) -> bool {
        !self.freed.get() && !self.closing.get()
    }

    pub(super) fn set_handler(self: &Rc<Self>) {
        let generation = self.handlers.get() + 1;
        self.handlers.set(generation);
        let hand = Hand {
            end: self.clone(),
            generation,
        };
        self.bev.set_handler(hand).expect("it is not freed");
    }

    pub(super) fn free(&self) {
        self.note("free", &[]);
        self.freed.set(true);
        self.bev.free();
        assert!(self.bev.is_freed());
    }

    /// Sees that the input keeps to its high mark.
    pub(super) fn check_mark(&self) {
        let (_, high) = self.bev.watermarks(Interest::READ);
        let len = self.bev.input().len();
        let most = high.max(self.slack.get());
        assert!(
            high == 0 || self.quieting.get() || len <= most,
            "end {}: {len} bytes of input above the high mark {high}",
            self.number
        );
    }

    /// Takes up to `n` bytes from the input.
    pub(super) fn drain(&self, n: usize) {
        if self.freed.get() || self.is_held() {
            return;
        }
        let how = self.scenario().dice.borrow_mut().range(0..4);
        let bytes: Vec<u8> = match how {
            0 => {
                let mut all = EvBuffer::new();
                self.bev.read_buffer(&mut all).expect("it is not freed");
                all.iter_bytes().collect()
            }
            1 => {
                let take = |input: &mut EvBuffer| {
                    let n = n.min(input.len());
                    let part = input.split_to(n).expect("the input may be drained");
                    part.iter_bytes().collect()
                };
                self.bev.input().with(take).expect("it is not freed")
            }
            _ => {
                let mut bytes = vec![0; n.min(self.bev.input().len())];
                let read = self.bev.read(&mut bytes);
                assert_eq!(read, bytes.len());
                bytes
            }
        };
        self.check(&bytes);
    }

    /// Whether the input is in use, by a closure of this end's that is further up: then nobody else
    /// may have it.
    fn is_held(&self) -> bool {
        if self.holding.get() {
            let second = self.bev.input().with(|_| ());
            assert!(second.is_err() || self.bev.is_freed(), "two hold one input");
        }
        self.holding.get()
    }

    fn check(&self, bytes: &[u8]) {
        let at = self.read.get();
        check_pattern("an end", self.expects, at, bytes.iter().copied());
        self.read.set(at + bytes.len() as u64);
        if self.freed.get() {
            return;
        }
        self.slack.set(self.slack.get().min(self.bev.input().len()));
    }

    pub(super) fn drain_all(&self) {
        if self.echo {
            self.send_back();
        } else {
            self.drain(usize::MAX);
        }
    }

    /// Writes back what came in.
    fn send_back(&self) {
        if self.is_held() {
            return;
        }
        let seen = self.bev.input().with(|input| input.to_vec());
        let Ok(Ok(bytes)) = seen else { return };
        if self.shut.get() {
            self.drain(usize::MAX);
            return;
        }
        self.written.set(self.written.get() + bytes.len() as u64);
        self.check(&bytes);
        let moved = self.bev.transfer_to(&self.bev).expect("an open direction");
        assert_eq!(moved, bytes.len());
    }

    /// Writes up to `most` more bytes of its stream, and ends it after the last.
    pub(super) fn write(self: &Rc<Self>, most: usize) {
        if !self.live() || self.shut.get() {
            return;
        }
        let n = most.min(usize::try_from(self.left.get()).unwrap_or(usize::MAX));
        if n != 0 {
            let bytes = pattern_bytes(self.writes, self.written.get(), n);
            // Booked before: a filter calls back from within the call.
            self.left.set(self.left.get() - n as u64);
            self.written.set(self.written.get() + n as u64);
            let how = self.scenario().dice.borrow_mut().range(0..3);
            let written = match how {
                0 => self.bev.write(&bytes),
                1 => self.bev.write_piece(bytes),
                _ => {
                    let mut buffer = EvBuffer::new();
                    buffer.add(&bytes).expect("a buffer of its own");
                    self.bev.write_buffer(&mut buffer)
                }
            };
            written.expect("an open direction");
            if !self.live() || self.shut.get() {
                return;
            }
        }
        if self.left.get() == 0 && (!self.echo || self.eof_told.get()) {
            match self.finish {
                Finish::Shutdown => self.shutdown(),
                Finish::CloseAfterFlush => self.close(None),
                Finish::Nothing => {}
            }
        }
    }

    pub(super) fn shutdown(&self) {
        self.note("shutdown_write", &[]);
        self.shut.set(true);
        match self.bev.shutdown_write() {
            // A pipe that has both directions, as a terminal: it has no half-close.
            Ok(()) | Err(crate::Error::Invalid { .. }) => {}
            Err(error) => panic!("it is not freed: {error}"),
        }
    }

    pub(super) fn close(self: &Rc<Self>, deadline: Option<std::time::Duration>) {
        let deadline_ns = deadline.map_or(0, |d| d.as_nanos() as u64);
        self.note("close_after_flush", &[deadline_ns]);
        self.closing.set(true);
        let scenario = self.scenario();
        if deadline.is_some() {
            let due = scenario.world.borrow().now + deadline_ns;
            self.close_due.set(self.close_due.get().min(due));
        }
        let end = self.clone();
        let socket = self.socket();
        let done = move |how: FlushEnd| end.closed(how, socket);
        let closed = self.bev.close_after_flush(deadline, done);
        closed.expect("it is not freed");
    }

    fn closed(&self, how: FlushEnd, socket: Option<usize>) {
        self.note("closed", &[]);
        assert!(
            self.bev.is_freed(),
            "the report comes when all is over: {how:?}"
        );
        let failed = matches!(how, FlushEnd::Failed { .. });
        assert!(failed || !self.freed.get(), "free ends a close as failed");
        let before = self.closed.replace(Some(how));
        assert_eq!(before, None, "one report");
        let Some(socket) = socket else { return };
        let sent = self.scenario().world.borrow().net.moved(socket).1;
        let written = self.written.get();
        match how {
            FlushEnd::Flushed => assert_eq!(sent, written, "end {}: flushed", self.number),
            FlushEnd::TimedOut { unsent } | FlushEnd::Failed { unsent } => assert!(
                sent + unsent as u64 >= written,
                "end {}: {written} written, {sent} sent, but only {unsent} unsent",
                self.number
            ),
        }
    }

    pub(super) fn stop_reading(self: &Rc<Self>) {
        self.note("finish_reading", &[]);
        self.quieting.set(true);
        let end = self.clone();
        let done = move |bev: &BufferEvent| {
            assert!(*bev == end.bev);
            end.note("reading finished", &[]);
            end.quiet.set(true);
            if end.live() {
                end.check_books();
            }
        };
        self.bev.finish_reading(done).expect("it is not freed");
    }

    /// All that the kernel gave is in the input or was read.
    pub(super) fn check_books(&self) {
        if self.filtered.get() {
            // Some may wait in the bufferevents below.
            return;
        }
        let Some(socket) = self.socket() else { return };
        let given = self.scenario().world.borrow().net.moved(socket).0;
        let seen = self.read.get() + self.bev.input().len() as u64;
        assert_eq!(
            seen, given,
            "end {}: bytes received and bytes seen",
            self.number
        );
    }

    fn called(&self, generation: u32, what: &str) {
        assert!(self.live(), "end {}: {what} after free", self.number);
        assert_eq!(generation, self.handlers.get(), "{what} of an old handler");
        self.note(what, &[self.bev.input().len() as u64]);
        self.check_mark();
    }
}

/// The callbacks.
struct Hand {
    end: Rc<End>,
    generation: u32,
}

impl Handler for Hand {
    fn read(&mut self, bev: &BufferEvent) {
        let end = &self.end;
        end.called(self.generation, "on read");
        assert!(*bev == end.bev);
        end.random_call(10);
        if !end.live() {
            return;
        }
        let scenario = end.scenario();
        let (how, part) = {
            let mut dice = scenario.dice.borrow_mut();
            (dice.range(0..100), dice.part(5000))
        };
        match how {
            _ if end.echo || scenario.calm.get() => end.drain_all(),
            0..75 => end.drain_all(),
            75..95 => end.drain(part),
            _ => {}
        }
        end.random_call(10);
    }

    fn write(&mut self, _: &BufferEvent) {
        let end = &self.end;
        end.called(self.generation, "on write");
        let most = end.scenario().dice.borrow_mut().part(20_000);
        end.random_call(5);
        end.write(most);
        end.random_call(5);
    }

    fn event(&mut self, _: &BufferEvent, events: Events) {
        let end = &self.end;
        end.called(self.generation, "on event");
        end.note("  which", &[u64::from(events.bits())]);
        end.happened(events);
    }
}

impl End {
    fn happened(self: &Rc<Self>, events: Events) {
        let scenario = self.scenario();
        if events.contains(Events::CONNECTED) {
            assert_eq!(events, Events::CONNECTED, "it comes alone");
            assert!(self.connecting.replace(false), "CONNECTED once a connect");
            self.random_call(10);
            self.write(1000);
            return;
        }
        if events.contains(Events::EOF) {
            let told_late = self.quieting.get();
            assert!(!told_late, "no end is told once reading is over");
            self.eof_told.set(true);
            self.check_books();
            if self.echo {
                self.drain_all();
                self.write(0);
            }
        }
        if events.contains(Events::ERROR) {
            self.error_told.set(true);
            assert!(self.bev.last_error().is_some());
            if !events.intersects(Events::READING | Events::WRITING) {
                assert!(self.connecting.replace(false), "an answered connect failed");
                self.link_failed.set(true);
            }
        }
        if events.contains(Events::TIMEOUT) && self.connecting.get() {
            // Abandoned, if it was the write timer.
            if events.contains(Events::WRITING) {
                self.connecting.set(false);
                self.link_failed.set(true);
            }
        }
        if !self.live() {
            return;
        }
        let again = self.again.get();
        let what = scenario.dice.borrow_mut().range(0..100);
        match what {
            0..30 => self.free(),
            30..50 => self.close(None),
            50..80 if again < 4 => {
                self.again.set(again + 1);
                self.enable(Interest::READ | Interest::WRITE);
            }
            _ => self.random_call(30),
        }
    }

    /// Enables, unless reading is over for good.
    pub(super) fn enable(&self, interest: Interest) {
        let mut interest = interest;
        if self.quieting.get() {
            interest.remove(Interest::READ);
        }
        self.bev.enable(interest).expect("it is not freed");
    }
}
