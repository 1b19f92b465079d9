"""No byte is lost, reordered or added; ends, resets and slowness on one side are felt on the other."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest

from .conftest import Certificates
from .gateway import Gateway, wait_for
from .servers import Server, echo

Start = Callable[..., Gateway]
Serve = Callable[..., Server]

MIB = 1 << 20


def tcp_policy(port: int, extra: str = "") -> str:
    """A tcp listener in front of a server on this machine."""
    return f"""
listeners:
  - {{ name: tcp, bind: "127.0.0.1:0", accept: tcp, to: "127.0.0.1:{port}" }}
{extra}
rules:
  - name: local
    to: ["127.0.0.1:{port}"]
"""


def connect(gateway: Gateway, listener: str = "tcp") -> socket.socket:
    return socket.create_connection(gateway.address(listener), timeout=20)


def reset(connection: socket.socket) -> None:
    """Closes with a RST instead of a FIN (socket(7), SO_LINGER)."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def both_ways(connection: socket.socket, size: int) -> tuple[str, str]:
    """Sends `size` random bytes to an echo server and reads them back at the same time; gives both hashes."""
    sent, got = hashlib.sha256(), hashlib.sha256()
    block = os.urandom(MIB)

    def send() -> None:
        for index in range(size // MIB):
            data = struct.pack(">I", index) + block[4:]
            sent.update(data)
            connection.sendall(data)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    received = 0
    while received < size:
        data = connection.recv(MIB)
        if not data:
            break
        got.update(data)
        received += len(data)
    sender.join()
    assert received == size
    return sent.hexdigest(), got.hexdigest()


def test_100_mib_both_ways_at_once_arrive_as_they_were_sent(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(tcp_policy(upstream.port))
    with connect(gateway) as client:
        sent, got = both_ways(client, 100 * MIB)
        assert client.recv(1) == b"", "the end arrives after the last byte"
    assert sent == got
    record = gateway.record(rule="local")
    assert (record["bytes_up"], record["bytes_down"], record["end"]) == (100 * MIB, 100 * MIB, "closed")


@pytest.mark.parametrize("listener", ["tls", "proxy"])
def test_100_mib_of_tls_both_ways_at_once(
    start: Start, tls_echo: Server, certificates: Certificates, listener: str
) -> None:
    port = tls_echo.port
    gateway = start(
        f"resolver: {{ hosts: {{ allowed.example: 127.0.0.1 }} }}\n"
        f"rules: [{{ name: a, to: ['allowed.example:{port}'] }}]",
        port=port,
    )
    with connect(gateway, listener) as plain:
        if listener == "proxy":
            plain.sendall(b"CONNECT allowed.example:%d HTTP/1.1\r\nHost: allowed.example:%d\r\n\r\n" % (port, port))
            assert plain.recv(4096).startswith(b"HTTP/1.1 200")
        with certificates.client.wrap_socket(plain, server_hostname="allowed.example") as tls:
            sent, got = both_ways_tls(tls, 100 * MIB)
    assert sent == got
    assert gateway.record(rule="a")["bytes_down"] > 100 * MIB


def both_ways_tls(connection: socket.socket, size: int) -> tuple[str, str]:
    """As `both_ways`, in steps: one ssl object is not for two threads."""
    sent, got = hashlib.sha256(), hashlib.sha256()
    step = 64 * 1024
    ahead = 0
    for _ in range(size // step):
        data = os.urandom(step)
        sent.update(data)
        connection.sendall(data)
        ahead += step
        while ahead > 4 * step:
            data = connection.recv(step)
            got.update(data)
            ahead -= len(data)
    while ahead:
        data = connection.recv(step)
        assert data
        got.update(data)
        ahead -= len(data)
    return sent.hexdigest(), got.hexdigest()


def test_a_client_that_has_ended_still_gets_the_answer(start: Start, serve: Serve) -> None:
    def answer_after_the_end(connection: socket.socket) -> None:
        total = 0
        while data := connection.recv(65536):
            total += len(data)
        time.sleep(0.2)
        connection.sendall(b"%d bytes" % total)

    upstream = serve(answer_after_the_end)
    gateway = start(tcp_policy(upstream.port))
    with connect(gateway) as client:
        client.sendall(b"x" * 1000)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b"1000 bytes"
        assert client.recv(100) == b""
    assert gateway.record(rule="local")["end"] == "closed"


def test_an_upstream_that_has_ended_still_gets_the_rest(start: Start, serve: Serve) -> None:
    got = bytearray()
    done = threading.Event()

    def end_first(connection: socket.socket) -> None:
        connection.sendall(b"bye")
        connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(65536):
            got.extend(data)
        done.set()

    upstream = serve(end_first)
    gateway = start(tcp_policy(upstream.port))
    with connect(gateway) as client:
        assert client.recv(100) == b"bye"
        assert client.recv(100) == b""
        client.sendall(b"y" * 100_000)
        client.shutdown(socket.SHUT_WR)
        assert done.wait(10)
    assert len(got) == 100_000
    assert gateway.record(rule="local")["end"] == "closed"


@pytest.mark.parametrize("bulk", [False, True])
def test_a_slow_reader_slows_the_sender_and_loses_nothing(start: Start, serve: Serve, bulk: bool) -> None:
    size = 64 * MIB
    sent = 0

    def pour(connection: socket.socket) -> None:
        nonlocal sent
        data = b"z" * (MIB if bulk else 1000)
        while sent < size:
            connection.sendall(data)
            sent += len(data)
            if not bulk and sent > 8 * MIB:
                break

    upstream = serve(pour)
    gateway = start(tcp_policy(upstream.port))
    memory = gateway.resident()
    with connect(gateway) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        if bulk:
            before = -1
            while before != sent:
                before = sent
                time.sleep(0.3)
            # What has been taken from the sender is in socket buffers and at most one pipe, not in the gateway.
            assert sent < size, "a reader that does not read must stop the sender"
            assert gateway.resident() - memory < 8 * MIB
        received = 0
        while data := client.recv(MIB):
            received += len(data)
    assert received == sent
    assert gateway.record(rule="local")["bytes_down"] == sent


def test_a_reset_by_the_client_resets_the_upstream(start: Start, serve: Serve) -> None:
    seen: list[str] = []

    def wait(connection: socket.socket) -> None:
        try:
            while connection.recv(100):
                pass
            seen.append("end")
        except ConnectionResetError:
            seen.append("reset")

    upstream = serve(wait)
    gateway = start(tcp_policy(upstream.port))
    client = connect(gateway)
    client.sendall(b"hello")
    wait_for("the connection to arrive", lambda: upstream.accepted)
    time.sleep(0.1)
    reset(client)
    wait_for("the upstream to notice", lambda: seen)
    assert seen == ["reset"]
    assert gateway.record(rule="local")["end"] == "client_reset"


def test_a_reset_by_the_upstream_resets_the_client(start: Start, serve: Serve) -> None:
    def break_off(connection: socket.socket) -> None:
        connection.recv(100)
        reset(connection)

    upstream = serve(break_off)
    gateway = start(tcp_policy(upstream.port))
    with connect(gateway) as client:
        client.sendall(b"hello")
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    assert gateway.record(rule="local")["end"] == "upstream_reset"


def test_an_idle_flow_ends_and_an_active_one_does_not(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(tcp_policy(upstream.port, "timeouts: { idle: 1s }"))
    with connect(gateway) as idle, connect(gateway) as active:
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            active.sendall(b"x")
            assert active.recv(1) == b"x"
            time.sleep(0.2)
        assert idle.recv(1) == b""
        active.shutdown(socket.SHUT_WR)
        assert active.recv(1) == b""
    gateway.record(end="idle_timeout")
    gateway.record(end="closed")


def test_a_reset_is_noticed_while_the_upstream_does_not_read(start: Start, serve: Serve) -> None:
    release = threading.Event()
    upstream = serve(lambda _connection: release.wait(30))
    gateway = start(tcp_policy(upstream.port))
    client = connect(gateway)
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            client.send(b"x" * MIB)
    time.sleep(0.3)
    reset(client)
    assert gateway.record(rule="local")["end"] == "client_reset"
    release.set()


def test_a_reset_is_noticed_after_a_half_close(start: Start, serve: Serve) -> None:
    """The side that has ended sends no more: its reset shows as an error alone."""
    release = threading.Event()
    upstream = serve(lambda _connection: release.wait(30))
    gateway = start(tcp_policy(upstream.port))
    client = connect(gateway)
    client.shutdown(socket.SHUT_WR)
    wait_for("the connection to arrive", lambda: upstream.accepted)
    time.sleep(0.2)
    reset(client)
    assert gateway.record(rule="local")["end"] == "closed"
    release.set()


@pytest.mark.parametrize("size", [1000, 8 * MIB])
def test_urgent_data_holds_nothing_back(start: Start, serve: Serve, size: int) -> None:
    """What stands behind the urgent mark arrives (RFC 6093: nobody should send it; some do)."""
    got = bytearray()
    done = threading.Event()

    def take(connection: socket.socket) -> None:
        while data := connection.recv(MIB):
            got.extend(data)
        done.set()

    upstream = serve(take)
    gateway = start(tcp_policy(upstream.port))
    with connect(gateway) as client:
        client.sendall(b"a" * size)
        client.send(b"!", socket.MSG_OOB)
        client.sendall(b"b" * size)
        client.shutdown(socket.SHUT_WR)
        assert done.wait(15), f"{len(got)} bytes arrived"
    assert (got.count(b"a"), got.count(b"b")) == (size, size)
