"""The policy language: each key, its type, its default and its meaning, here and nowhere else.

The reference page is generated from these definitions. Absence is `UNSET`, never null: a key with nothing behind it is
a mistake (`from:` left empty would otherwise mean any source). What only the whole policy can tell — whether a name is
a name, whether two rules tie — is checked by the compiler.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from egress_gateway.units import Allowance, Duration, Rate, Until

VERSION: Final = "v1"
# The data plane counts in 32 bits, and the highest number stands for no bound.
_MOST: Final = 2**32 - 2
# Longest text of a message, an owner or a reason, in characters: it goes into logs and into answers to clients.
_TEXT: Final = 1024

Count = Annotated[int, Meta(ge=1, le=_MOST)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Text = Annotated[str, Meta(max_length=_TEXT)]
Weight = Annotated[int, Meta(ge=1, le=1000)]
Action = Literal["deny", "allow"]
Mode = Literal["enforce", "audit"]
OnDeny = Literal["native", "reset", "drop"]
ProxyHeader = Literal["off", "v1", "v2"]
Scope = Literal["gateway", "cluster"]


def _doc(description: str, *examples: object) -> Meta:
    return Meta(description=description, examples=list(examples))


class Section(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What all parts of the language share. `later` names keys of the language that this version does not have, and
    what to do without them."""

    later: ClassVar[dict[str, str]] = {}


class ListenerTls(Section, frozen=True):
    """TLS to the proxy itself. The files are watched: a renewed certificate is taken in as a changed policy is."""

    certificate: Annotated[
        str,
        _doc("PEM file with the proxy's certificate, then those that lead to its root.", "proxy.pem"),
    ]
    key: Annotated[str, _doc("PEM file with the certificate's private key, unencrypted.", "proxy-key.pem")]
    client_ca: (
        Annotated[
            str,
            _doc("PEM file with the roots of clients' certificates. Built in: no client is asked for one.", "ca.pem"),
        ]
        | UnsetType
    ) = UNSET
    client: (
        Annotated[
            Literal["required", "optional"],
            _doc("Whether a client without a certificate is turned away. Built in, with `client_ca`: `required`."),
        ]
        | UnsetType
    ) = UNSET


class Listener(Section, frozen=True):
    """An address to accept on, and how the destination is learned there."""

    name: Annotated[str, _doc("How logs and metrics call it: 1 to 32 of `a-z 0-9 . _ -`.", "tls")]
    bind: Annotated[str, _doc("Address and port to listen on.", "0.0.0.0:8443", "[::]:8443")]
    accept: Annotated[
        str | list[str],
        _doc(
            "How the destination is learned: `tls` (the name in the TLS hello), `connect` (HTTP CONNECT), `http` (each "
            "request of plain HTTP: its URI, or its Host), `socks5` (RFC 1928), `postgres` "
            "(PostgreSQL with TLS: the name in the hello behind its request for TLS), `transparent` (captured by "
            "REDIRECT or TPROXY: where it was going, and the name in its TLS hello, PostgreSQL's too, or in its HTTP "
            "requests) or `tcp` (fixed, see `to`). One word, or a list: what a client speaks is then told by its first "
            "bytes. `transparent` and `tcp` stand alone, and so does `dns`, which answers questions for the names that "
            "the source may reach, over UDP and TCP.",
            "tls",
            ["connect", "http", "socks5"],
        ),
    ]
    port: (
        Annotated[
            Port,
            _doc(
                "With `tls` and `postgres`: the port that is dialled, since a hello names none. Built in: 443, and "
                "5432 for `postgres`.",
                8443,
            ),
        ]
        | UnsetType
    ) = UNSET
    to: Annotated[str, _doc("`tcp` only, and needed there: the destination.", "db.partner.com:5432")] | UnsetType = (
        UNSET
    )
    tls: (
        Annotated[
            ListenerTls,
            _doc("Clients of `connect`, `http` and `socks5` speak TLS to the proxy. Built in: they do not."),
        ]
        | UnsetType
    ) = UNSET
    proxy_protocol: Annotated[
        Literal["off", "optional", "required"],
        _doc(
            "Whether a PROXY header (version 1 or 2) stands before a connection's first bytes; its source is then the "
            "caller. `required` lets in nobody but trusted proxies, and these with a header only. `optional` reads one "
            "where a trusted proxy sends it; to anybody else it means nothing."
        ),
    ] = "off"
    proxy_trusted: (
        Annotated[
            str | list[str],
            _doc(
                "Addresses or networks of the proxies whose header is believed. Needed with `proxy_protocol`.",
                ["10.0.0.10", "10.0.1.0/24"],
            ),
        ]
        | UnsetType
    ) = UNSET
    proxy_tlv: (
        Annotated[
            str,
            _doc(
                "What of a header (version 2) names the caller for `tlv` in `from`: `authority`, `unique_id`, `netns`, "
                "`ssl_cn` (the common name of a certificate that the proxy has verified), `aws_vpce_id`, or a type.",
                "aws_vpce_id",
                "0xe0",
            ),
        ]
        | UnsetType
    ) = UNSET
    send_proxy: Annotated[
        ProxyHeader, _doc("The PROXY header that destinations are sent first, unless the rule says otherwise.")
    ] = "off"
    login: Annotated[
        Literal["off", "optional", "required"],
        _doc(
            "Whether clients of `connect`, `http` and `socks5` say who they are, with a user and a password of "
            "`users`. `optional`: those who say nothing are known by address; a wrong password is refused all the "
            "same. `required` is possible where the listener accepts nothing but these three."
        ),
    ] = "off"


class Default(Section, frozen=True):
    """What holds where no rule says otherwise."""

    action: Annotated[Action, _doc("The verdict where no rule matches.")] = "deny"
    mode: Annotated[Mode, _doc("`audit` decides, records would-deny, and lets the connection through.")] = "enforce"
    message: Annotated[
        Text,
        _doc(
            "What a denied client is told. `{rule}` and `{decision}` are filled in.", "Ask #network. Quote {decision}."
        ),
    ] = "Blocked by egress policy ({rule}). Quote {decision}."
    on_deny: Annotated[
        OnDeny,
        _doc(
            "How a refused client is told: `native` in its own protocol, `reset` by a reset, `drop` not at all: the "
            "connection stays open, unread, for half a minute. At most 1,024 connections of a worker are dropped so at "
            "a time, others are reset. A destination that cannot be reached is always told natively."
        ),
    ] = "native"
    private_addresses: Annotated[
        Action, _doc("Whether an allowed name may resolve to a private address that no rule names.")
    ] = "deny"
    no_name: Annotated[
        Action, _doc("What becomes of TLS without a name. `allow` is not in this version: there is nowhere to go.")
    ] = "deny"


class ListFile(Section, frozen=True):
    """A file of plain names, one a line; millions of them are fine."""

    file: Annotated[str, _doc("Where it is; a relative path starts at the policy file that names it.", "ads.txt")]


class Users(Section, frozen=True):
    """Who may log in."""

    file: (
        Annotated[
            str,
            _doc(
                "A file of `name:hash` lines, as htpasswd writes it: bcrypt, Argon2id, scrypt or SHA-512 crypt. A "
                "relative path starts at the policy file. It is watched as the policy is.",
                "users.txt",
            ),
        ]
        | UnsetType
    ) = UNSET


class Resolver(Section, frozen=True):
    """How names become addresses, and for how long."""

    servers: Annotated[
        list[str],
        _doc(
            "DNS servers, address and port (53 where none is written). Empty: the system's servers.", ["10.0.0.10:53"]
        ),
    ] = field(default_factory=list)
    hosts: Annotated[
        dict[str, str | list[str]],
        _doc("Names with fixed addresses. They are dialled even if they are private.", {"db.partner.com": "10.20.0.7"}),
    ] = field(default_factory=dict)
    min_ttl: Annotated[Duration, _doc("An answer is kept at least this long.")] = Duration(1_000)
    max_ttl: Annotated[Duration, _doc("An answer is kept at most this long.")] = Duration(300_000)
    negative_ttl: Annotated[Duration, _doc("That a name does not exist is kept at most this long.")] = Duration(5_000)
    stale: Annotated[Duration, _doc("While the servers are down, an expired answer serves this much longer.")] = (
        Duration(300_000)
    )
    timeout: Annotated[Duration, _doc("How long one attempt waits for a server.")] = Duration(2_000)
    attempts: Annotated[Count, _doc("Attempts before a lookup has failed.")] = 2
    cache_names: Annotated[Count, _doc("Names that the cache holds.")] = 10_000


class Timeouts(Section, frozen=True):
    """How long is too long."""

    first_bytes: Annotated[Duration, _doc("From accept until the client has named its destination.")] = Duration(5_000)
    server_first: Annotated[
        Duration,
        _doc(
            "How long a captured client may say nothing before its server is taken to speak first; the address then "
            "decides."
        ),
    ] = Duration(300)
    connect: Annotated[Duration, _doc("From the decision until the destination has accepted.")] = Duration(5_000)
    idle: Annotated[Duration, _doc("A connection without a byte in either direction is closed after this.")] = Duration(
        3_600_000
    )
    drain: Annotated[Duration, _doc("At shutdown, connections may go on for this long.")] = Duration(300_000)
    grace: Annotated[Duration, _doc("A connection that a changed policy denies may go on for this long.")] = Duration(0)


class Admin(Section, frozen=True):
    """Metrics and health over HTTP."""

    bind: Annotated[str, _doc("Address and port, or `off`.", "127.0.0.1:9900", "off")] = "127.0.0.1:9900"


class Log(Section, frozen=True):
    """The decision log: one JSON line for each connection."""

    decisions: Annotated[
        str,
        _doc(
            "`stdout`, `stderr`, `off`, or a path; a relative path starts at the policy file.", "/var/log/egress.jsonl"
        ),
    ] = "stdout"


class From(Section, frozen=True):
    """Who is calling. Of several keys all must hold; a list means any of its items."""

    later: ClassVar[dict[str, str]] = dict.fromkeys(
        ("namespace", "service_account", "label"),
        "write `cidr:` with the addresses that are meant, or `spiffe:` with the workload's id",
    )
    cidr: (
        Annotated[
            str | list[str], _doc("Addresses or networks of the callers; a list means any of them.", "10.0.0.0/8")
        ]
        | UnsetType
    ) = UNSET
    user: (
        Annotated[str | list[str], _doc("Users who have logged in; see `users` and `login`.", "alice")] | UnsetType
    ) = UNSET
    spiffe: (
        Annotated[
            str | list[str],
            _doc(
                "SPIFFE IDs of verified client certificates; `…/*` means everything below.",
                "spiffe://cluster.local/ns/payments/sa/api",
                "spiffe://cluster.local/ns/payments/*",
            ),
        ]
        | UnsetType
    ) = UNSET
    tlv: (
        Annotated[
            str | list[str],
            _doc("Values of the PROXY protocol TLV that the listener takes as a name.", "vpce-08d2bf15fac5001c9"),
        ]
        | UnsetType
    ) = UNSET


class Budgets(Section, frozen=True):
    """Where it is kept what is used of the budgets of rules, and by which clock their periods end."""

    store: Annotated[
        str,
        _doc(
            "A file that only this gateway uses; it is made where a rule has a budget. A relative path starts at the "
            "policy file.",
            "/var/lib/egress/budgets.redb",
        ),
    ] = "/var/lib/egress/budgets.redb"
    time_zone: Annotated[
        str,
        _doc("A name of the tz database, which is built in: days and months begin at its midnight.", "Europe/Berlin"),
    ] = "UTC"


class Target(Section, frozen=True):
    """A name, and the addresses that it may resolve to."""

    name: Annotated[str, _doc("A destination as in `to`.", "artifacts.corp")]
    addresses: Annotated[list[str], _doc("Addresses and networks, private ones included.", ["10.2.0.0/16"])]


class PerSource(Section, frozen=True):
    """What each source may have of a rule by itself. A source is the strongest identity of a caller, else its address.
    At most 65,536 sources of all rules are counted at a time; further ones are refused."""

    max: Annotated[Count, _doc("Connections at a time; of plain HTTP, requests.", 20)] | UnsetType = UNSET
    new_per_second: Annotated[Count, _doc("New connections in a second.", 5)] | UnsetType = UNSET
    burst: (
        Annotated[Count, _doc("New connections at once, after a pause. Built in: one second's worth.", 10)] | UnsetType
    ) = UNSET


class Connections(Section, frozen=True):
    """How many connections a rule grants, over all workers."""

    max: Annotated[Count, _doc("Connections at a time; of plain HTTP, requests.", 2000)] | UnsetType = UNSET
    new_per_second: Annotated[Count, _doc("New connections in a second.", 200)] | UnsetType = UNSET
    burst: (
        Annotated[Count, _doc("New connections at once, after a pause. Built in: one second's worth.", 400)] | UnsetType
    ) = UNSET
    per_source: (
        Annotated[PerSource, _doc("The same for each source by itself.", {"max": 20, "new_per_second": 5})] | UnsetType
    ) = UNSET
    when_full: Annotated[
        str,
        _doc(
            "`refuse`, or `wait` and a duration of at most 1m: a connection over a bound is held until there is room, "
            "and refused when the time is over. At most 1,024 of a rule wait in each worker.",
            "wait 2s",
        ),
    ] = "refuse"


class Link(Section, frozen=True):
    """A pipe that rules share."""

    bandwidth: Annotated[Rate, _doc("What goes through it, in each direction.", "2 Gbit/s")]
    scope: Annotated[
        Scope,
        _doc("Whether each gateway has it, or all gateways of `cluster` together, guarantees included.", "cluster"),
    ] = "gateway"


class Cluster(Section, frozen=True):
    """The gateways that together keep to what has `scope: cluster`. They tell each other what they want through a
    Valkey or Redis server. While that is away, each keeps its part of `replicas`."""

    store: (
        Annotated[
            str,
            _doc(
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
            _doc("A file with the password. A relative path starts at the policy file. It is watched.", "valkey.pass"),
        ]
        | UnsetType
    ) = UNSET
    ca: (
        Annotated[
            str, _doc("PEM file with the roots of the server's certificate. Built in: the system's.", "valkey-ca.pem")
        ]
        | UnsetType
    ) = UNSET
    group: Annotated[
        str, _doc("Gateways of the same group share. A name of its own for each cluster that uses the server.")
    ] = "egress"
    replicas: (
        Annotated[
            Count,
            _doc(
                "How many gateways there are at the most, those that come and go during an update included. Needed.", 3
            ),
        ]
        | UnsetType
    ) = UNSET


class Bandwidth(Section, frozen=True):
    """What the connections of a rule have together, in each direction by itself. What a rule does not use is lent to
    the others of its link."""

    max: Annotated[Rate, _doc("Never more than this. Built in: what the link has.", "50 Mbit/s")] | UnsetType = UNSET
    scope: Annotated[
        Scope, _doc("Whether `max` holds for each gateway, or for all gateways of `cluster` together.", "cluster")
    ] = "gateway"
    guarantee: (
        Annotated[Rate, _doc("Of its link, whenever it is wanted. Built in: nothing.", "10 Mbit/s")] | UnsetType
    ) = UNSET
    link: (
        Annotated[str, _doc("A name of `links`. Built in: the link, where there is one only.", "internet")] | UnsetType
    ) = UNSET
    priority: Annotated[
        Literal["high", "normal", "low"], _doc("Who is lent to first what others of the link do not use.")
    ] = "normal"
    weight: Annotated[Weight, _doc("How much of it, beside others of its priority.", 2)] = 1
    share_by: (
        Annotated[
            Literal["source", "namespace", "connection", "none"],
            _doc(
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

    up: Annotated[Allowance, _doc("Bytes from the source to its destinations.", "1 GB/hour")] | UnsetType = UNSET
    down: Annotated[Allowance, _doc("Bytes from its destinations to the source.", "5 GB/day")] | UnsetType = UNSET


class Budget(Section, frozen=True):
    """How many bytes a rule may move in an hour, a day or a month, over all workers and restarts. Each direction has a
    period of its own."""

    up: Annotated[Allowance, _doc("Bytes from clients to destinations.", "5 GB/day")] | UnsetType = UNSET
    down: Annotated[Allowance, _doc("Bytes from destinations to clients.", "100 GB/month")] | UnsetType = UNSET
    per_source: (
        Annotated[SourceBudget, _doc("The same for each source by itself.", {"up": "1 GB/hour"})] | UnsetType
    ) = UNSET
    then: Annotated[
        str,
        _doc(
            "What happens when it is spent, until the period is over. `deny`: new connections are refused, and open "
            "ones end with their next bytes. `slow` and a rate: in the direction that is spent, the rule's "
            "connections have no more than that together; of a source's own budget, those of that source. `alert`: it "
            "is only said, in the gateway's log and the metrics.",
            "slow 256 kbit/s",
        ),
    ] = "deny"


class Rule(Section, frozen=True):
    """Which sources may, or may not, reach which destinations."""

    name: Annotated[
        str, _doc("What logs, metrics and denials quote: 1 to 64 of `a-z 0-9 . _ -`, unique.", "payments-saas")
    ]
    from_: (
        Annotated[
            From | list[From],
            _doc("Who is calling; a list means any of them. Built in: anyone.", {"cidr": "10.0.0.0/8"}),
        ]
        | UnsetType
    ) = field(default=UNSET, name="from")
    evidence: (
        Annotated[
            Literal["address", "proxy_header", "login", "certificate"],
            _doc(
                "How well the caller must be known, at the least: by address, by a trusted peer's PROXY header, by a "
                "login, by a client certificate. Built in: address."
            ),
        ]
        | UnsetType
    ) = UNSET
    to: (
        Annotated[
            str | Target | list[str | Target],
            _doc(
                "Destinations: a name (`x` itself, `*.x` below it, `.x` both), an address, a network, a group or list; "
                "with `:port`, `:from-to` or `:*`. Without a port: 443, in a deny rule every port.",
                [
                    "api.stripe.com",
                    "*.amazonaws.com:8443",
                    "aws",
                    {"name": "artifacts.corp", "addresses": ["10.2.0.0/16"]},
                ],
            ),
        ]
        | UnsetType
    ) = UNSET
    anywhere: Annotated[
        bool, _doc("`true` says on purpose that `to` is as wide as it is: `*`, `*.com`, most of the Internet.")
    ] = False
    deny: Annotated[bool, _doc("`true`: what matches is denied, whatever other rules allow.")] = False
    mode: Annotated[Mode, _doc("As in `default`, for this rule. Built in: what `default` says.")] | UnsetType = UNSET
    message: (
        Annotated[
            Text, _doc("What the denied client is told. Built in: what `default` says.", "Use workload identity.")
        ]
        | UnsetType
    ) = UNSET
    on_deny: (
        Annotated[OnDeny, _doc("As in `default`, for what this rule refuses. Built in: what `default` says.")]
        | UnsetType
    ) = UNSET
    owner: Annotated[Text, _doc("Who answers for the rule.", "team-payments")] | UnsetType = UNSET
    why: Annotated[Text, _doc("What the rule is for.", "PCI-1234 card processing")] | UnsetType = UNSET
    until: (
        Annotated[
            Until,
            _doc(
                "From when on the rule no longer applies: a date (00:00 UTC of that day), or a timestamp with offset.",
                "2026-12-01",
                "2026-12-01T18:00:00Z",
            ),
        ]
        | UnsetType
    ) = UNSET
    connections: Annotated[Connections, _doc("How many connections the rule grants. Built in: no bound.")] = field(
        default_factory=Connections
    )
    bandwidth: (
        Annotated[
            str | Bandwidth,
            _doc(
                "What the rule's connections have together, in each direction. A rate alone is `max`. Built in: no "
                "bound.",
                "50 Mbit/s",
                {"max": "50 Mbit/s", "guarantee": "10 Mbit/s", "share_by": "source"},
            ),
        ]
        | UnsetType
    ) = UNSET
    budget: (
        Annotated[
            Budget,
            _doc(
                "How many bytes the rule may move in a period. Built in: no bound.",
                {"up": "5 GB/day", "then": "slow 256 kbit/s"},
            ),
        ]
        | UnsetType
    ) = UNSET
    dial: (
        Annotated[
            str,
            _doc(
                "Host and port that are dialled instead of the name. `original`: a captured connection goes to the "
                "address that it was captured on its way to, if the name has that address, and is refused if not.",
                "edge.partner.com:8443",
                "original",
            ),
        ]
        | UnsetType
    ) = UNSET
    sni: Annotated[
        Literal["agree", "any"],
        _doc(
            "Whether the TLS name inside a CONNECT tunnel must be the name of the CONNECT. `any` also lets captured "
            "connections pass whose first bytes may name a host in a form that is not read, as HTTP/2 in the clear."
        ),
    ] = "agree"
    send_proxy: (
        Annotated[
            ProxyHeader,
            _doc("The PROXY header that the destination is sent before all else. Built in: what the listener says."),
        ]
        | UnsetType
    ) = UNSET


class Config(Section, frozen=True):
    """A policy file."""

    egress: Annotated[Literal["v1"], _doc("The version of the language; every file begins with it.")]
    listeners: Annotated[
        list[Listener],
        _doc("Where clients connect. Built in: `tls` on 0.0.0.0:8443 and `connect` on 0.0.0.0:3128."),
    ] = field(default_factory=list)
    default: Annotated[Default, _doc("What holds where no rule says otherwise.")] = field(default_factory=Default)
    groups: Annotated[
        dict[str, list[str]], _doc("Destinations under a name of their own.", {"aws": ["*.amazonaws.com"]})
    ] = field(default_factory=dict)
    lists: Annotated[dict[str, ListFile], _doc("Long lists of names under a name.", {"ads": {"file": "ads.txt"}})] = (
        field(default_factory=dict)
    )
    links: Annotated[dict[str, Link], _doc("Pipes that rules share.", {"internet": {"bandwidth": "2 Gbit/s"}})] = field(
        default_factory=dict
    )
    budgets: Annotated[Budgets, _doc("Where budgets are kept, and when their periods end.")] = field(
        default_factory=Budgets
    )
    cluster: Annotated[Cluster, _doc("Which gateways share what has `scope: cluster`. Built in: none.")] = field(
        default_factory=Cluster
    )
    users: Annotated[Users, _doc("Who may log in; see `login` of a listener.")] = field(default_factory=Users)
    resolver: Annotated[Resolver, _doc("How names become addresses.")] = field(default_factory=Resolver)
    timeouts: Annotated[Timeouts, _doc("How long is too long.")] = field(default_factory=Timeouts)
    admin: Annotated[Admin, _doc("Metrics and health over HTTP.")] = field(default_factory=Admin)
    log: Annotated[Log, _doc("The decision log.")] = field(default_factory=Log)
    workers: Annotated[
        Count | Literal["auto"], _doc("Threads that move bytes; `auto`: the CPUs that the cgroup allows.")
    ] = "auto"
    low_latency: Annotated[bool, _doc("`true` spins for a moment before it sleeps: a CPU for microseconds.")] = False
    max_flows: Annotated[
        Count | Literal["auto"], _doc("Connections per worker; `auto`: what the limit of open files allows.")
    ] = "auto"
    rules: Annotated[list[Rule], _doc("Who may reach what. Their order does not matter.")] = field(default_factory=list)


#: What a gateway listens on when no file says: the two ways in that a client can use without any setup of the network.
DEFAULT_LISTENERS: Final = (
    Listener(name="tls", bind="0.0.0.0:8443", accept="tls"),
    Listener(name="proxy", bind="0.0.0.0:3128", accept="connect"),
)


def decode_unit(kind: type, value: object) -> Any:
    """msgspec's dec_hook: durations, rates and dates as people write them."""
    if kind is Duration:
        return Duration.parse(value)
    if kind is Until:
        return Until.parse(value)
    if kind is Rate:
        return Rate.parse(value)
    if kind is Allowance:
        return Allowance.parse(value)
    raise NotImplementedError(kind)
