//! The peers evring is measured against, and what they share.
//!
//! Every server here takes `--listen ADDR`, prints `listening on ADDR` once it accepts, and exits 0
//! on SIGTERM or SIGINT. Each is written the way a competent user of that interface would write it,
//! so that a comparison says something about the interface:
//!
//! | binary | what it is |
//! |---|---|
//! | `floor-echo`, `floor-proxy` | a bare io_uring loop ([`floor`]): evring's cost from below |
//! | `epoll-echo` | a raw epoll loop with nonblocking reads and writes |
//! | `libevent-echo`, `libevent-proxy` | libevent's bufferevents, in C (`c/`) |
//! | `tokio-echo`, `tokio-proxy` | tokio's current-thread runtime |
//! | `monoio-echo` | monoio, a runtime on io_uring |
//! | `libevent-pair` | no server: round trips over a pair of libevent's bufferevents, in C |
//!
//! The floor is also where kernel features are tried before evring takes them over: see
//! [`floor::FloorArgs`].

pub mod epoll;
pub mod floor;
pub mod ring;
pub mod server;
pub mod window;
