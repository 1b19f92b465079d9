"""CONNECT over HTTP/2 with prior knowledge: every stream is a flow of its own, judged, refused, carried and recorded as
one over HTTP/1.1 is."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest

from . import hellos as h
from .conftest import policy_for
from .gateway import Gateway, wait_for
from .http2 import Http2
from .servers import Server, echo
from .test_name_agreement import ACCESS_DENIED, Recorder

Start = Callable[..., Gateway]
Serve = Callable[..., Server]
GOOD = "allowed.example"
PROTOCOL_ERROR, REFUSED_STREAM, CONNECT_ERROR, ENHANCE_YOUR_CALM = 1, 7, 10, 11


def _quick(gateway: Gateway) -> socket.socket:
    connection = socket.create_connection(gateway.address("proxy"), timeout=15)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def client(gateway: Gateway, **options: int) -> Http2:
    return Http2(_quick(gateway), **options)


def test_streams_of_one_connection_are_flows_of_their_own(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(policy_for(upstream.port))
    where = f"{GOOD}:{upstream.port}"
    with client(gateway) as http2:
        tunnels = [http2.tunnel(where) for _ in range(20)]
        for number in tunnels:
            http2.send(number, b"ping %d" % number, end=True)
        for number in tunnels:
            stream = http2.answer(number)
            assert (bytes(stream.body), stream.ended, stream.reset) == (b"ping %d" % number, True, None)
        wait_for("20 records", lambda: len(gateway.records()) == 20)
        local = http2.socket.getsockname()
    records = gateway.records()
    assert len({record["decision"] for record in records}) == 20
    for record in records:
        assert (record["accept"], record["verdict"], record["end"]) == ("connect", "allow", "closed")
        assert (record["source"]["ip"], record["source"]["port"]) == local
        assert record["bytes_up"] == record["bytes_down"] > 0
    time.sleep(0.2)
    assert len(gateway.records()) == 20, "the connection itself leaves no record"


def test_the_preface_may_come_in_any_pieces(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(policy_for(upstream.port))

    class Slow(socket.socket):
        def sendall(self, data: bytes) -> None:  # type: ignore[override]
            for byte in data:
                super().sendall(bytes([byte]))

    plain = Slow()
    plain.connect(gateway.address("proxy"))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with Http2(plain) as http2:
        number = http2.tunnel(f"{GOOD}:{upstream.port}")
        http2.send(number, b"ping", end=True)
        assert http2.answer(number).body == b"ping"


def test_a_refusal_reads_as_over_http_1(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(policy_for(upstream.port, rules='  - { name: no, deny: true, to: denied.example, message: "No." }'))
    with client(gateway) as http2:
        text = http2.answer(http2.connect("denied.example:443"))
        assert (text.headers[":status"], bytes(text.body)) == ("403", b"No.\n")
        assert text.headers["x-egress-reason"] == "rule_deny"
        assert "connection" not in text.headers and "proxy-connection" not in text.headers
        record = gateway.record(reason="rule_deny")
        assert text.headers["x-egress-decision"] == record["decision"]
        asked = http2.answer(http2.connect("denied.example:443", accept="application/json"))
        assert asked.headers["content-type"] == "application/json"
        body = json.loads(bytes(asked.body))
        assert (body["error"], body["decision"]) == ("rule_deny", asked.headers["x-egress-decision"])
        # The connection goes on, and so do its other streams.
        number = http2.tunnel(f"{GOOD}:{upstream.port}")
        http2.send(number, b"x", end=True)
        assert http2.answer(number).body == b"x"


@pytest.mark.parametrize(
    "authority",
    [
        "2130706433:443",
        "a..b:443",
        "allowed.example",
        "allowed.example:0",
        "user@allowed.example:443",
    ],
)
def test_what_no_destination_is_called_is_refused_with_a_record(start: Start, authority: str) -> None:
    gateway = start(policy_for(1))
    with client(gateway) as http2:
        assert http2.answer(http2.connect(authority)).headers.get(":status") == "400"
    assert gateway.record()["reason"] == "bad_name"


def test_two_authorities_are_refused(start: Start) -> None:
    gateway = start(policy_for(443))
    with client(gateway) as http2:
        number = http2.connect("allowed.example:443", host="denied.example:443")
        assert http2.answer(number).headers[":status"] == "400"
    assert gateway.record()["other_name"] == "host_differs"


def test_no_authority_is_refused_with_a_record(start: Start) -> None:
    gateway = start(policy_for(443))
    with client(gateway) as http2:
        number = http2.request([(":method", "CONNECT"), ("host", "allowed.example:443")])
        assert "x-egress-decision" in http2.answer(number).headers
    assert gateway.record()["other_name"] == "request_line"


def test_other_methods_and_extended_connect(start: Start) -> None:
    gateway = start(policy_for(443))
    with client(gateway) as http2:
        get = [(":method", "GET"), (":scheme", "http"), (":authority", "allowed.example"), (":path", "/")]
        answer = http2.answer(http2.request(get, end=True))
        assert (answer.headers[":status"], answer.headers["allow"]) == ("405", "CONNECT")
        assert gateway.record()["other_name"] == "method_not_connect"
        extended = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":authority", "allowed.example"),
            (":path", "/"),
        ]
        assert http2.answer(http2.request(extended)).reset == PROTOCOL_ERROR


def test_the_name_inside_must_be_the_one_that_was_asked_for(start: Start, serve: Serve) -> None:
    recorder = Recorder()
    upstream = serve(recorder)
    gateway = start(policy_for(upstream.port))
    with client(gateway) as http2:
        number = http2.tunnel(f"{GOOD}:{upstream.port}")
        http2.send(number, h.hello(h.sni(b"denied.example")))
        assert http2.answer(number).body == ACCESS_DENIED
    assert recorder.ended.wait(5)
    assert recorder.got == b""
    assert gateway.record(reason="name_mismatch")["other_name"] == "denied.example"


def test_a_denial_may_be_a_reset_or_nothing_at_all(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    rules = """
  - { name: cut, deny: true, on_deny: reset, to: denied.example }
  - { name: mute, deny: true, on_deny: drop, to: other.example }
"""
    gateway = start(policy_for(upstream.port, rules=rules))
    with client(gateway) as http2:
        mute = http2.connect("other.example:443")
        # Not REFUSED_STREAM: asking again would not help.
        assert http2.answer(http2.connect("denied.example:443")).reset == CONNECT_ERROR
        number = http2.tunnel(f"{GOOD}:{upstream.port}")
        http2.send(number, b"ping", end=True)
        assert http2.answer(number).body == b"ping"
        with pytest.raises(TimeoutError):
            http2.wait(lambda: http2.streams[mute].headers or http2.streams[mute].reset is not None, seconds=1)
    assert gateway.record(rule="cut")["verdict"] == gateway.record(rule="mute")["verdict"] == "deny"


def test_a_gateway_without_room_says_that_a_stream_may_be_sent_again(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(policy_for(upstream.port, extra="max_flows: 2\nworkers: 1"))
    with client(gateway) as http2:
        held = [http2.tunnel(f"{GOOD}:{upstream.port}") for _ in range(2)]
        assert http2.answer(http2.connect(f"{GOOD}:{upstream.port}")).reset == REFUSED_STREAM
        assert gateway.record(reason="overloaded")["end"] == "out_of_resources"
        http2.send(held[0], b"ping", end=True)
        assert http2.answer(held[0]).body == b"ping"


def test_half_close_goes_both_ways(start: Start, serve: Serve) -> None:
    def last_word(connection: socket.socket) -> None:
        got = b""
        while data := connection.recv(100):
            got += data
        connection.sendall(b"got " + got)

    upstream = serve(last_word)
    gateway = start(policy_for(upstream.port))
    with client(gateway) as http2:
        number = http2.tunnel(f"{GOOD}:{upstream.port}")
        http2.send(number, b"all of it", end=True)
        assert http2.answer(number).body == b"got all of it"
    assert gateway.record()["end"] == "closed"

    heard = []

    def first_word(connection: socket.socket) -> None:
        connection.sendall(b"that is all from me")
        connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(100):
            heard.append(data)

    upstream = serve(first_word)
    gateway = start(policy_for(upstream.port))
    with client(gateway) as http2:
        number = http2.tunnel(f"{GOOD}:{upstream.port}")
        stream = http2.streams[number]
        http2.wait(lambda: stream.ended)
        assert stream.body == b"that is all from me"
        http2.send(number, b"and from me", end=True)
        assert gateway.record()["end"] == "closed"
    assert b"".join(heard) == b"and from me"


def test_a_reset_goes_both_ways(start: Start, serve: Serve) -> None:
    ends = []
    begun = threading.Event()

    def witness(connection: socket.socket) -> None:
        connection.sendall(b"hello")
        begun.set()
        try:
            ends.append(connection.recv(10))
        except ConnectionResetError:
            ends.append(b"reset")

    upstream = serve(witness)
    gateway = start(policy_for(upstream.port))
    with client(gateway) as http2:
        number = http2.tunnel(f"{GOOD}:{upstream.port}")
        http2.wait(lambda: http2.streams[number].body == b"hello")
        http2.cancel(number)
        wait_for("the upstream's end", lambda: ends)
        assert ends == [b"reset"]
        assert gateway.record()["end"] == "client_reset"

        def breaks_off(connection: socket.socket) -> None:
            connection.sendall(b"hello")
            connection.recv(1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        upstream.handler = breaks_off
        number = http2.tunnel(f"{GOOD}:{upstream.port}")
        http2.send(number, b"x")
        assert http2.answer(number).reset == CONNECT_ERROR
    gateway.record(end="upstream_reset")


def test_a_client_that_is_gone_resets_all_of_its_streams(start: Start, serve: Serve) -> None:
    ends = []

    def witness(connection: socket.socket) -> None:
        try:
            while connection.recv(10):
                pass
            ends.append("end")
        except ConnectionResetError:
            ends.append("reset")

    upstream = serve(witness)
    gateway = start(policy_for(upstream.port))
    http2 = client(gateway)
    for _ in range(5):
        http2.tunnel(f"{GOOD}:{upstream.port}")
    http2.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    http2.socket.close()
    wait_for("all ends", lambda: len(ends) == 5)
    assert set(ends) == {"reset"}
    wait_for("5 records", lambda: [record["end"] for record in gateway.records()] == ["client_reset"] * 5)


def test_bulk_passes_both_ways_whole(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(policy_for(upstream.port))
    data = bytes(range(256)) * 4096 * 8
    ahead = 1 << 19
    with client(gateway, window=1 << 20) as http2:
        number = http2.tunnel(f"{GOOD}:{upstream.port}")
        stream = http2.streams[number]
        sent = 0
        while not stream.ended:
            room = min(http2.h2.local_flow_control_window(number), 16384, len(data) - sent)
            if room and sent - len(stream.body) < ahead:
                http2.h2.send_data(number, data[sent : sent + room], end_stream=sent + room == len(data))
                http2.flush()
                sent += room
            else:
                http2.step()
        assert stream.body == data
    record = gateway.record()
    assert (record["bytes_up"], record["bytes_down"], record["end"]) == (len(data), len(data), "closed")


def test_a_stream_that_stands_still_holds_up_no_other_and_little_memory(start: Start, serve: Serve) -> None:
    silent = threading.Event()

    def deaf(connection: socket.socket) -> None:
        silent.wait(60)

    stuck, upstream = serve(deaf), serve(echo)
    rules = f'  - {{ name: stuck, to: "other.example:{stuck.port}" }}'
    gateway = start(policy_for(upstream.port, rules=rules))
    with client(gateway) as http2:
        held = [http2.tunnel(f"other.example:{stuck.port}") for _ in range(8)]
        before = gateway.resident()
        for number in held:
            # As much as the server lets go out on that stream, then it waits for the window.
            idle = 0
            while idle < 5:
                room = min(http2.h2.local_flow_control_window(number), 16384)
                if room:
                    http2.h2.send_data(number, bytes(room))
                    http2.flush()
                    idle = 0
                    continue
                idle += 1
                http2.socket.settimeout(0.2)
                try:
                    http2.step()
                except TimeoutError:
                    continue
        assert all(http2.h2.streams[number].outbound_flow_control_window == 0 for number in held)
        assert gateway.resident() - before < 64 << 20
        number = http2.tunnel(f"{GOOD}:{upstream.port}")
        http2.send(number, b"ping", end=True)
        assert http2.answer(number).body == b"ping"
    silent.set()


def test_more_streams_than_are_allowed_are_refused_and_no_more_than_that(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(policy_for(upstream.port))
    with client(gateway) as http2:
        http2.wait(lambda: http2.h2.remote_settings.max_concurrent_streams == 100)
        http2.h2.remote_settings[3] = 1000
        http2.h2.remote_settings.acknowledge()
        numbers = [http2.connect(f"{GOOD}:{upstream.port}") for _ in range(120)]
        streams = [http2.streams[number] for number in numbers]
        http2.wait(lambda: all(stream.headers or stream.reset is not None for stream in streams))
        assert [stream.reset for stream in streams] == [None] * 100 + [REFUSED_STREAM] * 20


def test_rapid_resets_end_the_connection(start: Start, serve: Serve) -> None:
    """CVE-2023-44487: each of these costs the client two frames."""
    upstream = serve(echo)
    gateway = start(policy_for(upstream.port))
    with client(gateway) as http2:
        try:
            for _ in range(40):
                for _ in range(500):
                    number = http2.h2.get_next_available_stream_id()
                    http2.h2.send_headers(number, [(":method", "CONNECT"), (":authority", f"{GOOD}:{upstream.port}")])
                    http2.h2.reset_stream(number)
                http2.flush()
            http2.wait(lambda: http2.goaway is not None)
        except (ConnectionResetError, BrokenPipeError):
            pass
        else:
            assert http2.goaway == ENHANCE_YOUR_CALM
    assert upstream.accepted < 5000
    assert gateway.record(reason="malformed", seconds=20)["other_name"] == "http2_frames"


@pytest.mark.parametrize(
    "frames",
    [
        b"\0\0\0\x04\0\0\0\0\1",  # SETTINGS on a stream
        b"\xff\xff\xff\0\0\0\0\0\1",  # a frame larger than any that is allowed
        b"\0\0\4\x08\0\0\0\0\0\0\0\0\0",  # WINDOW_UPDATE by nothing
        b"\0\0\5\0\1\0\0\0\7hello",  # DATA on a stream that nobody opened
        b"\0\0\1\x01\4\0\0\0\1\xff",  # HEADERS that are not HPACK
        b"\0\0\1\x09\4\0\0\0\1x",  # CONTINUATION of nothing
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_frames_that_break_the_rules_end_the_connection_with_a_record(start: Start, frames: bytes) -> None:
    gateway = start(policy_for(443))
    with socket.create_connection(gateway.address("proxy"), timeout=15) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" + frames)
        while connection.recv(65536):
            pass
    record = gateway.record()
    assert (record["reason"], record["other_name"], record["verdict"]) == ("malformed", "http2_frames", "deny")


def test_a_preface_and_nothing_more_is_given_up(start: Start) -> None:
    gateway = start(policy_for(443, extra="timeouts: { first_bytes: 500ms }"))
    with socket.create_connection(gateway.address("proxy"), timeout=15) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        began = time.monotonic()
        while connection.recv(65536):
            pass
        assert time.monotonic() - began < 5
    assert gateway.record()["reason"] == "first_bytes_timeout"


def test_a_drain_says_goaway_lets_streams_end_and_then_ends(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(policy_for(upstream.port))
    with client(gateway) as http2, client(gateway) as idle:
        number = http2.tunnel(f"{GOOD}:{upstream.port}")
        idle.tunnel(f"{GOOD}:{upstream.port}")
        idle.cancel(1)
        gateway.process.terminate()
        http2.wait(lambda: http2.goaway == 0)
        idle.wait(lambda: idle.goaway == 0)
        http2.send(number, b"still here", end=True)
        assert http2.answer(number).body == b"still here"
        assert gateway.process.wait(15) == 0
    assert len(gateway.records()) == 2


def test_a_policy_that_denies_resets_the_stream(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(policy_for(upstream.port))
    with client(gateway) as http2:
        number = http2.tunnel(f"{GOOD}:{upstream.port}")
        http2.send(number, b"x")
        http2.wait(lambda: http2.streams[number].body == b"x")
        denied = gateway.reload(policy_for(upstream.port, rules=f"  - {{ name: no, deny: true, to: {GOOD} }}"))
        assert denied.returncode == 0, denied.stdout
        assert http2.answer(number).reset == CONNECT_ERROR
        answer = http2.answer(http2.connect(f"{GOOD}:{upstream.port}"))
        assert answer.headers[":status"] == "403"


def test_http_2_where_no_connect_is_accepted_is_not_answered(start: Start) -> None:
    gateway = start('listeners: [{ name: proxy, bind: "127.0.0.1:0", accept: [tls, socks5] }]\nrules: []\n')
    with socket.create_connection(gateway.address("proxy"), timeout=15) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_descriptors_come_back(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(policy_for(upstream.port))
    with client(gateway) as http2:
        http2.answer(http2.connect("denied.example:443"))
        before = gateway.descriptors()
        for _ in range(30):
            number = http2.tunnel(f"{GOOD}:{upstream.port}")
            http2.send(number, b"x", end=True)
            http2.answer(number)
            http2.answer(http2.connect("denied.example:443"))
            http2.cancel(http2.tunnel(f"{GOOD}:{upstream.port}"))
        wait_for("descriptors to be closed", lambda: gateway.descriptors() <= before + 2)
