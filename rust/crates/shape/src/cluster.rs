//! What one of several gateways may have of what all of them have together.
//!
//! The same two levels as within a gateway, with gateways in place of workers: between the classes of a link, then of each
//! class between the gateways where it is wanted. Each gateway computes its own part from the same numbers, so that the
//! parts come to the whole at most.

use std::collections::HashMap;

use crate::allot::{Allotment, Claim, allot};
use crate::plan::Bounds;

/// Of what is shared, this part is kept for gateways that want less than their equal part of it, so that their first bytes
/// need not wait for a round. Where all gateways are busy nothing is.
pub(crate) const KEPT_TO_START: f64 = 0.01;
/// Classes of one pool that only other gateways know: while a policy is rolled out. Further ones are not seen.
const MAX_STRANGERS: usize = 256;

/// What a gateway asks for of a class.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Want {
    /// Bytes per second; infinite where it would send whatever it may.
    pub demand: f64,
    /// How many sources want it.
    pub weight: f64,
}

/// What a gateway asks for, up and down, by the keys of a pool and of a class in it.
pub type Wants = HashMap<(u64, u64), [Want; 2]>;

/// A class by the key that it has at all gateways.
#[derive(Debug, Clone, PartialEq)]
pub struct Shared {
    pub key: u64,
    /// Over all gateways.
    pub bounds: Bounds,
}

/// What gateways have together, the same in both directions: a link with its classes, or one class by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    pub key: u64,
    /// Bytes per second.
    pub capacity: f64,
    pub classes: Vec<Shared>,
}

/// A class that this gateway's policy does not have.
const STRANGER: Bounds =
    Bounds { guarantee: 0.0, ceiling: f64::INFINITY, priority: 1, weight: 1.0 };

/// A class, and which gateways want something of it.
struct Row {
    bounds: Bounds,
    wants: Vec<(usize, Want)>,
}

fn rows(pool: &Pool, gateways: &[Wants], way: usize) -> Vec<Row> {
    let row = |bounds| Row { bounds, wants: Vec::new() };
    let mut rows: Vec<Row> = pool.classes.iter().map(|class| row(class.bounds)).collect();
    let mut places: HashMap<u64, usize> =
        pool.classes.iter().enumerate().map(|(place, class)| (class.key, place)).collect();
    let most = pool.classes.len() + MAX_STRANGERS;
    for (gateway, wants) in gateways.iter().enumerate() {
        for ((_, key), ways) in wants.iter().filter(|((in_pool, _), _)| *in_pool == pool.key) {
            let place = *places.entry(*key).or_insert(rows.len());
            if place == rows.len() {
                if rows.len() == most {
                    places.remove(key);
                    continue;
                }
                rows.push(row(STRANGER));
            }
            rows[place].wants.push((gateway, ways[way]));
        }
    }
    rows
}

fn claims(wants: &[(usize, Want)]) -> Vec<Claim> {
    wants.iter().map(|(_, want)| Claim::part(want.demand, want.weight)).collect()
}

/// What one of `count` gateways has of `total`, the others' parts by the same wants included: `total` together.
fn part(total: f64, count: usize, wants: &[(usize, Want)], mine: usize) -> f64 {
    let start = total * KEPT_TO_START / count as f64;
    let short = |want: &Want| (start - want.demand).max(0.0);
    let kept: f64 = wants.iter().map(|(_, want)| short(want)).sum::<f64>()
        + start * (count - wants.len()) as f64;
    let mut shares = Vec::new();
    allot(total - kept, &claims(wants), &mut shares);
    let free = total - kept - shares.iter().map(|share| share.rate).sum::<f64>();
    let own = wants.iter().zip(&shares).find(|((gateway, _), _)| *gateway == mine);
    own.map_or(start, |((_, want), share)| share.rate + short(want)) + free.max(0.0) / count as f64
}

/// What the gateway at `mine` may send in one direction, in bytes per second: first of the pool as a whole, then of each of
/// its classes. What nobody wants is split evenly, so that whoever begins need not wait.
pub fn share(pool: &Pool, gateways: &[Wants], mine: usize, way: usize) -> Vec<f64> {
    let count = gateways.len();
    let rows = rows(pool, gateways, way);
    let mut wanted = vec![0.0; count];
    for (gateway, want) in rows.iter().flat_map(|row| &row.wants) {
        wanted[*gateway] += want.demand;
    }
    let start = pool.capacity * KEPT_TO_START / count as f64;
    let short = |wanted: &f64| (start - wanted).max(0.0);
    let kept: f64 = wanted.iter().map(short).sum();
    let between_classes: Vec<Claim> = rows
        .iter()
        .map(|Row { bounds, wants }| {
            let Bounds { guarantee, ceiling, priority, weight } = *bounds;
            let demand = wants.iter().map(|(_, want)| want.demand).sum();
            Claim { guarantee: guarantee.min(ceiling), ceiling, priority, weight, demand }
        })
        .collect();
    let (mut classes, mut parts): (Vec<Allotment>, Vec<Allotment>) = (Vec::new(), Vec::new());
    allot(pool.capacity - kept, &between_classes, &mut classes);
    let (mut all, mut own) = (0.0, 0.0);
    for (row, class) in rows.iter().zip(&classes) {
        allot(class.rate, &claims(&row.wants), &mut parts);
        for ((gateway, _), part) in row.wants.iter().zip(&parts) {
            all += part.rate;
            own += if *gateway == mine { part.rate } else { 0.0 };
        }
    }
    let free = (pool.capacity - kept - all).max(0.0);
    let capacity = own + short(&wanted[mine]) + free / count as f64;
    let of_class =
        |(row, class): (&Row, &Allotment)| part(class.allowance, count, &row.wants, mine);
    let limits = rows.iter().zip(&classes).take(pool.classes.len()).map(of_class);
    std::iter::once(capacity).chain(limits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WAITS: f64 = f64::INFINITY;

    fn pool(capacity: f64, bounds: &[Bounds]) -> Pool {
        let class = |(key, bounds): (u64, &Bounds)| Shared { key, bounds: *bounds };
        Pool { key: 7, capacity, classes: (0..).zip(bounds).map(class).collect() }
    }

    fn wants(all: &[(u64, f64, f64)]) -> Wants {
        let ways = |demand, weight| [Want { demand, weight }, Want::default()];
        all.iter().map(|(key, demand, weight)| ((7, *key), ways(*demand, *weight))).collect()
    }

    fn class(guarantee: f64, ceiling: f64) -> Bounds {
        Bounds { guarantee, ceiling, ..STRANGER }
    }

    fn near(got: f64, want: f64) {
        assert!((got - want).abs() <= want * 0.011, "{got} for {want}");
    }

    #[test]
    fn a_gateway_alone_has_all_of_it() {
        let pool = pool(100.0, &[class(0.0, 40.0), class(0.0, WAITS)]);
        for told in [wants(&[]), wants(&[(0, WAITS, 3.0), (1, WAITS, 1.0)])] {
            assert_eq!(share(&pool, &[told], 0, 0)[0], 100.0);
        }
        let idle = share(&pool, &[wants(&[])], 0, 0);
        near(idle[1], 40.0);
        near(idle[2], 100.0);
    }

    #[test]
    fn it_goes_to_where_it_is_wanted_by_the_sources_that_wait() {
        let pool = pool(100.0, &[class(0.0, WAITS)]);
        let gateways = [wants(&[(0, WAITS, 3.0)]), wants(&[(0, WAITS, 1.0)]), wants(&[])];
        let shares = [0, 1, 2].map(|mine| share(&pool, &gateways, mine, 0)[0]);
        near(shares[0], 75.0);
        near(shares[1], 25.0);
        assert!(shares[2] > 0.0 && shares[2] < 1.0);
    }

    #[test]
    fn a_guarantee_is_one_over_all_gateways() {
        let pool = pool(100.0, &[class(80.0, WAITS), class(0.0, WAITS)]);
        let gateways = [wants(&[(0, WAITS, 1.0)]), wants(&[(0, WAITS, 1.0), (1, WAITS, 9.0)])];
        let (first, second) = (share(&pool, &gateways, 0, 0), share(&pool, &gateways, 1, 0));
        near(first[1], 45.0);
        near(second[1], 45.0);
        near(second[2], 10.0);
        near(second[0], 55.0);
    }

    #[test]
    fn what_only_others_know_is_counted() {
        let pool = pool(100.0, &[class(0.0, WAITS)]);
        let gateways = [wants(&[(0, WAITS, 1.0)]), wants(&[(99, WAITS, 1.0)])];
        near(share(&pool, &gateways, 0, 0)[0], 50.0);
    }

    fn gateways() -> impl Strategy<Value = Vec<Wants>> {
        let demand = prop_oneof![Just(WAITS), Just(0.0), 0.0..500.0f64];
        let one = (0..6u64, demand, 0..50u8);
        let told = prop::collection::vec(one, 0..6).prop_map(|all| {
            let all: Vec<_> = all.into_iter().map(|(k, d, w)| (k, d, f64::from(w))).collect();
            wants(&all)
        });
        prop::collection::vec(told, 1..8)
    }

    fn bounds() -> impl Strategy<Value = Vec<Bounds>> {
        let ceiling = prop_oneof![Just(WAITS), 20.0..500.0f64];
        let one = (0.0..20.0f64, ceiling, 0..3u8, 1..5u8).prop_map(|(guarantee, ceiling, p, w)| {
            Bounds { guarantee, ceiling, priority: p, weight: f64::from(w) }
        });
        prop::collection::vec(one, 1..5)
    }

    proptest! {
        #[test]
        fn what_holds_for_every_sharing(
            gateways in gateways(),
            bounds in bounds(),
            spare in 1.0..500.0f64,
        ) {
            let guaranteed: f64 = bounds.iter().map(|bounds| bounds.guarantee).sum();
            let pool = pool(guaranteed + spare, &bounds);
            let slack = 1e-6 * pool.capacity;
            // What is kept for those that have not begun.
            let kept = pool.capacity * KEPT_TO_START + slack;
            let all: Vec<Vec<f64>> =
                (0..gateways.len()).map(|mine| share(&pool, &gateways, mine, 0)).collect();
            // All of the pool is somebody's, and none of it twice.
            let total: f64 = all.iter().map(|shares| shares[0]).sum();
            prop_assert!((total - pool.capacity).abs() <= slack, "{total} of {}", pool.capacity);
            // Whoever wants nothing yet may begin.
            let begins = |(gateway, shares): (&Wants, &Vec<f64>)| !gateway.is_empty() || shares[0] > 0.0;
            prop_assert!(gateways.iter().zip(&all).all(begins));
            for (place, class) in bounds.iter().enumerate() {
                let limits = || all.iter().map(|shares| shares[place + 1]);
                prop_assert!(limits().sum::<f64>() <= class.ceiling + slack);
                // What of it can be used here and there: as much as was guaranteed, where it is wanted.
                let wants = |gateway: &Wants| gateway.get(&(7, place as u64)).map_or(0.0, |w| w[0].demand);
                let wanted: f64 = gateways.iter().map(wants).sum();
                let got: f64 =
                    gateways.iter().zip(limits()).map(|(gateway, limit)| wants(gateway).min(limit)).sum();
                let promised = class.guarantee.min(wanted).min(class.ceiling);
                prop_assert!(got >= promised * (1.0 - KEPT_TO_START) - kept, "{got} of {promised}");
                // Fair: of those that want more, none has less for each of its sources than another.
                for (one, a) in gateways.iter().zip(limits()) {
                    for (other, b) in gateways.iter().zip(limits()) {
                        let weight = |g: &Wants| g.get(&(7, place as u64)).map_or(1.0, |w| w[0].weight.max(1.0));
                        if a < wants(one) - kept && wants(other) > 0.0 {
                            prop_assert!(a / weight(one) >= (b.min(wants(other)) - kept) / weight(other) - slack);
                        }
                    }
                }
            }
            // Work-conserving: where a gateway has less than it wants, no other has more than it wants and its start.
            let wanted = |g: &Wants| g.values().map(|w| w[0].demand).sum::<f64>();
            let bounded = bounds.iter().any(|class| class.ceiling.is_finite());
            let in_want = gateways.iter().zip(&all).any(|(g, s)| wanted(g) > s[0] + kept);
            if in_want && !bounded {
                for (gateway, shares) in gateways.iter().zip(&all) {
                    prop_assert!(shares[0] <= wanted(gateway) + kept);
                }
            }
        }
    }
}
