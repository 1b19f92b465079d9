//! Whole links under virtual time: workers with timers of a millisecond, greedy and small flows, and what they got.

use std::sync::Arc;

use egress_shape::{Bounds, Ceiling, Gate, Limit, Nanos, PERIOD, Pace, Plan, Turn};

const MS: Nanos = 1_000_000;
const SECOND: Nanos = 1_000_000_000;
const NO_CEILING: f64 = f64::INFINITY;

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Always has more.
    Bulk,
    /// So many bytes, so often.
    Small(u64, Nanos),
}

#[derive(Debug, Clone)]
struct Flow {
    class: usize,
    worker: usize,
    kind: Kind,
    from: Nanos,
    until: Nanos,
    pace: Pace,
    joined: bool,
    /// Bytes that it has to send, and since when.
    has: u64,
    since: Nanos,
    next: Nanos,
    sent: u64,
    delays: Vec<Nanos>,
}

impl Flow {
    fn bulk(class: usize, worker: usize, source: u64) -> Self {
        Self {
            class,
            worker,
            kind: Kind::Bulk,
            from: 0,
            until: Nanos::MAX,
            pace: Pace::of(source),
            joined: false,
            has: 0,
            since: 0,
            next: 0,
            sent: 0,
            delays: Vec::new(),
        }
    }

    fn small(class: usize, worker: usize, source: u64, bytes: u64, every: Nanos) -> Self {
        Self { kind: Kind::Small(bytes, every), ..Self::bulk(class, worker, source) }
    }

    fn during(self, from: Nanos, until: Nanos) -> Self {
        Self { from, until, ..self }
    }
}

struct World {
    plan: Plan,
    gates: Vec<Vec<Gate>>,
    flows: Vec<Flow>,
    workers: usize,
    now: Nanos,
    /// Bytes of each class in each millisecond.
    log: Vec<Vec<u64>>,
    /// Bytes of each class beyond its guarantee.
    borrowed: Vec<u64>,
    /// Workers come late by up to so many milliseconds.
    late: u64,
    random: u64,
}

impl World {
    fn new(capacity: f64, bounds: Vec<Bounds>, workers: usize, flows: Vec<Flow>) -> Self {
        let classes = bounds.len();
        let plan = Plan::new(capacity, bounds, workers);
        let gate = |class, worker| {
            let mut gate = Gate::new(plan.rate(class, worker));
            gate.follow(&plan);
            gate
        };
        let gates =
            (0..classes).map(|class| (0..workers).map(|w| gate(class, w)).collect()).collect();
        Self {
            plan,
            gates,
            flows,
            workers,
            now: SECOND,
            log: vec![Vec::new(); classes],
            borrowed: vec![0; classes],
            late: 0,
            random: 1,
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.random >> 33) % below
    }

    fn send(&mut self, index: usize, most: u64) {
        let flow = &mut self.flows[index];
        let gate = &mut self.gates[flow.class][flow.worker];
        let bytes = match flow.kind {
            Kind::Bulk => most,
            Kind::Small(..) => flow.has.min(most),
        };
        gate.charge(&mut flow.pace, bytes, self.now);
        flow.sent += bytes;
        if let Some(log) = self.log[flow.class].last_mut() {
            *log += bytes;
        }
        if let Kind::Small(..) = flow.kind {
            flow.has -= bytes;
            if flow.has == 0 {
                flow.delays.push(self.now - flow.since);
            }
        }
    }

    /// A flow that is not waiting sends as long as it may and has something.
    fn pump(&mut self, index: usize) {
        loop {
            let flow = &mut self.flows[index];
            let has = matches!(flow.kind, Kind::Bulk) || flow.has > 0;
            if !flow.joined || !has {
                return;
            }
            let gate = &mut self.gates[flow.class][flow.worker];
            match gate.ask(&mut flow.pace, index as u64, self.now) {
                Turn::Later => return,
                Turn::Now(most) => self.send(index, most),
            }
        }
    }

    fn tick(&mut self) {
        for log in &mut self.log {
            log.push(0);
        }
        for index in 0..self.flows.len() {
            let now = self.now;
            let flow = &mut self.flows[index];
            let gate = &mut self.gates[flow.class][flow.worker];
            if now >= SECOND + flow.from && now < SECOND.saturating_add(flow.until) {
                if !flow.joined {
                    flow.joined = true;
                    flow.next = now;
                    gate.join(&flow.pace);
                    if let Kind::Bulk = flow.kind {
                        self.pump(index);
                        continue;
                    }
                }
                if let Kind::Small(bytes, every) = flow.kind
                    && now >= flow.next
                {
                    if flow.has == 0 {
                        flow.since = now;
                    }
                    flow.has += bytes;
                    flow.next += every;
                    self.pump(index);
                }
            } else if flow.joined {
                flow.joined = false;
                gate.leave(&mut flow.pace);
            }
        }
        for worker in 0..self.workers {
            if self.late > 0 && self.random(8) == 0 {
                // This one does not get its CPU in this millisecond.
                continue;
            }
            for class in 0..self.gates.len() {
                while let Some((token, most)) = self.gates[class][worker].next(self.now) {
                    let index = token as usize;
                    let flow = &mut self.flows[index];
                    if !flow.joined || !flow.pace.waits() {
                        continue;
                    }
                    self.gates[class][worker].begin(&mut flow.pace);
                    self.send(index, most);
                    self.pump(index);
                }
            }
        }
        if self.now.is_multiple_of(PERIOD) {
            for class in 0..self.gates.len() {
                let mut totals = std::collections::HashMap::<u64, usize>::new();
                for gate in &self.gates[class] {
                    for (source, flows) in gate.waiting_sources() {
                        *totals.entry(source).or_default() += flows;
                    }
                }
                for worker in 0..self.workers {
                    let gate = &mut self.gates[class][worker];
                    let waiting = gate.weigh(|source, flows| flows as f64 / totals[&source] as f64);
                    self.plan.tell(class, worker, gate.sent(), waiting);
                }
            }
            self.plan.share_out(self.now, |class, bytes| self.borrowed[class] += bytes);
            for class in 0..self.gates.len() {
                for worker in 0..self.workers {
                    let rate = self.plan.rate(class, worker);
                    self.gates[class][worker].set_rate(rate, self.now);
                    self.gates[class][worker].tidy(self.now);
                }
            }
        }
        self.now += MS;
    }

    fn run(&mut self, time: Nanos) {
        let until = self.now + time;
        while self.now < until {
            self.tick();
        }
    }

    /// Bytes per second of a class between two times, in milliseconds since the start.
    fn rate(&self, class: usize, from: usize, until: usize) -> f64 {
        self.log[class][from..until].iter().sum::<u64>() as f64 * 1000.0 / (until - from) as f64
    }

    /// The worst second of a class: its largest relative error against `rate`.
    fn worst_second(&self, class: usize, rate: f64, from: usize) -> f64 {
        let log = &self.log[class][from..];
        let error = |second: &[u64]| (second.iter().sum::<u64>() as f64 / rate - 1.0).abs();
        log.windows(1000).step_by(50).map(error).fold(0.0, f64::max)
    }

    fn jain(&self, flows: impl Iterator<Item = usize> + Clone) -> f64 {
        let shares = flows.map(|index| self.flows[index].sent as f64);
        let (count, sum) = (shares.clone().count() as f64, shares.clone().sum::<f64>());
        sum * sum / (count * shares.map(|share| share * share).sum::<f64>())
    }

    fn p99(&self, index: usize) -> Nanos {
        let mut delays = self.flows[index].delays.clone();
        delays.sort_unstable();
        delays[delays.len() * 99 / 100]
    }
}

fn ceiling(rate: f64) -> Bounds {
    Bounds { guarantee: 0.0, ceiling: rate, priority: 0, weight: 1.0 }
}

fn class(guarantee: f64) -> Bounds {
    Bounds { guarantee, ceiling: NO_CEILING, priority: 0, weight: 1.0 }
}

fn near(got: f64, want: f64, part: f64) {
    assert!((got / want - 1.0).abs() <= part, "{got:.0} for {want:.0}: {:+.4}", got / want - 1.0);
}

const MBIT: f64 = 125_000.0;

#[test]
fn a_ceiling_is_met_from_slow_to_fast_and_from_one_flow_to_many() {
    for rate in [8_000.0, 10.0 * MBIT, 100.0 * MBIT, 1_000.0 * MBIT, 10_000.0 * MBIT] {
        for (workers, flows) in [(1, 1), (1, 100), (2, 3), (4, 1000)] {
            let all = (0..flows).map(|n| Flow::bulk(0, n % workers, n as u64)).collect();
            let mut world = World::new(NO_CEILING, vec![ceiling(rate)], workers, all);
            world.late = 4;
            world.run(11 * SECOND);
            let turns = 2.0 * 400.0 / rate;
            println!(
                "{rate} {workers} {flows}: {:.4} {:.4}",
                world.rate(0, 1000, 11_000) / rate,
                world.worst_second(0, rate, 1000)
            );
            near(world.rate(0, 1000, 11_000), rate, 0.01_f64.max(turns / 10.0 * workers as f64));
            let worst = world.worst_second(0, rate, 1000);
            // A turn is a fiftieth of a second at most, and a window has one more or less.
            assert!(
                worst <= 0.0201_f64.max(turns * workers as f64),
                "{rate} {workers} {flows}: {worst:.4}"
            );
        }
    }
}

#[test]
fn a_guarantee_holds_against_a_hundred_greedy_flows() {
    for workers in [1, 2] {
        let greedy = (0..100).map(|n| Flow::bulk(1, n % workers, n as u64));
        let all = std::iter::once(Flow::bulk(0, 0, 0)).chain(greedy).collect();
        let link = 100.0 * MBIT;
        let mut world = World::new(link, vec![class(60.0 * MBIT), class(0.0)], workers, all);
        world.run(5 * SECOND);
        // And of the rest each has the same.
        near(world.rate(0, 1000, 5000), 80.0 * MBIT, 0.02);
        near(world.rate(1, 1000, 5000), 20.0 * MBIT, 0.03);
    }
}

#[test]
fn what_is_idle_is_lent_and_given_back_at_once() {
    let owner = Flow::bulk(0, 0, 0).during(2 * SECOND, 4 * SECOND);
    let borrower = Flow::bulk(1, 1, 1);
    let link = 100.0 * MBIT;
    let mut world =
        World::new(link, vec![class(80.0 * MBIT), class(10.0 * MBIT)], 2, vec![owner, borrower]);
    world.run(6 * SECOND);
    near(world.rate(1, 1000, 2000), link, 0.01);
    // 85 and 15 from 100 ms on.
    near(world.rate(0, 2100, 2300), 85.0 * MBIT, 0.05);
    near(world.rate(0, 2100, 4000), 85.0 * MBIT, 0.01);
    near(world.rate(1, 4200, 6000), link, 0.01);
    // Four seconds of ninety beyond its ten, and two of five.
    near(world.borrowed[1] as f64, (4.0 * 90.0 + 2.0 * 5.0) * MBIT, 0.03);
    // Together never more than the link in any second.
    for from in (0..5000).step_by(50) {
        let both = world.rate(0, from, from + 1000) + world.rate(1, from, from + 1000);
        // In the first second each begins with a turn.
        assert!(both <= link * if from < 50 { 1.03 } else { 1.02 }, "{from}: {}", both / link);
    }
}

#[test]
fn a_priority_goes_first_and_weights_share() {
    let bounds =
        |priority, weight| Bounds { guarantee: 0.0, ceiling: NO_CEILING, priority, weight };
    let link = 70.0 * MBIT;
    let all = (0..3).map(|n| Flow::bulk(n, n % 2, n as u64)).collect();
    let mut world = World::new(link, vec![bounds(0, 1.0), bounds(0, 2.0), bounds(0, 4.0)], 2, all);
    world.run(5 * SECOND);
    for (class, share) in [(0, 10.0), (1, 20.0), (2, 40.0)] {
        near(world.rate(class, 1000, 5000), share * MBIT, 0.02);
    }
    let all = (0..2).map(|n| Flow::bulk(n, 0, n as u64)).collect();
    let low = Bounds { guarantee: 5.0 * MBIT, ..bounds(0, 1.0) };
    let mut world = World::new(link, vec![bounds(1, 1.0), low], 1, all);
    world.run(5 * SECOND);
    near(world.rate(0, 1000, 5000), 65.0 * MBIT, 0.01);
    near(world.rate(1, 1000, 5000), 5.0 * MBIT, 0.01);
}

#[test]
fn one_flow_of_a_tenant_has_as_much_as_a_hundred_of_another() {
    for workers in [1, 2] {
        let many = (0..100).map(|n| Flow::bulk(0, n % workers, 7));
        let all = many.chain(std::iter::once(Flow::bulk(0, 0, 8))).collect();
        let mut world = World::new(NO_CEILING, vec![ceiling(50.0 * MBIT)], workers, all);
        world.run(10 * SECOND);
        near(world.flows[100].sent as f64, 25.0 * MBIT * 10.0, 0.05);
        assert!(world.jain(0..100) > 0.99, "{}", world.jain(0..100));
        near(world.rate(0, 1000, 10_000), 50.0 * MBIT, 0.01);
    }
}

#[test]
fn a_small_message_does_not_wait_behind_bulk() {
    for rate in [10.0 * MBIT, 100.0 * MBIT, 1000.0 * MBIT] {
        let small = Flow::small(0, 0, 1, 200, 5 * MS);
        let all = vec![small, Flow::bulk(0, 0, 2), Flow::bulk(0, 0, 3)];
        let mut world = World::new(NO_CEILING, vec![ceiling(rate)], 1, all);
        world.run(10 * SECOND);
        assert!(world.p99(0) < MS, "{rate}: {}", world.p99(0));
        near(world.rate(0, 1000, 10_000), rate, 0.01);
    }
}

#[test]
fn ten_thousand_flows_share_evenly() {
    let all = (0..10_000).map(|n| Flow::bulk(0, n % 4, n as u64)).collect();
    let rate = 10_000.0 * MBIT;
    let mut world = World::new(NO_CEILING, vec![ceiling(rate)], 4, all);
    world.run(5 * SECOND);
    near(world.rate(0, 1000, 5000), rate, 0.01);
    assert!(world.jain(0..10_000) > 0.98, "{}", world.jain(0..10_000));
}

#[test]
fn after_a_pause_no_more_than_the_stated_burst_comes_at_once() {
    let rate = 80.0 * MBIT;
    let flow = Flow::bulk(0, 0, 0).during(3 * SECOND, 5 * SECOND);
    let mut world = World::new(NO_CEILING, vec![ceiling(rate)], 1, vec![flow]);
    world.run(5 * SECOND);
    let first = world.log[0][3000..3001].iter().sum::<u64>() as f64;
    assert!(first <= rate * 0.016 + 4.0 * 262_144.0_f64.min(rate * 0.002), "{first}");
}

#[test]
fn what_a_bursty_owner_does_not_use_is_lent_in_between() {
    let link = 100.0 * MBIT;
    for (bytes, every) in [(50_000, 20 * MS), (5_000, 2 * MS), (500_000, 200 * MS)] {
        let owner = Flow::small(0, 0, 0, bytes, every);
        let all = vec![owner, Flow::bulk(1, 0, 1), Flow::bulk(1, 1, 2)];
        let mut world = World::new(link, vec![class(60.0 * MBIT), class(0.0)], 2, all);
        world.run(6 * SECOND);
        println!("{every}: {:.4}", world.rate(1, 1000, 6000) / (80.0 * MBIT));
        near(world.rate(0, 1000, 6000), 20.0 * MBIT, 0.01);
        near(world.rate(1, 1000, 6000), 80.0 * MBIT, 0.01);
        for from in (1000..5000).step_by(50) {
            let both = world.rate(0, from, from + 1000) + world.rate(1, from, from + 1000);
            assert!((both / link - 1.0).abs() <= 0.02, "{from}: {}", both / link);
        }
    }
}

#[test]
fn a_limit_that_comes_and_goes_holds_while_it_is_there() {
    let link = 100.0 * MBIT;
    let all = (0..2).map(|n| Flow::bulk(n, n, n as u64)).collect();
    let mut world = World::new(link, vec![class(0.0), class(0.0)], 2, all);
    world.run(SECOND);
    world.plan.limit(0, Limit::Budget, MBIT);
    world.plan.limit(0, Limit::Cluster, 30.0 * MBIT);
    world.run(2 * SECOND);
    near(world.rate(0, 2000, 3000), MBIT, 0.03);
    near(world.rate(1, 1200, 3000), 99.0 * MBIT, 0.01);
    world.plan.limit(0, Limit::Budget, NO_CEILING);
    world.run(2 * SECOND);
    near(world.rate(0, 3200, 5000), 30.0 * MBIT, 0.02);
    let seen = world.plan.seen(0);
    near(seen.used, 30.0 * MBIT, 0.2);
    near(seen.allowed, 30.0 * MBIT, 0.1);
    assert!(seen.waiting > 0.0);
    world.plan.limit(0, Limit::Cluster, NO_CEILING);
    world.plan.limit_capacity(40.0 * MBIT);
    world.run(2 * SECOND);
    near(world.rate(0, 5200, 7000), 20.0 * MBIT, 0.02);
    near(world.rate(1, 5200, 7000), 20.0 * MBIT, 0.02);
}

/// Bytes per second of a source from now on.
fn rate_of(world: &mut World, source: u64, time: Nanos) -> f64 {
    let sent = |world: &World| -> u64 {
        let own = world.flows.iter().filter(|flow| flow.pace.source == source);
        own.map(|flow| flow.sent).sum()
    };
    let before = sent(world);
    world.run(time);
    (sent(world) - before) as f64 * SECOND as f64 / time as f64
}

#[test]
fn a_source_above_its_ceiling_sleeps_and_holds_up_nobody() {
    for (flows, workers, slow) in [(1, 1, 8_000.0), (6, 2, MBIT), (40, 4, 0.25 * MBIT)] {
        let held = (0..flows).map(|n| Flow::bulk(0, n % workers, 7));
        let others = (0..workers).map(|worker| Flow::bulk(0, worker, 8));
        let beside = std::iter::once(Flow::bulk(1, 0, 9));
        let all = held.chain(others).chain(beside).collect();
        let link = 100.0 * MBIT;
        let mut world = World::new(link, vec![class(0.0), class(0.0)], workers, all);
        world.late = 4;
        let bound = Arc::new(Ceiling::default());
        for gate in &mut world.gates[0] {
            gate.join(&Pace::of(7));
            gate.bound(7, Some(&bound));
        }
        world.run(SECOND);
        near(rate_of(&mut world, 7, SECOND), 25.0 * MBIT, 0.05);
        bound.set(slow);
        world.run(SECOND);
        let from = world.log[0].len();
        near(rate_of(&mut world, 7, 10 * SECOND), slow, 0.03_f64.max(2.0 * 1448.0 / slow / 10.0));
        // What it may not have goes to the other source of its class, and nothing is lost to the link.
        near(world.rate(0, from, from + 10_000), 50.0 * MBIT, 0.02);
        near(world.rate(1, from, from + 10_000), 50.0 * MBIT, 0.02);
        bound.set(NO_CEILING);
        world.run(500 * MS);
        near(rate_of(&mut world, 7, SECOND), 25.0 * MBIT, 0.08);
    }
}

#[test]
fn what_a_held_source_leaves_is_lent() {
    let all = vec![Flow::bulk(0, 0, 7), Flow::bulk(1, 0, 8)];
    let mut world = World::new(100.0 * MBIT, vec![class(60.0 * MBIT), class(0.0)], 1, all);
    let bound = Arc::new(Ceiling::default());
    world.gates[0][0].join(&Pace::of(7));
    world.gates[0][0].bound(7, Some(&bound));
    bound.set(MBIT);
    world.run(3 * SECOND);
    near(world.rate(0, 1000, 3000), MBIT, 0.03);
    near(world.rate(1, 1000, 3000), 99.0 * MBIT, 0.01);
}

#[test]
fn a_small_message_of_a_held_source_passes_when_its_ceiling_is_paid() {
    let all = vec![Flow::small(0, 0, 7, 200, 50 * MS), Flow::bulk(0, 0, 8)];
    let mut world = World::new(NO_CEILING, vec![ceiling(100.0 * MBIT)], 1, all);
    let bound = Arc::new(Ceiling::default());
    world.gates[0][0].join(&Pace::of(7));
    world.gates[0][0].bound(7, Some(&bound));
    bound.set(8_000.0);
    world.run(10 * SECOND);
    assert!(world.p99(0) < MS, "half of what it may have: {}", world.p99(0));
}

#[test]
fn a_limit_far_below_what_was_sent_is_met_at_once_and_makes_no_silence() {
    for workers in [1, 2] {
        for slow in [4_000.0, 32_000.0, MBIT] {
            let all = (0..4).map(|n| Flow::bulk(0, n % workers, n as u64)).collect();
            let mut world = World::new(1_000.0 * MBIT, vec![class(0.0)], workers, all);
            world.run(SECOND);
            world.plan.limit(0, Limit::Budget, slow);
            world.run(10 * SECOND);
            let turns = 2.0 * 1448.0 * workers as f64;
            // Within a second of it, and from then on.
            near(world.rate(0, 2000, 4000), slow, 0.1_f64.max(turns / (2.0 * slow)));
            near(world.rate(0, 2000, 10_000), slow, 0.03_f64.max(turns / (8.0 * slow)));
        }
    }
}

#[test]
fn what_nothing_bounds_takes_no_turns() {
    let (mut gate, mut pace) = (Gate::new(NO_CEILING), Pace::of(1));
    gate.join(&pace);
    for now in [0, MS, SECOND] {
        assert_eq!(gate.ask(&mut pace, 1, now), Turn::Now(u64::MAX));
        gate.charge(&mut pace, 1 << 30, now);
    }
    let bound = Arc::new(Ceiling::default());
    gate.bound(1, Some(&bound));
    assert_eq!(gate.ask(&mut pace, 1, SECOND), Turn::Now(u64::MAX));
    bound.set(8_000.0);
    gate.charge(&mut pace, 1448, SECOND);
    assert_eq!(gate.ask(&mut pace, 1, SECOND), Turn::Later);
}
