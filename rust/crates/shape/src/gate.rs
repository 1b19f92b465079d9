//! One worker's side of a class, in one direction: whose turn it is, and when.
//!
//! Sources share the class evenly, and flows their source: start-time fair queueing (Goyal, Vin, Cheng 1996) at both levels.
//! A turn is a quantum of bytes. Whoever has had less than its share has its turn at once, and the class pays later: so a
//! small message does not wait behind bulk.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use crate::bucket::{Bucket, LATENESS, Nanos};
use crate::ceiling::Ceiling;
use crate::plan::Plan;

const MS: Nanos = 1_000_000;
/// What may go at once after a pause.
const BURST: Nanos = 2 * MS;
/// How far those who are under their share may run a class into debt: so long, or to less than a turn, whichever is more.
/// So a small message does not wait for the end of the one that bulk has just had.
const DEBT: Nanos = 16 * MS;
/// A turn is this long at the class's rate, within bounds: one costs 40 to 150 µs of CPU, mostly to wake up for it.
const TURN: Nanos = 10 * MS;
/// And so long where that is fewer bytes than are no burst to anybody: `SMALL_TURN` of a link, which others have a part of,
/// and `SMALL_ALONE` of a class without one. A second has fifty of them.
const LONG_TURN: Nanos = 20 * MS;
pub(crate) const SMALL_TURN: f64 = 65_536.0;
pub(crate) const SMALL_ALONE: f64 = 262_144.0;
/// Where several wait, each is to have a turn within this time, as far as turns do not become shorter than `LEAST` of them.
const ROUND: Nanos = 250 * MS;
/// At the class's rate.
const LEAST: Nanos = 2 * MS;
pub(crate) const LEAST_TURN: f64 = 1448.0;
/// Where a segment takes longer than this, a turn is shorter than one, down to `SMALLEST_TURN`: at 64 kbit/s ten seconds
/// are 55 segments, and one of them more or less is not within a hundredth.
const LONGEST: Nanos = 50 * MS;
const SMALLEST_TURN: f64 = 256.0;
const LARGEST_TURN: f64 = 262_144.0;
/// Where many wait, each has its turn the sooner the shorter the turns are.
const SHARED_TURN: f64 = 16_384.0;

/// Turns by which somebody may be ahead of the others. More comes of a time at which turns were much longer or nothing was
/// bounded; nobody is to wait for that.
const MOST_AHEAD: u64 = 16;

/// Places of flows that have left that may stand in the queue beside as many as wait: taking them out looks at all.
const LEFT_PLACES: usize = 64;

/// How often a source above its ceiling is looked at: that may be lifted before it is paid.
const LOOK: Nanos = 500 * MS;

/// What a class knows of one flow. All else is in the gate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    /// The source whose share it has a part of.
    pub source: u64,
    /// Where its last turn ended in the virtual time of its source.
    finish: u64,
    /// It waits for its turn.
    waits: bool,
    /// Which place in the queue is its.
    place: u64,
    /// The number of its last turn.
    turn: u64,
    /// It has waited for the turn that it has.
    in_turn: bool,
}

/// Whether a flow may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// So many bytes at most.
    Now(u64),
    /// It is told.
    Later,
}

#[derive(Debug, Default)]
struct Source {
    finish: u64,
    /// Virtual time: bytes per flow.
    clock: u64,
    waiting: BinaryHeap<Reverse<(u64, u64, u64)>>,
    /// Flows that have joined.
    flows: u32,
    /// In the list of those that were left by their last flow.
    listed: bool,
    /// Of the source's flows that wait, those that do so here; 0 is not known yet.
    part: f64,
    ceiling: Option<Arc<Ceiling>>,
    /// It waits until its ceiling is paid, and takes part in nothing.
    sleeps: bool,
}

impl Source {
    /// Until when it may not send, if it is above its ceiling.
    fn held_until(&self, now: Nanos) -> Option<Nanos> {
        let paid_at = self.ceiling.as_ref()?.paid_at();
        (paid_at > now).then(|| paid_at.min(now + LOOK))
    }

    fn is_unbounded(&self) -> bool {
        self.ceiling.as_ref().is_none_or(|ceiling| ceiling.rate().is_infinite())
    }

    /// A turn, where a turn of the class is this long.
    fn turn(&self, quantum: u64) -> u64 {
        let Some(ceiling) = &self.ceiling else { return quantum };
        quantum.min(turn_bytes(ceiling.rate(), SMALL_TURN).max(LEAST_TURN) as u64)
    }

    /// What so many bytes come to in virtual time.
    fn cost(&self, bytes: u64) -> u64 {
        if self.part > 0.0 { (bytes as f64 / self.part) as u64 } else { bytes }
    }
}

/// Where a turn begins in virtual time: behind what was sent before it, and not further back than a turn. Who has sent all
/// that was there, and waits for more that is on its way, has not given up its share.
fn start(finish: u64, clock: u64, turn: u64) -> u64 {
    finish.max(clock.saturating_sub(turn))
}

/// A worker's queue for one class in one direction.
#[derive(Debug)]
pub struct Gate {
    bucket: Bucket,
    /// Bytes up to which a turn is a long one.
    small: f64,
    /// Virtual time: bytes per source.
    clock: u64,
    sources: HashMap<u64, Source>,
    turns: BinaryHeap<Reverse<(u64, u64, u64)>>,
    /// The source that has its turn, where more of its flows wait: what the turn costs it is known when the next one is
    /// asked for.
    in_turn: Option<u64>,
    /// Sources above their ceiling of which a flow waits, by when they are looked at.
    sleepers: BinaryHeap<Reverse<(Nanos, u64)>>,
    /// Of equals the first one goes first.
    arrivals: u64,
    waiting: u32,
    /// Sources that were left by their last flow.
    left: Vec<u64>,
    /// Places in the queue of flows that have left.
    gone: HashSet<u64>,
    /// The number of the last turn, and the bytes of it that its flow did not have yet: it sends them when they come, unless
    /// somebody else has had a turn since. So turns follow each other at even distances, and any second has as many.
    turn: u64,
    rest: u64,
    /// Something of it was sent.
    begun: bool,
    /// Bytes sent in all.
    sent: u64,
}

/// Bytes of a turn at a rate; of up to `small` bytes it is a long one.
pub(crate) fn turn_bytes(rate: f64, small: f64) -> f64 {
    let bytes = |time: Nanos| rate * time as f64 / 1e9;
    bytes(TURN).max(bytes(LONG_TURN).min(small))
}

impl Pace {
    pub fn of(source: u64) -> Self {
        Self { source, ..Self::default() }
    }

    pub fn waits(&self) -> bool {
        self.waits
    }
}

impl Gate {
    pub fn new(rate: f64) -> Self {
        Self {
            bucket: Bucket::new(rate),
            small: SMALL_TURN,
            clock: 0,
            sources: HashMap::new(),
            turns: BinaryHeap::new(),
            in_turn: None,
            sleepers: BinaryHeap::new(),
            arrivals: 0,
            waiting: 0,
            left: Vec::new(),
            gone: HashSet::new(),
            turn: 0,
            rest: 0,
            begun: false,
            sent: 0,
        }
    }

    pub fn rate(&self) -> f64 {
        self.bucket.rate()
    }

    pub fn set_rate(&mut self, rate: f64, now: Nanos) {
        self.bucket.set_rate(rate, now);
    }

    /// Turns are as long as suits the plan that gives the rates.
    pub fn follow(&mut self, plan: &Plan) {
        self.small = plan.small_turn();
    }

    /// Bytes sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Flows that wait for their turn.
    pub fn waiting(&self) -> u32 {
        self.waiting
    }

    /// Sources of which a flow waits, and how many of each do.
    pub fn waiting_sources(&self) -> impl Iterator<Item = (u64, usize)> {
        self.sources
            .iter()
            .filter(|(_, source)| !source.waiting.is_empty() && !source.sleeps)
            .map(|(&key, source)| (key, source.waiting.len()))
    }

    /// Sources that wait and take part; those that have just left may still be counted.
    pub fn parties(&self) -> f64 {
        let places = self.turns.len() + usize::from(self.in_turn.is_some());
        places.min(self.waiting as usize) as f64
    }

    /// Asks which part of each source that waits is here, more than 0 and at most 1: elsewhere it has the rest of its
    /// share. Their sum.
    pub fn weigh(&mut self, mut part: impl FnMut(u64, usize) -> f64) -> f64 {
        let mut sum = 0.0;
        // Each source that waits has one place among these.
        let waiting = self.turns.iter().map(|Reverse((.., key))| key).chain(&self.in_turn);
        for key in waiting {
            if let Some(source) = self.sources.get_mut(key).filter(|one| !one.waiting.is_empty()) {
                source.part = part(*key, source.waiting.len());
                sum += source.part;
            }
        }
        sum
    }

    fn quantum(&self) -> u64 {
        let bytes = |time: Nanos| self.bucket.rate() * time as f64 / 1e9;
        let segment = bytes(LONGEST).clamp(SMALLEST_TURN, LEAST_TURN);
        let least = bytes(LEAST).clamp(segment, SHARED_TURN);
        // Not for one less at once a longer one: turns of one length come as often in any second.
        let round = bytes(ROUND) / f64::from(self.waiting.max(1).next_power_of_two());
        round.min(turn_bytes(self.bucket.rate(), self.small)).clamp(least, LARGEST_TURN) as u64
    }

    /// A flow belongs to this class from now on.
    pub fn join(&mut self, pace: &Pace) {
        self.sources.entry(pace.source).or_default().flows += 1;
    }

    /// All flows of a source that has joined have no more than this, here and wherever else it bounds them.
    pub fn bound(&mut self, source: u64, ceiling: Option<&Arc<Ceiling>>) {
        if let Some(source) = self.sources.get_mut(&source) {
            source.ceiling = ceiling.map(Arc::clone);
        }
    }

    /// It does not any more, and has no place in the queue either.
    pub fn leave(&mut self, pace: &mut Pace) {
        if std::mem::take(&mut pace.waits) {
            self.waiting -= 1;
            self.gone.insert(pace.place);
            if self.gone.len() > self.waiting as usize + LEFT_PLACES {
                self.close_ranks();
            }
        }
        if let Some(source) = self.sources.get_mut(&pace.source) {
            source.flows -= 1;
            if source.flows == 0 && !std::mem::replace(&mut source.listed, true) {
                self.left.push(pace.source);
            }
        }
    }

    /// Takes out the places of those that have left: where nobody has a turn for long, nobody else would.
    fn close_ranks(&mut self) {
        let Self { sources, turns, sleepers, in_turn, gone, .. } = self;
        for source in sources.values_mut().filter(|source| !source.waiting.is_empty()) {
            source.waiting.retain(|Reverse((_, place, _))| !gone.contains(place));
        }
        let waits = |key: &u64| sources.get(key).is_some_and(|source| !source.waiting.is_empty());
        turns.retain(|Reverse((.., key))| waits(key));
        sleepers.retain(|Reverse((_, key))| waits(key));
        *in_turn = in_turn.filter(waits);
        gone.clear();
    }

    /// Forgets sources without flows, as soon as it gives them no new share when they come back.
    pub fn tidy(&mut self, now: Nanos) {
        let idle = self.nobody_waits() && self.bucket.is_paid(now);
        let (sources, clock) = (&mut self.sources, self.clock);
        self.left.retain(|key| {
            let Some(source) = sources.get_mut(key) else { return false };
            if source.flows > 0 {
                source.listed = false;
                return false;
            }
            let stays = !source.waiting.is_empty() || !idle && source.finish > clock;
            if !stays {
                sources.remove(key);
            }
            stays
        });
    }

    /// May a flow that has something to send do so? If not, it is in the queue, and `next` says when it is its turn.
    pub fn ask(&mut self, pace: &mut Pace, token: u64, now: Nanos) -> Turn {
        if pace.waits {
            return Turn::Later;
        }
        let quantum = self.quantum();
        let source = self.sources.entry(pace.source).or_default();
        source.finish = source.finish.min(self.clock + MOST_AHEAD * quantum);
        pace.finish = pace.finish.min(source.clock + MOST_AHEAD * quantum);
        let held = source.held_until(now);
        let goes_on = self.rest > 0 && pace.turn == self.turn && held.is_none();
        if goes_on && self.bucket.paid_lately(LATENESS, now) {
            // The rate may have fallen since.
            return Turn::Now(self.rest.min(source.turn(quantum)));
        }
        let nobody_waits = self.turns.is_empty() && self.in_turn.is_none();
        let free = held.is_none() && nobody_waits && self.bucket.is_paid(now);
        // Less than half a turn ahead of those that wait: who has just had a turn is not, though turns are longer by now.
        let ahead = |finish: u64, clock: u64| finish >= clock + quantum / 2;
        let under = held.is_none()
            && !ahead(source.finish, self.clock)
            && !ahead(pace.finish, source.clock);
        pace.in_turn &= free;
        if free && self.bucket.rate().is_infinite() && source.is_unbounded() {
            return Turn::Now(u64::MAX);
        }
        if free {
            (self.turn, self.rest, self.begun) = (self.turn + 1, source.turn(quantum), false);
            pace.turn = self.turn;
            return Turn::Now(self.rest);
        }
        if under && self.bucket.owes_less(quantum as f64, DEBT, now) {
            return Turn::Now(source.turn(quantum));
        }
        pace.waits = true;
        self.waiting += 1;
        self.arrivals += 1;
        pace.place = self.arrivals;
        if source.waiting.is_empty() {
            // How many of it wait elsewhere is told anew.
            source.part = 0.0;
            source.sleeps = held.is_some();
            if let Some(until) = held {
                self.sleepers.push(Reverse((until, pace.source)));
            } else {
                let start = start(source.finish, self.clock, quantum);
                self.turns.push(Reverse((start, self.arrivals, pace.source)));
            }
        }
        let flow_start = start(pace.finish, source.clock, quantum);
        source.waiting.push(Reverse((flow_start, self.arrivals, token)));
        Turn::Later
    }

    /// Whose turn it is now. Its answer is `begin` and `charge`, before the next one is asked for.
    pub fn next(&mut self, now: Nanos) -> Option<(u64, u64)> {
        if !self.bucket.is_paid(now) {
            return None;
        }
        self.wake(now);
        if let Some(key) = self.in_turn.take() {
            self.line_up(key);
        }
        let quantum = self.quantum();
        while let Some(Reverse((start, _, key))) = self.turns.pop() {
            let Some(source) = self.sources.get_mut(&key) else { continue };
            if source.finish > start && !source.waiting.is_empty() {
                // Those of its flows that did not wait have sent since.
                self.line_up(key);
                continue;
            }
            if let Some(until) = source.held_until(now) {
                source.sleeps = true;
                self.sleepers.push(Reverse((until, key)));
                continue;
            }
            let gone = &mut self.gone;
            let Some(Reverse((flow_start, _, token))) = std::iter::from_fn(|| source.waiting.pop())
                .find(|Reverse((_, place, _))| gone.is_empty() || !gone.remove(place))
            else {
                continue;
            };
            self.clock = self.clock.max(start);
            source.clock = source.clock.max(flow_start);
            self.in_turn = (!source.waiting.is_empty()).then_some(key);
            (self.turn, self.rest, self.begun) = (self.turn + 1, source.turn(quantum), false);
            return Some((token, self.rest));
        }
        None
    }

    /// Sources that are not above their ceiling any more take part again.
    fn wake(&mut self, now: Nanos) {
        while let Some(&Reverse((at, key))) = self.sleepers.peek() {
            if at > now {
                return;
            }
            self.sleepers.pop();
            let Some(source) = self.sources.get_mut(&key) else { continue };
            if let Some(until) = source.held_until(now) {
                self.sleepers.push(Reverse((until, key)));
                continue;
            }
            source.sleeps = false;
            self.line_up(key);
        }
    }

    /// A source of which a flow waits, behind what it has sent.
    fn line_up(&mut self, key: u64) {
        let Some(source) = self.sources.get(&key) else { return };
        self.arrivals += 1;
        let start = start(source.finish, self.clock, self.quantum());
        self.turns.push(Reverse((start, self.arrivals, key)));
    }

    fn nobody_waits(&self) -> bool {
        self.turns.is_empty() && self.in_turn.is_none()
    }

    /// The flow whose turn came: it waits no more, and may send.
    pub fn begin(&mut self, pace: &mut Pace) {
        pace.in_turn = std::mem::take(&mut pace.waits);
        pace.turn = self.turn;
        if pace.in_turn {
            self.waiting -= 1;
        }
    }

    /// What a flow has sent in its turn.
    pub fn charge(&mut self, pace: &mut Pace, bytes: u64, now: Nanos) {
        let quantum = self.quantum();
        let source = self.sources.entry(pace.source).or_default();
        let begin = start(source.finish, self.clock, quantum);
        source.finish = begin + source.cost(bytes);
        let flow_start = start(pace.finish, source.clock, quantum);
        pace.finish = flow_start + bytes;
        let nobody_waits = self.turns.is_empty() && self.in_turn.is_none();
        let is_turn = self.rest > 0 && pace.turn == self.turn;
        // The rest of a turn is not the next one. What goes beyond it is.
        let goes_on = is_turn && std::mem::replace(&mut self.begun, true);
        if nobody_waits && !goes_on {
            self.clock = self.clock.max(begin);
        }
        if source.waiting.is_empty() && !goes_on {
            source.clock = source.clock.max(flow_start);
        }
        let late = pace.in_turn || !nobody_waits;
        let keeps = if late { LATENESS } else { BURST };
        if let Some(ceiling) = &source.ceiling {
            ceiling.charge(bytes, now);
        }
        self.bucket.charge(bytes, keeps, now);
        if is_turn {
            self.rest = self.rest.saturating_sub(bytes);
        }
        self.sent += bytes;
    }

    /// Nobody waits, and nothing is owed.
    pub fn is_settled(&self, now: Nanos) -> bool {
        self.nobody_waits() && self.sleepers.is_empty() && self.bucket.owes_nothing(now)
    }

    /// When `next` is to be asked again; `None` while nobody waits.
    pub fn wakes_at(&self) -> Option<Nanos> {
        let paid_at = self.bucket.paid_at();
        let woken = self.sleepers.peek().map(|Reverse((at, _))| paid_at.max(*at));
        if self.nobody_waits() { woken } else { Some(paid_at) }
    }
}

#[cfg(test)]
mod tests;
