//! The `evring` command.
fn main() {}
