//! Every operation of EvBuffer with its edges. The model test covers their combinations.

use bytes::{Buf, BufMut, Bytes};
use evring::arena::{Arena, ArenaConfig, Piece};
use evring::evbuffer::{BufferError, Change, Eol, EvBuffer, FileSegment, Ptr, copied_bytes};
use std::fs::File;
use std::io::{self, BufRead, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const HUGE: usize = EvBuffer::MAX_LEN;

fn of(parts: &[&'static str]) -> EvBuffer {
    let mut buffer = EvBuffer::new();
    for part in parts {
        buffer.add_piece(*part).expect("not frozen");
    }
    buffer
}

fn content(buffer: &EvBuffer) -> String {
    String::from_utf8(buffer.to_vec().expect("readable")).expect("text")
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("room on disk");
    file.seek(SeekFrom::Start(0)).expect("seekable");
    file
}

/// A sparse file of `len` bytes, and a segment over all of it.
fn sparse(len: u64) -> FileSegment {
    let file = tempfile::tempfile().expect("a temporary file");
    file.set_len(len).expect("sparse");
    FileSegment::new(file, 0, None).expect("a plain file")
}

#[test]
fn a_new_buffer_is_small_and_empty() {
    assert!(size_of::<EvBuffer>() <= 48);
    let mut buffer = EvBuffer::new();
    assert!(buffer.is_empty());
    assert_eq!(buffer.contiguous(), b"");
    assert_eq!(buffer.drain(1).expect("not frozen"), 0);
    assert_eq!(buffer.remove(&mut [0; 4]).expect("not frozen"), 0);
    assert!(buffer.pop_piece().expect("not frozen").is_none());
    assert!(buffer.readln(Eol::Any).expect("not frozen").is_none());
    assert_eq!(buffer.pullup(0).expect("nothing"), b"");
    assert_eq!(format!("{buffer:?}"), "EvBuffer(0 bytes)");
}

#[test]
fn buffers_and_pieces_cross_threads() {
    fn send<T: Send>() {}
    fn sync<T: Sync>() {}
    send::<EvBuffer>();
    send::<Arena>();
    sync::<Arena>();
    send::<Piece>();
    sync::<Piece>();
    let buffer = of(&["made here", ", read there"]);
    let read = std::thread::spawn(move || content(&buffer));
    assert_eq!(read.join().expect("no panic"), "made here, read there");
}

#[test]
fn add_crosses_blocks() {
    for size in [0, 1, 511, 512, 513, 65_535, 65_536, 65_537, 300_000] {
        let data: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let mut buffer = EvBuffer::new();
        buffer.add(&data).expect("not frozen");
        buffer.add(&data).expect("not frozen");
        assert_eq!(buffer.len(), 2 * size);
        assert_eq!(
            buffer.to_vec().expect("in memory"),
            [&data[..], &data].concat()
        );
    }
}

#[test]
fn add_by_reference_does_not_copy() {
    let before = copied_bytes();
    let mut buffer = EvBuffer::new();
    let bytes = Bytes::from(vec![7; 100_000]);
    let address = bytes.as_ptr();
    buffer.add_piece(bytes).expect("not frozen");
    buffer.add_piece(&b"static"[..]).expect("not frozen");
    buffer
        .add_piece(Vec::new())
        .expect("an empty piece adds nothing");
    assert_eq!(buffer.contiguous().as_ptr(), address);
    assert_eq!(copied_bytes(), before);
}

#[test]
fn an_owner_is_dropped_after_its_last_byte() {
    struct Owner(Arc<AtomicUsize>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            b"owned"
        }
    }
    impl Drop for Owner {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let drops = Arc::new(AtomicUsize::new(0));
    let mut buffer = EvBuffer::new();
    buffer.add_owner(Owner(drops.clone())).expect("not frozen");
    buffer.drain(4).expect("not frozen");
    assert_eq!(drops.load(Ordering::Relaxed), 0);
    buffer.drain(1).expect("not frozen");
    assert_eq!(drops.load(Ordering::Relaxed), 1);
    buffer.freeze_end();
    assert!(buffer.add_owner(Owner(drops.clone())).is_err());
    assert_eq!(drops.load(Ordering::Relaxed), 2);
}

#[test]
fn add_buffer_moves_by_reference() {
    let mut from = of(&["one", "two"]);
    let mut to = of(&["zero"]);
    let before = copied_bytes();
    to.add_buffer(&mut from).expect("not frozen");
    assert_eq!(copied_bytes(), before);
    assert_eq!(content(&to), "zeroonetwo");
    assert!(from.is_empty());
    to.add_buffer(&mut from).expect("nothing to move");
    from.add(b"again").expect("usable after");
    assert_eq!(content(&from), "again");
}

#[test]
fn add_buffer_reference_shares() {
    let mut source = EvBuffer::new();
    source.add(b"shared").expect("not frozen");
    let mut first = EvBuffer::new();
    first.add_buffer_reference(&source).expect("not frozen");
    // Appends to either do not show through to the other.
    source.add(b" source").expect("not frozen");
    first.add(b" first").expect("not frozen");
    assert_eq!(content(&source), "shared source");
    assert_eq!(content(&first), "shared first");
    drop(source);
    assert_eq!(content(&first), "shared first");
}

#[test]
fn add_iovec_is_all_or_nothing() {
    let mut buffer = EvBuffer::new();
    let slices = [IoSlice::new(b"a"), IoSlice::new(b""), IoSlice::new(b"bc")];
    assert_eq!(buffer.add_iovec(&slices).expect("not frozen"), 3);
    assert_eq!(buffer.add_iovec(&[]).expect("not frozen"), 0);
    buffer.freeze_end();
    assert!(buffer.add_iovec(&slices).is_err());
    assert_eq!(content(&buffer), "abc");
}

#[test]
fn formatted_text_that_fails_leaves_nothing() {
    struct Fails;
    impl std::fmt::Display for Fails {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(&"x".repeat(2000))?;
            Err(std::fmt::Error)
        }
    }
    struct Panics;
    impl std::fmt::Display for Panics {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("half")?;
            panic!("in the middle of formatting")
        }
    }
    let mut buffer = EvBuffer::new();
    assert_eq!(
        buffer.add_fmt(format_args!("plain")).expect("not frozen"),
        5
    );
    assert_eq!(
        buffer
            .add_fmt(format_args!("{}{}", 4, 2))
            .expect("not frozen"),
        2
    );
    assert!(buffer.add_fmt(format_args!("{}{}", 1, Fails)).is_err());
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        buffer.add_fmt(format_args!("{}{}", 1, Panics))
    }));
    assert!(caught.is_err());
    assert_eq!(content(&buffer), "plain42");
    buffer.add(b"!").expect("usable after");
    assert_eq!(content(&buffer), "plain42!");
    buffer.freeze_end();
    assert!(buffer.add_fmt(format_args!("{}", 1)).is_err());
}

#[test]
fn prepend_at_every_size() {
    for size in [0, 1, 512, 513, 65_536, 200_000] {
        let data: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let mut buffer = of(&["end"]);
        buffer.prepend(&data).expect("not frozen");
        buffer.prepend(b"start").expect("not frozen");
        let expected = [b"start", &data[..], b"end"].concat();
        assert_eq!(buffer.to_vec().expect("in memory"), expected);
    }
    let mut buffer = of(&["c"]);
    buffer.prepend_piece("b").expect("not frozen");
    buffer
        .prepend_buffer(&mut of(&["0", "a"]))
        .expect("not frozen");
    buffer
        .prepend_buffer(&mut EvBuffer::new())
        .expect("nothing to move");
    assert_eq!(content(&buffer), "0abc");
}

#[test]
fn prepending_does_not_overwrite_what_others_see() {
    let mut buffer = EvBuffer::new();
    buffer.add(b"0123456789").expect("not frozen");
    let front = buffer.remove_piece(5).expect("there");
    buffer.prepend(b"abcde").expect("not frozen");
    assert_eq!(&front[..], b"01234");
    assert_eq!(content(&buffer), "abcde56789");
}

#[test]
fn drain_takes_any_number() {
    let mut buffer = of(&["abc", "def"]);
    assert_eq!(buffer.drain(0).expect("not frozen"), 0);
    assert_eq!(buffer.drain(4).expect("not frozen"), 4);
    assert_eq!(content(&buffer), "ef");
    assert_eq!(buffer.drain(usize::MAX).expect("not frozen"), 2);
}

#[test]
fn remove_buffer_and_split_to_share() {
    let mut from = of(&["abc", "def", "ghi"]);
    let mut to = of(&["0"]);
    let before = copied_bytes();
    assert_eq!(from.remove_buffer(&mut to, 4).expect("not frozen"), 4);
    let front = from.split_to(1).expect("not frozen");
    assert_eq!(copied_bytes(), before);
    assert_eq!(
        (content(&to), content(&front)),
        ("0abcd".into(), "e".into())
    );
    assert_eq!(
        from.remove_buffer(&mut to, usize::MAX).expect("not frozen"),
        4
    );
    assert_eq!(content(&to), "0abcdfghi");
    assert!(from.split_to(10).expect("empty").is_empty());
}

#[test]
fn copyout_from_any_position() {
    let buffer = of(&["abc", "def"]);
    let mut out = [0; 4];
    assert_eq!(buffer.copyout(&mut out).expect("in memory"), 4);
    assert_eq!(&out, b"abcd");
    let at = buffer.ptr(5).expect("within");
    assert_eq!(buffer.copyout_from(at, &mut out).expect("in memory"), 1);
    assert_eq!(out[0], b'f');
    let end = buffer.ptr(6).expect("the end is a position");
    assert_eq!(buffer.copyout_from(end, &mut out).expect("at the end"), 0);
    let longer = of(&["0123456789"]);
    let past = longer.ptr(9).expect("within");
    assert!(matches!(
        buffer.copyout_from(past, &mut out),
        Err(BufferError::OutOfRange {
            position: 9,
            len: 6
        })
    ));
}

#[test]
fn positions_do_not_overflow() {
    let buffer = of(&["abc"]);
    let at = buffer.ptr(2).expect("within");
    assert_eq!(buffer.ptr_add(at, 1).expect("the end").pos(), 3);
    assert!(buffer.ptr_add(at, 2).is_err());
    assert!(buffer.ptr_add(at, usize::MAX).is_err());
    assert!(buffer.ptr(usize::MAX).is_err());
}

#[test]
fn pullup_copies_only_when_it_must() {
    let mut buffer = of(&["abc", "def", "ghi"]);
    let before = copied_bytes();
    assert_eq!(buffer.pullup(3).expect("one segment"), b"abc");
    assert_eq!(copied_bytes(), before);
    assert_eq!(buffer.pullup(4).expect("two segments"), b"abcd");
    assert_eq!(copied_bytes(), before + 4);
    assert_eq!(buffer.contiguous_len(), 4);
    assert_eq!(buffer.pullup(9).expect("all"), b"abcdefghi");
    assert!(matches!(
        buffer.pullup(10),
        Err(BufferError::OutOfRange { .. })
    ));
    assert!(buffer.pullup(usize::MAX).is_err());
    assert_eq!(content(&buffer), "abcdefghi");
    assert_eq!(buffer.segments().count(), 1);
}

#[test]
fn pullup_leaves_what_is_in_flight_alone() {
    let mut buffer = EvBuffer::new();
    buffer.add(b"abc").expect("not frozen");
    buffer.add_piece("def").expect("not frozen");
    let mut flying = EvBuffer::new();
    flying.add_buffer_reference(&buffer).expect("not frozen");
    buffer.pullup_mut(6).expect("all").make_ascii_uppercase();
    assert_eq!(content(&buffer), "ABCDEF");
    assert_eq!(content(&flying), "abcdef");
}

#[test]
fn pullup_mut_never_writes_foreign_memory() {
    let mut buffer = EvBuffer::from("static");
    buffer.pullup_mut(3).expect("within").make_ascii_uppercase();
    assert_eq!(content(&buffer), "STAtic");
    assert!(buffer.pullup_mut(0).expect("nothing").is_empty());
    assert!(EvBuffer::new().pullup_mut(0).expect("nothing").is_empty());
    assert!(buffer.pullup_mut(7).is_err());
}

#[test]
fn peek_counts_what_it_would_need() {
    let buffer = of(&["abc", "def", "ghi"]);
    let mut slices = [IoSlice::new(&[]); 2];
    assert_eq!(buffer.peek(Ptr::START, usize::MAX, &mut slices), 3);
    assert_eq!(&slices[1][..], b"def");
    let at = buffer.ptr(4).expect("within");
    assert_eq!(buffer.peek(at, 3, &mut slices), 2);
    assert_eq!((&slices[0][..], &slices[1][..]), (&b"ef"[..], &b"g"[..]));
    assert_eq!(buffer.peek(at, 0, &mut slices), 0);
    assert_eq!(buffer.peek(at, 2, &mut []), 1);
}

#[test]
fn search_crosses_segments() {
    let buffer = of(&["xxne", "e", "dl", "ne", "edle", "x"]);
    let found = buffer
        .search(b"needle", Ptr::START)
        .expect("over four borders");
    assert_eq!(found.pos(), 7);
    let next = buffer.ptr_add(found, 1).expect("within");
    assert_eq!(buffer.search(b"needle", next), None);
    assert_eq!(buffer.search(b"", next), Some(next));
    assert_eq!(buffer.search(b"x", next).map(Ptr::pos), Some(13));
    assert_eq!(buffer.search(b"xz", Ptr::START), None);
    // Longer than the buffer.
    assert_eq!(buffer.search(&[b'x'; 100], Ptr::START), None);
    // A match must end within the range.
    let end = buffer.ptr(13).expect("within");
    assert_eq!(
        buffer
            .search_range(b"needle", Ptr::START, end)
            .map(Ptr::pos),
        Some(7)
    );
    let short = buffer.ptr(12).expect("within");
    assert_eq!(buffer.search_range(b"needle", Ptr::START, short), None);
    assert_eq!(buffer.search_range(b"", end, short), None);
}

#[test]
fn search_changes_its_method_and_still_finds() {
    // The first byte misleads all the time; the match lies in, and then across, segments.
    let mut buffer = EvBuffer::new();
    buffer.add(&b"na".repeat(1000)).expect("not frozen");
    buffer.add(b"needle").expect("not frozen");
    buffer.add_piece(b"na".repeat(1000)).expect("not frozen");
    buffer.add_piece("nee").expect("not frozen");
    buffer.add_piece("dle").expect("not frozen");
    let first = buffer.search(b"needle", Ptr::START).expect("inside");
    assert_eq!(first.pos(), 2000);
    let next = buffer.ptr_add(first, 1).expect("within");
    assert_eq!(buffer.search(b"needle", next).map(Ptr::pos), Some(4006));
    assert_eq!(buffer.search(b"needless", Ptr::START), None);
}

#[test]
fn line_ends_of_every_style() {
    let text = ["a\r", "\nb\n\r\nc\0d\re"];
    let lines = |style| {
        let mut buffer = of(&text);
        let mut lines = Vec::new();
        while let Some(line) = buffer.readln(style).expect("not frozen") {
            lines.push(String::from_utf8(line.to_vec()).expect("text"));
        }
        lines.push(format!("rest: {}", content(&buffer)));
        lines
    };
    assert_eq!(lines(Eol::Any), ["a", "b", "c\0d", "rest: e"]);
    assert_eq!(lines(Eol::Crlf), ["a", "b", "", "rest: c\0d\re"]);
    assert_eq!(lines(Eol::CrlfStrict), ["a", "b\n", "rest: c\0d\re"]);
    assert_eq!(lines(Eol::Lf), ["a\r", "b", "\r", "rest: c\0d\re"]);
    assert_eq!(lines(Eol::Nul), ["a\r\nb\n\r\nc", "rest: d\re"]);
}

#[test]
fn search_eol_tells_position_and_length() {
    let buffer = of(&["ab\r", "\n\r\nx"]);
    let eol = |at, style| {
        let found = buffer.search_eol(buffer.ptr(at).expect("within"), style);
        found.map(|(ptr, len)| (ptr.pos(), len))
    };
    assert_eq!(eol(0, Eol::Any), Some((2, 4)));
    assert_eq!(eol(0, Eol::Crlf), Some((2, 2)));
    // A CR before the start does not count.
    assert_eq!(eol(3, Eol::Crlf), Some((3, 1)));
    assert_eq!(eol(3, Eol::CrlfStrict), Some((4, 2)));
    assert_eq!(eol(6, Eol::Lf), None);
    assert_eq!(eol(0, Eol::Nul), None);
}

#[test]
fn a_line_shares_memory_and_is_not_overwritten() {
    let mut buffer = EvBuffer::new();
    buffer.add(b"first\nsecond\nthi").expect("not frozen");
    let before = copied_bytes();
    let first = buffer
        .readln(Eol::Lf)
        .expect("not frozen")
        .expect("complete");
    assert_eq!(copied_bytes(), before);
    let second = buffer
        .readln(Eol::Lf)
        .expect("not frozen")
        .expect("complete");
    buffer.add(b"rd\n").expect("not frozen");
    let third = buffer
        .readln(Eol::Lf)
        .expect("not frozen")
        .expect("complete");
    assert!(buffer.is_empty());
    assert_eq!(
        [&first[..], &second, &third],
        [&b"first"[..], b"second", b"third"]
    );
}

#[test]
fn expand_gives_contiguous_room() {
    let mut buffer = of(&["abc"]);
    buffer.expand(5000).expect("memory");
    let room = buffer.reserve_space(5000).expect("not frozen");
    drop(room);
    buffer.add(&[b'x'; 5000]).expect("not frozen");
    assert_eq!(buffer.segments().count(), 2);
    // The room is kept: what was asked for at first is filled without another block.
    for (before, n) in [(0, 1), (0, 600), (0, 70_000), (3, 600), (512, 5000)] {
        let mut buffer = EvBuffer::new();
        buffer.add(&vec![b'y'; before]).expect("not frozen");
        buffer.expand(n).expect("memory");
        assert_eq!(buffer.len(), before);
        let held = buffer.held_bytes();
        assert!(held >= before + n, "{n} bytes of room: {held} held");
        buffer.expand(n).expect("memory");
        for _ in 0..n {
            buffer.add(b"x").expect("not frozen");
        }
        assert_eq!(buffer.held_bytes(), held, "{n} bytes of room");
    }
    assert!(matches!(
        buffer.expand(usize::MAX),
        Err(BufferError::TooLong)
    ));
    assert!(buffer.expand(HUGE - buffer.len()).is_err());
    assert_eq!(buffer.len(), 5003);
}

#[test]
fn reserving_changes_nothing_until_committed() {
    let mut buffer = EvBuffer::new();
    buffer.add(&[b'a'; 500]).expect("not frozen");
    drop(buffer.reserve_space(100).expect("not frozen"));
    let mut room = buffer.reserve_vectored(100).expect("not frozen");
    let [first, second] = room.extents();
    assert_eq!(first.len(), 12);
    assert!(second.len() >= 88);
    first.fill(b'b');
    second[..3].fill(b'c');
    room.commit(15).expect("within");
    assert_eq!(content(&buffer)[500..], *"bbbbbbbbbbbbccc");
    let room = buffer.reserve_space(10).expect("not frozen");
    let len = room.len();
    assert!(matches!(
        room.commit(len + 1),
        Err(BufferError::OutOfRange { .. })
    ));
    assert_eq!(buffer.len(), 515);
    assert!(
        EvBuffer::new()
            .reserve_space(0)
            .expect("nothing")
            .is_empty()
    );
    assert!(buffer.reserve_space(usize::MAX).is_err());
    assert!(buffer.reserve_vectored(HUGE).is_err());
    buffer.freeze_end();
    assert!(matches!(
        buffer.reserve_space(1),
        Err(BufferError::FrozenEnd)
    ));
}

#[test]
fn a_reservation_in_two_extents_adds_its_bytes_once() {
    for committed in [0, 1, 100, 411, 412, 413, 700, 1000] {
        let mut buffer = EvBuffer::new();
        buffer.add(&[b'a'; 100]).expect("not frozen");
        let mut room = buffer.reserve_vectored(1000).expect("not frozen");
        let [tail, block] = room.extents();
        assert!(tail.len() == 412 && block.len() >= 588);
        tail.fill(b'b');
        block.fill(b'c');
        room.commit(committed).expect("reserved");
        let mut expected = vec![b'a'; 100];
        expected.resize(100 + committed.min(412), b'b');
        expected.resize(100 + committed, b'c');
        assert_eq!(buffer.segments().collect::<Vec<_>>().concat(), expected);
        assert_eq!(buffer.len(), expected.len());
    }
}

#[test]
fn moving_to_the_front_asks_both_fronts() {
    for (source, target) in [(true, false), (false, true), (true, true)] {
        let (mut from, mut to) = (of(&["from"]), of(&["to"]));
        if source {
            from.freeze_start();
        }
        if target {
            to.freeze_start();
        }
        let refused = to.prepend_buffer(&mut from);
        assert!(matches!(refused, Err(BufferError::FrozenStart)));
        assert_eq!((content(&from), content(&to)), ("from".into(), "to".into()));
    }
}

#[test]
fn a_callback_that_is_off_does_not_hear_later_of_what_it_missed() {
    let mut buffer = EvBuffer::new();
    let seen: Arc<Mutex<Vec<Change>>> = Arc::default();
    let id = buffer.add_callback({
        let seen = seen.clone();
        move |_, change| seen.lock().expect("no panic").push(*change)
    });
    buffer.defer_callbacks(|| {});
    assert!(buffer.set_callback_enabled(id, false));
    buffer.add(b"missed").expect("not frozen");
    assert!(buffer.set_callback_enabled(id, true));
    assert!(!buffer.run_deferred());
    // What it was to hear is gone when it is off at that time.
    buffer.add(b"gone").expect("not frozen");
    assert!(buffer.set_callback_enabled(id, false));
    buffer.run_deferred();
    assert!(buffer.set_callback_enabled(id, true));
    buffer.run_deferred();
    assert_eq!(*seen.lock().expect("no panic"), []);
    buffer.add(b"told").expect("not frozen");
    assert!(buffer.run_deferred());
    assert_eq!(seen.lock().expect("no panic").len(), 1);
}

#[test]
fn a_frozen_front_refuses_what_takes_from_it() {
    let mut buffer = of(&["line\n"]);
    let mut other = of(&["x"]);
    buffer.freeze_start();
    assert!(matches!(buffer.drain(1), Err(BufferError::FrozenStart)));
    assert!(buffer.remove(&mut [0; 2]).is_err());
    assert!(buffer.prepend(b"x").is_err());
    assert!(buffer.prepend_piece("x").is_err());
    assert!(buffer.prepend_buffer(&mut other).is_err());
    assert!(buffer.remove_buffer(&mut other, 1).is_err());
    assert!(other.add_buffer(&mut buffer).is_err());
    assert!(buffer.readln(Eol::Lf).is_err());
    assert!(buffer.pop_piece().is_err());
    assert!(buffer.remove_piece(1).is_err());
    assert!(buffer.split_to(1).is_err());
    assert!(buffer.write_to(file_of(b""), None).is_err());
    assert_eq!(
        (content(&buffer), content(&other)),
        ("line\n".into(), "x".into())
    );
    buffer.add(b"more").expect("the end is free");
    assert_eq!(buffer.pullup(9).expect("looking is free"), b"line\nmore");
    buffer.unfreeze_start();
    assert_eq!(buffer.drain(5).expect("thawed"), 5);
}

#[test]
fn a_frozen_end_refuses_what_adds_to_it() {
    let mut buffer = of(&["abc"]);
    let mut other = of(&["x"]);
    buffer.freeze_end();
    assert!(matches!(buffer.add(b"x"), Err(BufferError::FrozenEnd)));
    assert!(buffer.add(b"").is_err());
    assert!(buffer.add_piece("x").is_err());
    assert!(buffer.add_buffer(&mut other).is_err());
    assert!(buffer.add_buffer_reference(&other).is_err());
    assert!(other.remove_buffer(&mut buffer, 1).is_err());
    assert!(buffer.add_file(file_of(b"x"), 0, None).is_err());
    assert!(buffer.read_from(file_of(b"x"), None).is_err());
    assert!(buffer.write_all(b"x").is_err());
    assert_eq!(
        (content(&buffer), content(&other)),
        ("abc".into(), "x".into())
    );
    buffer.prepend(b"0").expect("the front is free");
    buffer.unfreeze_end();
    buffer.add(b"d").expect("thawed");
    assert_eq!(content(&buffer), "0abcd");
    let refused: io::Error = BufferError::FrozenEnd.into();
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn callbacks_hear_of_every_change() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let mut buffer = of(&["abc"]);
    let id = buffer.add_callback({
        let heard = heard.clone();
        move |_, change| {
            let change = (change.orig_len, change.added, change.deleted);
            heard.lock().expect("no panic").push(change)
        }
    });
    buffer.add(b"de").expect("not frozen");
    buffer.drain(1).expect("not frozen");
    buffer.drain(0).expect("nothing changes");
    buffer.prepend(b"x").expect("not frozen");
    assert!(buffer.set_callback_enabled(id, false));
    buffer.add(b"unheard").expect("not frozen");
    assert!(buffer.set_callback_enabled(id, true));
    buffer.drain(usize::MAX).expect("not frozen");
    assert_eq!(
        *heard.lock().expect("no panic"),
        [(3, 2, 0), (5, 0, 1), (4, 1, 0), (12, 0, 12)],
        "length before, added, taken away"
    );
    assert!(buffer.remove_callback(id));
    assert!(!buffer.remove_callback(id));
    assert!(!buffer.set_callback_enabled(id, true));
    assert!(!buffer.set_callback_immediate(id, true));
}

#[test]
fn callbacks_run_newest_first_and_may_remove_themselves_and_others() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut buffer = EvBuffer::new();
    let note = |name: &'static str| {
        let order = order.clone();
        move |_: &mut EvBuffer, _: &Change| order.lock().expect("no panic").push(name)
    };
    let first = buffer.add_callback(note("first"));
    buffer.add_callback({
        let note = note("second");
        move |buffer, change| {
            note(buffer, change);
            buffer.remove_callback(first);
        }
    });
    let own = Arc::new(Mutex::new(None));
    let third = buffer.add_callback({
        let (own, note) = (own.clone(), note("third"));
        move |buffer, change| {
            note(buffer, change);
            let id = own.lock().expect("no panic").take();
            assert!(id.is_some_and(|id| buffer.remove_callback(id)));
            buffer.add_callback(|_, _| {});
        }
    });
    *own.lock().expect("no panic") = Some(third);
    buffer.add(b"x").expect("not frozen");
    buffer.add(b"y").expect("not frozen");
    assert_eq!(
        *order.lock().expect("no panic"),
        ["third", "second", "second"]
    );
}

#[test]
fn a_callback_that_changes_the_buffer_does_not_recurse() {
    let mut buffer = EvBuffer::new();
    let depth = Arc::new(AtomicUsize::new(0));
    let calls = Arc::new(AtomicUsize::new(0));
    buffer.add_callback({
        let (depth, calls) = (depth.clone(), calls.clone());
        move |buffer, change| {
            assert_eq!(depth.fetch_add(1, Ordering::Relaxed), 0);
            calls.fetch_add(1, Ordering::Relaxed);
            if change.added > 1 {
                buffer.drain(1).expect("not frozen");
            }
            depth.fetch_sub(1, Ordering::Relaxed);
        }
    });
    buffer.add(b"abc").expect("not frozen");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    // One that always changes it comes to rest all the same.
    buffer.add_callback(|buffer, _| buffer.add(b"+").expect("not frozen"));
    buffer.add(b"x").expect("not frozen");
    assert!(buffer.len() < 50);
}

#[test]
fn deferred_callbacks_are_told_once_of_everything() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let scheduled = Arc::new(AtomicUsize::new(0));
    let mut buffer = EvBuffer::new();
    for immediate in [false, true] {
        let heard = heard.clone();
        let id = buffer.add_callback(move |_, change| {
            heard
                .lock()
                .expect("no panic")
                .push((immediate, change.added, change.deleted));
        });
        assert!(buffer.set_callback_immediate(id, immediate));
    }
    buffer.defer_callbacks({
        let scheduled = scheduled.clone();
        move || {
            scheduled.fetch_add(1, Ordering::Relaxed);
        }
    });
    assert!(!buffer.run_deferred());
    buffer.add(b"abc").expect("not frozen");
    buffer.drain(2).expect("not frozen");
    assert_eq!(scheduled.load(Ordering::Relaxed), 1);
    assert!(buffer.run_deferred());
    assert!(!buffer.run_deferred());
    let heard = heard.lock().expect("no panic");
    assert_eq!(*heard, [(true, 3, 0), (true, 0, 2), (false, 3, 2)]);
    drop(heard);
    buffer.add(b"d").expect("not frozen");
    assert_eq!(scheduled.load(Ordering::Relaxed), 2);
}

#[test]
fn files_are_read_when_needed() {
    let mut buffer = of(&["head "]);
    buffer
        .add_file(file_of(b"0123456789"), 2, Some(5))
        .expect("a plain file");
    buffer.add(b" tail").expect("not frozen");
    assert_eq!(buffer.len(), 15);
    assert_eq!(buffer.resident_len(), 5);
    assert_eq!(content(&buffer), "head 23456 tail");
    assert_eq!(buffer.search(b"tail", Ptr::START), None);
    let mut out = [0; 7];
    assert_eq!(buffer.remove(&mut out).expect("readable"), 7);
    assert_eq!(&out, b"head 23");
    assert_eq!(buffer.pullup(8).expect("readable"), b"456 tail");
    assert_eq!(buffer.resident_len(), 8);
}

#[test]
fn a_file_segment_serves_many_buffers_and_says_when_it_is_done() {
    let segment = FileSegment::new(file_of(b"0123456789"), 1, Some(8)).expect("a plain file");
    assert_eq!(segment.len(), 8);
    let freed = Arc::new(AtomicUsize::new(0));
    segment.on_free({
        let freed = freed.clone();
        move || {
            freed.fetch_add(1, Ordering::Relaxed);
        }
    });
    let (mut a, mut b) = (EvBuffer::new(), EvBuffer::new());
    a.add_file_segment(&segment, 0, None).expect("within");
    b.add_file_segment(&segment, 6, Some(2)).expect("within");
    b.add_file_segment(&segment, 8, Some(0)).expect("nothing");
    for (offset, len) in [(9, None), (7, Some(2)), (u64::MAX, Some(u64::MAX))] {
        let refused = b.add_file_segment(&segment, offset, len);
        assert!(matches!(refused, Err(BufferError::OutOfRange { .. })));
    }
    drop(segment);
    assert_eq!((content(&a), content(&b)), ("12345678".into(), "78".into()));
    drop(a);
    assert_eq!(freed.load(Ordering::Relaxed), 0);
    b.drain(2).expect("not frozen");
    assert_eq!(freed.load(Ordering::Relaxed), 1);
}

#[test]
fn a_file_that_shrank_is_an_error_and_changes_nothing() {
    let file = Arc::new(file_of(b"0123456789"));
    let mut buffer = of(&["head"]);
    buffer
        .add_file(file.clone(), 0, None)
        .expect("a plain file");
    file.set_len(3).expect("writable");
    let mut out = [0; 10];
    assert!(matches!(buffer.remove(&mut out), Err(BufferError::Io(_))));
    assert!(buffer.pullup(14).is_err());
    assert!(buffer.load(usize::MAX).is_err());
    assert!(buffer.to_vec().is_err());
    assert_eq!(buffer.len(), 14);
    assert_eq!(buffer.drain(4).expect("not frozen"), 4);
    assert!(buffer.pop_piece().is_err());
    assert!(buffer.fill_buf().is_err());
    let sink = tempfile::tempfile().expect("a temporary file");
    assert_eq!(buffer.write_to(&sink, None).expect("what is left of it"), 3);
    assert!(buffer.write_to(&sink, None).is_err());
    assert_eq!(buffer.len(), 7);
    file.set_len(10).expect("writable");
    assert_eq!(buffer.to_vec().expect("long enough again"), [0; 7]);
}

#[test]
fn every_way_to_take_bytes_tells_that_their_file_was_cut_short() {
    type Take = fn(&mut EvBuffer) -> bool;
    let takes: [(&str, Take); 11] = [
        ("remove", |b| b.remove(&mut [0; 9]).is_err()),
        ("remove all", |b| b.remove(&mut [0; 99]).is_err()),
        ("read", |b| b.read(&mut [0; 9]).is_err()),
        ("read_exact", |b| b.read_exact(&mut [0; 9]).is_err()),
        ("copyout", |b| b.copyout(&mut [0; 9]).is_err()),
        ("copyout_from", |b| {
            let from = b.ptr(6).expect("within");
            b.copyout_from(from, &mut [0; 4]).is_err()
        }),
        ("pullup", |b| b.pullup(9).is_err()),
        ("pullup_mut", |b| b.pullup_mut(9).is_err()),
        ("remove_piece", |b| b.remove_piece(9).is_err()),
        ("readln", |b| b.readln(Eol::Lf).is_err()),
        ("to_vec", |b| b.to_vec().is_err()),
    ];
    for watched in [false, true] {
        for (name, take) in takes {
            let file = Arc::new(file_of(b"0123456789"));
            let mut buffer = of(&["head"]);
            buffer
                .add_file(file.clone(), 0, None)
                .expect("a plain file");
            buffer.add_piece("tail\n").expect("not frozen");
            let calls = Arc::new(AtomicUsize::new(0));
            if watched {
                let calls = calls.clone();
                buffer.add_callback(move |_, _| {
                    calls.fetch_add(1, Ordering::Relaxed);
                });
            }
            file.set_len(2).expect("writable");
            assert!(take(&mut buffer), "{name}");
            assert_eq!(
                (buffer.len(), calls.load(Ordering::Relaxed)),
                (19, 0),
                "{name}"
            );
            // What can still be read is there, and all of it once the file has it again.
            let mut start = [0; 6];
            assert_eq!(buffer.copyout(&mut start).expect("readable"), 6, "{name}");
            assert_eq!(&start, b"head01", "{name}");
            file.write_all_at(b"0123456789", 0).expect("writable");
            assert_eq!(content(&buffer), "head0123456789tail\n", "{name}");
        }
    }
}

#[test]
fn a_file_is_closed_with_the_last_that_holds_a_part_of_it() {
    type End = fn(&mut EvBuffer);
    let ends: [(&str, End); 5] = [
        ("drained", |b| drop(b.drain(usize::MAX))),
        ("removed", |b| drop(b.remove(&mut [0; 99]))),
        ("loaded", |b| b.load(usize::MAX).expect("readable")),
        ("replaced", |b| *b = EvBuffer::new()),
        ("written", |b| {
            let sink = tempfile::tempfile().expect("a temporary file");
            while b.write_to(&sink, None).expect("a plain file") > 0 {}
        }),
    ];
    for (name, end) in ends {
        // The file is open as long as anyone has a share of it.
        let file = Arc::new(file_of(b"0123456789"));
        let share = Arc::downgrade(&file);
        let segment = FileSegment::new(file, 0, None).expect("a plain file");
        let (mut buffer, mut other) = (of(&["head"]), EvBuffer::new());
        buffer.add_file_segment(&segment, 0, None).expect("within");
        buffer.remove_buffer(&mut other, 7).expect("not frozen");
        drop(segment);
        end(&mut buffer);
        assert_eq!(
            share.strong_count(),
            1,
            "{name}: a part waits in another buffer"
        );
        end(&mut other);
        assert_eq!(share.strong_count(), 0, "{name}: nobody has a part of it");
    }
}

#[test]
fn file_offsets_that_overflow_are_refused() {
    for (offset, len) in [(u64::MAX, 1), (1, u64::MAX), (i64::MAX as u64, 1)] {
        assert!(FileSegment::new(file_of(b"x"), offset, Some(len)).is_err());
    }
    let past_end = FileSegment::new(file_of(b"x"), 5, None).expect("nothing there");
    assert!(past_end.is_empty());
}

#[test]
fn lengths_beyond_4_gib_are_counted() {
    const GIB: u64 = 1 << 30;
    let segment = sparse(6 * GIB);
    let mut buffer = EvBuffer::new();
    buffer.add(b"front").expect("not frozen");
    buffer.add_file_segment(&segment, 0, None).expect("within");
    buffer
        .add_file_segment(&segment, GIB, None)
        .expect("within");
    let len = (11 * GIB) as usize + 5;
    assert_eq!(buffer.len(), len);
    let mut out = [1; 10];
    let far = buffer.ptr(len - 10).expect("within");
    assert_eq!(buffer.copyout_from(far, &mut out).expect("readable"), 10);
    assert_eq!(out, [0; 10]);
    let half = buffer.split_to(len / 2).expect("not frozen");
    assert_eq!(half.len(), len / 2);
    assert_eq!(
        buffer.drain(5 * GIB as usize).expect("not frozen"),
        5 * GIB as usize
    );
    assert_eq!(buffer.len(), len - len / 2 - 5 * GIB as usize);
    // 6 GiB of one megabyte that is shared over and over.
    let megabyte = Bytes::from(vec![b'x'; 1 << 20]);
    let mut shared = EvBuffer::new();
    for _ in 0..6 << 10 {
        shared.add_piece(megabyte.clone()).expect("not frozen");
    }
    assert_eq!(shared.len() as u64, 6 * GIB);
    let at = shared.ptr(5 * GIB as usize).expect("within");
    assert_eq!(shared.search(b"x", at), Some(at));
    assert_eq!(shared.remaining() as u64, 6 * GIB);
}

#[test]
fn lengths_that_cannot_be_counted_are_refused() {
    // A sparse file of the largest size that offsets allow, twice.
    let file = Arc::new(tempfile::tempfile().expect("a temporary file"));
    let most = FileSegment::new(file, 0, Some(i64::MAX as u64)).expect("within offsets");
    let mut buffer = EvBuffer::new();
    buffer
        .add_file_segment(&most, 0, None)
        .expect("as long as can be");
    assert_eq!(buffer.len(), HUGE);
    let mut other = EvBuffer::new();
    other
        .add_file_segment(&most, 0, None)
        .expect("as long as can be");
    assert!(matches!(buffer.add(b"x"), Err(BufferError::TooLong)));
    assert!(matches!(buffer.prepend(b"x"), Err(BufferError::TooLong)));
    assert!(matches!(buffer.add_piece("x"), Err(BufferError::TooLong)));
    assert!(matches!(
        buffer.add_buffer(&mut other),
        Err(BufferError::TooLong)
    ));
    assert!(matches!(
        buffer.prepend_buffer(&mut other),
        Err(BufferError::TooLong)
    ));
    assert!(matches!(
        other.remove_buffer(&mut buffer, 5),
        Err(BufferError::TooLong)
    ));
    assert!(matches!(
        buffer.add_buffer_reference(&other),
        Err(BufferError::TooLong)
    ));
    assert!(matches!(
        buffer.add_fmt(format_args!("{}", 1)),
        Err(BufferError::TooLong)
    ));
    assert!(matches!(
        buffer.add_iovec(&[IoSlice::new(b"x")]),
        Err(BufferError::TooLong)
    ));
    assert!(buffer.reserve_space(1).is_err());
    assert!(buffer.add_file_segment(&most, 0, Some(1)).is_err());
    assert!(buffer.to_vec().is_err());
    assert!(buffer.pullup(HUGE).is_err());
    assert_eq!(buffer.remaining_mut(), 0);
    assert_eq!((buffer.len(), other.len()), (HUGE, HUGE));
    assert_eq!(buffer.drain(HUGE).expect("not frozen"), HUGE);
}

#[test]
fn a_descriptor_takes_and_gives_bytes() {
    let (a, b) = UnixStream::pair().expect("a socket pair");
    b.set_nonblocking(true).expect("nonblocking");
    let mut out = of(&["one ", "two ", "three"]);
    let mut back = EvBuffer::new();
    let empty = back.read_from(&b, None).expect_err("nothing there yet");
    assert!(matches!(&empty, BufferError::Io(e) if e.kind() == io::ErrorKind::WouldBlock));
    assert_eq!(out.write_to(&a, Some(6)).expect("room"), 6);
    assert_eq!(out.write_to(&a, Some(0)).expect("nothing"), 0);
    assert_eq!(out.write_to(&a, None).expect("room"), 7);
    assert_eq!(back.read_from(&b, Some(3)).expect("waiting"), 3);
    assert_eq!(back.read_from(&b, Some(0)).expect("nothing"), 0);
    assert_eq!(back.read_from(&b, None).expect("waiting"), 10);
    assert_eq!(content(&back), "one two three");
    drop(a);
    assert_eq!(back.read_from(&b, None).expect("the end"), 0);
    let broken = back.write_to(&b, None).expect_err("nobody there");
    assert!(matches!(broken, BufferError::Io(e) if e.kind() == io::ErrorKind::BrokenPipe));
    assert_eq!(back.len(), 13);
}

#[test]
fn reads_stop_at_their_limits() {
    let (mut a, b) = UnixStream::pair().expect("a socket pair");
    a.write_all(&[7; 1000]).expect("room");
    let mut buffer = EvBuffer::new();
    assert_eq!((buffer.max_read(), buffer.max_len()), (64 * 1024, None));
    buffer.set_max_read(300);
    assert_eq!(buffer.read_from(&b, None).expect("waiting"), 300);
    buffer.set_max_len(Some(450));
    assert_eq!(buffer.read_from(&b, None).expect("waiting"), 150);
    assert!(matches!(
        buffer.read_from(&b, None),
        Err(BufferError::Full(450))
    ));
    assert_eq!(buffer.len(), 450);
    buffer.drain(100).expect("not frozen");
    assert_eq!(buffer.read_from(&b, None).expect("waiting"), 100);
    buffer.set_max_len(None);
    buffer.set_max_read(0);
    assert_eq!(buffer.read_from(&b, None).expect("waiting"), 450);
}

#[test]
fn large_transfers_through_descriptors_are_whole() {
    let data: Vec<u8> = (0..3_000_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let (a, b) = UnixStream::pair().expect("a socket pair");
    let mut out = EvBuffer::from(data.clone());
    out.prepend(b"head").expect("not frozen");
    out.add_file(file_of(&data), 10, None)
        .expect("a plain file");
    let expected = [b"head", &data[..], &data[10..]].concat();
    let writer = std::thread::spawn(move || {
        while !out.is_empty() {
            out.write_to(&a, None).expect("the reader reads");
        }
    });
    let mut back = EvBuffer::new();
    while back.read_from(&b, None).expect("the writer writes") > 0 {}
    writer.join().expect("no panic");
    assert!(back.to_vec().expect("in memory") == expected);
}

#[test]
fn a_file_goes_to_a_descriptor_that_cannot_splice() {
    // An O_APPEND file refuses sendfile.
    let target = tempfile::NamedTempFile::new().expect("a temporary file");
    let append = File::options()
        .append(true)
        .open(target.path())
        .expect("there");
    let mut buffer = EvBuffer::new();
    buffer
        .add_file(file_of(b"from a file"), 5, None)
        .expect("a plain file");
    assert_eq!(buffer.write_to(&append, None).expect("copied"), 6);
    assert_eq!(std::fs::read(target.path()).expect("there"), b"a file");
}

#[test]
fn a_reader_and_writer_of_std() {
    let mut buffer = EvBuffer::new();
    write!(buffer, "{} two\nsecond\n", 1).expect("not frozen");
    let mut line = String::new();
    assert_eq!(buffer.read_line(&mut line).expect("text"), 6);
    assert_eq!(line, "1 two\n");
    let mut rest = String::new();
    buffer.read_to_string(&mut rest).expect("text");
    assert_eq!(rest, "second\n");
    assert!(buffer.read_exact(&mut [0; 1]).is_err());
    let copied = io::copy(&mut of(&["a", "b"]), &mut buffer).expect("in memory");
    assert_eq!((copied, content(&buffer)), (2, "ab".into()));
    buffer.consume(usize::MAX);
    assert!(buffer.is_empty());
}

#[test]
fn a_failed_read_exact_takes_nothing() {
    let mut buffer = of(&["abc"]);
    assert!(buffer.read_exact(&mut [0; 4]).is_err());
    assert_eq!(content(&buffer), "abc");
}

#[test]
fn a_buf_and_buf_mut() {
    let mut buffer = EvBuffer::new();
    buffer.put_u16(0x0102);
    buffer.put_slice(&[9; 600]);
    buffer.put_u32_le(7);
    assert_eq!(buffer.remaining(), 606);
    assert_eq!(buffer.get_u16(), 0x0102);
    Buf::advance(&mut buffer, 600);
    assert_eq!(buffer.get_u32_le(), 7);
    assert!(!buffer.has_remaining());
    Buf::advance(&mut buffer, usize::MAX);
    assert!(buffer.copy_to_bytes(usize::MAX).is_empty());
    let mut shared = of(&["abcdef", "gh"]);
    let address = shared.contiguous().as_ptr();
    assert_eq!(shared.copy_to_bytes(4).as_ptr(), address);
    assert_eq!(shared.copy_to_bytes(4), "efgh");
    let mut frozen = of(&["abc"]);
    frozen.freeze_start();
    frozen.freeze_end();
    assert_eq!((frozen.remaining(), frozen.remaining_mut()), (0, 0));
    assert!(frozen.chunk().is_empty());
    assert_eq!(frozen.chunk_mut().len(), 0);
    Buf::advance(&mut frozen, 2);
    assert_eq!(frozen.len(), 3);
}

#[test]
fn conversions_copy_nothing_for_one_segment() {
    let vec = vec![5; 1000];
    let address = vec.as_ptr();
    let bytes = EvBuffer::from(vec).into_bytes().expect("in memory");
    assert_eq!(bytes.as_ptr(), address);
    let mut heap = EvBuffer::new();
    heap.add(b"on the heap").expect("not frozen");
    let address = heap.contiguous().as_ptr();
    let bytes = Bytes::try_from(heap).expect("in memory");
    assert_eq!((bytes.as_ptr(), &bytes[..]), (address, &b"on the heap"[..]));
    assert_eq!(of(&["a", "b"]).into_bytes().expect("in memory"), "ab");
    assert_eq!(EvBuffer::new().into_bytes().expect("in memory"), "");
    assert_eq!(content(&EvBuffer::from(String::from("text"))), "text");
    assert_eq!(
        content(&EvBuffer::from(Bytes::from_static(b"bytes"))),
        "bytes"
    );
    assert_eq!(content(&EvBuffer::from(&b"slice"[..])), "slice");
}

#[test]
fn it_collects_and_extends() {
    let mut buffer: EvBuffer = [&b"ab"[..], b"cd"].into_iter().collect();
    buffer.extend(*b"ef");
    buffer.extend(b"gh");
    buffer.extend([Bytes::from_static(b"ij")]);
    buffer.extend([Piece::from_static(b"kl")]);
    buffer.extend([vec![b'm']]);
    assert_eq!(content(&buffer), "abcdefghijklm");
    assert_eq!((&buffer).into_iter().flatten().count(), 13);
    assert!(buffer.iter_bytes().eq(*b"abcdefghijklm"));
    buffer.freeze_end();
    buffer.extend(*b"no");
    assert_eq!(buffer.len(), 13);
}

#[test]
fn debug_shows_the_shape_and_not_the_bytes() {
    let mut buffer = of(&["abc"]);
    buffer.add(b"defg").expect("not frozen");
    buffer
        .add_file(file_of(b"0123456789"), 0, None)
        .expect("a plain file");
    buffer.freeze_end();
    assert_eq!(
        format!("{buffer:?}"),
        "EvBuffer(17 bytes: static 3, heap 4+508, file 10; end frozen)"
    );
    let many: EvBuffer = std::iter::repeat_n(Bytes::from_static(b"x"), 100).collect();
    assert!(format!("{many:?}").ends_with(", shared 1, 92 more)"));
}

#[test]
fn slots_return_when_their_bytes_are_gone() {
    let arena = Arena::new(ArenaConfig::default().slot_size(4096).max_bytes(4 * 4096))
        .expect("a small arena maps");
    let mut input = EvBuffer::new();
    for text in [&b"request"[..], b"body"] {
        let slot = arena.take().expect("free");
        input.add_piece(slot.filled_with(text)).expect("not frozen");
    }
    let mut output = EvBuffer::new();
    let before = copied_bytes();
    output.add_buffer(&mut input).expect("not frozen");
    let line = output.remove_piece(7).expect("there");
    assert_eq!(copied_bytes(), before);
    assert_eq!(arena.available(), 2);
    output.drain(4).expect("not frozen");
    assert_eq!(arena.available(), 3);
    let bytes = Bytes::from(line);
    assert_eq!(arena.available(), 3);
    drop(bytes);
    assert_eq!(arena.stats().slots_live, 0);
}
