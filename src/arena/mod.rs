//! Layer: arena.
