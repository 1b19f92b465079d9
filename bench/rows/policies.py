"""What names in a policy cost: connections a second, seconds to load, bytes."""

from __future__ import annotations

import time
from pathlib import Path

from egress_gateway.check import check
from peers.gateway import Options, Place, policy, variant, write_names

from rows.bench import Bench

COUNTS = [100, 10_000, 1_000_000]


def load_seconds(folder: Path, names: int) -> dict[str, float]:
    """The whole way of a reload but the installation: read, check, compile; and the size of what comes out."""
    write_names(folder / "names.txt", names)
    file = folder / "policy.yaml"
    file.write_text(policy(Place(folder, 8443, 3128), [1, 2, 3, 4], Options(rules=0, names=names)))
    begun = time.perf_counter()
    compiled = check([file]).policy
    seconds = time.perf_counter() - begun
    assert compiled.names >= names
    text = (folder / "names.txt").stat().st_size - names
    return {"load_s": seconds, "bytes_per_name": compiled.size / names, "bytes_own": (compiled.size - text) / names}


def run(bench: Bench) -> None:
    peers = [variant(f"egress, {count:,} names", names=count, rules=0) for count in COUNTS]
    with bench.serving(peers) as running:
        for number, name in bench.interleave(list(running)):
            bench.record("policies", "32 in flight", name, number, bench.load("connect", running[name], flows=32))
    load_seconds(bench.fresh_folder("warm"), COUNTS[0])
    for number in range(bench.rounds):
        for count in COUNTS:
            figures = load_seconds(bench.fresh_folder("names"), count)
            bench.record("policies", "load", f"egress, {count:,} names", number, figures)
