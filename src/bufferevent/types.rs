//! The flags of a bufferevent.

use std::fmt;

use bitflags::bitflags;

bitflags! {
    /// What happened, for the event callback (`BEV_EVENT_*`, with libevent's values).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Events: u16 {
        /// It happened while reading (`BEV_EVENT_READING`).
        const READING = 0x01;
        /// It happened while writing (`BEV_EVENT_WRITING`).
        const WRITING = 0x02;
        /// End of stream (`BEV_EVENT_EOF`).
        const EOF = 0x10;
        /// An unrecoverable error; see [`last_error`](super::BufferEvent::last_error)
        /// (`BEV_EVENT_ERROR`).
        const ERROR = 0x20;
        /// A time-out passed (`BEV_EVENT_TIMEOUT`).
        const TIMEOUT = 0x40;
        /// A connect finished (`BEV_EVENT_CONNECTED`).
        const CONNECTED = 0x80;
    }
}

bitflags! {
    /// Options at creation (`enum bufferevent_options`, with libevent's values).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Options: u8 {
        /// Freeing the bufferevent closes its descriptor, or frees the bufferevent under it
        /// (`BEV_OPT_CLOSE_ON_FREE`).
        const CLOSE_ON_FREE = 1;
        /// Other threads may use it (`BEV_OPT_THREADSAFE`).
        const THREADSAFE = 2;
        /// Callbacks run from the loop's FIFO, never inside a call or a completion
        /// (`BEV_OPT_DEFER_CALLBACKS`).
        const DEFER_CALLBACKS = 4;
        /// Callbacks run without the lock; needs `DEFER_CALLBACKS` (`BEV_OPT_UNLOCK_CALLBACKS`).
        const UNLOCK_CALLBACKS = 8;
    }
}

bitflags! {
    /// How a trigger runs callbacks (`enum bufferevent_trigger_options`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct TriggerOptions: u32 {
        /// Whatever the buffers hold (`BEV_TRIG_IGNORE_WATERMARKS`).
        const IGNORE_WATERMARKS = 1 << 16;
        /// From the loop's FIFO, also where the bufferevent calls back inline
        /// (`BEV_TRIG_DEFER_CALLBACKS`).
        const DEFER_CALLBACKS = 4;
    }
}

/// How far a flush goes (`enum bufferevent_flush_mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FlushMode {
    /// As is convenient; what happens all the time (`BEV_NORMAL`).
    #[default]
    Normal,
    /// All that there is, past marks and enables (`BEV_FLUSH`).
    Flush,
    /// As `Flush`, and it was the last: the end of the stream follows (`BEV_FINISHED`).
    Finished,
}

/// What a flush did (`bufferevent_flush`: 1, 0, −1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlushResult {
    /// Bytes moved.
    Produced,
    /// There was nothing to move.
    Nothing,
    /// Something under it was freed.
    Failed,
}

/// What a [`Filter`](super::Filter) answers (`enum bufferevent_filter_result`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FilterResult {
    /// Bytes were moved, call again if there are more (`BEV_OK`).
    Ok,
    /// Nothing can be produced before there is more to read (`BEV_NEED_MORE`).
    NeedMore,
    /// The bytes make no sense; the direction ends with an `ERROR` event and `EILSEQ`
    /// (`BEV_ERROR`).
    Error,
}

/// How a [`close_after_flush`](super::BufferEvent::close_after_flush) ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlushEnd {
    /// All that was buffered was handed to the peer's side, and the connection closed in order.
    Flushed,
    /// The deadline passed first; so many bytes were not sent.
    TimedOut {
        /// Bytes that were still in the output buffer.
        unsent: usize,
    },
    /// The connection broke first.
    Failed {
        /// Bytes that were still in the output buffer.
        unsent: usize,
    },
}

impl fmt::Display for FlushEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FlushEnd::Flushed => f.write_str("flushed"),
            FlushEnd::TimedOut { unsent } => write!(f, "timed out with {unsent} bytes unsent"),
            FlushEnd::Failed { unsent } => write!(f, "failed with {unsent} bytes unsent"),
        }
    }
}
