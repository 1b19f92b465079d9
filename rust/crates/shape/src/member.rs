//! A gateway as a member of a cluster: what it keeps to between rounds, when it joins, and while the store is away.
//!
//! What may have become less takes effect at once. What has become more waits until all others have read what it was worked
//! out from. The store gives each round the next number, and with what a gateway has told comes the number of its last
//! round: so everybody knows what everybody has read, and no clock but one's own is read.

use std::collections::VecDeque;

use crate::bucket::Nanos;
use crate::cluster::{KEPT_TO_START, Pool, Wants, share};

/// From one round to the next.
pub const ROUND: Nanos = 100_000_000;
/// The same while there is more to come once others have read: nobody has it meanwhile.
const SHORT_ROUND: Nanos = ROUND / 4;
/// So much less than it is to be is worth that.
const MUCH_LESS: f64 = 0.9;
/// What is told is forgotten after this time: others take the share of whoever is silent.
pub const LEASE: Nanos = 1_500_000_000;
/// Before that time is over, whoever hears nothing keeps to no more than its safe share.
const SILENCE: Nanos = 1_200_000_000;
/// By now everybody does, and whoever had less may have as much. So long a first round may take, too, with next to nothing
/// to send meanwhile.
const ALL_SILENT: Nanos = 1_800_000_000;
/// For so long after joining, or coming back, nobody has more than a safe share: others may be about to come back, too.
const SETTLING: Nanos = 2_000_000_000;
/// Rounds that are remembered: more than there are in a lease.
const REMEMBERED: usize = 32;

/// What a gateway keeps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// Its part by what all want.
    Shared,
    /// That, but not more than the safe share: it has just joined, or come back.
    Settling,
    /// Its part of when the store was last heard: that was a moment ago.
    Last,
    /// The limit divided by all gateways that there may be.
    Safe,
}

/// Another gateway, or this one, as the store has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// The number of its last round.
    pub round: u64,
    pub wants: Wants,
}

/// What a round has brought.
#[derive(Debug)]
pub struct Heard {
    /// Its number.
    pub round: u64,
    /// What was told before had not been forgotten.
    pub was_known: bool,
    pub mine: Wants,
    pub others: Vec<Told>,
}

/// What may be sent: up, then down; of each the pools in their order, each followed by its classes. Bytes per second.
type Shares = Vec<f64>;

/// A gateway's state. Times are of its own steady clock.
#[derive(Debug)]
pub struct Member {
    since: Nanos,
    replicas: usize,
    pools: Vec<Pool>,
    /// This gateway first.
    gateways: Vec<Wants>,
    round: u64,
    /// When the last round that was answered had begun.
    heard_at: Option<Nanos>,
    settled_at: Nanos,
    /// So many gateways there were before it came back, and until when those that are missing may not have noticed yet.
    missed: (usize, Nanos),
    /// By round; what is kept to is the least of them.
    past: VecDeque<(u64, Shares)>,
    kept: Shares,
}

fn least(a: &mut Shares, b: &[f64]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a = a.min(*b);
    }
}

impl Member {
    /// One that began to serve at `now`.
    pub fn new(now: Nanos) -> Self {
        Self {
            since: now,
            replicas: 1,
            pools: Vec::new(),
            gateways: vec![Wants::new()],
            round: 0,
            heard_at: None,
            settled_at: 0,
            missed: (0, 0),
            past: VecDeque::new(),
            kept: Vec::new(),
        }
    }

    /// A policy's terms hold from now on. `replicas`: as many gateways as there are at the most.
    pub fn set_terms(&mut self, replicas: usize, pools: Vec<Pool>, now: Nanos) {
        if self.replicas == replicas && self.pools == pools {
            // What others have not read yet holds on.
            self.keep(now);
            return;
        }
        (self.replicas, self.pools) = (replicas, pools);
        self.past.clear();
        self.kept = if self.heard_at.is_some() { self.shared() } else { self.first() };
        self.past.push_back((self.round, self.kept.clone()));
        self.keep(now);
    }

    /// Gateways at the last round that was answered, this one included.
    pub fn seen(&self) -> usize {
        self.gateways.len()
    }

    /// By how many a limit is divided while nothing is heard.
    pub fn parts(&self) -> usize {
        self.replicas.max(self.gateways.len()).max(1)
    }

    fn all(&self, of: impl Fn(&Pool, usize) -> Vec<f64>) -> Shares {
        let ways = [0, 1].into_iter();
        ways.flat_map(|way| self.pools.iter().map(move |pool| (pool, way)))
            .flat_map(|(pool, way)| of(pool, way))
            .collect()
    }

    fn shared(&self) -> Shares {
        self.all(|pool, way| share(pool, &self.gateways, 0, way))
    }

    fn safe(&self) -> Shares {
        let parts = self.parts() as f64;
        self.all(|pool, _| {
            let ceilings = pool.classes.iter().map(|class| class.bounds.ceiling);
            std::iter::once(pool.capacity).chain(ceilings).map(|all| all / parts).collect()
        })
    }

    /// Before anybody can know of this gateway.
    fn first(&self) -> Shares {
        self.safe().into_iter().map(|share| share * KEPT_TO_START).collect()
    }

    /// A round was answered that had begun at `began`.
    pub fn hear(&mut self, began: Nanos, now: Nanos, heard: Heard) {
        let silent = self.heard_at.is_none_or(|at| began.saturating_sub(at) >= SILENCE);
        if silent || !heard.was_known || heard.round <= self.round {
            self.settled_at = now + SETTLING;
            self.missed = (self.gateways.len(), now + SILENCE);
            let mut kept = self.kept.clone();
            least(&mut kept, &self.safe());
            self.past = [(0, kept)].into();
        }
        self.heard_at = Some(began);
        self.round = heard.round;
        let (before, until) = self.missed;
        let missing = now < until && heard.others.len() + 1 < before;
        let read = heard.others.iter().map(|other| other.round).min().unwrap_or(u64::MAX);
        let all_have_read = if missing { 0 } else { read };
        self.gateways = std::iter::once(heard.mine)
            .chain(heard.others.into_iter().map(|other| other.wants))
            .collect();
        if self.past.len() == REMEMBERED
            && let Some((_, oldest)) = self.past.pop_front()
            && let Some((_, next)) = self.past.front_mut()
        {
            least(next, &oldest);
        }
        self.past.push_back((self.round, self.shared()));
        while self.past.get(1).is_some_and(|(round, _)| *round <= all_have_read) {
            self.past.pop_front();
        }
        self.keep(now);
    }

    /// From the last round to the next.
    pub fn pace(&self) -> Nanos {
        let more = |now: &[f64], then: &[f64]| {
            now.iter().zip(then).any(|(now, then)| *now < then * MUCH_LESS)
        };
        let short = self
            .past
            .back()
            .is_some_and(|(_, then)| self.past.iter().any(|(_, shares)| more(shares, then)));
        if short { SHORT_ROUND } else { ROUND }
    }

    pub fn keeps(&self, now: Nanos) -> Keeps {
        match self.heard_at.map(|at| now.saturating_sub(at)) {
            Some(silence) if silence >= SILENCE => Keeps::Safe,
            // Two rounds have gone without an answer.
            Some(silence) if silence > 3 * ROUND => Keeps::Last,
            Some(_) if now < self.settled_at => Keeps::Settling,
            Some(_) => Keeps::Shared,
            None => Keeps::Safe,
        }
    }

    /// What to keep to from now on. To be asked for at least once in a round's time, answered or not.
    pub fn keep(&mut self, now: Nanos) -> &[f64] {
        let silence = self.heard_at.map(|at| now.saturating_sub(at));
        let mut kept = match (silence, self.past.front()) {
            (None, _) if now < self.since + ALL_SILENT => self.first(),
            (None, _) | (Some(ALL_SILENT..), _) | (_, None) => self.safe(),
            (Some(SILENCE..), _) => std::mem::take(&mut self.kept),
            (Some(_), Some((_, oldest))) => oldest.clone(),
        };
        match silence {
            Some(0..SILENCE) => {
                for (_, shares) in &self.past {
                    least(&mut kept, shares);
                }
                if now < self.settled_at {
                    least(&mut kept, &self.safe());
                }
            }
            _ => least(&mut kept, &self.safe()),
        }
        self.kept = kept;
        &self.kept
    }
}
