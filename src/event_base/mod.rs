//! Layer: event_base.
