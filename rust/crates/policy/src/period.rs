//! Hours, days and months as a time zone counts them: pure functions over seconds of Unix time.

use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use crate::problem::nearest;

/// Seconds. Beyond this the calendar ends (the year 9999); a clock that says so is wrong anyway.
const LAST: u64 = 253_300_000_000;
const HOUR: i64 = 3_600;

/// What a budget is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    Hour,
    Day,
    Month,
}

impl Period {
    pub const ALL: [Self; 3] = [Self::Hour, Self::Day, Self::Month];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

/// A time zone of the tz database that is built in, so that a container needs none.
#[derive(Debug, Clone)]
pub struct Zone(TimeZone);

impl Zone {
    /// # Errors
    /// What to write instead of a name that no time zone has.
    pub fn named(name: &str) -> Result<Self, String> {
        let database = TimeZoneDatabase::bundled();
        database.get(name).map(Self).map_err(|_| {
            let names: Vec<String> = database.available().map(|name| name.to_string()).collect();
            nearest(name, names.iter().map(String::as_str)).map_or_else(
                || "write a name of the tz database, such as UTC or Europe/Berlin".to_owned(),
                |near| format!("did you mean `{near}`?"),
            )
        })
    }

    /// Where the period begins that a moment is in, and where the next one begins; in seconds of Unix time.
    pub fn bounds(&self, period: Period, unix_s: u64) -> (u64, u64) {
        let now = unix_s.min(LAST) as i64;
        let seconds = |moment: Timestamp| u64::try_from(moment.as_second()).unwrap_or(0);
        let found = || {
            let moment = Timestamp::from_second(now)?;
            if period == Period::Hour {
                // By the offset of now: an hour that the clocks repeat is one of its own.
                let offset = i64::from(self.0.to_offset(moment).seconds());
                let begin = now - (now + offset).rem_euclid(HOUR);
                let next = Timestamp::from_second(begin)?;
                return Ok((next, Timestamp::from_second(begin + HOUR)?));
            }
            let here = moment.to_zoned_datetime(self.0.clone());
            let first = match period {
                Period::Month => here.first_of_month()?,
                Period::Hour | Period::Day => here,
            };
            let begin = first.start_of_day()?;
            let later = match period {
                Period::Month => begin.checked_add(1.month())?,
                Period::Hour | Period::Day => begin.tomorrow()?,
            };
            Ok::<_, jiff::Error>((begin.timestamp(), later.start_of_day()?.timestamp()))
        };
        // Nothing between 1970 and the last year fails.
        found().map_or((unix_s, unix_s), |(begin, end)| (seconds(begin), seconds(end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> u64 {
        text.parse::<Timestamp>().unwrap().as_second() as u64
    }

    fn bounds(zone: &str, period: Period, now: &str) -> (String, String) {
        let (begin, end) = Zone::named(zone).unwrap().bounds(period, at(now));
        let text = |s: u64| Timestamp::from_second(s as i64).unwrap().to_string();
        (text(begin), text(end))
    }

    fn pair(begin: &str, end: &str) -> (String, String) {
        (begin.to_owned(), end.to_owned())
    }

    #[test]
    fn days_and_months_begin_where_the_zone_says() {
        use Period::{Day, Hour, Month};
        let now = "2026-11-29T23:30:00Z";
        assert_eq!(bounds("UTC", Day, now), pair("2026-11-29T00:00:00Z", "2026-11-30T00:00:00Z"));
        assert_eq!(
            bounds("Europe/Berlin", Day, now),
            pair("2026-11-29T23:00:00Z", "2026-11-30T23:00:00Z")
        );
        assert_eq!(
            bounds("Europe/Berlin", Month, now),
            pair("2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z")
        );
        assert_eq!(
            bounds("Asia/Kathmandu", Hour, now),
            pair("2026-11-29T23:15:00Z", "2026-11-30T00:15:00Z")
        );
        assert_eq!(
            bounds("UTC", Month, "2028-02-29T12:00:00Z"),
            pair("2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z")
        );
    }

    #[test]
    fn days_on_which_clocks_change_have_23_and_25_hours() {
        let hours = |now| {
            let zone = Zone::named("Europe/Berlin").unwrap();
            let (begin, end) = zone.bounds(Period::Day, at(now));
            (end - begin) / 3600
        };
        assert_eq!(hours("2026-03-29T12:00:00Z"), 23);
        assert_eq!(hours("2026-10-25T12:00:00Z"), 25);
        assert_eq!(hours("2026-10-26T12:00:00Z"), 24);
        // Midnight itself is skipped here.
        let beirut = bounds("Asia/Beirut", Period::Day, "2026-03-29T12:00:00Z");
        assert_eq!(beirut, pair("2026-03-28T22:00:00Z", "2026-03-29T21:00:00Z"));
    }

    #[test]
    fn a_name_that_is_none_is_told_which_is_near() {
        assert_eq!(Zone::named("Europe/Belin").unwrap_err(), "did you mean `Europe/Berlin`?");
        assert!(Zone::named("nowhere at all").unwrap_err().contains("tz database"));
    }

    const ZONES: [&str; 6] = [
        "UTC",
        "Europe/Berlin",
        "America/St_Johns",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Africa/Casablanca",
    ];

    proptest! {
        #[test]
        fn every_moment_is_in_one_period_and_none_begins_before_the_one_before(
            zone in prop::sample::select(&ZONES[..]),
            period in prop::sample::select(&Period::ALL[..]),
            now in 0..4_000_000_000_u64,
            step in 0..40 * 86_400_u64,
        ) {
            let zone = Zone::named(zone).unwrap();
            let (begin, end) = zone.bounds(period, now);
            prop_assert!(begin <= now && now < end, "{begin} {now} {end}");
            let (later, _) = zone.bounds(period, now + step);
            prop_assert!(later >= begin);
            if period != Period::Hour {
                prop_assert_eq!(zone.bounds(period, end).0, end);
                prop_assert_eq!(zone.bounds(period, begin).0, begin);
            }
        }

        #[test]
        fn no_clock_is_too_wrong(now: u64) {
            let zone = Zone::named("America/New_York").unwrap();
            for period in Period::ALL {
                let (begin, _) = zone.bounds(period, now);
                prop_assert!(begin <= now);
            }
        }
    }
}
