//! Echo server on monoio's io_uring driver.

use std::io;

use clap::Parser;
use evring_peers::server::ServerArgs;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};

/// Echo server on monoio's io_uring driver
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

/// Read at once at most, by each connection.
const READ_BYTES: usize = 16 * 1024;
/// Entries of the submission queue: what thousands of connections submit in one turn goes in at
/// once.
const ENTRIES: u32 = 4096;

fn main() -> io::Result<()> {
    let args = Args::parse();
    let listener = args.server.start()?;
    // As monoio comes, completions interrupt the thread wherever it is; that costs it a tenth of
    // its time here.
    let mut ring = monoio_io_uring::IoUring::builder();
    ring.setup_single_issuer().setup_defer_taskrun();
    RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(ENTRIES)
        .uring_builder(ring)
        .build()?
        .block_on(serve(listener))
}

async fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A connection that breaks off ends its own task, nothing else.
        monoio::spawn(async move { echo(stream).await.ok() });
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(READ_BYTES);
    loop {
        let (got, read) = stream.read(buffer).await;
        if got? == 0 {
            return Ok(());
        }
        let (written, sent) = stream.write_all(read).await;
        written?;
        // The next read takes the whole capacity.
        buffer = sent;
        buffer.clear();
    }
}
