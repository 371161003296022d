//! The knobs of the floor, and what they ask of the kernel.

use std::io;

use clap::Args;
use io_uring::Parameters;

use crate::ring::{Batch, CQ_ENTRIES};
use crate::window::Filling;

/// The knobs of the floor. Those that try a kernel feature are off unless asked for.
#[derive(Debug, Clone, Args)]
pub struct FloorArgs {
    /// Never sleep: ask the kernel again and again
    #[arg(long)]
    pub spin: bool,
    /// Size of a receive slot
    #[arg(long, value_name = "BYTES", default_value_t = 16 * 1024)]
    pub slot: u32,
    /// Slots that the kernel is offered at a time
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub window: u16,
    /// Receive, send and cancel by registered descriptors
    #[arg(long)]
    pub registered_files: bool,
    /// Let a slot take one message after the other until it is full (IOU_PBUF_RING_INC, Linux 6.12)
    #[arg(long)]
    pub incremental: bool,
    /// Let a receive take several slots at once (IORING_RECVSEND_BUNDLE, Linux 6.10)
    #[arg(long)]
    pub bundle: bool,
    /// Wait so long for several completions, then for any one (min_wait_usec, Linux 6.12)
    #[arg(long, value_name = "MICROSECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub min_wait: Option<u32>,
    /// Completions that end such a wait at once
    #[arg(
        long,
        value_name = "N",
        default_value_t = 64,
        requires = "min_wait",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(CQ_ENTRIES))
    )]
    pub min_wait_for: u32,
}

impl FloorArgs {
    /// Refuses what does not go together, and what a kernel with these features does not have.
    /// (Whether it has incremental buffers shows only when a ring of them is registered.)
    pub(super) fn check(&self, kernel: &Parameters) -> io::Result<()> {
        let conflict = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        if self.bundle && self.incremental {
            return conflict(
                "--bundle and --incremental are two ways to fill slots: leave one of them out",
            );
        }
        if self.spin && self.min_wait.is_some() {
            return conflict(
                "--spin never waits, so there is nothing for --min-wait: leave one of them out",
            );
        }
        let unsupported = |why| Err(io::Error::new(io::ErrorKind::Unsupported, why));
        if self.bundle && !kernel.is_feature_recvsend_bundle() {
            return unsupported(
                "this kernel does not receive bundles (Linux 6.10): do without --bundle",
            );
        }
        if self.min_wait.is_some() && !kernel.is_feature_min_timeout() {
            return unsupported(
                "this kernel has no wait for several completions (Linux 6.12): do without --min-wait",
            );
        }
        Ok(())
    }

    pub(super) fn filling(&self) -> Filling {
        if self.incremental {
            Filling::Incremental
        } else if self.bundle {
            Filling::Bundle
        } else {
            Filling::Slot
        }
    }

    pub(super) fn batch(&self) -> Option<Batch> {
        self.min_wait.map(|microseconds| Batch {
            wanted: self.min_wait_for,
            microseconds,
        })
    }
}
