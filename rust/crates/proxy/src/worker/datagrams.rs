//! UDP that a transparent listener captures, QUIC to port 443: it is not carried, and its client is told so at once (ICMP
//! port unreachable), so that it falls back to TCP, which is.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use egress_flowlog::{Delays, NONE_U32, Record, WorkerCounter};
use egress_policy::{Accept, End, Evidence, Reason, Verdict};
use egress_sys::{Datagram, Unreachable};
use rustix::io::Errno;

use super::Worker;
use crate::flow::NameText;

/// Datagrams of one socket that are answered before the flows get their turn.
const BATCH: usize = 32;
/// Between two records of one source and destination: a client repeats itself.
const RECORD_EVERY_NS: u64 = 1_000_000_000;
/// Sources and destinations whose last record is remembered; two that fall together are recorded more often.
const RECENT: usize = 256;

/// One worker's share of the datagrams of a listener.
#[derive(Debug)]
pub(crate) struct Captured {
    /// Index of the listener.
    pub listener: u16,
    /// The port of the listener itself, where REDIRECT leads to.
    pub port: u16,
    pub fd: OwnedFd,
    /// More may wait than the last batch took.
    pub ready: bool,
}

/// What refuses datagrams.
#[derive(Debug)]
pub(super) struct Datagrams {
    pub sockets: Vec<Captured>,
    /// `None` without CAP_NET_RAW: clients then wait for their own timeouts.
    unreachable: Option<Unreachable>,
    recent: Vec<Recent>,
    hasher: std::hash::RandomState,
}

#[derive(Debug, Clone, Copy, Default)]
struct Recent {
    key: u64,
    recorded_ns: u64,
    /// Payload of those that have had no record yet.
    bytes: u64,
}

impl Datagrams {
    pub(super) fn new(sockets: Vec<Captured>) -> Self {
        let some = !sockets.is_empty();
        Self {
            unreachable: if some { Unreachable::open().ok() } else { None },
            recent: if some { vec![Recent::default(); RECENT] } else { Vec::new() },
            sockets,
            hasher: std::hash::RandomState::new(),
        }
    }

    /// The bytes to record now; `None` when a record was written a moment ago.
    fn due(&mut self, source: IpAddr, destination: IpAddr, bytes: u64, now_ns: u64) -> Option<u64> {
        let key = self.hasher.hash_one((source, destination));
        let recent = &mut self.recent[key as usize % RECENT];
        if recent.key == key && now_ns < recent.recorded_ns + RECORD_EVERY_NS {
            recent.bytes += bytes;
            return None;
        }
        let before = if recent.key == key { recent.bytes } else { 0 };
        *recent = Recent { key, recorded_ns: now_ns, bytes: 0 };
        Some(before + bytes)
    }
}

impl Worker {
    pub(super) fn refuse_datagrams(&mut self, index: usize) {
        for _ in 0..BATCH {
            let socket = &mut self.datagrams.sockets[index];
            match egress_sys::receive(socket.fd.as_fd(), &mut self.context.lender.scratch) {
                Ok(datagram) => self.refuse_datagram(index, &datagram),
                // Anything else is about one datagram only, such as an address family of which nothing is known.
                Err(Errno::AGAIN) => {
                    socket.ready = false;
                    return;
                }
                Err(_) => self.context.count(WorkerCounter::AcceptErrors),
            }
        }
    }

    fn refuse_datagram(&mut self, index: usize, datagram: &Datagram) {
        self.context.count(WorkerCounter::DatagramsRefused);
        if let Some(unreachable) = &self.datagrams.unreachable {
            // A full send queue loses this one; the client repeats itself.
            let _ = unreachable.tell(datagram);
        }
        let (source, to) = (datagram.source, datagram.destination);
        let now_ns = self.context.now_ns();
        let bytes = datagram.len as u64;
        let Some(bytes_up) = self.datagrams.due(source.ip(), to.ip(), bytes, now_ns) else {
            return;
        };
        let Captured { listener, port, .. } = self.datagrams.sockets[index];
        // After REDIRECT nobody knows where it was going.
        let known = to.port() != port;
        let name = NameText::address(to.ip());
        let policy = self.context.policy();
        let settings = policy.listener(listener);
        let flow_id = self.context.new_id();
        let recorder = &self.context.recorder;
        recorder.ring.borrow_mut().push(&Record {
            flow_id,
            generation: policy.generation,
            start_unix_ns: recorder.wall.unix_ns(now_ns),
            duration_ns: 0,
            bytes_up,
            bytes_down: 0,
            first_bytes_us: NONE_U32,
            resolve_us: NONE_U32,
            connect_us: NONE_U32,
            rule_line: 0,
            source,
            peer: None,
            upstream: None,
            port: if known { to.port() } else { 0 },
            verdict: Verdict::Deny,
            reason: Reason::NotCarried,
            end: End::Refused,
            accept: Accept::Transparent,
            listener,
            flags: 0,
            rule: NONE_U32,
            name: if known { name.bytes() } else { b"" },
            rule_name: b"",
            listener_name: settings.map_or(b"", |settings| settings.name.as_bytes()),
            other: b"udp",
            evidence: Evidence::Address,
            identity: b"",
            delays: Delays::default(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_repeats_itself_is_recorded_once_a_second_with_all_its_bytes() {
        let mut datagrams = Datagrams {
            sockets: Vec::new(),
            unreachable: None,
            recent: vec![Recent::default(); RECENT],
            hasher: std::hash::RandomState::new(),
        };
        let (source, to) = ("10.1.2.3".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let now = 5_000_000_000;
        assert_eq!(datagrams.due(source, to, 1200, now), Some(1200));
        assert_eq!(datagrams.due(source, to, 1200, now + 999_999_999), None);
        assert_eq!(datagrams.due(source, to, 100, now + 1_000_000_000), Some(1300));
        assert_eq!(datagrams.due(source, to, 100, now + 2_000_000_000), Some(100));
    }
}
