//! How two accounts of a script are compared.

use evring_libevent_peer::Libevent;

use super::world;

/// What of the order of callbacks within one run is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// All of it.
    AsCalled,
    /// The order within each direction of each bufferevent.
    ///
    /// Between directions, and between bufferevents, there is no order to keep: libevent calls in
    /// the order in which epoll reports descriptors, evring in the order in which operations
    /// complete. Runs are not mixed with each other.
    PerDirection,
}

/// A script with a known outcome.
#[derive(Clone, Copy, Debug)]
pub struct Differ {
    /// The number of the rule and what it is about.
    pub name: &'static str,
    pub script: &'static str,
    pub order: Order,
    /// What differs, as [`differences`] tells it, and is meant to; nothing as a rule.
    pub differs: &'static str,
}

/// What libevent and what evring make of a script.
pub fn both(peer: &mut Libevent, script: &str, order: Order) -> (String, String) {
    let script: Vec<_> = script.trim().lines().map(str::trim).collect();
    let script = script.join("\n");
    peer.begin(&script).expect("libevent's process is there");
    let ours = world::run(&script);
    let theirs = peer.finish().unwrap_or_else(|died| panic!("{died}"));
    (sorted(&theirs, order), sorted(&ours, order))
}

/// The lines that only one of the two accounts has, each section under its operation.
pub fn differences(theirs: &str, ours: &str) -> String {
    let mut found = String::new();
    let (theirs, ours) = (sections(theirs), sections(ours));
    for (at, theirs) in theirs.iter().enumerate() {
        let none = Vec::new();
        let ours = ours.get(at).unwrap_or(&none);
        if theirs == ours {
            continue;
        }
        found += &format!("{}: {}\n", at + 1, theirs.first().unwrap_or(&""));
        let same_before = theirs.iter().zip(ours).take_while(|(a, b)| a == b).count();
        let (mut left, mut right) = (&theirs[same_before..], &ours[same_before..]);
        while let (Some((a, rest_left)), Some((b, rest_right))) =
            (left.split_last(), right.split_last())
        {
            if a != b {
                break;
            }
            (left, right) = (rest_left, rest_right);
        }
        left.iter().for_each(|line| found += &format!("< {line}\n"));
        right
            .iter()
            .for_each(|line| found += &format!("> {line}\n"));
    }
    found
}

/// An account, an operation a section, its lines in the order that is compared.
fn sorted(account: &str, order: Order) -> String {
    // Rule 3: what had come in before a pause evring may have taken from the kernel, and libevent
    // not. A close with unread bytes is a reset on a Unix socket.
    let account = match order {
        Order::PerDirection => account.replace(" error", " eof"),
        Order::AsCalled => account.to_owned(),
    };
    let mut sections = sections(&account);
    for section in &mut sections {
        if section.contains(&"endless") {
            // How many calls it takes to be called endless is nobody's business.
            section.truncate(2);
            section.push("endless");
        }
        if order == Order::PerDirection {
            // Rules 34 and 40: the answer of a flush, see `cases.rs`.
            section.retain(|line| !line.contains(" flushed "));
            // Stable: the order within a key stays. States are in order already, and last.
            section[1..].sort_by_key(|line| match line.starts_with('=') {
                true => "=",
                false => line.split(' ').next().unwrap_or(""),
            });
        }
    }
    sections.concat().join("\n")
}

fn sections(account: &str) -> Vec<Vec<&str>> {
    let mut sections = Vec::new();
    for line in account.lines() {
        if line.starts_with("> ") || sections.is_empty() {
            sections.push(Vec::new());
        }
        sections.last_mut().expect("one was just pushed").push(line);
    }
    sections
}
