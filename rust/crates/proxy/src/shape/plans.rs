//! What the policy says of links and classes, as plans that all workers share, and what classes have done.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use egress_policy::{Class, Identity, Shaping, ShareBy, Snapshot};
use egress_shape::{Bounds, Limit, Nanos, Plan};

use super::{DOWN, UP};

/// Cells in which the waiting flows of sources are counted over all workers. Two sources in one cell count as if each had
/// the other's flows as well, so this is more than there are sources that wait.
const CELLS: usize = 1 << 16;
/// Bounds in milliseconds of the histogram of how long flows waited for a turn: from a tick of the workers' timers to
/// where users complain.
pub(crate) const HELD_BOUNDS_MS: [u64; 10] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

/// How many turns were waited for so long at most; the last one is beyond all bounds.
pub(crate) type Waits<T> = [T; HELD_BOUNDS_MS.len() + 1];

/// The place in [`Waits`] of a time.
pub(super) fn place_of(held: Nanos) -> usize {
    HELD_BOUNDS_MS.partition_point(|&bound| bound * 1_000_000 < held)
}

/// What a class has done in one direction, over all workers and policies.
#[derive(Debug, Default)]
pub(crate) struct Way {
    pub bytes: AtomicU64,
    /// Those of them beyond its guarantee.
    pub borrowed: AtomicU64,
    /// Flows that wait for their turn now.
    pub waiting: AtomicU64,
    pub held_ns: AtomicU64,
    pub held: Waits<AtomicU64>,
}

/// The same in both, and its flows that are open now.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub ways: [Way; 2],
    pub flows: AtomicU64,
}

/// A class as the workers know it.
#[derive(Debug)]
pub(crate) struct Placed {
    /// Its rule's name, by which it stays the same in the next policy.
    pub name: Box<str>,
    pub plan: usize,
    /// Its place there.
    pub index: usize,
    pub share_by: ShareBy,
    pub totals: Arc<Totals>,
}

/// The links of one policy with their classes, shared by all workers.
#[derive(Debug)]
pub(crate) struct Plans {
    /// One of each link, and a last one for classes without a link; up and down.
    pub links: Vec<[Plan; 2]>,
    pub classes: Vec<Placed>,
    /// By link, the places of its classes.
    members: Vec<Vec<usize>>,
    /// Waiting flows by source, up and down, where sources may have flows in several workers.
    pub waiting: Option<[Box<[AtomicU32]>; 2]>,
    /// Where a source is counted is not for it to choose. The same for all policies: so are its flows.
    keys: RandomState,
}

pub(crate) fn bytes(bits: u64) -> f64 {
    bits as f64 / 8.0
}

/// What the policy says of a class.
pub(crate) fn bounds_of(class: &Class) -> Bounds {
    Bounds {
        guarantee: bytes(class.guarantee),
        ceiling: class.max.map_or(f64::INFINITY, bytes),
        priority: class.priority as u8,
        weight: class.weight.into(),
    }
}

impl Plans {
    pub(crate) fn new(snapshot: &Snapshot, workers: usize, before: Option<&Self>) -> Self {
        let Shaping { links, classes } = snapshot.shaping();
        let known: HashMap<&str, &Arc<Totals>> = before
            .iter()
            .flat_map(|before| &before.classes)
            .map(|c| (&*c.name, &c.totals))
            .collect();
        let mut bounds: Vec<Vec<Bounds>> = vec![Vec::new(); links.len() + 1];
        let mut members: Vec<Vec<usize>> = vec![Vec::new(); links.len() + 1];
        let mut placed = Vec::with_capacity(classes.len());
        for class in classes {
            let plan = class.link.unwrap_or(links.len());
            let name: Box<str> = snapshot.rule(class.rule()).map_or("", |rule| rule.name).into();
            let totals = known.get(&*name).map_or_else(Arc::default, |totals| Arc::clone(totals));
            let index = bounds[plan].len();
            members[plan].push(placed.len());
            placed.push(Placed { name, plan, index, share_by: class.share_by, totals });
            bounds[plan].push(bounds_of(class));
        }
        let capacity = links.iter().map(|link| bytes(link.bandwidth)).chain([f64::INFINITY]);
        let plan = |(capacity, bounds): (f64, Vec<Bounds>)| {
            [Plan::new(capacity, bounds.clone(), workers), Plan::new(capacity, bounds, workers)]
        };
        let links = capacity.zip(bounds).map(plan).collect();
        let shared = placed.iter().any(|class| class.share_by.joins()) && workers > 1;
        let cells = || (0..CELLS).map(|_| AtomicU32::new(0)).collect();
        let waiting = shared.then(|| [cells(), cells()]);
        let keys = before.map_or_else(RandomState::new, |before| before.keys.clone());
        Self { links, classes: placed, members, waiting, keys }
    }

    /// A class whose budget is spent in one direction: bytes per second from now on, or infinity.
    pub(crate) fn slow(&self, class: u32, way: usize, rate: f64) {
        if let Some(Placed { plan, index, .. }) = self.classes.get(class as usize) {
            self.links[*plan][way].limit(*index, Limit::Budget, rate);
        }
    }

    /// The key of a source's share in a class; `None` where each connection has one.
    pub(super) fn source(
        &self,
        class: u32,
        ip: IpAddr,
        identity: Option<&Identity>,
    ) -> Option<u64> {
        let class = self.classes.get(class as usize)?;
        let namespace = match class.share_by {
            ShareBy::Connection => return None,
            ShareBy::Source => None,
            ShareBy::Namespace => identity.and_then(Identity::namespace),
        };
        Some(match (namespace, identity.and_then(Identity::strongest)) {
            // In a space of its own: a user may have a namespace's name.
            (Some(namespace), _) => self.keys.hash_one((&class.name, "ns", namespace)),
            (None, Some(identity)) => self.keys.hash_one((&class.name, identity)),
            (None, None) => self.keys.hash_one((&class.name, ip)),
        })
    }

    /// Shares all links out, as far as it is time to.
    pub(crate) fn share_out(&self, now: Nanos) {
        for (link, members) in self.links.iter().zip(&self.members) {
            for way in [UP, DOWN] {
                link[way].share_out(now, |index, bytes| {
                    let totals = &self.classes[members[index]].totals;
                    totals.ways[way].borrowed.fetch_add(bytes, Relaxed);
                });
            }
        }
    }
}
