//! Room for one more: `connections` of the rule that lets the flow pass. Where there is none, the flow waits, or is refused.

use std::mem::replace;

use egress_flowlog::WorkerCounter;
use egress_policy::{Accept, End, Reason, Stage};

use super::refuse::TLS_HANDSHAKE;
use crate::context::{Context, FlowToken, Step};
use crate::flow::{Flow, InLine, Work};
use crate::installed::Installed;
use crate::limits::{Entered, Limited, Reached};

/// In the record, of a flow that has reached a bound of its source's own.
pub(super) const OF_SOURCE: &str = "source";

impl Flow {
    /// The client has closed. Of one that may end what it says and still want an answer, that is not known.
    pub(super) fn has_left(&self) -> bool {
        let Work::Wait(place) = &self.work else { return false };
        let may_listen = match self.accept {
            Accept::Tcp | Accept::Http => true,
            Accept::Transparent => place.bytes.rest().first() != Some(&TLS_HANDSHAKE),
            _ => false,
        };
        self.client.ending && !may_listen
    }
}

impl Context {
    /// Counts the flow with its rule and goes on. `waits_since`: it was in line by a policy before.
    pub(super) fn admit(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        policy: &Installed,
        waits_since: Option<u64>,
    ) -> Step {
        if !self.has_budget(flow) {
            return self.refuse(token, flow, Reason::BudgetSpent, End::Refused);
        }
        let terms = flow.decision.and_then(|decision| decision.terms);
        let Some((rule, limited)) =
            terms.and_then(|rule| Some((rule.0, policy.limits.of_rule(rule.0)?)))
        else {
            return self.go_on(token, flow, waits_since);
        };
        let now_ns = self.now_ns();
        let source = limited.source(flow.source.ip(), flow.identity());
        let audit = flow.decision.is_some_and(|decision| decision.audit);
        if audit || limited.wait_ms() == 0 {
            return self.enter(token, flow, (limited, source), waits_since);
        }
        // Who has waited takes its place in line again, and all are looked at in the order in which they have come.
        let tries = waits_since.is_none() && self.lines.may_pass(rule, source, limited, now_ns);
        let reached = match tries.then(|| limited.enter(source, now_ns)) {
            Some(Ok(entered)) => {
                flow.hold(Some(entered));
                return self.go_on(token, flow, None);
            }
            Some(Err(reached)) => Some(reached),
            None => None,
        };
        let since_ns = waits_since.unwrap_or(now_ns);
        let place = (token.number(), since_ns, source);
        if !matches!(flow.work, Work::Resolve(_))
            || !self.lines.join((rule, limited), place, reached, now_ns)
        {
            // Not even if there is room by now: that is for those in line.
            let reached = reached.unwrap_or_else(|| limited.likely());
            return self.keep_out(token, flow, reached);
        }
        if let Work::Resolve(bytes) = replace(&mut flow.work, Work::Moving) {
            let token = token.number();
            flow.work = Work::Wait(Box::new(InLine { bytes, rule, token, since_ns }));
        }
        if flow.has_left() {
            return Step::End(End::ClientGone);
        }
        flow.stage = Stage::Waiting;
        flow.publish();
        self.wake_at(token, since_ns / 1_000_000 + limited.wait_ms());
        Step::Stay
    }

    /// Counts the flow in, or refuses it.
    fn enter(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        (limited, source): (&Limited, u64),
        waits_since: Option<u64>,
    ) -> Step {
        match limited.enter(source, self.now_ns()) {
            Ok(entered) => flow.hold(Some(entered)),
            Err(reached) => {
                if !self.audited(flow, reached.reason) {
                    return self.keep_out(token, flow, reached);
                }
                self.tell(flow, reached);
                flow.hold(Some(limited.keep(source)));
            }
        }
        self.go_on(token, flow, waits_since)
    }

    /// Leaves word of what the flow has reached.
    fn tell(&self, flow: &mut Flow, reached: Reached) {
        if reached.crowded {
            self.count(WorkerCounter::SourcesFull);
        }
        if reached.by_source {
            flow.other = Some(OF_SOURCE.into());
        }
    }

    fn keep_out(&mut self, token: FlowToken, flow: &mut Flow, reached: Reached) -> Step {
        self.tell(flow, reached);
        self.refuse(token, flow, reached.reason, End::Refused)
    }

    fn go_on(&mut self, token: FlowToken, flow: &mut Flow, waited_since: Option<u64>) -> Step {
        if let Some(since_ns) = waited_since {
            self.wheel.unset(token.slot);
            if !self.has_budget(flow) {
                return self.refuse(token, flow, Reason::BudgetSpent, End::Refused);
            }
            let waited_ns = self.now_ns().saturating_sub(since_ns);
            flow.beside.get_or_insert_default().waited_ns = waited_ns;
        }
        flow.stage = Stage::Resolving;
        flow.publish();
        self.reach(token, flow)
    }

    /// Takes the flow out of its line, if it is in one; since when it was.
    pub(super) fn leave_line(&mut self, flow: &mut Flow) -> Option<u64> {
        if !matches!(flow.work, Work::Wait(_)) {
            return None;
        }
        let Work::Wait(place) = replace(&mut flow.work, Work::Moving) else { return None };
        let InLine { bytes, rule, token, since_ns } = *place;
        self.lines.leave(rule, token);
        flow.work = Work::Resolve(bytes);
        Some(since_ns)
    }

    /// There is room, and the flow is counted in.
    pub(crate) fn let_in(&mut self, token: FlowToken, flow: &mut Flow, entered: Entered) -> Step {
        let Some(since_ns) = self.leave_line(flow) else { return Step::Stay };
        flow.hold(Some(entered));
        self.go_on(token, flow, Some(since_ns))
    }

    /// Its time in line is over.
    pub(super) fn waited_long(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        let policy = self.policy();
        let waits_since = self.leave_line(flow);
        let terms = flow.decision.and_then(|decision| decision.terms);
        let Some(limited) = terms.and_then(|rule| policy.limits.of_rule(rule.0)) else {
            return self.go_on(token, flow, waits_since);
        };
        let source = limited.source(flow.source.ip(), flow.identity());
        self.enter(token, flow, (limited, source), waits_since)
    }
}
