//! Writing to what nobody reads any more gives an error, and never kills the process, whatever the
//! program does with SIGPIPE.
//!
//! A Rust program ignores the signal; each case runs in a child that has the default disposition.

use std::cell::Cell;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::rc::Rc;

use evring::arena::Piece;
use evring::evbuffer::BufferError;
use evring::ring::{CapsMask, Op, Pieces, Ring, RingConfig, Wait};
use evring::{BufferEvent, Callbacks, EvBuffer, EventBase, Events, Options};

const IN_CHILD: &str = "EVRING_TEST_SIGPIPE_CHILD";

/// Runs the test `name` of this file again, in a child at the default disposition.
fn in_child(name: &str, caps: &str) -> ExitStatus {
    let mut child = Command::new(std::env::current_exe().expect("the test binary"));
    child.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    child.env(IN_CHILD, "1");
    if !caps.is_empty() {
        child.env("EVRING_CAPS", caps);
    }
    let output = child.output().expect("a child");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    output.status
}

/// In the child: the disposition that a C program has. False in the parent.
fn is_child() -> bool {
    if std::env::var_os(IN_CHILD).is_none() {
        return false;
    }
    // SAFETY: the default disposition runs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    true
}

/// The writing end of a pipe that nobody reads.
fn unread_pipe() -> OwnedFd {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

fn unread_socket() -> OwnedFd {
    let (reader, writer) = std::os::unix::net::UnixStream::pair().expect("a pair");
    drop(reader);
    writer.into()
}

fn is_broken_pipe(result: Result<usize, BufferError>) -> bool {
    matches!(result, Err(BufferError::Io(error)) if error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Whether the calling thread may be interrupted by SIGPIPE, and whether one waits for it.
fn mask_and_pending() -> (bool, bool) {
    // SAFETY: sets of signals are plain numbers, and live across the calls.
    unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        let mut pending: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut mask);
        libc::sigpending(&raw mut pending);
        let has = |set: *const libc::sigset_t| libc::sigismember(set, libc::SIGPIPE) == 1;
        (has(&raw const mask), has(&raw const pending))
    }
}

/// The other tests would prove nothing if a child did not die of the signal.
#[test]
fn a_plain_write_kills_the_child() {
    if is_child() {
        let mut pipe = std::fs::File::from(unread_pipe());
        let written = pipe.write(b"x");
        panic!("it lives, and got {written:?}");
    }
    let status = in_child("a_plain_write_kills_the_child", "");
    assert_eq!(status.signal(), Some(libc::SIGPIPE));
}

#[test]
fn a_buffer_written_to_a_descriptor_raises_no_sigpipe() {
    if is_child() {
        for descriptor in [unread_pipe, unread_socket] {
            let mut buffer = EvBuffer::new();
            buffer.add(&[7; 5000]).expect("not frozen");
            assert!(is_broken_pipe(buffer.write_to(descriptor(), None)));
            assert_eq!(buffer.len(), 5000, "nothing was taken");
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(&[7; 5000]).expect("space for it");
            let mut buffer = EvBuffer::new();
            buffer.add_file(file, 0, Some(5000)).expect("a file range");
            assert!(is_broken_pipe(buffer.write_to(descriptor(), None)));
        }
        assert_eq!(mask_and_pending(), (false, false), "all is as it was");
        return;
    }
    let status = in_child("a_buffer_written_to_a_descriptor_raises_no_sigpipe", "");
    assert!(status.success(), "{status}");
}

/// A signal that the program itself has blocked and that waits is still there afterwards.
#[test]
fn a_sigpipe_that_waited_before_is_kept() {
    if is_child() {
        // SAFETY: blocks a signal for this thread, and sends it one.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGPIPE);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        }
        let mut buffer = EvBuffer::new();
        buffer.add(b"abc").expect("not frozen");
        assert!(is_broken_pipe(buffer.write_to(unread_pipe(), None)));
        assert_eq!(mask_and_pending(), (true, false), "none came of the write");
        // SAFETY: the signal is blocked.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGPIPE) };
        assert!(is_broken_pipe(buffer.write_to(unread_pipe(), None)));
        assert_eq!(mask_and_pending(), (true, true), "the program's own waits");
        return;
    }
    let status = in_child("a_sigpipe_that_waited_before_is_kept", "");
    assert!(status.success(), "{status}");
}

/// Writes of a ring: to a pipe that is closed already, and to one that closes while the write
/// waits.
#[test]
fn a_rings_writes_raise_no_sigpipe() {
    if is_child() {
        let mut ring = Ring::new(&RingConfig::default()).expect("a ring");
        for pieces in [1, 3] {
            let gone = unread_pipe();
            assert_eq!(broken_write(&mut ring, &gone, pieces, || {}), libc::EPIPE);
            let (reader, writer) = std::io::pipe().expect("a pipe");
            let writer = OwnedFd::from(writer);
            fill(&writer);
            let close = || drop(reader);
            assert_eq!(broken_write(&mut ring, &writer, pieces, close), libc::EPIPE);
        }
        // Where task work runs at any return from the kernel the mask goes back with the next
        // enter.
        ring.push(0, Op::Nop);
        ring.enter(Wait::Poll).expect("a ring");
        assert_eq!(mask_and_pending(), (false, false), "all is as it was");
        return;
    }
    for caps in [
        "",
        "-defer_taskrun",
        "-defer_taskrun,-coop_taskrun",
        "-single_issuer",
    ] {
        let status = in_child("a_rings_writes_raise_no_sigpipe", caps);
        assert!(status.success(), "{caps}: {status}");
    }
}

fn fill(pipe: &OwnedFd) {
    // SAFETY: takes numbers only.
    unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    let mut writer = std::fs::File::from(pipe.try_clone().expect("a copy"));
    while writer.write(&[0; 4096]).is_ok() {}
}

/// Has the ring write, and `meanwhile` happen once it was begun; the error that it gets.
fn broken_write(ring: &mut Ring, pipe: &OwnedFd, pieces: usize, meanwhile: impl FnOnce()) -> i32 {
    let pieces: Vec<Piece> = (0..pieces).map(|_| Piece::copy_from(&[1; 100])).collect();
    let fd = pipe.as_fd().as_raw_fd();
    ring.push(
        1,
        Op::Write {
            fd,
            pieces: Pieces::from(pieces),
        },
    );
    ring.enter(Wait::Poll).expect("a ring");
    meanwhile();
    loop {
        if let Some(done) = ring.next() {
            return done.result.expect_err("nobody reads").raw();
        }
        ring.enter(Wait::Until(None)).expect("a ring");
    }
}

/// A bufferevent on a pipe is told the error, deferred or not, as often as it writes.
#[test]
fn a_bufferevent_on_an_unread_pipe_is_told_an_error() {
    if is_child() {
        for options in [Options::empty(), Options::DEFER_CALLBACKS] {
            let base = EventBase::new().expect("a base");
            let options = options | Options::CLOSE_ON_FREE;
            let bev = BufferEvent::socket(&base, Some(unread_pipe()), options).expect("a pipe");
            let told = Rc::new(Cell::new(0));
            let seen = told.clone();
            let handler = Callbacks::new().on_event(move |bev, events| {
                assert!(
                    events.contains(Events::WRITING | Events::ERROR),
                    "{events:?}"
                );
                seen.set(seen.get() + 1);
                if seen.get() == 2 {
                    bev.free();
                } else {
                    bev.enable(evring::Interest::WRITE).expect("not freed");
                }
            });
            bev.set_callbacks(handler).expect("not freed");
            bev.write(&[1; 100]).expect("not freed");
            base.run().expect("a loop");
            assert_eq!(told.get(), 2);
        }
        assert_eq!(mask_and_pending(), (false, false), "all is as it was");
        return;
    }
    let status = in_child("a_bufferevent_on_an_unread_pipe_is_told_an_error", "");
    assert!(status.success(), "{status}");
}

/// The mask of capabilities is read from the environment, so that the children above vary.
#[test]
fn the_childrens_masks_are_known() {
    for caps in [
        "-defer_taskrun",
        "-defer_taskrun,-coop_taskrun",
        "-single_issuer",
    ] {
        caps.parse::<CapsMask>().expect("known names");
    }
}
