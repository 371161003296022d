//! docs/parity.md and the other documents name tests; this holds them to it: every test they name
//! exists, and every function of libevent's bufferevent header has its row.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The functions that `event2/bufferevent.h` declares.
const HEADER: [&str; 50] = [
    "bufferevent_socket_new",
    "bufferevent_socket_connect",
    "bufferevent_socket_connect_hostname",
    "bufferevent_socket_get_dns_error",
    "bufferevent_base_set",
    "bufferevent_get_base",
    "bufferevent_priority_set",
    "bufferevent_free",
    "bufferevent_setcb",
    "bufferevent_setfd",
    "bufferevent_getfd",
    "bufferevent_get_underlying",
    "bufferevent_write",
    "bufferevent_write_buffer",
    "bufferevent_read",
    "bufferevent_read_buffer",
    "bufferevent_get_input",
    "bufferevent_get_output",
    "bufferevent_enable",
    "bufferevent_disable",
    "bufferevent_get_enabled",
    "bufferevent_set_timeouts",
    "bufferevent_setwatermark",
    "bufferevent_lock",
    "bufferevent_unlock",
    "bufferevent_flush",
    "bufferevent_filter_new",
    "bufferevent_pair_new",
    "bufferevent_pair_get_partner",
    "ev_token_bucket_cfg_new",
    "ev_token_bucket_cfg_free",
    "bufferevent_set_rate_limit",
    "bufferevent_rate_limit_group_new",
    "bufferevent_rate_limit_group_set_cfg",
    "bufferevent_rate_limit_group_set_min_share",
    "bufferevent_rate_limit_group_free",
    "bufferevent_add_to_rate_limit_group",
    "bufferevent_remove_from_rate_limit_group",
    "bufferevent_get_read_limit",
    "bufferevent_get_write_limit",
    "bufferevent_get_max_to_read",
    "bufferevent_get_max_to_write",
    "bufferevent_rate_limit_group_get_read_limit",
    "bufferevent_rate_limit_group_get_write_limit",
    "bufferevent_decrement_read_limit",
    "bufferevent_decrement_write_limit",
    "bufferevent_rate_limit_group_decrement_read",
    "bufferevent_rate_limit_group_decrement_write",
    "bufferevent_rate_limit_group_get_totals",
    "bufferevent_rate_limit_group_reset_totals",
];

/// What a row may say in place of a test.
const WITHOUT_A_TEST: [&str; 2] = ["waits for its issue", "not done"];

#[test]
fn every_test_that_a_document_names_exists() {
    let mut sources = BTreeMap::new();
    let mut missing = Vec::new();
    let mut named = 0;
    for document in documents() {
        for (path, test) in tests_named_in(&read(&document)) {
            let source = sources
                .entry(path.clone())
                .or_insert_with(|| fs::read_to_string(root().join(&path)).unwrap_or_default());
            named += 1;
            if !has_test(source, &test) {
                missing.push(format!("{}: {path}::{test}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "no such test:\n{}", missing.join("\n"));
    assert!(named > 100, "the documents name {named} tests only");
}

#[test]
fn every_function_of_the_header_has_one_row() {
    let parity = read(&root().join("docs/parity.md"));
    for function in HEADER {
        let word = format!("`{function}`");
        let rows = rows(&parity)
            .filter(|row| row.first().is_some_and(|cell| cell.contains(&word)))
            .count();
        assert_eq!(rows, 1, "rows for {function}");
    }
}

#[test]
fn every_row_names_a_test_or_says_why_not() {
    let parity = read(&root().join("docs/parity.md"));
    let mut checked = 0;
    for row in rows(&parity) {
        let held = row.last().is_some_and(|cell| cell.contains(".rs::"));
        let excused = WITHOUT_A_TEST
            .iter()
            .any(|excuse| row.iter().any(|cell| cell.contains(excuse)));
        assert!(held || excused, "no test: {}", row.join(" | "));
        checked += 1;
    }
    assert!(checked >= HEADER.len(), "{checked} rows");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn documents() -> Vec<PathBuf> {
    let mut found = vec![root().join("README.md")];
    let docs = fs::read_dir(root().join("docs")).expect("a folder docs");
    for entry in docs {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found
}

/// Every `path/to/file.rs::name` between backquotes.
fn tests_named_in(text: &str) -> Vec<(String, String)> {
    text.split('`')
        .filter_map(|span| span.split_once(".rs::"))
        .filter(|(path, _)| path.contains('/') && !path.contains(char::is_whitespace))
        .map(|(path, name)| (format!("{path}.rs"), name.to_owned()))
        .collect()
}

/// Whether the source has a function of that name right below `#[test]`, other attributes between
/// them allowed.
fn has_test(source: &str, name: &str) -> bool {
    let wanted = format!("fn {name}(");
    let mut attributed = false;
    for line in source.lines().map(str::trim) {
        if attributed && line.starts_with(&wanted) {
            return true;
        }
        attributed = line == "#[test]" || (attributed && line.starts_with("#["));
    }
    false
}

/// The cells of each row of each table, headings and rulers left out.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines: Vec<&str> = text.lines().collect();
    let is_ruler = |line: &str| line.starts_with("|--") || line.starts_with("| --");
    let mut rows = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let is_heading = lines.get(at + 1).is_some_and(|next| is_ruler(next));
        if line.starts_with('|') && !is_ruler(line) && !is_heading {
            rows.push(line.trim_matches('|').split(" | ").map(str::trim).collect());
        }
    }
    rows.into_iter()
}
