//! The two directions in which bytes move, one by one and as a set.

use std::fmt;

use bitflags::bitflags;

/// Which way bytes move, seen from the bufferevent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// From the peer into the input buffer.
    Read,
    /// From the output buffer to the peer.
    Write,
}

bitflags! {
    /// Directions of a descriptor or a bufferevent (`EV_READ`, `EV_WRITE`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Interest: u8 {
        /// Reading.
        const READ = 2;
        /// Writing.
        const WRITE = 4;
    }
}

impl From<Direction> for Interest {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Read => Interest::READ,
            Direction::Write => Interest::WRITE,
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}
