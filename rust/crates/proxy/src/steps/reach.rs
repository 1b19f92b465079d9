//! Reaching the destination: its name resolved by us, every address screened, one of them dialled.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use egress_flowlog::{NONE_U32, flags};
use egress_hello::name::{Host, Name};
use egress_policy::{
    Accept, Decision, End, Origin, Reason, Screened, SourceClass, Stage, classify,
};

use super::announce;
use crate::context::{Candidates, Context, FlowToken, Known, Step, millis};
use crate::dial::{Started, interleave};
use crate::flow::{Flow, Work};
use crate::installed::Installed;
use crate::pool::Buffer;
use crate::relay::{Edge, Peer};

/// A resolution is given up after this much longer than the resolver's own patience: it always answers before.
pub(super) const RESOLVER_MARGIN_MS: u64 = 1000;

/// Where an allowed flow is dialled: what the client named, or what the rule says instead.
fn target<'a>(flow: &'a Flow, policy: &'a Installed) -> Option<(&'a Host, u16)> {
    match flow.terms(policy).and_then(|terms| terms.dial) {
        Some((host, port)) => Some((host, *port)),
        None => flow.destination.as_ref().map(|host| (host, flow.port)),
    }
}

/// Where the addresses to dial come from.
enum Source<'a> {
    Given(IpAddr),
    Hosts(&'a [IpAddr]),
    Known(Known),
    Ask(Name),
}

/// Who is to answer for the addresses that are dialled under `decision`.
fn origin(flow: &Flow, decision: &Decision, policy: &Installed) -> Origin {
    let terms = decision.terms.and_then(|terms| policy.snapshot.terms(terms));
    let dial = terms.and_then(|terms| terms.dial).map(|(host, _)| host);
    match (dial, dial.or(flow.destination.as_ref())) {
        (_, Some(Host::Name(name)))
            if policy.snapshot.settings().resolver.hosts.contains_key(name) =>
        {
            Origin::Operator
        }
        (_, Some(Host::Name(_)) | None) => Origin::Resolved,
        (Some(_), Some(Host::Ip(_))) => Origin::Operator,
        (None, Some(Host::Ip(_))) => Origin::Client,
    }
}

/// How long the resolver may take.
fn resolve_ms(policy: &Installed) -> u64 {
    let resolver = &policy.snapshot.settings().resolver;
    let patience = millis(resolver.timeout).saturating_mul(resolver.attempts.max(1).into());
    patience.saturating_mul(2) + RESOLVER_MARGIN_MS
}

/// When the flow has to be connected at the latest, however often a change of the policy makes it begin anew.
pub(super) fn reach_by_ms(flow: &Flow, policy: &Installed) -> u64 {
    let heard_us = if flow.first_bytes_us == NONE_U32 { 0 } else { flow.first_bytes_us };
    let waited_ns = flow.beside.as_ref().map_or(0, |beside| beside.waited_ns);
    let heard_ms = (flow.start_ns + waited_ns) / 1_000_000 + u64::from(heard_us) / 1000;
    heard_ms + resolve_ms(policy) + millis(policy.snapshot.settings().timeouts.connect)
}

/// Audit is for finding out who needs what, and nobody needs the gateway's own machine or its credentials: what no rule
/// names stays out of reach.
pub(crate) fn enforced(screened: Screened) -> Screened {
    let audit = screened.audit && screened.reason != Reason::ForbiddenAddress;
    Screened { audit, ..screened }
}

/// What a flow's addresses are screened by.
#[derive(Debug)]
pub(crate) struct Screening {
    source: SourceClass,
    origin: Origin,
    decision: Decision,
}

impl Context {
    /// Finds the addresses of the destination: at hand, or asked of the resolver.
    pub(crate) fn reach(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        let policy = self.policy();
        if let Some(step) = self.reach_kept(token, flow, &policy) {
            return step;
        }
        let Some((host, port)) = target(flow, &policy) else { return Step::End(End::Aborted) };
        let source = match (host, flow.told_address(&policy)) {
            (_, Some(told)) => Source::Given(told),
            (Host::Ip(ip), None) => Source::Given(*ip),
            (Host::Name(name), None) => match policy.snapshot.settings().resolver.hosts.get(name) {
                Some(ips) => Source::Hosts(ips),
                None => match self.known(name) {
                    Some(known) => Source::Known(known),
                    None => Source::Ask(name.clone()),
                },
            },
        };
        match source {
            Source::Given(ip) => self.dial(token, flow, &[ip], port),
            Source::Hosts(ips) => self.dial_answer(token, flow, ips, port),
            Source::Known(addresses) => self.answered(token, flow, &addresses, port),
            Source::Ask(name) => {
                self.abandon_dial(flow);
                let deadline = self.now_ms + resolve_ms(&policy);
                self.wake_at(token, deadline.min(reach_by_ms(flow, &policy)));
                flow.resolve_us = flow.age_us();
                self.resolver.ask(name, self.worker, token.number());
                Step::Stay
            }
        }
    }

    /// The policy has changed before a connection was made: where to, and whether there, is asked anew. A dial that would
    /// begin with the same addresses goes on.
    pub(crate) fn reach_again(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        match flow.work {
            Work::Resolve(_) | Work::Dial(..) => self.reach(token, flow),
            _ => Step::Stay,
        }
    }

    /// The resolver has answered for `name`.
    pub(crate) fn resolved(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        name: &Name,
        answer: &Result<Known, End>,
    ) -> Step {
        let policy = self.policy();
        let Some((host, port)) = target(flow, &policy) else { return Step::End(End::Aborted) };
        // A policy change may have sent the flow elsewhere since it asked: another name's addresses are not for it.
        if !matches!(flow.work, Work::Resolve(_))
            || !matches!(host, Host::Name(wanted) if wanted == name)
        {
            return Step::Stay;
        }
        if flow.resolve_us != NONE_U32 {
            // It held the time of the question.
            flow.resolve_us = flow.age_us().saturating_sub(flow.resolve_us);
        }
        match answer {
            Err(end) => self.fail(token, flow, *end),
            Ok(addresses) => self.answered(token, flow, addresses, port),
        }
    }

    fn answered(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        addresses: &Known,
        port: u16,
    ) -> Step {
        if addresses.stale {
            flow.flags |= flags::STALE;
        }
        self.dial_answer(token, flow, &addresses.ips, port)
    }

    /// What addresses are screened by: a decision of `policy`, and who answers for them.
    pub(crate) fn screening(
        &self,
        flow: &Flow,
        decision: Decision,
        policy: &Installed,
    ) -> Screening {
        Screening {
            source: policy.snapshot.source(flow.caller()),
            origin: origin(flow, &decision, policy),
            decision,
        }
    }

    /// Whether the flow may be connected to `address`.
    pub(crate) fn screen(
        &self,
        by: &Screening,
        address: SocketAddr,
        policy: &Installed,
    ) -> Result<(), Screened> {
        let (ip, port) = (address.ip(), address.port());
        policy
            .snapshot
            .screen(by.source, &by.decision, by.origin, ip, port, self.unix_seconds)
            .map_err(enforced)
    }

    /// Screens the addresses and dials those that pass.
    pub(super) fn dial(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        ips: &[IpAddr],
        port: u16,
    ) -> Step {
        let mut candidates = std::mem::take(&mut self.candidates);
        let step = self.dial_any(token, flow, ips, port, &mut candidates);
        let Candidates { passed, audited, ordered } = &mut candidates;
        passed.clear();
        audited.clear();
        ordered.clear();
        self.candidates = candidates;
        step
    }

    fn dial_any(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        ips: &[IpAddr],
        port: u16,
        candidates: &mut Candidates,
    ) -> Step {
        let Candidates { passed, audited, ordered } = candidates;
        let policy = self.policy();
        let Some(decision) = flow.decision else { return Step::End(End::Aborted) };
        let by = self.screening(flow, decision, &policy);
        let mut refused = None;
        for ip in ips {
            let address = SocketAddr::new(ip.to_canonical(), port);
            let screened = if self.is_own(address) {
                let class = classify(address.ip());
                Err(Screened { reason: Reason::OwnAddress, class, rule: None, audit: false })
            } else {
                self.screen(&by, address, &policy)
            };
            match screened {
                Ok(()) => passed.push(address),
                Err(screened) if screened.audit => audited.push((screened.reason, address)),
                Err(screened) => refused = refused.or(Some((screened, address))),
            }
        }
        // Enforcement would go to those that pass; only where none does is there something to tell.
        if passed.is_empty()
            && let Some((reason, _)) = audited.first()
        {
            flow.would_deny(*reason);
            passed.extend(audited.iter().map(|(_, address)| *address));
        }
        if passed.is_empty() {
            let Some((screened, address)) = refused else {
                return self.fail(token, flow, End::ResolveNoName);
            };
            flow.rule = screened.rule.map_or(flow.rule, |rule| rule.0);
            flow.other = Some(screened.class.word().into());
            flow.upstream = Some(address);
            return self.refuse(token, flow, screened.reason, End::Refused);
        }
        let connect_ms = millis(policy.snapshot.settings().timeouts.connect);
        interleave(passed, ordered);
        if matches!(&flow.work, Work::Dial(dialing, _) if dialing.addresses() == ordered) {
            return Step::Stay;
        }
        self.abandon_dial(flow);
        let bytes = match std::mem::replace(&mut flow.work, Work::Moving) {
            Work::Resolve(bytes) => bytes,
            _ => return Step::End(End::Aborted),
        };
        // A tunnel's first bytes come only once its client has been told that it is open.
        let speaks_first = !flow.asks_for_tunnel() && !bytes.rest().is_empty()
            || announce::version(flow, &policy).is_some();
        let deadline_ms = (self.now_ms + connect_ms).min(reach_by_ms(flow, &policy));
        let dialing = self.dials.begin(ordered, self.now_ns(), deadline_ms, speaks_first);
        flow.work = Work::Dial(dialing, bytes);
        flow.enter(Stage::Connecting);
        self.attempt(token, flow)
    }

    /// Starts the next connection attempt and sets the timer for what comes first.
    fn attempt(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        let Work::Dial(dialing, _) = &mut flow.work else { return Step::Stay };
        match dialing.start(self.now_ms) {
            Started::Failed(end) => self.fail(token, flow, end),
            Started::Nothing => {
                let deadline = dialing.deadline_ms;
                self.wake_at(token, deadline);
                Step::Stay
            }
            Started::Attempt(index) => {
                let deadline = dialing.deadline_ms.min(dialing.next_attempt_ms);
                let fd = dialing.fd(index).map(AsRawFd::as_raw_fd);
                self.wake_at(token, deadline);
                match fd.map(|fd| self.watch(fd, token.side(1 + index))) {
                    Some(Ok(())) => Step::Stay,
                    _ => self.fail(token, flow, End::OutOfResources),
                }
            }
        }
    }

    /// An attempt's socket has an edge: connected, failed, or still on its way.
    pub(crate) fn attempt_edge(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        index: usize,
        edge: Edge,
    ) -> Step {
        let Work::Dial(dialing, _) = &mut flow.work else { return Step::Stay };
        match dialing.finish(index, edge) {
            Some((fd, address)) => {
                let took_us = self.now_ns().saturating_sub(dialing.started_ns) / 1000;
                flow.connect_us = u32::try_from(took_us).unwrap_or(NONE_U32 - 1);
                flow.upstream = Some(address);
                let work = std::mem::replace(&mut flow.work, Work::Moving);
                let Work::Dial(dialing, bytes) = work else { return Step::End(End::Aborted) };
                self.dials.give_back(dialing);
                self.begin_relay(token, flow, Peer::connected(fd, edge), 1 + index, bytes)
            }
            None if dialing.under_way(index) => Step::Stay,
            None => self.attempt(token, flow),
        }
    }

    pub(crate) fn dial_timer(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        let Work::Dial(dialing, _) = &flow.work else { return Step::Stay };
        if self.now_ms >= dialing.deadline_ms {
            return self.fail(token, flow, End::ConnectTimeout);
        }
        self.attempt(token, flow)
    }

    /// A `tcp` listener knows its destination without hearing anything.
    pub(crate) fn go_to(&mut self, token: FlowToken, flow: &mut Flow, bytes: Buffer) -> Step {
        debug_assert!(flow.accept == Accept::Tcp);
        let policy = self.policy();
        let listener = policy.listener(flow.listener);
        let Some((host, port)) = listener.and_then(|listener| listener.to.clone()) else {
            return self.refuse(token, flow, Reason::NoName, End::Refused);
        };
        flow.work = Work::Resolve(bytes);
        self.judge(token, flow, host, port)
    }
}
