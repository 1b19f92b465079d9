"""The policy language: each key, its type, its default and its meaning, here and nowhere else.

The reference page is generated from these definitions. Absence is `UNSET`, never null: a key with nothing behind it is
a mistake (`from:` left empty would otherwise mean any source). What only the whole policy can tell — whether a name is
a name, whether two rules tie — is checked by the compiler.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import UNSET, Meta, UnsetType, field

from egress_gateway.section import Count, Section, doc
from egress_gateway.terms import Bandwidth, Budget, Budgets, Cluster, Connections, Link
from egress_gateway.units import Allowance, Duration, Rate, Until

VERSION: Final = "v1"
# Longest text of a message, an owner or a reason, in characters: it goes into logs and into answers to clients.
_TEXT: Final = 1024

Port = Annotated[int, Meta(ge=1, le=65535)]
Text = Annotated[str, Meta(max_length=_TEXT)]
Action = Literal["deny", "allow"]
Mode = Literal["enforce", "audit"]
OnDeny = Literal["native", "reset", "drop"]
ProxyHeader = Literal["off", "v1", "v2"]


class ListenerTls(Section, frozen=True):
    """TLS to the proxy itself. The files are watched: a renewed certificate is taken in as a changed policy is."""

    certificate: Annotated[
        str,
        doc("PEM file with the proxy's certificate, then those that lead to its root.", "proxy.pem"),
    ]
    key: Annotated[str, doc("PEM file with the certificate's private key, unencrypted.", "proxy-key.pem")]
    client_ca: (
        Annotated[
            str,
            doc("PEM file with the roots of clients' certificates. Built in: no client is asked for one.", "ca.pem"),
        ]
        | UnsetType
    ) = UNSET
    client: (
        Annotated[
            Literal["required", "optional"],
            doc("Whether a client without a certificate is turned away. Built in, with `client_ca`: `required`."),
        ]
        | UnsetType
    ) = UNSET


class Listener(Section, frozen=True):
    """An address to accept on, and how the destination is learned there."""

    name: Annotated[str, doc("How logs and metrics call it: 1 to 32 of `a-z 0-9 . _ -`.", "tls")]
    bind: Annotated[str, doc("Address and port to listen on.", "0.0.0.0:8443", "[::]:8443")]
    accept: Annotated[
        str | list[str],
        doc(
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
            doc(
                "With `tls` and `postgres`: the port that is dialled, since a hello names none. Built in: 443, and "
                "5432 for `postgres`.",
                8443,
            ),
        ]
        | UnsetType
    ) = UNSET
    to: Annotated[str, doc("`tcp` only, and needed there: the destination.", "db.partner.com:5432")] | UnsetType = UNSET
    tls: (
        Annotated[
            ListenerTls,
            doc("Clients of `connect`, `http` and `socks5` speak TLS to the proxy. Built in: they do not."),
        ]
        | UnsetType
    ) = UNSET
    proxy_protocol: Annotated[
        Literal["off", "optional", "required"],
        doc(
            "Whether a PROXY header (version 1 or 2) stands before a connection's first bytes; its source is then the "
            "caller. `required` lets in nobody but trusted proxies, and these with a header only. `optional` reads one "
            "where a trusted proxy sends it; to anybody else it means nothing."
        ),
    ] = "off"
    proxy_trusted: (
        Annotated[
            str | list[str],
            doc(
                "Addresses or networks of the proxies whose header is believed. Needed with `proxy_protocol`.",
                ["10.0.0.10", "10.0.1.0/24"],
            ),
        ]
        | UnsetType
    ) = UNSET
    proxy_tlv: (
        Annotated[
            str,
            doc(
                "What of a header (version 2) names the caller for `tlv` in `from`: `authority`, `unique_id`, `netns`, "
                "`ssl_cn` (the common name of a certificate that the proxy has verified), `aws_vpce_id`, or a type.",
                "aws_vpce_id",
                "0xe0",
            ),
        ]
        | UnsetType
    ) = UNSET
    send_proxy: Annotated[
        ProxyHeader, doc("The PROXY header that destinations are sent first, unless the rule says otherwise.")
    ] = "off"
    login: Annotated[
        Literal["off", "optional", "required"],
        doc(
            "Whether clients of `connect`, `http` and `socks5` say who they are, with a user and a password of "
            "`users`. `optional`: those who say nothing are known by address; a wrong password is refused all the "
            "same. `required` is possible where the listener accepts nothing but these three."
        ),
    ] = "off"


class Default(Section, frozen=True):
    """What holds where no rule says otherwise."""

    action: Annotated[Action, doc("The verdict where no rule matches.")] = "deny"
    mode: Annotated[Mode, doc("`audit` decides, records would-deny, and lets the connection through.")] = "enforce"
    message: Annotated[
        Text,
        doc(
            "What a denied client is told. `{rule}` and `{decision}` are filled in.", "Ask #network. Quote {decision}."
        ),
    ] = "Blocked by egress policy ({rule}). Quote {decision}."
    on_deny: Annotated[
        OnDeny,
        doc(
            "How a refused client is told: `native` in its own protocol, `reset` by a reset, `drop` not at all: the "
            "connection stays open, unread, for half a minute. At most 1,024 connections of a worker are dropped so at "
            "a time, others are reset. A destination that cannot be reached is always told natively."
        ),
    ] = "native"
    private_addresses: Annotated[
        Action, doc("Whether an allowed name may resolve to a private address that no rule names.")
    ] = "deny"
    no_name: Annotated[
        Action, doc("What becomes of TLS without a name. `allow` is not in this version: there is nowhere to go.")
    ] = "deny"


class ListFile(Section, frozen=True):
    """A file of plain names, one a line; millions of them are fine."""

    file: Annotated[str, doc("Where it is; a relative path starts at the policy file that names it.", "ads.txt")]


class Users(Section, frozen=True):
    """Who may log in."""

    file: (
        Annotated[
            str,
            doc(
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
        doc("DNS servers, address and port (53 where none is written). Empty: the system's servers.", ["10.0.0.10:53"]),
    ] = field(default_factory=list)
    hosts: Annotated[
        dict[str, str | list[str]],
        doc("Names with fixed addresses. They are dialled even if they are private.", {"db.partner.com": "10.20.0.7"}),
    ] = field(default_factory=dict)
    min_ttl: Annotated[Duration, doc("An answer is kept at least this long.")] = Duration(1_000)
    max_ttl: Annotated[Duration, doc("An answer is kept at most this long.")] = Duration(300_000)
    negative_ttl: Annotated[Duration, doc("That a name does not exist is kept at most this long.")] = Duration(5_000)
    stale: Annotated[Duration, doc("While the servers are down, an expired answer serves this much longer.")] = (
        Duration(300_000)
    )
    timeout: Annotated[Duration, doc("How long one attempt waits for a server.")] = Duration(2_000)
    attempts: Annotated[Count, doc("Attempts before a lookup has failed.")] = 2
    cache_names: Annotated[Count, doc("Names that the cache holds.")] = 10_000


class Timeouts(Section, frozen=True):
    """How long is too long."""

    first_bytes: Annotated[Duration, doc("From accept until the client has named its destination.")] = Duration(5_000)
    server_first: Annotated[
        Duration,
        doc(
            "How long a captured client may say nothing before its server is taken to speak first; the address then "
            "decides."
        ),
    ] = Duration(300)
    connect: Annotated[Duration, doc("From the decision until the destination has accepted.")] = Duration(5_000)
    idle: Annotated[Duration, doc("A connection without a byte in either direction is closed after this.")] = Duration(
        3_600_000
    )
    drain: Annotated[Duration, doc("At shutdown, connections may go on for this long.")] = Duration(300_000)
    grace: Annotated[Duration, doc("A connection that a changed policy denies may go on for this long.")] = Duration(0)


class Admin(Section, frozen=True):
    """Metrics and health over HTTP."""

    bind: Annotated[str, doc("Address and port, or `off`.", "127.0.0.1:9900", "off")] = "127.0.0.1:9900"


class Log(Section, frozen=True):
    """The decision log: one JSON line for each connection."""

    decisions: Annotated[
        str,
        doc(
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
        Annotated[str | list[str], doc("Addresses or networks of the callers; a list means any of them.", "10.0.0.0/8")]
        | UnsetType
    ) = UNSET
    user: Annotated[str | list[str], doc("Users who have logged in; see `users` and `login`.", "alice")] | UnsetType = (
        UNSET
    )
    spiffe: (
        Annotated[
            str | list[str],
            doc(
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
            doc("Values of the PROXY protocol TLV that the listener takes as a name.", "vpce-08d2bf15fac5001c9"),
        ]
        | UnsetType
    ) = UNSET


class Target(Section, frozen=True):
    """A name, and the addresses that it may resolve to."""

    name: Annotated[str, doc("A destination as in `to`.", "artifacts.corp")]
    addresses: Annotated[list[str], doc("Addresses and networks, private ones included.", ["10.2.0.0/16"])]


class Rule(Section, frozen=True):
    """Which sources may, or may not, reach which destinations."""

    name: Annotated[
        str, doc("What logs, metrics and denials quote: 1 to 64 of `a-z 0-9 . _ -`, unique.", "payments-saas")
    ]
    from_: (
        Annotated[
            From | list[From],
            doc("Who is calling; a list means any of them. Built in: anyone.", {"cidr": "10.0.0.0/8"}),
        ]
        | UnsetType
    ) = field(default=UNSET, name="from")
    evidence: (
        Annotated[
            Literal["address", "proxy_header", "login", "certificate"],
            doc(
                "How well the caller must be known, at the least: by address, by a trusted peer's PROXY header, by a "
                "login, by a client certificate. Built in: address."
            ),
        ]
        | UnsetType
    ) = UNSET
    to: (
        Annotated[
            str | Target | list[str | Target],
            doc(
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
        bool, doc("`true` says on purpose that `to` is as wide as it is: `*`, `*.com`, most of the Internet.")
    ] = False
    deny: Annotated[bool, doc("`true`: what matches is denied, whatever other rules allow.")] = False
    mode: Annotated[Mode, doc("As in `default`, for this rule. Built in: what `default` says.")] | UnsetType = UNSET
    message: (
        Annotated[Text, doc("What the denied client is told. Built in: what `default` says.", "Use workload identity.")]
        | UnsetType
    ) = UNSET
    on_deny: (
        Annotated[OnDeny, doc("As in `default`, for what this rule refuses. Built in: what `default` says.")]
        | UnsetType
    ) = UNSET
    owner: Annotated[Text, doc("Who answers for the rule.", "team-payments")] | UnsetType = UNSET
    why: Annotated[Text, doc("What the rule is for.", "PCI-1234 card processing")] | UnsetType = UNSET
    until: (
        Annotated[
            Until,
            doc(
                "From when on the rule no longer applies: a date (00:00 UTC of that day), or a timestamp with offset.",
                "2026-12-01",
                "2026-12-01T18:00:00Z",
            ),
        ]
        | UnsetType
    ) = UNSET
    connections: (
        Annotated[Connections, doc("How many connections the rule grants. Built in: no bound.")] | UnsetType
    ) = UNSET
    bandwidth: (
        Annotated[
            str | Bandwidth,
            doc(
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
            doc(
                "How many bytes the rule may move in a period. Built in: no bound.",
                {"up": "5 GB/day", "then": "slow 256 kbit/s"},
            ),
        ]
        | UnsetType
    ) = UNSET
    dial: (
        Annotated[
            str,
            doc(
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
        doc(
            "Whether the TLS name inside a CONNECT tunnel must be the name of the CONNECT. `any` also lets captured "
            "connections pass whose first bytes may name a host in a form that is not read, as HTTP/2 in the clear."
        ),
    ] = "agree"
    send_proxy: (
        Annotated[
            ProxyHeader,
            doc("The PROXY header that the destination is sent before all else. Built in: what the listener says."),
        ]
        | UnsetType
    ) = UNSET


class Config(Section, frozen=True):
    """A policy file."""

    egress: Annotated[Literal["v1"], doc("The version of the language; every file begins with it.")]
    listeners: Annotated[
        list[Listener],
        doc("Where clients connect. Built in: `tls` on 0.0.0.0:8443 and `connect` on 0.0.0.0:3128."),
    ] = field(default_factory=list)
    default: Annotated[Default, doc("What holds where no rule says otherwise.")] = field(default_factory=Default)
    groups: Annotated[
        dict[str, list[str]], doc("Destinations under a name of their own.", {"aws": ["*.amazonaws.com"]})
    ] = field(default_factory=dict)
    lists: Annotated[dict[str, ListFile], doc("Long lists of names under a name.", {"ads": {"file": "ads.txt"}})] = (
        field(default_factory=dict)
    )
    links: Annotated[dict[str, Link], doc("Pipes that rules share.", {"internet": {"bandwidth": "2 Gbit/s"}})] = field(
        default_factory=dict
    )
    budgets: Annotated[Budgets, doc("Where budgets are kept, and when their periods end.")] = field(
        default_factory=Budgets
    )
    cluster: Annotated[Cluster, doc("Which gateways share what has `scope: cluster`. Built in: none.")] = field(
        default_factory=Cluster
    )
    users: Annotated[Users, doc("Who may log in; see `login` of a listener.")] = field(default_factory=Users)
    resolver: Annotated[Resolver, doc("How names become addresses.")] = field(default_factory=Resolver)
    timeouts: Annotated[Timeouts, doc("How long is too long.")] = field(default_factory=Timeouts)
    admin: Annotated[Admin, doc("Metrics and health over HTTP.")] = field(default_factory=Admin)
    log: Annotated[Log, doc("The decision log.")] = field(default_factory=Log)
    workers: Annotated[
        Count | Literal["auto"], doc("Threads that move bytes; `auto`: the CPUs that the cgroup allows.")
    ] = "auto"
    low_latency: Annotated[bool, doc("`true` spins for a moment before it sleeps: a CPU for microseconds.")] = False
    max_flows: Annotated[
        Count | Literal["auto"], doc("Connections per worker; `auto`: what the limit of open files allows.")
    ] = "auto"
    rules: Annotated[list[Rule], doc("Who may reach what. Their order does not matter.")] = field(default_factory=list)


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
