//! Echo server on a bare io_uring loop.

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

fn main() {
    let args = Args::parse();
    if let Err(error) = serve(&args.server, Route::Echo, &args.floor) {
        eprintln!("floor-echo: {error}");
        std::process::exit(1);
    }
}
