"""PostgreSQL: its request for TLS is answered, the name in the hello decides, and the upstream is asked the same before
it gets the hello; a session in the clear is not let through in its place."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable

import pytest

from . import hellos
from .conftest import Certificates, policy_for
from .gateway import Gateway
from .postgres import CANCEL_REQUEST, GSS_REQUEST, SSL_REQUEST, STARTUP, Answering, exactly, read_error, upgrade
from .servers import Server, echo

LISTENERS = """
listeners:
  - {{ name: db, bind: "127.0.0.1:0", accept: postgres, port: {port} }}
  - {{ name: proxy, bind: "127.0.0.1:0", accept: [connect, socks5, postgres] }}
"""


@pytest.fixture
def database(certificates: Certificates, serve: Callable[..., Server]) -> tuple[Server, Answering]:
    handler = Answering(certificates.server)
    return serve(handler), handler


def begin(start: Callable[..., Gateway], port: int, extra: str = "") -> Gateway:
    return start(LISTENERS.format(port=port) + policy_for(port, extra=extra))


def connect(gateway: Gateway, listener: str = "db") -> socket.socket:
    return socket.create_connection(gateway.address(listener), timeout=10)


def echoes(connection: socket.socket) -> None:
    connection.sendall(b"ping")
    assert connection.recv(4) == b"ping"


def test_the_name_behind_the_request_decides(
    start: Callable[..., Gateway], database: tuple[Server, Answering], certificates: Certificates
) -> None:
    server, handler = database
    gateway = begin(start, server.port)
    with connect(gateway) as plain, upgrade(plain, certificates.client, "allowed.example") as inside:
        echoes(inside)
    assert handler.asked == [SSL_REQUEST]
    record = gateway.record(name="allowed.example")
    assert (record["accept"], record["verdict"], record["end"]) == ("postgres", "allow", "closed")
    with connect(gateway) as plain, pytest.raises(ssl.SSLError, match=r"(?i)access.denied"):
        upgrade(plain, certificates.client, "denied.example")
    assert gateway.record(name="denied.example")["reason"] == "default_deny"
    assert server.accepted == 1


def test_gssapi_is_declined_and_tls_is_asked_for_then(
    start: Callable[..., Gateway], database: tuple[Server, Answering], certificates: Certificates
) -> None:
    server, handler = database
    gateway = begin(start, server.port)
    with connect(gateway) as plain:
        plain.sendall(GSS_REQUEST)
        assert exactly(plain, 1) == b"N"
        with upgrade(plain, certificates.client, "allowed.example") as inside:
            echoes(inside)
    assert handler.asked == [SSL_REQUEST]


def test_every_cut_of_the_first_bytes_is_read_alike(
    start: Callable[..., Gateway], database: tuple[Server, Answering], certificates: Certificates
) -> None:
    server, _ = database
    gateway = begin(start, server.port)
    for cut in range(1, len(SSL_REQUEST)):
        with connect(gateway) as plain:
            plain.sendall(SSL_REQUEST[:cut])
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.sendall(SSL_REQUEST[cut:])
            assert exactly(plain, 1) == b"S"
            with certificates.client.wrap_socket(plain, server_hostname="allowed.example") as inside:
                echoes(inside)


def test_direct_tls_is_ordinary_tls(
    start: Callable[..., Gateway], serve: Callable[..., Server], certificates: Certificates
) -> None:
    server = serve(echo, tls=certificates.server)
    gateway = begin(start, server.port)
    with (
        connect(gateway) as plain,
        certificates.client.wrap_socket(plain, server_hostname="allowed.example") as inside,
    ):
        echoes(inside)
    assert gateway.record(verdict="allow")["accept"] == "postgres"


@pytest.mark.parametrize("letter", [b"N", b"E", b""], ids=["N", "E", "end"])
def test_no_plain_text_follows_where_the_upstream_takes_no_tls(
    start: Callable[..., Gateway], certificates: Certificates, serve: Callable[..., Server], letter: bytes
) -> None:
    heard: list[bytes] = []

    def listen(connection: socket.socket) -> None:
        if letter:
            heard.append(connection.recv(1))

    server = serve(Answering(certificates.server, letter, listen))
    gateway = begin(start, server.port)
    with connect(gateway) as plain, pytest.raises(ssl.SSLError, match=r"(?i)internal.error"):
        upgrade(plain, certificates.client, "allowed.example")
    record = gateway.record(name="allowed.example")
    wanted = ("upstream_no_tls", "postgres_no_tls") if letter else ("upstream_reset", None)
    assert (record["verdict"], record["end"], record["other_name"]) == ("allow", *wanted)
    assert heard == ([b""] if letter else []), "not a byte of the client's"


def test_an_upstream_that_does_not_answer_is_given_up(
    start: Callable[..., Gateway], certificates: Certificates, serve: Callable[..., Server]
) -> None:
    def silence(connection: socket.socket) -> None:
        connection.recv(8)
        connection.recv(1)

    gateway = begin(start, serve(silence).port, "timeouts: { connect: 300ms }")
    with connect(gateway) as plain, pytest.raises(ssl.SSLError, match=r"(?i)internal.error"):
        upgrade(plain, certificates.client, "allowed.example")
    assert gateway.record(name="allowed.example")["end"] == "connect_timeout"


def test_a_session_in_the_clear_names_no_host_and_is_told_so(
    start: Callable[..., Gateway], database: tuple[Server, Answering]
) -> None:
    server, _ = database
    gateway = begin(start, server.port)
    for first, taken in ((b"", b""), (GSS_REQUEST, b"N")):
        with connect(gateway) as plain:
            plain.sendall(first)
            assert exactly(plain, len(taken)) == taken
            plain.sendall(STARTUP)
            error = read_error(plain)
        decision = gateway.records()[-1]["decision"] if gateway.record(reason="no_name") else ""
        assert (error.severity, error.code) == ("FATAL", "28000")
        assert "names no host" in error.message
        assert "sslmode=require" in error.hint
        assert len(decision) == 16
    assert server.accepted == 0


@pytest.mark.parametrize(
    ("sent", "reason", "word"),
    [
        (SSL_REQUEST + SSL_REQUEST, "malformed", "postgres_not_tls"),
        (GSS_REQUEST + GSS_REQUEST, "malformed", "postgres_repeated"),
        (SSL_REQUEST + STARTUP, "malformed", "postgres_not_tls"),
        (struct.pack(">ihhi", 12, 1234, 5679, 0), "malformed", "postgres_length"),
        (SSL_REQUEST + hellos.real_hello(None), "no_name", None),
        (SSL_REQUEST + hellos.real_hello("denied.example"), "default_deny", None),
        (CANCEL_REQUEST, "no_name", None),
        (SSL_REQUEST[:6], "first_bytes_timeout", None),
        (SSL_REQUEST, "first_bytes_timeout", None),
        (b"GET / HTTP/1.1\r\n\r\n", "not_accepted", None),
        (b"\0\0\0\x08\0\x02\0\0", "not_accepted", None),
    ],
)
def test_what_is_not_a_session_in_tls_reaches_nobody(
    start: Callable[..., Gateway],
    database: tuple[Server, Answering],
    sent: bytes,
    reason: str,
    word: str | None,
) -> None:
    server, _ = database
    gateway = begin(start, server.port, "timeouts: { first_bytes: 500ms }")
    with connect(gateway) as plain:
        plain.sendall(sent)
        try:
            while plain.recv(65536):
                pass
        except ConnectionResetError:
            pass
    record = gateway.record(reason=reason)
    assert (record["verdict"], record["other_name"]) == ("deny", word)
    assert server.accepted == 0


def tunnel(gateway: Gateway, way: str, name: str, port: int) -> socket.socket:
    plain = connect(gateway, "proxy")
    if way == "connect":
        plain.sendall(f"CONNECT {name}:{port} HTTP/1.1\r\n\r\n".encode())
        wanted = b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert exactly(plain, len(wanted)) == wanted
    else:
        asked = b"\x05\x01\0\x03" + bytes([len(name)]) + name.encode() + struct.pack(">H", port)
        plain.sendall(b"\x05\x01\0" + asked)
        assert exactly(plain, 2 + 10)[:4] == b"\x05\0\x05\0"
    return plain


@pytest.mark.parametrize("way", ["connect", "socks5"])
def test_in_a_tunnel_the_name_behind_the_request_agrees_with_its_host(
    start: Callable[..., Gateway], database: tuple[Server, Answering], certificates: Certificates, way: str
) -> None:
    server, handler = database
    gateway = begin(start, server.port)
    with (
        tunnel(gateway, way, "allowed.example", server.port) as plain,
        upgrade(plain, certificates.client, "allowed.example") as inside,
    ):
        echoes(inside)
    assert gateway.record(verdict="allow")["end"] == "closed"
    with (
        tunnel(gateway, way, "allowed.example", server.port) as plain,
        pytest.raises(ssl.SSLError, match=r"(?i)access.denied"),
    ):
        upgrade(plain, certificates.client, "other.example")
    record = gateway.record(reason="name_mismatch")
    assert (record["name"], record["other_name"]) == ("allowed.example", "other.example")
    assert record["bytes_up"] == len(SSL_REQUEST), "of the hello not a byte"
    assert handler.asked == [SSL_REQUEST] * 2


def test_in_a_tunnel_the_upstream_answers_for_itself(
    start: Callable[..., Gateway], certificates: Certificates, serve: Callable[..., Server]
) -> None:
    server = serve(Answering(certificates.server, b"N"))
    gateway = begin(start, server.port)
    with tunnel(gateway, "connect", "allowed.example", server.port) as plain:
        plain.sendall(SSL_REQUEST)
        assert exactly(plain, 1) == b"N"
        plain.sendall(STARTUP)
        assert exactly(plain, len(STARTUP)) == STARTUP, "the session in the clear is the server's to refuse"


def test_on_a_port_of_several_protocols(
    start: Callable[..., Gateway], database: tuple[Server, Answering], certificates: Certificates
) -> None:
    server, _ = database
    listeners = LISTENERS.format(port=1).replace("socks5, postgres]", f"socks5, postgres], port: {server.port}")
    gateway = start(listeners + policy_for(server.port))
    with (
        connect(gateway, "proxy") as plain,
        upgrade(plain, certificates.client, "allowed.example") as inside,
    ):
        echoes(inside)
    assert gateway.record(verdict="allow")["accept"] == "postgres"
