"""Every way in which a flow fails ends in its own recorded outcome, and the client is told."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from .gateway import Gateway, wait_for
from .servers import Server, echo

Start = Callable[..., Gateway]
Serve = Callable[..., Server]


def ask(gateway: Gateway, host: str, port: int = 443) -> bytes:
    """The whole answer to a CONNECT that does not succeed, or the head of one that does."""
    with socket.create_connection(gateway.address("proxy"), timeout=20) as client:
        target = b"%s:%d" % (host.encode(), port)
        client.sendall(b"CONNECT %s HTTP/1.1\r\nHost: %s\r\nAccept: application/json\r\n\r\n" % (target, target))
        answer = client.recv(65536)
        if not answer.startswith(b"HTTP/1.1 200"):
            while data := client.recv(65536):
                answer += data
        return answer


@contextlib.contextmanager
def full_queue() -> Iterator[int]:
    """A port whose accept queue is full: the kernel drops further SYNs, so connecting never ends."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@contextlib.contextmanager
def silent_dns() -> Iterator[int]:
    """A name server that never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        yield server.getsockname()[1]


def test_a_refused_connection_is_a_502(start: Start) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        gateway = start(f"rules: [{{ name: r, to: ['127.0.0.1:{port}'] }}]")
        answer = ask(gateway, "127.0.0.1", port)
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b'"error":"connect_refused"' in answer
    assert gateway.record(rule="r")["end"] == "connect_refused"


def test_an_upstream_that_never_answers_is_a_504(start: Start) -> None:
    with full_queue() as port:
        gateway = start(f"timeouts: {{ connect: 500ms }}\nrules: [{{ name: r, to: ['127.0.0.1:{port}'] }}]")
        answer = ask(gateway, "127.0.0.1", port)
    assert answer.startswith(b"HTTP/1.1 504 ")
    record = gateway.record(rule="r")
    assert record["end"] == "connect_timeout"
    assert 500 <= record["duration_ms"] < 5000


def test_reloads_do_not_put_off_the_end_of_a_dial(start: Start) -> None:
    """Each change of the policy begins the dial anew; the flow's time to be connected goes on."""
    with full_queue() as port:

        def policy(number: int) -> str:
            return (
                "timeouts: { connect: 1s }\nresolver: { timeout: 100ms, attempts: 1 }\n"
                f"rules: [{{ name: r, to: ['127.0.0.1:{port}'] }}, {{ name: n{number}, to: [n{number}.example] }}]"
            )

        gateway = start(policy(0))
        with socket.create_connection(gateway.address("proxy"), timeout=30) as client:
            client.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % (port, port))
            client.settimeout(0.3)
            for number in range(1, 40):
                with contextlib.suppress(TimeoutError):
                    assert client.recv(12) == b"HTTP/1.1 504"
                    return
                assert gateway.reload(policy(number)).returncode == 0
    pytest.fail("40 reloads have kept the dial going")


def test_a_resolver_that_times_out_is_a_504(start: Start) -> None:
    with silent_dns() as dns:
        gateway = start(
            f"resolver: {{ servers: ['127.0.0.1:{dns}'], timeout: 200ms, attempts: 2 }}\n"
            "rules: [{ name: r, to: [some.example] }]"
        )
        answer = ask(gateway, "some.example")
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert gateway.record(rule="r")["end"] == "resolve_timeout"


def test_a_client_that_leaves_while_we_dial_is_recorded(start: Start) -> None:
    with full_queue() as port:
        gateway = start(f"timeouts: {{ connect: 20s }}\nrules: [{{ name: r, to: ['127.0.0.1:{port}'] }}]")
        client = socket.create_connection(gateway.address("proxy"))
        client.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % (port, port))
        wait_for(
            "the flow to be dialling", lambda: b'"connecting"' in gateway.egress("flows", "--json").stdout.encode()
        )
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        assert gateway.record(rule="r")["end"] == "client_gone"


def test_used_up_descriptors_turn_connections_away_and_serve_again(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(
        f"listeners: [{{ name: tcp, bind: '127.0.0.1:0', accept: tcp, to: '127.0.0.1:{upstream.port}' }}]\n"
        f"max_flows: 1000\nworkers: 1\nrules: [{{ name: r, to: ['127.0.0.1:{upstream.port}'] }}]"
    )
    limit = gateway.descriptors() + 20
    resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            # Turned away at once, it may be reset before connect(2) has returned.
            with contextlib.suppress(ConnectionResetError):
                stack.enter_context(socket.create_connection(gateway.address("tcp"), timeout=10))
        record = gateway.record(end="out_of_resources")
        assert record["reason"] in ("overloaded", "rule")

    def served() -> bool:
        # Connections that still wait in the queue may take the last descriptors once more.
        with contextlib.suppress(OSError), socket.create_connection(gateway.address("tcp"), timeout=10) as client:
            client.sendall(b"again")
            return client.recv(100) == b"again"
        return False

    wait_for("the gateway to serve again", served)


def test_more_flows_than_the_bound_are_turned_away(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(
        f"listeners: [{{ name: tcp, bind: '127.0.0.1:0', accept: tcp, to: '127.0.0.1:{upstream.port}' }}]\n"
        f"max_flows: 5\nworkers: 1\nrules: [{{ name: r, to: ['127.0.0.1:{upstream.port}'] }}]"
    )
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            client = stack.enter_context(socket.create_connection(gateway.address("tcp"), timeout=10))
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        with (
            pytest.raises(ConnectionResetError),
            socket.create_connection(gateway.address("tcp"), timeout=10) as sixth,
        ):
            sixth.recv(1)
    assert gateway.record(end="out_of_resources")["reason"] == "overloaded"

    def served() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(gateway.address("tcp"), timeout=10) as client:
            client.sendall(b"x")
            return client.recv(1) == b"x"
        return False

    # Room is given back: more flows, one after the other, than there is room for at once.
    for _ in range(12):
        wait_for("room for one more", served)


def test_a_rules_connections_are_bounded_over_all_workers(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(f"workers: 2\nrules: [{{ name: r, to: ['127.0.0.1:{upstream.port}'], connections: {{ max: 3 }} }}]")
    held = []
    try:
        for _ in range(3):
            client = socket.create_connection(gateway.address("proxy"), timeout=10)
            client.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % ((upstream.port,) * 2))
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
            held.append(client)
        assert ask(gateway, "127.0.0.1", upstream.port).startswith(b"HTTP/1.1 429 ")
        assert gateway.record(reason="connection_limit")["rule"] == "r"
        held.pop().close()
        wait_for("room", lambda: ask(gateway, "127.0.0.1", upstream.port).startswith(b"HTTP/1.1 200"))
    finally:
        for client in held:
            client.close()


def test_refused_clients_that_linger_take_no_place_of_the_rule(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(f"workers: 1\nrules: [{{ name: r, to: ['127.0.0.1:{upstream.port}'], connections: {{ max: 1 }} }}]")
    with contextlib.ExitStack() as stack:

        def connect() -> tuple[socket.socket, bytes]:
            client = stack.enter_context(socket.create_connection(gateway.address("proxy"), timeout=10))
            client.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % ((upstream.port,) * 2))
            return client, client.recv(12)

        allowed, answer = connect()
        assert answer == b"HTTP/1.1 200"
        # None of these closes: the gateway waits a while for each to have read its refusal.
        assert [connect()[1] for _ in range(5)] == [b"HTTP/1.1 429"] * 5
        allowed.close()
        gateway.record(verdict="allow")
        assert connect()[1] == b"HTTP/1.1 200"


def test_a_rules_new_connections_are_bounded_in_rate(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(f"rules: [{{ name: r, to: ['127.0.0.1:{upstream.port}'], connections: {{ new_per_second: 5 }} }}]")
    answers = [ask(gateway, "127.0.0.1", upstream.port)[:13] for _ in range(20)]
    assert 5 <= answers.count(b"HTTP/1.1 200 ") < 20
    assert answers.count(b"HTTP/1.1 429 ") == 20 - answers.count(b"HTTP/1.1 200 ")
    assert gateway.record(reason="connection_rate")["rule"] == "r"


def test_the_gateway_never_dials_itself(start: Start) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    gateway = start(
        f"listeners: [{{ name: proxy, bind: '0.0.0.0:{port}', accept: connect }}]\n"
        f"rules: [{{ name: r, to: ['127.0.0.0/8:{port}'] }}]"
    )
    gateway.listeners["proxy"] = f"127.0.0.1:{port}"
    answer = ask(gateway, "127.0.0.1", port)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert gateway.record(rule="r")["reason"] == "own_address"


def test_a_silent_client_is_timed_out(start: Start) -> None:
    gateway = start("timeouts: { first_bytes: 300ms }\nrules: []")
    with socket.create_connection(gateway.address("tls"), timeout=10) as client:
        assert client.recv(100)[:1] in (b"", b"\x15")
    record = gateway.record(reason="first_bytes_timeout")
    assert 300 <= record["duration_ms"] < 3000


def test_threads_end(serve: Serve) -> None:
    """The harness itself leaves nothing behind."""
    before = threading.active_count()
    with Server(echo) as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
    wait_for("the threads to end", lambda: threading.active_count() <= before)
