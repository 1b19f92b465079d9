"""A limit that gateways share through a real Redis, while one joins, one dies, and Redis is away."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import load_generator
from peers.gateway import EGRESS, Options, Place, egress, policy, reload, write
from peers.peer import NAMES, free_port, process

from rows.bench import Bench

#: Mbit/s that all gateways have together.
LIMIT = 100
#: How many there are at the most.
REPLICAS = 2
#: Connections through each gateway.
FLOWS = 4
RULES = 100
#: Seconds that a state lasts, and those of them until it is measured: buffers fill, and the first round comes.
LASTS, SETTLES = 6.0, 1.0
#: Seconds that Redis is away.
AWAY = 10.0
#: What a share that comes back has come to again.
BACK = 0.95
READ = 65536


class Redis:
    """A store of its own, without persistence."""

    def __init__(self, folder: Path, cpus: str) -> None:
        self.folder, self.cpus, self.port = folder, cpus, free_port()
        self._running: contextlib.ExitStack | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._running = contextlib.ExitStack()
        started = process([*command, "--dir", str(self.folder)], self.cpus, stdout=subprocess.DEVNULL)
        self.process = self._running.enter_context(started)

    def signal(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def end(self) -> None:
        if self._running is not None:
            self.signal(signal.SIGKILL)
            self._running.close()


@dataclass
class Received:
    """Bytes by the time at which they came; of all connections of one gateway."""

    times: list[float] = field(default_factory=list)
    sums: list[int] = field(default_factory=lambda: [0])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, count: int) -> None:
        with self.lock:
            self.times.append(time.monotonic())
            self.sums.append(self.sums[-1] + count)

    def until(self, at: float) -> int:
        with self.lock:
            return self.sums[bisect_left(self.times, at)]


def flood(port: int) -> socket.socket:
    """A backend that sends without end, whatever it is sent."""
    listener = socket.create_server(("127.0.0.1", port))

    def send(connection: socket.socket) -> None:
        data = bytes(READ)
        with contextlib.suppress(OSError), connection:
            while True:
                connection.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=send, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener


def read(place: Place, received: Received) -> None:
    """Begins to read through a gateway; ends with it."""

    def run(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(READ):
                received.add(len(data))

    for _ in range(FLOWS):
        connection = socket.create_connection(("127.0.0.1", place.connect))
        # What waits on the way is no part of the rate: little does.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ)
        connection.sendall(b"CONNECT %s:443 HTTP/1.1\r\n\r\nx" % NAMES[0].encode())
        threading.Thread(target=run, args=(connection,), daemon=True).start()


@contextlib.contextmanager
def gateway(bench: Bench, backends: list[int], store: int) -> Iterator[tuple[int, Place]]:
    terms = {"bench-0": f"bandwidth: {{ max: {LIMIT} Mbit/s, scope: cluster }}"}
    cluster = f"cluster: {{ store: 'redis://127.0.0.1:{store}/0', replicas: {REPLICAS} }}\n"
    folder = bench.fresh_folder("cluster")
    with egress(folder, backends, bench.cpus.proxy, Options(rules=RULES)) as (running, place):
        write(place, policy(place, backends, Options(rules=RULES, terms=terms), cluster))
        reload(place)
        assert running.pid is not None
        yield running.pid, place


@dataclass
class Run:
    bench: Bench
    all: list[Received]

    def rate(self, begin: float, end: float, who: int | None = None) -> float:
        """As a part of the limit."""
        chosen = self.all if who is None else [self.all[who]]
        return sum(one.until(end) - one.until(begin) for one in chosen) * 8 / 1e6 / LIMIT / (end - begin)

    def measure(self, case: str, begin: float, end: float, **more: Any) -> None:
        """The error over the whole time, and the worst of any second in it, above and below."""
        seconds = [self.rate(at, at + 1) - 1 for at in steps(begin, end - 1)]
        shares = [self.rate(begin, end, who) for who in range(len(self.all))]
        figures = {
            "error_pct": (self.rate(begin, end) - 1) * 100,
            "over_pct": max(seconds) * 100,
            "under_pct": min(seconds) * 100,
            "shares": shares,
            "seconds": end - begin,
            **more,
        }
        self.bench.record("cluster", case, EGRESS.name, 0, figures)

    def reached(self, since: float, share: float, who: int | None = None) -> float | None:
        """Milliseconds until a tenth of a second ends that had so much."""
        window = 0.1
        for at in steps(since, time.monotonic() - window):
            if self.rate(at, at + window, who) >= share * BACK:
                return (at + window - since) * 1000
        return None


def steps(begin: float, end: float) -> Iterator[float]:
    at = begin
    while at <= end:
        yield at
        at += 0.01


def lasts(seconds: float) -> tuple[float, float]:
    begin = time.monotonic()
    time.sleep(seconds)
    return begin, time.monotonic()


def away(run: Run, what: str, go: Callable[[], None], come: Callable[[], None]) -> None:
    go()
    begin, end = lasts(AWAY)
    run.measure(f"{what} for {AWAY:g} s", begin, end)
    come()
    begin, end = lasts(LASTS)
    run.measure(f"{what}, and back", begin, end)


def run(bench: Bench) -> None:
    if not bench.wants(EGRESS):
        return
    if shutil.which("redis-server") is None:
        print("a cluster is not measured: there is no redis-server (Debian package redis-server)")
        return
    with load_generator.ahead_of_others(), contextlib.ExitStack() as stack:
        backends = [free_port() for _ in NAMES]
        stack.enter_context(contextlib.closing(flood(backends[0])))
        store = Redis(bench.folder, bench.cpus.backend)
        store.start()
        stack.callback(store.end)
        measured = Run(bench, [Received(), Received()])
        _, first = stack.enter_context(gateway(bench, backends, store.port))
        # Whoever has just come has no more than its safe share.
        time.sleep(3)
        read(first, measured.all[0])
        time.sleep(SETTLES)
        measured.measure("one gateway", *lasts(LASTS))
        dies = stack.enter_context(contextlib.ExitStack())
        pid, second = dies.enter_context(gateway(bench, backends, store.port))
        read(second, measured.all[1])
        begin, end = lasts(LASTS)
        measured.measure("one joins", begin, end, back_ms=measured.reached(begin, 0.5, 1))
        os.kill(pid, signal.SIGKILL)
        begin, end = lasts(LASTS)
        back = measured.reached(begin, 1)
        measured.measure("one dies", begin + (back or 0) / 1000, end, back_ms=back)
        dies.close()
        _, third = stack.enter_context(gateway(bench, backends, store.port))
        read(third, measured.all[1])
        time.sleep(SETTLES)
        measured.measure("another comes", *lasts(LASTS))
        stop, go_on = (lambda: store.signal(signal.SIGSTOP)), (lambda: store.signal(signal.SIGCONT))
        away(measured, "Redis stopped", stop, go_on)
        away(measured, "Redis killed", store.end, store.start)
