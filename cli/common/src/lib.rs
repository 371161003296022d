//! What the command `evring` and its comparison have in common: how they talk to their user, and
//! the formats that pass between a load generator and whoever started it.
#![forbid(unsafe_code)]

pub mod console;
pub mod cpu;
pub mod failure;
pub mod pattern;
pub mod report;
pub mod units;

/// The signals that end a command.
pub const SIGNALS: [i32; 2] = [libc::SIGINT, libc::SIGTERM];
