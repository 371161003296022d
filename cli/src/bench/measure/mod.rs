//! Measurements for the comparison, one a module.
//!
//! Each drives a server that already runs (or, for pairs and buffers, none at all), ends within a bounded time, and gives
//! plain numbers. Starting the servers, pinning them to cores, taking turns and calling a difference are not done here.
//! What a measurement does itself runs on the thread that calls it and on threads started by it, so it keeps to the
//! cores of its caller.

use std::time::Duration;

pub mod accept;
pub mod bulk;
mod clients;
pub mod cpu;
pub mod external;
pub mod idle;

/// Any one step of a measurement, a connection made or an answer awaited, fails when it takes longer than this.
const STALL: Duration = Duration::from_secs(5);
