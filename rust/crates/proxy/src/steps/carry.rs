//! Carrying bytes between client and upstream, and, in a CONNECT tunnel, comparing the name inside with the one judged.

use std::io;

use egress_flowlog::flags;
use egress_hello::name::Host;
use egress_hello::socks::Reply;
use egress_hello::tls::Sni;
use egress_policy::{Accept, End, Reason, Stage};
use mio::Token;
use rustix::io::Errno;

use super::refuse::TLS_RECORD_TYPES;
use super::{Reader, Said};
use crate::context::{CLIENT, Context, FlowToken, Step, millis};
use crate::flow::{Flow, Relay, Work};
use crate::pool::{Buffer, FAIR_BYTES};
use crate::relay::{Direction, Fault, Peer, Pumped};
use crate::shape::{DOWN, UP};

/// RFC 9110, section 9.3.6: any 2xx switches to tunnel mode; no body, no length.
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
/// Keepalive probes are turned on after this long without a byte: short flows never pay for the system calls.
pub(super) const KEEPALIVE_CHECK_MS: u64 = 30_000;

/// A direction that may read no more, and what that comes to for now.
const STOPS: (Result<Pumped, Fault>, Result<Pumped, Fault>) =
    (Ok(Pumped::Spent), Ok(Pumped::Waiting));

impl Context {
    /// The upstream is connected: replay what was read, and open the gates.
    pub(crate) fn begin_relay(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        upstream: Peer,
        side: usize,
        bytes: Buffer,
    ) -> Step {
        if flow.http().is_some() {
            return self.begin_exchange(token, flow, upstream, side as u8, bytes);
        }
        if flow.postgres_tls {
            return self.ask_for_tls(token, flow, upstream, side, bytes);
        }
        let mut relay = self.relay_to(upstream, side);
        let mut begun = false;
        let first = if flow.asks_for_tunnel() { 0 } else { bytes.rest().len() };
        // Whoever has said nothing yet may still name a destination.
        let unheard = flow.accept == Accept::Transparent && bytes.rest().is_empty();
        if flow.asks_for_tunnel() {
            let socks = Reply::Succeeded.without_address();
            let told = if flow.accept == Accept::Socks5 { &socks } else { ESTABLISHED };
            relay.down.pending = Some(self.lender.buffers.holding(told));
            relay.down.own = told.len() as u16;
        }
        let announcement = self.announcement(flow);
        if let Some(words) = announcement {
            relay.up.say(words);
        }
        if bytes.passes() && !flow.asks_for_tunnel() {
            let mut bytes = bytes;
            relay.gate = Some(self.lender.buffers.holding(&[]).goes_on_from(&mut bytes));
            relay.up.begin_with(bytes, &mut self.lender);
            flow.stage = Stage::Relaying;
        } else if flow.asks_for_tunnel() || unheard {
            begun = !bytes.rest().is_empty();
            relay.gate =
                Some(bytes.heard_by(if unheard { Reader::Captured } else { Reader::of_tunnel() }));
            flow.stage = Stage::Tunnel;
        } else {
            relay.up.begin_with(bytes, &mut self.lender);
            flow.stage = Stage::Relaying;
        }
        flow.work = Work::Relay(relay);
        self.owe(flow, first);
        flow.publish();
        // What came along with the CONNECT may be half a hello: then the rest has its time from now on.
        let deadline =
            if begun { self.first_bytes_deadline_ms() } else { self.idle_check_ms(flow) };
        self.wake_at(token, deadline);
        self.carry(token, flow)
    }

    pub(super) fn relay_to(&self, upstream: Peer, side: usize) -> Relay {
        Relay {
            upstream,
            side: side as u8,
            up: Direction::default(),
            down: Direction::default(),
            gate: None,
            awaits_tls: false,
            broken: false,
            kept: false,
            active_ms: self.now_ms,
        }
    }

    pub(super) fn idle_ms(&self) -> u64 {
        millis(self.policy().snapshot.settings().timeouts.idle)
    }

    /// When a tunnel's first bytes, or a request's, have to be whole, if they begin now.
    pub(super) fn first_bytes_deadline_ms(&self) -> u64 {
        self.now_ms + millis(self.policy().snapshot.settings().timeouts.first_bytes)
    }

    /// When the idle timer has to look at the flow next.
    pub(super) fn idle_check_ms(&self, flow: &Flow) -> u64 {
        let Work::Relay(relay) = &flow.work else { return self.now_ms };
        let idle = self.idle_ms();
        relay.active_ms + if relay.kept { idle } else { idle.min(KEEPALIVE_CHECK_MS) }
    }

    /// A flow that was closing is allowed again.
    pub(crate) fn resume(&mut self, token: FlowToken, flow: &mut Flow) {
        if let Work::Http(exchange) = &flow.work {
            let active_ms = exchange.active_ms;
            flow.stage = Stage::Relaying;
            return self.wake_at(token, active_ms + self.idle_ms());
        }
        let Work::Relay(relay) = &flow.work else { return };
        let hearing = relay.gate.as_ref().map(|gate| !gate.rest().is_empty());
        flow.stage = match hearing {
            _ if relay.awaits_tls => Stage::Connecting,
            Some(_) => Stage::Tunnel,
            None => Stage::Relaying,
        };
        let deadline = match hearing {
            Some(true) => self.first_bytes_deadline_ms(),
            _ => self.idle_check_ms(flow),
        };
        self.wake_at(token, deadline);
    }

    /// Bytes go up that the flow's class was not asked for: the first ones, which were read to find the class.
    pub(super) fn owe(&mut self, flow: &mut Flow, bytes: usize) {
        let now_ns = self.now_ns();
        let shaped = flow.shaped_mut().map(Box::as_mut);
        self.shaper.owe(shaped, UP, bytes as u64, now_ns);
    }

    /// Moves what can be moved, both ways.
    pub(crate) fn carry(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        self.carry_on(token, flow, [0; 2])
    }

    /// The flow may send so many bytes in one direction: it has waited for that.
    pub(crate) fn turn_came(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        (class, way): (usize, usize),
        bytes: u64,
    ) -> Step {
        let now_ns = self.now_ns();
        let Some(beside) = &mut flow.beside else { return Step::Stay };
        let Some(shaped) = &mut beside.shaped else { return Step::Stay };
        // A place that it has left in another class's queue is nobody's.
        if !shaped.is_of(class) || !self.shaper.begin(shaped, &mut beside.held_back, way, now_ns) {
            return Step::Stay;
        }
        let mut turns = [0; 2];
        turns[way] = bytes;
        match flow.work {
            Work::Relay(_) => self.carry_on(token, flow, turns),
            Work::Http(_) => self.exchange_on(token, flow, turns),
            _ => Step::Stay,
        }
    }

    fn carry_on(&mut self, token: FlowToken, flow: &mut Flow, turns: [u64; 2]) -> Step {
        if let Some(step) = self.open_gate(token, flow) {
            return step;
        }
        let Flow { client, work: Work::Relay(relay), beside, .. } = flow else {
            return Step::Stay;
        };
        let mut shaped = beside.as_mut().and_then(|beside| beside.shaped.as_deref_mut());
        let (number, now_ns) = (token.number(), self.recorder.now_ns.get());
        let lender = &mut self.lender;
        let before = (relay.up.bytes, relay.down.bytes);
        let useless = [(&*client, &relay.upstream), (&relay.upstream, &*client)]
            .map(|(source, destination)| source.readable && !destination.writable);
        let mut again = false;
        // A server that speaks first may wait for the header, and the client for the server.
        if relay.gate.is_some()
            && !relay.broken
            && relay.up.flush(&mut relay.upstream, lender).is_err()
        {
            relay.broken = true;
        }
        if relay.gate.is_none() && !relay.broken {
            let Relay { up, upstream, down, .. } = relay;
            let turn = (UP, turns[UP], number, now_ns);
            let pumped = self.shaper.let_through(shaped.as_deref_mut(), turn, STOPS, |credit| {
                up.pump(client, upstream, lender, down.done, credit)
            });
            match pumped {
                Ok(pumped) => again |= pumped == Pumped::More,
                Err(Fault::Source(_)) => return Step::End(End::ClientReset),
                Err(Fault::Destination(_)) => relay.broken = true,
            }
        }
        let Relay { up, upstream, down, .. } = relay;
        let turn = (DOWN, turns[DOWN], number, now_ns);
        let pumped = self.shaper.let_through(shaped.as_deref_mut(), turn, STOPS, |credit| {
            down.pump(upstream, client, lender, up.done, credit)
        });
        let held = [UP, DOWN].map(|way| shaped.as_ref().is_some_and(|shaped| shaped.waits(way)));
        match pumped {
            Ok(pumped) => again |= pumped == Pumped::More,
            Err(Fault::Source(_)) => return Step::End(End::UpstreamReset),
            Err(Fault::Destination(_)) => return Step::End(End::ClientReset),
        }
        let side = token.side(usize::from(relay.side));
        let heeded = self
            .heed(token.side(CLIENT), client, held[UP] || useless[UP] && !relay.upstream.writable)
            .and_then(|()| {
                let useless = held[DOWN] || useless[DOWN] && !client.writable;
                self.heed(side, &mut relay.upstream, useless)
            });
        if heeded.is_err() {
            return Step::End(End::OutOfResources);
        }
        let after = (relay.up.bytes, relay.down.bytes);
        let (up_done, down_done, broken) = (relay.up.done, relay.down.done, relay.broken);
        let upstream_failed = relay.upstream.failed;
        if after != before {
            relay.active_ms = self.now_ms;
            flow.publish_bytes();
        }
        let overspends = after != before && self.overspends(flow);
        // Whatever of the client's could still be delivered has been: what waits for a slow upstream is no longer wanted.
        let reset = flow.client.failed && !again;
        match (up_done, down_done) {
            (true, true) => Step::End(End::Closed),
            (false, _) if reset => Step::End(End::ClientReset),
            (_, true) if broken => Step::End(End::UpstreamReset),
            // A side that had ended in order wants nothing more of the other: a close_notify too late, say.
            (true, _) if reset => Step::End(End::Closed),
            (_, true) if upstream_failed && !again => Step::End(End::Closed),
            _ if overspends => Step::End(End::BudgetSpent),
            _ if again => Step::Again,
            _ => Step::Stay,
        }
    }

    /// A sender whose destination takes nothing, or that waits for its turn, would wake the worker with each segment, for
    /// nothing: bulk over one flow costs a fifth less CPU without these edges.
    fn heed(&self, token: Token, source: &mut Peer, useless: bool) -> io::Result<()> {
        if source.deaf == useless {
            return Ok(());
        }
        source.deaf = useless;
        self.watch_again(source, token)
    }

    /// Reads a tunnel's first bytes. `Some` when the flow cannot go on to relaying; `None` when the gate is open, or
    /// still closed while the upstream may already speak.
    fn open_gate(&mut self, token: FlowToken, flow: &mut Flow) -> Option<Step> {
        let Flow { client, work: Work::Relay(relay), .. } = flow else { return None };
        if relay.awaits_tls {
            return self.hear_upstream(token, flow);
        }
        let gate = relay.gate.as_mut()?;
        let said = loop {
            let first = gate.rest().is_empty();
            if !first {
                match gate.hear() {
                    Said::More => {}
                    Said::Pass(taken) => {
                        // Behind the gateway's own words, if they are still here.
                        let passed = self.lender.buffers.holding(&gate.rest()[..taken]);
                        gate.advance(taken);
                        relay.up.begin_with(passed, &mut self.lender);
                        relay.active_ms = self.now_ms;
                        if relay.up.flush(&mut relay.upstream, &mut self.lender).is_err() {
                            return Some(Step::End(End::UpstreamReset));
                        }
                        continue;
                    }
                    said => break said,
                }
            }
            if !client.readable {
                return None;
            }
            match client.recv(&mut self.lender.scratch[..FAIR_BYTES]) {
                // An end before the first byte is a client that only listens; in the middle of a hello it is one that
                // left, and half a hello is nobody's to judge.
                Ok(0) if first => break Said::NotAccepted,
                Ok(0) => return Some(Step::End(End::ClientGone)),
                Ok(read) => {
                    gate.push(&self.lender.scratch[..read]);
                    if gate.len() > FAIR_BYTES && self.lender.buffers.scarce() {
                        return Some(self.refuse(token, flow, Reason::Overloaded, End::Refused));
                    }
                    // A flow that is closing keeps the deadline of its grace.
                    if first && flow.stage != Stage::Closing {
                        let deadline = self.first_bytes_deadline_ms();
                        self.wake_at(token, deadline);
                    }
                }
                Err(Errno::AGAIN) => {
                    client.readable = false;
                    return None;
                }
                Err(_) => return Some(Step::End(End::ClientReset)),
            }
        };
        let first = gate.rest().first().copied();
        let is_unread = matches!(said, Said::Unread(_));
        let server_spoke = relay.down.bytes > 0 || relay.down.pending.is_some();
        match self.inner_refusal(flow, said, first) {
            Some(_) if flow.accept == Accept::Transparent && !server_spoke && !is_unread => {
                let bytes = flow.take_gate()?;
                Some(self.begin_anew(token, flow, bytes))
            }
            Some(reason) if !self.audited(flow, reason) => {
                Some(self.refuse(token, flow, reason, End::Refused))
            }
            _ => {
                let bytes = flow.take_gate()?;
                self.owe(flow, bytes.rest().len());
                if let Work::Relay(relay) = &mut flow.work {
                    relay.up.begin_with(bytes, &mut self.lender);
                }
                if flow.stage != Stage::Closing {
                    flow.enter(Stage::Relaying);
                    self.wake_at(token, self.idle_check_ms(flow));
                }
                None
            }
        }
    }

    /// The same of a hello that came along with the request for the tunnel: it is known before anything is dialled.
    pub(super) fn refusal_ahead(&self, flow: &mut Flow) -> Option<Reason> {
        let Work::Resolve(bytes) = &flow.work else { return None };
        let mut ahead = bytes.rest();
        if ahead.is_empty() || !flow.asks_for_tunnel() {
            return None;
        }
        let mut reader = Reader::of_tunnel();
        let said = loop {
            match reader.read(ahead) {
                Said::Pass(taken) => ahead = &ahead[taken..],
                said => break said,
            }
        };
        let first = ahead.first().copied();
        self.inner_refusal(flow, said, first)
    }

    /// Whether what the tunnel's first bytes say contradicts what was judged.
    fn inner_refusal(&self, flow: &mut Flow, said: Said, first: Option<u8>) -> Option<Reason> {
        let policy = self.policy();
        if flow.terms(&policy).is_some_and(|rule| rule.sni_any) {
            return None;
        }
        match said {
            Said::Hello(hello) => {
                if hello.ech {
                    flow.flags |= flags::ECH;
                }
                let inner = match hello.sni {
                    Sni::Absent => return None,
                    Sni::Name(name) => Host::Name(name),
                    Sni::IpLiteral(ip) => Host::Ip(ip),
                };
                if flow.destination.as_ref() == Some(&inner) {
                    return None;
                }
                flow.other = Some(match inner {
                    Host::Name(name) => name.as_str().into(),
                    Host::Ip(ip) => ip.to_string().into(),
                });
                Some(Reason::NameMismatch)
            }
            Said::Malformed { word, .. } => {
                flow.other = Some(word.into());
                Some(Reason::Malformed)
            }
            // A record that is no hello, or a hello of no known version: there are servers that skip the one and read the
            // other, and would find a name in it that was never compared.
            Said::NotAccepted if first.is_some_and(|byte| TLS_RECORD_TYPES.contains(&byte)) => {
                flow.other = Some("record_type".into());
                Some(Reason::Malformed)
            }
            // Of a captured client, whose server does not speak first or is none of these.
            Said::Unread(word) => {
                flow.other = Some(word.into());
                Some(Reason::NotAccepted)
            }
            Said::Request(_) => {
                flow.other = Some("http".into());
                Some(Reason::NotAccepted)
            }
            Said::Encryption(_) => {
                flow.other = Some("postgres".into());
                Some(Reason::NotAccepted)
            }
            // Not TLS: there is no second name to compare.
            Said::NotAccepted
            | Said::More
            | Said::Http2
            | Said::Head(_)
            | Said::Login(..)
            | Said::NoLogin
            | Said::Socks(..)
            | Said::Answer(..)
            | Said::Pass(_)
            | Said::Unnamed => None,
        }
    }

    /// Idle, grace or a tunnel's first bytes: whichever the timer stood for.
    pub(crate) fn carry_timer(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        if flow.stage == Stage::Closing {
            return Step::End(End::PolicyChanged);
        }
        let idle = self.idle_ms();
        let Work::Relay(relay) = &mut flow.work else { return Step::Stay };
        if relay.awaits_tls {
            return self.fail(token, flow, End::ConnectTimeout);
        }
        if relay.gate.as_ref().is_some_and(|gate| !gate.rest().is_empty()) {
            return self.refuse(token, flow, Reason::FirstBytesTimeout, End::Refused);
        }
        let quiet = self.now_ms.saturating_sub(relay.active_ms);
        if quiet >= idle {
            return Step::End(End::IdleTimeout);
        }
        if !relay.kept && quiet >= KEEPALIVE_CHECK_MS {
            egress_sys::keepalive(relay.upstream.fd());
            egress_sys::keepalive(flow.client.fd());
            relay.kept = true;
        }
        let next = self.idle_check_ms(flow);
        self.wake_at(token, next);
        Step::Stay
    }
}
