//! Captured flows that name no host: the name that their source was told for the address, where a DNS listener of ours
//! told it; and rules that keep the captured address.

use std::net::IpAddr;

use egress_flowlog::flags;
use egress_hello::name::{Host, Name};
use egress_policy::{Destination, End, Reason, Stage, Verdict};

use super::reach::RESOLVER_MARGIN_MS;
use crate::context::{Context, FlowToken, Step};
use crate::flow::{Flow, Work};
use crate::installed::Installed;
use crate::pool::Buffer;

impl Flow {
    /// The captured address, where it is dialled because the source was told it for the name.
    pub(super) fn told_address(&self, policy: &Installed) -> Option<IpAddr> {
        let dials_another = self.terms(policy).is_some_and(|terms| terms.dial.is_some());
        let told = self.flags & flags::DNS_NAME != 0 && !dials_another;
        self.captured.filter(|_| told)
    }

    /// The captured address, where the rule wants that one, if it is one of the name's.
    fn original_address(&self, policy: &Installed) -> Option<IpAddr> {
        let wanted = self.terms(policy).is_some_and(|terms| terms.original)
            && matches!(self.destination, Some(Host::Name(_)));
        self.captured.filter(|_| wanted)
    }
}

impl Context {
    /// A client that was taken for one whose server speaks first asks for something after all, and its server has said
    /// nothing: it is heard, and judged, as though it had not been silent.
    pub(super) fn begin_anew(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        first_bytes: Buffer,
    ) -> Step {
        if let Work::Relay(mut relay) = std::mem::replace(&mut flow.work, Work::Moving) {
            relay.up.release(&mut self.lender);
            relay.down.release(&mut self.lender);
        }
        flow.hear_anew(Some(first_bytes.unheard()));
        let deadline = self.first_bytes_deadline_ms();
        self.wake_at(token, deadline);
        // An event of the upstream that is closed may be on its way; nothing is dialled before it has been taken in.
        Step::Again
    }

    /// Hears what was left by `begin_anew`.
    pub(super) fn hear_late(&mut self, token: FlowToken, flow: &mut Flow) -> Option<Step> {
        match std::mem::replace(&mut flow.work, Work::Moving) {
            Work::Hear(Some(bytes)) if bytes.is_unheard() => {
                let reader = self.reader(flow);
                self.understand(token, flow, bytes.heard_by(reader))
            }
            other => {
                flow.work = other;
                None
            }
        }
    }

    /// Only its address says where a captured connection goes, unless its source asked us for a name first.
    pub(super) fn judge_unnamed(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        match flow.captured {
            Some(address) if self.policy().snapshot.settings().tells_names() => {
                flow.enter(Stage::Resolving);
                self.ask_names(token, flow, address)
            }
            _ => self.judge_address(token, flow),
        }
    }

    fn ask_names(&mut self, token: FlowToken, flow: &Flow, address: IpAddr) -> Step {
        self.wake_at(token, self.now_ms + RESOLVER_MARGIN_MS);
        self.resolver.handed(flow.source.ip(), address, self.worker, token.number());
        Step::Stay
    }

    /// Nothing but the address is known.
    pub(super) fn judge_address(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        match flow.destination.take() {
            Some(host) => self.judge(token, flow, host, flow.port),
            None => self.refuse(token, flow, Reason::NoName, End::Refused),
        }
    }

    /// The names under which the flow's source was told `address`, newest first.
    pub(crate) fn handed(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        address: IpAddr,
        names: &[Name],
    ) -> Step {
        if !matches!(flow.work, Work::Resolve(_)) || flow.captured != Some(address) {
            return Step::Stay;
        }
        if flow.decision.is_some() {
            return self.original_told(token, flow, names);
        }
        match self.meant(flow, address, names) {
            Some(name) => {
                flow.flags |= flags::DNS_NAME;
                self.judge(token, flow, Host::Name(name.clone()), flow.port)
            }
            None => self.judge_address(token, flow),
        }
    }

    /// The name that the flow is judged by; `None`: its address. Hosts share addresses, so who was told several names for
    /// one means any of them: one that is allowed, then one that a rule denies. Where no rule speaks of a name, one may
    /// speak of the address.
    fn meant<'a>(&self, flow: &Flow, address: IpAddr, names: &'a [Name]) -> Option<&'a Name> {
        let policy = self.policy();
        let source = policy.snapshot.source(flow.caller());
        let decide = |destination: Destination<'_>| {
            policy.snapshot.decide(source, destination, flow.port, self.unix_seconds)
        };
        let allowed = |name: &&Name| decide(Destination::Name(name)).verdict != Verdict::Deny;
        let denied = |name: &&Name| decide(Destination::Name(name)).reason == Reason::RuleDeny;
        names.iter().find(allowed).or_else(|| names.iter().find(denied)).or_else(|| {
            let by_address = decide(Destination::Ip(address)).verdict;
            names.first().filter(|_| by_address == Verdict::Deny)
        })
    }

    /// Dials one of a name's addresses, or the captured one where the rule wants that.
    pub(super) fn dial_answer(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        ips: &[IpAddr],
        port: u16,
    ) -> Step {
        let policy = self.policy();
        match flow.original_address(&policy) {
            None => self.dial(token, flow, ips, port),
            Some(original) if ips.iter().any(|ip| ip.to_canonical() == original) => {
                self.dial(token, flow, &[original], port)
            }
            // Answers change from one question to the next: an earlier one may have held it.
            Some(original) if policy.snapshot.settings().tells_names() => {
                self.abandon_dial(flow);
                self.ask_names(token, flow, original)
            }
            Some(original) => self.not_original(token, flow, original),
        }
    }

    /// What the source was told before decides about the captured address.
    fn original_told(&mut self, token: FlowToken, flow: &mut Flow, names: &[Name]) -> Step {
        let policy = self.policy();
        match (flow.original_address(&policy), &flow.destination) {
            (Some(original), Some(Host::Name(name))) if names.contains(name) => {
                self.dial(token, flow, &[original], flow.port)
            }
            (Some(original), _) => self.not_original(token, flow, original),
            // The policy has changed, and the flow is on another way.
            (None, _) => Step::Stay,
        }
    }

    /// The address that the client was going to is none of the name's.
    fn not_original(&mut self, token: FlowToken, flow: &mut Flow, original: IpAddr) -> Step {
        flow.other = Some(original.to_string().into());
        if !self.audited(flow, Reason::NameMismatch) {
            return self.refuse(token, flow, Reason::NameMismatch, End::Refused);
        }
        // Let through, it is led to the name that it says.
        flow.captured = None;
        self.reach(token, flow)
    }
}
