//! One direction of a bufferevent: its marks and its inactivity timer.

/// One direction. Marks are in bytes, times in nanoseconds of the driver's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Half {
    pub(super) low: usize,
    /// Zero: no high mark.
    pub(super) high: usize,
    /// Zero: none.
    pub(super) timeout: u64,
    /// When the timer was restarted last: by a byte, an enable, a change of the time-outs.
    pub(super) since: u64,
}

impl Half {
    /// When the time-out passes, if it runs.
    pub(super) fn due(&self) -> u64 {
        self.since.saturating_add(self.timeout)
    }

    /// The length at which a reader is called. A low mark above the high one could never be
    /// reached: the high one counts then.
    pub(super) fn read_mark(&self) -> usize {
        match self.high {
            0 => self.low,
            high => self.low.min(high),
        }
    }
}
