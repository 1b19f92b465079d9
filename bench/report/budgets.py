"""The row of budgets: what counting costs beside the gateway without, and how soon what happens has happened."""

from __future__ import annotations

import statistics
from typing import Any

from report.figures import METRICS, ratios, spread, table, values

Json = dict[str, Any]
BASE = "egress"


def takes_time(sample: Json) -> bool:
    """Whether it says how long something took, not what it cost."""
    return "ms" in sample


def beside(samples: list[Json]) -> str:
    """The CPU of each variant against the gateway without, in the same round."""
    told = []
    for name in dict.fromkeys(one["peer"] for one in samples if one["peer"] != BASE):
        for metric in METRICS:
            found = ratios(samples, name, [BASE], metric) if metric.key in ("cpu_us", "cpu_s_gib") else []
            if found:
                told.append(f"{name} {statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f})")
    return "CPU over that of the gateway without: " + "; ".join(told) + "." if told else ""


def figures(samples: list[Json]) -> str:
    """One table of what took time: the worst, and all of them."""
    (metric,) = (one for one in METRICS if one.key == "ms")
    body = []
    for case in dict.fromkeys(one["case"] for one in samples):
        found = values([one for one in samples if one["case"] == case], BASE, metric.key)
        body.append([case, str(len(found)), metric.show(max(found.values())), spread(found, metric.show)])
    return table(["what", "times", "worst ms", "median (least to most)"], body) if body else ""
