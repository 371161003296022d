//! Signals of the process. Without the test harness: its threads do not have the signal blocked,
//! and the kernel would be free to deliver it to them.

use std::cell::Cell;
use std::rc::Rc;

use evring::{EventBase, Exit, block_signals};

/// Sends the signal to this process.
fn raise() -> rustix::io::Result<()> {
    use rustix::process::{Signal, getpid, kill_process};
    kill_process(getpid(), Signal::USR2)
}

fn main() {
    block_signals(&[libc::SIGUSR2]).expect("a signal that can be blocked");
    let base = EventBase::new().expect("a ring");
    let caught = Rc::new(Cell::new(0));
    let count = caught.clone();
    let signal = base
        .signal(libc::SIGUSR2, move |signal| {
            count.set(count.get() + 1);
            if count.get() == 2 {
                signal.cancel();
            } else {
                raise().expect("it is sent");
            }
        })
        .expect("a signalfd");
    assert_eq!(signal.signum(), libc::SIGUSR2);
    raise().expect("it is sent");
    assert_eq!(base.run().expect("it runs"), Exit::Idle);
    assert_eq!(caught.get(), 2);
    assert!(base.signal(-1, |_| {}).is_err(), "no such signal");
    println!("signals are taken by the loop: ok");
}
