"""The same change under load by the gateway and by peers that can: flows lost, and how soon it holds."""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
import time
from typing import Any

from peers import ALL, Running
from peers.changing import ASKED, CHANGING, DRAIN

from rows.bench import Bench

CHANGES = 6
FLOWS = 64
#: Seconds between two changes, what one takes at most as a rule, and when it has failed.
APART, LONG, PATIENCE = 0.3, 1.5, 20.0
#: What the hello orders of the backend: a reply of one byte, then its close.
ORDER = bytes([0]) + (1).to_bytes(4, "big")


def hello(name: str, order: bytes = ORDER) -> bytes:
    """As the load generator's: 517 bytes, padded."""
    host = name.encode()
    sni = b"\0\0" + (len(host) + 5).to_bytes(2, "big") + (len(host) + 3).to_bytes(2, "big")
    sni += b"\0" + len(host).to_bytes(2, "big") + host
    sni += bytes([0, 43, 0, 3, 2, 3, 4])
    head = b"\3\3" + order + bytes(27) + b"\0" + bytes([0, 2, 0x13, 0x01, 1, 0])
    padding = 517 - 5 - 4 - len(head) - 2 - len(sni) - 4
    extensions = sni + b"\0\x15" + padding.to_bytes(2, "big") + bytes(padding)
    body = head + len(extensions).to_bytes(2, "big") + extensions
    return b"\x16\3\1" + (len(body) + 4).to_bytes(2, "big") + b"\1" + len(body).to_bytes(3, "big") + body


def is_routed(running: Running, name: str = ASKED) -> bool:
    """Whether a name (the one that comes and goes) reaches the backend, which answers with a byte, whatever it is."""
    host, port = running.to[0].split(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=2) as client:
        client.sendall(hello(name))
        # A refusal is an alert (21) or the end.
        return client.recv(1) not in (b"\x15", b"")
    return False


def run(bench: Bench) -> None:
    names = [name for name in CHANGING if bench.wants(ALL[name])]
    for number, name in bench.interleave(names):
        start = CHANGING[name](bench.fresh_folder(name), bench.backend.ports, bench.cpus.proxy)
        with start as (running, change):
            options: dict[str, Any] = {"flows": FLOWS, "size": 64}
            before = bench.load_once("message", running, **options)
            told: dict[str, Any] = {}
            lasts = CHANGES * (APART + LONG) + DRAIN

            def keep_on(running: Running = running, into: dict[str, Any] = told, lasts: float = lasts) -> None:
                into.update(bench.load_once("message", running, flows=FLOWS, size=64, seconds=lasts))

            load = threading.Thread(target=keep_on)
            load.start()
            took = [timed(running, change, bool(turn % 2)) for turn in range(1, CHANGES + 1)]
            load.join()
            if not told:
                raise RuntimeError(f"{name}: the load failed while the routes changed")
        figures = {
            "decision_s": statistics.median(took),
            "reloads": CHANGES,
            "failed": told["failed"],
            "p99_before_us": before["p99_us"],
            "p99_during_us": told["p99_us"],
            "p99_ratio": told["p99_us"] / before["p99_us"],
        }
        bench.record("changes", f"{FLOWS} flows, {CHANGES} changes", name, number, figures)


def timed(running: Running, change: Any, asked: bool) -> float:
    time.sleep(APART)
    begun = time.perf_counter()
    change(asked)
    while is_routed(running) != asked:
        if time.perf_counter() - begun > PATIENCE:
            raise RuntimeError("the change does not hold")
        time.sleep(0.002)
    return time.perf_counter() - begun
