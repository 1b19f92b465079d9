"""Rules with `bandwidth`: never more than a rule's ceiling or its link has, whatever way in and in either direction;
and a class is never so held back that it does not go on."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import pytest

from . import hellos as h
from .gateway import Gateway, wait_for
from .origin import Origin
from .plain_http import Client
from .servers import Server
from .test_name_agreement import connect_to

pytestmark = pytest.mark.alone

Start = Callable[..., Gateway]
Serve = Callable[..., Server]
A, B = "a.example", "b.example"
HELLO = h.hello(h.sni(A.encode()))
MBIT = 125_000
#: What may go at once after a pause: 16 ms of debt, 2 ms of savings, and a turn of 10 ms on either side. Less than
#: is stated where a turn is 20 ms: these tests are of connections that do not pause.
BURST_S = 0.038


def flood(connection: socket.socket) -> None:
    """Sends as much as it can, whatever it is sent."""
    data = bytes(65536)
    while True:
        connection.sendall(data)


def policy(port: int, rules: str, links: str = "", workers: int = 1) -> str:
    return f"""
workers: {workers}
listeners:
  - {{ name: a, bind: "127.0.0.1:0", accept: tcp, to: "{A}:{port}" }}
  - {{ name: b, bind: "127.0.0.1:0", accept: tcp, to: "{B}:{port}" }}
  - {{ name: tls, bind: "127.0.0.1:0", accept: tls, port: {port} }}
  - {{ name: connect, bind: "127.0.0.1:0", accept: connect }}
resolver: {{ hosts: {{ {A}: 127.0.0.1, {B}: 127.0.0.1 }} }}
links: {{ {links} }}
rules:
{rules}
"""


class Reading(NamedTuple):
    """A connection from which everything is read; `counts` are bytes by the time that they came at."""

    connection: socket.socket
    counts: list[tuple[float, int]]

    def between(self, begin: float, end: float) -> int:
        return sum(count for at, count in self.counts if begin <= at < end)

    @property
    def total(self) -> int:
        return sum(count for _, count in self.counts)


@contextmanager
def reading(gateway: Gateway, listener: str, first: bytes = b"x", source: str = "127.0.0.1") -> Iterator[Reading]:
    connection = socket.create_connection(gateway.address(listener), timeout=10, source_address=(source, 0))
    connection.sendall(first)
    counts: list[tuple[float, int]] = []

    def run() -> None:
        try:
            while data := connection.recv(65536):
                counts.append((time.monotonic(), len(data)))
        except OSError:
            pass

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield Reading(connection, counts)
    finally:
        # Its gateway may be gone.
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()
        thread.join()


FIRST = {"a": b"x", "tls": HELLO, "connect": connect_to(f"{A}:%PORT") + b"x"}


@pytest.mark.parametrize("listener", FIRST)
def test_no_more_comes_down_than_the_ceiling(start: Start, serve: Serve, listener: str) -> None:
    upstream = serve(flood)
    rate = 16 * MBIT
    gateway = start(policy(upstream.port, f'  - {{ name: r, to: ["{A}:{upstream.port}"], bandwidth: 16 Mbit/s }}'))
    first = FIRST[listener].replace(b"%PORT", b"%d" % upstream.port)
    begin = time.monotonic()
    with reading(gateway, listener, first) as got:
        wait_for("two megabytes", lambda: got.total >= 2_000_000)
        took = time.monotonic() - begin
        # What the client's own buffers hold is not there yet.
        assert got.total <= rate * (took + BURST_S) + 65536
        assert took >= 2_000_000 / rate - BURST_S - 0.05


def test_no_more_goes_up_than_the_ceiling(start: Start, serve: Serve) -> None:
    received = 0

    def sink(connection: socket.socket) -> None:
        nonlocal received
        while data := connection.recv(65536):
            received += len(data)

    upstream = serve(sink)
    gateway = start(policy(upstream.port, f'  - {{ name: r, to: ["{A}:{upstream.port}"], bandwidth: 16 Mbit/s }}'))
    begin = time.monotonic()
    with socket.create_connection(gateway.address("a"), timeout=30) as client:
        client.sendall(bytes(4_000_000))
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    took = time.monotonic() - begin
    assert received == 4_000_000
    assert took >= 4_000_000 / (16 * MBIT) - BURST_S - 0.05
    record = gateway.record(end="closed")
    assert record["bytes_up"] == 4_000_000


def test_directions_do_not_share_a_ceiling(start: Start, serve: Serve) -> None:
    """What fills one does not take from the other."""
    upstream = serve(flood)
    rules = f'  - {{ name: r, to: ["{A}:{upstream.port}"], bandwidth: 8 Mbit/s }}'
    gateway = start(policy(upstream.port, rules))
    with reading(gateway, "a") as got:
        wait_for("the flood", lambda: got.total > 100_000)
        begin = time.monotonic()
        got.connection.sendall(bytes(10_000))
        wait_for("more", lambda: got.between(begin, begin + 60) > 500_000)


def test_a_guarantee_and_what_is_lent(start: Start, serve: Serve) -> None:
    upstream = serve(flood)
    port = upstream.port
    rules = f"""
  - {{ name: owner, to: ["{A}:{port}"], bandwidth: {{ guarantee: 24 Mbit/s }} }}
  - {{ name: greedy, to: ["{B}:{port}"], bandwidth: {{ weight: 1 }} }}
"""
    gateway = start(policy(port, rules, "wan: { bandwidth: 32 Mbit/s }"))
    with reading(gateway, "b") as greedy:
        # Nobody else is there: all of the link is lent.
        begin = time.monotonic()
        wait_for("what is lent", lambda: greedy.total > 2_000_000)
        assert greedy.total / (time.monotonic() - begin + BURST_S) <= 32 * MBIT * 1.05 + 65536
        with reading(gateway, "a") as owner:
            time.sleep(0.5)
            begin = time.monotonic()
            wait_for("the owner's", lambda: owner.between(begin, begin + 60) > 3_000_000)
            end = time.monotonic()
            # 24 of 32, and half of what is left; that of the others and never more than the rest.
            assert greedy.between(begin, end) < owner.between(begin, end) / 3
            both = greedy.between(begin, end) + owner.between(begin, end)
            assert both <= 32 * MBIT * (end - begin + 0.1) * 1.02 + 2 * 65536


def test_sources_share_evenly_however_many_connections_they_have(start: Start, serve: Serve) -> None:
    upstream = serve(flood)
    rules = f'  - {{ name: r, to: ["{A}:{upstream.port}"], bandwidth: {{ max: 32 Mbit/s, share_by: source }} }}'
    gateway = start(policy(upstream.port, rules, workers=2))
    with reading(gateway, "a", source="127.0.0.2") as alone:
        many = [reading(gateway, "a", source="127.0.0.3") for _ in range(8)]
        readings = [one.__enter__() for one in many]
        try:
            time.sleep(0.5)
            begin = time.monotonic()
            wait_for("the lone one's", lambda: alone.between(begin, begin + 60) > 3_000_000, 30)
            end = time.monotonic()
            others = sum(one.between(begin, end) for one in readings)
            assert 0.8 < alone.between(begin, end) / others < 1.25
        finally:
            for one in many:
                one.__exit__(None, None, None)


def test_a_rate_changes_while_connections_go_on(start: Start, serve: Serve) -> None:
    upstream = serve(flood)
    rule = f'  - {{ name: r, to: ["{A}:{upstream.port}"], bandwidth: 80 Mbit/s }}'
    gateway = start(policy(upstream.port, rule))
    with reading(gateway, "a") as got:
        wait_for("some", lambda: got.total > 2_000_000)
        gateway.reload(gateway.policy_file.read_text().replace("80 Mbit/s", "800 kbit/s"))
        time.sleep(0.5)
        begin = time.monotonic()
        time.sleep(1)
        slow = got.between(begin, begin + 1)
        assert 0 < slow <= 2 * 100_000
        gateway.reload(gateway.policy_file.read_text().replace("bandwidth: 800 kbit/s", "why: free"))
        begin = time.monotonic()
        wait_for("a lot", lambda: got.between(begin, begin + 60) > 20_000_000)
    assert len(gateway.records()) <= 1


def test_a_connection_moves_to_its_new_class_with_what_it_has_moved(start: Start, serve: Serve) -> None:
    upstream = serve(flood)
    rule = f'  - {{ name: old, to: ["{A}:{upstream.port}"], bandwidth: 80 Mbit/s }}'
    gateway = start(policy(upstream.port, rule))
    with reading(gateway, "a") as got:
        wait_for("some", lambda: got.total > 2_000_000)
        before = got.total
        gateway.reload(
            gateway.policy_file.read_text().replace("name: old", "name: new").replace("80 Mbit/s", "8 Mbit/s")
        )
        (alone,) = json.loads(gateway.egress("links", "--json", "--seconds", "1").stdout)
        (new,) = alone["classes"]
        assert (new["rule"], new["flows"]) == ("new", 1) and 0 < new["down"]["rate"] < 12_000_000
        wait_for("more", lambda: got.total > before + 1_000_000)
    record = gateway.record(rule="new")
    assert record["bytes_down"] > 3_000_000 and record["held"]["by"] == "new"
    assert len(gateway.records()) == 1


BORROWED = r'egress_class_borrowed_bytes_total{link="wan",rule="greedy",direction="down"} (\d+)'


def test_links_metrics_and_the_record_say_who_was_held_back(start: Start, serve: Serve) -> None:
    upstream = serve(flood)
    port = upstream.port
    rules = f"""
  - {{ name: owner, to: ["{A}:{port}"], bandwidth: {{ guarantee: 16 Mbit/s }} }}
  - {{ name: greedy, to: ["{B}:{port}"], bandwidth: {{ weight: 2 }} }}
  - {{ name: apart, to: ["c.example"], bandwidth: {{ max: 1 Mbit/s }} }}
"""
    gateway = start(policy(port, rules, "wan: { bandwidth: 32 Mbit/s }"))
    with reading(gateway, "b") as greedy:
        wait_for("more than a burst", lambda: greedy.total > 2_000_000)
        told = gateway.egress("links")
        assert told.returncode == 0 and told.stderr == ""
        assert re.search(r"^wan, down: [\d.]+ Mbit/s of 32 Mbit/s", told.stdout, re.M)
        assert re.search(
            r"^  greedy .* borrows [\d.]+ Mbit/s that nobody is promised, [\d.]+ Mbit/s of owner$", told.stdout, re.M
        )
        (link,) = json.loads(gateway.egress("links", "--json", "--seconds", "0.5").stdout)
        owner, greedy_row, _ = link["classes"]
        assert greedy_row["flows"] == 1 and owner["flows"] == 0
        assert 0.5 * 32e6 < greedy_row["down"]["rate"] < 1.2 * 32e6
        assert owner["down"]["lends"] > 0 == owner["up"]["lends"]
        metrics = gateway.egress("metrics").stdout
        (borrowed,) = re.findall(
            r'egress_class_borrowed_bytes_total{link="wan",rule="greedy",direction="down"} (\d+)', metrics
        )
        assert int(borrowed) > 1_000_000
        assert 'egress_class_flows{link="wan",rule="greedy"} 1\n' in metrics
    record = gateway.record(name=B)
    assert record["held"]["by"] == "greedy" and record["held"]["down_ms"] > 100 > record["held"]["up_ms"]
    # What was counted outlives a reload; when the last connection is gone, nobody is said to wait.
    gateway.reload(gateway.policy_file.read_text().replace("weight: 2", "weight: 3"))

    def waiting() -> list[str]:
        text = gateway.egress("metrics").stdout
        assert int(
            re.findall(r'egress_class_borrowed_bytes_total{link="wan",rule="greedy",direction="down"} (\d+)', text)[0]
        )
        return re.findall(r'egress_class_(?:waiting_)?flows{link="wan",rule="greedy".*} (\d+)', text)

    wait_for("nobody", lambda: waiting() == ["0", "0", "0"])


def test_a_worker_that_sleeps_is_not_given_a_part(start: Start, serve: Serve) -> None:
    """A worker that has served its last waiting connection told nobody, and kept its part of the ceiling."""
    upstream = serve(flood)
    rule = f'  - {{ name: r, to: ["{A}:{upstream.port}"], bandwidth: 32 Mbit/s }}'
    gateway = start(policy(upstream.port, rule, workers=4))
    for _ in range(12):
        with reading(gateway, "a") as got:
            wait_for("more than a burst", lambda: got.total > 200_000)
    with reading(gateway, "a") as alone:
        time.sleep(0.3)
        begin = time.monotonic()
        wait_for("its rate", lambda: alone.between(begin, begin + 60) > 4_000_000, 30)
        # The whole of it, and not the half that another worker's leaves.
        assert time.monotonic() - begin < 4_000_000 / (32 * MBIT) * 1.6


@pytest.mark.parametrize("framing", ["Content-Length: 10000", "Transfer-Encoding: chunked"])
def test_bodies_that_come_with_their_heads_have_the_rate(start: Start, framing: str) -> None:
    """They were in memory when the rule was known, and went up beside its class."""
    rate = 16 * MBIT // 10
    body = bytes(10_000) if "Length" in framing else b"2710\r\n" + bytes(10_000) + b"\r\n0\r\n\r\n"
    with Server(Origin()) as server:
        gateway = start(
            "egress: v1\n"
            'listeners: [{ name: proxy, bind: "127.0.0.1:0", accept: http }]\n'
            f"resolver: {{ hosts: {{ {A}: 127.0.0.1 }} }}\n"
            f'rules: [{{ name: r, to: ["{A}:{server.port}"], bandwidth: 1600 kbit/s }}]\n'
        )
        there = f"{A}:{server.port}"
        request = f"POST http://{there}/ HTTP/1.1\r\nHost: {there}\r\n{framing}\r\n\r\n".encode() + body
        begin = time.monotonic()
        with Client(socket.create_connection(gateway.address("proxy"), timeout=30)) as client:
            for _ in range(40):
                client.send(request)
                assert client.answer("POST").status == 200
        assert time.monotonic() - begin > 400_000 / rate - BURST_S - 0.1
    record = gateway.record(end="closed")
    assert record["bytes_up"] > 10_000
