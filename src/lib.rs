//! evring: libevent's bufferevents rebuilt on io_uring.
#![deny(unsafe_code)]

pub mod arena;
pub mod bufferevent;
mod driver;
pub mod evbuffer;
pub mod event_base;
pub mod listener;
pub mod rate_limit;
pub mod relay;
pub mod ring;
#[doc(hidden)]
pub mod sys;
