"""Medians, spreads, and ratios within a round."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
KIB = 1024


@dataclass(frozen=True)
class Metric:
    key: str
    heading: str
    show: Callable[[float], str]
    more_is_better: bool = False
    #: Whether it is compared with the best peer of the round below a table.
    compared: bool = False


def plain(digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:,.{digits}f}"


def signed(value: float) -> str:
    return f"{value:+.2f}"


def known(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def table(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


#: In the order of a table's columns; a column appears where samples have it.
METRICS = [
    Metric("rate", "per second", plain(0), more_is_better=True, compared=True),
    Metric("gib_s", "GiB/s", plain(2), more_is_better=True, compared=True),
    Metric("cpu_us", "proxy CPU µs", plain(1), compared=True),
    Metric("machine_us", "machine CPU µs", plain(1)),
    Metric("cpu_s_gib", "proxy CPU s/GiB", plain(3), compared=True),
    Metric("machine_s_gib", "machine CPU s/GiB", plain(3)),
    Metric("p50_us", "p50 µs", plain(0), compared=True),
    Metric("p99_us", "p99 µs", plain(0), compared=True),
    Metric("p999_us", "p99.9 µs", plain(0)),
    Metric("user_bytes", "user, PSS, B", plain(0), compared=True),
    Metric("user_rss_bytes", "user, RSS, B", plain(0)),
    Metric("kernel_bytes", "kernel, all ends, B", plain(0)),
    Metric("base_bytes", "before, MiB", lambda value: f"{value / KIB / KIB:,.1f}"),
    Metric("load_s", "read, check, compile s", plain(4)),
    Metric("bytes_per_name", "B each", plain(1)),
    Metric("bytes_own", "B each without the name", plain(1)),
    Metric("reloads", "reloads a round", plain(0)),
    Metric("reload_ms", "ms a reload", plain(1)),
    Metric("p99_before_us", "p99 before µs", plain(0)),
    Metric("p99_during_us", "p99 during µs", plain(0)),
    Metric("p99_ratio", "p99 during / before", plain(2)),
    Metric("rate_ratio", "rate during / before", plain(2)),
    Metric("decision_s", "s to the new decision", plain(3)),
    Metric("ms", "ms", plain(0)),
    Metric("calls", "calls", plain(1)),
    Metric("mbit_s", "Mbit/s", lambda value: f"{value:,.4g}"),
    Metric("error_pct", "error %", signed),
    Metric("mean_1s_pct", "any 1 s: mean error %", plain(2), compared=True),
    Metric("worst_1s_pct", "any 1 s: worst %", signed),
    Metric("burst_kib", "burst KiB", plain(0)),
    Metric("burst_ms", "burst, ms of the rate", plain(1), compared=True),
    Metric("first_ms", "at first", plain(1)),
    Metric("pause_ms", "after a pause", plain(1)),
    Metric("jain", "Jain's index", plain(4)),
    Metric("cpu_pct", "proxy CPU %", plain(1)),
]


def values(samples: list[Json], peer: str, key: str) -> dict[int, float]:
    """By round."""
    return {one["round"]: one[key] for one in samples if one["peer"] == peer and one.get(key) is not None}


def spread(found: dict[int, float], show: Callable[[float], str]) -> str:
    """Median and, below it, the least and the most."""
    if not found:
        return "-"
    middle = show(statistics.median(found.values()))
    if len(found) == 1:
        return middle
    return f"{middle} ({show(min(found.values()))} to {show(max(found.values()))})"


def ratios(samples: list[Json], peer: str, against: list[str], metric: Metric) -> list[float]:
    """Of each round: ours over the best of the others in it."""
    ours = values(samples, peer, metric.key)
    theirs = [values(samples, other, metric.key) for other in against]
    found = []
    for number, own in ours.items():
        there = [one[number] for one in theirs if number in one]
        if there:
            best = max(there) if metric.more_is_better else min(there)
            found.append(own / best if best else float("inf"))
    return found
