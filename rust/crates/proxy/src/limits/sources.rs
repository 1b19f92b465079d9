//! What each source has open, and may still open, of the rules that bound it: one table over all workers.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use egress_policy::{Bounds, Identity, Reason};

use super::Reached;
use super::bucket::Bucket;

/// Parts of the table, each with a lock of its own: of two workers that look at once, one in so many waits for the other,
/// for less than a microsecond.
const SHARDS: usize = 64;
/// Sources of all rules together that are remembered, shared out among the parts. Some 3 MiB.
const MOST: usize = 65_536;

/// A source of a rule.
#[derive(Debug, Default)]
struct Source {
    open: u32,
    /// As that of the rule.
    full_at: u64,
}

/// On cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    sources: HashMap<u64, Source>,
    /// Before this nobody can be forgotten: a full table is searched no more often than that.
    search_at: u64,
}

/// Who is not known has nothing open and a full bucket; so whoever comes to that is forgotten.
#[derive(Debug)]
pub(crate) struct Sources {
    shards: [Shard; SHARDS],
    /// Nobody can choose addresses or names that share a place.
    keys: RandomState,
}

impl Default for Sources {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Shard::default()), keys: RandomState::new() }
    }
}

impl Sources {
    /// The source of a rule as a number, which is not 0: its strongest identity, else its address.
    pub(super) fn key(&self, rule: &str, ip: IpAddr, identity: Option<&Identity>) -> u64 {
        let key = match identity.and_then(Identity::strongest) {
            Some(identity) => self.keys.hash_one((rule, identity)),
            None => self.keys.hash_one((rule, ip)),
        };
        key.max(1)
    }

    fn shard(&self, key: u64) -> MutexGuard<'_, Known> {
        let Shard(shard) = &self.shards[key as usize % SHARDS];
        // Nothing in here can panic half-way.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection in, if its source has room, and then the rule.
    pub(super) fn enter(
        &self,
        key: u64,
        bounds: &Bounds,
        now_ns: u64,
        rule: impl FnOnce() -> Result<(), Reached>,
    ) -> Result<(), Reached> {
        let of_source = |reason| Reached { by_source: true, ..Reached::new(reason) };
        let mut known = self.shard(key);
        let (open, full_at) =
            known.sources.get(&key).map_or((0, 0), |source| (source.open, source.full_at));
        if bounds.max.is_some_and(|max| open >= max) {
            return Err(of_source(Reason::ConnectionLimit));
        }
        let full_at = match Bucket::of(bounds) {
            Some(bucket) => bucket.take(full_at, now_ns).map_err(|ready| Reached {
                ready_ns: Some(ready),
                ..of_source(Reason::ConnectionRate)
            })?,
            None => full_at,
        };
        if !known.has_room_for(key, now_ns) {
            return Err(Reached { crowded: true, ..of_source(Reason::ConnectionLimit) });
        }
        rule()?;
        let source = known.sources.entry(key).or_default();
        source.open = source.open.saturating_add(1);
        source.full_at = full_at;
        Ok(())
    }

    /// Counts in a connection that goes on whatever the bounds are; `false` if it cannot be counted.
    pub(super) fn keep(&self, key: u64) -> bool {
        let mut known = self.shard(key);
        let there = known.has_room_for(key, 0);
        if there {
            let source = known.sources.entry(key).or_default();
            source.open = source.open.saturating_add(1);
        }
        there
    }

    pub(super) fn leave(&self, key: u64) {
        let mut known = self.shard(key);
        let Entry::Occupied(mut entry) = known.sources.entry(key) else { return };
        let source = entry.get_mut();
        source.open = source.open.saturating_sub(1);
        let Source { open, full_at } = *source;
        if open == 0 && full_at == 0 {
            entry.remove();
        } else if open == 0 {
            known.search_at = known.search_at.min(full_at);
        }
    }
}

impl Known {
    /// Forgets whom it may, where that is needed.
    fn has_room_for(&mut self, key: u64, now_ns: u64) -> bool {
        if self.sources.len() < MOST / SHARDS || self.sources.contains_key(&key) {
            return true;
        }
        if now_ns < self.search_at {
            return false;
        }
        self.sources.retain(|_, source| source.open > 0 || source.full_at > now_ns);
        let waits = self.sources.values().filter(|source| source.open == 0);
        self.search_at = waits.map(|source| source.full_at).min().unwrap_or(u64::MAX);
        self.sources.len() < MOST / SHARDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn bounds(max: Option<u32>, new_per_second: Option<u32>) -> Bounds {
        Bounds { max, new_per_second, burst: None }
    }

    fn len(sources: &Sources) -> usize {
        (0..SHARDS as u64).map(|shard| sources.shard(shard).sources.len()).sum()
    }

    fn key(sources: &Sources, n: u32) -> u64 {
        sources.key("rule", IpAddr::from(n.to_be_bytes()), None)
    }

    fn enter(sources: &Sources, n: u32, bounds: &Bounds, now_ns: u64) -> Result<(), Reached> {
        sources.enter(key(sources, n), bounds, now_ns, || Ok(()))
    }

    #[test]
    fn a_flood_of_sources_takes_no_more_than_the_table() {
        let sources = Sources::default();
        let rate = bounds(None, Some(1));
        let crowded = (0..200_000)
            .filter(|n| enter(&sources, *n, &rate, SECOND).is_err_and(|reached| reached.crowded))
            .count();
        assert!(len(&sources) <= MOST, "{}", len(&sources));
        assert_eq!(crowded, 200_000 - len(&sources), "who has no place does not pass");
        assert!(len(&sources) > MOST * 9 / 10, "{}", len(&sources));
    }

    #[test]
    fn room_is_made_by_forgetting_those_with_nothing_open_and_a_full_bucket() {
        let sources = Sources::default();
        let rate = bounds(Some(1), Some(1));
        for n in 0..200_000 {
            let _ = enter(&sources, n, &rate, SECOND);
        }
        assert!(enter(&sources, 300_000, &rate, 3 * SECOND).unwrap_err().crowded, "all are open");
        (0..200_000).for_each(|n| sources.leave(key(&sources, n)));
        assert!(len(&sources) > 0, "their buckets are not full");
        let refused =
            |now| (300_000..301_000).filter(|n| enter(&sources, *n, &rate, now).is_err()).count();
        assert_eq!(refused(SECOND + SECOND / 2), 1000);
        assert_eq!(refused(2 * SECOND + 1), 0);
    }

    #[test]
    fn without_a_rate_nothing_stays_of_who_has_left() {
        let sources = Sources::default();
        let most = bounds(Some(2), None);
        for n in 0..10_000 {
            enter(&sources, n, &most, 0).unwrap();
        }
        assert_eq!(len(&sources), 10_000);
        (0..10_000).for_each(|n| sources.leave(key(&sources, n)));
        assert_eq!(len(&sources), 0);
    }

    /// Any order of coming, leaving and time: counts agree with a plain list, and a source that is forgotten is one
    /// that may do all that a new one may.
    #[test]
    fn what_it_says_is_what_a_list_without_bounds_would_say() {
        let sources = Sources::default();
        let each = Bounds { max: Some(3), new_per_second: Some(2), burst: Some(4) };
        let bucket = Bucket::of(&each).unwrap();
        let mut plain: HashMap<u32, (u32, u64)> = HashMap::new();
        let (mut now, mut random) = (SECOND, 0x2545_f491_4f6c_dd1d_u64);
        for _ in 0..200_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            now += random % 20_000_000;
            let n = (random >> 32) as u32 % 50;
            let (open, full_at) = plain.entry(n).or_default();
            if random & 1 == 0 {
                let expected = (*open < 3).then(|| bucket.take(*full_at, now).ok()).flatten();
                assert_eq!(enter(&sources, n, &each, now).is_ok(), expected.is_some());
                if let Some(full) = expected {
                    (*open, *full_at) = (*open + 1, full);
                }
            } else if *open > 0 {
                *open -= 1;
                sources.leave(key(&sources, n));
            }
        }
        assert!(len(&sources) <= 50);
    }
}
