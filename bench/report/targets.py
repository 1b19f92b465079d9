"""What is to be reached, and whether it is."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rows.budgets import KILLED, acts

from report.figures import METRICS, ratios, values
from report.results import Results

PEERS = ["haproxy", "haproxy-tuned", "haproxy-bwlim", "nginx", "sniproxy", "envoy"]
AS_THEY_COME = [peer for peer in PEERS if peer != "haproxy-tuned"]
#: What every time counts for, and not the median: of what must not happen the sum, of what must be in time the worst.
WORST: dict[str, Callable[[list[float]], float]] = {"failed": sum, "ms": max}


@dataclass(frozen=True)
class Target:
    text: str
    row: str
    case: str
    metric: str
    bound: float
    way: Literal["at least", "at most"]
    #: The best of these in the same round; nothing: the figure itself.
    against: tuple[str, ...] = ()
    peer: str = "egress"

    def reached(self, results: Results) -> float | None:
        """The median of the figure or ratio; nothing when it has not been measured."""
        samples = results.samples(self.row, self.case)
        metric = next((one for one in METRICS if one.key == self.metric), None)
        if self.against and metric:
            found = ratios(samples, self.peer, list(self.against), metric)
        else:
            found = list(values(samples, self.peer, self.metric).values())
        if not found:
            return None
        return WORST.get(self.metric, statistics.median)(found)

    def is_met(self, value: float) -> bool:
        return value >= self.bound if self.way == "at least" else value <= self.bound


def targets() -> list[Target]:
    best, common, tuned = tuple(PEERS), tuple(AS_THEY_COME), ("haproxy-tuned",)
    # Enough in flight that the proxy, not the round trip, is the limit.
    new, small, one = "128 in flight, backend closes first", "64 B, 64 flows", "64 B, 1 flow"
    million = "egress, 1,000,000 names"
    alone = "one request at a time, `low_latency` on: p50"
    found = [
        Target("new connections per second, against the best", "connect", new, "rate", 1.05, "at least", best),
        Target("the same against Envoy", "connect", new, "rate", 2.0, "at least", ("envoy",)),
        Target("proxy CPU per connection", "connect", new, "cpu_us", 0.85, "at most", best),
        Target("64-byte messages, 64 flows: rate", "message", small, "rate", 1.05, "at least", best),
        Target("the same: p99", "message", small, "p99_us", 0.95, "at most", best),
        Target("the same: proxy CPU", "message", small, "cpu_us", 0.9, "at most", best),
        Target(alone, "low-latency", one, "p50_us", 0.45, "at most", best, "egress, low_latency"),
    ]
    for case in ("down, 8 flows", "up, 8 flows"):
        found += [
            Target(f"bulk {case}, as each comes: GiB/s", "bulk", case, "gib_s", 1.4, "at least", common),
            Target("the same: proxy CPU", "bulk", case, "cpu_s_gib", 0.45, "at most", common),
            Target("the same against tuned HAProxy: CPU", "bulk", case, "cpu_s_gib", 1.05, "at most", tuned),
        ]
    told = ("tls: an alert, or the end", "connect: an answer", "http: an answer")
    found += [
        Target(f"refusal, {case.split(':')[0]}: p99 µs", "refusals", case, "p99_us", 10_000, "at most") for case in told
    ]
    found += [
        Target("user memory per idle flow, bytes", "memory", "8,000 idle flows", "user_bytes", 512, "at most"),
        Target("a million names: seconds to load", "policies", "load", "load_s", 0.5, "at most", peer=million),
        Target("the same: bytes a name without the name", "policies", "load", "bytes_own", 50, "at most", peer=million),
        Target(
            "the same: connections per second, against 100 names",
            "policies",
            "32 in flight",
            "rate",
            0.98,
            "at least",
            ("egress, 100 names",),
            million,
        ),
    ]
    for case in ("message, 64 flows", "connect, 32 flows"):
        paced = f"{case}, one a second"
        found += [
            Target(f"reloads one after the other ({case}): failures", "reload", case, "failed", 0, "at most"),
            Target("the same: p99 during / before", "reload", case, "p99_ratio", 1.2, "at most"),
            Target("the same, one reload a second", "reload", paced, "p99_ratio", 1.2, "at most"),
        ]
    found += [
        Target("a budget survives kill -9: ms of bytes lost, the worst", "budgets", KILLED, "ms", 1_000, "at most"),
        *(
            Target(f"its action, {case.removeprefix('then: ')}: ms, the worst", "budgets", case, "ms", 1_000, "at most")
            for case in acts()
        ),
    ]
    for case in ("100 Mbit/s, 1 flow", "1,000 Mbit/s, 16 flows"):
        found += [
            Target(
                f"a cap of {case}: mean error of any second, against the best",
                "caps",
                case,
                "mean_1s_pct",
                1,
                "at most",
                best,
            ),
            Target("the same: proxy CPU per GiB", "caps", case, "cpu_s_gib", 1, "at most", best),
        ]
    for case in ("32 in flight, backend closes first", small):
        text = f"telemetry on against off ({case}): rate"
        found.append(Target(text, "telemetry", case, "rate", 0.97, "at least", ("egress, log off",)))
    return found
