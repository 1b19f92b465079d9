//! What a flow spends: the bytes that it moves, of the budget of its rule.

use egress_flowlog::WorkerCounter;
use egress_policy::Reason;

use super::admit::OF_SOURCE;
use crate::budget::{Spending, Spent};
use crate::context::Context;
use crate::flow::Flow;

impl Flow {
    /// Counts the bytes moved so far for its rule's budget; whether that is spent and new flows are refused.
    pub(crate) fn spend(&mut self) -> bool {
        let has_budget = self.beside.as_ref().is_some_and(|beside| beside.spending.is_some());
        if !has_budget {
            return false;
        }
        let moved = self.moved();
        let spending = self.beside.as_mut().and_then(|beside| beside.spending.as_mut());
        spending.is_some_and(|spending| {
            spending.count(moved);
            spending.denies()
        })
    }

    /// What it spends from now on.
    pub(crate) fn spend_from(&mut self, spending: Option<Spending>) {
        self.spend();
        let moved = self.moved();
        let spending = spending.map(|spending| Box::new(spending.not_counting(moved)));
        if spending.is_some() {
            self.beside.get_or_insert_default().spending = spending;
        } else if let Some(beside) = &mut self.beside {
            beside.spending = None;
        }
    }

    pub(crate) fn spending(&self) -> Option<&Spending> {
        self.beside.as_ref()?.spending.as_deref()
    }
}

impl Context {
    /// Whether the budget that the flow would spend from is spent; it is refused then, unless that is audited.
    pub(super) fn has_budget(&self, flow: &mut Flow) -> bool {
        let Some(spent) = flow.spending().and_then(Spending::keeps_out) else { return true };
        if spent != Spent::All {
            flow.other = Some(OF_SOURCE.into());
        }
        if spent == Spent::Crowded {
            self.count(WorkerCounter::SourcesFull);
        }
        self.audited(flow, Reason::BudgetSpent)
    }

    /// The flow's bytes are counted; whether it ends because its budget is spent.
    pub(super) fn overspends(&self, flow: &mut Flow) -> bool {
        if !flow.spend() {
            return false;
        }
        // Recorded once; the audit lets it go on.
        flow.reason != Reason::BudgetSpent && !self.audited(flow, Reason::BudgetSpent)
    }
}
