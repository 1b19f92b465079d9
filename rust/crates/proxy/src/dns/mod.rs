//! DNS listeners: clients ask here for the addresses of names, and get those that some rule lets them reach.
//!
//! Everything runs on the resolver's thread and uses its cache. The way of a question: `udp` or `tcp` → `question` (read,
//! judged, answered at once where possible) → `crate::resolver` → `question` again (screened, remembered in `handed`,
//! answered). What is refused leaves a record through `journal`.

mod handed;
mod journal;
mod question;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use egress_flowlog::{Counters, ResolverCounter as Count, Ring};
use egress_hello::name::Name;
use tokio::task::JoinSet;

use self::handed::Handed;
use self::journal::Journal;
use crate::installed::Installed;
use crate::resolver::Shared;

/// Questions that wait for the resolver at once, of all clients and of one: a client that asks for names which nobody
/// answers does not take the others' room.
const MAX_WAITING: usize = 4096;
const MAX_WAITING_OF_SOURCE: usize = 512;

/// The sockets of one listener.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// Its place in the settings.
    pub listener: u16,
    pub datagrams: UdpSocket,
    pub stream: TcpListener,
}

/// What the listeners are made from.
#[derive(Debug)]
pub(crate) struct Bound {
    pub sockets: Vec<Sockets>,
    pub policy: Arc<Installed>,
    pub ring: Ring,
    /// The upper 24 bits of the ids of records.
    pub id_prefix: u64,
}

/// All DNS listeners of the gateway.
pub(crate) struct Front {
    resolver: Rc<RefCell<Shared>>,
    policy: RefCell<Arc<Installed>>,
    counters: Counters,
    handed: RefCell<Handed>,
    journal: Journal,
    waiting: Crowd,
    connections: Crowd,
    listening: RefCell<JoinSet<()>>,
}

impl Front {
    pub(crate) fn start(
        bound: Bound,
        resolver: &Rc<RefCell<Shared>>,
        counters: Counters,
    ) -> Rc<Self> {
        let Bound { sockets, policy, ring, id_prefix } = bound;
        let front = Rc::new(Self {
            resolver: Rc::clone(resolver),
            policy: RefCell::new(policy),
            counters,
            handed: RefCell::default(),
            journal: Journal::new(ring, id_prefix),
            waiting: Crowd::new(MAX_WAITING, MAX_WAITING_OF_SOURCE),
            connections: Crowd::new(tcp::MAX_CONNECTIONS, tcp::MAX_CONNECTIONS_OF_SOURCE),
            listening: RefCell::default(),
        });
        let failed = |what: &str, error: std::io::Error| {
            crate::log::error(&format!("a dns listener does not serve {what}: {error}"));
        };
        for Sockets { listener, datagrams, stream } in sockets {
            let mut listening = front.listening.borrow_mut();
            match tokio::net::UdpSocket::from_std(datagrams) {
                Ok(socket) => {
                    listening.spawn_local(udp::serve(Rc::clone(&front), listener, Rc::new(socket)));
                }
                Err(error) => failed("UDP", error),
            }
            match tokio::net::TcpListener::from_std(stream) {
                Ok(stream) => {
                    listening.spawn_local(tcp::serve(Rc::clone(&front), listener, stream));
                }
                Err(error) => failed("TCP", error),
            }
        }
        front
    }

    /// Questions are judged by this policy from now on, those that wait for an answer too.
    pub(crate) fn install(&self, policy: Arc<Installed>) {
        *self.policy.borrow_mut() = policy;
    }

    /// No more questions are taken; those at hand are answered.
    pub(crate) fn drain(&self) {
        self.listening.borrow_mut().abort_all();
    }

    /// The names under which `source` was told `address`, newest first.
    pub(crate) fn handed(&self, source: IpAddr, address: IpAddr) -> Vec<Name> {
        let names = self.handed.borrow_mut().names(source, address, Instant::now());
        if !names.is_empty() {
            self.count(Count::FlowsNamed);
        }
        names
    }

    fn policy(&self) -> Arc<Installed> {
        Arc::clone(&self.policy.borrow())
    }

    fn count(&self, counter: Count) {
        self.counters.add(counter, 1);
    }
}

/// How many of something each source has, bounded for one and for all.
struct Crowd {
    most: usize,
    most_of_source: usize,
    all: Cell<usize>,
    of: RefCell<HashMap<IpAddr, usize>>,
}

/// One of them, given back when dropped.
struct Place<'a> {
    crowd: &'a Crowd,
    source: IpAddr,
}

impl Crowd {
    fn new(most: usize, most_of_source: usize) -> Self {
        Self { most, most_of_source, all: Cell::new(0), of: RefCell::default() }
    }

    /// A place for `source`, if there is room.
    fn enter(&self, source: IpAddr) -> Option<Place<'_>> {
        if self.all.get() >= self.most {
            return None;
        }
        let mut of = self.of.borrow_mut();
        let own = of.entry(source).or_default();
        // An entry that was made just now is below any bound.
        if *own >= self.most_of_source {
            return None;
        }
        *own += 1;
        self.all.set(self.all.get() + 1);
        Some(Place { crowd: self, source })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut of = self.crowd.of.borrow_mut();
        if let Some(own) = of.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                of.remove(&self.source);
            }
        }
        self.crowd.all.set(self.crowd.all.get() - 1);
    }
}
