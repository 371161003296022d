//! The suites: what is measured, on which work, and what evring's ratios are wanted to be.
//!
//! All of it is data. A goal is a bound on evring's figure divided by the peer's.

use std::time::Duration;

use clap::ValueEnum;

use super::metric::Metric;
use super::verdict::Goal;

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
    /// Another work of the same server to compare with, instead of other servers.
    pub against: Option<Work>,
    /// A quick comparison leaves it out.
    pub slow: bool,
}

/// What the servers do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Work {
    Load(Load),
    Bulk,
    Accept,
    Idle,
}

/// Messages out and back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    pub kind: Kind,
    pub size: usize,
    pub connections: u32,
    /// Whether servers that can spin do; the load generator sleeps.
    pub spin: bool,
}

/// What a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Echo,
    Proxy,
}

/// Connections of the cases with many.
pub const MANY: u32 = 9000;

/// Idle connections whose memory is measured: of a fifth of them the server's own is told.
pub const IDLE_CONNECTIONS: usize = 2500;

const ECHO: Load = Load {
    kind: Kind::Echo,
    size: 64,
    connections: 64,
    spin: false,
};

const PROXY: Load = Load {
    kind: Kind::Proxy,
    ..ECHO
};

const LARGE: usize = 16 * 1024;

const LATENCIES: &[Metric] = &[Metric::MessagesPerSecond, Metric::P50Us, Metric::P99Us];

use Goal::{AtLeast, AtMost};

/// Every case there is, in the order in which they are run.
pub fn cases() -> Vec<Case> {
    let load = |name, load: Load, goals| Case {
        name,
        suite: match load.kind {
            Kind::Echo => Suite::Echo,
            Kind::Proxy => Suite::Proxy,
        },
        work: Work::Load(load),
        metric: Metric::CpuUsPerMessage,
        others: LATENCIES,
        goals,
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
    let other = |name, suite, work, metric, others, goals| Case {
        name,
        suite,
        work,
        metric,
        others,
        goals,
        against: None,
        slow: false,
    };
    vec![
        load(
            "echo-64",
            ECHO,
            &[
                ("libevent", AtMost(0.62)),
                ("tokio", AtMost(0.95)),
                ("floor", AtMost(1.03)),
            ],
        ),
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
            Self::All => "all",
        }
    }
}

impl Work {
    /// What the servers of it are.
    pub fn kind(self) -> Kind {
        match self {
            Self::Load(load) => load.kind,
            Self::Bulk => Kind::Proxy,
            Self::Accept | Self::Idle => Kind::Echo,
        }
    }

    /// What is done, for people.
    pub fn title(self, rate: Option<f64>) -> String {
        match self {
            Self::Load(load) => load.title(rate),
            Self::Bulk => "one stream through a proxy, one way, every byte checked".to_owned(),
            Self::Accept => "connect, 64 B out and back, close".to_owned(),
            Self::Idle => {
                format!("{IDLE_CONNECTIONS} connections that have said one message of 64 B")
            }
        }
    }

    /// Thousands of connections take longer to settle.
    pub fn time_factor(self) -> f64 {
        match self {
            Self::Load(load) if load.connections == MANY => 2.0,
            _ => 1.0,
        }
    }

    /// Roughly what starting, connecting and ending take on top of the time measured.
    pub fn overhead(self) -> Duration {
        match self {
            Self::Load(load) => {
                Duration::from_millis(150) + Duration::from_micros(150) * load.connections
            }
            Self::Idle => Duration::from_millis(500),
            Self::Bulk | Self::Accept => Duration::from_millis(150),
        }
    }
}

impl Load {
    fn title(&self, rate: Option<f64>) -> String {
        let kind = match self.kind {
            Kind::Echo => "echo",
            Kind::Proxy => "proxy",
        };
        let connections = crate::units::count(self.connections as usize, "connection");
        let size = match self.size {
            LARGE => "16 KiB".to_owned(),
            size => format!("{size} B"),
        };
        let spin = if self.spin { ", spinning" } else { "" };
        let how = match rate {
            None => "closed loop".to_owned(),
            Some(rate) => format!(
                "open loop, {} messages/s",
                crate::units::grouped(rate as u64)
            ),
        };
        format!("{kind}, {connections}, {size}{spin}, {how}")
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

    #[test]
    fn a_case_says_what_it_does() {
        let many = Work::Load(Load {
            connections: 9000,
            ..ECHO
        });
        assert_eq!(
            many.title(None),
            "echo, 9,000 connections, 64 B, closed loop"
        );
        let spinning = Work::Load(Load {
            connections: 1,
            spin: true,
            size: LARGE,
            ..PROXY
        });
        assert_eq!(
            spinning.title(Some(20_000.0)),
            "proxy, 1 connection, 16 KiB, spinning, open loop, 20,000 messages/s"
        );
    }
}
