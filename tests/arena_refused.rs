//! An arena to which the kernel gives no more memory. Alone in its file: the limit is the whole
//! process's, and so is the logger.

use evring::arena::{Arena, ArenaConfig, Piece};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

static HELD: Mutex<Vec<Piece>> = Mutex::new(Vec::new());
static RECORDS: AtomicUsize = AtomicUsize::new(0);
static ARENA: Mutex<Option<Arena>> = Mutex::new(None);

/// Drops pieces while it logs, as a log shipper does when its queue is full, and looks at the
/// arena.
struct Shipper;

impl log::Log for Shipper {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, _: &log::Record<'_>) {
        RECORDS.fetch_add(1, Ordering::Relaxed);
        let held = std::mem::take(&mut *HELD.lock().expect("no panic"));
        drop(held);
        if let Some(arena) = &*ARENA.lock().expect("no panic") {
            assert!(arena.available() > 0, "what was just dropped");
            drop(arena.take());
        }
    }

    fn flush(&self) {}
}

#[test]
fn a_logger_may_use_the_arena_that_speaks_to_it() {
    log::set_logger(&Shipper).expect("the only one");
    log::set_max_level(log::LevelFilter::Warn);
    let arena = Arena::new(ArenaConfig::default().slot_size(4096).max_bytes(64 << 20))
        .expect("the first chunk maps");
    *ARENA.lock().expect("no panic") = Some(arena.clone());
    let mut slots = Vec::with_capacity(1024);
    slots.extend(std::iter::from_fn(|| arena.take()).take(512));
    let piece = slots.pop().expect("one of 512").filled_with(b"x");
    HELD.lock().expect("no panic").push(piece);
    let mut before = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: reads into and from values of the type that the calls expect.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_AS, &raw mut before), 0);
        let none = libc::rlimit {
            rlim_cur: 1 << 20,
            rlim_max: before.rlim_max,
        };
        assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &raw const none), 0);
    }
    // The chunk is refused; the logger makes a slot free, which the next one gets.
    let refused = arena.take().is_none();
    let next = arena.take();
    // Said once, however often it is tried.
    let again: Vec<_> = (0..10).map(|_| arena.take()).collect();
    let records = RECORDS.load(Ordering::Relaxed);
    // SAFETY: as above.
    let restored = unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const before) };
    assert_eq!(restored, 0);
    assert!(refused && next.is_some() && again.iter().all(Option::is_none));
    assert_eq!(records, 1);
    let more = arena.take().expect("memory again");
    assert_eq!(arena.stats().chunks, 2);
    drop(more);
}
