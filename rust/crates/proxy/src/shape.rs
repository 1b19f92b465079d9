//! Shaping: what the policy says of links and classes as plans that all workers share, and a worker's gates of them.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use egress_policy::{Identity, Shaping, ShareBy, Snapshot};
use egress_shape::{Bounds, Gate, Nanos, PERIOD, Pace, Plan, Turn};

/// Directions, as places in pairs.
pub(crate) const UP: usize = 0;
pub(crate) const DOWN: usize = 1;
/// Cells in which the waiting flows of sources are counted over all workers. Two sources in one cell count as if each had
/// the other's flows as well, so this is more than there are sources that wait.
const CELLS: usize = 1 << 16;

/// A class as the workers know it.
#[derive(Debug)]
struct Placed {
    /// Its rule's name, by which it stays the same in the next policy.
    name: Box<str>,
    plan: usize,
    /// Its place there.
    index: usize,
    share_by: ShareBy,
}

/// The links of one policy with their classes, shared by all workers.
#[derive(Debug)]
pub(crate) struct Plans {
    /// One of each link, and a last one for classes without a link; up and down.
    links: Vec<[Plan; 2]>,
    classes: Vec<Placed>,
    /// Waiting flows by source, up and down, where sources may have flows in several workers.
    waiting: Option<[Box<[AtomicU32]>; 2]>,
    /// Where a source is counted is not for it to choose. The same for all policies: so are its flows.
    keys: RandomState,
}

fn bytes(bits: u64) -> f64 {
    bits as f64 / 8.0
}

impl Plans {
    pub(crate) fn new(snapshot: &Snapshot, workers: usize, before: Option<&Self>) -> Self {
        let Shaping { links, classes } = snapshot.shaping();
        let mut bounds: Vec<Vec<Bounds>> = vec![Vec::new(); links.len() + 1];
        let mut placed = Vec::with_capacity(classes.len());
        for class in classes {
            let plan = class.link.unwrap_or(links.len());
            let name = snapshot.rule(class.rule()).map_or("", |rule| rule.name).into();
            let index = bounds[plan].len();
            placed.push(Placed { name, plan, index, share_by: class.share_by });
            bounds[plan].push(Bounds {
                guarantee: bytes(class.guarantee),
                ceiling: class.max.map_or(f64::INFINITY, bytes),
                priority: class.priority as u8,
                weight: class.weight.into(),
            });
        }
        let capacity = links.iter().map(|link| bytes(link.bandwidth)).chain([f64::INFINITY]);
        let plan = |(capacity, bounds): (f64, Vec<Bounds>)| {
            [Plan::new(capacity, bounds.clone(), workers), Plan::new(capacity, bounds, workers)]
        };
        let links = capacity.zip(bounds).map(plan).collect();
        let shared = placed.iter().any(|class| class.share_by == ShareBy::Source) && workers > 1;
        let cells = || (0..CELLS).map(|_| AtomicU32::new(0)).collect();
        let waiting = shared.then(|| [cells(), cells()]);
        let keys = before.map_or_else(RandomState::new, |before| before.keys.clone());
        Self { links, classes: placed, waiting, keys }
    }
}

impl Plans {
    /// The key of a source's share in a class; `None` where each connection has one.
    fn source(&self, class: u32, ip: IpAddr, identity: Option<&Identity>) -> Option<u64> {
        let class = self.classes.get(class as usize)?;
        let share = match identity.and_then(Identity::strongest) {
            Some(identity) => self.keys.hash_one((&class.name, identity)),
            None => self.keys.hash_one((&class.name, ip)),
        };
        (class.share_by == ShareBy::Source).then_some(share)
    }
}

/// What shaping knows of a flow whose rule has `bandwidth`.
#[derive(Debug)]
pub(crate) struct Shaped {
    /// A place in [`Shaper::classes`].
    class: usize,
    paces: [Pace; 2],
    /// Since when it waits for its turn.
    waits_since: [Nanos; 2],
    /// How long it was held back in all.
    pub held_ns: Nanos,
}

/// A worker's gates of one class.
#[derive(Debug)]
struct Class {
    name: Box<str>,
    gates: [Gate; 2],
    /// Bytes that the gates had let through when the plan was new.
    before: [u64; 2],
    /// Its place in the plans; `None` once no rule has it any more.
    placed: Option<usize>,
    flows: usize,
    /// In the list of those that somebody waits at.
    listed: [bool; 2],
    /// Waiting flows by cell that other workers were told of.
    told: [HashMap<usize, u32>; 2],
}

/// A worker's part of shaping.
#[derive(Debug, Default)]
pub(crate) struct Shaper {
    worker: usize,
    plans: Option<Arc<Plans>>,
    classes: Vec<Option<Class>>,
    /// By a class's place in the policy: its place here.
    places: Vec<usize>,
    /// Gates at which somebody waits.
    listed: Vec<(usize, usize)>,
    /// When rates are read and told again.
    due: Nanos,
}

impl Shaper {
    pub(crate) fn new(worker: usize) -> Self {
        Self { worker, ..Self::default() }
    }

    /// Takes a policy's plans: classes of the same rule stay as they are, and so does who waits at them.
    pub(crate) fn install(&mut self, plans: &Arc<Plans>, now: Nanos) {
        let mut known: HashMap<Box<str>, usize> = HashMap::new();
        for (place, class) in self.classes.iter_mut().enumerate() {
            if let Some(class) = class {
                class.placed = None;
                known.insert(class.name.clone(), place);
            }
        }
        self.places.clear();
        for (number, placed) in plans.classes.iter().enumerate() {
            let place = known.get(&placed.name).copied().unwrap_or_else(|| {
                let free = self.classes.iter().position(Option::is_none);
                free.unwrap_or_else(|| {
                    self.classes.push(None);
                    self.classes.len() - 1
                })
            });
            let rate = |way: usize| plans.links[placed.plan][way].rate(placed.index, self.worker);
            let class = self.classes[place].get_or_insert_with(|| Class {
                name: placed.name.clone(),
                gates: [Gate::new(rate(UP)), Gate::new(rate(DOWN))],
                before: [0; 2],
                placed: None,
                flows: 0,
                listed: [false; 2],
                told: Default::default(),
            });
            class.placed = Some(number);
            class.told = Default::default();
            for way in [UP, DOWN] {
                class.before[way] = class.gates[way].sent();
                class.gates[way].set_rate(rate(way), now);
            }
            self.places.push(place);
        }
        self.plans = Some(Arc::clone(plans));
        self.due = 0;
        self.forget();
    }

    /// Classes that no rule has, and no flow is in.
    fn forget(&mut self) {
        for (place, class) in self.classes.iter_mut().enumerate() {
            if class.as_ref().is_some_and(|class| class.placed.is_none() && class.flows == 0) {
                *class = None;
                self.listed.retain(|(listed, _)| *listed != place);
            }
        }
    }

    /// The flow is in this class of the policy from now on, or in none. `connection` is a number of its own.
    pub(crate) fn place(
        &mut self,
        shaped: &mut Option<Box<Shaped>>,
        class: Option<u32>,
        ip: IpAddr,
        identity: Option<&Identity>,
        connection: u64,
    ) {
        let place = class.and_then(|class| self.places.get(class as usize).copied());
        let source = class.and_then(|class| self.plans.as_ref()?.source(class, ip, identity));
        let source = source.unwrap_or(connection);
        let stays =
            |shaped: &Shaped| Some(shaped.class) == place && shaped.paces[UP].source == source;
        if shaped.as_deref().map_or(place.is_none(), stays) {
            return;
        }
        let held_ns = shaped.as_ref().map_or(0, |shaped| shaped.held_ns);
        self.leave(shaped);
        let Some(place) = place else { return };
        let pace = Pace::of(source);
        if let Some(Some(class)) = self.classes.get_mut(place) {
            class.flows += 1;
            for gate in &mut class.gates {
                gate.join(&pace);
            }
            let (paces, waits_since) = ([pace; 2], [0; 2]);
            *shaped = Some(Box::new(Shaped { class: place, paces, waits_since, held_ns }));
        }
    }

    /// The flow ends, or is shaped no more.
    pub(crate) fn leave(&mut self, shaped: &mut Option<Box<Shaped>>) {
        let Some(mut shaped) = shaped.take() else { return };
        if let Some(Some(class)) = self.classes.get_mut(shaped.class) {
            class.flows -= 1;
            for (gate, pace) in class.gates.iter_mut().zip(&mut shaped.paces) {
                gate.leave(pace);
            }
        }
    }

    /// Lets `go` read as much as the flow's class allows, which is all where it has none. `turn`: bytes that the flow has
    /// waited for. `go` leaves what it has not read, and gives `spent` when it could read more.
    pub(crate) fn let_through<R: PartialEq>(
        &mut self,
        shaped: Option<&mut Shaped>,
        (way, turn, token, now): (usize, u64, u64, Nanos),
        (spent, waits): (R, R),
        mut go: impl FnMut(&mut u64) -> R,
    ) -> R {
        let Some(shaped) = shaped else { return go(&mut { u64::MAX }) };
        let mut credit = turn;
        loop {
            let before = credit;
            let gone = go(&mut credit);
            if before > credit {
                self.charge(shaped, way, before - credit, now);
            }
            if gone != spent {
                return gone;
            }
            match self.ask(shaped, way, token, now) {
                Turn::Now(bytes) => credit = bytes,
                Turn::Later => return waits,
            }
        }
    }

    /// May the flow send? Where not, it is told when it may.
    fn ask(&mut self, shaped: &mut Shaped, way: usize, token: u64, now: Nanos) -> Turn {
        let Some(Some(class)) = self.classes.get_mut(shaped.class) else {
            return Turn::Now(u64::MAX);
        };
        let waited = shaped.paces[way].waits();
        let turn = class.gates[way].ask(&mut shaped.paces[way], token, now);
        if turn == Turn::Later && !waited {
            shaped.waits_since[way] = now;
            if !std::mem::replace(&mut class.listed[way], true) {
                self.listed.push((shaped.class, way));
            }
        }
        turn
    }

    fn charge(&mut self, shaped: &mut Shaped, way: usize, bytes: u64, now: Nanos) {
        if let Some(Some(class)) = self.classes.get_mut(shaped.class) {
            class.gates[way].charge(&mut shaped.paces[way], bytes, now);
        }
    }

    /// The flow's turn has come, if it is the one that has waited.
    pub(crate) fn begin(&mut self, shaped: &mut Shaped, way: usize, now: Nanos) -> bool {
        let Some(Some(class)) = self.classes.get_mut(shaped.class) else { return false };
        if !shaped.paces[way].waits() {
            return false;
        }
        class.gates[way].begin(&mut shaped.paces[way]);
        shaped.held_ns += now.saturating_sub(shaped.waits_since[way]);
        true
    }

    /// Gates at which somebody waits, from `from` on.
    pub(crate) fn listed(&self, from: usize) -> Option<(usize, usize)> {
        self.listed.get(from).copied()
    }

    /// Whose turn it is at a gate, and how many bytes that is.
    pub(crate) fn next(&mut self, (class, way): (usize, usize), now: Nanos) -> Option<(u64, u64)> {
        self.classes.get_mut(class)?.as_mut()?.gates[way].next(now)
    }

    /// Takes gates off the list at which nobody waits.
    pub(crate) fn unlist(&mut self) {
        let classes = &mut self.classes;
        self.listed.retain(|&(place, way)| {
            let Some(Some(class)) = classes.get_mut(place) else { return false };
            class.listed[way] = class.gates[way].wakes_at().is_some();
            class.listed[way]
        });
    }

    /// When the worker is to look again; `None` while nobody waits.
    pub(crate) fn wakes_at(&self) -> Option<Nanos> {
        let at =
            |&(place, way): &(usize, usize)| self.classes[place].as_ref()?.gates[way].wakes_at();
        self.listed.iter().filter_map(at).min().map(|at| at.min(self.due))
    }

    /// Tells the plans what was sent, and takes the rates that they give, if it is time to.
    pub(crate) fn share(&mut self, now: Nanos) {
        let Some(plans) = self.plans.clone().filter(|_| now >= self.due) else { return };
        self.due = now + PERIOD;
        if plans.classes.is_empty() {
            return;
        }
        for class in self.classes.iter_mut().flatten() {
            let Some(placed) = class.placed.and_then(|place| plans.classes.get(place)) else {
                continue;
            };
            for way in [UP, DOWN] {
                let told = &mut class.told[way];
                let mut now_waiting = HashMap::new();
                let by_source = placed.share_by == ShareBy::Source;
                let shared = plans.waiting.as_ref().filter(|_| by_source).map(|cells| &cells[way]);
                let waiting = class.gates[way].weigh(|source, flows| {
                    let Some(cells) = shared else { return 1.0 };
                    let flows = u32::try_from(flows).unwrap_or(u32::MAX);
                    let at = source as usize % cells.len();
                    let before = told.remove(&at).unwrap_or(0);
                    *now_waiting.entry(at).or_insert(0) += flows;
                    let change = flows.wrapping_sub(before);
                    let total = cells[at].fetch_add(change, Relaxed).wrapping_add(change);
                    f64::from(flows) / f64::from(total.max(flows))
                });
                if let Some(cells) = shared {
                    for (at, before) in told.drain() {
                        cells[at].fetch_sub(before, Relaxed);
                    }
                }
                *told = now_waiting;
                let sent = class.gates[way].sent() - class.before[way];
                plans.links[placed.plan][way].tell(placed.index, self.worker, sent, waiting);
            }
        }
        for plan in plans.links.iter().flatten() {
            plan.share_out(now);
        }
        for class in self.classes.iter_mut().flatten() {
            let Some(placed) = class.placed.and_then(|place| plans.classes.get(place)) else {
                continue;
            };
            for way in [UP, DOWN] {
                let rate = plans.links[placed.plan][way].rate(placed.index, self.worker);
                class.gates[way].set_rate(rate, now);
                class.gates[way].tidy(now);
            }
        }
    }
}
