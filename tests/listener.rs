//! Accepting connections.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
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
    let (listener, kept) = keeping(&base, ListenOptions::default());
    let addr = bound(&listener);
    // A connection that the server ended first lingers at the port.
    let mut client = TcpStream::connect(addr).unwrap();
    turn_until(&base, || kept.borrow().len() == 1);
    kept.borrow_mut().clear();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(client);
    listener.close();
    base.run().unwrap();
    let again = Listener::bind(
        &base,
        &Addr::from(addr),
        ListenOptions::default(),
        |_, _| {},
    );
    let listener = again.expect("the port may be taken again at once");
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

/// Several come at once, and the callback pauses at the first: the others were accepted by the
/// kernel already, and are handed over once it goes on.
#[test]
fn what_was_accepted_before_a_pause_took_effect_is_handed_over_afterwards() {
    let base = EventBase::new().unwrap();
    let kept = Rc::new(RefCell::new(Vec::new()));
    let sink = kept.clone();
    let options = ListenOptions::default();
    let listener = Listener::bind(&base, &any_port(), options, move |listener, accepted| {
        sink.borrow_mut().push(accepted);
        listener.pause();
    })
    .unwrap();
    let clients: Vec<_> = (0..5)
        .map(|_| TcpStream::connect(bound(&listener)).unwrap())
        .collect();
    for handed in 1..=5 {
        turn_until(&base, || kept.borrow().len() == handed);
        for _ in 0..5 {
            base.run_with(RunFlags::NONBLOCK | RunFlags::NO_EXIT_ON_EMPTY)
                .unwrap();
        }
        assert_eq!(kept.borrow().len(), handed, "it is paused");
        listener.resume();
    }
    let mut there: Vec<_> = (kept.borrow().iter())
        .map(|accepted| accepted.peer_addr().unwrap().to_string())
        .collect();
    let mut here: Vec<_> = (clients.iter())
        .map(|client| client.local_addr().unwrap().to_string())
        .collect();
    there.sort();
    here.sort();
    assert_eq!(there, here, "each once");
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

#[test]
fn a_disabled_listener_accepts_once_it_is_resumed() {
    let base = EventBase::new().unwrap();
    let (listener, kept) = keeping(&base, ListenOptions::default().disabled(true));
    assert!(listener.is_paused());
    let _client = TcpStream::connect(bound(&listener)).unwrap();
    base.run().unwrap();
    assert!(kept.borrow().is_empty(), "it keeps no loop alive");
    listener.resume();
    turn_until(&base, || kept.borrow().len() == 1);
}

#[test]
fn a_deferred_accept_waits_for_the_first_bytes() {
    let base = EventBase::new().unwrap();
    let (listener, kept) = keeping(&base, ListenOptions::default().deferred_accept(true));
    let _silent = TcpStream::connect(bound(&listener)).unwrap();
    let mut speaks = TcpStream::connect(bound(&listener)).unwrap();
    speaks.write_all(b"hello").unwrap();
    turn_until(&base, || !kept.borrow().is_empty());
    let first = kept.borrow_mut().remove(0);
    assert_eq!(
        first.peer_addr().unwrap(),
        Addr::from(speaks.local_addr().unwrap())
    );
}

#[test]
fn a_lent_socket_listens_on_after_its_listener_was_closed_or_its_base_ended() {
    for close in [true, false] {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = EventBase::new().unwrap();
        let seen = Rc::new(Cell::new(0));
        let count = seen.clone();
        let listener =
            Listener::lend(&base, &socket, move |_, _| count.set(count.get() + 1)).unwrap();
        assert_ne!(listener.fd(), Some(socket.as_raw_fd()));
        let _one = TcpStream::connect(socket.local_addr().unwrap()).unwrap();
        turn_until(&base, || seen.get() == 1);
        if close {
            listener.close();
            base.run().unwrap();
        }
        drop(base);
        assert_eq!(listener.fd(), None);
        socket.set_nonblocking(false).unwrap();
        let two = TcpStream::connect(socket.local_addr().unwrap()).unwrap();
        let (_, peer) = socket.accept().unwrap();
        assert_eq!(peer, two.local_addr().unwrap());
    }
}

#[test]
fn the_accept_callback_can_be_changed_also_from_inside() {
    let base = EventBase::new().unwrap();
    let calls = Rc::new(RefCell::new(Vec::new()));
    let log = calls.clone();
    let listener = Listener::bind(
        &base,
        &any_port(),
        ListenOptions::default(),
        move |listener, _| {
            log.borrow_mut().push(1);
            let log = log.clone();
            listener.set_callback(move |_, _| log.borrow_mut().push(2));
        },
    )
    .unwrap();
    for _ in 0..3 {
        let _client = TcpStream::connect(bound(&listener)).unwrap();
        let before = calls.borrow().len();
        turn_until(&base, || calls.borrow().len() > before);
    }
    assert_eq!(*calls.borrow(), [1, 2, 2]);
    let log = calls.clone();
    listener.set_callback(move |_, _| log.borrow_mut().push(3));
    let _client = TcpStream::connect(bound(&listener)).unwrap();
    turn_until(&base, || calls.borrow().len() == 4);
    assert_eq!(calls.borrow()[3], 3);
}

#[test]
fn an_ipv6_listener_takes_ipv4_connections_unless_it_is_told_not_to() {
    let base = EventBase::new().unwrap();
    for v6_only in [false, true] {
        let at: Addr = "[::]:0".parse().unwrap();
        let options = ListenOptions::default().v6_only(v6_only);
        let Ok(listener) = Listener::bind(&base, &at, options, |_, _| {}) else {
            return; // no IPv6 on this machine
        };
        let port = bound(&listener).port();
        let connected = TcpStream::connect(("127.0.0.1", port));
        assert_eq!(connected.is_err(), v6_only);
        listener.close();
        base.run().unwrap();
    }
}

/// Nobody accepts: a Unix connect that may not wait for room in the backlog tells how long it is.
#[test]
fn the_backlog_is_as_long_as_asked_for() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let base = EventBase::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    for backlog in [1, 5] {
        let path = dir.path().join(backlog.to_string());
        let options = ListenOptions::default().backlog(backlog).disabled(true);
        let at = Addr::unix(&path).unwrap();
        let listener = Listener::bind(&base, &at, options, |_, _| {}).unwrap();
        let connect = || {
            let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let client = rustix::net::socket_with(family, kind, flags, None).unwrap();
            let at = SocketAddrUnix::new(&path).unwrap();
            rustix::net::connect(&client, &at).map(|()| client)
        };
        // Linux has room for one more than it is told.
        let room = usize::try_from(backlog).unwrap() + 1;
        let clients: Vec<_> = (0..room).map(|_| connect().unwrap()).collect();
        let late = connect().map(drop);
        assert_eq!(late, Err(rustix::io::Errno::AGAIN), "room for one more");
        listener.close();
        base.run().unwrap();
        drop(clients);
    }
}

/// A socket that does not listen, of several kinds: told once, tried now and then, never spun on.
#[test]
fn a_socket_that_does_not_listen_is_told_once() {
    for kind in 0..3 {
        let base = EventBase::new().unwrap();
        let socket: OwnedFd = match kind {
            0 => UnixStream::pair().unwrap().0.into(),
            1 => std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into(),
            _ => std::fs::File::open("/dev/null").unwrap().into(),
        };
        let listener = Listener::adopt(&base, socket, |_, _| panic!("nothing to accept")).unwrap();
        let told = Rc::new(Cell::new(0));
        let count = told.clone();
        listener.on_error(move |_, _| count.set(count.get() + 1));
        turn_until(&base, || told.get() == 1);
        // Each attempt is a completion. They are a tenth of a second apart, and the loop sleeps
        // meanwhile.
        let (before, began) = (base.counters(), base.clock_ns());
        turn_until(&base, || base.counters().cqes >= before.cqes + 3);
        let (turns, took) = (
            base.counters().turns - before.turns,
            base.clock_ns() - began,
        );
        assert!(
            turns <= 12 && took >= 250_000_000,
            "it spins: {turns} turns"
        );
        assert_eq!(told.get(), 1);
        listener.close();
        base.run().unwrap();
    }
}

#[test]
fn a_shared_port_is_refused_for_a_unix_socket() {
    let base = EventBase::new().unwrap();
    let path = std::env::temp_dir().join(format!("evring-reuse-{}", std::process::id()));
    let options = ListenOptions::default().reuse_port(true);
    let refused = Listener::bind(&base, &Addr::unix(&path).unwrap(), options, |_, _| {});
    assert!(refused.is_err() && !path.exists());
}

#[test]
fn accepted_sockets_are_non_blocking_and_closed_on_exec() {
    let base = EventBase::new().unwrap();
    let (listener, kept) = keeping(&base, ListenOptions::default());
    let _client = TcpStream::connect(bound(&listener)).unwrap();
    turn_until(&base, || kept.borrow().len() == 1);
    let accepted = kept.borrow_mut().remove(0).into_fd();
    for (fd, non_blocking) in [(Some(accepted.as_raw_fd()), true), (listener.fd(), false)] {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.unwrap())).unwrap();
        let flags = info
            .lines()
            .find_map(|line| line.strip_prefix("flags:"))
            .unwrap();
        let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
        assert!(flags & libc::O_CLOEXEC != 0);
        assert!(!non_blocking || flags & libc::O_NONBLOCK != 0);
    }
}

#[test]
fn an_adopted_socket_waits_for_nobody_and_knows_its_peers_while_its_base_is_there() {
    let base = EventBase::new().unwrap();
    let blocking = TcpListener::bind("127.0.0.1:0").unwrap();
    let same = blocking.try_clone().unwrap();
    let kept = Rc::new(RefCell::new(Vec::new()));
    let keep = kept.clone();
    let listener = Listener::adopt(&base, blocking.into(), move |_, accepted| {
        keep.borrow_mut().push(accepted);
    });
    let would_wait = same.accept().unwrap_err();
    assert_eq!(would_wait.kind(), io::ErrorKind::WouldBlock);
    let client = TcpStream::connect(same.local_addr().unwrap()).unwrap();
    turn_until(&base, || !kept.borrow().is_empty());
    let accepted = kept.borrow_mut().remove(0);
    let peer = Addr::from(client.local_addr().unwrap());
    assert_eq!(accepted.peer_addr().unwrap(), peer);
    drop((listener, base));
    assert!(matches!(accepted.peer_addr(), Err(Error::Freed { .. })));
    // The connection is the program's all the same.
    let mut stream = TcpStream::from(accepted.into_fd());
    stream.set_nonblocking(false).unwrap();
    stream.write_all(b"after").unwrap();
    let mut got = [0; 5];
    (&client).read_exact(&mut got).unwrap();
    assert_eq!(&got, b"after");
}
