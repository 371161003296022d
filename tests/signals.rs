//! Signals of the process. Without the test harness: its threads do not have the signal blocked,
//! and the kernel would be free to deliver it to them.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use evring::{EventBase, Exit, RunFlags, block_signals};
use rustix::process::Signal;

/// Sends the signal to this process.
fn raise() -> rustix::io::Result<()> {
    raise_signal(Signal::USR2)
}

fn raise_signal(signal: Signal) -> rustix::io::Result<()> {
    use rustix::process::{getpid, kill_process};
    kill_process(getpid(), signal)
}

fn main() {
    block_signals(&[libc::SIGUSR2]).expect("a signal that can be blocked");
    signals_are_taken_by_the_loop();
    a_callback_that_panics_is_called_again();
}

fn signals_are_taken_by_the_loop() {
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

/// Whoever catches the panic goes on with the loop: what is pending by then, and what comes later,
/// is told, although nothing more is sent in between.
fn a_callback_that_panics_is_called_again() {
    for priorities in [1, 3] {
        let base = EventBase::builder()
            .priorities(priorities)
            .build()
            .expect("a ring");
        let caught = Rc::new(Cell::new(0));
        let count = caught.clone();
        let signal = base
            .signal(libc::SIGUSR2, move |_| {
                count.set(count.get() + 1);
                if count.get() <= 2 {
                    // Sent again while the callback of this one still runs.
                    raise().expect("it is sent");
                    resume_unwind(Box::new("boom"));
                }
            })
            .expect("a signalfd");
        raise().expect("it is sent");
        let mut panics = 0;
        for _ in 0..1000 {
            if caught.get() == 3 {
                break;
            }
            base.stop_after(std::time::Duration::from_millis(20));
            let turned = catch_unwind(AssertUnwindSafe(|| base.run_with(RunFlags::ONCE)));
            panics += u32::from(turned.is_err());
        }
        assert_eq!((caught.get(), panics), (3, 2));
        // Nothing is pending now, and the next one is told as ever.
        raise().expect("it is sent");
        base.run_with(RunFlags::ONCE).expect("it runs");
        assert_eq!(caught.get(), 4);
        signal.cancel();
        while base.run().expect("it runs") != Exit::Idle {}
        assert_eq!(base.active(), 0);
    }
    println!("a callback that panics is called again: ok");
}
