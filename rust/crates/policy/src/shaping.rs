//! Links and the classes of traffic that share them: one class for each rule with `bandwidth`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::budgets::Budget;
use crate::document::Document;
use crate::problem::{PathPart, Problems, nearest, place};
use crate::rules;
use crate::snapshot::RuleId;

/// Links of one policy, and classes over all of them: their rates are shared out a hundred times a second.
const MAX_LINKS: usize = 64;
const MAX_CLASSES: usize = 4096;
/// Classes that gateways share: ten times a second each tells the others what it wants of them.
pub const MAX_SHARED: usize = 1024;

/// What a rule's connections have together, as the document says it. Rates are in bits per second.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bandwidth {
    pub max: Option<u64>,
    pub guarantee: Option<u64>,
    pub link: Option<String>,
    #[serde(default)]
    pub priority: Priority,
    #[serde(default = "one")]
    pub weight: u32,
    pub share_by: Option<ShareBy>,
    #[serde(default)]
    pub scope: Scope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LinkBandwidth {
    pub bandwidth: u64,
    #[serde(default)]
    pub scope: Scope,
}

/// Where a bound holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Of each gateway by itself.
    #[default]
    Gateway,
    /// Of all gateways of a cluster together.
    Cluster,
}

const fn one() -> u32 {
    1
}

/// Who is lent to first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
}

/// Who has an equal part of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareBy {
    /// Each caller; its connections share that.
    Source,
    /// Each namespace, and each caller of whom none is known.
    Namespace,
    /// Each connection.
    #[default]
    #[serde(alias = "none")]
    Connection,
}

impl ShareBy {
    /// Connections of one caller have a part together.
    pub fn joins(self) -> bool {
        self != Self::Connection
    }
}

/// A pipe that classes share, the same in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Link {
    pub name: String,
    /// Bits per second.
    pub bandwidth: u64,
    #[serde(default)]
    pub scope: Scope,
}

/// The connections of one rule. Rates are in bits per second.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Class {
    /// Its rule.
    pub rule: u32,
    /// A place in [`Shaping::links`]; `None`: it shares none.
    pub link: Option<usize>,
    /// `None`: only its link bounds it.
    pub max: Option<u64>,
    pub guarantee: u64,
    pub priority: Priority,
    pub weight: u32,
    pub share_by: ShareBy,
    /// Of its `max`. What its link has is as the link says.
    #[serde(default)]
    pub scope: Scope,
}

/// All links and classes of a policy. A class without a link has a `max`, or is there for a budget that slows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
pub struct Shaping {
    pub links: Vec<Link>,
    pub classes: Vec<Class>,
}

impl Class {
    fn unbounded(index: usize) -> Self {
        Self {
            rule: u32::try_from(index).unwrap_or(u32::MAX),
            link: None,
            max: None,
            guarantee: 0,
            priority: Priority::default(),
            weight: one(),
            share_by: ShareBy::default(),
            scope: Scope::Gateway,
        }
    }

    pub fn rule(&self) -> RuleId {
        RuleId(self.rule)
    }
}

impl Shaping {
    pub(crate) fn check(document: &Document, problems: &mut Problems) -> Self {
        let mut shaping = Self::default();
        for (name, link) in &document.links {
            rules::check_reference_name(name, place!["links", name.as_str()], problems);
            let (bandwidth, scope) = (link.bandwidth, link.scope);
            shaping.links.push(Link { name: name.clone(), bandwidth, scope });
            if scope == Scope::Cluster && document.settings.cluster.is_none() {
                no_cluster(place!["links", name.as_str(), "scope"], problems);
            }
        }
        if shaping.links.len() > MAX_LINKS {
            let message =
                format!("{} links; at most {MAX_LINKS} are possible", shaping.links.len());
            problems.add(place!["links"], "too_many", message, "join some of them");
        }
        for (index, rule) in document.rules.iter().enumerate() {
            if let Some(bandwidth) = &rule.bandwidth
                && bandwidth.scope == Scope::Cluster
            {
                let at = place!["rules", index, "bandwidth", "scope"];
                if bandwidth.max.is_none() {
                    let message = "this is the scope of `max`, and there is none";
                    let fix = "write `max`, or give the link its `scope`";
                    problems.add(at, "unused_scope", message, fix);
                } else if document.settings.cluster.is_none() {
                    no_cluster(at, problems);
                }
            }
            let budget = rule.budget.as_ref().filter(|budget| budget.slow().is_some());
            let class = match &rule.bandwidth {
                _ if rule.deny => None,
                Some(bandwidth) => shaping.class(index, bandwidth, problems),
                // Its connections are counted against no link, and have no bound before the budget is spent.
                None => budget.map(|_| Class::unbounded(index)),
            };
            if let Some(class) = &class {
                shaping.check_slow(class, budget.and_then(Budget::slow), index, problems);
            }
            shaping.classes.extend(class.map(|class| match budget {
                Some(budget) if budget.slows_each() => Class { share_by: ShareBy::Source, ..class },
                _ => class,
            }));
        }
        if shaping.classes.len() > MAX_CLASSES {
            let found = shaping.classes.len();
            let message = format!("{found} rules have `bandwidth`; at most {MAX_CLASSES} may");
            problems.add(place!["rules"], "too_many", message, "join rules that share a bound");
        }
        let shared = shaping.classes.iter().filter(|class| shaping.is_shared(class)).count();
        if shared > MAX_SHARED {
            let message = format!("{shared} rules share over gateways; at most {MAX_SHARED} may");
            problems.add(place!["rules"], "too_many", message, "join rules that share a bound");
        }
        shaping.check_guarantees(document, problems);
        shaping
    }

    fn class(&self, index: usize, given: &Bandwidth, problems: &mut Problems) -> Option<Class> {
        let at = |key: &str| place!["rules", index, "bandwidth", key];
        let link = match (&given.link, self.links.as_slice()) {
            (Some(name), links) => {
                let Some(place) = links.iter().position(|link| link.name == *name) else {
                    let names = links.iter().map(|link| link.name.as_str());
                    let fix = nearest(name, names).map_or_else(
                        || format!("add it: `links: {{ {name}: {{ bandwidth: 1 Gbit/s }} }}`"),
                        |near| format!("did you mean `{near}`?"),
                    );
                    let message = format!("there is no link `{name}`");
                    problems.add(at("link"), "unknown_link", message, fix);
                    return None;
                };
                Some(place)
            }
            (None, [_]) => Some(0),
            (None, _) => None,
        };
        let guarantee = given.guarantee.unwrap_or(0);
        if link.is_none() && (guarantee > 0 || given.max.is_none()) {
            let (message, fix) = if self.links.is_empty() {
                let message = match given.guarantee {
                    Some(_) => "a guarantee is a part of a link, and there is none",
                    None => "without a `max` or a link this bounds nothing",
                };
                (message, "add `links: { internet: { bandwidth: 1 Gbit/s } }`, or write `max`")
            } else {
                ("there is more than one link", "say which: `link: …`")
            };
            problems.add(place!["rules", index, "bandwidth"], "no_link", message, fix);
            return None;
        }
        let shares = [
            ("priority", given.priority != Priority::default()),
            ("weight", given.weight != one()),
        ];
        for (key, is_set) in shares {
            if link.is_none() && is_set {
                let message =
                    format!("`{key}` is beside others of a link, and this class has none");
                let fix = format!("say which link: `link: …`, or remove `{key}`");
                problems.add(at(key), "unused_share", message, fix);
            }
        }
        let capacity = link.map(|link| &self.links[link]);
        let bounds = [("max", given.max), ("link", capacity.map(|link| link.bandwidth))];
        for (what, bound) in bounds {
            if bound.is_some_and(|bound| guarantee > bound) {
                let message = format!(
                    "a guarantee of {} is more than the {what} of {}",
                    rate(guarantee),
                    rate(bound.unwrap_or(0))
                );
                problems.add(at("guarantee"), "guarantee_too_high", message, "guarantee less");
                return None;
            }
        }
        Some(Class {
            rule: u32::try_from(index).unwrap_or(u32::MAX),
            link,
            max: given.max,
            guarantee,
            priority: given.priority,
            weight: given.weight.max(1),
            share_by: given.share_by.unwrap_or_default(),
            scope: given.scope,
        })
    }

    /// What a spent budget leaves is less than the class has anyway. Its `max` is looked at with the budget.
    fn check_slow(&self, class: &Class, slow: Option<u64>, index: usize, problems: &mut Problems) {
        let link = class.link.and_then(|link| self.links.get(link));
        if let (Some(slow), Some(link)) = (slow, link)
            && slow >= link.bandwidth
            && class.max.is_none_or(|max| max > slow)
        {
            let (slow, has) = (rate(slow), rate(link.bandwidth));
            problems.add(
                place!["rules", index, "budget", "then"],
                "slows_nothing",
                format!("{slow} is not below the {has} of link {}", link.name),
                "slow to less than the link's `bandwidth`",
            );
        }
    }

    /// Whether a class, or its link, has a bound over all gateways.
    pub fn is_shared(&self, class: &Class) -> bool {
        let of_link = class.link.and_then(|link| self.links.get(link)).map(|link| link.scope);
        class.scope == Scope::Cluster || of_link == Some(Scope::Cluster)
    }

    /// Whether there is anything that gateways share.
    pub fn has_shared(&self) -> bool {
        self.classes.iter().any(|class| self.is_shared(class))
    }

    /// What is promised has to be there.
    fn check_guarantees(&self, document: &Document, problems: &mut Problems) {
        let mut promised: BTreeMap<usize, Vec<&Class>> = BTreeMap::new();
        for class in &self.classes {
            if let (Some(link), 1..) = (class.link, class.guarantee) {
                promised.entry(link).or_default().push(class);
            }
        }
        for (place, classes) in promised {
            let link = &self.links[place];
            let sum: u64 = classes.iter().map(|class| class.guarantee).sum();
            if sum <= link.bandwidth {
                continue;
            }
            let name = |class: &&Class| {
                let rule = document.rules.get(class.rule as usize);
                format!("{} {}", rule.map_or("", |rule| rule.name.as_str()), rate(class.guarantee))
            };
            let shown: Vec<String> = classes.iter().take(8).map(name).collect();
            let more = if classes.len() > shown.len() { ", …" } else { "" };
            problems.add(
                place!["links", link.name.as_str()],
                "guarantees_too_high",
                format!(
                    "the guarantees on link {} come to {}, of {}: {}{more}",
                    link.name,
                    rate(sum),
                    rate(link.bandwidth),
                    shown.join(", ")
                ),
                "guarantee less, or give the link what it has",
            );
        }
    }

    /// Whether it can have come from [`Shaping::check`].
    pub(crate) fn holds(&self, rules: usize) -> bool {
        let shared = self.classes.iter().filter(|class| self.is_shared(class)).count();
        let good = |class: &Class| {
            (class.rule as usize) < rules
                && (class.scope == Scope::Gateway || class.max.is_some())
                && class.link.is_none_or(|link| link < self.links.len())
                && class.weight > 0
        };
        self.links.len() <= MAX_LINKS
            && self.classes.len() <= MAX_CLASSES
            && shared <= MAX_SHARED
            && self.classes.iter().all(good)
    }
}

fn no_cluster(at: Vec<PathPart>, problems: &mut Problems) {
    let message = "`scope: cluster`, and no `cluster` says who shares it";
    let fix = "add `cluster: { store: \"redis://valkey.example:6379/0\", replicas: 3 }`";
    problems.add(at, "no_cluster", message, fix);
}

/// As users write it.
pub(crate) fn rate(bits: u64) -> String {
    for (unit, factor) in [("Gbit/s", 1_000_000_000), ("Mbit/s", 1_000_000), ("kbit/s", 1_000)] {
        if bits >= factor {
            return format!("{} {unit}", bits as f64 / factor as f64);
        }
    }
    format!("{bits} bit/s")
}
