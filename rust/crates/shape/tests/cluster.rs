//! Several gateways and a store under virtual time: they join and die, and the store goes away and comes back.

use std::collections::BTreeMap;

use egress_shape::{
    Bounds, Heard, LEASE, Limit, Member, Meter, Nanos, PERIOD, Plan, Pool, ROUND, Shared, Told,
    Want, Wants, told,
};

const MS: Nanos = 1_000_000;
const SECOND: Nanos = 1_000_000_000;
const LINK: f64 = 1e8;
const ALL: f64 = f64::INFINITY;
const REPLICAS: usize = 3;

/// What each class of a gateway would send in a second, and from how many sources.
type Load = Vec<(f64, f64)>;

#[derive(Debug)]
struct Gateway {
    plan: Plan,
    member: Member,
    meters: Vec<Meter>,
    sent: Vec<f64>,
    load: Load,
    next: Nanos,
    /// When it was last looked at what is wanted, and what that was.
    told: (Nanos, Wants),
    alive: bool,
    /// Bytes of all classes in each hundredth of a second.
    log: Vec<f64>,
}

#[derive(Debug, Default)]
struct Store {
    away: bool,
    round: u64,
    /// Until when, in which round, and what was told.
    members: BTreeMap<usize, (Nanos, u64, Vec<u8>)>,
}

struct World {
    now: Nanos,
    pool: Pool,
    gateways: Vec<Gateway>,
    store: Store,
}

fn class(guarantee: f64, ceiling: f64, priority: u8) -> Bounds {
    Bounds { guarantee, ceiling, priority, weight: 1.0 }
}

impl World {
    fn new(bounds: &[Bounds]) -> Self {
        let shared = |(key, bounds): (u64, &Bounds)| Shared { key, bounds: *bounds };
        let classes = (0..).zip(bounds).map(shared).collect();
        let pool = Pool { key: 0, capacity: LINK, classes };
        Self { now: SECOND, pool, gateways: Vec::new(), store: Store::default() }
    }

    fn join(&mut self, load: Load) -> usize {
        let bounds = self.pool.classes.iter().map(|class| class.bounds).collect();
        let mut member = Member::new(self.now);
        member.set_terms(REPLICAS, vec![self.pool.clone()], self.now);
        let plan = Plan::new(LINK, bounds, 1);
        // As in a gateway: nothing is sent before the limits are there.
        let classes = self.pool.classes.len();
        // Rounds of different gateways come at different times.
        let next = self.now + (self.gateways.len() as Nanos * 37) % 90 * MS;
        let mut gateway = Gateway {
            plan,
            member,
            meters: vec![Meter::default(); classes],
            sent: vec![0.0; classes],
            load,
            next,
            told: (0, Wants::new()),
            alive: true,
            log: vec![0.0; ((self.now - SECOND) / PERIOD) as usize],
        };
        gateway.apply(self.now);
        gateway.plan.share_out(self.now, |_, _| {});
        self.gateways.push(gateway);
        self.gateways.len() - 1
    }

    fn tick(&mut self) {
        for (id, gateway) in self.gateways.iter_mut().enumerate() {
            gateway.log.push(0.0);
            if gateway.alive {
                gateway.send(self.now);
                if self.now >= gateway.next {
                    let answer = self.store.round(id, gateway.wants(self.now), self.now);
                    if let Some(heard) = answer {
                        gateway.member.hear(self.now, self.now, heard);
                    }
                    gateway.apply(self.now);
                    gateway.next = self.now + gateway.member.pace();
                }
            }
        }
        self.now += PERIOD;
    }

    fn run(&mut self, time: Nanos) {
        let until = self.now + time;
        while self.now < until {
            self.tick();
        }
    }

    /// Bytes per second of one gateway, or of all, between two times in milliseconds from the start.
    fn rate(&self, gateway: Option<usize>, from: usize, until: usize) -> f64 {
        let (from, until) = (from / 10, until / 10);
        let one = |gateway: &Gateway| gateway.log[from..until].iter().sum::<f64>();
        let all = self.gateways.iter().enumerate();
        let chosen = all.filter(|(id, _)| gateway.is_none_or(|wanted| wanted == *id));
        chosen.map(|(_, gateway)| one(gateway)).sum::<f64>() * 100.0 / (until - from) as f64
    }

    /// The largest rate of all together over any tenth of a second, in which what a gateway has not used of its part for a
    /// hundredth may come at once; and over any second.
    fn most(&self, limit: f64) {
        let end = self.gateways[0].log.len() * 10;
        for (window, over) in [(100, 1.12), (1000, 1.01)] {
            for from in (0..end - window).step_by(10) {
                let rate = self.rate(None, from, from + window) / limit;
                assert!(rate <= over, "{rate:.3} of the limit in the {window} ms from {from} on");
            }
        }
    }
}

impl Gateway {
    fn send(&mut self, now: Nanos) {
        for (class, (load, sources)) in self.load.iter().enumerate() {
            let rate = self.plan.rate(class, 0);
            let bytes = load.min(rate) * PERIOD as f64 / SECOND as f64;
            self.sent[class] += bytes;
            let waiting = if *load > rate { *sources } else { 0.0 };
            if let Some(log) = self.log.last_mut() {
                *log += bytes;
            }
            self.plan.tell(class, 0, self.sent[class] as u64, waiting);
        }
        self.plan.share_out(now, |_, _| {});
    }

    fn wants(&mut self, now: Nanos) -> Wants {
        if now < self.told.0 + ROUND {
            return self.told.1.clone();
        }
        let want = |(class, meter): (usize, &mut Meter)| {
            let seen = self.plan.seen(class);
            let want = meter.want(now, self.sent[class] as u64, seen, ALL);
            ((0, class as u64), [want, Want::default()])
        };
        let wants: Wants = self.meters.iter_mut().enumerate().map(want).collect();
        self.told = (now, wants.clone());
        wants
    }

    fn apply(&mut self, now: Nanos) {
        let shares = self.member.keep(now).to_vec();
        self.plan.limit_capacity(shares[0]);
        for class in 0..self.meters.len() {
            self.plan.limit(class, Limit::Cluster, shares[class + 1]);
        }
    }
}

impl Store {
    fn round(&mut self, id: usize, wants: Wants, now: Nanos) -> Option<Heard> {
        if self.away {
            return None;
        }
        self.members.retain(|_, (until, ..)| *until > now);
        self.round += 1;
        let bytes = told::write(&wants);
        let before = self.members.insert(id, (now + LEASE, self.round, bytes));
        let told = |(_, (_, round, bytes)): (&usize, &(Nanos, u64, Vec<u8>))| {
            Some(Told { round: *round, wants: told::read(bytes)? })
        };
        let others = self.members.iter().filter(|(other, _)| **other != id).filter_map(told);
        Some(Heard {
            round: self.round,
            was_known: before.is_some(),
            others: others.collect(),
            mine: wants,
        })
    }
}

fn near(got: f64, want: f64, part: f64) {
    assert!((got / want - 1.0).abs() <= part, "{got:.0} for {want:.0}: {:+.4}", got / want - 1.0);
}

#[test]
fn it_follows_demand_from_one_gateway_to_another() {
    let mut world = World::new(&[class(0.0, ALL, 0)]);
    let (a, b) = (world.join(vec![(ALL, 1.0)]), world.join(vec![(0.0, 1.0)]));
    world.run(4 * SECOND);
    near(world.rate(Some(a), 3000, 4000), LINK, 0.01);
    world.gateways[b].load = vec![(ALL, 3.0)];
    world.run(3 * SECOND);
    near(world.rate(Some(b), 4300, 7000), LINK * 0.75, 0.02);
    world.gateways[a].load = vec![(LINK / 10.0, 1.0)];
    world.run(3 * SECOND);
    near(world.rate(Some(a), 7300, 10_000), LINK * 0.1, 0.01);
    near(world.rate(None, 7300, 10_000), LINK, 0.03);
    world.most(LINK);
}

#[test]
fn whoever_joins_has_its_part_at_once_and_the_limit_holds() {
    let mut world = World::new(&[class(0.0, LINK / 2.0, 0)]);
    for _ in 0..2 {
        world.join(vec![(ALL, 1.0)]);
    }
    world.run(4 * SECOND);
    near(world.rate(None, 3000, 4000), LINK / 2.0, 0.01);
    let third = world.join(vec![(ALL, 1.0)]);
    world.run(4 * SECOND);
    near(world.rate(Some(third), 4300, 8000), LINK / 6.0, 0.02);
    near(world.rate(None, 4300, 8000), LINK / 2.0, 0.01);
    world.most(LINK / 2.0);
}

#[test]
fn the_share_of_whoever_dies_is_back_within_two_seconds() {
    let mut world = World::new(&[class(0.0, ALL, 0)]);
    for _ in 0..3 {
        world.join(vec![(ALL, 1.0)]);
    }
    world.run(4 * SECOND);
    near(world.rate(Some(0), 3000, 4000), LINK / 3.0, 0.01);
    world.gateways[2].alive = false;
    world.run(5 * SECOND);
    near(world.rate(None, 5750, 9000), LINK, 0.01);
    near(world.rate(Some(0), 5750, 9000), LINK / 2.0, 0.01);
    world.most(LINK);
}

#[test]
fn while_the_store_is_away_each_keeps_a_safe_share() {
    let mut world = World::new(&[class(0.0, ALL, 0)]);
    for load in [ALL, 0.0, ALL] {
        world.join(vec![(load, 1.0)]);
    }
    world.run(4 * SECOND);
    near(world.rate(Some(0), 3000, 4000), LINK / 2.0, 0.01);
    world.store.away = true;
    world.run(10 * SECOND);
    for id in [0, 2] {
        near(world.rate(Some(id), 6000, 14_000), LINK / REPLICAS as f64, 0.01);
    }
    // It has lost everything, and one gateway finds the way back late.
    world.store = Store::default();
    world.gateways[2].next += SECOND;
    world.run(6 * SECOND);
    near(world.rate(None, 17_500, 20_000), LINK, 0.01);
    world.most(LINK);
}

#[test]
fn a_store_that_forgets_everything_lets_nobody_exceed_the_limit() {
    let mut world = World::new(&[class(0.0, ALL, 0)]);
    for _ in 0..2 {
        world.join(vec![(ALL, 1.0)]);
    }
    world.run(4 * SECOND);
    world.store = Store::default();
    world.run(4 * SECOND);
    world.most(LINK);
    // Until all would have come back, none has more than the safe share.
    near(world.rate(None, 4500, 5800), LINK * 2.0 / REPLICAS as f64, 0.01);
    near(world.rate(None, 6500, 8000), LINK, 0.01);
}

#[test]
fn a_gateway_that_starts_without_a_store_has_its_safe_share() {
    let mut world = World::new(&[class(0.0, ALL, 0)]);
    world.store.away = true;
    world.join(vec![(ALL, 1.0)]);
    world.run(3 * SECOND);
    near(world.rate(None, 2000, 3000), LINK / REPLICAS as f64, 0.01);
}

#[test]
fn a_guarantee_that_is_lent_to_another_gateway_comes_back() {
    let mut world = World::new(&[class(LINK * 0.8, ALL, 0), class(0.0, ALL, 1)]);
    let owner = world.join(vec![(0.0, 1.0), (0.0, 1.0)]);
    let greedy = world.join(vec![(0.0, 1.0), (ALL, 50.0)]);
    world.run(4 * SECOND);
    near(world.rate(Some(greedy), 3000, 4000), LINK, 0.01);
    world.gateways[owner].load[0] = (ALL, 1.0);
    world.run(3 * SECOND);
    near(world.rate(Some(owner), 4300, 7000), LINK * 0.8, 0.02);
    near(world.rate(None, 4300, 7000), LINK, 0.01);
    world.most(LINK);
}

#[test]
fn whatever_happens_the_limit_holds() {
    for seed in 1..=40 {
        let mut world = World::new(&[class(LINK * 0.3, ALL, 0), class(0.0, LINK / 2.0, 0)]);
        let mut random: u64 = seed;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) % below
        };
        let load = |next: &mut dyn FnMut(u64) -> u64| {
            let mut one = || match next(3) {
                0 => (0.0, 1.0),
                1 => (LINK / (1 + next(20)) as f64, 1.0),
                _ => (ALL, (1 + next(50)) as f64),
            };
            vec![one(), one()]
        };
        for _ in 0..30 {
            let alive: Vec<usize> =
                (0..world.gateways.len()).filter(|id| world.gateways[*id].alive).collect();
            match next(5) {
                0 if alive.len() < REPLICAS => {
                    world.join(load(&mut next));
                }
                1 if alive.len() > 1 => world.gateways[alive[0]].alive = false,
                2 => world.store.away = !world.store.away,
                3 if next(4) == 0 => world.store = Store::default(),
                _ => {
                    if let Some(id) = alive.last() {
                        world.gateways[*id].load = load(&mut next);
                    }
                }
            }
            world.run(next(4000) * MS);
        }
        if !world.gateways.is_empty() {
            world.most(LINK);
        }
    }
}
