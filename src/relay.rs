//! Public face: relay.
