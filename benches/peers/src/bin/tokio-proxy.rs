//! TCP proxy on tokio's current-thread runtime.

use std::io;
use std::net::SocketAddr;

use clap::Parser;
use evring_peers::server::ServerArgs;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};

/// TCP proxy on tokio's current-thread runtime
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
    /// Where every client is connected to
    #[arg(long, value_name = "ADDR")]
    upstream: SocketAddr,
}

/// Read at once at most, in each direction of a connection.
const READ_BYTES: usize = 16 * 1024;

fn main() -> io::Result<()> {
    let args = Args::parse();
    let listener = args.server.start()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?
        .block_on(serve(listener, args.upstream))
}

async fn serve(listener: std::net::TcpListener, upstream: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (client, _) = listener.accept().await?;
        // A connection that breaks off ends its own task, nothing else.
        tokio::spawn(async move { pass_on(client, upstream).await.ok() });
    }
}

async fn pass_on(mut client: TcpStream, upstream: SocketAddr) -> io::Result<()> {
    let mut server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut server, READ_BYTES, READ_BYTES).await?;
    Ok(())
}
