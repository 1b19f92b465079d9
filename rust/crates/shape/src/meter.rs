//! What a class wants, from what it has sent and from who waits in it.

use crate::bucket::Nanos;
use crate::cluster::Want;
use crate::plan::Seen;

/// A class that is not held back may want so much more at the next look.
const GROWTH: f64 = 1.25;
/// Of what was sent before, this part is expected after a round without.
const FADE: f64 = 0.5;
/// Looks in which somebody has waited count as long as the class uses so much of what it may. For a moment nobody may
/// happen to wait, and a class that is held back is not to lose its part for that.
const LOOKS: usize = 4;
const HELD_BACK: f64 = 0.7;

/// One class of a gateway in one direction.
#[derive(Debug, Clone, Copy, Default)]
pub struct Meter {
    at: Nanos,
    sent: u64,
    rate: f64,
    /// How many sources have waited, in the last looks.
    waited: [f64; LOOKS],
}

impl Meter {
    /// What it wants now, having sent so many bytes in all. `bound`: what it may send here however much others leave.
    pub fn want(&mut self, now: Nanos, sent: u64, seen: Seen, bound: f64) -> Want {
        let seconds = now.saturating_sub(self.at).max(1) as f64 / 1e9;
        let bytes = sent.saturating_sub(self.sent) as f64;
        // The first look has nothing to compare with.
        let rate = if self.at == 0 { 0.0 } else { bytes / seconds };
        (self.at, self.sent) = (now, sent);
        self.rate = rate.max(self.rate * FADE);
        self.waited.rotate_right(1);
        self.waited[0] = seen.waiting;
        let weight = self.waited.iter().copied().fold(0.0, f64::max);
        let held_back = seen.waiting > 0.0 || weight > 0.0 && rate >= HELD_BACK * seen.allowed;
        let demand = if held_back { f64::INFINITY } else { self.rate * GROWTH };
        // Less than a byte in a second is nothing.
        let demand = if demand < 1.0 { 0.0 } else { demand.min(bound.max(0.0)) };
        Want { demand, weight }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: Nanos = 100_000_000;

    fn look(meter: &mut Meter, round: u64, sent: u64, waiting: f64, bound: f64) -> Want {
        let seen = Seen { used: 0.0, allowed: 2e6, waiting };
        meter.want(round * ROUND, sent, seen, bound)
    }

    #[test]
    fn who_waits_wants_all_and_who_does_not_what_it_uses_and_some_more() {
        let mut meter = Meter::default();
        look(&mut meter, 1, 5_000_000, 0.0, f64::INFINITY);
        let want = look(&mut meter, 2, 5_100_000, 0.0, f64::INFINITY);
        assert_eq!(want, Want { demand: 1_250_000.0, weight: 0.0 });
        let want = look(&mut meter, 3, 5_200_000, 4.0, f64::INFINITY);
        assert_eq!(want, Want { demand: f64::INFINITY, weight: 4.0 });
        assert_eq!(look(&mut meter, 4, 5_300_000, 4.0, 9e5).demand, 9e5);
        // Nobody waits at this moment, and it uses nearly all that it may.
        let want = look(&mut meter, 5, 5_480_000, 0.0, f64::INFINITY);
        assert_eq!(want, Want { demand: f64::INFINITY, weight: 4.0 });
        // It wants no more.
        assert!(look(&mut meter, 6, 5_490_000, 0.0, f64::INFINITY).demand < 2e6 * GROWTH);
        for round in 7..40 {
            look(&mut meter, round, 5_490_000, 0.0, f64::INFINITY);
        }
        assert_eq!(look(&mut meter, 40, 5_490_000, 0.0, f64::INFINITY), Want::default());
    }
}
