//! Who gets how much of a capacity: guarantees first, then what is left by priority and, within one, by weight.
//!
//! The semantics are those of HTB (tc-htb(8)): a guarantee is what a class gets whenever it wants it; what others leave is
//! lent, up to its ceiling. Within a priority the rest is shared weighted max-min: nobody gets more than it wants, and
//! nobody who wants more has less per weight than another.

/// What one of several asks for. Rates are in bytes per second, and may be infinite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Claim {
    pub guarantee: f64,
    pub ceiling: f64,
    /// Of two, the higher one is lent to first.
    pub priority: u8,
    pub weight: f64,
    /// What it would send; infinite where it waits to send more.
    pub demand: f64,
}

/// What it gets.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Allotment {
    /// Its share. The shares of all come to the capacity at most.
    pub rate: f64,
    /// What its share would come to if it wanted more from now on: at least `rate`, and of one that waits just that.
    pub allowance: f64,
}

impl Claim {
    fn wants(&self) -> f64 {
        self.demand.min(self.ceiling).max(0.0)
    }

    fn base(&self) -> f64 {
        self.guarantee.min(self.wants())
    }
}

/// Shares `capacity` out; `out` has one allotment for each claim. Guarantees of more than the capacity are cut in
/// proportion.
pub fn allot(capacity: f64, claims: &[Claim], out: &mut Vec<Allotment>) {
    out.clear();
    if let [claim] = claims {
        let (rate, allowance) = (claim.wants().min(capacity), claim.ceiling.min(capacity).max(0.0));
        return out.push(Allotment { rate, allowance });
    }
    let asked: f64 = claims.iter().map(Claim::base).sum();
    let cut = if asked > capacity { capacity / asked } else { 1.0 };
    out.extend(claims.iter().map(|claim| {
        let rate = claim.base() * cut;
        Allotment { rate, allowance: rate }
    }));
    let mut left = (capacity - asked * cut).max(0.0);
    let mut order: Vec<usize> = (0..claims.len()).collect();
    // By priority; within one, who is content with the least per weight comes first.
    let content = |index: usize| (claims[index].wants() - out[index].rate) / claims[index].weight;
    let keys: Vec<f64> = (0..claims.len()).map(content).collect();
    order.sort_by(|&a, &b| {
        claims[b].priority.cmp(&claims[a].priority).then(keys[a].total_cmp(&keys[b]))
    });
    // Priority, level, and what is borrowed there and, later, below.
    let mut tiers: Vec<(u8, f64, f64)> = Vec::new();
    for tier in order.chunk_by(|&a, &b| claims[a].priority == claims[b].priority) {
        let mut weights: f64 = tier.iter().map(|&index| claims[index].weight).sum();
        let mut level = f64::INFINITY;
        for &index in tier {
            let share = left / weights;
            if keys[index] > share {
                level = share;
                break;
            }
            out[index].rate += keys[index] * claims[index].weight;
            left -= keys[index] * claims[index].weight;
            weights -= claims[index].weight;
        }
        if level.is_finite() {
            for &index in tier.iter().filter(|&&index| keys[index] > level) {
                out[index].rate += level * claims[index].weight;
            }
            left = 0.0;
        }
        let lent = |&index: &usize| out[index].rate - claims[index].base() * cut;
        tiers.push((claims[tier[0]].priority, level, tier.iter().map(lent).sum()));
    }
    let mut below = 0.0;
    for (_, _, borrowed) in tiers.iter_mut().rev() {
        below += std::mem::replace(borrowed, below);
    }
    let left = left.max(0.0);
    for (index, claim) in claims.iter().enumerate() {
        let rate = out[index].rate;
        let tier = tiers.iter().find(|(priority, ..)| *priority == claim.priority);
        let more = match tier {
            Some((_, level, _)) if level.is_finite() => claim.guarantee + level * claim.weight,
            // Nobody of its priority is short: it would be lent what is left, and what those below it have borrowed.
            Some((.., borrowed)) => rate + left + borrowed,
            None => rate,
        };
        out[index].allowance =
            more.max(claim.guarantee * cut).max(rate).min(claim.ceiling.max(0.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WAITS: f64 = f64::INFINITY;

    fn claim(guarantee: f64, ceiling: f64, priority: u8, weight: f64, demand: f64) -> Claim {
        Claim { guarantee, ceiling, priority, weight, demand }
    }

    fn rates(capacity: f64, claims: &[Claim]) -> Vec<f64> {
        let mut out = Vec::new();
        allot(capacity, claims, &mut out);
        out.iter().map(|allotment| allotment.rate).collect()
    }

    #[test]
    fn guarantees_come_first_and_the_rest_by_weight() {
        let all = [
            claim(10.0, WAITS, 0, 1.0, WAITS),
            claim(0.0, WAITS, 0, 1.0, WAITS),
            claim(0.0, WAITS, 0, 2.0, WAITS),
        ];
        assert_eq!(rates(50.0, &all), [20.0, 10.0, 20.0]);
    }

    #[test]
    fn what_is_not_wanted_is_lent_and_a_ceiling_holds() {
        let all = [
            claim(30.0, WAITS, 0, 1.0, 5.0),
            claim(0.0, 20.0, 0, 1.0, WAITS),
            claim(0.0, WAITS, 0, 1.0, WAITS),
        ];
        assert_eq!(rates(60.0, &all), [5.0, 20.0, 35.0]);
    }

    #[test]
    fn a_higher_priority_is_lent_to_first_but_no_guarantee_is_touched() {
        let all = [claim(5.0, WAITS, 1, 1.0, WAITS), claim(10.0, WAITS, 0, 1.0, WAITS)];
        assert_eq!(rates(100.0, &all), [90.0, 10.0]);
    }

    #[test]
    fn who_is_idle_may_begin_at_its_guarantee_or_its_share() {
        let mut out = Vec::new();
        let all = [
            claim(40.0, WAITS, 0, 1.0, 0.0),
            claim(0.0, WAITS, 0, 1.0, WAITS),
            claim(0.0, WAITS, 1, 1.0, 0.0),
        ];
        allot(100.0, &all, &mut out);
        assert_eq!(out[0].rate, 0.0);
        assert!(out[0].allowance >= 40.0);
        assert_eq!(out[1].rate, 100.0);
        // Above the one that has borrowed all.
        assert_eq!(out[2].allowance, 100.0);
    }

    fn claims() -> impl Strategy<Value = Vec<Claim>> {
        let demand = prop_oneof![Just(WAITS), Just(0.0), 0.0..500.0f64];
        let ceiling = prop_oneof![Just(WAITS), 1.0..500.0f64];
        let one = (0.0..100.0f64, ceiling, 0..3u8, 1..5u8, demand);
        prop::collection::vec(one, 1..12).prop_map(|all| {
            let make = |(guarantee, ceiling, priority, weight, demand): (f64, f64, u8, u8, f64)| {
                claim(guarantee.min(ceiling), ceiling, priority, f64::from(weight), demand)
            };
            all.into_iter().map(make).collect()
        })
    }

    proptest! {
        #[test]
        fn what_holds_for_every_allotment(claims in claims(), spare in 0.0..1000.0f64) {
            let guaranteed: f64 = claims.iter().map(|claim| claim.guarantee).sum();
            let capacity = guaranteed + spare;
            let slack = 1e-6 * capacity.max(1.0);
            let mut out = Vec::new();
            allot(capacity, &claims, &mut out);
            let total: f64 = out.iter().map(|one| one.rate).sum();
            let wanted: f64 = claims.iter().map(Claim::wants).sum();
            prop_assert!(total <= capacity + slack);
            // Work-conserving.
            prop_assert!(total >= capacity.min(wanted) - slack);
            for (claim, got) in claims.iter().zip(&out) {
                prop_assert!(got.rate <= claim.wants() + slack);
                prop_assert!(got.rate >= claim.base() - slack);
                prop_assert!(got.allowance <= claim.ceiling + slack);
                prop_assert!(got.allowance >= got.rate - slack);
                prop_assert!(got.allowance >= claim.guarantee.min(claim.ceiling) - slack);
            }
            for (a, got) in claims.iter().zip(&out) {
                for (b, other) in claims.iter().zip(&out) {
                    let short = got.rate < a.wants() - slack;
                    let lent = (got.rate - a.base(), other.rate - b.base());
                    // Nobody below borrows while one above is short; beside it nobody has more per weight.
                    if short && b.priority < a.priority {
                        prop_assert!(lent.1 <= slack);
                    }
                    if short && b.priority == a.priority {
                        prop_assert!(lent.1 / b.weight <= lent.0 / a.weight + slack);
                    }
                }
            }
        }
    }
}
