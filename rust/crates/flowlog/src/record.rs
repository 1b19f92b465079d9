//! The record of a finished flow, as a value.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use egress_policy::{Accept, End, Evidence, Reason, Verdict};

use crate::layout::{self, record as at};

/// "There is none" in a 32-bit field.
pub const NONE_U32: u32 = u32::MAX;

/// Bits of `Record::flags`.
pub mod flags {
    /// The ClientHello offered Encrypted ClientHello: the name judged is the outer one.
    pub const ECH: u32 = 1;
    /// The destination was named by its address.
    pub const BY_ADDRESS: u32 = 2;
    /// The name servers were away and an expired answer was used.
    pub const STALE: u32 = 4;
    /// A refusal was due and audit mode let the flow through.
    pub const AUDIT: u32 = 8;
    /// Bytes moved through a pipe at least once.
    pub const SPLICED: u32 = 16;
    /// The name is the one under which a DNS listener told the source this address.
    pub const DNS_NAME: u32 = 32;
}

/// What became of one accepted connection. Times in microseconds are `NONE_U32` where the step did not happen.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub flow_id: u64,
    pub generation: u64,
    pub start_unix_ns: u64,
    pub duration_ns: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub first_bytes_us: u32,
    pub resolve_us: u32,
    pub connect_us: u32,
    pub rule_line: u32,
    pub source: SocketAddr,
    /// The peer whose PROXY header was read.
    pub peer: Option<SocketAddr>,
    pub upstream: Option<SocketAddr>,
    pub port: u16,
    pub verdict: Verdict,
    pub reason: Reason,
    pub end: End,
    pub accept: Accept,
    pub listener: u16,
    pub flags: u32,
    pub rule: u32,
    pub name: &'a [u8],
    pub rule_name: &'a [u8],
    pub listener_name: &'a [u8],
    pub other: &'a [u8],
    /// The strongest that the source is known by, and the identity behind it.
    pub evidence: Evidence,
    pub identity: &'a [u8],
    pub delays: Delays<'a>,
}

/// What the rule's bounds cost the flow.
#[derive(Debug, Clone, Copy)]
pub struct Delays<'a> {
    /// How long it waited until there was room for one more connection; `NONE_U32` where it did not.
    pub waited_us: u32,
    /// How long it waited for its turns to send, up and down.
    pub held_ns: [u64; 2],
    /// In which class the last time; empty where it did not.
    pub held_by: &'a [u8],
}

impl Default for Delays<'_> {
    fn default() -> Self {
        Self { waited_us: NONE_U32, held_ns: [0; 2], held_by: b"" }
    }
}

/// 16 bytes of an address, IPv4 as `::ffff:a.b.c.d`.
pub(crate) fn address_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Copies as much of `text` as there is room for; gives the length kept.
pub(crate) fn put_text(slot: &mut [u8], offset: usize, room: usize, text: &[u8]) -> u8 {
    let kept = text.len().min(room).min(usize::from(u8::MAX));
    slot[offset..offset + kept].copy_from_slice(&text[..kept]);
    u8::try_from(kept).unwrap_or(u8::MAX)
}

macro_rules! put {
    ($slot:expr, $offset:expr, $value:expr) => {{
        let bytes = $value.to_le_bytes();
        $slot[$offset..$offset + bytes.len()].copy_from_slice(&bytes);
    }};
}
pub(crate) use put;

impl Record<'_> {
    /// The record's bytes, as `layout::record` places them.
    pub(crate) fn encode(&self) -> [u8; layout::RECORD_SIZE] {
        let mut b = [0; layout::RECORD_SIZE];
        put!(b, at::FLOW_ID, self.flow_id);
        put!(b, at::GENERATION, self.generation);
        put!(b, at::START_UNIX_NS, self.start_unix_ns);
        put!(b, at::DURATION_NS, self.duration_ns);
        put!(b, at::BYTES_UP, self.bytes_up);
        put!(b, at::BYTES_DOWN, self.bytes_down);
        put!(b, at::FIRST_BYTES_US, self.first_bytes_us);
        put!(b, at::RESOLVE_US, self.resolve_us);
        put!(b, at::CONNECT_US, self.connect_us);
        put!(b, at::RULE_LINE, self.rule_line);
        b[at::SOURCE..at::SOURCE + 16].copy_from_slice(&address_bytes(self.source.ip()));
        let none = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let (peer, upstream) = (self.peer.unwrap_or(none), self.upstream.unwrap_or(none));
        b[at::PEER..at::PEER + 16].copy_from_slice(&address_bytes(peer.ip()));
        b[at::UPSTREAM..at::UPSTREAM + 16].copy_from_slice(&address_bytes(upstream.ip()));
        put!(b, at::SOURCE_PORT, self.source.port());
        put!(b, at::UPSTREAM_PORT, upstream.port());
        put!(b, at::PEER_PORT, peer.port());
        put!(b, at::PORT, self.port);
        b[at::VERDICT] = self.verdict as u8;
        b[at::REASON] = self.reason as u8;
        b[at::END] = self.end as u8;
        b[at::ACCEPT] = self.accept as u8;
        put!(b, at::LISTENER, self.listener);
        put!(b, at::FLAGS, self.flags);
        put!(b, at::RULE, self.rule);
        b[at::NAME_LEN] = put_text(&mut b, at::NAME, layout::NAME_ROOM, self.name);
        b[at::RULE_LEN] = put_text(&mut b, at::RULE_NAME, layout::RULE_NAME_ROOM, self.rule_name);
        b[at::LISTENER_LEN] =
            put_text(&mut b, at::LISTENER_NAME, layout::LISTENER_NAME_ROOM, self.listener_name);
        b[at::OTHER_LEN] = put_text(&mut b, at::OTHER, layout::OTHER_ROOM, self.other);
        b[at::EVIDENCE] = self.evidence as u8;
        let Delays { waited_us, held_ns: [up, down], held_by } = self.delays;
        put!(b, at::HELD_UP_NS, up);
        put!(b, at::HELD_DOWN_NS, down);
        put!(b, at::WAITED_US, waited_us);
        b[at::HELD_BY_LEN] = put_text(&mut b, at::HELD_BY, layout::RULE_NAME_ROOM, held_by);
        b[at::IDENTITY_LEN] = put_text(&mut b, at::IDENTITY, layout::IDENTITY_ROOM, self.identity);
        b
    }
}
