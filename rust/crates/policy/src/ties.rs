//! Two allow rules that are equally specific and say different things: nobody could tell which counts,
//! so it is an error that names both.

use std::collections::HashSet;

use crate::document::{Document, Rule};
use crate::pattern::Ports;
use crate::problem::{Problems, place};
use crate::rules::{RawEdge, audited};
use crate::settings::shown;

/// Port ranges (not single ports) for one destination and one source: they are compared pair by pair.
const MAX_RANGES: usize = 1_024;
/// Ties that are reported; one mistake in a generated policy would otherwise fill the screen.
const MAX_TIES: usize = 1_000;

pub(crate) struct Ties<'a> {
    document: &'a Document,
    told: HashSet<(u32, u32)>,
}

impl<'a> Ties<'a> {
    pub(crate) fn new(document: &'a Document) -> Self {
        Self { document, told: HashSet::new() }
    }

    /// Looks at the allows of one destination and one source, sorted as they will lie in the snapshot,
    /// and drops those that a rule of equal terms makes superfluous.
    pub(crate) fn settle(
        &mut self,
        allows: &mut Vec<RawEdge>,
        place: impl Fn() -> String,
        problems: &mut Problems,
    ) {
        let points = allows.partition_point(|edge| edge.low == edge.high);
        for pair in allows[..points].windows(2) {
            if pair[0].low == pair[1].low {
                self.compare(&pair[0], &pair[1], &place, problems);
            }
        }
        self.prune(allows);
        let ranges = &allows[allows.partition_point(|edge| edge.low == edge.high)..];
        if ranges.len() > MAX_RANGES {
            problems.add(
                place!["rules", ranges[0].rule as usize, "to", ranges[0].item as usize],
                "too_many",
                format!(
                    "{} has {} port ranges; at most {MAX_RANGES} are possible",
                    place(),
                    ranges.len()
                ),
                "use wider ranges",
            );
            return;
        }
        for (index, a) in ranges.iter().enumerate() {
            for b in &ranges[index + 1..] {
                let nested = |a: &RawEdge, b: &RawEdge| a.low <= b.low && b.high <= a.high;
                let same = a.low == b.low && a.high == b.high;
                let overlap = a.low <= b.high && b.low <= a.high;
                if same || (overlap && !nested(a, b) && !nested(b, a)) {
                    self.compare(a, b, &place, problems);
                }
            }
        }
    }

    /// Of neighbours with the same ports and terms, the first by name stays, and those that outlive it.
    fn prune(&self, allows: &mut Vec<RawEdge>) {
        let until =
            |edge: &RawEdge| self.document.rules[edge.rule as usize].until.unwrap_or(u64::MAX);
        allows.dedup_by(|later, kept| {
            later.low == kept.low
                && later.high == kept.high
                && until(later) <= until(kept)
                && self.difference(kept, later).is_empty()
        });
    }

    fn compare(
        &mut self,
        a: &RawEdge,
        b: &RawEdge,
        place: &impl Fn() -> String,
        problems: &mut Problems,
    ) {
        let differing = self.difference(a, b);
        let (first, second) = if (a.rule, a.item) <= (b.rule, b.item) { (a, b) } else { (b, a) };
        if differing.is_empty()
            || self.told.len() >= MAX_TIES
            || !self.told.insert((first.rule, second.rule))
        {
            return;
        }
        let ports = |edge: &RawEdge| Ports { low: edge.low, high: edge.high };
        let (one, two) = (self.rule(first), self.rule(second));
        let at =
            |rule: &Rule| format!("`{}` ({}:{})", shown(&rule.name), shown(&rule.file), rule.line);
        let both = if ports(a) == ports(b) {
            format!("{}", ports(a))
        } else {
            format!("the overlapping ports {} and {}", ports(first), ports(second))
        };
        let message = if first.rule == second.rule {
            format!(
                "rule {} names {} on {both} twice, with different {}",
                at(one),
                place(),
                differing.join(", ")
            )
        } else {
            format!(
                "rules {} and {} both allow {} on {both}, with different {}",
                at(one),
                at(two),
                place(),
                differing.join(", ")
            )
        };
        problems.add(place!["rules", second.rule as usize, "to", second.item as usize], "tie", message, "give both the same terms, or make one of them more specific (destination, port or source)");
    }

    fn rule(&self, edge: &RawEdge) -> &'a Rule {
        &self.document.rules[edge.rule as usize]
    }

    /// The terms in which two edges differ.
    fn difference(&self, a: &RawEdge, b: &RawEdge) -> Vec<&'static str> {
        let (x, y) = (self.rule(a), self.rule(b));
        [
            ("mode", audited(x, self.document) != audited(y, self.document)),
            ("message", x.message != y.message),
            ("on_deny", x.on_deny != y.on_deny),
            ("connections", x.connections != y.connections),
            ("bandwidth", x.bandwidth != y.bandwidth),
            ("budget", x.budget != y.budget),
            ("dial", x.dial != y.dial),
            ("sni", x.sni != y.sni),
            ("send_proxy", x.send_proxy != y.send_proxy),
            ("addresses", a.addresses != b.addresses),
        ]
        .into_iter()
        .filter_map(|(term, differs)| differs.then_some(term))
        .collect()
    }
}
