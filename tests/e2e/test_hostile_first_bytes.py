"""Whatever a client sends first ends within the time limit, under a recorded reason, and reaches no upstream.

Each case goes to the same gateway, and after each a good connection still works there.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from . import hellos as h
from .conftest import Certificates, policy_for
from .gateway import Gateway, Json, running, wait_for
from .servers import Server, hello_http

#: Seconds: `timeouts.first_bytes` of the gateway under test.
LIMIT = 1.0
#: Seconds beyond the limit that a loaded machine may take.
SLACK = 2.0

# Answers. A fatal TLS alert is a record of two bytes (RFC 8446, section 6).
ACCESS_DENIED, DECODE_ERROR, UNRECOGNIZED_NAME = (b"\x15\x03\x03\0\x02\x02" + bytes([code]) for code in (49, 50, 112))
CLOSED = b""
#: No words, as in whatever the client speaks they would be noise: the connection is reset.
BROKEN_OFF = None

# What is done besides sending bytes.
HALF_CLOSE = "half-close"
RESET = "reset"
#: Sends the rest byte by byte, each in time, all of them too late.
DRIP = "drip"

Step = bytes | str


class Case(NamedTuple):
    what: str
    steps: tuple[Step, ...]
    reason: str
    word: str | None
    answer: bytes | None


def tls(what: str, sent: bytes, word: str, *, reason: str = "malformed", answer: bytes = DECODE_ERROR) -> Case:
    return Case(what, (sent,), reason, word, answer)


def not_tls(what: str, sent: bytes) -> Case:
    return Case(what, (sent,), "not_accepted", None, BROKEN_OFF)


def bad_sni(what: str, name: bytes, word: str) -> Case:
    return tls(what, h.hello(h.sni(name)), word, reason="bad_name", answer=UNRECOGNIZED_NAME)


GOOD_NAME = b"allowed.example"
SNI = h.sni(GOOD_NAME)
GOOD = h.message(h.body(SNI))
REAL = h.real_hello("allowed.example")
TLS13 = h.extension(h.SUPPORTED_VERSIONS, b"\x02\x03\x04")
FIXED = h.body(None)

TLS = [
    # Time, and clients that leave.
    Case("silence", (), "first_bytes_timeout", None, ACCESS_DENIED),
    Case("one byte, then silence", (b"\x16",), "first_bytes_timeout", None, ACCESS_DENIED),
    Case("half a hello, then silence", (REAL[:100],), "first_bytes_timeout", None, ACCESS_DENIED),
    Case("a good hello that drips", (DRIP, REAL), "first_bytes_timeout", None, ACCESS_DENIED),
    Case("nothing, and a half-close", (HALF_CLOSE,), "client_left", None, CLOSED),
    Case("half a hello and a half-close", (REAL[:100], HALF_CLOSE), "client_left", None, CLOSED),
    Case("half a hello and a reset", (REAL[:100], RESET), "client_left", None, BROKEN_OFF),
    # Other protocols.
    not_tls("SSLv2", b"\x80\x2e\x01\0\x02\0\x15\0\0\0\x10" + bytes(37)),
    not_tls("HTTP", b"GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n"),
    not_tls("CONNECT", b"CONNECT allowed.example:443 HTTP/1.1\r\nHost: allowed.example:443\r\n\r\n"),
    not_tls("SSH", b"SSH-2.0-OpenSSH_9.2\r\n"),
    not_tls("SOCKS5", b"\x05\x01\0"),
    not_tls("the PROXY protocol", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 443\r\n" + REAL),
    not_tls("PostgreSQL's SSLRequest", b"\0\0\0\x08\x04\xd2\x16\x2f"),
    not_tls("an alert first", b"\x15\x03\x01\0\x02\x02\x28"),
    not_tls("application data first", h.record(b"hello", kind=23)),
    not_tls("a change of cipher first", h.record(b"\x01", kind=20)),
    not_tls("zeros", bytes(4096)),
    not_tls("TLS of another major version", b"\x16\x02" + REAL[2:]),
    # Records.
    tls("an empty record", b"\x16\x03\x01\0\0" + REAL, "record_empty"),
    tls("a record of more than 2^14 bytes", b"\x16\x03\x01\x40\x01", "record_too_long"),
    tls("a record that announces 64 KiB", b"\x16\x03\x01\xff\xff\x01", "record_too_long"),
    tls("a record of a version to come", b"\x16\x03\x05" + REAL[3:], "record_version"),
    tls("another version between fragments", h.record(GOOD[:9]) + b"\x16\x04", "record_version"),
    tls("an alert between fragments", h.record(GOOD[:9]) + h.record(b"\x01\0", kind=21), "record_type"),
    tls("an empty record between fragments", h.record(GOOD[:9]) + b"\x16\x03\x01\0\0", "record_empty"),
    # The handshake message.
    tls("a server's hello", h.record(h.message(b"x", kind=2)), "not_client_hello"),
    tls("a HelloRequest", h.record(h.message(b"", kind=0)), "not_client_hello"),
    tls("64 KiB and a byte announced", h.record(h.message(b"", announce=65537)), "hello_too_long"),
    tls("16 MiB announced", h.record(h.message(b"", announce=0xFFFFFF)), "hello_too_long"),
    tls("two hellos in one record", h.record(GOOD + GOOD), "hello_trailing"),
    tls("a byte after the hello", h.record(GOOD + b"\0"), "hello_trailing"),
    tls("64 KiB of zeros, a byte a record", h.records(h.message(bytes(65536)), 1), "hello_version"),
    # The hello's fields.
    tls("an empty hello", h.record(h.message(b"")), "hello_truncated"),
    tls("a hello without an end", h.record(h.message(FIXED[:20])), "hello_truncated"),
    tls("a hello of SSL 2", h.hello(SNI, version=0x0200), "hello_version"),
    tls("a session id of 33 bytes", h.hello(SNI, session=bytes(33)), "session_id"),
    tls("no cipher suites", h.hello(SNI, ciphers=b""), "ciphers_empty"),
    tls("half a cipher suite", h.hello(SNI, ciphers=b"\x13\x01\x13"), "ciphers_odd"),
    tls("ciphers beyond the end", h.record(h.message(FIXED[:35] + b"\xff\xfe\x13\x01")), "ciphers_length"),
    tls("only compression", h.hello(SNI, compression=b"\x01"), "compression"),
    tls("compression in TLS 1.3", h.hello(SNI + TLS13, compression=b"\0\x01"), "compression"),
    tls("compression beyond the end", h.record(h.message(FIXED[:39] + b"\x09\0")), "compression_length"),
    # Extensions.
    tls("a block longer than the hello", h.record(h.message(FIXED + b"\xff\xff" + SNI)), "extensions_length"),
    tls("a block shorter than the hello", h.record(h.message(FIXED + b"\0\0" + SNI)), "extensions_length"),
    tls("an extension beyond its block", h.hello(SNI + b"\0\x0a\xff\xff"), "extension_length"),
    tls("half an extension", h.hello(SNI + b"\0"), "extension_length"),
    tls("129 extensions", h.hello(b"".join(h.extension(1000 + n, b"") for n in range(129))), "extensions_many"),
    tls("an extension twice", h.hello(SNI + h.extension(10, b"") * 2), "extension_twice"),
    tls("a high extension twice", h.hello(SNI + h.extension(0x5A5A, b"") * 2), "extension_twice"),
    tls("ALPN with a lie", h.hello(SNI + h.extension(h.ALPN, b"\0\x09\x02h2")), "alpn_length"),
    tls("ALPN with nothing in it", h.hello(SNI + h.extension(h.ALPN, b"\0\x01\0")), "alpn_empty"),
    tls("half a version", h.hello(SNI + h.extension(h.SUPPORTED_VERSIONS, b"\x03\x03\x04\x03")), "versions_length"),
    tls("ECH with a lie", h.hello(SNI + h.extension(h.ENCRYPTED_CLIENT_HELLO, b"\0\0\x01")), "ech_length"),
    # server_name.
    tls("two server_name extensions", h.hello(SNI + h.sni(b"denied.example")), "sni_twice"),
    tls("two names", h.hello(h.extension(0, h.vec16(h.entry(GOOD_NAME) + h.entry(b"b.example")))), "sni_two_names"),
    tls("a name and one of another type", h.hello(h.extension(0, h.vec16(h.entry(GOOD_NAME) + h.entry(b"x", 1)))),
        "sni_two_names"),
    tls("a name of another type", h.hello(h.extension(0, h.vec16(h.entry(GOOD_NAME, 1)))), "sni_type"),
    tls("an empty list of names", h.hello(h.extension(0, h.vec16(b""))), "sni_list_empty"),
    tls("a name longer than its list", h.hello(h.extension(0, h.vec16(b"\0\0\xff" + GOOD_NAME))), "sni_length"),
    tls("a list that ends too soon", h.hello(h.extension(0, h.vec16(h.entry(GOOD_NAME)) + b"\0")), "sni_length"),
    bad_sni("an empty name", b"", "sni_name_empty"),
    bad_sni("a NUL after the name", GOOD_NAME + b"\0", "sni_name_forbidden_byte"),
    bad_sni("a NUL within the name", b"allowed.example\0.denied.example", "sni_name_forbidden_byte"),
    bad_sni("a line feed in the name", b"allowed.example\nx", "sni_name_forbidden_byte"),
    bad_sni("a star", b"*.example", "sni_name_forbidden_byte"),
    bad_sni("a port in the name", b"allowed.example:443", "sni_name_forbidden_byte"),
    bad_sni("UTF-8", "bücher.example".encode(), "sni_not_ascii"),
    bad_sni("two dots in a row", b"allowed..example", "sni_label_empty"),
    bad_sni("a label of 64 bytes", b"a" * 64 + b".example", "sni_label_too_long"),
    bad_sni("254 bytes", b"a." * 126 + b"aa", "sni_name_too_long"),
    bad_sni("punycode that is none", b"xn--a.example", "sni_name_idna"),
    bad_sni("a short IPv4 address", b"127.1", "sni_name_numeric_tail"),
    bad_sni("an IPv4 address as a number", b"2130706433", "sni_name_numeric_tail"),
    Case("no server_name", (h.hello(b""),), "no_name", None, UNRECOGNIZED_NAME),
    Case("no extensions", (h.hello(None),), "no_name", None, UNRECOGNIZED_NAME),
    Case("an IPv4 address", (h.hello(h.sni(b"127.0.0.1")),), "no_name", None, UNRECOGNIZED_NAME),
    Case("an IPv6 address", (h.hello(h.sni(b"::1")),), "no_name", None, UNRECOGNIZED_NAME),
]  # fmt: skip


def head(what: str, sent: bytes, word: str, *, reason: str = "malformed", status: int = 400) -> Case:
    return Case(what, (sent,), reason, word, b"HTTP/1.1 %d " % status)


def field(what: str, fields: bytes, word: str, *, status: int = 400) -> Case:
    """A CONNECT to the allowed name with further header fields."""
    return head(what, b"CONNECT allowed.example:%PORT HTTP/1.1\r\n" + fields + b"\r\n", word, status=status)


def line(what: str, request_line: bytes, word: str) -> Case:
    return head(what, request_line + b"\r\n\r\n", word)


def target(what: str, authority: bytes, word: str) -> Case:
    return head(what, b"CONNECT " + authority + b" HTTP/1.1\r\n\r\n", word, reason="bad_name")


def not_http(what: str, sent: bytes) -> Case:
    return Case(what, (sent,), "not_accepted", None, b"HTTP/1.1 400 ")


LATE = b"HTTP/1.1 408 "
REQUEST = b"CONNECT allowed.example:%PORT HTTP/1.1\r\nHost: allowed.example:%PORT\r\n\r\n"

CONNECT = [
    # Time, and clients that leave.
    Case("silence", (), "first_bytes_timeout", None, LATE),
    Case("one byte, then silence", (b"C",), "first_bytes_timeout", None, LATE),
    Case("a head without its blank line", (REQUEST[:-2],), "first_bytes_timeout", None, LATE),
    Case("a good head that drips", (DRIP, REQUEST), "first_bytes_timeout", None, LATE),
    Case("nothing, and a half-close", (HALF_CLOSE,), "client_left", None, CLOSED),
    Case("half a head and a half-close", (REQUEST[:30], HALF_CLOSE), "client_left", None, CLOSED),
    Case("half a head and a reset", (REQUEST[:30], RESET), "client_left", None, BROKEN_OFF),
    # Other protocols and methods.
    not_http("TLS", REAL),
    not_http("SOCKS5", b"\x05\x01\0"),
    not_http("SMTP", b"EHLO mail.example\r\n"),
    not_http("zeros", bytes(4096)),
    not_http("a method in small letters", b"connect allowed.example:443 HTTP/1.1\r\n\r\n"),
    not_http("a blank line first", b"\r\n" + REQUEST),
    head("GET", b"GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n", "method_not_connect", status=405),
    head("an absolute URI", b"GET http://allowed.example/ HTTP/1.1\r\n\r\n", "method_not_connect", status=405),
    head("POST with a body", b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", "method_not_connect", status=405),
    head("nearly HTTP/2's preface", b"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n", "http_version"),
    # The request line.
    line("HTTP/0.9", b"CONNECT allowed.example:%PORT", "request_line"),
    line("HTTP/1.2", b"CONNECT allowed.example:%PORT HTTP/1.2", "http_version"),
    line("two spaces", b"CONNECT  allowed.example:%PORT HTTP/1.1", "request_line"),
    line("a word too many", b"CONNECT allowed.example:%PORT x HTTP/1.1", "http_version"),
    # Line ends: where two readers differ, requests are smuggled.
    head("LF alone", REQUEST.replace(b"\r\n", b"\n"), "bare_lf"),
    head("LF alone once", b"CONNECT allowed.example:%PORT HTTP/1.1\r\nA: b\nHost: denied.example\r\n\r\n", "bare_lf"),
    head("CR alone", b"CONNECT allowed.example:%PORT HTTP/1.1\r\nA: b\rHost: denied.example\r\n\r\n", "bare_cr"),
    head("NUL", b"CONNECT allowed.example:%PORT HTTP/1.1\r\nA: b\0c\r\n\r\n", "nul"),
    head("a NUL in the target", b"CONNECT allowed.example\0.x:%PORT HTTP/1.1\r\n\r\n", "nul"),
    # Header fields.
    field("a folded line", b"A: b\r\n c\r\n", "obs_fold"),
    field("a tab before a field", b"\tHost: allowed.example\r\n", "obs_fold"),
    field("a space before the colon", b"Host : allowed.example\r\n", "header_name"),
    field("a field without a colon", b"Host\r\n", "header_name"),
    field("a field without a name", b": allowed.example\r\n", "header_name"),
    field("a control byte", b"A: b\x01c\r\n", "header_value"),
    field("two Hosts", b"Host: allowed.example\r\nhost: allowed.example\r\n", "host_twice"),
    field("another Host", b"Host: denied.example\r\n", "host_differs"),
    field("another port in Host", b"Host: allowed.example:1\r\n", "host_differs"),
    field("a Host that is none", b"Host: a b\r\n", "host_bad"),
    field("two names in Host", b"Host: allowed.example, denied.example\r\n", "host_bad"),
    field("a body announced", b"Content-Length: 5\r\n", "content_length"),
    field("two lengths", b"Content-Length: 0\r\nContent-Length: 9\r\n", "content_length"),
    field("a length that is a list", b"Content-Length: 0, 0\r\n", "content_length"),
    field("chunks announced", b"Transfer-Encoding: chunked\r\n", "transfer_encoding"),
    field("chunks beside a length", b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", "transfer_encoding"),
    field("chunks, misspelt", b"Transfer-Encoding: xchunked\r\n", "transfer_encoding"),
    field("65 fields", b"".join(b"A-%d: b\r\n" % n for n in range(65)), "headers_many", status=431),
    field("a field of 16 KiB", b"A: " + b"b" * 16384 + b"\r\n", "head_too_large", status=431),
    Case("64 KiB without an end", (b"CONNECT " + b"a" * 65536,), "malformed", "head_too_large", b"HTTP/1.1 431 "),
    # The destination.
    target("no port", b"allowed.example", "port_missing"),
    target("an empty port", b"allowed.example:", "port_missing"),
    target("port 0", b"allowed.example:0", "port_bad"),
    target("port 65536", b"allowed.example:65536", "port_bad"),
    target("a port in hexadecimal", b"allowed.example:0x1bb", "port_bad"),
    target("no host", b":%PORT", "name_empty"),
    target("a user", b"user@allowed.example:%PORT", "name_forbidden_byte"),
    target("a URI", b"http://allowed.example:%PORT/", "name_forbidden_byte"),
    target("two ports", b"allowed.example:1:%PORT", "name_forbidden_byte"),
    target("a percent sign", b"allowed%2eexample:%PORT", "name_forbidden_byte"),
    target("a zone", b"[fe80::1%25lo]:%PORT", "name_forbidden_byte"),
    target("IPv6 without brackets", b"::1:%PORT", "name_forbidden_byte"),
    target("a bracket left open", b"[::1:%PORT", "name_forbidden_byte"),
    target("two dots in a row", b"allowed..example:%PORT", "label_empty"),
    target("a label of 64 bytes", b"a" * 64 + b".example:%PORT", "label_too_long"),
    target("254 bytes", b"a." * 126 + b"aa:%PORT", "name_too_long"),
    target("punycode that is none", b"xn--a.example:%PORT", "name_idna"),
    target("a short IPv4 address", b"127.1:%PORT", "name_numeric_tail"),
    target("an IPv4 address as a number", b"2130706433:%PORT", "name_numeric_tail"),
    target("an IPv4 address in hexadecimal", b"0x7f.0.0.1.0x7f:%PORT", "name_numeric_tail"),
    target("an IPv4 address in octal", b"0177.0.0.01:%PORT", "name_numeric_tail"),
]


class Peers(NamedTuple):
    gateway: Gateway
    upstream: Server
    certificates: Certificates


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Peers]:
    """One gateway for every case of this file, in front of a server that is to see none of them."""
    with Server(hello_http, tls=certificates.server) as upstream:
        policy = policy_for(upstream.port, extra=f"timeouts: {{ first_bytes: {int(LIMIT * 1000)}ms }}")
        with running(tmp_path_factory.mktemp("hostile"), policy, port=upstream.port) as gateway:
            yield Peers(gateway, upstream, certificates)


def perform(client: socket.socket, steps: tuple[Step, ...]) -> bytes | None:
    """Does what the case says; gives all that the gateway answers, None after a reset by either side."""
    pace = 0.0
    for step in steps:
        if step == DRIP:
            pace = 0.05
        elif step == HALF_CLOSE:
            client.shutdown(socket.SHUT_WR)
        elif step == RESET:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            return None
        elif pace:
            assert isinstance(step, bytes)
            return drip(client, step, pace)
        else:
            assert isinstance(step, bytes)
            client.sendall(step)
    try:
        return rest(client)
    except ConnectionResetError:
        return None


def drip(client: socket.socket, sent: bytes, pace: float) -> bytes:
    client.settimeout(pace)
    for at in range(len(sent)):
        client.sendall(sent[at : at + 1])
        try:
            first = client.recv(65536)
        except TimeoutError:
            continue
        client.settimeout(LIMIT + SLACK)
        return first + rest(client)
    raise AssertionError("the gateway took all of it")


def rest(client: socket.socket) -> bytes:
    answer = b""
    while data := client.recv(65536):
        answer += data
    return answer


def good_connection(peers: Peers, listener: str) -> None:
    with socket.create_connection(peers.gateway.address(listener), timeout=10) as plain:
        if listener == "proxy":
            plain.sendall(REQUEST.replace(b"%PORT", b"%d" % peers.upstream.port))
            assert plain.recv(4096).startswith(b"HTTP/1.1 200 ")
        with peers.certificates.client.wrap_socket(plain, server_hostname="allowed.example") as tunnel:
            tunnel.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert tunnel.recv(4096).startswith(b"HTTP/1.1 200 OK")


def record_of(gateway: Gateway, source_port: int, after: int) -> Json:
    def found() -> Any:
        return next((one for one in gateway.records()[after:] if one["source"]["port"] == source_port), None)

    result: Json = wait_for(f"the record of the connection from port {source_port}", found)
    return result


def check(peers: Peers, listener: str, case: Case) -> None:
    accepted, known = peers.upstream.accepted, len(peers.gateway.records())
    port = b"%d" % peers.upstream.port
    steps = tuple(step.replace(b"%PORT", port) if isinstance(step, bytes) else step for step in case.steps)
    began = time.monotonic()
    with socket.create_connection(peers.gateway.address(listener), timeout=LIMIT + SLACK) as client:
        source_port = client.getsockname()[1]
        answer = perform(client, steps)
    took = time.monotonic() - began
    if case.reason != "first_bytes_timeout":
        assert took < LIMIT, "answered at once, not at the time limit"
    assert took < LIMIT + SLACK
    if case.answer is None or answer is None:
        assert case.answer is answer
    elif case.answer.startswith(b"HTTP/"):
        assert answer.startswith(case.answer), answer
        check_http(answer)
    else:
        assert answer == case.answer
    record = record_of(peers.gateway, source_port, known)
    end = "client_gone" if case.reason == "client_left" else "refused"
    verdict = "none" if case.reason == "client_left" else "deny"
    assert (record["reason"], record["other_name"], record["end"]) == (case.reason, case.word, end)
    assert (record["verdict"], record["listener"], record["upstream"]) == (verdict, listener, None)
    assert (record["bytes_up"], record["bytes_down"]) == (0, 0)
    assert peers.upstream.accepted == accepted, "a hostile byte reached the upstream"
    good_connection(peers, listener)
    assert peers.upstream.accepted == accepted + 1


def check_http(answer: bytes) -> None:
    """One whole answer, as long as it says, and a 405 says what is allowed (RFC 9110, section 15.5.6)."""
    headers, _, content = answer.partition(b"\r\n\r\n")
    assert b"\r\nContent-Length: %d\r\n" % len(content) in headers
    assert b"\r\nConnection: close\r\n" in headers
    assert (b"\r\nAllow: CONNECT" in headers) == answer.startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize("case", TLS, ids=lambda case: case.what)
def test_hostile_bytes_on_a_tls_listener(case: Case, peers: Peers) -> None:
    check(peers, "tls", case)


@pytest.mark.parametrize("case", CONNECT, ids=lambda case: case.what)
def test_hostile_bytes_on_a_connect_listener(case: Case, peers: Peers) -> None:
    check(peers, "proxy", case)


@pytest.mark.parametrize(("modules", "cases"), [(["tls"], TLS), (["connect", "head"], CONNECT)], ids=["tls", "connect"])
def test_every_word_of_the_parsers_has_its_case(modules: list[str], cases: list[Case]) -> None:
    """A new way to be malformed comes with a case here."""
    sources = Path(__file__).parents[2] / "rust" / "crates" / "hello" / "src"
    words = set()
    for module in modules:
        source = (sources / module / "error.rs").read_text()
        words |= set(re.findall(r'^ {4}\w+ "(\w+)" "', source, re.MULTILINE))
        words |= set(re.findall(r'=> "(sni_\w+)"', source))
    assert len(words) > 10
    assert words - {"status_line"} <= {case.word for case in cases}
