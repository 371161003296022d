//! Counts the connections of one worker, so that it knows when it is full and when it is done.

use std::cell::Cell;
use std::rc::Rc;

/// The count of a worker's connections.
///
/// Each connection holds a [`Pass`] for as long as it has a file descriptor; the gate calls
/// back when one is given up.
pub struct Gate {
    open: Cell<usize>,
    served: Cell<u64>,
    limit: usize,
    on_leave: Box<dyn Fn()>,
}

/// One connection's place. Dropping it gives the place back.
pub struct Pass {
    gate: Rc<Gate>,
}

impl Gate {
    /// A gate for at most `limit` connections that calls `on_leave` after each one has left.
    pub fn new(limit: usize, on_leave: impl Fn() + 'static) -> Rc<Self> {
        Rc::new(Self {
            open: Cell::new(0),
            served: Cell::new(0),
            limit,
            on_leave: Box::new(on_leave),
        })
    }

    /// Takes a place. The limit is advice to whoever accepts: one that is here already is let in.
    pub fn enter(self: &Rc<Self>) -> Pass {
        self.open.set(self.open.get() + 1);
        self.served.set(self.served.get() + 1);
        Pass { gate: self.clone() }
    }

    /// Connections now.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Connections ever.
    pub fn served(&self) -> u64 {
        self.served.get()
    }

    /// The most connections at once.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether another connection has to wait.
    pub fn is_full(&self) -> bool {
        self.open.get() >= self.limit
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let open = self.gate.open.get();
        debug_assert!(open > 0, "every pass was counted when it was given out");
        self.gate.open.set(open - 1);
        (self.gate.on_leave)();
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate")
            .field("open", &self.open)
            .field("served", &self.served)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pass").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_counts_and_tells() {
        let left = Rc::new(Cell::new(0));
        let seen = left.clone();
        let gate = Gate::new(2, move || seen.set(seen.get() + 1));
        let first = gate.enter();
        assert!(!gate.is_full());
        let second = gate.enter();
        assert!(gate.is_full());
        drop(first);
        assert_eq!((gate.open(), gate.served(), left.get()), (1, 2, 1));
        drop(second);
        assert_eq!((gate.open(), left.get()), (0, 2));
    }
}
