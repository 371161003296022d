//! What this kernel gives a ring, and what is used instead of what it lacks.

use super::error::UnknownCap;
use crate::sys::host::Release;
use std::fmt;
use std::str::FromStr;

/// Environment variable with a [`CapsMask`] that holds for every ring of the process.
pub const CAPS_VARIABLE: &str = "EVRING_CAPS";

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
        /// One completion of a receive fills several slots. Used only with [`Cap::RECV_ARM_LIMIT`], which bounds it.
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

    /// What bundles are no use without. The kernels before 6.15 that order them wrongly have no limit either.
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

/// One line of the table that [`Caps`] prints.
struct Known {
    cap: Cap,
    name: &'static str,
    /// The first release of Linux that has it.
    since: &'static str,
    /// What a ring does without it.
    instead: &'static str,
}

const fn known(cap: Cap, name: &'static str, since: &'static str, instead: &'static str) -> Known {
    Known {
        cap,
        name,
        since,
        instead,
    }
}

const KNOWN: [Known; 19] = [
    known(
        Cap::SINGLE_ISSUER,
        "single_issuer",
        "6.0",
        "locking for several submitters",
    ),
    known(Cap::DEFER_TASKRUN, "defer_taskrun", "6.1", "coop_taskrun"),
    known(
        Cap::COOP_TASKRUN,
        "coop_taskrun",
        "5.19",
        "interrupts on completion",
    ),
    known(
        Cap::SUBMIT_ALL,
        "submit_all",
        "5.18",
        "another enter behind a refused entry",
    ),
    known(
        Cap::NO_SQARRAY,
        "no_sqarray",
        "6.6",
        "an identity array of indices",
    ),
    known(
        Cap::REGISTERED_RING,
        "registered_ring",
        "5.18",
        "a descriptor lookup at every enter",
    ),
    known(
        Cap::NO_IOWAIT,
        "no_iowait",
        "6.15",
        "sleeping counts as waiting for I/O",
    ),
    known(
        Cap::BUFFER_RING,
        "buffer_ring",
        "5.19",
        "a slot of its own for every receive",
    ),
    known(
        Cap::RECV_MULTISHOT,
        "recv_multishot",
        "6.0",
        "a submission for every receive",
    ),
    known(
        Cap::RECV_ARM_LIMIT,
        "recv_arm_limit",
        "6.17",
        "single receives no longer than the budget",
    ),
    known(
        Cap::POLL_FIRST,
        "poll_first",
        "5.19",
        "a first attempt that may be in vain",
    ),
    known(
        Cap::ACCEPT_MULTISHOT,
        "accept_multishot",
        "5.19",
        "a submission for every accept",
    ),
    known(
        Cap::POLL_MULTISHOT,
        "poll_multishot",
        "5.13",
        "a submission for every poll",
    ),
    known(
        Cap::SEND_VECTORIZED,
        "send_vectorized",
        "6.17",
        "SENDMSG for gathered sends",
    ),
    known(Cap::SEND_ZC, "send_zc", "6.0", "sends that copy"),
    known(
        Cap::SENDMSG_ZC,
        "sendmsg_zc",
        "6.1",
        "gathered sends that copy",
    ),
    known(
        Cap::FIXED_BUFFERS,
        "fixed_buffers",
        "5.19",
        "a page lookup at every zero-copy send",
    ),
    known(
        Cap::CANCEL_ANY,
        "cancel_any",
        "5.19",
        "a cancel for every operation",
    ),
    known(
        Cap::RECV_BUNDLE,
        "recv_bundle",
        "6.17",
        "a completion for every slot",
    ),
];

/// What a ring found on this kernel, what it was told to do without, and what it uses.
///
/// Found by trying: feature bits, the list of opcodes, and entries that are submitted on no
/// descriptor, which a kernel refuses differently when it does not know their flags. The release is
/// consulted only to leave alone what is known to be broken in it. [`Display`](fmt::Display) prints a
/// table.
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

    /// The abilities that were found, used or not. Those that are flags of the set-up count as found
    /// only if they were tried.
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

/// Abilities that a release has, but broken.
///
/// A multishot receive of 6.0 to 6.6.16 and of 6.7 goes on for as long as data keeps coming, so that one
/// busy connection starves all others.
fn known_bad(release: Release) -> Cap {
    let unfair_multishot = release < Release::new(6, 6, 17)
        || (release >= Release::new(6, 7, 0) && release < Release::new(6, 8, 0));
    if unfair_multishot {
        Cap::RECV_MULTISHOT
    } else {
        Cap::empty()
    }
}

/// Abilities that a ring shall do without, or use although its kernel's release is known to have them broken.
///
/// Written as a list of names with a sign, for example `-recv_multishot,+send_zc`: `-` masks an ability,
/// `+` trusts it (for distribution kernels that carry the repair). With it one machine can test every
/// rung. The environment variable `EVRING_CAPS` holds one too; both add up.
///
/// ```
/// use evring::ring::{Cap, CapsMask};
///
/// let mask: CapsMask = "-recv_multishot, -send_vectorized".parse()?;
/// assert_eq!(mask, CapsMask::default().without(Cap::RECV_MULTISHOT | Cap::SEND_VECTORIZED));
/// assert!("-warp_drive".parse::<CapsMask>().is_err());
/// # Ok::<(), evring::ring::UnknownCap>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapsMask {
    without: Cap,
    keep: Cap,
}

impl CapsMask {
    /// Also do without `cap`.
    #[must_use]
    pub fn without(self, cap: Cap) -> CapsMask {
        CapsMask {
            without: self.without | cap,
            ..self
        }
    }

    /// Also use `cap` where the release is known to have it broken.
    #[must_use]
    pub fn trusting(self, cap: Cap) -> CapsMask {
        CapsMask {
            keep: self.keep | cap,
            ..self
        }
    }

    /// Whether `cap` is masked.
    pub fn masks(&self, cap: Cap) -> bool {
        self.without.intersects(cap)
    }

    pub(super) fn masked(&self) -> Cap {
        self.without
    }

    /// Both masks together.
    pub(super) fn union(self, other: CapsMask) -> CapsMask {
        CapsMask {
            without: self.without | other.without,
            keep: self.keep | other.keep,
        }
    }

    /// The mask that the environment variable `EVRING_CAPS` holds; empty if it is not set.
    pub(super) fn from_environment() -> Result<CapsMask, UnknownCap> {
        match std::env::var_os(CAPS_VARIABLE) {
            Some(text) => text.to_string_lossy().parse(),
            None => Ok(CapsMask::default()),
        }
    }
}

impl FromStr for CapsMask {
    type Err = UnknownCap;

    fn from_str(text: &str) -> Result<CapsMask, UnknownCap> {
        let mut mask = CapsMask::default();
        for word in text
            .split([',', ' ', '\t', '\n'])
            .filter(|word| !word.is_empty())
        {
            let unknown = || UnknownCap {
                word: word.to_owned(),
            };
            if let Some(name) = word.strip_prefix('-') {
                mask.without |= Cap::named(name).ok_or_else(unknown)?;
            } else if let Some(name) = word.strip_prefix('+') {
                mask.keep |= Cap::named(name).ok_or_else(unknown)?;
            } else {
                return Err(unknown());
            }
        }
        Ok(mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Release = Release::new(6, 18, 0);

    #[test]
    fn every_ability_has_exactly_one_name() {
        assert_eq!(KNOWN.len(), Cap::all().iter().count());
        for cap in Cap::all().iter() {
            let name = cap.name().expect("every ability is in the table");
            assert_eq!(Cap::named(name), Some(cap));
        }
        assert_eq!(Cap::all().name(), None);
    }

    #[test]
    fn a_mask_takes_away_and_says_so() {
        let mask = "-recv_multishot".parse().expect("a known name");
        let caps = Caps::new(Cap::all(), mask, NEW);
        assert!(!caps.has(Cap::RECV_MULTISHOT));
        assert!(caps.has(Cap::SEND_ZC));
        assert!(caps.found().contains(Cap::RECV_MULTISHOT));
        let table = caps.to_string();
        let line = table
            .lines()
            .find(|line| line.starts_with("recv_multishot"))
            .expect("its line");
        assert!(
            line.contains("masked") && line.contains("a submission for every receive"),
            "{line}"
        );
    }

    #[test]
    fn a_broken_release_is_distrusted_unless_told_otherwise() {
        for (release, bad) in [
            (Release::new(6, 1, 0), true),
            (Release::new(6, 6, 16), true),
            (Release::new(6, 6, 17), false),
            (Release::new(6, 7, 3), true),
            (Release::new(6, 8, 0), false),
        ] {
            let caps = Caps::new(Cap::all(), CapsMask::default(), release);
            assert_eq!(!caps.has(Cap::RECV_MULTISHOT), bad, "{release}");
            let trusting = "+recv_multishot".parse().expect("a known name");
            assert!(Caps::new(Cap::all(), trusting, release).has(Cap::RECV_MULTISHOT));
        }
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_the_known_ones() {
        for bad in ["-warp_drive", "recv_multishot", "-", "~send_zc"] {
            let err = bad.parse::<CapsMask>().expect_err(bad).to_string();
            assert!(
                err.contains(bad) && err.contains("send_vectorized"),
                "{err}"
            );
        }
        assert_eq!(" , ".parse(), Ok(CapsMask::default()));
    }
}
