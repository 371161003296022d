//! A buffer's shape for the eye of a programmer.

use super::{EvBuffer, FROZEN_END, FROZEN_START};
use std::fmt;

/// Segments that `Debug` lists before it only counts.
const SHOWN: usize = 8;

impl fmt::Debug for EvBuffer {
    /// The length and the segments' kinds and sizes, not their bytes: a segment of 100 bytes with
    /// room for 412 more reads `heap 100+412`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EvBuffer({} bytes", self.len)?;
        let mut segments = self.chain.iter();
        for (at, seg) in segments.by_ref().take(SHOWN).enumerate() {
            let separator = if at == 0 { ": " } else { ", " };
            write!(f, "{separator}{seg:?}")?;
        }
        let more = segments.count();
        if more > 0 {
            write!(f, ", {more} more")?;
        }
        if self.flags & FROZEN_START != 0 {
            f.write_str("; start frozen")?;
        }
        if self.flags & FROZEN_END != 0 {
            f.write_str("; end frozen")?;
        }
        if let Some(extra) = &self.extra {
            write!(f, "; {extra:?}")?;
        }
        f.write_str(")")
    }
}
