//! Servers inside the test process for the proxy to talk to.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

/// Accepts connections on a free port and runs `serve` for each on a thread of its own. Ends with
/// the test process.
pub fn serve(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    serve_on(
        TcpListener::bind("127.0.0.1:0").expect("a free port"),
        serve,
    )
}

/// The same on a given listener.
pub fn serve_on(
    listener: TcpListener,
    serve: impl Fn(TcpStream) + Send + Sync + 'static,
) -> SocketAddr {
    let addr = listener.local_addr().expect("bound");
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    addr
}

/// Sends everything back until the peer ends or breaks the stream.
pub fn echo(mut stream: TcpStream) {
    let mut reader = stream.try_clone().expect("a descriptor");
    // A broken stream ends it as well as a finished one.
    let _ = std::io::copy(&mut reader, &mut stream);
    let _ = stream.shutdown(Shutdown::Write);
}

/// Reads to the end of the stream, then answers with the number of bytes.
pub fn count(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    if stream.read_to_end(&mut bytes).is_ok() {
        // The test sees a missing answer.
        let _ = stream.write_all(bytes.len().to_string().as_bytes());
    }
}
