"""Captured connections that name no host are judged by the name that the gateway's DNS listener told their source."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .conftest import Certificates
from .dig import dig
from .dns import Answer, DnsServer, Question, address
from .gateway import Gateway, running
from .net import GATEWAY, OUTSIDE, Net, network
from .servers import Handler, Server, echo

PORT = 15001
RAW_PORT, OTHER_PORT, TLS_PORT = 2222, 3333, 443
NAME, SHARED, TLS_NAME = "db.example", "shared.example", "allowed.example"
CLIENT = {4: "10.77.1.2", 6: "fd77:1::2"}
NEIGHBOUR = {4: "10.77.1.3", 6: "fd77:1::3"}
KIND = {4: "A", 6: "AAAA"}
#: Where all names of these tests are.
INSIDE = "addresses: [10.77.0.0/16, 'fd77::/16']"

pytestmark = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])


@pytest.fixture(scope="module", params=["redirect", "tproxy"])
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    with network() as made:
        made.gateway.nft(f"{request.param}.nft", listener=PORT)
        made.gateway.nft("dns.nft", listener=53)
        made.client.ip(f"address add {NEIGHBOUR[4]}/24 dev to1")
        made.client.ip(f"address add {NEIGHBOUR[6]}/64 dev to1 nodad")
        if request.param == "tproxy":
            for family in (4, 6):
                made.gateway.ip(f"-{family} rule add fwmark 1 lookup 100")
                made.gateway.ip(f"-{family} route add local default dev lo table 100")
        yield made


@pytest.fixture
def dns(net: Net) -> Iterator[DnsServer]:
    """The gateway's name server, on the gateway's host."""
    with net.gateway.inside(DnsServer) as server:
        yield server


@pytest.fixture
def start(net: Net, family: int, dns: DnsServer, tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    with ExitStack() as stack:

        def begin(rules: str, extra: str = "") -> Gateway:
            anywhere = "0.0.0.0" if family == 4 else "[::]"
            policy = f"""
listeners:
  - {{ name: capture, bind: "{anywhere}:{PORT}", accept: transparent }}
  - {{ name: names, bind: "{anywhere}:53", accept: dns }}
resolver: {{ servers: ["127.0.0.1:{dns.port}"], min_ttl: 100ms }}
{extra}
rules: [{rules}]
"""
            return stack.enter_context(running(tmp_path / "gateway", policy, prefix=net.gateway.prefix))

        yield begin


@pytest.fixture
def serve(net: Net, family: int) -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:

        def begin(handler: Handler, port: int, which: int = 0, tls: ssl.SSLContext | None = None) -> Server:
            host = OUTSIDE[family][which]
            made = net.outside.inside(lambda: Server(handler, host=host, port=port, tls=tls))
            return stack.enter_context(made)

        yield begin


def resolve(net: Net, family: int, name: str, source: str = "") -> list[str]:
    """What the client is told when it asks the gateway, from its first address unless told otherwise."""
    server = (GATEWAY[family], 53)
    return dig(server, "-b", source or CLIENT[family], name, KIND[family], prefix=net.client.prefix).answers


def connect(net: Net, to: str, port: int, source: str = "") -> socket.socket:
    bound = (source or CLIENT[6 if ":" in to else 4], 0)
    return net.client.inside(lambda: socket.create_connection((to, port), timeout=10, source_address=bound))


def echoes(client: socket.socket) -> None:
    client.sendall(b"ping")
    assert client.recv(4) == b"ping"


def is_reset(client: socket.socket) -> None:
    client.sendall(b"ping")
    with pytest.raises(ConnectionResetError):
        client.recv(4)


def rule(to: str, port: int, terms: str = "") -> str:
    return f"{{ name: r-{to.partition('.')[0]}, to: [{{ name: '{to}:{port}', {INSIDE} }}]{terms} }}"


def test_a_name_that_was_told_decides_and_its_address_is_dialled(
    net: Net, family: int, dns: DnsServer, start: Callable[..., Gateway], serve: Callable[..., Server]
) -> None:
    first, second = OUTSIDE[family]
    servers = [serve(echo, RAW_PORT, which) for which in (0, 1)]
    dns.names[NAME] = address(first, second)
    gateway = start(rule(NAME, RAW_PORT))
    # Before anyone has asked, it is an address that no rule speaks of.
    with connect(net, second, RAW_PORT) as client:
        is_reset(client)
    assert gateway.record(verdict="deny")["name"] == second
    assert sorted(resolve(net, family, NAME)) == sorted([first, second])
    with connect(net, second, RAW_PORT) as client:
        echoes(client)
    record = gateway.record(name=NAME)
    assert (record["verdict"], record["rule"], record["port"]) == ("allow", "r-db", RAW_PORT)
    assert record["flags"] == ["dns_name"]
    assert record["upstream"] == {"ip": second, "port": RAW_PORT}, "the address that was captured, no other"
    assert [server.accepted for server in servers] == [0, 1]


def test_what_one_source_was_told_is_not_another_s(
    net: Net, family: int, dns: DnsServer, start: Callable[..., Gateway], serve: Callable[..., Server]
) -> None:
    server = serve(echo, RAW_PORT)
    there = OUTSIDE[family][0]
    dns.names[NAME] = address(there)
    gateway = start(rule(NAME, RAW_PORT))
    assert resolve(net, family, NAME) == [there]
    with connect(net, there, RAW_PORT, NEIGHBOUR[family]) as client:
        is_reset(client)
    assert gateway.record(verdict="deny")["source"]["ip"] == NEIGHBOUR[family]
    assert resolve(net, family, NAME, NEIGHBOUR[family]) == [there]
    with connect(net, there, RAW_PORT, NEIGHBOUR[family]) as client:
        echoes(client)
    assert server.accepted == 1


def test_a_server_that_speaks_first_is_reached_by_name(
    net: Net, family: int, dns: DnsServer, start: Callable[..., Gateway], serve: Callable[..., Server]
) -> None:
    def banner(connection: socket.socket) -> None:
        connection.sendall(b"220 ready\r\n")
        echo(connection)

    serve(banner, RAW_PORT)
    dns.names[NAME] = address(OUTSIDE[family][0])
    gateway = start(rule(NAME, RAW_PORT), "timeouts: { server_first: 100ms }")
    assert resolve(net, family, NAME)
    with connect(net, OUTSIDE[family][0], RAW_PORT) as client:
        assert client.recv(11) == b"220 ready\r\n"
        echoes(client)
    assert gateway.record(name=NAME)["flags"] == ["dns_name"]


def test_the_name_is_judged_with_the_port(
    net: Net, family: int, dns: DnsServer, start: Callable[..., Gateway], serve: Callable[..., Server]
) -> None:
    server = serve(echo, OTHER_PORT)
    there = OUTSIDE[family][0]
    dns.names[NAME] = dns.names[SHARED] = address(there)
    no = f"{{ name: no, deny: true, to: ['{NAME}:{OTHER_PORT}'] }}"
    net_rule = f"{{ name: net, to: ['10.77.2.0/24:{OTHER_PORT}', '[fd77:2::/64]:{OTHER_PORT}'] }}"
    gateway = start(rule(NAME, RAW_PORT))
    assert resolve(net, family, NAME)
    with connect(net, there, OTHER_PORT) as client:
        is_reset(client)
    record = gateway.record(name=NAME)
    assert (record["verdict"], record["reason"], record["flags"]) == ("deny", "default_deny", ["dns_name"])
    # Of several names for one address, one that is allowed is meant, whichever was told last.
    base = gateway.policy_file.read_text()
    before = rule(NAME, RAW_PORT)
    gateway.reload(base.replace(before, f"{before}, {rule(SHARED, OTHER_PORT)}"))
    assert resolve(net, family, SHARED) and resolve(net, family, NAME)
    with connect(net, there, OTHER_PORT) as client:
        echoes(client)
    assert gateway.record(verdict="allow")["name"] == SHARED
    # Where no rule speaks of the name, one may speak of the address; a rule that denies the name stands.
    gateway.reload(base.replace(before, f"{before}, {net_rule}"))
    with connect(net, there, OTHER_PORT) as client:
        echoes(client)
    assert gateway.record(rule="net")["name"] == there
    gateway.reload(base.replace(before, f"{before}, {net_rule}, {no}"))
    with connect(net, there, OTHER_PORT) as client:
        is_reset(client)
    assert gateway.record(rule="no")["name"] == NAME
    assert server.accepted == 2


def test_a_policy_that_denies_the_name_closes_its_connections(
    net: Net, family: int, dns: DnsServer, start: Callable[..., Gateway], serve: Callable[..., Server]
) -> None:
    serve(echo, RAW_PORT)
    there = OUTSIDE[family][0]
    dns.names[NAME] = address(there)
    gateway = start(rule(NAME, RAW_PORT))
    assert resolve(net, family, NAME)
    with connect(net, there, RAW_PORT) as client:
        echoes(client)
        gateway.reload(gateway.policy_file.read_text() + "\n# the same\n")
        echoes(client)
        text = gateway.policy_file.read_text()
        gateway.reload(text.replace(rule(NAME, RAW_PORT), f"{{ name: no, deny: true, to: [{NAME}] }}"))
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for _ in range(100):
                client.sendall(b"x")
                if not client.recv(1):
                    raise BrokenPipeError
                time.sleep(0.05)
    assert gateway.record(end="policy_changed")["name"] == NAME


def test_tls_to_the_captured_address_where_the_rule_wants_it(
    net: Net,
    family: int,
    dns: DnsServer,
    start: Callable[..., Gateway],
    serve: Callable[..., Server],
    certificates: Certificates,
) -> None:
    servers = [serve(echo, TLS_PORT, which, certificates.server) for which in (0, 1)]
    first, second = OUTSIDE[family]
    dns.names[TLS_NAME] = address(first, second)
    gateway = start(rule(TLS_NAME, TLS_PORT, ", dial: original"))

    def visit(to: str) -> None:
        plain = connect(net, to, TLS_PORT)
        with plain, certificates.client.wrap_socket(plain, server_hostname=TLS_NAME) as tls:
            echoes(tls)

    visit(first)
    visit(second)
    assert [server.accepted for server in servers] == [1, 1]
    # The name moves away from the second address; nobody was told that it had been there.
    dns.names[TLS_NAME] = address(first)
    text = gateway.policy_file.read_text()
    text = text.replace("min_ttl: 100ms", "min_ttl: 101ms")
    gateway.reload(text)
    visit(first)
    with pytest.raises(ssl.SSLError, match=r"(?i)access.denied"):
        visit(second)
    record = gateway.record(reason="name_mismatch")
    assert (record["name"], record["other_name"]) == (TLS_NAME, second)
    assert [server.accepted for server in servers] == [2, 1]
    # Under audit it is led to the name.
    gateway.reload(
        text.replace("min_ttl: 100ms", "min_ttl: 101ms").replace("dial: original", "dial: original, mode: audit")
    )
    visit(second)
    assert gateway.record(verdict="would_deny")["reason"] == "name_mismatch"
    assert [server.accepted for server in servers] == [3, 1]


def test_an_address_that_was_told_before_is_still_one_of_the_name_s(
    net: Net,
    family: int,
    dns: DnsServer,
    start: Callable[..., Gateway],
    serve: Callable[..., Server],
    certificates: Certificates,
) -> None:
    first, second = OUTSIDE[family]
    servers = [serve(echo, TLS_PORT, which, certificates.server) for which in (0, 1)]
    turn = iter([first] * 2)

    def rotate(question: Question) -> Answer:
        return Answer((next(turn, second) if question.kind == KIND[family] else second,), ttl=0)

    dns.names[TLS_NAME] = rotate
    start(rule(TLS_NAME, TLS_PORT, ", dial: original"))
    assert resolve(net, family, TLS_NAME) == [first]
    time.sleep(0.2)
    assert resolve(net, family, TLS_NAME, NEIGHBOUR[family]) == [first]
    time.sleep(0.2)
    # By now our own answer is another one.
    plain = connect(net, first, TLS_PORT)
    with plain, certificates.client.wrap_socket(plain, server_hostname=TLS_NAME) as tls:
        echoes(tls)
    assert [server.accepted for server in servers] == [1, 0]


def test_questions_for_other_name_servers_are_answered_here(
    net: Net,
    family: int,
    dns: DnsServer,
    start: Callable[..., Gateway],
    serve: Callable[..., Server],
    request: pytest.FixtureRequest,
) -> None:
    there = OUTSIDE[family][0]
    serve(echo, RAW_PORT)
    dns.names[NAME] = address(there)
    start(rule(NAME, RAW_PORT))
    elsewhere = ({4: "192.0.2.53", 6: "2001:db8::53"}[family], 53)
    tproxy = "tproxy" in request.node.callspec.id
    for how in ("+notcp",) if tproxy else ("+notcp", "+tcp"):
        reply = dig(elsewhere, "-b", CLIENT[family], how, NAME, KIND[family], prefix=net.client.prefix)
        assert reply.answers == [there], reply.text
    assert dig(elsewhere, "-b", CLIENT[family], "other.example", prefix=net.client.prefix).status == "REFUSED"
    with connect(net, there, RAW_PORT) as client:
        echoes(client)
