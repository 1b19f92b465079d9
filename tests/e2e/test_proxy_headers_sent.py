"""Destinations that ask for it are sent a PROXY header before the client's first byte, and told who the client is."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from . import hellos as h
from . import proxy_headers as pp
from .gateway import Gateway, wait_for
from .postgres import SSL_REQUEST
from .servers import Server
from .test_name_agreement import ACCESS_DENIED, ESTABLISHED, Recorder, connect_to, exactly, rest
from .test_proxy_headers_read import GOOD, HELLO, flights

Start = Callable[..., Gateway]
Serve = Callable[..., Server]


class Reader:
    """Reads a header, then gives back what comes."""

    def __init__(self) -> None:
        self.header: pp.Seen | None = None
        self.first = b""
        self.came = threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        data = self.first = connection.recv(65536)
        while (header := pp.seen(data)) is None:
            if not (more := connection.recv(65536)):
                return
            data += more
        self.header = header
        self.came.set()
        connection.sendall(header.rest)
        while data := connection.recv(65536):
            connection.sendall(data)

    def wait(self) -> pp.Seen:
        assert self.came.wait(10), self.first
        assert self.header is not None
        return self.header


def policy(port: int, accept: str = "tls", listener: str = "send_proxy: v2", rule: str = "") -> str:
    fixed = {"tls": f"port: {port}", "tcp": f'to: "{GOOD}:{port}"'}.get(accept, "")
    return f"""
listeners:
  - {{ name: way-in, bind: "127.0.0.1:0", accept: {accept}, {fixed + ", " if fixed else ""}{listener} }}
resolver: {{ hosts: {{ {GOOD}: 127.0.0.1 }} }}
rules: [{{ name: r, to: ["{GOOD}:{port}", "127.0.0.1:{port}"]{", " + rule if rule else ""} }}]
"""


def connect(gateway: Gateway) -> socket.socket:
    return socket.create_connection(gateway.address("way-in"), timeout=10)


@pytest.mark.parametrize("way", flights(0))
@pytest.mark.parametrize("version", [1, 2])
def test_every_listener_introduces_its_clients(start: Start, serve: Serve, way: str, version: int) -> None:
    reader = Reader()
    upstream = serve(reader)
    accept, asks, answer, payload = flights(upstream.port)[way]
    gateway = start(policy(upstream.port, accept, f"send_proxy: v{version}"))
    with connect(gateway) as client:
        client.sendall(asks + payload)
        assert exactly(client, len(answer) + len(payload)) == answer + payload
        header = reader.wait()
        assert (header.version, header.source, header.destination) == (
            version,
            client.getsockname(),
            client.getpeername(),
        )
    assert header.tlvs == ({pp.AUTHORITY: GOOD.encode()} if version == 2 else {})
    record = gateway.record(end="closed")
    assert (record["bytes_up"], record["bytes_down"], record["peer"]) == (len(payload), len(payload), None)


@pytest.mark.parametrize("way", ["tls", "connect", "socks5"])
def test_what_the_client_has_said_already_comes_in_the_same_segment(start: Start, serve: Serve, way: str) -> None:
    reader = Reader()
    upstream = serve(reader)
    accept, asks, answer, _ = flights(upstream.port)[way]
    gateway = start(policy(upstream.port, accept))
    with connect(gateway) as client:
        client.sendall(asks + HELLO)
        assert exactly(client, len(answer) + len(HELLO)) == answer + HELLO
    assert reader.first.startswith(pp.SIGNATURE)
    assert reader.first.endswith(HELLO)


@pytest.mark.parametrize("way", ["connect", "socks5"])
def test_a_request_for_encryption_does_not_overtake_the_header(start: Start, serve: Serve, way: str) -> None:
    reader = Reader()
    upstream = serve(reader)
    accept, asks, answer, _ = flights(upstream.port)[way]
    gateway = start(policy(upstream.port, accept))
    with connect(gateway) as client:
        client.sendall(asks + SSL_REQUEST)
        assert exactly(client, len(answer) + len(SSL_REQUEST)) == answer + SSL_REQUEST
    assert reader.first.startswith(pp.SIGNATURE)


def test_a_rule_says_otherwise_than_its_listener(start: Start, serve: Serve) -> None:
    for listener, rule, version in [("v2", "v1", 1), ("v1", "v2", 2), ("off", "v1", 1), ("v2", "off", 0)]:
        reader, recorder = Reader(), Recorder()
        upstream = serve(reader if version else recorder)
        keys = "" if listener == "off" else f"send_proxy: {listener}"
        gateway = start(policy(upstream.port, listener=keys, rule=f"send_proxy: {rule}"))
        with connect(gateway) as client:
            client.sendall(HELLO)
            if version:
                assert reader.wait().version == version
                assert exactly(client, len(HELLO)) == HELLO
        gateway.record(rule="r")
        if not version:
            assert recorder.ended.wait(5)
            assert recorder.got == HELLO


def test_who_was_introduced_is_introduced_again(start: Start, serve: Serve) -> None:
    """Another source and destination than those of any socket here, and no TLV of the proxy before."""
    for front, version in ((pp.v1(), 2), (pp.v2(tlvs=pp.tlv(pp.CUSTOM, b"me")), 1), (pp.v2(), 2)):
        reader = Reader()
        upstream = serve(reader)
        keys = f"proxy_protocol: required, proxy_trusted: 127.0.0.1, send_proxy: v{version}"
        gateway = start(policy(upstream.port, "tcp", keys))
        with connect(gateway) as client:
            client.sendall(front + b"ping")
            assert exactly(client, 4) == b"ping"
        header = reader.wait()
        assert (header.source, header.destination) == (pp.CLIENT, pp.FRONT)
        assert header.tlvs == ({pp.AUTHORITY: GOOD.encode()} if version == 2 else {})
        assert reader.first.endswith(b"ping"), "in one segment"


def test_an_address_is_no_authority(start: Start, serve: Serve) -> None:
    reader = Reader()
    upstream = serve(reader)
    gateway = start(policy(upstream.port, "connect"))
    with connect(gateway) as client:
        client.sendall(connect_to(f"127.0.0.1:{upstream.port}") + b"ping")
        assert exactly(client, len(ESTABLISHED) + 4) == ESTABLISHED + b"ping"
    assert reader.wait().tlvs == {}


@pytest.mark.parametrize("accept", ["connect", "tcp"])
def test_a_server_that_speaks_first_is_not_kept_waiting(start: Start, serve: Serve, accept: str) -> None:
    def banner(connection: socket.socket) -> None:
        data = b""
        while pp.seen(data) is None:
            data += connection.recv(1)
        connection.sendall(b"220 hello\r\n")

    upstream = serve(banner)
    gateway = start(policy(upstream.port, accept, "send_proxy: v1"))
    with connect(gateway) as client:
        if accept == "connect":
            client.sendall(connect_to(f"{GOOD}:{upstream.port}"))
            assert exactly(client, len(ESTABLISHED)) == ESTABLISHED
        assert exactly(client, 11) == b"220 hello\r\n"


def test_of_a_hello_that_is_refused_the_destination_hears_nothing(start: Start, serve: Serve) -> None:
    """The header is the gateway's own word, and says the name that was judged. Where the lie comes with the CONNECT,
    nothing is dialled."""
    lie = h.hello(h.sni(b"denied.example"))
    for at_once in (True, False):
        recorder = Recorder()
        upstream = serve(recorder)
        gateway = start(policy(upstream.port, "connect"))
        with connect(gateway) as client:
            client.sendall(connect_to(f"{GOOD}:{upstream.port}") + (lie if at_once else b""))
            if not at_once:
                assert exactly(client, len(ESTABLISHED)) == ESTABLISHED
                client.sendall(lie)
                assert rest(client) == ACCESS_DENIED
            else:
                assert rest(client).startswith(b"HTTP/1.1 403")
        record = gateway.record(reason="name_mismatch")
        assert record["bytes_up"] == 0
        if at_once:
            assert record["upstream"] is None and recorder.got == b""
        else:
            assert recorder.ended.wait(5)
            header = pp.seen(recorder.got)
            assert header is not None
            assert (header.rest, header.tlvs) == (b"", {pp.AUTHORITY: GOOD.encode()})


def test_an_origin_of_plain_http_is_sent_one_header_per_connection(start: Start, serve: Serve) -> None:
    """And each request of a client's connection is one of whom its own proxy has introduced."""
    answer = b"HTTP/1.1 204 No Content\r\n\r\n"
    got = b""

    def origin(connection: socket.socket) -> None:
        nonlocal got
        while data := connection.recv(65536):
            got += data
            if got.endswith(b"\r\n\r\n"):
                connection.sendall(answer)

    upstream = serve(origin)
    gateway = start(policy(upstream.port, "http", "proxy_protocol: required, proxy_trusted: 127.0.0.1, send_proxy: v1"))
    with connect(gateway) as client:
        for path, before in (("/1", pp.v2()), ("/2", b"")):
            request = f"GET {path} HTTP/1.1\r\nHost: {GOOD}:{upstream.port}\r\n\r\n".encode()
            client.sendall(before + request)
            assert exactly(client, len(answer)) == answer
    header = pp.seen(got)
    assert header is not None
    assert (header.version, header.source, header.destination) == (1, pp.CLIENT, pp.FRONT)
    assert header.rest.startswith(b"GET /1 ")
    assert (got.count(b"PROXY "), got.count(b"GET /")) == (1, 2)
    assert upstream.accepted == 1
    wait_for("a record of each request", lambda: len(gateway.records()) == 2)
    for record in gateway.records():
        assert (record["source"]["ip"], record["evidence"], record["rule"]) == (pp.CLIENT[0], "proxy_header", "r")


def test_a_database_is_sent_the_header_before_it_is_asked_for_tls(start: Start, serve: Serve) -> None:
    got = b""

    def database(connection: socket.socket) -> None:
        nonlocal got
        while not got.endswith(SSL_REQUEST):
            got += connection.recv(65536)
        connection.sendall(b"S")
        connection.sendall(exactly(connection, len(HELLO)))

    upstream = serve(database)
    gateway = start(policy(upstream.port, "postgres", f"port: {upstream.port}, send_proxy: v2"))
    with connect(gateway) as client:
        client.sendall(SSL_REQUEST)
        assert client.recv(1) == b"S"
        client.sendall(HELLO)
        assert exactly(client, len(HELLO)) == HELLO
        header = pp.seen(got)
        assert header is not None
        assert (header.source, header.tlvs, header.rest) == (
            client.getsockname(),
            {pp.AUTHORITY: GOOD.encode()},
            SSL_REQUEST,
        )
