"""Where a proxy's CPU goes, by system call: perf samples while it is loaded. Prints a table in Markdown.

    python bench/profile.py connect egress nginx haproxy
    python bench/profile.py connect-client egress sniproxy
    python bench/profile.py message egress haproxy
    python bench/profile.py down egress haproxy-tuned

Needs perf (Debian: linux-perf) and leave to read kernel symbols.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import load_generator
import network
import peers
from peers import Running

SECONDS = 4
#: What is profiled: the load generator's shape and options.
LOADS: dict[str, tuple[str, dict[str, Any]]] = {
    "connect": ("connect", {"flows": 128, "close": "backend"}),
    "connect-client": ("connect", {"flows": 128, "close": "client"}),
    "message": ("message", {"flows": 64, "size": 64}),
    "down": ("down", {"flows": 8}),
    "up": ("up", {"flows": 8}),
}
#: Where the kernel takes over, and what the names of the functions that it calls next begin with.
ENTRY, PREFIX = "do_syscall_64", re.compile("^(__x64_sys_|__sys_|do_)")
#: The kernel's receive path, which loopback runs on the sender's account.
RECEIVE = "handle_softirqs"


def stacks(perf: Path) -> list[list[str]]:
    """Every sample as the names of its functions, innermost first."""
    command = ["perf", "script", "-i", str(perf), "-F", "comm,ip,sym"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = []
    for sample in told.split("\n\n"):
        lines = [line.split() for line in sample.splitlines() if line.startswith((" ", "\t"))]
        if lines:
            found.append([line[1] if len(line) > 1 else "?" for line in lines])
    return found


def shares(samples: list[list[str]]) -> dict[str, float]:
    """Percent by system call, those within the receive path apart, and what is in no call."""
    parts: Counter[str] = Counter()
    for stack in samples:
        entry = stack.index(ENTRY) if ENTRY in stack else 0
        parts[PREFIX.sub("", stack[entry - 1]) if entry else "in no system call"] += 1
        if entry and RECEIVE in stack:
            parts["of these: receive path of what was sent"] += 1
    return {name: 100 * count / len(samples) for name, count in parts.items()}


def profile(
    load: str, running: Running, backend: load_generator.Backend, cpus: load_generator.Cpus
) -> dict[str, float]:
    shape, options = LOADS[load]
    command = load_generator.command(shape, running, backend, cpus, **options, seconds=SECONDS + 2)
    loading = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        with tempfile.TemporaryDirectory() as folder:
            perf = Path(folder) / "perf.data"
            command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "4000", "-g", "-p", str(running.pid)]
            command += ["-o", str(perf), "--", "sleep", str(SECONDS)]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            return shares(stacks(perf))
    finally:
        loading.wait()


def main() -> None:
    load, *names = sys.argv[1:]
    network.enter()
    cpus = load_generator.Cpus.of_this_machine()
    found = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="eb")))
        backend = stack.enter_context(load_generator.backend(cpus))
        for name in names:
            (folder / name).mkdir()
            with peers.ALL[name].start(folder / name, backend.ports, cpus.proxy) as running:
                found[name] = profile(load, running, backend, cpus)
    rows = sorted({row for one in found.values() for row in one}, key=lambda row: -found[names[0]].get(row, 0))
    print(f"| share of the proxy's CPU, % | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for row in rows:
        cells = [found[name].get(row, 0.0) for name in names]
        if max(cells) >= 0.5:
            print(f"| {row} | {' | '.join(f'{cell:.1f}' for cell in cells)} |")


if __name__ == "__main__":
    main()
