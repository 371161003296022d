//! libevent's bufferevents, rebuilt on io_uring.
//!
//! A program that uses bufferevents never does I/O: it reads from an input buffer, writes to an
//! output buffer, and is called back when there is something to read, when output has drained,
//! and when something happened. Here the kernel fills and drains those buffers by itself, and
//! a completion, not a readiness event, moves the state machine.
#![deny(unsafe_code)]

mod addr;
pub mod arena;
pub mod bufferevent;
mod driver;
mod error;
pub mod evbuffer;
pub mod event_base;
pub mod listener;
pub mod rate_limit;
pub mod relay;
pub mod ring;
#[doc(hidden)]
pub mod sys;

pub use addr::Addr;
pub use bufferevent::{
    BufferEvent, BufferView, Callbacks, Events, Filter, FilterResult, FlushEnd, FlushMode,
    FlushResult, Handler, Options, RemoteBufferEvent, TriggerOptions,
};
pub use error::Error;
pub use evbuffer::EvBuffer;
pub use event_base::{
    Counters, EventBase, EventBaseBuilder, Exit, FdEvent, Interest, Remote, RunFlags, Signal,
    SpinPolicy, Timer, TurnInfo, block_signals,
};
pub use listener::{Accepted, ListenOptions, Listener};
pub use relay::{Relay, RelayEnd, RelayOptions, RelayReport, RelaySide, relay};
