//! Who the client says it is: looked up, verified on another thread, and then gone on from where it said so.

use std::sync::Arc;

use egress_hello::basic::{Credentials, ProxyLogin};
use egress_hello::name::Host;
use egress_hello::socks::LOGIN_ACCEPTED;
use egress_policy::{End, Identity, Login, Reason};

use super::Reader;
use crate::context::{Context, FlowToken, Step};
use crate::flow::{Flow, Work};
use crate::logins::{Outcome, Question};
use crate::pool::{Buffer, FAIR_BYTES};
use crate::refuse::{LOGIN_QUEUE, TOO_MANY_FAILURES};

/// What a flow that waits for its login goes on with.
#[derive(Debug)]
pub(crate) struct Waiting {
    bytes: Buffer,
    user: Box<[u8]>,
    /// The stored hash that is verified against.
    hash: Box<str>,
    /// Under which the login is remembered.
    name: [u8; 32],
    then: Then,
    asker: Arc<()>,
}

/// What comes after a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// The client is told, and sends its request.
    SocksRequest,
    /// The destination came with it, and is the flow's.
    Judge,
}

impl Context {
    /// Whether the flow's listener asks for a login.
    pub(crate) fn login(&self, flow: &Flow) -> Login {
        let policy = self.policy();
        let listener = policy.listener(flow.listener);
        listener.map_or(Login::Off, |listener| listener.login)
    }

    /// Judges a request, as its user's where the listener asks for one.
    pub(super) fn judge_known(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        said: ProxyLogin,
        host: Host,
        port: u16,
    ) -> Step {
        let reason = match (self.login(flow), said) {
            (Login::Required, ProxyLogin::Absent) if flow.user().is_none() => Reason::LoginRequired,
            (Login::Off, _) | (_, ProxyLogin::Absent) => {
                return self.judge(token, flow, host, port);
            }
            (_, ProxyLogin::Basic(credentials)) => {
                flow.destination = Some(host);
                flow.port = port;
                return self.log_in(token, flow, credentials, Then::Judge);
            }
            // A login that is wrong is never taken for none.
            (_, ProxyLogin::Unreadable) => Reason::LoginFailed,
        };
        flow.destination = Some(host);
        flow.port = port;
        self.refuse(token, flow, reason, End::Refused)
    }

    /// The client has said who it is; what else it has said waits in `Work::Resolve`.
    pub(super) fn log_in(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        credentials: Credentials,
        then: Then,
    ) -> Step {
        let Work::Resolve(bytes) = std::mem::replace(&mut flow.work, Work::Moving) else {
            return Step::End(End::Aborted);
        };
        egress_hello::basic::wipe(&mut self.lender.scratch[..FAIR_BYTES]);
        let policy = self.policy();
        let known = policy.snapshot.user_hash(&credentials.user);
        let choice = self.logins.choice(&credentials.user);
        let Some(hash) = known.or_else(|| policy.snapshot.decoy_hash(choice)) else {
            flow.work = Work::Resolve(bytes);
            return self.refuse(token, flow, Reason::LoginFailed, End::Refused);
        };
        let name = self.logins.name(&credentials, hash);
        let (user, hash, asker) = (credentials.user.clone(), hash.into(), Arc::default());
        let waiting = Waiting { bytes, user, hash, name, then, asker };
        if known.is_some() && self.logins.has(&name) {
            return self.logged_in(token, flow, waiting);
        }
        let asked = self.login_thread.ask(Question {
            hash: waiting.hash.clone(),
            known: known.is_some(),
            name,
            source: flow.source.ip(),
            worker: self.worker,
            token: token.number(),
            asker: Arc::downgrade(&waiting.asker),
            credentials,
        });
        flow.work = Work::Login(Box::new(waiting));
        if asked { Step::Stay } else { self.login_late(token, flow) }
    }

    /// Too many logins are before this one.
    pub(super) fn login_late(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        if let Work::Login(waiting) = std::mem::replace(&mut flow.work, Work::Moving) {
            flow.work = Work::Resolve(waiting.bytes);
        }
        flow.other = Some(LOGIN_QUEUE.into());
        self.refuse(token, flow, Reason::Overloaded, End::Refused)
    }

    /// The login of a waiting flow is verified.
    pub(crate) fn login_answered(
        &mut self,
        token: FlowToken,
        flow: &mut Flow,
        outcome: Outcome,
    ) -> Step {
        let waiting = match std::mem::replace(&mut flow.work, Work::Moving) {
            Work::Login(waiting) => *waiting,
            other => {
                flow.work = other;
                return Step::Stay;
            }
        };
        // The users file may have changed meanwhile.
        let same = self.policy().snapshot.user_hash(&waiting.user) == Some(&*waiting.hash);
        if outcome == Outcome::Right && same {
            self.logins.add(waiting.name);
            return self.logged_in(token, flow, waiting);
        }
        if outcome == Outcome::TooMany {
            flow.other = Some(TOO_MANY_FAILURES.into());
        }
        flow.work = Work::Resolve(waiting.bytes);
        self.refuse(token, flow, Reason::LoginFailed, End::Refused)
    }

    fn logged_in(&mut self, token: FlowToken, flow: &mut Flow, waiting: Waiting) -> Step {
        let Waiting { bytes, user, then, .. } = waiting;
        flow.shown(|identity| identity.with_user(&user));
        match then {
            Then::Judge => {
                flow.work = Work::Resolve(bytes);
                match flow.destination.take() {
                    Some(host) => self.judge(token, flow, host, flow.port),
                    None => Step::End(End::Aborted),
                }
            }
            Then::SocksRequest => {
                // Into the empty buffer of a new socket: they go whole or not at all.
                if egress_sys::send(flow.client.fd(), &LOGIN_ACCEPTED) != Ok(LOGIN_ACCEPTED.len()) {
                    flow.reason = Reason::ClientLeft;
                    return Step::End(End::ClientGone);
                }
                // What a client that does not wait has sent already is here; the rest is still to be read.
                let bytes = bytes.heard_by(Reader::SocksRequest);
                match self.understand(token, flow, bytes) {
                    Some(step) => step,
                    None => self.hear(token, flow),
                }
            }
        }
    }
}

impl Flow {
    /// Takes the user away who may no longer log in; gives what the flow was known as.
    pub(crate) fn lose_user(&mut self, policy: &egress_policy::Snapshot) -> Option<Identity> {
        if policy.user_hash(self.user()?).is_some() {
            return None;
        }
        let was = self.identity().cloned();
        self.shown(|identity| identity.with_user(b""));
        was
    }

    /// The flow ends, and the record says as whose.
    pub(crate) fn be_again(&mut self, was: Option<Identity>) {
        if let Some(was) = was {
            self.shown(|_| was);
        }
    }
}
