//! Runs scripts of bufferevent operations on libevent, and says what happened.
//!
//! A script is a text, one operation a line; what it may contain is written down at the top of
//! `peer.c`. The program that runs it is a process of its own: a crash of libevent is an error, not
//! the end of the test.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Ends a script, and the answer to it.
const END: &str = "end";

/// A process that runs scripts on libevent.
#[derive(Debug)]
pub struct Libevent {
    child: Child,
    scripts: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Libevent {
    /// Starts the process. `None` when libevent's headers were missing at build time.
    ///
    /// # Errors
    /// What the system says when it can not be started.
    pub fn start() -> io::Result<Option<Self>> {
        let Some(program) = option_env!("LIBEVENT_PEER") else {
            return Ok(None);
        };
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(scripts), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the child's pipes were asked for"));
        };
        Ok(Some(Libevent {
            child,
            scripts,
            answers: BufReader::new(answers),
        }))
    }

    /// Hands over a script; it runs while the caller does something else.
    ///
    /// # Errors
    /// [`io::ErrorKind::BrokenPipe`] when the process is gone.
    pub fn begin(&mut self, script: &str) -> io::Result<()> {
        writeln!(self.scripts, "{}\n{END}", script.trim_end())?;
        self.scripts.flush()
    }

    /// What the script printed.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`], with what it printed so far, when the process died of the
    /// script.
    pub fn finish(&mut self) -> io::Result<String> {
        let mut answer = String::new();
        loop {
            let start = answer.len();
            if self.answers.read_line(&mut answer)? == 0 {
                let status = self.child.wait()?;
                let died = format!("libevent's process ended ({status}) after:\n{answer}");
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, died));
            }
            if answer
                .get(start..)
                .is_some_and(|line| line.trim_end() == END)
            {
                answer.truncate(start);
                return Ok(answer);
            }
        }
    }
}

impl Drop for Libevent {
    fn drop(&mut self) {
        // It holds nothing that has to be put away.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}
