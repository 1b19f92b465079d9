//! How many connections a rule grants: to all together, and to each source by itself.

use serde::{Deserialize, Serialize};

use crate::document::Document;
use crate::flat::NONE;
use crate::problem::{PathPart, Problems, place};

/// Longest time that a connection is held until there is room: clients give up before.
const MAX_WAIT_MS: u32 = 60_000;

/// What may be open at a time, and what may come. `None`: no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    pub max: Option<u32>,
    pub new_per_second: Option<u32>,
    /// New ones at once, after a pause; `None`: one second's worth.
    #[serde(default)]
    pub burst: Option<u32>,
}

/// The bounds of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connections {
    /// Of all its connections together.
    pub all: Bounds,
    /// Of those of each source.
    pub each: Bounds,
    /// How long a connection over a bound is held until there is room; 0: it is refused at once.
    pub wait_ms: u32,
}

/// As the document says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Given {
    pub max: Option<u32>,
    pub new_per_second: Option<u32>,
    #[serde(default)]
    pub burst: Option<u32>,
    #[serde(default)]
    pub per_source: Option<Bounds>,
    #[serde(default)]
    pub wait_ms: u32,
}

/// What of a rule's bounds is not in its record: most rules that have bounds have no more than those.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Further {
    pub rule: u32,
    pub burst: Option<u32>,
    pub each: Bounds,
    pub wait_ms: u32,
}

impl Bounds {
    pub fn is_none(&self) -> bool {
        self.max.is_none() && self.new_per_second.is_none()
    }

    /// Zero would deny all, and the highest number stands for no bound.
    fn holds(&self) -> bool {
        let good = |bound: Option<u32>| bound.is_none_or(|bound| bound != 0 && bound != NONE);
        good(self.max)
            && good(self.new_per_second)
            && good(self.burst)
            && (self.burst.is_none() || self.new_per_second.is_some())
    }

    fn check(&self, place: &dyn Fn(&str) -> Vec<PathPart>, problems: &mut Problems) {
        for (key, bound) in
            [("max", self.max), ("new_per_second", self.new_per_second), ("burst", self.burst)]
        {
            if let Some(bound) = bound.filter(|bound| *bound == 0 || *bound == NONE) {
                let range = NONE - 1;
                problems.add(
                    place(key),
                    "bad_limit",
                    format!("`{key}: {bound}` must be between 1 and {range}"),
                    format!("leave `{key}` out for no bound; to allow nothing, write `deny: true` in place of `connections`"),
                );
            }
        }
        if self.burst.is_some() && self.new_per_second.is_none() {
            problems.add(
                place("burst"),
                "burst_without_rate",
                "`burst` says how many new connections may come at once, and no rate bounds them",
                "add `new_per_second`, or remove `burst`",
            );
        }
    }

    /// A bound of each source that the rule's own comes before.
    fn check_beside(
        &self,
        all: &Self,
        place: &dyn Fn(&str) -> Vec<PathPart>,
        problems: &mut Problems,
    ) {
        let above = |one: Option<u32>, other: Option<u32>| one > other && other.is_some();
        // A source with less at once than the rule has a bound of its own, whatever its rate.
        let at_once = |bounds: &Self| bounds.burst.or(bounds.new_per_second);
        let rate_above =
            above(self.new_per_second, all.new_per_second) && at_once(self) >= at_once(all);
        for (key, bound, of_all, is_above) in [
            ("max", self.max, all.max, above(self.max, all.max)),
            ("new_per_second", self.new_per_second, all.new_per_second, rate_above),
        ] {
            if let (Some(bound), Some(of_all), true) = (bound, of_all, is_above) {
                problems.add(
                    place(key),
                    "never_reached",
                    format!("no source ever has {bound}: all of the rule together have {of_all}"),
                    format!("write less than {of_all}, or leave `{key}` out"),
                );
            }
        }
    }
}

impl Connections {
    pub fn is_none(&self) -> bool {
        self.all.is_none() && self.each.is_none()
    }
}

impl Given {
    pub(crate) fn is_given(&self) -> bool {
        *self != Self::default()
    }

    fn all(&self) -> Bounds {
        Bounds { max: self.max, new_per_second: self.new_per_second, burst: self.burst }
    }

    pub(crate) fn check(&self, index: usize, problems: &mut Problems) {
        self.all().check(&|key| place!["rules", index, "connections", key], problems);
        let each = self.per_source.unwrap_or_default();
        let of_each = |key: &str| place!["rules", index, "connections", "per_source", key];
        each.check(&of_each, problems);
        each.check_beside(&self.all(), &of_each, problems);
        let at = || place!["rules", index, "connections", "when_full"];
        if self.wait_ms > MAX_WAIT_MS {
            let most = MAX_WAIT_MS / 1000;
            let message = format!("a connection waits for {most}s at most");
            problems.add(at(), "bad_wait", message, format!("write `wait {most}s` or less"));
        }
        if self.wait_ms > 0 && self.all().is_none() && each.is_none() {
            problems.add(
                at(),
                "wait_without_bound",
                "nothing bounds the connections of this rule, so none ever waits",
                "add `max` or `new_per_second`, or remove `when_full`",
            );
        }
    }
}

impl Further {
    pub(crate) fn of(document: &Document) -> Vec<Self> {
        let further = |(rule, given): (u32, &Given)| {
            let each = given.per_source.unwrap_or_default();
            let further = Self { rule, burst: given.burst, each, wait_ms: given.wait_ms };
            (further != Self { rule, burst: None, each: Bounds::default(), wait_ms: 0 })
                .then_some(further)
        };
        (0..).zip(document.rules.iter().map(|rule| &rule.connections)).filter_map(further).collect()
    }

    /// What no compiler has written would be taken for something else.
    pub(crate) fn holds(&self, rules: usize) -> bool {
        (self.rule as usize) < rules
            && self.each.holds()
            && self.burst.is_none_or(|burst| burst != 0 && burst != NONE)
            && self.wait_ms <= MAX_WAIT_MS
    }
}
