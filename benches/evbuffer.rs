//! EvBuffer's hot operations. The comparison with libevent is `benches/evbuffer-peer`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use evring::evbuffer::{BufferError, Eol, EvBuffer, Ptr};
use std::hint::black_box;

const SIZES: [usize; 5] = [16, 64, 512, 4096, 65_536];
const MIB: usize = 1 << 20;

fn add_remove(c: &mut Criterion) {
    let mut group = c.benchmark_group("add+remove");
    let mut buffer = EvBuffer::new();
    for size in SIZES {
        let data = vec![1; size];
        let mut out = vec![0; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::from_parameter(size), &size, |bencher, _| {
            bencher.iter(|| -> Result<(), BufferError> {
                buffer.add(black_box(&data))?;
                buffer.remove(black_box(&mut out))?;
                Ok(())
            });
        });
    }
}

fn burst(c: &mut Criterion) {
    let mut group = c.benchmark_group("64 adds, drain");
    let mut buffer = EvBuffer::new();
    for size in SIZES {
        let data = vec![1; size];
        group.throughput(Throughput::Elements(64));
        group.bench_with_input(BenchmarkId::from_parameter(size), &size, |bencher, _| {
            bencher.iter(|| -> Result<(), BufferError> {
                for _ in 0..64 {
                    buffer.add(black_box(&data))?;
                }
                buffer.drain(64 * size)?;
                Ok(())
            });
        });
    }
}

fn readln(c: &mut Criterion) {
    let mut group = c.benchmark_group("readln");
    let line = [&[b'x'; 39][..], b"\n"].concat();
    let text = line.repeat(MIB / line.len());
    group.throughput(Throughput::Elements((text.len() / line.len()) as u64));
    group.bench_function("1 MiB of 40-byte lines", |bencher| {
        bencher.iter_batched(
            || -> EvBuffer { [&text[..]].into_iter().collect() },
            |mut buffer| {
                while let Ok(Some(line)) = buffer.readln(Eol::Lf) {
                    black_box(line);
                }
                assert!(buffer.is_empty());
            },
            criterion::BatchSize::LargeInput,
        );
    });
}

fn search(c: &mut Criterion) {
    let mut group = c.benchmark_group("search");
    static FILLER: [u8; 1024] = [b'a'; 1024];
    for segments in [4, 64] {
        let mut buffer: EvBuffer = Vec::new().into();
        for _ in 0..segments {
            buffer.extend([evring::arena::Piece::from_static(&FILLER)]);
        }
        buffer.extend([&b"...need"[..]]);
        buffer.extend([vec![b'l', b'e', b'-', b'i', b'n', b'-', b'h', b'a', b'y']]);
        group.throughput(Throughput::Bytes(buffer.len() as u64));
        group.bench_with_input(
            BenchmarkId::new("split pattern", segments),
            &segments,
            |b, _| {
                b.iter(|| {
                    let found = buffer.search(black_box(b"needle-in-hay"), Ptr::START);
                    assert!(found.is_some());
                });
            },
        );
    }
}

fn move_chain(c: &mut Criterion) {
    let mut group = c.benchmark_group("move a chain");
    for segments in [1, 1000] {
        let pieces = std::iter::repeat_n(evring::arena::Piece::from_static(b"x"), segments);
        let mut from: EvBuffer = pieces.collect();
        let mut to = EvBuffer::new();
        group.bench_with_input(BenchmarkId::from_parameter(segments), &segments, |b, _| {
            b.iter(|| -> Result<(), BufferError> {
                black_box(&mut to).add_buffer(black_box(&mut from))?;
                black_box(&mut from).add_buffer(black_box(&mut to))
            });
        });
    }
}

criterion_group!(benches, add_remove, burst, readln, search, move_chain);
criterion_main!(benches);
