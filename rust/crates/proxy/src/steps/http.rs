//! Plain HTTP: each request of a client's connection is a flow of its own, judged and recorded by itself.

use std::net::SocketAddr;

use egress_hello::http::{Body, Framing, Request, RequestHead, rewrite_request};
use egress_hello::name::Host;
use egress_policy::{Accept, End, Reason, Stage};
use rustix::io::Errno;

use super::carry::KEEPALIVE_CHECK_MS;
use super::reach::reach_by_ms;
use super::refuse::LINGER_MS;
use crate::context::{Context, FlowToken, Step};
use crate::flow::{Flow, Goodbye, Relay, Work};
use crate::installed::InForce;
use crate::pool::Buffer;
use crate::relay::{Asking, Broken, Direction, Exchange, Kept, Passed, Peer, Requests, Turn};
use crate::shape::{DOWN, UP};

/// How long a connection is kept for the client's next request, if the idle timeout does not end it before.
const KEPT_MS: u64 = 60_000;

/// RFC 9110, section 9.2.2: sent twice, these do what they do once.
const IDEMPOTENT: &[&[u8]] = &[b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"];

/// A message of which no more may be read, and what that comes to for now.
const STOPS: (Result<Passed, Broken>, Result<Passed, Broken>) =
    (Ok(Passed::Spent), Ok(Passed::Waiting));

/// May be sent again when a kept connection turns out to have been closed.
fn is_repeatable(request: &Request, head: &[u8]) -> bool {
    matches!(request.framing, Framing::None | Framing::Length(0))
        && IDEMPOTENT.contains(&request.method(head))
}

impl Flow {
    /// The dial waits for the worker's next turn.
    pub(super) fn awaits_turn(&self) -> bool {
        self.http().is_some_and(|requests| requests.turn == Turn::Awaited)
    }

    fn asking(&self) -> Option<&Asking> {
        self.http()?.asking.as_ref()
    }

    /// The request's target and its Host name different destinations.
    pub(super) fn names_two(&self) -> bool {
        self.asking().is_some_and(|asking| asking.two_hosts)
    }

    /// A captured request is for where its connection was going: another port or address in it is a second destination.
    fn goes_elsewhere(&self, request: &Request) -> bool {
        let Some(captured) = self.captured else { return false };
        let elsewhere = matches!(&request.host, Host::Ip(ip) if *ip != captured);
        elsewhere || request.port != self.port
    }

    /// The response to HEAD has no body.
    pub(super) fn asks_for_head(&self) -> bool {
        self.asking().is_some_and(|asking| asking.asked.head)
    }
}

impl Context {
    /// The client can send another request after a refusal of this one.
    pub(super) fn can_go_on(&self, flow: &Flow) -> bool {
        let out_of = flow.reason == Reason::Overloaded || flow.end == End::OutOfResources;
        !self.draining
            && !out_of
            && !matches!(flow.work, Work::Hear(_))
            && flow.http().is_some_and(Requests::can_go_on)
    }

    /// The first byte of a request has come; of the first one, the time began with the connection.
    pub(super) fn request_begins(&mut self, token: FlowToken, flow: &mut Flow) {
        if flow.http().is_some_and(|requests| requests.later) {
            flow.start_ns = self.now_ns();
            let deadline = self.first_bytes_deadline_ms();
            self.wake_at(token, deadline);
        }
    }

    /// Looks at what came with the request before.
    pub(super) fn hear_ahead(&mut self, token: FlowToken, flow: &mut Flow) -> Option<Step> {
        let ahead = flow.http_mut()?.ahead.take()?;
        self.request_begins(token, flow);
        let reader = self.reader(flow);
        self.understand(token, flow, ahead.heard_by(reader))
    }

    /// A request's head is whole.
    pub(super) fn requested(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        head: RequestHead,
    ) -> Step {
        let (request, two_hosts) = match head {
            RequestHead::Request(request) => {
                let elsewhere = flow.goes_elsewhere(&request);
                if elsewhere && let Some(captured) = flow.captured {
                    flow.other = Some(SocketAddr::new(captured, flow.port).to_string().into());
                }
                (request, elsewhere)
            }
            RequestHead::TwoHosts { request, field, field_port } => {
                let field = match field {
                    Host::Name(name) => name.as_str().to_owned(),
                    Host::Ip(ip) => ip.to_string(),
                };
                // Where only the ports differ, the name alone would not say what does.
                flow.other = Some(match field_port {
                    Some(port) if port != request.port => format!("{field}:{port}").into(),
                    _ => field.into(),
                });
                (request, true)
            }
        };
        let port = if flow.accept == Accept::Transparent { flow.port } else { request.port };
        let Work::Resolve(mut bytes) = std::mem::replace(&mut flow.work, Work::Moving) else {
            return Step::End(End::Aborted);
        };
        let mut head = self.lender.buffers.holding(&[]);
        head.write(|out| rewrite_request(bytes.rest(), &request, !request.keep_alive, out));
        let repeatable = is_repeatable(&request, bytes.rest());
        // The origin gets no credentials of the proxy's; they need not stay here either.
        bytes.wipe(request.head_len);
        flow.work = Work::Resolve(head);
        flow.prefers = request.prefers;
        let captured = flow.captured;
        let requests =
            flow.beside.get_or_insert_default().http.get_or_insert_with(|| Requests::new(captured));
        requests.asking = Some(Asking {
            asked: request.asked,
            keep_alive: request.keep_alive,
            body: Body::new(request.framing),
            two_hosts,
            repeatable,
        });
        if bytes.rest().is_empty() {
            self.lender.buffers.give_back(bytes);
        } else {
            requests.ahead = Some(bytes);
        }
        self.judge_known(token, flow, request.login, request.host, port)
    }

    /// Takes the upstream of the request before, if this one is for the same destination by the same decision. `None`
    /// when it has to be dialled now.
    pub(super) fn reach_kept(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        policy: &InForce,
    ) -> Option<Step> {
        let requests = flow.http_mut()?;
        let kept = requests.kept.take();
        let repeatable = requests.asking.as_ref().is_some_and(|asking| asking.repeatable);
        if let Some(kept) = kept
            && self.fits(flow, &kept, policy)
            // What it has said unasked may be here, and its edge not.
            && self.is_silent(&kept.upstream)
            && let Work::Resolve(head) = std::mem::replace(&mut flow.work, Work::Moving)
        {
            flow.upstream = Some(kept.address);
            let again = repeatable.then(|| self.lender.buffers.holding(head.rest()));
            let mut exchange = Exchange::new(
                kept.upstream,
                kept.side,
                head,
                (kept.rule, kept.generation),
                self.now_ms,
            );
            exchange.again = again;
            return Some(self.start_exchange(token, flow, exchange));
        }
        let requests = flow.http_mut()?;
        match requests.turn {
            Turn::Due => {
                requests.turn = Turn::Awaited;
                Some(Step::Again)
            }
            Turn::Awaited => {
                requests.turn = Turn::Taken;
                None
            }
            Turn::Taken => None,
        }
    }

    fn fits(&self, flow: &Flow, kept: &Kept, policy: &InForce) -> bool {
        let Some(decision) = flow.decision else { return false };
        flow.destination.as_ref() == Some(&kept.host)
            && flow.user() == kept.user.as_deref()
            && (flow.port, flow.rule, flow.generation) == (kept.port, kept.rule, kept.generation)
            && self.screen(&self.screening(flow, decision, policy), kept.address, policy).is_ok()
    }

    /// Nothing has come, and the other side has not closed.
    fn is_silent(&mut self, upstream: &Peer) -> bool {
        egress_sys::recv(upstream.fd(), &mut self.lender.scratch[..1]) == Err(Errno::AGAIN)
    }

    /// The upstream of the request before has an edge: what it says unasked is part of no response.
    pub(super) fn look_at_kept(&mut self, flow: &mut Flow) -> Step {
        if let Some(requests) = flow.http_mut()
            && let Some(kept) = requests.kept.take()
            && self.is_silent(&kept.upstream)
        {
            requests.kept = Some(kept);
        }
        Step::Stay
    }

    /// The upstream is connected: the request goes out.
    pub(super) fn begin_exchange(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        upstream: Peer,
        side: u8,
        head: Buffer,
    ) -> Step {
        if let Some(words) = self.announcement(flow)
            && !self.say_first(&upstream, words)
        {
            self.lender.buffers.give_back(head);
            return self.fail(token, flow, End::UpstreamReset);
        }
        let under = (flow.rule, flow.generation);
        let exchange = Exchange::new(upstream, side, head, under, self.now_ms);
        self.start_exchange(token, flow, exchange)
    }

    fn start_exchange(&mut self, token: FlowToken, flow: &mut Flow, exchange: Exchange) -> Step {
        flow.work = Work::Http(Box::new(exchange));
        flow.stage = Stage::Relaying;
        flow.publish();
        let deadline = self.now_ms + self.idle_ms().min(KEEPALIVE_CHECK_MS);
        self.wake_at(token, deadline);
        self.exchange(token, flow)
    }

    /// Moves what can be moved of the request and of its response.
    pub(super) fn exchange(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        self.exchange_on(token, flow, [0; 2])
    }

    pub(super) fn exchange_on(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        turns: [u64; 2],
    ) -> Step {
        let Flow { client, work: Work::Http(exchange), beside: Some(beside), .. } = flow else {
            return Step::Stay;
        };
        let mut shaped = beside.shaped.as_deref_mut();
        let Some(Requests { asking: Some(asking), ahead, .. }) = &mut beside.http else {
            return Step::End(End::Aborted);
        };
        let before = exchange.carried;
        let (number, now_ns) = (token.number(), self.recorder.now_ns.get());
        let lender = &mut self.lender;
        let turn = (UP, turns[UP], number, now_ns);
        let passed = self.shaper.let_through(shaped.as_deref_mut(), turn, STOPS, |credit| {
            exchange.pass_request(client, &mut asking.body, ahead, lender, credit)
        });
        let owed = std::mem::take(&mut exchange.owed);
        self.shaper.owe(shaped.as_deref_mut(), UP, owed, now_ns);
        // After an early response the rest of the request may never come.
        let client_lives = asking.keep_alive && asking.body.has_ended() && !self.draining;
        let passed = passed.and_then(|sent| {
            let turn = (DOWN, turns[DOWN], number, now_ns);
            let response = self.shaper.let_through(shaped, turn, STOPS, |credit| {
                exchange.pass_response(client, asking.asked, client_lives, lender, credit)
            })?;
            Ok((sent, response))
        });
        let moved = exchange.carried != before;
        if moved {
            exchange.active_ms = self.now_ms;
            flow.publish_bytes();
        }
        let overspends = moved && self.overspends(flow);
        match passed {
            Err(broken) => self.exchange_broken(token, flow, broken),
            Ok((_, Passed::Done)) => self.exchanged(token, flow),
            Ok((_, Passed::Switched)) => self.switch(token, flow),
            Ok(_) if overspends => Step::End(End::BudgetSpent),
            Ok((Passed::More, _) | (_, Passed::More)) => Step::Again,
            Ok(_) if flow.client.failed => Step::End(End::ClientReset),
            Ok(_) => Step::Stay,
        }
    }

    fn exchange_broken(&mut self, token: FlowToken, flow: &mut Flow, broken: Broken) -> Step {
        let in_time = self.now_ms < reach_by_ms(flow, &self.policy());
        let Work::Http(exchange) = &mut flow.work else { return Step::End(End::Aborted) };
        match broken {
            Broken::ClientReset => Step::End(End::ClientReset),
            Broken::ClientLeft => {
                egress_sys::abort_on_close(exchange.upstream.fd());
                Step::End(End::ClientGone)
            }
            Broken::Request(error) => {
                egress_sys::abort_on_close(exchange.upstream.fd());
                flow.other = Some(error.word().into());
                self.refuse(token, flow, Reason::Malformed, End::Refused)
            }
            // What the policy denies by now is not asked for a second time.
            Broken::NoResponse if flow.stage == Stage::Closing => Step::End(End::PolicyChanged),
            Broken::NoResponse => match exchange.again.take() {
                // It was closed as idle while the request was on its way to it.
                Some(head) if exchange.carried.1 == 0 && in_time => {
                    exchange.release(&mut self.lender);
                    flow.upstream = None;
                    flow.work = Work::Resolve(head);
                    if let Some(requests) = flow.http_mut() {
                        requests.turn = Turn::Due;
                    }
                    self.reach(token, flow)
                }
                _ => self.fail(token, flow, End::UpstreamReset),
            },
            Broken::Response(word) => {
                flow.other = Some(word.into());
                self.fail(token, flow, End::UpstreamReset)
            }
            Broken::CutOff => Step::End(End::UpstreamReset),
        }
    }

    /// The response is with the client.
    fn exchanged(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        let Work::Http(mut exchange) = std::mem::replace(&mut flow.work, Work::Moving) else {
            return Step::End(End::Aborted);
        };
        flow.end = End::Closed;
        flow.work = Work::Over(exchange.carried);
        let sent = flow.asking().is_some_and(|asking| asking.body.has_ended());
        let upstream_lives = sent && exchange.upstream_lives();
        exchange.release(&mut self.lender);
        let Exchange { upstream, side, under, client_lives, carried, .. } = *exchange;
        if !client_lives || self.draining {
            // It was told so; bytes of it that are on their way now must not reset what it still reads.
            let bytes = self.lender.buffers.holding(&[]);
            let goodbye =
                Goodbye { bytes, silence: None, shut: false, discarded: 0, carried, next: false };
            flow.work = Work::Refuse(Box::new(goodbye));
            self.wake_at(token, self.now_ms + LINGER_MS);
            return self.say_goodbye(token, flow);
        }
        // What a rule says of an upstream is for those that are dialled under it, and the next request is led nowhere else.
        let same = under == (flow.rule, flow.generation)
            && flow.http().is_some_and(|requests| requests.captured == flow.captured);
        if upstream_lives
            && same
            && let (Some(host), Some(address)) = (flow.destination.clone(), flow.upstream)
        {
            let (port, rule, generation) = (flow.port, flow.rule, flow.generation);
            let user = flow.user().map(Into::into);
            let kept = Kept { upstream, side, address, host, port, rule, generation, user };
            if let Some(requests) = flow.http_mut() {
                requests.kept = Some(kept);
            }
        }
        self.next_request(token, flow)
    }

    /// The record is written, and the connection waits for the client's next request.
    pub(super) fn next_request(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        if self.draining {
            return Step::End(flow.end);
        }
        let id = self.new_id();
        flow.next_request(id);
        if let Some(requests) = flow.http_mut() {
            requests.asking = None;
            requests.later = true;
            requests.turn = Turn::Due;
        }
        let deadline = self.now_ms + self.idle_ms().min(KEPT_MS);
        self.wake_at(token, deadline);
        let waits = flow.http().is_some_and(|requests| requests.ahead.is_some());
        // Not at once: a thousand requests may have come together.
        if waits || flow.client.readable { Step::Again } else { Step::Stay }
    }

    /// The origin agrees to another protocol (RFC 9110, section 7.8): from here on the connection is a tunnel to it.
    fn switch(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        let Work::Http(exchange) = std::mem::replace(&mut flow.work, Work::Moving) else {
            return Step::End(End::Aborted);
        };
        let (mut up, mut down) = (Direction::default(), Direction::default());
        (up.bytes, down.bytes) = exchange.carried;
        let (upstream, side, pending) = exchange.into_tunnel(&mut self.lender);
        down.pending = pending;
        up.pending = flow.http_mut().and_then(|requests| requests.ahead.take());
        if let Some(beside) = &mut flow.beside {
            beside.http = None;
        }
        flow.work = Work::Relay(Relay { up, down, ..self.relay_to(upstream, side.into()) });
        if flow.stage != Stage::Closing {
            let deadline = self.now_ms + self.idle_ms().min(KEEPALIVE_CHECK_MS);
            self.wake_at(token, deadline);
        }
        self.carry(token, flow)
    }

    /// Idle, or the grace of a changed policy.
    pub(super) fn exchange_timer(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        if flow.stage == Stage::Closing {
            return Step::End(End::PolicyChanged);
        }
        let idle = self.idle_ms();
        let Flow { client, work: Work::Http(exchange), .. } = flow else { return Step::Stay };
        let quiet = self.now_ms.saturating_sub(exchange.active_ms);
        if quiet >= idle {
            // An orderly end would make half a message a whole one.
            egress_sys::abort_on_close(exchange.upstream.fd());
            return self.fail(token, flow, End::IdleTimeout);
        }
        if !exchange.probed && quiet >= KEEPALIVE_CHECK_MS {
            egress_sys::keepalive(exchange.upstream.fd());
            egress_sys::keepalive(client.fd());
            exchange.probed = true;
        }
        let next =
            exchange.active_ms + if exchange.probed { idle } else { idle.min(KEEPALIVE_CHECK_MS) };
        self.wake_at(token, next);
        Step::Stay
    }
}
