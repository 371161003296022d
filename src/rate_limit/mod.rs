//! Layer: rate_limit.
