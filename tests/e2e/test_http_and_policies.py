"""Plain HTTP while the policy changes or the gateway drains: no request is sent, and no upstream used, that the policy
in force would not have."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from .gateway import Gateway, wait_for
from .plain_http import GOOD, Client

Start = Callable[..., Gateway]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def policy(rule: str, *, grace: str = "30s") -> str:
    return f"""
listeners: [{{ name: way-in, bind: "127.0.0.1:0", accept: http }}]
resolver: {{ hosts: {{ {GOOD}: 127.0.0.1 }} }}
timeouts: {{ grace: {grace}, idle: 60s }}
rules: [{{ name: r, {rule} }}]
"""


ALLOWED, DENIED = f'to: ["{GOOD}:*"]', 'to: ["other.example:*"]'


class Upstream:
    """Connections by hand."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(10)
        self.port: int = self.listener.getsockname()[1]
        self.open: list[socket.socket] = []

    def accept(self) -> socket.socket:
        connection, _ = self.listener.accept()
        connection.settimeout(10)
        self.open.append(connection)
        return connection

    def is_called(self) -> bool:
        self.listener.settimeout(0.5)
        try:
            self.accept()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        for connection in [self.listener, *self.open]:
            connection.close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    yield made
    made.close()


def connect(gateway: Gateway) -> Client:
    return Client(socket.create_connection(gateway.address("way-in"), timeout=10))


def request(port: int, *fields: str) -> bytes:
    lines = "".join(f"{field}\r\n" for field in fields)
    return f"GET / HTTP/1.1\r\nHost: {GOOD}:{port}\r\n{lines}\r\n".encode()


def head(connection: socket.socket) -> bytes:
    """What comes up to a blank line."""
    came = b""
    while not came.endswith(b"\r\n\r\n"):
        data = connection.recv(65536)
        assert data, came
        came += data
    return came


def test_what_is_denied_meanwhile_is_not_asked_for_again(start: Start, upstream: Upstream) -> None:
    gateway = start(policy(ALLOWED))
    with connect(gateway) as client:
        client.send(request(upstream.port))
        kept = upstream.accept()
        head(kept)
        kept.sendall(OK)
        assert client.answer().body == b"ok"
        client.send(request(upstream.port))
        head(kept)
        gateway.reload(policy(DENIED))
        wait_for("the verdict", lambda: "closing" in gateway.egress("flows").stdout)
        # As an upstream does that took the connection for idle: the request would be sent once more.
        kept.close()
        assert not upstream.is_called()
    gateway.record(end="policy_changed")


def test_a_grace_ends_whatever_the_origin_says(start: Start, upstream: Upstream) -> None:
    gateway = start(policy(ALLOWED, grace="1s"))
    with connect(gateway) as client:
        client.send(request(upstream.port, "Connection: Upgrade", "Upgrade: websocket"))
        there = upstream.accept()
        head(there)
        gateway.reload(policy(DENIED, grace="1s"))
        wait_for("the verdict", lambda: "closing" in gateway.egress("flows").stdout)
        there.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert client.line().startswith(b"HTTP/1.1 101")
        with contextlib.suppress(ConnectionError):
            client.file.read()
    gateway.record(end="policy_changed")


@pytest.mark.parametrize("busy", [True, False])
def test_an_upstream_serves_under_the_policy_it_was_dialled_by(start: Start, upstream: Upstream, busy: bool) -> None:
    other = Upstream()
    with contextlib.closing(other):
        gateway = start(policy(ALLOWED))
        led = policy(f'{ALLOWED}, dial: "127.0.0.1:{other.port}", send_proxy: v1')
        with connect(gateway) as client:
            client.send(request(upstream.port))
            first = upstream.accept()
            head(first)
            if busy:
                gateway.reload(led)
            first.sendall(OK)
            assert client.answer().body == b"ok"
            if not busy:
                gateway.reload(led)
                assert first.recv(1) == b"", "nothing would be asked of it any more"
            client.send(request(upstream.port))
            second = other.accept()
            assert head(second).startswith(b"PROXY TCP4 127.0.0.1 ")
            second.sendall(OK)
            assert client.answer().body == b"ok"


@pytest.mark.parametrize("ahead", [True, False])
def test_a_drain_cuts_no_response_short(start: Start, upstream: Upstream, ahead: bool) -> None:
    gateway = start(policy(ALLOWED))
    body = b"x" * 300_000
    with connect(gateway) as client:
        client.send(request(upstream.port) * (2 if ahead else 1))
        there = upstream.accept()
        head(there)
        there.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        assert client.line().startswith(b"HTTP/1.1 200")
        gateway.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        there.sendall(body)
        assert client.file.read().endswith(b"\r\n\r\n" + body)


def test_a_client_that_is_always_half_a_request_ahead_is_held_to_that(start: Start) -> None:
    """What was served is let go of, though there is always more in the buffer."""
    gateway = start(policy(DENIED))
    whole = b"GET / HTTP/1.1\r\nHost: x.example\r\nPadding: " + b"a" * 8000 + b"\r\n\r\n"
    half = len(whole) // 2

    def served(times: int) -> int:
        for _ in range(times):
            client.send(whole[half:] + whole[:half])
            assert client.answer().status == 403
        return gateway.resident()

    with connect(gateway) as client:
        client.send(whole[:half])
        before = served(200)
        # 24 MB of requests.
        assert served(3000) - before < 8 << 20
