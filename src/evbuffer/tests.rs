//! Tests of what only the crate sees; the public operations are tested in tests/evbuffer.rs.

use super::owner::SMALL_MOVE_BYTES;
use super::*;
use crate::arena::{Arena, ArenaConfig};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn arena(slots: usize) -> Arena {
    Arena::new(ArenaConfig {
        slot_size: 4096,
        max_bytes: slots * 4096,
    })
    .expect("a small arena maps")
}

fn content(buffer: &EvBuffer) -> Vec<u8> {
    let mut pieces = Vec::new();
    buffer.gather(usize::MAX, usize::MAX, &mut pieces);
    pieces.concat()
}

#[test]
fn gather_is_bounded_and_pins_what_it_took() {
    let mut buffer = EvBuffer::new();
    buffer.push_piece(Piece::from_static(b"abc"));
    buffer.add(b"defgh").expect("not frozen");
    let mut out = Vec::new();
    assert_eq!(buffer.gather(5, 10, &mut out), 5);
    assert_eq!(out.concat(), b"abcde");
    out.clear();
    assert_eq!(buffer.gather(100, 1, &mut out), 3);
    assert_eq!(buffer.gather(0, 9, &mut out), 0);
    out.clear();
    assert_eq!(buffer.gather(100, 100, &mut out), 8);
    // In flight: whatever happens to the buffer, the pieces stay as they are.
    buffer.add(b"more").expect("not frozen");
    buffer.drain_front(4);
    buffer.prepend(b"XXXX").expect("not frozen");
    assert_eq!(out.concat(), b"abcdefgh");
    assert_eq!(content(&buffer), b"XXXXefghmore");
}

#[test]
fn crate_internal_calls_ignore_freezes() {
    let mut buffer = EvBuffer::new();
    buffer.freeze_start();
    buffer.freeze_end();
    buffer.push_piece(Piece::from_static(b"abcdef"));
    assert_eq!(buffer.drain_front(2), 2);
    assert!(matches!(buffer.drain(1), Err(BufferError::FrozenStart)));
    assert!(matches!(buffer.add(b"x"), Err(BufferError::FrozenEnd)));
    assert_eq!(content(&buffer), b"cdef");
    assert_eq!(buffer.drain_front(100), 4);
    assert!(buffer.is_empty());
}

#[test]
fn compacting_frees_slots_of_small_segments_only() {
    let arena = arena(4);
    let slot = || arena.take().expect("free");
    let mut buffer = EvBuffer::new();
    buffer.push_piece(slot().filled_with(b"one "));
    buffer.push_piece(slot().filled_with(b"two "));
    buffer.push_piece(slot().filled_with(&[b'x'; 300]));
    buffer.push_piece(slot().filled_with(b" end"));
    let before = content(&buffer);
    assert_eq!(arena.available(), 0);
    assert_eq!(buffer.compact_small(64), 12);
    // The copies take a part of one slot's place.
    let stats = arena.stats();
    assert_eq!((stats.slots_live, stats.charged_bytes), (1, 2 * 128));
    assert_eq!(arena.available(), 2);
    assert_eq!(content(&buffer), before);
    assert_eq!(buffer.compact_small(64), 0);
    let shape = format!("{buffer:?}");
    assert!(
        shape.starts_with("EvBuffer(312 bytes: heap 8+8, slot 300, heap 4+12"),
        "{shape}"
    );
}

#[test]
fn no_empty_segment_stays_in_the_middle() {
    let mut front = EvBuffer::new();
    front.push_seg(Seg::Mem(Segment::with_capacity(100)));
    let mut back = EvBuffer::new();
    back.add(b"abc").expect("not frozen");
    back.push_seg(Seg::Mem(Segment::with_capacity(100)));
    front.add_buffer(&mut back).expect("not frozen");
    front.add_piece(b"def".as_slice()).expect("not frozen");
    assert!(front.chain.iter().all(|seg| seg.len() > 0));
    front.prepend(b"0").expect("not frozen");
    assert_eq!(content(&front), b"0abcdef");
}

/// Bytes whose destructor counts, and asks how things stand.
struct Owner {
    bytes: &'static [u8],
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
    }
}

#[test]
fn a_number_stays_with_its_buffer() {
    let (mut a, mut b) = (EvBuffer::from("one"), EvBuffer::from("two"));
    assert_eq!(a.bound_id(), 0);
    a.bind(7);
    b.bind(u32::MAX);
    std::mem::swap(&mut a, &mut b);
    assert_eq!((a.bound_id(), b.bound_id()), (u32::MAX, 7));
    assert_eq!(b.set_aside(1).bound_id(), 0);
    assert_eq!(b.split_to(1).expect("not frozen").bound_id(), 0);
    a.add_buffer(&mut b).expect("not frozen");
    assert_eq!((a.bound_id(), b.bound_id()), (u32::MAX, 7));
    assert_eq!(std::mem::take(&mut a).bound_id(), u32::MAX);
    assert_eq!(a.bound_id(), 0);
    b.bind(0);
    assert_eq!(b.bound_id(), 0);
}

#[test]
fn what_an_operation_takes_can_be_put_back() {
    for taken in [0, 1, 3, 4, 9, 10, 100] {
        let mut buffer = EvBuffer::from("abc");
        buffer.add(b"defghi").expect("not frozen");
        buffer.add_owner(b"j".to_vec()).expect("not frozen");
        buffer.bind(3);
        buffer.freeze_start();
        buffer.freeze_end();
        let front = buffer.set_aside(taken);
        let n = taken.min(10);
        assert_eq!((front.len(), buffer.len()), (n, 10 - n));
        assert!(n < 10 || front.has_owners());
        buffer.put_aside_back(front);
        assert_eq!(content(&buffer), b"abcdefghij");
        assert!(matches!(buffer.drain(1), Err(BufferError::FrozenStart)));
        assert_eq!((buffer.bound_id(), buffer.has_owners()), (3, true));
    }
}

#[test]
fn an_owner_is_handed_out_instead_of_dropped_when_its_bytes_are_drained() {
    let ends = Arc::new(AtomicUsize::new(0));
    let owner = |bytes| Owner {
        bytes,
        ends: Arc::clone(&ends),
    };
    for frozen in [false, true] {
        ends.store(0, Ordering::Relaxed);
        let mut buffer = EvBuffer::from("fixed ");
        buffer.add(b"copied ").expect("not frozen");
        assert!(!buffer.has_owners());
        buffer.add_owner(owner(b"first ")).expect("not frozen");
        buffer.add_owner(owner(b"second")).expect("not frozen");
        assert!(buffer.has_owners());
        if frozen {
            buffer.freeze_start();
        }
        let mut spent = Spent::new();
        assert_eq!(buffer.drain_front_into(18, &mut spent), 18);
        assert!(spent.is_empty());
        assert_eq!(buffer.drain_front_into(2, &mut spent), 2);
        assert_eq!(content(&buffer), b"econd");
        assert!(!spent.is_empty());
        let mut more = Spent::new();
        assert_eq!(buffer.drain_front_into(usize::MAX, &mut more), 5);
        assert!(!buffer.has_owners());
        spent.append(&mut more);
        assert!(more.is_empty());
        assert_eq!(ends.load(Ordering::Relaxed), 0);
        drop(spent);
        assert_eq!(ends.load(Ordering::Relaxed), 2);
    }
}

#[test]
fn owners_are_known_wherever_their_bytes_go() {
    let ends = Arc::new(AtomicUsize::new(0));
    let owner = || {
        bytes::Bytes::from_owner(Owner {
            bytes: b"owned",
            ends: Arc::clone(&ends),
        })
    };
    let mut appended = EvBuffer::from("x");
    appended
        .add_buffer(&mut EvBuffer::from(owner()))
        .expect("not frozen");
    let mut prepended = EvBuffer::from("x");
    prepended.prepend_piece(owner()).expect("not frozen");
    let mut moved = EvBuffer::from("x");
    moved
        .prepend_buffer(&mut EvBuffer::from(owner()))
        .expect("not frozen");
    let mut part = EvBuffer::from("x");
    EvBuffer::from(owner())
        .remove_buffer(&mut part, 2)
        .expect("not frozen");
    let mut shared = EvBuffer::new();
    shared
        .add_buffer_reference(&EvBuffer::from(owner()))
        .expect("not frozen");
    for mut buffer in [appended, prepended, moved, part, shared] {
        let before = ends.load(Ordering::Relaxed);
        assert!(buffer.has_owners(), "{buffer:?}");
        let mut spent = Spent::new();
        buffer.drain_front_into(usize::MAX, &mut spent);
        assert_eq!(ends.load(Ordering::Relaxed), before, "{buffer:?}");
        drop(spent);
        assert_eq!(ends.load(Ordering::Relaxed), before + 1, "{buffer:?}");
    }
}

#[test]
fn a_file_that_was_read_is_closed_when_its_holder_says_so() {
    let path = std::env::temp_dir().join(format!("evring-spent-{}", std::process::id()));
    std::fs::write(&path, b"from a file").expect("a temporary file");
    let file = std::fs::File::open(&path).expect("just written");
    std::fs::remove_file(&path).expect("just written");
    let segment = FileSegment::new(file, 0, None).expect("a regular file");
    let ends = Arc::new(AtomicUsize::new(0));
    segment.on_free({
        let ends = Arc::clone(&ends);
        move || {
            ends.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut buffer = EvBuffer::from("here, ");
    buffer
        .add_file_segment(&segment, 0, None)
        .expect("not frozen");
    drop(segment);
    let mut spent = Spent::new();
    buffer.load_into(8, &mut spent).expect("readable");
    assert!(spent.is_empty() && buffer.has_owners());
    buffer.load_into(usize::MAX, &mut spent).expect("readable");
    assert_eq!((ends.load(Ordering::Relaxed), spent.is_empty()), (0, false));
    assert!(!buffer.has_owners());
    drop(spent);
    assert_eq!(ends.load(Ordering::Relaxed), 1);
    assert_eq!(content(&buffer), b"here, from a file");
}

#[test]
fn held_callbacks_wait_until_they_are_told() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut buffer = EvBuffer::from("abc");
    buffer.hold_callbacks();
    assert!(!buffer.callbacks_due());
    buffer.add_callback({
        let seen = Arc::clone(&seen);
        move |buffer, change| {
            seen.lock().expect("no panic").push(*change);
            if buffer.len() < 3 {
                buffer.add(b"!").expect("not frozen");
            }
        }
    });
    buffer.add(b"de").expect("not frozen");
    buffer.drain_front(4);
    assert!(seen.lock().expect("no panic").is_empty() && buffer.callbacks_due());
    buffer.tell_callbacks();
    assert!(!buffer.callbacks_due());
    let change = |orig_len, added, deleted| Change {
        orig_len,
        added,
        deleted,
    };
    let told = std::mem::take(&mut *seen.lock().expect("no panic"));
    assert_eq!(told, [change(3, 2, 4), change(1, 1, 0), change(2, 1, 0)]);
    buffer.tell_callbacks();
    assert!(seen.lock().expect("no panic").is_empty());
}

#[test]
fn small_pieces_that_wait_share_blocks() {
    for (size, count) in [(1, 10_000), (7, 3000), (64, 2000), (1000, 200)] {
        let arena = arena(1024);
        let mut buffer = EvBuffer::new();
        let mut expected = Vec::new();
        for n in 0..count {
            let bytes = vec![n as u8; size];
            let piece = arena.take().expect("room").filled_with(&bytes);
            buffer.push_received(piece, Pinning::CopyOut);
            expected.extend(bytes);
        }
        assert_eq!(content(&buffer), expected);
        let stats = arena.stats();
        assert_eq!(stats.slots_live, 0);
        let total = size * count;
        assert!(buffer.held_bytes() >= total && buffer.held_bytes() <= total + 4096);
        assert!(
            stats.charged_bytes <= total + total / 16 + 8192,
            "{total} bytes cost {stats:?}"
        );
        drop(buffer);
        assert_eq!(arena.stats().charged_bytes, 0);
    }
}

#[test]
fn a_byte_that_waits_alone_costs_little() {
    let arena = arena(64);
    let buffers: Vec<EvBuffer> = (0..1000)
        .map(|n| {
            let mut buffer = EvBuffer::new();
            let piece = arena.take().expect("room").filled_with(&[n as u8]);
            buffer.push_received(piece, Pinning::CopyOut);
            buffer
        })
        .collect();
    assert_eq!(arena.stats().charged_bytes, 1000 * 128);
    assert!(buffers.iter().all(|buffer| buffer.held_bytes() == 16));
    for (n, buffer) in buffers.iter().enumerate() {
        assert_eq!(content(buffer), [n as u8]);
    }
    drop(buffers);
    assert_eq!(arena.stats().charged_bytes, 0);
}

#[test]
fn what_fills_its_slot_is_not_copied() {
    let arena = arena(4);
    let mut buffer = EvBuffer::new();
    for (pinning, len, copied) in [
        (Pinning::CopyOut, 4096, false),
        (Pinning::CopyOut, 3071, true),
        (Pinning::Slot, 1, false),
        (Pinning::Slot, 4096, false),
    ] {
        let piece = arena.take().expect("room").filled_with(&vec![5; len]);
        let before = copied_bytes();
        buffer.freeze_end();
        buffer.push_received(piece, pinning);
        assert_eq!(copied_bytes() - before, if copied { len as u64 } else { 0 });
        assert_eq!(arena.stats().slots_live, usize::from(!copied));
        assert_eq!(buffer.held_bytes() >= 4096, !copied);
        assert_eq!(buffer.drain_front(usize::MAX), len);
        assert_eq!(
            (arena.stats().slots_live, arena.stats().charged_bytes),
            (0, 0)
        );
    }
}

#[test]
fn what_was_pulled_up_or_made_writable_is_still_charged() {
    let arena = arena(64);
    let slot = |bytes: &[u8]| arena.take().expect("room").filled_with(bytes);
    let mut buffer = EvBuffer::from("static ");
    buffer.push_piece(slot(b"from "));
    buffer.push_piece(slot(b"two slots"));
    assert_eq!(buffer.pullup(7).expect("there"), b"static ");
    assert_eq!(arena.stats().charged_bytes, 0);
    assert_eq!(buffer.pullup(20).expect("there"), b"static from two slot");
    let stats = arena.stats();
    assert_eq!(stats.slots_live, 1);
    assert!(stats.charged_bytes > 512);
    // To the user's hands, and still counted.
    let bytes = buffer.into_bytes().expect("in memory");
    assert_eq!(bytes, "static from two slots");
    assert!(arena.stats().charged_bytes > 0);
    drop(bytes);
    assert_eq!(
        (arena.stats().slots_live, arena.stats().charged_bytes),
        (0, 0)
    );

    let mut buffer = EvBuffer::from(slot(b"shared"));
    let mut other = EvBuffer::new();
    other.add_buffer_reference(&buffer).expect("not frozen");
    buffer.pullup_mut(6).expect("there")[0] = b'S';
    assert_eq!(
        (content(&buffer), content(&other)),
        (b"Shared".to_vec(), b"shared".to_vec())
    );
    assert!(arena.stats().charged_bytes > 512);
}

#[test]
fn held_bytes_are_slots_and_blocks_whole() {
    let arena = arena(8);
    let slot = |bytes: &[u8]| arena.take().expect("room").filled_with(bytes);
    let mut buffer = EvBuffer::new();
    assert_eq!(buffer.held_bytes(), 0);
    buffer.add_piece("static").expect("not frozen");
    assert_eq!(buffer.held_bytes(), 0);
    buffer.push_piece(slot(b"x"));
    assert_eq!(buffer.held_bytes(), 4096);
    buffer.add(b"copied").expect("not frozen");
    assert_eq!(buffer.held_bytes(), 4096 + 512);
    buffer.add_piece(vec![1; 100]).expect("not frozen");
    assert_eq!(buffer.held_bytes(), 4096 + 512 + 100);
    // Two parts of one slot hold it once.
    let piece = slot(b"one piece, two parts");
    buffer.push_piece(piece.slice(..5));
    buffer.push_piece(piece.slice(5..));
    drop(piece);
    assert_eq!(buffer.held_bytes(), 2 * 4096 + 512 + 100);
    buffer.drain_front(6);
    assert_eq!(buffer.held_bytes(), 2 * 4096 + 512 + 100);
    buffer.drain_front(1);
    assert_eq!(buffer.held_bytes(), 4096 + 512 + 100);
}

#[test]
fn compacting_keeps_bytes_order_and_what_is_in_flight() {
    let arena = arena(64);
    let mut buffer = EvBuffer::new();
    let mut expected = Vec::new();
    for n in 0..30u8 {
        let bytes = vec![n; 1 + usize::from(n) * 97];
        match n % 5 {
            3 => buffer.add(&bytes).expect("not frozen"),
            4 => buffer.add_piece(bytes.clone()).expect("not frozen"),
            _ => buffer.push_piece(arena.take().expect("room").filled_with(&bytes)),
        }
        expected.extend(bytes);
    }
    let mut in_flight = Vec::new();
    buffer.gather(200, 10, &mut in_flight);
    let copied = buffer.compact();
    let slots: usize = (0..30).filter(|n| n % 5 < 3).map(|n| 1 + n * 97).sum();
    assert_eq!((copied, buffer.len()), (slots, expected.len()));
    assert_eq!(content(&buffer), expected);
    assert_eq!(in_flight.concat(), expected[..200]);
    // What the kernel still reads keeps its slots, and nothing else does.
    assert_eq!(arena.stats().slots_live, 3);
    drop(in_flight);
    assert_eq!(arena.stats().slots_live, 0);
    assert_eq!(buffer.compact(), 0);
    let (charged, total) = (arena.stats().charged_bytes, slots);
    assert!(
        charged <= total + total / 2 + 4096,
        "{total} bytes cost {charged}"
    );
}

#[test]
fn many_small_moves_share_blocks() {
    for (each, moves) in [(1, 20_000), (7, 3000), (200, 300), (SMALL_MOVE_BYTES, 300)] {
        let (mut from, mut to) = (EvBuffer::new(), EvBuffer::new());
        let mut expected = Vec::new();
        for number in 0..moves {
            let bytes: Vec<u8> = (0..each).map(|i| (number * 31 + i) as u8).collect();
            from.add(&bytes).expect("not frozen");
            to.add_buffer(&mut from).expect("not frozen");
            assert!(from.is_empty());
            expected.extend(bytes);
        }
        assert_eq!(content(&to), expected);
        let most = 2 * expected.len() + 1024;
        assert!(to.held_bytes() <= most, "{each}: {} held", to.held_bytes());
        to.drain(expected.len()).expect("not frozen");
        assert!(to.is_empty());
    }
}

#[test]
fn a_move_copies_nothing_but_a_few_bytes_behind_others() {
    let arena = arena(4);
    let fresh = || {
        let mut to = EvBuffer::new();
        to.add(b"waits").expect("not frozen");
        to
    };
    let of = |bytes: &[u8]| {
        let mut buffer = EvBuffer::new();
        buffer.add(bytes).expect("not frozen");
        buffer
    };
    let mut received = EvBuffer::from(arena.take().expect("a slot").filled_with(b"received"));
    let slot = EvBuffer::from(arena.take().expect("a slot").filled_with(b"in its slot"));
    received.compact();
    let long = of(&[b'l'; SMALL_MOVE_BYTES + 1]);
    let foreign = EvBuffer::from(Piece::from(bytes::Bytes::from(vec![b'f'; 9])));
    for (what, mut from) in [("slot", slot), ("charged", received), ("long", long)] {
        let mut to = fresh();
        let mut both = content(&to);
        both.extend(content(&from));
        let before = copied_bytes();
        to.add_buffer(&mut from).expect("not frozen");
        assert_eq!(copied_bytes(), before, "{what}");
        assert_eq!(content(&to), both, "{what}");
    }
    let (mut to, mut from) = (fresh(), foreign);
    let before = copied_bytes();
    to.add_buffer(&mut from).expect("not frozen");
    assert_eq!(copied_bytes(), before, "somebody else's");
    // Into an empty one, whatever it is.
    let (mut to, mut from) = (EvBuffer::new(), of(b"few"));
    let before = copied_bytes();
    to.add_buffer(&mut from).expect("not frozen");
    assert_eq!(copied_bytes(), before, "alone");
    to.add_buffer(&mut of(b"more")).expect("not frozen");
    assert_eq!(
        copied_bytes(),
        before + 4 + 4,
        "behind others: added, and moved"
    );
    assert_eq!(content(&to), b"fewmore");
}

#[test]
fn a_small_move_shows_in_nobody_elses_buffer() {
    let (mut from, mut to) = (EvBuffer::new(), EvBuffer::new());
    to.add(b"shared").expect("not frozen");
    let mut other = EvBuffer::new();
    other.add_buffer_reference(&to).expect("not frozen");
    for byte in [b"1", b"2"] {
        from.add(byte).expect("not frozen");
        to.add_buffer(&mut from).expect("not frozen");
    }
    other.add(b"x").expect("not frozen");
    assert_eq!(content(&to), b"shared12");
    assert_eq!(content(&other), b"sharedx");
}
