//! What the simulation asks: does a direction stand still, and until when may it?

use super::BufferEvent;
use super::shell::Cx;
use crate::event_base::EventBase;
use crate::rate_limit::Direction;

impl BufferEvent {
    /// If the direction wants to move bytes and has no operation in flight: until when its limits
    /// hold it up; `None` when nothing does, so that it ought to have one.
    pub(crate) fn standstill(&self, base: &EventBase, direction: Direction) -> Option<Option<u64>> {
        let socket = self.0.transport.socket()?;
        if self.is_freed() || socket.fd().is_none() {
            return None;
        }
        let cx = Cx::new(self, base);
        let idle = match direction {
            Direction::Read => {
                socket.wants_receive(&cx) && !socket.is_receiving() && !socket.is_starved()
            }
            Direction::Write => {
                let output = self.0.shell.output_len();
                cx.machine().wants_write(output) && !socket.is_sending()
            }
        };
        if !idle {
            return None;
        }
        let mut limits = socket.limits().lend();
        let limits = limits.as_deref_mut();
        Some(limits.and_then(|limits| limits.limiter.held_up_until(direction, base.now())))
    }

    /// What it waits for, and what those below it do.
    pub(crate) fn describe(&self) -> String {
        let shell = &self.0.shell;
        let socket = self.0.transport.socket();
        let socket = socket.map_or(String::new(), |socket| socket.describe());
        let below = self.0.transport.under();
        let below = below.map_or(String::new(), |below| format!(" over {}", below.describe()));
        let (input, output) = (shell.input_len(), shell.output_len());
        format!(
            "({:?}, {input} in, {output} out{socket}{below})",
            shell.life()
        )
    }

    /// The state of its limits.
    pub(crate) fn describe_limits(&self) -> String {
        let socket = self.0.transport.socket();
        socket.map_or(String::new(), |socket| {
            format!("{:?}", &*socket.limits().lend())
        })
    }
}
