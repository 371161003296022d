//! How a group reaches the bases of its members.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Weak};

/// What a group and a [`Port`](super::Port) share.
pub(crate) struct PortShared {
    id: usize,
    wake: Box<dyn Fn() + Send + Sync>,
    /// The base was woken and has not polled since.
    pending: AtomicBool,
}

impl PortShared {
    pub(crate) fn new(id: usize, wake: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            id,
            wake,
            pending: AtomicBool::new(false),
        }
    }

    pub(crate) fn id(&self) -> usize {
        self.id
    }

    pub(crate) fn is_pending(&self) -> bool {
        self.pending.load(SeqCst)
    }

    /// Wakes nobody any more: the base that would poll is gone.
    pub(crate) fn retire(&self) {
        self.pending.store(true, SeqCst);
    }

    /// Answers whether there was a wake-up since the last call.
    pub(crate) fn take_pending(&self) -> bool {
        self.is_pending() && self.pending.swap(false, SeqCst)
    }
}

impl fmt::Debug for PortShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortShared")
            .field("id", &self.id)
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}

/// The ports by their id. An id is free for another once its port and all its members are gone.
#[derive(Debug, Default)]
pub(crate) struct PortTable {
    ports: Vec<Weak<PortShared>>,
}

impl PortTable {
    pub(crate) fn free_id(&self) -> usize {
        self.ports
            .iter()
            .position(|port| port.strong_count() == 0)
            .unwrap_or(self.ports.len())
    }

    pub(crate) fn set(&mut self, port: &Arc<PortShared>) {
        if self.ports.len() <= port.id {
            self.ports.resize_with(port.id + 1, Weak::new);
        }
        self.ports[port.id] = Arc::downgrade(port);
    }
}

/// The ports to wake once a budget's lock is free: a hook may do anything, the lock is not for it.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    ports: Vec<Arc<PortShared>>,
}

impl Wakes {
    pub(crate) fn add(&mut self, table: &PortTable, id: usize) {
        if self.ports.iter().any(|port| port.id == id) {
            return;
        }
        if let Some(port) = table.ports.get(id).and_then(Weak::upgrade) {
            self.ports.push(port);
        }
    }

    /// Wakes all but `polling`, which takes its members right now; a port at most once until it
    /// polls.
    pub(crate) fn send(self, polling: Option<usize>) {
        for port in self.ports {
            if Some(port.id) != polling && !port.pending.swap(true, SeqCst) {
                (port.wake)();
            }
        }
    }
}
