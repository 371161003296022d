//! A logger that calls back into the library: nothing is logged while anything is borrowed.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use evring::{BufferEvent, EventBase, Options, RunFlags};

thread_local! {
    /// Where records are shipped to, on the base that logs.
    static SINK: RefCell<Option<(EventBase, BufferEvent)>> = const { RefCell::new(None) };
    static SHIPPED: Cell<usize> = const { Cell::new(0) };
}

struct Shipping;

impl log::Log for Shipping {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let Some((base, bev)) = SINK.with(|sink| sink.borrow().clone()) else {
            return;
        };
        bev.write(record.args().to_string().as_bytes()).unwrap();
        let _asked = (base.in_flight(), base.slots_live(), base.counters());
        if record.args().to_string().contains("closing descriptor") {
            SHIPPED.set(SHIPPED.get() + 1);
        }
    }

    fn flush(&self) {}
}

/// A descriptor that is gone when the library wants to close it, of a loop that is idle or goes on.
#[test]
fn a_logger_may_write_to_a_bufferevent_of_the_base_that_logs() {
    log::set_logger(&Shipping).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    for flags in [RunFlags::empty(), RunFlags::NONBLOCK, RunFlags::ONCE] {
        let base = EventBase::new().unwrap();
        let (ours, _far) = UnixStream::pair().unwrap();
        let sink = BufferEvent::socket(&base, Some(ours.into()), Options::CLOSE_ON_FREE).unwrap();
        SINK.with(|place| place.replace(Some((base.clone(), sink))));
        let shipped = SHIPPED.get();
        let (ours, _far) = UnixStream::pair().unwrap();
        let fd = ours.as_raw_fd();
        let bev = BufferEvent::socket(&base, Some(ours.into()), Options::CLOSE_ON_FREE).unwrap();
        close_behind_its_back(fd);
        bev.free();
        base.run_with(flags).unwrap();
        assert_eq!(SHIPPED.get(), shipped + 1);
        SINK.with(|place| place.replace(None));
    }
}

fn close_behind_its_back(fd: i32) {
    // SAFETY: the descriptor is open; that its owner fails to close it again is what is tested, and
    // nothing is opened in between.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}
