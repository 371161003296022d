//! Layer: sys.
#![allow(unsafe_code)]

pub(crate) mod fdio;
pub(crate) mod find;
