"""Captured clients that would reach another host than the one they are judged by: HTTP that is late, disguised, or in a
form that is not read. Both hosts share an address, and the client was told it for the allowed one."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .conftest import Certificates
from .dig import dig
from .gateway import Gateway, running
from .hellos import real_hello
from .net import GATEWAY, OUTSIDE, Net, network
from .origin import Origin
from .plain_http import Client
from .postgres import GSS_REQUEST, SSL_REQUEST
from .servers import Handler, Server, echo

CAPTURE, PORT = 15001, 80
ALLOWED, DENIED = "allowed.example", "denied.example"
THERE = OUTSIDE[4][0]
RULES = f"{{ name: ok, to: ['{ALLOWED}:*'] }}, {{ name: no, deny: true, to: ['{DENIED}:*'] }}"
SECRET = f"GET /secret HTTP/1.1\r\nHost: {DENIED}\r\n\r\n".encode()
FIRST = 0.1
Start = Callable[..., Gateway]


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with network() as made:
        made.gateway.nft("redirect.nft", listener=CAPTURE)
        made.gateway.nft("dns.nft", listener=53)
        yield made


@pytest.fixture
def start(net: Net, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(rules: str = RULES, extra: str = "") -> Gateway:
            policy = f"""
listeners:
  - {{ name: capture, bind: "0.0.0.0:{CAPTURE}", accept: transparent }}
  - {{ name: names, bind: "0.0.0.0:53", accept: dns }}
timeouts: {{ server_first: {FIRST}s, first_bytes: 5s }}
resolver: {{ hosts: {{ {ALLOWED}: {THERE}, {DENIED}: {THERE} }} }}
{extra}
rules: [{rules}]
"""
            gateway = stack.enter_context(running(tmp_path / "gateway", policy, prefix=net.gateway.prefix))
            told = dig((GATEWAY[4], 53), ALLOWED, "A", prefix=net.client.prefix)
            assert told.answers == [THERE]
            return gateway

        yield begin


@pytest.fixture
def serve(net: Net) -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:

        def begin(handler: Handler, port: int = PORT, tls: ssl.SSLContext | None = None) -> Server:
            return stack.enter_context(net.outside.inside(lambda: Server(handler, host=THERE, port=port, tls=tls)))

        yield begin


def connect(net: Net, port: int = PORT) -> Client:
    return Client(net.client.inside(lambda: socket.create_connection((THERE, port), timeout=10)))


def of_captured(gateway: Gateway, **wanted: object) -> dict[str, object]:
    return gateway.record(accept="transparent", **wanted)


@pytest.mark.parametrize(
    ("parts", "reason", "word"),
    [
        ([SECRET], "rule_deny", None),
        ([FIRST * 5, SECRET], "rule_deny", None),
        ([FIRST * 5, SECRET[:30], SECRET[30:]], "rule_deny", None),
        ([FIRST * 5, real_hello(DENIED)], "rule_deny", None),
        ([b"\r\n" + SECRET], "not_accepted", "request_line"),
        ([b"\n", SECRET], "not_accepted", "request_line"),
        ([b" " + SECRET], "not_accepted", "request_line"),
        ([FIRST * 5, b"\r\n" + SECRET], "not_accepted", "request_line"),
        ([SECRET.replace(b"GET ", b"GET\t")], "not_accepted", "request_line"),
        ([SECRET.replace(b" HTTP", b"\tHTTP")], "not_accepted", "request_line"),
        ([SECRET.replace(b"GET", b"get")], "not_accepted", "request_line"),
        ([SECRET.replace(b"GET", b"A" * 30)], "not_accepted", "request_line"),
        ([SECRET.replace(b"/secret", b"/secret?\0")], "malformed", "nul"),
        ([SECRET.replace(b" ", b"\xa0", 2)], "not_accepted", "request_line"),
        ([b"g", SECRET[1:]], "not_accepted", "request_line"),
        ([f"GET http://{DENIED}/\r\n".encode()], "not_accepted", "request_line"),
        ([SECRET.replace(b"\r\n", b"\n")], "malformed", "bare_lf"),
        ([f"CONNECT {DENIED}:443 HTTP/1.1\r\n\r\n".encode()], "not_accepted", "method_connect"),
        ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], "not_accepted", "http2"),
        ([b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + SECRET], "not_accepted", "proxy_header"),
        ([b"\x15\x03\x03\0\x02\x01\0" + real_hello(DENIED)], "not_accepted", "record_type"),
        ([GSS_REQUEST, None, SECRET], "malformed", "postgres_not_tls"),
        ([FIRST * 5, GSS_REQUEST, None, SECRET], "malformed", "postgres_not_tls"),
        ([FIRST * 5, SSL_REQUEST, None, real_hello(DENIED)], "rule_deny", None),
    ],
)
def test_no_request_and_no_hello_reaches_the_host_that_it_names(
    net: Net,
    start: Start,
    serve: Callable[..., Server],
    parts: list[bytes | float | None],
    reason: str,
    word: str | None,
) -> None:
    came: list[bytes] = []

    def keep(connection: socket.socket) -> None:
        while data := connection.recv(65536):
            came.append(data)

    serve(keep)
    gateway = start()
    with connect(net) as client, contextlib.suppress(ConnectionError):
        for part in parts:
            if isinstance(part, float):
                time.sleep(part)
            elif part is None:
                assert len(client.exactly(1)) == 1
            else:
                client.send(part)
                time.sleep(0.05)
        # A refusal or a reset.
        client.file.read(1)
    record = of_captured(gateway, verdict="deny")
    assert (record["reason"], record["other_name"]) == (reason, word)
    # Of what is sent on while it may still be another protocol, no line is whole.
    assert len(b"".join(came).strip()) <= 1


def test_a_client_that_is_late_is_heard_as_if_it_were_not(
    net: Net, start: Start, serve: Callable[..., Server], certificates: Certificates
) -> None:
    origin = Origin()
    serve(origin)
    serve(echo, 443, certificates.server)
    gateway = start()
    with connect(net) as client:
        time.sleep(FIRST * 5)
        for host, status in [(ALLOWED, 200), (DENIED, 403), (ALLOWED, 200)]:
            client.send(f"GET /{host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert client.answer().status == status
    assert [seen.path for seen in origin.seen] == [f"/{ALLOWED}"] * 2
    with connect(net, 443) as plain:
        time.sleep(FIRST * 5)
        with certificates.client.wrap_socket(plain.socket, server_hostname=ALLOWED) as tls:
            tls.sendall(b"ping")
            assert tls.recv(4) == b"ping"
    record = of_captured(gateway, port=443)
    assert (record["name"], record["verdict"], record["flags"]) == (ALLOWED, "allow", ["dns_name"])


def test_once_the_server_has_spoken_nothing_else_is_begun(net: Net, start: Start, serve: Callable[..., Server]) -> None:
    def banner(connection: socket.socket) -> None:
        connection.sendall(b"220 ready\r\n")
        echo(connection)

    serve(banner)
    gateway = start()
    with connect(net) as client:
        assert client.line() == b"220 ready\r\n"
        client.send(b"EHLO client.example\r\n")
        assert client.line() == b"EHLO client.example\r\n"
        client.send(SECRET)
        assert client.exactly(len(SECRET)) == SECRET, "the line before was no request"
    for words, word in [(SECRET, "http"), (b"\r\n" + SECRET, "request_line"), (SSL_REQUEST, "postgres")]:
        with connect(net) as client:
            assert client.line() == b"220 ready\r\n"
            with contextlib.suppress(ConnectionError):
                client.send(words)
                assert client.file.read() == b""
        of_captured(gateway, reason="not_accepted", other_name=word)


def test_words_without_an_end_pass_at_once(net: Net, start: Start, serve: Callable[..., Server]) -> None:
    serve(echo)
    gateway = start()
    for words in (b"ping", b"get some", b"\xff\xfe", b"*1\r\n$4\r\nPING\r\n", b"{}"):
        with connect(net) as client:
            for _ in range(3):
                client.send(words)
                assert client.exactly(len(words)) == words
    with connect(net) as client:
        client.send(b"a" * 20_000)
        with contextlib.suppress(ConnectionError):
            client.file.read()
    of_captured(gateway, reason="not_accepted", other_name="request_line")


@pytest.mark.parametrize("words", [SECRET.replace(b"GET", b"get"), b"CONNECT x:1 HTTP/1.1\r\n\r\n"])
def test_a_rule_may_not_care_and_an_audit_tells(
    net: Net, start: Start, serve: Callable[..., Server], words: bytes
) -> None:
    serve(echo)
    gateway = start(f"{{ name: ok, to: ['{ALLOWED}:*'], sni: any }}")

    def passes() -> None:
        with connect(net) as client:
            client.send(words)
            assert client.exactly(len(words)) == words

    passes()
    assert of_captured(gateway, verdict="allow")["other_name"] is None
    gateway.reload(gateway.policy_file.read_text().replace("sni: any", "mode: audit"))
    passes()
    assert of_captured(gateway, verdict="would_deny")["reason"] == "not_accepted"
