//! Echo server on a raw epoll loop: one read and one write a message.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use clap::Parser;
use evring_peers::epoll::{Epoll, IN, OUT, READABLE, Ready, read, write};
use evring_peers::server::{ServerArgs, set_nodelay};
use std::net::TcpListener;

/// Echo server on a raw epoll loop
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
    /// Never sleep: ask epoll again and again
    #[arg(long)]
    spin: bool,
}

/// Read at once at most; one buffer serves all connections.
const READ_BYTES: usize = 64 * 1024;
/// Events taken a turn.
const BATCH: usize = 512;
const LISTENER: u64 = u64::MAX;

struct Connection {
    fd: OwnedFd,
    /// What did not fit into the socket; while there is any, nothing more is read.
    unsent: VecDeque<u8>,
}

struct Server {
    epoll: Epoll,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    buffer: Vec<u8>,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let listener = args.server.start()?;
    let epoll = Epoll::new(BATCH)?;
    epoll.add(listener.as_raw_fd(), LISTENER, IN)?;
    let mut server = Server {
        epoll,
        listener,
        connections: Vec::new(),
        buffer: vec![0; READ_BYTES],
    };
    let timeout_ms = if args.spin { 0 } else { -1 };
    loop {
        for index in 0..server.epoll.wait(timeout_ms)? {
            let ready = server.epoll.ready(index);
            if ready.token == LISTENER {
                server.accept()?;
            } else {
                server.serve(ready);
            }
        }
    }
}

impl Server {
    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            set_nodelay(stream.as_raw_fd());
            // Descriptors are small and unique: they index the table.
            let index = stream.as_raw_fd() as usize;
            if self.connections.len() <= index {
                self.connections.resize_with(index + 1, || None);
            }
            self.epoll.add(stream.as_raw_fd(), index as u64, IN)?;
            self.connections[index] = Some(Connection {
                fd: stream.into(),
                unsent: VecDeque::new(),
            });
        }
    }

    fn serve(&mut self, ready: Ready) {
        let index = ready.token as usize;
        // An earlier event of this batch may have closed it.
        let Some(connection) = &mut self.connections[index] else {
            return;
        };
        let served = if ready.events & OUT != 0 {
            connection.flush(&self.epoll, ready.token)
        } else if ready.events & READABLE != 0 {
            connection.echo(&self.epoll, ready.token, &mut self.buffer)
        } else {
            Ok(())
        };
        if served.is_err() {
            self.connections[index] = None;
        }
    }
}

impl Connection {
    fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// An error, the end of the stream among them, means that the connection is over.
    fn echo(&mut self, epoll: &Epoll, token: u64, buffer: &mut [u8]) -> io::Result<()> {
        let got = match read(self.fd(), buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let sent = match write(self.fd(), &buffer[..got]) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if sent < got {
            self.unsent.extend(&buffer[sent..got]);
            epoll.modify(self.fd(), token, OUT)?;
        }
        Ok(())
    }

    fn flush(&mut self, epoll: &Epoll, token: u64) -> io::Result<()> {
        let sent = match write(self.fd(), self.unsent.as_slices().0) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        self.unsent.drain(..sent);
        if self.unsent.is_empty() {
            epoll.modify(self.fd(), token, IN)?;
        }
        Ok(())
    }
}
