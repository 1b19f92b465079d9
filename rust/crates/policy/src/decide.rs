//! The matcher. One function serves enforcement, audit and explanation; it allocates nothing, and its
//! cost depends on the labels of the name and the nesting of networks, not on the number of rules.

use std::net::IpAddr;

use egress_hello::name::Name;

use crate::address::embedded_v4;
use crate::document::{Action, Fallback, Mode};
use crate::flat::*;
use crate::names::{MAX_LABELS, Suffixes};
use crate::nets::{ANY, Nets};
use crate::snapshot::{RuleId, Snapshot, SourceClass};
use crate::vocab::{Reason, Verdict};

/// What the client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination<'a> {
    Name(&'a Name),
    /// The client wrote an address instead of a name.
    Ip(IpAddr),
}

/// What the destination that matched says about addresses; see [`Snapshot::screen`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// An address set, or `NONE`.
    pub(crate) addresses: u32,
    /// A rule allows this very address or a network that is no wider than a place.
    pub(crate) named: bool,
}

impl Item {
    const NOTHING: Self = Self { addresses: NONE, named: false };
}

/// What becomes of a flow, and under which terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    pub reason: Reason,
    /// The rule that decided; `None` when the default did.
    pub rule: Option<RuleId>,
    /// The rule whose `dial`, `sni` and `connections` apply to a flow that goes on: `rule` itself for
    /// an allow, the allow rule beside it for a would-deny, `None` for the default's terms.
    pub terms: Option<RuleId>,
    /// Refusals that come later (limits, name agreement, addresses) are recorded, not enforced.
    pub audit: bool,
    pub item: Item,
}

impl Snapshot {
    /// Judges a flow. `now` is in unix seconds.
    ///
    /// A deny beats every allow. A deny under audit is set aside: the flow is judged without it, and
    /// if it would go on, it goes on as `would_deny`; so an audited rule never opens what is closed.
    /// Among allows the most specific destination wins, then the narrowest port range, then the
    /// most specific source (certificate, user, TLV, evidence, network), then (between rules of equal terms) the first by name.
    pub fn decide(
        &self,
        source: SourceClass,
        destination: Destination<'_>,
        port: u16,
        now: u64,
    ) -> Decision {
        // Nearly everybody: nothing is allocated, or dropped, for who has shown an address alone.
        if source.is_plain() {
            return self.judge(source, &[], destination, port, now);
        }
        self.decide_demanding(source, destination, port, now)
    }

    #[cold]
    fn decide_demanding(
        &self,
        source: SourceClass,
        destination: Destination<'_>,
        port: u16,
        now: u64,
    ) -> Decision {
        self.judge(source, &self.demanding(source), destination, port, now)
    }

    #[inline]
    fn judge(
        &self,
        source: SourceClass,
        demanding: &[u32],
        destination: Destination<'_>,
        port: u16,
        now: u64,
    ) -> Decision {
        let mut search = Search::new(self, source, demanding, port, now);
        match destination {
            Destination::Name(name) => search.name(self, name.as_bytes()),
            Destination::Ip(ip) => search.ip(ip.to_canonical()),
        }
        search.decision(&self.fallback)
    }

    /// Judges a flow that never named its destination (TLS without SNI).
    pub fn decide_no_name(&self, _source: SourceClass) -> Decision {
        let audit = self.fallback.mode == Mode::Audit;
        let (verdict, reason) = match (self.fallback.no_name, audit) {
            (Action::Allow, _) => (Verdict::Allow, Reason::DefaultAllow),
            (Action::Deny, true) => (Verdict::WouldDeny, Reason::NoName),
            (Action::Deny, false) => (Verdict::Deny, Reason::NoName),
        };
        Decision { verdict, reason, rule: None, terms: None, audit, item: Item::NOTHING }
    }
}

/// An allow that matched.
#[derive(Clone, Copy)]
struct Allow {
    rule: u32,
    item: Item,
    width: u16,
}

/// One walk over the destinations that match, most specific first.
pub(crate) struct Search<'a> {
    atoms: &'a [Atom],
    groups: &'a [Group],
    edges: &'a [Edge],
    rules: &'a [RuleRecord],
    sources: Nets<'a>,
    nets: Nets<'a>,
    /// Sources beyond networks that hold, most specific first; empty for who has shown an address alone.
    demanding: &'a [u32],
    source: u32,
    port: u16,
    now: u64,
    pub(crate) denied: Option<u32>,
    pub(crate) audited: Option<u32>,
    allow: Option<Allow>,
}

impl<'a> Search<'a> {
    pub(crate) fn new(
        snapshot: &'a Snapshot,
        source: SourceClass,
        demanding: &'a [u32],
        port: u16,
        now: u64,
    ) -> Self {
        Self {
            atoms: snapshot.section(Section::Atoms),
            groups: snapshot.section(Section::Groups),
            edges: snapshot.section(Section::Edges),
            rules: snapshot.rules(),
            sources: snapshot.sources(),
            nets: snapshot.nets(),
            demanding,
            source: source.net,
            port,
            now,
            denied: None,
            audited: None,
            allow: None,
        }
    }

    // Into both of its callers: a call costs the plain one 40 instructions.
    #[inline(always)]
    fn name(&mut self, snapshot: &'a Snapshot, name: &[u8]) {
        let mut found = [0_u32; MAX_LABELS];
        let (mut count, mut whole) = (0, false);
        let names = snapshot.names();
        for (hash, start) in Suffixes::new(name, snapshot.seed).take(MAX_LABELS) {
            if let Some(class) = names.find(hash, &name[start..]) {
                found[count] = class;
                count += 1;
                whole = start == 0;
            }
        }
        let classes = snapshot.section::<Class>(Section::Classes);
        let members = snapshot.section::<zerocopy::little_endian::U32>(Section::ClassAtoms);
        for (index, class) in found[..count].iter().enumerate().rev() {
            let Some(class) = classes.get(*class as usize) else { continue };
            let first = class.first.get() as usize;
            let members = members.get(first..first.saturating_add(class.count.get() as usize));
            let other = if whole && index + 1 == count { form::BELOW } else { form::EXACT };
            for member in members.unwrap_or_default() {
                self.atom(member.get(), Some(other), Item::NOTHING);
            }
        }
        self.anywhere();
    }

    fn ip(&mut self, ip: IpAddr) {
        for node in self.nets.chain(self.nets.narrowest(ip)).take_while(|node| *node != ANY) {
            let Some(record) = self.nets.nodes.get(node as usize) else { return };
            let named = names_a_place(record.family, record.prefix, ip);
            self.atom(record.atom.get(), None, Item { addresses: NONE, named });
        }
        self.anywhere();
    }

    /// Only the deny rules that name networks which hold `ip`.
    pub(crate) fn denies_of(&mut self, ip: IpAddr) {
        // An allow that is already found keeps `atom` from looking for another.
        self.allow = Some(Allow { rule: NONE, item: Item::NOTHING, width: 0 });
        for node in self.nets.chain(self.nets.narrowest(ip)).take_while(|node| *node != ANY) {
            let Some(record) = self.nets.nodes.get(node as usize) else { return };
            self.atom(record.atom.get(), None, Item::NOTHING);
        }
    }

    /// The atom of "any address" is that of `*`, which stands for every name, too.
    fn anywhere(&mut self) {
        if let Some(root) = self.nets.nodes.first() {
            self.atom(root.atom.get(), None, Item::NOTHING);
        }
    }

    /// `not`: the form that does not apply to the name at hand.
    #[inline]
    fn atom(&mut self, atom: u32, not: Option<u8>, item: Item) {
        if self.denied.is_some() {
            return;
        }
        let Some(atom) = self.atoms.get(atom as usize) else { return };
        if not == Some(atom.form) {
            return;
        }
        let first = atom.first_group.get() as usize;
        let groups = self
            .groups
            .get(first..first.saturating_add(atom.groups.get() as usize))
            .unwrap_or_default();
        let settled = self.allow.is_some();
        if !self.demanding.is_empty() && self.demanded(groups, settled, item) {
            return;
        }
        for source in self.sources.chain(self.source) {
            if self.group(groups, source, settled, item) {
                return;
            }
        }
    }

    /// Out of the way of callers who have shown an address alone.
    #[cold]
    fn demanded(&mut self, groups: &[Group], settled: bool, item: Item) -> bool {
        self.demanding.iter().any(|source| self.group(groups, *source, settled, item))
    }

    /// The rules for one destination and one source; `true` when one of them denies for good.
    #[inline(always)]
    fn group(&mut self, groups: &[Group], source: u32, settled: bool, item: Item) -> bool {
        let Some(group) = find_group(groups, source) else { return false };
        let first = group.first.get() as usize;
        let middle = first.saturating_add(group.denies.get() as usize);
        let end = middle.saturating_add(group.allows.get() as usize);
        for edge in matching(self.edges.get(first..middle).unwrap_or_default(), self.port) {
            let Some(rule) = self.in_force(edge) else { continue };
            if rule.flags.get() & rule_flag::AUDIT == 0 {
                self.denied = Some(edge.rule.get());
                return true;
            }
            self.audited.get_or_insert(edge.rule.get());
        }
        if settled {
            return false;
        }
        let mut allows = matching(self.edges.get(middle..end).unwrap_or_default(), self.port);
        if let Some(edge) = allows.find(|edge| self.in_force(edge).is_some()) {
            let width = width(edge);
            // Sources come most specific first, so an equal width leaves the earlier one standing.
            if self.allow.is_none_or(|best| width < best.width) {
                let item = Item { addresses: edge.addresses.get(), ..item };
                self.allow = Some(Allow { rule: edge.rule.get(), item, width });
            }
        }
        false
    }

    #[inline]
    fn in_force(&self, edge: &Edge) -> Option<&'a RuleRecord> {
        self.rules.get(edge.rule.get() as usize).filter(|rule| self.now < rule.until.get())
    }

    fn decision(&self, fallback: &Fallback) -> Decision {
        let refused = |rule| Decision {
            verdict: Verdict::Deny,
            reason: Reason::RuleDeny,
            rule: Some(RuleId(rule)),
            terms: None,
            audit: false,
            item: Item::NOTHING,
        };
        if let Some(rule) = self.denied {
            return refused(rule);
        }
        let unaudited = match self.allow {
            Some(allow) => {
                let flags = self.rules.get(allow.rule as usize).map_or(0, |rule| rule.flags.get());
                let rule = Some(RuleId(allow.rule));
                Decision {
                    verdict: Verdict::Allow,
                    reason: Reason::Rule,
                    rule,
                    terms: rule,
                    audit: flags & rule_flag::AUDIT != 0,
                    item: allow.item,
                }
            }
            None => {
                let audit = fallback.mode == Mode::Audit;
                let (verdict, reason) = match (fallback.action, audit) {
                    (Action::Allow, _) => (Verdict::Allow, Reason::DefaultAllow),
                    (Action::Deny, true) => (Verdict::WouldDeny, Reason::DefaultDeny),
                    (Action::Deny, false) => (Verdict::Deny, Reason::DefaultDeny),
                };
                Decision { verdict, reason, rule: None, terms: None, audit, item: Item::NOTHING }
            }
        };
        match self.audited {
            Some(rule) if unaudited.verdict != Verdict::Deny => Decision {
                verdict: Verdict::WouldDeny,
                reason: Reason::RuleDeny,
                rule: Some(RuleId(rule)),
                ..unaudited
            },
            _ => unaudited,
        }
    }
}

/// Narrower than a continent: a rule for `0.0.0.0/0` says "anywhere" and does not thereby open private
/// addresses. 10/8 and 127/8, the widest special IPv4 networks that anyone names, are places; so is
/// fc00::/7. Inside NAT64 and its like, the prefix must cover as much of the IPv4 address.
pub(crate) fn names_a_place(family: u8, prefix: u8, ip: IpAddr) -> bool {
    match (family, ip) {
        (4, _) => prefix >= PLACE_V4,
        (_, IpAddr::V6(v6)) => {
            prefix >= PLACE_V6
                && embedded_v4(v6).all(|(_, at)| prefix >= at.map_or(128, |at| at + PLACE_V4))
        }
        _ => false,
    }
}

/// Bits of prefix from which on a network is a place.
pub(crate) const PLACE_V4: u8 = 8;
pub(crate) const PLACE_V6: u8 = 7;

/// Spans shorter than this are searched one by one: most destinations are named for one or two sources.
const LINEAR: usize = 8;

#[inline]
fn find_group(groups: &[Group], source: u32) -> Option<&Group> {
    if groups.len() <= LINEAR {
        return groups.iter().find(|group| group.source.get() == source);
    }
    groups
        .binary_search_by_key(&source, |group| group.source.get())
        .ok()
        .and_then(|at| groups.get(at))
}

/// Ports beyond the first that an edge covers.
#[inline]
pub(crate) fn width(edge: &Edge) -> u16 {
    edge.high.get().saturating_sub(edge.low.get())
}

/// The edges that hold `port`, narrowest first.
#[inline]
fn matching(edges: &[Edge], port: u16) -> impl Iterator<Item = &Edge> {
    let mut exact: &[Edge] = &[];
    let mut rest = edges;
    if edges.len() > LINEAR {
        let ranges = edges.partition_point(|edge| width(edge) == 0);
        let (points, wider) = edges.split_at(ranges);
        let first = points.partition_point(|edge| edge.low.get() < port);
        exact = points.get(first..).unwrap_or_default();
        rest = wider;
    }
    let holds = move |edge: &&Edge| edge.low.get() <= port && port <= edge.high.get();
    exact.iter().take_while(holds).chain(rest.iter().filter(holds))
}
