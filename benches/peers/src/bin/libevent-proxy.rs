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
        ) -> libc::c_int;
    }

    match args.server.start() {
        Ok(listener) => {
            let upstream = SockAddr::from(args.upstream);
            // SAFETY: c/proxy.c has this signature and copies the address; the descriptor is given away with the call.
            let failed = unsafe {
                libevent_proxy(
                    listener.into_raw_fd(),
                    upstream.as_ptr().cast(),
                    upstream.len(),
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
