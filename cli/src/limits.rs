//! The limit of open files: raised as far as it goes, and what it leaves for connections.

/// Raises the soft limit of open files to the hard one. Gives the limit now in force.
///
/// A system that refuses keeps the limit it has; the accept path copes with it.
pub fn raise_open_files() -> u64 {
    let current = || rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(1024, |(soft, _)| soft);
    rlimit::increase_nofile_limit(u64::MAX).unwrap_or_else(|_| current())
}

/// Descriptors that a process needs besides its connections: standard streams, the terminal,
/// libraries, a moment's overlap while connections close.
const RESERVE: u64 = 32;

/// Descriptors of one worker: ring, listener, wake-up, signals.
const PER_WORKER: u64 = 8;

/// The part of a worker's descriptors that accepted connections beyond the limit may take.
const OVERSHOOT_PART: u64 = 8;

/// The longest backlog asked for.
const BACKLOG_MAX: u64 = 1024;

/// What a worker may take on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Connections at once.
    pub connections: usize,
    /// Connections that wait in the kernel for their turn.
    pub backlog: i32,
}

impl Capacity {
    /// What each of `workers` may take on, with connections of `fds_each` descriptors, when the
    /// process may open `open_files`.
    ///
    /// A listener accepts in bursts: by the time it is told to pause it may have taken the whole
    /// backlog, and once more while it pauses. These connections wait for a place, each with its
    /// descriptor, so the backlog is kept short enough for them not to starve the connections that
    /// are served.
    pub fn of(open_files: u64, workers: usize, fds_each: usize) -> Self {
        let workers = workers.max(1) as u64;
        let left = open_files.saturating_sub(RESERVE + workers * PER_WORKER) / workers;
        let backlog = (left / OVERSHOOT_PART / 2).clamp(1, BACKLOG_MAX);
        let connections = left.saturating_sub(2 * backlog) / fds_each.max(1) as u64;
        Self {
            connections: usize::try_from(connections).unwrap_or(usize::MAX).max(1),
            backlog: i32::try_from(backlog).expect("clamped"),
        }
    }

    /// No limit but the system's.
    pub const UNLIMITED: Self = Self {
        connections: usize::MAX,
        backlog: BACKLOG_MAX as i32,
    };
}

/// How many outgoing connections, of `fds_each` descriptors, a process can have that may open
/// `open_files`.
pub fn outgoing_connections(open_files: u64, fds_each: usize) -> usize {
    let left = open_files.saturating_sub(RESERVE + PER_WORKER);
    usize::try_from(left).unwrap_or(usize::MAX) / fds_each.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_and_a_burst_fit_the_limit() {
        for (open_files, workers, fds_each) in
            [(1024, 1, 2), (1024, 4, 3), (20_000, 1, 2), (1 << 20, 8, 1)]
        {
            let capacity = Capacity::of(open_files, workers, fds_each);
            let each = capacity.connections * fds_each + 2 * capacity.backlog as usize;
            assert!(each * workers < open_files as usize, "{capacity:?}");
            assert!(
                each * workers > open_files as usize * 8 / 10,
                "{capacity:?}"
            );
        }
        assert_eq!(Capacity::of(1 << 20, 1, 2).backlog, 1024);
    }

    #[test]
    fn there_is_always_room_for_one() {
        assert_eq!(
            Capacity::of(16, 1, 2),
            Capacity {
                connections: 1,
                backlog: 1
            }
        );
        assert!(Capacity::of(u64::MAX, 1, 2).connections > 1_000_000);
        assert_eq!(outgoing_connections(3, 1), 0);
        assert_eq!(outgoing_connections(1040, 2), 500);
    }

    #[test]
    fn the_soft_limit_reaches_the_hard_one() {
        let now = raise_open_files();
        let (soft, hard) = rlimit::getrlimit(rlimit::Resource::NOFILE).expect("a limit");
        assert_eq!(soft, hard);
        assert_eq!(now, soft);
    }
}
