//! The rates of all classes of a link, shared out anew every few milliseconds: between the classes, and of each class
//! between the workers. In between, nobody shares anything: each worker has a bucket of its own for each class.

use std::sync::Mutex;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::allot::{Allotment, Claim, Open, PRIORITIES, allot};
use crate::bucket::Nanos;
use crate::gate::{LEAST_TURN, SMALL_ALONE, SMALL_TURN, turn_bytes};

/// How often rates are shared out.
pub const PERIOD: Nanos = 10_000_000;
/// What was sent beyond a rate is taken off it over this time.
const REPAID_IN: f64 = 0.1;
/// What was left over of a link, though somebody waited, is used within this time.
const USED_IN: f64 = 0.05;
/// What is not sent now is kept for this time, or a turn.
const KEPT: f64 = 0.012;
/// A rate that falls to less than one in so many is another one, not the same that follows what is left to share.
const FALLEN: f64 = 2.0;
/// What is used is a mean over some periods, in which an earlier one counts so much less than the next: who sends in bursts
/// is lent to others in between.
const FADE: f64 = 0.7;

/// The bounds of one class, in bytes per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    pub guarantee: f64,
    /// Infinite where only the link bounds it.
    pub ceiling: f64,
    pub priority: u8,
    pub weight: f64,
}

/// What a worker and the plan tell each other of a class. On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Cell {
    /// Bytes so far.
    sent: AtomicU64,
    /// How much of the class's waiting sources is here; 0 while none waits.
    waiting: AtomicU64,
    /// What this worker may send: bytes per second.
    rate: AtomicU64,
}

/// What bounds a class beside the policy, and may change from one moment to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Limit {
    /// Its part of what all gateways of a cluster have together.
    Cluster,
    /// A budget is used up.
    Budget,
}

const LIMITS: usize = 2;

/// A class as it was when rates were last shared out. Rates are in bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Seen {
    /// What it sent lately.
    pub used: f64,
    /// What it may send if it wants to.
    pub allowed: f64,
    /// Of all workers: its sources that wait, each counted once.
    pub waiting: f64,
}

/// The same for all workers to read.
#[derive(Debug, Default)]
struct Shown {
    /// It takes part in what is shared out.
    awake: AtomicBool,
    used: AtomicU64,
    allowed: AtomicU64,
    waiting: AtomicU64,
}

#[derive(Debug, Clone, Default)]
struct Before {
    sent: u64,
    used: f64,
}

/// Bytes per second that are as good as nothing.
const NOTHING: f64 = 1.0;

/// What was sent beyond a rate, or less than it within what is kept.
#[derive(Debug, Clone, Copy, Default)]
struct Debt {
    bytes: f64,
    /// By which it was counted the last time.
    rate: f64,
}

impl Debt {
    fn add(&mut self, sent: f64, rate: f64, seconds: f64, small: f64) {
        if rate < self.rate / FALLEN {
            // What went while it was allowed is no debt.
            self.bytes = 0.0;
        } else if rate.is_finite() {
            self.bytes = (self.bytes + sent - rate * seconds).max(-kept(rate, small));
        }
        self.rate = rate;
    }

    /// What was kept for somebody who did not come is for those that waited meanwhile: soon, and without a burst. Where
    /// nobody waited, it is nobody's.
    fn left_over(&mut self, waited: bool) -> f64 {
        if !waited {
            self.bytes = self.bytes.max(0.0);
        }
        (-self.bytes).max(0.0) / USED_IN
    }

    /// The rate at which it is repaid. Turns that are longer than a period, and those that come late, are no debt.
    fn corrected(self, rate: f64, turns: f64, small: f64) -> f64 {
        (rate - (self.bytes - turns - kept(rate, small)).max(0.0) / REPAID_IN).max(rate / 10.0)
    }
}

/// Bytes that are kept at a rate.
fn kept(rate: f64, small: f64) -> f64 {
    (rate * KEPT).max(turn_bytes(rate, small))
}

fn word(rate: f64) -> AtomicU64 {
    AtomicU64::new(rate.to_bits())
}

fn read(word: &AtomicU64) -> f64 {
    f64::from_bits(word.load(Relaxed))
}

#[derive(Debug)]
struct State {
    at: Nanos,
    /// Classes that have something to send, or had lately; the others cost nothing.
    awake: Vec<usize>,
    /// By class: until when its debt is known.
    known: Vec<Nanos>,
    link_debt: Debt,
    class_debts: Vec<Debt>,
    before: Vec<Before>,
    claims: Vec<Claim>,
    shares: Vec<Allotment>,
    workers: Vec<Claim>,
    worker_shares: Vec<Allotment>,
}

/// One direction of a link with its classes.
#[derive(Debug)]
pub struct Plan {
    workers: usize,
    /// By class, and within one by worker.
    cells: Box<[Cell]>,
    /// By class; `Limit` says which is which.
    limits: Box<[[AtomicU64; LIMITS]]>,
    bounds: Vec<Bounds>,
    /// What the link has by the policy.
    whole: f64,
    /// Bits of classes of which a worker has told something new.
    stirred: Box<[AtomicU64]>,
    /// By which those that are not awake may begin.
    open: [AtomicU64; 1 + 2 * PRIORITIES],
    /// What the link has, where it has less than the policy says.
    capacity: AtomicU64,
    shown: Box<[Shown]>,
    due: AtomicU64,
    state: Mutex<State>,
}

impl Plan {
    /// `capacity` in bytes per second; infinite for classes that share no link.
    pub fn new(capacity: f64, bounds: Vec<Bounds>, workers: usize) -> Self {
        let classes = bounds.len();
        let cells: Box<[Cell]> = (0..classes * workers).map(|_| Cell::default()).collect();
        let plan = Self {
            workers,
            cells,
            limits: (0..classes).map(|_| std::array::from_fn(|_| word(f64::INFINITY))).collect(),
            bounds,
            whole: capacity,
            stirred: (0..classes.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            open: Open::whole(capacity).words().map(word),
            capacity: word(f64::INFINITY),
            shown: (0..classes).map(|_| Shown::default()).collect(),
            due: AtomicU64::new(0),
            state: Mutex::new(State {
                at: 0,
                awake: Vec::new(),
                known: vec![0; classes],
                link_debt: Debt::default(),
                class_debts: vec![Debt::default(); classes],
                before: vec![Before::default(); classes * workers],
                claims: Vec::new(),
                shares: Vec::new(),
                workers: Vec::new(),
                worker_shares: Vec::new(),
            }),
        };
        plan.share_out(0, |_, _| {});
        plan
    }

    /// Bytes up to which a turn is a long one.
    pub(crate) fn small_turn(&self) -> f64 {
        if self.whole.is_finite() { SMALL_TURN } else { SMALL_ALONE }
    }

    /// Bounds a class by so many bytes per second from now on; infinity bounds nothing.
    pub fn limit(&self, class: usize, limit: Limit, rate: f64) {
        self.limits[class][limit as usize].store(rate.to_bits(), Relaxed);
    }

    /// What bounds a class now beside the policy.
    pub fn limit_of(&self, class: usize, limit: Limit) -> f64 {
        read(&self.limits[class][limit as usize])
    }

    /// The link has so many bytes per second from now on, or what the policy says, whichever is less. Guarantees shrink
    /// with it.
    pub fn limit_capacity(&self, rate: f64) {
        self.capacity.store(rate.to_bits(), Relaxed);
    }

    /// A class as it was when rates were last shared out.
    pub fn seen(&self, class: usize) -> Seen {
        let Shown { awake, used, allowed, waiting } = &self.shown[class];
        let allowed = if awake.load(Relaxed) { read(allowed) } else { self.open_to(class) };
        Seen { used: read(used), allowed, waiting: read(waiting) }
    }

    /// What the link has now.
    fn capacity(&self) -> f64 {
        self.whole.min(read(&self.capacity))
    }

    /// What a class is guaranteed of that: its part of the whole link.
    fn guarantee(&self, class: usize, capacity: f64) -> f64 {
        let here = if capacity < self.whole { capacity / self.whole } else { 1.0 };
        self.bounds[class].guarantee * here
    }

    /// The ceiling of a class, whoever has set it.
    fn ceiling(&self, class: usize) -> f64 {
        let least = |least: f64, limit: &AtomicU64| least.min(read(limit));
        self.limits[class].iter().fold(self.bounds[class].ceiling, least)
    }

    /// What a class that is not awake may begin with.
    fn open_to(&self, class: usize) -> f64 {
        let Bounds { priority, weight, .. } = self.bounds[class];
        let ceiling = self.ceiling(class);
        let guarantee = self.guarantee(class, self.capacity()).min(ceiling);
        let claim = Claim { guarantee, ceiling, priority, weight, demand: 0.0 };
        Open::of_words(std::array::from_fn(|at| read(&self.open[at]))).allowance(&claim, 0.0)
    }

    fn cell(&self, class: usize, worker: usize) -> &Cell {
        &self.cells[class * self.workers + worker]
    }

    /// What a worker has sent so far in a class, and how many of the sources that wait in it are the worker's.
    pub fn tell(&self, class: usize, worker: usize, sent: u64, waiting: f64) {
        let cell = self.cell(class, worker);
        cell.sent.store(sent, Relaxed);
        cell.waiting.store(waiting.to_bits(), Release);
        self.stirred[class / 64].fetch_or(1 << (class % 64), Release);
    }

    /// What a worker may send in a class now, in bytes per second.
    pub fn rate(&self, class: usize, worker: usize) -> f64 {
        if self.shown[class].awake.load(Acquire) {
            read(&self.cell(class, worker).rate)
        } else {
            self.open_to(class)
        }
    }

    /// Shares out if it is time to; any worker may ask, and one of them does it. `borrowed` is told how many bytes a class
    /// has sent beyond its guarantee since the last time.
    pub fn share_out(&self, now: Nanos, borrowed: impl FnMut(usize, u64)) {
        if now < self.due.load(Acquire) {
            return;
        }
        let Ok(mut state) = self.state.try_lock() else { return };
        if now < self.due.load(Acquire) {
            return;
        }
        self.due.store(now + PERIOD, Release);
        self.share(&mut state, now, borrowed);
    }

    /// Classes of which something was told are awake from now on.
    fn wake(&self, state: &mut State, now: Nanos) {
        for (word, stirred) in self.stirred.iter().enumerate() {
            let mut bits = stirred.swap(0, Acquire);
            while bits != 0 {
                let class = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                if !self.shown[class].awake.load(Relaxed) {
                    state.awake.push(class);
                    // What it has just told is of this period.
                    let asleep = state.at.saturating_sub(state.known[class]) as f64 / 1e9;
                    state.class_debts[class].add(
                        0.0,
                        self.ceiling(class),
                        asleep,
                        self.small_turn(),
                    );
                    state.known[class] = now;
                }
            }
        }
    }

    fn share(&self, state: &mut State, now: Nanos, mut borrowed: impl FnMut(usize, u64)) {
        self.wake(state, now);
        let seconds = (now.saturating_sub(state.at).max(1)) as f64 / 1e9;
        state.at = now;
        state.claims.clear();
        let fade = FADE.powf(seconds / (PERIOD as f64 / 1e9));
        let (mut sent_in_all, mut waited) = (0.0, false);
        let capacity = self.capacity();
        let small = self.small_turn();
        let turns = 2.0 * LEAST_TURN * self.workers as f64;
        for &class in &state.awake {
            let bounds = &self.bounds[class];
            let (mut demand, mut sent, mut used, mut waiting) = (0.0, 0.0, 0.0, 0.0);
            for worker in 0..self.workers {
                let cell = self.cell(class, worker);
                let waits = f64::from_bits(cell.waiting.load(Acquire));
                let total = cell.sent.load(Relaxed);
                let before = &mut state.before[class * self.workers + worker];
                let bytes = total.wrapping_sub(before.sent) as f64;
                before.sent = total;
                before.used = before.used * fade + bytes / seconds * (1.0 - fade);
                demand += if waits > 0.0 { f64::INFINITY } else { before.used };
                sent += bytes;
                used += before.used;
                waiting += waits;
            }
            waited |= waiting > 0.0;
            let beyond = sent - bounds.guarantee * seconds;
            if beyond >= 1.0 {
                borrowed(class, beyond as u64);
            }
            self.shown[class].used.store(used.to_bits(), Relaxed);
            self.shown[class].waiting.store(waiting.to_bits(), Relaxed);
            let ceiling = self.ceiling(class);
            state.known[class] = now;
            state.class_debts[class].add(sent, ceiling, seconds, small);
            sent_in_all += sent;
            let ceiling = state.class_debts[class].corrected(ceiling, turns, small);
            let Bounds { priority, weight, .. } = *bounds;
            let guarantee = self.guarantee(class, capacity).min(ceiling);
            state.claims.push(Claim { guarantee, ceiling, priority, weight, demand });
        }
        state.link_debt.add(sent_in_all, capacity, seconds, small);
        let capacity = state.link_debt.left_over(waited)
            + state.link_debt.corrected(capacity, turns * state.awake.len() as f64, small);
        let open = allot(capacity, &state.claims, &mut state.shares);
        for (word, value) in self.open.iter().zip(open.words()) {
            word.store(value.to_bits(), Relaxed);
        }
        for (&class, share) in state.awake.iter().zip(&state.shares) {
            state.workers.clear();
            for worker in 0..self.workers {
                let waiting = f64::from_bits(self.cell(class, worker).waiting.load(Relaxed));
                let used = state.before[class * self.workers + worker].used;
                let demand = if waiting > 0.0 { f64::INFINITY } else { used };
                state.workers.push(Claim::part(demand, waiting));
            }
            self.shown[class].allowed.store(share.allowance.to_bits(), Relaxed);
            allot(share.allowance, &state.workers, &mut state.worker_shares);
            for worker in 0..self.workers {
                let rate = state.worker_shares[worker].allowance;
                self.cell(class, worker).rate.store(rate.to_bits(), Relaxed);
            }
            self.shown[class].awake.store(true, Release);
        }
        self.let_sleep(state);
    }

    /// Who has sent nothing for some time and waits for nothing costs nothing from now on.
    fn let_sleep(&self, state: &mut State) {
        state.awake.retain(|&class| {
            let Shown { awake, used, waiting, .. } = &self.shown[class];
            let stays = read(used) >= NOTHING || read(waiting) > 0.0;
            if !stays {
                used.store(0, Relaxed);
                state.before[class * self.workers..][..self.workers]
                    .iter_mut()
                    .for_each(|before| before.used = 0.0);
                awake.store(false, Release);
            }
            stays
        });
    }
}
