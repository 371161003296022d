//! What the kernel does not sort out by itself about a listening address: stale Unix socket
//! files, and a port that reuse-port would share with another program.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use evring::Addr;
use socket2::{Domain, SockAddr, Socket, Type};

/// A listening address that is ours for the taking.
#[derive(Debug)]
pub struct ListenClaim {
    socket_file: Option<SocketFile>,
}

/// How long an address in use is tried again. A ring outlives a process that was killed for a
/// moment, and a listening socket with it.
const PATIENCE: Duration = Duration::from_millis(500);

/// Between two tries.
const RETRY_AFTER: Duration = Duration::from_millis(10);

impl ListenClaim {
    /// Makes sure that nobody serves `addr`, and removes the socket file of a server that died.
    ///
    /// The kernel would not notice another program's socket where several listeners of ours
    /// share a port.
    ///
    /// # Errors
    /// `AddrInUse` when somebody serves it, after half a second; `AlreadyExists` when the path is
    /// no socket; whatever the kernel has against the address.
    pub fn check(addr: &Addr) -> io::Result<Self> {
        let start = Instant::now();
        loop {
            match try_claim(addr) {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && start.elapsed() < PATIENCE =>
                {
                    std::thread::sleep(RETRY_AFTER);
                }
                result => return result,
            }
        }
    }

    /// Notes which file the listener made, once it has bound it.
    pub fn bound(&mut self) {
        if let Some(file) = &mut self.socket_file {
            file.identity = identity(&file.path);
        }
    }
}

fn try_claim(addr: &Addr) -> io::Result<ListenClaim> {
    let socket_file = match addr {
        Addr::Unix(path) => {
            remove_stale(path)?;
            Some(SocketFile {
                path: path.clone(),
                identity: None,
            })
        }
        Addr::Inet(inet) => {
            if inet.port() != 0 {
                let probe = Socket::new(Domain::for_address(*inet), Type::STREAM, None)?;
                probe.set_reuse_address(true)?;
                probe.bind(&SockAddr::from(*inet))?;
            }
            None
        }
        _ => None,
    };
    Ok(ListenClaim { socket_file })
}

/// A socket file that is removed on drop, unless it is somebody else's by then.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // It is gone already, or the directory is not ours any more: nothing to do about it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the path exists and is not a socket",
            ));
        }
        Ok(_) => {}
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A live server with a full backlog would block us.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Ok(()) | Err(_) => Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn addr(path: &Path) -> Addr {
        Addr::unix(path).expect("a short path")
    }

    #[test]
    fn a_stale_file_goes_and_a_live_one_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let live = UnixListener::bind(&path).expect("bound");
        let error = ListenClaim::check(&addr(&path)).expect_err("in use");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(live);
        assert!(path.exists());
        ListenClaim::check(&addr(&path)).expect("stale");
        assert!(!path.exists());
    }

    #[test]
    fn another_file_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("precious");
        std::fs::write(&path, "data").expect("written");
        let error = ListenClaim::check(&addr(&path)).expect_err("not a socket");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(path.exists());
    }

    #[test]
    fn the_file_is_removed_unless_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let mut claim = ListenClaim::check(&addr(&path)).expect("free");
        let _listener = UnixListener::bind(&path).expect("bound");
        claim.bound();
        drop(claim);
        assert!(!path.exists());

        let mut claim = ListenClaim::check(&addr(&path)).expect("free");
        let _second = UnixListener::bind(&path).expect("bound");
        claim.bound();
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "another's").expect("written");
        drop(claim);
        assert!(path.exists());
    }

    #[test]
    fn a_port_that_is_only_reserved_is_free() {
        let reserved = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        reserved.set_reuse_address(true).expect("set");
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        reserved.bind(&any.into()).expect("bound");
        let addr = reserved.local_addr().expect("bound").as_socket();
        ListenClaim::check(&Addr::from(addr.expect("an IP address"))).expect("free");
    }

    #[test]
    fn a_shared_port_in_use_is_noticed() {
        let live = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let addr = Addr::from(live.local_addr().expect("bound"));
        let error = ListenClaim::check(&addr).expect_err("in use");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(live);
        ListenClaim::check(&addr).expect("free");
    }
}
