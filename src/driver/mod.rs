//! Layer: driver.
