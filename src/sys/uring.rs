//! Raw `io_uring_enter` and `io_uring_register`, and the constants that the `io-uring` crate lacks.
//!
//! The crate keeps the number of a registered ring descriptor inside its `Submitter`, which borrows
//! the ring; and its bindings end at Linux 6.16. What does not fit is here.

use super::Errno;
use io_uring::squeue;
use std::mem;
use std::os::fd::RawFd;
use std::time::Duration;

/// `io_uring_enter`: run task work, flush an overflown completion queue, wait for completions.
pub(crate) const ENTER_GETEVENTS: u32 = 1 << 0;
/// `io_uring_enter`: the argument is a [`WaitArg`].
pub(crate) const ENTER_EXT_ARG: u32 = 1 << 3;
/// `io_uring_enter`: the descriptor is the index of a registered one.
pub(crate) const ENTER_REGISTERED_RING: u32 = 1 << 4;
/// `io_uring_enter`: do not count the wait as waiting for I/O (6.15).
pub(crate) const ENTER_NO_IOWAIT: u32 = 1 << 7;

/// `RECV`, `SEND`: wait for readiness before the first attempt (5.19).
pub(crate) const RECVSEND_POLL_FIRST: u16 = 1 << 0;
/// `RECV`: one submission, many completions (6.0).
pub(crate) const RECV_MULTISHOT: u16 = 1 << 1;
/// `SEND_ZC`: the notification says whether bytes were copied after all (6.2).
pub(crate) const SEND_ZC_REPORT_USAGE: u16 = 1 << 3;
/// `RECV` with provided buffers: one completion may fill several of them (6.10).
pub(crate) const RECVSEND_BUNDLE: u16 = 1 << 4;
/// `SEND`: the address is an array of iovecs, the length their number (6.17).
pub(crate) const SEND_VECTORIZED: u16 = 1 << 5;
/// Result of a zero-copy notification: bytes were copied after all.
pub(crate) const NOTIF_USAGE_ZC_COPIED: u32 = 1 << 31;

/// Completion flag: the upper 16 bits hold the id of the buffer that was used.
pub(crate) const CQE_F_BUFFER: u32 = 1 << 0;
/// Completion flag: the operation lives on and will complete again.
pub(crate) const CQE_F_MORE: u32 = 1 << 1;
/// Completion flag: the socket has more to read.
pub(crate) const CQE_F_SOCK_NONEMPTY: u32 = 1 << 2;
/// Completion flag: notification of a zero-copy send, the kernel is done with the memory.
pub(crate) const CQE_F_NOTIF: u32 = 1 << 3;
/// All completion flags, without the buffer's id.
pub(crate) const CQE_FLAGS: u32 = (1 << CQE_BUFFER_SHIFT) - 1;
/// Where the buffer's id begins in the completion's flags.
pub(crate) const CQE_BUFFER_SHIFT: u32 = 16;

/// Offset of `optlen` in a submission entry, in bytes; the union it lies in is `file_index`
/// elsewhere.
const SQE_OPTLEN_OFFSET: usize = 44;

const REGISTER_RING_FDS: libc::c_uint = 20;
const UNREGISTER_RING_FDS: libc::c_uint = 21;

/// How `io_uring_enter` is to wait: the kernel's `struct io_uring_getevents_arg`, and the time it
/// points to.
#[repr(C)]
struct WaitArg {
    sigmask: u64,
    sigmask_size: u32,
    min_wait_usec: u32,
    timespec: u64,
}

/// The kernel's `struct __kernel_timespec`.
#[repr(C)]
struct Timespec {
    sec: i64,
    nsec: i64,
}

const _: () = assert!(mem::size_of::<WaitArg>() == 24);
const _: () = assert!(mem::size_of::<Timespec>() == 16);
const _: () = assert!(mem::size_of::<squeue::Entry>() == 64);

/// Submits `to_submit` entries and, with [`ENTER_GETEVENTS`], waits for `min_complete` completions,
/// for at most `timeout`. Gives the number of entries that the kernel took.
///
/// # Safety
///
/// `fd` is a ring (or, with [`ENTER_REGISTERED_RING`], the index of one), and whatever the pending
/// entries in its submission queue point to stays valid until their last completion (I1, I2).
#[inline]
pub(crate) unsafe fn enter(
    fd: RawFd,
    to_submit: u32,
    min_complete: u32,
    flags: u32,
    timeout: Option<Duration>,
) -> Result<u32, Errno> {
    let timespec;
    let arg;
    let (flags, ptr, size) = match timeout {
        None => (flags, 0, 0),
        Some(timeout) => {
            timespec = Timespec {
                sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
                nsec: i64::from(timeout.subsec_nanos()),
            };
            arg = WaitArg {
                sigmask: 0,
                sigmask_size: 0,
                min_wait_usec: 0,
                timespec: (&raw const timespec) as u64,
            };
            let ptr = (&raw const arg) as usize;
            (flags | ENTER_EXT_ARG, ptr, mem::size_of::<WaitArg>())
        }
    };
    // SAFETY: the ring and its entries are the caller's promise; the argument lives across the
    // call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            fd,
            to_submit,
            min_complete,
            flags,
            ptr,
            size,
        )
    };
    if ret < 0 {
        Err(Errno::last())
    } else {
        Ok(ret as u32)
    }
}

/// Registers a ring's descriptor with the calling thread, which saves a lookup at every `enter`.
/// Gives its index, to be used with [`ENTER_REGISTERED_RING`].
pub(crate) fn register_ring_fd(fd: RawFd) -> Result<RawFd, Errno> {
    let mut update = RingFdUpdate {
        offset: u32::MAX,
        reserved: 0,
        data: fd as u64,
    };
    // SAFETY: one update, which lives across the call; the kernel writes the index into it.
    unsafe { register(fd, REGISTER_RING_FDS, &mut update) }?;
    Ok(update.offset as RawFd)
}

/// Undoes [`register_ring_fd`] on the thread that called it.
pub(crate) fn unregister_ring_fd(fd: RawFd, index: RawFd) -> Result<(), Errno> {
    let mut update = RingFdUpdate {
        offset: index as u32,
        reserved: 0,
        data: 0,
    };
    // SAFETY: one update, which lives across the call.
    unsafe { register(fd, UNREGISTER_RING_FDS, &mut update) }.map(drop)
}

/// Sets a submission entry's `optlen`: for a multishot receive the byte budget of the arm (6.17).
#[inline]
pub(crate) fn set_optlen(entry: &mut squeue::Entry, value: u32) {
    let base = (&raw mut *entry).cast::<u8>();
    // SAFETY: the entry is the kernel's 64-byte `struct io_uring_sqe` (repr(C), size asserted
    // above), of which these four aligned bytes are a plain number.
    unsafe { base.add(SQE_OPTLEN_OFFSET).cast::<u32>().write(value) };
}

/// The kernel's `struct io_uring_rsrc_update`, as used for ring descriptors.
#[repr(C)]
struct RingFdUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// # Safety
///
/// `opcode` takes an array of one [`RingFdUpdate`].
unsafe fn register(
    fd: RawFd,
    opcode: libc::c_uint,
    update: &mut RingFdUpdate,
) -> Result<u32, Errno> {
    let arg = &raw mut *update;
    // SAFETY: the opcode's argument is the caller's promise; it is borrowed for the call.
    let ret = unsafe { libc::syscall(libc::SYS_io_uring_register, fd, opcode, arg, 1) };
    if ret < 0 {
        Err(Errno::last())
    } else {
        Ok(ret as u32)
    }
}
