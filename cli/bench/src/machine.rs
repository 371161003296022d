//! The machine: what it is, which cores to use, and whether they are free.

use std::fs;
use std::time::Duration;

use evring_cli_common::failure::Failure;
use rustix::thread::sched_getaffinity;
use serde::{Deserialize, Serialize};

/// What a figure is worth nothing without.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    pub congestion_control: String,
    /// Of the last minute, before the measurement.
    pub load_average: f64,
    /// When, in UTC.
    pub at: String,
    /// The arguments that gave the figures.
    pub command: String,
}

impl Machine {
    /// Looks at this one. What the kernel does not tell stays `unknown`.
    pub fn look() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown CPU", |(_, name)| name);
        let load = one_line("/proc/loadavg");
        Self {
            cpu: cpu.trim().to_owned(),
            cores: available_cores().len(),
            kernel: one_line("/proc/sys/kernel/osrelease"),
            congestion_control: one_line("/proc/sys/net/ipv4/tcp_congestion_control"),
            load_average: load
                .split(' ')
                .next()
                .and_then(|n| n.parse().ok())
                .unwrap_or(0.0),
            at: now(),
            command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        }
    }

    /// One line about it.
    pub fn describe(&self) -> String {
        let cores = evring_cli_common::units::count(self.cores, "core");
        format!(
            "{}, {cores}, Linux {}, TCP {}, load average {:.2}",
            self.cpu, self.kernel, self.congestion_control, self.load_average
        )
    }
}

fn one_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    match text.trim() {
        "" => "unknown".to_owned(),
        line => line.to_owned(),
    }
}

/// The date and time in UTC, from the clock's seconds: civil-from-days, Howard Hinnant,
/// "chrono-compatible low-level date algorithms".
fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    utc(since.map_or(0, |since| since.as_secs()))
}

fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = (shifted_month + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest % 3600 / 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// The cores that the server and the load generator have to themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    pub server: usize,
    pub load: usize,
}

impl Cores {
    /// The cores asked for, or two that do not share an execution unit where there are such.
    ///
    /// # Errors
    /// When there are not two, or those asked for are one or are not there.
    pub fn choose(server: Option<usize>, load: Option<usize>) -> Result<Self, Failure> {
        Self::among(&available_cores(), server, load, siblings)
    }

    fn among(
        cores: &[usize],
        server: Option<usize>,
        load: Option<usize>,
        siblings: impl Fn(usize) -> Vec<usize>,
    ) -> Result<Self, Failure> {
        if cores.len() < 2 {
            return Err(Failure::line(format!(
                "a comparison needs two cores, one for the server and one for the load; this \
                 process may use {}",
                cores.len()
            )));
        }
        let missing = [server, load].into_iter().flatten();
        if let Some(core) = missing.into_iter().find(|core| !cores.contains(core)) {
            let list: Vec<_> = cores.iter().map(usize::to_string).collect();
            return Err(Failure::line(format!(
                "core {core} is not among those this process may use: {}",
                list.join(", ")
            )));
        }
        let server = server.unwrap_or_else(|| {
            let free = cores.iter().find(|&&core| Some(core) != load);
            *free.unwrap_or(&cores[0])
        });
        let load = load.unwrap_or_else(|| {
            let shared = siblings(server);
            let others = || cores.iter().filter(|&&core| core != server);
            let apart = others().find(|core| !shared.contains(core));
            *apart.or(others().next()).unwrap_or(&cores[1])
        });
        match server == load {
            true => Err(Failure::line(format!(
                "the server and the load need a core each, not both core {server}"
            ))),
            false => Ok(Self { server, load }),
        }
    }

    /// A line about cores that other work is using.
    pub fn occupied(self) -> Option<String> {
        let before = idle_ticks();
        std::thread::sleep(BUSY_SAMPLE);
        let after = idle_ticks();
        let busy = |core: usize| {
            let (then, now) = (before.get(&core)?, after.get(&core)?);
            let total = now.total.saturating_sub(then.total);
            let idle = now.idle.saturating_sub(then.idle);
            let share = 1.0 - idle as f64 / total.max(1) as f64;
            (share > BUSY_SHARE).then(|| format!("core {core} is {:.0} % busy", share * 100.0))
        };
        let list: Vec<_> = [self.server, self.load]
            .into_iter()
            .filter_map(busy)
            .collect();
        match list.is_empty() {
            true => None,
            false => Some(format!(
                "{} with other work: expect wide intervals, and runs made again",
                list.join(" and ")
            )),
        }
    }
}

/// How long to look at the cores.
const BUSY_SAMPLE: Duration = Duration::from_millis(300);

/// More than that of a core is no background noise.
const BUSY_SHARE: f64 = 0.15;

#[derive(Debug, Clone, Copy)]
struct Ticks {
    idle: u64,
    total: u64,
}

/// Of each core, from `/proc/stat`.
fn idle_ticks() -> std::collections::BTreeMap<usize, Ticks> {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    text.lines().filter_map(core_ticks).collect()
}

/// "cpuN user nice system idle iowait …"
fn core_ticks(line: &str) -> Option<(usize, Ticks)> {
    let (core, counts) = line.strip_prefix("cpu")?.split_once(' ')?;
    let counts: Vec<u64> = counts.split(' ').filter_map(|n| n.parse().ok()).collect();
    let ticks = Ticks {
        idle: counts.get(3)? + counts.get(4)?,
        // The last two, guests, are counted in the first two already.
        total: counts.iter().take(8).sum(),
    };
    Some((core.parse().ok()?, ticks))
}

fn available_cores() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_default();
    (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|&core| set.is_set(core))
        .collect()
}

/// The hardware threads that share a core with this one, itself among them.
fn siblings(core: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
    parse_list(fs::read_to_string(path).unwrap_or_default().trim())
}

/// "0,4" or "0-1"
fn parse_list(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_798_761_599), "2026-12-31 23:59:59 UTC");
    }

    #[test]
    fn lists_of_cores_are_read() {
        assert_eq!(parse_list("0,4"), [0, 4]);
        assert_eq!(parse_list("2-4,9"), [2, 3, 4, 9]);
        assert!(parse_list("").is_empty());
    }

    #[test]
    fn two_cores_that_share_nothing_are_chosen() {
        let pairs = |core: usize| vec![core & !1, core | 1];
        let choose = |server, load| Cores::among(&[0, 1, 2, 3], server, load, pairs);
        let cores = |server, load| Cores { server, load };
        assert_eq!(choose(None, None).expect("enough"), cores(0, 2));
        assert_eq!(choose(Some(3), None).expect("enough"), cores(3, 0));
        assert_eq!(choose(None, Some(0)).expect("enough"), cores(1, 0));
        let two = Cores::among(&[4, 5], None, None, pairs).expect("all there are");
        assert_eq!(two, cores(4, 5));
    }

    #[test]
    fn too_few_wrong_and_equal_cores_are_one_line() {
        let none = |_| Vec::new();
        let why = |cores: &[usize], server, load| {
            let chosen = Cores::among(cores, server, load, none);
            chosen.expect_err("a mistake").to_string()
        };
        assert!(why(&[0], None, None).contains("two cores"));
        assert!(why(&[0, 1], Some(7), None).contains("core 7"));
        assert!(why(&[0, 1], Some(1), Some(1)).contains("a core each"));
    }

    #[test]
    fn idle_time_is_read() {
        let (core, ticks) = core_ticks("cpu3 100 0 50 800 50 0 0 0 7 0").expect("a core");
        assert_eq!((core, ticks.idle, ticks.total), (3, 850, 1000));
        assert!(core_ticks("cpu  1 2 3 4 5").is_none(), "the sum of all");
        assert!(core_ticks("intr 1 2 3").is_none());
    }
}
