//! The same loops as peer.c, on EvBuffer. Each returns the nanoseconds that its timed part took.

use evring::arena::Piece;
use evring::evbuffer::{BufferError, Eol, EvBuffer, Ptr};
use std::hint::black_box;
use std::io::IoSlice;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

type Timed = Result<u64, BufferError>;

/// Bytes of the memory that both sides copy from and to.
pub(crate) const SHARED: usize = 1 << 20;

/// Where in its page a sink begins: neither where the source nor where a block begins, since loads
/// and stores at equal page offsets get into each other's way.
const SINK_OFFSET: usize = 2048 + 256;

/// Memory aligned like a page, of distinct pages: a zeroed static would be one page of zeros over
/// and over on one side only.
#[repr(align(4096))]
struct Aligned([u8; SHARED + SINK_OFFSET]);

static SOURCE: LazyLock<&'static [u8]> = LazyLock::new(|| &aligned(1)[..SHARED]);
static SINK: LazyLock<Mutex<&'static mut [u8]>> =
    LazyLock::new(|| Mutex::new(&mut aligned(2)[SINK_OFFSET..]));

/// Gives the C side its memory: the same source, and a sink of the same alignment.
pub(crate) fn prepare() {
    crate::peer::share(*SOURCE, &mut aligned(3)[SINK_OFFSET..]);
}

fn aligned(byte: u8) -> &'static mut [u8] {
    &mut Box::leak(Box::new(Aligned([byte; SHARED + SINK_OFFSET]))).0
}

fn source(size: usize) -> &'static [u8] {
    &SOURCE[..size]
}

/// Runs with a part of the sink.
fn with_sink(size: usize, run: impl FnOnce(&mut [u8]) -> Timed) -> Timed {
    let mut sink = SINK.lock().unwrap_or_else(PoisonError::into_inner);
    run(&mut sink[..size])
}

pub(crate) fn add_remove(size: usize, rounds: usize) -> Timed {
    let mut buffer = EvBuffer::new();
    with_sink(size, |sink| {
        timed(|| {
            for _ in 0..rounds {
                black_box(&mut buffer).add(black_box(source(size)))?;
                black_box(&mut buffer).remove(black_box(&mut *sink))?;
            }
            Ok(())
        })
    })
}

pub(crate) fn burst(size: usize, rounds: usize) -> Timed {
    let mut buffer = EvBuffer::new();
    timed(|| {
        for _ in 0..rounds {
            for _ in 0..64 {
                black_box(&mut buffer).add(black_box(source(size)))?;
            }
            black_box(&mut buffer).drain(size * 64)?;
        }
        Ok(())
    })
}

pub(crate) fn readln(line: usize, rounds: usize) -> Timed {
    let mut text = vec![b'x'; (1 << 20) / line * line];
    text.iter_mut()
        .skip(line - 1)
        .step_by(line)
        .for_each(|byte| *byte = b'\n');
    let mut spent = 0;
    for _ in 0..rounds {
        let mut buffer = EvBuffer::new();
        buffer.add(&text)?;
        spent += timed(|| {
            while let Some(line) = black_box(&mut buffer).readln(Eol::Lf)? {
                black_box(line);
            }
            Ok(())
        })?;
    }
    Ok(spent)
}

/// A segment to search through, aligned as a compiler aligns a C array of its size.
#[repr(align(32))]
struct Filler([u8; 1024]);

static FILLER: Filler = Filler([b'a'; 1024]);

pub(crate) fn search(segments: usize, rounds: usize) -> Timed {
    let mut buffer = EvBuffer::new();
    for _ in 0..segments - 2 {
        buffer.add_piece(&FILLER.0[..])?;
    }
    let mut before = [b'a'; 1024];
    before[1020..].copy_from_slice(b"need");
    let mut after = [b'a'; 1024];
    after[..9].copy_from_slice(b"le-in-hay");
    buffer.add_piece(Piece::copy_from(&before))?;
    buffer.add_piece(Piece::copy_from(&after))?;
    timed(|| {
        for _ in 0..rounds {
            let found = black_box(&buffer).search(black_box(b"needle-in-hay"), Ptr::START);
            assert_eq!(found.map(Ptr::pos), Some((segments - 1) * 1024 - 4));
        }
        Ok(())
    })
}

pub(crate) fn move_chain(segments: usize, rounds: usize) -> Timed {
    let (mut a, mut b) = (EvBuffer::new(), EvBuffer::new());
    for _ in 0..segments {
        a.add_piece(source(100))?;
    }
    timed(|| {
        for _ in 0..rounds {
            black_box(&mut b).add_buffer(black_box(&mut a))?;
            black_box(&mut a).add_buffer(black_box(&mut b))?;
        }
        Ok(())
    })
}

pub(crate) fn reference(size: usize, rounds: usize) -> Timed {
    let mut buffer = EvBuffer::new();
    timed(|| {
        for _ in 0..rounds {
            black_box(&mut buffer).add_piece(black_box(source(size)))?;
            black_box(&mut buffer).drain(size)?;
        }
        Ok(())
    })
}

pub(crate) fn prepend(size: usize, rounds: usize) -> Timed {
    let mut buffer = EvBuffer::new();
    buffer.add(source(100))?;
    timed(|| {
        for _ in 0..rounds {
            black_box(&mut buffer).prepend(black_box(source(size)))?;
            black_box(&mut buffer).drain(size)?;
        }
        Ok(())
    })
}

pub(crate) fn pullup(segments: usize, rounds: usize) -> Timed {
    let mut buffer = EvBuffer::new();
    timed(|| {
        for _ in 0..rounds {
            for _ in 0..segments {
                buffer.add_piece(source(1024))?;
            }
            black_box(black_box(&mut buffer).pullup(segments * 1024)?);
            black_box(&mut buffer).drain(segments * 1024)?;
        }
        Ok(())
    })
}

pub(crate) fn copyout(size: usize, rounds: usize) -> Timed {
    let mut buffer = EvBuffer::new();
    for _ in 0..64 {
        buffer.add_piece(source(1024))?;
    }
    with_sink(size, |sink| {
        timed(|| {
            for _ in 0..rounds {
                black_box(&buffer).copyout(black_box(&mut *sink))?;
            }
            Ok(())
        })
    })
}

pub(crate) fn remove_buffer(size: usize, rounds: usize) -> Timed {
    let (mut a, mut b) = (EvBuffer::new(), EvBuffer::new());
    timed(|| {
        for _ in 0..rounds {
            for _ in 0..16 {
                a.add_piece(source(4096))?;
            }
            while !a.is_empty() {
                black_box(&mut a).remove_buffer(black_box(&mut b), size)?;
            }
            b.drain(usize::MAX)?;
        }
        Ok(())
    })
}

pub(crate) fn reserve(size: usize, rounds: usize) -> Timed {
    let mut buffer = EvBuffer::new();
    timed(|| {
        for _ in 0..rounds {
            let mut room = black_box(&mut buffer).reserve_space(size)?;
            black_box(room.as_mut_slice());
            room.commit(size)?;
            black_box(&mut buffer).drain(size)?;
        }
        Ok(())
    })
}

pub(crate) fn peek(segments: usize, rounds: usize) -> Timed {
    let mut buffer = EvBuffer::new();
    for _ in 0..segments {
        buffer.add_piece(source(1024))?;
    }
    let mut slices = [IoSlice::new(&[]); 64];
    timed(|| {
        for _ in 0..rounds {
            let seen = black_box(&buffer).peek(Ptr::START, usize::MAX, &mut slices);
            assert_eq!(seen, segments);
            black_box(&slices);
        }
        Ok(())
    })
}

pub(crate) fn new_free(size: usize, rounds: usize) -> Timed {
    timed(|| {
        for _ in 0..rounds {
            let mut buffer = EvBuffer::new();
            black_box(&mut buffer).add(black_box(source(size)))?;
            drop(black_box(buffer));
        }
        Ok(())
    })
}

pub(crate) fn add_fmt(_size: usize, rounds: usize) -> Timed {
    let mut buffer = EvBuffer::new();
    timed(|| {
        for round in 0..rounds {
            black_box(&mut buffer).add_fmt(format_args!("{round}:{}", black_box("text")))?;
            black_box(&mut buffer).drain(64)?;
        }
        Ok(())
    })
}

fn timed(run: impl FnOnce() -> Result<(), BufferError>) -> Timed {
    let start = crate::peer::now();
    run()?;
    Ok(crate::peer::now() - start)
}

/// How long one sample of a case should take.
pub(crate) const SAMPLE: Duration = Duration::from_millis(4);
