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

pub(crate) fn version() -> String {
    unsafe extern "C" {
        fn peer_version() -> *const c_char;
    }
    // SAFETY: libevent returns a static, terminated string.
    let version = unsafe { CStr::from_ptr(peer_version()) };
    version.to_string_lossy().into_owned()
}
