//! What a flow does next, one file per stage, in the order of a connection's life:
//! `proxy_header` (on listeners behind a proxy) → `hear` (first bytes) → `login` (where one is asked for) → `judge` (decision; `captured` where no name is said) → `admit` (its rule has room) →
//! `reach` (resolve, screen, dial; `announce` the client there) → `carry` (tunnel, relay), `postgres` (its way to TLS) or
//! `http` (one request after another), or `refuse`. `spend` counts what it moves. `hand_over` gives a connection that needs the front to it.

mod admit;
mod announce;
mod captured;
mod carry;
mod hand_over;
mod hear;
mod http;
mod judge;
mod login;
mod postgres;
mod proxy_header;
mod reach;
mod refuse;
mod spend;

pub(crate) use hear::{Reader, Said};
pub(crate) use login::Waiting;
pub(crate) use reach::enforced;

use egress_policy::{Accept, End, Reason};

use crate::context::{CLIENT, Context, FlowToken, Step};
use crate::flow::{Flow, Work};
use crate::relay::Edge;

impl Context {
    /// Goes on after an edge on one of the flow's sockets.
    pub(crate) fn on_edge(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        side: usize,
        edge: Edge,
    ) -> Step {
        match &flow.work {
            Work::Hear(_) if side != CLIENT => self.look_at_kept(flow),
            Work::Header(_) => self.read_header(token, flow),
            Work::Hear(_) => self.hear(token, flow),
            // Nothing can be answered to a client that is gone; a half-close alone is no reason to stop.
            Work::Login(_) | Work::Resolve(_) | Work::Dial(..) if side == CLIENT && edge.broken => {
                Step::End(End::ClientGone)
            }
            Work::Wait(_) if side == CLIENT && (edge.broken || flow.has_left()) => {
                Step::End(End::ClientGone)
            }
            Work::Resolve(_) if side == CLIENT && flow.awaits_turn() => self.reach(token, flow),
            Work::Login(_) | Work::Wait(_) | Work::Resolve(_) => Step::Stay,
            Work::Dial(..) if side == CLIENT => Step::Stay,
            Work::Dial(..) => self.attempt_edge(token, flow, side - 1, edge),
            Work::Relay(_) => self.carry(token, flow),
            Work::Http(_) => self.exchange(token, flow),
            Work::Refuse(_) => self.say_goodbye(token, flow),
            Work::Over(_) | Work::Handed | Work::Moving => Step::End(End::Aborted),
        }
    }

    /// The flow's timer has fired.
    pub(crate) fn on_timer(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        match &flow.work {
            Work::Hear(_) if flow.is_between_requests() => Step::End(End::Closed),
            Work::Hear(_) if flow.accept == Accept::Transparent => self.silent(token, flow),
            Work::Header(None) if self.may_lack_header(flow) => self.without_header(token, flow),
            Work::Header(_) | Work::Hear(_) => {
                self.refuse(token, flow, Reason::FirstBytesTimeout, End::Refused)
            }
            Work::Login(_) => self.login_late(token, flow),
            Work::Wait(_) => self.waited_long(token, flow),
            Work::Resolve(_) if flow.decision.is_none() => self.judge_address(token, flow),
            Work::Resolve(_) => self.fail(token, flow, End::ResolveTimeout),
            Work::Dial(..) => self.dial_timer(token, flow),
            Work::Relay(_) => self.carry_timer(token, flow),
            Work::Http(_) => self.exchange_timer(token, flow),
            Work::Refuse(_) => Step::End(flow.end),
            Work::Over(_) | Work::Handed | Work::Moving => Step::End(End::Aborted),
        }
    }
}
