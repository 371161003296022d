//! The gate of one bufferevent: its own buckets and its place in a group.

use super::bucket::Bucket;
use super::config::RateLimitConfig;
use super::group::{Group, GroupError, Membership, Port};
use super::group_budget::{Answer, Ask};
use super::ledger::Taken;
use super::{Direction, to_isize};

/// What a bufferevent would like to move by its next operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The most that the operation may move, limits apart: what is to be written or the room for
    /// what is read, and not more than one operation carries.
    pub bytes: usize,
    /// Whether data is known to wait: always for a write; for a read after readability was
    /// reported, or after a completion that says that there is more.
    pub ready: bool,
}

/// The right to launch one operation of up to [`bytes`](Self::bytes).
///
/// Give it back through [`Limiter::complete`] when the operation ends; a grant that is lost stays
/// reserved in the bufferevent's own bucket.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a grant is to be completed"]
pub struct Grant {
    taken: Taken,
    /// Which of the limiter's buckets and memberships it was taken from.
    own: Option<u16>,
    group: Option<u16>,
}

/// May the operation be launched?
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Launch {
    /// Yes, with at most this many bytes.
    Granted(Grant),
    /// Not yet: the direction is suspended.
    Suspended(Suspension),
    /// Not blindly: wait until the socket is readable, which costs no budget, and ask again with
    /// [`Demand::ready`]. A group has no budget to leave with a receive that may wait for hours.
    AwaitReadable,
}

/// Why a direction is suspended, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspension {
    /// By the bufferevent's own bucket: set a timer and launch again.
    Own {
        /// When the bucket will be positive, in nanoseconds.
        until_ns: u64,
    },
    /// By the group: [`Port::poll`] will give the bufferevent's token.
    Group {
        /// When the group expects to be positive, in nanoseconds. Others may come first.
        until_ns: u64,
    },
}

/// The rate limits of one bufferevent: its own, a group's, or both.
///
/// Unlimited when new, at next to no cost; a bufferevent without limits needs none.
/// See the [module](super) for how it is used.
#[derive(Debug, Default)]
pub struct Limiter {
    own: Option<Own>,
    membership: Option<Membership>,
    /// Count the buckets made and the groups joined, so that a grant of former ones is known.
    own_count: u16,
    group_count: u16,
}

#[derive(Debug)]
struct Own {
    config: RateLimitConfig,
    read: Bucket,
    write: Bucket,
}

impl Demand {
    /// A write, or a read of data that is known to wait.
    pub fn ready(bytes: usize) -> Self {
        Self { bytes, ready: true }
    }

    /// A read that may have to wait for data.
    pub fn idle(bytes: usize) -> Self {
        Self {
            bytes,
            ready: false,
        }
    }
}

impl Grant {
    /// The most that the operation may move.
    pub fn bytes(&self) -> u32 {
        self.taken.bytes
    }

    /// Cuts off a part of up to `bytes`, for a completion that does not end the operation (as a
    /// multishot receive gives).
    pub fn split(&mut self, bytes: u32) -> Self {
        let bytes = bytes.min(self.taken.bytes);
        self.taken.bytes -= bytes;
        Self {
            taken: Taken {
                bytes,
                ..self.taken
            },
            ..*self
        }
    }
}

impl Limiter {
    /// No limit at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether this limits nothing and can be dropped.
    pub fn is_unlimited(&self) -> bool {
        self.own.is_none() && self.membership.is_none()
    }

    /// Sets, changes or removes the bufferevent's own limits (`bufferevent_set_rate_limit`). The
    /// group stays.
    ///
    /// New buckets start at one tick's rate; existing ones keep their level, clipped to the new
    /// burst. Launch again in both directions afterwards: they may have been suspended.
    pub fn set_config(&mut self, config: Option<&RateLimitConfig>, now_ns: u64) {
        match (config, &mut self.own) {
            (None, own) => *own = None,
            (Some(config), Some(own)) => {
                own.config = *config;
                own.read.reconfigure(config, Direction::Read, now_ns);
                own.write.reconfigure(config, Direction::Write, now_ns);
            }
            (Some(config), own) => {
                self.own_count = self.own_count.wrapping_add(1);
                *own = Some(Own {
                    config: *config,
                    read: Bucket::new(config, Direction::Read, now_ns),
                    write: Bucket::new(config, Direction::Write, now_ns),
                });
            }
        }
    }

    /// The bufferevent's own limits.
    pub fn config(&self) -> Option<&RateLimitConfig> {
        self.own.as_ref().map(|own| &own.config)
    }

    /// Joins a group (`bufferevent_add_to_rate_limit_group`) after leaving the one it was in.
    /// `token` is what [`Port::poll`] will name this bufferevent by.
    ///
    /// Launch again in both directions afterwards. What operations in flight move is charged to
    /// the new group.
    ///
    /// # Errors
    /// [`GroupError::Freed`]; the limiter stays in the group where it was.
    pub fn join(&mut self, port: &Port, token: u64) -> Result<(), GroupError> {
        let membership = port.join(token)?;
        self.group_count = self.group_count.wrapping_add(1);
        self.membership = Some(membership);
        Ok(())
    }

    /// Leaves the group, if it is in one (`bufferevent_remove_from_rate_limit_group`). Launch again
    /// in both directions afterwards.
    pub fn leave(&mut self) {
        self.membership = None;
    }

    pub(crate) fn is_member(&self) -> bool {
        self.membership.is_some()
    }

    /// How many bytes its group lets an idle receive of each member hold; `None` without a group.
    pub(crate) fn idle_share(&self) -> Option<usize> {
        let share = self.membership.as_ref()?.read_budget().idle_share();
        Some(usize::try_from(share).unwrap_or(0))
    }

    /// The group it is in.
    pub fn group(&self) -> Option<Group> {
        self.membership.as_ref().map(Membership::group)
    }

    /// Asks for budget for one operation, and charges it.
    ///
    /// A direction that is suspended may ask again at any time; it keeps its place in the group's
    /// queue. If it does not want to go on, say [`stop`](Self::stop).
    pub fn launch(&mut self, direction: Direction, demand: Demand, now_ns: u64) -> Launch {
        let mut bytes = u32::try_from(demand.bytes).unwrap_or(u32::MAX);
        if let Some(bucket) = self.bucket(direction) {
            let available = bucket.available(now_ns);
            if available <= 0 {
                let until_ns = bucket.resumes_at();
                self.stop(direction);
                return Launch::Suspended(Suspension::Own { until_ns });
            }
            bytes = u32::try_from(available).unwrap_or(u32::MAX).min(bytes);
        }
        let mut grant = Grant {
            taken: Taken {
                bytes,
                epoch: 0,
                idle: false,
            },
            own: self.own.as_ref().map(|_| self.own_count),
            group: None,
        };
        if bytes == 0 {
            self.stop(direction);
            return Launch::Granted(grant);
        }
        if let Some(membership) = &mut self.membership {
            let (budget, member) = membership.budget(direction);
            let ask = Ask {
                bytes,
                ready: demand.ready,
            };
            match budget.launch(member, ask, now_ns) {
                Answer::Granted(taken) => {
                    (grant.taken, grant.group) = (taken, Some(self.group_count));
                }
                Answer::Suspended { until_ns } => {
                    return Launch::Suspended(Suspension::Group { until_ns });
                }
                Answer::AwaitReadable => return Launch::AwaitReadable,
                Answer::Closed => self.leave(),
            }
        }
        if let Some(bucket) = self.bucket(direction) {
            bucket.reserve(grant.taken.bytes);
        }
        Launch::Granted(grant)
    }

    /// Ends an operation of which `moved` bytes did move; what it was granted beyond them is
    /// refunded.
    ///
    /// Also for an operation that failed or was cancelled, and for one launched before the limits
    /// or the group changed: what it moved is charged to those of now.
    pub fn complete(&mut self, direction: Direction, grant: Grant, moved: usize, now_ns: u64) {
        let moved = moved as u64;
        let own_is_current = grant.own == Some(self.own_count);
        if let Some(bucket) = self.bucket(direction) {
            // Before the charge, so that a tick that ended meanwhile counts as ended.
            bucket.available(now_ns);
            bucket.settle(if own_is_current { grant.taken.bytes } else { 0 }, moved);
        }
        let group_is_current = grant.group == Some(self.group_count);
        if let Some(membership) = &mut self.membership {
            let (budget, member) = membership.budget(direction);
            if group_is_current {
                budget.complete(member, grant.taken, moved, now_ns);
            } else {
                budget.charge(moved, now_ns);
            }
        }
    }

    /// Charges bytes that moved without a grant: by an operation launched before there was a
    /// limit, or as the overhead of a protocol below.
    pub fn charge(&mut self, direction: Direction, moved: usize, now_ns: u64) {
        let taken = Taken {
            bytes: 0,
            epoch: 0,
            idle: false,
        };
        self.complete(
            direction,
            Grant {
                taken,
                own: None,
                group: None,
            },
            moved,
            now_ns,
        );
    }

    /// The direction does not want to move data now: it was disabled, or has nothing to write. It
    /// waits no longer, and budget set aside for it goes to others.
    ///
    /// Cheap, and harmless when nothing was set aside.
    pub fn stop(&mut self, direction: Direction) {
        if let Some(membership) = &mut self.membership {
            let (budget, member) = membership.budget(direction);
            budget.stop(member);
        }
    }

    /// Bytes in the own bucket (`bufferevent_get_read_limit`): `isize::MAX` without own limits,
    /// negative after more has moved than was there. The group is not looked at.
    pub fn limit(&mut self, direction: Direction, now_ns: u64) -> isize {
        self.bucket(direction)
            .map_or(isize::MAX, |bucket| to_isize(bucket.level(now_ns)))
    }

    /// The most that the next operation could move as far as limits go, group included
    /// (`bufferevent_get_max_to_read`); `isize::MAX` without any, never negative.
    pub fn max_to_move(&mut self, direction: Direction, now_ns: u64) -> isize {
        let own = self
            .bucket(direction)
            .map_or(i64::MAX, |bucket| bucket.available(now_ns));
        let group = self.membership.as_mut().map_or(i64::MAX, |membership| {
            let (budget, member) = membership.budget(direction);
            budget.share_of(member, now_ns)
        });
        to_isize(own.min(group).max(0))
    }

    /// Takes bytes out of the own bucket at once (`bufferevent_decrement_read_limit`); a negative
    /// number puts bytes in, even above the burst until the next refill. Without own limits it does
    /// nothing. The group is not touched.
    ///
    /// Gives the suspension that this leaves. `None` means that the direction may go on: launch
    /// again if it was suspended.
    pub fn decrement(
        &mut self,
        direction: Direction,
        bytes: isize,
        now_ns: u64,
    ) -> Option<Suspension> {
        let bucket = self.bucket(direction)?;
        bucket.decrement(now_ns, bytes as i64);
        (bucket.available(now_ns) <= 0).then(|| Suspension::Own {
            until_ns: bucket.resumes_at(),
        })
    }

    /// Until when a direction that has nothing in flight has to wait; `None`: it may go on now.
    #[cfg(test)]
    pub(crate) fn held_up_until(&mut self, direction: Direction, now_ns: u64) -> Option<u64> {
        if let Some(bucket) = self.bucket(direction)
            && bucket.available(now_ns) <= 0
        {
            return Some(bucket.resumes_at());
        }
        let (budget, member) = self.membership.as_mut()?.budget(direction);
        budget.held_up_until(member)
    }

    fn bucket(&mut self, direction: Direction) -> Option<&mut Bucket> {
        let own = self.own.as_mut()?;
        Some(match direction {
            Direction::Read => &mut own.read,
            Direction::Write => &mut own.write,
        })
    }
}
