"""`egress links`: who has how much of which link just now."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from egress_gateway import client
from egress_gateway.commands import running
from egress_gateway.units import RATE_UNITS

HELP = "show links and classes with their rates"
DESCRIPTION = """Show every link with the rules that have `bandwidth` on it: what each moves now, its guarantee and its
ceiling, how many connections it has and how many of them wait for their turn, and what it borrows from whom. Rates are
those of the time that the command watches, one second if nothing else is said."""
EPILOG = """examples:
  egress links
  egress links --seconds 10 --json | jq '.[].down.rate'

exit codes: 0 done, 1 refused, 2 no gateway answers"""
#: Seconds at most that are watched: somebody waits for the answer.
MAX_SECONDS = 3600.0
HEAD: tuple[str, ...] = ("RULE", "RATE", "GUARANTEE", "MAX", "PRIORITY", "WEIGHT", "OPEN", "WAITING", "")


def add(parser: argparse.ArgumentParser) -> None:
    running.add(parser)
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="watch for so long (1)")


def links(arguments: argparse.Namespace) -> int:
    from egress_gateway import report

    if not 0.1 <= arguments.seconds <= MAX_SECONDS:
        print(f"egress links: --seconds {arguments.seconds:g} is not from 0.1 to {MAX_SECONDS:g}", file=sys.stderr)
        return 2
    reports = []
    for pause in (0.0, arguments.seconds):
        time.sleep(pause)
        code, body = client.ask(running.control(arguments), "GET", "/report")
        if code != 200:
            print(json.loads(body).get("error", "not well"), file=sys.stderr)
            return 1
        reports.append(report.decode(body))
    told = report.tree(*reports)
    print(json.dumps(told) if arguments.json else "\n".join(lines(told)))
    return 0


def lines(told: list[dict[str, Any]]) -> list[str]:
    """A table for each direction of each link."""
    if not told:
        return ["no rule has `bandwidth`"]
    out: list[str] = []
    for link in told:
        for direction in ("up", "down"):
            moved = rate(link[direction]["rate"])
            if link["link"] is None:
                out.append(f"without a link, {direction}: {moved}")
            else:
                part = 100 * link[direction]["rate"] / link["bandwidth"]
                of_all = " of all gateways" if link["scope"] == "cluster" else ""
                out.append(f"{link['link']}, {direction}: {moved} of {rate(link['bandwidth'])}{of_all} ({part:.0f} %)")
            cells = [HEAD]
            cells += [_row(one, one[direction]) for one in link["classes"]]
            out += [f"  {line}" for line in running.columns(cells, right=(1, 2, 3, 5, 6, 7))] + [""]
    return out[:-1]


def _row(one: dict[str, Any], way: dict[str, Any]) -> tuple[str, ...]:
    said = []
    if way["borrows"]:
        of = [f"{rate(each['rate'])} {_owner(each['of'])}" for each in way["borrows"]]
        said.append(f"borrows {', '.join(of)}")
    if way["lends"]:
        said.append(f"lends {rate(way['lends'])}")
    return (
        one["rule"],
        rate(way["rate"]),
        rate(one["guarantee"]) if one["guarantee"] else "-",
        "-" if one["max"] is None else rate(one["max"]),
        one["priority"],
        str(one["weight"]),
        f"{one['flows']:,}",
        f"{way['waiting']:,}",
        "; ".join(said),
    )


def _owner(rule: str | None) -> str:
    return "that nobody is promised" if rule is None else f"of {rule}"


def rate(bits: float) -> str:
    """`612 Mbit/s`, `1.25 Gbit/s`, `0`: three digits are enough to look at."""
    for unit, factor in sorted(RATE_UNITS.items(), key=lambda item: -item[1]):
        if bits >= factor:
            return f"{bits / factor:.3g} {unit}" if bits < 999.5 * factor else f"{bits / factor:.0f} {unit}"
    return f"{bits:.0f} bit/s" if bits else "0"
