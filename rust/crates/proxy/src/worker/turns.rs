//! Flows that were held back, and may go on.

use super::Worker;
use crate::context::FlowToken;

impl Worker {
    /// Flows whose class has been paid may send.
    pub(super) fn take_turns(&mut self) {
        let now_ns = self.context.now_ns();
        let mut at = 0;
        while let Some(gate) = self.context.shaper.listed(at) {
            while let Some((token, bytes)) = self.context.shaper.next(gate, now_ns) {
                let token = FlowToken::of_number(token);
                self.with(token, |context, flow| context.turn_came(token, flow, gate, bytes));
            }
            at += 1;
        }
        self.context.shaper.unlist();
    }

    /// Flows that have waited for room go on, as far as there is some.
    pub(super) fn let_in(&mut self) {
        let policy = self.context.policy();
        let now_ns = self.context.now_ns();
        self.context.lines.look();
        while let Some((token, entered)) = self.context.lines.next(&policy.limits, now_ns) {
            let token = FlowToken::of_number(token);
            self.with(token, |context, flow| context.let_in(token, flow, entered));
        }
    }
}
