//! No line of code or comment is wider than a page. Tables are lines like all others. A string may
//! be longer where breaking it would change what it says, and so may an address of the web.

use std::fs;
use std::path::{Path, PathBuf};

/// Columns of a line.
const WIDTH: usize = 100;

/// What is nobody's writing.
const LEFT_OUT: [&str; 2] = ["target", ".git"];

fn sources(at: &Path, found: &mut Vec<PathBuf>) {
    if at.is_file() {
        found.extend(
            at.extension()
                .is_some_and(|kind| kind == "rs")
                .then(|| at.to_owned()),
        );
        return;
    }
    for entry in fs::read_dir(at).expect("a folder of the project") {
        let entry = entry.expect("its entry");
        let name = entry.file_name();
        if !LEFT_OUT.iter().any(|left_out| name == *left_out) {
            sources(&entry.path(), found);
        }
    }
}

/// The lines of `text` that are too wide, by number.
fn too_wide(text: &str) -> Vec<usize> {
    let mut string: Option<String> = None;
    let mut wide = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let within = string.is_some();
        let rest = without_strings(line, &mut string);
        // A line in the middle of a string, or one that is short but for its strings.
        let is_string = within || rest.chars().count() <= WIDTH && rest.len() < line.len();
        if line.chars().count() > WIDTH && !is_string && !line.contains("://") {
            wide.push(number + 1);
        }
    }
    wide
}

/// The line without the insides of its strings. `string` is how the one ends in which the line
/// begins, and then the one in which it ends.
fn without_strings(line: &str, string: &mut Option<String>) -> String {
    let mut rest = String::new();
    let mut at = 0;
    while at < line.len() {
        let ahead = &line[at..];
        let step = ahead.chars().next().map_or(1, char::len_utf8);
        match string {
            Some(end) if ahead.starts_with(end.as_str()) => {
                at += end.len();
                *string = None;
            }
            // What is escaped ends nothing; in a raw string nothing is escaped.
            Some(end) if ahead.starts_with('\\') && end == "\"" => {
                at += 1 + ahead[1..].chars().next().map_or(0, char::len_utf8);
            }
            Some(_) => at += step,
            None if ahead.starts_with("//") => {
                rest.push_str(ahead);
                break;
            }
            None if ahead.starts_with("'\"'") => at += 3,
            None if ahead.starts_with('"') => {
                let hashes = rest.len() - rest.trim_end_matches('#').len();
                let raw = rest.trim_end_matches('#').ends_with('r');
                *string = Some(format!("\"{}", "#".repeat(if raw { hashes } else { 0 })));
                at += 1;
            }
            None => {
                rest.push_str(&ahead[..step]);
                at += step;
            }
        }
    }
    rest
}

#[test]
fn no_line_is_wider_than_a_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    sources(root, &mut found);
    assert!(!found.is_empty());
    let mut told = String::new();
    for path in found {
        let text = fs::read_to_string(&path).expect("a file of text");
        let wide = too_wide(&text);
        if !wide.is_empty() {
            let path = path.strip_prefix(root).expect("below it").display();
            told.push_str(&format!("{path}: {wide:?}\n"));
        }
    }
    assert!(told.is_empty(), "lines wider than {WIDTH} columns:\n{told}");
}

#[test]
fn only_strings_and_addresses_are_excused() {
    let long = "x".repeat(WIDTH);
    let wide = [
        format!("// {long}"),
        format!("let {long} = 1;"),
        format!("let a = \"short\"; // {long}"),
        format!("let quote = '\"'; let {long} = 1;"),
    ];
    for line in wide {
        assert_eq!(too_wide(&line), [1], "{line}");
    }
    let excused = [
        long.clone(),
        format!("let a = \"{long}\";"),
        format!("let a = \"\\\"{long}\";"),
        format!("let a = r#\"\"{long}\"#;"),
        format!("let a = \"begun \\\n  {long} \\\n  ended\";"),
        format!("// https://example.org/{long}"),
    ];
    for text in &excused[1..] {
        assert!(too_wide(text).is_empty(), "{text}");
    }
    assert!(
        too_wide(&excused[0]).is_empty(),
        "as wide as a page is not wider"
    );
}
