"""The policy language, where it says how much a rule may use: connections, bandwidth and links, budgets, and the
cluster that limits hold for."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from egress_gateway.section import Count, Section, doc
from egress_gateway.units import Allowance, Rate

Replicas = Annotated[int, Meta(ge=1, le=1024)]
Scope = Literal["gateway", "cluster"]
Weight = Annotated[int, Meta(ge=1, le=1000)]


class Budgets(Section, frozen=True):
    """Where it is kept what is used of the budgets of rules, and by which clock their periods end."""

    store: Annotated[
        str,
        doc(
            "A file that only this gateway uses; it is made where a rule has a budget. A relative path starts at the "
            "policy file.",
            "/var/lib/egress/budgets.redb",
        ),
    ] = "/var/lib/egress/budgets.redb"
    time_zone: Annotated[
        str,
        doc("A name of the tz database, which is built in: days and months begin at its midnight.", "Europe/Berlin"),
    ] = "UTC"


class PerSource(Section, frozen=True):
    """What each source may have of a rule by itself. A source is the strongest identity of a caller, else its address.
    At most 65,536 sources of all rules are counted at a time; further ones are refused."""

    max: Annotated[Count, doc("Connections at a time; of plain HTTP, requests.", 20)] | UnsetType = UNSET
    new_per_second: Annotated[Count, doc("New connections in a second.", 5)] | UnsetType = UNSET
    burst: (
        Annotated[Count, doc("New connections at once, after a pause. Built in: one second's worth.", 10)] | UnsetType
    ) = UNSET


class Connections(Section, frozen=True):
    """How many connections a rule grants, over all workers."""

    max: Annotated[Count, doc("Connections at a time; of plain HTTP, requests.", 2000)] | UnsetType = UNSET
    new_per_second: Annotated[Count, doc("New connections in a second.", 200)] | UnsetType = UNSET
    burst: (
        Annotated[Count, doc("New connections at once, after a pause. Built in: one second's worth.", 400)] | UnsetType
    ) = UNSET
    per_source: (
        Annotated[PerSource, doc("The same for each source by itself.", {"max": 20, "new_per_second": 5})] | UnsetType
    ) = UNSET
    when_full: Annotated[
        str,
        doc(
            "`refuse`, or `wait` and a duration of at most 1m: a connection over a bound is held until there is room, "
            "and refused when the time is over. At most 1,024 of a rule wait in each worker.",
            "wait 2s",
        ),
    ] = "refuse"


class Link(Section, frozen=True):
    """A pipe that rules share."""

    bandwidth: Annotated[Rate, doc("What goes through it, in each direction.", "2 Gbit/s")]
    scope: Annotated[
        Scope,
        doc("Whether each gateway has it, or all gateways of `cluster` together, guarantees included.", "cluster"),
    ] = "gateway"


class Cluster(Section, frozen=True):
    """The gateways that together keep to what has `scope: cluster`. They tell each other what they want through a
    Valkey or Redis server. While that is away, each keeps its part of `replicas`."""

    store: (
        Annotated[
            str,
            doc(
                "Where the server is, with user, password and database if need be; `rediss://` is TLS. Needed.",
                "redis://valkey.example:6379/0",
                "rediss://egress@valkey.example",
            ),
        ]
        | UnsetType
    ) = UNSET
    password_file: (
        Annotated[
            str,
            doc("A file with the password. A relative path starts at the policy file. It is watched.", "valkey.pass"),
        ]
        | UnsetType
    ) = UNSET
    ca: (
        Annotated[
            str, doc("PEM file with the roots of the server's certificate. Built in: the system's.", "valkey-ca.pem")
        ]
        | UnsetType
    ) = UNSET
    group: Annotated[
        str, doc("Gateways of the same group share. A name of its own for each cluster that uses the server.")
    ] = "egress"
    replicas: (
        Annotated[
            Replicas,
            doc(
                "How many gateways there are at the most, those that come and go during an update included. Needed.", 3
            ),
        ]
        | UnsetType
    ) = UNSET


class Bandwidth(Section, frozen=True):
    """What the connections of a rule have together, in each direction by itself. What a rule does not use is lent to
    the others of its link."""

    max: Annotated[Rate, doc("Never more than this. Built in: what the link has.", "50 Mbit/s")] | UnsetType = UNSET
    scope: Annotated[
        Scope, doc("Whether `max` holds for each gateway, or for all gateways of `cluster` together.", "cluster")
    ] = "gateway"
    guarantee: (
        Annotated[Rate, doc("Of its link, whenever it is wanted. Built in: nothing.", "10 Mbit/s")] | UnsetType
    ) = UNSET
    link: (
        Annotated[str, doc("A name of `links`. Built in: the link, where there is one only.", "internet")] | UnsetType
    ) = UNSET
    priority: Annotated[
        Literal["high", "normal", "low"], doc("Who is lent to first what others of the link do not use.")
    ] = "normal"
    weight: Annotated[Weight, doc("How much of it, beside others of its priority.", 2)] = 1
    share_by: (
        Annotated[
            Literal["source", "namespace", "connection", "none"],
            doc(
                "`source`: each caller (by its identity, else its address) has an equal part, and its connections "
                "share that. `namespace`: each Kubernetes namespace has, as the SPIFFE ID of a client certificate "
                "names it (`…/ns/payments/…`), and each caller of whom none is known. `connection`, or `none`: each "
                "connection has an equal part. Built in: `none`; `source` where the rule's `budget` slows each source."
            ),
        ]
        | UnsetType
    ) = UNSET


class SourceBudget(Section, frozen=True):
    """What each source may move by itself. A source is the strongest identity of a caller, else its address. At most
    65,536 sources of all rules are counted at a time; further ones are refused."""

    up: Annotated[Allowance, doc("Bytes from the source to its destinations.", "1 GB/hour")] | UnsetType = UNSET
    down: Annotated[Allowance, doc("Bytes from its destinations to the source.", "5 GB/day")] | UnsetType = UNSET


class Budget(Section, frozen=True):
    """How many bytes a rule may move in an hour, a day or a month, over all workers and restarts. Each direction has a
    period of its own."""

    up: Annotated[Allowance, doc("Bytes from clients to destinations.", "5 GB/day")] | UnsetType = UNSET
    down: Annotated[Allowance, doc("Bytes from destinations to clients.", "100 GB/month")] | UnsetType = UNSET
    per_source: Annotated[SourceBudget, doc("The same for each source by itself.", {"up": "1 GB/hour"})] | UnsetType = (
        UNSET
    )
    then: Annotated[
        str,
        doc(
            "What happens when it is spent, until the period is over. `deny`: new connections are refused, and open "
            "ones end with their next bytes. `slow` and a rate: in the direction that is spent, the rule's "
            "connections have no more than that together; of a source's own budget, those of that source. `alert`: it "
            "is only said, in the gateway's log and the metrics.",
            "slow 256 kbit/s",
        ),
    ] = "deny"
