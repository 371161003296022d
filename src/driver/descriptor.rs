//! What a backend is told and asked about descriptors.

use crate::ring::{Op, Pieces};
pub(crate) use crate::sys::net::KeepAlive;

/// How a descriptor takes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendHow {
    /// A socket: by a send, which completes once all is taken (`wait_all`) or with what fits now.
    Socket {
        /// Complete only when everything is sent or an error occurs.
        wait_all: bool,
    },
    /// A pipe, terminal or file: by a write.
    Plain,
}

impl SendHow {
    pub(super) fn op(self, fd: i32, pieces: Pieces) -> Op {
        match self {
            SendHow::Socket { wait_all } => Op::Send {
                fd,
                pieces,
                wait_all,
            },
            SendHow::Plain => Op::Write { fd, pieces },
        }
    }
}

/// An option of a socket, with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketOption {
    /// Small segments go at once (`TCP_NODELAY`).
    NoDelay(bool),
    /// A quiet connection is probed (`SO_KEEPALIVE`); `None` switches that off.
    KeepAlive(Option<KeepAlive>),
    /// A listener may bind an address that old connections still use (`SO_REUSEADDR`).
    ReuseAddr(bool),
    /// Several listeners may share an address (`SO_REUSEPORT`).
    ReusePort(bool),
    /// An IPv6 listener takes no IPv4 connections (`IPV6_V6ONLY`).
    V6Only(bool),
    /// A connection is accepted only once it has sent something (`TCP_DEFER_ACCEPT`).
    DeferAccept(bool),
    /// Calls on it answer `EAGAIN` instead of waiting (`O_NONBLOCK`).
    NonBlocking(bool),
    /// Close drops what is not sent, and resets the connection (`SO_LINGER` of 0 seconds).
    ResetOnClose,
}

/// What a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// The family of a socket (`AF_*`); `None` for anything else.
    pub(crate) family: Option<i32>,
    /// It was opened for reading. Sockets are.
    pub(crate) readable: bool,
    /// It was opened for writing. Sockets are.
    pub(crate) writable: bool,
    /// A regular file, which never makes anybody wait.
    pub(crate) regular: bool,
}

impl Descriptor {
    /// A socket of a family.
    pub(crate) fn socket(family: i32) -> Self {
        Descriptor {
            family: Some(family),
            readable: true,
            writable: true,
            regular: false,
        }
    }
}

/// Whether a connection is over for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HangUp {
    /// At least one direction is open (`poll` says neither `POLLHUP` nor `POLLERR`).
    None,
    /// Both directions have ended in order (`POLLHUP`). What has arrived can still be received.
    Ended,
    /// It broke (`POLLERR`): a reset, a time-out, a pipe that nobody reads. What has arrived before
    /// can still be received; the error comes behind it.
    Failed,
}
