//! One timer per flow in a timing wheel: setting, moving and removing one costs the same however many there are.
//!
//! Each flow slot owns one node, chained by index into the bucket of its deadline, so nothing is allocated per timer.
//! A deadline beyond the wheel's horizon waits in its last bucket and is placed again from there.

/// Milliseconds per bucket: fine enough for a happy-eyeballs delay, coarse enough to batch idle timeouts.
const TICK_MS: u64 = 10;
/// Buckets, a power of two; 4096 × 10 ms = 41 s until a far deadline is looked at again.
const BUCKETS: usize = 4096;
const NIL: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Node {
    next: u32,
    prev: u32,
    /// `NIL` when the timer is not set.
    bucket: u32,
    deadline_ms: u64,
}

const UNSET: Node = Node { next: NIL, prev: NIL, bucket: NIL, deadline_ms: 0 };

/// Timers of the flows of one worker; times are milliseconds of the worker's monotonic clock.
#[derive(Debug)]
pub(crate) struct Wheel {
    heads: Vec<u32>,
    /// One bit per bucket that has timers, so that an idle worker finds the next one without walking.
    occupied: Vec<u64>,
    nodes: Vec<Node>,
    /// The tick up to which all timers have fired.
    tick: u64,
    set: usize,
}

impl Wheel {
    #[cfg(test)]
    pub(crate) const BYTES_PER_TIMER: usize = size_of::<Node>();

    /// A wheel with room for the timers of `slots` flows; it grows beyond.
    pub(crate) fn new(now_ms: u64, slots: usize) -> Self {
        Self {
            heads: vec![NIL; BUCKETS],
            occupied: vec![0; BUCKETS / 64],
            nodes: Vec::with_capacity(slots),
            tick: now_ms / TICK_MS,
            set: 0,
        }
    }

    /// Sets (or moves) the timer of `slot`.
    pub(crate) fn set(&mut self, slot: usize, deadline_ms: u64) {
        if self.nodes.len() <= slot {
            self.nodes.resize(slot + 1, UNSET);
        }
        self.unset(slot);
        // Rounded up, so that a timer never fires before its deadline.
        let due =
            deadline_ms.div_ceil(TICK_MS).clamp(self.tick + 1, self.tick + BUCKETS as u64 - 1);
        let bucket = bucket_of(due);
        let head = self.heads[bucket];
        let slot32 = u32::try_from(slot).unwrap_or(NIL);
        self.nodes[slot] = Node { next: head, prev: NIL, bucket: bucket as u32, deadline_ms };
        if head != NIL {
            self.nodes[head as usize].prev = slot32;
        }
        self.heads[bucket] = slot32;
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
        self.set += 1;
    }

    pub(crate) fn unset(&mut self, slot: usize) {
        let Some(node) = self.nodes.get(slot).copied().filter(|node| node.bucket != NIL) else {
            return;
        };
        let bucket = node.bucket as usize;
        match node.prev {
            NIL => self.heads[bucket] = node.next,
            prev => self.nodes[prev as usize].next = node.next,
        }
        if node.next != NIL {
            self.nodes[node.next as usize].prev = node.prev;
        }
        if self.heads[bucket] == NIL {
            self.occupied[bucket / 64] &= !(1 << (bucket % 64));
        }
        self.nodes[slot] = UNSET;
        self.set -= 1;
    }

    /// Takes the timers that are due into `due`; those beyond the horizon are placed again.
    pub(crate) fn expire(&mut self, now_ms: u64, due: &mut Vec<usize>) {
        let target = now_ms / TICK_MS;
        // After a long sleep every bucket is visited once, not once per tick missed.
        let first = self.tick.max(target.saturating_sub(BUCKETS as u64 - 1));
        for tick in first + 1..=target {
            self.tick = tick;
            let bucket = bucket_of(tick);
            while self.heads[bucket] != NIL {
                let slot = self.heads[bucket] as usize;
                let deadline_ms = self.nodes[slot].deadline_ms;
                self.unset(slot);
                if deadline_ms.div_ceil(TICK_MS) <= target {
                    due.push(slot);
                } else {
                    self.set(slot, deadline_ms);
                }
            }
        }
        self.tick = self.tick.max(target);
    }

    /// Milliseconds until the next bucket with timers is due; `None` when no timer is set.
    pub(crate) fn wait_ms(&self, now_ms: u64) -> Option<u64> {
        if self.set == 0 {
            return None;
        }
        let start = bucket_of(self.tick + 1);
        let words = BUCKETS / 64;
        for step in 0..=words {
            let word = (start / 64 + step) % words;
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= !0 << (start % 64);
            } else if step == words {
                bits &= !(!0 << (start % 64));
            }
            if bits != 0 {
                let bucket = word * 64 + bits.trailing_zeros() as usize;
                let ticks = (bucket + BUCKETS - start) % BUCKETS;
                let due_ms = (self.tick + 1 + ticks as u64) * TICK_MS;
                return Some(due_ms.saturating_sub(now_ms));
            }
        }
        None
    }
}

fn bucket_of(tick: u64) -> usize {
    (tick % BUCKETS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expired(wheel: &mut Wheel, now: u64) -> Vec<usize> {
        let mut due = Vec::new();
        wheel.expire(now, &mut due);
        due.sort_unstable();
        due
    }

    #[test]
    fn timers_fire_once_at_their_deadline_and_never_before() {
        let mut wheel = Wheel::new(1000, 4);
        wheel.set(0, 1005);
        wheel.set(1, 1500);
        wheel.set(2, 1500);
        wheel.set(3, 1000 + 3_600_000);
        assert_eq!(wheel.wait_ms(1000), Some(10));
        assert_eq!(expired(&mut wheel, 1009), [] as [usize; 0]);
        assert_eq!(expired(&mut wheel, 1010), [0]);
        wheel.unset(1);
        assert_eq!(expired(&mut wheel, 1499), [] as [usize; 0]);
        assert_eq!(expired(&mut wheel, 1500), [2]);
        for now in (1500..3_601_000).step_by(7919) {
            assert_eq!(expired(&mut wheel, now), [] as [usize; 0], "an hour is not over at {now}");
        }
        assert_eq!(expired(&mut wheel, 3_601_000), [3]);
        assert_eq!(wheel.wait_ms(3_601_000), None);
    }

    #[test]
    fn a_moved_timer_fires_at_its_new_time_and_a_long_sleep_loses_none() {
        let mut wheel = Wheel::new(0, 4);
        for slot in 0..1000 {
            wheel.set(slot, 50);
        }
        for slot in 0..1000 {
            wheel.set(slot, 100_000 + slot as u64 * 100);
        }
        assert_eq!(expired(&mut wheel, 99_990), [] as [usize; 0]);
        assert_eq!(expired(&mut wheel, 10_000_000).len(), 1000);
    }

    #[test]
    fn the_wait_never_passes_a_deadline() {
        let mut wheel = Wheel::new(0, 4);
        let mut now = 0;
        let mut random = 12345u64;
        for _ in 0..2000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let deadline = now + (random >> 33) % 100_000;
            wheel.set(0, deadline);
            let mut fired = false;
            while !fired {
                let wait = wheel.wait_ms(now).unwrap();
                assert!(now + wait <= deadline.max(now) + 2 * TICK_MS, "slept past the deadline");
                now += wait.max(1);
                fired = !expired(&mut wheel, now).is_empty();
                assert!(!fired || now >= deadline);
            }
        }
    }
}
