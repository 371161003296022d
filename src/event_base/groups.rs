//! Rate-limit groups as a base sees them: a port for each group that has members here, and those of
//! its members that may go on.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::collections::hash_map::{HashMap, RandomState};
use std::hash::BuildHasher;
use std::rc::{Rc, Weak};
use std::thread;

use super::EventBase;
use super::registration::Key;
use crate::error::Error;
use crate::rate_limit::{Group, Port, RateLimitConfig, Resumed};

/// How many suspended directions one turn lets go on. Each is a send or a receive; thousands of
/// them that a refill wakes at once must not make one long turn.
const RESUMED_PER_TURN: usize = 256;

/// The fewest ports among which it is worth looking for abandoned ones.
const PURGE_FROM: usize = 16;

/// A base's connection to a group; lives as long as a member does.
#[derive(Debug)]
pub(crate) struct GroupPort {
    port: Port,
    /// Listed in [`Groups::waiting`].
    listed: Cell<bool>,
}

impl GroupPort {
    pub(crate) fn port(&self) -> &Port {
        &self.port
    }
}

/// What a base knows of groups.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// By the group's identity, so that the members of a base share one port.
    ports: RefCell<HashMap<usize, Weak<GroupPort>>>,
    purge_at: Cell<usize>,
    /// Ports with members that wait: only these are polled.
    waiting: RefCell<Vec<Rc<GroupPort>>>,
    /// Directions that may go on, in the order in which they were told.
    resumed: RefCell<VecDeque<Resumed>>,
    /// Kept for its allocation.
    told: RefCell<Vec<Resumed>>,
}

impl Groups {
    /// Whether the next turn has members to let go on.
    pub(super) fn has_resumed(&self) -> bool {
        !self.resumed.borrow().is_empty()
    }

    /// When to poll next; `u64::MAX`: not at all. Keeps no loop alive: a member that waits does.
    pub(super) fn next_poll(&self) -> u64 {
        let waiting = self.waiting.borrow();
        let polls = waiting.iter().filter_map(|port| port.port.next_poll());
        polls.min().unwrap_or(u64::MAX)
    }

    /// Lets go of what only groups hold: the base ends.
    pub(super) fn clear(&mut self) {
        self.waiting.get_mut().clear();
        self.resumed.get_mut().clear();
    }
}

impl EventBase {
    /// A group of bufferevents that share a limit (`bufferevent_rate_limit_group_new`), on the
    /// clock of this base.
    ///
    /// Its members may live on other bases and threads as well. The group does not belong to the
    /// base and keeps no loop alive.
    ///
    /// ```
    /// use evring::rate_limit::RateLimitConfig;
    /// use evring::{BufferEvent, EventBase, Options};
    /// use std::os::unix::net::UnixStream;
    ///
    /// let base = EventBase::new()?;
    /// let (ours, _theirs) = UnixStream::pair()?;
    /// let bev = BufferEvent::socket(&base, Some(ours.into()), Options::CLOSE_ON_FREE)?;
    /// let (rate, burst) = (1_000_000, 2_000_000);
    /// let megabyte_per_second = RateLimitConfig::new(rate, burst, rate, burst, None)?;
    /// let group = base.rate_limit_group(&megabyte_per_second);
    /// bev.add_to_group(&group)?;
    /// assert_eq!(group.members(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn rate_limit_group(&self, config: &RateLimitConfig) -> Group {
        let seed = RandomState::new().hash_one(self.0.pid);
        Group::new(config, seed, self.fresh_now())
    }

    /// The clock of this base's timers and limits, in nanoseconds: what [`Group`]'s calls take as
    /// `now_ns`. All bases of a machine share it (`CLOCK_MONOTONIC`).
    pub fn clock_ns(&self) -> u64 {
        self.fresh_now()
    }

    /// The port through which members of this base join `group`.
    ///
    /// # Errors
    /// [`Error::Io`] when the process has no descriptor left for what wakes the base.
    pub(crate) fn group_port(&self, group: &Group) -> Result<Rc<GroupPort>, Error> {
        let groups = &self.0.groups;
        let known = groups
            .ports
            .borrow()
            .get(&group.id())
            .and_then(Weak::upgrade);
        if let Some(port) = known {
            return Ok(port);
        }
        let remote = self.remote()?;
        let home = thread::current().id();
        let port = group.attach(move || {
            // On its own thread the base is in a turn, at the end of which it asks the port.
            if thread::current().id() != home {
                let _base_gone = remote.post(|_| {});
            }
        });
        let port = Rc::new(GroupPort {
            port,
            listed: Cell::new(false),
        });
        let mut ports = groups.ports.borrow_mut();
        if ports.len() >= groups.purge_at.get().max(PURGE_FROM) {
            ports.retain(|_, port| port.strong_count() != 0);
            groups.purge_at.set(2 * ports.len());
        }
        ports.insert(group.id(), Rc::downgrade(&port));
        Ok(port)
    }

    /// Polls the port from now on until none of its members waits.
    pub(crate) fn await_budget(&self, port: &Rc<GroupPort>) {
        if !port.listed.replace(true) {
            self.0.groups.waiting.borrow_mut().push(Rc::clone(port));
        }
    }

    /// Has the source's `budget_came_back` called, in its turn.
    pub(crate) fn resume_later(&self, resumed: Resumed) {
        self.0.groups.resumed.borrow_mut().push_back(resumed);
    }

    /// Lets suspended directions go on whose budget came back, up to a bound.
    pub(super) fn resume_suspended(&self) {
        let groups = &self.0.groups;
        if !groups.waiting.borrow().is_empty() {
            self.poll_ports();
        }
        for _ in 0..RESUMED_PER_TURN {
            let Some(resumed) = groups.resumed.borrow_mut().pop_front() else {
                return;
            };
            if let Some(source) = self.0.source_by(Key::from_bits(resumed.token)) {
                source.budget_came_back(self, resumed.direction);
            }
        }
    }

    fn poll_ports(&self) {
        let groups = &self.0.groups;
        let now = self.now();
        let mut told = groups.told.borrow_mut();
        groups.waiting.borrow_mut().retain(|port| {
            port.port.poll(now, &mut told);
            // Not by `next_poll`, which answers for a moment between two locks: another thread may
            // have resumed the last member and be about to wake this one for it.
            let expects = port.port.expects();
            port.listed.set(expects);
            expects
        });
        groups.resumed.borrow_mut().extend(told.drain(..));
    }
}
