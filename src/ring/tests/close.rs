//! Dropping a ring with operations in flight.

use super::*;
use std::net::{TcpListener, TcpStream};

#[test]
fn operations_in_flight_are_cancelled_and_every_ledger_reads_zero() {
    for mask in ["", "-cancel_any", "-buffer_ring", "-defer_taskrun"] {
        let mut rig = Rig::new(mask);
        let arena = rig.arena.clone();
        let (client, server) = tcp_pair();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let addr = listener.local_addr().expect("its address");
        rig.recv(1, &server);
        rig.ring.push(
            2,
            Op::Accept {
                fd: listener.as_raw_fd(),
                multishot: true,
            },
        );
        let slot = arena.take().expect("a slot");
        let fd = client.as_raw_fd();
        rig.ring.push(
            3,
            Op::RecvSlot {
                fd,
                slot,
                max_len: 0,
                poll_first: true,
            },
        );
        let big = Piece::from(pattern(8 << 20));
        let watched = big.clone();
        rig.send(4, &server, vec![big.clone(), big]);
        let event = crate::sys::event::event_fd().expect("an eventfd");
        let poll = Op::Poll {
            fd: event.as_raw_fd(),
            events: libc::POLLIN as u32,
            multishot: true,
        };
        rig.ring.push(5, poll);
        rig.ring.enter(Wait::Poll).expect("enter");
        // Connections that nobody takes, and entries that were never submitted.
        let waiting = TcpStream::connect(addr).expect("a connection");
        rig.ring.push(6, Op::Nop);
        assert!(rig.ring.in_flight() >= 5);
        rig.close();
        assert!(watched.is_unique(), "{mask}: the send let go of its memory");
        drop(listener);
        TcpListener::bind(addr).expect("the port is free at once");
        drop((waiting, client, server));
    }
}

#[test]
fn descriptors_accepted_while_closing_are_closed() {
    let mut rig = Rig::new("");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let addr = listener.local_addr().expect("its address");
    rig.ring.push(
        1,
        Op::Accept {
            fd: listener.as_raw_fd(),
            multishot: true,
        },
    );
    rig.ring.enter(Wait::Submit).expect("arm");
    let mut client = TcpStream::connect(addr).expect("a connection");
    rig.ring
        .enter(Wait::Poll)
        .expect("the connection is accepted");
    rig.close();
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut rest = Vec::new();
    // The end of the stream, or a reset: in any case somebody closed the other end.
    if let Err(err) = client.read_to_end(&mut rest) {
        assert_eq!(err.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn memory_the_kernel_does_not_let_go_of_is_leaked_not_freed() {
    let mut rig = Rig::new("");
    let arena = rig.arena.clone();
    let slot = arena.take().expect("a slot");
    let memory = slot.as_mut_ptr();
    // An entry that the kernel never saw stands for one that it does not give back.
    rig.ring
        .table
        .insert(op::Kind::RecvSlot, 1, table::Held::Slot(slot));
    let piece = Piece::from(pattern(100));
    let watched = piece.clone();
    rig.ring
        .table
        .insert(op::Kind::Send, 2, table::Held::Piece(piece));
    let start = Instant::now();
    drop(rig);
    assert!(start.elapsed() < PATIENCE, "the drain is bounded");
    assert!(!watched.is_unique(), "the piece is never freed");
    assert_eq!(
        arena.stats().slots_live,
        17,
        "nor are the slots ever used again"
    );
    drop(arena);
    // SAFETY: leaked memory stays mapped, and nobody else uses it.
    unsafe { memory.write(1) };
}

#[test]
fn rings_come_and_go() {
    for _ in 0..100 {
        let mut rig = Rig::new("");
        rig.ring.push(1, Op::Nop);
        rig.wait();
        rig.close();
    }
}
