//! Echo server on a bare io_uring loop.

use std::io;

use clap::Parser;
use evring_peers::floor::{FloorArgs, Route, serve};
use evring_peers::server::ServerArgs;

/// Echo server on a bare io_uring loop
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    floor: FloorArgs,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    serve(&args.server.start()?, Route::Echo, &args.floor)
}
