//! A listener when the process has no descriptor left. Alone in its file: the limit is the whole
//! process's.

use std::cell::{Cell, RefCell};
use std::io::Read;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use evring::{Addr, EventBase, ListenOptions, Listener, RunFlags};
use rustix::process::{Resource, getrlimit, setrlimit};

#[test]
fn a_listener_without_descriptors_reports_it_once_and_resumes_by_itself() {
    let base = EventBase::new().unwrap();
    let kept = Rc::new(RefCell::new(Vec::new()));
    let sink = kept.clone();
    let addr: Addr = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(
        &base,
        &addr,
        ListenOptions::default(),
        move |_, accepted| {
            sink.borrow_mut().push(accepted);
        },
    )
    .unwrap();
    let errors = Rc::new(Cell::new(0));
    let count = errors.clone();
    listener.on_error(move |listener, error| {
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        assert!(!listener.is_paused());
        count.set(count.get() + 1);
    });
    let Addr::Inet(at) = listener.local_addr().unwrap() else {
        unreachable!("bound to an IPv4 address");
    };
    let clients: Vec<_> = (0..4).map(|_| TcpStream::connect(at).unwrap()).collect();

    // Not one descriptor more than there are.
    let mut limit = getrlimit(Resource::Nofile);
    let spare = clients[0].try_clone().unwrap();
    limit.current = Some(spare.as_raw_fd() as u64 + 8);
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut fill = vec![spare];
    while let Ok(more) = clients[0].try_clone() {
        fill.push(more);
    }

    // It runs on, through several attempts, and says so once.
    base.stop_after(Duration::from_millis(350));
    base.run().unwrap();
    assert_eq!((errors.get(), kept.borrow().len()), (1, 0));
    // Two can be had: two are accepted. The others wait; nobody has to tell the listener.
    fill.truncate(fill.len() - 2);
    let mut turns = 0;
    while kept.borrow().len() < 2 && turns < 1000 {
        base.run_with(RunFlags::ONCE).unwrap();
        turns += 1;
    }
    assert_eq!(kept.borrow().len(), 2);
    fill.clear();
    while kept.borrow().len() < 4 && turns < 1000 {
        base.run_with(RunFlags::ONCE).unwrap();
        turns += 1;
    }
    assert_eq!(kept.borrow().len(), 4);
    assert!(
        errors.get() <= 2,
        "once for each time that it began to fail"
    );
    listener.close();
    base.run().unwrap();
    assert_eq!((base.active(), base.in_flight()), (0, 0));
    kept.borrow_mut().clear();
    for mut client in clients {
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    }
}
