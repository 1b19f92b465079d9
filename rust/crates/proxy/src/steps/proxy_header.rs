//! The PROXY header before a connection's first bytes: read from trusted peers, refused to all others, and what it says
//! of the source taken over.

use std::net::IpAddr;
use std::time::Duration;

use egress_front::Introduced;
use egress_hello::Answer;
use egress_hello::proxy_protocol::{self, Connection, Header, ProxyError};
use egress_policy::{Accept, End, NamingTlv, Proxied, Reads, Reason};

use crate::context::{Context, FlowToken, Step, millis};
use crate::flow::{Flow, Work, evidence};
use crate::installed::Installed;
use crate::pool::Buffer;

/// What a receiver waits at least for the header (proxy-protocol.txt, section 2): a lost SYN-ACK or first segment is
/// sent again after 1 and 3 s.
const LEAST_PATIENCE: Duration = Duration::from_secs(3);
/// The word where a header must come and other bytes do.
const NO_HEADER: &str = "proxy_header";

impl Flow {
    /// A header is awaited. Nothing is known of the client yet, nor is it told anything.
    pub(crate) fn awaits_header(&self) -> bool {
        matches!(self.work, Work::Header(_))
    }

    /// When the client's own first bytes could come, in nanoseconds of the worker's clock.
    pub(crate) fn heard_from_ns(&self) -> u64 {
        self.beside.as_ref().map_or(0, |beside| beside.header_ns).max(self.start_ns)
    }

    /// The policy's settings for the PROXY protocol at the flow's listener.
    pub(crate) fn proxied<'a>(&self, policy: &'a Installed) -> Option<&'a Proxied> {
        policy.listener(self.listener).map(|listener| &listener.proxied)
    }

    fn take_header(
        &mut self,
        header: &Header<'_>,
        naming: Option<NamingTlv>,
    ) -> Result<(), ProxyError> {
        let name = match naming {
            Some(naming) => naming.value(header)?,
            None => None,
        };
        let by = self.source;
        let mut introduced = Introduced { by, destination: None, tlv: name.map(Into::into) };
        if let Connection::Tcp { source, destination } = header.connection {
            introduced.destination = Some(destination);
            self.source = source;
        }
        self.evidence = evidence(Some(&introduced));
        let beside = self.beside.get_or_insert_default();
        beside.introduced = Some(introduced);
        beside.header_ns = self.recorder.now_ns.get();
        if let Some(name) = name {
            self.shown(|identity| identity.with_tlv(name));
        }
        Ok(())
    }
}

impl Context {
    /// Whether a connection of `peer` to a listener begins with a header.
    pub(crate) fn begins_with_header(&self, listener: u16, peer: IpAddr) -> bool {
        let policy = self.policy();
        let listener = policy.listener(listener);
        listener.is_some_and(|listener| match listener.proxied.reads {
            Reads::Off => false,
            // Of anybody else what looks like a header is the client's own.
            Reads::Optional => listener.proxied.trusts(peer),
            Reads::Required => true,
        })
    }

    /// How long a client that was just admitted has for its first bytes; for a header before them, if there is one.
    pub(crate) fn patience(&self, flow: &mut Flow) -> Duration {
        let policy = self.policy();
        let timeouts = &policy.snapshot.settings().timeouts;
        // Clients that come through the front have had theirs.
        if flow.pair().is_none() && self.begins_with_header(flow.listener, flow.source.ip()) {
            flow.work = Work::Header(None);
            return timeouts.first_bytes.max(LEAST_PATIENCE);
        }
        if flow.accept == Accept::Transparent {
            return timeouts.first_bytes.min(timeouts.server_first);
        }
        timeouts.first_bytes
    }

    /// Reads the header, and goes on with what follows it.
    pub(crate) fn read_header(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        let policy = self.policy();
        let Some(proxied) = flow.proxied(&policy) else { return Step::End(End::Aborted) };
        if !proxied.trusts(flow.source.ip()) {
            return self.refuse(token, flow, Reason::UntrustedProxy, End::Refused);
        }
        loop {
            let read = match self.receive(flow) {
                Ok(read) => read,
                Err(step) => return step,
            };
            let came = &self.lender.scratch[..read];
            let mut bytes = match std::mem::replace(&mut flow.work, Work::Moving) {
                Work::Header(Some(mut so_far)) => {
                    so_far.push(came);
                    so_far
                }
                Work::Header(None) => self.lender.buffers.holding(came),
                other => {
                    flow.work = other;
                    return Step::Stay;
                }
            };
            let refused = match proxy_protocol::read(bytes.rest()) {
                Answer::NeedMore => {
                    flow.work = Work::Header(Some(bytes));
                    continue;
                }
                Answer::Not if proxied.reads == Reads::Optional => {
                    return self.after_header(token, flow, bytes);
                }
                Answer::Found(header) => match flow.take_header(&header, proxied.tlv) {
                    Ok(()) => {
                        let taken = header.len;
                        bytes.advance(taken);
                        return self.after_header(token, flow, bytes);
                    }
                    Err(error) => (Reason::Malformed, error.word()),
                },
                Answer::Malformed(error) => (Reason::Malformed, error.word()),
                Answer::Not => (Reason::NotAccepted, NO_HEADER),
            };
            let (reason, word) = refused;
            flow.work = Work::Header(Some(bytes));
            flow.other = Some(word.into());
            return self.refuse(token, flow, reason, End::Refused);
        }
    }

    /// A trusted peer that has said nothing may wait for a server that speaks first.
    pub(crate) fn may_lack_header(&self, flow: &Flow) -> bool {
        let policy = self.policy();
        let optional =
            flow.proxied(&policy).is_some_and(|proxied| proxied.reads == Reads::Optional);
        optional && matches!(flow.accept, Accept::Tcp | Accept::Transparent)
    }

    pub(crate) fn without_header(&mut self, token: FlowToken, flow: &mut Flow) -> Step {
        let nothing = self.lender.buffers.holding(&[]);
        self.after_header(token, flow, nothing)
    }

    /// What is left of `bytes` is the client's own.
    fn after_header(&mut self, token: FlowToken, flow: &mut Flow, bytes: Buffer) -> Step {
        if flow.accept == Accept::Tcp {
            return self.go_to(token, flow, bytes);
        }
        let policy = self.policy();
        if policy.listener(flow.listener).is_some_and(|listener| listener.tls.is_some()) {
            flow.work = Work::Resolve(bytes);
            return self.hand_over(token, flow, true);
        }
        flow.work = Work::Hear(None);
        let timeouts = &policy.snapshot.settings().timeouts;
        let silent_so_far = bytes.rest().is_empty() && flow.accept == Accept::Transparent;
        let patience = if silent_so_far {
            timeouts.first_bytes.min(timeouts.server_first)
        } else {
            timeouts.first_bytes
        };
        let patience = millis(patience);
        self.wake_at(token, self.now_ms + patience);
        flow.publish();
        if bytes.rest().is_empty() {
            self.lender.buffers.give_back(bytes);
        } else {
            let reader = self.reader(flow);
            if let Some(step) = self.understand(token, flow, bytes.heard_by(reader)) {
                return step;
            }
        }
        self.hear(token, flow)
    }
}
