//! Sockets: create, bind, listen, options, shutdown.

use super::{Errno, SockAddr, check};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::{io, mem};

/// How long a quiet connection stays before the kernel probes whether its peer is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Seconds of silence before the first probe (`TCP_KEEPIDLE`).
    pub idle_s: u32,
    /// Seconds between probes (`TCP_KEEPINTVL`).
    pub interval_s: u32,
    /// Probes without an answer before the connection is given up (`TCP_KEEPCNT`).
    pub probes: u32,
}

/// Creates a non-blocking socket that is closed on exec.
///
/// `family` is `libc::AF_*`, `kind` `libc::SOCK_STREAM` or another of the `SOCK_*` types.
pub fn socket(family: i32, kind: i32) -> io::Result<OwnedFd> {
    let kind = kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes numbers only.
    let fd = check(unsafe { libc::socket(family, kind, 0) })?;
    // SAFETY: the kernel just made this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives a socket its local address.
pub fn bind(fd: RawFd, addr: &SockAddr) -> io::Result<()> {
    // SAFETY: pointer and length describe the address that is borrowed for the call.
    check(unsafe { libc::bind(fd, addr.as_ptr(), addr.raw_len()) }).map(drop)
}

/// Makes a socket accept connections; `backlog` is how many may wait (the kernel caps it at
/// `net.core.somaxconn`).
pub fn listen(fd: RawFd, backlog: i32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::listen(fd, backlog) }).map(drop)
}

/// Ends the sending direction of a connection: the peer sees the end of the stream (`SHUT_WR`).
pub fn shutdown_write(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::shutdown(fd, libc::SHUT_WR) }).map(drop)
}

/// Closes a descriptor that the caller owns by number. Only for drivers, which own descriptors as
/// numbers because operations in flight name them so, and close one only once none is left (I6).
/// Everybody else drops an [`OwnedFd`].
///
/// # Errors
///
/// `EBADF` if it is not open. On Linux the descriptor is gone whatever else is reported, so `EINTR`
/// counts as success.
pub fn close(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes a number only; that nothing else owns the descriptor is I6, kept by the caller.
    match check(unsafe { libc::close(fd) }) {
        Err(err) if err.raw_os_error() == Some(libc::EINTR) => Ok(()),
        other => other.map(drop),
    }
}

/// Switches `O_NONBLOCK` on or off.
pub fn set_nonblocking(fd: RawFd, on: bool) -> io::Result<()> {
    // SAFETY: takes numbers only.
    let old = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    let new = if on {
        old | libc::O_NONBLOCK
    } else {
        old & !libc::O_NONBLOCK
    };
    if new == old {
        return Ok(());
    }
    // SAFETY: takes numbers only.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, new) }).map(drop)
}

/// The socket's own address.
pub fn local_addr(fd: RawFd) -> io::Result<SockAddr> {
    // SAFETY: `from_kernel` hands out storage and its true size.
    SockAddr::from_kernel(|addr, len| unsafe { libc::getsockname(fd, addr, len) })
}

/// The address of the peer; `ENOTCONN` without one.
pub fn peer_addr(fd: RawFd) -> io::Result<SockAddr> {
    // SAFETY: `from_kernel` hands out storage and its true size.
    SockAddr::from_kernel(|addr, len| unsafe { libc::getpeername(fd, addr, len) })
}

/// The socket's family, one of `libc::AF_*` (`SO_DOMAIN`). `ENOTSOCK` if it is no socket.
pub fn family(fd: RawFd) -> io::Result<i32> {
    get_int(fd, libc::SOL_SOCKET, libc::SO_DOMAIN)
}

/// Takes the pending error off the socket (`SO_ERROR`).
pub fn take_error(fd: RawFd) -> io::Result<Option<Errno>> {
    let raw = get_int(fd, libc::SOL_SOCKET, libc::SO_ERROR)?;
    Ok((raw != 0).then(|| Errno::from_raw(raw)))
}

/// Lets a listener bind an address that old connections still use (`SO_REUSEADDR`).
pub fn set_reuse_addr(fd: RawFd, on: bool) -> io::Result<()> {
    set_int(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, i32::from(on))
}

/// Lets several listeners share an address, the kernel spreading connections over them
/// (`SO_REUSEPORT`).
pub fn set_reuse_port(fd: RawFd, on: bool) -> io::Result<()> {
    set_int(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, i32::from(on))
}

/// Keeps an IPv6 listener from taking IPv4 connections (`IPV6_V6ONLY`).
pub fn set_v6_only(fd: RawFd, on: bool) -> io::Result<()> {
    set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, i32::from(on))
}

/// Has a listener accept a connection only once it has sent something (`TCP_DEFER_ACCEPT`).
pub(crate) fn set_defer_accept(fd: RawFd, on: bool) -> io::Result<()> {
    set_int(fd, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, i32::from(on))
}

/// Bytes that the peer of a TCP connection has acknowledged so far (`tcpi_bytes_acked`, 4.1);
/// `None` for anything else.
pub(crate) fn bytes_acked(fd: RawFd) -> Option<u64> {
    const PLACE: usize = 120;
    let mut info = [0_u64; PLACE / 8 + 1];
    let mut len = mem::size_of_val(&info) as libc::socklen_t;
    let place = (&raw mut info).cast();
    // SAFETY: the kernel writes at most `len` bytes into the array.
    let ret =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, place, &raw mut len) };
    let whole = ret == 0 && len as usize == mem::size_of_val(&info);
    whole.then_some(info[PLACE / 8])
}

/// Bytes in the send queue of a TCP connection that its peer has not acknowledged (`SIOCOUTQ`); 0
/// for anything else.
pub(crate) fn bytes_unacked(fd: RawFd) -> usize {
    if bytes_acked(fd).is_none() {
        // Of a Unix socket it counts what the peer has not read.
        return 0;
    }
    let mut waiting: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int, to a place that outlives the
    // call.
    let ret = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut waiting) };
    if ret < 0 {
        0
    } else {
        usize::try_from(waiting).unwrap_or(0)
    }
}

/// Sends small writes at once instead of gathering them (`TCP_NODELAY`).
pub fn set_nodelay(fd: RawFd, on: bool) -> io::Result<()> {
    set_int(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, i32::from(on))
}

/// Probes quiet connections (`SO_KEEPALIVE` and `TCP_KEEP*`); `None` switches it off.
pub fn set_keepalive(fd: RawFd, keepalive: Option<KeepAlive>) -> io::Result<()> {
    let Some(times) = keepalive else {
        return set_int(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 0);
    };
    let tcp = |option, value: u32| {
        let value = i32::try_from(value).unwrap_or(i32::MAX);
        set_int(fd, libc::IPPROTO_TCP, option, value)
    };
    tcp(libc::TCP_KEEPIDLE, times.idle_s)?;
    tcp(libc::TCP_KEEPINTVL, times.interval_s)?;
    tcp(libc::TCP_KEEPCNT, times.probes)?;
    set_int(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)
}

/// The socket's type, one of `libc::SOCK_*` (`SO_TYPE`). `ENOTSOCK` if it is no socket.
#[cfg(test)]
pub fn kind(fd: RawFd) -> io::Result<i32> {
    get_int(fd, libc::SOL_SOCKET, libc::SO_TYPE)
}

/// What `close` does with bytes that are not sent yet (`SO_LINGER`): `None` sends them in the
/// background, `Some(0)` drops them and resets the connection, `Some(s)` blocks for up to `s`
/// seconds.
pub fn set_linger(fd: RawFd, seconds: Option<u32>) -> io::Result<()> {
    let value = libc::linger {
        l_onoff: i32::from(seconds.is_some()),
        l_linger: i32::try_from(seconds.unwrap_or(0)).unwrap_or(i32::MAX),
    };
    set(fd, libc::SOL_SOCKET, libc::SO_LINGER, &value)
}

fn set_int(fd: RawFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    set(fd, level, option, &value)
}

fn set<T: Copy>(fd: RawFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    let len = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`, which is borrowed for the call.
    let ret = unsafe { libc::setsockopt(fd, level, option, (&raw const *value).cast(), len) };
    check(ret).map(drop)
}

fn get_int(fd: RawFd, level: i32, option: i32) -> io::Result<i32> {
    let mut value = 0_i32;
    let mut len = mem::size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `value`.
    let ret = unsafe { libc::getsockopt(fd, level, option, (&raw mut value).cast(), &raw mut len) };
    check(ret)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::SocketAddr;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    fn tcp_listener() -> OwnedFd {
        let fd = socket(libc::AF_INET, libc::SOCK_STREAM).expect("a socket");
        let any: SocketAddr = "127.0.0.1:0".parse().expect("a literal address");
        set_reuse_addr(fd.as_raw_fd(), true).expect("reuse");
        bind(fd.as_raw_fd(), &any.into()).expect("bind");
        listen(fd.as_raw_fd(), 16).expect("listen");
        fd
    }

    #[test]
    fn a_listener_knows_its_port_and_has_no_peer() {
        let fd = tcp_listener();
        let at = local_addr(fd.as_raw_fd()).expect("an address");
        assert_ne!(at.to_socket_addr().expect("an IP address").port(), 0);
        let err = peer_addr(fd.as_raw_fd()).expect_err("no peer");
        assert_eq!(err.raw_os_error(), Some(libc::ENOTCONN));
        assert_eq!(family(fd.as_raw_fd()).expect("family"), libc::AF_INET);
    }

    #[test]
    fn options_reach_the_kernel() {
        let fd = tcp_listener();
        let raw = fd.as_raw_fd();
        set_nodelay(raw, true).expect("nodelay");
        let nodelay = get_int(raw, libc::IPPROTO_TCP, libc::TCP_NODELAY);
        assert_eq!(nodelay.expect("nodelay"), 1);
        let times = KeepAlive {
            idle_s: 60,
            interval_s: 5,
            probes: 3,
        };
        set_keepalive(raw, Some(times)).expect("keepalive");
        let idle = get_int(raw, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE).expect("keepidle");
        assert_eq!(idle, 60);
        set_keepalive(raw, None).expect("keepalive off");
        set_linger(raw, Some(0)).expect("linger");
        set_reuse_port(raw, true).expect("reuse port");
        assert_eq!(take_error(raw).expect("no error"), None);
    }

    #[test]
    fn a_pair_shuts_down_and_closes() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        shutdown_write(ours.as_raw_fd()).expect("shutdown");
        assert_eq!(theirs.read(&mut [0; 1]).expect("the end"), 0);
        set_nonblocking(ours.as_raw_fd(), true).expect("non-blocking");
        let empty = (&ours).read(&mut [0; 1]).expect_err("nothing there");
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        set_nonblocking(ours.as_raw_fd(), false).expect("blocking");
        let err = close(-1).expect_err("not a descriptor");
        assert_eq!(err.raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn an_ipv6_listener_can_refuse_ipv4() {
        let fd = socket(libc::AF_INET6, libc::SOCK_STREAM).expect("a socket");
        set_v6_only(fd.as_raw_fd(), true).expect("v6 only");
    }
}
