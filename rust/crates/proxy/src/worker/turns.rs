//! Flows that were held back, and may go on.

use super::Worker;
use crate::context::FlowToken;

/// Turns between two looks at the sockets, and one more for each four flows that those had news of and each four queues: of
/// 16 KiB to 256 KiB each, and whoever comes meanwhile waits for all of them.
const TURNS_AT_ONCE: usize = 2;

impl Worker {
    /// Flows whose class has been paid may send.
    pub(super) fn take_turns(&mut self, served: usize) {
        let now_ns = self.context.now_ns();
        let mut left = TURNS_AT_ONCE + (served + self.context.shaper.waiting_gates()) / 4;
        let mut had = 0;
        while let Some(gate) = self.context.shaper.listed(had) {
            had += 1;
            while left > 0
                && let Some((token, bytes)) = self.context.shaper.next(gate, now_ns)
            {
                left -= 1;
                let token = FlowToken::of_number(token);
                self.with(token, |context, flow| context.turn_came(token, flow, gate, bytes));
            }
            if left == 0 {
                break;
            }
        }
        self.context.shaper.unlist(had);
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
