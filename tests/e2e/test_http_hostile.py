"""Requests that two readers could read in two ways: each is refused with its reason, and not one byte of it reaches the
origin. What is broken only later in its body is broken off there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .gateway import Gateway, running, wait_for
from .origin import Origin, chunk
from .plain_http import GOOD, Way
from .servers import Server
from .test_http_proxy import policy

Case = tuple[str, bytes]
#: Stands for a whole request to where the client may go: nobody may find it in another one's body.
SECRET = b"GET /secret HTTP/1.1\r\nHost: %HOST\r\n\r\n"


def line(text: bytes) -> bytes:
    return text + b"\r\nHost: %HOST\r\n\r\n"


def post(*fields: bytes) -> bytes:
    return b"\r\n".join([b"POST http://%HOST/ HTTP/1.1", b"Host: %HOST", *fields, b"", b""]) + SECRET


LINES: list[Case] = [
    ("http_version", line(b"GET / HTTP/2.0")),
    ("http_version", line(b"GET / HTTP/0.9")),
    ("http_version", line(b"GET /a b HTTP/1.1")),
    ("request_line", line(b"GET  / HTTP/1.1")),
    ("target_byte", line(b"GET http://%HOST#@denied.example/ HTTP/1.1")),
    ("target_form", line(b"GET %HOST HTTP/1.1")),
    ("target_form", line(b"GET http:/%HOST/ HTTP/1.1")),
    ("scheme_not_http", line(b"GET https://%HOST/ HTTP/1.1")),
    ("user_info", line(b"GET http://%HOST@denied.example/ HTTP/1.1")),
    ("user_info", line(b"GET http://x@%HOST/ HTTP/1.1")),
    ("name_empty", line(b"GET http:///x HTTP/1.1")),
    ("name_forbidden_byte", line(b"GET http://allowed.example\\.denied.example/ HTTP/1.1")),
    ("name_forbidden_byte", line(b"GET http://allowed%2eexample/ HTTP/1.1")),
    ("name_numeric_tail", line(b"GET http://2130706433/ HTTP/1.1")),
    ("name_numeric_tail", line(b"GET http://0x7f.1/ HTTP/1.1")),
    ("name_numeric_tail", line(b"GET http://017700000001/ HTTP/1.1")),
    ("port_bad", line(b"GET http://allowed.example:0/ HTTP/1.1")),
    ("port_missing", line(b"GET http://allowed.example:/ HTTP/1.1")),
    ("bare_lf", b"GET / HTTP/1.1\nHost: %HOST\n\n"),
]

HOSTS: list[Case] = [
    ("host_missing", b"GET http://%HOST/ HTTP/1.1\r\n\r\n"),
    ("host_twice", b"GET / HTTP/1.1\r\nHost: %HOST\r\nhost: %HOST\r\n\r\n"),
    ("name_forbidden_byte", b"GET / HTTP/1.1\r\nHost: allowed.example, denied.example\r\n\r\n"),
    ("name_forbidden_byte", b"GET / HTTP/1.1\r\nHost: x@%HOST\r\n\r\n"),
    ("name_empty", b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    ("host_bad", b"GET http://%HOST/ HTTP/1.1\r\nHost: a b\r\n\r\n"),
    ("two", b"GET http://%HOST/ HTTP/1.1\r\nHost: denied.example\r\n\r\n"),
    ("two", b"GET http://%HOST/ HTTP/1.1\r\nHost: allowed.example:1\r\n\r\n"),
    ("two", b"GET http://%HOST/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
    ("two", b"GET http://denied.example/ HTTP/1.1\r\nHost: %HOST\r\n\r\n"),
    ("two", b"GET http://%HOST/ HTTP/1.0\r\nHost: denied.example\r\n\r\n"),
]

FIELDS: list[Case] = [
    ("length_and_coding", post(b"Content-Length: 5", b"Transfer-Encoding: chunked")),
    ("length_and_coding", post(b"Transfer-Encoding: chunked", b"Content-Length: 0")),
    ("content_lengths_differ", post(b"Content-Length: 0", b"Content-Length: 44")),
    ("content_length", post(b"Content-Length: 0, 44")),
    ("content_length", post(b"Content-Length: +0")),
    ("content_length", post(b"Content-Length: -1")),
    ("content_length", post(b"Content-Length: 0x5")),
    ("content_length", post(b"Content-Length: 05")),
    ("content_length", post(b"Content-Length:")),
    ("content_length", post(b"Content-Length: 18446744073709551616")),
    ("transfer_encoding", post(b"Transfer-Encoding: identity")),
    ("transfer_encoding", post(b"Transfer-Encoding: gzip, chunked")),
    ("transfer_encoding", post(b"Transfer-Encoding: chunked, chunked")),
    ("transfer_encoding", post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: x")),
    ("transfer_encoding", post(b"Transfer-Encoding: xchunked")),
    ("transfer_encoding", post(b'Transfer-Encoding: "chunked"')),
    ("transfer_encoding", post(b"Transfer-Encoding: chunked\x85")),
    ("transfer_encoding_10", post(b"Transfer-Encoding: chunked").replace(b"HTTP/1.1", b"HTTP/1.0", 1)),
    ("header_name", post(b"Transfer-Encoding : chunked")),
    ("header_name", post(b"Transfer-Encoding\xa0: chunked")),
    ("header_value", post(b"Transfer-Encoding: \x0bchunked")),
    ("obs_fold", post(b"X: y", b" Transfer-Encoding: chunked")),
    ("bare_lf", post(b"X: y\nTransfer-Encoding: chunked")),
    ("bare_cr", post(b"X: y\rTransfer-Encoding: chunked")),
    ("nul", post(b"X: a\0b")),
    ("connection_names", post(b"Connection: content-length", b"Content-Length: 5")),
    ("connection_names", post(b"Connection: host")),
    ("connection_option", post(b"Connection: close; a")),
    ("expect_other", post(b"Content-Length: 1", b"Expect: 100-continue, x")),
    ("max_forwards", post(b"Max-Forwards: 0").replace(b"POST", b"TRACE", 1)),
    ("headers_many", post(*[b"A: b"] * 64)),
    ("head_too_large", post(b"X: " + b"x" * 17000)),
]

BODIES: list[Case] = [
    ("chunk_size", b"+5\r\nhello\r\n"),
    ("chunk_size", b"0x5\r\nhello\r\n"),
    ("chunk_size", b"5 \r\nhello\r\n"),
    ("chunk_size", b"5\nhello\n"),
    ("chunk_size", b"FFFFFFFFFFFFFFFF\r\n"),
    ("chunk_extension", b"5;a=b\nhello\r\n"),
    ("chunk_end", b"5\r\nhello!\r\n"),
    ("chunk_end", b"5\r\nhello\n0\r\n\r\n"),
    ("trailer", b"0\r\n" + SECRET),
    ("trailer_name", b"0\r\nContent-Length: 5\r\n\r\n"),
]


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    """One gateway for every case of this file, in front of an origin that is to see none of them."""
    origin = Origin()
    with (
        Server(origin) as server,
        running(tmp_path_factory.mktemp("hostile"), policy(server.port)) as gateway,
    ):
        yield Way(gateway, origin, server)


def put(way: Way, text: bytes) -> bytes:
    return text.replace(b"%HOST", f"{GOOD}:{way.server.port}".encode())


def record(gateway: Gateway, after: int, word: str) -> None:
    if word == "two":
        reason = "name_mismatch"
    else:
        bad = word.startswith(("name_", "port_"))
        reason = "bad_name" if bad else "malformed"
    got = gateway.record(after=after, verdict="deny")
    assert got["reason"] == reason
    if word != "two":
        assert got["other_name"] == word


@pytest.mark.parametrize("kept", [False, True], ids=["first", "kept"])
@pytest.mark.parametrize(("word", "sent"), LINES + HOSTS + FIELDS)
def test_nothing_of_a_request_of_two_readings_is_forwarded(way: Way, word: str, sent: bytes, kept: bool) -> None:
    after = len(way.gateway.records())
    with way.connect() as client:
        if kept:
            client.send(way.ask("/before"))
            assert client.answer().body == b"/before"
        before = way.origin.received
        client.send(put(way, sent))
        got = client.answer()
        assert 400 <= got.status < 600
        if word != "two":
            assert got.fields["Connection"] == "close"
            # Nor what follows it: where it ends is what nobody knows.
            assert client.ended()
    record(way.gateway, after, word)
    assert way.origin.received == before


@pytest.mark.parametrize(("word", "body"), BODIES)
def test_a_body_of_two_readings_is_broken_off(way: Way, word: str, body: bytes) -> None:
    after, seen = len(way.gateway.records()), len(way.origin.seen)
    for begun in (False, True):
        with way.connect() as client:
            client.send(way.ask("/x", "Transfer-Encoding: chunked", method="POST"))
            if begun:
                client.send(chunk(b"begun"))
                wait_for("the chunk", lambda: way.origin.latest.endswith(chunk(b"begun")))
                before = way.origin.received
            client.send(put(way, body))
            got = client.answer()
            assert (got.status, got.fields["Connection"]) == (400, "close")
            assert client.ended()
        if begun:
            assert way.origin.received == before
            way.origin.latest = b""
        record(way.gateway, after, word)
        after = len(way.gateway.records())
    assert way.origin.seen[seen:] == []
