//! Looking after connections that have gone quiet.
//!
//! A source that heard something, or stands still, is listed once; a fifth of a second later the
//! base has it look whether its connection still stands. So a connection that goes on costs a
//! glance now and then, whatever it moves.

use std::cell::{Cell, RefCell};

use super::EventBase;
use super::registration::Registration;

/// How often the base looks.
const CHECK_NS: u64 = 200_000_000;

/// Whom to look after, and when.
#[derive(Debug)]
pub(super) struct Quiet {
    /// Tokens, half as long as keys, for every connection may be here. One that was given to
    /// another source meanwhile has that one look once more than it would.
    listed: RefCell<Vec<u32>>,
    /// In the driver's time; `u64::MAX`: not at all.
    at: Cell<u64>,
}

impl Default for Quiet {
    fn default() -> Self {
        Quiet {
            listed: RefCell::default(),
            at: Cell::new(u64::MAX),
        }
    }
}

impl Quiet {
    /// When to look next; `u64::MAX`: not at all. It keeps no loop alive.
    pub(super) fn next(&self) -> u64 {
        self.at.get()
    }
}

impl EventBase {
    /// Has the source's `check_quiet` called in a while. The caller keeps it from being listed
    /// twice.
    pub(crate) fn check_when_quiet(&self, registration: &Registration) {
        let quiet = &self.0.quiet;
        quiet.listed.borrow_mut().push(registration.token());
        if quiet.at.get() == u64::MAX {
            quiet.at.set(self.now().saturating_add(CHECK_NS));
        }
    }

    pub(super) fn check_quiet(&self) {
        let quiet = &self.0.quiet;
        if quiet.at.get() > self.0.now.get() {
            return;
        }
        quiet.at.set(u64::MAX);
        let mut listed = std::mem::take(&mut *quiet.listed.borrow_mut());
        listed.retain(|&token| {
            let source = self.0.source(token);
            source.is_some_and(|source| source.check_quiet(self))
        });
        let mut new = quiet.listed.borrow_mut();
        listed.append(&mut new);
        if !listed.is_empty() && quiet.at.get() == u64::MAX {
            quiet.at.set(self.0.now.get().saturating_add(CHECK_NS));
        }
        *new = listed;
    }
}
