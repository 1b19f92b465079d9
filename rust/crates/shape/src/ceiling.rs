//! What one source of a class may send at most: one word for all workers, wherever the source's flows are.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::bucket::{LATENESS, Nanos, SILENCE, nanos};
use crate::gate::LEAST_TURN;

/// Turns of the least size that one of them may cost.
const TURNS: f64 = 2.0;

/// A token bucket that workers share, with a rate that anybody may change at any time.
#[derive(Debug)]
pub struct Ceiling {
    /// Bytes per second; infinite while nothing is bounded.
    rate: AtomicU64,
    /// When all that was sent is paid.
    paid_at: AtomicU64,
}

impl Default for Ceiling {
    fn default() -> Self {
        Self { rate: AtomicU64::new(f64::INFINITY.to_bits()), paid_at: AtomicU64::new(0) }
    }
}

impl Ceiling {
    /// Bytes per second from now on; infinity bounds nothing.
    pub fn set(&self, rate: f64) {
        if rate > self.rate() {
            // What is owed at a lower rate would be waited for at that one.
            self.paid_at.store(0, Relaxed);
        }
        self.rate.store(rate.to_bits(), Relaxed);
    }

    /// Bytes per second.
    pub fn rate(&self) -> f64 {
        f64::from_bits(self.rate.load(Relaxed))
    }

    /// When the next may go; a moment that is over while nothing is bounded.
    pub fn paid_at(&self) -> Nanos {
        if self.rate().is_finite() { self.paid_at.load(Relaxed) } else { 0 }
    }

    /// Charges what was sent, by any worker.
    pub fn charge(&self, bytes: u64, now: Nanos) {
        let rate = self.rate();
        if rate.is_infinite() {
            return;
        }
        // A turn that began before there was a ceiling may have been a thousand times as long.
        let most = SILENCE.max(nanos(TURNS * LEAST_TURN * 1e9, rate));
        let costs = nanos(bytes as f64 * 1e9, rate).min(most);
        let from = |paid_at: u64| paid_at.max(now.saturating_sub(LATENESS)).saturating_add(costs);
        let _ = self.paid_at.fetch_update(Relaxed, Relaxed, |paid_at| Some(from(paid_at)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_began_before_there_was_a_ceiling_makes_no_long_silence() {
        let ceiling = Ceiling::default();
        ceiling.charge(4 << 20, 0);
        assert_eq!(ceiling.paid_at(), 0);
        ceiling.set(100_000.0);
        ceiling.charge(4 << 20, 0);
        assert!(ceiling.paid_at() <= 200_000_000, "{}", ceiling.paid_at());
    }
}
