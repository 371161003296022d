//! How many bytes a proxy passes on in one direction for a second of its processor time.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use evring_cli_common::cpu::CpuTime;
use evring_cli_common::failure::Failure;
use evring_cli_common::pattern::Pattern;
use socket2::SockRef;

use super::{STALL, cpu};

/// Written at once, and read at once at most: also the most that [`Pattern::piece`] gives.
const IO_BYTES: usize = 64 << 10;

/// What came out of the measured time.
#[derive(Debug, Clone, Copy)]
pub struct Bulk {
    /// Bytes that arrived at the end of the way; none when the machine had no time for it.
    pub bytes: u64,
    /// The time measured.
    pub elapsed: Duration,
    /// What the proxy used.
    pub proxy: CpuTime,
}

impl Bulk {
    /// Bytes for a second of the proxy's processor time.
    pub fn bytes_per_cpu_second(&self) -> f64 {
        self.bytes as f64 / self.proxy.ran.as_secs_f64()
    }

    /// Bytes a second.
    pub fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64()
    }
}

/// Sends as fast as it goes on one connection to the proxy at `proxy`, process `pid`, whose
/// upstream is `sink`, and reads and compares every byte there. The listener is made before the
/// proxy is started:
///
/// ```text
/// source thread ──► proxy ──► sink thread
/// ```
///
/// # Errors
///
/// A connection that fails, breaks off or stalls; a byte that is lost or another; a process that is
/// not there.
pub fn run(
    sink: &TcpListener,
    proxy: SocketAddr,
    pid: u32,
    warm_up: Duration,
    measured: Duration,
) -> Result<Bulk, Failure> {
    let pattern = Pattern::new();
    let (received, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|threads| {
        let source = threads.spawn(|| {
            let sent = write_until(proxy, &pattern, &stop);
            stop.store(true, Ordering::Relaxed);
            sent
        });
        let sink = threads.spawn(|| read_to_end(sink, &pattern, &received, &stop));
        let measured = measure(pid, &received, warm_up, measured, || {
            source.is_finished() || sink.is_finished()
        });
        stop.store(true, Ordering::Relaxed);
        match (joined(source), joined(sink)) {
            (Ok(sent), Ok(arrived)) if sent == arrived => measured,
            (Ok(sent), Ok(arrived)) => {
                let text = format!("{sent} bytes were sent, {arrived} arrived");
                Err(Failure::new("bulk", text))
            }
            // What the sink hangs up on, the source sees as a broken connection.
            (Ok(_), Err(failure)) | (Err(failure), Ok(_)) => Err(failure),
            (Err(source), Err(sink)) => Err(Failure::new(sink, source)),
        }
    })
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T, Failure>>) -> Result<T, Failure> {
    thread
        .join()
        .unwrap_or_else(|_| Err(Failure::line("a thread panicked")))
}

/// Waits out both times and gives what arrived, and what was used, in the second.
fn measure(
    pid: u32,
    received: &AtomicU64,
    warm_up: Duration,
    measured: Duration,
    over: impl Fn() -> bool,
) -> Result<Bulk, Failure> {
    let began = Instant::now();
    // The first bytes end the time that it takes to connect.
    while received.load(Ordering::Relaxed) == 0 && !over() && began.elapsed() < STALL {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(warm_up);
    let (first, before, began) = (received.load(Ordering::Relaxed), cpu(pid)?, Instant::now());
    thread::sleep(measured);
    let (last, after, elapsed) = (received.load(Ordering::Relaxed), cpu(pid)?, began.elapsed());
    Ok(Bulk {
        bytes: last - first,
        elapsed,
        proxy: after.since(&before),
    })
}

/// The source: how many bytes it has sent by the time it is told to stop.
fn write_until(proxy: SocketAddr, pattern: &Pattern, stop: &AtomicBool) -> Result<u64, Failure> {
    let wrong = |error| Failure::new(format!("sending to {proxy}"), error);
    let mut stream = TcpStream::connect_timeout(&proxy, STALL).map_err(wrong)?;
    stream.set_write_timeout(Some(STALL)).map_err(wrong)?;
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        sent += stream
            .write(&pattern.piece(sent, IO_BYTES))
            .map_err(wrong)? as u64;
    }
    stream.shutdown(Shutdown::Write).map_err(wrong)?;
    Ok(sent)
}

/// The sink: how many bytes came until the stream's end.
fn read_to_end(
    listener: &TcpListener,
    pattern: &Pattern,
    received: &AtomicU64,
    stop: &AtomicBool,
) -> Result<u64, Failure> {
    let wrong = |error| Failure::new("what the proxy sends on", error);
    let mut buffer = vec![0; IO_BYTES];
    let mut total = 0;
    let mut stream = accept(listener, stop).map_err(wrong)?;
    loop {
        match stream.read(&mut buffer) {
            // Whoever tried whether the proxy is ready, and left again.
            Ok(0) if total == 0 => stream = accept(listener, stop).map_err(wrong)?,
            Ok(0) => return Ok(total),
            Ok(got) => {
                if let Some(at) = pattern.first_difference(total, &buffer[..got]) {
                    return Err(Failure::new(
                        "bulk",
                        format!("byte {at} is not what was sent"),
                    ));
                }
                total += got as u64;
                received.store(total, Ordering::Relaxed);
            }
            Err(error) => return Err(wrong(error)),
        }
    }
}

/// The next connection, waiting no longer than a stall, and not when there is nobody who could
/// come.
fn accept(listener: &TcpListener, stop: &AtomicBool) -> io::Result<TcpStream> {
    const LOOK: Duration = Duration::from_millis(20);
    // On Linux the time limit for receiving is that for accepting.
    SockRef::from(listener).set_read_timeout(Some(LOOK))?;
    let end = Instant::now() + STALL;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_read_timeout(Some(STALL))?;
                return Ok(stream);
            }
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            Err(_) if stop.load(Ordering::Relaxed) || Instant::now() >= end => {
                return Err(io::Error::new(ErrorKind::TimedOut, "nobody connected"));
            }
            Err(_) => {}
        }
    }
}
