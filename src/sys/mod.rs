//! Layer: sys.
#![allow(unsafe_code)]

pub(crate) mod fdio;
