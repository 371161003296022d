//! Layer: ring.
