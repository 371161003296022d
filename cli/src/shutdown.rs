//! SIGINT and SIGTERM: the first ends a command in good order, the second at once.

use std::cell::RefCell;

use evring::{EventBase, Signal};
use evring_cli_common::SIGNALS;
use evring_cli_common::failure::Failure;

/// What a shell adds to the number of the signal that ended a process.
const SIGNAL_EXIT_CODE: i32 = 128;

/// The signals' events; they are watched for as long as this is kept.
#[derive(Debug)]
pub struct Watch {
    _signals: Vec<Signal>,
}

/// Keeps the signals pending until a base asks for them. Call it before there are threads.
pub fn block() -> Result<(), Failure> {
    evring::block_signals(&SIGNALS).map_err(|error| Failure::new("cannot block signals", error))
}

/// Calls `stop` on the first signal; ends the process on the second.
pub fn watch(base: &EventBase, stop: impl FnOnce() + 'static) -> Result<Watch, Failure> {
    let stop = std::rc::Rc::new(RefCell::new(Some(stop)));
    let mut signals = Vec::new();
    for signum in SIGNALS {
        let stop = stop.clone();
        let signal = base
            .signal(signum, move |_| {
                let first = stop.borrow_mut().take();
                match first {
                    Some(stop) => stop(),
                    None => std::process::exit(SIGNAL_EXIT_CODE + signum),
                }
            })
            .map_err(|error| Failure::new("cannot watch for signals", error))?;
        signals.push(signal);
    }
    Ok(Watch { _signals: signals })
}
