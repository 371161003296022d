//! The allocation ledger: in steady state a buffer's work allocates nothing.

use evring::arena::{Arena, ArenaConfig};
use evring::evbuffer::{Eol, EvBuffer, Ptr};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local!(static ALLOCATIONS: Cell<u64> = const { Cell::new(0) });

/// Counts what the current thread asks of the system's allocator.
struct Ledger;

// SAFETY: passes everything on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Ledger {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's contract, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's contract, passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's contract, passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract, passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static LEDGER: Ledger = Ledger;

fn count() {
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

/// Runs `work` until its pools are warm, then counts what further runs allocate.
fn steady_state(mut work: impl FnMut()) -> u64 {
    for _ in 0..3 {
        work();
    }
    let before = ALLOCATIONS.get();
    for _ in 0..100 {
        work();
    }
    ALLOCATIONS.get() - before
}

#[test]
fn an_empty_buffer_owns_no_memory() {
    let before = ALLOCATIONS.get();
    let buffer = EvBuffer::new();
    assert!(buffer.is_empty());
    drop(buffer);
    assert_eq!(ALLOCATIONS.get(), before);
}

#[test]
fn adding_and_removing_allocates_nothing() {
    let mut buffer = EvBuffer::new();
    let mut out = [0; 65_536];
    for size in [1, 16, 512, 4096, 65_536] {
        let data = vec![1; size];
        let allocated = steady_state(|| {
            for _ in 0..64 {
                buffer.add(&data).expect("not frozen");
            }
            buffer.prepend(&data).expect("not frozen");
            buffer.remove(&mut out[..size]).expect("not frozen");
            buffer.drain(usize::MAX).expect("not frozen");
        });
        assert_eq!(allocated, 0, "{size} bytes");
    }
}

#[test]
fn draining_segment_by_segment_allocates_nothing() {
    let mut buffer = EvBuffer::new();
    for (size, step) in [(512, 700), (1000, 1000), (5000, 64), (65_536, 40_000)] {
        let data = vec![1; size];
        let allocated = steady_state(|| {
            for _ in 0..16 {
                buffer.add(&data).expect("not frozen");
            }
            while buffer.drain(step).expect("not frozen") == step {}
        });
        assert_eq!(allocated, 0, "{size} bytes, {step} at a time");
    }
}

#[test]
fn copies_of_slots_allocate_nothing() {
    let arena = Arena::new(ArenaConfig::default().slot_size(4096).max_bytes(64 * 4096))
        .expect("a small arena maps");
    let mut buffer = EvBuffer::new();
    let allocated = steady_state(|| {
        for size in [1, 40, 150, 400, 2000] {
            for _ in 0..8 {
                let slot = arena.take().expect("room");
                let piece = slot.filled_with(&[1; 2000][..size]);
                buffer.add_piece(piece).expect("not frozen");
            }
            buffer.compact();
        }
        buffer.drain(usize::MAX).expect("not frozen");
    });
    assert_eq!(allocated, 0);
    let stats = arena.stats();
    assert_eq!((stats.slots_live, stats.charged_bytes), (0, 0));
}

#[test]
fn moving_sharing_and_splitting_allocate_nothing() {
    let (mut a, mut b) = (EvBuffer::new(), EvBuffer::new());
    let allocated = steady_state(|| {
        for _ in 0..100 {
            a.add_piece("static").expect("not frozen");
        }
        a.remove_buffer(&mut b, 250).expect("not frozen");
        a.add_buffer_reference(&b).expect("not frozen");
        let front = a.split_to(17).expect("not frozen");
        b.add_buffer(&mut a).expect("not frozen");
        b.pullup(400).expect("there");
        b.drain(usize::MAX).expect("not frozen");
        drop(front);
    });
    assert_eq!(allocated, 0);
}

#[test]
fn foreign_owners_allocate_nothing_of_ours() {
    let bytes = bytes::Bytes::from(vec![1; 100]);
    let mut buffer = EvBuffer::new();
    let allocated = steady_state(|| {
        for _ in 0..50 {
            buffer.add_piece(bytes.clone()).expect("not frozen");
        }
        buffer.drain(usize::MAX).expect("not frozen");
    });
    assert_eq!(allocated, 0);
}

#[test]
fn lines_and_searches_allocate_nothing() {
    let text = b"a line of about forty bytes, and its end\n".repeat(200);
    let mut buffer = EvBuffer::new();
    let allocated = steady_state(|| {
        buffer.add(&text).expect("not frozen");
        assert!(buffer.search(b"its end\na line", Ptr::START).is_some());
        let mut lines = 0;
        while let Some(line) = buffer.readln(Eol::Lf).expect("not frozen") {
            lines += usize::from(line.len() == 40);
        }
        assert_eq!(lines, 200);
    });
    assert_eq!(allocated, 0);
}

#[test]
fn slots_that_pass_through_allocate_nothing() {
    let arena = Arena::new(ArenaConfig::default().slot_size(4096).max_bytes(64 * 4096))
        .expect("a small arena maps");
    let (mut input, mut output) = (EvBuffer::new(), EvBuffer::new());
    let allocated = steady_state(|| {
        while let Some(slot) = arena.take() {
            input
                .add_piece(slot.filled_with(b"message"))
                .expect("not frozen");
        }
        output.add_buffer(&mut input).expect("not frozen");
        output.drain(usize::MAX).expect("not frozen");
    });
    assert_eq!(allocated, 0);
    assert_eq!(arena.stats().slots_live, 0);
}

#[test]
fn formatted_text_allocates_nothing() {
    let mut buffer = EvBuffer::new();
    let allocated = steady_state(|| {
        for n in 0..100 {
            buffer
                .add_fmt(format_args!("{n}: {:?}\n", "text"))
                .expect("not frozen");
        }
        buffer.drain(usize::MAX).expect("not frozen");
    });
    assert_eq!(allocated, 0);
}
