//! Resource limits and CPU affinity.

use super::check;
use std::{io, mem};

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

/// Sets how many descriptors the process may have open.
///
/// # Errors
///
/// `EPERM` when the hard limit is raised without the privilege, `EINVAL` when the soft limit exceeds the hard one.
pub fn set_open_files(limit: Limit) -> io::Result<()> {
    set(libc::RLIMIT_NOFILE, limit)
}

/// Raises the soft limit of open descriptors to the hard one; gives the limit that now holds.
pub fn raise_open_files() -> io::Result<Limit> {
    let limit = open_files()?;
    let raised = Limit {
        soft: limit.hard,
        ..limit
    };
    if raised != limit {
        set_open_files(raised)?;
    }
    Ok(raised)
}

/// How many bytes the process may lock into memory (`RLIMIT_MEMLOCK`); rings, buffer rings and fixed
/// buffers count against it.
pub fn locked_memory_bytes() -> io::Result<Limit> {
    get(libc::RLIMIT_MEMLOCK)
}

/// Pins the calling thread to one CPU.
///
/// # Errors
///
/// `EINVAL` if there is no such CPU or the process may not use it.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: cpu_set_t is plain bits, all zeroes is the empty set; the number is below its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        set
    };
    // SAFETY: pointer and size describe the set; 0 means the calling thread.
    check(unsafe { libc::sched_setaffinity(0, mem::size_of_val(&set), &raw const set) }).map(drop)
}

/// The CPUs that the calling thread may run on, in rising order.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: cpu_set_t is plain bits, all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: pointer and size describe the set; 0 means the calling thread.
    check(unsafe { libc::sched_getaffinity(0, mem::size_of_val(&set), &raw mut set) })?;
    let in_set = |cpu: &usize| {
        // SAFETY: the number is below the size of the set.
        unsafe { libc::CPU_ISSET(*cpu, &set) }
    };
    Ok((0..libc::CPU_SETSIZE as usize).filter(in_set).collect())
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

fn set(resource: libc::__rlimit_resource_t, limit: Limit) -> io::Result<()> {
    let raw = libc::rlimit {
        rlim_cur: limit.soft,
        rlim_max: limit.hard,
    };
    // SAFETY: reads `raw`.
    check(unsafe { libc::setrlimit(resource, &raw const raw) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_raised() {
        let limit = open_files().expect("limit");
        assert!(limit.soft > 0 && limit.soft <= limit.hard);
        assert_eq!(raise_open_files().expect("raise").soft, limit.hard);
        assert!(locked_memory_bytes().is_ok());
    }

    #[test]
    fn a_thread_can_be_pinned_and_a_missing_cpu_is_an_error() {
        std::thread::spawn(|| {
            let cpus = allowed_cpus().expect("cpus");
            pin_to_cpu(cpus[0]).expect("pin");
            assert_eq!(allowed_cpus().expect("cpus"), vec![cpus[0]]);
            assert!(pin_to_cpu(usize::MAX).is_err());
        })
        .join()
        .expect("no panic in the pinned thread");
    }
}
