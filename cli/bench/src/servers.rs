//! The servers that take turns: which there are, how they are started, and why one cannot be.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use evring_cli_common::failure::Failure;

use super::Bench;
use super::interrupt::Stop;
use super::measure::external::{self, External, Installed};
use super::process::Serving;
use super::workload::{Kind, Work};

/// The one that the others are baselines of.
pub const SUBJECT: &str = "evring";

/// A server of one kind.
#[derive(Debug, Clone)]
pub struct Server {
    pub name: String,
    program: Program,
    /// Whether it understands `--spin`.
    pub can_spin: bool,
}

#[derive(Debug, Clone)]
enum Program {
    /// Takes `--listen` and, as a proxy, `--upstream`, and says when it listens.
    Ours(Vec<String>),
    /// Takes a configuration file, and says nothing.
    Foreign(Installed),
    /// Is a part of this command.
    Here,
}

/// A peer of ours: its name, its binary, whether it can spin.
type Peer = (&'static str, &'static str, bool);

const ECHO_PEERS: &[Peer] = &[
    ("libevent", "libevent-echo", false),
    ("tokio", "tokio-echo", false),
    ("monoio", "monoio-echo", false),
    ("epoll", "epoll-echo", true),
    ("floor", "floor-echo", true),
];

const PROXY_PEERS: &[Peer] = &[
    ("libevent", "libevent-proxy", false),
    ("tokio", "tokio-proxy", false),
    ("floor", "floor-proxy", true),
];

const LIMITING_PEERS: &[Peer] = &[("libevent", "libevent-proxy", false)];

const PAIR_PEERS: &[Peer] = &[("libevent", "libevent-pair", false)];

/// It links both libraries and takes their turns by itself.
const BUFFER_PEERS: &[Peer] = &[("libevent", "evring-evbuffer-peer", false)];

const FOREIGN: &[(&str, External)] = &[
    ("haproxy", External::HaProxy),
    ("haproxy-splice", External::HaProxySplice),
    ("nginx", External::Nginx),
];

/// Every name that stands for a server of some kind.
pub fn names() -> Vec<&'static str> {
    let ours = ECHO_PEERS.iter().chain(PROXY_PEERS).map(|peer| peer.0);
    let foreign = FOREIGN.iter().map(|(name, _)| *name);
    let mut names: Vec<_> = [SUBJECT].into_iter().chain(ours).chain(foreign).collect();
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(*name));
    names
}

/// Whether the name stands for a binary that is built along with the project.
pub fn is_built_here(name: &str) -> bool {
    let mut peers = ECHO_PEERS.iter().chain(PROXY_PEERS);
    peers.any(|peer| peer.0 == name)
}

/// The server of that name and kind. `None` where there is no such kind of it.
///
/// # Errors
/// Why it cannot be had, and what to do about it.
pub fn find(name: &str, kind: Kind, peers: &Path, evring: &str) -> Option<Result<Server, Failure>> {
    let ours = |command, can_spin| Server {
        name: name.to_owned(),
        program: Program::Ours(command),
        can_spin,
    };
    let (list, command) = match kind {
        Kind::Echo => (ECHO_PEERS, "echo"),
        Kind::Proxy => (PROXY_PEERS, "proxy"),
        Kind::LimitingProxy => (LIMITING_PEERS, "proxy"),
        Kind::Pair => (PAIR_PEERS, "pair"),
        Kind::Buffer => (BUFFER_PEERS, "buffer"),
    };
    if name == SUBJECT && matches!(kind, Kind::Pair | Kind::Buffer) {
        let here = Server {
            name: name.to_owned(),
            program: Program::Here,
            can_spin: false,
        };
        return Some(Ok(here));
    }
    if name == SUBJECT {
        return Some(Ok(ours(vec![evring.to_owned(), command.to_owned()], true)));
    }
    if let Some(&(_, binary, can_spin)) = list.iter().find(|peer| peer.0 == name) {
        let path = peers.join(binary);
        return Some(match path.is_file() {
            true => Ok(ours(vec![path.display().to_string()], can_spin)),
            false => Err(Failure::line(format!(
                "{} is not built (cargo build --release -p evring-peers -p evring-evbuffer-peer)",
                path.display()
            ))),
        });
    }
    let &(_, proxy) = FOREIGN
        .iter()
        .find(|(n, _)| *n == name && kind == Kind::Proxy)?;
    Some(external::find(proxy).map(|installed| Server {
        name: name.to_owned(),
        program: Program::Foreign(installed),
        can_spin: false,
    }))
}

/// A server that the user named, started by a command line.
pub fn custom(name: &str, command: &str) -> Server {
    let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    Server {
        name: name.to_owned(),
        // Another build of the command itself spins as well.
        can_spin: words.first().is_some_and(|program| {
            PathBuf::from(program)
                .file_name()
                .is_some_and(|name| name == SUBJECT)
        }),
        program: Program::Ours(words),
    }
}

/// How long one try to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

impl Server {
    /// The command line, as far as it is the same for every run.
    pub fn command(&self) -> Vec<String> {
        match &self.program {
            Program::Ours(words) => words.clone(),
            Program::Foreign(_) => vec![self.name.clone()],
            Program::Here => Vec::new(),
        }
    }

    /// The file of a program that is run to its end; none where it is a part of this command.
    pub fn file(&self) -> Option<&Path> {
        match &self.program {
            Program::Ours(words) => words.first().map(Path::new),
            Program::Foreign(_) | Program::Here => None,
        }
    }

    /// Whether it is worth a turn at `work`: splicing is for long streams.
    pub fn fits(&self, work: Work) -> bool {
        self.name != "haproxy-splice" || work == Work::Bulk
    }

    /// The same server with more arguments.
    pub fn with(&self, arguments: impl IntoIterator<Item = String>) -> Self {
        let mut server = self.clone();
        if let Program::Ours(words) = &mut server.program {
            words.extend(arguments);
        }
        server
    }

    /// Starts it on the server's core.
    ///
    /// # Errors
    /// When it does not come to listen.
    pub fn start(
        &self,
        bench: &Bench,
        upstream: Option<&str>,
        spin: bool,
    ) -> Result<Serving, Stop> {
        self.start_on(bench, bench.cores.server, upstream, spin)
    }

    /// Starts it on any core.
    ///
    /// # Errors
    /// When it does not come to listen.
    pub fn start_on(
        &self,
        bench: &Bench,
        core: usize,
        upstream: Option<&str>,
        spin: bool,
    ) -> Result<Serving, Stop> {
        match &self.program {
            Program::Ours(words) => {
                let mut words = words.clone();
                words.extend(["--listen".to_owned(), "127.0.0.1:0".to_owned()]);
                if let Some(upstream) = upstream {
                    words.extend(["--upstream".to_owned(), upstream.to_owned()]);
                }
                if spin && self.can_spin {
                    words.push("--spin".to_owned());
                }
                let command = bench.launcher.command(core, &words);
                Serving::start(&self.name, command, &bench.interrupt)
            }
            Program::Here => Err(Failure::new(&self.name, "is no server").into()),
            Program::Foreign(installed) => {
                let upstream = upstream.and_then(|upstream| upstream.parse::<SocketAddr>().ok());
                let upstream =
                    upstream.ok_or_else(|| Failure::new(&self.name, "needs an upstream"))?;
                let prepared = installed.prepare(upstream)?;
                let plain = prepared.command();
                let words: Vec<String> = [plain.get_program()]
                    .into_iter()
                    .chain(plain.get_args())
                    .map(|word| word.to_string_lossy().into_owned())
                    .collect();
                let command = bench.launcher.command(core, &words);
                let listen = prepared.listen;
                let accepts = || TcpStream::connect_timeout(&listen, CONNECT_TIMEOUT).is_ok();
                Serving::start_silent(&self.name, command, &bench.interrupt, prepared, accepts)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_not_built_names_the_cure() {
        let found = find("floor", Kind::Proxy, Path::new("/nowhere"), "evring").expect("a proxy");
        let why = found.expect_err("not there").to_string();
        assert!(
            why.contains("/nowhere/floor-proxy") && why.contains("cargo build"),
            "{why}"
        );
        assert!(find("monoio", Kind::Proxy, Path::new("/nowhere"), "evring").is_none());
        assert!(find("nginx", Kind::Echo, Path::new("/nowhere"), "evring").is_none());
    }

    #[test]
    fn evring_is_itself() {
        let found = find(SUBJECT, Kind::Proxy, Path::new("/nowhere"), "/bin/evring");
        let server = found.expect("known").expect("there");
        assert_eq!(server.command(), ["/bin/evring", "proxy"]);
        assert!(custom("old", "/tmp/evring echo --threads 1").can_spin);
        assert!(!custom("other", "/tmp/other").can_spin);
        assert_eq!(names()[0], SUBJECT);
    }
}
