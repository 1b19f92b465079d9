"""Memory of an idle flow: the proxy's own, and the kernel's with the floor taken off."""

from __future__ import annotations

import time
from pathlib import Path

import load_generator
from peers import ALL, Running

from rows.bench import Bench

FLOWS = 8_000
#: Seconds until what is freed or touched late has settled.
SETTLE = 1.5
PAGE = 4096


def tree(root: int) -> list[int]:
    """A process and its descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(") ", 1)[1].split()[1])
        except OSError:
            continue
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def user(running: Running) -> dict[str, int]:
    """Bytes of a proxy and its children. PSS counts what several share once."""
    total = {"pss": 0, "rss": 0}
    for pid in tree(running.pid) if running.pid is not None else []:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            key, value, *_ = line.split()
            if key in ("Pss:", "Rss:"):
                total[key[:-1].lower()] += int(value) * 1024
    return total


def kernel() -> int:
    """Bytes of slabs that cannot be given back, and of socket buffers, of the whole machine."""
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    slab = int(meminfo["SUnreclaim"].split()[0]) * 1024
    sockets = Path("/proc/net/sockstat").read_text().split("TCP:")[1].splitlines()[0].split()
    return slab + int(sockets[sockets.index("mem") + 1]) * PAGE


def run(bench: Bench) -> None:
    """Fresh processes for each figure: what was allocated once is seldom given back."""
    everybody = [peer for peer in ALL.values() if bench.wants(peer)]
    for number, name in bench.interleave([peer.name for peer in everybody]):
        with bench.serving([ALL[name]]) as serving:
            running = serving[name]
            # Code and first allocations are no part of a flow.
            bench.load("connect", running, flows=8, seconds=0.2)
            time.sleep(SETTLE)
            before, kernel_before = user(running), kernel()
            with load_generator.held(running, bench.backend, bench.cpus, FLOWS):
                time.sleep(SETTLE)
                after, kernel_after = user(running), kernel()
        figures = {
            "user_bytes": (after["pss"] - before["pss"]) / FLOWS,
            "user_rss_bytes": (after["rss"] - before["rss"]) / FLOWS,
            "kernel_bytes": (kernel_after - kernel_before) / FLOWS,
            "base_bytes": before["pss"],
        }
        bench.record("memory", f"{FLOWS:,} idle flows", name, number, figures)
