//! What the steps of a flow share with all other flows of their worker.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use egress_flowlog::WorkerCounter;
use egress_hello::name::Name;
use egress_policy::{End, Reason, Stage};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::dial::Dials;
use crate::flow::{Flow, Recorder, Work};
use crate::installed::InForce;
use crate::limits::Lines;
use crate::logins;
use crate::relay::{Lender, Peer};
use crate::resolver::{Addresses, Handle};
use crate::shape::Shaper;
use crate::silence::Silences;
use crate::wheel::Wheel;

/// Names that one worker keeps; beyond it the cache starts anew (the resolver's own still answers).
const NAMES: usize = 10_000;

/// A configured duration, far from what would overflow a clock.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

/// What a step leaves to the worker's loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Wait for the next edge, answer or timer.
    Stay,
    /// The flow's turn is over; call it again after the others.
    Again,
    /// The flow has ended.
    End(End),
}

/// Bytes, their end, and urgent data.
const READS: Interest = Interest::READABLE.add(Interest::PRIORITY);

/// Bits of a token: which socket of the flow, then its slot, then the slot's generation.
const SIDE_BITS: u32 = 3;
const SLOT_BITS: u32 = 29;
/// The client's side; 1 and up are the connection attempts.
pub(crate) const CLIENT: usize = 0;

/// Builds and reads the token under which a flow's sockets are registered. Generations make an event that was already
/// fetched for a closed flow recognisable; `u32::MAX` is kept for the worker's own tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlowToken {
    pub slot: usize,
    pub generation: u32,
}

impl FlowToken {
    pub(crate) fn side(self, side: usize) -> Token {
        Token((self.generation as usize) << (SIDE_BITS + SLOT_BITS) | self.slot << SIDE_BITS | side)
    }

    pub(crate) fn read(token: Token) -> (Self, usize) {
        let side = token.0 & ((1 << SIDE_BITS) - 1);
        let slot = token.0 >> SIDE_BITS & ((1 << SLOT_BITS) - 1);
        let generation = (token.0 >> (SIDE_BITS + SLOT_BITS)) as u32;
        (Self { slot, generation }, side)
    }

    /// The token as one number, for a question to the resolver.
    pub(crate) fn number(self) -> u64 {
        self.side(CLIENT).0 as u64
    }

    pub(crate) fn of_number(number: u64) -> Self {
        Self::read(Token(usize::try_from(number).unwrap_or(usize::MAX))).0
    }
}

/// How long the machine's addresses are taken to be what they were.
const LOCAL_MS: u64 = 5_000;

/// The machine's own addresses, read when they are first asked for.
#[derive(Debug, Default)]
pub(crate) struct Local {
    addresses: Vec<IpAddr>,
    read_ms: Option<u64>,
}

/// A name's addresses in a worker's own memory: the resolver's are counted by all workers at once.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub ips: Rc<[IpAddr]>,
    pub until: Instant,
    pub stale: bool,
}

/// Lists that are empty but while one flow's addresses are screened.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    /// Passed the screen.
    pub passed: Vec<SocketAddr>,
    /// Would not have passed without an audit.
    pub audited: Vec<(Reason, SocketAddr)>,
    /// In the order in which they are dialled.
    pub ordered: Vec<SocketAddr>,
}

/// One worker's shared parts.
#[derive(Debug)]
pub(crate) struct Context {
    pub worker: usize,
    pub registry: Registry,
    pub wheel: Wheel,
    pub lender: Lender,
    pub dials: Dials,
    pub candidates: Candidates,
    pub recorder: Rc<Recorder>,
    pub resolver: Handle,
    /// Where connections go that are HTTP/2 or TLS to the proxy; `None` where no listener takes such.
    pub front: Option<egress_front::Handle>,
    pub login_thread: logins::Handle,
    pub logins: logins::Remembered,
    pub names: HashMap<Name, Known>,
    /// The gateway's own listening addresses, which are never dialled.
    pub own: Arc<[SocketAddr]>,
    pub local: Local,
    pub shaper: Shaper,
    pub lines: Lines,
    /// Denied connections to which nothing is said.
    pub silences: Silences,
    pub now: Instant,
    pub now_ms: u64,
    pub unix_seconds: u64,
    pub next_id: u64,
    /// Nothing new is accepted; what is open may come to its end.
    pub draining: bool,
}

impl Context {
    pub(crate) fn policy(&self) -> Rc<InForce> {
        Rc::clone(&self.recorder.policy.borrow())
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.recorder.now_ns.get()
    }

    pub(crate) fn count(&self, counter: WorkerCounter) {
        self.recorder.counters.add(counter, 1);
    }

    pub(crate) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Registers a socket for all edges; closing removes it.
    pub(crate) fn watch(&self, fd: RawFd, token: Token) -> std::io::Result<()> {
        self.registry.register(&mut SourceFd(&fd), token, READS | Interest::WRITABLE)
    }

    /// Registers a socket that can be written to: asking for that edge now would cost an event that says only so.
    pub(crate) fn watch_reads(&self, fd: RawFd, token: Token) -> std::io::Result<()> {
        self.registry.register(&mut SourceFd(&fd), token, READS)
    }

    /// Asks for the edges that `peer` now has to be told of; those that came in between are reported by the call.
    pub(crate) fn watch_again(&self, peer: &Peer, token: Token) -> std::io::Result<()> {
        let edges = match peer {
            // Not for urgent data either: to epoll(7), any data that arrives may be that.
            Peer { deaf: true, .. } => Interest::WRITABLE,
            Peer { reads_only: true, .. } => READS,
            _ => READS | Interest::WRITABLE,
        };
        self.registry.reregister(&mut SourceFd(&peer.fd.as_raw_fd()), token, edges)
    }

    /// Sets the flow's one timer.
    pub(crate) fn wake_at(&mut self, token: FlowToken, deadline_ms: u64) {
        self.wheel.set(token.slot, deadline_ms);
    }

    /// Keeps what the resolver has answered; gives it as it is kept.
    pub(crate) fn remember(&mut self, name: &Name, addresses: &Addresses) -> Known {
        if self.names.len() >= NAMES {
            self.names.clear();
        }
        let Addresses { ips, until, stale } = addresses;
        let known = Known { ips: Rc::from(&**ips), until: *until, stale: *stale };
        self.names.insert(name.clone(), known.clone());
        known
    }

    /// A still valid answer that this worker was given before.
    pub(crate) fn known(&mut self, name: &Name) -> Option<Known> {
        let known = self.names.get(name)?;
        if self.now < known.until {
            self.recorder.counters.add(WorkerCounter::NameCacheHits, 1);
            return Some(known.clone());
        }
        self.names.remove(name);
        None
    }

    /// Whether dialling `address` would come back to the gateway itself.
    pub(crate) fn is_own(&mut self, address: SocketAddr) -> bool {
        let ip = address.ip();
        let same_port = || self.own.iter().filter(|own| own.port() == address.port());
        if same_port().any(|own| own.ip() == ip) {
            return true;
        }
        if !same_port().any(|own| own.ip().is_unspecified()) {
            return false;
        }
        if self.local.read_ms.is_none_or(|read_ms| self.now_ms >= read_ms + LOCAL_MS) {
            // Where they cannot be read (no descriptor is left), those known before are the best there is.
            if let Ok(addresses) = egress_sys::local_addresses() {
                self.local = Local { addresses, read_ms: Some(self.now_ms) };
            }
        }
        ip.is_loopback() || self.local.addresses.contains(&ip)
    }

    /// Takes back what a flow that ends still had on loan.
    pub(crate) fn reclaim(&mut self, flow: &mut Flow) {
        if let Some(beside) = &mut flow.beside {
            let now_ns = self.recorder.now_ns.get();
            self.shaper.leave(&mut beside.shaped, &mut beside.held_back, now_ns);
        }
        match &mut flow.work {
            Work::Relay(relay) => {
                relay.up.release(&mut self.lender);
                relay.down.release(&mut self.lender);
            }
            Work::Http(exchange) => exchange.release(&mut self.lender),
            Work::Dial(..) => self.abandon_dial(flow),
            Work::Wait(place) => self.lines.leave(place.rule, place.token),
            _ => {}
        }
    }

    /// Gives up the attempts under way, if there are any; the first bytes go on waiting.
    pub(crate) fn abandon_dial(&mut self, flow: &mut Flow) {
        match std::mem::replace(&mut flow.work, Work::Moving) {
            Work::Dial(dialing, bytes) => {
                self.dials.give_back(dialing);
                flow.work = Work::Resolve(bytes);
                flow.enter(Stage::Resolving);
            }
            other => flow.work = other,
        }
    }
}
