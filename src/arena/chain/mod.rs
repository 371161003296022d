//! A singly linked list on nodes that the thread's pool recycles.

use super::pool;
use std::fmt;
use std::marker::PhantomData;
use std::mem::{align_of, size_of};
use std::ptr::NonNull;

#[cfg(test)]
mod tests;

/// A queue of `T` in which appending another queue is O(1).
///
/// Pushing takes a node from the thread's pool: steady state allocates nothing. `T` must fit into
/// a node of one cache line; larger values do not compile.
///
/// ```
/// use evring::arena::Chain;
///
/// let mut a = Chain::new();
/// let mut b = Chain::new();
/// a.push_back(1);
/// b.push_back(2);
/// a.append(&mut b);
/// a.push_front(0);
/// assert_eq!(a.iter().copied().collect::<Vec<_>>(), [0, 1, 2]);
/// assert!(b.is_empty());
/// ```
pub struct Chain<T> {
    head: Option<NonNull<Node<T>>>,
    /// The last node; meaningless while `head` is none.
    tail: NonNull<Node<T>>,
    owns: PhantomData<T>,
}

#[repr(C)]
struct Node<T> {
    next: Option<NonNull<Node<T>>>,
    value: T,
}

// SAFETY: a chain owns its nodes and values; nodes may return to any thread's pool.
unsafe impl<T: Send> Send for Chain<T> {}
// SAFETY: shared access only lends `&T`.
unsafe impl<T: Sync> Sync for Chain<T> {}

impl<T> Chain<T> {
    const FITS: () = assert!(
        size_of::<Node<T>>() <= pool::NODE_BYTES && align_of::<Node<T>>() <= 64,
        "a chain's values must fit into a pooled node"
    );

    /// An empty chain; allocates nothing.
    #[inline]
    pub const fn new() -> Self {
        const { Self::FITS };
        Chain {
            head: None,
            tail: NonNull::dangling(),
            owns: PhantomData,
        }
    }

    /// True when it has no values.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// Adds a value at the end.
    #[inline]
    pub fn push_back(&mut self, value: T) {
        self.attach(new_node(value));
    }

    /// Adds a value at the front.
    #[inline]
    pub fn push_front(&mut self, value: T) {
        self.attach_front(new_node(value));
    }

    /// Takes the first value.
    #[inline]
    pub fn pop_front(&mut self) -> Option<T> {
        let node = self.unlink_front()?;
        // SAFETY: unlinked, so ours alone; the value is read once, then the cell goes back to the
        // class it came from.
        unsafe {
            let value = (&raw const (*node.as_ptr()).value).read();
            pool::give(pool::NODE, node.cast());
            Some(value)
        }
    }

    /// The first value.
    #[inline]
    pub fn front(&self) -> Option<&T> {
        // SAFETY: the head is a node of ours.
        self.head.map(|node| unsafe { &(*node.as_ptr()).value })
    }

    /// The first value, mutably.
    #[inline]
    pub fn front_mut(&mut self) -> Option<&mut T> {
        // SAFETY: as above, borrowed mutably.
        self.head.map(|node| unsafe { &mut (*node.as_ptr()).value })
    }

    /// The last value.
    #[inline]
    pub fn back(&self) -> Option<&T> {
        // SAFETY: with a head there is a tail, a node of ours.
        self.head.map(|_| unsafe { &(*self.tail.as_ptr()).value })
    }

    /// The last value, mutably.
    #[inline]
    pub fn back_mut(&mut self) -> Option<&mut T> {
        // SAFETY: as above, borrowed mutably.
        self.head
            .map(|_| unsafe { &mut (*self.tail.as_ptr()).value })
    }

    /// The value, if there is exactly one.
    #[inline]
    pub fn single_mut(&mut self) -> Option<&mut T> {
        match self.head {
            // SAFETY: the head is a node of ours, borrowed mutably.
            Some(node) if node == self.tail => Some(unsafe { &mut (*node.as_ptr()).value }),
            _ => None,
        }
    }

    /// Takes the first value off together with its node.
    #[inline]
    pub fn unlink(&mut self) -> Option<Link<T>> {
        let node = self.unlink_front()?;
        Some(Link {
            node,
            owns: PhantomData,
        })
    }

    /// Adds a value that still has its node at the front.
    #[inline]
    pub fn link_front(&mut self, link: Link<T>) {
        let node = link.node;
        std::mem::forget(link);
        self.attach_front(node);
    }

    /// Adds a value that still has its node at the end.
    #[inline]
    pub fn link_back(&mut self, link: Link<T>) {
        let node = link.node;
        std::mem::forget(link);
        self.attach(node);
    }

    /// Moves all values of `other` to the end, in order, in constant time.
    #[inline]
    pub fn append(&mut self, other: &mut Chain<T>) {
        let Some(first) = other.head.take() else {
            return;
        };
        match self.head {
            None => self.head = Some(first),
            // SAFETY: with a head there is a tail, owned by us.
            Some(_) => unsafe { (*self.tail.as_ptr()).next = Some(first) },
        }
        self.tail = other.tail;
    }

    /// Moves the first value to the end of `other`, with its node; false when there is none.
    #[inline]
    pub fn move_front_to(&mut self, other: &mut Chain<T>) -> bool {
        let Some(node) = self.unlink_front() else {
            return false;
        };
        other.attach(node);
        true
    }

    /// Drops the first value; false when there is none. Cheaper than to take and drop it.
    #[inline]
    pub fn drop_front(&mut self) -> bool {
        self.unlink().is_some()
    }

    /// Drops all values, also those behind one whose destructor panics.
    #[inline]
    pub fn clear(&mut self) {
        struct Rest<'a, T>(&'a mut Chain<T>);
        impl<T> Drop for Rest<'_, T> {
            #[inline]
            fn drop(&mut self) {
                while self.0.drop_front() {}
            }
        }
        let rest = Rest(self);
        while rest.0.drop_front() {}
    }

    /// From front to back.
    #[inline]
    pub fn iter(&self) -> Iter<'_, T> {
        Iter {
            next: self.head,
            lends: PhantomData,
        }
    }

    /// From front to back, mutably.
    #[inline]
    pub fn iter_mut(&mut self) -> IterMut<'_, T> {
        IterMut {
            next: self.head,
            lends: PhantomData,
        }
    }

    /// Puts a node that is ours and in no chain at the end.
    #[inline]
    fn attach(&mut self, node: NonNull<Node<T>>) {
        // SAFETY: the node is ours by the caller's word.
        unsafe { (*node.as_ptr()).next = None };
        match self.head {
            None => self.head = Some(node),
            // SAFETY: with a head there is a tail, owned by us.
            Some(_) => unsafe { (*self.tail.as_ptr()).next = Some(node) },
        }
        self.tail = node;
    }

    /// Puts a node that is ours and in no chain at the front.
    #[inline]
    fn attach_front(&mut self, node: NonNull<Node<T>>) {
        if self.head.is_none() {
            self.tail = node;
        }
        // SAFETY: the node is ours by the caller's word.
        unsafe { (*node.as_ptr()).next = self.head };
        self.head = Some(node);
    }

    #[inline]
    fn unlink_front(&mut self) -> Option<NonNull<Node<T>>> {
        let node = self.head?;
        // SAFETY: the head is a node of ours.
        self.head = unsafe { (*node.as_ptr()).next };
        Some(node)
    }
}

/// A value with its node, in no chain.
pub struct Link<T> {
    node: NonNull<Node<T>>,
    owns: PhantomData<T>,
}

impl<T> Link<T> {
    /// The value.
    #[inline]
    pub fn get_mut(&mut self) -> &mut T {
        // SAFETY: the node is ours, borrowed mutably.
        unsafe { &mut (*self.node.as_ptr()).value }
    }
}

// SAFETY: owns its node and value.
unsafe impl<T: Send> Send for Link<T> {}
// SAFETY: lends nothing.
unsafe impl<T: Sync> Sync for Link<T> {}

impl<T> Drop for Link<T> {
    fn drop(&mut self) {
        // The cell goes home also when the value's drop panics.
        let _cell = Cell(self.node.cast());
        // SAFETY: the value is ours and dropped once.
        unsafe { std::ptr::drop_in_place(&raw mut (*self.node.as_ptr()).value) };
    }
}

impl<T> fmt::Debug for Link<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("Link")
    }
}

impl<T> Default for Chain<T> {
    fn default() -> Self {
        Chain::new()
    }
}

impl<T> Drop for Chain<T> {
    fn drop(&mut self) {
        self.clear();
    }
}

impl<T: fmt::Debug> fmt::Debug for Chain<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<T> FromIterator<T> for Chain<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let mut chain = Chain::new();
        chain.extend(values);
        chain
    }
}

impl<T> Extend<T> for Chain<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, values: I) {
        values.into_iter().for_each(|value| self.push_back(value));
    }
}

impl<'a, T> IntoIterator for &'a Chain<T> {
    type Item = &'a T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<'a, T> IntoIterator for &'a mut Chain<T> {
    type Item = &'a mut T;
    type IntoIter = IterMut<'a, T>;

    fn into_iter(self) -> IterMut<'a, T> {
        self.iter_mut()
    }
}

/// Iterator of [`Chain::iter`].
pub struct Iter<'a, T> {
    next: Option<NonNull<Node<T>>>,
    lends: PhantomData<&'a T>,
}

// SAFETY: as `&T`.
unsafe impl<T: Sync> Send for Iter<'_, T> {}
// SAFETY: as `&T`.
unsafe impl<T: Sync> Sync for Iter<'_, T> {}

impl<T> Default for Iter<'_, T> {
    /// An iterator over nothing.
    fn default() -> Self {
        Iter {
            next: None,
            lends: PhantomData,
        }
    }
}

impl<T> Clone for Iter<'_, T> {
    fn clone(&self) -> Self {
        Iter {
            next: self.next,
            lends: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Iter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("Iter")
    }
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a T;

    #[inline]
    fn next(&mut self) -> Option<&'a T> {
        let node = self.next?;
        // SAFETY: the chain is borrowed for `'a`, so its nodes stay.
        let node = unsafe { &*node.as_ptr() };
        self.next = node.next;
        Some(&node.value)
    }
}

/// Iterator of [`Chain::iter_mut`].
pub struct IterMut<'a, T> {
    next: Option<NonNull<Node<T>>>,
    lends: PhantomData<&'a mut T>,
}

impl<T> fmt::Debug for IterMut<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("IterMut")
    }
}

impl<'a, T> Iterator for IterMut<'a, T> {
    type Item = &'a mut T;

    #[inline]
    fn next(&mut self) -> Option<&'a mut T> {
        let node = self.next?.as_ptr();
        // SAFETY: the chain is borrowed mutably for `'a`; each value is lent once, and only the
        // link is read beside it.
        unsafe {
            self.next = (*node).next;
            Some(&mut (*node).value)
        }
    }
}

/// A node's cell without a value; returns to the pool on drop.
struct Cell(NonNull<u8>);

impl Drop for Cell {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: a node's cell came from this class; its value is gone.
        unsafe { pool::give(pool::NODE, self.0) };
    }
}

#[inline]
fn new_node<T>(value: T) -> NonNull<Node<T>> {
    const { Chain::<T>::FITS };
    let node = pool::take(pool::NODE).0.cast::<Node<T>>();
    // SAFETY: the cell is ours, and large and aligned enough (FITS).
    unsafe { node.write(Node { next: None, value }) };
    node
}
