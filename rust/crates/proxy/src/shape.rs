//! Shaping: what the policy says of links and classes as plans that all workers share, and a worker's gates of them.

mod plans;

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use egress_policy::Identity;
use egress_shape::{Ceiling, Gate, Nanos, PERIOD, Pace, Turn};

pub(crate) use self::plans::{HELD_BOUNDS_MS, Placed, Plans, Waits, bounds_of, bytes};
use self::plans::{Totals, place_of};

/// Directions, as places in pairs.
pub(crate) const UP: usize = 0;
pub(crate) const DOWN: usize = 1;
/// What shaping knows of a flow whose rule has `bandwidth`.
#[derive(Debug)]
pub(crate) struct Shaped {
    /// A place in [`Shaper::classes`].
    class: usize,
    paces: [Pace; 2],
    /// Since when it waits for its turn.
    waits_since: [Nanos; 2],
}

impl Shaped {
    pub(crate) fn is_of(&self, class: usize) -> bool {
        self.class == class
    }

    /// For its turn, in one direction.
    pub(crate) fn waits(&self, way: usize) -> bool {
        self.paces[way].waits()
    }
}

/// How long a flow was held back, up and down, and by whose class the last time.
#[derive(Debug, Default)]
pub(crate) struct HeldBack {
    pub ns: [Nanos; 2],
    pub by: Option<Rc<str>>,
}

/// What other threads have been told of a gate.
#[derive(Debug, Default)]
struct Told {
    sent: u64,
    waiting: u32,
    /// By cell.
    sources: HashMap<usize, u32>,
}

/// A worker's gates of one class.
#[derive(Debug)]
struct Class {
    name: Rc<str>,
    gates: [Gate; 2],
    /// Bytes that the gates had let through when the plan was new.
    before: [u64; 2],
    /// Its place in the plans; `None` once no rule has it any more.
    placed: Option<usize>,
    flows: usize,
    /// In the list of those that somebody waits at.
    listed: [bool; 2],
    told: [Told; 2],
    told_flows: usize,
    /// In the list of those that have something to tell.
    stirred: bool,
    /// Turns that were waited for since the totals were told of them.
    held: [Waits<u32>; 2],
    held_ns: [Nanos; 2],
    totals: Arc<Totals>,
}

fn add(word: &AtomicU64, change: u64) {
    if change != 0 {
        word.fetch_add(change, Relaxed);
    }
}

/// Tells the workers how many flows of each source wait here, and the gate which part of each source's that is; how many
/// sources that comes to.
fn weigh(gate: &mut Gate, told: &mut HashMap<usize, u32>, cells: &[AtomicU32]) -> f64 {
    let mut now_waiting = HashMap::new();
    let waiting = gate.weigh(|source, flows| {
        let flows = u32::try_from(flows).unwrap_or(u32::MAX);
        let at = source as usize % cells.len();
        let before = told.remove(&at).unwrap_or(0);
        *now_waiting.entry(at).or_insert(0) += flows;
        let change = flows.wrapping_sub(before);
        let total = cells[at].fetch_add(change, Relaxed).wrapping_add(change);
        f64::from(flows) / f64::from(total.max(flows))
    });
    for (at, before) in told.drain() {
        cells[at].fetch_sub(before, Relaxed);
    }
    *told = now_waiting;
    waiting
}

impl Class {
    /// Adds to the totals what has changed since the last time. Gauges take a difference, which may wrap.
    fn tell(&mut self) {
        let flows = std::mem::replace(&mut self.told_flows, self.flows);
        add(&self.totals.flows, (self.flows as u64).wrapping_sub(flows as u64));
        for (way, total) in self.totals.ways.iter().enumerate() {
            let (gate, told) = (&self.gates[way], &mut self.told[way]);
            add(&total.bytes, gate.sent() - std::mem::replace(&mut told.sent, gate.sent()));
            let waiting = std::mem::replace(&mut told.waiting, gate.waiting());
            add(&total.waiting, u64::from(gate.waiting()).wrapping_sub(waiting.into()));
            let held_ns = std::mem::take(&mut self.held_ns[way]);
            if held_ns > 0 {
                add(&total.held_ns, held_ns);
                for (total, held) in total.held.iter().zip(&mut self.held[way]) {
                    add(total, std::mem::take(held).into());
                }
            }
        }
    }

    /// Tells the plan what was sent, and of whom something waits.
    fn tell_plan(&mut self, plans: &Plans, worker: usize) {
        let Some(placed) = self.placed.and_then(|place| plans.classes.get(place)) else { return };
        let joins = placed.share_by.joins();
        for way in [UP, DOWN] {
            let cells = plans.waiting.as_ref().filter(|_| joins).map(|cells| &cells[way]);
            let gate = &mut self.gates[way];
            let waiting = match cells {
                Some(cells) => weigh(gate, &mut self.told[way].sources, cells),
                None => gate.parties(),
            };
            let sent = gate.sent() - self.before[way];
            plans.links[placed.plan][way].tell(placed.index, worker, sent, waiting);
        }
    }

    fn take_rates(&mut self, plans: &Plans, worker: usize, now: Nanos) {
        let Some(placed) = self.placed.and_then(|place| plans.classes.get(place)) else { return };
        for (gate, plan) in self.gates.iter_mut().zip(&plans.links[placed.plan]) {
            gate.set_rate(plan.rate(placed.index, worker), now);
        }
    }

    /// From now on its totals are these; those of the same rule before are, too.
    fn count_in(&mut self, totals: &Arc<Totals>) {
        if Arc::ptr_eq(&self.totals, totals) {
            return;
        }
        self.tell();
        self.totals = Arc::clone(totals);
        self.told_flows = 0;
        for told in &mut self.told {
            told.waiting = 0;
        }
    }
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
    /// Classes of which others do not know yet what has changed here: that nobody waits any more, say. The others cost
    /// nothing.
    stirred: Vec<usize>,
}

impl Shaper {
    pub(crate) fn new(worker: usize) -> Self {
        Self { worker, ..Self::default() }
    }

    /// Takes a policy's plans: classes of the same rule stay as they are, and so does who waits at them.
    pub(crate) fn install(&mut self, plans: &Arc<Plans>, now: Nanos) {
        let mut known: HashMap<Rc<str>, usize> = HashMap::new();
        for (place, class) in self.classes.iter_mut().enumerate() {
            if let Some(class) = class {
                class.placed = None;
                known.insert(Rc::clone(&class.name), place);
            }
        }
        self.places.clear();
        for (number, placed) in plans.classes.iter().enumerate() {
            let place = known.get(&*placed.name).copied().unwrap_or_else(|| {
                let free = self.classes.iter().position(Option::is_none);
                free.unwrap_or_else(|| {
                    self.classes.push(None);
                    self.classes.len() - 1
                })
            });
            let rate = |way: usize| plans.links[placed.plan][way].rate(placed.index, self.worker);
            let class = self.classes[place].get_or_insert_with(|| Class {
                name: Rc::from(&*placed.name),
                gates: [Gate::new(rate(UP)), Gate::new(rate(DOWN))],
                before: [0; 2],
                placed: None,
                flows: 0,
                listed: [false; 2],
                told: Default::default(),
                told_flows: 0,
                stirred: false,
                held: Default::default(),
                held_ns: [0; 2],
                totals: Arc::clone(&placed.totals),
            });
            class.placed = Some(number);
            class.count_in(&placed.totals);
            for way in [UP, DOWN] {
                class.told[way].sources.clear();
                // The part that was told last may be of other workers' flows.
                class.gates[way].weigh(|_, _| 1.0);
                class.before[way] = class.gates[way].sent();
                class.gates[way].follow(&plans.links[placed.plan][way]);
                class.gates[way].set_rate(rate(way), now);
            }
            self.places.push(place);
        }
        self.plans = Some(Arc::clone(plans));
        self.due = 0;
        self.forget();
        // Others know nothing of the new plans yet.
        let stirred = |(_, class): &(usize, &mut Class)| class.flows > 0 || class.stirred;
        let all = self.classes.iter_mut().enumerate();
        let all = all.filter_map(|(place, class)| Some((place, class.as_mut()?)));
        self.stirred.clear();
        self.stirred.extend(all.filter(stirred).map(|(place, class)| {
            class.stirred = true;
            place
        }));
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

    /// A class that has something to tell, with the rates that it has by now.
    fn stir(&mut self, place: usize, now: Nanos) -> Option<&mut Class> {
        let class = self.classes.get_mut(place)?.as_mut()?;
        if !std::mem::replace(&mut class.stirred, true) {
            self.stirred.push(place);
            if let Some(plans) = &self.plans {
                class.take_rates(plans, self.worker, now);
            }
        }
        Some(class)
    }

    /// The flow is in this class of the policy from now on, or in none. `connection` is a number of its own.
    pub(crate) fn place(
        &mut self,
        (shaped, held_back): (&mut Option<Box<Shaped>>, &mut HeldBack),
        now: Nanos,
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
        self.leave(shaped, held_back, now);
        let Some(place) = place else { return };
        let pace = Pace::of(source);
        if let Some(class) = self.stir(place, now) {
            class.flows += 1;
            for gate in &mut class.gates {
                gate.join(&pace);
            }
            let (paces, waits_since) = ([pace; 2], [0; 2]);
            *shaped = Some(Box::new(Shaped { class: place, paces, waits_since }));
        }
    }

    /// The flow's source has no more than this, up and down.
    pub(crate) fn bound(&mut self, shaped: Option<&Shaped>, ceilings: Option<&[Arc<Ceiling>; 2]>) {
        let Some(shaped) = shaped else { return };
        if let Some(Some(class)) = self.classes.get_mut(shaped.class) {
            for way in [UP, DOWN] {
                let ceiling = ceilings.map(|ceilings| &ceilings[way]);
                class.gates[way].bound(shaped.paces[way].source, ceiling);
            }
        }
    }

    /// The flow ends, or is shaped no more.
    pub(crate) fn leave(
        &mut self,
        shaped: &mut Option<Box<Shaped>>,
        held_back: &mut HeldBack,
        now: Nanos,
    ) {
        let Some(mut shaped) = shaped.take() else { return };
        for way in [UP, DOWN] {
            self.held_until_now(&shaped, held_back, way, now);
        }
        if let Some(class) = self.stir(shaped.class, now) {
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
        let Some(class) = self.stir(shaped.class, now) else { return Turn::Now(u64::MAX) };
        let waited = shaped.waits(way);
        let turn = class.gates[way].ask(&mut shaped.paces[way], token, now);
        if turn == Turn::Later && !waited {
            shaped.waits_since[way] = now;
            if !std::mem::replace(&mut class.listed[way], true) {
                self.listed.push((shaped.class, way));
            }
        }
        turn
    }

    /// What went without being asked for is paid for all the same.
    pub(crate) fn owe(&mut self, shaped: Option<&mut Shaped>, way: usize, bytes: u64, now: Nanos) {
        if let (Some(shaped), 1..) = (shaped, bytes) {
            self.charge(shaped, way, bytes, now);
        }
    }

    fn charge(&mut self, shaped: &mut Shaped, way: usize, bytes: u64, now: Nanos) {
        if let Some(class) = self.stir(shaped.class, now) {
            class.gates[way].charge(&mut shaped.paces[way], bytes, now);
        }
    }

    /// The flow's turn has come, if it is the one that has waited.
    pub(crate) fn begin(
        &mut self,
        shaped: &mut Shaped,
        held_back: &mut HeldBack,
        way: usize,
        now: Nanos,
    ) -> bool {
        if !self.held_until_now(shaped, held_back, way, now) {
            return false;
        }
        if let Some(Some(class)) = self.classes.get_mut(shaped.class) {
            class.gates[way].begin(&mut shaped.paces[way]);
        }
        true
    }

    /// Counts the time that the flow has waited; `false` where it does not wait.
    fn held_until_now(
        &mut self,
        shaped: &Shaped,
        held_back: &mut HeldBack,
        way: usize,
        now: Nanos,
    ) -> bool {
        let Some(Some(class)) = self.classes.get_mut(shaped.class) else { return false };
        if !shaped.waits(way) {
            return false;
        }
        let held_ns = now.saturating_sub(shaped.waits_since[way]);
        held_back.ns[way] += held_ns;
        held_back.by = Some(Rc::clone(&class.name));
        class.held_ns[way] += held_ns;
        class.held[way][place_of(held_ns)] += 1;
        true
    }

    /// How many gates there are at which somebody waits.
    pub(crate) fn waiting_gates(&self) -> usize {
        self.listed.len()
    }

    /// These, from `from` on.
    pub(crate) fn listed(&self, from: usize) -> Option<(usize, usize)> {
        self.listed.get(from).copied()
    }

    /// Whose turn it is at a gate, and how many bytes that is.
    pub(crate) fn next(&mut self, (class, way): (usize, usize), now: Nanos) -> Option<(u64, u64)> {
        self.classes.get_mut(class)?.as_mut()?.gates[way].next(now)
    }

    /// Takes gates off the list at which nobody waits; those behind the first `had` are the next to have turns.
    pub(crate) fn unlist(&mut self, had: usize) {
        let had = had.min(self.listed.len());
        self.listed.rotate_left(had);
        let classes = &mut self.classes;
        self.listed.retain(|&(place, way)| {
            let Some(Some(class)) = classes.get_mut(place) else { return false };
            class.listed[way] = class.gates[way].wakes_at().is_some();
            class.listed[way]
        });
    }

    /// When the worker is to look again; `None` while nobody waits, and others know so.
    pub(crate) fn wakes_at(&self) -> Option<Nanos> {
        let at =
            |&(place, way): &(usize, usize)| self.classes[place].as_ref()?.gates[way].wakes_at();
        let turns = self.listed.iter().filter_map(at).min();
        // A period late at the most: mostly there is a turn by then, and one wake-up serves both.
        let due = (!self.stirred.is_empty()).then_some(self.due + PERIOD);
        turns.into_iter().chain(due).min()
    }

    /// Tells the plans what was sent, and takes the rates that they give, if it is time to.
    pub(crate) fn share(&mut self, now: Nanos) {
        if now < self.due {
            return;
        }
        let Some(plans) = self.plans.clone() else { return };
        self.due = now + PERIOD;
        let classes = &mut self.classes;
        for &place in &self.stirred {
            if let Some(class) = &mut classes[place] {
                class.tell();
                class.tell_plan(&plans, self.worker);
            }
        }
        plans.share_out(now);
        self.stirred.retain(|&place| {
            let Some(class) = classes[place].as_mut() else { return false };
            class.take_rates(&plans, self.worker, now);
            class.stirred = false;
            for gate in &mut class.gates {
                gate.tidy(now);
                class.stirred |= !gate.is_settled(now);
            }
            class.stirred
        });
    }
}
