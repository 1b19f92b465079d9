"""Connections, messages and bulk, through everybody in turn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import network
import peers
from peers import Peer
from peers.gateway import EGRESS, variant

from rows.bench import Bench

OTHERS = [peer for peer in peers.ALL.values() if peer is not EGRESS]


@dataclass(frozen=True)
class Case:
    name: str
    shape: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Traffic:
    """Cases that the same running peers go through."""

    name: str
    cases: list[Case]
    who: list[Peer]
    #: Whether the proxies may use two CPUs, one of which is the generator's where there are only two.
    two_cpus: bool = False
    #: As everywhere unless said.
    congestion_control: str | None = None

    def __call__(self, bench: Bench) -> None:
        with contextlib.ExitStack() as stack:
            if self.congestion_control:
                if not network.can_have(self.congestion_control):
                    print(f"{self.name} is not measured: it needs root and {self.congestion_control}")
                    return
                stack.enter_context(network.congestion_controlled_by(self.congestion_control))
            running = stack.enter_context(bench.serving(self.who, bench.cpus.proxy_two if self.two_cpus else None))
            for case in self.cases:
                through = [name for name, one in running.items() if one.at(case.options.get("way", "sni"))]
                for number, name in bench.interleave(through):
                    options = {**case.options, "proxy_cpus": 1 + self.two_cpus}
                    figures = bench.load(case.shape, running[name], **options)
                    bench.record(self.name, case.name, name, number, figures)


def connects(flows: int, close: str, **options: Any) -> Case:
    return Case(f"{flows} in flight, {close} closes first", "connect", {"flows": flows, "close": close, **options})


def messages(size: int, flows: int, **options: Any) -> Case:
    return Case(f"{size} B, {flows:,} flow{'s' * (flows > 1)}", "message", {"size": size, "flows": flows, **options})


def bulk(direction: str, flows: int) -> Case:
    return Case(f"{direction}, {flows} flow{'s' * (flows > 1)}", direction, {"flows": flows})


def rows() -> list[Traffic]:
    everybody = [EGRESS, *OTHERS]
    tunnel = {"way": "connect"}
    return [
        Traffic("connect", [connects(flows, who) for flows in (32, 128) for who in ("backend", "client")], everybody),
        Traffic("message", [messages(size, flows) for size in (64, 4096) for flows in (1, 64, 5000)], everybody),
        Traffic("low-latency", [messages(64, 1)], [EGRESS, variant("egress, low_latency", low_latency=True), *OTHERS]),
        Traffic("bulk", [bulk(way, flows) for way in ("down", "up") for flows in (1, 8, 64)], everybody),
        Traffic("bulk-bbr", [bulk("down", 1), bulk("down", 8)], everybody, congestion_control="bbr"),
        Traffic("tunnel", [connects(32, "backend", **tunnel), messages(64, 64, **tunnel)], everybody),
        Traffic(
            "telemetry",
            [connects(32, "backend"), messages(64, 64)],
            [EGRESS, variant("egress, log off", decisions=False)],
        ),
        Traffic(
            "workers",
            [connects(128, "backend"), messages(64, 64)],
            [variant("egress, 1 worker"), variant("egress, 2 workers", workers=2)],
            two_cpus=True,
        ),
    ]


ROWS: dict[str, Callable[[Bench], None]] = {row.name: row for row in rows()}
