"""The gateway beside its peers: interleaved rounds of every workload, a table, charts, and all raw figures."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from pathlib import Path

import load_generator
import network
import peers
from report import page, results
from rows import ROWS
from rows.bench import Bench

from egress_core import _dataplane

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="", help=f"of {', '.join(ROWS)}; all unless said")
    parser.add_argument("--peers", default="", help=f"of {', '.join(peers.KNOWN)}; all unless said")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="that one peer is loaded in a round")
    parser.add_argument("--components", type=Path, help="what pytest-benchmark wrote, for the page")
    parser.add_argument("--write", type=Path, help="folder whose page gets these rows; others stay as they are there")
    given = parser.parse_args()
    given.rows = given.rows.replace(",", " ").split() or list(ROWS)
    given.peers = given.peers.replace(",", " ").split() or None
    for kind, names, known in (("row", given.rows, ROWS), ("peer", given.peers or [], peers.KNOWN)):
        for name in names:
            if name not in known:
                parser.error(f"{name} is no {kind}; there are {', '.join(known)}")
    return given


def keep(folder: Path, found: results.Results, components: Path | None) -> None:
    """Puts these rows into the page; rows that it had before stay, with their own date and commit."""
    whole = results.Results.read(folder).with_rows_of(found)
    if components:
        whole.put_components(components)
    whole.write(folder)
    page.write(folder, whole)


def main() -> int:
    given = arguments()
    if _dataplane.build_profile() != "release":
        print("the extension is a debug build; build it with `make setup` before you measure", file=sys.stderr)
        return 2
    # Processes are ended by the blocks that started them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    network.enter()
    for name, why in peers.missing().items():
        print(f"{name} is not measured: {why}")
    cpus = load_generator.Cpus.of_this_machine()
    found = results.Results.empty()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="eb")))
        backend = stack.enter_context(load_generator.backend(cpus))
        for row in given.rows:
            begun = time.monotonic()
            (folder / row).mkdir()
            bench = Bench(folder / row, cpus, backend, given.rounds, given.seconds, given.peers)
            ROWS[row](bench)
            found.put(row, bench.samples, given.rounds, given.seconds)
            print(page.section(row, found), flush=True)
            print(f"({row}: {time.monotonic() - begun:.0f} s)\n", flush=True)
            if given.write:
                # After each row: what has been measured is kept when a later one fails.
                keep(given.write, found, given.components)
    print(page.targets(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
