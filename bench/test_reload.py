"""Seconds from a changed policy file to the first decision by it, in a gateway that serves."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.e2e.gateway import Gateway, running


def rules(count: int, allow: bool) -> str:
    """`count` rules of other teams, and one that allows or does not allow what is asked for."""
    lines = [f"  - {{ name: team-{number}, to: [api{number}.example.com] }}" for number in range(count)]
    if allow:
        lines.append("  - { name: asked, to: ['127.0.0.1:9'] }")
    return "rules:\n" + "\n".join(lines) + "\n"


def is_allowed(gateway: Gateway) -> bool:
    """Port 9 of this machine is closed: 502 when allowed, 403 when not."""
    with socket.create_connection(gateway.address("proxy")) as client:
        client.sendall(b"CONNECT 127.0.0.1:9 HTTP/1.1\r\nHost: 127.0.0.1:9\r\n\r\n")
        return client.recv(100).startswith(b"HTTP/1.1 502")


@pytest.fixture(params=[100, 10_000], ids=lambda count: f"{count}-rules")
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Gateway, int]]:
    with running(tmp_path, rules(request.param, False)) as gateway:
        yield gateway, request.param


@pytest.mark.parametrize("told", ["by-file-event", "by-command"])
def test_file_change_to_new_decision(benchmark: Any, served: tuple[Gateway, int], told: str) -> None:
    gateway, count = served
    allow = False

    def prepare() -> None:
        nonlocal allow
        allow = not allow

    def change() -> None:
        gateway.write(rules(count, allow))
        if told == "by-command":
            with socket.socket(socket.AF_UNIX) as control:
                control.connect(str(gateway.control))
                control.sendall(b"POST /reload HTTP/1.1\r\nHost: local\r\nConnection: close\r\n\r\n")
                while control.recv(65536):
                    pass
        while is_allowed(gateway) != allow:
            pass

    benchmark.pedantic(change, setup=prepare, rounds=6)
