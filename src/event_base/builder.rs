//! How a base is made.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use slab::Slab;

use super::turn::Stop;
use super::{Base, EventBase};
use crate::arena::{Arena, ArenaConfig};
use crate::driver::{Driver, uring::Uring};
use crate::error::Error;
use crate::ring::{CapsMask, RingConfig};

/// Receive buffers that the kernel holds at a time. A small window stays in the cache: a large one
/// walks through cold memory.
const DEFAULT_WINDOW: u16 = 128;

/// The most priorities a base can have (`EVENT_MAX_PRIORITIES`).
const MAX_PRIORITIES: usize = 256;

/// What the loop does when nothing has completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpinPolicy {
    /// Sleep in the kernel.
    #[default]
    None,
    /// Look again for about 50 µs after the last completion, then sleep.
    Adaptive,
    /// Never sleep: the lowest latency for a whole core. A lone ping is answered in about a
    /// third of the time of a sleeping loop.
    Always,
}

/// Sizes and policies of a new [`EventBase`] (`struct event_config`).
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until build() is called"]
pub struct EventBaseBuilder {
    ring: RingConfig,
    arena: ArenaConfig,
    window: u16,
    spin: SpinPolicy,
    priorities: usize,
}

impl Default for EventBaseBuilder {
    fn default() -> Self {
        EventBaseBuilder {
            ring: RingConfig::default(),
            arena: ArenaConfig::default(),
            window: DEFAULT_WINDOW,
            spin: SpinPolicy::None,
            priorities: 1,
        }
    }
}

impl EventBaseBuilder {
    /// Entries of the submission queue, rounded up to a power of two; the completion queue has
    /// four times as many. The default is 1,024.
    pub fn ring_entries(mut self, entries: u32) -> Self {
        self.ring.entries = entries;
        self
    }

    /// Bytes of a receive slot: a power of two from 4 KiB to 2 MiB. The default is 16 KiB.
    pub fn slot_size(mut self, bytes: usize) -> Self {
        self.arena.slot_size = bytes;
        self
    }

    /// How many slots the kernel holds to receive into, a power of two up to 32,768. The default is
    /// 128.
    pub fn window(mut self, slots: u16) -> Self {
        self.window = slots;
        self
    }

    /// The most memory that received data may take, in bytes. When it is spent, readers wait for
    /// slots. The default is 256 MiB.
    pub fn max_buffer_bytes(mut self, bytes: usize) -> Self {
        self.arena.max_bytes = bytes;
        self
    }

    /// What the loop does when nothing has completed.
    pub fn spin(mut self, policy: SpinPolicy) -> Self {
        self.spin = policy;
        self
    }

    /// How many priorities callbacks have (`event_base_priority_init`), 1 to 256. With more than
    /// one, callbacks run from queues instead of inside the completion.
    pub fn priorities(mut self, count: usize) -> Self {
        self.priorities = count;
        self
    }

    /// Kernel features to do without, on top of those in the environment variable `EVRING_CAPS`
    /// (`event_config_avoid_method`).
    pub fn caps_mask(mut self, mask: CapsMask) -> Self {
        self.ring.caps_mask = mask;
        self
    }

    /// Makes the base.
    ///
    /// # Errors
    /// [`Error::Setup`] or [`Error::Arena`] when the kernel gives no ring or no memory, or a size
    /// is out of its range; [`Error::Invalid`] for a number of priorities outside 1 to 256.
    pub fn build(self) -> Result<EventBase, Error> {
        let slot_size = self.arena.slot_size;
        let arena = Arena::new(self.arena)?;
        let driver = Uring::new(&self.ring, arena, self.window)?;
        self.build_on(Box::new(driver), slot_size)
    }

    /// Makes the base on a given driver.
    pub(crate) fn build_on(
        self,
        driver: Box<dyn Driver>,
        slot_size: usize,
    ) -> Result<EventBase, Error> {
        if self.priorities == 0 || self.priorities > MAX_PRIORITIES {
            return Err(Error::Invalid {
                what: "priorities",
                why: "a base has 1 to 256 priorities",
            });
        }
        static LAST_NUMBER: AtomicU32 = AtomicU32::new(0);
        let now = driver.now();
        Ok(EventBase(Rc::new(Base {
            driver: RefCell::new(Some(driver)),
            number: LAST_NUMBER.fetch_add(1, Ordering::Relaxed).wrapping_add(1),
            sources: RefCell::new(Slab::new()),
            last_stamp: Cell::new(0),
            timers: RefCell::default(),
            fifo: RefCell::new((0..self.priorities).map(|_| VecDeque::new()).collect()),
            dirty: RefCell::default(),
            line: RefCell::default(),
            last_ticket: Cell::new(0),
            purge_line_at: Cell::new(0),
            now: Cell::new(now),
            active: Cell::new(0),
            stop: Cell::new(Stop::No),
            stop_at: Cell::new(u64::MAX),
            stop_at_passed: Cell::new(false),
            put_off: RefCell::new(None),
            running: Cell::new(false),
            buffers_in_use: Cell::new(0),
            spin: self.spin,
            tally: Default::default(),
            turn_hook: Default::default(),
            remote: RefCell::new(None),
            groups: Default::default(),
            shared: RefCell::default(),
            pid: std::process::id(),
            locals: Default::default(),
            memory: Default::default(),
            quiet: Default::default(),
            slot_size,
        })))
    }
}
