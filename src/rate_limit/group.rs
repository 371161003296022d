//! Limits that several bufferevents share, on one event base or on several.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::config::{RATE_LIMIT_MAX, RateLimitConfig};
use super::group_budget::{GroupBudget, Member};
use super::port::{PortShared, PortTable};
use super::{Direction, to_isize};

/// The minimal share of a new group, in bytes.
pub const DEFAULT_MIN_SHARE: usize = 64;

/// Why a group refused.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The group still has members.
    #[error(
        "the group still has {members} members: remove them first, or use dissolve(), which lets them go on without it"
    )]
    HasMembers {
        /// How many.
        members: usize,
    },
    /// The group was freed or dissolved.
    #[error("the group was freed: make a new one")]
    Freed,
    /// A minimal share beyond [`RATE_LIMIT_MAX`].
    #[error(
        "a minimal share of {0} bytes exceeds the maximum of {RATE_LIMIT_MAX}: give a smaller one"
    )]
    MinShareTooLarge(usize),
}

/// A limit that its members share (`struct bufferevent_rate_limit_group`).
///
/// A cheap handle; clones mean the same group, and any thread may use them. The group lives as
/// long as a handle or a member does. It has no timer and keeps no loop alive: a base
/// [attaches](Self::attach) to it and polls the [`Port`] that it gets.
///
/// ```
/// use evring::rate_limit::{Group, GroupError, Limiter, RateLimitConfig};
///
/// let config = RateLimitConfig::new(1_000_000, 1_000_000, 1_000_000, 1_000_000, None)?;
/// let group = Group::new(&config, 42, 0);
/// let port = group.attach(|| { /* wake the base's thread */ });
///
/// let mut limiter = Limiter::new();
/// limiter.join(&port, 7)?;
/// assert_eq!(group.free(), Err(GroupError::HasMembers { members: 1 }));
/// limiter.leave();
/// group.free()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Group {
    shared: Arc<Shared>,
}

/// Bytes that members of a group have moved since its creation or the last reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
}

/// One base's connection to a group: through it members join, and the group says who may go on.
///
/// A base that has members waiting arms a timer for [`next_poll`](Self::next_poll), and calls
/// [`poll`](Self::poll) when it fires or when the wake hook was called. Dropping the port does
/// not end the membership of those who joined through it, but nobody is woken any more.
#[derive(Debug)]
pub struct Port {
    shared: Arc<Shared>,
    port: Arc<PortShared>,
}

/// A member that waited and may go on: launch again in this direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// What it was joined with.
    pub token: u64,
    /// The direction that may go on.
    pub direction: Direction,
}

#[derive(Debug)]
struct Shared {
    read: GroupBudget,
    write: GroupBudget,
    admin: Mutex<Admin>,
}

/// What changes only by the group's owner, and who is in it.
#[derive(Debug)]
struct Admin {
    config: RateLimitConfig,
    /// As asked for; the budgets know it clamped to the rates.
    min_share: usize,
    members: usize,
    freed: bool,
    ports: PortTable,
}

/// One bufferevent's place in a group. Dropping it leaves the group.
#[derive(Debug)]
pub(crate) struct Membership {
    shared: Arc<Shared>,
    /// Keeps the port's id taken.
    _port: Arc<PortShared>,
    read: Member,
    write: Member,
}

impl Group {
    /// A group with these limits (`bufferevent_rate_limit_group_new`), starting at `now_ns`.
    ///
    /// `seed` decides where resumption starts among members that wait for a refill. All times
    /// given to the group and its members must come from one clock, on whatever thread.
    pub fn new(config: &RateLimitConfig, seed: u64, now_ns: u64) -> Self {
        let shared = Shared {
            read: GroupBudget::new(config, Direction::Read, seed, now_ns),
            write: GroupBudget::new(config, Direction::Write, !seed, now_ns),
            admin: Mutex::new(Admin {
                config: *config,
                min_share: DEFAULT_MIN_SHARE,
                members: 0,
                freed: false,
                ports: PortTable::default(),
            }),
        };
        shared.clamp_min_share(&shared.admin());
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Connects a base. `wake` is called, on any thread and without a lock held, when members of
    /// this port may go on through something else than its own poll; not again until the port
    /// was polled. It must make the base call [`Port::poll`] soon.
    pub fn attach(&self, wake: impl Fn() + Send + Sync + 'static) -> Port {
        let mut admin = self.shared.admin();
        let port = Arc::new(PortShared::new(admin.ports.free_id(), Box::new(wake)));
        admin.ports.set(&port);
        self.shared.read.add_port(&port);
        self.shared.write.add_port(&port);
        Port {
            shared: Arc::clone(&self.shared),
            port,
        }
    }

    /// Changes the limits (`bufferevent_rate_limit_group_set_cfg`). The levels stay, clipped to
    /// the new bursts.
    pub fn set_config(&self, config: &RateLimitConfig, now_ns: u64) {
        let mut admin = self.shared.admin();
        admin.config = *config;
        self.shared.clamp_min_share(&admin);
        let wakes = [
            self.shared
                .read
                .reconfigure(config, Direction::Read, now_ns),
            self.shared
                .write
                .reconfigure(config, Direction::Write, now_ns),
        ];
        // A hook may ask the group something: not under the lock.
        drop(admin);
        wakes.into_iter().for_each(|wakes| wakes.send(None));
    }

    /// The limits in force.
    pub fn config(&self) -> RateLimitConfig {
        self.shared.admin().config
    }

    /// Sets the fewest bytes that a member is given at a time, if it wants as many
    /// (`bufferevent_rate_limit_group_set_min_share`). Where that is more than an equal share,
    /// fewer members get something in a tick, in turn. 0 means an equal share, however small.
    ///
    /// It is clamped to the lower of the two rates.
    ///
    /// # Errors
    /// More than [`RATE_LIMIT_MAX`].
    pub fn set_min_share(&self, bytes: usize) -> Result<(), GroupError> {
        if bytes > RATE_LIMIT_MAX {
            return Err(GroupError::MinShareTooLarge(bytes));
        }
        let mut admin = self.shared.admin();
        admin.min_share = bytes;
        self.shared.clamp_min_share(&admin);
        Ok(())
    }

    /// The minimal share in force, in bytes.
    pub fn min_share(&self) -> usize {
        self.shared.admin().clamped_min_share()
    }

    /// Bytes that members may still move in this tick, those of operations in flight included
    /// (`bufferevent_rate_limit_group_get_read_limit`). Negative after more has moved than was
    /// there.
    pub fn limit(&self, direction: Direction, now_ns: u64) -> isize {
        to_isize(self.shared.budget(direction).level(now_ns))
    }

    /// Takes bytes out of the budget (`bufferevent_rate_limit_group_decrement_read`). A negative
    /// number puts bytes in, even above the burst until the next refill, and members that wait
    /// go on.
    pub fn decrement(&self, direction: Direction, bytes: isize, now_ns: u64) {
        self.shared
            .budget(direction)
            .decrement(bytes as i64, now_ns);
    }

    /// Bytes moved by members (`bufferevent_rate_limit_group_get_totals`).
    pub fn totals(&self) -> Totals {
        Totals {
            read: self.shared.read.moved(),
            written: self.shared.write.moved(),
        }
    }

    /// Starts the totals anew (`bufferevent_rate_limit_group_reset_totals`).
    pub fn reset_totals(&self) {
        self.shared.read.reset_moved();
        self.shared.write.reset_moved();
    }

    /// What tells groups apart while they live.
    pub(crate) fn id(&self) -> usize {
        Arc::as_ptr(&self.shared).addr()
    }

    /// How many members the group has.
    pub fn members(&self) -> usize {
        self.shared.admin().members
    }

    /// Ends the group for all handles (`bufferevent_rate_limit_group_free`): nobody can join any
    /// more.
    ///
    /// # Errors
    /// [`GroupError::HasMembers`]; the group stays as it is. Freeing twice is no error.
    pub fn free(&self) -> Result<(), GroupError> {
        let mut admin = self.shared.admin();
        if admin.members > 0 {
            return Err(GroupError::HasMembers {
                members: admin.members,
            });
        }
        admin.freed = true;
        Ok(())
    }

    /// Ends the group also if it has members: they go on without it, and those that wait are
    /// resumed.
    pub fn dissolve(&self) {
        self.shared.admin().freed = true;
        self.shared.read.close();
        self.shared.write.close();
    }
}

impl PartialEq for Group {
    /// Whether both handles mean the same group.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Eq for Group {}

impl Port {
    /// Adds to `resumed` the members of this port that waited and may go on, and refills the
    /// group if a refill is due. Cheap when there is nothing to do.
    ///
    /// A member that was told has its share until it launches, stops or leaves.
    pub fn poll(&self, now_ns: u64, resumed: &mut Vec<Resumed>) {
        let woken = self.port.take_pending();
        for direction in [Direction::Read, Direction::Write] {
            let budget = self.shared.budget(direction);
            budget.poll(self.port.id(), woken, now_ns, |token| {
                resumed.push(Resumed { token, direction })
            });
        }
    }

    /// When to poll next if nothing wakes the base before; `None` while no member of this port
    /// waits, 0 if there is something to collect already.
    pub fn next_poll(&self) -> Option<u64> {
        if self.port.is_pending() {
            return Some(0);
        }
        let id = self.port.id();
        [
            self.shared.read.next_poll(id),
            self.shared.write.next_poll(id),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether some member of this port waits, or was resumed and is not polled yet. Until one is
    /// suspended again, a port that expects nothing need not be polled.
    pub fn expects(&self) -> bool {
        let id = self.port.id();
        self.shared.read.expects(id) || self.shared.write.expects(id)
    }

    /// The group that this port belongs to.
    pub fn group(&self) -> Group {
        Group {
            shared: Arc::clone(&self.shared),
        }
    }

    pub(crate) fn join(&self, token: u64) -> Result<Membership, GroupError> {
        let mut admin = self.shared.admin();
        if admin.freed {
            return Err(GroupError::Freed);
        }
        admin.members += 1;
        Ok(Membership {
            shared: Arc::clone(&self.shared),
            _port: Arc::clone(&self.port),
            read: self.shared.read.join(self.port.id(), token),
            write: self.shared.write.join(self.port.id(), token),
        })
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.port.retire();
    }
}

impl Membership {
    /// The budget of a direction and this member's record of it.
    pub(crate) fn budget(&mut self, direction: Direction) -> (&GroupBudget, &mut Member) {
        match direction {
            Direction::Read => (&self.shared.read, &mut self.read),
            Direction::Write => (&self.shared.write, &mut self.write),
        }
    }

    pub(crate) fn read_budget(&self) -> &GroupBudget {
        &self.shared.read
    }

    pub(crate) fn group(&self) -> Group {
        Group {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.shared.read.leave(&mut self.read);
        self.shared.write.leave(&mut self.write);
        self.shared.admin().members -= 1;
    }
}

impl Shared {
    fn budget(&self, direction: Direction) -> &GroupBudget {
        match direction {
            Direction::Read => &self.read,
            Direction::Write => &self.write,
        }
    }

    fn admin(&self) -> MutexGuard<'_, Admin> {
        self.admin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clamp_min_share(&self, admin: &Admin) {
        let bytes = admin.clamped_min_share() as u64;
        self.read.set_min_share(bytes);
        self.write.set_min_share(bytes);
    }
}

impl Admin {
    fn clamped_min_share(&self) -> usize {
        let rates = self
            .config
            .rate(Direction::Read)
            .min(self.config.rate(Direction::Write));
        self.min_share.min(rates)
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes read, {} bytes written",
            self.read, self.written
        )
    }
}
