"""The command `egress`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from egress_gateway import client
from egress_gateway.commands import budgets, check, links, run, running, why

DESCRIPTION = """An egress gateway: workloads send their outbound connections to it; it reads the destination's name,
asks the policy, and carries what is allowed. It never decrypts."""
EPILOG = """a first look:
  egress check policy.yaml                   is the policy good?
  egress why -c policy.yaml 10.0.0.1 api.stripe.com
  egress run -c policy.yaml                  start; then, in another terminal:
  egress status | egress flows | egress reload

`egress COMMAND --help` says more."""

Add = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], int]

COMMANDS: tuple[tuple[str, str, str, str, Add, Run], ...] = (
    ("run", run.HELP, run.DESCRIPTION, run.EPILOG, run.add, run.run),
    ("check", check.HELP, check.DESCRIPTION, check.EPILOG, check.add, check.run),
    ("why", why.HELP, why.DESCRIPTION, why.EPILOG, why.add, why.run),
    ("status", running.STATUS_HELP, running.STATUS, running.STATUS_EPILOG, running.add, running.status),
    ("reload", running.RELOAD_HELP, running.RELOAD, running.RELOAD_EPILOG, running.add, running.reload),
    ("flows", running.FLOWS_HELP, running.FLOWS, running.FLOWS_EPILOG, running.add_flows, running.flows),
    ("links", links.HELP, links.DESCRIPTION, links.EPILOG, links.add, links.links),
    ("budgets", budgets.HELP, budgets.DESCRIPTION, budgets.EPILOG, running.add, budgets.budgets),
    ("metrics", running.METRICS_HELP, running.METRICS, running.METRICS_EPILOG, running.add_metrics, running.metrics),
)


def _version() -> str:
    from importlib.metadata import version

    return version("egress-gateway")


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(prog="egress", description=DESCRIPTION, epilog=EPILOG, formatter_class=raw)
    top.add_argument("--version", action="store_true", help="print the version and end")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, help_text, description, epilog, add, act in COMMANDS:
        one = commands.add_parser(name, help=help_text, description=description, epilog=epilog, formatter_class=raw)
        add(one)
        one.set_defaults(act=act)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    top = parser()
    arguments = top.parse_args(argv)
    if arguments.version:
        print(f"egress-gateway {_version()}")
        return 0
    if arguments.command is None:
        top.print_help()
        return 2
    act: Run = arguments.act
    try:
        return act(arguments)
    except client.NoGatewayError as error:
        print(f"egress {arguments.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # `egress flows | head`: the reader has what it wanted.
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
