//! Connections that wait for room: a line for each rule on each worker, first come, first served.
//!
//! No lock is shared. Each worker tells since when the first of its line waits, and lets nobody in who has come
//! noticeably later than somebody else's first. Room that is made on the worker itself is seen in the same turn of its
//! loop; what others make, at the next look.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Entered, Limit, Limited, Limits, NOBODY, Reached};

/// Connections of one rule that wait on one worker; beyond it they are refused.
const MOST: usize = 1024;
/// While somebody waits for a connection of another worker to end, it is looked that often. Mail at each such end would
/// cost a wake-up for every connection of a busy rule.
const LOOK_NS: u64 = 10_000_000;
/// By how much somebody on another worker has to have come before, to be let in before: a few looks, so that workers do
/// not stop for each other all the time.
const BEFORE_NS: u64 = 50_000_000;

#[derive(Debug)]
struct Waiter {
    token: u64,
    since_ns: u64,
    source: u64,
}

#[derive(Debug)]
struct Line {
    rule: u32,
    head: Head,
    /// By the time that they came.
    waiters: VecDeque<Waiter>,
    /// When all are asked about again.
    look_at: u64,
    /// How far this look has come, and when the next one is due by what it has found.
    at: usize,
    next_look: u64,
}

/// Since when the first waits who is kept out by the rule, not by his own bound, as other workers see it.
#[derive(Debug)]
struct Head {
    limit: Arc<Limit>,
    worker: usize,
    since_ns: u64,
}

impl Head {
    fn tell(&mut self, since_ns: u64) {
        self.since_ns = since_ns;
        if let Some(head) = self.limit.heads.get(self.worker) {
            head.store(since_ns, Relaxed);
        }
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        self.tell(NOBODY);
    }
}

/// A worker's lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    worker: usize,
    lines: Vec<Line>,
}

impl Limited {
    /// Nobody has waited for much longer on another worker.
    fn is_turn_of(&self, worker: usize, since_ns: u64) -> bool {
        let mut others = self.limit.heads.iter().enumerate().filter(|(other, _)| *other != worker);
        others.all(|(_, head)| head.load(Relaxed).saturating_add(BEFORE_NS) >= since_ns)
    }
}

impl Lines {
    pub(crate) fn new(worker: usize) -> Self {
        Self { worker, lines: Vec::new() }
    }

    /// Nobody waits any more: all are judged again.
    pub(crate) fn clear(&mut self) {
        self.lines.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Who comes now would pass nobody by.
    pub(crate) fn may_pass(&self, rule: u32, source: u64, limited: &Limited, now_ns: u64) -> bool {
        let line = self.lines.iter().find(|line| line.rule == rule);
        let behind = line.is_some_and(|line| {
            line.head.since_ns != NOBODY
                || line.waiters.iter().any(|waiter| waiter.source == source)
        });
        !behind && limited.is_turn_of(self.worker, now_ns)
    }

    /// Puts a flow into its rule's line; `false` when that is full. `reached`: what has kept it out, where that is known.
    pub(crate) fn join(
        &mut self,
        (rule, limited): (u32, &Limited),
        (token, since_ns, source): (u64, u64, u64),
        reached: Option<Reached>,
        now_ns: u64,
    ) -> bool {
        let found = self.lines.iter().position(|line| line.rule == rule);
        let at = found.unwrap_or_else(|| {
            let limit = Arc::clone(&limited.limit);
            let head = Head { limit, worker: self.worker, since_ns: NOBODY };
            self.lines.push(Line {
                rule,
                head,
                waiters: VecDeque::new(),
                look_at: u64::MAX,
                at: 0,
                next_look: u64::MAX,
            });
            self.lines.len() - 1
        });
        let line = &mut self.lines[at];
        if line.waiters.len() >= MOST {
            return false;
        }
        let place = line.waiters.partition_point(|waiter| waiter.since_ns <= since_ns);
        line.waiters.insert(place, Waiter { token, since_ns, source });
        if !reached.is_some_and(|reached| reached.by_source) && since_ns < line.head.since_ns {
            line.head.tell(since_ns);
        }
        // Behind somebody, it has to be looked no earlier.
        if reached.is_some() || line.look_at == u64::MAX {
            let ready = reached.and_then(|reached| reached.ready_ns);
            line.look_at = line.look_at.min(ready.unwrap_or(now_ns + LOOK_NS));
        }
        true
    }

    /// The flow waits no more, if it has until now.
    pub(crate) fn leave(&mut self, rule: u32, token: u64) {
        let Some(at) = self.lines.iter().position(|line| line.rule == rule) else { return };
        let line = &mut self.lines[at];
        let Some(place) = line.waiters.iter().position(|waiter| waiter.token == token) else {
            return;
        };
        line.waiters.remove(place);
        // It may have been the first, for whom the others have waited.
        line.look_at = 0;
        if line.waiters.is_empty() {
            self.lines.swap_remove(at);
        }
    }

    /// When it is to be looked again.
    pub(crate) fn wakes_at(&self) -> Option<u64> {
        self.lines.iter().map(|line| line.look_at).min()
    }

    /// Begins to look who has room.
    pub(crate) fn look(&mut self) {
        for line in &mut self.lines {
            (line.at, line.next_look) = (0, u64::MAX);
        }
    }

    /// The next who has room, counted in.
    pub(crate) fn next(&mut self, limits: &Limits, now_ns: u64) -> Option<(u64, Entered)> {
        let worker = self.worker;
        for line in &mut self.lines {
            let Some(limited) = limits.of_rule(line.rule) else { continue };
            if let Some(entered) = line.next(limited, worker, now_ns) {
                return Some(entered);
            }
        }
        self.lines.retain(|line| !line.waiters.is_empty());
        None
    }
}

impl Line {
    fn next(&mut self, limited: &Limited, worker: usize, now_ns: u64) -> Option<(u64, Entered)> {
        let all = now_ns >= self.look_at;
        while let Some(waiter) = self.waiters.get(self.at) {
            let reached = if limited.is_turn_of(worker, waiter.since_ns) {
                match limited.enter(waiter.source, now_ns) {
                    Ok(entered) => {
                        let waiter = self.waiters.remove(self.at)?;
                        return Some((waiter.token, entered));
                    }
                    Err(reached) => Some(reached),
                }
            } else {
                None
            };
            let ready = reached.and_then(|reached| reached.ready_ns).unwrap_or(now_ns + LOOK_NS);
            self.next_look = self.next_look.min(ready);
            if !reached.is_some_and(|reached| reached.by_source) {
                // For those behind there is no room either.
                self.head.tell(waiter.since_ns);
                self.look_at = self.next_look;
                return None;
            }
            if !all {
                return None;
            }
            self.at += 1;
        }
        self.head.tell(NOBODY);
        self.look_at = self.next_look;
        None
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use egress_policy::{Bounds, Connections};

    use super::*;

    const MS: u64 = 1_000_000;
    const RULE: u32 = 0;

    fn limits(all: Bounds, each: Bounds) -> Limits {
        let bounds = Connections { all, each, wait_ms: 1000 };
        Limits::new([(RULE, "r", bounds)].into_iter(), 2, None)
    }

    fn most(max: u32) -> Bounds {
        Bounds { max: Some(max), ..Bounds::default() }
    }

    fn rate(new_per_second: u32, burst: u32) -> Bounds {
        Bounds { max: None, new_per_second: Some(new_per_second), burst: Some(burst) }
    }

    /// Comes as a new connection does.
    fn come(
        lines: &mut Lines,
        limits: &Limits,
        (token, source): (u64, u64),
        now: u64,
    ) -> Option<Entered> {
        let limited = limits.of_rule(RULE).unwrap();
        let mut reached = None;
        if lines.may_pass(RULE, source, limited, now) {
            match limited.enter(source, now) {
                Ok(entered) => return Some(entered),
                Err(found) => reached = Some(found),
            }
        }
        assert!(lines.join((RULE, limited), (token, now, source), reached, now));
        None
    }

    fn let_in(lines: &mut Lines, limits: &Limits, now: u64) -> Vec<(u64, Entered)> {
        lines.look();
        std::iter::from_fn(|| lines.next(limits, now)).collect()
    }

    fn tokens(entered: &[(u64, Entered)]) -> Vec<u64> {
        entered.iter().map(|(token, _)| *token).collect()
    }

    #[test]
    fn first_come_first_served_as_others_leave() {
        let (limits, mut lines) = (limits(most(2), Bounds::default()), Lines::new(0));
        let mut open: Vec<_> =
            (0..2).map(|n| come(&mut lines, &limits, (n, 0), 0).unwrap()).collect();
        for n in 2..6 {
            assert!(come(&mut lines, &limits, (n, 0), n * MS).is_none());
        }
        assert!(let_in(&mut lines, &limits, 7 * MS).is_empty());
        drop(open.pop());
        assert!(come(&mut lines, &limits, (9, 0), 8 * MS).is_none(), "it does not push in");
        let first = let_in(&mut lines, &limits, 8 * MS);
        assert_eq!(tokens(&first), [2]);
        lines.leave(RULE, 3);
        drop((open, first));
        let next = let_in(&mut lines, &limits, 9 * MS);
        assert_eq!(tokens(&next), [4, 5], "who has left takes no room");
        drop(next);
        assert_eq!(tokens(&let_in(&mut lines, &limits, 10 * MS)), [9]);
        assert!(lines.is_empty() && lines.wakes_at().is_none());
    }

    #[test]
    fn it_is_known_when_the_next_token_comes() {
        let (limits, mut lines) = (limits(rate(4, 1), Bounds::default()), Lines::new(0));
        let _first = come(&mut lines, &limits, (0, 0), 1000 * MS).unwrap();
        for n in 1..4 {
            assert!(come(&mut lines, &limits, (n, 0), 1001 * MS).is_none());
        }
        for n in 1..4 {
            let at = lines.wakes_at().unwrap();
            assert!(at.abs_diff((1000 + n * 250) * MS) <= MS, "no look before: {at}");
            assert!(let_in(&mut lines, &limits, at - 1).is_empty());
            assert_eq!(tokens(&let_in(&mut lines, &limits, at)), [n]);
        }
    }

    #[test]
    fn who_waits_for_his_own_bound_keeps_nobody_else() {
        let (limits, mut lines) = (limits(most(3), most(1)), Lines::new(0));
        let limited = limits.of_rule(RULE).unwrap();
        let [a, b, c] = [1, 2, 3].map(|n| limited.source(IpAddr::from([10, 0, 0, n]), None));
        let first = come(&mut lines, &limits, (1, a), 0).unwrap();
        assert!(come(&mut lines, &limits, (2, a), MS).is_none());
        assert!(limited.is_turn_of(1, 1000 * MS), "nor on another worker");
        let _other = come(&mut lines, &limits, (3, b), 2 * MS).expect("passes");
        assert!(come(&mut lines, &limits, (4, b), 3 * MS).is_none());
        let _third = come(&mut lines, &limits, (5, c), 4 * MS).expect("passes");
        assert!(let_in(&mut lines, &limits, 15 * MS).is_empty());
        drop(first);
        assert_eq!(tokens(&let_in(&mut lines, &limits, 25 * MS)), [2]);
    }

    #[test]
    fn a_worker_does_not_pass_another_ones_first_by() {
        let limits = limits(most(1), Bounds::default());
        let (mut here, mut there) = (Lines::new(0), Lines::new(1));
        let open = come(&mut here, &limits, (0, 0), 0).unwrap();
        assert!(come(&mut there, &limits, (1, 0), 0).is_none());
        assert!(come(&mut here, &limits, (2, 0), BEFORE_NS + MS).is_none());
        drop(open);
        assert!(let_in(&mut here, &limits, 2 * BEFORE_NS).is_empty());
        assert!(
            come(&mut here, &limits, (3, 0), 2 * BEFORE_NS).is_none(),
            "nor does who comes now"
        );
        let first = let_in(&mut there, &limits, 2 * BEFORE_NS);
        assert_eq!(tokens(&first), [1]);
        drop(first);
        assert_eq!(tokens(&let_in(&mut here, &limits, 2 * BEFORE_NS + LOOK_NS)), [2]);
    }

    #[test]
    fn a_line_is_bounded_and_a_worker_that_forgets_it_stops_nobody() {
        let limits = limits(most(1), Bounds::default());
        let limited = limits.of_rule(RULE).unwrap();
        let mut lines = Lines::new(0);
        let joined = (0..2000).filter(|n| lines.join((RULE, limited), (*n, *n, 0), None, 0));
        assert_eq!(joined.count(), MOST);
        assert!(!limited.is_turn_of(1, 1000 * MS));
        lines.clear();
        assert!(limited.is_turn_of(1, 1000 * MS));
    }
}
