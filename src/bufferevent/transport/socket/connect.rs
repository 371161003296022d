//! Connecting: by an address, or a connect that somebody else began.

use super::descriptor::Kind;
use super::{Incoming, Marks, Socket};
use crate::addr::Addr;
use crate::bufferevent::machine::Link;
use crate::bufferevent::shell::Cx;
use crate::driver::Op;
use crate::error::Error;
use crate::sys::{Errno, SockAddr};

impl Socket {
    /// Begins to connect; a socket is made if there is none.
    pub(in crate::bufferevent) fn connect(&self, cx: &Cx<'_>, addr: &Addr) -> Result<(), Error> {
        let link = cx.machine().link();
        match (link, self.fd()) {
            (Link::Connecting, _) => return Err(under_way()),
            // An adopted socket may be connected or not: it knows.
            (Link::Up, Some(fd)) if cx.base.with_driver(|d| d.peer_addr(fd)).is_ok() => {
                return Err(Error::Invalid {
                    what: "connect",
                    why: "it is connected; give it another descriptor or make another bufferevent",
                });
            }
            (Link::Failed, Some(fd)) if self.is_marked(Marks::MADE_HERE) => {
                // A socket whose connect failed can not be used again.
                self.fd.set(-1);
                self.retire(cx.base, fd);
            }
            _ => {}
        }
        let target = SockAddr::try_from(addr)
            .map_err(|source| Error::io(format!("address {addr}"), source))?;
        if self.fd().is_none() {
            let fd = cx
                .base
                .with_driver(|driver| driver.socket(target.family(), libc::SOCK_STREAM))
                .map_err(|source| Error::io(format!("socket for {addr}"), source))?;
            self.fd.set(fd);
            self.mark(Marks::MADE_HERE, true);
            self.kind.set(Kind::of_family(target.family()));
        }
        let fd = self.fd.get();
        self.expect_connect(cx, Op::Connect { fd, addr: target });
        Ok(())
    }

    /// Expects a connect that the caller has begun to end.
    pub(in crate::bufferevent) fn connect_in_progress(&self, cx: &Cx<'_>) -> Result<(), Error> {
        if self.connect.get().is_some() {
            return Err(under_way());
        }
        let fd = self.fd().ok_or(Error::Invalid {
            what: "connect_in_progress",
            why: "there is no descriptor; give it the one that connects",
        })?;
        self.expect_connect(
            cx,
            Op::Poll {
                fd,
                events: libc::POLLOUT as u32,
                multishot: false,
            },
        );
        Ok(())
    }

    fn expect_connect(&self, cx: &Cx<'_>, op: Op) {
        let now = cx.now();
        cx.machine_mut().set_link(Link::Connecting, now);
        self.incoming.set(Incoming::Messages);
        self.connect.set(Some(self.push(cx, op)));
    }

    pub(super) fn connected(&self, cx: &Cx<'_>, result: Result<u32, Errno>) {
        let fd = self.fd.get();
        let error = match result {
            Err(errno) => Some(errno),
            // A connect that was begun elsewhere: the socket knows how it went.
            Ok(_) => cx
                .base
                .with_driver(|driver| driver.take_error(fd))
                .unwrap_or_else(|error| error.raw_os_error().map(Errno::from_raw)),
        };
        let now = cx.now();
        let mut machine = cx.machine_mut();
        match error {
            None => machine.handle_connected(now),
            Some(errno) => machine.handle_connect_error(errno),
        }
        drop(machine);
        cx.mark_dirty();
    }
}

fn under_way() -> Error {
    Error::Invalid {
        what: "connect",
        why: "a connect is under way; wait for its event or free the bufferevent",
    }
}
