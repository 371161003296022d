//! Echo server on libevent's bufferevents; the server itself is `c/echo.c`.

use std::process::ExitCode;

use clap::Parser;
use evring_peers::server::ServerArgs;

/// Echo server on libevent's bufferevents
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

fn main() -> ExitCode {
    serve(&Args::parse())
}

#[cfg(have_libevent)]
fn serve(args: &Args) -> ExitCode {
    use std::os::fd::IntoRawFd;

    unsafe extern "C" {
        fn libevent_echo(listen_fd: libc::c_int) -> libc::c_int;
    }

    match args.server.start() {
        Ok(listener) => {
            // SAFETY: c/echo.c has this signature; the descriptor is given away with the call.
            let failed = unsafe { libevent_echo(listener.into_raw_fd()) };
            ExitCode::from(u8::from(failed != 0))
        }
        Err(error) => {
            eprintln!("libevent-echo: {}: {error}", args.server.listen);
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(have_libevent))]
fn serve(_args: &Args) -> ExitCode {
    eprintln!("libevent-echo: built without libevent; install libevent-dev and build again");
    ExitCode::from(3)
}
