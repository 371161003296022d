//! Socket addresses of every family, owned.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::{fmt, io, mem, slice};

/// Where the path of a Unix address begins, in bytes from the start of the address.
const UNIX_PATH_OFFSET: usize = mem::offset_of!(libc::sockaddr_un, sun_path);
/// Longest path of a Unix address, in bytes, without the closing zero byte.
const UNIX_PATH_MAX: usize = mem::size_of::<libc::sockaddr_un>() - UNIX_PATH_OFFSET - 1;

/// A socket address: IPv4, IPv6, a path of a Unix socket, or a name in Linux's abstract namespace.
///
/// Owns its bytes (128 of storage and the length that counts). Stands for the
/// `struct sockaddr *, int` pairs of libevent's calls.
///
/// ```
/// use evring::ring::SockAddr;
/// use std::net::SocketAddr;
///
/// let ip: SocketAddr = "127.0.0.1:7000".parse()?;
/// let addr = SockAddr::from(ip);
/// assert_eq!(addr.to_socket_addr(), Some(ip));
/// assert_eq!(addr.to_string(), "127.0.0.1:7000");
///
/// let unix = SockAddr::from_path("/run/echo.sock")?;
/// assert_eq!(unix.to_string(), "/run/echo.sock");
/// assert_eq!(SockAddr::from_abstract_name("echo")?.to_string(), "@echo");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct SockAddr {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl SockAddr {
    /// The address of a Unix socket in the file system.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for an empty path, one longer than 107 bytes, or one with a zero byte inside.
    pub fn from_path(path: impl AsRef<Path>) -> io::Result<SockAddr> {
        let bytes = path.as_ref().as_os_str().as_bytes();
        if bytes.is_empty() || bytes.len() > UNIX_PATH_MAX || bytes.contains(&0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a Unix socket path has 1 to {UNIX_PATH_MAX} bytes and no zero byte"),
            ));
        }
        // The closing zero byte counts, as unix(7) wants it for a path.
        Ok(SockAddr::unix(bytes, bytes.len() + 1, 0))
    }

    /// The address of a Unix socket in the abstract namespace; `name` comes without the leading
    /// zero byte.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for an empty name or one longer than 107 bytes.
    pub fn from_abstract_name(name: impl AsRef<[u8]>) -> io::Result<SockAddr> {
        let bytes = name.as_ref();
        if bytes.is_empty() || bytes.len() > UNIX_PATH_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("an abstract socket name has 1 to {UNIX_PATH_MAX} bytes"),
            ));
        }
        Ok(SockAddr::unix(bytes, bytes.len() + 1, 1))
    }

    /// The address family, one of `libc::AF_*`; `AF_UNSPEC` for an address with no bytes.
    pub fn family(&self) -> i32 {
        if (self.len as usize) < mem::size_of::<libc::sa_family_t>() {
            return libc::AF_UNSPEC;
        }
        i32::from(self.storage.ss_family)
    }

    /// The address as the standard library's type, if it is IPv4 or IPv6.
    pub fn to_socket_addr(&self) -> Option<SocketAddr> {
        let long_enough = |size: usize| self.len as usize >= size;
        match self.family() {
            libc::AF_INET if long_enough(mem::size_of::<libc::sockaddr_in>()) => {
                // SAFETY: the family says sockaddr_in, the length covers it, and the storage is
                // aligned for every address type.
                let v4 = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 if long_enough(mem::size_of::<libc::sockaddr_in6>()) => {
                // SAFETY: as above, for sockaddr_in6.
                let v6 = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }

    /// The path, if this is the address of a Unix socket in the file system.
    pub fn as_path(&self) -> Option<&Path> {
        let name = self.unix_name()?;
        let (first, _) = name.split_first()?;
        if *first == 0 {
            return None;
        }
        let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        Some(Path::new(OsStr::from_bytes(&name[..end])))
    }

    /// The name without its leading zero byte, if this is a Unix address in the abstract namespace.
    pub fn as_abstract_name(&self) -> Option<&[u8]> {
        match self.unix_name()?.split_first()? {
            (0, rest) => Some(rest),
            _ => None,
        }
    }

    /// Length of the address in bytes, as the kernel wants it.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the address has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    pub(crate) fn raw_len(&self) -> libc::socklen_t {
        self.len
    }

    /// Lets the kernel write an address: `fill` gets the storage and the length it may use.
    pub(super) fn from_kernel(
        fill: impl FnOnce(*mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int,
    ) -> io::Result<SockAddr> {
        let mut addr = SockAddr::zeroed();
        let mut len = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        super::check(fill((&raw mut addr.storage).cast(), &raw mut len))?;
        // The kernel reports the full length even when it had to cut the address off.
        addr.len = len.min(mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t);
        Ok(addr)
    }

    fn zeroed() -> SockAddr {
        SockAddr {
            // SAFETY: sockaddr_storage is plain bytes; all zeroes is a valid AF_UNSPEC address.
            storage: unsafe { mem::zeroed() },
            len: 0,
        }
    }

    /// `name_len` counts the bytes of `sun_path` that matter, `skip` those before `bytes` in it.
    fn unix(bytes: &[u8], name_len: usize, skip: usize) -> SockAddr {
        let mut addr = SockAddr::zeroed();
        // SAFETY: the storage is larger than sockaddr_un and aligned for it.
        let un = unsafe { &mut *(&raw mut addr.storage).cast::<libc::sockaddr_un>() };
        un.sun_family = libc::AF_UNIX as libc::sa_family_t;
        for (to, from) in un.sun_path[skip..].iter_mut().zip(bytes) {
            *to = *from as libc::c_char;
        }
        addr.len = (UNIX_PATH_OFFSET + name_len) as libc::socklen_t;
        addr
    }

    fn unix_name(&self) -> Option<&[u8]> {
        if self.family() != libc::AF_UNIX {
            return None;
        }
        self.bytes().get(UNIX_PATH_OFFSET..)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `len` never exceeds the storage, whose bytes are all initialised.
        unsafe { slice::from_raw_parts((&raw const self.storage).cast::<u8>(), self.len as usize) }
    }
}

impl From<SocketAddr> for SockAddr {
    fn from(ip: SocketAddr) -> SockAddr {
        let mut addr = SockAddr::zeroed();
        match ip {
            SocketAddr::V4(v4) => {
                // SAFETY: the storage is larger than sockaddr_in and aligned for it.
                let raw = unsafe { &mut *(&raw mut addr.storage).cast::<libc::sockaddr_in>() };
                raw.sin_family = libc::AF_INET as libc::sa_family_t;
                raw.sin_port = v4.port().to_be();
                raw.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
                addr.len = mem::size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
            SocketAddr::V6(v6) => {
                // SAFETY: the storage is larger than sockaddr_in6 and aligned for it.
                let raw = unsafe { &mut *(&raw mut addr.storage).cast::<libc::sockaddr_in6>() };
                raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                raw.sin6_port = v6.port().to_be();
                raw.sin6_addr.s6_addr = v6.ip().octets();
                raw.sin6_flowinfo = v6.flowinfo();
                raw.sin6_scope_id = v6.scope_id();
                addr.len = mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            }
        }
        addr
    }
}

impl PartialEq for SockAddr {
    fn eq(&self, other: &SockAddr) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for SockAddr {}

impl fmt::Display for SockAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ip) = self.to_socket_addr() {
            return ip.fmt(f);
        }
        if let Some(path) = self.as_path() {
            return path.display().fmt(f);
        }
        match self.as_abstract_name() {
            Some(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
            None => f.write_str("unnamed"),
        }
    }
}

impl fmt::Debug for SockAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SockAddr({self}, family {})", self.family())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ip_addresses_survive_the_round_trip() {
        for text in ["127.0.0.1:80", "[::1]:65535", "[fe80::1%3]:9"] {
            let ip: SocketAddr = text.parse().expect("a literal address");
            assert_eq!(SockAddr::from(ip).to_socket_addr(), Some(ip));
        }
    }

    #[test]
    fn unix_addresses_keep_their_names() {
        let path = SockAddr::from_path("/tmp/x").expect("a short path");
        assert_eq!(path.as_path(), Some(Path::new("/tmp/x")));
        assert_eq!(path.as_abstract_name(), None);
        assert_eq!(path.len(), UNIX_PATH_OFFSET + 7);
        let name = SockAddr::from_abstract_name(b"a\0b").expect("a short name");
        assert_eq!(name.as_path(), None);
        assert_eq!(name.as_abstract_name(), Some(&b"a\0b"[..]));
        assert_eq!(name.to_socket_addr(), None);
    }

    #[test]
    fn bad_unix_names_are_errors() {
        for bad in ["", "a\0b"] {
            assert!(SockAddr::from_path(bad).is_err());
        }
        assert!(SockAddr::from_path("x".repeat(UNIX_PATH_MAX)).is_ok());
        assert!(SockAddr::from_path("x".repeat(UNIX_PATH_MAX + 1)).is_err());
        assert!(SockAddr::from_abstract_name("").is_err());
        assert!(SockAddr::from_abstract_name("x".repeat(UNIX_PATH_MAX + 1)).is_err());
    }
}
