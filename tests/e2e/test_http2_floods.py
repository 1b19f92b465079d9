"""HTTP/2 clients that cost more than they pay: floods of frames that need an answer, headers without end, bytes one by
one, clients that never read. Each is bounded in memory, and nobody else waits for it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest

from .conftest import policy_for
from .gateway import Gateway, wait_for
from .servers import Server, echo
from .test_http2 import CONNECT_ERROR, GOOD, client

Start = Callable[..., Gateway]
Serve = Callable[..., Server]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
MIB = 1 << 20
#: Frames of one byte that are sent before the server's answer is waited for.
BATCH = 2000


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def is_served(gateway: Gateway, port: int) -> None:
    """Another client gets its echo, and soon."""
    began = time.monotonic()
    with client(gateway) as other:
        number = other.tunnel(f"{GOOD}:{port}")
        other.send(number, b"ping", end=True)
        assert other.answer(number).body == b"ping"
    assert time.monotonic() - began < 5


def pour(connection: socket.socket, data: bytes) -> int:
    """Sends without ever reading, until a second passes in which none of it is taken; how much was."""
    connection.settimeout(1)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < len(data):
            sent += connection.send(data[sent : sent + MIB])
    return sent


@pytest.mark.parametrize(
    ("flood", "name"),
    [(frame(6, 0, 0, b"12345678"), "PING"), (frame(4, 0, 0, b"\0\4\0\0\xff\xff"), "SETTINGS")],
    ids=["ping", "settings"],
)
def test_frames_that_want_an_answer_wait_for_their_sender_to_read(
    start: Start, serve: Serve, flood: bytes, name: str
) -> None:
    """CVE-2019-9512 and CVE-2019-9515: answers that nobody reads are not kept."""
    upstream = serve(echo)
    gateway = start(policy_for(upstream.port))
    is_served(gateway, upstream.port)
    before = gateway.resident()
    with socket.create_connection(gateway.address("proxy"), timeout=15) as flooding:
        everything = PREFACE + flood * (64 * MIB // len(flood))
        assert pour(flooding, everything) < len(everything), f"each {name} is read, and no answer is"
        is_served(gateway, upstream.port)
        assert gateway.resident() - before < 8 * MIB


def test_a_header_section_without_end_ends_the_connection(start: Start, serve: Serve) -> None:
    """CVE-2024-27316: CONTINUATION after CONTINUATION, none of them the last."""
    upstream = serve(echo)
    gateway = start(policy_for(upstream.port))
    before = gateway.resident()
    with socket.create_connection(gateway.address("proxy"), timeout=15) as flooding:
        with contextlib.suppress(ConnectionError):
            flooding.sendall(PREFACE + frame(1, 0, 1, b"\x82") + frame(9, 0, 1, b"\x82") * 200_000)
        with contextlib.suppress(ConnectionError):
            while flooding.recv(65536):
                pass
    assert gateway.record(reason="malformed")["other_name"] == "http2_frames"
    assert gateway.resident() - before < 8 * MIB
    is_served(gateway, upstream.port)


def test_a_header_section_that_is_too_large_is_answered_and_the_connection_goes_on(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(policy_for(upstream.port))
    with client(gateway) as http2:
        for _ in range(3):
            stream = http2.answer(http2.connect(f"{GOOD}:{upstream.port}", accept="a" * 40_000))
            assert stream.headers == {":status": "431"}
        number = http2.tunnel(f"{GOOD}:{upstream.port}")
        http2.send(number, b"ping", end=True)
        assert http2.answer(number).body == b"ping"
    assert upstream.accepted == 1


def test_bytes_one_by_one_take_no_more_memory_than_others(start: Start, serve: Serve) -> None:
    """A frame of one byte counts one in the window and some hundred in memory: they are not kept as they came."""
    reads = threading.Event()
    got = []

    def late(connection: socket.socket) -> None:
        reads.wait(60)
        total = 0
        while data := connection.recv(65536):
            total += len(data)
        got.append(total)

    upstream, quick = serve(late), serve(echo)
    rules = f'  - {{ name: late, to: "other.example:{upstream.port}" }}'
    gateway = start(policy_for(quick.port, rules=rules))
    with client(gateway) as http2:
        streams = [http2.tunnel(f"other.example:{upstream.port}") for _ in range(4)]
        for number in streams:
            # Large ones first, until the sockets on the way are full and the window begins to close.
            while http2.h2.local_flow_control_window(number) > 125_000:
                http2.send(number, bytes(16_000))
                http2.settle()
        before = gateway.resident()
        total = 0
        for number in streams:
            room = http2.h2.local_flow_control_window(number)
            for _ in range(room // BATCH):
                http2.socket.sendall(frame(0, 0, number, b"x") * BATCH)
                http2.settle()
                total += BATCH
        assert total >= 100_000, "too few to tell"
        is_served(gateway, quick.port)
        assert gateway.resident() - before < 8 * MIB
        reads.set()
        for number in streams:
            http2.socket.sendall(frame(0, 1, number, b""))
        wait_for("all bytes", lambda: len(got) == len(streams))
        assert http2.goaway is None
    wait_for("the records", lambda: len(gateway.records()) == len(streams) + 1)
    up = [one["bytes_up"] for one in gateway.records() if one["name"] == "other.example"]
    assert sorted(up) == sorted(got) and sum(got) >= total


def test_who_never_reads_holds_little_memory(start: Start, serve: Serve) -> None:
    def endless(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(bytes(65536))

    upstream, quick = serve(endless), serve(echo)
    rules = f'  - {{ name: endless, to: "other.example:{upstream.port}" }}'
    gateway = start(policy_for(quick.port, rules=rules))
    before = gateway.resident()
    with client(gateway, window=0) as closed, client(gateway, window=(1 << 31) - 1) as deaf:
        for _ in range(50):
            closed.connect(f"other.example:{upstream.port}")
            deaf.connect(f"other.example:{upstream.port}")
        wait_for("100 tunnels", lambda: upstream.accepted == 100)
        is_served(gateway, quick.port)
        time.sleep(1)
        assert gateway.resident() - before < 32 * MIB
        is_served(gateway, quick.port)


def test_many_resets_by_a_policy_leave_the_other_streams_alone(start: Start, serve: Serve) -> None:
    """What a client has sent on a stream before it learns of its reset is not held against it."""
    upstream, other = serve(echo), serve(echo)
    also = f'  - {{ name: also, to: "other.example:{other.port}" }}'
    gateway = start(policy_for(upstream.port, rules=also))
    with client(gateway) as http2:
        kept = http2.tunnel(f"{GOOD}:{upstream.port}")
        lost = [http2.tunnel(f"other.example:{other.port}") for _ in range(90)]
        denied = gateway.reload(policy_for(upstream.port))
        assert denied.returncode == 0, denied.stdout
        wait_for("the resets", lambda: sum(one["end"] == "policy_changed" for one in gateway.records()) == 90)
        for number in lost:
            for _ in range(3):
                http2.h2.send_data(number, b"late")
        http2.send(kept, b"ping", end=True)
        assert http2.answer(kept).body == b"ping"
        assert [http2.answer(number).reset for number in lost] == [CONNECT_ERROR] * 90
        assert http2.goaway is None


def test_a_connection_without_streams_is_closed_in_the_end(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(policy_for(upstream.port, extra="timeouts: { idle: 1s }"))
    with client(gateway) as http2:
        number = http2.tunnel(f"{GOOD}:{upstream.port}")
        http2.send(number, b"ping", end=True)
        http2.answer(number)
        began = time.monotonic()
        # Its pings do not count.
        while http2.goaway is None:
            http2.h2.ping(b"12345678")
            http2.flush()
            http2.step()
            time.sleep(0.1)
            assert time.monotonic() - began < 10
        assert time.monotonic() - began > 0.5
        with contextlib.suppress(AssertionError):
            http2.wait(lambda: http2.closed, seconds=10)
        assert http2.goaway == 0


def test_streams_that_are_only_opened_and_reset_cost_a_policy_nothing(start: Start) -> None:
    """Streams that are refused at once come and go on one connection as long as their client waits for the answers."""
    gateway = start(policy_for(443))
    with client(gateway) as http2:
        for _ in range(300):
            assert http2.answer(http2.connect("denied.example:443")).headers[":status"] == "403"
        assert http2.goaway is None
    wait_for("300 records", lambda: len(gateway.records()) == 300)
