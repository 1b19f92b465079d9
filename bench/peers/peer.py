"""What a peer is, and how its process is started on its CPU and ended."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: The four names; each has a backend of its own.
NAMES = ["one.bench.example", "two.bench.example", "three.bench.example", "four.bench.example"]
#: Connections that every peer is set up for: 8,000 idle ones and room.
MOST = 9_000


@dataclass(frozen=True)
class Running:
    """A peer that serves. Without a process it is no proxy."""

    to: list[str]
    pid: int | None = None
    #: Where it is told the destination otherwise than by SNI, by the way.
    ways: dict[str, list[str]] = field(default_factory=dict)
    #: The destinations by address, for those that are given no names of their own.
    named: list[str] = field(default_factory=list)

    def at(self, way: str) -> list[str]:
        """Where it is told in this way; nothing where it cannot be."""
        return self.to if way == "sni" else self.ways.get(way, [])

    def names_for(self, way: str) -> list[str]:
        """What the destinations are called in this way."""
        if self.named and way in ("connect", "http"):
            return self.named
        return [f"{name}:443" if way == "connect" else name for name in NAMES]


#: Folder for its files, ports of the backends in the order of `NAMES`, CPUs it may use.
Start = Callable[[Path, list[int], str], AbstractContextManager[Running]]


@dataclass(frozen=True)
class Peer:
    name: str
    start: Start
    #: Says its version, or None where it is no program.
    version_command: tuple[str, ...] | None
    #: What to do when the program is missing.
    remedy: str = ""

    def missing(self) -> str | None:
        if self.version_command and shutil.which(self.version_command[0]) is None:
            return f"{self.version_command[0]} is not installed ({self.remedy})"
        return None

    def version(self) -> str:
        if not self.version_command:
            return "-"
        told = subprocess.run(self.version_command, capture_output=True, text=True, check=False)
        found = re.search(r"\d+\.\d+(?:\.\d+)?(?:[-+~]\w[\w.+~-]*)?", told.stdout + told.stderr)
        return found[0] if found else "unknown"


def targets(port: int) -> list[str]:
    """Four addresses of one wildcard listener: one would run out of source ports at 28,000 connections a second."""
    return [f"127.0.0.{last}:{port}" for last in range(1, 5)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        port: int = probe.getsockname()[1]
        return port


def end(started: subprocess.Popen[Any]) -> None:
    if started.poll() is None:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(5)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@contextlib.contextmanager
def process(command: list[str], cpus: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process on some CPUs, ended with the block."""
    options = {"stdin": subprocess.DEVNULL, **options}
    # taskset becomes the command: the process id is the command's own.
    started = subprocess.Popen(["taskset", "-c", cpus, *command], **options)
    try:
        yield started
    finally:
        end(started)


@contextlib.contextmanager
def proxy(command: list[str], cpus: str, folder: Path, *ports: int) -> Iterator[subprocess.Popen[bytes]]:
    """A proxy that serves its ports; what it says is in `stderr.txt` of its folder."""
    said = folder / "stderr.txt"
    with said.open("wb") as stderr, process(command, cpus, stdout=stderr, stderr=stderr, cwd=folder) as started:
        for port in ports:
            wait_port(port, started, said)
        yield started


def wait_port(port: int, started: subprocess.Popen[bytes], said: Path, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if time.monotonic() > until or started.poll() is not None:
            raise RuntimeError(f"nothing serves port {port}: {said.read_text()[-2000:]}")
        time.sleep(0.02)
