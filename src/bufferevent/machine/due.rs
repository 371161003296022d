//! Which callbacks are due, and in which order they come.

use crate::bufferevent::types::Events;

/// Callbacks that are due.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Due {
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) events: Events,
}

/// The stages of a run of callbacks, in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::bufferevent) enum Stage {
    Connected,
    Read,
    Write,
    Events,
}

impl Due {
    pub(super) fn is_empty(&self) -> bool {
        !self.read && !self.write && self.events.is_empty()
    }

    /// Joins what is due already.
    pub(super) fn add(&mut self, read: bool, write: bool, events: Events) {
        self.read |= read;
        self.write |= write;
        self.events |= events;
    }

    /// Takes the first stage of those that come after `last` in a run.
    pub(super) fn take_after(&mut self, last: Option<Stage>) -> Option<(Stage, Events)> {
        let connected = self.events & Events::CONNECTED;
        if last.is_none() && !connected.is_empty() {
            self.events.remove(connected);
            return Some((Stage::Connected, connected));
        }
        if last < Some(Stage::Read) && std::mem::take(&mut self.read) {
            return Some((Stage::Read, Events::empty()));
        }
        if last < Some(Stage::Write) && std::mem::take(&mut self.write) {
            return Some((Stage::Write, Events::empty()));
        }
        if last < Some(Stage::Events) && !self.events.is_empty() {
            return Some((Stage::Events, std::mem::take(&mut self.events)));
        }
        None
    }

    /// Whether all that is due comes after `stage` in a run, and so within the run under way.
    pub(super) fn all_after(&self, stage: Stage) -> bool {
        let earliest = if self.events.contains(Events::CONNECTED) {
            Stage::Connected
        } else if self.read {
            Stage::Read
        } else if self.write {
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
        due.add(false, true, Events::EOF);
        due.add(true, false, Events::CONNECTED | Events::READING);
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
        due.add(true, false, Events::empty());
        assert!(!due.all_after(Stage::Read));
        assert_eq!(due.take_after(Some(Stage::Read)), None);
        due.read = false;
        due.add(false, true, Events::empty());
        assert!(due.all_after(Stage::Read));
        assert!(!due.all_after(Stage::Write));
    }
}
