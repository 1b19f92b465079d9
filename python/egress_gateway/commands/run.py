"""`egress run`: the gateway itself."""

from __future__ import annotations

import argparse
import json
import signal
import sys

from egress_gateway import places

HELP = "start the gateway"
DESCRIPTION = """Start the gateway and stay in the foreground.

This process carries the traffic. It starts the control plane (policy files, metrics, decision log) as its child
and starts it again if it dies. SIGHUP reloads the policy, SIGUSR1 opens the decision log anew (after a rotation),
SIGTERM or Ctrl-C drains and ends; a second one ends at once."""
EPILOG = """examples:
  egress run                                 egress.yaml here, else /etc/egress
  egress run -c policy.yaml                  one file
  egress run -c /etc/egress -c extra.yaml    a directory and a file, merged by rule

exit codes: 0 ended as told, 78 the policy or a setting is broken, 70 the gateway failed"""


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c", "--config", action="append", metavar="PATH", help="policy file or directory; may be given several times"
    )
    parser.add_argument("--control", metavar="PATH", help=f"control socket (here: {places.control_socket()})")
    parser.add_argument("--admin", metavar="HOST:PORT", help="metrics and health; overrides admin.bind of the policy")
    parser.add_argument(
        "--log", metavar="TARGET", help="decision log: stdout, stderr, off or a path; overrides log.decisions"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="worker threads; overrides workers of the policy")


def run(arguments: argparse.Namespace) -> int:
    from egress_core import _dataplane

    options = {
        "config": arguments.config or places.config(),
        "python": sys.executable,
        "control_socket": arguments.control or places.control_socket(),
        "admin": arguments.admin,
        "log": arguments.log,
        "workers": arguments.workers,
    }
    # The data plane has its own handlers; Python's would only note the signal and raise KeyboardInterrupt at the end.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return _dataplane.Gateway(json.dumps(options).encode()).run()
    except OSError as error:
        print(f"egress run: {error}", file=sys.stderr)
        return 70
