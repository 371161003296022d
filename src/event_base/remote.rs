//! Work posted to a base by other threads.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_queue::SegQueue;

use super::EventBase;
use super::hook::{Each, finally};
use super::registration::{Key, Registration};
use super::source::Source;
use crate::driver::{Completion, Op};
use crate::error::Error;
use crate::sys::event;

enum Job {
    Call(Box<dyn FnOnce(&EventBase) + Send>),
    /// The next of those that wait in this route.
    Next(Arc<Route>),
}

const GONE: Error = Error::Freed { what: "event base" };

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
    /// A job that panics passes its panic on to whoever runs the loop; those behind it run all the
    /// same, in the next turn.
    ///
    /// # Errors
    /// [`Error::Freed`] when the base is gone; the job is dropped without having run. A job that is
    /// accepted just as the base ends may be dropped too, on this thread or on the loop's.
    pub fn post(&self, job: impl FnOnce(&EventBase) + Send + 'static) -> Result<(), Error> {
        if self.0.is_closed() {
            return Err(GONE);
        }
        self.0.jobs.push(Job::Call(Box::new(job)));
        self.0.pushed();
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
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// A job was pushed by someone who had found the inbox open: wakes the loop.
    ///
    /// The base may have ended in between, and have emptied the queue before the job was in it. A
    /// job must not lie there for ever: somebody may wait for what it answers, or for its
    /// destructor. Here the job is pushed and then `closed` looked at; `close` sets `closed` and
    /// then empties the queue. With a fence between the two steps on both sides at least one of
    /// them sees what the other did, so whoever comes last empties the queue, and both may.
    fn pushed(&self) {
        fence(Ordering::SeqCst);
        if self.is_closed() {
            self.drop_jobs();
        } else if !self.woken.swap(true, Ordering::AcqRel) {
            self.wake_up();
        }
    }

    /// The base ends: posts are refused from now on, waiting jobs dropped.
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        self.drop_jobs();
    }

    /// No lock is held: the jobs are the user's, and so are their destructors.
    fn drop_jobs(&self) {
        let mut each = Each::default();
        while let Some(job) = self.jobs.pop() {
            each.run(|| match job {
                Job::Call(job) => drop(job),
                Job::Next(route) => drop(route.take_next(self)),
            });
        }
        each.finish();
    }

    fn wake_up(&self) {
        // An eventfd refuses a write only when its count is full, and then it is readable as it is.
        let _full = (&self.wake).write(&1u64.to_ne_bytes());
    }
}

/// How other threads reach an object that may move from base to base: a queue of its own, and the
/// inbox of the base that it is on.
///
/// What is posted waits in the queue of the route, and for each a [`Job::Next`] in the inbox, so
/// that it runs in its place among all that its sender posts. An object that moves takes its queue
/// along. What is left in the inbox of the old base finds the route gone from there and does
/// nothing: nobody's work reaches a stranger, and none is lost.
pub(crate) struct Route(Mutex<RouteState>);

struct RouteState {
    /// Where it is: the inbox of its base, and by which key that base knows it.
    inbox: Arc<Shared>,
    key: Key,
    jobs: VecDeque<RouteJob>,
}

/// It is given the object, or nothing if that was freed.
type RouteJob = Box<dyn FnOnce(Option<Rc<dyn Any>>) + Send>;

impl Route {
    pub(super) fn to(inbox: &Inbox, key: Key) -> Arc<Self> {
        Arc::new(Route(Mutex::new(RouteState {
            inbox: inbox.shared.clone(),
            key,
            jobs: VecDeque::new(),
        })))
    }

    /// Has `job` run on the base on which the object is by then.
    ///
    /// # Errors
    /// [`Error::Freed`] when its base is gone; the job is dropped without having run.
    pub(crate) fn post(
        self: &Arc<Self>,
        job: impl FnOnce(Option<Rc<dyn Any>>) + Send + 'static,
    ) -> Result<(), Error> {
        let job = Box::new(job);
        let mut state = self.lock();
        if state.inbox.is_closed() {
            drop(state);
            return Err(GONE);
        }
        // Both under the lock, so that the order in the inbox is the order here.
        state.jobs.push_back(job);
        state.inbox.jobs.push(Job::Next(self.clone()));
        let inbox = state.inbox.clone();
        drop(state);
        inbox.pushed();
        Ok(())
    }

    /// The object is on another base now.
    pub(super) fn move_to(self: &Arc<Self>, inbox: &Inbox, key: Key) {
        let mut state = self.lock();
        state.key = key;
        state.inbox = inbox.shared.clone();
        for _ in 0..state.jobs.len() {
            state.inbox.jobs.push(Job::Next(self.clone()));
        }
        drop(state);
        inbox.shared.pushed();
    }

    /// The next job and the key of its object, if that is still where this inbox is.
    fn take_next(&self, inbox: &Shared) -> Option<(Key, RouteJob)> {
        let mut state = self.lock();
        match std::ptr::eq(&*state.inbox, inbox) {
            true => Some((state.key, state.jobs.pop_front()?)),
            false => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, RouteState> {
        // No code of others runs under it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").finish_non_exhaustive()
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
    registration: Registration,
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
            registration: Registration::new(),
        });
        inbox.registration.join(base, inbox.clone());
        inbox.listen(base);
        Ok(inbox)
    }

    pub(super) fn remote(&self) -> Remote {
        Remote(self.shared.clone())
    }

    /// Makes the loop turn once, without a job. Holds only a weak reference.
    pub(super) fn waker(&self) -> impl Fn() + Send + Sync + use<> {
        let shared = Arc::downgrade(&self.shared);
        move || {
            if let Some(shared) = shared.upgrade() {
                shared.wake_up();
            }
        }
    }

    /// The base ends: posts are refused from now on, waiting jobs dropped.
    pub(super) fn close(&self) {
        self.shared.close();
    }

    fn listen(&self, base: &EventBase) {
        let op = Op::Poll {
            fd: self.shared.wake.as_raw_fd(),
            events: libc::POLLIN as u32,
            multishot: true,
        };
        self.registration.push(base, op);
    }

    fn run_jobs(&self, base: &EventBase) {
        let shared = &*self.shared;
        // Cleared first: a post from here on wakes the loop again, so none is missed.
        shared.woken.swap(false, Ordering::AcqRel);
        // Also when a job panics: those behind it have their turn.
        let _more = finally(|| {
            if !shared.jobs.is_empty() && !shared.woken.swap(true, Ordering::AcqRel) {
                shared.wake_up();
            }
        });
        // Bounded by what is there now, so that a flood of posts can not keep the loop here.
        for _ in 0..shared.jobs.len() {
            match shared.jobs.pop() {
                Some(Job::Call(job)) => job(base),
                Some(Job::Next(route)) => {
                    if let Some((key, job)) = route.take_next(shared) {
                        job(base.shared(key));
                    }
                }
                None => return,
            }
        }
    }
}

impl Source for Inbox {
    fn registration(&self) -> &Registration {
        &self.registration
    }

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

    fn base_ended(self: Rc<Self>, _close: &mut Vec<i32>) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::event_base::RunFlags;

    /// Tells when it is dropped.
    struct Tells(mpsc::Sender<()>);

    impl Drop for Tells {
        fn drop(&mut self) {
            let _nobody = self.0.send(());
        }
    }

    /// The poster has found the inbox open; then the base ends, and then the job is pushed.
    #[test]
    fn a_job_that_comes_behind_the_end_of_its_base_is_dropped() {
        let base = EventBase::new().expect("a base");
        let inbox = base.inbox().expect("an inbox");
        let shared = inbox.shared.clone();
        let route = Route::to(&inbox, inbox.registration.key());
        drop(inbox);
        let (tell, told) = mpsc::channel();
        assert!(!shared.is_closed());
        drop(base);
        let tells = Tells(tell.clone());
        shared.jobs.push(Job::Call(Box::new(move |_| drop(tells))));
        shared.pushed();
        assert!(told.try_recv().is_ok(), "a job is left in the queue");
        let tells = Tells(tell);
        let mut state = route.lock();
        state.jobs.push_back(Box::new(move |_| drop(tells)));
        drop(state);
        shared.jobs.push(Job::Next(route.clone()));
        shared.pushed();
        assert!(told.try_recv().is_ok(), "a job is left in the route");
    }

    #[test]
    fn one_job_that_panics_when_dropped_keeps_no_other() {
        struct Panics;
        impl Drop for Panics {
            fn drop(&mut self) {
                std::panic::resume_unwind(Box::new("dropped"));
            }
        }
        let base = EventBase::new().expect("a base");
        let remote = base.remote().expect("a remote");
        let (tell, told) = mpsc::channel();
        for round in 0..4 {
            let (panics, tells) = ((round % 2 == 0).then(|| Panics), Tells(tell.clone()));
            remote
                .post(move |_| drop((panics, tells)))
                .expect("it is open");
        }
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(base)));
        assert!(ended.is_err());
        assert_eq!(told.try_iter().count(), 4);
    }

    #[test]
    fn a_job_that_a_job_posts_needs_no_other_post_to_run() {
        let base = EventBase::new().expect("a base");
        let remote = base.remote().expect("a remote");
        let again = remote.clone();
        remote
            .post(move |_| again.stop().expect("it is open"))
            .expect("it is open");
        base.stop_after(std::time::Duration::from_secs(30));
        let began = base.clock_ns();
        base.run_with(RunFlags::NO_EXIT_ON_EMPTY).expect("it runs");
        assert!(
            base.clock_ns() - began < 30_000_000_000,
            "the wake-up was lost"
        );
    }
}
