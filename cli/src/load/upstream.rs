//! `--upstream`: the load generator is also the server behind the proxy that it measures.
//!
//! Both ends of a message are then on one thread. Two processes on a core would have to be woken in
//! turns, and could not spin.

use std::rc::Rc;

use evring::{Addr, EventBase, SpinPolicy};
use evring_cli_common::console::Console;
use evring_cli_common::failure::Failure;

use crate::bursts::Notices;
use crate::echo;
use crate::limits::Capacity;
use crate::listen_claim::ListenClaim;
use crate::worker::{self, Plan, Worker};

/// The library's own, which the base has without an upstream.
const MEMORY_BYTES: usize = 256 << 20;
const SLOT_BYTES: usize = 16 << 10;

/// An echo server whose base is the load generator's.
pub struct Upstream {
    worker: Rc<Worker>,
    notices: Notices,
    /// Keeps a Unix socket's file until the end.
    _claim: ListenClaim,
}

impl Upstream {
    /// Listens on `addr`.
    ///
    /// # Errors
    /// When the address cannot be had, or the kernel gives no ring.
    pub fn listen(addr: &Addr, spin: SpinPolicy, console: &Console) -> Result<Self, Failure> {
        let mut claim = worker::claim(addr).map_err(|failure| {
            let remedy = "choose a free address, and give the proxy the same";
            Failure::new("--upstream", format!("{failure}; {remedy}"))
        })?;
        let notices = Notices::new(console.clone());
        let plan = Plan {
            listen: Some(addr.clone()),
            reuse_port: false,
            spin,
            // How many there are the load generator decides.
            capacity: Capacity::UNLIMITED,
            memory: MEMORY_BYTES,
            slot: SLOT_BYTES,
            sample: None,
            notices: notices.clone(),
        };
        let worker = Worker::build(&plan, &echo::echo_service(None, notices.clone()))?;
        claim.bound();
        Ok(Self {
            worker,
            notices,
            _claim: claim,
        })
    }

    /// The base that both share.
    pub fn base(&self) -> &EventBase {
        self.worker.base()
    }

    /// Runs the base until it is stopped, then closes what the proxy still has open.
    ///
    /// # Errors
    /// When the loop fails.
    pub fn run(self) -> Result<(), Failure> {
        // What it cut off is no message of the measured time: those have come back, or are missing
        // in the report.
        let outcome = self.worker.run();
        self.notices.rest();
        outcome.map(drop)
    }
}
