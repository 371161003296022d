//! What ring and arena have to say is logged when nothing is borrowed. Alone in its file: the
//! logger is the whole process's, and so is the limit on memory.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use evring::ring::{Cap, CapsMask};
use evring::{BufferEvent, Callbacks, EventBase, Interest, Options};

thread_local! {
    static BASE: RefCell<Option<EventBase>> = const { RefCell::new(None) };
    /// The bufferevent that records are shipped by.
    static SINK: RefCell<Option<BufferEvent>> = const { RefCell::new(None) };
    static TOLD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Asks the base that speaks for this and that, and writes by way of it.
struct Shipping;

impl log::Log for Shipping {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        BASE.with_borrow(|base| base.as_ref().map(EventBase::in_flight));
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let Some(base) = BASE.with_borrow(Clone::clone) else {
            return;
        };
        let _asked = (base.in_flight(), base.slots_live(), base.counters());
        if let Some(sink) = SINK.with_borrow(Clone::clone) {
            sink.write(record.args().to_string().as_bytes())
                .expect("it is open");
        }
        TOLD.with_borrow_mut(|told| told.push(record.args().to_string()));
    }

    fn flush(&self) {}
}

fn told(what: &str) -> usize {
    TOLD.with_borrow(|told| told.iter().filter(|text| text.contains(what)).count())
}

/// The base whose records are shipped, until the value goes.
struct Logged;

impl Logged {
    fn new(base: &EventBase) -> (Self, UnixStream) {
        let (ours, far) = UnixStream::pair().expect("two descriptors");
        let sink = BufferEvent::socket(base, Some(ours.into()), Options::CLOSE_ON_FREE);
        SINK.set(Some(sink.expect("a sink")));
        BASE.set(Some(base.clone()));
        TOLD.take();
        (Logged, far)
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        drop((SINK.take(), BASE.take()));
    }
}

/// Readers with a byte each, all of which arrives at once.
fn readers(base: &EventBase, count: usize) -> (Rc<Cell<usize>>, Vec<UnixStream>) {
    let read = Rc::new(Cell::new(0));
    let mut far_ends = Vec::new();
    for _ in 0..count {
        let (ours, mut far) = UnixStream::pair().expect("two descriptors");
        far.write_all(b"x").expect("room");
        let bev = BufferEvent::socket(base, Some(ours.into()), Options::CLOSE_ON_FREE);
        let bev = bev.expect("a bufferevent");
        let read = read.clone();
        let count = move |bev: &BufferEvent| {
            read.set(read.get() + bev.read(&mut [0; 8]));
            bev.free();
        };
        bev.set_callbacks(Callbacks::new().on_read(count))
            .expect("it is open");
        bev.enable(Interest::READ).expect("it is open");
        far_ends.push(far);
    }
    (read, far_ends)
}

/// More completions at once than the queue has room for.
fn overflows(mask: CapsMask) {
    let built = EventBase::builder().ring_entries(4).caps_mask(mask).build();
    let base = built.expect("a small ring");
    let (_logged, _far) = Logged::new(&base);
    let (read, _far_ends) = readers(&base, 100);
    base.run().expect("the loop runs");
    assert_eq!(read.get(), 100, "nothing is lost");
    assert_eq!(told("completion queue overflowed"), 1);
}

/// Memory runs out while the window is filled, and where receives take slots of their own.
fn is_refused_memory(mask: CapsMask) {
    // One chunk of 2 MiB for a slot of as much: the second slot needs a second chunk.
    let built = EventBase::builder()
        .slot_size(2 << 20)
        .window(8)
        .max_buffer_bytes(64 << 20)
        .caps_mask(mask);
    let limit = Limit::now();
    let base = built.build().expect("a base");
    let (_logged, _far) = Logged::new(&base);
    let (read, _far_ends) = readers(&base, 40);
    base.run().expect("the loop runs");
    drop(limit);
    assert_eq!(read.get(), 40, "with what there is");
    assert_eq!(told("buffers stay at"), 1);
}

/// The process gets no more than some memory.
struct Limit(libc::rlimit);

impl Limit {
    fn now() -> Self {
        let mut before = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        let statm = std::fs::read_to_string("/proc/self/statm").expect("of this process");
        let pages: u64 = statm
            .split(' ')
            .next()
            .and_then(|pages| pages.parse().ok())
            .expect("its size");
        // SAFETY: reads into and from values of the type that the calls expect.
        unsafe {
            assert_eq!(libc::getrlimit(libc::RLIMIT_AS, &raw mut before), 0);
            let little = libc::rlimit {
                rlim_cur: pages * 4096 + (8 << 20),
                rlim_max: before.rlim_max,
            };
            assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &raw const little), 0);
        }
        Limit(before)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        // SAFETY: reads a value of the type that the call expects.
        unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const self.0) };
    }
}

#[test]
fn what_ring_and_arena_have_to_say_is_logged_with_nothing_borrowed() {
    log::set_logger(&Shipping).expect("the only one");
    log::set_max_level(log::LevelFilter::Trace);
    let masks = [
        CapsMask::default(),
        CapsMask::default().without(Cap::BUFFER_RING),
    ];
    for mask in masks {
        overflows(mask);
        is_refused_memory(mask);
    }
}
