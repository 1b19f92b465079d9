"""`egress budgets`: what is used of which budget."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from egress_gateway import client
from egress_gateway.commands import running
from egress_gateway.commands.check import count
from egress_gateway.units import SIZE_UNITS, Rate

if TYPE_CHECKING:
    # Not where the gateway itself starts: what decodes a report is of the control process.
    from egress_gateway import report

HELP = "show budgets and what is used of them"
DESCRIPTION = """Show every rule with a `budget`: what it has used in the present period and of how much, when that
ends, and what happens when it is spent; of a rule that gives each source a budget, how many there are and of how many
it is spent."""
EPILOG = """examples:
  egress budgets
  egress budgets --json | jq '.budgets[] | select(.up.over)'

exit codes: 0 done, 1 refused, 2 no gateway answers"""
HEAD: tuple[str, ...] = ("RULE", "", "USED", "OF", "", "UNTIL", "THEN")


def budgets(arguments: argparse.Namespace) -> int:
    from egress_gateway import report

    code, body = client.ask(running.control(arguments), "GET", "/report")
    if code != 200:
        print(json.loads(body).get("error", "not well"), file=sys.stderr)
        return 1
    if arguments.json:
        told = json.loads(body)
        print(json.dumps({key: told[key] for key in ("budgets", "store")}))
    else:
        print("\n".join(lines(report.decode(body))))
    return 0


def lines(told: report.Report) -> list[str]:
    if not told.budgets:
        return ["no rule has `budget`"]
    cells = [HEAD]
    for one in told.budgets:
        for direction, way in (("up", one.up), ("down", one.down)):
            if way is not None:
                until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(way.ends))
                of = f"{size(way.limit)}/{way.per}"
                cells.append((one.rule, direction, size(way.used), of, _part(way), until, _then(one, way.over)))
    out = running.columns(cells, right=(2, 3, 4)) if len(cells) > 1 else []
    out += [_sources(one, one.sources) for one in told.budgets if one.sources is not None]
    if told.store is not None and told.store.failing:
        out.append(f"{told.store.path} CANNOT BE WRITTEN: what is used is counted in memory only")
    return out


def _part(way: report.Used) -> str:
    return f"{100 * way.used // way.limit} %"


def _then(one: report.Budget, over: bool) -> str:
    what = one.then if isinstance(one.then, str) else f"slow {Rate(one.then.slow)}"
    if one.audit:
        what += " (audit)"
    return f"SPENT: {what}" if over else what


def _sources(one: report.Budget, sources: report.Sources) -> str:
    each: dict[str, Any] = {"up": sources.up, "down": sources.down}
    allowed = ", ".join(f"{size(given.bytes)}/{given.per} {way}" for way, given in each.items() if given)
    spent = f", {_then(one, True)} for {sources.over:,} of them" if sources.over else f", then {_then(one, False)}"
    return f"{one.rule}: {allowed} for each source; {count(sources.counted, 'source')} counted{spent}"


def size(count: int) -> str:
    """`4.25 GB`, `980 kB`, `17 B`: three digits are enough to look at."""
    for unit, factor in reversed(SIZE_UNITS.items()):
        if count >= factor:
            return f"{count / factor:.3g} {unit}" if count < 999.5 * factor else f"{count / factor:.0f} {unit}"
    return f"{count} B"
