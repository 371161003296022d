//! Which kernel this is, and why it refuses io_uring.

use std::{fmt, fs};

/// The release of the running kernel, as far as it is comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// 6 in 6.18.2.
    pub major: u16,
    /// 18 in 6.18.2.
    pub minor: u16,
    /// 2 in 6.18.2.
    pub patch: u16,
}

impl Release {
    /// A release from its numbers.
    pub const fn new(major: u16, minor: u16, patch: u16) -> Release {
        Release {
            major,
            minor,
            patch,
        }
    }

    /// The running kernel's release; 0.0.0 if it cannot be read.
    pub fn running() -> Release {
        fs::read_to_string("/proc/sys/kernel/osrelease")
            .map_or(Release::new(0, 0, 0), |text| Release::parse(&text))
    }

    /// Reads the leading numbers of a text like `6.18.2-cloud-amd64`; what is missing is 0.
    fn parse(text: &str) -> Release {
        let mut numbers = text.split(['.', '-', '+', '_']).map(|part| {
            let digits = part.trim_end().split(|c: char| !c.is_ascii_digit()).next();
            digits.and_then(|d| d.parse().ok()).unwrap_or(0)
        });
        let mut next = || numbers.next().unwrap_or(0);
        Release::new(next(), next(), next())
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Value of the sysctl `kernel.io_uring_disabled`: 0 allowed, 1 for a group or administrators only,
/// 2 for nobody; `None` if this kernel (before 6.6) has no such sysctl.
pub fn io_uring_disabled() -> Option<u8> {
    let text = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?;
    text.trim().parse().ok()
}

/// Whether a seccomp filter restricts the calling thread.
pub fn seccomp_filtered() -> bool {
    let Ok(status) = fs::read_to_string("/proc/thread-self/status") else {
        return false;
    };
    let mode = status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"));
    mode.is_some_and(|mode| mode.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_understood() {
        let cases = [
            ("6.18.2-cloud-amd64\n", Release::new(6, 18, 2)),
            ("6.1.0-37-amd64", Release::new(6, 1, 0)),
            ("5.15.153.1-microsoft", Release::new(5, 15, 153)),
            ("6.8-rc1", Release::new(6, 8, 0)),
            ("7.0+", Release::new(7, 0, 0)),
            ("nonsense", Release::new(0, 0, 0)),
        ];
        for (text, release) in cases {
            assert_eq!(Release::parse(text), release, "{text}");
        }
        assert!(Release::new(6, 6, 17) < Release::new(6, 8, 0));
        assert!(Release::running() > Release::new(5, 0, 0));
    }
}
