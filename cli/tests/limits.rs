//! Limits of the system: open files, locked memory, kernel features, io_uring itself.

mod common;

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use common::{
    EVRING, Ended, Process, SOON, Server, assert_echoes, eventually, has_program, noise, python,
};

/// `evring` with arguments, under a shell's `ulimit`.
fn limited(ulimit: &str, arguments: &str) -> Command {
    let mut command = Command::new("sh");
    command.args([
        "-c",
        &format!("ulimit {ulimit} && exec {EVRING} {arguments}"),
    ]);
    command
}

#[test]
fn ten_thousand_connections_at_a_limit_of_1024_open_files() {
    // Three descriptors a connection: the client's, and two for the embedded upstream.
    let ended = storm("", "more wait until some close", 200);
    assert!(
        !ended.stderr.contains("open files"),
        "the limit was kept away from: {ended:?}"
    );
}

#[test]
fn running_out_of_open_files_is_survived() {
    let echo = Server::echo();
    let more = format!("--max-connections 0 --upstream {}", echo.addr);
    storm(&more, "oo many open files", 1);
}

/// 10,000 connection attempts at once against a proxy with 1,024 descriptors: it says so, and
/// serves again when they are gone.
fn storm(more: &str, told: &str, served: u32) -> Ended {
    let command = format!("proxy --listen 127.0.0.1:0 {more}");
    let mut proxy = Server::start_command(limited("-n 1024", &command));
    assert_echoes(&mut proxy.connect(), b"before");
    let idle = proxy.process.open_files();
    let storm = python(
        "storm.py",
        &["127.0.0.1", &proxy.port().to_string(), "10000"],
    );
    let ended = Process::start(storm).wait(Duration::from_secs(120));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let answered: u32 = ended.stdout.trim().parse().expect("a number");
    assert!(answered >= served, "{answered} connections were served");
    proxy.process.wait_for_stderr(told);
    assert!(proxy.process.is_running());
    assert_echoes(&mut proxy.connect(), b"after");
    eventually(SOON, "descriptors to be closed", || {
        (proxy.process.open_files() <= idle + 3).then_some(())
    });
    let ended = proxy.stop();
    assert!(
        ended.stderr.lines().count() < 60,
        "a line a burst: {ended:?}"
    );
    ended
}

#[test]
fn little_locked_memory_gives_service_or_a_clear_error() {
    if !has_program("setpriv", "64 KiB of locked memory") {
        return;
    }
    // Root is exempt from the limit, so it has to be another user. The binary may lie where
    // that one may not go.
    let dir = tempfile::tempdir().expect("a directory");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).expect("ours");
    let binary = dir.path().join("evring");
    std::fs::copy(EVRING, &binary).expect("copied");
    let mut command = Command::new("sh");
    let line = format!(
        "ulimit -l 64 && exec setpriv --reuid 65534 --regid 65534 --clear-groups {} echo --listen 127.0.0.1:0",
        binary.display()
    );
    command.args(["-c", &line]);
    let mut process = Process::start(command);
    let told = eventually(SOON, "service or an error", || {
        let out = process.stdout();
        match out.strip_prefix("listening on ") {
            Some(addr) if out.ends_with('\n') => Some(Some(addr.trim().to_owned())),
            _ => (!process.is_running()).then_some(None),
        }
    });
    match told {
        Some(addr) => {
            let server = Server { process, addr };
            assert_echoes(&mut server.connect(), &noise(1, 1_000_000));
            server.stop();
        }
        None => {
            let ended = process.wait(SOON);
            if ended.stderr.contains("setpriv") {
                return eprintln!("skipped: {}", ended.stderr);
            }
            ended.assert_one_line(1, "RLIMIT_MEMLOCK");
        }
    }
}

#[test]
fn a_forbidden_io_uring_is_a_clear_error() {
    for arguments in [
        &["echo", "--listen", "127.0.0.1:0"] as &[&str],
        &["proxy", "--listen", "127.0.0.1:0"],
        &["load", "--connect", "127.0.0.1:1"],
        &["caps"],
    ] {
        let launcher = python("without_io_uring.py", &[&[EVRING], arguments].concat());
        let ended = Process::start(launcher).wait(SOON);
        if ended.code == Some(77) {
            return eprintln!("skipped: {}", ended.stderr);
        }
        ended.assert_one_line(1, "io_uring");
        assert!(
            ended.stderr.contains("seccomp"),
            "the cause is named: {ended:?}"
        );
    }
}

#[test]
fn every_rung_of_the_ladder_serves() {
    let mut caps = Command::new(EVRING);
    let caps = Process::start({
        caps.args(["caps", "--json"]);
        caps
    })
    .wait(SOON);
    let json: serde_json::Value = serde_json::from_str(&caps.stdout).expect("JSON");
    let abilities = json["abilities"].as_object().expect("an object");
    let mut masks: Vec<String> = abilities.keys().map(|name| format!("-{name}")).collect();
    masks.push(masks.join(","));
    for mask in masks {
        let mut command = Command::new(EVRING);
        command
            .args(["proxy", "--listen", "127.0.0.1:0"])
            .env("EVRING_CAPS", &mask);
        let proxy = Server::start_command(command);
        let mut streams: Vec<_> = (0..4).map(|_| proxy.connect()).collect();
        for stream in &mut streams {
            let mut writer = stream.try_clone().expect("a descriptor");
            let sent = noise(3, 1_000_000);
            std::thread::scope(|scope| {
                scope.spawn(|| writer.write_all(&sent).expect("written"));
                let mut answer = vec![0; sent.len()];
                std::io::Read::read_exact(stream, &mut answer)
                    .unwrap_or_else(|e| panic!("{mask}: {e}"));
                assert!(answer == sent, "{mask}: other bytes");
            });
        }
        drop(streams);
        proxy.stop();
    }
}

#[test]
fn an_unknown_mask_is_a_clear_error() {
    let mut command = Command::new(EVRING);
    command
        .args(["echo", "--listen", "127.0.0.1:0"])
        .env("EVRING_CAPS", "-warp_drive");
    Process::start(command)
        .wait(SOON)
        .assert_one_line(1, "warp_drive");
}
