"""`egress check`: would this policy be taken?"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from egress_gateway import places

HELP = "check policy files"
DESCRIPTION = """Read, merge and compile policy files exactly as `egress run` does, and change nothing.

Every mistake is shown at once, each with its file, line, column and what to write instead. What only a start can
tell, such as whether a port is free, is not checked."""
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
    settings = json.loads(checked.loaded.document)["settings"]
    summary: dict[str, Any] = {
        "ok": True,
        "files": list(checked.loaded.files),
        "rules": checked.policy.rules,
        "names": checked.policy.names,
        "compiled_bytes": checked.policy.size,
        "digest": checked.policy.digest,
        "listeners": [{key: one[key] for key in ("name", "bind", "accept")} for one in settings["listeners"]],
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
    return 0


def count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
