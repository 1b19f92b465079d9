"""The gateway beside its peers, interleaved in one run: connections, messages, bulk, memory. Ratios are what counts."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import peers
import pytest

ROUNDS = 5
SECONDS = 2.0
#: The proxy has a CPU to itself; generator and backend share the other one (on two cores).
PROXY_CPU, LOAD_CPU = 0, 1

WORKLOADS = {
    "new connections": ("connect", 32, 512),
    "64-byte messages, 1 flow": ("message", 1, 64),
    "64-byte messages, 64 flows": ("message", 64, 64),
    "bulk down, 8 flows": ("down", 8, 0),
    "bulk up, 8 flows": ("up", 8, 0),
}


@pytest.mark.parametrize("workload", WORKLOADS)
def test_beside_peers(benchmark: Any, tmp_path: Path, workload: str, capsys: pytest.CaptureFixture[str]) -> None:
    shape, flows, size = WORKLOADS[workload]
    binary = str(peers.load_binary())
    figures: dict[str, list[dict[str, float]]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        backend_port = peers.free_port()
        stack.enter_context(
            peers.process([binary, "serve", f"127.0.0.1:{backend_port}"], LOAD_CPU, stdout=subprocess.DEVNULL)
        )
        peers.wait_port(backend_port)
        running = {}
        for name in peers.available():
            folder = tmp_path / name
            folder.mkdir()
            running[name] = stack.enter_context(peers.PEERS[name](folder, backend_port, PROXY_CPU))

        def one_round() -> None:
            for name, (port, pid) in running.items():
                command = ["taskset", "-c", str(LOAD_CPU), binary, shape, f"127.0.0.1:{port}", ",".join(peers.NAMES)]
                before = peers.cpu_seconds(pid) if pid else 0.0
                told = subprocess.run([*command, str(flows), str(size), str(SECONDS)], capture_output=True, check=True)
                used = peers.cpu_seconds(pid) - before if pid else 0.0
                figures[name].append({**json.loads(told.stdout), "cpu": used})

        benchmark.pedantic(one_round, rounds=ROUNDS, warmup_rounds=1)
    with capsys.disabled():
        print(f"\n{workload}")
        for name, runs in figures.items():
            print("  " + line(name, shape, runs[1:]))
    assert all(run["failed"] == 0 for run in figures["egress"])


def line(name: str, shape: str, runs: list[dict[str, float]]) -> str:
    """One row: rate, latency and the proxy's CPU per unit, medians over the rounds."""

    def median(of: Any) -> float:
        return statistics.median(of(run) for run in runs)

    if shape in ("down", "up"):
        gib = 1 << 30
        rate = f"{median(lambda run: run['bytes'] / gib / run['seconds']):8.2f} GiB/s"
        cpu = f"{median(lambda run: run['cpu'] / (run['bytes'] / gib)):7.3f} CPU s/GiB"
        return f"{name:8} {rate}  {cpu}"
    rate = f"{median(lambda run: run['done'] / run['seconds']):10,.0f} /s"
    cpu = f"{median(lambda run: run['cpu'] / max(run['done'], 1) * 1e6):7.1f} µs CPU each"
    latency = (
        f"p50 {median(lambda run: run['p50_us'] or 0):6,.0f} µs  p99 {median(lambda run: run['p99_us'] or 0):6,.0f} µs"
    )
    failed = sum(run["failed"] for run in runs)
    return f"{name:8} {rate}  {cpu}  {latency}" + (f"  FAILED {failed:.0f}" if failed else "")
