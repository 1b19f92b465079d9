//! What of a policy is shared over gateways, and where in the workers' plans it stands.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use egress_policy::{Class, Cluster as Settings, MAX_SHARED, Scope, Shaping};
use egress_shape::{Bounds, Limit, Meter, Nanos, Pool, ROUND, Shared, Want, Wants, told};
use sha2::{Digest, Sha256};

use crate::installed::Installed;
use crate::shape::{Placed, Plans, bounds_of, bytes};

const _: () = assert!(MAX_SHARED <= told::MAX_SHARED);

/// A class that is held up elsewhere than by what gateways share does not want more than it gets; where it gets so much of
/// what it may, it is that which holds it up.
const HELD_UP_HERE: f64 = 0.95;
/// How much more than it gets it may want all the same: what holds it up may give way.
const GROWTH: f64 = 1.25;

/// The shared part of a policy in force.
#[derive(Debug)]
pub(super) struct Terms {
    pub settings: Settings,
    pub pools: Vec<Pool>,
    plans: Arc<Plans>,
    /// Of each pool: its link, if it is one, and its classes by their places in the policy.
    places: Vec<(Option<usize>, Vec<Here>)>,
    meters: HashMap<(u64, u64), [Meter; 2]>,
    /// When it was last looked at what is wanted, and what that was.
    told: (Nanos, Wants),
}

#[derive(Debug)]
struct Here {
    /// Its place in the policy.
    class: usize,
    /// Of this gateway alone: bytes per second.
    ceiling: f64,
}

/// The same at all gateways, whatever their policies number.
fn key(kind: &str, name: &str) -> u64 {
    let digest = Sha256::digest(format!("{kind}/{name}"));
    digest.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl Terms {
    /// `None` where a policy shares nothing.
    pub(super) fn of(installed: &Installed) -> Option<Self> {
        let shaping: &Shaping = installed.snapshot.shaping();
        let settings = installed.snapshot.settings().cluster.clone()?;
        if !shaping.has_shared() {
            return None;
        }
        let name =
            |class: &Class| installed.snapshot.rule(class.rule()).map_or("", |rule| rule.name);
        let shared = |class: &Class| {
            let mut bounds = bounds_of(class);
            if class.scope == Scope::Gateway {
                bounds.ceiling = f64::INFINITY;
            }
            Shared { key: key("rule", name(class)), bounds }
        };
        let here = |(place, class): (usize, &Class)| Here {
            class: place,
            ceiling: match (class.scope, class.max) {
                (Scope::Gateway, Some(max)) => bytes(max),
                _ => f64::INFINITY,
            },
        };
        let (mut pools, mut places) = (Vec::new(), Vec::new());
        let all = || shaping.classes.iter().enumerate();
        for (number, link) in shaping.links.iter().enumerate() {
            if link.scope == Scope::Cluster {
                let on_it = || all().filter(|(_, class)| class.link == Some(number));
                pools.push(Pool {
                    key: key("link", &link.name),
                    capacity: bytes(link.bandwidth),
                    classes: on_it().map(|(_, class)| shared(class)).collect(),
                });
                places.push((Some(number), on_it().map(here).collect()));
            }
        }
        let of_link = |class: &Class| class.link.and_then(|link| shaping.links.get(link));
        for (place, class) in all() {
            if class.scope == Scope::Cluster
                && of_link(class).is_none_or(|link| link.scope == Scope::Gateway)
            {
                // What is guaranteed is guaranteed by its link, which is not shared.
                let Shared { key, bounds } = shared(class);
                let bounds = Bounds { guarantee: 0.0, ..bounds };
                let classes = vec![Shared { key, bounds }];
                pools.push(Pool { key, capacity: bounds.ceiling, classes });
                places.push((None, vec![here((place, class))]));
            }
        }
        let plans = Arc::clone(&installed.plans);
        Some(Self {
            settings,
            pools,
            plans,
            places,
            meters: HashMap::new(),
            told: (0, Wants::new()),
        })
    }

    /// Goes on from what was used under the policy before.
    pub(super) fn take_over(&mut self, before: &Self) {
        self.meters.clone_from(&before.meters);
    }

    /// What is wanted here now; in less than a round it does not change.
    pub(super) fn wants(&mut self, now: Nanos) -> Wants {
        if now < self.told.0 + ROUND {
            return self.told.1.clone();
        }
        self.plans.share_out(now);
        let mut meters = HashMap::new();
        let mut wants = Wants::new();
        for (pool, (link, places)) in self.pools.iter().zip(&self.places) {
            for (class, one) in pool.classes.iter().zip(places) {
                let key = (pool.key, class.key);
                let mut own = self.meters.get(&key).copied().unwrap_or_default();
                let mut want = |way: usize| {
                    let Placed { plan, index, totals, .. } = self.plans.classes.get(one.class)?;
                    let (plan, index) = (&self.plans.links[*plan][way], *index);
                    let seen = plan.seen(index);
                    let sent = totals.ways[way].bytes.load(Relaxed);
                    let mut bound = one.ceiling.min(plan.limit_of(index, Limit::Budget));
                    let shared = plan.limit_of(index, Limit::Cluster);
                    if link.is_none() && seen.allowed < HELD_UP_HERE * shared {
                        bound = bound.min(seen.allowed * GROWTH);
                    }
                    Some(own[way].want(now, sent, seen, bound))
                };
                let ways: [Want; 2] = std::array::from_fn(|way| want(way).unwrap_or_default());
                wants.insert(key, ways);
                meters.insert(key, own);
            }
        }
        self.meters = meters;
        self.told = (now, wants.clone());
        wants
    }

    /// Keeps the plans to these shares, as [`egress_shape::Member`] orders them.
    pub(super) fn apply(&self, shares: &[f64], now: Nanos) {
        let mut shares = shares.iter().copied();
        for way in [0, 1] {
            for (link, classes) in &self.places {
                let capacity = shares.next().unwrap_or(0.0);
                if let Some(link) = link.and_then(|link| self.plans.links.get(link)) {
                    link[way].limit_capacity(capacity);
                }
                for here in classes {
                    let share = shares.next().unwrap_or(0.0);
                    if let Some(placed) = self.plans.classes.get(here.class) {
                        self.plans.links[placed.plan][way].limit(
                            placed.index,
                            Limit::Cluster,
                            share,
                        );
                    }
                }
            }
        }
        self.plans.share_out(now);
    }
}
