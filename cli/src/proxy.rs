//! `evring proxy`: passes connections on to an upstream, bytes by reference.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use evring::{
    Addr, BufferEvent, Callbacks, EventBase, Events, Options, Relay, RelayOptions, RelayReport,
    relay,
};
use evring_cli_common::console::{Console, print_line};
use evring_cli_common::failure::Failure;
use slab::Slab;

use crate::args::ProxyArgs;
use crate::bursts::Notices;
use crate::echo;
use crate::gate::Pass;
use crate::limits::Capacity;
use crate::rates::Rates;
use crate::server::{self, Server, seconds, unless_zero};
use crate::service::Service;
use crate::worker::{self, MakeService, Plan, Spawned};

/// Runs the command.
pub fn run(args: &ProxyArgs) -> Result<(), Failure> {
    let rates = args.rates.rates().map_err(Failure::line)?;
    let console = Console::new();
    let notices = Notices::new(console.clone());
    let embedded = match args.upstream {
        Some(_) => None,
        None => Some(start_echo(args, notices.clone())?),
    };
    let upstream = args
        .upstream
        .clone()
        .or_else(|| embedded.as_ref()?.addr.clone())
        .ok_or_else(|| Failure::line("the embedded echo server has no address"))?;
    let server = Server {
        listen: args.listen.clone(),
        args: args.server.clone(),
        // A client, its upstream, and the same seen from an embedded upstream.
        fds_each: if embedded.is_some() { 3 } else { 2 },
        upstream_inside: embedded.is_some(),
        make: proxy_service(args, rates, upstream.clone(), notices.clone()),
        notices,
        console,
    };
    let result = server.run(|addr| {
        print_line(&format!("listening on {addr}"));
        if embedded.is_some() {
            how_to_try(addr, &upstream);
        }
    });
    // Its clients are gone, so whatever it still does concerns nobody.
    let stopped = embedded.map(Spawned::stop);
    let outcomes = result?;
    stopped.transpose()?;
    server::print_stats(&args.server, &outcomes);
    Ok(())
}

fn how_to_try(addr: &Addr, upstream: &Addr) {
    eprintln!(
        "no --upstream given: passing connections on to an embedded echo server on {upstream}"
    );
    eprintln!("try it from another terminal: evring load --connect {addr}");
}

/// Starts the upstream of a proxy that was given none.
fn start_echo(args: &ProxyArgs, notices: Notices) -> Result<Spawned, Failure> {
    let plan = Plan {
        listen: Some(Addr::from(std::net::SocketAddr::from((
            Ipv4Addr::LOCALHOST,
            0,
        )))),
        reuse_port: false,
        spin: args.server.spin.into(),
        capacity: Capacity::UNLIMITED,
        memory: args.server.memory,
        slot: args.server.slot,
        sample: None,
        notices: notices.clone(),
    };
    worker::spawn("evring-echo", plan, echo::echo_service(None, notices), None)
}

fn proxy_service(args: &ProxyArgs, rates: Rates, upstream: Addr, notices: Notices) -> MakeService {
    let rates = Arc::new(rates);
    let high = args.high;
    let connect_timeout = unless_zero(args.connect_timeout);
    let idle_timeout = unless_zero(args.server.idle_timeout);
    Arc::new(move |base| {
        Rc::new(Proxy {
            base: base.clone(),
            upstream: upstream.clone(),
            rates: rates.clone(),
            high,
            connect_timeout,
            idle_timeout,
            notices: notices.clone(),
            links: RefCell::default(),
            ended: Cell::default(),
            upstream_failures: Cell::new(0),
            cut_off: Cell::new(0),
            draining: Cell::new(false),
        })
    })
}

struct Proxy {
    base: EventBase,
    upstream: Addr,
    rates: Arc<Rates>,
    high: usize,
    connect_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
    notices: Notices,
    links: RefCell<Slab<Link>>,
    /// Bytes of the links that have ended: from clients, to clients.
    ended: Cell<(u64, u64)>,
    upstream_failures: Cell<u64>,
    /// Links that a signal ended with bytes undelivered.
    cut_off: Cell<usize>,
    draining: Cell<bool>,
}

/// A client and its upstream.
struct Link {
    state: State,
    _pass: Pass,
}

enum State {
    Connecting {
        client: BufferEvent,
        upstream: BufferEvent,
    },
    Relaying(Relay),
}

impl Proxy {
    /// Makes the two bufferevents and starts to connect.
    fn connect(self: &Rc<Self>, fd: OwnedFd, pass: Pass) -> Result<(), evring::Error> {
        let client = BufferEvent::socket(&self.base, Some(fd), Options::CLOSE_ON_FREE)?;
        let upstream = match BufferEvent::socket(&self.base, None, Options::CLOSE_ON_FREE) {
            Ok(upstream) => upstream,
            Err(error) => {
                client.free();
                return Err(error);
            }
        };
        let key = self.links.borrow_mut().insert(Link {
            state: State::Connecting {
                client: client.clone(),
                upstream: upstream.clone(),
            },
            _pass: pass,
        });
        let limited = self.rates.apply(&self.base, &client);
        let started = limited.and_then(|()| self.start_connect(key, &upstream));
        if started.is_err() {
            self.close(key);
        }
        started
    }

    fn start_connect(
        self: &Rc<Self>,
        key: usize,
        upstream: &BufferEvent,
    ) -> Result<(), evring::Error> {
        let weak = Rc::downgrade(self);
        upstream.set_callbacks(Callbacks::new().on_event(move |bev, events| {
            if let Some(proxy) = weak.upgrade() {
                proxy.answered(key, bev, events);
            }
        }))?;
        upstream.set_timeouts(None, self.connect_timeout)?;
        upstream.connect(&self.upstream)
    }

    /// The upstream accepted, refused or stayed silent.
    fn answered(self: &Rc<Self>, key: usize, upstream: &BufferEvent, events: Events) {
        let result = if events.contains(Events::CONNECTED) {
            self.start_relay(key).map_err(|error| error.to_string())
        } else if events.contains(Events::TIMEOUT) {
            let limit = self.connect_timeout.unwrap_or_default();
            Err(format!("no answer within {}", seconds(limit)))
        } else {
            let error = upstream.last_error();
            Err(error.map_or_else(|| "cannot connect".to_owned(), |error| error.to_string()))
        };
        if let Err(why) = result {
            self.upstream_failed(why);
            self.close(key);
        }
    }

    fn start_relay(self: &Rc<Self>, key: usize) -> Result<(), evring::Error> {
        let (client, upstream) = match self.links.borrow().get(key).map(|link| &link.state) {
            Some(State::Connecting { client, upstream }) => (client.clone(), upstream.clone()),
            _ => return Ok(()),
        };
        upstream.set_timeouts(None, None)?;
        if self.upstream.is_tcp() {
            upstream.set_nodelay(true)?;
        }
        let options = RelayOptions::default()
            .high(self.high)
            .idle_timeout(self.idle_timeout);
        let relay = relay(&client, &upstream, options)?;
        if let Some(link) = self.links.borrow_mut().get_mut(key) {
            link.state = State::Relaying(relay.clone());
        }
        let weak = Rc::downgrade(self);
        relay.on_end(move |report| {
            if let Some(proxy) = weak.upgrade() {
                proxy.relay_ended(key, report);
            }
        });
        Ok(())
    }

    fn relay_ended(&self, key: usize, report: &RelayReport) {
        let (up, down) = self.ended.get();
        self.ended.set((up + report.a_to_b, down + report.b_to_a));
        if self.draining.get() && report.undelivered > 0 {
            self.cut_off.set(self.cut_off.get() + 1);
        }
        let link = self.links.borrow_mut().try_remove(key);
        drop(link);
    }

    fn upstream_failed(&self, why: impl fmt::Display) {
        self.upstream_failures.set(self.upstream_failures.get() + 1);
        self.notices
            .event(&format!("upstream {}: {why}", self.upstream));
    }

    /// Closes a link at once.
    fn close(&self, key: usize) {
        // Dropping it calls the gate, which must find no borrow here.
        let link = self.links.borrow_mut().try_remove(key);
        if let Some(link) = link {
            self.cut(&link.state);
        }
    }

    fn cut(&self, state: &State) {
        match state {
            State::Connecting { client, upstream } => {
                client.free();
                upstream.free();
            }
            State::Relaying(relay) => relay.free(),
        }
    }
}

impl Service for Proxy {
    fn serve(self: Rc<Self>, fd: OwnedFd, pass: Pass) {
        if let Err(error) = self.connect(fd, pass) {
            self.upstream_failures.set(self.upstream_failures.get() + 1);
            self.notices
                .event(&format!("cannot reach the upstream: {error}"));
        }
    }

    fn moved(&self) -> (u64, u64) {
        let ended = self.ended.get();
        let links = self.links.borrow();
        links
            .iter()
            .fold(ended, |sum, (_, link)| match &link.state {
                State::Connecting { .. } => sum,
                State::Relaying(relay) => {
                    let (up, down) = relay.bytes();
                    (sum.0 + up, sum.1 + down)
                }
            })
    }

    fn drain(self: Rc<Self>, grace: Duration) {
        self.draining.set(true);
        let mut connecting = Vec::new();
        let mut relaying = Vec::new();
        for (key, link) in &*self.links.borrow() {
            match &link.state {
                State::Connecting { .. } => connecting.push(key),
                State::Relaying(relay) => relaying.push(relay.clone()),
            }
        }
        for key in connecting {
            self.close(key);
        }
        for relay in relaying {
            relay.close_after_flush(grace);
        }
    }

    fn abort(&self) -> usize {
        let links = std::mem::take(&mut *self.links.borrow_mut());
        let left = links.len();
        for (_, link) in links {
            self.cut(&link.state);
        }
        left + self.cut_off.take()
    }

    fn counts(&self) -> Vec<(&'static str, u64)> {
        let (up, down) = self.moved();
        vec![
            ("bytes_from_clients", up),
            ("bytes_to_clients", down),
            ("upstream_failures", self.upstream_failures.get()),
        ]
    }
}
