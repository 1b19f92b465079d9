//! What a rule, or a source of a rule, has used of its budget. Workers add to it; all else is the keeper's.

use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use egress_policy::{Allowance, Allowances, Period};
use egress_shape::Ceiling;

use super::keeper::Order;

/// In [`Account::limit`]: nothing is counted.
const UNBOUND: u64 = u64::MAX;

/// Where the keeper finds what has changed.
#[derive(Debug)]
pub(super) struct Desk {
    pub changed: Mutex<Vec<Arc<Account>>>,
    pub keeper: SyncSender<Order>,
}

/// A lock that nothing in here can leave half-way.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which period what is used belongs to. A clock that is set back leads back to what was used then, so that no period is
/// given a second time; one that is set back further goes on with what is used, until its next period begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ledger {
    pub period: Period,
    /// In seconds of Unix time.
    pub begin: u64,
    /// Of the period before this one, or of the one that a clock was set back from: where it begins, and what was used.
    pub other: Option<(u64, u64)>,
}

impl Ledger {
    /// The period that begins at `begin` is the present one; whether that is another.
    fn turn_to(&mut self, begin: u64, used: &AtomicU64) -> bool {
        let was = self.begin;
        if begin == was {
            return false;
        }
        self.begin = begin;
        let left = match self.other {
            Some((other, kept)) if other == begin => used.swap(kept, SeqCst),
            _ if begin > was => used.swap(0, SeqCst),
            _ => used.load(SeqCst),
        };
        self.other = Some((was, left));
        true
    }
}

/// Directions are up and down.
#[derive(Debug)]
pub(crate) struct Account {
    used: [AtomicU64; 2],
    limit: [AtomicU64; 2],
    /// It lies on the desk.
    changed: AtomicBool,
    desk: Arc<Desk>,
    pub rule: Arc<str>,
    /// As `super::books::key` writes it; empty for the rule itself.
    pub source: Box<[u8]>,
    ledgers: Mutex<[Ledger; 2]>,
    /// Bytes per second of a source whose own budget is spent.
    slow: AtomicU64,
    /// Of a source.
    pub ceilings: Option<[Arc<Ceiling>; 2]>,
    /// That it is spent has been said.
    said: [AtomicBool; 2],
}

impl Account {
    pub(super) fn new(
        desk: &Arc<Desk>,
        rule: &Arc<str>,
        source: Box<[u8]>,
        begin: impl Fn(Period) -> u64,
    ) -> Self {
        let ledger = Ledger { period: Period::Day, begin: begin(Period::Day), other: None };
        Self {
            used: Default::default(),
            limit: [const { AtomicU64::new(UNBOUND) }; 2],
            changed: AtomicBool::new(false),
            desk: Arc::clone(desk),
            rule: Arc::clone(rule),
            ceilings: (!source.is_empty()).then(Default::default),
            source,
            ledgers: Mutex::new([ledger; 2]),
            slow: AtomicU64::new(f64::INFINITY.to_bits()),
            said: Default::default(),
        }
    }

    /// As it was when the gateway ran before.
    pub(super) fn restore(&self, way: usize, ledger: Ledger, used: u64, now: u64) {
        let mut ledgers = locked(&self.ledgers);
        ledgers[way] = ledger;
        self.used[way].store(used, SeqCst);
        ledgers[way].turn_to(now, &self.used[way]);
    }

    /// What a policy says of it. `slow`: bytes per second of a source that has used up its own.
    pub(super) fn bound(&self, given: &Allowances, slow: f64, begin: impl Fn(Period) -> u64) {
        let mut ledgers = locked(&self.ledgers);
        for (way, given) in given.by_direction().into_iter().enumerate() {
            if let Some(Allowance { per, .. }) = given
                && ledgers[way].period != per
            {
                ledgers[way].period = per;
                ledgers[way].turn_to(begin(per), &self.used[way]);
            }
            let bytes = given.map_or(UNBOUND, |given| given.bytes);
            self.limit[way].store(bytes, SeqCst);
        }
        self.slow.store(slow.to_bits(), SeqCst);
    }

    /// Turns to the present periods; whether that changes anything.
    pub(super) fn turn(&self, begin: impl Fn(Period) -> u64) -> bool {
        let mut ledgers = locked(&self.ledgers);
        let mut turned = false;
        for (ledger, used) in ledgers.iter_mut().zip(&self.used) {
            turned |= ledger.turn_to(begin(ledger.period), used);
        }
        turned
    }

    /// Counts what was moved, each direction by itself.
    pub(crate) fn add(self: &Arc<Self>, bytes: [u64; 2]) {
        let mut crossed = false;
        let mut counted = false;
        for (way, bytes) in bytes.into_iter().enumerate() {
            let limit = self.limit[way].load(Relaxed);
            if bytes == 0 || limit == UNBOUND {
                continue;
            }
            counted = true;
            // In one order with `take`: either the keeper sees these bytes, or the account is laid on the desk again.
            let before = self.used[way].fetch_add(bytes, SeqCst);
            crossed |= before < limit && before.saturating_add(bytes) >= limit;
        }
        if counted && !self.changed.load(SeqCst) {
            self.show();
        }
        if crossed {
            // Where orders wait already, the keeper is about to look.
            let _ = self.desk.keeper.try_send(Order::Look);
        }
    }

    /// Lays the account on the desk.
    pub(super) fn show(self: &Arc<Self>) {
        if !self.changed.swap(true, SeqCst) {
            locked(&self.desk.changed).push(Arc::clone(self));
        }
    }

    /// Taken off the desk.
    pub(super) fn taken(&self) {
        self.changed.store(false, SeqCst);
    }

    pub(crate) fn is_spent_in(&self, way: usize) -> bool {
        let limit = self.limit[way].load(Relaxed);
        limit != UNBOUND && self.used[way].load(Relaxed) >= limit
    }

    pub(crate) fn is_spent(&self) -> bool {
        self.is_spent_in(0) || self.is_spent_in(1)
    }

    /// What is used, and of how much; `None` where that direction has no budget.
    pub(super) fn state(&self, way: usize) -> Option<(u64, u64, Ledger)> {
        let limit = self.limit[way].load(Relaxed);
        let ledger = locked(&self.ledgers)[way];
        (limit != UNBOUND).then(|| (self.used[way].load(SeqCst), limit, ledger))
    }

    /// Nothing would be lost with it.
    pub(super) fn is_blank(&self) -> bool {
        let blank = |ledger: &Ledger| ledger.other.is_none_or(|(_, used)| used == 0);
        self.used.iter().all(|used| used.load(SeqCst) == 0)
            && locked(&self.ledgers).iter().all(blank)
    }

    /// Holds its source to the slow rate while its budget is spent; gives the directions in which it is so newly.
    pub(super) fn act(&self) -> [bool; 2] {
        [0, 1].map(|way| {
            let spent = self.is_spent_in(way);
            if let Some(ceilings) = &self.ceilings {
                let slow = f64::from_bits(self.slow.load(SeqCst));
                ceilings[way].set(if spent { slow } else { f64::INFINITY });
            }
            let said = self.said[way].swap(spent, Relaxed);
            spent && !said
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn ledger() -> Ledger {
        Ledger { period: Period::Day, begin: 10 * DAY, other: None }
    }

    /// Uses so many bytes in the period that begins at a day; gives what is used then.
    fn on(ledger: &mut Ledger, used: &AtomicU64, day: u64, bytes: u64) -> u64 {
        ledger.turn_to(day * DAY, used);
        used.fetch_add(bytes, SeqCst) + bytes
    }

    #[test]
    fn a_new_period_begins_at_nothing() {
        let (mut ledger, used) = (ledger(), AtomicU64::new(0));
        assert_eq!(on(&mut ledger, &used, 10, 5), 5);
        assert_eq!(on(&mut ledger, &used, 10, 5), 10);
        assert_eq!(on(&mut ledger, &used, 11, 1), 1);
        assert_eq!(on(&mut ledger, &used, 40, 2), 2);
    }

    #[test]
    fn a_clock_that_is_set_back_gives_no_period_a_second_time() {
        let (mut ledger, used) = (ledger(), AtomicU64::new(0));
        on(&mut ledger, &used, 10, 100);
        on(&mut ledger, &used, 11, 7);
        assert_eq!(on(&mut ledger, &used, 10, 1), 101);
        assert_eq!(on(&mut ledger, &used, 11, 1), 8);
        assert_eq!(on(&mut ledger, &used, 12, 0), 0);
    }

    #[test]
    fn a_clock_that_was_far_ahead_loses_no_budget_for_good() {
        let (mut ledger, used) = (ledger(), AtomicU64::new(0));
        on(&mut ledger, &used, 10, 100);
        on(&mut ledger, &used, 9_000, 50);
        assert_eq!(on(&mut ledger, &used, 10, 0), 100);
        assert_eq!(on(&mut ledger, &used, 11, 0), 0);
        // Further back than anything that is known.
        on(&mut ledger, &used, 11, 30);
        assert_eq!(on(&mut ledger, &used, 3, 0), 30);
        assert_eq!(on(&mut ledger, &used, 11, 0), 30);
        assert_eq!(on(&mut ledger, &used, 12, 0), 0);
    }
}
