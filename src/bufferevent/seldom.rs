//! A place for what hardly any bufferevent has: a pointer that is null as a rule.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

/// At most one boxed `T`, in eight bytes. It is out while it is used, so it is never borrowed.
pub(super) struct Seldom<T>(Cell<Option<Box<T>>>);

impl<T> Default for Seldom<T> {
    fn default() -> Self {
        Seldom(Cell::new(None))
    }
}

impl<T> Seldom<T> {
    pub(super) fn is_some(&self) -> bool {
        let it = self.0.take();
        let is_some = it.is_some();
        self.0.set(it);
        is_some
    }

    pub(super) fn take(&self) -> Option<Box<T>> {
        self.0.take()
    }

    pub(super) fn replace(&self, it: Option<Box<T>>) -> Option<Box<T>> {
        self.0.replace(it)
    }

    /// Hands it to `f`, if it is there. `f` reaches no user code, and does not come back here.
    #[inline]
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut it = self.0.take()?;
        let result = f(&mut it);
        self.0.set(Some(it));
        Some(result)
    }

    /// Hands it out; it goes back when the answer is dropped. Nobody looks for it meanwhile.
    #[inline]
    pub(super) fn lend(&self) -> Lent<'_, T> {
        Lent {
            it: self.0.take(),
            place: &self.0,
        }
    }

    /// Hands it to `f`; made if it was not there.
    pub(super) fn with_made<R>(&self, f: impl FnOnce(&mut T) -> R) -> R
    where
        T: Default,
    {
        let mut it = self.0.take().unwrap_or_default();
        let result = f(&mut it);
        self.0.set(Some(it));
        result
    }
}

/// What a [`Seldom`] has, while it is out.
pub(super) struct Lent<'a, T> {
    it: Option<Box<T>>,
    place: &'a Cell<Option<Box<T>>>,
}

impl<T> Deref for Lent<'_, T> {
    type Target = Option<Box<T>>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.it
    }
}

impl<T> DerefMut for Lent<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.it
    }
}

impl<T> Drop for Lent<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if let Some(it) = self.it.take() {
            self.place.set(Some(it));
        }
    }
}
