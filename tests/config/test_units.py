"""Durations and dates are read as written, and nothing is guessed."""

from __future__ import annotations

import datetime as dt

import pytest
from egress_gateway.units import Allowance, Duration, Rate, UnitError, Until, parse_then


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("250ms", 250),
        ("5s", 5_000),
        ("10m", 600_000),
        ("1h", 3_600_000),
        ("5d", 432_000_000),
        ("1.5s", 1_500),
        ("0s", 0),
        ("5 s", 5_000),
    ],
)
def test_durations(text: str, ms: int) -> None:
    assert Duration.parse(text).ms == ms


@pytest.mark.parametrize("ms", [0, 250, 5_000, 600_000, 3_600_000, 5_400_000, 432_000_000])
def test_a_duration_prints_as_it_is_read(ms: int) -> None:
    assert Duration.parse(str(Duration(ms))).ms == ms


@pytest.mark.parametrize(
    ("value", "fix"),
    [
        (5, "5s"),
        (1.5, "1.5s"),
        ("5", "5s"),
        ("5 min", "5m"),
        ("5M", "5m"),
        ("1.5ms", "in ms"),
        ("-5s", "250ms"),
        ("1h30m", "250ms"),
        ("", "250ms"),
    ],
)
def test_other_durations_are_refused_with_the_fix(value: object, fix: str) -> None:
    with pytest.raises(UnitError) as caught:
        Duration.parse(value)
    assert fix in caught.value.fix


def test_a_duration_has_an_end() -> None:
    with pytest.raises(UnitError, match="100 years"):
        Duration.parse("99999999d")


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("64 kbit/s", 64_000),
        ("1.5 Mbit/s", 1_500_000),
        ("50Mbit/s", 50_000_000),
        ("2 Gbit/s", 2_000_000_000),
        ("0.5 Gbit/s", 500_000_000),
    ],
)
def test_rates(text: str, bits: int) -> None:
    assert Rate.parse(text).bits == bits
    assert Rate.parse(str(Rate(bits))).bits == bits


@pytest.mark.parametrize(
    ("value", "fix"),
    [
        (50, "64 kbit/s"),
        (True, "64 kbit/s"),
        ("50", "kbit/s"),
        ("50 mbps", "50 Mbit/s"),
        ("50 MB/s", "400 Mbit/s"),
        ("1.5 MBps", "12 Mbit/s"),
        ("50 Mb/s", "50 Mbit/s"),
        ("50 Mbit", "50 Mbit/s"),
        ("50 mbit/sec", "50 Mbit/s"),
        ("2 gbit/s", "2 Gbit/s"),
        ("50 furlongs", "kbit/s"),
        ("-5 Mbit/s", "64 kbit/s"),
        ("1 kbit/s", "8 kbit/s"),
        ("2000 Gbit/s", "1000 Gbit/s"),
    ],
)
def test_other_rates_are_refused_with_the_fix(value: object, fix: str) -> None:
    with pytest.raises(UnitError) as caught:
        Rate.parse(value)
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2026-12-01", "2026-12-01T00:00:00+00:00"),
        ("2026-12-01T18:00:00Z", "2026-12-01T18:00:00+00:00"),
        ("2026-12-01t18:00:00+02:00", "2026-12-01T16:00:00+00:00"),
        (dt.date(2026, 12, 1), "2026-12-01T00:00:00+00:00"),
        (dt.datetime(2026, 12, 1, 1, tzinfo=dt.UTC), "2026-12-01T01:00:00+00:00"),
    ],
)
def test_dates_are_moments_in_utc(value: object, moment: str) -> None:
    assert Until.parse(value).unix_s == int(dt.datetime.fromisoformat(moment).timestamp())


@pytest.mark.parametrize(
    "value", ["2026-12", "20261201", "2026-W49-2", "2026-02-30", "2026-12-01T10:00:00", 1796083200, True, "1950-01-01"]
)
def test_other_dates_are_refused(value: object) -> None:
    with pytest.raises(UnitError):
        Until.parse(value)


@pytest.mark.parametrize(
    ("text", "size", "per"),
    [("1 kB/hour", 1_000, "hour"), ("2.5GB / day", 2_500_000_000, "day"), ("1000 TB/month", 10**15, "month")],
)
def test_bytes_in_a_period_are_of_a_thousand(text: str, size: int, per: str) -> None:
    read = Allowance.parse(text)
    assert (read.bytes, read.per) == (size, per)
    assert Allowance.parse(str(read)) == read


def test_what_happens_when_a_budget_is_spent() -> None:
    assert [parse_then(text) for text in ("deny", "alert")] == ["deny", "alert"]
    assert parse_then("slow 1.5 Mbit/s") == Rate(1_500_000)
    for text in ("slow", "denied", "alert 5s", "slow down"):
        with pytest.raises(UnitError):
            parse_then(text)
