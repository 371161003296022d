//! What will be run: the cases asked for, with the servers that are there.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use evring_cli_common::failure::Failure;

use super::Bench;
use super::args::BenchArgs;
use super::interrupt::Stop;
use super::servers::{self, SUBJECT, Server};
use super::suite::{Case, Suite, cases};
use super::upstream::Upstream;
use super::work;
use super::workload::{Kind, Work};

/// A case and who takes turns in it. The first is compared with all others.
#[derive(Debug)]
pub struct Planned {
    pub case: Case,
    pub contenders: Vec<Contender>,
}

/// A server, and what it does.
#[derive(Debug, Clone)]
pub struct Contender {
    pub name: String,
    pub server: Server,
    pub work: Work,
}

/// The cases that `args` ask for.
///
/// # Errors
/// When there is none of a name.
pub fn chosen(args: &BenchArgs) -> Result<Vec<Case>, Failure> {
    let mut cases = cases();
    cases.retain(|case| args.suites.contains(&Suite::All) || args.suites.contains(&case.suite));
    if args.cases.is_empty() {
        cases.retain(|case| !(args.quick && case.slow));
        return Ok(cases);
    }
    if let Some(unknown) = args
        .cases
        .iter()
        .find(|name| cases.iter().all(|c| c.name != **name))
    {
        let names: Vec<_> = cases.iter().map(|case| case.name).collect();
        let there = names.join(", ");
        return Err(Failure::line(format!(
            "no case of these suites is called {unknown}; there are {there}"
        )));
    }
    cases.retain(|case| args.cases.iter().any(|name| name == case.name));
    Ok(cases)
}

/// Whether one of the servers asked for is built along with the project.
pub fn needs_peers(args: &BenchArgs) -> bool {
    args.servers.is_empty() || args.servers.iter().any(|name| servers::is_built_here(name))
}

/// Checks the names of `--servers`.
///
/// # Errors
/// When there is none of a name.
pub fn check_names(args: &BenchArgs) -> Result<(), Failure> {
    let known = |name: &String| {
        servers::names().contains(&name.as_str()) || args.custom.iter().any(|(n, _)| n == name)
    };
    match args.servers.iter().find(|name| !known(name)) {
        None => Ok(()),
        Some(unknown) => Err(Failure::line(format!(
            "no server is called {unknown}; there are {}",
            servers::names().join(", ")
        ))),
    }
}

/// Finds the servers of each case and tries each of them once. Gives what can be run, and a line
/// for each server or case that cannot.
///
/// # Errors
/// When a server that was asked for by name cannot be had, or a signal comes.
pub fn plan(
    bench: &Bench,
    args: &BenchArgs,
    peers: &Path,
    cases: Vec<Case>,
) -> Result<(Vec<Planned>, Vec<String>), Stop> {
    let mut left_out = Vec::new();
    let mut of_kind: HashMap<Kind, Vec<Server>> = HashMap::new();
    let mut planned = Vec::new();
    for case in cases {
        let kind = case.work.kind();
        let there = match of_kind.entry(kind) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                place.insert(servers_of(bench, args, peers, kind, &mut left_out)?)
            }
        };
        let contenders = contenders(&case, there);
        match contenders.len() {
            2.. => planned.push(Planned { case, contenders }),
            _ => left_out.push(format!(
                "{} is left out: it takes two to compare",
                case.name
            )),
        }
    }
    Ok((planned, left_out))
}

/// The servers of a kind that are there and start.
fn servers_of(
    bench: &Bench,
    args: &BenchArgs,
    peers: &Path,
    kind: Kind,
    left_out: &mut Vec<String>,
) -> Result<Vec<Server>, Stop> {
    let is_wanted = |name: &str| args.servers.is_empty() || args.servers.iter().any(|n| n == name);
    let known = servers::names().into_iter().filter_map(|name| {
        let found = servers::find(name, kind, peers, &bench.evring)?;
        Some((name.to_owned(), found))
    });
    // Those are servers; pairs and buffers have none.
    let serves = !matches!(kind, Kind::Pair | Kind::Buffer);
    let custom = args.custom.iter().filter(|_| serves);
    let custom = custom.map(|(name, command)| (name.clone(), Ok(servers::custom(name, command))));
    let mut there = Vec::new();
    for (name, found) in known.chain(custom).filter(|(name, _)| is_wanted(name)) {
        let tried = match found {
            Ok(server) => try_out(bench, &server, kind).map(|()| server),
            Err(failure) => Err(failure.into()),
        };
        match tried {
            Ok(server) => there.push(server),
            Err(Stop::Failed(why)) => {
                // What a process said has its name already.
                let why = why.to_string();
                let why = why.strip_prefix(&format!("{name}: ")).unwrap_or(&why);
                if !args.servers.is_empty() || name == SUBJECT {
                    return Err(Failure::new(name, why).into());
                }
                left_out.push(format!("{name} is left out: {why}"));
            }
            Err(Stop::Interrupted) => return Err(Stop::Interrupted),
        }
    }
    // In the order asked for; evring, or else the first, is the subject.
    there.sort_by_key(|server| {
        let place = args.servers.iter().position(|name| *name == server.name);
        (server.name != SUBJECT, place)
    });
    Ok(there)
}

/// Starts a server and ends it again: what is missing on this machine shows before the rounds.
fn try_out(bench: &Bench, server: &Server, kind: Kind) -> Result<(), Stop> {
    if let Kind::Pair | Kind::Buffer = kind {
        return Ok(work::try_program(server, kind)?);
    }
    let upstream = Upstream::start(bench, kind)?;
    let serving = server.start(bench, upstream.address(), false)?;
    serving.stop(&bench.interrupt)?;
    upstream.stop(&bench.interrupt)
}

fn contenders(case: &Case, servers: &[Server]) -> Vec<Contender> {
    let of = |server: &Server, work: Work, name: String| Contender {
        name,
        server: server.clone(),
        work,
    };
    match (case.against, servers.first()) {
        (Some(other), Some(subject)) => [case.work, other]
            .into_iter()
            .map(|work| of(subject, work, variant(&subject.name, work)))
            .collect(),
        _ => servers
            .iter()
            .filter(|server| server.fits(case.work))
            .map(|server| of(server, case.work, server.name.clone()))
            .collect(),
    }
}

/// The name of a server that is compared with itself.
fn variant(name: &str, work: Work) -> String {
    match work {
        Work::Load(load) => format!("{name} × {}", load.connections),
        _ => name.to_owned(),
    }
}
