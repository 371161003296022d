//! Tests of the arena: its slots, and what it counts.

use super::*;

fn small(slots: usize) -> Arena {
    Arena::new(
        ArenaConfig::default()
            .slot_size(4096)
            .max_bytes(slots * 4096),
    )
    .expect("a small arena maps")
}

#[test]
fn refuses_bad_slot_sizes() {
    for slot_size in [0, 1, 4095, 5000, CHUNK_BYTES * 2, usize::MAX] {
        let config = ArenaConfig::default()
            .slot_size(slot_size)
            .max_bytes(1 << 20);
        assert!(matches!(Arena::new(config), Err(ArenaError::SlotSize(s)) if s == slot_size));
    }
}

#[test]
fn gives_at_least_one_slot_and_never_more_than_the_cap() {
    let arena = small(0);
    assert_eq!(arena.max_slots(), 1);
    let arena = small(700); // more than one chunk of 512
    let slots: Vec<_> = std::iter::from_fn(|| arena.take()).collect();
    assert_eq!(slots.len(), 700);
    assert_eq!(arena.available(), 0);
    assert_eq!(arena.stats().chunks, 2);
    assert_eq!(arena.stats().starved, 1);
    let mut seen: Vec<_> = slots.iter().map(Slot::index).collect();
    seen.sort_unstable();
    assert!(seen.iter().copied().eq(0..700));
    assert_eq!(slots[0].chunk(), 0);
    assert_eq!(slots[699].chunk(), 1);
    let iovecs = arena.chunk_iovecs();
    assert_eq!(iovecs.len(), 2);
    assert_eq!(iovecs[1].iov_len, (700 - 512) * 4096);
    drop(slots);
    assert_eq!(arena.available(), 700);
    assert_eq!(arena.stats().slots_live, 0);
}

#[test]
fn takes_last_in_first_out() {
    let arena = small(8);
    let a = arena.take().expect("free");
    let b = arena.take().expect("free");
    let (first, second) = (a.index(), b.index());
    drop(a);
    drop(b);
    assert_eq!(arena.take().expect("free").index(), second);
    let held = arena.take().expect("free");
    assert_eq!(held.index(), second);
    assert_eq!(arena.take().expect("free").index(), first);
}

#[test]
fn the_reserve_is_one_slot_outside_the_cap() {
    let arena = small(1);
    let all = arena.take().expect("one");
    assert!(arena.take().is_none());
    let reserve = arena.take_reserve().expect("kept for this");
    assert_eq!(reserve.index(), 1);
    assert_eq!(reserve.chunk(), u32::MAX);
    assert!(arena.take_reserve().is_none());
    assert_eq!(arena.stats().slots_live, 2);
    let piece = reserve.filled_with(b"x");
    assert!(arena.take_reserve().is_none());
    drop(piece);
    assert!(arena.take_reserve().is_some());
    drop(all);
    assert_eq!(arena.stats().slots_live, 0);
}

#[test]
fn a_piece_outlives_its_arena() {
    let arena = small(2);
    let piece = arena.take().expect("free").filled_with(b"still here");
    drop(arena);
    let copy = piece.clone();
    drop(piece);
    assert_eq!(&copy[..], b"still here");
}

#[test]
fn a_slot_dropped_on_another_thread_comes_back() {
    let arena = small(1);
    for round in 1..=50 {
        let piece = arena.take().expect("came back").filled_with(b"abc");
        let sent = std::thread::spawn(move || piece.len());
        assert_eq!(sent.join().expect("no panic"), 3);
        assert_eq!(arena.stats().remote_returns, round);
        assert_eq!(arena.available(), 1);
    }
}

#[test]
fn many_threads_take_and_drop() {
    let arena = small(16);
    let rounds = if cfg!(miri) { 20 } else { 2000 };
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let arena = arena.clone();
            scope.spawn(move || {
                for _ in 0..rounds {
                    let Some(slot) = arena.take() else { continue };
                    let piece = slot.filled_with(&[thread; 100]);
                    let copy = piece.clone();
                    drop(piece);
                    assert!(copy.iter().all(|&byte| byte == thread));
                }
            });
        }
    });
    assert_eq!(arena.stats().slots_live, 0);
    assert_eq!(arena.available(), 16);
}

#[test]
fn shared_parts_of_a_slot_hold_it() {
    let arena = small(1);
    let slot = arena.take().expect("free");
    // SAFETY: nobody else has the pointer; the two ranges are written once, before sharing.
    let (a, b) = unsafe {
        slot.as_mut_ptr().write_bytes(b'a', 10);
        let a = slot.share(0, 10);
        slot.as_mut_ptr().add(10).write_bytes(b'b', 10);
        (a, slot.share(10, usize::MAX))
    };
    assert_eq!(&a[..], [b'a'; 10]);
    assert_eq!(b.len(), 4086);
    drop(slot);
    drop(a);
    assert_eq!(arena.available(), 0);
    drop(b);
    assert_eq!(arena.available(), 1);
}

#[test]
fn a_leaked_arena_stays_mapped() {
    let arena = small(1);
    let slot = arena.take().expect("free");
    let pointer = slot.as_mut_ptr();
    arena.set_leak(true);
    drop(slot);
    drop(arena);
    // SAFETY: leaked on purpose, so still mapped, and nobody else uses it.
    unsafe { pointer.write(1) };
}

/// A piece in a slot, and a copy of its bytes that is charged to the slot's arena.
fn copy_in(arena: &Arena, bytes: &[u8]) -> Segment {
    let piece = Segment::from(arena.take().expect("free").filled_with(bytes));
    let mut copy = piece.copy_room(bytes.len());
    assert!(copy.append(bytes));
    copy
}

#[test]
fn copies_count_against_the_cap_until_they_are_gone() {
    for bytes in [1, 16, 17, 200, 500, 1800] {
        let arena = small(64);
        let copy = copy_in(&arena, &vec![7; bytes]);
        let stats = arena.stats();
        assert_eq!(stats.slots_live, 0);
        let charged = stats.charged_bytes;
        assert!(charged >= copy.block_capacity() + 48 && charged <= bytes * 4 / 3 + 256);
        assert_eq!(arena.available(), 63);
        let slots: Vec<_> = std::iter::from_fn(|| arena.take()).collect();
        assert_eq!((slots.len(), arena.available()), (63, 0));
        assert_eq!(arena.stats().starved, 1);
        // A part of it keeps all of it, in whatever shape.
        let part = bytes::Bytes::from(copy.piece_of(1));
        drop(copy);
        assert_eq!(arena.stats().charged_bytes, charged);
        assert!(arena.take().is_none());
        drop(part);
        assert_eq!(arena.stats().charged_bytes, 0);
        assert!(arena.take().is_some());
    }
}

#[test]
fn copies_leave_some_slots_whatever_they_take() {
    for (slots, kept) in [(1, 1), (8, 1), (32, 2), (160, 10)] {
        let arena = small(slots);
        let mut copies = Vec::new();
        while arena.stats().charged_bytes < slots * 4096 * 2 {
            copies.push(copy_in(&arena, &[1; 1800]));
        }
        assert_eq!(arena.available(), kept, "{slots} slots");
        let taken: Vec<_> = std::iter::from_fn(|| arena.take()).collect();
        assert_eq!((taken.len(), arena.available()), (kept, 0));
        drop(taken);
        drop(copies);
        assert_eq!(arena.available(), slots);
    }
}

#[test]
fn slots_that_are_out_leave_no_room_for_others_once_copies_are_made() {
    let arena = small(32);
    let mut slots: Vec<_> = std::iter::from_fn(|| arena.take()).collect();
    assert_eq!(slots.len(), 32);
    // One slot becomes a copy that takes nearly as much: it does not come back.
    let piece = Segment::from(slots.pop().expect("one of 32").filled_with(&[1; 1800]));
    let copy = piece.copy_room(1800);
    drop(piece);
    assert_eq!((arena.available(), arena.take().is_none()), (0, true));
    drop(copy);
    assert_eq!(arena.available(), 1);
}

#[test]
fn a_copy_freed_on_another_thread_makes_room_and_wakes_who_waits() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    let wakes = Arc::new(AtomicU32::new(0));
    let arena = small(4);
    arena.set_waker({
        let wakes = Arc::clone(&wakes);
        move || {
            wakes.fetch_add(1, Ordering::Relaxed);
        }
    });
    for (wanted, expected) in [(false, 0), (true, 1)] {
        let copy = copy_in(&arena, b"abc");
        let _taken: Vec<_> = std::iter::from_fn(|| arena.take()).collect();
        if wanted {
            arena.want();
        }
        let freed = std::thread::spawn(move || drop(copy));
        freed.join().expect("no panic");
        assert_eq!(wakes.load(Ordering::Relaxed), expected);
        assert_eq!((arena.stats().charged_bytes, arena.available()), (0, 1));
    }
}

#[test]
fn a_copy_outlives_its_arena_without_keeping_its_slots() {
    let arena = small(2);
    let weak = std::sync::Arc::downgrade(&arena.shared);
    let copy = copy_in(&arena, b"still here");
    drop(arena);
    assert_eq!(weak.strong_count(), 0);
    // A copy of the copy has nobody left to be charged to.
    let again = copy.copy_room(10);
    drop(again);
    assert_eq!(&copy[..], b"still here");
}

#[test]
fn copies_of_copies_and_large_ones_are_charged_alike() {
    let arena = small(64);
    let copy = copy_in(&arena, b"abc");
    let once = arena.stats().charged_bytes;
    let again = copy.copy_room(3);
    assert_eq!(arena.stats().charged_bytes, 2 * once);
    let large = again.try_copy_room(MAX_BLOCK_BYTES + 1).expect("memory");
    let charged = arena.stats().charged_bytes - 2 * once;
    assert!(charged > MAX_BLOCK_BYTES && charged < MAX_BLOCK_BYTES + 256);
    let plain = Segment::from(Piece::from_static(b"abc")).copy_room(3);
    assert_eq!(arena.stats().charged_bytes, charged + 2 * once);
    drop((copy, again, large, plain));
    assert_eq!(arena.stats().charged_bytes, 0);
}

#[test]
fn a_charged_block_that_is_free_serves_anyone() {
    let arena = small(4);
    for _ in 0..3 {
        // The pool gives the same cell to the charged and to the plain block.
        drop(copy_in(&arena, &[1; 500]));
        let plain = Segment::with_capacity(500);
        assert_eq!(arena.stats().charged_bytes, 0);
        drop(plain);
        assert_eq!(arena.stats().charged_bytes, 0);
    }
}

#[test]
#[cfg_attr(miri, ignore = "asks the kernel")]
fn idle_slots_give_their_pages_to_the_copies() {
    fn is_resident(address: usize) -> bool {
        let mut resident = 0;
        // SAFETY: asks about one page of a mapping that the caller keeps; one byte is answered.
        let asked = unsafe { libc::mincore(address as *mut _, 4096, &raw mut resident) };
        asked == 0 && resident & 1 == 1
    }
    let arena = small(512);
    let touched: Vec<Slot> = std::iter::from_fn(|| arena.take()).collect();
    let pages: Vec<usize> = touched
        .iter()
        .map(|slot| {
            // SAFETY: the slot is exclusive.
            unsafe { slot.as_mut_ptr().write(1) };
            slot.as_mut_ptr() as usize
        })
        .collect();
    drop(touched);
    let resident = || pages.iter().filter(|&&page| is_resident(page)).count();
    assert_eq!(resident(), 512);
    let mut copies = Vec::new();
    while arena.stats().charged_bytes < 256 * 4096 {
        copies.push(copy_in(&arena, &[1; 1800]));
    }
    let left = resident();
    assert!(
        (240..=256 + 32).contains(&left),
        "{left} slots are resident"
    );
    // What was given back serves again, from zero, and no more than the copies leave.
    let slots: Vec<_> = std::iter::from_fn(|| arena.take()).collect();
    assert_eq!(
        slots.len(),
        (512 * 4096 - arena.stats().charged_bytes) / 4096
    );
    drop(copies);
    let rest: Vec<_> = std::iter::from_fn(|| arena.take()).collect();
    assert_eq!(slots.len() + rest.len(), 512);
    for slot in slots.iter().chain(&rest) {
        // SAFETY: the slot is exclusive.
        unsafe { slot.as_mut_ptr().write(2) };
    }
    assert_eq!(resident(), 512);
    // In use again and idle again, they are given back again.
    drop((slots, rest));
    let copies: Vec<_> = (0..1024).map(|_| copy_in(&arena, &[1; 900])).collect();
    let displaced = arena.stats().charged_bytes / 4096;
    let left = resident();
    assert!(left <= 512 - displaced + 32, "{left} slots are resident");
    drop(copies);
    let again: Vec<_> = std::iter::from_fn(|| arena.take()).collect();
    for slot in &again {
        // SAFETY: the slot is exclusive.
        unsafe { slot.as_mut_ptr().write(3) };
    }
    assert_eq!(resident(), 512);
    // Pages that the kernel has pinned stay.
    drop(again);
    let _registered = arena.chunk_iovecs();
    let copies: Vec<_> = (0..200).map(|_| copy_in(&arena, &[1; 1800])).collect();
    assert_eq!(resident(), 512);
    drop(copies);
}
