//! Layer: evbuffer.
