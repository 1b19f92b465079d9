"""An allowed name is reached through the gateway, another is refused with a reason, and both are on record."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

import pytest

from .conftest import Certificates, policy_for
from .gateway import Gateway
from .servers import Server

Start = Callable[..., Gateway]
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def read_all(connection: socket.socket) -> bytes:
    chunks = []
    while data := connection.recv(65536):
        chunks.append(data)
    return b"".join(chunks)


def test_a_tls_listener_lets_an_allowed_name_through(
    start: Start, tls_page: Server, certificates: Certificates
) -> None:
    gateway = start(policy_for(tls_page.port), port=tls_page.port)
    with (
        socket.create_connection(gateway.address("tls"), timeout=10) as plain,
        certificates.client.wrap_socket(plain, server_hostname="allowed.example") as tls,
    ):
        tls.sendall(GET)
        assert b"hello from upstream" in read_all(tls)
    record = gateway.record(name="allowed.example")
    assert (record["verdict"], record["rule"], record["end"]) == ("allow", "allowed", "closed")
    assert record["bytes_up"] > 500 and record["bytes_down"] > 500
    assert record["port"] == tls_page.port


def test_a_tls_listener_refuses_another_name_with_an_alert(
    start: Start, tls_page: Server, certificates: Certificates
) -> None:
    gateway = start(policy_for(tls_page.port), port=tls_page.port)
    with (
        socket.create_connection(gateway.address("tls"), timeout=10) as plain,
        pytest.raises(ssl.SSLError, match=r"(?i)access.denied"),
    ):
        certificates.client.wrap_socket(plain, server_hostname="denied.example")
    record = gateway.record(name="denied.example")
    assert (record["verdict"], record["reason"], record["end"]) == ("deny", "default_deny", "refused")
    assert tls_page.accepted == 0


def test_a_connect_listener_tunnels_an_allowed_name(start: Start, tls_page: Server, certificates: Certificates) -> None:
    gateway = start(policy_for(tls_page.port))
    with socket.create_connection(gateway.address("proxy"), timeout=10) as plain:
        plain.sendall(
            b"CONNECT allowed.example:%d HTTP/1.1\r\nHost: allowed.example:%d\r\n\r\n" % ((tls_page.port,) * 2)
        )
        answer = plain.recv(4096)
        assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\n")
        with certificates.client.wrap_socket(plain, server_hostname="allowed.example") as tls:
            tls.sendall(GET)
            assert b"hello from upstream" in read_all(tls)
    assert gateway.record(name="allowed.example", listener="proxy")["end"] == "closed"


def test_a_connect_listener_refuses_with_the_message(start: Start, tls_page: Server) -> None:
    gateway = start(policy_for(tls_page.port))
    with socket.create_connection(gateway.address("proxy"), timeout=10) as plain:
        plain.sendall(b"CONNECT denied.example:443 HTTP/1.1\r\nHost: denied.example:443\r\n\r\n")
        answer = read_all(plain).decode()
    record = gateway.record(name="denied.example")
    assert answer.startswith("HTTP/1.1 403 ")
    assert record["decision"] in answer and "default" in answer
