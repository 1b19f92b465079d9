"""What our shaper is put through: policies, flows, and the rate that each group of them is to have.

A limit that gateways share, one of which dies, is a row of its own: `rows/cluster.py`.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass, replace

#: Bytes of a message that is sent beside the bulk, and milliseconds from one to the next.
MESSAGE = (64, 2)
#: Seconds at a beginning that are not measured: buffers fill.
SETTLE = 1.0
#: Seconds that are measured where nothing changes: windows of ten seconds, and some of them.
LONG = 10.5
#: Descriptors of the gateway and of the load generator beside two for each flow: the gateway has up to 48 pipes, and
#: some thirty for all else.
SPARE = 200
#: More connections than flows that a gateway may have: the messages', and those that looked whether it serves.
GUESTS = 10
#: Flows of the scenario of many, where the limit of open files allows.
MANY = 10_000
#: Bytes of a socket's buffer where little is to wait before the gateway: for many flows it would be a gigabyte.
SMALL = 16 << 10
#: Flows that are silent after their first bytes, in each of the four classes, and classes that nobody uses.
IDLE_FLOWS, IDLE_CLASSES = 2_000, 4_000
#: Seconds: after the end of every run.
ASLEEP = 3_600.0
#: What a flow of some ten Mbit/s needs.
MODEST = 128 << 10
#: Terms of the class of the messages, where they have one. They are far below it.
MESSAGES = "bandwidth: { guarantee: 1 Mbit/s }"


@dataclass(frozen=True)
class Expected:
    """Seconds from the beginning, and the rate in Mbit/s between them."""

    since: float
    till: float
    rate: float
    #: What is said of the group then, where its rate changes.
    when: str = ""


@dataclass(frozen=True)
class Group:
    name: str
    #: Whose name it asks for.
    rule: int
    flows: int
    expected: tuple[Expected, ...]
    way: str = "down"
    #: The address that it comes from.
    source: str | None = None
    start: float = 0.0
    stop: float | None = None
    #: Mbit/s that it is to have soon after its start.
    wants: float | None = None
    #: How much of what the messages use is taken from it.
    pays: float = 1.0
    #: Bytes that it has to send at a time, and milliseconds from one time to the next; without it there is no end.
    pace: tuple[int, int] | None = None
    #: Bytes of its senders' socket buffers; as the kernel has them unless said.
    send_buffer: int | None = None


@dataclass(frozen=True)
class Scenario:
    name: str
    #: Terms of the rules of the four names.
    terms: tuple[str, ...]
    groups: tuple[Group, ...]
    #: The bandwidth of the link; without one nothing is shared but each rule's own.
    link: str = ""
    #: Whose name the messages ask for, and what they are like.
    messages: int = 0
    message: tuple[int, int] = MESSAGE
    workers: int = 1
    #: Seconds, and the terms of the rules from then on, by reload.
    changes: tuple[tuple[float, tuple[str, ...]], ...] = ()
    #: Client and gateway have a network namespace each, and a pair of veth between them.
    apart: bool = False
    #: Further rules with a bandwidth of their own.
    classes: int = 0
    #: Bytes of the receive buffers between sender and gateway.
    receive_buffer: int | None = None
    #: Its groups share what there is: how evenly, for what each is to have, is told.
    shares: bool = False


def steady(rate: float) -> tuple[Expected, ...]:
    return (Expected(SETTLE, SETTLE + LONG, rate),)


def cap(name: str, rate: str, mbit_s: float, flows: int, send_buffer: int | None = None, **more: object) -> Scenario:
    """One class at its ceiling; the messages are another flow of it."""
    group = Group("the class", 0, flows, steady(mbit_s), send_buffer=send_buffer)
    scenario = Scenario(name, (f"bandwidth: {rate}",), (group,))
    return replace(scenario, **more)  # type: ignore[arg-type]


def guarantee() -> Scenario:
    terms = ("bandwidth: { guarantee: 30 Mbit/s, priority: low }", "bandwidth: { max: 100 Mbit/s }", "", MESSAGES)
    owner = Group("owner, 1 flow", 0, 1, steady(30), pays=0)
    return Scenario(
        "a guarantee against 100 greedy flows",
        terms,
        (owner, Group("100 greedy flows", 1, 100, steady(70))),
        link="100 Mbit/s",
        messages=3,
    )


def borrowing() -> Scenario:
    terms = ("bandwidth: { guarantee: 60 Mbit/s, priority: low }", "bandwidth: { max: 100 Mbit/s }", "", MESSAGES)
    # A small buffer: what waits there when it stops is sent all the same.
    owner = Group("owner", 0, 1, (Expected(4.5, 8, 60),), start=4, stop=8, wants=60, pays=0, send_buffer=MODEST)
    expected = (
        Expected(SETTLE, 4, 100, "owner asleep"),
        Expected(4.5, 8, 40, "owner awake"),
        Expected(8.5, 11, 100, "asleep again"),
    )
    return Scenario(
        "borrowing, and giving back",
        terms,
        (owner, Group("borrower", 1, 4, expected)),
        link="100 Mbit/s",
        messages=3,
    )


def lending() -> Scenario:
    """The owner wants a third of what it may have, some 50 times a second: each time more than a turn."""
    terms = ("bandwidth: { guarantee: 60 Mbit/s }", "bandwidth: { max: 100 Mbit/s }", "", MESSAGES)
    owner = Group("owner", 0, 1, steady(20), pays=0, pace=(47_500, 19))
    borrower = Group("borrower", 1, 4, steady(80))
    return Scenario("a guarantee not used up", terms, (owner, borrower), link="100 Mbit/s", messages=3)


def priorities() -> Scenario:
    terms = ("bandwidth: { priority: high }", "bandwidth: { guarantee: 10 Mbit/s, priority: low }", "", MESSAGES)
    groups = (Group("high", 0, 4, steady(90)), Group("low, 10 guaranteed", 1, 4, steady(10), pays=0))
    return Scenario("two priorities", terms, groups, link="100 Mbit/s", messages=3)


def weights() -> Scenario:
    terms = tuple(f"bandwidth: {{ weight: {weight} }}" for weight in (1, 2, 4))
    groups = tuple(
        Group(f"weight {weight}", rule, 4, steady(20 * weight), pays=weight / 7)
        for rule, weight in enumerate((1, 2, 4))
    )
    return Scenario("weights 1:2:4", (*terms, MESSAGES), groups, link="140 Mbit/s", messages=3, shares=True)


def tenants() -> Scenario:
    terms = ("bandwidth: { max: 100 Mbit/s, share_by: source }",)
    groups = tuple(
        Group(f"tenant of {flows} flow{'s' * (flows > 1)}", 0, flows, steady(50), source=source, pays=0.5)
        for flows, source in ((100, "127.0.0.21"), (1, "127.0.0.22"))
    )
    return Scenario("100 flows of one tenant, 1 of another", terms, groups, shares=True)


def both_ways() -> Scenario:
    groups = tuple(Group(way, 0, 4, steady(100), way=way) for way in ("down", "up"))
    return Scenario("up and down apart", ("bandwidth: 100 Mbit/s",), groups)


def beside_idle(name: str, flows: int = 0, classes: int = 0) -> Scenario:
    """The same class, and messages in it, whoever else has said its first bytes and is silent, in it and in others."""
    terms = ("bandwidth: 1 Gbit/s", *["bandwidth: 100 Mbit/s"] * 3)
    idle = tuple(Group("idle", rule, flows, (), start=ASLEEP, send_buffer=SMALL) for rule in range(4) if flows)
    return Scenario(name, terms, (Group("the class", 0, 8, steady(1_000)), *idle), classes=classes)


def changed_live() -> Scenario:
    expected = (
        Expected(SETTLE, 4, 100, "at first"),
        # A reload takes the time that it takes, which is told by itself.
        Expected(5.5, 8, 40, "reloaded"),
        Expected(9.5, 12, 200, "reloaded again"),
    )
    return Scenario(
        "the rate changed live",
        ("bandwidth: 100 Mbit/s",),
        (Group("the class", 0, 8, expected),),
        changes=((4, ("bandwidth: 40 Mbit/s",)), (8, ("bandwidth: 200 Mbit/s",))),
    )


def many() -> int:
    """Flows that gateway and load generator may have open, up to 10,000: each needs two descriptors in both.

    Pipes are not counted among them: they are lent while bytes move, and there are as many however many flows.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return MANY if hard == resource.RLIM_INFINITY else min(MANY, (hard - SPARE) // 2)


SCENARIOS = [
    cap("one class at its ceiling", "100 Mbit/s", 100, 8),
    guarantee(),
    borrowing(),
    lending(),
    priorities(),
    weights(),
    tenants(),
    both_ways(),
    # A message every 20 ms: less than a flow's part of the class.
    cap("10,000 flows", "1 Gbit/s", 1_000, MANY, SMALL, receive_buffer=SMALL, message=(64, 20)),
    beside_idle("1 Gbit/s, nobody idle"),
    beside_idle(f"1 Gbit/s, {4 * IDLE_FLOWS:,} idle flows", flows=IDLE_FLOWS),
    beside_idle(f"1 Gbit/s, {IDLE_CLASSES:,} idle classes", classes=IDLE_CLASSES),
    # Messages of 16 bytes, a tenth of the class.
    cap("64 kbit/s", "64 kbit/s", 0.064, 1, message=(16, 20)),
    cap("5 Gbit/s", "5 Gbit/s", 5_000, 8),
    cap("10 Gbit/s", "10 Gbit/s", 10_000, 8),
    changed_live(),
    cap("two workers, one limit", "1 Gbit/s", 1_000, 16, workers=2),
    cap("across namespaces", "1 Gbit/s", 1_000, 8, apart=True),
]
