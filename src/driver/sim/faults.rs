//! How badly a simulated kernel behaves.

use super::dice::Dice;

/// The vices of one seed. Chances are per thousand; each is zero in many seeds, so that faults are
/// met alone as well as together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    /// A receive or send moves only part of what it could.
    pub(crate) split: u32,
    /// An operation that could go on is left for later.
    pub(crate) lazy: u32,
    /// A multishot receive ends although it need not.
    pub(crate) end_multishot: u32,
    /// A receive ends with `ECANCELED`, `EINTR` or `EAGAIN` that nobody asked for.
    pub(crate) spurious: u32,
    /// A send ends with `EINTR` or `EAGAIN` before it has taken anything.
    pub(crate) interrupted: u32,
    /// `enter` returns early: a signal, or completions that want reaping.
    pub(crate) early: u32,
    /// A cancel takes effect late.
    pub(crate) late_cancel: u32,
    /// A cancelled receive brings data first.
    pub(crate) data_before_cancel: u32,
    /// An operation fails for want of memory.
    pub(crate) no_memory: u32,
    /// The connection breaks (`ECONNRESET`, `ETIMEDOUT`) when an operation looks at it.
    pub(crate) broken: u32,
    /// No descriptor is left for a connection that is accepted.
    pub(crate) no_descriptor: u32,
    /// A multishot receive that takes the bytes before a reset is not woken for the reset (Linux
    /// 6.18).
    pub(crate) deaf_to_resets: u32,
    /// Completions that can be reaped after one enter.
    pub(crate) budget: usize,
    /// Slots in the window.
    pub(crate) window: usize,
    /// Slots in the arena.
    pub(crate) slots: usize,
    /// Nanoseconds that bytes are under way, at most.
    pub(crate) latency: u64,
    /// Nanoseconds that a wait oversleeps, at most.
    pub(crate) oversleep: u64,
}

impl Faults {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        Faults {
            split: dice.pick(&[0, 0, 300, 900]),
            lazy: dice.pick(&[0, 0, 100, 600]),
            end_multishot: dice.pick(&[0, 0, 50, 400]),
            spurious: dice.pick(&[0, 0, 0, 20, 150]),
            interrupted: 0,
            early: dice.pick(&[0, 0, 50, 300]),
            late_cancel: dice.pick(&[0, 200, 800]),
            data_before_cancel: dice.pick(&[0, 300, 1000]),
            no_memory: dice.pick(&[0, 0, 0, 0, 0, 3, 20]),
            broken: dice.pick(&[0, 0, 0, 0, 0, 3, 15]),
            no_descriptor: 0,
            deaf_to_resets: 0,
            budget: dice.pick(&[usize::MAX, usize::MAX, 20, 3, 1]),
            window: dice.pick(&[1, 1, 2, 4, 16]),
            slots: dice.pick(&[1, 2, 3, 8, 64, 512]),
            latency: dice.pick(&[0, 0, 50_000, 3_000_000, 200_000_000]),
            oversleep: dice.pick(&[0, 0, 50_000, 5_000_000]),
        }
    }

    /// The vices that came later. They have dice of their own, so that older seeds stay what they
    /// were.
    pub(crate) fn draw_more(&mut self, dice: &mut Dice) {
        self.no_descriptor = dice.pick(&[0, 0, 100, 500]);
        self.deaf_to_resets = dice.pick(&[0, 0, 300, 1000]);
        self.interrupted = dice.pick(&[0, 0, 30, 200]);
    }

    /// A kernel without vices.
    pub(crate) fn none() -> Self {
        Faults {
            split: 0,
            lazy: 0,
            end_multishot: 0,
            spurious: 0,
            interrupted: 0,
            early: 0,
            late_cancel: 0,
            data_before_cancel: 0,
            no_memory: 0,
            broken: 0,
            no_descriptor: 0,
            deaf_to_resets: 0,
            budget: usize::MAX,
            window: 16,
            slots: 512,
            latency: 0,
            oversleep: 0,
        }
    }
}
