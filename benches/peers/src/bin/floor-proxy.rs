//! TCP proxy on a bare io_uring loop.

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

fn main() {
    let args = Args::parse();
    if let Err(error) = serve(&args.server, Route::Proxy(args.upstream), &args.floor) {
        eprintln!("floor-proxy: {error}");
        std::process::exit(1);
    }
}
