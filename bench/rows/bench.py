"""One run of the benchmarks: where it keeps its files, who serves, and what has been measured."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import load_generator
from peers import Peer, Running

#: One figure set of one peer in one round: row, case, peer, round, and the figures.
Sample = dict[str, Any]
KIB, GIB = 1 << 10, 1 << 30
#: How often a disturbed run is made again.
AGAIN = 2


@dataclass
class Bench:
    folder: Path
    cpus: load_generator.Cpus
    backend: load_generator.Backend
    rounds: int
    seconds: float
    #: Names of the peers that take part, or None for all.
    peers: list[str] | None
    samples: list[Sample] = field(default_factory=list)
    _folders: Iterator[int] = field(default_factory=itertools.count)

    def record(self, row: str, case: str, peer: str, number: int, figures: dict[str, Any]) -> None:
        self.samples.append({"row": row, "case": case, "peer": peer, "round": number, **figures})

    def fresh_folder(self, name: str) -> Path:
        """Short, because a path of a control socket has 107 bytes at most."""
        folder = self.folder / f"{next(self._folders)}-{name[:12]}"
        folder.mkdir()
        return folder

    def wants(self, peer: Peer) -> bool:
        """A variant of a peer (`egress, log off`) is wanted with it."""
        return peer.missing() is None and (self.peers is None or peer.name.split(",")[0] in self.peers)

    @contextlib.contextmanager
    def serving(
        self, peers: list[Peer], cpus: str | None = None, backends: list[int] | None = None
    ) -> Iterator[dict[str, Running]]:
        """The wanted ones of `peers`, all at the same time: they sleep unless they are asked."""
        with contextlib.ExitStack() as stack:
            yield {
                peer.name: stack.enter_context(
                    peer.start(self.fresh_folder(peer.name), backends or self.backend.ports, cpus or self.cpus.proxy)
                )
                for peer in peers
                if self.wants(peer)
            }

    def load_once(self, shape: str, running: Running, **options: Any) -> dict[str, Any]:
        options = {"seconds": self.seconds, **options}
        return derived(shape, load_generator.run(shape, running, self.backend, self.cpus, **options))

    def load(self, shape: str, running: Running, **options: Any) -> dict[str, Any]:
        """A run that others on the machine disturbed is made again, at most twice; the last one counts."""
        figures = self.load_once(shape, running, **options)
        again = 0
        while figures["verdict"] == "disturbed" and again < AGAIN:
            figures = self.load_once(shape, running, **options)
            again += 1
        return {**figures, "again": again}

    def interleave(self, names: list[str]) -> Iterator[tuple[int, str]]:
        """Everybody once in a round, and not always after the same one."""
        for number in range(self.rounds):
            turned = number % max(len(names), 1)
            for name in names[turned:] + names[:turned]:
                yield number, name


def derived(shape: str, figures: dict[str, Any]) -> dict[str, Any]:
    """With rates and CPU for each unit: a GiB of bulk, or one connection or message."""
    if shape in ("down", "up"):
        units, per = figures["bytes"] / GIB, 1.0
        figures["gib_s"] = units / figures["seconds"]
        names = ("cpu_s_gib", "machine_s_gib")
    else:
        units, per = figures["done"], 1e6
        figures["rate"] = units / figures["seconds"]
        names = ("cpu_us", "machine_us")
    if units:
        figures[names[0]] = figures["proxy_cpu"] / units * per
        figures[names[1]] = figures["machine_cpu"] / units * per
    return figures
