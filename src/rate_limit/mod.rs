//! Rate limits: token buckets of single bufferevents, and groups that share one.
//!
//! Pure arithmetic on a time that is handed in: nothing here reads a clock, sets a timer or makes
//! a system call. Times are nanoseconds (`u64`) of one clock that normally does not go back, the
//! same for all threads that share a group; limits are bytes.
//!
//! # How a bufferevent uses it
//!
//! A limited bufferevent owns a [`Limiter`], which gates the submission queue: no receive or send
//! is pushed before [`Limiter::launch`] granted bytes for it. The operation is bounded by the
//! [`Grant`], which is charged at once, and [`Limiter::complete`] refunds what did not move.
//!
//! - [`Launch::Suspended`] by the own bucket: set a timer for the time given and launch again.
//! - [`Launch::Suspended`] by the group: wait to be told by the base, which polls the group's
//!   [`Port`] whenever its wake hook was called and at [`Port::next_poll`].
//! - [`Launch::AwaitReadable`] (only for [`Demand::idle`] in a group): poll the socket for
//!   readability, then launch with [`Demand::ready`]. A group lets idle receives hold `burst -
//!   rate` bytes (at least a 256th of the rate) and a slot of 16 KiB in all, to be divided by its
//!   members, so a burst well above the rate saves the polls.
//! - Nothing more to move, or the direction disabled: [`Limiter::stop`], so that others get what
//!   was set aside.
//! - After `set_config`, `join`, `leave`, or a `decrement` that suspends no more: launch again.
//!
//! ```
//! use evring::rate_limit::{
//!     Demand, Direction, Group, Launch, Limiter, RateLimitConfig, Suspension,
//! };
//!
//! const SECOND: u64 = 1_000_000_000;
//! let per_connection = RateLimitConfig::new(6_000, 12_000, 6_000, 12_000, None)?;
//! let for_all = RateLimitConfig::new(10_000, 10_000, 10_000, 10_000, None)?;
//!
//! // A base attaches to a group once; each bufferevent joins through that port.
//! let group = Group::new(&for_all, /* seed */ 1, /* now */ 0);
//! let port = group.attach(|| { /* make the base's loop turn */ });
//! let mut limiter = Limiter::new();
//! limiter.set_config(Some(&per_connection), 0);
//! limiter.join(&port, /* token */ 99)?;
//!
//! // 50,000 bytes are buffered: how many may this send carry?
//! let Launch::Granted(grant) = limiter.launch(Direction::Write, Demand::ready(50_000), 0) else {
//!     panic!("both buckets are fresh");
//! };
//! assert_eq!(grant.bytes(), 6_000);
//! limiter.complete(Direction::Write, grant, 5_000, 0);
//! assert_eq!(limiter.limit(Direction::Write, 0), 1_000);
//! assert_eq!(group.totals().written, 5_000);
//!
//! // The group runs dry: the base hears when it is refilled.
//! group.decrement(Direction::Write, 5_000, 0);
//! let suspended = limiter.launch(Direction::Write, Demand::ready(45_000), 0);
//! assert_eq!(suspended, Launch::Suspended(Suspension::Group { until_ns: SECOND }));
//! assert_eq!(port.next_poll(), Some(SECOND));
//! let mut resumed = Vec::new();
//! port.poll(SECOND, &mut resumed);
//! assert_eq!((resumed[0].token, resumed[0].direction), (99, Direction::Write));
//! let much = Demand::ready(45_000);
//! let Launch::Granted(grant) = limiter.launch(Direction::Write, much, SECOND) else {
//!     panic!("told to go on");
//! };
//! assert_eq!(grant.bytes(), 7_000);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How exact it is
//!
//! - On average a limit is met exactly: what an operation or a member takes too much is missing
//!   from the next refill. Only what idle receives of a group hold is missing for the busy ones:
//!   nothing where the burst exceeds the rate by as much, else at most a 256th of the rate.
//! - A bucket of one bufferevent never lets more than its burst through in a tick.
//! - A group may exceed its burst in a tick by a slot of idle receives and by one minimal share.
//!   Beyond that only by operations and members that it has given up waiting for: a send that
//!   did not complete for two refills, a base that took longer than a tick to poll.
//! - Members that want to move data get equal parts. Who waits is served first come, first served;
//!   among those who began to wait in one tick, the first is picked at random.
//!
//! # Threads
//!
//! A [`Limiter`] and its [`Port`] belong to one base's thread; a [`Group`] is for all. A member
//! that finds budget takes it by atomic additions; a lock is taken to wait, to be resumed, to
//! refill, to join and to leave, each for constant time per member concerned. Wake hooks are called
//! with no lock held.

mod bucket;
mod config;
mod group;
mod group_budget;
mod ledger;
mod limiter;
mod port;
mod schedule;
mod units;
mod waiters;

pub use crate::direction::Direction;
pub use bucket::Bucket;
pub use config::{ConfigError, DEFAULT_TICK, MAX_TICK, Pacing, RATE_LIMIT_MAX, RateLimitConfig};
pub use group::{DEFAULT_MIN_SHARE, Group, GroupError, Port, Resumed, Totals};
pub use limiter::{Demand, Grant, Launch, Limiter, Suspension};
pub use units::{ParseRateError, RateSpec};

/// Clips to what `ev_ssize_t` holds, on any target.
fn to_isize(bytes: i64) -> isize {
    isize::try_from(bytes).unwrap_or(if bytes < 0 { isize::MIN } else { isize::MAX })
}
