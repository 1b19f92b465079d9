"""Captured connections, by REDIRECT and by TPROXY, over IPv4 and IPv6: the name in the hello decides, else the
address."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .conftest import Certificates
from .gateway import Gateway, running
from .net import GATEWAY, OUTSIDE, Net, capture, network
from .servers import Handler, Server, echo

PORT = 15001
TLS_PORT, RAW_PORT = 443, 2222
ALLOWED, DENIED = "allowed.example", "denied.example"

pytestmark = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])


@pytest.fixture(scope="module", params=["redirect", "tproxy"])
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    with network() as made:
        capture(made, request.param, PORT)
        yield made


@pytest.fixture
def start(net: Net, family: int, tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """A gateway between client and outside; `allowed.example` is the first address of the outside."""
    with ExitStack() as stack:

        def begin(rules: str, extra: str = "") -> Gateway:
            bind = "0.0.0.0" if family == 4 else "[::]"
            policy = f"""
listeners: [{{ name: capture, bind: "{bind}:{PORT}", accept: transparent }}]
resolver: {{ hosts: {{ {ALLOWED}: "{OUTSIDE[family][0]}" }} }}
{extra}
rules: [{rules}]
"""
            return stack.enter_context(running(tmp_path / "gateway", policy, prefix=net.gateway.prefix))

        yield begin


@pytest.fixture
def serve(net: Net, family: int) -> Iterator[Callable[..., Server]]:
    """A server on one of the outside's addresses."""
    with ExitStack() as stack:

        def begin(handler: Handler, port: int, which: int = 0, tls: ssl.SSLContext | None = None) -> Server:
            host = OUTSIDE[family][which]
            made = net.outside.inside(lambda: Server(handler, host=host, port=port, tls=tls))
            return stack.enter_context(made)

        yield begin


def connect(net: Net, address: str, port: int) -> socket.socket:
    return net.client.inside(lambda: socket.create_connection((address, port), timeout=10))


def echoes(client: socket.socket) -> None:
    client.sendall(b"ping")
    assert client.recv(4) == b"ping"


def test_the_name_in_the_hello_decides_and_is_dialled(
    net: Net, family: int, start: Callable[..., Gateway], serve: Callable[..., Server], certificates: Certificates
) -> None:
    named, other = (serve(echo, TLS_PORT, which, certificates.server) for which in (0, 1))
    gateway = start(f"{{ name: r, to: [{ALLOWED}] }}")
    # The second goes to another host's address under the first one's name: it is led to the host that it names.
    for which in (0, 1):
        with (
            connect(net, OUTSIDE[family][which], TLS_PORT) as plain,
            certificates.client.wrap_socket(plain, server_hostname=ALLOWED) as tls,
        ):
            echoes(tls)
    assert (named.accepted, other.accepted) == (2, 0)
    record = gateway.record(name=ALLOWED)
    assert (record["accept"], record["verdict"], record["port"]) == ("transparent", "allow", TLS_PORT)
    assert record["source"]["ip"] == {4: "10.77.1.2", 6: "fd77:1::2"}[family], "the client's own address"


def test_a_denied_name_is_told_by_an_alert(
    net: Net, family: int, start: Callable[..., Gateway], serve: Callable[..., Server], certificates: Certificates
) -> None:
    server = serve(echo, TLS_PORT, 0, certificates.server)
    gateway = start(f"{{ name: r, to: [{ALLOWED}] }}")
    with (
        connect(net, OUTSIDE[family][0], TLS_PORT) as plain,
        pytest.raises(ssl.SSLError, match=r"(?i)access.denied"),
    ):
        certificates.client.wrap_socket(plain, server_hostname=DENIED)
    assert gateway.record(name=DENIED)["reason"] == "default_deny"
    assert server.accepted == 0


def test_without_a_name_the_address_decides(
    net: Net, family: int, start: Callable[..., Gateway], serve: Callable[..., Server]
) -> None:
    serve(echo, RAW_PORT, 0)
    closed = serve(echo, RAW_PORT, 1)
    address = OUTSIDE[family][0]
    bracketed = f"[{address}]" if family == 6 else address
    gateway = start(f'{{ name: r, to: ["{bracketed}:{RAW_PORT}"] }}')
    with connect(net, address, RAW_PORT) as client:
        echoes(client)
    record = gateway.record(verdict="allow")
    assert (record["name"], record["port"], record["rule"]) == (address, RAW_PORT, "r")
    with connect(net, OUTSIDE[family][1], RAW_PORT) as client:
        client.sendall(b"ping")
        with pytest.raises(ConnectionResetError):
            client.recv(4)
    assert gateway.record(verdict="deny")["name"] == OUTSIDE[family][1]
    assert closed.accepted == 0


def test_a_server_that_speaks_first(
    net: Net,
    family: int,
    start: Callable[..., Gateway],
    serve: Callable[..., Server],
    certificates: Certificates,
) -> None:
    def banner(connection: socket.socket) -> None:
        connection.sendall(b"220 ready\r\n")
        echo(connection)

    serve(banner, RAW_PORT)
    address = OUTSIDE[family][0]
    bracketed = f"[{address}]" if family == 6 else address
    gateway = start(f'{{ name: r, to: ["{bracketed}:{RAW_PORT}"] }}', "timeouts: { server_first: 100ms }")
    with connect(net, address, RAW_PORT) as client:
        assert client.recv(11) == b"220 ready\r\n"
        echoes(client)
    gateway.record(verdict="allow", end="closed")
    # Whoever is slow to say a name is still held to it.
    with connect(net, address, RAW_PORT) as plain:
        assert plain.recv(11) == b"220 ready\r\n"
        with pytest.raises(ssl.SSLError, match=r"(?i)access.denied"):
            certificates.client.wrap_socket(plain, server_hostname=DENIED)
    assert gateway.record(reason="name_mismatch")["other_name"] == DENIED


def test_by_default_nothing_passes_without_a_name(
    net: Net, family: int, start: Callable[..., Gateway], serve: Callable[..., Server]
) -> None:
    server = serve(echo, RAW_PORT)
    gateway = start("", "default: { action: allow, private_addresses: allow }")
    with connect(net, OUTSIDE[family][0], RAW_PORT) as client:
        client.sendall(b"ping")
        with pytest.raises(ConnectionResetError):
            client.recv(4)
    gateway.record(reason="no_name")
    assert server.accepted == 0


def test_what_nobody_captured_goes_nowhere(net: Net, family: int, start: Callable[..., Gateway]) -> None:
    gateway = start("", "default: { action: allow, private_addresses: allow }")
    address = GATEWAY[family]
    bracketed = f"[{address}]" if family == 6 else address
    gateway.reload(
        gateway.policy_file.read_text().replace("rules: []", f'rules: [{{ name: r, to: ["{bracketed}:{PORT}"] }}]')
    )
    with connect(net, address, PORT) as client:
        client.sendall(b"ping")
        with pytest.raises(ConnectionResetError):
            client.recv(4)
    gateway.record(reason="own_address")


def metrics(gateway: Gateway) -> str:
    return gateway.egress("metrics").stdout


def test_quic_is_refused_at_once_and_recorded_with_its_source(
    net: Net, family: int, start: Callable[..., Gateway], request: pytest.FixtureRequest
) -> None:
    address = OUTSIDE[family][0]
    gateway = start(f"{{ name: r, to: [{ALLOWED}] }}")
    kind = socket.AF_INET if family == 4 else socket.AF_INET6

    def datagrams() -> socket.socket:
        client = socket.socket(kind, socket.SOCK_DGRAM)
        client.settimeout(10)
        client.connect((address, TLS_PORT))
        return client

    with net.client.inside(datagrams) as client:
        for _ in range(3):
            client.send(b"\xc0" + bytes(1199))
            with pytest.raises(ConnectionRefusedError):
                client.recv(1)
    record = gateway.record(reason="not_carried")
    assert (record["verdict"], record["source"]["ip"]) == ("deny", {4: "10.77.1.2", 6: "fd77:1::2"}[family])
    assert record["bytes_up"] == 1200
    captured_by = request.node.callspec.params["net"]
    assert (record["name"], record["port"]) == ((address, TLS_PORT) if captured_by == "tproxy" else (None, 0))
    assert [one["reason"] for one in gateway.records()] == ["not_carried"], "repetitions have no record of their own"
    assert sum(map(int, re.findall(r"^egress_datagrams_refused_total{.*} (\d+)$", metrics(gateway), re.MULTILINE))) == 3
