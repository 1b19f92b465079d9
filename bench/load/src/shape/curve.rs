//! Bytes as they arrived, a bin for each millisecond, and what they say of a rate.

use serde_json::{Value, json};

/// Windows whose error is told, in bins.
const SECOND: usize = 1_000;
const TEN: usize = 10_000;
/// After its beginning, for how long a burst is looked for: longer than any shaper's bucket lasts at its own rate.
pub const BURST: usize = 500;
/// A rate is reached when a window of so many bins has so much of it.
const REACHED: (usize, f64) = (50, 0.95);
/// Bins that make one point of the series.
const POINT: usize = 100;

#[derive(Debug, Clone, Default)]
pub struct Curve(Vec<u64>);

impl Curve {
    pub fn add(&mut self, at: u64, bytes: u64) {
        let at = at as usize;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        self.0[at] += bytes;
    }

    /// The bins of some time; none arrived in those that are missing.
    fn bins(&self, from: u64, till: u64) -> impl Iterator<Item = u64> + '_ {
        (from as usize..till as usize).map(|at| self.0.get(at).copied().unwrap_or(0))
    }

    /// What was received against what was expected; `rate` in bytes a second.
    pub fn figures(&self, from: u64, till: u64, rate: f64) -> Value {
        let bins: Vec<u64> = self.bins(from, till).collect();
        let bytes: u64 = bins.iter().sum();
        let seconds = bins.len() as f64 / SECOND as f64;
        let measured = bytes as f64 / seconds;
        let one = errors(&bins, SECOND, rate);
        let ten = errors(&bins, TEN, rate);
        json!({
            "bytes": bytes, "seconds": seconds, "rate_bps": measured * 8.0, "expected_bps": rate * 8.0,
            "error": measured / rate - 1.0, "error_10s": ten.map(|of| of.worst),
            "error_1s": one.map(|of| of.worst), "mean_1s": one.map(|of| of.mean),
            "burst": excess(bins.iter().copied(), rate),
        })
    }

    /// Bytes beyond the rate at any time soon after a beginning, at which nothing was owed.
    pub fn first_burst(&self, from: u64, rate: f64) -> u64 {
        let (mut got, mut most) = (0.0, 0.0);
        for (at, bytes) in self.bins(from, from + BURST as u64).enumerate() {
            got += bytes as f64;
            most = f64::max(most, got - rate * (at + 1) as f64 / SECOND as f64);
        }
        most as u64
    }

    /// Milliseconds until a window ends that had the rate.
    pub fn reached(&self, from: u64, rate: f64) -> Option<u64> {
        let (window, share) = REACHED;
        let wanted = rate * share * window as f64 / SECOND as f64;
        let bins: Vec<u64> = self.bins(from, self.0.len() as u64).collect();
        let at = sums(&bins, window).position(|sum| sum as f64 >= wanted)?;
        Some((at + window) as u64)
    }

    /// Bits a second, a point for each tenth of a second.
    pub fn series(&self) -> Vec<u64> {
        let bits = |bins: &[u64]| bins.iter().sum::<u64>() * 8 * (SECOND / POINT) as u64;
        self.0.chunks_exact(POINT).map(bits).collect()
    }
}

#[derive(Debug, Clone, Copy)]
struct Errors {
    worst: f64,
    mean: f64,
}

/// The sum of every window.
fn sums(bins: &[u64], window: usize) -> impl Iterator<Item = u64> + '_ {
    let first: u64 = bins.iter().take(window).sum();
    let moved = bins.iter().skip(window).zip(bins).scan(first, |sum, (next, last)| {
        *sum = *sum + next - last;
        Some(*sum)
    });
    (bins.len() >= window).then_some(first).into_iter().chain(moved)
}

/// Of all windows: the error that is farthest from 0, with its sign, and the mean distance.
fn errors(bins: &[u64], window: usize, rate: f64) -> Option<Errors> {
    let expected = rate * window as f64 / SECOND as f64;
    let (mut worst, mut total, mut count) = (0.0_f64, 0.0, 0_u32);
    for sum in sums(bins, window) {
        let error = sum as f64 / expected - 1.0;
        if error.abs() > worst.abs() {
            worst = error;
        }
        total += error.abs();
        count += 1;
    }
    (count > 0).then(|| Errors { worst, mean: total / f64::from(count) })
}

/// The most bytes beyond the rate in any window of whole bins.
fn excess(bins: impl Iterator<Item = u64>, rate: f64) -> u64 {
    let each = rate / SECOND as f64;
    let (mut here, mut most) = (0.0, 0.0);
    for bytes in bins {
        here = f64::max(here, 0.0) + bytes as f64 - each;
        most = f64::max(most, here);
    }
    most as u64
}

/// Jain's index: 1 when all have the same; nothing for a single flow.
pub fn jain(shares: &[u64]) -> Option<f64> {
    let sum: f64 = shares.iter().map(|share| *share as f64).sum();
    let squares: f64 = shares.iter().map(|share| (*share as f64).powi(2)).sum();
    (shares.len() > 1 && squares > 0.0).then(|| sum * sum / (shares.len() as f64 * squares))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(bins: impl IntoIterator<Item = u64>) -> Curve {
        Curve(bins.into_iter().collect())
    }

    #[test]
    fn an_even_stream_has_neither_error_nor_burst() {
        let told = curve([10; 2_000]).figures(0, 2_000, 10_000.0);
        for key in ["error", "error_1s", "mean_1s"] {
            assert!(told[key].as_f64().unwrap().abs() < 1e-9, "{key}");
        }
        assert_eq!((told["burst"].as_u64(), &told["error_10s"]), (Some(0), &Value::Null));
    }

    #[test]
    fn the_worst_second_is_found_wherever_it_begins() {
        // Nothing for 300 ms, and all of it later.
        let bins = (0..3_000).map(|at| match at {
            1_250..1_550 => 0,
            1_550 => 3_000,
            _ => 10,
        });
        let told = curve(bins).figures(0, 3_000, 10_000.0);
        assert!(told["error"].as_f64().unwrap().abs() < 0.01);
        assert!((told["error_1s"].as_f64().unwrap().abs() - 0.3).abs() < 0.01);
        assert_eq!(told["burst"].as_u64(), Some(2_990));
    }

    #[test]
    fn a_burst_counts_from_the_beginning_that_is_named() {
        let bins = curve([0, 0, 500, 10, 10, 10]);
        assert_eq!(bins.first_burst(2, 10_000.0), 490);
        assert_eq!(bins.first_burst(0, 10_000.0), 470);
    }

    #[test]
    fn a_rate_is_reached_when_a_whole_window_has_it() {
        let bins = (0..400).map(|at| if at < 120 { 1 } else { 10 });
        let took = curve(bins).reached(20, 10_000.0).unwrap();
        // 2.8 of the last 50 bins may be without it.
        assert!((145..=150).contains(&took), "{took}");
    }

    #[test]
    fn shares_are_even_or_not() {
        assert_eq!(jain(&[5, 5, 5]), Some(1.0));
        assert_eq!(jain(&[4, 0, 0, 0]), Some(0.25));
        assert_eq!(jain(&[4]), None);
    }
}
