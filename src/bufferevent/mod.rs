//! Layer: bufferevent.
