//! What is known of each ability: its name, its age, what stands in for it, where it is broken.

use super::Cap;
use crate::sys::host::Release;

/// One line of the table that [`Caps`] prints.
pub(super) struct Known {
    pub(super) cap: Cap,
    pub(super) name: &'static str,
    /// The first release of Linux that has it.
    pub(super) since: &'static str,
    /// What a ring does without it.
    pub(super) instead: &'static str,
}

const fn known(cap: Cap, name: &'static str, since: &'static str, instead: &'static str) -> Known {
    Known {
        cap,
        name,
        since,
        instead,
    }
}

/// All abilities, in the order in which they are printed.
pub(super) const KNOWN: [Known; 19] = [
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

/// Abilities that a release has, but broken.
///
/// A multishot receive of 6.0 to 6.6.16 and of 6.7 goes on for as long as data keeps coming, so
/// that one busy connection starves all others.
pub(super) fn known_bad(release: Release) -> Cap {
    let unfair_multishot = release < Release::new(6, 6, 17)
        || (release >= Release::new(6, 7, 0) && release < Release::new(6, 8, 0));
    if unfair_multishot {
        Cap::RECV_MULTISHOT
    } else {
        Cap::empty()
    }
}
