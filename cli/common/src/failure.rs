//! Why a command ends without success: one line for the user and the exit code.

use std::fmt;
use std::process::ExitCode;

/// A command that cannot go on.
///
/// Prints as one line. `Failure::new("cannot listen", error)` reads `cannot listen: …`.
#[derive(Debug)]
pub struct Failure {
    line: String,
}

/// The exit code of bad arguments.
pub const EXIT_USAGE: u8 = 2;

/// The exit code of everything else that went wrong.
pub const EXIT_FAILURE: u8 = 1;

impl Failure {
    /// A failure to do `what`, because of `why`.
    pub fn new(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::line(format!("{what}: {why}"))
    }

    /// A failure told by one sentence. Line breaks become spaces.
    pub fn line(text: impl Into<String>) -> Self {
        let text = text.into();
        let line = match text.contains('\n') {
            true => text.split_whitespace().collect::<Vec<_>>().join(" "),
            false => text,
        };
        Self { line }
    }

    /// Tells the user and gives the process's exit code.
    pub fn report(&self) -> ExitCode {
        eprintln!("evring: {}", self.line);
        ExitCode::from(EXIT_FAILURE)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        let failure = Failure::new("set-up", "no ring:\n  forbidden");
        assert_eq!(failure.to_string(), "set-up: no ring: forbidden");
    }
}
