//! The rates of all classes of a link, shared out anew every few milliseconds: between the classes, and of each class
//! between the workers. In between, nobody shares anything: each worker has a bucket of its own for each class.

use std::sync::Mutex;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::allot::{Allotment, Claim, allot};
use crate::bucket::Nanos;
use crate::gate::LEAST_TURN;

/// How often rates are shared out.
pub const PERIOD: Nanos = 10_000_000;
/// What was sent beyond a rate is taken off it over this time.
const REPAID_IN: f64 = 0.1;
/// What is not sent now is kept for this time.
const KEPT: f64 = 0.012;
/// Of what was used before, this part is expected after a period without use.
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

#[derive(Debug, Clone, Default)]
struct Before {
    sent: u64,
    used: f64,
}

/// What was sent beyond a rate, or less than it within what is kept.
#[derive(Debug, Clone, Copy, Default)]
struct Debt(f64);

impl Debt {
    fn add(&mut self, sent: f64, rate: f64, seconds: f64) {
        if rate.is_finite() {
            self.0 = (self.0 + sent - rate * seconds).max(-rate * KEPT);
        }
    }

    /// The rate at which it is repaid. Turns that are longer than a period, and those that come late, are no debt.
    fn corrected(self, rate: f64, turns: f64) -> f64 {
        (rate - (self.0 - turns - rate * KEPT).max(0.0) / REPAID_IN).max(rate / 10.0)
    }
}

#[derive(Debug)]
struct State {
    at: Nanos,
    bounds: Vec<Bounds>,
    capacity: f64,
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
            due: AtomicU64::new(0),
            state: Mutex::new(State {
                at: 0,
                bounds,
                capacity,
                link_debt: Debt::default(),
                class_debts: vec![Debt::default(); classes],
                before: vec![Before::default(); classes * workers],
                claims: Vec::new(),
                shares: Vec::new(),
                workers: Vec::new(),
                worker_shares: Vec::new(),
            }),
        };
        plan.share_out(0);
        plan
    }

    fn cell(&self, class: usize, worker: usize) -> &Cell {
        &self.cells[class * self.workers + worker]
    }

    /// What a worker has sent so far in a class, and how many of the sources that wait in it are the worker's.
    pub fn tell(&self, class: usize, worker: usize, sent: u64, waiting: f64) {
        let cell = self.cell(class, worker);
        cell.sent.store(sent, Relaxed);
        cell.waiting.store(waiting.to_bits(), Release);
    }

    /// What a worker may send in a class now, in bytes per second.
    pub fn rate(&self, class: usize, worker: usize) -> f64 {
        f64::from_bits(self.cell(class, worker).rate.load(Relaxed))
    }

    /// Shares out if it is time to; any worker may ask, and one of them does it.
    pub fn share_out(&self, now: Nanos) {
        if now < self.due.load(Acquire) {
            return;
        }
        let Ok(mut state) = self.state.try_lock() else { return };
        if now < self.due.load(Acquire) {
            return;
        }
        self.due.store(now + PERIOD, Release);
        self.share(&mut state, now);
    }

    fn share(&self, state: &mut State, now: Nanos) {
        let seconds = (now.saturating_sub(state.at).max(1)) as f64 / 1e9;
        state.at = now;
        state.claims.clear();
        let mut sent_in_all = 0.0;
        let turns = 2.0 * LEAST_TURN * self.workers as f64;
        for (class, bounds) in state.bounds.iter().enumerate() {
            let (mut demand, mut sent) = (0.0, 0.0);
            for worker in 0..self.workers {
                let cell = self.cell(class, worker);
                let waits = f64::from_bits(cell.waiting.load(Acquire)) > 0.0;
                let total = cell.sent.load(Relaxed);
                let before = &mut state.before[class * self.workers + worker];
                let bytes = total.wrapping_sub(before.sent) as f64;
                before.sent = total;
                before.used = (bytes / seconds).max(before.used * FADE);
                demand += if waits { f64::INFINITY } else { before.used };
                sent += bytes;
            }
            state.class_debts[class].add(sent, bounds.ceiling, seconds);
            sent_in_all += sent;
            let ceiling = state.class_debts[class].corrected(bounds.ceiling, turns);
            let Bounds { guarantee, priority, weight, .. } = *bounds;
            let guarantee = guarantee.min(ceiling);
            state.claims.push(Claim { guarantee, ceiling, priority, weight, demand });
        }
        state.link_debt.add(sent_in_all, state.capacity, seconds);
        let capacity = state.link_debt.corrected(state.capacity, turns * state.bounds.len() as f64);
        allot(capacity, &state.claims, &mut state.shares);
        for class in 0..state.bounds.len() {
            state.workers.clear();
            for worker in 0..self.workers {
                let waiting = f64::from_bits(self.cell(class, worker).waiting.load(Relaxed));
                let used = state.before[class * self.workers + worker].used;
                let demand = if waiting > 0.0 { f64::INFINITY } else { used };
                let weight = if waiting > 0.0 { waiting } else { 1.0 };
                let ceiling = f64::INFINITY;
                state.workers.push(Claim { guarantee: 0.0, ceiling, priority: 0, weight, demand });
            }
            allot(state.shares[class].allowance, &state.workers, &mut state.worker_shares);
            for worker in 0..self.workers {
                let rate = state.worker_shares[worker].allowance;
                self.cell(class, worker).rate.store(rate.to_bits(), Relaxed);
            }
        }
    }
}
