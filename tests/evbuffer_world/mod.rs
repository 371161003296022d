//! Two buffers beside two vectors: every step does the same to both and compares. Shared by the
//! property test and the fuzz target.

use bytes::{Buf, BufMut, Bytes};
use evring::arena::{Arena, ArenaConfig, Piece};
use evring::evbuffer::{BufferError, Eol, EvBuffer, FileSegment, Ptr};
use std::collections::VecDeque;
use std::io::{BufRead, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// One random step: which operation, on which buffer, with which arguments.
#[derive(Debug, Clone)]
pub struct Step {
    pub op: u8,
    pub second: bool,
    pub a: u32,
    pub b: u32,
    pub data: Vec<u8>,
}

const FILE_BYTES: usize = 200_000;
const EOLS: [Eol; 5] = [Eol::Any, Eol::Crlf, Eol::CrlfStrict, Eol::Lf, Eol::Nul];
/// Lengths above this are cut back, so that a long run stays fast.
const ENOUGH: usize = 600_000;

pub struct World {
    real: [EvBuffer; 2],
    model: [Vec<u8>; 2],
    frozen_start: [bool; 2],
    frozen_end: [bool; 2],
    /// Shares of earlier content, as if being sent: they must never change.
    pins: VecDeque<(EvBuffer, Vec<u8>)>,
    /// What the callback on buffer 0 has heard of.
    added: Arc<AtomicUsize>,
    deleted: Arc<AtomicUsize>,
    arena: Arena,
    file: FileSegment,
    file_bytes: Vec<u8>,
    sockets: (UnixStream, UnixStream),
}

impl World {
    pub fn new() -> Self {
        let (file, file_bytes) = file();
        let sockets = UnixStream::pair().expect("a socket pair");
        sockets.0.set_nonblocking(true).expect("nonblocking");
        sockets.1.set_nonblocking(true).expect("nonblocking");
        let mut world = World {
            real: Default::default(),
            model: Default::default(),
            frozen_start: [false; 2],
            frozen_end: [false; 2],
            pins: VecDeque::new(),
            added: Arc::default(),
            deleted: Arc::default(),
            arena: Arena::new(ArenaConfig::default().slot_size(4096).max_bytes(64 * 4096))
                .expect("a small arena maps"),
            file,
            file_bytes,
            sockets,
        };
        let (added, deleted) = (world.added.clone(), world.deleted.clone());
        world.real[0].add_callback(move |buffer, change| {
            added.fetch_add(change.added, Ordering::Relaxed);
            deleted.fetch_add(change.deleted, Ordering::Relaxed);
            assert_eq!(
                buffer.len() + change.deleted,
                change.orig_len + change.added
            );
        });
        world
    }

    /// Does one step to the buffers and to the model, and compares.
    pub fn step(&mut self, step: &Step) {
        let me = usize::from(step.second);
        let other = 1 - me;
        let len = self.model[me].len();
        let (a, b) = (argument(step.a, len), argument(step.b, len));
        let data = long(&step.data, step.b);
        let start_frozen = self.frozen_start[me];
        let end_frozen = self.frozen_end[me];
        match step.op % 38 {
            0 => self.appended(me, |buffer| buffer.add(&data).map(|()| data.clone())),
            1 => self.appended(me, |buffer| {
                let piece = match step.a % 3 {
                    0 => Piece::from(Bytes::from(data.clone())),
                    1 => Piece::from(data.clone()),
                    _ => Piece::copy_from(&data),
                };
                buffer.add_piece(piece).map(|()| data.clone())
            }),
            2 => {
                let Some(slot) = self.arena.take() else {
                    return;
                };
                let n = data.len().min(4096);
                self.appended(me, |buffer| {
                    buffer
                        .add_piece(slot.filled_with(&data))
                        .map(|()| data[..n].to_vec())
                });
            }
            3 => {
                let (mine, theirs) = pair(&mut self.real, me);
                let result = mine.add_buffer(theirs);
                let allowed = !end_frozen && !self.frozen_start[other];
                assert_eq!(result.is_ok(), allowed);
                if allowed {
                    let moved = std::mem::take(&mut self.model[other]);
                    self.model[me].extend(moved);
                }
            }
            4 | 5 => {
                let result = if step.op % 38 == 4 {
                    self.real[me].prepend(&data)
                } else {
                    self.real[me].prepend_piece(data.clone())
                };
                assert_eq!(result.is_ok(), !start_frozen);
                if !start_frozen {
                    self.model[me].splice(0..0, data);
                }
            }
            6 => {
                let (mine, theirs) = pair(&mut self.real, me);
                let result = mine.prepend_buffer(theirs);
                let allowed = !start_frozen && !self.frozen_start[other];
                assert_eq!(result.is_ok(), allowed);
                if allowed {
                    let moved = std::mem::take(&mut self.model[other]);
                    self.model[me].splice(0..0, moved);
                }
            }
            7 => {
                let drained = self.real[me].drain(a);
                assert_eq!(drained.is_ok(), !start_frozen);
                if let Ok(drained) = drained {
                    assert_eq!(drained, a.min(len));
                    self.model[me].drain(..drained);
                }
            }
            8 => {
                let mut out = vec![0; a.min(len + 100)];
                let removed = self.real[me].remove(&mut out);
                assert_eq!(removed.is_ok(), !start_frozen);
                if let Ok(removed) = removed {
                    assert_eq!(removed, out.len().min(len));
                    assert!(
                        self.model[me]
                            .drain(..removed)
                            .eq(out[..removed].iter().copied())
                    );
                }
            }
            9 => {
                let (mine, theirs) = pair(&mut self.real, me);
                let moved = mine.remove_buffer(theirs, a);
                let allowed = !start_frozen && !self.frozen_end[other];
                assert_eq!(moved.is_ok(), allowed);
                if let Ok(moved) = moved {
                    assert_eq!(moved, a.min(len));
                    let moved: Vec<u8> = self.model[me].drain(..moved).collect();
                    self.model[other].extend(moved);
                }
            }
            10 => {
                let front = self.real[me].split_to(a);
                assert_eq!(front.is_ok(), !start_frozen);
                if let Ok(front) = front {
                    let expected: Vec<u8> = self.model[me].drain(..a.min(len)).collect();
                    self.pins.push_back((front, expected));
                }
            }
            11 => {
                let theirs = self.model[other].clone();
                let (mine, from) = pair(&mut self.real, me);
                let result = mine.add_buffer_reference(from);
                assert_eq!(result.is_ok(), !end_frozen);
                if !end_frozen {
                    self.model[me].extend(theirs);
                }
            }
            12 => {
                // Mostly thawed, so that the other steps get to do something.
                self.frozen_start[me] = step.a.is_multiple_of(4);
                self.frozen_end[me] = step.b.is_multiple_of(4);
                let buffer = &mut self.real[me];
                match self.frozen_start[me] {
                    true => buffer.freeze_start(),
                    false => buffer.unfreeze_start(),
                }
                match self.frozen_end[me] {
                    true => buffer.freeze_end(),
                    false => buffer.unfreeze_end(),
                }
            }
            13 => {
                let buffer = &self.real[me];
                let ptr = buffer.ptr(a);
                assert_eq!(ptr.is_ok(), a <= len);
                assert_eq!(buffer.ptr_add(Ptr::START, a).is_ok(), a <= len);
                if let Ok(ptr) = ptr {
                    assert_eq!(buffer.ptr_add(ptr, b).is_ok(), a.saturating_add(b) <= len);
                    let mut out = vec![0; b.min(len + 100)];
                    let copied = buffer.copyout_from(ptr, &mut out).expect("readable");
                    assert_eq!(copied, out.len().min(len - a));
                    assert_eq!(out[..copied], self.model[me][a..a + copied]);
                }
            }
            14 => match self.real[me].pullup(a) {
                Ok(bytes) => assert_eq!(bytes, &self.model[me][..a]),
                Err(error) => {
                    assert!(a > len && matches!(error, BufferError::OutOfRange { .. }));
                }
            },
            15 => match self.real[me].pullup_mut(a) {
                Ok(bytes) => {
                    assert_eq!(bytes, &self.model[me][..a]);
                    bytes
                        .iter_mut()
                        .for_each(|byte| *byte = byte.wrapping_add(1));
                    let model = self.model[me][..a].iter_mut();
                    model.for_each(|byte| *byte = byte.wrapping_add(1));
                }
                Err(_) => assert!(a > len),
            },
            16 => match self.real[me].pop_piece() {
                Ok(Some(piece)) => {
                    assert!(!piece.is_empty());
                    assert!(
                        self.model[me]
                            .drain(..piece.len())
                            .eq(piece.iter().copied())
                    );
                    self.pins.push_back((piece.clone().into(), piece.to_vec()));
                }
                Ok(None) => assert!(len == 0 && !start_frozen),
                Err(_) => assert!(start_frozen),
            },
            17 => match self.real[me].remove_piece(a) {
                Ok(piece) => assert!(self.model[me].drain(..a).eq(piece.iter().copied())),
                Err(_) => assert!(start_frozen || a > len),
            },
            18 => {
                let buffer = &self.real[me];
                let Ok(ptr) = buffer.ptr(a) else { return };
                let mut slices = [IoSlice::new(&[]); 5];
                let needed = buffer.peek(ptr, b, &mut slices);
                let shown: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
                let expected = &self.model[me][a..a.saturating_add(b).min(len)];
                assert!(expected.starts_with(&shown));
                if needed <= slices.len() {
                    let resident = buffer.resident_len().saturating_sub(a);
                    assert_eq!(shown.len(), expected.len().min(resident));
                }
            }
            19 => {
                let what = &step.data[..step.data.len().min(4)];
                let buffer = &self.real[me];
                let from = buffer.ptr(a.min(len)).expect("within");
                let to = buffer.ptr(b.min(len)).expect("within");
                let resident = &self.model[me][..buffer.resident_len()];
                assert_eq!(
                    buffer.search(what, from).map(Ptr::pos),
                    find(resident, len, what, from.pos(), len)
                );
                assert_eq!(
                    buffer.search_range(what, from, to).map(Ptr::pos),
                    find(resident, len, what, from.pos(), to.pos())
                );
            }
            20 => {
                let style = EOLS[step.b as usize % EOLS.len()];
                let resident = self.real[me].resident_len();
                let from = self.real[me].ptr(a.min(len)).expect("within");
                assert_eq!(
                    self.real[me]
                        .search_eol(from, style)
                        .map(|(ptr, eol)| (ptr.pos(), eol)),
                    find_eol(&self.model[me][..resident], from.pos(), style)
                );
                match self.real[me].readln(style) {
                    Err(_) => assert!(start_frozen),
                    Ok(None) => assert_eq!(find_eol(&self.model[me], 0, style), None),
                    Ok(Some(line)) => {
                        let (at, eol) = find_eol(&self.model[me], 0, style).expect("a line");
                        assert_eq!(&line[..], &self.model[me][..at]);
                        self.model[me].drain(..at + eol);
                        self.pins.push_back((line.clone().into(), line.to_vec()));
                    }
                }
            }
            21 => {
                let n = a.min(100_000);
                self.real[me].expand(n).expect("memory for a small block");
                assert!(self.real[me].expand(usize::MAX).is_err());
                assert!(self.real[me].expand(isize::MAX as usize - len).is_err());
            }
            22 | 23 => {
                let vectored = step.op % 38 == 23;
                let n = data.len();
                let room = match vectored {
                    true => self.real[me].reserve_vectored(n),
                    false => self.real[me].reserve_space(n),
                };
                assert_eq!(room.is_ok(), !end_frozen);
                let Ok(mut room) = room else { return };
                assert!(room.len() >= n);
                let mut source = &data[..];
                for extent in room.extents() {
                    let part = extent.len().min(source.len());
                    extent[..part].copy_from_slice(&source[..part]);
                    source = &source[part..];
                }
                assert!(source.is_empty());
                match step.a % 4 {
                    0 => drop(room),
                    1 => assert!(room.commit(usize::MAX).is_err()),
                    _ => {
                        let keep = n.min(step.b as usize % (n + 1));
                        room.commit(keep).expect("within the reservation");
                        self.model[me].extend(&data[..keep]);
                    }
                }
            }
            24 => self.appended(me, |buffer| {
                let parts = data.split_at(data.len() / 3);
                let total = buffer.add_iovec(&[IoSlice::new(parts.0), IoSlice::new(parts.1)])?;
                assert_eq!(total, data.len());
                Ok(data.clone())
            }),
            25 => self.appended(me, |buffer| {
                struct Refuses;
                impl std::fmt::Display for Refuses {
                    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.pad("half of it")?;
                        Err(std::fmt::Error)
                    }
                }
                assert!(
                    buffer
                        .add_fmt(format_args!("{}{:700}{}", 1, 2, Refuses))
                        .is_err()
                );
                let added = buffer.add_fmt(format_args!("{:>5}|{a:x}", step.a))?;
                let text = format!("{:>5}|{a:x}", step.a);
                assert_eq!(added, text.len());
                Ok(text.into_bytes())
            }),
            26 => {
                let buffer = &mut self.real[me];
                let resident = if start_frozen {
                    0
                } else {
                    buffer.resident_len()
                };
                assert_eq!(buffer.remaining(), resident);
                assert_eq!(buffer.chunk().is_empty(), resident == 0);
                let mut slices = [IoSlice::new(&[]); 3];
                assert!(buffer.chunks_vectored(&mut slices) <= 3);
                let bytes = buffer.copy_to_bytes(a);
                assert_eq!(bytes.len(), a.min(resident));
                assert!(self.model[me].drain(..bytes.len()).eq(bytes));
                if !start_frozen {
                    let left = self.model[me].len();
                    Buf::advance(&mut self.real[me], b);
                    self.model[me].drain(..b.min(left));
                }
            }
            27 => {
                assert_eq!(self.real[me].remaining_mut() == 0, end_frozen);
                if !end_frozen {
                    self.real[me].put_slice(&data);
                    self.real[me].put_bytes(7, data.len());
                    self.real[me].put(&data[..]);
                    self.model[me].extend(&data);
                    self.model[me].extend(vec![7; data.len()]);
                    self.model[me].extend(&data);
                }
            }
            28 => {
                if start_frozen {
                    assert!(self.real[me].fill_buf().is_err());
                    assert!(self.real[me].read(&mut [0; 9]).is_err());
                    return;
                }
                let n = a.min(len + 1);
                let mut out = vec![0; n];
                assert_eq!(self.real[me].read_exact(&mut out).is_ok(), n <= len);
                if n <= len {
                    assert!(self.model[me].drain(..n).eq(out));
                }
                let mut until = Vec::new();
                self.real[me]
                    .read_until(b'\n', &mut until)
                    .expect("not frozen");
                assert!(
                    self.model[me]
                        .drain(..until.len())
                        .eq(until.iter().copied())
                );
                assert!(until.ends_with(b"\n") || self.model[me].is_empty());
            }
            29 => self.appended(me, |buffer| {
                buffer.write_all(&data)?;
                let _ = buffer.write_vectored(&[IoSlice::new(&data)])?;
                std::fmt::Write::write_str(buffer, "é").expect("not frozen");
                Ok([&data, &data, "é".as_bytes()].concat())
            }),
            30 => {
                let offset = step.a as usize % (FILE_BYTES + 2);
                let n = step.b as usize % 90_000;
                let result =
                    self.real[me].add_file_segment(&self.file, offset as u64, Some(n as u64));
                let allowed = !end_frozen && offset + n <= FILE_BYTES;
                assert_eq!(result.is_ok(), allowed);
                if allowed {
                    self.model[me].extend(&self.file_bytes[offset..offset + n]);
                }
                let past = self.real[me].add_file_segment(&self.file, u64::MAX, Some(u64::MAX));
                assert!(past.is_err());
            }
            31 => {
                self.real[me].load(a).expect("the file is there");
                assert!(self.real[me].resident_len() >= a.min(len));
            }
            32 => {
                let mut pin = EvBuffer::new();
                pin.add_buffer_reference(&self.real[me])
                    .expect("not frozen");
                self.pins.push_back((pin, self.model[me].clone()));
            }
            33 => drop(self.pins.pop_front()),
            34 => {
                self.real[me].extend(data.iter().copied());
                self.real[me].extend([&data[..], b"end"]);
                if !end_frozen {
                    self.model[me].extend(&data);
                    self.model[me].extend(&data);
                    self.model[me].extend(b"end");
                }
            }
            35 => self.through_a_socket(me, a),
            36 => {
                if let Ok(all) = self.real[me].split_to(usize::MAX) {
                    let bytes = all.into_bytes().expect("readable");
                    assert_eq!(bytes, std::mem::take(&mut self.model[me]));
                }
            }
            _ => {
                self.real[me].set_max_len(step.a.is_multiple_of(2).then_some(a));
                self.real[me].set_max_read(b);
            }
        }
        self.compare();
    }

    /// An append by `add`, which returns the bytes to expect; refused when the end is frozen.
    fn appended(
        &mut self,
        me: usize,
        add: impl FnOnce(&mut EvBuffer) -> Result<Vec<u8>, BufferError>,
    ) {
        match add(&mut self.real[me]) {
            Ok(bytes) => {
                assert!(!self.frozen_end[me]);
                self.model[me].extend(bytes);
            }
            Err(_) => assert!(self.frozen_end[me]),
        }
    }

    /// Writes at most `n` bytes of one buffer to a socket and reads them into the other.
    fn through_a_socket(&mut self, me: usize, n: usize) {
        let other = 1 - me;
        let len = self.model[me].len();
        let written = match self.real[me].write_to(&self.sockets.0, Some(n)) {
            Ok(written) => written,
            Err(_) => {
                assert!(self.frozen_start[me]);
                return;
            }
        };
        assert!(written <= n.min(len) && (written > 0 || n.min(len) == 0));
        let mut sent: VecDeque<u8> = self.model[me].drain(..written).collect();
        self.compare();
        while !sent.is_empty() {
            let before = self.model[other].len();
            let result = self.real[other].read_from(&self.sockets.1, None);
            let Ok(read) = result else {
                let full = self.real[other].max_len().is_some_and(|max| before >= max);
                assert!(self.frozen_end[other] || full, "{result:?}");
                // Not wanted there: take it out of the socket all the same.
                let mut rest = vec![0; sent.len()];
                (&self.sockets.1)
                    .read_exact(&mut rest)
                    .expect("it was sent");
                assert!(sent.drain(..).eq(rest));
                break;
            };
            assert!(read > 0 && read <= self.real[other].max_read());
            assert!(
                self.real[other]
                    .max_len()
                    .is_none_or(|max| before + read <= max)
            );
            self.model[other].extend(sent.drain(..read));
        }
    }

    fn compare(&mut self) {
        for me in 0..2 {
            let (real, model) = (&self.real[me], &self.model[me]);
            assert_eq!(real.len(), model.len());
            assert_eq!(real.is_empty(), model.is_empty());
            let mut at = 0;
            for segment in real {
                assert!(!segment.is_empty());
                assert_eq!(segment, &model[at..at + segment.len()]);
                at += segment.len();
            }
            assert_eq!(at, real.resident_len());
            if at < model.len() {
                assert_eq!(&real.to_vec().expect("the file is there"), model);
            }
            assert!(format!("{real:?}").len() < 800);
        }
        let heard = self.added.load(Ordering::Relaxed) - self.deleted.load(Ordering::Relaxed);
        assert_eq!(heard, self.real[0].len());
        for (pin, expected) in &self.pins {
            assert_eq!(pin.len(), expected.len());
            assert!(
                pin.iter_bytes()
                    .eq(expected[..pin.resident_len()].iter().copied())
            );
        }
        while self.pins.len() > 6 {
            self.pins.pop_front();
        }
        for me in 0..2 {
            if self.model[me].len() > ENOUGH && !self.frozen_start[me] {
                self.real[me].drain(ENOUGH / 2).expect("not frozen");
                self.model[me].drain(..ENOUGH / 2);
            }
        }
    }

    /// All slots come home once the buffers are gone.
    pub fn finish(self) {
        let arena = self.arena.clone();
        drop(self);
        assert_eq!(arena.stats().slots_live, 0);
    }
}

/// A length or position: mostly within or just past the buffer, sometimes absurd.
fn argument(raw: u32, len: usize) -> usize {
    let rest = raw as usize / 16;
    match raw % 16 {
        0 => usize::MAX - rest % 3,
        1 => isize::MAX as usize + rest % 3,
        2..8 => rest % 40,
        _ => rest % (len + 3),
    }
}

/// The data as they are, or repeated until they cross blocks.
fn long(data: &[u8], raw: u32) -> Vec<u8> {
    match raw % 8 {
        0 => data.repeat(raw as usize / 8 % 3000),
        1 => data.repeat(raw as usize / 8 % 40),
        _ => data.to_vec(),
    }
}

fn pair(real: &mut [EvBuffer; 2], me: usize) -> (&mut EvBuffer, &mut EvBuffer) {
    let [first, second] = real;
    if me == 0 {
        (first, second)
    } else {
        (second, first)
    }
}

fn find(seen: &[u8], len: usize, what: &[u8], from: usize, to: usize) -> Option<usize> {
    if what.is_empty() {
        return (from <= to.min(len)).then_some(from);
    }
    let seen = &seen[..to.min(seen.len())];
    (from..seen.len()).find(|&at| seen[at..].starts_with(what))
}

fn find_eol(seen: &[u8], from: usize, style: Eol) -> Option<(usize, usize)> {
    (from..seen.len()).find_map(|at| {
        let rest = &seen[at..];
        match style {
            Eol::Lf => rest.starts_with(b"\n").then_some((at, 1)),
            Eol::Nul => rest.starts_with(b"\0").then_some((at, 1)),
            Eol::CrlfStrict => rest.starts_with(b"\r\n").then_some((at, 2)),
            Eol::Crlf if rest.starts_with(b"\r\n") => Some((at, 2)),
            Eol::Crlf => rest.starts_with(b"\n").then_some((at, 1)),
            Eol::Any => {
                let run = rest
                    .iter()
                    .take_while(|byte| matches!(byte, b'\r' | b'\n'))
                    .count();
                (run > 0).then_some((at, run))
            }
        }
    })
}

/// A file with lines in it, made once.
fn file() -> (FileSegment, Vec<u8>) {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        (0..FILE_BYTES as u32)
            .map(|n| match n.wrapping_mul(2_654_435_761) >> 26 {
                0 => b'\r',
                1 => b'\n',
                2 => 0,
                other => b'a' + (other % 3) as u8,
            })
            .collect()
    });
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("room on disk");
    file.seek(SeekFrom::Start(0)).expect("seekable");
    (
        FileSegment::new(file, 0, None).expect("a plain file"),
        bytes.clone(),
    )
}
