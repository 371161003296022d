//! Round trips over a pair of bufferevents, beside libevent's.
//!
//! One side writes a message, the other moves it back by reference, the first reads it out and
//! writes it again. Both libraries do it in batches on one thread, and the clock is that thread's
//! processor time. libevent's side is a program of its own, `libevent-pair`; this one runs on the
//! thread that calls it.

use std::cell::RefCell;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use evring::{BufferEvent, Callbacks, EventBase, Interest, Options};
use evring_cli_common::failure::Failure;
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;

/// What is exchanged.
#[derive(Debug, Clone, Copy)]
pub struct Trips {
    /// Bytes of a message.
    pub size: usize,
    /// Round trips of a batch.
    pub round_trips: u32,
    /// Batches, each with a time of its own.
    pub batches: u16,
}

impl Default for Trips {
    fn default() -> Self {
        Self {
            size: 64,
            round_trips: 100_000,
            batches: 11,
        }
    }
}

/// The exchange on evring: nanoseconds of processor time for a round trip, one figure a batch.
///
/// # Errors
///
/// No ring; a message that did not come back as it was sent.
pub fn evring(trips: &Trips) -> Result<Vec<f64>, Failure> {
    run(trips).map_err(|error| Failure::new("evring's pair", error))?
}

fn run(trips: &Trips) -> Result<Result<Vec<f64>, Failure>, evring::Error> {
    let sent: Vec<u8> = (0..trips.size.max(1)).map(|at| (at % 251) as u8).collect();
    let exchange = Rc::new(RefCell::new(Exchange {
        message: sent.clone(),
        left: 0,
    }));
    let base = EventBase::new()?;
    let (near, far) = BufferEvent::pair(&base, Options::empty())?;
    far.set_callbacks(Callbacks::new().on_read(|bev| drop(bev.transfer_to(bev))))?;
    let (answered, stopped) = (exchange.clone(), base.clone());
    near.set_callbacks(Callbacks::new().on_read(move |bev| {
        let mut exchange = answered.borrow_mut();
        if bev.input().len() < exchange.message.len() {
            return;
        }
        bev.read(&mut exchange.message);
        exchange.left -= 1;
        if exchange.left == 0 {
            stopped.stop();
        } else {
            // An error ends the loop early, which is noticed there.
            drop(bev.write(&exchange.message));
        }
    }))?;
    for side in [&near, &far] {
        side.enable(Interest::READ | Interest::WRITE)?;
    }
    let mut each = Vec::with_capacity(trips.batches.into());
    for _ in 0..trips.batches {
        let round_trips = trips.round_trips.max(1);
        exchange.borrow_mut().left = round_trips;
        let began = thread_time();
        near.write(&sent)?;
        base.run()?;
        let used = thread_time().saturating_sub(began);
        let exchange = exchange.borrow();
        if exchange.left > 0 || exchange.message != sent {
            let text = "a message did not come back as it was sent";
            return Ok(Err(Failure::new("evring's pair", text)));
        }
        each.push(used.as_nanos() as f64 / f64::from(round_trips));
    }
    Ok(Ok(each))
}

struct Exchange {
    message: Vec<u8>,
    left: u32,
}

/// How long this thread has had a processor.
fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// The exchange on libevent, by `program`: figures as those of [`evring()`].
///
/// # Errors
///
/// The program is not there, was built without libevent, or fails.
pub fn libevent(program: &Path, trips: &Trips) -> Result<Vec<f64>, Failure> {
    #[derive(Deserialize)]
    struct Report {
        ns_per_round_trip: Vec<f64>,
    }
    let mut command = Command::new(program);
    command
        .args(["--size", &trips.size.max(1).to_string()])
        .args(["--round-trips", &trips.round_trips.max(1).to_string()])
        .args(["--batches", &trips.batches.to_string()]);
    let report: Report = super::json_of(command)?;
    Ok(report.ns_per_round_trip)
}
