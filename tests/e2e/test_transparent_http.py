"""Captured plain HTTP, by REDIRECT and by TPROXY, over IPv4 and IPv6: each request is judged by the host that it names,
and its host, port and address agree."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .gateway import Gateway, running, wait_for
from .net import OUTSIDE, Net, network
from .origin import Origin
from .plain_http import Client
from .servers import Server, echo
from .test_real_clients import tool

CAPTURE, HTTP, ALT = 15001, 80, 8080
ALLOWED, DENIED = "allowed.example", "denied.example"
Start = Callable[..., Gateway]

pytestmark = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])


@pytest.fixture(scope="module", params=["redirect", "tproxy"])
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    with network() as made:
        made.gateway.nft(f"{request.param}.nft", listener=CAPTURE)
        if request.param == "tproxy":
            for family in (4, 6):
                made.gateway.ip(f"-{family} rule add fwmark 1 lookup 100")
                made.gateway.ip(f"-{family} route add local default dev lo table 100")
        yield made


@pytest.fixture
def start(net: Net, family: int, tmp_path: Path) -> Iterator[Start]:
    """A gateway between client and outside; both names are the first address of the outside."""
    with ExitStack() as stack:

        def begin(rules: str, extra: str = "") -> Gateway:
            bind, there = "0.0.0.0" if family == 4 else "[::]", OUTSIDE[family][0]
            policy = f"""
listeners: [{{ name: capture, bind: "{bind}:{CAPTURE}", accept: transparent }}]
resolver: {{ hosts: {{ {ALLOWED}: "{there}", {DENIED}: "{there}" }} }}
{extra}
rules: [{rules}]
"""
            return stack.enter_context(running(tmp_path / "gateway", policy, prefix=net.gateway.prefix))

        yield begin


@pytest.fixture
def serve(net: Net, family: int) -> Iterator[Callable[..., Origin]]:
    """An origin on one of the outside's addresses."""
    with ExitStack() as stack:

        def begin(port: int = HTTP, which: int = 0) -> Origin:
            origin, host = Origin(), OUTSIDE[family][which]
            stack.enter_context(net.outside.inside(lambda: Server(origin, host=host, port=port)))
            return origin

        yield begin


def connect(net: Net, family: int, port: int = HTTP, which: int = 0) -> Client:
    address = (OUTSIDE[family][which], port)
    return Client(net.client.inside(lambda: socket.create_connection(address, timeout=10)))


def get(host: str, path: str = "/") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def literal(family: int, which: int = 0) -> str:
    address = OUTSIDE[family][which]
    return f"[{address}]" if family == 6 else address


def test_each_request_of_a_captured_connection_is_judged_by_its_host(
    net: Net, family: int, start: Start, serve: Callable[..., Origin]
) -> None:
    origin, other = serve(), serve(which=1)
    gateway = start(f'{{ name: r, to: ["{ALLOWED}:{HTTP}"] }}')
    # Captured on its way to another host's address, a request is led to the host that it names.
    for which in (0, 1):
        with connect(net, family, which=which) as client:
            for path, host, status in [("/1", ALLOWED, 200), ("/2", DENIED, 403), ("/3", ALLOWED, 200)]:
                client.send(get(host, path))
                got = client.answer()
                assert got.status == status
                assert status == 403 or got.body == path.encode()
    assert ([seen.path for seen in origin.seen], other.seen) == (["/1", "/3"] * 2, [])
    assert (origin.connections, other.connections) == (2, 0)
    records = wait_for("six records", lambda: len(gateway.records()) >= 6 and gateway.records())
    judged = [(one["accept"], one["name"], one["port"], one["verdict"]) for one in records[:3]]
    assert judged == [
        ("transparent", ALLOWED, HTTP, "allow"),
        ("transparent", DENIED, HTTP, "deny"),
        ("transparent", ALLOWED, HTTP, "allow"),
    ]


def test_a_client_without_any_setting_reads_the_refusal(
    net: Net, family: int, start: Start, serve: Callable[..., Origin]
) -> None:
    origin = serve()
    start(f'{{ name: r, to: ["{ALLOWED}:{HTTP}"] }}')
    for name, expected in [(ALLOWED, b"/page"), (DENIED, b"egress policy")]:
        curl = [tool("curl", "curl"), "-sS", "--max-time", "20", "--resolve", f"{name}:80:{literal(family)}"]
        page = subprocess.run([*net.client.prefix, *curl, f"http://{name}/page"], capture_output=True, check=True)
        assert expected in page.stdout
    assert [seen.path for seen in origin.seen] == ["/page"]


@pytest.mark.parametrize(
    ("port", "request_head"),
    [
        (HTTP, b"GET / HTTP/1.1\r\nHost: allowed.example:8080\r\n\r\n"),
        (ALT, b"GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n"),
        (HTTP, b"GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n"),
        (HTTP, b"GET / HTTP/1.1\r\nHost: [2001:db8::1]\r\n\r\n"),
        (HTTP, b"GET http://allowed.example/ HTTP/1.1\r\nHost: denied.example\r\n\r\n"),
        (HTTP, b"GET http://denied.example/ HTTP/1.1\r\nHost: allowed.example\r\n\r\n"),
        (HTTP, b"GET http://allowed.example:8080/ HTTP/1.1\r\nHost: allowed.example:8080\r\n\r\n"),
    ],
)
def test_what_names_two_destinations_goes_to_neither(
    net: Net, family: int, start: Start, serve: Callable[..., Origin], port: int, request_head: bytes
) -> None:
    origins = [serve(HTTP), serve(ALT)]
    gateway = start('{ name: r, to: ["*:80", "*:8080", "0.0.0.0/0:*", "[::/0]:*"], anywhere: true }')
    with connect(net, family, port) as client:
        client.send(get(f"{ALLOWED}:{port}"))
        assert client.answer().status == 200
        received = [origin.received for origin in origins]
        client.send(request_head)
        got = client.answer()
        assert (got.status, got.fields["X-Egress-Reason"]) == (403, "name_mismatch")
    assert gateway.record(verdict="deny")["other_name"]
    assert [origin.received for origin in origins] == received


def test_an_address_for_a_host_is_judged_as_one(
    net: Net, family: int, start: Start, serve: Callable[..., Origin]
) -> None:
    serve()
    gateway = start(f'{{ name: r, to: ["{literal(family)}:{HTTP}"] }}')
    with connect(net, family) as client:
        client.send(get(literal(family)))
        assert client.answer().status == 200
        client.send(get(ALLOWED))
        assert client.answer().status == 403
    assert gateway.record(verdict="allow")["name"] == OUTSIDE[family][0]


def test_dial_original_keeps_the_address_only_if_it_is_one_of_the_names(
    net: Net, family: int, start: Start, serve: Callable[..., Origin]
) -> None:
    origins = [serve(), serve(which=1)]
    gateway = start(f'{{ name: r, to: ["{ALLOWED}:{HTTP}"], dial: original }}')
    for which, status in [(0, 200), (1, 403)]:
        with connect(net, family, which=which) as client:
            for _ in range(2):
                client.send(get(ALLOWED))
                assert client.answer().status == status
    assert gateway.record(verdict="deny")["other_name"] == OUTSIDE[family][1]
    assert [origin.connections for origin in origins] == [1, 0]


def test_what_an_audit_leads_elsewhere_is_found_out_each_time(
    net: Net, family: int, start: Start, serve: Callable[..., Origin]
) -> None:
    origins = [serve(), serve(which=1)]
    gateway = start(f'{{ name: r, to: ["{ALLOWED}:{HTTP}"], dial: original, mode: audit }}')
    with connect(net, family, which=1) as client:
        for _ in range(2):
            client.send(get(ALLOWED))
            assert client.answer().status == 200
    records = wait_for("two records", lambda: len(gateway.records()) >= 2 and gateway.records())
    assert [(one["verdict"], one["reason"]) for one in records] == [("would_deny", "name_mismatch")] * 2
    assert [origin.connections for origin in origins] == [2, 0]


def test_what_only_begins_like_http_is_judged_by_its_address(net: Net, family: int, start: Start) -> None:
    gateway = start(f'{{ name: r, to: ["{literal(family)}:2222"] }}')
    address = (OUTSIDE[family][0], 2222)
    with net.outside.inside(lambda: Server(echo, host=address[0], port=address[1])):
        for words in (b"EHLO mail.example\r\n", b"SET a \0\xff\r\n", b"GET a\n", b"GET /\r\n"):
            with net.client.inside(lambda: socket.create_connection(address, timeout=10)) as client:
                client.sendall(words)
                assert client.recv(100) == words
    assert {record["name"] for record in gateway.records()} <= {address[0]}


def test_who_has_spoken_http_does_not_turn_to_something_else(
    net: Net, family: int, start: Start, serve: Callable[..., Origin]
) -> None:
    """By its address alone the connection would be allowed."""
    origin = serve()
    gateway = start(f'{{ name: r, to: ["{ALLOWED}:{HTTP}", "{literal(family)}:{HTTP}"] }}')
    for words in (b"EHLO mail.example\r\n", b"\x16\x03\x01\0\x01\x01", b"CONNECT x:1 HTTP/1.1\r\n\r\n"):
        with connect(net, family) as client:
            client.send(get(ALLOWED))
            assert client.answer().status == 200
            received = origin.received
            client.send(words)
            assert client.answer().status in (400, 405)
            assert client.ended()
        assert origin.received == received
    gateway.record(reason="not_accepted")
