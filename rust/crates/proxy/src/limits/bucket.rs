//! The generic cell rate algorithm (ITU-T I.371, appendix I): a token bucket whose state is one number.

use egress_policy::Bounds;

const SECOND_NS: u64 = 1_000_000_000;

/// Workers look at the clock once in a turn of their loop: that of another may be late by so much. Less than a token is
/// allowed for it, or a burst over several workers would lack one.
const LATE_NS: u64 = 1_000_000;

/// What a rate and its burst come to. The state that goes with it is the time at which the bucket is full.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    /// Nanoseconds from one token to the next.
    step: u64,
    /// From an empty bucket to a full one.
    size: u64,
}

impl Bucket {
    pub(super) fn of(bounds: &Bounds) -> Option<Self> {
        let rate = bounds.new_per_second?;
        let step = SECOND_NS / u64::from(rate.max(1));
        let burst = step.saturating_mul(bounds.burst.unwrap_or(rate).into());
        Some(Self { step, size: burst.saturating_add(LATE_NS.min(step / 2)) })
    }

    /// Takes a token: when the bucket is full from then on; else when there will be one.
    pub(super) fn take(self, full_at: u64, now_ns: u64) -> Result<u64, u64> {
        let next = full_at.max(now_ns).saturating_add(self.step);
        if next - now_ns > self.size { Err(next - self.size) } else { Ok(next) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those of `asked` connections at once that pass.
    fn passed(bucket: Bucket, full_at: &mut u64, asked: u32, now_ns: u64) -> u32 {
        (0..asked).fold(0, |passed, _| match bucket.take(*full_at, now_ns) {
            Ok(full) => {
                *full_at = full;
                passed + 1
            }
            Err(_) => passed,
        })
    }

    fn bucket(rate: u32, burst: Option<u32>) -> Bucket {
        Bucket::of(&Bounds { max: None, new_per_second: Some(rate), burst }).unwrap()
    }

    #[test]
    fn without_a_burst_it_is_one_seconds_worth() {
        let (bucket, mut full_at) = (bucket(10, None), 0);
        assert_eq!(passed(bucket, &mut full_at, 50, SECOND_NS), 10);
        assert_eq!(passed(bucket, &mut full_at, 50, SECOND_NS + SECOND_NS / 2), 5);
        let later = passed(bucket, &mut full_at, 50, 100 * SECOND_NS);
        assert_eq!(later, 10, "an idle hour does not add up to more than the burst");
    }

    #[test]
    fn whatever_rate_and_burst_the_burst_passes_at_once_and_then_the_rate() {
        for rate in [1, 3, 7, 10, 333, 1000, 65_537] {
            for burst in [1, 2, 5, 100, 5000] {
                let (bucket, mut full_at) = (bucket(rate, Some(burst)), 0);
                let start = 5 * SECOND_NS;
                assert_eq!(
                    passed(bucket, &mut full_at, burst + 10, start),
                    burst,
                    "{rate} {burst}"
                );
                // Asked a thousand times in each of the next ten seconds: what a bucket of one cannot save up is lost.
                let mut later = 0;
                for millisecond in 1..=10_000 {
                    later += passed(bucket, &mut full_at, 100, start + millisecond * 1_000_000);
                }
                let most = rate * 10;
                let lost_by_the_millisecond = if burst == 1 && rate >= 333 { most } else { 0 };
                assert!(later <= most + rate / 100 + 1, "{rate} {burst}: {later}");
                let least = most.min(10_000 * burst).saturating_sub(lost_by_the_millisecond + 1);
                assert!(rate >= 65_537 || later >= least, "{rate} {burst}: {later} of {least}");
            }
        }
    }

    #[test]
    fn a_worker_whose_clock_is_late_has_the_whole_burst() {
        let (bucket, mut full_at) = (bucket(5, Some(3)), 0);
        assert_eq!(passed(bucket, &mut full_at, 1, SECOND_NS), 1);
        assert_eq!(passed(bucket, &mut full_at, 9, SECOND_NS - LATE_NS), 2);
    }

    #[test]
    fn it_is_said_when_the_next_token_comes() {
        let (bucket, mut full_at) = (bucket(4, Some(2)), 0);
        assert_eq!(passed(bucket, &mut full_at, 9, SECOND_NS), 2);
        let ready = bucket.take(full_at, SECOND_NS).unwrap_err();
        assert_eq!(ready, SECOND_NS + SECOND_NS / 4 - LATE_NS);
        assert!(bucket.take(full_at, ready - 1).is_err());
        assert!(bucket.take(full_at, ready).is_ok());
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let mut full_at = 0;
        let slow = bucket(1, Some(u32::MAX - 1));
        assert_eq!(passed(slow, &mut full_at, 3, u64::MAX / 2), 3);
        let mut full_at = 0;
        assert_eq!(passed(bucket(u32::MAX - 1, None), &mut full_at, 100, 0), 100);
    }
}
