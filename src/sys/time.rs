//! The monotonic clock.

use std::mem;

/// Nanoseconds of the monotonic clock: never goes back, counts from an arbitrary point (in practice
/// the boot), and is the same on every thread. Stands still while the machine sleeps.
#[inline]
pub fn monotonic_ns() -> u64 {
    // SAFETY: timespec is plain numbers, all zeroes is valid.
    let mut now: libc::timespec = unsafe { mem::zeroed() };
    // SAFETY: writes `now`. This clock always exists on Linux, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_forward() {
        let start_ns = monotonic_ns();
        while monotonic_ns() == start_ns {}
        assert!(monotonic_ns() > start_ns);
    }
}
