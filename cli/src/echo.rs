//! `evring echo`: every byte goes back by reference.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use evring::{BufferEvent, EventBase, Events, FlushEnd, Handler, Interest, Options};
use evring_cli_common::console::{Console, print_line};
use evring_cli_common::failure::Failure;
use slab::Slab;

use crate::args::EchoArgs;
use crate::bursts::Notices;
use crate::gate::Pass;
use crate::server::{self, Server, unless_zero};
use crate::service::Service;
use crate::worker::MakeService;

/// Runs the command.
pub fn run(args: &EchoArgs) -> Result<(), Failure> {
    let console = Console::new();
    let notices = Notices::new(console.clone());
    let idle = unless_zero(args.server.idle_timeout);
    let server = Server {
        listen: args.listen.clone(),
        args: args.server.clone(),
        fds_each: 1,
        upstream_inside: false,
        make: echo_service(idle, notices.clone()),
        notices,
        console,
    };
    let outcomes = server.run(|addr| print_line(&format!("listening on {addr}")))?;
    server::print_stats(&args.server, &outcomes);
    Ok(())
}

/// Makes an echo service for a worker.
pub fn echo_service(idle: Option<Duration>, notices: Notices) -> MakeService {
    Arc::new(move |base| Echo::new(base, idle, notices.clone()))
}

/// Past this much unsent output a client is not read from.
const OUTPUT_HIGH_BYTES: usize = 256 * 1024;

/// At this much unsent output it is read from again.
const OUTPUT_LOW_BYTES: usize = OUTPUT_HIGH_BYTES / 2;

struct Echo {
    base: EventBase,
    idle: Option<Duration>,
    notices: Notices,
    clients: RefCell<Slab<Client>>,
    echoed: Cell<u64>,
    cut_off: Cell<usize>,
    draining: Cell<bool>,
}

struct Client {
    bev: BufferEvent,
    _pass: Pass,
}

/// The callbacks of one client.
struct Callbacks {
    echo: Weak<Echo>,
    key: usize,
    paused: bool,
    ended: bool,
}

impl Echo {
    fn new(base: &EventBase, idle: Option<Duration>, notices: Notices) -> Rc<Self> {
        Rc::new(Self {
            base: base.clone(),
            idle,
            notices,
            clients: RefCell::default(),
            echoed: Cell::new(0),
            cut_off: Cell::new(0),
            draining: Cell::new(false),
        })
    }

    fn start(self: &Rc<Self>, key: usize, bev: &BufferEvent) -> Result<(), evring::Error> {
        bev.set_timeouts(self.idle, self.idle)?;
        bev.set_watermarks(Interest::WRITE, OUTPUT_LOW_BYTES, 0)?;
        bev.set_handler(Callbacks {
            echo: Rc::downgrade(self),
            key,
            paused: false,
            ended: false,
        })?;
        bev.enable(Interest::READ)
    }

    /// Sends back what has been received. Fails when `bev` can be written to no more.
    fn echo_back(&self, bev: &BufferEvent) -> Result<(), evring::Error> {
        let moved = bev.transfer_to(bev)?;
        self.echoed.set(self.echoed.get() + moved as u64);
        Ok(())
    }

    /// Sends what is buffered, within `deadline` if there is one, then forgets the client.
    fn finish(self: &Rc<Self>, key: usize, bev: &BufferEvent, deadline: Option<Duration>) {
        let weak = Rc::downgrade(self);
        let ended = bev.close_after_flush(deadline, move |end| {
            if let Some(echo) = weak.upgrade() {
                let cut_off = matches!(end, FlushEnd::TimedOut { unsent: 1.. });
                if cut_off && echo.draining.get() {
                    echo.cut_off.set(echo.cut_off.get() + 1);
                }
                echo.forget(key);
            }
        });
        if ended.is_err() {
            self.forget(key);
        }
    }

    fn forget(&self, key: usize) {
        // Dropping it calls the gate, which must find no borrow here.
        let client = self.clients.borrow_mut().try_remove(key);
        drop(client);
    }
}

impl Service for Echo {
    fn serve(self: Rc<Self>, fd: OwnedFd, pass: Pass) {
        let bev = match BufferEvent::socket(&self.base, Some(fd), Options::CLOSE_ON_FREE) {
            Ok(bev) => bev,
            Err(error) => return self.notices.event(&format!("cannot serve: {error}")),
        };
        let key = self.clients.borrow_mut().insert(Client {
            bev: bev.clone(),
            _pass: pass,
        });
        if let Err(error) = self.start(key, &bev) {
            self.notices.event(&format!("cannot serve: {error}"));
            bev.free();
            self.forget(key);
        }
    }

    fn moved(&self) -> (u64, u64) {
        (self.echoed.get(), self.echoed.get())
    }

    fn drain(self: Rc<Self>, grace: Duration) {
        self.draining.set(true);
        let clients: Vec<_> = self
            .clients
            .borrow()
            .iter()
            .map(|(key, client)| (key, client.bev.clone()))
            .collect();
        for (key, bev) in clients {
            let weak = Rc::downgrade(&self);
            let quieting = bev.finish_reading(move |bev| {
                if let Some(echo) = weak.upgrade() {
                    // One whose stream had ended has nothing more to send back.
                    let _ = echo.echo_back(bev);
                    echo.finish(key, bev, Some(grace));
                }
            });
            if quieting.is_err() {
                self.forget(key);
            }
        }
    }

    fn abort(&self) -> usize {
        let clients = std::mem::take(&mut *self.clients.borrow_mut());
        let left = clients.len();
        for (_, client) in clients {
            client.bev.free();
        }
        left + self.cut_off.take()
    }

    fn counts(&self) -> Vec<(&'static str, u64)> {
        vec![("bytes_echoed", self.echoed.get())]
    }
}

impl Callbacks {
    fn echo_back(&mut self, bev: &BufferEvent) -> Result<(), evring::Error> {
        if let Some(echo) = self.echo.upgrade() {
            echo.echo_back(bev)?;
        }
        if bev.output().len() >= OUTPUT_HIGH_BYTES && !self.ended {
            bev.disable(Interest::READ)?;
            self.paused = true;
        }
        Ok(())
    }

    fn give_up(&self, bev: &BufferEvent) {
        bev.free();
        if let Some(echo) = self.echo.upgrade() {
            echo.forget(self.key);
        }
    }
}

impl Handler for Callbacks {
    fn read(&mut self, bev: &BufferEvent) {
        if self.echo_back(bev).is_err() {
            self.give_up(bev);
        }
    }

    fn write(&mut self, bev: &BufferEvent) {
        let draining = self.echo.upgrade().is_none_or(|echo| echo.draining.get());
        if self.paused && !self.ended && !draining {
            self.paused = false;
            if bev.enable(Interest::READ).is_err() {
                self.give_up(bev);
            }
        }
    }

    fn event(&mut self, bev: &BufferEvent, events: Events) {
        let echo = self.echo.upgrade();
        match echo {
            Some(echo) if events.contains(Events::EOF) && !self.ended => {
                self.ended = true;
                match self.echo_back(bev) {
                    Ok(()) => echo.finish(self.key, bev, None),
                    Err(_) => self.give_up(bev),
                }
            }
            _ => self.give_up(bev),
        }
    }
}
