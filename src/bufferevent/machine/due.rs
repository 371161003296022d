//! Which callbacks are due, and in which order they come.

use std::ops::{BitAnd, BitOr, BitOrAssign};

use crate::bufferevent::types::Events;

/// Callbacks, a bit each, the events with their own: those that are due, or those that somebody
/// handles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::bufferevent) struct Due(u16);

const CONNECTED: u16 = Events::CONNECTED.bits();

const _: () = assert!(Events::all().bits() & !Due::EVENTS.0 == 0);

/// The stages of a run of callbacks, in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::bufferevent) enum Stage {
    Connected,
    Read,
    Write,
    Events,
}

impl Due {
    /// All that libevent's header has room for, with a name or without.
    pub(in crate::bufferevent) const EVENTS: Due = Due(0xff);
    pub(in crate::bufferevent) const READ: Due = Due(0x100);
    pub(in crate::bufferevent) const WRITE: Due = Due(0x200);
    pub(in crate::bufferevent) const ALL: Due = Due(0x3ff);

    pub(super) fn of_events(events: Events) -> Self {
        Due(events.bits()) & Due::EVENTS
    }

    /// These, or none.
    #[inline]
    pub(super) fn only_if(self, condition: bool) -> Self {
        Due(u16::from(condition) * self.0)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn events(self) -> Events {
        Events::from_bits_retain(self.0 & Due::EVENTS.0)
    }

    pub(super) fn remove_events(&mut self, events: Events) {
        self.0 &= !events.bits();
    }

    /// Takes the first stage of those that come after `last` in a run.
    pub(super) fn take_after(&mut self, last: Option<Stage>) -> Option<(Stage, Events)> {
        if self.0 == 0 {
            return None;
        }
        if last.is_none() && self.take(CONNECTED) != 0 {
            return Some((Stage::Connected, Events::CONNECTED));
        }
        if last < Some(Stage::Read) && self.take(Due::READ.0) != 0 {
            return Some((Stage::Read, Events::empty()));
        }
        if last < Some(Stage::Write) && self.take(Due::WRITE.0) != 0 {
            return Some((Stage::Write, Events::empty()));
        }
        if last < Some(Stage::Events) {
            let events = self.take(Due::EVENTS.0);
            if events != 0 {
                return Some((Stage::Events, Events::from_bits_retain(events)));
            }
        }
        None
    }

    fn take(&mut self, mask: u16) -> u16 {
        let taken = self.0 & mask;
        self.0 &= !mask;
        taken
    }

    /// Whether all that is due comes after `stage` in a run, and so within the run under way.
    pub(super) fn all_after(self, stage: Stage) -> bool {
        let earliest = if self.0 & CONNECTED != 0 {
            Stage::Connected
        } else if self.0 & Due::READ.0 != 0 {
            Stage::Read
        } else if self.0 & Due::WRITE.0 != 0 {
            Stage::Write
        } else {
            Stage::Events
        };
        earliest > stage
    }
}

impl BitOr for Due {
    type Output = Due;

    #[inline]
    fn bitor(self, other: Due) -> Due {
        Due(self.0 | other.0)
    }
}

impl BitOrAssign for Due {
    #[inline]
    fn bitor_assign(&mut self, other: Due) {
        self.0 |= other.0;
    }
}

impl BitAnd for Due {
    type Output = Due;

    #[inline]
    fn bitand(self, other: Due) -> Due {
        Due(self.0 & other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_come_in_their_order_and_flags_are_merged_into_one_call() {
        let mut due = Due::default();
        due |= Due::WRITE | Due::of_events(Events::EOF);
        due |= Due::READ | Due::of_events(Events::CONNECTED | Events::READING);
        let mut seen = Vec::new();
        let mut last = None;
        while let Some((stage, events)) = due.take_after(last) {
            seen.push((stage, events));
            last = Some(stage);
        }
        let none = Events::empty();
        assert_eq!(
            seen,
            [
                (Stage::Connected, Events::CONNECTED),
                (Stage::Read, none),
                (Stage::Write, none),
                (Stage::Events, Events::EOF | Events::READING),
            ]
        );
        assert!(due.is_empty());
    }

    #[test]
    fn what_becomes_due_for_an_earlier_stage_is_not_of_the_run_under_way() {
        let mut due = Due::default();
        due |= Due::READ;
        assert!(!due.all_after(Stage::Read));
        assert_eq!(due.take_after(Some(Stage::Read)), None);
        assert!(due.take_after(None).is_some());
        due |= Due::WRITE;
        assert!(due.all_after(Stage::Read));
        assert!(!due.all_after(Stage::Write));
    }
}
