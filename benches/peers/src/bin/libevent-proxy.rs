//! TCP proxy on libevent's bufferevents; the proxy itself is `c/proxy.c`.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use evring_peers::server::ServerArgs;

/// TCP proxy on libevent's bufferevents
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
    /// Where every client is connected to
    #[arg(long, value_name = "ADDR")]
    upstream: SocketAddr,
    #[command(flatten)]
    limits: LimitArgs,
}

/// Rates in bytes a second; without one there is no limit. The burst is one tick's rate.
#[derive(clap::Args)]
struct LimitArgs {
    /// Receive from each client at most so much
    #[arg(long, value_name = "BYTES/s")]
    limit_read: Option<usize>,
    /// Send to each client at most so much
    #[arg(long, value_name = "BYTES/s")]
    limit_write: Option<usize>,
    /// Receive from all clients together at most so much
    #[arg(long, value_name = "BYTES/s")]
    group_limit_read: Option<usize>,
    /// Send to all clients together at most so much
    #[arg(long, value_name = "BYTES/s")]
    group_limit_write: Option<usize>,
    /// How often a tick's bytes become available
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    tick: u32,
}

/// The limits in bytes a tick, as c/proxy.c takes them.
#[cfg(have_libevent)]
#[repr(C)]
struct Limits {
    read: usize,
    write: usize,
    group_read: usize,
    group_write: usize,
    tick_ms: libc::c_uint,
}

#[cfg(have_libevent)]
impl LimitArgs {
    fn per_tick(&self) -> Limits {
        let tick = self.tick as usize;
        let scaled = |rate: Option<usize>| rate.map_or(0, |rate| (rate * tick / 1000).max(1));
        Limits {
            read: scaled(self.limit_read),
            write: scaled(self.limit_write),
            group_read: scaled(self.group_limit_read),
            group_write: scaled(self.group_limit_write),
            tick_ms: self.tick,
        }
    }
}

fn main() -> ExitCode {
    serve(&Args::parse())
}

#[cfg(have_libevent)]
fn serve(args: &Args) -> ExitCode {
    use std::os::fd::IntoRawFd;

    use socket2::SockAddr;

    unsafe extern "C" {
        fn libevent_proxy(
            listen_fd: libc::c_int,
            upstream: *const libc::sockaddr,
            upstream_len: libc::c_uint,
            limits: *const Limits,
        ) -> libc::c_int;
    }

    match args.server.start() {
        Ok(listener) => {
            let upstream = SockAddr::from(args.upstream);
            let limits = args.limits.per_tick();
            // SAFETY: c/proxy.c has this signature and layout and copies address and limits; the
            // descriptor is given away with the call.
            let failed = unsafe {
                libevent_proxy(
                    listener.into_raw_fd(),
                    upstream.as_ptr().cast(),
                    upstream.len(),
                    &raw const limits,
                )
            };
            ExitCode::from(u8::from(failed != 0))
        }
        Err(error) => {
            eprintln!("libevent-proxy: {}: {error}", args.server.listen);
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(have_libevent))]
fn serve(args: &Args) -> ExitCode {
    eprintln!(
        "libevent-proxy: to {}: built without libevent; install libevent-dev and build again",
        args.upstream
    );
    ExitCode::from(3)
}
