"""`egress why`: which rule decides, and what would have to change."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from egress_gateway import client, places

HELP = "explain a decision"
DESCRIPTION = """Say what the policy decides for a source and a destination, which rule does, which rules were
looked at, the nearest one that does not match, and the line of YAML that would allow it.

The decision is made by the code that the gateway itself runs, on the files given with -c, or else on the files of
the running gateway."""
EPILOG = """examples:
  egress why 10.1.2.3 api.stripe.com              port 443
  egress why 10.1.2.3 db.partner.com:5432
  egress why -c policy.yaml 10.1.2.3 [2001:db8::1]:443 --json
  egress why 10.1.2.3 api.stripe.com --user alice

exit codes: 0 allowed, 1 denied, 2 the question or the policy is not valid"""

#: The port of a destination that is written without one, as in the policy language.
DEFAULT_PORT = 443


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="the caller's IP address")
    parser.add_argument("destination", metavar="NAME[:PORT]", help="name or address, port 443 if none is given")
    parser.add_argument("--user", metavar="NAME", help="the user that the caller logs in as")
    parser.add_argument("--spiffe", metavar="ID", help="the SPIFFE ID in the caller's certificate")
    parser.add_argument("--tlv", metavar="VALUE", help="the value of the PROXY protocol TLV that the listener takes")
    parser.add_argument("-c", "--config", action="append", metavar="PATH", help="policy file or directory")
    parser.add_argument("--control", metavar="PATH", help="control socket of the running gateway")
    parser.add_argument("--json", action="store_true", help="print JSON")


def split(destination: str) -> tuple[str, int]:
    """Host and port of `name`, `name:port`, `v6`, `[v6]` or `[v6]:port`; ValueError otherwise."""
    host, colon, port = destination.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        return destination.strip("[]"), DEFAULT_PORT
    if not (port.isascii() and port.isdigit()) or not 1 <= int(port) <= 65535:
        raise ValueError(f"{port!r} is not a port from 1 to 65535")
    return host.strip("[]"), int(port)


def paths_of(arguments: argparse.Namespace) -> list[str]:
    """The files asked about: given, else those of the running gateway, else those that would be run."""
    if arguments.config:
        return list(arguments.config)
    try:
        _, status = client.ask_json(arguments.control or places.control_socket(), "GET", "/status")
    except client.NoGatewayError as error:
        paths = places.config()
        # Said, because the answer would be another's: the files here need not be those that a gateway runs on.
        print(f"egress why: {error}\negress why: judged by {', '.join(paths)}", file=sys.stderr)
        return paths
    return list(status["config"])


def run(arguments: argparse.Namespace) -> int:
    from egress_gateway.check import check
    from egress_gateway.errors import ConfigErrors

    try:
        policy = check(paths_of(arguments)).policy
        host, port = split(arguments.destination)
        told: dict[str, Any] = json.loads(
            policy.explain(
                arguments.source, host, port, user=arguments.user, spiffe=arguments.spiffe, tlv=arguments.tlv
            )
        )
    except ConfigErrors as errors:
        print(errors.render(), file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"egress why: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(told))
    else:
        print("\n".join(lines(told)))
    return 1 if told["verdict"] == "deny" else 0


def lines(told: dict[str, Any]) -> list[str]:
    """The explanation as a person reads it."""
    out = [f"{told['verdict'].upper()}  {told['summary']}"]
    if rule := told["rule"]:
        out.append(f"  rule:     {rule['name']} ({rule['file']}:{rule['line']})")
    out.append(f"  reason:   {told['reason']}")
    if told.get("message"):
        out.append(f"  message:  {told['message']}")
    if address := told.get("address"):
        refused = f", may not be dialled ({address['refused']})" if address["refused"] else ""
        out.append(f"  address:  {address['class']}{refused}")
    if told["candidates"]:
        out.append("  looked at:")
        for one in told["candidates"]:
            mark = "*" if one["wins"] else "-"
            out.append(
                f"    {mark} {one['name']} ({one['file']}:{one['line']}) {one['action']} {one['destination']} "
                f"on {one['ports']}: {one['because']}"
            )
    if told.get("nearest_miss"):
        out.append(f"  nearest:  {told['nearest_miss']}")
    if told.get("allow_with"):
        out.append(f"  to allow: {told['allow_with']}")
    return out
