//! The suites: what is measured, on which work, and what evring's ratios are wanted to be.
//!
//! All of it is data. A goal is a bound on evring's figure divided by the peer's.

use clap::ValueEnum;

use super::measure::rate::Direction;
use super::metric::Metric;
use super::verdict::Goal;
use super::workload::{Kind, LARGE, Load, MANY, RateLimit, Work};

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Messages to an echo server
    Echo,
    /// Messages through a proxy
    Proxy,
    /// One long stream through a proxy, one way
    Bulk,
    /// Connections that are accepted, answered once and closed
    Accept,
    /// Memory of a connection that says nothing more
    Idle,
    /// Messages over a pair in one thread
    Pair,
    /// Operations on a buffer
    Buffer,
    /// Proxies with a rate limit
    Rate,
    /// All of them
    All,
}

/// One comparison.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: &'static str,
    pub suite: Suite,
    pub work: Work,
    /// The figure that the case is about.
    pub metric: Metric,
    /// Other figures whose ratios are worth a look.
    pub others: &'static [Metric],
    /// By peer.
    pub goals: &'static [(&'static str, Goal)],
    /// Bounds on evring's own figures.
    pub limits: &'static [(Metric, Goal)],
    /// Another work of the same server to compare with, instead of other servers.
    pub against: Option<Work>,
    /// A quick comparison leaves it out, others give it fewer rounds.
    pub slow: bool,
}

const ECHO: Load = Load {
    kind: Kind::Echo,
    size: 64,
    connections: 64,
    spin: false,
    load_spins: false,
};

const PROXY: Load = Load {
    kind: Kind::Proxy,
    ..ECHO
};

const LATENCIES: &[Metric] = &[Metric::MessagesPerSecond, Metric::P50Us, Metric::P99Us];

use Goal::{AtLeast, AtMost};

/// Every case there is, in the order in which they are run.
pub fn cases() -> Vec<Case> {
    let load = |name, load: Load, goals| Case {
        name,
        suite: match load.kind {
            Kind::Echo => Suite::Echo,
            _ => Suite::Proxy,
        },
        work: Work::Load(load),
        metric: Metric::CpuUsPerMessage,
        others: LATENCIES,
        goals,
        limits: &[],
        against: None,
        slow: load.connections == MANY,
    };
    let echo = |connections| Load {
        connections,
        ..ECHO
    };
    let scaling = |name, connections| Case {
        slow: true,
        ..load(name, echo(connections), &[])
    };
    let ping_pong = |name, kind: Load, goals| Case {
        metric: Metric::P50Us,
        others: &[Metric::P99Us, Metric::CpuUsPerMessage],
        ..load(
            name,
            Load {
                connections: 1,
                spin: true,
                ..kind
            },
            goals,
        )
    };
    let both_spin = |kind| Load {
        load_spins: true,
        ..kind
    };
    let other = |name, suite, work, metric, others, goals| Case {
        name,
        suite,
        work,
        metric,
        others,
        goals,
        limits: &[],
        against: None,
        slow: false,
    };
    let rate = |name, direction, connections| Case {
        slow: connections > 1,
        ..other(
            name,
            Suite::Rate,
            Work::Rate(RateLimit {
                direction,
                connections,
            }),
            Metric::CpuUsPerMegabyte,
            &[],
            &[],
        )
    };
    vec![
        Case {
            limits: &[(Metric::SyscallsPerMessage, AtMost(0.1))],
            ..load(
                "echo-64",
                ECHO,
                &[
                    ("libevent", AtMost(0.62)),
                    ("tokio", AtMost(0.95)),
                    ("floor", AtMost(1.03)),
                ],
            )
        },
        load(
            "echo-16k",
            Load {
                size: LARGE,
                ..ECHO
            },
            &[
                ("libevent", AtMost(0.20)),
                ("epoll", AtMost(1.03)),
                ("floor", AtMost(1.03)),
            ],
        ),
        scaling("echo-1", echo(1).connections),
        scaling("echo-8", 8),
        scaling("echo-512", 512),
        load(
            "echo-9000",
            echo(MANY),
            &[
                ("libevent", AtMost(0.62)),
                ("epoll", AtMost(0.92)),
                ("floor", AtMost(1.05)),
            ],
        ),
        Case {
            against: Some(Work::Load(ECHO)),
            ..load("echo-scaling", echo(MANY), &[("evring × 64", AtMost(1.35))])
        },
        ping_pong("echo-pingpong", ECHO, &[("libevent", AtMost(0.33))]),
        // How long the load generator takes to wake is no server's doing.
        ping_pong(
            "echo-pingpong-both",
            both_spin(ECHO),
            &[("libevent", AtMost(0.33))],
        ),
        load(
            "proxy-64",
            PROXY,
            &[
                ("libevent", AtMost(0.58)),
                ("haproxy", AtMost(0.78)),
                ("nginx", AtMost(0.83)),
                ("floor", AtMost(1.03)),
            ],
        ),
        load(
            "proxy-16k",
            Load {
                size: LARGE,
                ..PROXY
            },
            &[
                ("libevent", AtMost(0.26)),
                ("nginx", AtMost(0.85)),
                ("floor", AtMost(1.03)),
            ],
        ),
        ping_pong("proxy-pingpong", PROXY, &[("libevent", AtMost(0.36))]),
        ping_pong(
            "proxy-pingpong-both",
            both_spin(PROXY),
            &[("libevent", AtMost(0.36))],
        ),
        other(
            "bulk",
            Suite::Bulk,
            Work::Bulk,
            Metric::BytesPerCpuSecond,
            &[Metric::BytesPerSecond],
            &[("haproxy-splice", AtLeast(1.0))],
        ),
        other(
            "accept",
            Suite::Accept,
            Work::Accept,
            Metric::CpuUsPerConnection,
            &[Metric::ConnectionsPerSecond],
            &[("libevent", AtMost(0.8))],
        ),
        other(
            "idle",
            Suite::Idle,
            Work::Idle,
            Metric::BytesPerConnection,
            &[],
            &[("libevent", AtMost(0.55))],
        ),
        other(
            "pair",
            Suite::Pair,
            Work::Pair,
            Metric::NsPerRoundTrip,
            &[],
            &[("libevent", AtMost(0.6))],
        ),
        // Its goals come with its figures.
        other(
            "buffer",
            Suite::Buffer,
            Work::Buffer,
            Metric::EvBufferNs,
            &[],
            &[],
        ),
        rate("rate-read-1", Direction::Read, 1),
        rate("rate-read-30", Direction::Read, 30),
        rate("rate-write-30", Direction::Write, 30),
        rate("rate-read-1000", Direction::Read, 1000),
    ]
}

impl Suite {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Proxy => "proxy",
            Self::Bulk => "bulk",
            Self::Accept => "accept",
            Self::Idle => "idle",
            Self::Pair => "pair",
            Self::Buffer => "buffer",
            Self::Rate => "rate",
            Self::All => "all",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_suite_has_a_case() {
        let cases = cases();
        let mut names: Vec<_> = cases.iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), cases.len());
        for suite in Suite::value_variants() {
            let has = cases.iter().any(|case| case.suite == *suite);
            assert!(has || *suite == Suite::All, "{suite:?}");
        }
    }
}
