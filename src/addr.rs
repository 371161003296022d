//! Where a listener listens and a bufferevent connects to.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::Error;
use crate::sys::SockAddr;

/// An address of a stream socket: TCP over IPv4 or IPv6, or a Unix socket.
///
/// Written and read as `127.0.0.1:7000`, `[::1]:7000`, `unix:/run/app.sock`
/// or, for a name in Linux' abstract namespace, `unix:@name`.
///
/// ```
/// use evring::Addr;
/// let addr: Addr = "127.0.0.1:7000".parse()?;
/// assert_eq!(addr.to_string(), "127.0.0.1:7000");
/// assert_eq!("unix:@echo".parse::<Addr>()?, Addr::Abstract(b"echo".to_vec()));
/// assert!("localhost".parse::<Addr>().is_err());
/// # Ok::<(), evring::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Addr {
    /// A TCP address.
    Inet(SocketAddr),
    /// A Unix socket with a path in the file system; at most 107 bytes.
    Unix(PathBuf),
    /// A Unix socket in the abstract namespace; at most 107 bytes, without the leading NUL.
    Abstract(Vec<u8>),
}

/// What `sockaddr_un.sun_path` holds, less the byte that ends or begins it.
const UNIX_NAME_MAX_BYTES: usize = 107;

const UNIX_PATH_RULE: &str = "a Unix socket's path has 1 to 107 bytes and no NUL";

impl Addr {
    /// The address of a Unix socket at `path`.
    ///
    /// # Errors
    /// [`Error::BadAddress`] when the path is empty, too long for a socket address
    /// (107 bytes) or has a NUL byte.
    pub fn unix(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let bytes = path.as_os_str().as_bytes();
        if bytes.is_empty() || bytes.len() > UNIX_NAME_MAX_BYTES || bytes.contains(&0) {
            return Err(Error::BadAddress {
                given: path.display().to_string(),
                why: UNIX_PATH_RULE,
            });
        }
        Ok(Addr::Unix(path))
    }

    /// Whether this is a TCP address (so that TCP options apply).
    pub fn is_tcp(&self) -> bool {
        matches!(self, Addr::Inet(_))
    }
}

impl From<SocketAddr> for Addr {
    fn from(addr: SocketAddr) -> Self {
        Addr::Inet(addr)
    }
}

impl TryFrom<&Addr> for SockAddr {
    type Error = io::Error;

    fn try_from(addr: &Addr) -> io::Result<SockAddr> {
        match addr {
            Addr::Inet(addr) => Ok(SockAddr::from(*addr)),
            Addr::Unix(path) => SockAddr::from_path(path),
            Addr::Abstract(name) => SockAddr::from_abstract_name(name),
        }
    }
}

impl From<&Addr> for Addr {
    fn from(addr: &Addr) -> Self {
        addr.clone()
    }
}

impl TryFrom<&str> for Addr {
    type Error = Error;

    /// As [`FromStr`].
    fn try_from(text: &str) -> Result<Self, Error> {
        text.parse()
    }
}

impl TryFrom<SockAddr> for Addr {
    type Error = io::Error;

    fn try_from(addr: SockAddr) -> io::Result<Addr> {
        if let Some(inet) = addr.to_socket_addr() {
            Ok(Addr::Inet(inet))
        } else if let Some(name) = addr.as_abstract_name() {
            Ok(Addr::Abstract(name.to_vec()))
        } else {
            // A client that never bound has no path: the empty one.
            Ok(Addr::Unix(addr.as_path().unwrap_or("".as_ref()).to_owned()))
        }
    }
}

impl FromStr for Addr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why| Error::BadAddress {
            given: text.to_owned(),
            why,
        };
        match text.strip_prefix("unix:") {
            Some(name) => match name.strip_prefix('@') {
                Some("") => Err(bad("an abstract socket's name may not be empty")),
                Some(name) if name.len() > UNIX_NAME_MAX_BYTES => {
                    Err(bad("an abstract socket's name has at most 107 bytes"))
                }
                Some(name) => Ok(Addr::Abstract(name.as_bytes().to_vec())),
                None => Addr::unix(OsStr::new(name)).map_err(|_| bad(UNIX_PATH_RULE)),
            },
            None => text
                .parse()
                .map(Addr::Inet)
                .map_err(|_| bad("expected IP:PORT, [IPv6]:PORT, unix:/path or unix:@name")),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Addr::Inet(addr) => addr.fmt(f),
            Addr::Unix(path) => write!(f, "unix:{}", path.display()),
            Addr::Abstract(name) => write!(f, "unix:@{}", name.escape_ascii()),
        }
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_reads_back_as_written() {
        for text in ["127.0.0.1:80", "[::1]:7000", "unix:/tmp/a.sock", "unix:@a"] {
            assert_eq!(text.parse::<Addr>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn bad_forms_are_refused_with_a_reason() {
        let long = format!("unix:/{}", "x".repeat(200));
        let long_name = format!("unix:@{}", "x".repeat(200));
        for text in [
            "",
            "localhost:80",
            "1.2.3.4",
            "unix:",
            "unix:@",
            &long,
            &long_name,
        ] {
            let error = text.parse::<Addr>().expect_err(text).to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
