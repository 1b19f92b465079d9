"""Plain HTTP through an `http` listener: each request judged and recorded by itself, bodies whole, one message never
taken for another."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .gateway import Gateway, wait_for
from .origin import Origin, chunk
from .plain_http import BAD, GOOD, Way
from .servers import Server
from .test_real_clients import tool

Start = Callable[..., Gateway]
SETTINGS = f"""
resolver: {{ hosts: {{ {GOOD}: 127.0.0.1, {BAD}: 127.0.0.1, also.example: 127.0.0.1, gone.example: 127.0.0.1 }} }}
"""


def policy(port: int, accept: str = "http", *, rule: str = "", extra: str = "") -> str:
    keys = f", {rule}" if rule else ""
    to = f'"{GOOD}:{port}", "also.example:{port}", "gone.example:9"'
    return f"""
listeners: [{{ name: way-in, bind: "127.0.0.1:0", accept: {accept} }}]
{SETTINGS}
{extra}
rules: [{{ name: r, to: [{to}], message: "Ask team-net, quote {{decision}}."{keys} }}]
"""


@pytest.fixture
def way(start: Start) -> Iterator[Way]:
    origin = Origin()
    with Server(origin) as server:
        yield Way(start(policy(server.port)), origin, server)


def test_clients_that_know_a_proxy_setting_get_their_page(way: Way) -> None:
    host, port = way.gateway.address("way-in")
    proxy = f"http://{host}:{port}"
    curl = subprocess.run(
        [tool("curl", "curl"), "-sS", "--max-time", "20", "--proxy", proxy, f"{way.base}/a", f"{way.base}/b"],
        capture_output=True,
        check=True,
    )
    assert curl.stdout == b"/a/b"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy}))
    with opener.open(f"{way.base}/c", timeout=10) as page:
        assert (page.status, page.read(), page.headers["X-Origin"]) == (200, b"/c", "yes")
        assert page.headers["X-Hop"] is None
    assert [seen.path for seen in way.origin.seen] == ["/a", "/b", "/c"]
    assert all(seen.field("proxy-connection") == [] for seen in way.origin.seen)
    records = wait_for("three records", lambda: len(way.gateway.records()) == 3 and way.gateway.records())
    for record in records:
        assert (record["accept"], record["verdict"], record["end"], record["name"]) == ("http", "allow", "closed", GOOD)
    # curl's two requests share a connection, and so did theirs upstream.
    assert way.origin.connections == 2


def test_each_request_of_a_connection_is_judged_by_itself(way: Way) -> None:
    with way.connect() as client:
        for path, host, status in [("/1", GOOD, 200), ("/2", BAD, 403), ("/3", GOOD, 200), ("/4", "also.example", 200)]:
            client.send(way.ask(path, host=host))
            got = client.answer()
            assert got.status == status, path
            if status == 403:
                assert got.fields["X-Egress-Reason"] == "default_deny"
                assert got.fields["Connection"] is None
                assert b"egress policy" in got.body
    records = wait_for("four records", lambda: len(way.gateway.records()) >= 4 and way.gateway.records())
    assert [(one["name"], one["verdict"]) for one in records] == [
        (GOOD, "allow"),
        (BAD, "deny"),
        (GOOD, "allow"),
        ("also.example", "allow"),
    ]
    assert len({one["decision"] for one in records}) == 4
    assert all(one["bytes_up"] > 0 and one["bytes_down"] > 0 for one in records if one["verdict"] == "allow")
    assert [seen.path for seen in way.origin.seen] == ["/1", "/3", "/4"]
    # A connection that nobody asks anything of any more is no flow.
    time.sleep(0.2)
    assert len(way.gateway.records()) == 4


def test_a_request_without_a_uri_goes_by_its_host(way: Way) -> None:
    with way.connect() as client:
        client.send(f"GET /x HTTP/1.1\r\nHost: {GOOD}:{way.server.port}\r\n\r\n".encode())
        assert client.answer().body == b"/x"
        client.send(f"GET /x HTTP/1.1\r\nHost: {BAD}:{way.server.port}\r\n\r\n".encode())
        assert client.answer().status == 403


@pytest.mark.parametrize("path", ["/", "/chunked"])
@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_arrive_whole_in_both_directions(way: Way, path: str, chunked: bool) -> None:
    body = os.urandom(300_000)
    with way.connect() as client:
        for _ in range(2):
            if chunked:
                sent = b"".join(chunk(body[at : at + 7001]) for at in range(0, len(body), 7001)) + b"0\r\n\r\n"
                framing = "Transfer-Encoding: chunked"
            else:
                sent, framing = body, f"Content-Length: {len(body)}"
            client.send(way.ask(path, framing, method="POST"))
            writer = threading.Thread(target=client.send, args=(sent,))
            writer.start()
            got = client.answer()
            writer.join()
            assert got.body == body
            assert way.origin.seen[-1].body == body
    assert way.origin.connections == 1


def test_what_has_no_body_has_none(way: Way) -> None:
    with way.connect() as client:
        client.send(way.ask("/head", method="HEAD"))
        got = client.answer("HEAD")
        assert (got.status, got.fields["Content-Length"], got.body) == (200, "1234", b"")
        client.send(way.ask("/304"))
        assert client.answer().status == 304
        client.send(way.ask("/denied", host=BAD, method="HEAD"))
        got = client.answer("HEAD")
        assert (got.status, got.body) == (403, b"") and int(got.fields["Content-Length"]) > 0
        client.send(way.ask("/after"))
        assert client.answer().body == b"/after"


def test_requests_that_come_together_are_answered_in_their_order(way: Way) -> None:
    count = 300
    sent = b"".join(
        way.ask(f"/{index}", "Content-Length: 3", method="POST", body=b"%3d" % index)
        if index % 3
        else way.ask(f"/{index}", host=BAD)
        for index in range(count)
    )
    with way.connect() as client:
        threading.Thread(target=client.send, args=(sent,), daemon=True).start()
        for index in range(count):
            got = client.answer()
            expected = (200, b"%3d" % index) if index % 3 else (403, got.body)
            assert (got.status, got.body) == expected
    assert [seen.path for seen in way.origin.seen] == [f"/{index}" for index in range(count) if index % 3]


def test_every_byte_by_itself(way: Way) -> None:
    with way.connect() as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in way.ask("/", "Transfer-Encoding: chunked", method="POST") + chunk(b"hello") + b"0\r\n\r\n":
            client.send(bytes([byte]))
        assert client.answer().body == b"hello"


def test_interim_responses_pass_and_a_body_waits_for_its_100(way: Way) -> None:
    with way.connect() as client:
        client.send(way.ask("/continue", "Content-Length: 4", "Expect: 100-continue", method="PUT"))
        expected = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert client.exactly(len(expected)) == expected
        client.send(b"body")
        assert client.answer().body == b"body"
        client.send(way.ask("/interim"))
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        assert client.exactly(len(hints)) == hints
        assert client.answer().body == b"last"
        client.send(way.ask("/interims"))
        statuses = []
        while (line := client.line()).startswith(b"HTTP/1.1 "):
            statuses.append(int(line[9:12]))
            if statuses[-1] != 103:
                break
            assert client.line() == b"\r\n"
        assert statuses == [103] * 16 + [502]


def test_a_response_before_the_body_ends_the_connection(way: Way) -> None:
    with way.connect() as client:
        client.send(way.ask("/early", "Content-Length: 1000000", method="POST") + b"part")
        got = client.answer()
        assert (got.status, got.fields["Connection"], got.body) == (413, "close", b"no\n")
        assert client.ended()


def test_an_upgrade_becomes_a_tunnel(way: Way) -> None:
    fields = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: eA=="]
    with way.connect() as client:
        # What follows at once is sent on only when the origin has agreed.
        client.send(way.ask("/websocket", *fields) + b"first")
        assert client.line().startswith(b"HTTP/1.1 101 ")
        assert sorted(iter(client.line, b"\r\n")) == [b"Connection: Upgrade\r\n", b"Upgrade: websocket\r\n"]
        assert client.exactly(10) == b"hellofirst"
        client.send(b"\0\xff" * 1000)
        assert client.exactly(2000) == b"\0\xff" * 1000
    record = way.gateway.record(end="closed")
    assert record["accept"] == "http" and record["bytes_up"] > 2005
    with way.connect() as client:
        client.send(way.ask("/plain", *fields) + way.ask("/next"))
        assert (client.answer().body, client.answer().body) == (b"/plain", b"/next")


def test_a_large_response_waits_for_a_slow_reader(way: Way) -> None:
    size = 64 << 20
    with way.connect() as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        before = way.gateway.resident()
        client.send(way.ask(f"/big?{size}"))
        time.sleep(1)
        assert way.gateway.resident() - before < 8 << 20
        assert len(client.answer().body) == size
        client.send(way.ask("/after"))
        assert client.answer().body == b"/after"
    assert way.gateway.record(bytes_down=size + len(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"))


def test_a_large_request_waits_for_a_slow_origin(start: Start) -> None:
    release = threading.Event()

    def slow(connection: socket.socket) -> None:
        release.wait(10)
        Origin()(connection)

    with Server(slow) as server:
        way = Way(start(policy(server.port)), Origin(), server)
        body = bytes(32 << 20)
        with way.connect() as client:
            before = way.gateway.resident()
            client.send(way.ask("/", f"Content-Length: {len(body)}", method="PUT"))
            writer = threading.Thread(target=client.send, args=(body,))
            writer.start()
            time.sleep(1)
            assert writer.is_alive()
            assert way.gateway.resident() - before < 8 << 20
            release.set()
            assert client.answer().body == body
            writer.join()


def test_upstream_failures_have_their_status(way: Way) -> None:
    with way.connect() as client:
        client.send(b"GET http://gone.example:9/ HTTP/1.1\r\nHost: gone.example:9\r\n\r\n")
        got = client.answer()
        assert (got.status, got.fields["X-Egress-Reason"]) == (502, "connect_refused")
        for kind in ("nothing", "not-http", "both", "switch"):
            client.send(way.ask(f"/broken/{kind}"))
            got = client.answer()
            assert (got.status, got.fields["X-Egress-Reason"]) == (502, "upstream_reset"), kind
        client.send(way.ask("/still"))
        assert client.answer().body == b"/still"


@pytest.mark.parametrize("kind", ["length", "chunked", "until-close", "bad-chunk"])
def test_a_response_that_is_cut_off_is_never_a_whole_one(way: Way, kind: str) -> None:
    with way.connect() as client:
        client.send(way.ask(f"/broken/{kind}"))
        with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
            # Where head and bad chunk come together, nothing was sent on yet.
            if client.answer().status == 502 and kind == "bad-chunk":
                raise ConnectionResetError
    assert way.gateway.record()["end"] == "upstream_reset"


def test_a_response_that_ends_with_its_connection_arrives_whole(way: Way) -> None:
    with way.connect() as client:
        client.send(way.ask("/until-close"))
        got = client.answer()
        assert (got.body, got.fields["Connection"]) == (b"all of it", "close")
        assert client.ended()


def test_a_request_that_is_cut_off_is_never_a_whole_one(way: Way) -> None:
    for framing, part in [("Content-Length: 100", b"half"), ("Transfer-Encoding: chunked", chunk(b"half"))]:
        with way.connect() as client:
            client.send(way.ask("/", framing, method="POST") + part)
            wait_for("the half", lambda: way.origin.received > 0)
            client.socket.shutdown(socket.SHUT_WR)
            assert client.ended()
        way.gateway.record(end="client_gone")
    assert way.origin.seen == []


def test_a_client_that_ends_its_side_still_gets_its_answer(way: Way) -> None:
    with way.connect() as client:
        client.send(way.ask("/half"))
        client.socket.shutdown(socket.SHUT_WR)
        assert client.answer().body == b"/half"
        assert client.ended()
    assert way.gateway.record()["end"] == "closed"


def test_a_kept_upstream_that_has_closed_is_dialled_anew(way: Way) -> None:
    with way.connect() as client:
        for method in ("GET", "POST", "GET"):
            client.send(way.ask("/close-after", "Content-Length: 0", method=method))
            assert client.answer().body == b"bye"
            time.sleep(0.1)
    assert way.origin.connections == 3


def test_a_kept_upstream_that_closes_on_the_next_request_is_dialled_anew(start: Start) -> None:
    """The race of an idle timeout: the request is on its way when the connection is closed."""
    origin, count = Origin(), 0

    def closes(connection: socket.socket) -> None:
        nonlocal count
        count += 1
        if count == 1:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            connection.recv(65536)
        else:
            origin(connection)

    with Server(closes) as server:
        way = Way(start(policy(server.port)), origin, server)
        for method, status in [("GET", 200), ("POST", 502)]:
            count = 0
            with way.connect() as client:
                client.send(way.ask("/1"))
                assert client.answer().body == b"ok"
                client.send(way.ask("/2", "Content-Length: 0", method=method))
                # What may do its work twice is not sent twice.
                assert client.answer().status == status
        assert [seen.path for seen in origin.seen] == ["/2"]


def test_what_an_origin_says_unasked_is_nobodys_response(way: Way) -> None:
    with way.connect() as client:
        for path in ("/unasked", "/next"):
            client.send(way.ask(path))
            assert b"POISON" not in client.answer().body
    assert way.origin.connections == 2


def test_no_upstream_is_shared_between_clients(way: Way) -> None:
    with way.connect() as one, way.connect() as two:
        for client in (one, two, one, two):
            client.send(way.ask("/x"))
            assert client.answer().body == b"/x"
    assert way.origin.connections == 2


def test_connect_and_http_on_one_port_and_alone(start: Start) -> None:
    origin = Origin()
    with Server(origin) as server:
        for accept, plain, tunnel in [("[connect, http]", 200, 200), ("http", 200, 405), ("connect", 405, 200)]:
            way = Way(start(policy(server.port, accept)), origin, server)
            with way.connect() as client:
                client.send(way.ask("/x"))
                assert client.answer().status == plain, accept
            with way.connect() as client:
                there = f"{GOOD}:{server.port}"
                client.send(f"CONNECT {there} HTTP/1.1\r\nHost: {there}\r\n\r\n".encode())
                assert client.line().startswith(b"HTTP/1.1 %d " % tunnel), accept
                if tunnel == 405:
                    assert any(line.startswith(b"Allow: GET,") for line in iter(client.line, b"\r\n"))


def test_a_changed_policy_ends_what_it_denies_and_judges_what_comes(way: Way) -> None:
    with way.connect() as idle, way.connect() as busy:
        idle.send(way.ask("/1"))
        assert idle.answer().status == 200
        busy.send(way.ask("/slow"))
        wait_for("the request", lambda: way.origin.seen[-1].path == "/slow")
        assert way.gateway.reload(policy(way.server.port).replace(f'"{GOOD}:', '"x.example:')).returncode == 0
        with pytest.raises(ConnectionResetError):
            busy.exactly(1)
        idle.send(way.ask("/2"))
        assert idle.answer().status == 403
    assert way.gateway.record(end="policy_changed")["name"] == GOOD
    assert "/2" not in [seen.path for seen in way.origin.seen]


def test_a_drain_ends_idle_connections_at_once_and_others_after_their_response(way: Way) -> None:
    with way.connect() as idle, way.connect() as busy:
        idle.send(way.ask("/1"))
        assert idle.answer().status == 200
        busy.send(way.ask("/slow"))
        wait_for("the request", lambda: way.origin.seen[-1].path == "/slow")
        way.gateway.process.terminate()
        assert idle.ended()
        way.origin.resume.set()
        got = busy.answer()
        assert (got.body, got.fields["Connection"]) == (b"slow", "close")
        assert way.gateway.process.wait(10) == 0


def test_waiting_has_its_limits(start: Start) -> None:
    origin = Origin()
    with Server(origin) as server:
        timeouts = "timeouts: { first_bytes: 300ms, idle: 600ms }"
        way = Way(start(policy(server.port, extra=timeouts)), origin, server)
        with way.connect() as client:
            client.send(way.ask("/1"))
            assert client.answer().status == 200
            client.send(b"GET http")
            assert client.answer().status == 408
        with way.connect() as client:
            client.send(way.ask("/1"))
            assert client.answer().status == 200
            assert client.ended()
        with way.connect() as client:
            client.send(way.ask("/slow"))
            assert client.answer().status == 504
        records = wait_for("four records", lambda: len(way.gateway.records()) >= 4 and way.gateway.records())
        assert sorted(one["end"] for one in records) == ["closed", "closed", "idle_timeout", "refused"]


def test_a_refusal_is_json_where_that_is_asked_for(way: Way, tmp_path: Path) -> None:
    with way.connect() as client:
        client.send(way.ask("/", "Accept: application/json", host=BAD))
        got = client.answer()
        assert (got.status, got.fields["Content-Type"]) == (403, "application/json")
        client.send(b"GET https://allowed.example/ HTTP/1.1\r\nHost: allowed.example\r\n\r\n")
        got = client.answer()
        assert (got.status, got.fields["Connection"]) == (501, "close") and b"CONNECT" in got.body
