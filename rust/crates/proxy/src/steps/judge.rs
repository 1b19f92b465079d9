//! The decision: made into a value, kept with the flow, made again when the policy changes.

use std::os::fd::AsRawFd;

use egress_flowlog::{NONE_U32, WorkerCounter, flags};
use egress_hello::name::Host;
use egress_policy::{Accept, Decision, Destination, End, Login, Reason, Stage, Verdict};

use crate::budget::Spending;
use crate::context::{Context, FlowToken, Step, millis};
use crate::flow::{Flow, Work};
use crate::installed::{InForce, Installed};
use crate::limits::Limited;

fn destination(host: &Host) -> Destination<'_> {
    match host {
        Host::Name(name) => Destination::Name(name),
        Host::Ip(ip) => Destination::Ip(*ip),
    }
}

/// Reasons that say something of the flow itself, not of what the policy says about its destination.
fn found_out(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NameMismatch
            | Reason::Malformed
            | Reason::NotAccepted
            | Reason::ConnectionLimit
            | Reason::ConnectionRate
            | Reason::BudgetSpent
    )
}

impl Flow {
    /// A refusal was due, and audit mode lets the flow go on.
    pub(crate) fn would_deny(&mut self, reason: Reason) {
        self.verdict = Verdict::WouldDeny;
        self.reason = reason;
        self.flags |= flags::AUDIT;
    }

    fn take_decision(&mut self, decision: Decision, generation: u64) {
        self.verdict = decision.verdict;
        self.reason = decision.reason;
        self.rule = decision.rule.map_or(NONE_U32, |rule| rule.0);
        self.generation = generation;
        self.decision = Some(decision);
        if decision.verdict == Verdict::WouldDeny {
            self.flags |= flags::AUDIT;
        }
    }
}

impl Context {
    /// May this source reach this destination? Denied: refused. Allowed: on to resolving.
    pub(crate) fn judge(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        host: Host,
        port: u16,
    ) -> Step {
        let policy = self.policy();
        let source = policy.snapshot.source(flow.caller());
        let decision = policy.snapshot.decide(source, destination(&host), port, self.unix_seconds);
        if matches!(host, Host::Ip(_)) {
            flow.flags |= flags::BY_ADDRESS;
        }
        flow.destination = Some(host);
        flow.port = port;
        flow.take_decision(decision, policy.generation);
        if flow.names_two() && !self.audited(flow, Reason::NameMismatch) {
            return self.refuse(token, flow, Reason::NameMismatch, End::Refused);
        }
        if decision.verdict == Verdict::Deny {
            return self.refuse(token, flow, decision.reason, End::Refused);
        }
        // What no rule names may pass by default, but only under a name.
        if flow.accept == Accept::Transparent
            && decision.reason == Reason::DefaultAllow
            && matches!(flow.destination, Some(Host::Ip(_)))
            && !self.audited(flow, Reason::NoName)
        {
            return self.refuse(token, flow, Reason::NoName, End::Refused);
        }
        if let Some(word) = flow.unread()
            && !flow.terms(&policy).is_some_and(|terms| terms.sni_any)
        {
            flow.other = Some(word.into());
            if !self.audited(flow, Reason::NotAccepted) {
                return self.refuse(token, flow, Reason::NotAccepted, End::Refused);
            }
        }
        if let Some(reason) = self.refusal_ahead(flow)
            && !self.audited(flow, reason)
        {
            return self.refuse(token, flow, reason, End::Refused);
        }
        self.place(flow, &policy);
        self.admit(token, flow, &policy, None)
    }

    /// The flow is in the class of bandwidth of its rule from now on, and spends from its budget.
    fn place(&mut self, flow: &mut Flow, policy: &Installed) {
        let terms = flow.decision.and_then(|decision| decision.terms);
        let budget = terms.and_then(|rule| policy.budgets.of_rule(rule.0));
        let spending = budget.map(|budget| budget.open(flow.source.ip(), flow.identity()));
        flow.spend_from(spending);
        let class = flow.decision.and_then(|decision| policy.snapshot.class_of(decision.terms?));
        let beside = flow.beside.as_mut();
        let (mut shaped, mut held_back) = beside.map_or_else(Default::default, |beside| {
            (beside.shaped.take(), std::mem::take(&mut beside.held_back))
        });
        let identity = flow.identity();
        let ceilings = flow.spending().and_then(Spending::ceilings);
        // The connection, whichever of its requests this is.
        let connection = flow.client.fd().as_raw_fd() as u64;
        let was = (&mut shaped, &mut held_back);
        self.shaper.place(was, self.now_ns(), class, flow.source.ip(), identity, connection);
        self.shaper.bound(shaped.as_deref(), ceilings);
        if shaped.is_some() || held_back.by.is_some() {
            let beside = flow.beside.get_or_insert_default();
            (beside.shaped, beside.held_back) = (shaped, held_back);
        }
    }

    /// In audit mode a refusal is recorded and not carried out; `true` then.
    pub(crate) fn audited(&self, flow: &mut Flow, reason: Reason) -> bool {
        let audit = flow.decision.is_some_and(|decision| decision.audit);
        if audit {
            flow.would_deny(reason);
            flow.publish();
        }
        audit
    }

    /// The policy has changed: the flow goes on untouched if it is still allowed, else ends after its grace.
    pub(crate) fn judge_again(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        policy: &InForce,
    ) -> Step {
        // Dialled under another policy, it would serve no request.
        if flow.is_between_requests()
            && let Some(requests) = flow.http_mut()
        {
            requests.kept = None;
        }
        let waits_since = self.leave_line(flow);
        if flow.decision.is_none()
            || !matches!(
                flow.work,
                Work::Resolve(_) | Work::Dial(..) | Work::Relay(_) | Work::Http(_)
            )
        {
            return Step::Stay;
        }
        // A login holds as long as its user may log in; a changed password is for the next one.
        let was = flow.lose_user(&policy.snapshot);
        let asks = policy.listener(flow.listener);
        let required = asks.is_some_and(|listener| listener.login == Login::Required);
        let lost = required && flow.user().is_none();
        let Some(host) = &flow.destination else { return Step::Stay };
        self.count(WorkerCounter::Rejudged);
        let source = policy.snapshot.source(flow.caller());
        let decision =
            policy.snapshot.decide(source, destination(host), flow.port, self.unix_seconds);
        // Its own listeners cannot have moved: whether the upstream is the gateway itself need not be asked again.
        let screened = match flow.upstream {
            Some(upstream) if decision.verdict != Verdict::Deny => {
                self.screen(&self.screening(flow, decision, policy), upstream, policy).err()
            }
            _ => None,
        };
        // What was found out about the flow itself, and let through by an audit, stays true.
        let found = match (flow.verdict, flow.reason) {
            (Verdict::WouldDeny, reason) if found_out(reason) => Some(reason),
            _ => None,
        };
        let terms = decision.terms.and_then(|terms| policy.snapshot.terms(terms));
        let contradicts = (flow.unread().is_some()
            || matches!(
                found,
                Some(Reason::NameMismatch | Reason::Malformed | Reason::NotAccepted)
            ))
            && !terms.is_some_and(|terms| terms.sni_any);
        let denied = match screened {
            _ if decision.verdict == Verdict::Deny || lost => true,
            _ if contradicts && !decision.audit => true,
            Some(screened) => !screened.audit,
            None => false,
        };
        if !denied {
            let was_closing = flow.stage == Stage::Closing;
            flow.take_decision(decision, policy.generation);
            let finding = screened.map(|screened| screened.reason).or(found);
            if let Some(reason) = finding
                && decision.audit
                && decision.verdict == Verdict::Allow
            {
                flow.would_deny(reason);
            }
            if let Some(since_ns) = waits_since {
                self.place(flow, policy);
                return self.admit(token, flow, policy, Some(since_ns));
            }
            // Counted with its new rule from now on; being over a lowered limit closes nothing.
            let limited = decision.terms.and_then(|terms| policy.limits.of_rule(terms.0));
            let source = |limited: &Limited| limited.source(flow.source.ip(), flow.identity());
            let held = limited.map(|limited| limited.keep(source(limited)));
            flow.hold(held);
            let waited = flow.shaped_mut().is_some();
            self.place(flow, policy);
            if was_closing {
                self.resume(token, flow);
            }
            flow.publish();
            let step = self.reach_again(token, flow);
            let carried = matches!(flow.work, Work::Relay(_) | Work::Http(_));
            // What a class has promised it is not to come any more when it has left that.
            return if waited && carried && matches!(step, Step::Stay) {
                Step::Again
            } else {
                step
            };
        }
        // The record says who it was.
        flow.be_again(was);
        if !matches!(flow.work, Work::Relay(_) | Work::Http(_)) {
            // Nothing is open yet: it is refused as it would be had it come now.
            flow.take_decision(decision, policy.generation);
            let reason = if lost { Reason::LoginRequired } else { decision.reason };
            return self.refuse(token, flow, reason, End::Refused);
        }
        if flow.stage != Stage::Closing {
            self.count(WorkerCounter::PolicyClosed);
        }
        flow.take_decision(decision, policy.generation);
        // What the rule before allows at once is for flows that it still allows.
        flow.hold(None);
        flow.verdict = Verdict::Deny;
        flow.reason = Reason::PolicyChanged;
        let grace = policy.snapshot.settings().timeouts.grace;
        if grace.is_zero() {
            return Step::End(End::PolicyChanged);
        }
        if flow.stage != Stage::Closing {
            flow.stage = Stage::Closing;
            self.wake_at(token, self.now_ms + millis(grace));
        }
        flow.publish();
        Step::Stay
    }
}
