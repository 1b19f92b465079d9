"""Bugs of a policy change that met a flow in an unusual moment."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from . import hellos
from .conftest import policy_for
from .gateway import Gateway, wait_for
from .servers import Server, echo
from .test_failures import full_queue

Start = Callable[..., Gateway]
Serve = Callable[..., Server]

GRACE = "timeouts: { grace: 30s, first_bytes: 20s }"


def test_a_refused_flow_keeps_the_rule_that_refused_it(start: Start) -> None:
    """Its rule's number was looked up in the policy that came into force while the client still read its refusal."""
    deny = "  - { name: no-denied, to: [denied.example], deny: true }\n"
    gateway = start(policy_for(443, rules=deny))
    with socket.create_connection(gateway.address("tls"), timeout=10) as client:
        client.sendall(hellos.real_hello("denied.example"))
        assert client.recv(100) == bytes([21, 3, 3, 0, 2, 2, 49])
        first = "rules:\n  - { name: another, to: [first.example] }\n  - { name: and-another, to: [second.example] }\n"
        assert gateway.reload(policy_for(443, rules=deny).replace("rules:\n", first)).returncode == 0
        assert gateway.record(name="denied.example")["rule"] == "no-denied"


def tunnel(gateway: Gateway, port: int) -> socket.socket:
    client = socket.create_connection(gateway.address("proxy"), timeout=10)
    client.sendall(b"CONNECT allowed.example:%d HTTP/1.1\r\nHost: allowed.example:%d\r\n\r\n" % (port, port))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv(1000)
    assert head.startswith(b"HTTP/1.1 200 ")
    return client


def deny_for_a_while(gateway: Gateway, port: int) -> str:
    allowed = policy_for(port, extra=GRACE)
    assert gateway.reload(allowed.replace(f"allowed.example:{port}", f"nobody.example:{port}")).returncode == 0
    wait_for("the flow to be closing", lambda: '"closing"' in gateway.egress("flows", "--json").stdout)
    return allowed


def test_a_rule_that_moves_down_keeps_the_flows_to_the_address_that_it_dials(start: Start, serve: Serve) -> None:
    """Its number under the old policy was looked up in the new one, where another rule has it, one without `dial`."""
    upstream = serve(echo)
    rule = f"  - {{ name: z, to: ['fixed.example:{upstream.port}'], dial: '127.0.0.1:{upstream.port}' }}\n"
    gateway = start("rules:\n" + rule)
    with socket.create_connection(gateway.address("proxy"), timeout=10) as client:
        client.sendall(b"CONNECT fixed.example:%d HTTP/1.1\r\nHost: fixed.example:%d\r\n\r\n" % ((upstream.port,) * 2))
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        client.sendall(b"ping")
        assert client.recv(4) == b"ping"
        assert gateway.reload("rules:\n  - { name: a, to: [a.example] }\n" + rule).returncode == 0
        client.sendall(b"pong")
        assert client.recv(4) == b"pong"
        # The other way round: what is dialled by nobody's order any more is screened as any address.
        gone = rule.replace(f", dial: '127.0.0.1:{upstream.port}'", "")
        assert gateway.reload("rules:\n" + gone).returncode == 0
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_flow_that_is_denied_while_it_is_dialled_is_told(start: Start) -> None:
    with full_queue() as port:
        rule = f"rules: [{{ name: r, to: ['127.0.0.1:{port}'] }}]"
        gateway = start(rule)
        with socket.create_connection(gateway.address("proxy"), timeout=10) as client:
            client.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % (port, port))
            wait_for("the dial", lambda: '"connecting"' in gateway.egress("flows", "--json").stdout)
            assert gateway.reload("rules: []").returncode == 0
            assert client.recv(12) == b"HTTP/1.1 403"
    assert gateway.record(end="refused")["reason"] == "default_deny"


def test_a_tunnel_that_is_allowed_again_may_finish_its_hello(start: Start, serve: Serve) -> None:
    """Its first bytes were taken to be overdue at once."""
    upstream = serve(echo)
    gateway = start(policy_for(upstream.port, extra=GRACE))
    hello = hellos.real_hello("allowed.example")
    with tunnel(gateway, upstream.port) as client:
        client.sendall(hello[:20])
        allowed = deny_for_a_while(gateway, upstream.port)
        assert gateway.reload(allowed).returncode == 0
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.recv(100)
        client.settimeout(10)
        client.sendall(hello[20:])
        back = b""
        while len(back) < len(hello):
            more = client.recv(65536)
            assert more, back
            back += more
    assert back == hello


def test_a_mismatch_in_a_closing_tunnel_is_told_in_tls(start: Start, serve: Serve) -> None:
    """The client was sent an HTTP answer in the middle of its tunnel."""
    upstream = serve(echo)
    gateway = start(policy_for(upstream.port, extra=GRACE))
    hello = hellos.real_hello("other.example")
    with tunnel(gateway, upstream.port) as client:
        client.sendall(hello[:20])
        deny_for_a_while(gateway, upstream.port)
        client.sendall(hello[20:])
        assert client.recv(100) == bytes([21, 3, 3, 0, 2, 2, 49])
