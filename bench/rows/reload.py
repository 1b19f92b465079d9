"""A policy that changes under load: connections lost, latency meanwhile, and how soon the new decision is there."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

from peers.gateway import Options, Place, egress, policy, reload, write

from rows.bench import Bench

RELOADS = 1_000
#: Changes before the load starts, to learn how long it has to last.
TRIAL = 20
#: How much longer than without load a reload takes, at least: so that the load covers as many as were asked for.
MARGIN = 1.5
#: Seconds between two reloads, and for how long, where they do not follow one another at once.
PACE, PACED = 1.0, 5.0
#: Rules beside the four of a policy that is changed a thousand times.
FEW = 100
#: Rules of the policies whose change is timed.
COUNTS = [100, 10_000]
#: What the changes allow and do not allow: port 9 of this machine is closed, so 502 when allowed and 403 when not.
ASKED = "  - { name: asked, to: ['127.0.0.1:9'] }\n"


class Changer:
    """Writes the policy, each time with another last rule and another reason for the rules of the live flows."""

    def __init__(self, bench: Bench, place: Place, rules: int) -> None:
        self.place = place
        self.allowed = False
        self.texts = {
            allowed: policy(
                place, bench.backend.ports, Options(rules=rules, why=f"version-{allowed}"), ASKED if allowed else ""
            )
            for allowed in (False, True)
        }

    def change(self) -> None:
        self.allowed = not self.allowed
        write(self.place, self.texts[self.allowed])

    def decided(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.place.connect)) as client:
            client.sendall(b"CONNECT 127.0.0.1:9 HTTP/1.1\r\nHost: 127.0.0.1:9\r\n\r\n")
            return client.recv(100).startswith(b"HTTP/1.1 502") == self.allowed


def run(bench: Bench) -> None:
    for shape, flows in (("message", 64), ("connect", 32)):
        under_load(bench, shape, flows)
        under_load(bench, shape, flows, PACE)
    for count in COUNTS:
        for told in ("by file event", "by command"):
            to_decision(bench, count, told)


def under_load(bench: Bench, shape: str, flows: int, pace: float = 0.0) -> None:
    """Half of the reloads for each of two loads, spread over the rounds; before and during are neighbours in time.

    With a `pace` one reload each so many seconds, which are fewer; without, one after the other.
    """
    case = f"{shape}, {flows} flows" + (", one a second" if pace else "")
    options: dict[str, Any] = {"flows": flows, "size": 64}
    reloads = -(-RELOADS // 2 // bench.rounds)
    with egress(bench.fresh_folder("reload"), bench.backend.ports, bench.cpus.proxy, Options(rules=FEW)) as (
        running,
        place,
    ):
        changer = Changer(bench, place, FEW)
        for number in range(bench.rounds):
            before = bench.load(shape, running, **options)
            each = timed(changer, TRIAL) / TRIAL
            during: dict[str, Any] = {}
            lasting = {**options, "seconds": PACED if pace else max(bench.seconds, MARGIN * each * reloads)}

            def keep_on(into: dict[str, Any] = during, options: dict[str, Any] = lasting) -> None:
                into.update(bench.load_once(shape, running, **options))

            load = threading.Thread(target=keep_on)
            load.start()
            # For as long as the load lasts: without a pace no quiet time dilutes its figures.
            done, took = 0, 0.0
            while load.is_alive():
                took += timed(changer, 1)
                done += 1
                load.join(pace)
            load.join()
            if not during:
                raise RuntimeError("the load failed while the policy changed")
            figures = {
                "reloads": done,
                "reload_ms": took / done * 1000,
                "failed": during["failed"],
                "done": during["done"],
                "p99_before_us": before["p99_us"],
                "p99_during_us": during["p99_us"],
                "p99_ratio": during["p99_us"] / before["p99_us"],
                "rate_ratio": during["rate"] / before["rate"],
            }
            bench.record("reload", case, "egress", number, figures)


def timed(changer: Changer, times: int) -> float:
    begun = time.perf_counter()
    for _ in range(times):
        changer.change()
        reload(changer.place)
    return time.perf_counter() - begun


def to_decision(bench: Bench, rules: int, told: str) -> None:
    """Seconds from the rename of the file to the first connection that is decided by it."""
    with egress(bench.fresh_folder("change"), bench.backend.ports, bench.cpus.proxy, Options(rules=rules)) as (
        _,
        place,
    ):
        changer = Changer(bench, place, rules)
        for number in range(bench.rounds):
            begun = time.perf_counter()
            changer.change()
            if told == "by command":
                reload(changer.place)
            while not changer.decided():
                time.sleep(0.001)
            figures = {"decision_s": time.perf_counter() - begun}
            bench.record("reload", f"{rules:,} rules, {told}", "egress", number, figures)
