//! libevent's bufferevents, rebuilt on io_uring.
//!
//! A program that uses bufferevents never does I/O: it reads from an input buffer, writes to an
//! output buffer, and is called back when there is something to read, when output has drained,
//! and when something happened. Here the kernel fills and drains those buffers by itself, and
//! a completion, not a readiness event, moves the state machine.
//!
//! # A tour
//!
//! An [`EventBase`] is a loop with its ring and its memory. A [`Listener`] accepts connections, a
//! [`BufferEvent`] is one end of a connection. Both call closures back while the loop runs:
//!
//! ```
//! use evring::{
//!     BufferEvent, Callbacks, EventBase, Events, Interest, ListenOptions, Listener, Options,
//! };
//!
//! # fn main() -> Result<(), evring::Error> {
//! let base = EventBase::new()?;
//!
//! // A server that sends back what it receives, for one connection.
//! let any_port = "127.0.0.1:0".parse()?;
//! let listener = Listener::bind(&base, &any_port, ListenOptions::default(), |listener, accepted| {
//!     let echo = || {
//!         let (base, fd) = (listener.base()?, accepted.into_fd());
//!         let bev = BufferEvent::socket(&base, Some(fd), Options::CLOSE_ON_FREE)?;
//!         let bev = bev.free_on_drop(); // should one of the next steps fail
//!         bev.set_callbacks(
//!             Callbacks::new()
//!                 .on_read(|bev| bev.transfer_to(bev)) // by reference: nothing is copied
//!                 .on_event(|bev, _events| bev.close_after_flush(None, |_end| {})),
//!         )?;
//!         bev.enable(Interest::READ)?;
//!         Ok(bev.keep())
//!     };
//!     let echo: Result<BufferEvent, evring::Error> = echo();
//!     if let Err(error) = echo {
//!         eprintln!("{error}");
//!     }
//!     listener.close();
//! })?;
//!
//! // A client: what is written before the connection stands is sent once it does.
//! let client = BufferEvent::socket(&base, None, Options::CLOSE_ON_FREE)?;
//! client.set_callbacks(
//!     Callbacks::new()
//!         .on_read(|bev| {
//!             let mut answer = [0; 16];
//!             let n = bev.read(&mut answer);
//!             println!("{}", String::from_utf8_lossy(&answer[..n]));
//!             bev.free();
//!         })
//!         .on_event(|bev, events| {
//!             if events.contains(Events::ERROR) {
//!                 eprintln!("{:?}", bev.last_error());
//!                 bev.free();
//!             }
//!         }),
//! )?;
//! client.enable(Interest::READ)?;
//! client.write(b"ping")?;
//! client.connect(&listener.local_addr()?)?;
//!
//! base.run()?; // until nothing is left to wait for
//! assert_eq!(base.counters().bytes_in, 8); // four there, four back
//! # Ok(())
//! # }
//! ```
//!
//! Handles are cheap to clone and belong to the loop's thread. A callback may do anything: write,
//! free its own bufferevent or another, change callbacks, stop the loop. What is asked of something
//! that was freed is [`Error::Freed`], never a panic.
//!
//! Watermarks ([`BufferEvent::set_watermarks`]) bound the input and tell when output has drained;
//! time-outs ([`BufferEvent::set_timeouts`]) watch for silence; rate limits
//! ([`BufferEvent::set_rate_limit`]) bound what moves; [`relay()`] joins two bufferevents into a
//! proxy; [`BufferEvent::pair`] and [`BufferEvent::filter`] build pipelines in memory. Other
//! threads post work through [`Remote`] and [`RemoteBufferEvent`].
//!
//! # Modules
//!
//! | module | what it holds |
//! |---|---|
//! | [`event_base`] | the loop: timers, signals, readiness, posts from other threads |
//! | [`bufferevent`] | sockets, pairs and filters with an input and an output buffer |
//! | [`listener`], [`mod@relay`] | accepting connections; joining two bufferevents |
//! | [`evbuffer`] | the buffer itself, of use without a base |
//! | [`rate_limit`] | token buckets and groups |
//! | [`arena`] | the memory that kernel and buffers share |
//! | [`ring`] | a safe io_uring for one thread, and what the kernel can do ([`ring::Caps`]) |
//!
//! What a program needs every day is re-exported here.
//!
//! # Platform
//!
//! Linux 6.1 or newer. What a newer kernel can do is found out and used; the environment variable
//! `EVRING_CAPS` masks it. Where io_uring is forbidden, [`EventBase::new`] gives an error that
//! names the cause and the remedy.
#![deny(unsafe_code)]

mod addr;
pub mod arena;
pub mod bufferevent;
mod direction;
mod driver;
mod error;
pub mod evbuffer;
pub mod event_base;
pub mod listener;
pub mod rate_limit;
pub mod relay;
pub mod ring;
#[cfg(test)]
mod simulation;
mod sys;

pub use addr::Addr;
pub use bufferevent::{
    BufferEvent, BufferView, Callbacks, Events, Filter, FilterResult, FlushEnd, FlushMode,
    FlushResult, FreeOnDrop, Handler, Options, RemoteBufferEvent, TriggerOptions,
};
pub use error::Error;
pub use evbuffer::EvBuffer;
pub use event_base::{
    Counters, EventBase, EventBaseBuilder, Exit, FdEvent, Interest, Remote, RunFlags, Signal,
    SpinPolicy, Timer, TurnInfo, WeakEventBase, block_signals,
};
pub use listener::{Accepted, ListenOptions, Listener};
pub use relay::{Relay, RelayEnd, RelayOptions, RelayReport, RelaySide, relay};
pub use sys::Errno;

/// Functions that take descriptors by number are the library's own: safe code could close with them
/// what belongs to others.
///
/// ```compile_fail,E0603
/// use evring::sys::net::close;
/// ```
#[cfg(doctest)]
struct SystemCallsArePrivate;

/// The programs in README.md, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmePrograms;

/// The programs in docs/from-libevent.md, compiled.
#[cfg(doctest)]
#[doc = include_str!("../docs/from-libevent.md")]
struct FromLibeventPrograms;
