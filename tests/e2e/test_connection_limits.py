"""`connections`: how many a rule grants, to all and to each source by itself, over all workers and all policies."""

from __future__ import annotations

import contextlib
import json
import re
import selectors
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from egress_core.ring import layout

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


def readable(clients: list[socket.socket], seconds: float) -> list[socket.socket]:
    """Those that have something to read by then. Not by select(2): descriptors may be beyond its numbers here."""
    with selectors.DefaultSelector() as selector:
        for number, client in enumerate(clients):
            selector.register(client, selectors.EVENT_READ, number)
        return [clients[key.data] for key, _ in selector.select(seconds)]


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


def waiting(gateway: Gateway, count: int) -> None:
    """Until so many wait."""
    found = lambda: metric(gateway, r'egress_active_flows\{.*stage="waiting"') == count  # noqa: E731
    wait_for(f"{count} waiting", found)


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
    # Beside their records in the rings.
    assert gateway.resident() - before < 10_000 * (layout()["size.record"] + 300)
    assert metric(gateway, "egress_limit_sources_full_total") == 0


def test_who_waits_goes_on_when_somebody_leaves(start: Start, upstream: Server, stack: contextlib.ExitStack) -> None:
    gateway = start(policy(upstream, "max: 2, when_full: wait 20s"))
    first = [stack.enter_context(ask(gateway, upstream)) for _ in range(2)]
    assert [client.recv(12) for client in first] == [ALLOWED] * 2
    waits = [stack.enter_context(ask(gateway, upstream)) for _ in range(4)]
    waiting(gateway, 4)
    flows = json.loads(gateway.egress("flows", "--json").stdout)
    assert sorted(flow["stage"] for flow in flows) == ["tunnel"] * 2 + ["waiting"] * 4
    for client in first:
        client.close()
    readable(waits, 10)
    waiting(gateway, 2)
    assert [client.recv(12) for client in readable(waits, 0)] == [ALLOWED] * 2
    stack.close()
    ends = wait_for("all records", lambda: len(gateway.records()) == 6 and gateway.records())
    assert sum(record["verdict"] == "allow" for record in ends) == 6


def test_room_made_on_one_worker_is_seen_by_the_other(start: Start, upstream: Server) -> None:
    """However the kernel spreads them: each new one waits for the one before, and none for long."""
    gateway = start(policy(upstream, "max: 1, when_full: wait 20s"))
    before = ask(gateway, upstream)
    assert before.recv(12) == ALLOWED
    for _ in range(30):
        after = ask(gateway, upstream)
        waiting(gateway, 1)
        began = time.monotonic()
        before.close()
        assert after.recv(12) == ALLOWED
        assert time.monotonic() - began < 2
        before = after
    before.close()


def test_a_line_has_its_limit(start: Start, upstream: Server, stack: contextlib.ExitStack) -> None:
    gateway = start(policy(upstream, "max: 1, when_full: wait 60s", workers=1))
    assert answers(stack, gateway, upstream, 1) == [ALLOWED]
    for _ in range(1024):
        stack.enter_context(ask(gateway, upstream))
    waiting(gateway, 1024)
    assert answers(stack, gateway, upstream, 2) == [REFUSED] * 2
    assert gateway.record(verdict="deny")["reason"] == "connection_limit"


def test_whose_time_is_over_is_refused_natively(start: Start, upstream: Server, stack: contextlib.ExitStack) -> None:
    gateway = start(policy(upstream, "per_source: { max: 1 }, when_full: wait 700ms"))
    assert answers(stack, gateway, upstream, 1) == [ALLOWED]
    began = time.monotonic()
    assert answers(stack, gateway, upstream, 1) == [REFUSED]
    assert 0.69 < time.monotonic() - began < 5
    record = gateway.record(reason="connection_limit")
    assert (record["end"], record["other_name"]) == ("refused", "source")
    assert record["duration_ms"] > 690
    assert answers(stack, gateway, upstream, 1, "127.0.0.2") == [ALLOWED], "another source does not wait"


def test_a_rate_lets_in_one_after_the_other(start: Start, upstream: Server, stack: contextlib.ExitStack) -> None:
    gateway = start(policy(upstream, "new_per_second: 10, burst: 1, when_full: wait 20s"))
    began = time.monotonic()
    clients = [stack.enter_context(ask(gateway, upstream)) for _ in range(11)]
    times = []
    while len(times) < 11:
        for client in readable(clients, 10):
            assert client.recv(12) == ALLOWED
            clients.remove(client)
            times.append(time.monotonic() - began)
    assert 0.9 < times[-1] < 3
    assert all(at > 0.1 * count - 0.1 for count, at in enumerate(times))
    turns = metric(gateway, "egress_loop_turns_total")
    assert turns < 2000, f"a busy loop: {turns}"


def test_a_waiting_client_that_leaves_frees_its_place(
    start: Start, upstream: Server, stack: contextlib.ExitStack
) -> None:
    gateway = start(policy(upstream, "max: 1, when_full: wait 20s"))
    first = stack.enter_context(ask(gateway, upstream))
    assert first.recv(12) == ALLOWED
    gone = [ask(gateway, upstream) for _ in range(3)]
    waiting(gateway, 3)
    last = stack.enter_context(ask(gateway, upstream))
    waiting(gateway, 4)
    for client in gone:
        client.close()
    waiting(gateway, 1)
    assert gateway.record(end="client_gone")["rule"] == "r"
    first.close()
    assert last.recv(12) == ALLOWED
    assert upstream.accepted == 2, "nobody is dialled for who has left"


def test_who_waits_is_judged_again_by_a_new_policy(start: Start, upstream: Server, stack: contextlib.ExitStack) -> None:
    gateway = start(policy(upstream, "max: 1, when_full: wait 20s"))
    assert answers(stack, gateway, upstream, 1) == [ALLOWED]
    waits = [stack.enter_context(ask(gateway, upstream)) for _ in range(4)]
    waiting(gateway, 4)
    # Room for one more.
    assert gateway.reload(policy(upstream, "max: 2, when_full: wait 20s")).returncode == 0
    waiting(gateway, 3)
    # A lower bound, and the rule has another place in the policy.
    lower = policy(upstream, "max: 1, when_full: wait 20s")
    assert gateway.reload(lower.replace("[{", "[{ name: first, to: [first.example] }, {")).returncode == 0
    time.sleep(0.3)
    waiting(gateway, 3)
    # A rule that does not wait refuses who has no room; so does one that denies.
    assert gateway.reload(policy(upstream, "max: 3")).returncode == 0
    waiting(gateway, 0)
    got = [client.recv(12) for client in waits]
    assert sorted(got) == [ALLOWED] * 2 + [REFUSED] * 2
    assert gateway.reload(policy(upstream, "max: 3, when_full: wait 20s")).returncode == 0
    last = stack.enter_context(ask(gateway, upstream))
    waiting(gateway, 1)
    assert (
        gateway.reload(f"workers: 2\nrules: [{{ name: no, deny: true, to: ['127.0.0.1:{upstream.port}'] }}]").returncode
        == 0
    )
    assert last.recv(12) == b"HTTP/1.1 403"


def test_an_audit_waits_for_nothing(start: Start, upstream: Server, stack: contextlib.ExitStack) -> None:
    gateway = start(policy(upstream, "max: 1, when_full: wait 20s", more=", mode: audit"))
    began = time.monotonic()
    assert answers(stack, gateway, upstream, 3) == [ALLOWED] * 3
    assert time.monotonic() - began < 10


def test_a_long_wait_leaves_the_time_to_connect(start: Start, upstream: Server, stack: contextlib.ExitStack) -> None:
    """That to resolve and to connect began when the first bytes had come."""
    settings = (
        "timeouts: { connect: 100ms }\nresolver: { timeout: 100ms, attempts: 1, hosts: { a.example: 127.0.0.1 } }\n"
    )
    gateway = start(settings + policy(upstream, "max: 1, when_full: wait 20s"))
    first = stack.enter_context(ask(gateway, upstream))
    assert first.recv(12) == ALLOWED
    last = stack.enter_context(ask(gateway, upstream))
    waiting(gateway, 1)
    time.sleep(2)
    first.close()
    assert last.recv(12) == ALLOWED


def test_requests_of_plain_http_wait_as_connections_do(start: Start, serve: Serve) -> None:
    origin = Origin()
    port = serve(origin).port
    gateway = start(f"""
listeners: [{{ name: proxy, bind: "127.0.0.1:0", accept: http }}]
resolver: {{ hosts: {{ {GOOD}: 127.0.0.1 }} }}
rules: [{{ name: r, to: ["{GOOD}:{port}"], connections: {{ new_per_second: 5, burst: 1, when_full: wait 5s }} }}]
""")
    began = time.monotonic()
    with socket.create_connection(gateway.address("proxy"), 20) as client:
        for _ in range(4):
            client.sendall(b"GET http://%s:%d/x HTTP/1.1\r\nHost: %s:%d\r\n\r\n" % ((GOOD.encode(), port) * 2))
            assert client.recv(65536)[:12] == ALLOWED
    assert 0.55 < time.monotonic() - began < 5
    assert origin.connections == 1
