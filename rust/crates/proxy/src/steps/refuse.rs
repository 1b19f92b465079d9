//! Refusing: the client is told in its own protocol, then the connection is closed so that it can read it.

use egress_hello::Answer;
use egress_hello::http::{Preference, RequestHead, read_request};
use egress_hello::protocol::{Protocol, recognise};
use egress_policy::{
    Accept, End, MessageValues, OnDeny, Reason, RuleId, Stage, Verdict, render_message,
};
use rustix::io::Errno;

use crate::context::{Context, FlowToken, Step};
use crate::flow::{Flow, Goodbye, Work};
use crate::pool::Buffer;
use crate::refuse::{Refusal, own_message};
use crate::silence::SILENT_MS;

/// RFC 8446, section 5.1.
pub(super) const TLS_HANDSHAKE: u8 = 0x16;
/// Content types of TLS records, from change_cipher_spec to heartbeat (RFC 8446, section 5.1; RFC 6520).
pub(super) const TLS_RECORD_TYPES: std::ops::RangeInclusive<u8> = 0x14..=0x18;
/// How long the client may take to read a refusal and close. Closing with its bytes unread would send a reset, which
/// can overtake the refusal (RFC 9112, section 9.6).
pub(super) const LINGER_MS: u64 = 1000;
/// Bytes that a refused client may still send while it is waited for.
const LINGER_BYTES: usize = 256 * 1024;

/// Whether the client has been told that its tunnel is open and speaks TLS by now, whatever else the flow's stage says (it may be closing). A
/// hello that came along with the CONNECT is judged before the 200 is sent, and its client still awaits HTTP: into the
/// empty buffer of a new socket, the 200 goes whole or not at all.
fn in_tunnel(flow: &Flow) -> bool {
    let Work::Relay(relay) = &flow.work else { return false };
    let says_hello = |gate: &Buffer| gate.rest().first() == Some(&TLS_HANDSHAKE);
    flow.asks_for_tunnel() && relay.down.own == 0
        || flow.accept == Accept::Transparent && relay.gate.as_ref().is_some_and(says_hello)
}

/// The protocol in which a client began that was not known to speak one, as long as its first bytes are still held, and how it would rather
/// read a refusal.
fn begun(flow: &Flow) -> Option<(Protocol, Preference)> {
    let (Work::Hear(Some(bytes)) | Work::Resolve(bytes) | Work::Dial(_, bytes)) = &flow.work else {
        return None;
    };
    match recognise(bytes.rest()) {
        _ if !matches!(flow.accept, Accept::Transparent | Accept::Postgres) => None,
        Answer::Found(Protocol::Http) => Some((Protocol::Http, preference(bytes.rest()))),
        Answer::Found(protocol) => Some((protocol, flow.prefers)),
        // A record of which only the type has come.
        Answer::NeedMore if bytes.rest() == [TLS_HANDSHAKE] => Some((Protocol::Tls, flow.prefers)),
        _ => None,
    }
}

/// Of a request whose head has come whole.
fn preference(bytes: &[u8]) -> Preference {
    match read_request(bytes) {
        Answer::Found(RequestHead::Request(request) | RequestHead::TwoHosts { request, .. }) => {
            request.prefers
        }
        _ => Preference::Text,
    }
}

impl Context {
    /// Ends an allowed flow whose destination cannot be had.
    pub(crate) fn fail(&mut self, token: FlowToken, flow: &mut Flow, end: End) -> Step {
        self.refuse(token, flow, flow.reason, end)
    }

    /// Records why, answers natively, and closes.
    pub(crate) fn refuse(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        reason: Reason,
        end: End,
    ) -> Step {
        flow.reason = reason;
        flow.end = end;
        // A client that is slow to hear it takes no place of the rule's meanwhile.
        flow.hold(None);
        if end == End::Refused {
            flow.verdict = Verdict::Deny;
        }
        let tunnel = in_tunnel(flow);
        let on_deny = self.on_deny(flow);
        let answer = if on_deny == OnDeny::Native { self.answer(flow) } else { Vec::new() };
        let mut carried = (0, 0);
        // The rest of an interim response.
        let mut before = Vec::new();
        self.abandon_dial(flow);
        let relayed = match std::mem::replace(&mut flow.work, Work::Moving) {
            Work::Relay(mut relay) => {
                relay.up.release(&mut self.lender);
                relay.down.release(&mut self.lender);
                carried = (relay.up.bytes, relay.down.bytes);
                relay.down.bytes > 0
            }
            Work::Http(mut exchange) => {
                carried = exchange.carried;
                before = exchange.answerable().map(<[u8]>::to_vec).unwrap_or_default();
                let relayed = exchange.answerable().is_none();
                exchange.release(&mut self.lender);
                relayed
            }
            Work::Resolve(bytes) => {
                self.lender.buffers.give_back(bytes);
                false
            }
            _ => false,
        };
        let silence = match on_deny {
            OnDeny::Drop => self.silences.begin(flow.client.fd()),
            OnDeny::Native | OnDeny::Reset => None,
        };
        let patience = if silence.is_some() { SILENT_MS } else { LINGER_MS };
        // An alert in the middle of the upstream's own bytes would only be read as garbage.
        if silence.is_none() && (answer.is_empty() || (relayed && !tunnel)) {
            flow.work = Work::Over(carried);
            flow.abort_client();
            return Step::End(end);
        }
        let mut bytes = self.lender.buffers.holding(&before);
        bytes.push(&answer);
        if silence.is_some() {
            // However it ends, it is not with an orderly end of ours.
            flow.abort_client();
        }
        let next = silence.is_none() && self.can_go_on(flow);
        let goodbye = Goodbye { bytes, silence, shut: false, discarded: 0, carried, next };
        flow.work = Work::Refuse(Box::new(goodbye));
        flow.stage = Stage::Refusing;
        flow.publish();
        self.wake_at(token, self.now_ms + patience);
        self.say_goodbye(token, flow)
    }

    /// How the client is told. What fails is no refusal, and who is overloaded keeps no more than it must.
    fn on_deny(&self, flow: &Flow) -> OnDeny {
        // Without being asked most clients do not log in.
        let asked = matches!(flow.reason, Reason::LoginRequired | Reason::LoginFailed);
        if flow.end != End::Refused || flow.reason == Reason::Overloaded || asked {
            return OnDeny::Native;
        }
        let policy = self.policy();
        let rule = policy.snapshot.rule(RuleId(flow.rule));
        rule.map_or(policy.snapshot.default_on_deny(), |rule| rule.on_deny)
    }

    fn answer(&self, flow: &Flow) -> Vec<u8> {
        // Whoever is there is a proxy, and its client's protocol is not known.
        if flow.awaits_header() {
            return Vec::new();
        }
        let policy = self.policy();
        let rule = policy.snapshot.rule(RuleId(flow.rule));
        let name = flow.name();
        let detail = flow.other.as_deref().unwrap_or_default();
        let of_login = matches!(flow.reason, Reason::LoginRequired | Reason::LoginFailed);
        let message = if flow.end == End::Refused && flow.destination.is_some() && !of_login {
            let template =
                rule.as_ref().map_or(policy.snapshot.default_message(), |rule| rule.message);
            let values = MessageValues {
                rule: rule.as_ref().map_or("default", |rule| rule.name),
                decision: &format!("{:016x}", flow.id),
                name: name.as_str(),
                port: flow.port,
                source: &flow.source.ip().to_string(),
                owner: rule.as_ref().and_then(|rule| rule.owner),
                why: rule.as_ref().and_then(|rule| rule.why),
            };
            render_message(template, &values)
        } else {
            own_message(flow.reason, flow.end, detail, name.as_str(), flow.id)
        };
        let refusal = Refusal {
            reason: flow.reason,
            end: flow.end,
            message: &message,
            flow_id: flow.id,
            name: name.as_str(),
            port: flow.port,
            rule: rule.as_ref().map_or("", |rule| rule.name),
            prefers: flow.prefers,
            detail,
            goes_on: self.can_go_on(flow),
            bodiless: flow.asks_for_head(),
        };
        // Inside a tunnel the client speaks TLS by now.
        match begun(flow) {
            _ if in_tunnel(flow) || flow.postgres_tls => refusal.alert(),
            _ if flow.http().is_some() => refusal.answer(Accept::Http),
            Some((protocol, prefers)) => Refusal { prefers, ..refusal }.answer_captured(protocol),
            None => refusal.answer(flow.accept),
        }
    }

    /// Sends the refusal, then waits for the client to close.
    pub(crate) fn say_goodbye(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        let Flow { client, work: Work::Refuse(goodbye), end, .. } = flow else { return Step::Stay };
        if goodbye.silence.is_some() {
            return if client.ending || client.failed { Step::End(*end) } else { Step::Stay };
        }
        while !goodbye.bytes.rest().is_empty() {
            if !client.writable {
                return Step::Stay;
            }
            match egress_sys::send(client.fd(), goodbye.bytes.rest()) {
                Ok(sent) => goodbye.bytes.advance(sent),
                Err(Errno::AGAIN) => client.writable = false,
                Err(_) => return Step::End(*end),
            }
        }
        if goodbye.next {
            return self.next_request(token, flow);
        }
        if !goodbye.shut {
            let _ = rustix::net::shutdown(client.fd(), rustix::net::Shutdown::Write);
            goodbye.shut = true;
        }
        while client.readable && goodbye.discarded < LINGER_BYTES {
            match client.recv(&mut self.lender.scratch) {
                Ok(0) => return Step::End(*end),
                Ok(read) => goodbye.discarded += read,
                Err(Errno::AGAIN) => client.readable = false,
                Err(_) => return Step::End(*end),
            }
        }
        if client.readable { Step::End(*end) } else { Step::Stay }
    }
}
