//! What rate limits cost: `cargo bench --bench rate_limit`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group};
use evring::rate_limit::{Bucket, Direction, RATE_LIMIT_MAX, RateLimitConfig};

/// A bucket that never runs dry.
fn bucket(c: &mut Criterion) {
    let config = RateLimitConfig::new(RATE_LIMIT_MAX, RATE_LIMIT_MAX, 1, 1, None)
        .expect("a valid configuration");
    let mut bucket = Bucket::new(&config, Direction::Read, 0);
    let mut now_ns = 0;
    c.bench_function("bucket: reserve and settle", |b| {
        b.iter(|| {
            now_ns += 1_000;
            let available = black_box(bucket.available(now_ns));
            bucket.reserve(available.min(4_096) as u32);
            bucket.settle(4_096, black_box(64));
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).measurement_time(std::time::Duration::from_secs(3));
    targets = bucket
}

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
}
