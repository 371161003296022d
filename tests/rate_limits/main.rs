//! Rate limits on real sockets.
//!
//! Nothing here asks the wall clock for more than it can keep: that bytes move *late enough*
//! follows from the buckets whatever the machine does, and that they move at all is bounded by
//! seconds.

mod groups;
mod own;
mod shared;
mod turns;
