//! State of the program that lives with a base.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::EventBase;
use super::hook::Each;

/// One value of each type.
#[derive(Default)]
pub(super) struct Locals {
    values: RefCell<HashMap<TypeId, Rc<dyn Any>>>,
}

impl Locals {
    fn get<T: 'static>(&self) -> Option<Rc<T>> {
        let value = self.values.borrow().get(&TypeId::of::<T>()).cloned();
        value.and_then(|value| value.downcast().ok())
    }

    fn set<T: 'static>(&self, value: T) -> Option<Rc<T>> {
        let value: Rc<dyn Any> = Rc::new(value);
        let old = self.values.borrow_mut().insert(TypeId::of::<T>(), value);
        old.and_then(|old| old.downcast().ok())
    }

    fn take<T: 'static>(&self) -> Option<Rc<T>> {
        let value = self.values.borrow_mut().remove(&TypeId::of::<T>());
        value.and_then(|value| value.downcast().ok())
    }

    /// The base ends. Destructors are the user's code: one that panics keeps no other.
    pub(super) fn clear(&mut self, each: &mut Each) {
        for (_, value) in self.values.get_mut().drain() {
            each.run(|| drop(value));
        }
    }
}

impl EventBase {
    /// Keeps a value with the base, one of each type, and gives back the one that was there. What
    /// is posted from other threads must be `Send`, and so cannot own a handle of anything on the
    /// base; it finds here what belongs to the loop's thread.
    ///
    /// The value is dropped when the base ends, after everything on the base has been freed and
    /// has let go of its callbacks. A value that owns a clone of its base keeps the base alive; see
    /// [`downgrade`](Self::downgrade).
    ///
    /// ```
    /// use std::cell::RefCell;
    /// use evring::{BufferEvent, EventBase, Options, RunFlags};
    ///
    /// /// What the loop's thread has, and no other may touch.
    /// #[derive(Default)]
    /// struct Clients(RefCell<Vec<BufferEvent>>);
    ///
    /// let base = EventBase::new()?;
    /// let (near, far) = BufferEvent::pair(&base, Options::empty())?;
    /// base.set_local(Clients(RefCell::new(vec![near])));
    ///
    /// let remote = base.remote()?;
    /// let thread = std::thread::spawn(move || {
    ///     remote.post(|base| {
    ///         if let Some(clients) = base.local::<Clients>() {
    ///             for client in &*clients.0.borrow() {
    ///                 client.write(b"news").unwrap_or_else(|error| eprintln!("{error}"));
    ///             }
    ///         }
    ///         base.stop();
    ///     })
    /// });
    /// base.run_with(RunFlags::NO_EXIT_ON_EMPTY)?;
    /// thread.join().expect("it does not panic")?;
    /// # far.enable(evring::Interest::READ)?;
    /// # assert_eq!(far.input().len(), 4);
    /// # Ok::<(), evring::Error>(())
    /// ```
    pub fn set_local<T: 'static>(&self, value: T) -> Option<Rc<T>> {
        self.0.locals.set(value)
    }

    /// The value of this type that is kept with the base. It lives as long as somebody holds it,
    /// also when it is replaced or the base ends meanwhile.
    pub fn local<T: 'static>(&self) -> Option<Rc<T>> {
        self.0.locals.get()
    }

    /// Takes the value of this type out.
    pub fn take_local<T: 'static>(&self) -> Option<Rc<T>> {
        self.0.locals.take()
    }
}
