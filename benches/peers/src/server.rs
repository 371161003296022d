//! What every peer server does around its loop: arguments, the listening socket, the line that says
//! it is ready, the end on a signal.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::RawFd;

use clap::Args;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// The arguments every server takes.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// Address to listen on; port 0 takes any free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
}

impl ServerArgs {
    /// Binds and listens (nonblocking), raises the descriptor limit, arranges for the exit on
    /// SIGTERM and SIGINT, and prints `listening on ADDR`. A client that reads the line can connect
    /// from then on.
    ///
    /// # Errors
    ///
    /// Whatever creating, binding or listening gave; nothing is printed then.
    pub fn start(&self) -> io::Result<TcpListener> {
        exit_on_signal()?;
        raise_descriptor_limit();
        let socket = Socket::new(
            Domain::for_address(self.listen),
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        socket.bind(&self.listen.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        let mut out = io::stdout().lock();
        writeln!(out, "listening on {}", listener.local_addr()?)?;
        out.flush()?;
        Ok(listener)
    }
}

/// Sets TCP_NODELAY. A failure is ignored: the socket may have been reset meanwhile, which the next
/// operation tells.
pub fn set_nodelay(fd: RawFd) {
    let on: libc::c_int = 1;
    // SAFETY: `on` is a c_int and outlives the call, which reads size_of::<c_int>() bytes; a stale
    // fd is only an error.
    unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

/// Raises the soft limit of open descriptors to the hard one; where that is refused the soft one
/// stays. Gives the limit that holds then.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid rlimit that both calls only read or fill.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            let soft = limit.rlim_cur;
            limit.rlim_cur = limit.rlim_max;
            if libc::setrlimit(libc::RLIMIT_NOFILE, &limit) != 0 {
                limit.rlim_cur = soft;
            }
        }
    }
    limit.rlim_cur
}

/// Ends the process with code 0 on SIGTERM or SIGINT, from whatever it is waiting in: a measured
/// loop must carry no check of its own for that.
fn exit_on_signal() -> io::Result<()> {
    extern "C" fn exit_now(_signal: libc::c_int) {
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(0) }
    }
    let handler: extern "C" fn(libc::c_int) = exit_now;
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the handler is an `extern "C" fn(c_int)` that calls nothing but _exit.
        if unsafe { libc::signal(signal, handler as libc::sighandler_t) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
