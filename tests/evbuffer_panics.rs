//! Callbacks and destructors of the user that panic: buffers stay whole, and nobody is forgotten.

use evring::evbuffer::{Change, EvBuffer, FileSegment};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What a callback heard of a change.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    orig_len: usize,
    added: usize,
    deleted: usize,
}

type Told = Arc<Mutex<Vec<Heard>>>;

fn told(told: &Told) -> Vec<Heard> {
    std::mem::take(&mut *told.lock().expect("never poisoned"))
}

fn change(orig_len: usize, added: usize, deleted: usize) -> Heard {
    Heard {
        orig_len,
        added,
        deleted,
    }
}

fn note(told: &Told, change: &Change) {
    let heard = self::change(change.orig_len, change.added, change.deleted);
    told.lock().expect("never poisoned").push(heard);
}

/// Notes what it is told, and then panics if `armed`, which it clears.
fn watch(buffer: &mut EvBuffer, armed: &Arc<AtomicBool>) -> Told {
    let seen = Told::default();
    let (notes, armed) = (seen.clone(), armed.clone());
    buffer.add_callback(move |_, change| {
        note(&notes, change);
        assert!(!armed.swap(false, Ordering::Relaxed), "in a callback");
    });
    seen
}

fn armed() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(true))
}

fn calm() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(false))
}

fn panics<R>(run: impl FnOnce() -> R) {
    assert!(catch_unwind(AssertUnwindSafe(run)).is_err(), "no panic");
}

/// The buffer says of itself what it holds, and both ends work.
fn check(buffer: &mut EvBuffer, expected: &[u8]) {
    assert_eq!(buffer.len(), expected.len());
    assert_eq!(buffer.segments().collect::<Vec<_>>().concat(), expected);
    let mut longer = expected.to_vec();
    longer.push(b'!');
    buffer.add(b"!").expect("not frozen");
    assert_eq!(buffer.pullup(longer.len()).expect("there"), longer);
    assert_eq!(buffer.drain(1).expect("not frozen"), 1);
    assert_eq!(buffer.to_vec().expect("in memory"), longer[1..]);
}

#[test]
fn a_callback_that_panics_is_called_again() {
    let mut buffer = EvBuffer::new();
    let seen = watch(&mut buffer, &armed());
    panics(|| buffer.add(b"one"));
    assert_eq!(buffer.len(), 3);
    buffer.add(b"four").expect("not frozen");
    buffer.drain(2).expect("not frozen");
    assert_eq!(
        told(&seen),
        [change(0, 3, 0), change(3, 4, 0), change(7, 0, 2)]
    );
}

#[test]
fn those_behind_a_callback_that_panics_hear_of_it_with_the_next_change() {
    let mut buffer = EvBuffer::new();
    let oldest = watch(&mut buffer, &calm());
    let panicking = watch(&mut buffer, &armed());
    let newest = watch(&mut buffer, &calm());
    panics(|| buffer.add(b"abc"));
    assert_eq!(told(&newest), [change(0, 3, 0)]);
    assert_eq!(told(&panicking), [change(0, 3, 0)]);
    assert_eq!(told(&oldest), []);
    buffer.drain(1).expect("not frozen");
    assert_eq!(told(&newest), [change(3, 0, 1)]);
    assert_eq!(told(&panicking), [change(3, 0, 1)]);
    assert_eq!(told(&oldest), [change(0, 3, 1)]);
}

#[test]
fn deferred_callbacks_survive_a_panic_too() {
    let mut buffer = EvBuffer::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let first = armed();
    let oldest = watch(&mut buffer, &calm());
    let panicking = watch(&mut buffer, &first);
    buffer.defer_callbacks({
        let asked = asked.clone();
        move || {
            let n = asked.fetch_add(1, Ordering::Relaxed);
            assert!(n > 0, "in the scheduler");
        }
    });
    panics(|| buffer.add(b"ab"));
    // The scheduler that panicked is asked again.
    buffer.add(b"c").expect("not frozen");
    buffer.add(b"d").expect("not frozen");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    panics(|| buffer.run_deferred());
    assert_eq!(told(&panicking), [change(0, 4, 0)]);
    assert_eq!(told(&oldest), []);
    buffer.drain(3).expect("not frozen");
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    assert!(buffer.run_deferred());
    assert_eq!(told(&panicking), [change(4, 0, 3)]);
    assert_eq!(told(&oldest), [change(0, 4, 3)]);
    assert!(!buffer.run_deferred());
}

#[test]
fn both_buffers_are_whole_when_a_callback_of_either_panics() {
    type Move = fn(&mut EvBuffer, &mut EvBuffer);
    // What moves, what is left of "hello world", and what "to " has become.
    let moves: [(&str, Move, &[u8], &[u8]); 5] = [
        (
            "add_buffer",
            |from, to| drop(to.add_buffer(from)),
            b"",
            b"to hello world",
        ),
        (
            "prepend_buffer",
            |from, to| drop(to.prepend_buffer(from)),
            b"",
            b"hello worldto ",
        ),
        (
            "remove_buffer of a part",
            |from, to| drop(from.remove_buffer(to, 8)),
            b"rld",
            b"to hello wo",
        ),
        (
            "remove_buffer of a segment",
            |from, to| drop(from.remove_buffer(to, 6)),
            b"world",
            b"to hello ",
        ),
        (
            "remove_buffer of all",
            |from, to| drop(from.remove_buffer(to, usize::MAX)),
            b"",
            b"to hello world",
        ),
    ];
    for (name, run, left, there) in moves {
        for source_panics in [true, false] {
            let mut from = EvBuffer::from("hello ");
            from.add_piece("world").expect("not frozen");
            let mut to = EvBuffer::from("to ");
            let (a, b) = if source_panics {
                (armed(), calm())
            } else {
                (calm(), armed())
            };
            let of_source = watch(&mut from, &a);
            let of_target = watch(&mut to, &b);
            panics(|| run(&mut from, &mut to));
            assert_eq!(told(&of_source).len(), 1, "{name}");
            let moved = there.len() - 3;
            check(&mut from, left);
            check(&mut to, there);
            // The target's callbacks hear of it at once, or with its next change.
            let heard = told(&of_target);
            let added: usize = heard.iter().map(|change| change.added).sum();
            assert_eq!(added, moved + 1, "{name}");
            assert_eq!(heard[0].orig_len, 3, "{name}");
        }
    }
}

#[test]
fn a_callback_stays_when_its_buffer_moves_away_under_it() {
    let mut buffer = EvBuffer::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let away: Arc<Mutex<EvBuffer>> = Arc::default();
    buffer.add_callback({
        let (calls, away) = (calls.clone(), away.clone());
        move |buffer, _| {
            if calls.fetch_add(1, Ordering::Relaxed) == 0 {
                std::mem::swap(buffer, &mut away.lock().expect("never poisoned"));
            }
        }
    });
    buffer.add(b"abc").expect("not frozen");
    assert_eq!((buffer.len(), calls.load(Ordering::Relaxed)), (0, 1));
    buffer.add(b"unwatched").expect("not frozen");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    let mut moved = std::mem::take(&mut *away.lock().expect("never poisoned"));
    moved.add(b"de").expect("not frozen");
    assert_eq!((moved.len(), calls.load(Ordering::Relaxed)), (5, 2));
}

/// Bytes whose destructor panics if `armed`, and counts.
struct Owner {
    bytes: &'static [u8],
    armed: bool,
    ends: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        self.bytes
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.ends.fetch_add(1, Ordering::Relaxed);
        assert!(!self.armed, "in a destructor");
    }
}

#[test]
fn a_destructor_that_panics_leaves_its_buffer_whole() {
    type Take = fn(&mut EvBuffer);
    let takes: [(&str, Take, &[u8]); 6] = [
        ("drain", |b| drop(b.drain(9)), b"end"),
        ("drain all", |b| drop(b.drain(usize::MAX)), b""),
        ("remove", |b| drop(b.remove(&mut [0; 8])), b"bend"),
        ("remove all", |b| drop(b.remove(&mut [0; 100])), b""),
        (
            "pullup",
            |b| drop(b.pullup(9).map(<[u8]>::len)),
            b"firstaabbend",
        ),
        ("remove_piece", |b| drop(b.remove_piece(8)), b"firstaabbend"),
    ];
    for (name, take, left) in takes {
        let ends = Arc::new(AtomicUsize::new(0));
        let owner = |bytes, armed| Owner {
            bytes,
            armed,
            ends: ends.clone(),
        };
        let mut buffer = EvBuffer::from("first");
        buffer.add_owner(owner(b"aa", true)).expect("not frozen");
        buffer.add_owner(owner(b"bb", false)).expect("not frozen");
        buffer.add(b"end").expect("not frozen");
        let seen = watch(&mut buffer, &calm());
        panics(|| take(&mut buffer));
        check(&mut buffer, left);
        // What was taken is told at the latest with the next change.
        let deleted: usize = told(&seen).iter().map(|change| change.deleted).sum();
        assert_eq!(deleted, 12 - left.len() + 1, "{name}");
        drop(buffer);
        assert_eq!(ends.load(Ordering::Relaxed), 2, "{name}");
    }
}

#[test]
fn a_file_waiter_that_panics_leaves_its_buffer_whole() {
    for read in [true, false] {
        let path = std::env::temp_dir().join(format!("evring-panics-{}", std::process::id()));
        std::fs::write(&path, b"file").expect("a temporary file");
        let segment = FileSegment::new(File::open(&path).expect("there"), 0, None);
        std::fs::remove_file(&path).expect("there");
        let segment = segment.expect("a regular file");
        segment.on_free(|| panic!("waiting for the end"));
        let mut buffer = EvBuffer::from("a ");
        buffer.add_file_segment(&segment, 0, None).expect("fits");
        buffer.add(b" b").expect("not frozen");
        drop(segment);
        if read {
            panics(|| buffer.load(usize::MAX));
            check(&mut buffer, b"a file b");
        } else {
            panics(|| buffer.drain(6));
            check(&mut buffer, b" b");
        }
    }
}
