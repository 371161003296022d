//! Resource limits.

use super::check;
use std::io;

/// A soft and a hard limit of the calling process. `u64::MAX` means there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is enforced now.
    pub soft: u64,
    /// How far a process without privileges may raise the soft limit.
    pub hard: u64,
}

/// How many descriptors the process may have open (`RLIMIT_NOFILE`).
pub fn open_files() -> io::Result<Limit> {
    get(libc::RLIMIT_NOFILE)
}

/// How many bytes the process may lock into memory (`RLIMIT_MEMLOCK`); rings, buffer rings and
/// fixed buffers count against it.
pub fn locked_memory_bytes() -> io::Result<Limit> {
    get(libc::RLIMIT_MEMLOCK)
}

fn get(resource: libc::__rlimit_resource_t) -> io::Result<Limit> {
    let mut raw = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: writes `raw`.
    check(unsafe { libc::getrlimit(resource, &raw mut raw) })?;
    Ok(Limit {
        soft: raw.rlim_cur,
        hard: raw.rlim_max,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let limit = open_files().expect("limit");
        assert!(limit.soft > 0 && limit.soft <= limit.hard);
        assert!(locked_memory_bytes().is_ok());
    }
}
