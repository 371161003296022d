//! The comparison harness: tables, files, and what it says and leaves behind when something is
//! wrong. The figures of these short runs of a debug build mean nothing; their shape does.

mod common;

use std::path::Path;
use std::process::Command;

use common::{EVRING, Ended, Process, SOON, eventually};

/// `evring bench` in a directory of its own, which gets its files, outside of any cargo.
fn bench(dir: &Path, arguments: &[&str]) -> Process {
    let mut command = Command::new(EVRING);
    command.arg("bench").args(arguments).current_dir(dir);
    command.env_remove("CARGO");
    Process::start(command)
}

/// Whether there is a core for the server and one for the load.
fn has_two_cores(test: &str) -> bool {
    let two = std::thread::available_parallelism().is_ok_and(|n| n.get() > 1);
    if !two {
        eprintln!("skipped {test}: there are no two cores");
    }
    two
}

/// evring beside another evring that is called `again` and can be told by an option.
fn again(marker: u32) -> String {
    format!("again={EVRING} echo --max-connections {marker}")
}

/// Whether a process with that option is running.
fn is_running(marker: u32) -> bool {
    let marker = marker.to_string();
    let processes = std::fs::read_dir("/proc").expect("procfs").flatten();
    processes
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        // The harness itself has the option within a longer argument.
        .any(|line| {
            line.split(|&byte| byte == 0)
                .any(|word| word == marker.as_bytes())
        })
}

fn assert_gone(marker: u32) {
    eventually(SOON, "every server to be gone", || {
        (!is_running(marker)).then_some(())
    });
}

fn short(dir: &Path, marker: u32, more: &[&str]) -> Ended {
    let again = again(marker);
    let common = [
        "echo",
        "--case",
        "echo-64",
        "--servers",
        "evring,again",
        "--server",
        &again,
    ];
    let times = ["--rounds", "2", "--seconds", "0.3", "--warm-up", "0.05"];
    // A machine that has no time to spare for so short a run is asked again.
    eventually(SOON * 5, "a run in which anything came back", || {
        let ended = bench(dir, &[&common[..], &times, more].concat()).wait(SOON * 3);
        (!ended.stderr.contains("nothing came back")).then_some(ended)
    })
}

#[test]
fn a_comparison_gives_a_table_figures_and_a_report() {
    if !has_two_cores("a_comparison_gives_a_table_figures_and_a_report") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let ended = short(dir.path(), 31_001, &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for word in [
        "echo-64",
        "CPU µs/msg",
        "p99.9 µs",
        "again",
        "too few rounds",
        "2 rounds",
    ] {
        assert!(ended.stdout.contains(word), "'{word}' in {ended:?}");
    }
    assert!(ended.stderr.contains("evring-bench.html"), "{ended:?}");

    let text = std::fs::read_to_string(dir.path().join("evring-bench.json")).expect("the figures");
    let figures: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let case = &figures["cases"][0];
    assert_eq!(case["subject"], "evring", "{case}");
    assert_eq!(
        case["contenders"][0]["runs"].as_array().map(Vec::len),
        Some(2),
        "{case}"
    );
    let comparisons = case["comparisons"].as_array().expect("comparisons");
    let cpu = comparisons
        .iter()
        .find(|c| c["metric"] == "cpu_us_per_message");
    let cpu = cpu.expect("the case's own figure");
    assert_eq!(cpu["baseline"], "again");
    assert_eq!(cpu["verdict"], "too_few_rounds");
    assert_eq!(cpu["goal"], serde_json::Value::Null, "a goal is of a peer");
    for contender in case["contenders"].as_array().expect("contenders") {
        let figure = |name: &str| {
            contender["figures"][name]["median"]
                .as_f64()
                .expect("a number")
        };
        assert!(figure("cpu_us_per_message") > 0.0 && figure("messages_per_second") > 0.0);
        assert!(figure("p50_us") <= figure("p99_us") && figure("p99_us") <= figure("max_us"));
    }

    let html = std::fs::read_to_string(dir.path().join("evring-bench.html")).expect("the report");
    assert_well_formed(&html);
    assert_needs_nothing_else(&html);
    for part in [
        "<svg",
        "Latency by percentile",
        "prefers-color-scheme",
        "again",
        "99 %",
    ] {
        assert!(html.contains(part), "'{part}' in the report");
    }
    assert_gone(31_001);
}

#[test]
fn an_open_loop_says_its_rate_and_has_no_goals() {
    if !has_two_cores("an_open_loop_says_its_rate_and_has_no_goals") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let ended = short(dir.path(), 31_002, &["--rate", "2000", "--json", "-"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let figures: serde_json::Value = serde_json::from_str(&ended.stdout).expect("nothing but JSON");
    assert_eq!(figures["settings"]["rate"], 2000.0);
    let title = figures["cases"][0]["title"].as_str().expect("a title");
    assert!(title.contains("open loop, 2,000 messages/s"), "{title}");
}

#[test]
fn an_interrupt_ends_everything_that_was_started() {
    if !has_two_cores("an_interrupt_ends_everything_that_was_started") {
        return;
    }
    for signal in ["INT", "KILL"] {
        let dir = tempfile::tempdir().expect("a directory");
        let again = again(31_003);
        let process = bench(
            dir.path(),
            &[
                "echo",
                "--servers",
                "again,evring",
                "--server",
                &again,
                "--seconds",
                "0.2",
                "--rounds",
                "5000",
            ],
        );
        eventually(SOON, "a server", || is_running(31_003).then_some(()));
        process.signal(signal);
        let ended = process.wait(SOON);
        assert_eq!(ended.code, (signal == "INT").then_some(130), "{ended:?}");
        assert_gone(31_003);
    }
}

#[test]
fn a_server_that_dies_is_one_line() {
    if !has_two_cores("a_server_that_dies_is_one_line") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let script = dir.path().join("dying");
    // It serves when it is tried, and dies in its first run.
    let lines = format!(
        "trap 'kill $server; exit 0' TERM\n\
         {EVRING} echo --max-connections 31004 \"$@\" &\nserver=$!\n\
         if [ -e tried ]; then (sleep 0.2; kill -9 $server) & fi\ntouch tried\n\
         wait $server\necho 'out of luck' >&2\nexit 7\n"
    );
    std::fs::write(&script, lines).expect("written");
    let dying = format!("dying=sh {}", script.display());
    let ended = bench(
        dir.path(),
        &[
            "echo",
            "--case",
            "echo-64",
            "--servers",
            "evring,dying",
            "--server",
            &dying,
            "--seconds",
            "2",
        ],
    )
    .wait(SOON * 3);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let told = ended.stderr.lines().find(|line| line.contains("dying"));
    let told = told.unwrap_or_else(|| panic!("{ended:?}"));
    assert!(
        told.contains("ended with code 7") && told.contains("out of luck"),
        "{told}"
    );
    assert_gone(31_004);
}

#[test]
fn what_cannot_be_compared_is_one_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let line = |arguments: &[&str], code, what: &str| {
        bench(dir.path(), arguments)
            .wait(SOON)
            .assert_one_line(code, what);
    };
    line(&["nonsense"], 2, "nonsense");
    line(&["echo", "--server", "name"], 2, "NAME=COMMAND");
    line(&["echo", "--case", "proxy-64"], 1, "echo-64");
    line(&["echo", "--servers", "evring,nobody"], 1, "nobody");
    if !has_two_cores("what_cannot_be_compared_is_one_line") {
        return;
    }
    line(&["echo", "--server-core", "99999"], 1, "core 99999");
    line(
        &["echo", "--servers", "evring,floor", "--peers", "/nowhere"],
        1,
        "cargo build",
    );
    let nothing = [
        "echo",
        "--servers",
        "evring,gone",
        "--server",
        "gone=/nowhere/gone",
    ];
    line(&nothing, 1, "/nowhere/gone");
    let fails = [
        "echo",
        "--servers",
        "evring,fails",
        "--server",
        "fails=false",
    ];
    line(&fails, 1, "ended with code 1");

    let mut command = Command::new("taskset");
    command
        .args(["-c", "0", EVRING, "bench", "echo"])
        .env_remove("CARGO");
    Process::start(command)
        .wait(SOON)
        .assert_one_line(1, "two cores");
}

/// Every element is closed, in order; text has no stray `<`.
fn assert_well_formed(html: &str) {
    const VOID: [&str; 2] = ["meta", "br"];
    let mut open: Vec<&str> = Vec::new();
    let mut rest = html
        .strip_prefix("<!DOCTYPE html>")
        .expect("a document type");
    while let Some(at) = rest.find('<') {
        let end = at + rest[at..].find('>').expect("an end of the tag");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        let name = tag
            .trim_start_matches('/')
            .split([' ', '\n', '/'])
            .next()
            .expect("a name");
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "<{tag}>");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}> closes another");
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
        if name == "style" && !tag.starts_with('/') {
            let end = rest.find("</style>").expect("an end of the style");
            rest = &rest[end..];
        }
    }
    assert!(open.is_empty(), "{open:?} are never closed");
}

fn assert_needs_nothing_else(html: &str) {
    let html = html.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for foreign in [
        "http:", "https:", "src=", "<link", "<script", "url(", "@import",
    ] {
        assert!(!html.contains(foreign), "'{foreign}' in the report");
    }
}
