//! Receiving: slots spent and refilled, limits, the end of the stream, cancels that race with data.

use super::*;

#[test]
fn a_spent_window_ends_the_receive_and_a_refill_revives_it() {
    let mut rig = Rig::sized("", 4, 4);
    let (mut client, server) = pair();
    let op = rig.recv(1, &server);
    client
        .write_all(&pattern(5 * 4096))
        .expect("more than the window holds");
    let mut pieces = Vec::new();
    loop {
        let done = rig.wait();
        match done.result {
            Ok(_) => pieces.extend(done.buffer),
            Err(errno) => {
                assert_eq!((errno, done.more, done.op), (Errno::NOBUFS, false, op));
                break;
            }
        }
    }
    assert_eq!(pieces.len(), 4);
    assert_eq!(rig.ring.window_published(), 0);
    assert_eq!(rig.ring.refill(), 0, "the arena is spent too");
    assert_eq!(rig.ring.counters().enobufs, 1);
    let first: Vec<u8> = pieces.drain(..).flat_map(|piece| piece.to_vec()).collect();
    assert_eq!(rig.ring.refill(), 4);
    let op = rig.recv(1, &server);
    let last = rig.wait().buffer.expect("what was left");
    assert!(
        [first, last.to_vec()].concat() == pattern(5 * 4096),
        "nothing is lost"
    );
    drop(last);
    rig.finish(op);
    rig.close();
}

#[test]
fn arming_with_an_empty_window_waits_for_data_before_it_fails() {
    let mut rig = Rig::sized("", 1, 1);
    let held = {
        let (mut client, server) = pair();
        client.write_all(b"x").expect("a byte");
        let op = rig.recv(1, &server);
        let held = rig.wait().buffer.expect("the only slot");
        rig.finish(op);
        held
    };
    let (mut client, server) = pair();
    rig.recv(2, &server);
    rig.expect_quiet();
    client.write_all(b"y").expect("a byte");
    assert_eq!(rig.wait().result, Err(Errno::NOBUFS));
    drop(held);
    rig.ring.refill();
    let op = rig.recv(2, &server);
    assert_eq!(&rig.wait().buffer.expect("the byte")[..], b"y");
    rig.finish(op);
    rig.close();
}

#[test]
fn data_before_the_end_arrives_first() {
    let mut rig = Rig::new("");
    let (mut client, server) = tcp_pair();
    rig.recv(1, &server);
    client.write_all(b"last words").expect("data");
    drop(client);
    let data = rig.wait();
    assert_eq!(&data.buffer.expect("the data")[..], b"last words");
    assert!(data.more);
    let end = rig.wait();
    assert_eq!(
        (end.result, end.more, end.buffer.is_none()),
        (Ok(0), false, true)
    );
    assert_eq!(rig.ring.counters().rearms, 1);
    rig.close();
}

#[test]
fn each_completion_is_capped() {
    for mask in ["", "-recv_multishot", "-buffer_ring"] {
        let mut rig = Rig::new(mask);
        let (mut client, server) = pair();
        client.write_all(&pattern(250)).expect("data");
        let op = Op::Recv {
            fd: server.as_raw_fd(),
            multishot: true,
            max_len: 100,
            arm_limit: 0,
            bundle: false,
            poll_first: false,
        };
        let mut got = Vec::new();
        let mut id = rig.ring.push(1, op);
        while got.len() < 250 {
            let done = rig.wait();
            let piece = done.buffer.expect("data");
            assert!(piece.len() <= 100, "{mask}");
            got.extend_from_slice(&piece);
            if !done.more && got.len() < 250 {
                let fd = server.as_raw_fd();
                let (max_len, arm_limit) = (100, 0);
                let again = Op::Recv {
                    fd,
                    multishot: true,
                    max_len,
                    arm_limit,
                    bundle: false,
                    poll_first: false,
                };
                id = rig.ring.push(1, again);
            }
        }
        assert!(got == pattern(250));
        if rig.ring.in_flight() > 0 {
            rig.finish(id);
        }
        rig.close();
    }
}

#[test]
fn an_arm_ends_at_its_limit() {
    for mask in ["", "-recv_arm_limit", "-recv_multishot", "-buffer_ring"] {
        let mut rig = Rig::new(mask);
        let (mut client, server) = pair();
        client.write_all(&pattern(40_000)).expect("data");
        let fd = server.as_raw_fd();
        let op = Op::Recv {
            fd,
            multishot: true,
            max_len: 0,
            arm_limit: 10_000,
            bundle: false,
            poll_first: false,
        };
        rig.ring.push(1, op);
        let mut got = 0;
        loop {
            let done = rig.wait();
            got += done.result.expect("data");
            if !done.more {
                break;
            }
        }
        assert!(got > 0 && got < 10_000 + 4096, "{mask}: {got} bytes");
        rig.expect_quiet();
        rig.close();
    }
}

/// A multishot receive that may fill several slots at once.
fn bundled(fd: &impl AsRawFd, arm_limit: u32) -> Op {
    Op::Recv {
        fd: fd.as_raw_fd(),
        multishot: true,
        max_len: 0,
        arm_limit,
        bundle: true,
        poll_first: true,
    }
}

#[test]
fn a_bundle_has_a_completion_for_each_slot_in_order() {
    for mask in ["", "-recv_bundle", "-recv_arm_limit", "-buffer_ring"] {
        let mut rig = Rig::new(mask);
        let (mut client, server) = tcp_pair();
        let sent = pattern(10 * 4096 + 100);
        client.write_all(&sent).expect("data");
        let mut op = rig.ring.push(1, bundled(&server, 1 << 20));
        let mut got = Vec::new();
        let mut pieces = 0;
        while got.len() < sent.len() {
            let done = rig.wait();
            assert_eq!((done.token, done.op), (1, op));
            let piece = done.buffer.expect("data");
            assert_eq!(done.result, Ok(piece.len() as u32));
            got.extend_from_slice(&piece);
            pieces += 1;
            if !done.more {
                op = rig.ring.push(1, bundled(&server, 1 << 20));
            }
        }
        assert!(got == sent, "{mask}");
        if rig.ring.caps().has(Cap::RECV_BUNDLE) {
            let cqes = rig.ring.counters().cqes;
            assert!(cqes < pieces, "{pieces} slots in {cqes} completions");
        }
        rig.finish(op);
        rig.close();
    }
}

#[test]
fn a_bundle_does_not_pass_the_limit_of_its_arm() {
    let mut rig = Rig::new("");
    let (mut client, server) = tcp_pair();
    client.write_all(&pattern(60_000)).expect("data");
    let mut total = 0;
    while total < 60_000 {
        rig.ring.push(1, bundled(&server, 10_000));
        let mut got = 0;
        loop {
            rig.ring.refill();
            let done = rig.wait();
            got += done.result.expect("data");
            if !done.more {
                break;
            }
            if total + got == 60_000 {
                rig.finish(done.op);
                break;
            }
        }
        let overshoot = match rig.ring.caps().has(Cap::RECV_BUNDLE) {
            true => 0,
            false => 4095,
        };
        assert!(got <= 10_000 + overshoot, "{got} bytes in one arm");
        total += got;
    }
    rig.close();
}

/// Bundles of two streams that go round a small window many times, while pieces of both are kept
/// for a while.
#[test]
fn bundles_of_several_streams_go_round_the_window() {
    const BYTES: usize = 3 << 20;
    let mut rig = Rig::sized("", 32, 8);
    let streams = [(1, BYTES), (2, BYTES / 3)].map(|(token, bytes)| {
        let (mut client, server) = tcp_pair();
        let peer = std::thread::spawn(move || {
            let sent = pattern(bytes);
            let mut rest = &sent[..];
            // Sizes that fill no slot, one, and many.
            for size in [100, 4096, 30_000, 4097, 70_000].into_iter().cycle() {
                let now = rest.len().min(size);
                client.write_all(&rest[..now]).expect("data");
                rest = &rest[now..];
                if rest.is_empty() {
                    break;
                }
            }
        });
        (token, bytes, server, peer)
    });
    let mut got = [Vec::new(), Vec::new()];
    let mut kept = std::collections::VecDeque::new();
    let mut unarmed = vec![0, 1];
    while got.iter().map(Vec::len).sum::<usize>() < BYTES + BYTES / 3 {
        rig.ring.refill();
        for at in unarmed.drain(..) {
            let (token, _, server, _) = &streams[at];
            rig.ring.push(*token, bundled(server, 1 << 18));
        }
        let done = rig.wait();
        let at = done.token as usize - 1;
        if let Some(piece) = done.buffer {
            got[at].extend_from_slice(&piece);
            kept.push_back(piece);
            if kept.len() > 20 {
                kept.pop_front();
            }
        }
        if !done.more {
            if done.result == Err(Errno::NOBUFS) {
                kept.clear();
            }
            unarmed.push(at);
        }
    }
    for ((_, bytes, _, peer), got) in streams.into_iter().zip(&got) {
        peer.join().expect("all was sent");
        assert!(*got == pattern(bytes), "nothing lost or out of order");
    }
    drop(kept);
    rig.close();
}

#[test]
fn a_slot_of_ones_own_receives_and_comes_back() {
    let mut rig = Rig::new("");
    let (mut client, server) = pair();
    let fd = server.as_raw_fd();
    let slot = rig.arena.take().expect("a slot");
    rig.ring.push(
        1,
        Op::RecvSlot {
            fd,
            slot,
            max_len: 3,
            poll_first: false,
        },
    );
    client.write_all(b"abcdef").expect("data");
    assert_eq!(&rig.wait().buffer.expect("three bytes")[..], b"abc");
    let slot = rig.arena.take().expect("a slot");
    rig.ring.push(
        1,
        Op::RecvSlot {
            fd,
            slot,
            max_len: 0,
            poll_first: true,
        },
    );
    assert_eq!(&rig.wait().buffer.expect("the rest")[..], b"def");
    drop(client);
    let slot = rig.arena.take().expect("a slot");
    rig.ring.push(
        1,
        Op::RecvSlot {
            fd,
            slot,
            max_len: 0,
            poll_first: true,
        },
    );
    let end = rig.wait();
    assert_eq!((end.result, end.buffer.is_none()), (Ok(0), true));
    rig.close();
}

#[test]
fn a_pipe_is_read_and_written_as_a_file() {
    let mut rig = Rig::new("");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    crate::sys::net::set_nonblocking(reader.as_raw_fd(), true).expect("non-blocking");
    // With poll_first it would wait for the pipe to become readable before it is told.
    let fd = reader.as_raw_fd();
    let op = Op::Recv {
        fd,
        multishot: true,
        max_len: 0,
        arm_limit: 0,
        bundle: false,
        poll_first: false,
    };
    rig.ring.push(1, op);
    assert_eq!(rig.wait().result, Err(Errno::NOTSOCK));
    let slot = rig.arena.take().expect("a slot");
    rig.ring.push(
        2,
        Op::Read {
            fd: reader.as_raw_fd(),
            slot,
            max_len: 0,
        },
    );
    rig.expect_quiet();
    let pieces = vec![Piece::copy_from(b"ab"), Piece::copy_from(b"cd")].into();
    rig.ring.push(
        3,
        Op::Write {
            fd: writer.as_raw_fd(),
            pieces,
        },
    );
    let mut seen = [rig.wait(), rig.wait()];
    seen.sort_by_key(|done| done.token);
    assert_eq!(&seen[0].buffer.take().expect("the bytes")[..], b"abcd");
    assert_eq!((seen[1].token, seen[1].result), (3, Ok(4)));
    let pieces = Piece::copy_from(b"e").into();
    rig.ring.push(
        4,
        Op::Write {
            fd: writer.as_raw_fd(),
            pieces,
        },
    );
    assert_eq!(rig.wait().result, Ok(1));
    drop(seen);
    rig.close();
}

#[test]
fn a_cancel_that_races_with_data_loses_none() {
    let mut rig = Rig::new("");
    for round in 0..200_u32 {
        let (mut client, server) = pair();
        let op = rig.recv(1, &server);
        rig.ring.enter(Wait::Submit).expect("arm");
        client.write_all(&round.to_le_bytes()).expect("data");
        if round % 3 == 0 {
            rig.ring.enter(Wait::Poll).expect("let some of them win");
        }
        rig.ring.cancel(op);
        let mut got = Vec::new();
        loop {
            let done = rig.wait();
            got.extend(done.buffer.iter().flat_map(|piece| piece.to_vec()));
            if !done.more {
                break;
            }
        }
        if got.is_empty() {
            // The cancel won; the data waits in the socket.
            let again = rig.recv(2, &server);
            got.extend_from_slice(&rig.wait().buffer.expect("the data"));
            rig.finish(again);
        }
        assert_eq!(got, round.to_le_bytes());
        rig.ring.refill();
    }
    assert_eq!(rig.ring.counters().stale, 0);
    assert_eq!(rig.ring.in_flight(), 0);
    rig.close();
}

#[test]
fn a_cancel_of_what_has_ended_touches_nothing() {
    let mut rig = Rig::new("");
    let (mut client, server) = pair();
    let old = rig.recv(1, &server);
    rig.finish(old);
    let new = rig.recv(2, &server);
    assert_ne!(old, new);
    rig.ring.cancel(old);
    client.write_all(b"z").expect("data");
    assert_eq!(rig.wait().result, Ok(1));
    rig.finish(new);
    rig.close();
}

#[test]
fn a_stale_completion_gives_its_slot_back() {
    let mut rig = Rig::sized("", 16, 16);
    let (mut client, server) = pair();
    let op = rig.recv(1, &server);
    rig.ring.enter(Wait::Submit).expect("arm");
    // As if the table had forgotten the operation, which no kernel and no caller can bring about.
    rig.ring.table.remove(op.as_u64());
    client.write_all(&[0; 3 * 4096]).expect("data");
    while rig.ring.counters().stale < 3 {
        rig.ring.enter(Wait::Until(Some(PATIENCE))).expect("enter");
        assert!(rig.ring.next().is_none());
    }
    assert_eq!(rig.ring.window_published(), 13);
    assert_eq!(rig.ring.refill(), 3, "the slots were accounted for");
    drop(client);
    while rig.ring.counters().stale < 4 {
        rig.ring.enter(Wait::Until(Some(PATIENCE))).expect("enter");
        assert!(rig.ring.next().is_none());
    }
    rig.close();
}
