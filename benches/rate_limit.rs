//! What rate limits cost: `cargo bench --bench rate_limit`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use evring::rate_limit::{
    Bucket, Demand, Direction, Group, Launch, Limiter, Port, RATE_LIMIT_MAX, RateLimitConfig,
    Resumed,
};

const DIRECTION: Direction = Direction::Write;
const SECOND: u64 = 1_000_000_000;

fn config(rate: usize) -> RateLimitConfig {
    RateLimitConfig::new(rate, rate, rate, rate, None).expect("a valid configuration")
}

fn joined(port: &Port, token: u64) -> Limiter {
    let mut limiter = Limiter::new();
    limiter.join(port, token).expect("the group is open");
    limiter
}

/// One message: launch an operation of up to 4 KiB, complete it with 64 bytes.
fn message(limiter: &mut Limiter, now_ns: u64) {
    if let Launch::Granted(grant) =
        limiter.launch(DIRECTION, Demand::ready(black_box(4_096)), now_ns)
    {
        limiter.complete(DIRECTION, grant, black_box(64), now_ns);
    }
}

/// Limits that never bind: the price of having them.
fn not_binding(c: &mut Criterion) {
    let mut bench = c.benchmark_group("not binding");
    let mut now_ns = 0;

    let mut bucket = Bucket::new(&config(RATE_LIMIT_MAX), DIRECTION, 0);
    bench.bench_function("bucket", |b| {
        b.iter(|| {
            now_ns += 1_000;
            let available = black_box(bucket.available(now_ns));
            bucket.reserve(available.min(4_096) as u32);
            bucket.settle(4_096, black_box(64));
        });
    });

    let mut own = Limiter::new();
    own.set_config(Some(&config(RATE_LIMIT_MAX)), 0);
    let group = Group::new(&config(RATE_LIMIT_MAX), 1, 0);
    let port = group.attach(|| ());
    let mut member = joined(&port, 0);
    let mut both = joined(&port, 1);
    both.set_config(Some(&config(RATE_LIMIT_MAX)), 0);
    let mut none = Limiter::new();
    for (name, limiter) in [
        ("no limit", &mut none),
        ("own limit", &mut own),
        ("group", &mut member),
        ("own limit and group", &mut both),
    ] {
        let mut now_ns = 0;
        bench.bench_function(name, |b| {
            b.iter(|| {
                now_ns += 1_000;
                message(limiter, now_ns);
            });
        });
    }

    // The same while another thread uses the group as fast as it can.
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let port = group.attach(|| ());
            let mut other = joined(&port, 2);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                message(&mut other, 0);
            }
        });
        bench.bench_function("group, contended by a thread", |b| {
            b.iter(|| message(&mut member, 0))
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    bench.finish();
}

/// 10,000 members of one base: all are suspended, a tick resumes all, each moves its share.
fn suspend_and_resume(c: &mut Criterion) {
    const MEMBERS: u64 = 10_000;
    let group = Group::new(&config(100 * MEMBERS as usize), 1, 0);
    let port = group.attach(|| ());
    let mut members: Vec<_> = (0..MEMBERS).map(|token| joined(&port, token)).collect();
    let mut now_ns = 0;
    let mut resumed: Vec<Resumed> = Vec::new();
    group.decrement(DIRECTION, 100 * MEMBERS as isize, now_ns);
    for member in &mut members {
        message(member, now_ns);
    }

    let mut bench = c.benchmark_group("10,000 members");
    bench
        .throughput(Throughput::Elements(MEMBERS))
        .sample_size(20);
    bench.bench_function("resumed, moved, suspended", |b| {
        b.iter(|| {
            now_ns += SECOND;
            resumed.clear();
            port.poll(now_ns, &mut resumed);
            assert_eq!(resumed.len() as u64, MEMBERS);
            for resumed in &resumed {
                let member = &mut members[resumed.token as usize];
                while let Launch::Granted(grant) =
                    member.launch(DIRECTION, Demand::ready(4_096), now_ns)
                {
                    let moved = grant.bytes() as usize;
                    member.complete(DIRECTION, grant, moved, now_ns);
                }
            }
        });
    });
    bench.bench_function("poll of a tick alone", |b| {
        b.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                now_ns += SECOND;
                resumed.clear();
                let start = std::time::Instant::now();
                port.poll(now_ns, &mut resumed);
                spent += start.elapsed();
                for resumed in &resumed {
                    let member = &mut members[resumed.token as usize];
                    while let Launch::Granted(grant) =
                        member.launch(DIRECTION, Demand::ready(4_096), now_ns)
                    {
                        let moved = grant.bytes() as usize;
                        member.complete(DIRECTION, grant, moved, now_ns);
                    }
                }
            }
            spent
        });
    });
    bench.finish();
}

fn main() {
    let time = Duration::from_secs(2);
    let mut criterion = Criterion::default()
        .sample_size(30)
        .measurement_time(time)
        .configure_from_args();
    not_binding(&mut criterion);
    suspend_and_resume(&mut criterion);
    criterion.final_summary();
}
