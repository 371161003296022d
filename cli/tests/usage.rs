//! Bad arguments, help, and what the kernel gives.

mod common;

use common::evring;

#[test]
fn bad_arguments_exit_2_with_one_line() {
    for (arguments, what) in [
        (&[] as &[&str], "proxy"),
        (&["nonsense"], "nonsense"),
        (&["load"], "--connect"),
        (&["echo", "--listen", "localhost:1"], "localhost:1"),
        (&["echo", "--listen", "unix:"], "--listen"),
        (
            &["proxy", "--upstream", "127.0.0.1:99999"],
            "127.0.0.1:99999",
        ),
        (&["proxy", "--threads", "0"], "--threads"),
        (&["proxy", "--threads", "many"], "many"),
        (&["proxy", "--high", "12"], "--high"),
        (&["proxy", "--grace", "-3"], "-3"),
        (&["proxy", "--spin=sometimes"], "sometimes"),
        (&["proxy", "--limit-read", "1MB:1KB"], "--limit-read"),
        (&["proxy", "--group-limit-write", "fast"], "fast"),
        (&["proxy", "--tick", "0"], "--tick"),
        (&["proxy", "--warp"], "--warp"),
        (
            &["load", "--connect", "127.0.0.1:1", "--size", "0"],
            "--size",
        ),
        (
            &["load", "--connect", "127.0.0.1:1", "--connections", "0"],
            "--connections",
        ),
        (&["caps", "extra"], "extra"),
    ] {
        evring(arguments).assert_one_line(2, what);
    }
}

#[test]
fn help_tells_the_commands_and_exits_0() {
    let ended = evring(&["--help"]);
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(0), ""),
        "{ended:?}"
    );
    for command in ["echo", "proxy", "load", "caps"] {
        assert!(ended.stdout.contains(command), "{ended:?}");
        let ended = evring(&[command, "--help"]);
        assert_eq!(
            (ended.code, ended.stderr.as_str()),
            (Some(0), ""),
            "{ended:?}"
        );
    }
    assert!(evring(&["--version"]).stdout.starts_with("evring "));
}

#[test]
fn caps_are_shown_to_people_and_machines() {
    let ended = evring(&["caps"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("Linux ") && ended.stdout.contains("recv_multishot"));
    let ended = evring(&["caps", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert!(
        json["abilities"]["recv_multishot"]["found"].is_boolean(),
        "{json}"
    );
}
