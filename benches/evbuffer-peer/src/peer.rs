//! The C side.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};

macro_rules! peer {
    ($($name:ident = $symbol:ident;)*) => {
        mod raw {
            unsafe extern "C" {
                $(pub(super) fn $symbol(size: usize, rounds: usize) -> u64;)*
            }
        }
        $(pub(crate) fn $name(size: usize, rounds: usize) -> u64 {
            // SAFETY: the C function takes two sizes, keeps to its own buffers, and returns a time;
            // the sizes in the table of cases are within its arrays.
            unsafe { raw::$symbol(size, rounds) }
        })*
    };
}

peer! {
    add_remove = peer_add_remove;
    burst = peer_burst;
    readln = peer_readln;
    search = peer_search;
    move_chain = peer_move;
    reference = peer_reference;
    prepend = peer_prepend;
    pullup = peer_pullup;
    copyout = peer_copyout;
    remove_buffer = peer_remove_buffer;
    reserve = peer_reserve;
    peek = peer_peek;
    new_free = peer_new_free;
    add_fmt = peer_add_fmt;
}

/// Nanoseconds that this thread has had on a processor.
pub(crate) fn now() -> u64 {
    unsafe extern "C" {
        fn peer_now() -> u64;
    }
    // SAFETY: reads a clock.
    unsafe { peer_now() }
}

pub(crate) fn version() -> String {
    unsafe extern "C" {
        fn peer_version() -> *const c_char;
    }
    // SAFETY: libevent returns a static, terminated string.
    let version = unsafe { CStr::from_ptr(peer_version()) };
    version.to_string_lossy().into_owned()
}

/// Gives the C side the memory that it copies from and to.
pub(crate) fn share(source: &'static [u8], sink: &'static mut [u8]) {
    unsafe extern "C" {
        fn peer_use(source: *const c_char, sink: *mut c_char);
    }
    assert!(source.len().min(sink.len()) >= crate::cases::SHARED);
    // SAFETY: both live for the rest of the program and have the size that the C side expects.
    unsafe { peer_use(source.as_ptr().cast(), sink.as_mut_ptr().cast()) };
}
