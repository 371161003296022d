//! TCP proxy on a bare io_uring loop.

use std::io;
use std::net::SocketAddr;

use clap::Parser;
use evring_peers::floor::{FloorArgs, Route, serve};
use evring_peers::server::ServerArgs;

/// TCP proxy on a bare io_uring loop
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
    /// Where every client is connected to
    #[arg(long, value_name = "ADDR")]
    upstream: SocketAddr,
    #[command(flatten)]
    floor: FloorArgs,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    serve(
        &args.server.start()?,
        Route::Proxy(args.upstream),
        &args.floor,
    )
}
