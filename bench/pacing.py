"""Two ways to hold bulk to a rate inside the kernel, each by a relay of its own, without the gateway: splice(2) with
credits, as the gateway does it, and SO_MAX_PACING_RATE with splice as fast as the socket takes it."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import multiprocessing
import os
import select
import socket
import statistics
import struct
import termios
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import load_generator
import network
from report.figures import plain, signed, table

#: Mbit/s; of the fall, the rate before and after.
RATES = (10, 100, 1_000, 5_000)
FALL = (1_000, 10)
#: Flows, and those of them that have bytes to send.
CASES = ((1, 1), (16, 16), (16, 4))
#: Seconds until it is measured, and from then on.
SETTLES, LASTS = 1.0, 5.0
#: A turn of credits in seconds of the rate, with its bounds in bytes, and what may be saved up: as the gateway's, whose
#: turns are twice as long while they have no more than 64 KiB, or 256 KiB without a link.
TURN, LEAST, MOST, SAVED = 0.010, 1_448, 256 << 10, 0.012
#: asm-generic/socket.h, fcntl.h, netdevice(7).
SO_MAX_PACING_RATE, F_SETPIPE_SZ, SIOCSIFMTU = 47, 1031, 0x8922
#: Loopback has 64 KiB segments otherwise, which nothing else has, and a pacer sends whole ones.
MTU = 1500
NONBLOCK = os.SPLICE_F_NONBLOCK
READY = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET
GIB = 1 << 30
#: GiB below which the machine's CPU is not told: it is counted in ticks of 10 ms, beside what else the machine does.
TOLD = 0.5
#: What a second may have of a new rate.
FALLEN = 1.1


def source(tell: Connection, flows: int, active: int) -> None:
    """Sends without end on the first of its connections."""
    listener = socket.create_server(("127.0.0.1", 0))
    tell.send(listener.getsockname()[1])
    held = [listener.accept()[0] for _ in range(flows)]
    data = bytes(MOST)
    poll = select.poll()
    for one in held[:active]:
        one.setblocking(False)
        poll.register(one, select.POLLOUT)
    by_fd = {one.fileno(): one for one in held}
    while True:
        for fd, _ in poll.poll():
            with contextlib.suppress(BlockingIOError):
                by_fd[fd].send(data)


def sink(tell: Connection, port: int, flows: int) -> None:
    """Reads at once, and counts by the millisecond of the monotonic clock; tells that when it is asked."""
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(flows)]
    poll = select.poll()
    for one in held:
        one.setblocking(False)
        poll.register(one, select.POLLIN)
    poll.register(tell, select.POLLIN)
    by_fd = {one.fileno(): one for one in held}
    counts: dict[int, int] = {}
    buffer = bytearray(1 << 20)
    while True:
        for fd, _ in poll.poll():
            if fd == tell.fileno():
                tell.send(counts)
                return
            got = by_fd[fd].recv_into(buffer)
            at = time.monotonic_ns() // 1_000_000
            counts[at] = counts.get(at, 0) + got


@dataclass
class Flow:
    """A connection to the source, one to the sink, and the pipe between them with what is in it."""

    up: socket.socket
    down: socket.socket
    pipe: tuple[int, int] = field(default_factory=os.pipe)
    inside: int = 0

    def move(self, most: int) -> int:
        """So many bytes at most; fewer where there are no more, or there is no room."""
        moved = 0
        with contextlib.suppress(BlockingIOError):
            if not self.inside:
                self.inside = os.splice(self.up.fileno(), self.pipe[1], most, flags=NONBLOCK)
            while self.inside:
                sent = os.splice(self.pipe[0], self.down.fileno(), self.inside, flags=NONBLOCK)
                self.inside -= sent
                moved += sent
        return moved

    def waits(self) -> int:
        """Bytes that the kernel has taken and nobody has got."""
        told = fcntl.ioctl(self.down.fileno(), termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(told, "little") + self.inside

    def close(self) -> None:
        self.up.close()
        self.down.close()
        for end in self.pipe:
            os.close(end)


@dataclass
class Relay:
    flows: list[Flow]
    moved: int = 0

    def __post_init__(self) -> None:
        self.epoll = select.epoll()
        self.by_fd = {}
        for flow in self.flows:
            fcntl.fcntl(flow.pipe[1], F_SETPIPE_SZ, 1 << 20)
            for end in (flow.up, flow.down):
                end.setblocking(False)
                self.epoll.register(end, READY)
                self.by_fd[end.fileno()] = flow

    def ready(self, until: float) -> list[Flow]:
        found = self.epoll.poll(max(0.0, until - time.monotonic()))
        return list({id(flow): flow for flow in (self.by_fd[fd] for fd, _ in found)}.values())


class Credits(Relay):
    """One clock for all flows says what has been paid; those that have bytes take turns."""

    def set(self, rate: float) -> None:
        self.rate = rate
        self.turn = int(max(LEAST, min(MOST, rate * TURN)))

    def run(self, until: float) -> None:
        queue = deque(self.flows)
        paid = time.monotonic()
        while (now := time.monotonic()) < until:
            if not queue:
                queue.extend(self.ready(until))
                continue
            flow = queue.popleft()
            moved = flow.move(self.turn)
            self.moved += moved
            if moved:
                queue.append(flow)
            else:
                queue.extend(one for one in self.ready(now) if one not in queue)
            paid = max(paid, now - SAVED) + moved / self.rate
            if paid > now:
                time.sleep(paid - now)


class Pacing(Relay):
    """Each socket has its part of the rate, and is given as much as it takes."""

    def set(self, rate: float) -> None:
        each = struct.pack("Q", int(rate / len(self.flows)))
        for flow in self.flows:
            flow.down.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, each)

    def run(self, until: float) -> None:
        found = self.flows
        while time.monotonic() < until:
            for flow in found:
                while moved := flow.move(MOST):
                    self.moved += moved
                    if flow.inside:
                        break
            found = self.ready(until)


WAYS: dict[str, Callable[[list[Flow]], Credits | Pacing]] = {"credits": Credits, "pacing": Pacing}


@contextlib.contextmanager
def relaying(way: str, flows: int, active: int) -> Iterator[tuple[Credits | Pacing, Callable[[], dict[int, int]]]]:
    """A relay with its ends, and what asks the sink for its counts."""
    with contextlib.ExitStack() as stack:
        ends = []

        def start(target: Callable[..., None], *words: int) -> Connection:
            ours, theirs = multiprocessing.Pipe()
            one = multiprocessing.Process(target=target, args=(theirs, *words), daemon=True)
            one.start()
            ends.append(one)
            return ours

        stack.callback(lambda: [(one.kill(), one.join()) for one in ends])
        port = start(source, flows, active).recv()
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        asked = start(sink, listener.getsockname()[1], flows)
        made = []
        for _ in range(flows):
            down = listener.accept()[0]
            made.append(Flow(socket.create_connection(("127.0.0.1", port)), down))
            stack.callback(made[-1].close)

        def counts() -> dict[int, int]:
            asked.send(None)
            told: dict[int, int] = asked.recv()
            return told

        yield WAYS[way](made), counts


def busy() -> float:
    """Seconds that all CPUs together have not been idle."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, words[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def between(counts: dict[int, int], begin: float, end: float) -> int:
    return sum(counts.get(at, 0) for at in range(round(begin * 1000), round(end * 1000)))


def steady(way: str, mbit_s: int, flows: int, active: int, rest: float) -> dict[str, float]:
    """`rest`: CPU that the machine uses in a second without this."""
    rate = mbit_s * 1e6 / 8
    with relaying(way, flows, active) as (relay, counts):
        relay.set(rate)
        begin = time.monotonic() + SETTLES
        relay.run(begin)
        own, all_of_it, moved = time.process_time(), busy(), relay.moved
        waits = []
        for _ in range(round(LASTS)):
            relay.run(begin + len(waits) + 1)
            waits.append(sum(flow.waits() for flow in relay.flows))
        own, all_of_it, moved = time.process_time() - own, busy() - all_of_it, relay.moved - moved
        told = counts()
    seconds = [between(told, begin + at / 20, begin + at / 20 + 1) / rate - 1 for at in range(round(LASTS - 1) * 20)]
    return {
        "gib": moved / GIB,
        "cpu_s_gib": own / moved * GIB,
        "cpu_pct": own / LASTS * 100,
        "machine_s_gib": max(0.0, all_of_it - rest * LASTS) / moved * GIB,
        "error_pct": (between(told, begin, begin + LASTS) / LASTS / rate - 1) * 100,
        "worst_1s_pct": max(seconds, key=abs) * 100,
        "waits_kib": statistics.mean(waits) / 1024,
    }


def fall(way: str) -> dict[str, float]:
    """The rate falls while bytes are under way."""
    before, after = (mbit_s * 1e6 / 8 for mbit_s in FALL)
    with relaying(way, 1, 1) as (relay, counts):
        relay.set(before)
        relay.run(time.monotonic() + 2)
        waits = relay.flows[0].waits()
        relay.set(after)
        begin = time.monotonic()
        relay.run(begin + LASTS)
        told = counts()
    most = after * FALLEN
    starts = range(round((LASTS - 1) * 1000))
    over = [at for at in starts if between(told, begin + at / 1000, begin + at / 1000 + 1) > most]
    return {
        "ms": over[-1] + 1 if over else 0,
        "beyond_kib": max(0.0, between(told, begin, begin + 1) - after) / 1024,
        "waits_kib": waits / 1024,
        "leaves_s": waits / after,
    }


STEADY = ["Mbit/s", "flows", "with bytes", "by", "relay CPU s/GiB", "% of a CPU", "machine CPU s/GiB", "error %"]
STEADY += ["any 1 s: worst %", "waits in sockets, KiB"]
FALLS = [
    "by",
    "ms until no second has 10 % more",
    "KiB beyond it in the first",
    "KiB in the socket at the fall",
    "s until sent",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=int, nargs="*", default=RATES, help="Mbit/s; none: the fall only")
    given = parser.parse_args()
    network.enter()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket, contextlib.suppress(PermissionError):
        fcntl.ioctl(any_socket, SIOCSIFMTU, struct.pack("16si12x", b"lo", MTU))
    with load_generator.ahead_of_others():
        since = busy()
        time.sleep(LASTS)
        rest = (busy() - since) / LASTS
        body = []
        for mbit_s in given.rates:
            for flows, active in CASES:
                for way in WAYS:
                    one = steady(way, mbit_s, flows, active, rest)
                    machine = plain(2)(one["machine_s_gib"]) if one["gib"] > TOLD else "-"
                    line = [plain(2)(one["cpu_s_gib"]), plain(2)(one["cpu_pct"]), machine]
                    line += [signed(one["error_pct"]), signed(one["worst_1s_pct"]), plain(0)(one["waits_kib"])]
                    body.append([f"{mbit_s:,}", str(flows), str(active), way, *line])
        print(table(STEADY, body), end="\n\n")
        falls = [(way, fall(way)) for way in WAYS]
        keys = (("ms", 0), ("beyond_kib", 0), ("waits_kib", 0), ("leaves_s", 2))
        print(table(FALLS, [[way, *(plain(digits)(one[key]) for key, digits in keys)] for way, one in falls]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
