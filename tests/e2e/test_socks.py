"""SOCKS5 clients reach what policy allows and are told what it does not; one port serves several protocols, told apart
by the first bytes."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable

import pytest

from . import hellos as h
from .conftest import Certificates
from .gateway import Gateway
from .servers import Server, echo
from .test_name_agreement import ACCESS_DENIED, Recorder, connect_to, exactly, rest
from .test_real_clients import run, tool

Start = Callable[..., Gateway]
Serve = Callable[..., Server]
GOOD = "allowed.example"
#: Replies (RFC 1928, section 6).
SUCCEEDED, FAILURE, NOT_ALLOWED, UNREACHABLE, REFUSED, NO_COMMAND, NO_ADDRESS_TYPE = 0, 1, 2, 4, 5, 7, 8
REPLY = 10


def policy(port: int, accept: str = "socks5") -> str:
    return f"""
listeners: [{{ name: way-in, bind: "127.0.0.1:0", accept: {accept} }}]
resolver: {{ hosts: {{ {GOOD}: 127.0.0.1, denied.example: 127.0.0.1 }} }}
rules: [{{ name: r, to: ["{GOOD}:{port}", "127.0.0.1:{port}", "127.0.0.1:9"] }}]
"""


def domain(name: str, port: int) -> bytes:
    return b"\5\1\0\3" + bytes([len(name)]) + name.encode() + struct.pack(">H", port)


def ipv4(address: str, port: int) -> bytes:
    return b"\5\1\0\1" + socket.inet_aton(address) + struct.pack(">H", port)


def reply(code: int) -> bytes:
    return bytes([5, code, 0, 1, 0, 0, 0, 0, 0, 0])


def greeted(gateway: Gateway) -> socket.socket:
    client = socket.create_connection(gateway.address("way-in"), timeout=10)
    client.sendall(b"\5\2\0\2")
    assert exactly(client, 2) == b"\5\0"
    return client


def ask(gateway: Gateway, request: bytes) -> bytes:
    """All that comes back for a request until the gateway closes."""
    with greeted(gateway) as client:
        client.sendall(request)
        return rest(client)


@pytest.mark.parametrize("request_for", [lambda port: domain(GOOD, port), lambda port: ipv4("127.0.0.1", port)])
def test_an_allowed_destination_is_reached(start: Start, serve: Serve, request_for: Callable[[int], bytes]) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port))
    with greeted(gateway) as client:
        client.sendall(request_for(upstream.port))
        assert exactly(client, REPLY) == reply(SUCCEEDED)
        client.sendall(b"ping")
        assert exactly(client, 4) == b"ping"
    record = gateway.record(end="closed")
    assert (record["accept"], record["verdict"], record["bytes_up"], record["bytes_down"]) == ("socks5", "allow", 4, 4)


def test_everything_in_one_segment_and_every_byte_by_itself(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port))
    flight = b"\5\1\0" + domain(GOOD, upstream.port) + b"ping"
    with socket.create_connection(gateway.address("way-in"), timeout=10) as client:
        client.sendall(flight)
        assert exactly(client, 2 + REPLY + 4) == b"\5\0" + reply(SUCCEEDED) + b"ping"
    with socket.create_connection(gateway.address("way-in"), timeout=10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in flight:
            client.sendall(bytes([byte]))
        assert exactly(client, 2 + REPLY + 4) == b"\5\0" + reply(SUCCEEDED) + b"ping"


def test_refusals_have_their_reply_code(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port))
    for request, code, reason in [
        (domain("denied.example", upstream.port), NOT_ALLOWED, "default_deny"),
        (ipv4("192.0.2.1", 443), NOT_ALLOWED, "default_deny"),
        (ipv4("127.0.0.1", 9), REFUSED, "rule"),
        (b"\5\2\0\1\0\0\0\0\0\0", NO_COMMAND, "malformed"),
        (b"\5\3\0\1\0\0\0\0\0\0", NO_COMMAND, "malformed"),
        (b"\5\1\0\2\0\0\0\0\0\0", NO_ADDRESS_TYPE, "malformed"),
        (domain("2130706433", 443), FAILURE, "bad_name"),
        (domain("a.example\0.evil.example", 443), FAILURE, "bad_name"),
        (domain("", 443), FAILURE, "bad_name"),
        (domain(GOOD, 0), FAILURE, "malformed"),
    ]:
        after = len(gateway.records())
        assert ask(gateway, request) == reply(code), request
        assert gateway.record(after=after)["reason"] == reason, request


def test_a_client_that_insists_on_a_login_is_told_that_there_is_none(start: Start) -> None:
    gateway = start(policy(1))
    with socket.create_connection(gateway.address("way-in"), timeout=10) as client:
        client.sendall(b"\5\1\2")
        assert rest(client) == b"\5\xff"
    assert gateway.record()["reason"] == "malformed"


def test_the_name_inside_must_be_the_one_that_was_asked_for(start: Start, serve: Serve) -> None:
    recorder = Recorder()
    upstream = serve(recorder)
    gateway = start(policy(upstream.port))
    with greeted(gateway) as client:
        client.sendall(domain(GOOD, upstream.port))
        assert exactly(client, REPLY) == reply(SUCCEEDED)
        client.sendall(h.hello(h.sni(b"denied.example")))
        assert rest(client) == ACCESS_DENIED
    assert recorder.ended.wait(5)
    assert recorder.got == b""
    assert gateway.record(reason="name_mismatch")["other_name"] == "denied.example"


def test_one_port_for_several_protocols(
    start: Start, serve: Serve, tls_echo: Server, certificates: Certificates
) -> None:
    gateway = start(
        policy(tls_echo.port, "[tls, connect, socks5]").replace("accept: [", f"port: {tls_echo.port}, accept: [")
    )
    context = ssl.create_default_context(cafile=str(certificates.ca_file))

    def pings(plain: socket.socket) -> None:
        with context.wrap_socket(plain, server_hostname=GOOD) as tls:
            tls.sendall(b"ping")
            assert tls.recv(4) == b"ping"

    where = gateway.address("way-in")
    pings(socket.create_connection(where, timeout=10))
    tunnel = socket.create_connection(where, timeout=10)
    tunnel.sendall(connect_to(f"{GOOD}:{tls_echo.port}"))
    assert exactly(tunnel, 39).startswith(b"HTTP/1.1 200")
    pings(tunnel)
    socks = greeted(gateway)
    socks.sendall(domain(GOOD, tls_echo.port))
    assert exactly(socks, REPLY) == reply(SUCCEEDED)
    pings(socks)
    for accept in ("tls", "connect", "socks5"):
        gateway.record(accept=accept, verdict="allow")
    # Refused, each is told in its own words; what is none of them is not answered.
    for sent, answer, accept in [
        (h.hello(h.sni(b"denied.example")), ACCESS_DENIED, "tls"),
        (connect_to("denied.example:443"), b"HTTP/1.1 403 Forbidden\r\n", "connect"),
        (b"\5\1\0" + domain("denied.example", 443), b"\5\0" + reply(NOT_ALLOWED), "socks5"),
    ]:
        with socket.create_connection(where, timeout=10) as client:
            client.sendall(sent)
            assert rest(client).startswith(answer)
        gateway.record(accept=accept, reason="default_deny")
    with socket.create_connection(where, timeout=10) as client:
        client.sendall(b"SSH-2.0-x\r\n")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    gateway.record(accept="several", reason="not_accepted")


def test_what_the_listener_does_not_accept_is_not_answered(start: Start) -> None:
    gateway = start(policy(1, "[tls, connect]"))
    with socket.create_connection(gateway.address("way-in"), timeout=10) as client:
        client.sendall(b"\5\1\0")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    gateway.record(reason="not_accepted")


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_curl(start: Start, tls_page: Server, certificates: Certificates, scheme: str) -> None:
    """With `socks5` curl resolves and asks for an address, whose TLS then names a host: that is a second name."""
    gateway = start(policy(tls_page.port).replace(f'"127.0.0.1:{tls_page.port}"', f'"x.example:{tls_page.port}"'))
    host, port = gateway.address("way-in")
    command = [tool("curl", "curl"), "-sS", "--http1.1", "--cacert", str(certificates.ca_file), "--max-time", "30"]
    command += ["-x", f"{scheme}://{host}:{port}", "--resolve", f"{GOOD}:{tls_page.port}:127.0.0.1"]
    result = run(*command, f"https://{GOOD}:{tls_page.port}/")
    if scheme == "socks5h":
        assert (result.returncode, b"hello" in result.stdout.lower()) == (0, True), result.stderr
    else:
        assert result.returncode == 97, result.stderr
        assert gateway.record()["reason"] == "default_deny"
    denied = run(*command, "https://denied.example/")
    assert denied.returncode in (5, 97), denied.stderr
