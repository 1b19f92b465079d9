"""The load generator and backend of bench/load: built, started, run."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from peers.peer import NAMES, Running, process

ROOT = Path(__file__).resolve().parents[1]
Figures = dict[str, Any]


@cache
def binary() -> str:
    """The release build."""
    command = [
        "cargo",
        "build",
        "--release",
        "--locked",
        "--quiet",
        "--manifest-path",
        str(ROOT / "bench/load/Cargo.toml"),
    ]
    target = ROOT / "bench/load/target"
    subprocess.run(command, check=True, env={**os.environ, "CARGO_TARGET_DIR": str(target)})
    return str(target / "release/egress-load")


@dataclass(frozen=True)
class Cpus:
    """Who runs where. With two CPUs the proxy has one to itself, and generator and backend share the other."""

    proxy: str
    #: For a proxy with two workers.
    proxy_two: str
    client: str
    backend: str

    @classmethod
    def of_this_machine(cls) -> Cpus:
        cpus = [str(cpu) for cpu in sorted(os.sched_getaffinity(0))]
        if len(cpus) < 2:
            raise SystemExit("two CPUs are needed: one for the proxy, one for what loads it")
        if len(cpus) < 4:
            return cls(cpus[0], ",".join(cpus[:2]), cpus[-1], cpus[-1])
        return cls(cpus[0], ",".join(cpus[:2]), cpus[2], cpus[3])


@dataclass(frozen=True)
class Backend:
    """One process with a port for each of the four names."""

    pid: int
    ports: list[int]


@contextlib.contextmanager
def backend(cpus: Cpus) -> Iterator[Backend]:
    command = [binary(), "serve", ",".join(["127.0.0.1:0"] * len(NAMES))]
    with process(command, cpus.backend, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        addresses = json.loads(started.stdout.readline())["addresses"]
        yield Backend(started.pid, [int(address.rsplit(":", 1)[1]) for address in addresses])


def command(shape: str, running: Running, served_by: Backend, cpus: Cpus, **options: Any) -> list[str]:
    way = options.pop("way", "sni")
    words = ["taskset", "-c", cpus.client, binary(), shape, "--to", ",".join(running.at(way))]
    # Captured connections say nothing that others do not.
    words += ["--way", "sni" if way == "redirect" else way, "--names", ",".join(running.names_for(way))]
    words += ["--backend", str(served_by.pid)]
    if running.pid is not None:
        words += ["--proxy", str(running.pid)]
    for option, value in options.items():
        words += ["--" + option.replace("_", "-"), str(value)]
    return words


def run(shape: str, running: Running, served_by: Backend, cpus: Cpus, **options: Any) -> Figures:
    """One run and its figures."""
    told = subprocess.run(
        command(shape, running, served_by, cpus, **options), capture_output=True, text=True, check=False, timeout=180
    )
    if told.returncode != 0:
        raise RuntimeError(f"{shape} {options}: {told.stderr.strip()}")
    figures: Figures = json.loads(told.stdout)
    return figures


@contextlib.contextmanager
def ahead_of_others() -> Iterator[None]:
    """What is started meanwhile runs before all else on the machine, where this process may say so.

    For shaping alone: it is timers that are measured there, and nobody fills a CPU.
    """
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def ahead_of_bulk(pid: int) -> None:
    """A process that answers messages is not to wait for what is ahead of others already."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR) + 1))


@contextlib.contextmanager
def shaping(
    plan: Figures, file: Path, cpus: Cpus, seconds: float, client: int | None = None
) -> Iterator[Callable[[], Figures]]:
    """A run of groups of flows that has begun; what the block gets waits for its end, `seconds` at most.

    Client and backend are threads of one process, so they share what CPUs there are for both. Clients connect from the
    network namespace of the process `client`.
    """
    file.write_text(json.dumps(plan))
    words = [] if client is None else ["nsenter", "-t", str(client), "-n"]
    words += ["taskset", "-c", f"{cpus.client},{cpus.backend}", binary(), "shape", str(file)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None and started.stderr is not None
            if not started.stdout.readline():
                raise RuntimeError(f"{file.stem}: {started.stderr.read().strip()}")

            def ended() -> Figures:
                said, complained = started.communicate(timeout=seconds)
                if started.returncode != 0:
                    raise RuntimeError(f"{file.stem}: {complained.strip()}")
                figures: Figures = json.loads(said)
                return figures

            yield ended
        finally:
            started.kill()


@contextlib.contextmanager
def held(running: Running, served_by: Backend, cpus: Cpus, flows: int) -> Iterator[None]:
    """Idle flows, for as long as the block lasts. A flow that ended meanwhile is an error."""
    words = command("hold", running, served_by, cpus, flows=flows, size=64)
    holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None and holder.stdout is not None
    try:
        if not holder.stdout.readline():
            raise RuntimeError(f"{flows} flows could not be opened")
        yield
        holder.stdin.close()
        ended = json.loads(holder.stdout.readline())
        if ended["failed"]:
            raise RuntimeError(f"{ended['failed']} of {flows} idle flows were lost")
    finally:
        holder.kill()
        holder.wait()
