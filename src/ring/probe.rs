//! Finding out what a kernel can do by trying it.
//!
//! An entry whose flags the kernel does not know is refused with `EINVAL` before its descriptor is
//! looked at; one that it knows fails on descriptor -1 with `EBADF`. So a trial has no effect.

use super::caps::Cap;
use super::{fixed, window};
use crate::sys::{Errno, uring};
use io_uring::{IoUring, Probe, opcode, squeue, types};
use std::io::ErrorKind;

/// No open descriptor, so that a trial cannot do anything.
const NO_FD: types::Fd = types::Fd(-1);

/// The abilities that are not flags of the set-up.
///
/// # Errors
///
/// What `io_uring_enter` answers when it is refused: a filter may forbid that and allow the set-up.
pub(super) fn probe(ring: &IoUring) -> Result<Cap, Errno> {
    let mut found = opcodes(ring) | trials(ring)?;
    found.set(Cap::BUFFER_RING, window::is_supported(ring));
    found.set(Cap::FIXED_BUFFERS, fixed::is_supported(ring));
    if ring.params().is_feature_no_iowait() {
        found |= Cap::NO_IOWAIT;
    }
    if ring.params().is_feature_recvsend_bundle() {
        found |= Cap::RECV_BUNDLE;
    }
    Ok(found)
}

fn opcodes(ring: &IoUring) -> Cap {
    let mut probe = Probe::new();
    if ring.submitter().register_probe(&mut probe).is_err() {
        return Cap::empty();
    }
    let mut found = Cap::empty();
    found.set(Cap::SEND_ZC, probe.is_supported(opcode::SendZc::CODE));
    found.set(Cap::SENDMSG_ZC, probe.is_supported(opcode::SendMsgZc::CODE));
    found
}

fn trials(ring: &IoUring) -> Result<Cap, Errno> {
    let payload = [0_u8; 1];
    let iovec = libc::iovec {
        iov_base: payload.as_ptr().cast_mut().cast(),
        iov_len: 1,
    };
    let multishot = || {
        opcode::Recv::new(NO_FD, std::ptr::null_mut(), 0)
            .ioprio(uring::RECV_MULTISHOT)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT)
    };
    let mut limited = multishot();
    uring::set_optlen(&mut limited, 1);
    let poll_first =
        opcode::Recv::new(NO_FD, std::ptr::null_mut(), 0).ioprio(uring::RECVSEND_POLL_FIRST);
    let vectorized =
        opcode::Send::new(NO_FD, (&raw const iovec).cast(), 1).ioprio(uring::SEND_VECTORIZED);
    let cancel_any = opcode::AsyncCancel2::new(types::CancelBuilder::any().all());
    let entries = [
        (Cap::RECV_MULTISHOT, multishot()),
        (Cap::RECV_ARM_LIMIT, limited),
        (Cap::POLL_FIRST, poll_first.build()),
        (Cap::SEND_VECTORIZED, vectorized.build()),
        (
            Cap::ACCEPT_MULTISHOT,
            opcode::AcceptMulti::new(NO_FD).build(),
        ),
        (
            Cap::POLL_MULTISHOT,
            opcode::PollAdd::new(NO_FD, 0).multi(true).build(),
        ),
        (Cap::CANCEL_ANY, cancel_any.build()),
    ];
    let mut found = Cap::empty();
    for (cap, entry) in &entries {
        if attempt(ring, entry)? != -libc::EINVAL {
            found |= *cap;
        }
    }
    Ok(found)
}

/// Submits one entry to a ring without any other and gives its result.
fn attempt(ring: &IoUring, entry: &squeue::Entry) -> Result<i32, Errno> {
    // SAFETY: the only submission queue of this ring, for as long as it is borrowed. What the entry
    // points to outlives the wait for its completion below, and with no descriptor the kernel does
    // not keep it (I1).
    let pushed = unsafe { ring.submission_shared().push(entry) };
    debug_assert!(pushed.is_ok(), "the queue is empty between trials");
    loop {
        // SAFETY: the only completion queue of this ring, for as long as it is borrowed.
        if let Some(completion) = unsafe { ring.completion_shared() }.next() {
            return Ok(completion.result());
        }
        match ring.submitter().submit_and_wait(1) {
            Err(err) if err.kind() != ErrorKind::Interrupted => return Err(err.into()),
            _ => {}
        }
    }
}
