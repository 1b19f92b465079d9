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
    /// Of a part of a class: of a worker, or of a gateway. Its weight is how many sources want it there.
    pub fn part(demand: f64, weight: f64) -> Self {
        let weight = if weight > 0.0 { weight } else { 1.0 };
        Self { guarantee: 0.0, ceiling: f64::INFINITY, priority: 0, weight, demand }
    }

    fn wants(&self) -> f64 {
        self.demand.min(self.ceiling).max(0.0)
    }

    fn base(&self) -> f64 {
        self.guarantee.min(self.wants())
    }
}

/// What somebody who has claimed nothing may begin with, beside those that have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Open {
    /// The part of guarantees that there is room for.
    cut: f64,
    /// By priority: what each has per weight where somebody is short; infinite where nobody is.
    levels: [f64; PRIORITIES],
    /// By priority: what is left, and what lower ones have borrowed.
    spare: [f64; PRIORITIES],
}

/// How many priorities there are, from 0.
pub const PRIORITIES: usize = 3;

impl Open {
    /// Where nobody has claimed anything.
    pub fn whole(capacity: f64) -> Self {
        Self { cut: 1.0, levels: [f64::INFINITY; PRIORITIES], spare: [capacity; PRIORITIES] }
    }

    /// For words that others read one by one: what they mix of two moments is a bound of either.
    pub(crate) fn words(self) -> [f64; 1 + 2 * PRIORITIES] {
        let ([low, normal, high], [left, below, all]) = (self.levels, self.spare);
        [self.cut, low, normal, high, left, below, all]
    }

    pub(crate) fn of_words(words: [f64; 1 + 2 * PRIORITIES]) -> Self {
        let [cut, low, normal, high, left, below, all] = words;
        Self { cut, levels: [low, normal, high], spare: [left, below, all] }
    }

    /// What a share of `rate` would come to if its owner wanted more.
    pub fn allowance(&self, claim: &Claim, rate: f64) -> f64 {
        let priority = usize::from(claim.priority).min(PRIORITIES - 1);
        let level = self.levels[priority];
        let more = if level.is_finite() {
            claim.guarantee + level * claim.weight
        } else {
            // Nobody of its priority is short: it would be lent what is left, and what those below it have borrowed.
            rate + self.spare[priority]
        };
        more.max(claim.guarantee * self.cut).max(rate).min(claim.ceiling.max(0.0))
    }
}

/// Shares `capacity` out; `out` has one allotment for each claim. Guarantees of more than the capacity are cut in
/// proportion.
pub fn allot(capacity: f64, claims: &[Claim], out: &mut Vec<Allotment>) -> Open {
    out.clear();
    if capacity.is_infinite() {
        // Nothing is to be shared.
        let each = |claim: &Claim| Allotment { rate: claim.wants(), allowance: claim.ceiling };
        out.extend(claims.iter().map(each));
        return Open::whole(capacity);
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
    let mut open = Open { cut, ..Open::whole(0.0) };
    let mut behind = Vec::new();
    let mut borrowed = [0.0; PRIORITIES];
    for tier in order.chunk_by(|&a, &b| claims[a].priority == claims[b].priority) {
        // Summed from behind: what is left of a sum when most of it has been taken off is no sum of the rest.
        let weights = tier.iter().rev().scan(0.0, |sum, &index| {
            *sum += claims[index].weight;
            Some(*sum)
        });
        behind.clear();
        behind.extend(weights);
        let mut level = f64::INFINITY;
        for (&index, weights) in tier.iter().zip(behind.iter().rev()) {
            let share = left / weights;
            if level.is_infinite() && keys[index] > share {
                level = share;
            }
            // From the first that is short on: who was content with as much may not be so by a rounding.
            if level.is_finite() {
                out[index].rate += level * claims[index].weight;
            } else {
                out[index].rate += keys[index] * claims[index].weight;
                left -= keys[index] * claims[index].weight;
            }
        }
        if level.is_finite() {
            left = 0.0;
        }
        let lent = |&index: &usize| out[index].rate - claims[index].base() * cut;
        let priority = usize::from(claims[tier[0]].priority).min(PRIORITIES - 1);
        open.levels[priority] = level;
        borrowed[priority] = tier.iter().map(lent).sum();
    }
    let mut below = left.max(0.0);
    for (spare, borrowed) in open.spare.iter_mut().zip(borrowed) {
        *spare = below;
        below += borrowed;
    }
    for (claim, share) in claims.iter().zip(out) {
        share.allowance = open.allowance(claim, share.rate);
    }
    open
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
        // Those that claim nothing need not be there: it comes to the same for them.
        let mut fewer = Vec::new();
        let open = allot(100.0, &all[1..2], &mut fewer);
        assert_eq!(fewer[0].rate, 100.0);
        for idle in [0, 2] {
            assert_eq!(open.allowance(&all[idle], 0.0), out[idle].allowance);
        }
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

    #[test]
    fn two_that_are_just_content_are_not_served_twice() {
        // Found by fuzzing: one had its 50,000, the other was short of them by a rounding, and then both were served.
        for weight in [1.004_791_259_765_625, 1.1, 3.3] {
            let all = [claim(0.0, WAITS, 0, weight, 50_000.0); 2];
            let total: f64 = rates(100_000.0, &all).iter().sum();
            assert!((total - 100_000.0).abs() < 1e-3, "{weight}: {total}");
        }
    }

    #[test]
    fn weights_far_apart_share_no_more_than_there_is() {
        for small in [1e-3, 1e-7, 1e-9] {
            let all = [claim(0.0, WAITS, 0, 1e9, 1.0), claim(0.0, WAITS, 0, small, WAITS)];
            assert_eq!(rates(100.0, &all), [1.0, 99.0]);
        }
    }

    #[test]
    fn of_what_has_no_end_each_has_its_ceiling() {
        let all = [claim(0.0, WAITS, 0, 1.0, WAITS), claim(0.0, 20.0, 0, 1.0, WAITS)];
        let mut out = Vec::new();
        let open = allot(f64::INFINITY, &all, &mut out);
        let allowed: Vec<f64> = out.iter().map(|one| one.allowance).collect();
        assert_eq!(allowed, [WAITS, 20.0]);
        assert_eq!(open.allowance(&all[1], 0.0), 20.0);
    }

    proptest! {
        #[test]
        fn what_holds_for_every_allotment(claims in claims(), spare in 0.0..1000.0f64) {
            let idle = |claim: &Claim| claim.wants() == 0.0;
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
            // Who wants nothing changes nothing for anybody, and may begin with the same whether or not it is listed.
            let (wanting, mut without): (Vec<Claim>, _) =
                (claims.iter().copied().filter(|claim| !idle(claim)).collect(), Vec::new());
            let open = allot(capacity, &wanting, &mut without);
            let mut without = without.into_iter();
            for (claim, got) in claims.iter().zip(&out) {
                let alone = if idle(claim) {
                    Allotment { rate: 0.0, allowance: open.allowance(claim, 0.0) }
                } else {
                    without.next().unwrap()
                };
                prop_assert!((alone.rate - got.rate).abs() <= slack);
                prop_assert!((alone.allowance - got.allowance).abs() <= slack, "{alone:?} {got:?}");
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
