//! The calls about rate limits.

use super::BufferEvent;
use super::seldom::Seldom;
use super::shell::Cx;
use super::transport::socket::Socket;
use super::transport::socket::gate::Limits;
use crate::error::Error;
use crate::rate_limit::{Direction, Group, RATE_LIMIT_MAX, RateLimitConfig};

impl BufferEvent {
    /// Sets, changes or removes the bufferevent's own limits (`bufferevent_set_rate_limit`); a
    /// group's stay.
    ///
    /// New buckets start with one tick's rate; existing ones keep their level, clipped to the new
    /// burst. What is in flight counts. A direction that was suspended goes on as soon as the new
    /// limits allow.
    ///
    /// ```
    /// use evring::rate_limit::{RATE_LIMIT_MAX, RateLimitConfig};
    /// use evring::{BufferEvent, EventBase, Options};
    ///
    /// let base = EventBase::new()?;
    /// let bev = BufferEvent::socket(&base, None, Options::empty())?;
    /// let slow = RateLimitConfig::new(1_000, 4_000, 500, 500, None)?;
    /// bev.set_rate_limit(Some(&slow))?;
    /// assert_eq!(bev.read_limit()?, 1_000);
    /// bev.decrement_read_limit(1_500)?;
    /// assert_eq!((bev.read_limit()?, bev.max_to_read()?), (-500, 0));
    /// bev.set_rate_limit(None)?;
    /// assert_eq!(bev.max_to_read()?, RATE_LIMIT_MAX);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Freed`]; [`Error::Invalid`] for a pair or a filter, which have no limits (limit the
    /// bufferevent below a filter).
    pub fn set_rate_limit(&self, config: Option<&RateLimitConfig>) -> Result<(), Error> {
        self.limited(|cx, socket| {
            if config.is_none() && self.rate_limit().is_none() {
                return Ok(());
            }
            socket.change_limits(cx, |limits| {
                limits.limiter.set_config(config, cx.now());
                Ok(())
            })
        })
    }

    /// The bufferevent's own limits, if it has any.
    pub fn rate_limit(&self) -> Option<RateLimitConfig> {
        let limits = self.limits()?.lend();
        limits.as_ref()?.limiter.config().copied()
    }

    /// Makes it a member of `group` (`bufferevent_add_to_rate_limit_group`), after it has left the
    /// group that it was in. Its own limits stay.
    ///
    /// # Errors
    /// As [`set_rate_limit`](Self::set_rate_limit); [`Error::Group`] when the group was freed;
    /// [`Error::Io`] when the process has no descriptor left. It stays in the group where it was.
    pub fn add_to_group(&self, group: &Group) -> Result<(), Error> {
        self.limited(|cx, socket| {
            let port = cx.base.group_port(group)?;
            let token = self.0.shell.reg.key().to_bits();
            socket.change_limits(cx, |limits| {
                limits.limiter.join(port.port(), token)?;
                limits.port = Some(port);
                Ok(())
            })
        })
    }

    /// Takes it out of its group (`bufferevent_remove_from_rate_limit_group`). Nothing happens if
    /// it is in none.
    ///
    /// # Errors
    /// As [`set_rate_limit`](Self::set_rate_limit).
    pub fn remove_from_group(&self) -> Result<(), Error> {
        self.limited(|cx, socket| {
            if self.group().is_none() {
                return Ok(());
            }
            socket.change_limits(cx, |limits| {
                limits.limiter.leave();
                limits.port = None;
                Ok(())
            })
        })
    }

    /// The group that it is in.
    pub fn group(&self) -> Option<Group> {
        self.limits()?.lend().as_ref()?.limiter.group()
    }

    /// Bytes in the own read bucket (`bufferevent_get_read_limit`): `isize::MAX` without own
    /// limits, negative after more was read than was there. The group is not looked at.
    ///
    /// # Errors
    /// As [`set_rate_limit`](Self::set_rate_limit).
    pub fn read_limit(&self) -> Result<isize, Error> {
        self.limit(Direction::Read)
    }

    /// Bytes in the own write bucket (`bufferevent_get_write_limit`); see
    /// [`read_limit`](Self::read_limit).
    ///
    /// # Errors
    /// As [`set_rate_limit`](Self::set_rate_limit).
    pub fn write_limit(&self) -> Result<isize, Error> {
        self.limit(Direction::Write)
    }

    /// The most bytes that limits let be read now, the group's included
    /// (`bufferevent_get_max_to_read`); [`RATE_LIMIT_MAX`] without any, 0 while they suspend
    /// reading. Not more than [`max_single`](Self::max_single) either, if that was set.
    ///
    /// # Errors
    /// As [`set_rate_limit`](Self::set_rate_limit).
    pub fn max_to_read(&self) -> Result<usize, Error> {
        self.max_to_move(Direction::Read)
    }

    /// The most bytes that limits let be written now (`bufferevent_get_max_to_write`); see
    /// [`max_to_read`](Self::max_to_read).
    ///
    /// # Errors
    /// As [`set_rate_limit`](Self::set_rate_limit).
    pub fn max_to_write(&self) -> Result<usize, Error> {
        self.max_to_move(Direction::Write)
    }

    /// Takes bytes out of the own read bucket at once (`bufferevent_decrement_read_limit`); a
    /// negative number puts bytes in, even above the burst until the next tick. Reading is
    /// suspended or goes on accordingly.
    ///
    /// Without own limits it does nothing. The group is not touched.
    ///
    /// # Errors
    /// As [`set_rate_limit`](Self::set_rate_limit).
    pub fn decrement_read_limit(&self, bytes: isize) -> Result<(), Error> {
        self.decrement(Direction::Read, bytes)
    }

    /// The same for the write bucket (`bufferevent_decrement_write_limit`). What the kernel has
    /// begun to send is sent.
    ///
    /// # Errors
    /// As [`set_rate_limit`](Self::set_rate_limit).
    pub fn decrement_write_limit(&self, bytes: isize) -> Result<(), Error> {
        self.decrement(Direction::Write, bytes)
    }

    /// A call about limits, which only what moves bytes over a descriptor has.
    fn limited<R>(&self, f: impl FnOnce(&Cx<'_>, &Socket) -> Result<R, Error>) -> Result<R, Error> {
        self.command(|cx| match self.0.transport.socket() {
            Some(socket) => f(cx, socket),
            None => Err(Error::Invalid {
                what: "rate limit",
                why: "pairs and filters have none; limit the socket below a filter",
            }),
        })?
    }

    fn limits(&self) -> Option<&Seldom<Limits>> {
        self.0.transport.socket().map(Socket::limits)
    }

    fn limit(&self, direction: Direction) -> Result<isize, Error> {
        self.limited(|cx, socket| {
            let mut limits = socket.limits().lend();
            Ok(limits.as_mut().map_or(isize::MAX, |limits| {
                limits.limiter.limit(direction, cx.now())
            }))
        })
    }

    fn max_to_move(&self, direction: Direction) -> Result<usize, Error> {
        let (read, write) = self.max_single();
        let single = match direction {
            Direction::Read => read,
            Direction::Write => write,
        };
        let single = if single == 0 { RATE_LIMIT_MAX } else { single };
        self.limited(|cx, socket| {
            let mut limits = socket.limits().lend();
            let Some(limits) = limits.as_deref_mut() else {
                return Ok(single);
            };
            let (now, limiter) = (cx.now(), &mut limits.limiter);
            let more = limiter.max_to_move(direction, now);
            let own = limiter.limit(direction, now).max(0);
            // What an operation in flight may still move was taken out of it.
            let granted = limits.gate(direction).granted();
            Ok(more
                .saturating_add(granted as isize)
                .min(own)
                .unsigned_abs())
        })
    }

    fn decrement(&self, direction: Direction, bytes: isize) -> Result<(), Error> {
        self.limited(|cx, socket| {
            if self.rate_limit().is_none() {
                return Ok(());
            }
            socket.change_limits(cx, |limits| {
                // Whether it suspends shows at the next launch.
                let _suspension = limits.limiter.decrement(direction, bytes, cx.now());
                Ok(())
            })
        })
    }
}
