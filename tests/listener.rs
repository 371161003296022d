//! Accepting connections.

use std::cell::{Cell, RefCell};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use evring::{Accepted, Addr, Error, EventBase, ListenOptions, Listener, RunFlags};

fn any_port() -> Addr {
    "127.0.0.1:0".parse().unwrap()
}

fn bound(listener: &Listener) -> std::net::SocketAddr {
    match listener.local_addr().unwrap() {
        Addr::Inet(addr) => addr,
        other => panic!("{other}"),
    }
}

/// A listener that keeps what it accepts.
fn keeping(base: &EventBase, options: ListenOptions) -> (Listener, Rc<RefCell<Vec<Accepted>>>) {
    let kept = Rc::new(RefCell::new(Vec::new()));
    let sink = kept.clone();
    let listener = Listener::bind(base, &any_port(), options, move |_, accepted| {
        sink.borrow_mut().push(accepted);
    })
    .unwrap();
    (listener, kept)
}

fn turn_until(base: &EventBase, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        base.run_with(RunFlags::ONCE).unwrap();
    }
    panic!("it never held");
}

#[test]
fn accepts_with_the_peers_address_and_options() {
    let base = EventBase::new().unwrap();
    let (listener, kept) = keeping(&base, ListenOptions::default().nodelay(true));
    let client = TcpStream::connect(bound(&listener)).unwrap();
    turn_until(&base, || !kept.borrow().is_empty());
    let accepted = kept.borrow_mut().pop().unwrap();
    assert_eq!(
        accepted.peer_addr().unwrap(),
        Addr::from(client.local_addr().unwrap())
    );
    let stream = TcpStream::from(accepted.into_fd());
    assert!(stream.nodelay().unwrap(), "inherited from the listener");
    listener.close();
    base.run().unwrap();
    assert_eq!((base.active(), base.in_flight()), (0, 0));
    assert_eq!(base.counters().accepts, 1);
}

#[test]
fn the_port_is_free_again_as_soon_as_it_is_closed() {
    let base = EventBase::new().unwrap();
    let (listener, _kept) = keeping(&base, ListenOptions::default());
    let addr = bound(&listener);
    base.run_with(RunFlags::NONBLOCK).unwrap();
    listener.close();
    base.run().unwrap();
    TcpListener::bind(addr).expect("the port is free");
    assert!(matches!(listener.local_addr(), Err(Error::Freed { .. })));
    let (listener, _kept) = keeping(&base, ListenOptions::default());
    let addr = bound(&listener);
    base.run_with(RunFlags::NONBLOCK).unwrap();
    drop(base);
    TcpListener::bind(addr).expect("with the base, too");
}

#[test]
fn an_address_in_use_is_an_error_that_names_it() {
    let base = EventBase::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = Addr::from(taken.local_addr().unwrap());
    let error = Listener::bind(&base, &addr, ListenOptions::default(), |_, _| {}).unwrap_err();
    assert!(error.to_string().contains(&addr.to_string()), "{error}");
    assert_eq!(error.errno().map(|e| e.raw()), Some(libc::EADDRINUSE));
}

#[test]
fn reuse_port_shares_a_port() {
    let base = EventBase::new().unwrap();
    let options = ListenOptions::default().reuse_port(true);
    let (first, kept_by_first) = keeping(&base, options.clone());
    let second = Listener::bind(&base, &Addr::from(bound(&first)), options, |_, _| {});
    second.expect("the port is shared");
    drop(kept_by_first);
}

#[test]
fn paused_connections_wait_in_the_backlog() {
    let base = EventBase::new().unwrap();
    let (listener, kept) = keeping(&base, ListenOptions::default());
    base.run_with(RunFlags::NONBLOCK).unwrap();
    listener.pause();
    assert!(listener.is_paused());
    base.run().unwrap();
    let _client = TcpStream::connect(bound(&listener)).expect("the kernel takes it");
    for _ in 0..5 {
        base.run_with(RunFlags::NONBLOCK | RunFlags::NO_EXIT_ON_EMPTY)
            .unwrap();
    }
    assert!(kept.borrow().is_empty());
    listener.resume();
    turn_until(&base, || kept.borrow().len() == 1);
}

#[test]
fn a_callback_may_close_its_listener() {
    let base = EventBase::new().unwrap();
    let count = Rc::new(Cell::new(0));
    let seen = count.clone();
    let listener = Listener::bind(
        &base,
        &any_port(),
        ListenOptions::default(),
        move |listener, _| {
            seen.set(seen.get() + 1);
            listener.close();
        },
    )
    .unwrap();
    let clients: Vec<_> = (0..5)
        .map(|_| TcpStream::connect(bound(&listener)).unwrap())
        .collect();
    base.run().unwrap();
    assert_eq!(count.get(), 1);
    assert_eq!((base.active(), base.in_flight()), (0, 0));
    for mut client in clients {
        // Accepted with the first or left in the backlog: in both cases it is over.
        let over = client.read(&mut [0; 1]);
        assert!(matches!(over, Ok(0) | Err(_)));
    }
}

#[test]
fn unix_sockets_are_accepted() {
    let base = EventBase::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let addr = Addr::unix(dir.path().join("listener")).unwrap();
    let kept = Rc::new(RefCell::new(Vec::new()));
    let sink = kept.clone();
    let listener = Listener::bind(
        &base,
        &addr,
        ListenOptions::default(),
        move |_, accepted| {
            sink.borrow_mut().push(accepted);
        },
    )
    .unwrap();
    assert_eq!(listener.local_addr().unwrap(), addr);
    let _client = UnixStream::connect(dir.path().join("listener")).unwrap();
    turn_until(&base, || kept.borrow().len() == 1);
    let name = format!("unix:@evring-test-{}", std::process::id());
    let abstract_one = Listener::bind(
        &base,
        &name.parse().unwrap(),
        ListenOptions::default(),
        |_, _| {},
    );
    assert_eq!(
        abstract_one.unwrap().local_addr().unwrap().to_string(),
        name
    );
}

#[test]
fn adopts_a_socket_that_listens_already() {
    let base = EventBase::new().unwrap();
    let std_listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = std_listener.local_addr().unwrap();
    let count = Rc::new(Cell::new(0));
    let seen = count.clone();
    Listener::adopt(&base, std_listener.into(), move |_, _| {
        seen.set(seen.get() + 1)
    })
    .unwrap();
    let _clients = (
        TcpStream::connect(at).unwrap(),
        TcpStream::connect(at).unwrap(),
    );
    turn_until(&base, || count.get() == 2);
}
