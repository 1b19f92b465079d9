//! The second half of a decision: may this address be dialled? Asked of every address before a
//! connection is made to it, and of no other.

use std::net::IpAddr;

use crate::address::{AddressClass, classify, embedded_v4};
use crate::decide::{Decision, Search, names_a_place};
use crate::document::Action;
use crate::flat::*;
use crate::snapshot::{RuleId, Snapshot, SourceClass};
use crate::vocab::Reason;

/// Where the address comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The client named it.
    Client,
    /// It is an answer to a query for the name (or for the name in the rule's `dial`).
    Resolved,
    /// The operator wrote it down: `resolver.hosts`, or an address in the rule's `dial`.
    Operator,
}

/// An address that is not to be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screened {
    pub reason: Reason,
    pub class: AddressClass,
    /// The deny rule that names the address.
    pub rule: Option<RuleId>,
    /// To be recorded only: what refuses is under audit.
    pub audit: bool,
}

impl Snapshot {
    /// Judges one address of a flow that `decision` lets through. `port` is the one to be dialled.
    ///
    /// Deny rules that name networks apply whatever else is said. An address that the operator wrote
    /// down is otherwise taken. Then, if the destination that matched has `addresses`, they decide: they
    /// hold the address itself, or every IPv4 address that it may carry.
    /// Else public addresses pass, and others only where the client named the address and the rule
    /// that allows it names that address or its network, or (private ones) where the default allows
    /// them. An IPv4 address inside an IPv6 one is judged as that IPv4 address.
    ///
    /// # Errors
    /// The refusal, when the address is not to be dialled, or (`audit`) would not be.
    pub fn screen(
        &self,
        source: SourceClass,
        decision: &Decision,
        origin: Origin,
        ip: IpAddr,
        port: u16,
        now: u64,
    ) -> Result<(), Screened> {
        let ip = ip.to_canonical();
        let class = classify(ip);
        let demanding = self.demanding(source);
        let mut denies = Search::new(self, source, &demanding, port, now);
        denies.denies_of(ip);
        let inner = match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(embedded_v4(v6).map(|(v4, _)| IpAddr::V4(v4))),
        };
        let mut inner = inner.into_iter().flatten();
        for v4 in inner.clone() {
            denies.denies_of(v4);
        }
        let denied = |rule, audit| Screened {
            reason: Reason::RuleDeny,
            class,
            rule: Some(RuleId(rule)),
            audit,
        };
        if let Some(rule) = denies.denied {
            return Err(denied(rule, false));
        }
        let permitted = match (origin, decision.item.addresses) {
            (Origin::Operator, _) => true,
            (_, NONE) => {
                class == AddressClass::Public
                    || (origin == Origin::Client && decision.item.named)
                    || (class == AddressClass::Private
                        && self.fallback.private_addresses == Action::Allow)
            }
            (_, set) => match self.range_of(set, ip) {
                Some(range) => class == AddressClass::Public || range_names(range, ip),
                None => {
                    inner.clone().count() > 0 && inner.all(|v4| self.range_of(set, v4).is_some())
                }
            },
        };
        let reason = if class == AddressClass::Private {
            Reason::PrivateAddress
        } else {
            Reason::ForbiddenAddress
        };
        match (permitted, denies.audited) {
            (true, None) => Ok(()),
            (true, Some(rule)) => Err(denied(rule, true)),
            (false, _) => Err(Screened { reason, class, rule: None, audit: decision.audit }),
        }
    }

    /// The range of an address set that holds `ip`.
    fn range_of(&self, set: u32, ip: IpAddr) -> Option<&AddressRange> {
        let set = self.section::<AddressSet>(Section::AddressSets).get(set as usize)?;
        let first = set.first.get() as usize;
        let ranges = self.section::<AddressRange>(Section::AddressRanges);
        let ranges =
            ranges.get(first..first.saturating_add(set.count.get() as usize)).unwrap_or_default();
        let family = if ip.is_ipv4() { 4 } else { 6 };
        let key = crate::nets::key(ip).to_be_bytes();
        let after = ranges.partition_point(|range| (range.family, range.first) <= (family, key));
        let range = ranges.get(after.checked_sub(1)?)?;
        (range.family == family && key <= range.last).then_some(range)
    }
}

/// As [`names_a_place`]: a NAT64 prefix holds all of IPv4, and opens no private network in it.
fn range_names(range: &AddressRange, ip: IpAddr) -> bool {
    let [first, last] = [range.first, range.last].map(u128::from_be_bytes);
    // Loads have refused IPv4 networks that are no places; neighbours that were joined stay places.
    ip.is_ipv4() || names_a_place(6, (first ^ last).leading_zeros() as u8, ip)
}
