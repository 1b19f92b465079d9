//! A flow: one accepted connection, from accept to its record. Dropping it writes the record, whatever happened.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use egress_flowlog::{
    Counters, Delays, LiveFlow, LiveTable, NONE_U32, Record, Ring, WorkerCounter, flags,
};
use egress_front::{Introduced, WorkerEnd};
use egress_hello::http::Preference;
use egress_hello::name::Host;
use egress_policy::{
    Accept, Decision, End, Evidence, Identity, Reason, RuleId, Source, Stage, Terms, Verdict,
};

use crate::budget::Spending;
use crate::dial::Dialing;
use crate::installed::{InForce, Installed};
use crate::limits::{Entered, Held, OfSource};
use crate::pool::Buffer;
use crate::relay::{Direction, Edge, Exchange, Peer, Requests};
use crate::shape::{HeldBack, Shaped};
use crate::silence::Silence;
use crate::steps::Waiting;

/// Where the flows of one worker leave their traces.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub ring: RefCell<Ring>,
    pub live: LiveTable,
    pub counters: Counters,
    pub policy: RefCell<Rc<InForce>>,
    /// The worker's clock in nanoseconds since it started, read once per turn of its loop.
    pub now_ns: Cell<u64>,
    pub wall: WallClock,
}

/// What the wall clock says of the worker's own: it may be set at any time, and a machine that was suspended finds its
/// own clock late.
#[derive(Debug)]
pub(crate) struct WallClock {
    /// When the worker's clock started, in nanoseconds of Unix time.
    started_unix_ns: Cell<u64>,
}

impl WallClock {
    /// Less than this is the time between looking at the one clock and at the other; a flow keeps its time over it.
    const SLACK_NS: u64 = 1_000_000;

    pub(crate) fn new(unix_ns: u64) -> Self {
        Self { started_unix_ns: Cell::new(unix_ns) }
    }

    /// The worker's clock says `now_ns`, the wall clock `unix_ns`.
    pub(crate) fn follow(&self, now_ns: u64, unix_ns: u64) {
        let started = unix_ns.saturating_sub(now_ns);
        if started.abs_diff(self.started_unix_ns.get()) > Self::SLACK_NS {
            self.started_unix_ns.set(started);
        }
    }

    /// A moment of the worker's clock in nanoseconds of Unix time, by what the wall clock says now.
    pub(crate) fn unix_ns(&self, ns: u64) -> u64 {
        self.started_unix_ns.get().saturating_add(ns)
    }
}

/// What the flow is doing, with what only that needs.
#[derive(Debug)]
pub(crate) enum Work {
    /// Reading the PROXY header, which comes before the first bytes.
    Header(Option<Buffer>),
    /// Reading the first bytes; nothing is held before some have come.
    Hear(Option<Buffer>),
    /// Waiting for the client's login to be verified.
    Login(Box<Waiting>),
    /// Waiting until its rule has room.
    Wait(Box<InLine>),
    /// Waiting for the resolver, or for a connection attempt; the first bytes wait to be replayed.
    Resolve(Buffer),
    Dial(Box<Dialing>, Buffer),
    Relay(Relay),
    /// A request of plain HTTP and its response.
    Http(Box<Exchange>),
    Refuse(Box<Goodbye>),
    /// Nothing any more; bytes up and down of the relay that it was.
    Over((u64, u64)),
    /// Nothing here: the front has the connection, and each of its streams becomes a flow.
    Handed,
    /// Between two of the above.
    Moving,
}

impl Work {
    /// The upstream, and under which number its socket is registered.
    pub(crate) fn upstream_mut(&mut self) -> Option<(&mut Peer, u8)> {
        match self {
            Self::Relay(relay) => Some((&mut relay.upstream, relay.side)),
            Self::Http(exchange) => Some((&mut exchange.upstream, exchange.side)),
            _ => None,
        }
    }
}

/// A flow whose rule, or its source by that rule, has no room.
#[derive(Debug)]
pub(crate) struct InLine {
    pub bytes: Buffer,
    /// Its rule, in the policy in force.
    pub rule: u32,
    /// What it is known as there.
    pub token: u64,
    pub since_ns: u64,
}

/// The two directions between a client and the upstream that was dialled for it.
#[derive(Debug)]
pub(crate) struct Relay {
    pub upstream: Peer,
    /// Under which the upstream's socket is registered: 1 and the number of the attempt that won.
    pub side: u8,
    pub up: Direction,
    pub down: Direction,
    /// The client's first bytes, held until it is clear what they say: in a tunnel, of a captured client that was silent, or that
    /// may still begin a request.
    pub gate: Option<Buffer>,
    /// The upstream was asked for TLS in PostgreSQL's words; what is behind the gate waits for its answer.
    pub awaits_tls: bool,
    /// The upstream takes no more bytes, but may still have some for the client.
    pub broken: bool,
    /// Keepalive probes are on (set only once the flow has been idle for a while).
    pub kept: bool,
    /// Milliseconds of the worker's clock when bytes last moved.
    pub active_ms: u64,
}

/// A refusal on its way to the client.
#[derive(Debug)]
pub(crate) struct Goodbye {
    pub bytes: Buffer,
    /// Nothing is said to the client, and nothing that it says is read.
    pub silence: Option<Silence>,
    pub shut: bool,
    /// Bytes of the client thrown away since: a bound on how long a sender is humoured.
    pub discarded: usize,
    /// Bytes up and down of the relay that ended in this refusal.
    pub carried: (u64, u64),
    /// The client's connection lives on: its next request comes after this.
    pub next: bool,
}

/// How a client's address is known.
pub(crate) fn evidence(introduced: Option<&Introduced>) -> Evidence {
    match introduced {
        Some(Introduced { destination: Some(_), .. }) => Evidence::ProxyHeader,
        _ => Evidence::Address,
    }
}

/// What is known of a client besides its socket and its address.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    /// What it has shown of itself.
    pub identity: Option<Identity>,
    /// Of one that comes through the front: what a pair of sockets cannot say.
    pub pair: Option<WorkerEnd>,
    /// What such a client has connected to, which the pair does not know.
    pub local: Option<SocketAddr>,
    /// What a PROXY header says.
    pub introduced: Option<Introduced>,
    /// The worker's clock when that was read: the client's own first bytes have their time from then on.
    pub header_ns: u64,
    /// Of one that speaks plain HTTP.
    pub http: Option<Requests>,
    /// A word for its first bytes, where those may name a destination and are not read.
    pub unread: Option<&'static str>,
    /// Of one whose rule has `bandwidth`.
    pub shaped: Option<Box<Shaped>>,
    pub held_back: HeldBack,
    /// Of one whose rule has `budget`.
    pub spending: Option<Box<Spending>>,
    /// Its place among those of its source, of one whose rule bounds each source.
    pub held: Option<OfSource>,
    /// How long it has waited until its rule had room.
    pub waited_ns: u64,
}

#[derive(Debug)]
pub(crate) struct Flow {
    pub id: u64,
    pub client: Peer,
    pub source: SocketAddr,
    /// How `source` is known; what `identity` stands for is beyond it.
    pub evidence: Evidence,
    /// What few clients have; dropped after `client`.
    pub beside: Option<Box<Beside>>,
    pub listener: u16,
    pub accept: Accept,
    pub start_ns: u64,
    pub stage: Stage,
    pub destination: Option<Host>,
    pub port: u16,
    /// The address that a captured connection was for.
    pub captured: Option<IpAddr>,
    pub decision: Option<Decision>,
    pub generation: u64,
    pub verdict: Verdict,
    pub reason: Reason,
    pub rule: u32,
    pub end: End,
    pub flags: u32,
    pub first_bytes_us: u32,
    pub resolve_us: u32,
    pub connect_us: u32,
    /// How the client would rather read a refusal.
    pub prefers: Preference,
    /// The client asked for TLS in PostgreSQL's words, and was told to begin.
    pub postgres_tls: bool,
    pub upstream: Option<SocketAddr>,
    /// The second name of a mismatch, or a parser's word.
    pub other: Option<Box<str>>,
    pub held: Option<Held>,
    /// The policy that `rule` is of, where it is no longer the one in force.
    pub judge: Option<Rc<InForce>>,
    pub work: Work,
    /// The slot in the live table; `None` for a connection that found no room.
    pub slot: Option<u32>,
    pub recorder: Rc<Recorder>,
}

impl Flow {
    /// The caller as rules see it.
    pub(crate) fn caller(&self) -> Source<'_> {
        Source::new(self.source.ip(), self.evidence, self.identity())
    }

    /// Adds what the client has shown of itself; before it is judged.
    pub(crate) fn shown(&mut self, add: impl FnOnce(Identity) -> Identity) {
        let beside = self.beside.get_or_insert_default();
        beside.identity = Some(add(beside.identity.take().unwrap_or_default()));
    }

    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.beside.as_ref()?.identity.as_ref()
    }

    /// The user who has logged in.
    pub(crate) fn user(&self) -> Option<&[u8]> {
        self.identity()?.user()
    }

    /// What a PROXY header says of the client.
    pub(crate) fn introduced(&self) -> Option<&Introduced> {
        self.beside.as_ref()?.introduced.as_ref()
    }

    /// Of a client that comes through the front.
    pub(crate) fn pair(&self) -> Option<&WorkerEnd> {
        self.beside.as_ref()?.pair.as_ref()
    }

    /// Of a client that speaks plain HTTP.
    pub(crate) fn http(&self) -> Option<&Requests> {
        self.beside.as_ref()?.http.as_ref()
    }

    pub(crate) fn shaped_mut(&mut self) -> Option<&mut Box<Shaped>> {
        self.beside.as_mut()?.shaped.as_mut()
    }

    pub(crate) fn http_mut(&mut self) -> Option<&mut Requests> {
        self.beside.as_mut()?.http.as_mut()
    }

    pub(crate) fn take_gate(&mut self) -> Option<Buffer> {
        match &mut self.work {
            Work::Relay(relay) => relay.gate.take(),
            _ => None,
        }
    }

    pub(crate) fn unread(&self) -> Option<&'static str> {
        self.beside.as_ref()?.unread
    }

    fn shown_text(&self) -> &[u8] {
        self.identity().and_then(Identity::strongest).unwrap_or_default()
    }

    /// The rule whose terms the flow runs under: `dial`, `sni`, `connections`.
    pub(crate) fn terms<'a>(&self, policy: &'a Installed) -> Option<Terms<'a>> {
        self.decision?.terms.and_then(|terms| policy.snapshot.terms(terms))
    }

    /// Counted with a limited rule, in place of any before.
    pub(crate) fn hold(&mut self, held: Option<Entered>) {
        let (held, of_source) = held.map_or((None, None), |(held, own)| (Some(held), own));
        self.held = held;
        if of_source.is_some() {
            self.beside.get_or_insert_default().held = of_source;
        } else if let Some(beside) = &mut self.beside {
            beside.held = None;
        }
    }

    /// The client is told when its destination is reached, and speaks to it only then.
    pub(crate) fn asks_for_tunnel(&self) -> bool {
        matches!(self.accept, Accept::Connect | Accept::Socks5)
    }

    /// Takes in an edge of the client's socket.
    pub(crate) fn mark_client(&mut self, edge: Edge) {
        let cut = edge.ending && self.pair().is_some_and(WorkerEnd::client_cut);
        self.client.mark(Edge { failed: edge.failed || cut, ..edge });
    }

    /// Makes the coming close a reset for the client.
    pub(crate) fn abort_client(&self) {
        match self.pair() {
            Some(pair) => pair.cut(),
            None => egress_sys::abort_on_close(self.client.fd()),
        }
    }

    pub(crate) fn name(&self) -> NameText<'_> {
        NameText::of(self.destination.as_ref())
    }

    /// Microseconds since the connection was accepted.
    pub(crate) fn age_us(&self) -> u32 {
        let age = self.recorder.now_ns.get().saturating_sub(self.start_ns) / 1000;
        u32::try_from(age).unwrap_or(NONE_U32 - 1).min(NONE_U32 - 1)
    }

    fn start_unix_ns(&self) -> u64 {
        self.recorder.wall.unix_ns(self.start_ns)
    }

    /// Shows the flow's present state in the live table.
    pub(crate) fn publish(&self) {
        let Some(slot) = self.slot else { return };
        let policy = self.judge();
        let name = self.name();
        self.recorder.live.write(
            slot as usize,
            &LiveFlow {
                flow_id: self.id,
                generation: self.generation,
                start_unix_ns: self.start_unix_ns(),
                rule: self.rule,
                rule_line: policy
                    .snapshot
                    .name_and_line(RuleId(self.rule))
                    .map_or(0, |(_, line)| line),
                stage: self.stage,
                verdict: self.verdict,
                reason: self.reason,
                source: self.source,
                upstream: self.upstream,
                port: self.port,
                listener: self.listener,
                accept: self.accept,
                flags: self.flags,
                name: name.bytes(),
                evidence: self.caller().evidence,
                identity: self.shown_text(),
            },
        );
    }

    /// Moves to another stage and shows it.
    pub(crate) fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        if let Some(slot) = self.slot {
            self.recorder.live.stage(slot as usize, stage);
        }
    }

    /// Bytes up and down.
    pub(crate) fn moved(&self) -> (u64, u64) {
        match &self.work {
            Work::Relay(relay) => (relay.up.bytes, relay.down.bytes),
            Work::Http(exchange) => exchange.carried,
            Work::Refuse(goodbye) => goodbye.carried,
            Work::Over(carried) => *carried,
            _ => (0, 0),
        }
    }

    /// An HTTP client's connection lives on, and no byte of another request has come.
    pub(crate) fn is_between_requests(&self) -> bool {
        let idle = |requests: &Requests| requests.later && requests.ahead.is_none();
        matches!(self.work, Work::Hear(None)) && self.http().is_some_and(idle)
    }

    /// The record of this request is written, and the client's next one is the flow from now on.
    pub(crate) fn next_request(&mut self, id: u64) {
        self.record();
        self.id = id;
        self.start_ns = self.recorder.now_ns.get();
        self.captured = self.http().and_then(|requests| requests.captured);
        // Each request says anew whose it is: a proxy in front may send those of many on one connection.
        if self.user().is_some() {
            self.shown(|identity| identity.with_user(b""));
        }
        self.hear_anew(None);
    }

    /// Nothing has been found out about the flow yet but these first bytes, which nobody has looked at.
    pub(crate) fn hear_anew(&mut self, first_bytes: Option<Buffer>) {
        self.spend_from(None);
        self.stage = Stage::FirstBytes;
        self.destination = self.captured.map(Host::Ip);
        if self.captured.is_none() {
            self.port = 0;
        }
        self.decision = None;
        self.generation = self.recorder.policy.borrow().generation;
        self.verdict = Verdict::None;
        self.reason = Reason::None;
        self.rule = NONE_U32;
        self.end = End::Open;
        self.flags = 0;
        self.first_bytes_us = NONE_U32;
        self.resolve_us = NONE_U32;
        self.connect_us = NONE_U32;
        self.prefers = Preference::Text;
        self.upstream = None;
        self.other = None;
        self.hold(None);
        if let Some(beside) = &mut self.beside {
            beside.waited_ns = 0;
            beside.held_back = HeldBack::default();
        }
        self.judge = None;
        self.work = Work::Hear(first_bytes);
        self.publish();
    }

    /// Shows the bytes moved so far.
    pub(crate) fn publish_bytes(&self) {
        if let Some(slot) = self.slot {
            let (up, down) = self.moved();
            self.recorder.live.bytes(slot as usize, up, down);
        }
    }

    /// The policy that `rule` is of.
    fn judge(&self) -> Rc<InForce> {
        self.judge.as_ref().map_or_else(|| Rc::clone(&self.recorder.policy.borrow()), Rc::clone)
    }

    fn record(&self) {
        let policy = self.judge();
        let (rule_name, rule_line) =
            policy.snapshot.name_and_line(RuleId(self.rule)).unwrap_or_default();
        let listener = policy.listener(self.listener);
        let (bytes_up, bytes_down) = self.moved();
        let name = self.name();
        let now_ns = self.recorder.now_ns.get();
        let mut delays = Delays::default();
        if let Some(beside) = &self.beside {
            if beside.waited_ns > 0 {
                delays.waited_us = u32::try_from(beside.waited_ns / 1000).unwrap_or(NONE_U32 - 1);
            }
            delays.held_ns = beside.held_back.ns;
            delays.held_by = beside.held_back.by.as_deref().unwrap_or_default().as_bytes();
        }
        let spliced =
            matches!(&self.work, Work::Relay(relay) if relay.up.spliced || relay.down.spliced);
        let record = Record {
            flow_id: self.id,
            generation: self.generation,
            start_unix_ns: self.start_unix_ns(),
            duration_ns: now_ns.saturating_sub(self.start_ns),
            bytes_up,
            bytes_down,
            first_bytes_us: self.first_bytes_us,
            resolve_us: self.resolve_us,
            connect_us: self.connect_us,
            rule_line,
            source: self.source,
            peer: self.introduced().map(|introduced| introduced.by),
            upstream: self.upstream,
            port: self.port,
            verdict: self.verdict,
            reason: self.reason,
            end: if self.end == End::Open { End::Aborted } else { self.end },
            accept: self.accept,
            listener: self.listener,
            flags: self.flags | if spliced { flags::SPLICED } else { 0 },
            rule: self.rule,
            name: name.bytes(),
            rule_name,
            listener_name: listener.map_or(b"", |listener| listener.name.as_bytes()),
            other: self.other.as_deref().unwrap_or_default().as_bytes(),
            evidence: self.caller().evidence,
            identity: self.shown_text(),
            delays,
        };
        self.recorder.ring.borrow_mut().push(&record);
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.spend();
        // Those of a client's requests before are written.
        if !(matches!(self.work, Work::Handed) || self.is_between_requests()) {
            self.record();
        }
        if let Some(slot) = self.slot {
            self.recorder.live.clear(slot as usize);
            let counters = self.recorder.counters;
            counters
                .set(WorkerCounter::Active, counters.get(WorkerCounter::Active).saturating_sub(1));
        }
    }
}

/// A destination as text: a name as it is, an address written into a small buffer of its own.
#[derive(Debug)]
pub(crate) enum NameText<'a> {
    Name(&'a str),
    Address([u8; 45], usize),
}

impl<'a> NameText<'a> {
    fn of(host: Option<&'a Host>) -> Self {
        match host {
            None => Self::Name(""),
            Some(Host::Name(name)) => Self::Name(name.as_str()),
            Some(Host::Ip(ip)) => Self::address(*ip),
        }
    }

    pub(crate) fn address(ip: IpAddr) -> Self {
        use std::io::Write;
        // 45 bytes hold the longest textual IPv6 address (INET6_ADDRSTRLEN without its NUL).
        let mut text = [0; 45];
        let mut rest = text.as_mut_slice();
        let written = write!(rest, "{ip}").map_or(0, |()| 45 - rest.len());
        Self::Address(text, written)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Name(name) => name.as_bytes(),
            Self::Address(text, len) => &text[..*len],
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.bytes()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wheel::Wheel;

    #[test]
    fn the_time_of_a_flow_follows_a_clock_that_is_set() {
        const HOUR: u64 = 3_600_000_000_000;
        let wall = WallClock::new(100 * HOUR);
        wall.follow(HOUR, 101 * HOUR + 5_000);
        assert_eq!(wall.unix_ns(HOUR), 101 * HOUR);
        wall.follow(2 * HOUR, 90 * HOUR);
        assert_eq!(wall.unix_ns(2 * HOUR), 90 * HOUR, "set back");
        wall.follow(3 * HOUR, 95 * HOUR);
        assert_eq!(wall.unix_ns(3 * HOUR), 95 * HOUR, "after four hours of suspension");
    }

    #[test]
    fn an_idle_flow_holds_little_memory() {
        // Its name is the one allocation beside these; what is pending or being dialled is borrowed or boxed.
        let own =
            size_of::<Flow>() + Wheel::BYTES_PER_TIMER + egress_flowlog::layout::LIVE_SLOT_SIZE;
        assert!(own <= 648, "{own} bytes");
    }
}
