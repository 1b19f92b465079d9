"""Lies about the destination, in every way in: each is refused for its own reason, and no byte of it gets out.

The upstream listens on every address of this machine and counts. The policy is as wide as a policy gets: what is
refused here is refused because it is a lie. At the end of each case the truth, told in the same way, still arrives.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import threading
from collections.abc import Iterator
from typing import NamedTuple, Self

import pytest

from . import hellos as h
from . import proxy_headers as pp
from .dns import DnsServer, address
from .gateway import Gateway, running, wait_for
from .postgres import CANCEL_REQUEST, GSS_REQUEST, SSL_REQUEST, STARTUP
from .test_hostile_first_bytes import record_of

TRUTH, SECRET = "allowed.example", "secret.wild.example"
#: Looks like TRUTH: its first letter is Cyrillic (IDNA: UTS 46).
LOOKALIKE = "\u0430llowed.example".encode("idna").decode()

MISMATCH, BAD_NAME, MALFORMED = "name_mismatch", "bad_name", "malformed"
PRIVATE, FORBIDDEN, OWN = "private_address", "forbidden_address", "own_address"
DENIED, UNKNOWN, NAMELESS = "rule_deny", "default_deny", "no_name"
UNTRUSTED, OTHER_PROTOCOL = "untrusted_proxy", "not_accepted"


class Trap:
    """The upstream, on every address of this machine: counts connections and bytes, and says nothing."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self.port: int = self.listener.getsockname()[1]
        self.accepted = self.ended = self.bytes = 0
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)

    def serve(self) -> None:
        """One connection after the other, each until its end."""
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            with connection:
                connection.settimeout(10)
                with contextlib.suppress(OSError):
                    while data := connection.recv(65536):
                        self.bytes += len(data)
            self.ended += 1


class World(NamedTuple):
    gateway: Gateway
    trap: Trap

    def fill(self, sent: bytes) -> bytes:
        """What is sent with the upstream's port in it: as text, and as SOCKS has it."""
        return sent.replace(b"%PORT", b"%d" % self.trap.port).replace(b"%2PORT", self.trap.port.to_bytes(2, "big"))


#: Names that a rule allows, and where they lead.
INWARDS = {
    "private": ("10.1.2.3", PRIVATE),
    "private-12": ("172.16.0.1", PRIVATE),
    "private-16": ("192.168.1.1", PRIVATE),
    "shared": ("100.64.0.1", PRIVATE),
    "loopback": ("127.0.0.1", FORBIDDEN),
    "loopback-far": ("127.255.255.254", FORBIDDEN),
    "this-host": ("0.0.0.0", FORBIDDEN),
    "link-local": ("169.254.1.1", FORBIDDEN),
    "metadata": ("169.254.169.254", FORBIDDEN),
    "multicast": ("224.0.0.1", FORBIDDEN),
    "broadcast": ("255.255.255.255", FORBIDDEN),
    "loopback-6": ("::1", FORBIDDEN),
    "any-6": ("::", FORBIDDEN),
    "unique-local": ("fd00::1", PRIVATE),
    "metadata-6": ("fd00:ec2::254", FORBIDDEN),
    "link-local-6": ("fe80::1", FORBIDDEN),
    "mapped": ("::ffff:127.0.0.1", FORBIDDEN),
    "mapped-private": ("::ffff:10.0.0.1", PRIVATE),
    "compatible": ("::127.0.0.1", FORBIDDEN),
    "nat64": ("64:ff9b::7f00:1", FORBIDDEN),
    "nat64-private": ("64:ff9b::a00:1", PRIVATE),
    "6to4": ("2002:7f00:1::1", FORBIDDEN),
    "teredo": ("2001:0:4136:e378:8000:63bf:80ff:fffe", FORBIDDEN),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Trap() as trap, DnsServer() as dns:
        for label, (where, _) in INWARDS.items():
            dns.names[f"{label}.wild.example"] = address(where)
        dns.names[SECRET] = address("127.0.0.1")
        policy = f"""
listeners:
  - {{ name: tls, bind: "127.0.0.1:0", accept: tls, port: {trap.port} }}
  - {{ name: connect, bind: "127.0.0.1:0", accept: connect }}
  - {{ name: socks, bind: "127.0.0.1:0", accept: socks5 }}
  - {{ name: http, bind: "127.0.0.1:0", accept: http }}
  - {{ name: postgres, bind: "127.0.0.1:0", accept: postgres, port: {trap.port} }}
  - {{ name: behind, bind: "127.0.0.1:0", accept: tls, port: {trap.port},
      proxy_protocol: required, proxy_trusted: 127.0.0.2 }}
  - {{ name: beside, bind: "127.0.0.1:0", accept: [tls, connect, http], port: {trap.port},
      proxy_protocol: optional, proxy_trusted: 127.0.0.2 }}
resolver: {{ servers: ["127.0.0.1:{dns.port}"], hosts: {{ {TRUTH}: 127.0.0.1, other.example: 127.0.0.1 }} }}
timeouts: {{ first_bytes: 2s }}
rules:
  - {{ name: truth, to: ["{TRUTH}:*", "other.example:*", "*.wild.example:*"] }}
  - {{ name: every-address, anywhere: true, to: ["0.0.0.0/0:*", "[::/0]:*"] }}
  - {{ name: secret, deny: true, to: {SECRET} }}
"""
        with running(tmp_path_factory.mktemp("lies"), policy, port=trap.port) as gateway:
            yield World(gateway, trap)


class Lie(NamedTuple):
    listener: str
    what: str
    sent: bytes
    reason: str
    #: `other_name` of the record, where it tells more than the reason.
    word: str | None = None


def inside(name: bytes) -> bytes:
    """A hello for `name` as it comes after a proxy's answer."""
    return h.hello(h.sni(name))


def connect(target: str, then: bytes = b"", *, fields: str = "") -> bytes:
    return f"CONNECT {target}:%PORT HTTP/1.1\r\n{fields}\r\n".encode() + then


def socks_name(name: bytes, then: bytes = b"") -> bytes:
    return b"\5\1\0\5\1\0\3" + h.vec8(name) + b"%2PORT" + then


def socks_address(text: str, then: bytes = b"") -> bytes:
    packed = ipaddress.ip_address(text).packed
    return b"\5\1\0\5\1\0" + (b"\1" if len(packed) == 4 else b"\4") + packed + b"%2PORT" + then


def request(target: str, host: str | None = None, fields: str = "", body: bytes = b"", method: str = "GET") -> bytes:
    """A request of plain HTTP; its Host is the target's where none is given."""
    host = target.removeprefix("http://").partition("/")[0] if host is None else host
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n".encode() + body


def url(text: str) -> str:
    return f"http://{host(text)}:%PORT/"


def encrypted(name: bytes) -> bytes:
    """A hello for `name` behind PostgreSQL's request for TLS."""
    return SSL_REQUEST + inside(name)


def host(text: str) -> str:
    return f"[{text}]" if ":" in text else text


def disagreeing() -> Iterator[Lie]:
    """Each pair of names and addresses that may be given, one to the proxy and one to the destination."""
    for listener in ("connect", "socks"):

        def ask(asked: str, then: bytes, listener: str = listener) -> bytes:
            if listener == "connect":
                return connect(host(asked), then)
            is_name = asked.lower().rstrip(".").endswith("example")
            return socks_name(asked.encode(), then) if is_name else socks_address(asked, then)

        for asked, named in [
            (TRUTH, "other.example"),
            (TRUTH, SECRET),
            (TRUTH, f"api.{TRUTH}"),
            (TRUTH, "example"),
            (TRUTH, LOOKALIKE),
            (TRUTH, "127.0.0.1"),
            (TRUTH, "8.8.8.8"),
            (TRUTH, "::1"),
            (TRUTH.upper(), "OTHER.example"),
            (f"{TRUTH}.", "other.example."),
        ]:
            yield Lie(listener, f"{asked} and then {named}", ask(asked, inside(named.encode())), MISMATCH)
        for what, hello, reason, word in [
            ("a NUL", inside(b"allowed.example\0.x"), MALFORMED, "sni_name_forbidden_byte"),
            ("an empty name", inside(b""), MALFORMED, "sni_name_empty"),
            ("two names", h.hello(h.extension(0, h.vec16(h.entry(b"allowed.example") + h.entry(b"x.example")))),
                MALFORMED, "sni_two_names"),
            ("server_name twice", h.hello(h.sni(b"allowed.example") + h.sni(b"x.example")), MALFORMED, "sni_twice"),
            ("a number for a name", inside(b"2130706433"), MALFORMED, "sni_name_numeric_tail"),
        ]:  # fmt: skip
            yield Lie(listener, f"{TRUTH} and then {what}", ask(TRUTH, hello), reason, word)


def inwards() -> Iterator[Lie]:
    """Every address that is not the outside, by a name that leads there and by itself."""
    for label, (where, reason) in INWARDS.items():
        name = f"{label}.wild.example"
        yield Lie("tls", f"{name} is {where}", inside(name.encode()), reason)
        yield Lie("connect", f"{name} is {where}", connect(name), reason)
        yield Lie("socks", f"{name} is {where}", socks_name(name.encode()), reason)
        yield Lie("http", f"{name} is {where}", request(url(name)), reason)
        yield Lie("postgres", f"{name} is {where}", encrypted(name.encode()), reason)
        yield Lie("connect", where, connect(host(where)), reason)
        yield Lie("http", where, request(url(where)), reason)
        yield Lie("socks", where, socks_address(where), reason)
        if ":" not in where:
            yield Lie("socks", f"{where} as a name", socks_name(where.encode()), reason)


def spelt() -> Iterator[Lie]:
    """Other spellings: of addresses, which resolvers of other programs read, and of a name that a rule denies."""
    for text in (
        "2130706433",  # decimal
        "017700000001",  # octal
        "0x7f000001",  # hexadecimal
        "127.1",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "127.0.0.1.",
        "127.0.0.01",
        "127.0.0.256",
        "10.0.0.0.1",
    ):
        yield Lie("tls", text, inside(text.encode()), BAD_NAME, "sni_name_numeric_tail")
        yield Lie("connect", text, connect(text), BAD_NAME, "name_numeric_tail")
        yield Lie("socks", text, socks_name(text.encode()), BAD_NAME, "name_numeric_tail")
        yield Lie("http", text, request(url(text)), BAD_NAME, "name_numeric_tail")
        yield Lie("http", f"Host: {text}", request("/", f"{text}:%PORT"), BAD_NAME, "name_numeric_tail")
        yield Lie("postgres", text, encrypted(text.encode()), BAD_NAME, "sni_name_numeric_tail")
    for text in (f"{SECRET}.", SECRET.upper(), "Secret.Wild.Example", f"{SECRET.upper()}."):
        yield Lie("tls", text, inside(text.encode()), DENIED)
        yield Lie("connect", text, connect(text), DENIED)
        yield Lie("socks", text, socks_name(text.encode()), DENIED)
        yield Lie("http", text, request(url(text)), DENIED)
        yield Lie("http", f"Host: {text}", request("/", f"{text}:%PORT"), DENIED)
        yield Lie("postgres", text, encrypted(text.encode()), DENIED)
    for text in (LOOKALIKE, "allowed.example.wild.test", "allowedxexample", "xallowed.example"):
        yield Lie("tls", text, inside(text.encode()), UNKNOWN)
        yield Lie("connect", text, connect(text), UNKNOWN)
        yield Lie("socks", text, socks_name(text.encode()), UNKNOWN)
        yield Lie("http", text, request(url(text)), UNKNOWN)
        yield Lie("http", f"Host: {text}", request("/", f"{text}:%PORT"), UNKNOWN)
        yield Lie("postgres", text, encrypted(text.encode()), UNKNOWN)
    for what, name, word in [
        ("a NUL and more", b"allowed.example\0.x", "name_forbidden_byte"),
        ("a blank", b"allowed.example x", "name_forbidden_byte"),
        ("a port", b"allowed.example:443", "name_forbidden_byte"),
        ("no name", b"", "name_empty"),
        ("two dots", b"allowed..example", "label_empty"),
    ]:
        yield Lie("tls", what, inside(name), BAD_NAME, f"sni_{word}")
        yield Lie("socks", what, socks_name(name), BAD_NAME, word)
    cyrillic = "\u0430llowed.example".encode()
    yield Lie("tls", "letters of another alphabet", inside(cyrillic), BAD_NAME, "sni_not_ascii")
    yield Lie("socks", "letters of another alphabet", socks_name(cyrillic), BAD_NAME, "name_forbidden_byte")


def nameless() -> Iterator[Lie]:
    """A `tls` listener is told where to go by the name alone."""
    yield Lie("tls", "no server_name", h.hello(b""), NAMELESS)
    for text in ("127.0.0.1", "8.8.8.8", "::1", "::ffff:8.8.8.8"):
        yield Lie("tls", f"{text} for a name", inside(text.encode()), NAMELESS)
        yield Lie("postgres", f"{text} for a name", encrypted(text.encode()), NAMELESS)
    two = h.extension(0, h.vec16(h.entry(TRUTH.encode()) + h.entry(b"x.example")))
    yield Lie("tls", "two names", h.hello(two), MALFORMED, "sni_two_names")
    yield Lie("tls", "server_name twice", h.hello(h.sni(TRUTH.encode()) * 2), MALFORMED, "sni_twice")
    yield Lie("postgres", "no server_name", SSL_REQUEST + h.hello(b""), NAMELESS)
    yield Lie("postgres", "a session in the clear", STARTUP, NAMELESS)
    yield Lie("postgres", "a cancellation in the clear", CANCEL_REQUEST, NAMELESS)
    yield Lie("postgres", "a session behind the request", SSL_REQUEST + STARTUP, MALFORMED, "postgres_not_tls")
    yield Lie("postgres", "a request behind the request", SSL_REQUEST * 2, MALFORMED, "postgres_not_tls")
    yield Lie("postgres", "no GSSAPI twice", GSS_REQUEST * 2, MALFORMED, "postgres_repeated")


def other_host() -> Iterator[Lie]:
    """A CONNECT whose Host is another than its target (RFC 9112, section 3.2.2)."""
    for text in ("other.example:%PORT", f"{TRUTH}:1", f"{TRUTH}, x", "127.0.0.1:%PORT", f"{TRUTH}\0"):
        word = "nul" if "\0" in text else "host_bad" if "," in text else "host_differs"
        yield Lie("connect", f"Host: {text!r}", connect(TRUTH, fields=f"Host: {text}\r\n"), MALFORMED, word)
    twice = f"Host: {TRUTH}:%PORT\r\n" * 2
    yield Lie("connect", "Host twice", connect(TRUTH, fields=twice), MALFORMED, "host_twice")
    for field, word in (("Content-Length: 5", "content_length"), ("Transfer-Encoding: chunked", "transfer_encoding")):
        sent = connect(TRUTH, b"hello", fields=f"{field}\r\n")
        yield Lie("connect", f"a body by {field}", sent, MALFORMED, word)


def other_authority() -> Iterator[Lie]:
    """A request whose Host is another than its URI (RFC 9112, section 3.2.2), or whose target is none."""
    for text in ("other.example:%PORT", f"{TRUTH}:1", f"{SECRET}:%PORT", "127.0.0.1:%PORT", "[::1]:%PORT"):
        yield Lie("http", f"Host: {text}", request(url(TRUTH), text), MISMATCH)
    for asked in ("other.example", SECRET, "8.8.8.8", "::1"):
        yield Lie("http", f"{asked}, Host: {TRUTH}", request(url(asked), f"{TRUTH}:%PORT"), MISMATCH)
    for what, target, reason, word in [
        ("a user before the host", f"http://{TRUTH}@other.example/", MALFORMED, "user_info"),
        ("a fragment before a user", f"http://{TRUTH}#@other.example/", MALFORMED, "target_byte"),
        ("a backslash", f"http://{TRUTH}\\.other.example/", BAD_NAME, "name_forbidden_byte"),
        ("an escaped dot", "http://allowed%2eexample/", BAD_NAME, "name_forbidden_byte"),
        ("https", f"https://{TRUTH}:%PORT/", MALFORMED, "scheme_not_http"),
        ("no host", "http:///", BAD_NAME, "name_empty"),
    ]:
        yield Lie("http", what, request(target, f"{TRUTH}:%PORT"), reason, word)
    target = url(TRUTH)
    yield Lie("http", "Host twice", request(target, fields=f"Host: {TRUTH}:%PORT\r\n"), MALFORMED, "host_twice")
    yield Lie("http", "two in Host", request("/", f"{TRUTH}, other.example"), BAD_NAME, "name_forbidden_byte")
    yield Lie(
        "http", "no Host", f"GET {target} HTTP/1.1\r\nConnection: close\r\n\r\n".encode(), MALFORMED, "host_missing"
    )


def smuggled() -> Iterator[Lie]:
    """Bodies whose end two readers would find in two places, with a request to a denied name in them."""
    within = request(url(SECRET))
    for what, fields, body, word in [
        ("length and coding", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n", "length_and_coding"),
        ("two lengths", "Content-Length: 0\r\nContent-Length: 44\r\n", b"", "content_lengths_differ"),
        ("a list of lengths", "Content-Length: 0, 44\r\n", b"", "content_length"),
        ("a signed length", "Content-Length: +5\r\n", b"", "content_length"),
        ("two codings", "Transfer-Encoding: chunked, chunked\r\n", b"", "transfer_encoding"),
        ("a quoted coding", 'Transfer-Encoding: "chunked"\r\n', b"", "transfer_encoding"),
        ("an unknown coding", "Transfer-Encoding: xchunked\r\n", b"", "transfer_encoding"),
        ("a blank before the colon", "Transfer-Encoding : chunked\r\n", b"", "header_name"),
        ("a folded line", "X: y\r\n Transfer-Encoding: chunked\r\n", b"", "obs_fold"),
        ("a line that ends in LF", "X: y\nTransfer-Encoding: chunked\r\n", b"", "bare_lf"),
        ("a line that ends in CR", "X: y\rTransfer-Encoding: chunked\r\n", b"", "bare_cr"),
        ("a NUL", "X: y\0z\r\n", b"", "nul"),
        (
            "a length that Connection names",
            "Connection: content-length\r\nContent-Length: 5\r\n",
            b"",
            "connection_names",
        ),
    ]:
        yield Lie("http", what, request(url(TRUTH), fields=fields, body=body + within, method="POST"), MALFORMED, word)


def spoofed() -> Iterator[Lie]:
    """Who is not trusted says who the caller is. What is in `sent` is whole: only the header is a lie."""
    said = inside(TRUTH.encode())
    headers = {
        "version 1": pp.v1(),
        "version 2": pp.v2(),
        "version 1, of the proxy itself": pp.v1(("127.0.0.2", 1)),
        "version 2, of the proxy itself": pp.v2(("127.0.0.2", 1)),
        "version 2, with an identity": pp.v2(tlvs=pp.tlv(pp.CUSTOM, b"admin")),
        "LOCAL": pp.local(),
        "UNKNOWN": b"PROXY UNKNOWN\r\n",
    }
    for what, header in headers.items():
        yield Lie("behind", what, header + said, UNTRUSTED)
        yield Lie("beside", what, header + said, OTHER_PROTOCOL)
        yield Lie("tls", f"a header: {what}", header + said, OTHER_PROTOCOL)
    yield Lie("behind", "no header", said, UNTRUSTED)


LIES = [*disagreeing(), *inwards(), *spelt(), *nameless(), *other_host(), *other_authority(), *smuggled(), *spoofed()]
TRUTHS = {
    "tls": inside(TRUTH.encode()),
    "connect": connect(TRUTH, inside(TRUTH.encode())),
    "socks": socks_name(TRUTH.encode(), inside(TRUTH.encode())),
    "http": request(
        url(TRUTH), body=inside(TRUTH.encode()), fields=f"Content-Length: {len(inside(TRUTH.encode()))}\r\n"
    ),
    "beside": inside(TRUTH.encode()),
}


def test_there_are_lies_enough() -> None:
    assert len({(lie.listener, lie.sent) for lie in LIES}) == len(LIES) >= 60


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: f"{lie.listener}: {lie.what}")
def test_a_lie_is_refused_and_no_byte_of_it_gets_out(world: World, lie: Lie) -> None:
    trap, gateway = world.trap, world.gateway
    before, known = (trap.accepted, trap.bytes), len(gateway.records())
    with socket.socket() as client:
        client.settimeout(10)
        client.bind(("127.0.0.1", 0))
        source_port = client.getsockname()[1]
        # Some are turned away before they have said anything.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            client.connect(gateway.address(lie.listener))
            client.sendall(world.fill(lie.sent))
            while client.recv(65536):
                pass
    record = record_of(gateway, source_port, known)
    assert (record["verdict"], record["end"], record["bytes_up"]) == ("deny", "refused", 0)
    assert record["reason"] == lie.reason, record
    assert lie.word is None or record["other_name"] == lie.word, record
    # A truth's connection through, whatever came before it has come, too.
    with socket.create_connection(("127.0.0.1", trap.port)):
        wait_for("the next connection", lambda: trap.accepted > before[0])
    wait_for("its end", lambda: trap.ended == trap.accepted)
    assert (trap.accepted - 1, trap.bytes) == before, "all of it was known before anything was dialled"


@pytest.mark.parametrize("listener", TRUTHS)
def test_the_truth_arrives(world: World, listener: str) -> None:
    before = world.trap.bytes
    with socket.create_connection(world.gateway.address(listener), timeout=10) as client:
        client.sendall(world.fill(TRUTHS[listener]))
        wait_for("the hello", lambda: world.trap.bytes >= before + len(inside(TRUTH.encode())))
        # A reset: who only closes may still want a response, and the trap would wait for the end of this one.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
