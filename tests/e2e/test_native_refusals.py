"""Captured clients that are refused print why, each in its own protocol and at once."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from . import hellos
from .gateway import Gateway, running
from .net import OUTSIDE, Net, capture, network
from .servers import Server, echo

PORT = 15001
MESSAGE = "Ask the <network> team"
Client = Callable[..., CompletedProcess[bytes]]


@pytest.fixture(scope="module", params=["redirect", "tproxy"])
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    with network() as made:
        capture(made, request.param, PORT)
        yield made


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def address(request: pytest.FixtureRequest) -> str:
    return OUTSIDE[request.param][0]


@pytest.fixture
def gateway(net: Net, address: str, tmp_path: Path) -> Iterator[Gateway]:
    """Denies the first addresses of the outside with a message of its rule's, and lets nobody in elsewhere."""
    bind = "[::]" if ":" in address else "0.0.0.0"
    policy = f"""
listeners: [{{ name: capture, bind: "{bind}:{PORT}", accept: transparent }}]
rules:
  - name: closed
    deny: true
    to: ["{OUTSIDE[4][0]}", "{OUTSIDE[6][0]}", denied.example]
    message: "{MESSAGE}"
"""
    with running(tmp_path / "gateway", policy, prefix=net.gateway.prefix) as started:
        yield started


@pytest.fixture
def server(net: Net, address: str) -> Iterator[Callable[[int], Server]]:
    with ExitStack() as stack:

        def begin(port: int) -> Server:
            return stack.enter_context(net.outside.inside(lambda: Server(echo, host=address, port=port)))

        yield begin


@pytest.fixture
def client(net: Net) -> Client:
    def run(tool: str, *arguments: str) -> CompletedProcess[bytes]:
        if shutil.which(tool) is None:
            if os.environ.get("EGRESS_REQUIRE_TOOLS") == "1":
                pytest.fail(f"{tool} not installed, and EGRESS_REQUIRE_TOOLS=1")
            pytest.skip(f"{tool} not installed")
        return net.client.run(tool, *arguments)

    return run


def url(address: str) -> str:
    return f"http://[{address}]/" if ":" in address else f"http://{address}/"


def refused(gateway: Gateway, port: int) -> str:
    """The record's decision, after it was seen that the rule denied."""
    record = gateway.record(port=port)
    assert (record["verdict"], record["reason"], record["rule"]) == ("deny", "rule_deny", "closed")
    decision = record["decision"]
    assert isinstance(decision, str)
    return decision


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "text/plain; charset=utf-8"),
        ("application/json", "application/json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"),
    ],
)
def test_curl_shows_a_403_in_the_form_that_it_asks_for(
    gateway: Gateway, client: Client, address: str, server: Callable[[int], Server], accept: str, kind: str
) -> None:
    reached = server(80)
    shown = client("curl", "--silent", "--include", "--header", f"Accept: {accept}", url(address))
    head, body = shown.stdout.decode().split("\r\n\r\n", 1)
    decision = refused(gateway, 80)
    fields = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:])
    assert head.startswith("HTTP/1.1 403 Forbidden\r\n")
    assert (fields["content-type"], fields["cache-control"]) == (kind, "no-store")
    assert (fields["x-egress-reason"], fields["x-egress-decision"]) == ("rule_deny", decision)
    if kind == "application/json":
        told = json.loads(body)
        assert (told["message"], told["decision"], told["rule"]) == (MESSAGE, decision, "closed")
    elif kind.startswith("text/html"):
        assert "<p>Ask the &lt;network&gt; team</p>" in body
        assert f"<dd>{decision}</dd>" in body
    else:
        assert body == f"{MESSAGE}\n"
    assert reached.accepted == 0


def test_ssh_prints_the_message_and_the_decision(
    gateway: Gateway, client: Client, address: str, server: Callable[[int], Server]
) -> None:
    reached = server(22)
    shown = client("ssh", "-T", "-F", "none", "-o", "BatchMode=yes", f"nobody@{address}")
    assert shown.returncode == 255
    assert f"{MESSAGE} ({refused(gateway, 22)})" in shown.stderr.decode()
    assert reached.accepted == 0


def test_psql_prints_the_message_and_the_decision(
    gateway: Gateway, client: Client, address: str, server: Callable[[int], Server]
) -> None:
    reached = server(5432)
    options = f"host={address} user=me dbname=db sslmode=disable gssencmode=disable connect_timeout=10"
    shown = client("psql", "--no-psqlrc", options)
    told = shown.stderr.decode()
    assert shown.returncode == 2
    assert f"FATAL:  {MESSAGE}\n" in told
    assert re.search(rf"^HINT: .*{refused(gateway, 5432)}", told, re.MULTILINE), told
    assert reached.accepted == 0


STARTUP = struct.pack(">ihh", 8 + 9, 3, 0) + b"user\0me\0\0"
FIRST_FLIGHTS = {
    "TLS": (hellos.real_hello("denied.example"), b"\x15\x03\x03\0\x02\x02\x31"),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", b"HTTP/1.1 403 "),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", b"SSH-2.0-egress\r\n"),
    "Postgres": (STARTUP, b"E\0\0"),
}


@pytest.mark.parametrize("protocol", FIRST_FLIGHTS)
def test_a_refusal_needs_no_more_than_the_first_flight(net: Net, gateway: Gateway, address: str, protocol: str) -> None:
    """How soon it comes is a row of the benchmarks."""
    sent, wanted = FIRST_FLIGHTS[protocol]

    def told() -> bytes:
        with socket.create_connection((address, 4000), timeout=10) as connection:
            connection.sendall(sent)
            return connection.recv(len(wanted))

    assert net.client.inside(told) == wanted
