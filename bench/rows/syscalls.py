"""System calls of each proxy for one connection, counted by strace."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import peers
from peers import Running

from rows.bench import Bench

#: Calls for each connection below which a call is not shown.
SHOWN = 0.01


def run(bench: Bench) -> None:
    if shutil.which("strace") is None:
        print("syscalls: not measured, strace is not installed")
        return
    for close in ("backend", "client"):
        everybody = [peer for peer in peers.ALL.values() if peer.name != "direct"]
        with bench.serving(everybody) as running:
            for name, one in running.items():
                counts = count(bench, one, bench.fresh_folder("strace") / "counts.txt", close)
                bench.record("syscalls", f"{close} closes first", name, 0, counts)


def count(bench: Bench, running: Running, told: Path, close: str) -> dict[str, object]:
    """Calls of the proxy's process while connections are made, over the connections that it accepted."""
    assert running.pid is not None
    strace = subprocess.Popen(
        ["strace", "-c", "-f", "-q", "-U", "name,calls,errors", "-p", str(running.pid), "-o", str(told)],
        stderr=subprocess.DEVNULL,
    )
    time.sleep(0.5)
    try:
        bench.load("connect", running, flows=8, close=close, seconds=1)
    finally:
        strace.send_signal(signal.SIGINT)
        strace.wait(10)
    rows = re.findall(r"^(\w+) +(\d+) *(\d+)?$", told.read_text(), re.MULTILINE)
    calls = {name: int(number) for name, number, _ in rows if name != "total"}
    failed = {name: int(errors or 0) for name, _, errors in rows}
    accepted = sum(calls.get(name, 0) - failed.get(name, 0) for name in ("accept", "accept4"))
    if not accepted:
        raise RuntimeError(f"no connection was accepted: {calls}")
    each = {name: number / accepted for name, number in sorted(calls.items(), key=lambda one: -one[1])}
    shown = {name: round(number, 2) for name, number in each.items() if number >= SHOWN}
    return {"calls": sum(each.values()), "each": shown}
