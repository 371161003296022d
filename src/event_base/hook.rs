//! The one way in which user code is called.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

/// A place for a closure (or another object) of the user.
///
/// [`call`](Self::call) takes the closure out, calls it with nothing borrowed, and puts it back,
/// also when it panics, unless it was replaced or cleared meanwhile. So the closure may do
/// anything: call whatever owns the hook, replace itself, clear itself, run the loop of another
/// base. Called again while it runs it is not called: that answers `None`.
///
/// Closures that are let go are dropped last, when the hook is in order again: their destructors
/// are the user's code, too.
pub(crate) struct Hook<F: ?Sized> {
    f: Cell<Option<Box<F>>>,
    /// Counts every `set` and `clear`: what `call` took out goes back only if the number is what it
    /// was. A flag would not tell a hook that was cleared and set again from one that was left
    /// alone.
    generation: Cell<u32>,
    is_set: Cell<bool>,
}

// A bufferevent embeds one, and every connection pays for it.
const _: () = assert!(size_of::<Hook<dyn Fn()>>() <= 24);

impl<F: ?Sized> Default for Hook<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F: ?Sized> Hook<F> {
    /// Without a closure.
    pub(crate) const fn new() -> Self {
        Hook {
            f: Cell::new(None),
            generation: Cell::new(0),
            is_set: Cell::new(false),
        }
    }

    /// With a closure.
    pub(crate) const fn with(f: Box<F>) -> Self {
        Hook {
            f: Cell::new(Some(f)),
            generation: Cell::new(0),
            is_set: Cell::new(true),
        }
    }

    /// Puts a closure in the place of whatever is there, or is being called.
    pub(crate) fn set(&self, f: Box<F>) {
        self.is_set.set(true);
        self.next_generation();
        let old = self.f.replace(Some(f));
        drop(old);
    }

    /// Lets go of the closure. One that runs returns to its caller, and goes then.
    pub(crate) fn clear(&self) {
        drop(self.take());
    }

    /// Takes the closure out for good: for what is called once, or is to be dropped later than now.
    /// `None` also while it is being called; it does not come back then.
    pub(crate) fn take(&self) -> Option<Box<F>> {
        self.is_set.set(false);
        self.next_generation();
        self.f.take()
    }

    /// Whether there is a closure, be it one that runs right now.
    pub(crate) fn is_set(&self) -> bool {
        self.is_set.get()
    }

    /// Changes with each `set` and `clear`.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.get()
    }

    /// Hands the closure to `call`; `None` without one, or while it is being called already.
    #[inline]
    pub(crate) fn call<R>(&self, call: impl FnOnce(&mut F) -> R) -> Option<R> {
        let f = self.f.take()?;
        let mut lent = Lent {
            hook: self,
            generation: self.generation.get(),
            f: Some(f),
        };
        lent.f.as_deref_mut().map(call)
    }

    fn next_generation(&self) {
        self.generation.set(self.generation.get().wrapping_add(1));
    }
}

/// The closure while it is called.
struct Lent<'a, F: ?Sized> {
    hook: &'a Hook<F>,
    generation: u32,
    f: Option<Box<F>>,
}

impl<F: ?Sized> Drop for Lent<'_, F> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.hook.generation.get() == self.generation {
            // Nobody put another in its place: there is none to drop.
            self.hook.f.set(self.f.take());
        }
    }
}

impl<F: ?Sized> fmt::Debug for Hook<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook")
            .field("is_set", &self.is_set())
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}

/// Runs `f` when it is dropped: for what has to follow a call of user code, whether that returns or
/// panics.
pub(crate) fn finally<F: FnOnce()>(f: F) -> impl Drop {
    struct Finally<F: FnOnce()>(Option<F>);
    impl<F: FnOnce()> Drop for Finally<F> {
        fn drop(&mut self) {
            if let Some(f) = self.0.take() {
                f();
            }
        }
    }
    Finally(Some(f))
}

/// Runs one piece of user code after the other, also when one of them panics. The first panic goes
/// on once all have run.
#[derive(Default)]
pub(crate) struct Each {
    panic: Option<Box<dyn Any + Send>>,
}

impl Each {
    /// Runs `f`; `None` if it panicked.
    pub(crate) fn run<R>(&mut self, f: impl FnOnce() -> R) -> Option<R> {
        match catch_unwind(AssertUnwindSafe(f)) {
            Ok(result) => Some(result),
            Err(panic) if self.panic.is_none() => {
                self.panic = Some(panic);
                None
            }
            Err(panic) => {
                // Its payload is the user's, and may have a destructor that panics in its turn.
                std::mem::forget(panic);
                None
            }
        }
    }

    /// Whether one of them has panicked.
    pub(crate) fn panicked(&self) -> bool {
        self.panic.is_some()
    }

    /// All have run: the first panic goes on, unless another is under way already.
    pub(crate) fn finish(self) {
        if let Some(panic) = self.panic
            && !thread::panicking()
        {
            resume_unwind(panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    type Log = Rc<RefCell<Vec<&'static str>>>;
    type Hooked = Rc<Hook<dyn FnMut(&str)>>;

    /// Tells in the log when it is dropped.
    struct Tells(Log, &'static str);

    impl Drop for Tells {
        fn drop(&mut self) {
            self.0.borrow_mut().push(self.1);
        }
    }

    fn taken(log: &Log) -> Vec<&'static str> {
        log.take()
    }

    #[test]
    fn a_closure_is_called_again_after_it_panicked() {
        let hook: Hook<dyn FnMut()> = Hook::new();
        assert!(!hook.is_set() && hook.call(|f| f()).is_none());
        let calls = Rc::new(Cell::new(0));
        let seen = calls.clone();
        hook.set(Box::new(move || {
            seen.set(seen.get() + 1);
            if seen.get() % 2 == 1 {
                resume_unwind(Box::new("every other call"));
            }
        }));
        for call in 1..=6 {
            let called = catch_unwind(AssertUnwindSafe(|| hook.call(|f| f())));
            assert_eq!(called.is_err(), call % 2 == 1);
            assert!(hook.is_set());
        }
        assert_eq!(calls.get(), 6);
        hook.clear();
        assert!(!hook.is_set() && hook.call(|f| f()).is_none());
        assert_eq!(Rc::strong_count(&calls), 1, "it is dropped");
    }

    /// What a closure does to its own hook while it runs, whether it panics afterwards, and what is
    /// called next.
    #[test]
    fn what_a_closure_does_to_its_hook_holds_also_if_it_panics() {
        type Does = fn(&Hooked, &Log);
        let cases: [(Does, &[&str]); 4] = [
            (|_, _| {}, &["old", "old"]),
            (|hook, _| hook.clear(), &["old", "old dropped"]),
            (
                |hook, log| hook.set(another(log)),
                &["old", "old dropped", "new"],
            ),
            (
                |hook, log| {
                    hook.set(another(log));
                    hook.clear();
                    hook.set(another(log));
                },
                &["old", "new dropped", "old dropped", "new"],
            ),
        ];
        fn another(log: &Log) -> Box<dyn FnMut(&str)> {
            let tells = Tells(log.clone(), "new dropped");
            Box::new(move |_| tells.0.borrow_mut().push("new"))
        }
        for panics in [false, true] {
            for (does, expected) in cases {
                let (hook, log) = (Hooked::new(Hook::new()), Log::default());
                let (inside, tells) = (hook.clone(), Tells(log.clone(), "old dropped"));
                hook.set(Box::new(move |text| {
                    tells.0.borrow_mut().push("old");
                    assert!(inside.call(|f| f("nested")).is_none());
                    let before = inside.generation();
                    if text == "first" {
                        does(&inside, &tells.0);
                        if panics {
                            resume_unwind(Box::new("panics"));
                        }
                    } else {
                        assert_eq!(inside.generation(), before);
                    }
                }));
                let called = catch_unwind(AssertUnwindSafe(|| hook.call(|f| f("first"))));
                assert_eq!(called.is_err(), panics);
                let _none = hook.call(|f| f("second"));
                assert_eq!(taken(&log), expected);
                hook.clear();
            }
        }
    }

    #[test]
    fn a_destructor_finds_its_hook_in_order() {
        struct Asks(Rc<Hook<dyn Fn()>>, Rc<Cell<u32>>);
        impl Drop for Asks {
            fn drop(&mut self) {
                self.1.set(self.1.get() + 1);
                let _none = self.0.call(|f| f());
                self.0.set(Box::new(|| {}));
            }
        }
        let (hook, dropped) = (Rc::new(Hook::new()), Rc::new(Cell::new(0)));
        let asks = Asks(hook.clone(), dropped.clone());
        hook.set(Box::new(move || {
            let _kept = &asks;
        }));
        hook.clear();
        assert_eq!(dropped.get(), 1);
        assert!(hook.is_set(), "what its destructor set is there");
        hook.clear();
    }

    #[test]
    fn what_is_taken_does_not_come_back() {
        let hook: Rc<Hook<dyn Fn()>> = Rc::default();
        let inside = Rc::downgrade(&hook);
        hook.set(Box::new(move || {
            let taken = inside.upgrade().and_then(|hook| hook.take());
            assert!(taken.is_none(), "it runs");
        }));
        assert!(hook.call(|f| f()).is_some());
        assert!(hook.take().is_none() && !hook.is_set());
        hook.set(Box::new(|| {}));
        assert!(hook.take().is_some());
        assert!(hook.call(|f| f()).is_none());
    }
}
