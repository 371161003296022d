//! The comparison harness.

#[allow(dead_code, reason = "nothing calls the measurements yet")]
pub mod measure;
