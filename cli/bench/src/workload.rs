//! What the servers of a case do, and for how long.

use std::time::Duration;

use super::measure::rate::Direction;

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
    /// Whether servers that can spin do.
    pub spin: bool,
    /// Whether the load generator does: how long it takes to be woken is then no part of a latency.
    pub load_spins: bool,
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

/// The size of large messages.
pub const LARGE: usize = 16 * 1024;

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
            evring_cli_common::units::count(self.connections, "stream"),
            LIMIT_RATE / 1_000_000
        )
    }
}

impl Kind {
    /// Whether it has an upstream.
    pub fn is_proxy(self) -> bool {
        matches!(self, Self::Proxy | Self::LimitingProxy)
    }
}

impl Load {
    /// Whether the load generator is the proxy's upstream as well: one that spins leaves its core
    /// to nobody.
    pub fn load_is_upstream(&self) -> bool {
        self.load_spins && self.kind.is_proxy()
    }

    /// Whether the load generator has its core to itself: no upstream shares it.
    pub fn load_is_alone(&self) -> bool {
        self.load_spins || !self.kind.is_proxy()
    }

    fn title(&self, rate: Option<f64>) -> String {
        let kind = match self.kind {
            Kind::Echo => "echo",
            _ => "proxy",
        };
        let connections = evring_cli_common::units::count(self.connections as usize, "connection");
        let size = match self.size {
            LARGE => "16 KiB".to_owned(),
            size => format!("{size} B"),
        };
        let spin = match (self.spin, self.load_spins) {
            (true, true) => ", spinning at both ends",
            (true, false) => ", spinning",
            (false, _) => "",
        };
        let how = match rate {
            None => "closed loop".to_owned(),
            Some(rate) => format!(
                "open loop, {} messages/s",
                evring_cli_common::units::grouped(rate as u64)
            ),
        };
        format!("{kind}, {connections}, {size}{spin}, {how}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_says_what_it_does() {
        let many = Work::Load(Load {
            kind: Kind::Echo,
            size: 64,
            connections: 9000,
            spin: false,
            load_spins: false,
        });
        assert_eq!(
            many.title(None),
            "echo, 9,000 connections, 64 B, closed loop"
        );
        let spinning = Work::Load(Load {
            connections: 1,
            spin: true,
            load_spins: false,
            size: LARGE,
            kind: Kind::Proxy,
        });
        assert_eq!(
            spinning.title(Some(20_000.0)),
            "proxy, 1 connection, 16 KiB, spinning, open loop, 20,000 messages/s"
        );
    }

    #[test]
    fn an_upstream_shares_the_loads_core_unless_it_would_have_to_spin() {
        let load = |kind, load_spins| {
            let load = Load {
                kind,
                size: 64,
                connections: 1,
                spin: true,
                load_spins,
            };
            (load.load_is_upstream(), load.load_is_alone())
        };
        assert_eq!(load(Kind::Echo, false), (false, true));
        assert_eq!(load(Kind::Echo, true), (false, true));
        assert_eq!(load(Kind::Proxy, false), (false, false));
        assert_eq!(load(Kind::Proxy, true), (true, true));
    }
}
