//! The system boundary: constants and system calls that neither the standard library nor the
//! `io-uring` crate offers, behind functions that are safe to call.
//!
//! For the layers above, which may not use `unsafe`. Nothing of it is public but the value
//! [`Errno`] and the address [`SockAddr`]: a function that takes a descriptor by number would let
//! safe code close or change other people's.
//!
//! File descriptors come in as [`RawFd`](std::os::fd::RawFd), since the layers above count the
//! operations on a descriptor and close it only when none is left (I6): that is what [`net::close`]
//! is for, and drivers alone call it. New ones go out as [`OwnedFd`](std::os::fd::OwnedFd). A
//! descriptor that is not open gives `EBADF`, an error like any other.
//!
//! | file | concept |
//! |---|---|
//! | `errno` | an error number of the kernel as a value |
//! | `addr` | socket addresses of every family |
//! | `net` | sockets: create, bind, listen, options, shutdown |
//! | `event` | eventfd: waking a thread that sleeps in its ring |
//! | `fdio` | reading and writing descriptors at once, for buffers without a base |
//! | `pipe_shield` | keeping `SIGPIPE` away from writes that nobody reads |
//! | `find` | finding a byte, with what is fastest on the platform |
//! | `signal` | signalfd and signal masks |
//! | `time` | the monotonic clock |
//! | `limits` | resource limits |
//! | `host` | which kernel this is, and why it refuses io_uring |
//! | `fork` | noticing that a process is a forked child (I11) |
//! | `uring` | raw `io_uring_enter` and the constants that the `io-uring` crate lacks |
#![allow(unsafe_code)]

pub(crate) mod addr;
pub(crate) mod errno;
pub(crate) mod event;
pub(crate) mod fdio;
pub(crate) mod find;
pub(crate) mod fork;
pub(crate) mod host;
pub(crate) mod limits;
pub(crate) mod net;
pub(crate) mod pipe_shield;
pub(crate) mod signal;
pub(crate) mod time;
pub(crate) mod uring;

pub use addr::SockAddr;
pub use errno::Errno;

use std::io;

/// Turns the return value of a C call into a result: -1 means `errno` says why.
fn check(ret: libc::c_int) -> io::Result<libc::c_int> {
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}
