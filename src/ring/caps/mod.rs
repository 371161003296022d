//! What this kernel gives a ring, and what is used instead of what it lacks.

use crate::sys::host::Release;
use std::fmt;

mod known;
mod mask;
#[cfg(test)]
mod tests;

use known::{KNOWN, known_bad};
pub use mask::{CAPS_VARIABLE, CapsMask};

bitflags::bitflags! {
    /// Abilities of the kernel that a ring makes use of. None is indispensable.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Cap: u32 {
        /// The kernel knows that one thread submits.
        const SINGLE_ISSUER = 1 << 0;
        /// Completions are prepared when the ring is entered, not by interrupting the program.
        const DEFER_TASKRUN = 1 << 1;
        /// Completions are prepared at the next system call, without an interrupt to another core.
        const COOP_TASKRUN = 1 << 2;
        /// An entry that is refused does not stop those behind it.
        const SUBMIT_ALL = 1 << 3;
        /// Submission entries are taken in order, without an array of indices.
        const NO_SQARRAY = 1 << 4;
        /// The ring's descriptor is registered with its thread.
        const REGISTERED_RING = 1 << 5;
        /// A sleeping ring does not count as waiting for I/O.
        const NO_IOWAIT = 1 << 6;
        /// The kernel picks the buffer of a receive from a ring of published slots.
        const BUFFER_RING = 1 << 7;
        /// One receive completes again and again.
        const RECV_MULTISHOT = 1 << 8;
        /// A multishot receive ends by itself after a number of bytes.
        const RECV_ARM_LIMIT = 1 << 9;
        /// A receive or send can wait for readiness before its first attempt.
        const POLL_FIRST = 1 << 10;
        /// One accept completes again and again.
        const ACCEPT_MULTISHOT = 1 << 11;
        /// One poll completes again and again.
        const POLL_MULTISHOT = 1 << 12;
        /// A gathered send needs no message header.
        const SEND_VECTORIZED = 1 << 13;
        /// Sends from one piece of memory without a copy.
        const SEND_ZC = 1 << 14;
        /// Gathered sends without a copy.
        const SENDMSG_ZC = 1 << 15;
        /// Memory can be registered once instead of being looked up at every zero-copy send.
        const FIXED_BUFFERS = 1 << 16;
        /// All operations of a ring can be cancelled at once.
        const CANCEL_ANY = 1 << 17;
        /// One completion of a receive fills several slots. Used only with [`Cap::RECV_ARM_LIMIT`],
        /// which bounds it.
        const RECV_BUNDLE = 1 << 18;
    }
}

impl Cap {
    /// The abilities that are flags of the ring's set-up.
    pub(super) const SETUP: Cap = Cap::SINGLE_ISSUER
        .union(Cap::DEFER_TASKRUN)
        .union(Cap::COOP_TASKRUN)
        .union(Cap::SUBMIT_ALL)
        .union(Cap::NO_SQARRAY);

    /// What bundles are no use without. The kernels before 6.15 that order them wrongly have no
    /// limit either.
    const BUNDLE_NEEDS: Cap = Cap::BUFFER_RING
        .union(Cap::RECV_MULTISHOT)
        .union(Cap::RECV_ARM_LIMIT);

    /// The name under which a [`CapsMask`] knows the ability.
    ///
    /// `None` if the set has not exactly one member.
    pub fn name(self) -> Option<&'static str> {
        KNOWN
            .iter()
            .find(|known| known.cap == self)
            .map(|known| known.name)
    }

    /// The names of all abilities, in the order in which [`Caps`] prints them.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().map(|known| known.name)
    }

    fn named(name: &str) -> Option<Cap> {
        KNOWN
            .iter()
            .find(|known| known.name == name)
            .map(|known| known.cap)
    }
}

/// What a ring found on this kernel, what it was told to do without, and what it uses.
///
/// Found by trying: feature bits, the list of opcodes, and entries that are submitted on no
/// descriptor, which a kernel refuses differently when it does not know their flags. The release is
/// consulted only to leave alone what is known to be broken in it. [`Display`](fmt::Display) prints
/// a table.
///
/// ```no_run
/// use evring::ring::{Cap, Ring, RingConfig};
///
/// let ring = Ring::new(&RingConfig::default())?;
/// println!("{}", ring.caps());
/// if !ring.caps().has(Cap::RECV_MULTISHOT) {
///     println!("every receive is submitted anew");
/// }
/// # Ok::<(), evring::ring::SetupError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Caps {
    found: Cap,
    mask: CapsMask,
    release: Release,
}

impl Caps {
    pub(crate) fn new(found: Cap, mask: CapsMask, release: Release) -> Caps {
        Caps {
            found,
            mask,
            release,
        }
    }

    /// Whether the ring uses all of `cap`.
    #[inline]
    pub fn has(&self, cap: Cap) -> bool {
        self.in_use().contains(cap)
    }

    /// The abilities that the ring uses.
    #[inline]
    pub fn in_use(&self) -> Cap {
        let used = self
            .found
            .difference(self.mask.without)
            .difference(self.distrusted());
        match used.contains(Cap::BUNDLE_NEEDS) {
            true => used,
            false => used.difference(Cap::RECV_BUNDLE),
        }
    }

    /// The abilities that were found, used or not. Those that are flags of the set-up count as
    /// found only if they were tried.
    pub fn found(&self) -> Cap {
        self.found
    }

    /// The abilities that are left alone because this release is known to have them broken.
    pub fn distrusted(&self) -> Cap {
        known_bad(self.release)
            .intersection(self.found)
            .difference(self.mask.keep)
    }

    /// The kernel's release.
    pub fn release(&self) -> Release {
        self.release
    }

    pub(super) fn add(&mut self, cap: Cap) {
        self.found |= cap;
    }

    pub(super) fn remove(&mut self, cap: Cap) {
        self.found -= cap;
    }

    /// The ring that masks `cap` still knows whether the kernel has it.
    fn verdict(&self, cap: Cap) -> &'static str {
        if self.mask.without.contains(cap) {
            "masked"
        } else if self.distrusted().contains(cap) {
            "known bad"
        } else if self.has(cap) {
            "yes"
        } else if cap == Cap::COOP_TASKRUN && self.has(Cap::DEFER_TASKRUN) {
            "unneeded"
        } else {
            "no"
        }
    }
}

impl fmt::Display for Caps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Linux {}", self.release)?;
        writeln!(
            f,
            "{:<17} {:<10} {:<6} used instead",
            "ability", "used", "since"
        )?;
        for known in &KNOWN {
            let verdict = self.verdict(known.cap);
            let instead = match verdict {
                "yes" => "-",
                "unneeded" => "defer_taskrun",
                _ => known.instead,
            };
            writeln!(
                f,
                "{:<17} {verdict:<10} {:<6} {instead}",
                known.name, known.since
            )?;
        }
        Ok(())
    }
}
