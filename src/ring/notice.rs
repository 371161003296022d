//! What a ring has to say, kept until its owner may log it.

use log::Level;
use std::fmt;

/// The most that is kept; what else a ring has to say is dropped.
const MOST: usize = 64;

/// Something for the log, from [`Ring::pop_notice`](super::Ring::pop_notice).
///
/// A ring logs nothing while it is at work. The logger is the program's, and may want the very ring
/// that speaks, or whatever owns it: that is then borrowed, or locked. Who owns the ring takes its
/// notices and logs them when it is free again; what nobody took is logged when the ring is
/// dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "log() tells it"]
pub struct Notice {
    level: Level,
    text: String,
}

impl Notice {
    /// Writes it to the log. The logger may do anything, so nothing may be borrowed or locked.
    #[cold]
    pub fn log(self) {
        log::log!(target: "evring::ring", self.level, "{}", self.text);
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Notices that nobody has taken yet.
#[derive(Debug, Default)]
pub(super) struct Notices(Vec<Notice>);

impl Notices {
    /// Keeps a notice, unless records of its level go nowhere. The logger is not asked: it would be
    /// called for that.
    #[cold]
    pub(super) fn note(&mut self, level: Level, text: fmt::Arguments<'_>) {
        if level <= log::max_level() && self.0.len() < MOST {
            let text = text.to_string();
            self.0.push(Notice { level, text });
        }
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<Notice> {
        self.0.pop()
    }

    /// Logs all that is left, in order. Nothing of the ring is used any more.
    pub(super) fn log_all(&mut self) {
        for notice in std::mem::take(&mut self.0) {
            notice.log();
        }
    }
}
