//! Layer: ring.
#![allow(unsafe_code)]
mod caps;
mod error;
mod probe;
mod setup;

pub use crate::sys::{Errno, SockAddr};
pub use caps::{CAPS_VARIABLE, Cap, Caps, CapsMask};
pub use error::{SetupError, UnknownCap};
pub use setup::RingConfig;
#[cfg(test)]
#[test]
fn caps_print() {
    let b = setup::build(&RingConfig::default()).unwrap();
    println!("{}", b.caps);
}
