//! What a ring is told to do without.

use super::Cap;
use crate::ring::error::UnknownCap;
use std::str::FromStr;

/// Environment variable with a [`CapsMask`] that holds for every ring of the process.
pub const CAPS_VARIABLE: &str = "EVRING_CAPS";

/// Abilities that a ring shall do without, or use although its kernel's release is known to have
/// them broken.
///
/// Written as a list of names with a sign, for example `-recv_multishot,+send_zc`: `-` masks an
/// ability, `+` trusts it (for distribution kernels that carry the repair). With it one machine can
/// test every rung. The environment variable `EVRING_CAPS` holds one too; both add up.
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
    pub(super) without: Cap,
    pub(super) keep: Cap,
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

    pub(in crate::ring) fn masked(&self) -> Cap {
        self.without
    }

    /// Both masks together.
    pub(in crate::ring) fn union(self, other: CapsMask) -> CapsMask {
        CapsMask {
            without: self.without | other.without,
            keep: self.keep | other.keep,
        }
    }

    /// The mask that the environment variable `EVRING_CAPS` holds; empty if it is not set.
    pub(in crate::ring) fn from_environment() -> Result<CapsMask, UnknownCap> {
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
