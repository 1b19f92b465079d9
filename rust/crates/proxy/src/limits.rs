//! `connections.max` and `connections.new_per_second` of a rule, held over all workers and over policy changes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

/// The state of one limited rule; only connections that meet such a rule touch its shared cache line.
#[derive(Debug, Default)]
pub(crate) struct Limit {
    open: AtomicU64,
    /// When the bucket is full again, in nanoseconds (the generic cell rate algorithm: one word, no lock).
    full_at: AtomicU64,
}

/// The numbers that the rule states; they may change with the policy while the state stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub max: Option<u32>,
    pub new_per_second: Option<u32>,
}

/// Which bound was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reached {
    Max,
    Rate,
}

const SECOND_NS: u64 = 1_000_000_000;

impl Limit {
    /// Counts one connection in. The guard counts it out again; it comes with what was reached, so that audit mode can
    /// keep the connection.
    pub(crate) fn enter(self: &Arc<Self>, bounds: Bounds, now_ns: u64) -> (Held, Option<Reached>) {
        let open = self.open.fetch_add(1, AcqRel);
        let held = Held(Arc::clone(self));
        if bounds.max.is_some_and(|max| open >= u64::from(max)) {
            return (held, Some(Reached::Max));
        }
        if let Some(rate) = bounds.new_per_second
            && !self.take(rate, now_ns)
        {
            return (held, Some(Reached::Rate));
        }
        (held, None)
    }

    /// Counts in a connection that is open already: over a policy change no bound applies to it.
    pub(crate) fn keep(self: &Arc<Self>) -> Held {
        self.open.fetch_add(1, AcqRel);
        Held(Arc::clone(self))
    }

    /// One token of a bucket that holds one second's worth.
    fn take(&self, rate: u32, now_ns: u64) -> bool {
        let step = SECOND_NS / u64::from(rate.max(1));
        let mut full_at = self.full_at.load(Relaxed);
        loop {
            let next = full_at.max(now_ns) + step;
            if rate == 0 || next - now_ns > SECOND_NS.max(step) {
                return false;
            }
            match self.full_at.compare_exchange_weak(full_at, next, AcqRel, Acquire) {
                Ok(_) => return true,
                Err(seen) => full_at = seen,
            }
        }
    }
}

/// One open connection of a limited rule.
#[derive(Debug)]
pub(crate) struct Held(Arc<Limit>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, AcqRel);
    }
}

/// The limited rules of one snapshot: state by rule index, carried over from the snapshot before by rule name.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    by_rule: HashMap<u32, (Bounds, Arc<Limit>)>,
    by_name: HashMap<String, Arc<Limit>>,
}

impl Limits {
    pub(crate) fn new(
        rules: impl Iterator<Item = (u32, String, Bounds)>,
        before: Option<&Self>,
    ) -> Self {
        let mut limits = Self::default();
        for (index, name, bounds) in rules {
            let kept = before
                .and_then(|before| before.by_name.get(&name))
                .map_or_else(Arc::default, Arc::clone);
            limits.by_rule.insert(index, (bounds, Arc::clone(&kept)));
            limits.by_name.insert(name, kept);
        }
        limits
    }

    pub(crate) fn of_rule(&self, rule: u32) -> Option<&(Bounds, Arc<Limit>)> {
        self.by_rule.get(&rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maximum_holds_and_a_closed_connection_makes_room() {
        let limit = Arc::new(Limit::default());
        let bounds = Bounds { max: Some(2), new_per_second: None };
        let (a, none) = limit.enter(bounds, 0);
        let (_b, also_none) = limit.enter(bounds, 0);
        assert_eq!((none, also_none), (None, None));
        let (c, reached) = limit.enter(bounds, 0);
        assert_eq!(reached, Some(Reached::Max));
        drop((a, c));
        assert_eq!(limit.enter(bounds, 0).1, None);
    }

    #[test]
    fn the_rate_lets_a_second_of_burst_through_and_then_the_rate() {
        let limit = Arc::new(Limit::default());
        let bounds = Bounds { max: None, new_per_second: Some(10) };
        let granted = |now| (0..50).filter(|_| limit.enter(bounds, now).1.is_none()).count();
        assert_eq!(granted(SECOND_NS), 10);
        assert_eq!(granted(SECOND_NS + SECOND_NS / 2), 5);
        assert_eq!(
            granted(100 * SECOND_NS),
            10,
            "an idle hour does not add up to more than the burst"
        );
    }

    #[test]
    fn state_follows_the_rule_name_over_a_policy_change() {
        let bounds = Bounds { max: Some(1), new_per_second: None };
        let before = Limits::new([(4, "db".to_owned(), bounds)].into_iter(), None);
        let (_held, _) = before.of_rule(4).unwrap().1.enter(bounds, 0);
        let after = Limits::new([(0, "db".to_owned(), bounds)].into_iter(), Some(&before));
        assert_eq!(after.of_rule(0).unwrap().1.enter(bounds, 0).1, Some(Reached::Max));
        assert!(after.of_rule(4).is_none());
    }
}
