"""`on_deny`: a refused client is told in its own protocol, reset, or told nothing at all."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from .gateway import Gateway

#: Seconds of silence after which nothing more is expected; natively the answer is there in a hundredth.
SILENT = 1.0


def ask(gateway: Gateway, host: str, port: int) -> socket.socket:
    client = socket.create_connection(gateway.address("proxy"), timeout=10)
    client.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n".encode())
    return client


def assert_native(client: socket.socket) -> None:
    assert client.recv(65536).startswith(b"HTTP/1.1 403 ")


def assert_reset(client: socket.socket) -> None:
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def assert_silent(client: socket.socket) -> None:
    client.settimeout(SILENT)
    with pytest.raises(TimeoutError):
        client.recv(1)


def test_a_rule_says_how_and_the_default_says_it_for_the_rest(start: Callable[..., Gateway]) -> None:
    gateway = start("""
default: { on_deny: drop }
rules:
  - { name: told, deny: true, to: told.example, on_deny: native }
  - { name: cut, deny: true, to: cut.example, on_deny: reset }
""")
    with ask(gateway, "told.example", 443) as client:
        assert_native(client)
    with ask(gateway, "cut.example", 443) as client:
        assert_reset(client)
    with ask(gateway, "other.example", 443) as client:
        assert_silent(client)
        # What it goes on to say is not read.
        client.sendall(bytes(10))
        assert_silent(client)
        assert gateway.egress("flows", "--json").stdout.count("other.example") == 1
    for name, rule in (("told.example", "told"), ("cut.example", "cut"), ("other.example", None)):
        record = gateway.record(name=name)
        assert (record["verdict"], record["rule"], record["end"]) == ("deny", rule, "refused")
    assert gateway.descriptors() < 100, "the silent one is gone with its client"


def test_it_holds_from_the_next_reload_on(start: Callable[..., Gateway]) -> None:
    gateway = start("")
    with ask(gateway, "denied.example", 443) as client:
        assert_native(client)
    assert gateway.reload("default: { on_deny: reset }").returncode == 0
    with ask(gateway, "denied.example", 443) as client:
        assert_reset(client)


def test_a_failure_is_told_whatever_the_rule_says(start: Callable[..., Gateway]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    gateway = start(f"""
resolver: {{ hosts: {{ gone.example: 127.0.0.1 }} }}
rules: [{{ name: r, to: ["gone.example:{port}"], on_deny: drop }}]
""")
    with ask(gateway, "gone.example", port) as client:
        assert client.recv(65536).startswith(b"HTTP/1.1 502 ")


def unread(port: int) -> list[int]:
    """Bytes that wait in the kernel for whoever accepted on `port` (proc_net_tcp.txt: rx_queue; state 1 is open)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [int(line[4].split(":")[1], 16) for line in lines if line[1].endswith(f":{port:04X}") and line[3] == "01"]


def test_hardly_anything_of_what_a_silenced_client_sends_is_kept(start: Callable[..., Gateway]) -> None:
    gateway = start("default: { on_deny: drop }")
    port = gateway.address("proxy")[1]
    with ask(gateway, "denied.example", 443) as client:
        assert_silent(client)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                client.send(bytes(65536))
        waiting = unread(port)
        assert len(waiting) == 1
        assert waiting[0] <= 64 << 10
