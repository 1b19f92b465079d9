"""Our shaper through its scenarios: the rate that each group of flows has, and small messages meanwhile."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import load_generator
import network
from peers import Running
from peers.gateway import EGRESS, Options, Place, egress, policy, reload, write
from peers.peer import NAMES, free_port

from rows.bench import Bench
from rows.scenarios import GUESTS, MANY, SCENARIOS, Expected, Group, Scenario, many

#: Rules beside the four: the policy is not what is measured here.
RULES = 100
#: Milliseconds in which there are only messages.
QUIET = 2_000
#: Seconds that a run takes at most beside what it is to take.
PATIENCE = 60
#: A turn of a class is so many milliseconds of its rate, or twice as many while that is no more than SMALL bytes; from
#: and to so many bytes; where a segment takes longer than SLOW milliseconds it is as long as that
#: (docs/guide/bandwidth.md).
TURN, SMALL, LEAST, MOST, SLOW = 10, 64 << 10, 1_448, 256 << 10, 50
#: Scenarios whose rates over time are kept, for a chart.
DRAWN = ("borrowing, and giving back", "the rate changed live")


def options(scenario: Scenario, terms: tuple[str, ...]) -> Options:
    of_rules = {f"bench-{number}": term for number, term in enumerate(terms)}
    return Options(
        workers=scenario.workers,
        rules=scenario.classes or RULES,
        terms=of_rules,
        others="bandwidth: 100 Mbit/s" * bool(scenario.classes),
        flows=many() + GUESTS if any(group.flows == MANY for group in scenario.groups) else 0,
        link=scenario.link,
    )


def messages_mbit_s(scenario: Scenario) -> float:
    size, every = scenario.message
    return size * 8 / every / 1000


def expected(scenario: Scenario, group: Group, of: Expected) -> float:
    """Bytes a second: what the messages use is not the bulk's."""
    return (of.rate - messages_mbit_s(scenario) * group.pays) * 1e6 / 8


def flows_of(group: Group) -> int:
    return many() if group.flows == MANY else group.flows


def plan(scenario: Scenario, to: list[str], pid: int | None, backends: list[int]) -> dict[str, Any]:
    def ms(seconds: float | None) -> int | None:
        return None if seconds is None else round(seconds * 1000)

    def span(group: Group, of: Expected) -> dict[str, Any]:
        return {"from": ms(of.since), "till": ms(of.till), "rate": expected(scenario, group, of)}

    groups = [
        {
            "name": group.name,
            "to": to[:1] if group.source else to,
            "source": group.source,
            "sni": NAMES[group.rule],
            "way": group.way,
            "flows": flows_of(group),
            "start": ms(group.start),
            "stop": ms(group.stop),
            "send_buffer": group.send_buffer,
            "pace": group.pace and {"bytes": group.pace[0], "every": group.pace[1]},
            "wants": group.wants and group.wants * 1e6 / 8,
            "spans": [span(group, of) for of in group.expected],
        }
        for group in scenario.groups
    ]
    size, every = scenario.message
    probe = {"name": "messages", "to": to[0], "sni": NAMES[scenario.messages], "size": size, "every": every}
    listen = [f"127.0.0.1:{port}" for port in backends]
    return {"listen": listen, "quiet": QUIET, "proxy": [pid], "groups": groups, "probes": [probe]}


@contextlib.contextmanager
def serving(bench: Bench, scenario: Scenario, backends: list[int]) -> Iterator[tuple[Running, Place]]:
    with contextlib.ExitStack() as stack:
        if scenario.receive_buffer:
            stack.enter_context(network.receive_buffers_of(scenario.receive_buffer))
        cpus = bench.cpus.proxy_two if scenario.workers > 1 else bench.cpus.proxy
        terms = options(scenario, scenario.terms)
        yield stack.enter_context(egress(bench.fresh_folder("shaping"), backends, cpus, terms))


def run_once(bench: Bench, scenario: Scenario) -> dict[str, Any]:
    backends = [free_port() for _ in NAMES]
    last = max(of.till for group in scenario.groups for of in group.expected)
    with contextlib.ExitStack() as stack:
        running, place = stack.enter_context(serving(bench, scenario, backends))
        to, client = running.to, None
        if scenario.apart:
            client, address = stack.enter_context(network.another())
            to = [f"{address}:{place.tls}"]
        told = plan(scenario, to, running.pid, backends)
        if client is not None:
            told["namespace"] = network.OURS.format(pid=os.getpid())
        file = place.folder / "plan.json"
        load = load_generator.shaping(told, file, bench.cpus, last + PATIENCE, client)
        ended = stack.enter_context(load)
        begun = time.monotonic()
        took = []
        for at, terms in scenario.changes:
            time.sleep(max(0.0, begun + at - time.monotonic()))
            changed = time.monotonic()
            write(place, policy(place, backends, options(scenario, terms)))
            reload(place)
            took.append((time.monotonic() - changed) * 1000)
        return {**ended(), "reload_ms": took}


def of_span(
    scenario: Scenario, group: Group, of: Expected, told: dict[str, Any], span: dict[str, Any]
) -> dict[str, Any]:
    """The figures of one group in one time."""
    rate = expected(scenario, group, of)
    millisecond = rate / 1000
    turn = max(millisecond * TURN, min(millisecond * 2 * TURN, SMALL), min(LEAST, millisecond * SLOW))
    turn = min(turn, MOST)
    allowed = max(0.02, 2 * turn / rate)
    within = abs(span["error"]) <= 0.01 and abs(span["error_1s"]) <= allowed
    return {
        "configured_mbit_s": of.rate,
        "mbit_s": span["rate_bps"] / 1e6,
        "expected_mbit_s": span["expected_bps"] / 1e6,
        "error_pct": span["error"] * 100,
        "worst_10s_pct": span["error_10s"] and span["error_10s"] * 100,
        "worst_1s_pct": span["error_1s"] * 100,
        "allowed_1s_pct": allowed * 100,
        "within": within,
        "burst_ms": span["burst"] * 8 / span["expected_bps"] * 1000,
        "jain": told["jain"],
        "back_ms": told["reached_ms"],
        "failed": told["failed"],
    }


def shared(scenario: Scenario, groups: list[dict[str, Any]]) -> float:
    """Jain's index of what each has of what it is to have."""
    parts: list[float] = [one["spans"][0]["rate_bps"] / one["spans"][0]["expected_bps"] for one in groups]
    return sum(parts) ** 2 / (len(parts) * sum(part * part for part in parts))


def run(bench: Bench) -> None:
    """Each once: it is the windows of a run that are many."""
    if not bench.wants(EGRESS):
        return
    with load_generator.ahead_of_others():
        run_all(bench)


def run_all(bench: Bench) -> None:
    for scenario in SCENARIOS:
        if scenario.apart and not network.can_have_another():
            print(f"{scenario.name}: not measured, it needs root, ip and nsenter")
            continue
        figures = run_once(bench, scenario)
        probe = figures["probes"][0]
        lost = sum(told["failed"] for told in figures["groups"] if not told["spans"])
        if lost:
            raise RuntimeError(f"{scenario.name}: {lost} idle flows were lost")
        of_all = {
            "shares": shared(scenario, figures["groups"]) if scenario.shares else None,
            "p99_before_us": probe["quiet"]["p99_us"],
            "p99_during_us": probe["busy"]["p99_us"],
            "p50_before_us": probe["quiet"]["p50_us"],
            "p50_during_us": probe["busy"]["p50_us"],
            "messages": probe["busy"]["count"],
            "cpu_pct": figures["proxy_cpu"] / figures["seconds"] * 100,
            "others_share": figures["others_share"],
            "reloads_ms": figures["reload_ms"],
        }
        case = scenario.name.replace(f"{MANY:,}", f"{many():,}")
        for group, told in zip(scenario.groups, figures["groups"], strict=True):
            if scenario.name in DRAWN:
                of_all = {**of_all, "series": told["series"]}
            for of, span in zip(group.expected, told["spans"], strict=True):
                who = f"{group.name}, {of.when}" if of.when else group.name
                bench.record("shaping", case, who, 0, {**of_span(scenario, group, of, told, span), **of_all})
                of_all = {}
