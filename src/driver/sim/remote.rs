//! Scripted peers: the far ends of connections that no bufferevent plays.

use std::collections::VecDeque;

use super::dice::{Dice, check_pattern, pattern_bytes};

/// What a peer does once it has sent all it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// Ends its direction, reads on, and closes at the other's end.
    HalfClose,
    /// Closes, whatever is unread.
    Close,
    /// Resets the connection.
    Reset,
    /// Waits for the other's end.
    Wait,
}

/// A peer's script.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    /// The stream it sends, and how much of it.
    pub(crate) sends: u32,
    pub(crate) total: u64,
    /// The stream it expects.
    pub(crate) expects: u32,
    /// Sends back what it receives, instead of a stream of its own.
    pub(crate) echo: bool,
    pub(crate) finish: Finish,
    /// Nanoseconds between two of its steps, at most.
    pub(crate) pace: u64,
    /// Bytes that one step reads or writes at most.
    pub(crate) chunk: usize,
    /// Does not read until all is to calm down.
    pub(crate) deaf: bool,
    /// It turns silent, or breaks the connection, after so many steps.
    pub(crate) resets_after: Option<u32>,

    pub(super) state: State,
}

/// How far it has come.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) next_at: u64,
    pub(super) sent: u64,
    pub(super) read: u64,
    pub(super) to_echo: VecDeque<u8>,
    pub(super) steps: u32,
    pub(super) saw_end: bool,
}

impl Remote {
    pub(crate) fn new(dice: &mut Dice, sends: u32, total: u64, expects: u32) -> Self {
        let resets = dice.percent(8);
        Remote {
            sends,
            total,
            expects,
            echo: false,
            finish: dice.pick(&[
                Finish::HalfClose,
                Finish::HalfClose,
                Finish::HalfClose,
                Finish::Wait,
                Finish::Close,
                Finish::Reset,
            ]),
            pace: dice.pick(&[1, 10_000, 2_000_000, 100_000_000]),
            chunk: dice.pick(&[64, 4096, 100_000]),
            deaf: dice.percent(10),
            resets_after: resets.then(|| dice.range(1..20) as u32),
            state: State::default(),
        }
    }

    /// Takes in what it has read.
    pub(super) fn take(&mut self, bytes: Vec<u8>) {
        let len = bytes.len() as u64;
        check_pattern(
            "a peer",
            self.expects,
            self.state.read,
            bytes.iter().copied(),
        );
        self.state.read += len;
        if self.echo {
            self.state.to_echo.extend(bytes);
        }
    }

    /// How much it has to send now.
    pub(super) fn wants_to_send(&self) -> usize {
        if self.echo {
            return self.state.to_echo.len();
        }
        usize::try_from(self.total - self.state.sent).unwrap_or(usize::MAX)
    }

    /// The next `n` bytes it sends.
    pub(super) fn give(&mut self, n: usize) -> Vec<u8> {
        self.state.sent += n as u64;
        if self.echo {
            return self.state.to_echo.drain(..n).collect();
        }
        pattern_bytes(self.sends, self.state.sent - n as u64, n)
    }

    /// Whether it will send nothing more.
    pub(super) fn has_sent_all(&self) -> bool {
        self.wants_to_send() == 0 && (!self.echo || self.state.saw_end)
    }
}
