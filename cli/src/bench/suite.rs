//! The suites: what is measured, on which work, and what evring's ratios are wanted to be.
//!
//! All of it is data. A goal is a bound on evring's figure divided by the peer's.

use std::time::Duration;

use clap::ValueEnum;

use super::measure::rate::Direction;
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

/// What the servers do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Work {
    Load(Load),
    Bulk,
    Accept,
    Idle,
    Pair,
    Buffer,
    Rate(RateLimit),
}

/// Streams through a proxy that limits them all together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    pub direction: Direction,
    pub connections: usize,
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
    /// A proxy that understands the options of rate limits.
    LimitingProxy,
    /// A pair of bufferevents in one process.
    Pair,
    /// Both libraries' buffers in one process.
    Buffer,
}

/// Connections of the cases with many.
pub const MANY: u32 = 9000;

/// Idle connections whose memory is measured: of a fifth of them the server's own is told.
pub const IDLE_CONNECTIONS: usize = 2500;

/// The rate of the limits, bytes a second, and how often a tick's bytes become available.
pub const LIMIT_RATE: u64 = 20_000_000;
pub const LIMIT_TICK: Duration = Duration::from_millis(100);

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

impl Work {
    /// What the servers of it are.
    pub fn kind(self) -> Kind {
        match self {
            Self::Load(load) => load.kind,
            Self::Bulk => Kind::Proxy,
            Self::Accept | Self::Idle => Kind::Echo,
            Self::Pair => Kind::Pair,
            Self::Buffer => Kind::Buffer,
            Self::Rate(_) => Kind::LimitingProxy,
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
            Self::Pair => "64 B there and back over a pair, one thread".to_owned(),
            Self::Buffer => "operations on a buffer, both libraries in one process".to_owned(),
            Self::Rate(limit) => limit.title(),
        }
    }

    /// Thousands of connections take longer to settle.
    pub fn time_factor(self) -> f64 {
        match self {
            Self::Load(load) if load.connections == MANY => 2.0,
            // Many ticks.
            Self::Rate(_) => 4.0,
            _ => 1.0,
        }
    }

    /// Less than that measures nothing.
    pub fn least_time(self) -> Duration {
        match self {
            Self::Rate(_) => 12 * LIMIT_TICK,
            _ => Duration::ZERO,
        }
    }

    /// Whether system calls are counted: where the connections' own few do not matter.
    pub fn counts_syscalls(self) -> bool {
        matches!(self, Self::Load(load) if load.connections <= 64 && !load.spin)
    }

    /// Roughly what starting, connecting and ending take on top of the time measured.
    pub fn overhead(self) -> Duration {
        match self {
            Self::Load(load) => {
                Duration::from_millis(150) + Duration::from_micros(150) * load.connections
            }
            Self::Idle => Duration::from_millis(500),
            Self::Bulk | Self::Accept | Self::Rate(_) => Duration::from_millis(150),
            Self::Pair => Duration::from_millis(100),
            Self::Buffer => Duration::from_millis(500),
        }
    }
}

impl RateLimit {
    fn title(&self) -> String {
        let direction = match self.direction {
            Direction::Read => "from clients",
            Direction::Write => "to clients",
        };
        format!(
            "{} through a proxy that lets {} MB/s {direction} pass, as fast as they are let",
            crate::units::count(self.connections, "stream"),
            LIMIT_RATE / 1_000_000
        )
    }
}

impl Load {
    fn title(&self, rate: Option<f64>) -> String {
        let kind = match self.kind {
            Kind::Echo => "echo",
            _ => "proxy",
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
