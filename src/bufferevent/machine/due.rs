//! Which callbacks are due, and in which order they come.

use crate::bufferevent::types::Events;

/// Callbacks that are due: a bit each, the events with their own. A message makes several due, so
/// they are asked for all at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::bufferevent) struct Due(u16);

const READ: u16 = 0x100;
const WRITE: u16 = 0x200;
const EVENTS: u16 = Events::all().bits();
const CONNECTED: u16 = Events::CONNECTED.bits();

const _: () = assert!(EVENTS & (READ | WRITE) == 0);

/// The stages of a run of callbacks, in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::bufferevent) enum Stage {
    Connected,
    Read,
    Write,
    Events,
}

impl Due {
    /// The given ones, with all events or none.
    pub(in crate::bufferevent) const fn of(read: bool, write: bool, events: bool) -> Self {
        let mut bits = 0;
        if read {
            bits |= READ;
        }
        if write {
            bits |= WRITE;
        }
        if events {
            bits |= EVENTS;
        }
        Due(bits)
    }

    /// Whether one of `others` is among them.
    pub(in crate::bufferevent) fn intersects(self, others: Due) -> bool {
        self.0 & others.0 != 0
    }

    /// Whether it has what a stage calls.
    pub(in crate::bufferevent) fn has(self, stage: Stage) -> bool {
        let mask = match stage {
            Stage::Read => READ,
            Stage::Write => WRITE,
            Stage::Connected | Stage::Events => EVENTS,
        };
        self.0 & mask != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn events(self) -> Events {
        Events::from_bits_truncate(self.0)
    }

    /// The read callback is due if it is.
    #[inline]
    pub(super) fn add_read(&mut self, due: bool) {
        self.0 |= u16::from(due) * READ;
    }

    #[inline]
    pub(super) fn add_write(&mut self, due: bool) {
        self.0 |= u16::from(due) * WRITE;
    }

    pub(super) fn add_events(&mut self, events: Events) {
        self.0 |= events.bits() & EVENTS;
    }

    pub(super) fn remove_events(&mut self, events: Events) {
        self.0 &= !events.bits();
    }

    /// Joins what is due already.
    pub(super) fn add(&mut self, others: Due) {
        self.0 |= others.0;
    }

    /// Takes the first stage of those that come after `last` in a run.
    pub(super) fn take_after(&mut self, last: Option<Stage>) -> Option<(Stage, Events)> {
        if self.0 == 0 {
            return None;
        }
        if last.is_none() && self.take(CONNECTED) != 0 {
            return Some((Stage::Connected, Events::CONNECTED));
        }
        if last < Some(Stage::Read) && self.take(READ) != 0 {
            return Some((Stage::Read, Events::empty()));
        }
        if last < Some(Stage::Write) && self.take(WRITE) != 0 {
            return Some((Stage::Write, Events::empty()));
        }
        if last < Some(Stage::Events) {
            let events = self.take(EVENTS);
            if events != 0 {
                return Some((Stage::Events, Events::from_bits_truncate(events)));
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
        } else if self.0 & READ != 0 {
            Stage::Read
        } else if self.0 & WRITE != 0 {
            Stage::Write
        } else {
            Stage::Events
        };
        earliest > stage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_come_in_their_order_and_flags_are_merged_into_one_call() {
        let mut due = Due::default();
        due.add(Due::of(false, true, false));
        due.add_events(Events::EOF);
        due.add(Due::of(true, false, false));
        due.add_events(Events::CONNECTED | Events::READING);
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
        due.add_read(true);
        assert!(!due.all_after(Stage::Read));
        assert_eq!(due.take_after(Some(Stage::Read)), None);
        assert!(due.take_after(None).is_some());
        due.add_write(true);
        assert!(due.all_after(Stage::Read));
        assert!(!due.all_after(Stage::Write));
    }
}
