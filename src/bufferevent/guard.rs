//! A bufferevent that is still being set up.

use std::fmt;
use std::ops::Deref;

use super::BufferEvent;

/// Frees its bufferevent when it is dropped, from [`BufferEvent::free_on_drop`]: for a set-up of
/// several steps, of which one may fail.
///
/// A handle that goes out of scope does not free its bufferevent, which lives on, connection and
/// all. So a set-up that is left by `?`, or by a panic, leaves one behind that nobody serves. With
/// a guard it does not:
///
/// ```
/// use evring::{BufferEvent, Callbacks, Error, EventBase, Interest, Options};
///
/// fn echo(base: &EventBase, client: std::os::fd::OwnedFd) -> Result<BufferEvent, Error> {
///     let bev = BufferEvent::socket(base, Some(client), Options::CLOSE_ON_FREE)?.free_on_drop();
///     bev.set_nodelay(true)?; // refused by what is no TCP socket
///     bev.set_callbacks(Callbacks::new().on_read(|bev| bev.transfer_to(bev)))?;
///     bev.enable(Interest::READ)?;
///     Ok(bev.keep())
/// }
///
/// let base = EventBase::new()?;
/// let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
/// assert!(echo(&base, ours.into()).is_err());
/// base.run()?; // returns: nothing is left on the base
/// # drop(theirs);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping it frees the bufferevent; keep() gives the handle without the guard"]
pub struct FreeOnDrop(Option<BufferEvent>);

impl BufferEvent {
    /// A guard that frees it when dropped, unless it is [kept](FreeOnDrop::keep): for the steps
    /// between its creation and the moment from which callbacks look after it.
    pub fn free_on_drop(self) -> FreeOnDrop {
        FreeOnDrop(Some(self))
    }
}

impl FreeOnDrop {
    /// The set-up is done: the bufferevent lives on without the guard.
    pub fn keep(mut self) -> BufferEvent {
        self.0.take().expect("it is there until this call or drop")
    }
}

impl Deref for FreeOnDrop {
    type Target = BufferEvent;

    fn deref(&self) -> &BufferEvent {
        self.0
            .as_ref()
            .expect("it is there until `keep`, which takes the guard")
    }
}

impl Drop for FreeOnDrop {
    fn drop(&mut self) {
        if let Some(bev) = self.0.take() {
            bev.free();
        }
    }
}

impl fmt::Debug for FreeOnDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FreeOnDrop").field(&self.0).finish()
    }
}
