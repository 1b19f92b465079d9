"""A limit that gateways share through a real Redis, while one joins, one dies, and Redis is away."""

from __future__ import annotations

import contextlib
import math
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
#: What tells the backend to send without end: as long as a hello, and one byte of it counts (bench/load/src/hello.rs).
SEND = (bytes(11) + b"\x03").ljust(517, b"\0")
#: Bytes of a message, and milliseconds from one to the next: so much of the limit is theirs.
MESSAGE = (64, 5)
BULK = LIMIT - MESSAGE[0] * 8 / MESSAGE[1] / 1000


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
    """Bytes of one connection by the time at which they came."""

    opened: float = field(default_factory=time.monotonic)
    times: list[float] = field(default_factory=list)
    sums: list[int] = field(default_factory=lambda: [0])
    #: When it ended.
    ended: float = math.inf
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, count: int) -> None:
        with self.lock:
            self.times.append(time.monotonic())
            self.sums.append(self.sums[-1] + count)

    def until(self, at: float) -> int:
        with self.lock:
            return self.sums[bisect_left(self.times, at)]

    def between(self, begin: float, end: float) -> int:
        return self.until(end) - self.until(begin)


#: The connections of one gateway, and of those that had its place before.
Side = list[Received]


def read(place: Place, side: Side) -> None:
    """Begins to read through a gateway; ends with it."""

    def run(connection: socket.socket, received: Received) -> None:
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(READ):
                received.add(len(data))
        received.ended = time.monotonic()

    for _ in range(FLOWS):
        connection = socket.create_connection(("127.0.0.1", place.connect))
        # What waits on the way is no part of the rate: little does.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ)
        connection.sendall(b"CONNECT %s:443 HTTP/1.1\r\n\r\n" % NAMES[0].encode() + SEND)
        side.append(Received())
        threading.Thread(target=run, args=(connection, side[-1]), daemon=True).start()


@contextlib.contextmanager
def messages(bench: Bench, place: Place) -> Iterator[Path]:
    """Small messages of the same class through a gateway, by a process of their own; the file of what they took."""
    file = bench.fresh_folder("messages") / "answers.txt"
    words = [load_generator.binary(), "ping", f"127.0.0.1:{place.tls}", NAMES[0], *(str(number) for number in MESSAGE)]
    with file.open("wb") as told, process(words, bench.cpus.client, stdout=told):
        yield file


def p99(file: Path, begin: float, end: float) -> float | None:
    """Of the messages that were answered in this time, µs."""
    # The last line may not be whole.
    answers = (line.split() for line in file.read_text().splitlines()[:-1])
    took = sorted(float(one) for at, one in answers if begin <= float(at) < end)
    return took[int(len(took) * 0.99)] if took else None


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
    all: list[Side]
    #: What the messages took.
    answers: Path

    def rate(self, begin: float, end: float, who: int | None = None) -> float:
        """As a part of what bulk is to have."""
        chosen = self.all if who is None else [self.all[who]]
        received = sum(one.between(begin, end) for side in chosen for one in side)
        return received * 8 / 1e6 / BULK / (end - begin)

    def jain(self, begin: float, end: float) -> float:
        """Jain's index of what the connections received that were open all the time, through whichever gateway."""
        parts = [
            one.between(begin, end) for side in self.all for one in side if one.opened <= begin and one.ended >= end
        ]
        return sum(parts) ** 2 / (len(parts) * sum(part * part for part in parts))

    def measure(self, case: str, begin: float, end: float, **more: Any) -> None:
        """The error over the whole time, and the worst of any second in it, above and below."""
        rate = self.rate(begin, end)
        seconds = [self.rate(at, at + 1) - 1 for at in steps(begin, end - 1)]
        figures = {
            "configured_mbit_s": LIMIT,
            "mbit_s": rate * BULK,
            "error_pct": (rate - 1) * 100,
            "over_pct": max(seconds) * 100 if seconds else None,
            "under_pct": min(seconds) * 100 if seconds else None,
            "shares": [self.rate(begin, end, who) for who in range(len(self.all))],
            "jain": self.jain(begin, end),
            "p99_us": p99(self.answers, begin, end),
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
        served = stack.enter_context(load_generator.backend(bench.cpus))
        load_generator.ahead_of_bulk(served.pid)
        backends = served.ports
        store = Redis(bench.folder, bench.cpus.backend)
        store.start()
        stack.callback(store.end)
        _, first = stack.enter_context(gateway(bench, backends, store.port))
        # Whoever has just come has no more than its safe share.
        time.sleep(3)
        answers = stack.enter_context(messages(bench, first))
        measured = Run(bench, [[], []], answers)
        read(first, measured.all[0])
        time.sleep(SETTLES)
        measured.measure("one gateway", *lasts(LASTS))
        dies = stack.enter_context(contextlib.ExitStack())
        pid, second = dies.enter_context(gateway(bench, backends, store.port))
        read(second, measured.all[1])
        begin, end = lasts(LASTS)
        measured.measure("one joins", begin, end, back_ms=measured.reached(begin, 0.5, 1))
        time.sleep(SETTLES)
        os.kill(pid, signal.SIGKILL)
        killed, end = lasts(LASTS)
        took = measured.reached(killed, 1)
        back = end if took is None else killed + took / 1000
        measured.measure("one dies: until the other has its share", killed, back, back_ms=took)
        if back < end:
            measured.measure("one dies: from then on", back, end)
        dies.close()
        _, third = stack.enter_context(gateway(bench, backends, store.port))
        read(third, measured.all[1])
        time.sleep(SETTLES)
        measured.measure("another comes", *lasts(LASTS))
        stop, go_on = (lambda: store.signal(signal.SIGSTOP)), (lambda: store.signal(signal.SIGCONT))
        away(measured, "Redis stopped", stop, go_on)
        away(measured, "Redis killed", store.end, store.start)
