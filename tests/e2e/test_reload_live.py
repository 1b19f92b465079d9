"""A policy change takes effect whole, touches only the flows that it denies, and a broken one touches nothing."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from collections.abc import Callable

import pytest

from .gateway import Gateway, wait_for
from .servers import Server, echo
from .test_failures import ask

Start = Callable[..., Gateway]
Serve = Callable[..., Server]


def rules(*ports: int, extra: str = "") -> str:
    lines = [f"  - {{ name: port-{port}, to: ['127.0.0.1:{port}'] }}" for port in ports]
    return extra + "\nrules:\n" + ("\n".join(lines) if lines else "  []") + "\n"


def tunnel(gateway: Gateway, port: int) -> socket.socket:
    client = socket.create_connection(gateway.address("proxy"), timeout=20)
    client.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % (port, port))
    assert client.recv(4096).startswith(b"HTTP/1.1 200")
    client.sendall(b"ping")
    assert client.recv(4) == b"ping"
    return client


def alive(client: socket.socket) -> bool:
    try:
        client.sendall(b"ping")
        return client.recv(4) == b"ping"
    except OSError:
        return False


def test_a_removed_rule_closes_exactly_its_flows(start: Start, serve: Serve) -> None:
    one, two = serve(echo), serve(echo)
    gateway = start(rules(one.port, two.port))
    stays, goes = tunnel(gateway, one.port), tunnel(gateway, two.port)
    with stays, goes:
        result = gateway.reload(rules(one.port))
        assert result.returncode == 0, result.stdout + result.stderr
        with pytest.raises(ConnectionResetError):
            goes.recv(1)
        assert alive(stays)
        record = gateway.record(end="policy_changed")
        assert (record["reason"], record["verdict"], record["port"]) == ("policy_changed", "deny", two.port)
        assert gateway.status()["generation"] == 2


def test_a_denied_flow_has_its_grace(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    timeouts = "timeouts: { grace: 1s }"
    gateway = start(rules(upstream.port, extra=timeouts))
    with tunnel(gateway, upstream.port) as client:
        assert gateway.reload(rules(extra=timeouts)).returncode == 0
        assert alive(client), "within its grace"
        began = time.monotonic()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert time.monotonic() - began > 0.5


def test_a_closing_flow_counts_once_and_takes_no_place_of_its_rule(start: Start, serve: Serve) -> None:
    """Each further change counted it again, and `connections.max` kept out those that the rule now allows."""
    upstream = serve(echo)

    def policy(source: str, more: str = "") -> str:
        rule = f"name: r, from: {{ cidr: {source} }}, to: ['127.0.0.1:{upstream.port}'], connections: {{ max: 1 }}"
        return f"timeouts: {{ grace: 30s }}\nrules: [{{ {rule} }}{more}]"

    gateway = start(policy("127.0.0.1"))
    with tunnel(gateway, upstream.port):
        for number in range(3):
            assert gateway.reload(policy("127.0.0.2", f", {{ name: n, to: [n{number}.example] }}")).returncode == 0
        assert re.search(r"^egress_policy_closed_flows_total\S* 1$", gateway.egress("metrics").stdout, re.MULTILINE)
        with socket.create_connection(gateway.address("proxy"), 20, ("127.0.0.2", 0)) as other:
            other.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % ((upstream.port,) * 2))
            assert other.recv(12) == b"HTTP/1.1 200"


def test_a_rule_that_comes_back_within_the_grace_keeps_the_flow(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    timeouts = "timeouts: { grace: 2s }"
    gateway = start(rules(upstream.port, extra=timeouts))
    with tunnel(gateway, upstream.port) as client:
        assert gateway.reload(rules(extra=timeouts)).returncode == 0
        assert gateway.reload(rules(upstream.port, extra=timeouts)).returncode == 0
        time.sleep(2.5)
        assert alive(client)


def test_a_broken_file_changes_nothing_and_is_seen_everywhere(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(rules(upstream.port))
    with tunnel(gateway, upstream.port) as client:
        result = gateway.reload("rules:\n  - { name: port, too: [x.example] }\n")
        assert result.returncode == 1
        assert "too" in result.stdout and "policy.yaml" in result.stdout
        status = gateway.status()
        assert status["generation"] == 1
        assert "policy.yaml" in json.dumps(status)
        assert "egress_config_error 1" in gateway.egress("metrics").stdout
        assert "policy.yaml" in gateway.stderr()
        assert alive(client)
    assert gateway.reload(rules(upstream.port)).returncode == 0
    assert "egress_config_error 0" in gateway.egress("metrics").stdout


def test_a_changed_file_is_noticed_without_being_told(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(rules())
    assert ask(gateway, "127.0.0.1", upstream.port).startswith(b"HTTP/1.1 403")
    gateway.write(rules(upstream.port))
    wait_for("the new policy", lambda: ask(gateway, "127.0.0.1", upstream.port).startswith(b"HTTP/1.1 200"))
    assert gateway.status()["generation"] == 2


def test_sighup_reloads(start: Start) -> None:
    gateway = start(rules())
    gateway.write(rules(9))
    gateway.process.send_signal(signal.SIGHUP)
    wait_for("the reload", lambda: gateway.status()["generation"] == 2)


def test_an_unchanged_policy_is_no_new_generation(start: Start) -> None:
    gateway = start(rules(9))
    for _ in range(3):
        assert gateway.reload().returncode == 0
    assert gateway.status()["generation"] == 1


def test_what_cannot_change_live_is_named_and_refused(start: Start) -> None:
    gateway = start(rules(9))
    result = gateway.reload("listeners: [{ name: other, bind: '127.0.0.1:0', accept: tls }]\n" + rules(9))
    assert result.returncode == 1
    assert "listeners" in result.stdout and "restart" in result.stdout
    assert gateway.status()["generation"] == 1


def test_a_rule_ends_at_its_until_without_a_reload(start: Start, serve: Serve) -> None:
    brief, kept, denied = serve(echo), serve(echo), serve(echo)
    end = int(time.time()) + 5
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end))
    gateway = start(
        "rules:\n"
        f"  - {{ name: brief, to: ['127.0.0.1:{brief.port}', '127.0.0.1:{kept.port}'], until: {stamp} }}\n"
        f"  - {{ name: lasting, to: ['127.0.0.1:{kept.port}', '127.0.0.1:{denied.port}'] }}\n"
        f"  - {{ name: freeze, deny: true, to: '127.0.0.1:{denied.port}', until: {stamp} }}\n"
    )
    with tunnel(gateway, brief.port) as goes, tunnel(gateway, kept.port) as stays:
        assert ask(gateway, "127.0.0.1", denied.port).startswith(b"HTTP/1.1 403")
        assert time.time() < end, "the machine is too slow for this test"
        goes.settimeout(10)
        with pytest.raises(ConnectionResetError):
            goes.recv(1)
        assert end <= time.time() < end + 3
        record = gateway.record(end="policy_changed")
        assert (record["reason"], record["port"]) == ("policy_changed", brief.port)
        assert alive(stays), "another rule allows it"
    assert ask(gateway, "127.0.0.1", brief.port).startswith(b"HTTP/1.1 403")
    tunnel(gateway, denied.port).close()
    assert gateway.status()["generation"] == 1


def test_2000_idle_connections_live_through_1000_reloads(start: Start, serve: Serve) -> None:
    upstream, other = serve(echo), serve(echo)
    gateway = start(rules(upstream.port, other.port))
    idle = [tunnel(gateway, upstream.port) for _ in range(1990)]
    doomed = [tunnel(gateway, other.port) for _ in range(10)]
    client = ControlClient(gateway)
    try:
        for turn in range(20):
            client.reload(rules(upstream.port, other.port, extra=f"timeouts: {{ connect: {turn + 1}s }}"))
        descriptors, memory = gateway.descriptors(), gateway.resident()
        for turn in range(1000):
            client.reload(rules(upstream.port, other.port, extra=f"timeouts: {{ connect: {turn + 100}s }}"))
        assert gateway.status()["generation"] == 1021
        assert gateway.descriptors() == descriptors, "no descriptor leaks"
        assert gateway.resident() < memory + 8 * 1024 * 1024, "no memory leaks"
        assert all(alive(client) for client in idle + doomed), "no connection was reset"
        client.reload(rules(upstream.port))
        for connection in doomed:
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        assert all(alive(client) for client in idle)
        closed = [record for record in gateway.records() if record["end"] == "policy_changed"]
        assert wait_for("the records", lambda: len(gateway.records()) >= 10)
        closed = [record for record in gateway.records() if record["end"] == "policy_changed"]
        assert len(closed) == 10
    finally:
        for connection in idle + doomed:
            connection.close()


class ControlClient:
    """Reloads over the unix socket without starting a process for each."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def reload(self, policy: str) -> None:
        self.gateway.write(policy)
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(30)
            control.connect(str(self.gateway.control))
            control.sendall(b"POST /reload HTTP/1.1\r\nHost: local\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            answer = b""
            while data := control.recv(65536):
                answer += data
        assert answer.startswith(b"HTTP/1.1 200"), answer
