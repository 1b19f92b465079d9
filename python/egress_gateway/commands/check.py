"""`egress check`: would this policy be taken?"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from egress_gateway import places
from egress_gateway.units import Rate

# Rules that a line names.
_SHOWN = 4

HELP = "check policy files"
DESCRIPTION = """Read, merge and compile policy files exactly as `egress run` does, and change nothing.

Every mistake is shown at once, each with its file, line, column and what to write instead. Of a good policy it is said
who listens, how many rules share which link and how much of it is guaranteed, where budgets are kept, and what holds
over all gateways of a cluster. What only a start can tell, such as whether a port is free, is not checked."""
EPILOG = """examples:
  egress check policy.yaml
  egress check --json /etc/egress            for machines: {"ok": …, "errors": […]}

exit codes: 0 the policy is good, 1 it is not"""


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", metavar="PATH", help="policy files or directories, merged by rule")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from egress_gateway.check import check
    from egress_gateway.errors import ConfigErrors

    paths = arguments.paths or places.config()
    try:
        checked = check(paths)
    except ConfigErrors as errors:
        if arguments.json:
            print(errors.as_json())
        else:
            print(errors.render(), file=sys.stderr)
        return 1
    document = json.loads(checked.loaded.document)
    settings = document["settings"]
    summary: dict[str, Any] = {
        "ok": True,
        "files": list(checked.loaded.files),
        "rules": checked.policy.rules,
        "names": checked.policy.names,
        "compiled_bytes": checked.policy.size,
        "digest": checked.policy.digest,
        "listeners": [{key: one[key] for key in ("name", "bind", "accept")} for one in settings["listeners"]],
        "links": _links(document),
        "budgets": _budgets(document),
        "cluster": _cluster(document),
    }
    if arguments.json:
        print(json.dumps(summary))
        return 0
    files = len(summary["files"])
    print(
        f"good: {count(summary['rules'], 'rule')} and {count(summary['names'], 'name')} in {count(files, 'file')}, "
        f"{summary['compiled_bytes']:,} bytes compiled"
    )
    for listener in summary["listeners"]:
        print(f"  listener {listener['name']}: {', '.join(listener['accept'])} on {listener['bind']}")
    for line in _lines(summary):
        print(f"  {line}")
    return 0


def _links(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Each link with the rules that share it; last, without a name, the rules that share none."""
    classes: dict[str | None, list[dict[str, Any]]] = {name: [] for name in document["links"]}
    # A rule need not name the only link that there is.
    only = next(iter(classes)) if len(classes) == 1 else None
    for rule in document["rules"]:
        if given := rule["bandwidth"]:
            classes.setdefault(given["link"] or only, []).append(given | {"rule": rule["name"]})
    told = []
    for name, sharing in classes.items():
        link = document["links"].get(name, {"bandwidth": None, "scope": None})
        above = [one["rule"] for one in sharing if name and (one["max"] or 0) > link["bandwidth"]]
        guaranteed = sum(one["guarantee"] or 0 for one in sharing)
        told.append({"name": name, **link, "rules": len(sharing), "guaranteed": guaranteed, "max_above_link": above})
    return told


def _budgets(document: dict[str, Any]) -> dict[str, Any] | None:
    rules = sum(rule["budget"] is not None for rule in document["rules"])
    return {**document["settings"]["budgets"], "rules": rules} if rules else None


def _cluster(document: dict[str, Any]) -> dict[str, Any] | None:
    """Without what logs in at the store."""
    given = document["settings"]["cluster"]
    if given is None:
        return None
    scheme, _, rest = given["store"].partition("://")
    return {
        "group": given["group"],
        "store": f"{scheme}://{rest.rpartition('@')[2]}",
        "replicas": given["replicas"],
        "links": sum(link["scope"] == "cluster" for link in document["links"].values()),
        "rules": sum((rule["bandwidth"] or {}).get("scope") == "cluster" for rule in document["rules"]),
    }


def _lines(summary: dict[str, Any]) -> list[str]:
    """What rules may use, a line each."""
    out = []
    for link in summary["links"]:
        rules = count(link["rules"], "rule")
        if link["name"] is None:
            out.append(f"no link: {rules} with bandwidth")
            continue
        bandwidth, guaranteed = Rate(link["bandwidth"]), link["guaranteed"]
        scope = " over all gateways" if link["scope"] == "cluster" else ""
        by = f"shared by {rules}" if link["rules"] > 1 else f"used by {rules if link['rules'] else 'no rule'}"
        line = f"link {link['name']}: {bandwidth}{scope}, {by}"
        if guaranteed:
            line += f", {Rate(guaranteed)} guaranteed ({100 * guaranteed // link['bandwidth']} %)"
        if above := link["max_above_link"]:
            more = f" and {len(above) - _SHOWN} more" if len(above) > _SHOWN else ""
            line += f"; less than the `max` of {', '.join(above[:_SHOWN])}{more}"
        out.append(line)
    if budgets := summary["budgets"]:
        out.append(f"budgets: {count(budgets['rules'], 'rule')}, kept in {budgets['store']}, by {budgets['time_zone']}")
    if shared := summary["cluster"]:
        what = [count(shared[key], key[:-1]) for key in ("links", "rules") if shared[key]]
        holds = f"limits of {' and '.join(what)}" if what else "nothing has `scope: cluster`"
        out.append(
            f"cluster {shared['group']}: {holds}, {count(shared['replicas'], 'gateway')}, store {shared['store']}"
        )
    return out


def count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
