"""What the data plane reports of the terms of rules, and what two reports say of the time between them."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from egress_gateway.messages import ClusterState, Store
from egress_gateway.terms import Scope

Direction = Literal["up", "down"]
DIRECTIONS: Final[tuple[Direction, ...]] = ("up", "down")
_SHOWN: Final = ("rule", "max", "guarantee", "priority", "weight", "share_by", "scope", "flows")
#: What nobody has been promised.
UNPROMISED: Final = None


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One direction of a class. Counts begin when the rule comes, and outlive policies that still have it."""

    bytes: int
    #: Those of them beyond its guarantee.
    borrowed: int
    #: Connections that wait for their turn now.
    waiting: int
    #: Bits per second that it may send now; None where nothing bounds it.
    allowed: int | None
    #: Turns by how long was waited for them; not cumulative, the last one beyond all bounds.
    held: list[int]
    #: Nanoseconds, of all turns together.
    held_ns: int


class Class(msgspec.Struct, frozen=True, kw_only=True):
    """The connections of one rule with `bandwidth`. Rates are in bits per second."""

    rule: str
    link: str | None
    max: int | None
    guarantee: int
    priority: str
    weight: int
    share_by: str
    #: Of `max`.
    scope: Scope = "gateway"
    flows: int
    up: Way
    down: Way

    def way(self, direction: Direction) -> Way:
        return self.up if direction == "up" else self.down


class Link(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    #: Bits per second, in each direction.
    bandwidth: int
    #: Who has it: each gateway, or all of a cluster together, of which this one has a part.
    scope: Scope = "gateway"


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    bytes: int
    per: str


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """What is used of a budget in one direction, in the present period."""

    used: int
    limit: int
    per: str
    #: In seconds of Unix time.
    ends: int
    over: bool


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """The budget of each source of a rule, and of how many it is spent."""

    up: Allowance | None
    down: Allowance | None
    counted: int
    over: int


class Slow(msgspec.Struct, frozen=True, kw_only=True):
    #: Bits per second.
    slow: int


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """A rule with `budget`."""

    rule: str
    then: Literal["deny", "alert"] | Slow
    #: What is spent is only recorded.
    audit: bool
    up: Used | None
    down: Used | None
    sources: Sources | None

    def way(self, direction: Direction) -> Used | None:
        return self.up if direction == "up" else self.down


class Report(msgspec.Struct, frozen=True, kw_only=True):
    #: Nanoseconds since the gateway started.
    at_ns: int
    links: list[Link]
    classes: list[Class]
    #: Upper bounds of `Way.held`, in milliseconds.
    held_bounds_ms: list[int]
    budgets: list[Budget] = []
    store: Store | None = None
    #: None: nothing is shared over gateways.
    cluster: ClusterState | None = None


_DECODER: Final = msgspec.json.Decoder(Report)


def decode(body: bytes) -> Report:
    """Raises msgspec.DecodeError."""
    return _DECODER.decode(body)


def tree(before: Report, after: Report) -> list[dict[str, Any]]:
    """Links with their classes as they are in `after`, with the rates (bits per second) since `before`; last, without
    a name, what shares no link. A class that is not in both began at 0."""
    known = {one.rule: one for one in before.classes}
    seconds = max(1, after.at_ns - before.at_ns) / 1e9
    out: list[dict[str, Any]] = []
    for link in (*after.links, None):
        classes = [one for one in after.classes if one.link == (link.name if link else None)]
        if link is None and not classes:
            continue
        row: dict[str, Any] = {
            "link": link.name if link else None,
            "bandwidth": link.bandwidth if link else None,
            "scope": link.scope if link else None,
            "classes": [{key: getattr(one, key) for key in _SHOWN} for one in classes],
        }
        for direction in DIRECTIONS:
            rates = [_rate(known.get(one.rule), one, direction, seconds) for one in classes]
            row[direction] = {"rate": sum(rates)}
            borrowed = lenders(link.bandwidth, [one.guarantee for one in classes], rates) if link else [{}] * len(rates)
            for told, one, rate, of in zip(row["classes"], classes, rates, borrowed, strict=True):
                way = one.way(direction)
                told[direction] = {
                    "rate": rate,
                    "allowed": way.allowed,
                    "waiting": way.waiting,
                    "borrows": [{"of": classes[place].rule if place is not UNPROMISED else None, "rate": share}
                                for place, share in of.items()],
                    "lends": 0,
                }  # fmt: skip
            for of in borrowed:
                for place, share in of.items():
                    if place is not UNPROMISED:
                        row["classes"][place][direction]["lends"] += share
        out.append(row)
    return out


def lenders(bandwidth: int, guarantees: list[int], rates: list[int]) -> list[dict[int | None, int]]:
    """For each class by whom its rate beyond its guarantee was lent: first what nobody was promised, in proportion to
    what each borrows; then what others leave of their guarantees, in proportion to that. All in bits per second."""
    borrows = [max(0, rate - guarantee) for rate, guarantee in zip(rates, guarantees, strict=True)]
    leaves = [max(0, guarantee - rate) for rate, guarantee in zip(rates, guarantees, strict=True)]
    wanted, spare = sum(borrows), sum(leaves)
    free = min(wanted, max(0, bandwidth - sum(guarantees)))
    out: list[dict[int | None, int]] = []
    for borrowed in borrows:
        of: dict[int | None, int] = {}
        if borrowed:
            of[UNPROMISED] = borrowed * free // wanted
            rest = borrowed - of[UNPROMISED]
            of |= {place: rest * left // spare for place, left in enumerate(leaves) if left}
        out.append({place: share for place, share in of.items() if share})
    return out


def _rate(before: Class | None, after: Class, direction: Direction, seconds: float) -> int:
    # A rule that was taken out and put back has begun anew.
    moved = after.way(direction).bytes - (before.way(direction).bytes if before is not None else 0)
    return max(0, round(moved * 8 / seconds))
