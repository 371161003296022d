//! Random scripts, each from a seed.
//!
//! They keep away from what is meant to differ (`cases.rs` has each such difference by its rule),
//! and from what depends on when the kernel is looked at: each place says why.

use std::fmt::Write as _;

/// How many kinds of scripts there are; a seed's remainder says which it is of.
pub const FAMILIES: u64 = 4;

/// What a script is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// Sockets: 0 to the script itself, 1 and 2 to each other.
    Sockets,
    /// A pair: 0 and 1.
    Pair,
    /// A filter, 1, over a socket.
    Filter,
    /// Two filters, 2 and 3, over the two sides of a pair.
    FilteredPair,
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// The script of a seed.
pub fn script(seed: u64) -> String {
    use Family::{Filter, FilteredPair, Pair, Sockets};
    let mut random = Random(seed);
    let family = [Sockets, Pair, Filter, FilteredPair][(seed % FAMILIES) as usize];
    let opts = random.of(&["c", "c", "cd"]);
    let kinds = ["pass", "xor", "block", "dup"];
    let (a, b) = (random.of(&kinds), random.of(&kinds));
    let (make, users): (_, &[u64]) = match family {
        Sockets => (format!("sock 0 {opts}\nduo 1 2 {opts}"), &[0, 1, 2]),
        Pair => (format!("pair 0 1 {opts}"), &[0, 1]),
        Filter => (format!("sock 0 c\nfilter 1 0 {opts} {a}"), &[1]),
        FilteredPair => (
            format!("pair 0 1 c\nfilter 2 0 {opts} {a}\nfilter 3 1 {opts} {b}"),
            &[2, 3],
        ),
    };
    let mut script = make + "\n";
    let mut waiting = false;
    for _ in 0..4 + random.below(16) {
        let id = random.of(users);
        // What two on one loop write to each other within a turn, one read may bring, or two; and a
        // deferred callback may be merged with the next.
        let settled = family == Sockets && id != 0 || opts == "cd";
        if settled || random.below(4) == 0 {
            script += "run\n";
        }
        if random.below(5) == 0
            && let Some((kind, op)) = action(&mut random, family, id)
        {
            writeln!(script, "on {id} {kind} {op}").unwrap();
        }
        let op = op(&mut random, family, id);
        if op.starts_with("pwrite") && std::mem::replace(&mut waiting, true) {
            // What comes in two parts while reading pauses, evring may have taken in two parts.
            writeln!(script, "enable {id} r\nrun").unwrap();
        }
        writeln!(script, "{op}").unwrap();
    }
    script + "run\npread 0 100000\nrun\n"
}

fn op(random: &mut Random, family: Family, id: u64) -> String {
    let n = 1 + random.below(40);
    let dirs = random.of(&["r", "w", "rw"]);
    let has_far = family == Family::Sockets && id == 0 || family == Family::Filter;
    match random.below(if has_far { 24 } else { 19 }) {
        0..4 => moved(family, format!("write {id} {n}")),
        4..7 => format!("read {id} {n}"),
        7..10 => moved(family, format!("enable {id} {dirs}")),
        10..12 => disable(family, id, dirs),
        12 => marks(random, family, id, dirs),
        13..15 => "run".into(),
        // With runs around it: a deferred one may be merged with what the loop brings.
        15 => {
            let opts = random.of(&["-", "i", "d", "id"]);
            format!("run\ntrigger {id} {dirs} {opts}\nrun")
        }
        16 => flush(random, family, id, n),
        // Less than libevent's one read takes (4096), all in all.
        17 => moved(family, format!("write {id} {}", n * 10)),
        18 => match random.below(6) {
            0 => free(family, id),
            1 => format!("clearcb {id}"),
            2 => format!("setcb {id}"),
            _ => format!("read {id} 10000"),
        },
        19..21 => format!("pwrite 0 {n}"),
        21 => "pread 0 100000".into(),
        22 => "pwrite 0 400".into(),
        // Rules 9 and 13: libevent's filter stays enabled after an end or an error.
        _ if family == Family::Filter => "run".into(),
        _ => random.of(&["pshut 0", "pclose 0", "run"]).into(),
    }
}

/// What moves bytes below a filter of a pair: in libevent within the call, on evring within the
/// turn.
fn moved(family: Family, op: String) -> String {
    match family {
        Family::FilteredPair => op + "\nrun",
        _ => op,
    }
}

fn disable(family: Family, id: u64, dirs: &str) -> String {
    match family {
        // Rule 3: an enable does not make libevent's filter send what waits.
        Family::Filter | Family::FilteredPair => format!("disable {id} r"),
        // A close resets a Unix connection when bytes are left in the kernel; evring may have taken
        // them in a pause.
        Family::Sockets if id != 0 => format!("disable {id} w"),
        _ => format!("disable {id} {dirs}"),
    }
}

fn marks(random: &mut Random, family: Family, id: u64, dirs: &str) -> String {
    let low = random.below(8);
    if family != Family::Pair {
        // Rule 38: with a high mark, libevent's filter stalls. On a socket, how much comes at once
        // depends on what the mark was when the receive began.
        return format!("marks {id} {dirs} {low} 0");
    }
    // Rule 34: libevent's flush moves a part where there is a high mark.
    let high = if id == 0 { random.below(3) * 10 } else { 0 };
    // Rule 8: with a high mark, libevent calls a reader that does not drain for ever.
    let drain = 1 + random.below(40);
    format!("always {id} r read {id} {drain}\nmarks {id} {dirs} {low} {high}")
}

fn flush(random: &mut Random, family: Family, id: u64, n: u64) -> String {
    match family {
        // Rule 33: there has to be something to move, or libevent calls back for nothing.
        Family::Pair => format!("disable 0 w\nwrite 0 {n}\nflush 0 w flush"),
        // Rule 38: what a flush brought below a filter that does not read, libevent's leaves there
        // on an enable.
        Family::FilteredPair => format!("flush {id} w normal"),
        // Rule 6: libevent's filter does not tell what a flush of its reading direction brings.
        _ => format!("flush {id} w {}", random.of(&["normal", "flush"])),
    }
}

fn free(family: Family, id: u64) -> String {
    match family {
        // Rule 35: a pair as a whole, or the partner sees an end that libevent does not tell.
        Family::Pair => "free 0\nfree 1".into(),
        Family::FilteredPair => "free 2\nfree 3".into(),
        // libevent closes the descriptor in the next turn, and what is below a filter with the last
        // deferred callback.
        Family::Filter => format!("run\nfree {id}\nrun"),
        Family::Sockets => format!("free {id}\nrun"),
    }
}

/// What a callback is to do, and which.
fn action(random: &mut Random, family: Family, id: u64) -> Option<(char, String)> {
    let n = 1 + random.below(40);
    let read = matches!(family, Family::Sockets | Family::Filter);
    Some(match random.below(7) {
        0 => ('r', format!("read {id} {n}")),
        1 if family != Family::Sockets || id == 0 => ('r', format!("disable {id} r")),
        2 if family == Family::Pair || family == Family::Sockets && id == 0 => {
            ('w', format!("write {id} {n}"))
        }
        3 => ('R', format!("enable {id} r")),
        4 => ('r', format!("read {id} 10000")),
        // Not in a read or write callback: which of the two comes first within a turn is open.
        5 if read => (random.of(&['R', 'W']), format!("free {id}")),
        _ => return None,
    })
}
