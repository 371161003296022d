//! The same echo on every rung of the ladder.

use std::os::fd::AsFd;

use rustix::net::{Shutdown, shutdown};

use super::*;

/// Every mask under which a ring has to work; each takes away one rung, the last all of them.
const MASKS: [&str; 18] = [
    "",
    "-single_issuer",
    "-defer_taskrun",
    "-defer_taskrun,-coop_taskrun",
    "-submit_all",
    "-no_sqarray",
    "-registered_ring",
    "-no_iowait",
    "-buffer_ring",
    "-recv_multishot",
    "-recv_arm_limit",
    "-recv_bundle",
    "-poll_first",
    "-accept_multishot",
    "-poll_multishot",
    "-send_vectorized",
    "-send_zc,-sendmsg_zc,-fixed_buffers,-cancel_any",
    "-single_issuer,-defer_taskrun,-coop_taskrun,-submit_all,-no_sqarray,-registered_ring,\
     -no_iowait,-buffer_ring,-recv_multishot,-recv_arm_limit,-poll_first,-accept_multishot,\
     -poll_multishot,-send_vectorized,-send_zc,-sendmsg_zc,-fixed_buffers,-cancel_any,-recv_bundle",
];

#[test]
fn echo_works_on_every_rung() {
    for mask in MASKS {
        let caps_mask: CapsMask = mask.parse().expect("known names");
        let mut rig = Rig::new(mask);
        assert!(
            !rig.ring.caps().in_use().intersects(caps_mask.masked()),
            "{mask}"
        );
        let (client, server) = pair();
        echo(&mut rig, client, server);
        let (client, server) = tcp_pair();
        echo(&mut rig, client, server);
        rig.close();
    }
}

/// Echoes messages of many sizes, each sent back in as many pieces as it came in, until the client
/// ends.
fn echo(
    rig: &mut Rig,
    mut client: impl Read + Write + AsFd + Send + 'static,
    server: impl AsRawFd + AsFd,
) {
    let sizes = [1, 64, 4095, 4096, 4097, 20_000];
    let rounds = 5;
    let peer = std::thread::spawn(move || {
        for round in 0..rounds {
            for size in sizes {
                let sent = pattern(size + round);
                client.write_all(&sent).expect("the message goes out");
                let mut back = vec![0; sent.len()];
                client.read_exact(&mut back).expect("the echo comes back");
                assert!(sent == back, "{size} bytes came back changed");
            }
        }
        let end = shutdown(&client, Shutdown::Write);
        end.expect("the end goes out");
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).expect("the end comes back");
        assert!(rest.is_empty());
    });
    const RECV: u64 = 1;
    const SEND: u64 = 2;
    rig.recv(RECV, &server);
    let mut waiting = Vec::new();
    let mut sending = false;
    let mut ended = false;
    while !ended || sending {
        let done = rig.wait();
        rig.ring.refill();
        match (done.token, done.result) {
            (RECV, Ok(0)) => ended = true,
            (RECV, Ok(len)) => {
                let piece = done.buffer.expect("bytes come in a buffer");
                assert_eq!(piece.len(), len as usize);
                waiting.push(piece);
            }
            (RECV, Err(Errno::NOBUFS)) => {}
            (SEND, Ok(_)) => sending = false,
            other => panic!("unexpected {other:?}"),
        }
        if done.token == RECV && !done.more && !ended {
            rig.recv(RECV, &server);
        }
        if !sending && !waiting.is_empty() {
            let mut pieces = rig.ring.take_pieces();
            pieces.append(&mut waiting);
            rig.send(SEND, &server, pieces);
            sending = true;
        }
    }
    shutdown(&server, Shutdown::Both).expect("shutdown");
    peer.join().expect("the peer is content");
    assert_eq!(rig.ring.in_flight(), 0);
}

#[test]
fn a_window_that_cannot_be_attached_twice_or_in_odd_sizes() {
    let mut rig = Rig::new("");
    let again = rig.ring.attach_window(&rig.arena, 16);
    assert!(matches!(again, Err(SetupError::WindowAttached)));
    let mut ring = Ring::new(&RingConfig::default()).expect("a ring");
    for size in [0, 3, 65_535] {
        let odd = ring.attach_window(&rig.arena, size);
        assert!(matches!(odd, Err(SetupError::Size { .. })), "{size}");
    }
}

#[test]
fn without_a_window_a_receive_finds_no_slot() {
    let mut ring = Ring::new(&RingConfig::default()).expect("a ring");
    let (_client, server) = pair();
    let op = ring.push(7, recv(&server));
    ring.enter(Wait::Until(None))
        .expect("does not wait for what is there");
    let done = ring.next().expect("the refusal");
    assert_eq!(
        (done.op, done.token, done.result),
        (op, 7, Err(Errno::NOBUFS))
    );
    assert_eq!(ring.in_flight(), 0);
}
