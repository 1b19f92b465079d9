//! A token bucket that needs no timer: the generic cell rate algorithm (ITU-T I.371, annex A), in which the one word of
//! state is the time at which everything sent will have been paid for.

use crate::gate::LEAST_TURN;

/// Nanoseconds of the caller's clock.
pub type Nanos = u64;

const SECOND: f64 = 1e9;
/// Time that makes up for a turn that came late: twice a tick of the worker's timers and the lateness of a thread that
/// shares its CPU.
pub(crate) const LATENESS: Nanos = 12_000_000;
/// What is owed at a rate that has fallen far is not worth a silence that anybody would notice: so long, or two turns of
/// the least size.
pub(crate) const SILENCE: Nanos = 100_000_000;

/// Bytes at a rate. Debt is allowed: what goes is charged after it went, and the next waits until it is paid.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    /// Bytes per second.
    rate: f64,
    /// When all that was sent is paid.
    paid_at: Nanos,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: f64) -> Self {
        Self { rate: rate.max(0.0), paid_at: 0 }
    }

    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// A debt in bytes stays one, within bounds.
    pub fn set_rate(&mut self, rate: f64, now: Nanos) {
        let rate = rate.max(0.0);
        if self.paid_at > now && self.rate != rate {
            let bytes = (self.paid_at - now) as f64 * self.rate;
            let most = SILENCE.max(nanos(2.0 * LEAST_TURN * SECOND, rate));
            self.paid_at = now.saturating_add(nanos(bytes, rate).min(most));
        }
        self.rate = rate;
    }

    pub fn is_paid(&self, now: Nanos) -> bool {
        self.paid_at <= now && self.rate > 0.0
    }

    /// Or will be; not longer ago than `time`.
    pub fn paid_lately(&self, time: Nanos, now: Nanos) -> bool {
        self.rate > 0.0 && self.paid_at.saturating_add(time) >= now
    }

    /// Whatever its rate is.
    pub fn owes_nothing(&self, now: Nanos) -> bool {
        self.paid_at <= now
    }

    pub fn paid_at(&self) -> Nanos {
        if self.rate > 0.0 { self.paid_at } else { Nanos::MAX }
    }

    /// What is owed is paid within `time`, or is fewer than so many bytes.
    pub fn owes_less(&self, bytes: f64, time: Nanos, now: Nanos) -> bool {
        let owed = self.paid_at.saturating_sub(now);
        self.rate > 0.0 && (owed <= time || (owed as f64) * self.rate / SECOND < bytes)
    }

    /// Time that was not used is worth something up to `keeps`.
    pub fn charge(&mut self, bytes: u64, keeps: Nanos, now: Nanos) {
        let from = self.paid_at.max(now.saturating_sub(keeps));
        self.paid_at = from.saturating_add(nanos(bytes as f64 * SECOND, self.rate));
    }
}

pub(crate) fn nanos(byte_nanos: f64, rate: f64) -> Nanos {
    // A float becomes the nearest integer there is: an endless wait is the last moment of the clock.
    (byte_nanos / rate).round() as Nanos
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    #[test]
    fn a_pause_is_worth_no_more_than_what_is_kept() {
        let mut bucket = Bucket::new(1e6);
        let now = 5_000 * MS;
        bucket.charge(10_000, 10 * MS, now);
        assert!(bucket.is_paid(now));
        bucket.charge(1, 10 * MS, now);
        assert!(!bucket.is_paid(now) && bucket.is_paid(now + 1000));
    }

    #[test]
    fn a_debt_is_paid_at_the_new_rate() {
        let mut bucket = Bucket::new(1e6);
        bucket.charge(100_000, 0, 0);
        assert_eq!(bucket.paid_at(), 100 * MS);
        bucket.set_rate(2e6, 50 * MS);
        assert_eq!(bucket.paid_at(), 75 * MS);
        bucket.set_rate(0.0, 60 * MS);
        assert!(!bucket.is_paid(1_000_000 * MS));
    }

    #[test]
    fn a_rate_that_falls_far_makes_no_long_silence() {
        let mut bucket = Bucket::new(125e6);
        bucket.charge(1_000_000, 0, 0);
        bucket.set_rate(32_000.0, 0);
        assert_eq!(bucket.paid_at(), 100 * MS);
    }

    #[test]
    fn no_rounding_adds_up() {
        for rate in [8_000.0, 1.25e9, 12.5e9] {
            let mut bucket = Bucket::new(rate);
            let (mut now, mut sent) = (0, 0.0);
            while now < 2_000 * MS {
                bucket.charge(1448, 0, now);
                sent += 1448.0;
                now = bucket.paid_at();
            }
            let told = rate * now as f64 / SECOND;
            assert!((sent / told - 1.0).abs() < 0.005, "{rate}: {}", sent / told);
        }
    }
}
