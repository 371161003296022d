//! The last things that a bufferevent does, as a pure step function.

use super::{Fin, Link};
use crate::bufferevent::types::FlushEnd;

/// Where a bufferevent stands between its creation and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bufferevent) enum Life {
    Open,
    /// It receives no more; what the kernel has received for it already is still to come in.
    StoppingReads,
    /// It sends what is buffered, and drops what it receives.
    Flushing,
    /// All was sent. It reads, and drops, until the peer's end.
    Lingering,
    Freed,
}

impl Life {
    /// Whether what is received is dropped.
    pub(in crate::bufferevent) fn drops_input(self) -> bool {
        matches!(self, Life::Flushing | Life::Lingering)
    }

    /// Whether it is on its way to its end by itself.
    pub(in crate::bufferevent) fn is_closing(self) -> bool {
        matches!(self, Life::Flushing | Life::Lingering)
    }
}

/// What the next step of a close depends on.
#[derive(Clone, Copy, Debug)]
pub(in crate::bufferevent) struct Facts {
    pub(in crate::bufferevent) life: Life,
    pub(in crate::bufferevent) link: Link,
    pub(in crate::bufferevent) fin: Fin,
    /// Bytes that wait in the output.
    pub(in crate::bufferevent) unsent: usize,
    /// Writing failed or timed out, or nobody is there to take what waits.
    pub(in crate::bufferevent) cut: bool,
    /// The receiving direction has something to say about the end: a peer that may still send,
    /// and whose unread bytes would turn the close into a reset.
    pub(in crate::bufferevent) peer_may_send: bool,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bufferevent) enum Step {
    Wait,
    Linger,
    End(FlushEnd),
}

/// The next step of a close that is under way.
pub(in crate::bufferevent) fn step(facts: &Facts) -> Step {
    let unsent = facts.unsent;
    let over = match unsent {
        0 => FlushEnd::Flushed,
        unsent => FlushEnd::Failed { unsent },
    };
    match (facts.link, facts.life) {
        (Link::Connecting, _) => Step::Wait,
        (Link::Absent | Link::Failed, _) => Step::End(over),
        (Link::Up, _) if facts.cut => Step::End(FlushEnd::Failed { unsent }),
        (Link::Up, _) if facts.fin != Fin::Sent => Step::Wait,
        (Link::Up, _) if !facts.peer_may_send => Step::End(FlushEnd::Flushed),
        (Link::Up, Life::Lingering) => Step::Wait,
        (Link::Up, _) => Step::Linger,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts = Facts {
        life: Life::Flushing,
        link: Link::Up,
        fin: Fin::Wanted,
        unsent: 0,
        cut: false,
        peer_may_send: true,
    };

    #[test]
    fn a_close_flushes_ends_its_direction_and_lingers_for_the_peer() {
        let flushing = Facts { unsent: 7, ..FACTS };
        assert_eq!(step(&flushing), Step::Wait, "bytes are on their way");
        assert_eq!(
            step(&FACTS),
            Step::Wait,
            "the end of the stream is not sent yet"
        );
        let sent = Facts {
            fin: Fin::Sent,
            ..FACTS
        };
        assert_eq!(step(&sent), Step::Linger);
        let lingering = Facts {
            life: Life::Lingering,
            ..sent
        };
        assert_eq!(step(&lingering), Step::Wait);
        let ended = Facts {
            peer_may_send: false,
            ..lingering
        };
        assert_eq!(step(&ended), Step::End(FlushEnd::Flushed));
    }

    #[test]
    fn a_close_that_nobody_reads_says_how_much_was_lost() {
        let cut = Facts {
            cut: true,
            unsent: 7,
            ..FACTS
        };
        assert_eq!(step(&cut), Step::End(FlushEnd::Failed { unsent: 7 }));
        for link in [Link::Absent, Link::Failed] {
            let nowhere = Facts { link, ..cut };
            assert_eq!(step(&nowhere), Step::End(FlushEnd::Failed { unsent: 7 }));
            let nothing = Facts {
                unsent: 0,
                ..nowhere
            };
            assert_eq!(step(&nothing), Step::End(FlushEnd::Flushed));
        }
        let connecting = Facts {
            link: Link::Connecting,
            ..cut
        };
        assert_eq!(step(&connecting), Step::Wait);
    }
}
