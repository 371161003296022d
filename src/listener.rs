//! Public face: listener.
