//! Tests of what only the crate sees; the public operations are tested in tests/evbuffer.rs.

use super::*;
use crate::arena::{Arena, ArenaConfig};

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
    assert_eq!(arena.available(), 3);
    assert_eq!(content(&buffer), before);
    assert_eq!(buffer.compact_small(64), 0);
    let shape = format!("{buffer:?}");
    assert!(
        shape.starts_with("EvBuffer(312 bytes: heap 8+504, slot 300, heap 4+"),
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
