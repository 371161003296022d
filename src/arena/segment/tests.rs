use super::*;

#[test]
fn appends_into_its_room_only() {
    let mut segment = Segment::with_capacity(1);
    assert_eq!(segment.room(), 512);
    assert!(segment.append(&[1; 500]));
    assert!(!segment.append(&[2; 13]));
    assert!(segment.append(&[3; 12]));
    assert_eq!((segment.len(), segment.room()), (512, 0));
    assert_eq!(segment[511], 3);
}

#[test]
fn appending_does_not_show_through_pieces() {
    let mut segment = Segment::with_capacity(100);
    assert!(segment.append(b"abc"));
    let piece = segment.piece();
    assert!(segment.append(b"def"));
    assert_eq!(&piece[..], b"abc");
    assert_eq!(&segment[..], b"abcdef");
    assert_eq!(segment.front_room(), 0);
}

#[test]
fn drained_bytes_come_back_only_to_a_sole_owner() {
    let mut segment = Segment::with_capacity(100);
    assert!(segment.append(b"abcdef"));
    let piece = segment.split_to(3);
    assert_eq!(segment.prepend(b"xyz"), 0);
    assert_eq!(&piece[..], b"abc");
    drop(piece);
    assert_eq!(segment.prepend(b"0123456"), 3);
    assert_eq!(&segment[..], b"456def");
}

#[test]
fn truncating_a_shared_segment_gives_up_the_room() {
    let mut segment = Segment::with_capacity(100);
    assert!(segment.append(b"abcdef"));
    let piece = segment.piece();
    segment.truncate(2);
    assert_eq!(segment.room(), 0);
    assert_eq!(&piece[..], b"abcdef");
    drop(piece);
    let mut own = Segment::with_capacity(100);
    assert!(own.append(b"abcdef"));
    own.truncate(2);
    assert_eq!(own.room(), 510);
    assert!(own.append(b"Z"));
    assert_eq!(&own[..], b"abZ");
}

#[test]
fn spare_and_commit() {
    let mut segment = Segment::with_capacity(512);
    segment.spare()[..2].copy_from_slice(b"hi");
    assert_eq!(segment.commit(2), 2);
    assert_eq!(&segment[..], b"hi");
    assert_eq!(segment.commit(usize::MAX), 510);
    assert!(segment.spare().is_empty());
}

#[test]
fn foreign_bytes_are_never_written() {
    let mut segment = Segment::from(Piece::from(vec![1, 2, 3]));
    assert_eq!(segment.room(), 0);
    segment.advance(1);
    assert_eq!(segment.prepend(b"x"), 0);
    assert!(segment.bytes_mut().is_none());
    let mut fixed = Segment::from(Piece::from_static(b"abc"));
    assert!(fixed.bytes_mut().is_none());
    assert!(!fixed.append(b"x"));
}

#[test]
fn prepend_room_fills_backwards() {
    let mut segment = Segment::for_prepend(3);
    assert_eq!(segment.prepend(b"abc"), 3);
    assert_eq!(segment.prepend(b"0"), 1);
    assert_eq!(&segment[..], b"0abc");
    assert_eq!(segment.prepend(&[9; 600]), 508);
}

#[test]
fn only_an_unshared_pooled_block_is_recycled() {
    let mut segment = Segment::with_capacity(600);
    assert!(segment.append(b"abc"));
    segment.advance(2);
    let piece = segment.piece();
    assert_eq!(segment.recycle(), None);
    assert_eq!(&segment[..], b"c");
    drop(piece);
    assert_eq!(segment.recycle(), Some(1));
    assert_eq!((segment.len(), segment.room()), (0, 1024));
    assert_eq!(Segment::with_capacity(1 << 20).recycle(), None);
    assert_eq!(Segment::from(Piece::from(vec![1])).recycle(), None);
    assert_eq!(Segment::from(Piece::from_static(b"x")).recycle(), None);
}

#[test]
fn a_block_becomes_room_when_unique() {
    let block = Block::with_capacity(512);
    let copy = block.clone();
    assert_eq!(Segment::from(block).room(), 0);
    assert_eq!(Segment::from(copy).room(), 512);
}
