//! Where a command talks: the live line on a terminal and the lines printed above it, and what goes
//! to standard output.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Moves to the start of the line and empties it.
const ERASE_LINE: &str = "\r\x1b[K";

/// Columns left free at the end of the live line: a terminal echoes `^C` there, and a line that
/// wrapped could not be erased.
const SPARE_COLUMNS: usize = 4;

/// The width of a terminal that does not tell.
const DEFAULT_COLUMNS: usize = 80;

/// Where a command talks to its user: standard error, with a live line when it is a terminal.
#[derive(Debug, Clone)]
pub struct Console {
    /// The live line as it is shown, without which there is none.
    live: Option<Arc<Mutex<String>>>,
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

impl Console {
    /// A console whose live line is on if standard error is a terminal.
    pub fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self {
            live: is_terminal.then(Arc::default),
        }
    }

    /// Whether there is a live line to feed.
    pub fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// Prints a line about something that went wrong.
    pub fn note(&self, text: &str) {
        self.say(&format!("evring: {text}"));
    }

    /// Prints a line, above the live line if there is one.
    pub fn say(&self, text: &str) {
        match self.line() {
            Some(line) if !line.is_empty() => write(&format!("{ERASE_LINE}{text}\n{}", *line)),
            _ => write(&format!("{text}\n")),
        }
    }

    /// Draws the live line.
    pub fn draw(&self, text: &str) {
        if let Some(mut line) = self.line() {
            let columns = terminal_size::terminal_size_of(std::io::stderr())
                .map_or(DEFAULT_COLUMNS, |(width, _)| usize::from(width.0));
            *line = text
                .chars()
                .take(columns.saturating_sub(SPARE_COLUMNS))
                .collect();
            write(&format!("{ERASE_LINE}{}", *line));
        }
    }

    /// Takes the live line away.
    pub fn clear(&self) {
        if let Some(mut line) = self.line()
            && !std::mem::take(&mut *line).is_empty()
        {
            write(ERASE_LINE);
        }
    }

    fn line(&self) -> Option<MutexGuard<'_, String>> {
        let live = self.live.as_deref()?;
        Some(live.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes to standard error in one piece. When that is gone there is nobody to tell.
fn write(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Prints a line to standard output, at once. A reader that went away is not an error.
pub fn print_line(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
