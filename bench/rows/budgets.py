"""Budgets: what counting costs, what of it a killed gateway has forgotten, and how soon a spent one acts."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

from egress_gateway import client
from peers import Peer, Running
from peers.gateway import EGRESS, Options, Place, egress, variant
from peers.peer import NAMES

from rows.bench import Bench
from rows.changes import hello, is_routed
from rows.cluster import Received
from rows.traffic import Traffic, bulk, connects, messages

#: Kills, and times that each action is taken: the worst counts.
TIMES = 5
#: Connections at once, and rules beside the four.
FLOWS, RULES = 4, 100
#: What a hello orders of the backend: to send, or to read, without end.
SEND, DISCARD = bytes([3, 0, 0, 0, 0]), bytes([4, 0, 0, 0, 0])
#: Seconds of bulk before a kill, and by how much longer it is each time: what is used is written every 0.5 s.
BULK, LONGER = 2.5, 0.13
#: MB of a budget that is spent, and Mbit/s that are left then.
LIMIT, SLOW = 300, 8
#: The rate has fallen when no window of so many seconds has more than twice of what is left; so long that is watched.
WINDOW, WATCHED = 0.05, 2.5
#: Seconds after which something has failed.
PATIENCE = 20.0
READ = 256 << 10
#: Both directions, of the rule and of its one source: never spent.
LARGE = "up: 1000 TB/day, down: 1000 TB/month, per_source: { up: 1000 TB/day, down: 1000 TB/hour }"
#: By whose budget it is.
SPENT = {
    "of the rule": f"{{way}}: {LIMIT} MB/day",
    "of the source": f"per_source: {{{{ {{way}}: {LIMIT} MB/day }}}}",
}
KILLED = "kill -9: bytes that are not in the store"
SLOWED = "then: slow: the received rate has fallen"
ENDED = "then: deny: open connections have ended"
REFUSED = "then: deny: a new connection is refused"
SAID = "then: alert: the line is in the log"
SHOWN = "then: alert: the metric says it"


def budgeted(name: str, budget: str) -> Peer:
    """Each of the four rules has a budget that is never spent."""
    return variant(name, terms={f"bench-{number}": f"budget: {{ {budget} }}" for number in range(len(NAMES))})


COSTS = Traffic(
    "budgets",
    [bulk("down", 8), bulk("up", 8), messages(64, 64), connects(32, "backend")],
    [EGRESS, budgeted("egress, deny", LARGE), budgeted("egress, slow", f"{LARGE}, then: slow 8 kbit/s")],
)


def acts() -> list[str]:
    """The cases of actions."""
    return [f"{what}, {whose}" for what in (SLOWED, ENDED, REFUSED, SAID, SHOWN) for whose in SPENT]


def cases() -> list[str]:
    return [*(case.name for case in COSTS.cases), KILLED, *acts()]


class Moved(Received):
    """Bytes of all connections, by the time at which this end of them had them."""

    def __init__(self) -> None:
        super().__init__()
        #: When connections ended.
        self.ends: list[float] = []

    def reached(self, total: int) -> float | None:
        """When there were so many."""
        with self.lock:
            place = bisect_left(self.sums, total)
            return self.times[place - 1] if 0 < place < len(self.sums) else None


@contextlib.contextmanager
def moving(running: Running, order: bytes) -> Iterator[Moved]:
    """Bulk over some connections of one name, by a thread of its own."""
    moved, stop = Moved(), threading.Event()
    host, port = running.to[0].split(":")
    chosen = selectors.DefaultSelector()
    event = selectors.EVENT_READ if order == SEND else selectors.EVENT_WRITE
    data = bytearray(READ)
    for _ in range(FLOWS):
        one = socket.create_connection((host, int(port)))
        # What waits on the way has been counted by the gateway, and not here: little does.
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            one.setsockopt(socket.SOL_SOCKET, buffer, READ)
        one.sendall(hello(NAMES[0], order))
        one.setblocking(False)
        chosen.register(one, event)

    def run() -> None:
        while not stop.is_set() and chosen.get_map():
            for key, _ in chosen.select(0.1):
                one: Any = key.fileobj
                try:
                    count = one.recv_into(data) if order == SEND else one.send(data)
                except BlockingIOError:
                    continue
                except OSError:
                    count = 0
                if count:
                    moved.add(count)
                else:
                    moved.ends.append(time.monotonic())
                    chosen.unregister(one)
                    one.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield moved
    finally:
        stop.set()
        thread.join()
        for key in list(chosen.get_map().values()):
            one: Any = key.fileobj
            one.close()
        chosen.close()


def wait_until(what: str, holds: Callable[[], bool]) -> float:
    """When it held."""
    until = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > until:
            raise RuntimeError(f"waited {PATIENCE:g} s for: {what}")
        time.sleep(0.001)
    return time.monotonic()


def report(place: Place) -> dict[str, Any]:
    """The one budget, as the gateway reports it."""
    told = None

    def is_there() -> bool:
        nonlocal told
        with contextlib.suppress(client.NoGatewayError):
            code, body = client.ask_json(str(place.control), "GET", "/report")
            told = body["budgets"][0] if code == 200 else None
        return told is not None

    wait_until("a report", is_there)
    assert told is not None
    return told


def options(budget: str) -> Options:
    return Options(rules=RULES, terms={"bench-0": f"budget: {{ {budget} }}"})


def kills(bench: Bench) -> None:
    """A gateway that reads as fast as it can is killed; the next one says what it knows."""
    folder = bench.fresh_folder("killed")
    sent, killed, before = Moved(), 0.0, 0
    for number in range(TIMES + 1):
        with egress(folder, bench.backend.ports, bench.cpus.proxy, options(LARGE)) as (running, place):
            used = report(place)["up"]["used"]
            if number:
                known = sent.reached(used - before)
                if known is None:
                    raise RuntimeError(f"{used - before} bytes are in the store, and fewer were sent")
                lost = sent.until(killed) - (used - before)
                figures = {"ms": (killed - known) * 1000, "lost_mb": lost / 1e6}
                bench.record("budgets", KILLED, EGRESS.name, number - 1, figures)
            before = used
            if number == TIMES:
                break
            with moving(running, DISCARD) as sent:
                time.sleep(BULK + number * LONGER)
                assert running.pid is not None
                killed = time.monotonic()
                os.kill(running.pid, signal.SIGKILL)


def fallen(moved: Moved, crossed: float) -> float:
    """Where the last window begins that has more than twice of what is left."""
    allowed = 2 * SLOW * 1e6 / 8 * WINDOW
    steps = round((WATCHED - WINDOW) * 1000)
    over = [at / 1000 for at in range(steps)]
    over = [at for at in over if moved.between(crossed + at, crossed + at + WINDOW) > allowed]
    return crossed + (over[-1] if over else 0.0)


def act(running: Running, place: Place, then: str, moved: Moved) -> dict[str, float]:
    """Milliseconds from the crossing of the budget until it did what `then` says, by what is to be seen of it."""
    limit = LIMIT * 1_000_000
    wait_until("the budget", lambda: moved.sums[-1] >= limit)
    crossed = moved.reached(limit)
    assert crossed is not None
    seen: dict[str, float] = {}
    if then == "deny":
        seen[REFUSED] = wait_until("a refusal", lambda: not is_routed(running, NAMES[0]))
        wait_until("the end of all", lambda: len(moved.ends) == FLOWS)
        seen[ENDED] = max(moved.ends)
    elif then == "alert":
        said = place.folder / "stderr.txt"
        seen[SAID] = wait_until("the line", lambda: "is spent: " in said.read_text())
        seen[SHOWN] = wait_until("the metric", lambda: is_over(place))
    else:
        time.sleep(WATCHED + 0.1)
        seen[SLOWED] = fallen(moved, crossed)
    return {what: (at - crossed) * 1000 for what, at in seen.items()}


def is_over(place: Place) -> bool:
    _, body = client.ask(str(place.control), "GET", "/metrics")
    lines = body.decode().splitlines()
    wanted = ('egress_budget_over{rule="bench-0",direction="up"} ', 'egress_budget_sources_over{rule="bench-0"} ')
    return any(line.startswith(wanted) and line.rpartition(" ")[2] != "0" for line in lines)


def actions(bench: Bench) -> None:
    # A reset takes with it what the client has not received yet: there it is what was sent that can be counted.
    for then, way, order in ((f"slow {SLOW} Mbit/s", "down", SEND), ("deny", "up", DISCARD), ("alert", "up", DISCARD)):
        for whose, budget in SPENT.items():
            for number in range(TIMES):
                chosen = options(f"{budget.format(way=way)}, then: {then}")
                folder = bench.fresh_folder("spent")
                with (
                    egress(folder, bench.backend.ports, bench.cpus.proxy, chosen) as (running, place),
                    moving(running, order) as moved,
                ):
                    for what, ms in act(running, place, then, moved).items():
                        bench.record("budgets", f"{what}, {whose}", EGRESS.name, number, {"ms": ms})


def run(bench: Bench) -> None:
    COSTS(bench)
    if bench.wants(EGRESS):
        kills(bench)
        actions(bench)
