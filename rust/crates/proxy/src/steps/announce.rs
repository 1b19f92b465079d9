//! The PROXY header that a destination is sent before a client's first bytes.

use std::net::{Ipv4Addr, SocketAddr};

use egress_hello::name::Host;
use egress_hello::proxy_protocol::{Tlv, Version, kind, write_v1, write_v2};

use crate::context::Context;
use crate::flow::Flow;
use crate::installed::Installed;
use crate::pool::Buffer;
use crate::relay::Peer;

/// The header that the flow's destination is sent: by its rule, else by its listener.
pub(super) fn version(flow: &Flow, policy: &Installed) -> Option<Version> {
    let by_rule = flow.terms(policy).and_then(|terms| terms.sends);
    let sends = by_rule.or_else(|| flow.proxied(policy).map(|proxied| proxied.sends));
    sends.and_then(|sends| sends.version())
}

impl Flow {
    /// What the client had connected to: before us, as a header or a capture says, else this gateway.
    fn connected_to(&self) -> SocketAddr {
        let before = self.introduced().and_then(|introduced| introduced.destination);
        let captured = || self.captured.map(|ip| SocketAddr::new(ip, self.port));
        let through_the_front = || self.beside.as_ref()?.local;
        before.or_else(captured).or_else(through_the_front).unwrap_or_else(|| {
            // A connected socket has an address; were there none, a header must still be sent.
            let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            egress_sys::local_address(self.client.fd()).unwrap_or(nowhere)
        })
    }
}

impl Context {
    /// The header for the flow's destination, where one is to be sent.
    pub(super) fn announcement(&mut self, flow: &Flow) -> Option<Buffer> {
        let version = version(flow, &self.policy())?;
        let (source, destination) = (flow.source, flow.connected_to());
        let mut buffer = self.lender.buffers.holding(&[]);
        buffer.write(|out| match (version, &flow.destination) {
            (Version::One, _) => write_v1(source, destination, out),
            (Version::Two, host) => {
                let name = match host {
                    Some(Host::Name(name)) => name.as_str().as_bytes(),
                    _ => &[],
                };
                let authority = [Tlv { kind: kind::AUTHORITY, value: name }];
                let tlvs = if name.is_empty() { &[] } else { &authority[..] };
                let done = write_v2(source, destination, tlvs, out);
                debug_assert!(done.is_ok(), "a name has 253 bytes at most");
            }
        });
        Some(buffer)
    }

    /// Sends a destination the gateway's own words. The first bytes into the empty buffer of a new socket go whole or not
    /// at all: `false`.
    pub(super) fn say_first(&mut self, upstream: &Peer, words: Buffer) -> bool {
        let said = egress_sys::send(upstream.fd(), words.rest()) == Ok(words.rest().len());
        self.lender.buffers.give_back(words);
        said
    }
}
