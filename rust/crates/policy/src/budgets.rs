//! How many bytes a rule may move in a period: all its connections together, and each source by itself.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::document::{self, Document, Rule};
use crate::period::{Period, Zone};
use crate::problem::{PathPart, Problems, place};
use crate::shaping::{ShareBy, rate};

/// Rules of one policy that have a budget: each has its own rows in the metrics.
const MAX_BUDGETS: usize = 4096;
/// More than anybody moves in a month, and far from where counters would wrap.
const MAX_BYTES: u64 = 1 << 60;

/// So many bytes in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Allowance {
    pub bytes: u64,
    pub per: Period,
}

/// By direction: up, then down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Allowances {
    pub up: Option<Allowance>,
    pub down: Option<Allowance>,
}

/// What happens when a budget is spent, until its period is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Then {
    /// New connections are refused, and open ones end.
    Deny,
    /// It is only said.
    Alert,
    /// No more than so many bits per second, in the direction that is spent.
    Slow(u64),
}

/// The budget of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Of all its connections together.
    pub all: Allowances,
    /// Of those of each source.
    pub each: Allowances,
    pub then: Then,
}

/// As snapshots keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct OfRule {
    pub rule: u32,
    pub budget: Budget,
}

/// Where what is used is kept, and by which clock periods end.
#[derive(Debug, Clone)]
pub struct Keeping {
    /// Absolute path of a file.
    pub store: String,
    pub zone: Zone,
}

impl Allowances {
    pub fn is_none(&self) -> bool {
        self.up.is_none() && self.down.is_none()
    }

    /// Up, then down.
    pub fn by_direction(&self) -> [Option<Allowance>; 2] {
        [self.up, self.down]
    }

    fn holds(&self) -> bool {
        let good = |one: &Allowance| (1..=MAX_BYTES).contains(&one.bytes);
        self.by_direction().iter().flatten().all(good)
    }

    fn check(&self, place: &dyn Fn(&str) -> Vec<PathPart>, problems: &mut Problems) {
        for (key, given) in [("up", self.up), ("down", self.down)] {
            if given.is_some_and(|one| !(1..=MAX_BYTES).contains(&one.bytes)) {
                let message = format!("`{key}` must be between 1 and {MAX_BYTES} bytes");
                let fix = "to allow nothing, write `deny: true` in place of `budget`";
                problems.add(place(key), "bad_budget", message, fix);
            }
        }
    }
}

impl Budget {
    /// The rate of each source whose own budget is spent.
    pub fn slows_each(&self) -> bool {
        !self.each.is_none() && self.slow().is_some()
    }

    /// Bits per second that it leaves; it needs a class of bandwidth for that.
    pub(crate) fn slow(&self) -> Option<u64> {
        if let Then::Slow(bits) = self.then { Some(bits) } else { None }
    }

    fn check(&self, rule: &Rule, index: usize, problems: &mut Problems) {
        self.all.check(&|key| place!["rules", index, "budget", key], problems);
        self.each.check(&|key| place!["rules", index, "budget", "per_source", key], problems);
        if self.all.is_none() && self.each.is_none() {
            problems.add(
                place!["rules", index, "budget"],
                "budget_of_nothing",
                "no bytes are bounded, so the budget is never spent",
                "add `up: 5 GB/day`, `down: …` or `per_source: { … }`, or remove `budget`",
            );
        }
        if self.then == Then::Deny {
            self.check_each_beside_all(index, problems);
        }
        let Some(bits) = self.slow() else { return };
        let bandwidth = rule.bandwidth.as_ref();
        if let Some(max) = bandwidth.and_then(|given| given.max).filter(|max| *max <= bits) {
            problems.add(
                place!["rules", index, "budget", "then"],
                "slows_nothing",
                format!("{} is not below the `max` of {}", rate(bits), rate(max)),
                "slow to less than `bandwidth.max`",
            );
        }
        if self.slows_each()
            && bandwidth.and_then(|given| given.share_by).is_some_and(|by| by != ShareBy::Source)
        {
            problems.add(
                place!["rules", index, "bandwidth", "share_by"],
                "slows_no_source",
                "the budget slows each source, and this gives no source a share of its own",
                "write `share_by: source`, or leave it out",
            );
        }
    }

    /// Where the rule's own is spent first, and ends all, a source never comes to its own.
    fn check_each_beside_all(&self, index: usize, problems: &mut Problems) {
        let both = self.each.by_direction().into_iter().zip(self.all.by_direction());
        for (key, (each, all)) in ["up", "down"].into_iter().zip(both) {
            let (Some(each), Some(all)) = (each, all) else { continue };
            if each.per == all.per && each.bytes > all.bytes {
                problems.add(
                    place!["rules", index, "budget", "per_source", key],
                    "never_reached",
                    "no source ever moves so much: all of the rule together have less",
                    format!("write less than `{key}` of the rule, or leave it out"),
                );
            }
        }
    }
}

impl OfRule {
    pub(crate) fn of(document: &Document) -> Vec<Self> {
        let rules = (0..).zip(&document.rules);
        rules.filter_map(|(rule, given)| Some(Self { rule, budget: given.budget? })).collect()
    }

    /// What no compiler has written would be taken for something else.
    pub(crate) fn holds(&self, rules: usize) -> bool {
        (self.rule as usize) < rules && self.budget.all.holds() && self.budget.each.holds()
    }
}

pub(crate) fn check(document: &Document, problems: &mut Problems) {
    let mut found = 0;
    for (index, rule) in document.rules.iter().enumerate() {
        let Some(budget) = rule.budget.filter(|_| !rule.deny) else { continue };
        budget.check(rule, index, problems);
        found += 1;
    }
    if found > MAX_BUDGETS {
        let message = format!("{found} rules have `budget`; at most {MAX_BUDGETS} may");
        problems.add(place!["rules"], "too_many", message, "join rules that share a budget");
    }
    if found > 0 && document.settings.budgets.is_none() {
        let message = "the document does not say where budgets are kept";
        problems.add(place!["settings"], "no_store", message, "write `budgets: { store: … }`");
    }
}

impl Keeping {
    pub(crate) fn check(raw: &document::Budgets, problems: &mut Problems) -> Option<Self> {
        let at = |key: &str| place!["settings", "budgets", key];
        if !raw.store.starts_with('/') {
            let message = "the store of budgets is a file with an absolute path";
            problems.add(at("store"), "bad_store", message, "write /var/lib/egress/budgets.redb");
        }
        match Zone::named(&raw.time_zone) {
            Ok(zone) => Some(Self { store: raw.store.clone(), zone }),
            Err(fix) => {
                let message =
                    format!("there is no time zone `{}`", crate::settings::shown(&raw.time_zone));
                problems.add(at("time_zone"), "bad_time_zone", message, fix);
                None
            }
        }
    }
}

/// By rule.
pub(crate) fn by_rule(stored: Vec<OfRule>) -> HashMap<u32, Budget> {
    stored.into_iter().map(|one| (one.rule, one.budget)).collect()
}
