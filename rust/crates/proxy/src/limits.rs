//! `connections` of a rule, held over all workers and over policy changes.

mod bucket;
mod line;
mod sources;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

use egress_policy::{Bounds, Connections, Identity, Reason};

use self::bucket::Bucket;
pub(crate) use self::line::Lines;
pub(crate) use self::sources::Sources;

/// The state of one limited rule; only connections that meet such a rule touch its shared cache line.
#[derive(Debug)]
struct Limit {
    open: AtomicU64,
    /// When the bucket is full again, in nanoseconds (the generic cell rate algorithm: one word, no lock).
    full_at: AtomicU64,
    /// By worker: since when the first waits there, or [`NOBODY`].
    heads: Box<[AtomicU64]>,
    sources: Arc<Sources>,
}

/// In [`Limit::heads`].
const NOBODY: u64 = u64::MAX;

/// A bound that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reached {
    pub reason: Reason,
    /// It is the source's own.
    pub by_source: bool,
    /// No room for another source could be found.
    pub crowded: bool,
    /// When there is room again, where that is known.
    pub ready_ns: Option<u64>,
}

impl Reached {
    fn new(reason: Reason) -> Self {
        Self { reason, by_source: false, crowded: false, ready_ns: None }
    }
}

impl Limit {
    fn enter(&self, bounds: &Bounds, now_ns: u64) -> Result<(), Reached> {
        // Above a bound that was lowered, or while an audit lets all pass, there is no room either.
        let room = |open: u64| {
            bounds.max.is_none_or(|max| open < u64::from(max)).then(|| open.saturating_add(1))
        };
        self.open
            .fetch_update(AcqRel, Acquire, room)
            .map_err(|_| Reached::new(Reason::ConnectionLimit))?;
        if let Some(bucket) = Bucket::of(bounds)
            && let Err(full_at) = self
                .full_at
                .fetch_update(AcqRel, Relaxed, |full_at| bucket.take(full_at, now_ns).ok())
        {
            self.open.fetch_sub(1, AcqRel);
            let ready_ns = bucket.take(full_at, now_ns).err();
            return Err(Reached { ready_ns, ..Reached::new(Reason::ConnectionRate) });
        }
        Ok(())
    }
}

/// A connection that is counted for its rule; dropping it counts it out.
#[derive(Debug)]
pub(crate) struct Held(Arc<Limit>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, AcqRel);
    }
}

/// The same for its source, where the rule bounds each.
#[derive(Debug)]
pub(crate) struct OfSource {
    sources: Arc<Sources>,
    key: u64,
}

impl Drop for OfSource {
    fn drop(&mut self) {
        self.sources.leave(self.key);
    }
}

/// What a connection has that is counted in.
pub(crate) type Entered = (Held, Option<OfSource>);

/// A limited rule of one policy.
#[derive(Debug)]
pub(crate) struct Limited {
    bounds: Connections,
    limit: Arc<Limit>,
    name: Box<str>,
}

impl Limited {
    /// Whose connection it is, where that matters; else 0.
    pub(crate) fn source(&self, ip: IpAddr, identity: Option<&Identity>) -> u64 {
        if self.bounds.each.is_none() {
            return 0;
        }
        self.limit.sources.key(&self.name, ip, identity)
    }

    /// How long a connection is held until there is room; 0: it is refused at once.
    pub(crate) fn wait_ms(&self) -> u64 {
        self.bounds.wait_ms.into()
    }

    /// What keeps a connection out that has not been tried.
    pub(crate) fn likely(&self) -> Reached {
        let most = self.bounds.all.max.or(self.bounds.each.max);
        let rate = most.is_none();
        Reached::new(if rate { Reason::ConnectionRate } else { Reason::ConnectionLimit })
    }

    /// Counts a connection in, if there is room.
    pub(crate) fn enter(&self, source: u64, now_ns: u64) -> Result<Entered, Reached> {
        let all = || self.limit.enter(&self.bounds.all, now_ns);
        if source == 0 {
            all()?;
        } else {
            // No token of the rule is for a source that has none itself, nor the other way round.
            self.limit.sources.enter(source, &self.bounds.each, now_ns, all)?;
        }
        Ok((Held(Arc::clone(&self.limit)), self.of_source(source)))
    }

    /// Counts in a connection that goes on whatever the bounds are: it is open already, or audited.
    pub(crate) fn keep(&self, source: u64) -> Entered {
        self.limit.open.fetch_add(1, AcqRel);
        let counted = source != 0 && self.limit.sources.keep(source);
        (Held(Arc::clone(&self.limit)), self.of_source(if counted { source } else { 0 }))
    }

    fn of_source(&self, key: u64) -> Option<OfSource> {
        (key != 0).then(|| OfSource { sources: Arc::clone(&self.limit.sources), key })
    }
}

/// The limited rules of one snapshot: state by rule index, carried over from the snapshot before by rule name.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    by_rule: HashMap<u32, Limited>,
    by_name: HashMap<Box<str>, Arc<Limit>>,
    sources: Arc<Sources>,
}

impl Limits {
    pub(crate) fn new<'a>(
        rules: impl Iterator<Item = (u32, &'a str, Connections)>,
        workers: usize,
        before: Option<&Self>,
    ) -> Self {
        let sources = before.map_or_else(Arc::default, |before| Arc::clone(&before.sources));
        let mut limits = Self { sources, ..Self::default() };
        for (index, name, bounds) in rules.filter(|(_, _, bounds)| !bounds.is_none()) {
            let kept = before.and_then(|before| before.by_name.get(name)).map(Arc::clone);
            let limit = kept.unwrap_or_else(|| {
                let (open, full_at) = (AtomicU64::new(0), AtomicU64::new(0));
                let heads = (0..workers).map(|_| AtomicU64::new(NOBODY)).collect();
                Arc::new(Limit { open, full_at, heads, sources: Arc::clone(&limits.sources) })
            });
            let name: Box<str> = name.into();
            limits.by_name.insert(name.clone(), Arc::clone(&limit));
            limits.by_rule.insert(index, Limited { bounds, limit, name });
        }
        limits
    }

    pub(crate) fn of_rule(&self, rule: u32) -> Option<&Limited> {
        self.by_rule.get(&rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn all(max: Option<u32>, new_per_second: Option<u32>) -> Connections {
        let all = Bounds { max, new_per_second, burst: None };
        Connections { all, ..Connections::default() }
    }

    fn each(max: Option<u32>, new_per_second: Option<u32>) -> Connections {
        Connections { all: Bounds::default(), each: all(max, new_per_second).all, wait_ms: 0 }
    }

    fn limits(bounds: Connections) -> Limits {
        Limits::new([(0, "db", bounds)].into_iter(), 2, None)
    }

    fn reason<T>(entered: Result<T, Reached>) -> Option<(Reason, bool)> {
        entered.err().map(|reached| (reached.reason, reached.by_source))
    }

    #[test]
    fn the_maximum_holds_and_a_closed_connection_makes_room() {
        let limits = limits(all(Some(2), None));
        let limited = limits.of_rule(0).unwrap();
        let a = limited.enter(0, 0).unwrap();
        let _b = limited.enter(0, 0).unwrap();
        assert_eq!(reason(limited.enter(0, 0)), Some((Reason::ConnectionLimit, false)));
        drop(a);
        let _c = limited.enter(0, 0).unwrap();
        let audited = limited.keep(0);
        drop(audited);
        assert!(limited.enter(0, 0).is_err(), "what an audit let pass has not made room");
    }

    #[test]
    fn a_refused_connection_takes_no_token() {
        let bounds = all(Some(1), Some(2));
        let limits = limits(bounds);
        let limited = limits.of_rule(0).unwrap();
        let held = limited.enter(0, SECOND).unwrap();
        for _ in 0..10 {
            assert_eq!(reason(limited.enter(0, SECOND)), Some((Reason::ConnectionLimit, false)));
        }
        drop(held);
        drop(limited.enter(0, SECOND).unwrap());
        assert_eq!(reason(limited.enter(0, SECOND)), Some((Reason::ConnectionRate, false)));
        assert_eq!(limited.limit.open.load(Relaxed), 0, "nor a place");
    }

    #[test]
    fn a_source_at_its_bound_takes_nothing_from_the_others() {
        let bounds = Connections { all: all(None, Some(3)).all, ..each(Some(1), None) };
        let limits = limits(bounds);
        let limited = limits.of_rule(0).unwrap();
        let [a, b, c, d] = [1, 2, 3, 4].map(|n| limited.source(IpAddr::from([10, 0, 0, n]), None));
        let _a = limited.enter(a, SECOND).unwrap();
        for _ in 0..10 {
            assert_eq!(reason(limited.enter(a, SECOND)), Some((Reason::ConnectionLimit, true)));
        }
        let _others = [b, c].map(|source| limited.enter(source, SECOND).unwrap());
        assert_eq!(reason(limited.enter(d, SECOND)), Some((Reason::ConnectionRate, false)));
        let _d = limited.enter(d, 2 * SECOND).expect("refused by the rule, it was not counted");
    }

    #[test]
    fn who_is_one_source_is_said_by_the_strongest_identity() {
        let limits = limits(each(Some(1), None));
        let limited = limits.of_rule(0).unwrap();
        let [one, two] = [1, 2].map(|n| IpAddr::from([10, 0, 0, n]));
        let alice = Identity::default().with_user(b"alice");
        assert_ne!(limited.source(one, None), limited.source(two, None));
        assert_eq!(limited.source(one, Some(&alice)), limited.source(two, Some(&alice)));
        assert_ne!(limited.source(one, Some(&alice)), limited.source(one, None));
        let other = Limits::new([(0, "web", each(Some(1), None))].into_iter(), 2, Some(&limits));
        assert_ne!(limited.source(one, None), other.of_rule(0).unwrap().source(one, None));
    }

    #[test]
    fn state_follows_the_rule_name_over_a_policy_change() {
        let one = IpAddr::from([10, 0, 0, 1]);
        for bounds in [all(Some(1), None), each(Some(1), None)] {
            let before = Limits::new([(4, "db", bounds)].into_iter(), 2, None);
            let limited = before.of_rule(4).unwrap();
            let _held = limited.enter(limited.source(one, None), 0).unwrap();
            let after = Limits::new([(0, "db", bounds)].into_iter(), 2, Some(&before));
            let limited = after.of_rule(0).unwrap();
            let by_source = !bounds.each.is_none();
            let found = reason(limited.enter(limited.source(one, None), 0));
            assert_eq!(found, Some((Reason::ConnectionLimit, by_source)));
            assert!(after.of_rule(4).is_none());
        }
    }
}
