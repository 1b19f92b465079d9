"""The same cap by everybody who can: how exact, how large a burst, and at what cost."""

from __future__ import annotations

from typing import Any

import load_generator
from peers import Running
from peers.capped import CAPPED, CAPS, PER_CONNECTION, octets
from peers.peer import NAMES, free_port

from rows.bench import GIB, KIB, Bench

#: Rounds at most: each takes three minutes.
ROUNDS = 3
#: Flows at a time.
FLOWS = (1, 16)
#: Milliseconds: what is not measured after a beginning (a bucket of a second may be full then), what is, and then the
#: sender's pause.
SETTLE, MEASURED, PAUSE = 1_000, 4_000, 2_000
#: Seconds of the rate that are sent before the pause: what is measured lies within them, with a burst of a second too.
BEFORE = 6.5
#: Seconds that a run takes at most: the pause begins when all is there that was sent before, which a bad cap may delay.
PATIENCE = 90


def title(bits: int) -> str:
    return f"{bits // 1_000_000:,} Mbit/s"


def cases() -> list[tuple[str, str, int]]:
    """The case, the name whose cap it is, and how many flows."""
    return [(f"{title(CAPS[name])}, {flows} flow{'s' * (flows > 1)}", name, flows) for flows in FLOWS for name in NAMES]


def plan(name: str, flows: int, running: Running, backends: list[int]) -> dict[str, Any]:
    """A single flow pauses after it has been measured."""
    rate = octets(CAPS[name])
    group = {
        "name": name,
        "to": running.to,
        "sni": name,
        "way": "down",
        "flows": flows,
        "start": 0,
        "pause": {"after": int(rate * BEFORE), "lasts": PAUSE} if flows == 1 else None,
        "spans": [{"from": SETTLE, "till": SETTLE + MEASURED, "rate": rate}],
    }
    listen = [f"127.0.0.1:{port}" for port in backends]
    return {"listen": listen, "quiet": 0, "proxy": [running.pid], "groups": [group], "probes": []}


def run(bench: Bench) -> None:
    backends = [free_port() for _ in NAMES]
    with load_generator.ahead_of_others(), bench.serving(CAPPED, backends=backends) as serving:
        for number, case, name, flows, peer in turns(bench, list(serving)):
            file = bench.fresh_folder("caps") / "plan.json"
            told = plan(name, flows, serving[peer], backends)
            with load_generator.shaping(told, file, bench.cpus, PATIENCE) as ended:
                figures = ended()
            bench.record("caps", case, peer, number, of_cap(figures))


def turns(bench: Bench, names: list[str]) -> list[tuple[int, str, str, int, str]]:
    """Everybody once for each case in a round, and not always after the same one."""
    found = []
    for number in range(min(bench.rounds, ROUNDS)):
        turned = number % max(len(names), 1)
        for case, name, flows in cases():
            for peer in names[turned:] + names[:turned]:
                if flows == 1 or peer not in PER_CONNECTION:
                    found.append((number, case, name, flows, peer))
    return found


def of_cap(figures: dict[str, Any]) -> dict[str, Any]:
    group = figures["groups"][0]
    span = group["spans"][0]
    gib = span["bytes"] / GIB

    def ms(octets: float | None) -> float | None:
        """Milliseconds that the rate takes for a burst."""
        return None if octets is None else octets * 8 / span["expected_bps"] * 1000

    return {
        "mbit_s": span["rate_bps"] / 1e6,
        "error_pct": span["error"] * 100,
        "mean_1s_pct": span["mean_1s"] * 100,
        "worst_1s_pct": span["error_1s"] * 100,
        "burst_kib": span["burst"] / KIB,
        "burst_ms": ms(span["burst"]),
        "first_ms": ms(group["first_burst"]),
        "pause_ms": ms(group["pause_burst"]),
        "jain": group["jain"],
        "failed": group["failed"],
        "cpu_s_gib": figures["proxy_cpu"] / gib if gib else None,
        "cpu_pct": figures["proxy_cpu"] / figures["seconds"] * 100,
        "others_share": figures["others_share"],
        "verdict": figures["verdict"],
    }
