//! What a worker serves: echo or proxy.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use crate::gate::Pass;

/// What is done with the connections of one worker.
pub trait Service {
    /// Takes over an accepted connection. Keeps `pass` until its descriptors are closed.
    fn serve(self: Rc<Self>, fd: OwnedFd, pass: Pass);

    /// Bytes moved so far: from clients, to clients.
    fn moved(&self) -> (u64, u64);

    /// Stops reading, sends what is buffered within `grace`, closes.
    fn drain(self: Rc<Self>, grace: Duration);

    /// Closes everything at once. Gives the number of connections that were still open.
    fn abort(&self) -> usize;

    /// Counters of the service's own for `--stats`: name and value.
    fn counts(&self) -> Vec<(&'static str, u64)>;
}
