//! Descriptors: made, set up, ended and closed at once, without an operation.

use super::super::socket::Kind;
use super::{Entry, World, name_of};
use crate::driver::SocketOption;
use crate::sys::{self, Errno, SockAddr};

impl World {
    pub(in crate::driver::sim) fn bind(&mut self, fd: i32, addr: &SockAddr) -> Result<(), Errno> {
        let at = self.net.index(fd);
        let port = addr.to_socket_addr().map(|addr| addr.port());
        self.net
            .bind(at, port.expect("no other family is simulated"))
    }

    pub(in crate::driver::sim) fn listen(&mut self, fd: i32, backlog: i32) {
        let at = self.net.index(fd);
        self.note("listen", &[at as u64]);
        self.net.begin_listening(at, backlog);
    }

    pub(in crate::driver::sim) fn new_socket(&mut self, family: i32, kind: i32) -> usize {
        let capacity = self.dice.pick(&[100, 5000, 70_000]);
        let kind = match kind {
            libc::SOCK_DGRAM => Kind::Datagram,
            _ => Kind::of_family(family),
        };
        self.net.socket(kind, capacity)
    }

    pub(in crate::driver::sim) fn set_option(
        &mut self,
        fd: i32,
        option: SocketOption,
    ) -> Result<(), Errno> {
        let at = self.net.index(fd);
        let socket = &mut self.net.sockets[at];
        match option {
            SocketOption::NonBlocking(_) => {}
            _ if socket.kind == Kind::Plain => return Err(Errno::NOTSOCK),
            SocketOption::ResetOnClose => socket.resets_on_close = true,
            SocketOption::NoDelay(_) if socket.kind == Kind::Unix => {
                return Err(Errno::from_raw(libc::EOPNOTSUPP));
            }
            _ => {}
        }
        Ok(())
    }

    pub(in crate::driver::sim) fn shutdown_write(&mut self, fd: i32) -> Result<(), Errno> {
        let socket = self.net.index(fd);
        self.note("shutdown", &[socket as u64]);
        let sends = |entry: &&Entry| name_of(&entry.op) == ("send", fd);
        assert_eq!(
            self.ops.values().filter(sends).count(),
            0,
            "the end of the stream overtakes a send on socket {socket}"
        );
        self.net.shutdown(socket, self.now, &mut self.dice)
    }

    pub(in crate::driver::sim) fn take_error(&mut self, fd: i32) -> Option<Errno> {
        let socket = self.net.index(fd);
        self.net.sockets[socket].error.take()
    }

    pub(in crate::driver::sim) fn close(&mut self, fd: i32) {
        let socket = self.net.index(fd);
        self.note("close", &[socket as u64]);
        let on_it = |entry: &&Entry| name_of(&entry.op).1 == fd;
        assert_eq!(
            self.ops.values().filter(on_it).count(),
            0,
            "socket {socket} is closed under its operations (I6)"
        );
        self.net.close(socket, self.now, &mut self.dice);
        if self.net.forget_handed(socket) {
            sys::net::close(fd).expect("an open descriptor");
        }
    }
}
