//! What is measured of a server: names, units, and which way is better.

use evring_cli_common::units;
use serde::{Deserialize, Serialize};

/// A figure of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// CPU time of all of the server's threads for each message.
    CpuUsPerMessage,
    /// Messages that came back in a second.
    MessagesPerSecond,
    /// Latency percentiles, from the write (open loop: the moment it was due) to the last byte.
    P50Us,
    P99Us,
    P999Us,
    MaxUs,
    /// Bytes passed on for each second of the proxy's CPU time, and each second.
    BytesPerCpuSecond,
    BytesPerSecond,
    /// CPU time of the server from accept to close, and how many there are in a second.
    CpuUsPerConnection,
    ConnectionsPerSecond,
    /// User memory of the server.
    BytesPerConnection,
    /// CPU time of the thread for a message there and back over a pair.
    NsPerRoundTrip,
    /// CPU time of an operation on a buffer, of evring and of libevent.
    EvBufferNs,
    EvbufferNs,
    /// How far a limited proxy's rate is from its limit.
    RateErrorPercent,
    /// Jain's index over the limited connections.
    Fairness,
    /// CPU time of a limited proxy.
    CpuUsPerMegabyte,
    /// System calls of the server, counted in a run of their own.
    SyscallsPerMessage,
}

impl Metric {
    /// The heading of its column.
    pub fn heading(self) -> &'static str {
        match self {
            Self::CpuUsPerMessage => "CPU µs/msg",
            Self::MessagesPerSecond => "messages/s",
            Self::P50Us => "p50 µs",
            Self::P99Us => "p99 µs",
            Self::P999Us => "p99.9 µs",
            Self::MaxUs => "max µs",
            Self::BytesPerCpuSecond => "bytes/CPU s",
            Self::BytesPerSecond => "bytes/s",
            Self::CpuUsPerConnection => "CPU µs/conn",
            Self::ConnectionsPerSecond => "conns/s",
            Self::BytesPerConnection => "bytes/conn",
            Self::NsPerRoundTrip => "ns/round trip",
            Self::EvBufferNs => "EvBuffer ns",
            Self::EvbufferNs => "evbuffer ns",
            Self::RateErrorPercent => "rate error %",
            Self::Fairness => "Jain",
            Self::CpuUsPerMegabyte => "CPU µs/MB",
            Self::SyscallsPerMessage => "syscalls/msg",
        }
    }

    /// What the heading stands for.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::CpuUsPerMessage => "server CPU time a message, all threads",
            Self::MessagesPerSecond => "messages that came back in a second",
            Self::P50Us => "median latency",
            Self::P99Us => "latency that 1 % of the messages exceed",
            Self::P999Us => "latency that 0.1 % of the messages exceed",
            Self::MaxUs => "slowest message",
            Self::BytesPerCpuSecond => "bytes passed on for a second of CPU time",
            Self::BytesPerSecond => "bytes passed on in a second",
            Self::CpuUsPerConnection => "server CPU time a connection, from accept to close",
            Self::ConnectionsPerSecond => "connections made, answered and closed in a second",
            Self::BytesPerConnection => "user memory of the server for one more connection",
            Self::NsPerRoundTrip => "CPU time of the thread for a message there and back",
            Self::EvBufferNs => "CPU time of one operation on evring's buffer",
            Self::EvbufferNs => "CPU time of one operation on libevent's buffer",
            Self::RateErrorPercent => "how much faster than its limit the proxy was",
            Self::Fairness => "Jain's index, 1 for equal shares",
            Self::CpuUsPerMegabyte => "proxy CPU time for a megabyte",
            Self::SyscallsPerMessage => {
                "system calls of the server for a message, counted in a run of their own"
            }
        }
    }

    /// Whether a smaller value is the better one.
    pub fn less_is_better(self) -> bool {
        !matches!(
            self,
            Self::MessagesPerSecond
                | Self::BytesPerCpuSecond
                | Self::BytesPerSecond
                | Self::ConnectionsPerSecond
                | Self::Fairness
        )
    }

    /// A value as the tables show it.
    pub fn format(self, value: f64) -> String {
        match self {
            Self::CpuUsPerMessage | Self::CpuUsPerConnection => format!("{value:.2}"),
            Self::BytesPerCpuSecond | Self::BytesPerSecond => units::bytes(value),
            Self::MessagesPerSecond | Self::ConnectionsPerSecond | Self::BytesPerConnection => {
                units::grouped(value.round() as u64)
            }
            Self::NsPerRoundTrip | Self::EvBufferNs | Self::EvbufferNs | Self::CpuUsPerMegabyte => {
                format!("{value:.1}")
            }
            Self::RateErrorPercent => format!("{value:+.2}"),
            Self::Fairness => format!("{value:.4}"),
            Self::SyscallsPerMessage => format!("{value:.3}"),
            Self::P50Us | Self::P99Us | Self::P999Us | Self::MaxUs => match value {
                v if v < 1000.0 => format!("{v:.1}"),
                v => units::grouped(v.round() as u64),
            },
        }
    }
}
