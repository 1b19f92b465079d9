"""`egress status`, `reload`, `flows` and `metrics`: what is asked of a running gateway over its control socket."""

from __future__ import annotations

import argparse
import ipaddress
import json
import sys
import time
from collections.abc import Collection, Sequence
from typing import Any

from egress_gateway import client, places
from egress_gateway.commands.check import count

STATUS_HELP = "show the running gateway"
STATUS = """Show what the running gateway serves: policy generation and files, workers, listeners, the last reload
and whether the files on disk are broken. Where limits hold over several gateways: how many are seen, what each keeps
to, and whether their store is away. Where rules have budgets: their file, and whether it cannot be written."""
RELOAD_HELP = "read the policy files again now"
RELOAD = """Read, check and install the policy files of the running gateway, and wait for the outcome. A broken policy
changes nothing. Live connections that are still allowed are not touched."""
FLOWS_HELP = "list live connections"
FLOWS = """List the connections that are open now, newest first, straight from the table that the data plane keeps."""
METRICS_HELP = "print the metrics"
METRICS = """Print what /metrics answers, over the control socket."""
_CODES = "exit codes: 0 done, 1 refused (reload: nothing has changed), 2 no gateway answers"
STATUS_EPILOG = f"""examples:
  egress status
  egress status --json | jq .generation

{_CODES}"""
RELOAD_EPILOG = f"""examples:
  egress reload && echo in force
  egress reload --json                       for machines: the outcome, with every error

{_CODES}"""
FLOWS_EPILOG = f"""examples:
  egress flows
  egress flows --source 10.1.0.0/16 --name amazonaws.com

{_CODES}"""
METRICS_EPILOG = f"""examples:
  egress metrics | grep egress_config

{_CODES}"""


def add_metrics(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--control", metavar="PATH", help="control socket of the gateway")


def add(parser: argparse.ArgumentParser) -> None:
    add_metrics(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_flows(parser: argparse.ArgumentParser) -> None:
    add(parser)
    parser.add_argument("--source", metavar="CIDR", help="only sources in this network")
    parser.add_argument("--name", metavar="NAME", help="only this destination and what is below it")
    parser.add_argument("--limit", type=int, default=1000, metavar="N", help="at most so many (1000)")


def control(arguments: argparse.Namespace) -> str:
    """The control socket that is meant."""
    return arguments.control or places.control_socket()


def status(arguments: argparse.Namespace) -> int:
    code, told = client.ask_json(control(arguments), "GET", "/status")
    if arguments.json:
        print(json.dumps(told))
    elif code == 200:
        print("\n".join(_status_lines(told)))
    else:
        print(told.get("error", "not well"), file=sys.stderr)
    return 0 if code == 200 else 1


def _status_lines(told: dict[str, Any]) -> list[str]:
    state = "draining" if told["draining"] else "serving"
    digest = (told["digest"] or "none")[:12]
    out = [
        f"{state} generation {told['generation']} ({digest}), up {age(told['uptime_seconds'])}, pid {told['pid']}, "
        f"version {told['version']}",
        f"  files      {', '.join(told['files'] or told['config'])}",
    ]
    out += [f"  listener   {one['name']}: {one['accept']} on {one['bound']}" for one in told["listeners"]]
    if told["more_listeners"]:
        out.append(f"             … and {told['more_listeners']} more")
    out += [
        f"  worker {index}   {one['active']:,} open, {one['accepted']:,} accepted"
        for index, one in enumerate(told["workers"])
    ]
    if told["more_workers"]:
        out.append(f"             … and {told['more_workers']} more")
    if shared := told["cluster"]:
        out += _cluster_lines(shared)
    records, control = told["records"], told["control"]
    out.append(f"  records    {records['dropped']:,} dropped, {records['waiting']:,} waiting")
    out.append(
        f"  control    pid {control['pid']}, up {age(control['uptime_seconds'])}, "
        + count(control["restarts"], "restart")
    )
    if store := told["budgets"]:
        failing = "; NOT WRITTEN: what is used is counted in memory only" if store["failing"] else ""
        out.append(f"  budgets    {store['path']}{failing}")
    if told["admin"]:
        out.append(f"  admin      http://{told['admin']}")
    if last := told["last_reload"]:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(last["time"]))
        out.append(f"  reload     {last['result']} ({last['cause']}) at {when}, {last['seconds'] * 1000:.0f} ms")
        out += ["             " + error["shown"].replace("\n", "\n             ") for error in last.get("errors", ())]
    if told["config_error"]:
        out.append("  THE FILES ON DISK ARE BROKEN; the last good policy is in force")
    return out


def _cluster_lines(shared: dict[str, Any]) -> list[str]:
    keeps = {
        "shared": "shared by what each wants",
        "settling": f"settling: 1/{shared['parts']} of each shared limit at most",
        "last": "each keeps its last share",
        "safe": f"each keeps 1/{shared['parts']} of each shared limit",
    }[shared["keeps"]]
    seen = f"{shared['seen']} of {count(shared['replicas'], 'gateway')} seen"
    out = [f"  cluster    {shared['group']}: {seen}, {keeps}"]
    away = shared["away_ms"]
    out.append(f"             store {shared['store']}" + ("" if away is None else f" AWAY for {age(away / 1000)}"))
    if shared["error"]:
        out.append(f"             {shared['error']}")
    return out


def reload(arguments: argparse.Namespace) -> int:
    code, told = client.ask_json(control(arguments), "POST", "/reload")
    if arguments.json:
        print(json.dumps(told))
    elif code == 200:
        closing = f", {count(told['closing'], 'flow')} now denied" if told.get("closing") else ""
        print(f"{told['result']}: generation {told['generation']} in force{closing}")
    else:
        print(f"{told.get('result', 'failed')}: generation {told.get('generation', '?')} stays", file=sys.stderr)
        for error in told.get("errors", ()):
            print(error["shown"], file=sys.stderr)
        if told.get("more_errors"):
            print(f"… and {told['more_errors']} more", file=sys.stderr)
    return 0 if code == 200 else 1


def metrics(arguments: argparse.Namespace) -> int:
    code, body = client.ask(control(arguments), "GET", "/metrics")
    sys.stdout.write(body.decode())
    return 0 if code == 200 else 1


def flows(arguments: argparse.Namespace) -> int:
    try:
        network = ipaddress.ip_network(arguments.source, strict=False) if arguments.source else None
    except ValueError as error:
        print(f"egress flows: {error}", file=sys.stderr)
        return 2
    if arguments.limit < 1:
        print(f"egress flows: --limit {arguments.limit} is not a number from 1", file=sys.stderr)
        return 2
    # The filter is applied here, so all flows are asked for when there is one.
    ask_for = 100_000 if network or arguments.name else min(arguments.limit, 100_000)
    code, rows = client.ask_json(control(arguments), "GET", f"/flows?limit={ask_for}")
    if code != 200:
        print(rows.get("error", "not well"), file=sys.stderr)
        return 1
    if network is not None:
        rows = [row for row in rows if ipaddress.ip_address(row["source"]["ip"]) in network]
    if arguments.name:
        wanted = arguments.name.lower().strip(".")
        rows = [row for row in rows if f".{row['name'] or ''}".endswith(f".{wanted}")]
    rows.sort(key=lambda row: -row["start_unix_ns"])
    rows = rows[: arguments.limit]
    if arguments.json:
        print(json.dumps(rows))
        return 0
    print("\n".join(table(rows)))
    return 0


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The flows in columns."""
    cells = [("AGE", "SOURCE", "IDENTITY", "DESTINATION", "RULE", "VERDICT", "STAGE", "UP", "DOWN", "DECISION")]
    now = time.time()
    for row in rows:
        name = (row["name"] or "-") + ("…" if row["name_cut"] else "")
        cells.append(
            (
                age(max(0.0, now - row["start_unix_ns"] / 1e9)),
                f"{row['source']['ip']}:{row['source']['port']}",
                (row["identity"] or "-") + ("…" if row["identity_cut"] else ""),
                f"{name}:{row['port']}",
                row["rule"] or "-",
                row["verdict"],
                row["stage"],
                size(row["bytes_up"]),
                size(row["bytes_down"]),
                row["decision"],
            )
        )
    return columns(cells)


def columns(cells: Sequence[tuple[str, ...]], right: Collection[int] = ()) -> list[str]:
    """Cells of one width in each column; those of the columns in `right`, numbers, end below each other."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    place = [str.rjust if column in right else str.ljust for column in range(len(widths))]
    return [
        "  ".join(put(cell, width) for put, cell, width in zip(place, line, widths, strict=True)).rstrip()
        for line in cells
    ]


def age(seconds: float) -> str:
    """`5s`, `3m20s`, `2h05m`, `3d04h`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def size(count: float) -> str:
    """Bytes with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
