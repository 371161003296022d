//! Sending: gathered in order, in full or short, without a copy, from registered memory.

use super::*;

/// `count` pieces that make up `pattern(count * len)`.
fn pieces(count: usize, len: usize) -> Vec<Piece> {
    pattern(count * len)
        .chunks(len)
        .map(Piece::copy_from)
        .collect()
}

#[test]
fn gathered_pieces_arrive_in_order() {
    for mask in ["", "-send_vectorized"] {
        let mut rig = Rig::new(mask);
        for (count, len) in [
            (1, 5000),
            (2, 1),
            (2, 3000),
            (100, 77),
            (100, 2000),
            (MAX_PIECES, 3),
        ] {
            let (mut client, server) = tcp_pair();
            rig.send(1, &server, pieces(count, len));
            rig.ring.enter(Wait::Submit).expect("enter");
            let mut got = vec![0; count * len];
            client.read_exact(&mut got).expect("all of it");
            assert!(
                got == pattern(count * len),
                "{mask}: {count} pieces of {len} bytes"
            );
            assert_eq!(rig.wait().result, Ok((count * len) as u32));
        }
        rig.close();
    }
}

#[test]
fn more_pieces_than_the_kernel_takes_make_a_short_send() {
    let mut rig = Rig::new("");
    let (_client, server) = pair();
    rig.send(1, &server, pieces(MAX_PIECES + 5, 2));
    assert_eq!(rig.wait().result, Ok(2 * MAX_PIECES as u32));
    rig.close();
}

#[test]
fn without_wait_all_a_send_may_be_short() {
    for mask in ["", "-send_vectorized"] {
        let mut rig = Rig::new(mask);
        let (mut client, server) = tcp_pair();
        let fd = server.as_raw_fd();
        rustix::net::sockopt::set_socket_send_buffer_size(&server, 256 * 1024)
            .expect("a small buffer");
        crate::sys::net::set_nonblocking(fd, true).expect("non-blocking");
        let all = pattern(100 * 100_000);
        let mut sent = 0;
        let mut short = false;
        // What a reader has to do about short sends: go on behind what was taken.
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            client.read_to_end(&mut got).expect("all of it");
            got
        });
        while sent < all.len() {
            let rest: Vec<Piece> = all[sent..].chunks(100_000).map(Piece::copy_from).collect();
            let wanted = rest.len().min(MAX_PIECES) * 100_000;
            let op = Op::Send {
                fd,
                pieces: rest.into(),
                wait_all: false,
            };
            rig.ring.push(1, op);
            let taken = match rig.wait().result {
                // Of a socket that does not block: its room was gone again when the kernel looked.
                Err(errno) if errno.raw() == libc::EAGAIN => continue,
                result => result.expect("some of it") as usize,
            };
            short |= taken < wanted.min(all.len() - sent);
            sent += taken;
        }
        drop(server);
        assert!(short, "{mask}: not one send was short");
        assert!(
            reader.join().expect("the reader is content") == all,
            "{mask}"
        );
        rig.close();
    }
}

#[test]
fn with_wait_all_a_send_is_whole_however_slow_the_reader() {
    for mask in ["", "-send_vectorized"] {
        for count in [1, 30] {
            let mut rig = Rig::new(mask);
            let (mut client, server) = tcp_pair();
            let len = 30_000_000 / count;
            rig.send(1, &server, pieces(count, len));
            rig.expect_quiet();
            let reader = std::thread::spawn(move || {
                let mut got = vec![0; count * len];
                client.read_exact(&mut got).expect("all of it");
                got
            });
            assert_eq!(rig.wait().result, Ok((count * len) as u32));
            let got = reader.join().expect("the reader is content");
            assert!(got == pattern(count * len), "{mask}: {count} pieces");
            rig.close();
        }
    }
}

#[test]
fn a_peer_that_is_gone_is_an_error_and_no_signal() {
    let mut rig = Rig::new("");
    let (client, server) = pair();
    drop(client);
    for many in [1, 3] {
        rig.send(1, &server, pieces(many, 10));
        assert_eq!(rig.wait().result, Err(Errno::from_raw(libc::EPIPE)));
    }
    rig.close();
}

#[test]
fn a_send_without_a_copy_completes_once_and_keeps_its_memory_until_then() {
    for mask in ["", "-sendmsg_zc", "-send_zc,-sendmsg_zc", "-fixed_buffers"] {
        let mut rig = Rig::sized(mask, 2048, 16);
        let registered = rig.ring.register_fixed(&rig.arena);
        let possible = rig.ring.caps().has(Cap::FIXED_BUFFERS);
        assert_eq!(registered > 0, possible, "{mask}: {registered} chunks");
        for (many, from_slot) in [(1, false), (1, true), (3, false)] {
            let (mut client, server) = tcp_pair();
            let fd = server.as_raw_fd();
            let (list, expected) = if from_slot {
                let slot = rig.arena.take().expect("a slot");
                let piece = slot.filled_with(&pattern(4096));
                (vec![piece], pattern(4096))
            } else {
                (pieces(many, 30_000), pattern(many * 30_000))
            };
            let watched = list[0].clone();
            let op = rig.ring.push(
                9,
                Op::SendZc {
                    fd,
                    pieces: list.into(),
                },
            );
            rig.ring.enter(Wait::Submit).expect("enter");
            assert!(!watched.is_unique(), "the operation holds the memory");
            let mut got = vec![0; expected.len()];
            client.read_exact(&mut got).expect("all of it");
            assert!(got == expected, "{mask}");
            let done = rig.wait();
            assert_eq!(
                (done.op, done.result, done.more),
                (op, Ok(got.len() as u32), false)
            );
            assert!(watched.is_unique(), "and lets go of it with the completion");
            rig.expect_quiet();
        }
        let counters = rig.ring.counters();
        assert_eq!(
            counters.zc_sent > 0,
            rig.ring.caps().has(Cap::SEND_ZC),
            "{mask}"
        );
        assert_eq!(
            counters.zc_sent, counters.zc_copied,
            "loopback always copies"
        );
        rig.close();
    }
}

#[test]
fn a_refused_send_without_a_copy_is_one_error() {
    let mut rig = Rig::new("");
    let (_client, server) = pair();
    let fd = server.as_raw_fd();
    rig.ring.push(
        1,
        Op::SendZc {
            fd,
            pieces: Piece::copy_from(b"x").into(),
        },
    );
    let done = rig.wait();
    assert_eq!(done.result, Err(Errno::from_raw(libc::EOPNOTSUPP)));
    rig.expect_quiet();
    assert_eq!(rig.ring.in_flight(), 0);
    rig.close();
}

#[test]
fn vectors_of_pieces_are_recycled() {
    let mut rig = Rig::new("");
    let (_client, server) = pair();
    let mut list = rig.ring.take_pieces();
    assert_eq!(list.capacity(), 0);
    list.extend(pieces(10, 1));
    let memory = list.as_ptr();
    rig.send(1, &server, list);
    rig.wait();
    let again = rig.ring.take_pieces();
    assert_eq!((again.len(), again.as_ptr()), (0, memory));
    rig.ring.give_pieces(again);
    rig.close();
}
