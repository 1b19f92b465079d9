"""Our gateway: everything switched on, and 10,000 rules beside those of the four names."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from peers.peer import NAMES, Peer, Running, free_port, proxy, targets

#: Rules beside those of the four names: the gateway is measured with a policy as users have it.
OTHER_RULES = 10_000

#: How the listeners of the other ways in are set.
WAYS = {
    "redirect": "accept: transparent",
    "proxy-header": "accept: tls, proxy_protocol: required, proxy_trusted: [127.0.0.0/8]",
    "socks5": "accept: socks5",
    "http": "accept: http",
}


@dataclass(frozen=True)
class Options:
    """What some rows set otherwise."""

    workers: int = 1
    low_latency: bool = False
    decisions: bool = True
    rules: int = OTHER_RULES
    #: Names of one more rule, in a list of their own.
    names: int = 0
    #: Listeners for every way in.
    ways: bool = False
    #: More of one of the four rules, by its name.
    terms: dict[str, str] = field(default_factory=dict)
    #: More of each of the other rules.
    others: str = ""
    #: Connections that it may have; what the limit of open files allows, with room to spare, unless said.
    flows: int = 0
    #: Bandwidth of a link.
    link: str = ""
    #: Reason of the four rules: to change the rules of live flows without changing what they allow.
    why: str = "bench"


@dataclass(frozen=True)
class Place:
    """Files and ports of one gateway."""

    folder: Path
    tls: int
    connect: int
    #: Ports of the other ways in, by the way.
    ways: dict[str, int] = field(default_factory=dict)

    @property
    def policy(self) -> Path:
        return self.folder / "policy.yaml"

    @property
    def control(self) -> Path:
        return self.folder / "s"


def policy(place: Place, backends: list[int], options: Options, last: str = "") -> str:
    """The policy's text; `last` is put at its end."""
    log = json.dumps(str(place.folder / "decisions.jsonl")) if options.decisions else "off"
    lines = [
        "egress: v1",
        f"workers: {options.workers}",
        f"low_latency: {json.dumps(options.low_latency)}",
        "listeners:",
        f"  - {{ name: tls, bind: '0.0.0.0:{place.tls}', accept: tls }}",
        f"  - {{ name: proxy, bind: '0.0.0.0:{place.connect}', accept: connect }}",
        *(f"  - {{ name: {way}, bind: '0.0.0.0:{port}', {WAYS[way]} }}" for way, port in place.ways.items()),
        f"log: {{ decisions: {log} }}",
        "admin: { bind: '127.0.0.1:0' }",
    ]
    if options.flows:
        lines.append(f"max_flows: {options.flows}")
    if options.link:
        lines.append(f"links: {{ internet: {{ bandwidth: {options.link} }} }}")
    if any("budget" in terms for terms in options.terms.values()):
        lines.append("budgets: { store: ./budgets }")
    if options.names:
        lines.append("lists: { many: { file: names.txt } }")
    lines.append("rules:")
    for number, (name, port) in enumerate(zip(NAMES, backends, strict=True)):
        to = f"to: ['{name}:443', '{name}:80']"
        terms = options.terms.get(f"bench-{number}", "")
        dial = f"dial: '127.0.0.1:{port}'" + f", {terms}" * bool(terms)
        lines.append(f"  - {{ name: bench-{number}, {to}, {dial}, why: {options.why} }}")
    if options.names:
        lines.append("  - { name: many, to: [many] }")
    others = f", {options.others}" * bool(options.others)
    lines += (
        f"  - {{ name: other-{number}, to: ['api{number}.example.com', '*.svc{number}.example.org']{others} }}"
        for number in range(options.rules)
    )
    return "\n".join(lines) + "\n" + last


def write(place: Place, text: str) -> None:
    """Replaces the policy as an editor does: whole, by rename."""
    fresh = place.policy.with_suffix(".tmp")
    fresh.write_text(text)
    fresh.replace(place.policy)


def reload(place: Place) -> None:
    """Returns when the outcome is known."""
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(place.control))
        control.sendall(b"POST /reload HTTP/1.1\r\nHost: local\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := control.recv(65536):
            answer += data
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the reload was refused: {answer.decode(errors='replace')}")


def write_names(file: Path, count: int) -> None:
    with file.open("w") as names:
        names.writelines(f"host{number}.zone{number % 9973}.example.com\n" for number in range(count))


@contextlib.contextmanager
def egress(
    folder: Path, backends: list[int], cpus: str, options: Options | None = None
) -> Iterator[tuple[Running, Place]]:
    """Records, metrics, screening and decision log on unless `options` say otherwise."""
    options = options or Options()
    place = Place(folder, free_port(), free_port(), {way: free_port() for way in WAYS} if options.ways else {})
    if options.names:
        write_names(folder / "names.txt", options.names)
    write(place, policy(place, backends, options))
    command = [sys.executable, "-m", "egress_gateway.cli", "run", "-c", str(place.policy)]
    command += ["--control", str(place.control)]
    with proxy(command, cpus, folder, place.tls, place.connect) as started:
        ways = {way: targets(port) for way, port in (("connect", place.connect), *place.ways.items())}
        yield Running(targets(place.tls), started.pid, ways), place


@contextlib.contextmanager
def start(folder: Path, backends: list[int], cpus: str) -> Iterator[Running]:
    with egress(folder, backends, cpus) as (running, _place):
        yield running


EGRESS = Peer(
    "egress", start, (sys.executable, "-c", "from importlib import metadata as m; print(m.version('egress-gateway'))")
)


def variant(name: str, **options: object) -> Peer:
    """The gateway, set otherwise."""

    @contextlib.contextmanager
    def start(folder: Path, backends: list[int], cpus: str) -> Iterator[Running]:
        with egress(folder, backends, cpus, replace(Options(), **options)) as (running, _place):  # type: ignore[arg-type]
            yield running

    return Peer(name, start, EGRESS.version_command)
