//! What a ring says, and does, where io_uring is forbidden or its memory is short.
//!
//! Each case spoils a process for good, so that it runs in a child: this test binary again, with
//! its part named in an environment variable.

use evring::arena::{Arena, ArenaConfig};
use evring::ring::{Cap, Op, Ring, RingConfig, SetupError, Wait};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};

const PART: &str = "EVRING_TEST_PART";

/// Runs `part` in a child and gives what it printed; it must not fail.
fn run(part: &str, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(PART, part);
    command
        .env_remove("EVRING_CAPS")
        .envs(variables.iter().copied());
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("the child runs");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr),
    );
    assert!(status.success(), "{part}: {stdout}\n{stderr}");
    stdout.into_owned()
}

fn is_root() -> bool {
    // SAFETY: takes and changes nothing.
    unsafe { libc::geteuid() == 0 }
}

#[test]
fn a_seccomp_filter_is_named_as_the_cause() {
    for part in [
        "filter setup EPERM",
        "filter setup ENOSYS",
        "filter enter EPERM",
    ] {
        let out = run(part, &[]);
        assert!(
            out.contains("seccomp filter") && out.contains("profile"),
            "{part}: {out}"
        );
    }
}

#[test]
fn a_filter_that_allows_no_registration_costs_speed_only() {
    let out = run("filter register EPERM", &[]);
    assert!(
        out.contains("echoed") && out.contains("buffer_ring false"),
        "{out}"
    );
}

#[test]
fn the_sysctl_is_named_as_the_cause() {
    if !is_root() {
        eprintln!("skipped: needs the privilege to mount");
        return;
    }
    let out = run("sysctl 2", &[]);
    assert!(out.contains("kernel.io_uring_disabled=2"), "{out}");
    let out = run("sysctl 1", &[]);
    assert!(out.contains("kernel.io_uring_group"), "{out}");
}

#[test]
fn little_memory_to_lock_makes_a_smaller_ring_or_a_clear_error() {
    if !is_root() {
        eprintln!("skipped: needs the privilege to become another user");
        return;
    }
    let out = run("memlock 65536", &[]);
    assert!(
        out.contains("echoed") || out.contains("RLIMIT_MEMLOCK is 65536"),
        "{out}"
    );
    let out = run("memlock 0", &[]);
    assert!(
        out.contains("echoed") || out.contains("RLIMIT_MEMLOCK is 0"),
        "{out}"
    );
}

#[test]
fn fixed_registration_takes_what_the_limit_leaves() {
    if !is_root() {
        eprintln!("skipped: needs the privilege to become another user");
        return;
    }
    let out = run("fixed 8388608", &[]);
    let registered = number(&out, "registered ");
    assert!(
        (1..4).contains(&registered),
        "of 16 MiB in 8 chunks, under 8 MiB: {out}"
    );
    assert!(out.contains("echoed"), "{out}");
    let out = run("fixed 65536", &[]);
    assert!(
        out.contains("registered 0") && out.contains("echoed"),
        "{out}"
    );
}

#[test]
fn the_environment_masks_abilities_and_refuses_unknown_ones() {
    let out = run(
        "plain",
        &[("EVRING_CAPS", "-recv_multishot,-defer_taskrun")],
    );
    assert!(
        out.contains("echoed") && out.contains("recv_multishot false"),
        "{out}"
    );
    let out = run("plain", &[("EVRING_CAPS", "-recv_multishoot")]);
    assert!(
        out.contains("EVRING_CAPS") && out.contains("unknown ability `-recv_multishoot`"),
        "{out}"
    );
    assert!(
        out.contains("recv_arm_limit"),
        "the known ones are listed: {out}"
    );
}

#[test]
fn no_descriptor_left_is_named_as_the_cause() {
    let out = run("nofile", &[]);
    assert!(out.contains("RLIMIT_NOFILE is"), "{out}");
}

/// The children's entry; without a part it does nothing.
#[test]
fn child() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    let words: Vec<&str> = part.split(' ').collect();
    match words[..] {
        ["plain"] => report(),
        ["filter", call, errno] => {
            let call = match call {
                "setup" => libc::SYS_io_uring_setup,
                "enter" => libc::SYS_io_uring_enter,
                _ => libc::SYS_io_uring_register,
            };
            forbid(
                call,
                if errno == "EPERM" {
                    libc::EPERM
                } else {
                    libc::ENOSYS
                },
            );
            report();
        }
        ["sysctl", value] => {
            pretend_sysctl(value);
            forbid(libc::SYS_io_uring_setup, libc::EPERM);
            report();
        }
        ["memlock", bytes] => {
            limit_locked_memory(bytes.parse().expect("a number"));
            report();
        }
        ["fixed", bytes] => {
            limit_locked_memory(bytes.parse().expect("a number"));
            let config = RingConfig::default().entries(64);
            let mut ring = Ring::new(&config).expect("a small ring fits");
            let arena = arena(8);
            let slots: Vec<_> = std::iter::from_fn(|| arena.take()).collect();
            println!("registered {}", ring.register_fixed(&arena));
            drop(slots);
            echo(&mut ring, &arena);
        }
        ["nofile"] => {
            let mut held = Vec::new();
            while let Ok(file) = std::fs::File::open("/dev/null") {
                held.push(file);
                if held.len() == 50 {
                    let limit = libc::rlimit {
                        rlim_cur: 60,
                        rlim_max: 60,
                    };
                    // SAFETY: reads the limit.
                    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
                }
            }
            let outcome = Ring::new(&RingConfig::default());
            drop(held);
            println!(
                "{}",
                outcome
                    .err()
                    .map_or_else(String::new, |err| err.to_string())
            );
        }
        _ => panic!("no such part: {part}"),
    }
}

/// Sets a ring up and says how that went; if well, it has to echo.
fn report() {
    match Ring::new(&RingConfig::default()) {
        Ok(mut ring) => {
            println!("{} entries", ring.entries());
            echo(&mut ring, &arena(1));
            for cap in [Cap::RECV_MULTISHOT, Cap::BUFFER_RING] {
                println!("{} {}", cap.name().unwrap_or("?"), ring.caps().has(cap));
            }
        }
        Err(err @ SetupError::Os { .. }) => panic!("no cause, no remedy: {err}"),
        Err(err) => println!("{err}"),
    }
}

fn arena(chunks: usize) -> Arena {
    let max_bytes = chunks * evring::arena::CHUNK_BYTES;
    Arena::new(ArenaConfig::default().max_bytes(max_bytes)).expect("an arena")
}

fn echo(ring: &mut Ring, arena: &Arena) {
    ring.attach_window(arena, 16)
        .expect("a window, or receives with slots of their own");
    let (mut client, server) = UnixStream::pair().expect("a pair");
    let fd = server.as_raw_fd();
    for round in 0..3 {
        let recv = Op::Recv {
            fd,
            multishot: true,
            max_len: 0,
            arm_limit: 0,
            bundle: false,
            poll_first: true,
        };
        let op = ring.push(1, recv);
        let sent = [round; 100];
        client.write_all(&sent).expect("out");
        let received = wait(ring);
        let pieces = received.buffer.expect("data").into();
        ring.push(
            2,
            Op::Send {
                fd,
                pieces,
                wait_all: true,
            },
        );
        assert_eq!(wait(ring).result, Ok(100));
        let mut back = [0; 100];
        client.read_exact(&mut back).expect("back");
        assert_eq!(sent, back);
        if received.more {
            ring.cancel(op);
            while wait(ring).more {}
        }
        ring.refill();
    }
    println!("echoed");
}

fn wait(ring: &mut Ring) -> evring::ring::Completion {
    loop {
        if let Some(completion) = ring.next() {
            return completion;
        }
        ring.enter(Wait::Until(None)).expect("enter");
    }
}

/// Lets a system call fail with `errno` from now on, on this thread.
fn forbid(call: libc::c_long, errno: i32) {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    // The number is the first word of the filter's data; skip the refusal unless it matches.
    let mut filter = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            call as u32,
        ),
        instruction(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | errno as u32,
        ),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program and its filter live across the calls, which copy them.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(
            libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program),
            0
        );
    }
}

/// Covers the sysctl with a file that holds `value`, in a mount namespace of this thread's own.
fn pretend_sysctl(value: &str) {
    let name = format!("evring-sysctl-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, value).expect("a file");
    let source = std::ffi::CString::new(path.to_str().expect("a plain path")).expect("no zero");
    let target = c"/proc/sys/kernel/io_uring_disabled";
    let null = std::ptr::null();
    // SAFETY: the strings live across the calls.
    unsafe {
        assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0);
        let private = libc::MS_REC | libc::MS_PRIVATE;
        assert_eq!(
            libc::mount(null, c"/".as_ptr(), null, private, null.cast()),
            0
        );
        let bind = libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            null,
            libc::MS_BIND,
            null.cast(),
        );
        assert_eq!(bind, 0, "{}", std::io::Error::last_os_error());
    }
    std::fs::remove_file(&path).expect("the file");
}

/// Becomes a user without privileges (root's memory is not counted) who may lock so much.
fn limit_locked_memory(bytes: u64) {
    // What is locked counts for all processes of a user, so each child is a user of its own.
    let user: libc::uid_t = 1_000_000 + std::process::id();
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: reads the limit; the other call takes numbers only.
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit), 0);
        assert_eq!(libc::setresuid(user, user, user), 0);
    }
}

fn number(text: &str, behind: &str) -> u32 {
    let rest = text.split(behind).nth(1).expect(behind);
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}
