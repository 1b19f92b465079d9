"""Two reports of the data plane say who had how much of a link, and who lent it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from egress_gateway import report
from egress_gateway.commands import links

MBIT = 1_000_000


def way(sent: int = 0, waiting: int = 0) -> dict[str, Any]:
    """`sent` in bytes."""
    return {"bytes": sent, "borrowed": 0, "waiting": waiting, "allowed": None, "held": [1, 2, 3], "held_ns": 4_000_000}


def one(rule: str, link: str | None = "internet", guarantee: int = 0, up: int = 0, down: int = 0) -> dict[str, Any]:
    return {
        "rule": rule, "link": link, "max": None if link else 5 * MBIT, "guarantee": guarantee, "priority": "normal",
        "weight": 1, "share_by": "source", "flows": 2, "up": way(up), "down": way(down, 1),
    }  # fmt: skip


def told(at_ns: int, *classes: dict[str, Any]) -> report.Report:
    body = {"at_ns": at_ns, "links": [{"name": "internet", "bandwidth": 100 * MBIT}], "classes": classes,
            "held_bounds_ms": [1, 5]}  # fmt: skip
    return report.decode(json.dumps(body).encode())


def test_rates_are_those_of_the_time_between() -> None:
    before = told(1_000_000_000, one("a", down=500), one("alone", None, up=9))
    after = told(3_000_000_000, one("a", down=500 + 10 * MBIT), one("alone", None, up=9 + MBIT), one("new", up=MBIT))
    internet, rest = report.tree(before, after)
    assert [each["rule"] for each in internet["classes"]] == ["a", "new"]
    assert internet["classes"][0]["down"]["rate"] == 40 * MBIT == internet["down"]["rate"]
    assert internet["classes"][1]["up"]["rate"] == 4 * MBIT
    assert rest["link"] is None and rest["classes"][0]["up"]["rate"] == 4 * MBIT


def test_a_class_that_began_anew_has_no_negative_rate() -> None:
    (internet,) = report.tree(told(0, one("a", up=500)), told(1_000_000_000, one("a", up=3)))
    assert internet["classes"][0]["up"]["rate"] == 0


@pytest.mark.parametrize(
    ("guarantees", "rates", "expected"),
    [
        ([50, 0], [20, 60], [{}, {None: 50, 0: 10}]),
        ([50, 30, 0], [10, 10, 70], [{}, {}, {None: 20, 0: 33, 1: 16}]),
        ([50, 50], [50, 50], [{}, {}]),
        ([10, 10], [40, 40], [{None: 30}, {None: 30}]),
        ([60, 20, 0, 0], [0, 20, 40, 40], [{}, {}, {None: 10, 0: 30}, {None: 10, 0: 30}]),
    ],
)
def test_what_nobody_was_promised_is_lent_first(
    guarantees: list[int], rates: list[int], expected: list[dict[int | None, int]]
) -> None:
    assert report.lenders(100, guarantees, rates) == expected


def test_who_lends_is_said_on_both_sides() -> None:
    before = told(0, one("owner", guarantee=80 * MBIT), one("greedy"))
    after = told(1_000_000_000, one("owner", guarantee=80 * MBIT, down=2 * MBIT), one("greedy", down=8 * MBIT))
    (internet,) = report.tree(before, after)
    owner, greedy = internet["classes"]
    assert greedy["down"]["borrows"] == [{"of": None, "rate": 20 * MBIT}, {"of": "owner", "rate": 44 * MBIT}]
    assert owner["down"]["lends"] == 44 * MBIT and owner["up"]["lends"] == 0
    shown = links.lines([internet])
    assert "internet, down: 80 Mbit/s of 100 Mbit/s (80 %)" in shown
    (line,) = [line for line in shown if "greedy" in line and "borrows" in line]
    assert line.endswith("borrows 20 Mbit/s that nobody is promised, 44 Mbit/s of owner")


@pytest.mark.parametrize(
    ("bits", "text"),
    [(0, "0"), (800, "800 bit/s"), (64_000, "64 kbit/s"), (999_600, "1000 kbit/s"), (1_234_567, "1.23 Mbit/s"),
     (5 * 10**9, "5 Gbit/s")],
)  # fmt: skip
def test_rates_are_short(bits: int, text: str) -> None:
    assert links.rate(bits) == text


def test_without_classes_it_says_so() -> None:
    assert links.lines(report.tree(told(0), told(1)))[:1] == ["internet, up: 0 of 100 Mbit/s (0 %)"]
    empty = report.Report(at_ns=0, links=[], classes=[], held_bounds_ms=[])
    assert links.lines(report.tree(empty, empty)) == ["no rule has `bandwidth`"]
