//! Echo server on tokio's current-thread runtime.

use std::io;

use clap::Parser;
use evring_peers::server::ServerArgs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Echo server on tokio's current-thread runtime
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

/// Read at once at most, by each connection.
const READ_BYTES: usize = 16 * 1024;

fn main() -> io::Result<()> {
    let args = Args::parse();
    let listener = args.server.start()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?
        .block_on(serve(listener))
}

async fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A connection that breaks off ends its own task, nothing else.
        tokio::spawn(async move { echo(stream).await.ok() });
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let got = stream.read(&mut buffer).await?;
        if got == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..got]).await?;
    }
}
