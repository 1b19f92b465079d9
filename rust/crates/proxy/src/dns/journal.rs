//! Records of questions that were refused, or under audit would have been: as flows leave them, in a ring of their own.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use egress_flowlog::{Delays, NONE_U32, Record, Ring, flags};
use egress_policy::{Accept, End, Evidence, Reason, RuleId, Verdict};

use super::question::Client;
use crate::installed::Installed;

/// What was found about a question.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finding<'a> {
    pub verdict: Verdict,
    pub reason: Reason,
    pub rule: Option<RuleId>,
    /// Empty where what was asked for is no name.
    pub name: &'a str,
    /// The address that may not be told.
    pub address: Option<IpAddr>,
    /// The type asked for, the class of the address, or a parser's word.
    pub detail: &'a str,
    /// Of `egress_flowlog::flags`.
    pub flags: u32,
    /// How long the resolver took.
    pub resolved: Option<Duration>,
}

pub(super) struct Journal {
    ring: RefCell<Ring>,
    next_id: Cell<u64>,
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(NONE_U32 - 1).min(NONE_U32 - 1)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Journal {
    pub(super) fn new(ring: Ring, id_prefix: u64) -> Self {
        Self { ring: RefCell::new(ring), next_id: Cell::new(id_prefix << 40) }
    }

    /// Records a question; gives the record's id.
    pub(super) fn write(&self, policy: &Installed, client: &Client, finding: &Finding<'_>) -> u64 {
        let flow_id = self.next_id.get();
        self.next_id.set(flow_id + 1);
        let rule = finding.rule.map_or(NONE_U32, |rule| rule.0);
        let named = finding.rule.and_then(|rule| policy.snapshot.name_and_line(rule));
        let (rule_name, rule_line) = named.unwrap_or_default();
        let listener = policy.listener(client.listener);
        let would = finding.verdict == Verdict::WouldDeny;
        let took = Instant::now().saturating_duration_since(client.came);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = Record {
            flow_id,
            generation: policy.generation,
            start_unix_ns: nanos(now.saturating_sub(took)),
            duration_ns: nanos(took),
            bytes_up: 0,
            bytes_down: 0,
            first_bytes_us: NONE_U32,
            resolve_us: finding.resolved.map_or(NONE_U32, micros),
            connect_us: NONE_U32,
            rule_line,
            source: client.source,
            peer: None,
            upstream: finding.address.map(|ip| SocketAddr::new(ip, 0)),
            port: 0,
            verdict: finding.verdict,
            reason: finding.reason,
            end: if would { End::Closed } else { End::Refused },
            accept: Accept::Dns,
            listener: client.listener,
            flags: finding.flags | if would { flags::AUDIT } else { 0 },
            rule,
            name: finding.name.as_bytes(),
            rule_name,
            listener_name: listener.map_or(b"", |listener| listener.name.as_bytes()),
            other: finding.detail.as_bytes(),
            evidence: Evidence::Address,
            identity: b"",
            delays: Delays::default(),
        };
        self.ring.borrow_mut().push(&record);
        flow_id
    }
}
