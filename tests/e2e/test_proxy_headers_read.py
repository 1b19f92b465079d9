"""Behind a proxy that is trusted the caller is who its PROXY header says; from anybody else, and in any wrong form, a
header gets its sender nowhere."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest

from . import hellos as h
from . import proxy_headers as pp
from .gateway import Gateway, Json
from .servers import Server, echo
from .test_name_agreement import ACCESS_DENIED, ESTABLISHED, Recorder, connect_to, exactly, rest
from .test_socks import SUCCEEDED, domain, reply

Start = Callable[..., Gateway]
Serve = Callable[..., Server]
GOOD = "allowed.example"
#: The tests' clients come from here, unless they say otherwise: a proxy that is trusted.
TRUSTED, STRANGER = "127.0.0.1", "127.0.0.9"
HELLO = h.hello(h.sni(GOOD.encode()))


def policy(port: int, accept: str = "tls", keys: str = "proxy_protocol: required", rule: str = "") -> str:
    """GOOD is allowed to callers of 198.51.100.0/24, and of 2001:db8::/32."""
    fixed = {"tls": f"port: {port}", "tcp": f'to: "{GOOD}:{port}"'}.get(accept, "")
    from_ = rule or "{ cidr: [198.51.100.0/24, 2001:db8::/32] }"
    return f"""
listeners:
  - {{ name: way-in, bind: "127.0.0.1:0", accept: {accept}, {fixed + ", " if fixed else ""}{keys},
      {"proxy_trusted: " + TRUSTED if keys != "proxy_protocol: off" else ""} }}
resolver: {{ hosts: {{ {GOOD}: 127.0.0.1 }} }}
rules: [{{ name: r, from: {from_}, to: ["{GOOD}:{port}"] }}]
"""


def connect(gateway: Gateway, source: str = TRUSTED) -> socket.socket:
    return socket.create_connection(gateway.address("way-in"), timeout=10, source_address=(source, 0))


def told(gateway: Gateway, sent: bytes, source: str = TRUSTED) -> bytes | None:
    """All that comes back for `sent`; `None` for a reset."""
    try:
        with connect(gateway, source) as client:
            client.sendall(sent)
            return rest(client)
    except (ConnectionResetError, BrokenPipeError):
        return None


HEADERS = {
    "version 1": pp.v1(),
    "version 2": pp.v2(),
    "version 1, IPv6": pp.v1(("2001:db8::7", 40001), ("2001:db8::1", 443)),
    "version 2, IPv6": pp.v2(("2001:db8::7", 40001), ("2001:db8::1", 443)),
    "version 2, IPv4 mapped": pp.v2(("::ffff:198.51.100.7", 40001), ("::ffff:203.0.113.1", 443)),
    "version 2, TLVs": pp.v2(tlvs=pp.tlv(pp.ALPN, b"h2") + pp.tlv(pp.CUSTOM, b"me") + pp.tlv(pp.CUSTOM, b"you")),
    "version 2, checksum": pp.summed(),
    "version 2, 4 KiB": pp.v2(tlvs=pp.tlv(pp.NOOP, bytes(4096 - len(pp.v2()) - 3))),
}


@pytest.mark.parametrize("mode", ["required", "optional"])
@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_the_caller_is_who_the_header_says(start: Start, serve: Serve, header: bytes, mode: str) -> None:
    """Header and hello come in one segment."""
    upstream = serve(echo)
    gateway = start(policy(upstream.port, keys=f"proxy_protocol: {mode}"))
    with connect(gateway) as client:
        client.sendall(header + HELLO)
        assert exactly(client, len(HELLO)) == HELLO
        peer = client.getsockname()
    record = gateway.record(end="closed")
    ip = "2001:db8::7" if b"2001:db8" in header or b"\x20\x01\x0d\xb8" in header else "198.51.100.7"
    assert record["source"] == {"ip": ip, "port": 40001}
    assert record["peer"] == {"ip": peer[0], "port": peer[1]}
    assert (record["evidence"], record["rule"], record["bytes_up"]) == ("proxy_header", "r", len(HELLO))


def flights(port: int) -> dict[str, tuple[str, bytes, bytes, bytes]]:
    """By listener: what a client says, what it is told, what it says then, and what that comes back as."""
    target = f"{GOOD}:{port}"
    return {
        "tls": ("tls", b"", b"", HELLO),
        "tcp": ("tcp", b"", b"", b"any bytes"),
        "connect": ("connect", connect_to(target), ESTABLISHED, b"ping"),
        "socks5": ("socks5", b"\5\1\0" + domain(GOOD, port), b"\5\0" + reply(SUCCEEDED), b"ping"),
        "one of several": ("[tls, connect, socks5]", connect_to(target), ESTABLISHED, b"ping"),
    }  # fmt: skip


@pytest.mark.parametrize("way", flights(0))
@pytest.mark.parametrize("header", [pp.v1(), pp.v2(tlvs=pp.tlv(pp.CUSTOM, b"x"))], ids=["version 1", "version 2"])
def test_every_listener_reads_it_whole_and_byte_by_byte(start: Start, serve: Serve, way: str, header: bytes) -> None:
    upstream = serve(echo)
    accept, asks, answer, payload = flights(upstream.port)[way]
    gateway = start(policy(upstream.port, accept))
    for cut in (False, True):
        with connect(gateway) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sent = header + asks + payload
            for part in [sent[at : at + 1] for at in range(len(sent))] if cut else [sent]:
                client.sendall(part)
            assert exactly(client, len(answer) + len(payload)) == answer + payload
    gateway.record(end="closed", rule="r")
    assert all(record["source"]["ip"] == "198.51.100.7" for record in gateway.records())


def test_who_the_policy_does_not_know_is_refused_in_its_own_words(start: Start, serve: Serve) -> None:
    recorder = Recorder()
    gateway = start(policy(serve(recorder).port))
    assert told(gateway, pp.v1(("192.0.2.1", 5)) + HELLO) == ACCESS_DENIED
    record = gateway.record(reason="default_deny")
    assert (record["source"]["ip"], record["peer"]["ip"]) == ("192.0.2.1", TRUSTED)
    assert recorder.got == b"" and not recorder.ended.is_set()


@pytest.mark.parametrize("header", [pp.local(), b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN what ever\r\n", pp.v2(family=0)])
def test_a_proxy_that_speaks_for_itself_has_its_own_address(start: Start, serve: Serve, header: bytes) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port, rule=f"{{ cidr: {TRUSTED} }}"))
    with connect(gateway) as client:
        client.sendall(header + HELLO)
        assert exactly(client, len(HELLO)) == HELLO
    record = gateway.record(end="closed")
    assert (record["source"]["ip"], record["evidence"]) == (TRUSTED, "address")
    assert record["peer"] == record["source"]


WRONG: dict[str, tuple[bytes, str, str | None]] = {
    "no header": (HELLO, "not_accepted", "proxy_header"),
    "a request for a tunnel": (connect_to(f"{GOOD}:443"), "not_accepted", "proxy_header"),
    "v1: unknown protocol": (b"PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n", "malformed", "pp1_protocol"),
    "v1: an address too few": (b"PROXY TCP4 1.1.1.1 1 2\r\n", "malformed", "pp1_fields"),
    "v1: two spaces": (b"PROXY TCP4  198.51.100.7 1.1.1.1 1 2\r\n", "malformed", "pp1_fields"),
    "v1: a field more": (b"PROXY TCP4 198.51.100.7 1.1.1.1 1 2 3\r\n", "malformed", "pp1_fields"),
    "v1: octal": (b"PROXY TCP4 0306.51.100.7 1.1.1.1 1 2\r\n", "malformed", "pp1_address"),
    "v1: another family": (b"PROXY TCP6 198.51.100.7 1.1.1.1 1 2\r\n", "malformed", "pp1_address"),
    "v1: a name": (b"PROXY TCP4 allowed.example 1.1.1.1 1 2\r\n", "malformed", "pp1_address"),
    "v1: port 65536": (b"PROXY TCP4 198.51.100.7 1.1.1.1 65536 2\r\n", "malformed", "pp1_port"),
    "v1: port 01": (b"PROXY TCP4 198.51.100.7 1.1.1.1 01 2\r\n", "malformed", "pp1_port"),
    "v1: LF alone": (b"PROXY TCP4 198.51.100.7 1.1.1.1 1 2\n", "malformed", "pp1_bare_lf"),
    "v1: CR alone": (b"PROXY TCP4 198.51.100.7 1.1.1.1 1 2\r" + HELLO, "malformed", "pp1_bare_cr"),
    "v1: no end": (b"PROXY UNKNOWN " + b"x" * 200, "malformed", "pp1_line_too_long"),
    "v1: NUL": (b"PROXY TCP4 198.51.100.7\0 1.1.1.1 1 2\r\n", "malformed", "pp1_address"),
    "v2: version 3": (pp.v2(command=0x31), "malformed", "pp2_version"),
    "v2: unknown command": (pp.v2(command=0x22), "malformed", "pp2_command"),
    "v2: unknown family": (pp.v2(family=0x41), "malformed", "pp2_family"),
    "v2: too short for its addresses": (pp.v2(announce=11), "malformed", "pp2_addresses"),
    "v2: longer than 4 KiB": (pp.v2(tlvs=pp.tlv(pp.NOOP, bytes(4096))), "malformed", "pp2_too_long"),
    "v2: 64 KiB announced": (pp.v2(announce=65535), "malformed", "pp2_too_long"),
    "v2: a TLV that leaves it": (pp.v2(tlvs=struct.pack(">BH", 0xE0, 9) + b"x"), "malformed", "pp2_tlv_length"),
    "v2: half a TLV": (pp.v2(tlvs=b"\xe0\0"), "malformed", "pp2_tlv_length"),
    "v2: wrong checksum": (pp.summed(wrong=1), "malformed", "pp2_checksum"),
    "v2: short checksum": (pp.v2(tlvs=pp.tlv(pp.CRC32C, b"abc")), "malformed", "pp2_checksum_length"),
    "v2: two authorities": (pp.v2(tlvs=pp.tlv(pp.AUTHORITY, b"a") * 2), "malformed", "pp2_tlv_twice"),
    "v2: long unique id": (pp.v2(tlvs=pp.tlv(pp.UNIQUE_ID, bytes(129))), "malformed", "pp2_unique_id"),
    "v1 twice": (pp.v1() + pp.v1(("198.51.100.8", 1)), "not_accepted", None),
    "v2 twice": (pp.v2() + pp.v2(("198.51.100.8", 1)), "not_accepted", None),
    "v1, then v2": (pp.v1() + pp.v2(("198.51.100.8", 1)), "not_accepted", None),
}  # fmt: skip


@pytest.mark.parametrize("mode", ["required", "optional"])
def test_what_is_no_header_is_refused_with_its_reason(start: Start, serve: Serve, mode: str) -> None:
    recorder = Recorder()
    upstream = serve(recorder)
    gateway = start(policy(upstream.port, keys=f"proxy_protocol: {mode}", rule="{ cidr: 0.0.0.0/0 }"))
    for what, (header, reason, word) in WRONG.items():
        if mode == "optional" and word == "proxy_header":
            continue
        after = len(gateway.records())
        answer = told(gateway, header + HELLO)
        # A proxy is told nothing; a client whose proxy has introduced it, and that then speaks no TLS, neither.
        assert answer is None, what
        record = gateway.record(after=after)
        assert (record["reason"], record["other_name"], record["end"]) == (reason, word, "refused"), what
        assert record["upstream"] is None, what
    assert upstream.accepted == 0 and recorder.got == b""


@pytest.mark.parametrize("header", [pp.v1(), pp.v2()], ids=["version 1", "version 2"])
def test_a_header_that_is_cut_anywhere_leads_nowhere(start: Start, serve: Serve, header: bytes) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port, "tcp"))
    for cut in range(len(header)):
        after = len(gateway.records())
        with connect(gateway) as client:
            client.sendall(header[:cut])
            client.shutdown(socket.SHUT_WR)
            assert rest(client) == b"", cut
        record = gateway.record(after=after)
        assert (record["reason"], record["peer"]) == ("client_left", None), cut
    assert upstream.accepted == 0


@pytest.mark.parametrize("accept", ["tls", "tcp", "connect", "socks5"])
def test_nobody_else_is_let_in_where_a_header_is_required(start: Start, serve: Serve, accept: str) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port, accept, rule="{ cidr: 0.0.0.0/0 }"))
    for sent in (pp.v1() + HELLO, pp.v2() + HELLO, HELLO, b""):
        after = len(gateway.records())
        assert told(gateway, sent, STRANGER) is None, sent
        record = gateway.record(after=after)
        assert (record["reason"], record["verdict"], record["end"]) == ("untrusted_proxy", "deny", "refused")
        assert (record["source"]["ip"], record["peer"]) == (STRANGER, None)
    assert upstream.accepted == 0


@pytest.mark.parametrize("keys", ["proxy_protocol: optional", "proxy_protocol: off"])
def test_a_strangers_header_is_its_own_bytes(start: Start, serve: Serve, keys: str) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port, keys=keys, rule="{ cidr: [198.51.100.0/24, 127.0.0.0/8] }"))
    for header in (pp.v1(), pp.v2()):
        after = len(gateway.records())
        assert told(gateway, header + HELLO, STRANGER) is None
        record = gateway.record(after=after)
        assert (record["reason"], record["source"]["ip"], record["peer"]) == ("not_accepted", STRANGER, None)
    assert upstream.accepted == 0
    # Without one it is served as anywhere else.
    with connect(gateway, STRANGER) as client:
        client.sendall(HELLO)
        assert exactly(client, len(HELLO)) == HELLO


def test_a_trusted_proxy_may_leave_out_what_is_optional(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port, keys="proxy_protocol: optional", rule=f"{{ cidr: {TRUSTED} }}"))
    with connect(gateway) as client:
        for byte in HELLO:
            client.sendall(bytes([byte]))
        assert exactly(client, len(HELLO)) == HELLO
    record = gateway.record(end="closed")
    assert (record["source"]["ip"], record["peer"], record["evidence"]) == (TRUSTED, None, "address")


def identity(gateway: Gateway, tlvs: bytes) -> Json:
    after = len(gateway.records())
    with connect(gateway) as client:
        client.sendall(pp.v2(tlvs=tlvs) + HELLO)
        client.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            client.recv(len(HELLO))
    return gateway.record(after=after)


def test_a_tlv_is_an_identity(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    keys = 'proxy_protocol: required, proxy_tlv: "0xe0"'
    gateway = start(policy(upstream.port, keys=keys, rule="{ tlv: team-a, cidr: 198.51.100.0/24 }"))
    record = identity(gateway, pp.tlv(0xE1, b"team-b") + pp.tlv(pp.CUSTOM, b"team-a"))
    assert (record["verdict"], record["identity"], record["evidence"]) == ("allow", "team-a", "proxy_header")
    for tlvs, reason, name in [
        (b"", "default_deny", None),
        (pp.tlv(pp.CUSTOM, b"team-b"), "default_deny", "team-b"),
        (pp.tlv(pp.CUSTOM, b"team-a\0"), "default_deny", "team-a\0"),
        (pp.tlv(0xE1, b"team-a"), "default_deny", None),
        (pp.tlv(pp.CUSTOM, b"team-a" * 60), "default_deny", None),
        (pp.tlv(pp.CUSTOM, b"team-a") + pp.tlv(pp.CUSTOM, b"team-b"), "malformed", None),
        (pp.tlv(pp.CUSTOM, b"team-a") * 2, "malformed", None),
    ]:
        record = identity(gateway, tlvs)
        assert (record["verdict"], record["reason"], record["identity"]) == ("deny", reason, name), tlvs
    assert record["other_name"] == "pp2_tlv_twice"
    assert upstream.accepted == 1


def test_an_endpoint_of_aws_is_an_identity(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    keys = "proxy_protocol: required, proxy_tlv: aws_vpce_id"
    gateway = start(policy(upstream.port, keys=keys, rule="{ tlv: vpce-08d2bf15fac5001c9 }"))
    assert identity(gateway, pp.tlv(pp.AWS, b"\1vpce-08d2bf15fac5001c9"))["verdict"] == "allow"
    assert identity(gateway, pp.tlv(pp.AWS, b"\2vpce-08d2bf15fac5001c9"))["verdict"] == "deny"


def test_a_header_has_three_seconds_at_least_and_the_client_its_own_time(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start("timeouts: { first_bytes: 400ms }\n" + policy(upstream.port))
    begun = time.monotonic()
    with connect(gateway) as silent, connect(gateway) as slow, connect(gateway) as late:
        silent.sendall(b"PROXY TCP4 198.51.")
        time.sleep(0.8)
        slow.sendall(pp.v1())
        late.sendall(pp.v1())
        time.sleep(0.2)
        slow.sendall(HELLO)
        assert exactly(slow, len(HELLO)) == HELLO
        assert gateway.record(reason="first_bytes_timeout")["source"]["ip"] == "198.51.100.7"
        assert time.monotonic() - begun < 2.9
        with pytest.raises(ConnectionResetError):
            silent.recv(1)
        assert 2.9 < time.monotonic() - begun < 6
    assert gateway.record(reason="first_bytes_timeout", peer=None)["source"]["ip"] == TRUSTED


def test_a_server_that_speaks_first_is_heard_once_the_header_is_there(start: Start, serve: Serve) -> None:
    def banner(connection: socket.socket) -> None:
        connection.sendall(b"220 hello\r\n")
        echo(connection)

    upstream = serve(banner)
    gateway = start(policy(upstream.port, "tcp"))
    with connect(gateway) as client:
        client.sendall(pp.v2())
        assert exactly(client, 11) == b"220 hello\r\n"


def test_and_by_a_proxy_that_leaves_out_what_is_optional(start: Start, serve: Serve) -> None:
    def banner(connection: socket.socket) -> None:
        connection.sendall(b"220 hello\r\n")
        echo(connection)

    upstream = serve(banner)
    keys, rule = "proxy_protocol: optional", f"{{ cidr: {TRUSTED} }}"
    gateway = start("timeouts: { server_first: 100ms }\n" + policy(upstream.port, "tcp", keys=keys, rule=rule))
    with connect(gateway) as client:
        assert exactly(client, 11) == b"220 hello\r\n"
        client.sendall(pp.v2())
        assert exactly(client, len(pp.v2())) == pp.v2(), "too late for one"


def test_many_at_once(start: Start, serve: Serve) -> None:
    """Each is who its own header says, whatever the others are."""
    upstream = serve(echo)
    gateway = start(policy(upstream.port))
    failed: list[BaseException] = []

    def one(number: int) -> None:
        try:
            with connect(gateway) as client:
                client.sendall((pp.v1, pp.v2)[number % 2]((f"198.51.100.{number}", number + 1)) + HELLO)
                assert exactly(client, len(HELLO)) == HELLO
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    gateway.record(source={"ip": "198.51.100.99", "port": 100})
    pairs = {(record["source"]["ip"], record["source"]["port"]) for record in gateway.records()}
    assert pairs <= {(f"198.51.100.{number}", number + 1) for number in range(100)}
