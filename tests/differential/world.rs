//! Runs a script on evring and writes down what happens, as `peer.c` does on libevent.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use evring::{
    Addr, BufferEvent, Callbacks, EventBase, Events, FlushMode, FlushResult, Interest, Options,
    RunFlags, TriggerOptions,
};

use super::filters::Kind;

const SLOTS: usize = 8;
/// Lines that one run may print; more is a loop without an end.
const RUN_LINES: u32 = 200;
const QUIET_TURNS: u32 = 5;

/// The other end of a bufferevent's connection.
trait Far: Read + Write {
    fn end(&self);
}

impl Far for UnixStream {
    fn end(&self) {
        let _gone = self.shutdown(Shutdown::Write);
    }
}

impl Far for TcpStream {
    fn end(&self) {
        let _gone = self.shutdown(Shutdown::Write);
    }
}

#[derive(Default)]
struct Slot {
    bev: Option<BufferEvent>,
    far: Option<Box<dyn Far>>,
    under: Option<usize>,
    closes: bool,
    written: u32,
    far_written: u32,
    /// What callbacks of a kind are to do, in order.
    actions: Vec<(char, String)>,
    /// What they do when there is none of these.
    always: Vec<(char, String)>,
}

struct World {
    base: EventBase,
    slots: RefCell<[Slot; SLOTS]>,
    out: RefCell<String>,
    /// In which callback operations run.
    place: RefCell<String>,
    lines: Cell<u32>,
    endless: Cell<bool>,
    unix: (UnixListener, Addr),
    /// Where the Unix listener lives.
    _dir: tempfile::TempDir,
    tcp: (TcpListener, Addr),
    nounix: Addr,
    refused: Addr,
}

/// What the script printed.
pub fn run(script: &str) -> String {
    let world = World::new();
    for op in script.trim().lines() {
        writeln!(world.out.borrow_mut(), "> {op}").unwrap();
        world.lines.set(0);
        world.endless.set(false);
        *world.place.borrow_mut() = "main".into();
        world.op(op);
    }
    let out = world.out.take();
    world.end();
    out
}

impl World {
    fn new() -> Rc<Self> {
        let unbound = TcpListener::bind("127.0.0.1:0").unwrap();
        let refused = Addr::from(unbound.local_addr().unwrap());
        drop(unbound);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("listener");
        let unix = UnixListener::bind(&path).unwrap();
        unix.set_nonblocking(true).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        tcp.set_nonblocking(true).unwrap();
        let tcp_addr = Addr::from(tcp.local_addr().unwrap());
        let nounix = format!("unix:@evring-none-{}", std::process::id());
        Rc::new(World {
            base: EventBase::new().unwrap(),
            slots: RefCell::default(),
            out: RefCell::default(),
            place: RefCell::default(),
            lines: Cell::new(0),
            endless: Cell::new(false),
            unix: (unix, Addr::unix(path).unwrap()),
            _dir: dir,
            tcp: (tcp, tcp_addr),
            nounix: nounix.parse().unwrap(),
            refused,
        })
    }

    /// Frees what the script has left: filters before what is under them. The ledgers read zero
    /// afterwards.
    fn end(self: Rc<Self>) {
        self.lines.set(RUN_LINES);
        for id in (0..SLOTS).rev() {
            let bev = self.slots.borrow_mut()[id].bev.take();
            if let Some(bev) = bev {
                bev.free();
            }
        }
        let flags = RunFlags::NONBLOCK | RunFlags::NO_EXIT_ON_EMPTY;
        let begun = Instant::now();
        while self.base.in_flight() != 0 && begun.elapsed() < Duration::from_secs(5) {
            self.base.run_with(flags).unwrap();
        }
        assert_eq!(self.base.in_flight(), 0, "operations outlive the script");
        assert_eq!(self.base.active(), 0, "something keeps the loop alive");
    }

    fn say(&self, what: impl AsRef<str>) {
        self.lines.set(self.lines.get() + 1);
        if self.lines.get() <= RUN_LINES {
            let place = self.place.borrow();
            writeln!(self.out.borrow_mut(), "{place} {}", what.as_ref()).unwrap();
        } else {
            self.endless.set(true);
            self.base.stop();
        }
    }

    fn bev(&self, id: usize) -> Option<BufferEvent> {
        self.slots.borrow()[id].bev.clone()
    }

    fn op(self: &Rc<Self>, op: &str) {
        let words: Vec<_> = op.split_whitespace().collect();
        match *words.as_slice() {
            ["run"] => self.run_until_quiet(Duration::ZERO),
            ["wait", ms] => self.run_until_quiet(Duration::from_millis(number(ms) as u64)),
            ["stop"] => self.base.stop(),
            ["on", id, kind, ref rest @ ..] => {
                let kind = kind.chars().next().unwrap();
                let action = (kind, rest.join(" "));
                self.slots.borrow_mut()[number(id)].actions.push(action);
            }
            ["always", id, kind, ref rest @ ..] => {
                let kind = kind.chars().next().unwrap();
                let always = &mut self.slots.borrow_mut()[number(id)].always;
                always.retain(|action| action.0 != kind);
                always.push((kind, rest.join(" ")));
            }
            ["sock" | "nofd" | "duo" | "pair" | "filter", ..] => self.make(&words),
            ["accept", id] => self.accept(number(id)),
            ["pwrite" | "pread" | "pshut" | "pclose", id, ref rest @ ..] => {
                self.far_op(words[0], number(id), rest);
            }
            [name, id, ref rest @ ..] => {
                if let Some(bev) = self.bev(number(id)) {
                    self.bev_op(name, number(id), &bev, rest);
                }
            }
            _ => panic!("unknown operation {op}"),
        }
    }

    fn make(self: &Rc<Self>, words: &[&str]) {
        match *words {
            ["sock", id, opts] => {
                let (ours, theirs) = nonblocking_pair();
                self.slots.borrow_mut()[number(id)].far = Some(Box::new(theirs));
                let made = BufferEvent::socket(&self.base, Some(ours.into()), options(opts));
                self.made(number(id), made.ok(), opts);
            }
            ["nofd", id, opts] => {
                let made = BufferEvent::socket(&self.base, None, options(opts));
                self.made(number(id), made.ok(), opts);
            }
            ["duo", a, b, opts] => {
                let (one, other) = nonblocking_pair();
                for (id, end) in [(a, one), (b, other)] {
                    let made = BufferEvent::socket(&self.base, Some(end.into()), options(opts));
                    self.made(number(id), made.ok(), opts);
                }
            }
            ["pair", a, b, opts] => match BufferEvent::pair(&self.base, options(opts)) {
                Ok((one, other)) => {
                    self.made(number(a), Some(one), opts);
                    self.made(number(b), Some(other), opts);
                }
                Err(_) => self.made(number(a), None, opts),
            },
            ["filter", id, under, opts, kind] => {
                let Some(below) = self.bev(number(under)) else {
                    return;
                };
                let made = BufferEvent::filter(&below, Kind::named(kind), options(opts));
                self.made(number(id), made.ok(), opts);
                self.slots.borrow_mut()[number(id)].under = Some(number(under));
            }
            _ => panic!("unknown operation {words:?}"),
        }
    }

    fn made(self: &Rc<Self>, id: usize, bev: Option<BufferEvent>, opts: &str) {
        if bev.is_none() {
            self.say("refused");
        }
        let mut slots = self.slots.borrow_mut();
        slots[id].closes = opts.contains('c');
        slots[id].under = None;
        slots[id].bev = bev;
        drop(slots);
        self.set_callbacks(id);
    }

    fn set_callbacks(self: &Rc<Self>, id: usize) {
        let Some(bev) = self.bev(id) else { return };
        let (read, write, event) = (self.clone(), self.clone(), self.clone());
        let callbacks = Callbacks::new()
            .on_read(move |bev| read.called(id, 'r', 'r', format!("read {}", bev.input().len())))
            .on_write(move |bev| {
                write.called(id, 'w', 'w', format!("write {}", bev.output().len()));
            })
            .on_event(move |bev, what| {
                let direction = match what {
                    _ if what.contains(Events::READING) => 'r',
                    _ if what.contains(Events::WRITING) => 'w',
                    _ => 'c',
                };
                let mut line = format!("event {:x}", what.bits());
                if what.contains(Events::ERROR) {
                    let errno = bev.last_error().map_or(0, |errno| errno.raw());
                    write!(line, " errno {errno}").unwrap();
                }
                event.called(id, direction, direction.to_ascii_uppercase(), line);
            });
        bev.set_callbacks(callbacks).unwrap();
    }

    fn called(self: &Rc<Self>, id: usize, direction: char, kind: char, line: String) {
        let outer = self.place.replace(format!("{id}{direction}"));
        self.say(line);
        let mut slots = self.slots.borrow_mut();
        let Slot {
            actions, always, ..
        } = &mut slots[id];
        let next = actions.iter().position(|action| action.0 == kind);
        let action = match next {
            Some(at) => Some(actions.remove(at).1),
            None => always.iter().find(|a| a.0 == kind).map(|a| a.1.clone()),
        };
        drop(slots);
        if let Some(action) = action {
            self.op(&action);
        }
        *self.place.borrow_mut() = outer;
    }

    fn accept(&self, id: usize) {
        let unix = self.unix.0.accept().map(|(end, _)| {
            end.set_nonblocking(true).unwrap();
            Box::new(end) as Box<dyn Far>
        });
        let any = unix.or_else(|_| {
            self.tcp.0.accept().map(|(end, _)| {
                end.set_nonblocking(true).unwrap();
                Box::new(end) as Box<dyn Far>
            })
        });
        self.say(if any.is_ok() { "accepted" } else { "nobody" });
        let old = std::mem::replace(&mut self.slots.borrow_mut()[id].far, any.ok());
        drop(old);
    }

    fn far_op(&self, name: &str, id: usize, rest: &[&str]) {
        let mut slots = self.slots.borrow_mut();
        let Slot {
            far, far_written, ..
        } = &mut slots[id];
        let Some(end) = far else { return };
        match (name, rest) {
            ("pwrite", [n]) => {
                let bytes = stream(*far_written, number(n), |at| {
                    at.wrapping_mul(5).wrapping_add(id as u32 * 17 + 3) as u8
                });
                match end.write(&bytes) {
                    Ok(n) => *far_written += n as u32,
                    Err(error) => {
                        let errno = error.raw_os_error().unwrap_or(0);
                        self.say(format!("pwrite errno {errno}"));
                    }
                }
            }
            ("pread", [n]) => {
                let mut bytes = vec![0; number(n)];
                let (mut got, mut how) = (0, "");
                while got < bytes.len() {
                    match end.read(&mut bytes[got..]) {
                        Ok(0) => how = " eof",
                        Ok(n) => {
                            got += n;
                            continue;
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(_) => how = " error",
                    }
                    break;
                }
                self.say(format!("pgot {got} {:08x}{how}", fnv(&bytes[..got])));
            }
            ("pshut", []) => end.end(),
            ("pclose", []) => *far = None,
            _ => panic!("unknown operation {name} {rest:?}"),
        }
    }

    fn bev_op(self: &Rc<Self>, name: &str, id: usize, bev: &BufferEvent, rest: &[&str]) {
        let fine = match (name, rest) {
            ("write", [n]) => {
                let written = self.slots.borrow()[id].written;
                let bytes = stream(written, number(n), |at| {
                    at.wrapping_mul(7).wrapping_add(id as u32 * 31) as u8
                });
                self.slots.borrow_mut()[id].written += number(n) as u32;
                bev.write(&bytes).is_ok()
            }
            ("read", [n]) => {
                let mut bytes = vec![0; number(n)];
                let n = bev.read(&mut bytes);
                self.say(format!("got {n} {:08x}", fnv(&bytes[..n])));
                true
            }
            ("addin", []) => bev.input().with(|input| input.add(b"x")).unwrap().is_ok(),
            ("drainout", []) => bev.output().with(|output| output.drain(1)).unwrap().is_ok(),
            ("echo", [to]) => {
                if let Some(to) = self.bev(number(to)) {
                    bev.transfer_to(&to).unwrap();
                }
                true
            }
            ("enable", [way]) => bev.enable(dirs(way)).is_ok(),
            ("disable", [way]) => bev.disable(dirs(way)).is_ok(),
            ("marks", [way, low, high]) => bev
                .set_watermarks(dirs(way), number(low), number(high))
                .is_ok(),
            ("timeouts", [read, write]) => {
                let after = |ms: &str| Some(Duration::from_millis(number(ms) as u64));
                bev.set_timeouts(after(read), after(write)).is_ok()
            }
            ("flush", [way, mode]) => {
                let mode = match *mode {
                    "normal" => FlushMode::Normal,
                    "flush" => FlushMode::Flush,
                    _ => FlushMode::Finished,
                };
                let done = match bev.flush(dirs(way), mode) {
                    Ok(FlushResult::Produced) => 1,
                    Ok(FlushResult::Nothing) => 0,
                    Ok(FlushResult::Failed) | Err(_) => -1,
                };
                self.say(format!("flushed {done}"));
                true
            }
            ("trigger", [way, opts]) => bev.trigger(dirs(way), trigger_options(opts)).is_ok(),
            ("event", [flags, opts]) => {
                let events = Events::from_bits_retain(u16::from_str_radix(flags, 16).unwrap());
                bev.trigger_event(events, trigger_options(opts)).is_ok()
            }
            ("priority", [priority]) => bev.set_priority(number(priority)).is_ok(),
            ("maxread", [n]) => bev.set_max_single_read(number(n)).is_ok(),
            ("maxwrite", [n]) => bev.set_max_single_write(number(n)).is_ok(),
            ("setcb", []) => {
                self.set_callbacks(id);
                true
            }
            ("clearcb", []) => bev.clear_callbacks().is_ok(),
            ("connect", [to]) => {
                let addr = match *to {
                    "unix" => &self.unix.1,
                    "nounix" => &self.nounix,
                    "tcp" => &self.tcp.1,
                    _ => &self.refused,
                };
                bev.connect(addr).is_ok()
            }
            ("setfd", [to]) => {
                let (ours, theirs) = nonblocking_pair();
                let new = *to == "new";
                let far = new.then(|| Box::new(theirs) as Box<dyn Far>);
                let old = std::mem::replace(&mut self.slots.borrow_mut()[id].far, far);
                drop(old);
                bev.replace_fd(new.then(|| ours.into())).is_ok()
            }
            ("free", []) => {
                self.gone(id);
                bev.free();
                true
            }
            _ => panic!("unknown operation {name} {rest:?}"),
        };
        if !fine {
            self.say("refused");
        }
    }

    fn gone(&self, id: usize) {
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[id];
        let below = slot.under.filter(|_| slot.closes);
        let bev = slot.bev.take();
        drop(slots);
        drop(bev);
        if let Some(below) = below {
            self.gone(below);
        }
    }

    fn states(&self) -> Vec<(usize, Interest, usize, usize)> {
        (0..SLOTS)
            .filter_map(|id| {
                let bev = self.bev(id)?;
                Some((id, bev.enabled(), bev.input().len(), bev.output().len()))
            })
            .collect()
    }

    fn run_until_quiet(&self, least: Duration) {
        let begun = Instant::now();
        let flags = RunFlags::NONBLOCK | RunFlags::NO_EXIT_ON_EMPTY;
        let mut quiet = 0;
        while !self.endless.get() && (quiet < QUIET_TURNS || begun.elapsed() < least) {
            let before = (self.lines.get(), self.states());
            self.base.run_with(flags).unwrap();
            let same = (self.lines.get(), self.states()) == before;
            quiet = if same { quiet + 1 } else { 0 };
            if !least.is_zero() && same {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        let mut out = self.out.borrow_mut();
        if self.endless.get() {
            out.push_str("endless\n");
        }
        for (id, enabled, input, output) in self.states() {
            let flag = |interest, letter| match enabled.contains(interest) {
                true => letter,
                false => '-',
            };
            let (r, w) = (flag(Interest::READ, 'r'), flag(Interest::WRITE, 'w'));
            writeln!(out, "= {id} {r}{w} in {input} out {output}").unwrap();
        }
    }
}

fn number(word: &str) -> usize {
    word.parse().unwrap()
}

fn stream(from: u32, n: usize, byte: impl Fn(u32) -> u8) -> Vec<u8> {
    (0..n as u32).map(|i| byte(from.wrapping_add(i))).collect()
}

fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(2_166_136_261, |hash, &byte| {
        (hash ^ u32::from(byte)).wrapping_mul(16_777_619)
    })
}

fn nonblocking_pair() -> (UnixStream, UnixStream) {
    let (one, other) = UnixStream::pair().unwrap();
    one.set_nonblocking(true).unwrap();
    other.set_nonblocking(true).unwrap();
    (one, other)
}

fn dirs(letters: &str) -> Interest {
    let mut interest = Interest::empty();
    interest.set(Interest::READ, letters.contains('r'));
    interest.set(Interest::WRITE, letters.contains('w'));
    interest
}

fn options(letters: &str) -> Options {
    let mut options = Options::empty();
    options.set(Options::CLOSE_ON_FREE, letters.contains('c'));
    options.set(Options::DEFER_CALLBACKS, letters.contains('d'));
    options.set(Options::UNLOCK_CALLBACKS, letters.contains('u'));
    options
}

fn trigger_options(letters: &str) -> TriggerOptions {
    let mut options = TriggerOptions::empty();
    options.set(TriggerOptions::IGNORE_WATERMARKS, letters.contains('i'));
    options.set(TriggerOptions::DEFER_CALLBACKS, letters.contains('d'));
    options
}
