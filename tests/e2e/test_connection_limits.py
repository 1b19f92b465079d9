"""`connections`: how many a rule grants, to all and to each source by itself, over all workers and all policies."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from .gateway import Gateway, wait_for
from .origin import Origin
from .plain_http import GOOD
from .servers import Server, echo

Start = Callable[..., Gateway]
Serve = Callable[..., Server]
ALLOWED, REFUSED = b"HTTP/1.1 200", b"HTTP/1.1 429"


@pytest.fixture
def upstream(serve: Serve) -> Server:
    return serve(echo)


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def policy(upstream: Server, connections: str, *, workers: int = 2, more: str = "") -> str:
    rule = f"name: r, to: ['127.0.0.1:{upstream.port}'], connections: {{ {connections} }}{more}"
    return f"workers: {workers}\nrules: [{{ {rule} }}]"


def ask(gateway: Gateway, upstream: Server, source: str = "127.0.0.1") -> socket.socket:
    client = socket.create_connection(gateway.address("proxy"), 20, (source, 0))
    client.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % ((upstream.port,) * 2))
    return client


def answers(
    stack: contextlib.ExitStack, gateway: Gateway, upstream: Server, count: int, source: str = "127.0.0.1"
) -> list[bytes]:
    """What so many tunnels are answered, one after the other; those that open stay so."""
    return [stack.enter_context(ask(gateway, upstream, source)).recv(12) for _ in range(count)]


def metric(gateway: Gateway, name: str) -> float:
    found = re.findall(rf"^{name}\S* (\S+)$", gateway.egress("metrics").stdout, re.MULTILINE)
    return sum(map(float, found))


def test_each_source_has_its_own_maximum_over_all_workers(
    start: Start, upstream: Server, stack: contextlib.ExitStack
) -> None:
    gateway = start(policy(upstream, "per_source: { max: 3 }, max: 100"))
    first = [stack.enter_context(ask(gateway, upstream)) for _ in range(3)]
    assert [client.recv(12) for client in first] == [ALLOWED] * 3
    # The kernel gives each connection to a worker of its own choice: neither of them may have let one more in.
    assert answers(stack, gateway, upstream, 20) == [REFUSED] * 20
    record = gateway.record(reason="connection_limit")
    assert (record["rule"], record["verdict"], record["other_name"]) == ("r", "deny", "source")
    assert answers(stack, gateway, upstream, 4, "127.0.0.2") == [ALLOWED] * 3 + [REFUSED]
    first.pop().close()
    gateway.record(verdict="allow")
    assert answers(stack, gateway, upstream, 2) == [ALLOWED, REFUSED]


def test_the_rules_own_bound_is_told_apart(start: Start, upstream: Server, stack: contextlib.ExitStack) -> None:
    gateway = start(policy(upstream, "max: 3, per_source: { max: 2 }"))
    assert answers(stack, gateway, upstream, 2) == [ALLOWED] * 2
    assert answers(stack, gateway, upstream, 2, "127.0.0.2") == [ALLOWED, REFUSED]
    assert gateway.record(reason="connection_limit")["other_name"] is None


def test_a_burst_passes_at_once_and_then_the_rate(start: Start, upstream: Server, stack: contextlib.ExitStack) -> None:
    gateway = start(policy(upstream, "new_per_second: 1, burst: 5"))
    began = time.monotonic()
    got = answers(stack, gateway, upstream, 20)
    took = time.monotonic() - began
    assert got[:5] == [ALLOWED] * 5
    assert got.count(ALLOWED) <= 5 + took + 1
    assert got.count(REFUSED) >= 20 - 5 - took - 1 and took < 10
    assert gateway.record(reason="connection_rate")["other_name"] is None


def test_a_source_has_a_burst_and_a_rate_of_its_own(
    start: Start, upstream: Server, stack: contextlib.ExitStack
) -> None:
    gateway = start(policy(upstream, "per_source: { new_per_second: 1, burst: 3 }"))
    for source in ("127.0.0.1", "127.0.0.2"):
        got = answers(stack, gateway, upstream, 10, source)
        assert got[:3] == [ALLOWED] * 3 and REFUSED in got[3:5]
    assert gateway.record(reason="connection_rate")["other_name"] == "source"


def test_each_request_of_plain_http_counts_for_its_source(start: Start, serve: Serve) -> None:
    origin = Origin()
    port = serve(origin).port
    gateway = start(f"""
listeners: [{{ name: proxy, bind: "127.0.0.1:0", accept: http }}]
resolver: {{ hosts: {{ {GOOD}: 127.0.0.1 }} }}
rules: [{{ name: r, to: ["{GOOD}:{port}"], connections: {{ per_source: {{ new_per_second: 1, burst: 2 }} }} }}]
""")
    with socket.create_connection(gateway.address("proxy"), 20) as client:
        got = []
        for _ in range(3):
            client.sendall(b"GET http://%s:%d/x HTTP/1.1\r\nHost: %s:%d\r\n\r\n" % ((GOOD.encode(), port) * 2))
            got.append(client.recv(65536)[:12])
    assert got == [ALLOWED, ALLOWED, REFUSED]
    assert origin.connections == 1, "the second request came on the connection of the first"


def test_an_audit_lets_pass_and_tells(start: Start, upstream: Server, stack: contextlib.ExitStack) -> None:
    gateway = start(policy(upstream, "per_source: { max: 1 }", more=", mode: audit"))
    assert answers(stack, gateway, upstream, 3) == [ALLOWED] * 3
    stack.close()
    record = gateway.record(verdict="would_deny")
    assert (record["reason"], record["other_name"]) == ("connection_limit", "source")


def test_what_a_source_has_open_is_known_to_the_next_policy(
    start: Start, upstream: Server, stack: contextlib.ExitStack
) -> None:
    gateway = start(policy(upstream, "max: 50"))
    assert answers(stack, gateway, upstream, 3) == [ALLOWED] * 3
    # It was not counted by source before; from now on those are that are open.
    for bound, more in ((4, [ALLOWED, REFUSED]), (2, [REFUSED]), (5, [ALLOWED, REFUSED])):
        assert gateway.reload(policy(upstream, f"per_source: {{ max: {bound} }}")).returncode == 0
        assert answers(stack, gateway, upstream, len(more)) == more
    stack.close()
    wait_for("all records", lambda: sum(record["verdict"] == "allow" for record in gateway.records()) == 5)
    with contextlib.ExitStack() as again:
        assert answers(again, gateway, upstream, 6) == [ALLOWED] * 5 + [REFUSED]


def test_10_000_sources_take_little_memory(start: Start, upstream: Server) -> None:
    connections = "per_source: { max: 10, new_per_second: 1, burst: 1000 }"
    gateway = start(policy(upstream, connections, more=", on_deny: reset"))

    def come(number: int) -> None:
        with ask(gateway, upstream, f"127.1.{number // 250}.{number % 250 + 1}") as client:
            assert client.recv(12) == ALLOWED

    for number in range(500):
        come(number)
    before = gateway.resident()
    for number in range(500, 10_500):
        come(number)
    # 640 bytes each are their records in the rings.
    assert gateway.resident() - before < 10_000 * (640 + 300)
    assert metric(gateway, "egress_limit_sources_full_total") == 0
