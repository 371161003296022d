//! Work posted to a base by other threads.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::SegQueue;

use super::EventBase;
use super::source::Source;
use crate::driver::{Completion, Op};
use crate::error::Error;
use crate::sys::event;

type Job = Box<dyn FnOnce(&EventBase) + Send>;

/// A base as other threads see it: they post closures, which run on the loop in the order of
/// each sender.
///
/// A burst of posts wakes a sleeping loop once. A remote does not keep the loop alive: run it with
/// [`RunFlags::NO_EXIT_ON_EMPTY`](super::RunFlags::NO_EXIT_ON_EMPTY) when nothing else does.
///
/// ```
/// use evring::{EventBase, RunFlags};
///
/// let base = EventBase::new()?;
/// let remote = base.remote()?;
/// let poster = std::thread::spawn(move || remote.post(|base| base.stop()));
/// base.run_with(RunFlags::NO_EXIT_ON_EMPTY)?;
/// poster.join().expect("the thread does not panic")?;
/// # Ok::<(), evring::Error>(())
/// ```
#[derive(Clone)]
pub struct Remote(Arc<Shared>);

struct Shared {
    jobs: SegQueue<Job>,
    /// Set by the first post of a burst, cleared by the loop before it takes the jobs.
    woken: AtomicBool,
    closed: AtomicBool,
    wake: File,
}

impl Remote {
    /// Has `job` run on the loop.
    ///
    /// # Errors
    /// [`Error::Freed`] when the base is gone; the job is dropped without having run. A job that is accepted just as the base
    /// ends may be dropped too.
    pub fn post(&self, job: impl FnOnce(&EventBase) + Send + 'static) -> Result<(), Error> {
        if self.0.closed.load(Ordering::Acquire) {
            return Err(Error::Freed { what: "event base" });
        }
        self.0.jobs.push(Box::new(job));
        if !self.0.woken.swap(true, Ordering::AcqRel) {
            self.0.ring_the_bell();
        }
        Ok(())
    }

    /// Stops the loop, after what was posted before.
    ///
    /// # Errors
    /// [`Error::Freed`] when the base is gone.
    pub fn stop(&self) -> Result<(), Error> {
        self.post(EventBase::stop)
    }
}

impl Shared {
    fn ring_the_bell(&self) {
        // An eventfd refuses a write only when its count is full, and then it is readable as it is.
        let _full = (&self.wake).write(&1u64.to_ne_bytes());
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("queued", &self.0.jobs.len())
            .field("closed", &self.0.closed.load(Ordering::Relaxed))
            .finish()
    }
}

/// The loop's end of it: a source that waits on the eventfd without keeping the loop alive.
pub(super) struct Inbox {
    shared: Arc<Shared>,
    token: Cell<u32>,
}

impl Inbox {
    pub(super) fn new(base: &EventBase) -> Result<Rc<Self>, Error> {
        let wake = event::event_fd().map_err(|source| Error::io("eventfd", source))?;
        let inbox = Rc::new(Inbox {
            shared: Arc::new(Shared {
                jobs: SegQueue::new(),
                woken: AtomicBool::new(false),
                closed: AtomicBool::new(false),
                wake: File::from(wake),
            }),
            token: Cell::new(0),
        });
        inbox.token.set(base.add_source(inbox.clone()));
        inbox.listen(base);
        Ok(inbox)
    }

    pub(super) fn remote(&self) -> Remote {
        Remote(self.shared.clone())
    }

    /// Wakes the loop for nothing but its turn. It keeps nothing of the base alive.
    pub(super) fn bell(&self) -> impl Fn() + Send + Sync + use<> {
        let shared = Arc::downgrade(&self.shared);
        move || {
            if let Some(shared) = shared.upgrade() {
                shared.ring_the_bell();
            }
        }
    }

    /// The base ends: posts are refused from now on, waiting jobs dropped.
    pub(super) fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        while let Some(job) = self.shared.jobs.pop() {
            drop(job);
        }
    }

    fn listen(&self, base: &EventBase) {
        base.push(
            self.token.get(),
            Op::Poll {
                fd: self.shared.wake.as_raw_fd(),
                events: libc::POLLIN as u32,
                multishot: true,
            },
        );
    }

    fn run_jobs(&self, base: &EventBase) {
        // Cleared first: a post from here on rings again, so none is missed.
        self.shared.woken.store(false, Ordering::SeqCst);
        // Bounded by what is there now, so that a flood of posts can not keep the loop here.
        for _ in 0..self.shared.jobs.len() {
            let Some(job) = self.shared.jobs.pop() else {
                return;
            };
            job(base);
        }
        if !self.shared.jobs.is_empty() && !self.shared.woken.swap(true, Ordering::AcqRel) {
            self.shared.ring_the_bell();
        }
    }
}

impl Source for Inbox {
    fn completed(self: Rc<Self>, base: &EventBase, completion: Completion) {
        if !completion.more {
            // Without multishot polls the descriptor would be ready for ever: empty it.
            let mut count = [0; 8];
            match (&self.shared.wake).read(&mut count) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => log::warn!("reading the wake-up eventfd failed: {error}"),
            }
            self.listen(base);
        }
        self.run_jobs(base);
    }

    fn base_ended(self: Rc<Self>) -> Option<i32> {
        self.close();
        None
    }
}
