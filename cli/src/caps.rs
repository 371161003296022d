//! `evring caps`: what this kernel gives, and what is used instead of what it lacks.

use std::collections::BTreeMap;

use evring::EventBase;
use evring::ring::{Cap, Caps};
use evring_cli_common::console::print_line;
use evring_cli_common::failure::Failure;
use serde::Serialize;

use crate::args::CapsArgs;

/// Runs the command.
pub fn run(args: &CapsArgs) -> Result<(), Failure> {
    let base = EventBase::new().map_err(|error| Failure::line(error.to_string()))?;
    let caps = base.caps();
    match args.json {
        true => {
            print_line(&serde_json::to_string(&Report::of(&caps)).expect("no map has odd keys"))
        }
        false => print_line(caps.to_string().trim_end()),
    }
    Ok(())
}

/// The report for machines.
#[derive(Debug, Serialize)]
struct Report {
    linux: String,
    abilities: BTreeMap<&'static str, Ability>,
}

#[derive(Debug, Serialize)]
struct Ability {
    /// The kernel has it.
    found: bool,
    /// evring uses it.
    used: bool,
    /// This release is known to have it broken.
    known_bad: bool,
}

impl Report {
    fn of(caps: &Caps) -> Self {
        let abilities = Cap::all().iter().filter_map(|cap| {
            let ability = Ability {
                found: caps.found().contains(cap),
                used: caps.has(cap),
                known_bad: caps.distrusted().contains(cap),
            };
            Some((cap.name()?, ability))
        });
        Self {
            linux: caps.release().to_string(),
            abilities: abilities.collect(),
        }
    }
}
