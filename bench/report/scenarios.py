"""The scenarios of our shaper: one table of them all, and charts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from report import charts
from report.figures import known, signed, table

Json = dict[str, Any]
#: Seconds between two points of a series.
STEP = 0.1
#: Pixels of the labels.
LABELS = 330
HEAD = [
    "scenario",
    "who",
    "configured Mbit/s",
    "measured",
    "error %",
    "any 10 s %",
    "any 1 s %",
    "allowed",
    "within",
    "Jain's index",
    "messages alone, p99 µs",
    "with bulk",
    "gateway's CPU %",
]


def line(one: Json, again: bool) -> list[str]:
    """Of one group in one time; what belongs to the whole scenario is told with its first."""
    jain = one["jain"] if one.get("shares") is None else one["shares"]
    return [
        "" if again else one["case"],
        one["peer"],
        f"{one['configured_mbit_s']:,g}",
        f"{one['mbit_s']:,.4g}",
        signed(one["error_pct"]),
        "" if one["worst_10s_pct"] is None else signed(one["worst_10s_pct"]),
        signed(one["worst_1s_pct"]),
        known(one["allowed_1s_pct"], 1),
        "yes" if one["within"] else "**no**",
        known(jain, 4),
        known(one.get("p99_before_us"), 0),
        known(one.get("p99_during_us"), 0),
        known(one.get("cpu_pct"), 1),
    ]


def figures(samples: list[Json]) -> str:
    cases = [one["case"] for one in samples]
    body = [line(one, number > 0 and cases[number - 1] == one["case"]) for number, one in enumerate(samples)]
    told = [table(HEAD, body)]
    for one in samples:
        if one.get("back_ms") is not None:
            told.append(
                f"*{one['case']}*: the {one['peer']} has its guarantee {one['back_ms']} ms after it begins (the end of "
                "the first 50 ms with 95 % of it)."
            )
        if one.get("reloads_ms"):
            took = " and ".join(f"{value:,.0f}" for value in one["reloads_ms"])
            told.append(f"*{one['case']}*: the reloads took {took} ms.")
    lost = sum(one["failed"] for one in samples)
    told.append(f"Connections lost: {lost}.")
    return "\n\n".join(told)


def draw(folder: Path, samples: list[Json]) -> list[str]:
    """Writes the charts; their lines of Markdown."""
    if not samples:
        return []
    title = "Worst error of any second, % (less is better)"
    worst = [(f"{one['case']}: {one['peer']}", abs(one["worst_1s_pct"])) for one in samples]
    text = charts.bars(title, [(label, value, value, value) for label, value in worst], 2, LABELS, "")
    drawn = [("shaping-worst-1s.svg", title, text)]
    for case in dict.fromkeys(one["case"] for one in samples if "series" in one):
        series = [
            (one["peer"].split(",")[0], [value / 1e6 for value in one["series"]])
            for one in samples
            if one["case"] == case and "series" in one
        ]
        file = f"shaping-{case.split(',')[0].replace(' ', '-')}.svg"
        title = f"{case[0].upper()}{case[1:]}: Mbit/s"
        drawn.append((file, title, charts.lines(title, series, STEP)))
    for file, _, text in drawn:
        (folder / file).write_text(text)
    return [f"![{title}]({file})" for file, title, _ in drawn]
