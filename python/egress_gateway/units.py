"""Quantities as people write them: `5s`, `10m`, `2026-12-01`. A number without its unit is refused, with the fix."""

from __future__ import annotations

import datetime as dt
import re
from typing import Final

# Milliseconds per unit, from the smallest to the largest.
DURATION_UNITS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
# 100 years in milliseconds: beyond it a duration is a typing error, and below it every sum fits 64 bits.
MAX_DURATION_MS: Final = 100 * 365 * 86_400_000

# Bits per second of each unit, from the smallest to the largest.
RATE_UNITS: Final = {"kbit/s": 1_000, "Mbit/s": 1_000_000, "Gbit/s": 1_000_000_000}
# A segment of 1,448 bytes in less than a second and a half; and beyond what one host has.
MIN_RATE, MAX_RATE = 8_000, 10**12

# Bytes of each unit, from the smallest to the largest.
SIZE_UNITS: Final = {"kB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000, "TB": 1_000_000_000_000}
PERIODS: Final = ("hour", "day", "month")
# 1,000 TB: beyond it a budget is a typing error.
MAX_ALLOWANCE: Final = 10**15

_ALLOWANCE = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,3}))?\s?([A-Za-z]*)\s?(?:/\s?([A-Za-z]*))?")
_ALLOWANCE_EXAMPLES: Final = "500 MB/hour, 5 GB/day or 1 TB/month"
_LONG_PERIODS: Final = {
    **dict.fromkeys(("h", "hr", "hours", "hourly"), "hour"),
    **dict.fromkeys(("d", "days", "daily"), "day"),
    **dict.fromkeys(("mo", "mon", "months", "monthly"), "month"),
}
_RATE = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,3}))?\s?([A-Za-z/]*)")
_RATE_EXAMPLES: Final = "64 kbit/s, 50 Mbit/s or 2 Gbit/s"
_DURATION = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,3}))?\s?([A-Za-zµ]*)")
_LONG_UNITS: Final = {
    **dict.fromkeys(("msec", "msecs", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), "m"),
    **dict.fromkeys(("hr", "hrs", "hour", "hours"), "h"),
    **dict.fromkeys(("day", "days"), "d"),
}


class UnitError(ValueError):
    """A quantity that cannot be read; `fix` says what to write."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class Duration:
    """A span of time in whole milliseconds."""

    __slots__ = ("ms",)

    def __init__(self, ms: int) -> None:
        self.ms = ms

    @classmethod
    def parse(cls, value: object) -> Duration:
        """Reads `250ms`, `5s`, `1.5h`, `5d`.

        Raises:
            UnitError: no unit, an unknown unit, not a quantity, too long, or finer than a millisecond.
        """
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            raise _bare(f"{value:g}" if isinstance(value, float) else str(value))
        match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise UnitError(
                "this is not a duration", "write a number and its unit, for example 250ms, 5s, 10m, 1h or 5d"
            )
        whole, fraction, unit = match.group(1), match.group(2) or "", match.group(3)
        if not unit:
            raise _bare(match.group(0))
        factor = DURATION_UNITS.get(unit)
        if factor is None:
            meant = _LONG_UNITS.get(unit.lower()) or (unit.lower() if unit.lower() in DURATION_UNITS else None)
            number = whole + (f".{fraction}" if fraction else "")
            known = "the units are ms, s, m (minutes), h and d"
            raise UnitError(f'"{unit}" is no unit of time', f"write {number}{meant}; {known}" if meant else known)
        scaled = int(whole + fraction) * factor
        ms, rest = divmod(scaled, 10 ** len(fraction))
        if rest:
            raise UnitError("a duration is a whole number of milliseconds", "write it in ms, without a fraction")
        if ms > MAX_DURATION_MS:
            raise UnitError("this duration is longer than 100 years", f"write at most {MAX_DURATION_MS // 86_400_000}d")
        return cls(ms)

    def __str__(self) -> str:
        for unit, factor in reversed(DURATION_UNITS.items()):
            if self.ms and self.ms % factor == 0:
                return f"{self.ms // factor}{unit}"
        return "0s"

    def __repr__(self) -> str:
        return f"Duration({self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Duration) and other.ms == self.ms

    def __hash__(self) -> int:
        return hash(self.ms)


def parse_wait(text: str) -> int:
    """Reads what is done when there is no room: `refuse`, or `wait 2s`; in milliseconds to wait.

    Raises:
        UnitError: neither of the two, or not a duration.
    """
    word, _, rest = text.strip().partition(" ")
    if word == "refuse" and not rest:
        return 0
    if word != "wait" or not rest:
        raise UnitError(f'"{text}" is neither to refuse nor to wait', "write refuse, or wait and how long: wait 2s")
    ms = Duration.parse(rest).ms
    if ms == 0:
        raise UnitError("to wait for no time is to refuse", "write refuse, or wait 2s")
    return ms


class Rate:
    """Bits per second, a whole number of them."""

    __slots__ = ("bits",)

    def __init__(self, bits: int) -> None:
        self.bits = bits

    @classmethod
    def parse(cls, value: object) -> Rate:
        """Reads `64 kbit/s`, `1.5 Mbit/s`, `10 Gbit/s`.

        Raises:
            UnitError: no unit, an unknown unit, not a quantity, or out of bounds.
        """
        match = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            bare = isinstance(value, (int, float)) and not isinstance(value, bool)
            message = f"`{value}` has no unit" if bare else "this is not a rate"
            raise UnitError(message, f"write a number and its unit, for example {_RATE_EXAMPLES}")
        whole, fraction, unit = match.group(1), match.group(2) or "", match.group(3)
        factor = RATE_UNITS.get(unit)
        if factor is None:
            meant = next((known for known in RATE_UNITS if known.lower() == _as_bits(unit)), None)
            number = whole + (f".{fraction}" if fraction else "")
            if meant and "B" in unit:
                bits = int(whole + fraction) * 8 * RATE_UNITS[meant] // 10 ** len(fraction)
                fix = f"write {cls(bits)} if bytes are meant, else {number} {meant}; a rate is in bits, of 1,000"
                raise UnitError(f'"{unit}" is no unit of a rate', fix)
            known = "the units are kbit/s, Mbit/s and Gbit/s: bits, of 1,000"
            fix = f"write {number} {meant}; {known}" if meant else known
            raise UnitError(f'"{unit}" is no unit of a rate' if unit else f"`{number}` has no unit", fix)
        bits = int(whole + fraction) * factor // 10 ** len(fraction)
        if not MIN_RATE <= bits <= MAX_RATE:
            raise UnitError("this rate is out of bounds", f"write {cls(MIN_RATE)} to {cls(MAX_RATE)}")
        return cls(bits)

    def __str__(self) -> str:
        for unit, factor in reversed(RATE_UNITS.items()):
            if self.bits % factor == 0:
                return f"{self.bits // factor} {unit}"
        return f"{self.bits / 1000:g} kbit/s"

    def __repr__(self) -> str:
        return f"Rate({self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rate) and other.bits == self.bits

    def __hash__(self) -> int:
        return hash(self.bits)


def _as_bits(unit: str) -> str:
    """A unit as others write it: `mbps`, `Mb/s`, `mbit`, `Mbit/sec`."""
    lowered = unit.lower().replace(" ", "").removesuffix("/sec").removesuffix("/s").removesuffix("ps")
    return f"{lowered.removesuffix('bit').removesuffix('b')}bit/s"


class Allowance:
    """So many bytes in each hour, day or month."""

    __slots__ = ("bytes", "per")

    def __init__(self, size: int, per: str) -> None:
        self.bytes = size
        self.per = per

    @classmethod
    def parse(cls, value: object) -> Allowance:
        """Reads `500 MB/hour`, `1.5 GB/day`, `1 TB/month`.

        Raises:
            UnitError: no unit, an unknown unit or period, not a quantity, or out of bounds.
        """
        match = _ALLOWANCE.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            bare = isinstance(value, (int, float)) and not isinstance(value, bool)
            message = f"`{value}` has no unit" if bare else "this is no number of bytes in a period"
            raise UnitError(message, f"write bytes and a period, for example {_ALLOWANCE_EXAMPLES}")
        whole, fraction, unit, per = match.group(1), match.group(2) or "", match.group(3), match.group(4) or ""
        number = whole + (f".{fraction}" if fraction else "")
        factor = SIZE_UNITS.get(unit)
        if factor is None:
            meant = next((known for known in SIZE_UNITS if known.lower() == _as_bytes(unit)), None)
            known = "the units are kB, MB, GB and TB: bytes, of 1,000"
            fix = f"write {number} {meant}/{per or 'day'}; {known}" if meant else known
            raise UnitError(f'"{unit}" is no unit of bytes' if unit else f"`{number}` has no unit", fix)
        if per not in PERIODS:
            known = "the periods are hour, day and month"
            meant = _LONG_PERIODS.get(per.lower()) or (per.lower() if per.lower() in PERIODS else None)
            message = f'"{per}" is no period' if per else f"`{number} {unit}` has no period"
            raise UnitError(message, f"write {number} {unit}/{meant or 'day'}; {known}" if meant or not per else known)
        size = int(whole + fraction) * factor // 10 ** len(fraction)
        if not 1 <= size <= MAX_ALLOWANCE:
            raise UnitError("this budget is out of bounds", f"write 1 kB/{per} to 1000 TB/{per}")
        return cls(size, per)

    def __str__(self) -> str:
        for unit, factor in reversed(SIZE_UNITS.items()):
            if self.bytes % factor == 0:
                return f"{self.bytes // factor} {unit}/{self.per}"
        return f"{self.bytes / 1000:g} kB/{self.per}"

    def __repr__(self) -> str:
        return f"Allowance({self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Allowance) and (other.bytes, other.per) == (self.bytes, self.per)

    def __hash__(self) -> int:
        return hash((self.bytes, self.per))


def _as_bytes(unit: str) -> str:
    """A unit as others write it: `GiB`, `Gb`, `gigabyte`, `G`."""
    lowered = unit.lower()
    return f"{lowered[0]}b" if lowered and lowered[0] in "kmgt" else lowered


def parse_then(text: str) -> Rate | str:
    """Reads what happens when a budget is spent: `deny`, `alert`, or the rate of `slow 256 kbit/s`.

    Raises:
        UnitError: none of these, or not a rate.
    """
    word, _, rest = text.strip().partition(" ")
    if word in ("deny", "alert") and not rest:
        return word
    if word == "slow" and not rest:
        raise UnitError("it does not say how slow", "add the rate: slow 256 kbit/s")
    if word != "slow":
        message = f'"{text}" is neither to slow nor to deny nor to alert'
        raise UnitError(message, "write deny, alert, or slow and a rate: slow 256 kbit/s")
    match = _RATE.fullmatch(rest.strip())
    if match is not None and int(match.group(1) + (match.group(2) or "")) == 0:
        raise UnitError("a rate of 0 lets nothing through", "write deny, or a rate: slow 256 kbit/s")
    return Rate.parse(rest)


class Until:
    """A moment from which on a rule no longer applies, in whole seconds since 1970-01-01T00:00:00Z."""

    __slots__ = ("unix_s",)

    def __init__(self, unix_s: int) -> None:
        self.unix_s = unix_s

    @classmethod
    def parse(cls, value: object) -> Until:
        """Reads a date (from 00:00 UTC of that day on), or an RFC 3339 timestamp with its offset.

        Raises:
            UnitError: not a date, no such day, or a time of day without an offset from UTC.
        """
        if isinstance(value, str):
            value = _read_date(value.strip())
        if isinstance(value, dt.datetime):
            if value.tzinfo is None:
                raise UnitError(
                    "this time of day has no offset from UTC",
                    f"write {value.isoformat(timespec='seconds')}Z if UTC is meant",
                )
            moment = value
        elif isinstance(value, dt.date):
            moment = dt.datetime(value.year, value.month, value.day, tzinfo=dt.UTC)
        else:
            raise _not_a_date()
        seconds = int(moment.timestamp())
        if seconds < 0:
            raise UnitError("this moment is before 1970", "write a date to come, for example 2026-12-01")
        return cls(seconds)

    def __repr__(self) -> str:
        return f"Until({dt.datetime.fromtimestamp(self.unix_s, dt.UTC):%Y-%m-%dT%H:%M:%SZ})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Until) and other.unix_s == self.unix_s

    def __hash__(self) -> int:
        return hash(self.unix_s)


_DATE_SHAPE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})?)?"
)


def _read_date(text: str) -> dt.date:
    # fromisoformat() also takes week dates and compact forms, which nobody means here: the shape comes first.
    if _DATE_SHAPE.fullmatch(text) is None:
        raise _not_a_date()
    try:
        if len(text) == len("2026-12-01"):
            return dt.date.fromisoformat(text)
        return dt.datetime.fromisoformat(text.upper())
    except ValueError:
        raise UnitError("there is no such day or time", "write a day of the calendar, for example 2026-12-01") from None


def _not_a_date() -> UnitError:
    return UnitError("this is not a date", "write a date like 2026-12-01 (from 00:00 UTC on), or 2026-12-01T18:00:00Z")


def _bare(number: str) -> UnitError:
    return UnitError(f"{number} has no unit", f"write the unit: {number}s for seconds, {number}ms for milliseconds")
