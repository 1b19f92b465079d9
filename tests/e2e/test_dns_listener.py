"""A `dns` listener answers for the names that the source may reach, and for no other; dig is the client."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from .dig import dig
from .dns import NXDOMAIN, SERVFAIL, Answer, DnsServer, address
from .gateway import Gateway, wait_for

Start = Callable[..., Gateway]
NAME = "name.example"
PUBLIC, OTHER_PUBLIC, PUBLIC_V6 = "93.184.216.34", "93.184.216.35", "2606:2800:220:1::1"


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    with DnsServer() as server:
        yield server


def policy(dns: DnsServer, rules: str, extra: str = "", hosts: str = "") -> str:
    return f"""
listeners: [{{ name: names, bind: "127.0.0.1:0", accept: dns }}]
resolver: {{ servers: ["127.0.0.1:{dns.port}"], timeout: 1s, attempts: 1, hosts: {{ {hosts} }} }}
{extra}
rules: [{rules}]
"""


ALLOWED = f"{{ name: r, to: [{NAME}] }}"


def metric(gateway: Gateway, name: str) -> float:
    found = re.search(rf"^egress_dns_{name} (\S+)$", gateway.egress("metrics").stdout, re.MULTILINE)
    assert found, name
    return float(found[1])


@pytest.mark.parametrize("how", ["+notcp", "+tcp"])
def test_an_allowed_name_has_its_addresses(start: Start, dns: DnsServer, how: str) -> None:
    dns.names[NAME] = lambda question: Answer((PUBLIC, PUBLIC_V6), ttl=60, alias="www.cdn.example")
    gateway = start(policy(dns, ALLOWED))
    server = gateway.address("names")
    reply = dig(server, how, "Name.EXAMPLE", "A")
    assert (reply.status, reply.answers) == ("NOERROR", [PUBLIC]), reply.text
    assert 55 <= reply.ttls[0] <= 60
    assert {"qr", "rd", "ra"} <= set(reply.flags) and "aa" not in reply.flags
    assert dig(server, how, NAME, "AAAA").answers == [PUBLIC_V6]
    assert (dns.count(NAME, "A"), dns.count(NAME, "AAAA")) == (1, 1), "both are answered by one look-up"
    assert metric(gateway, "listener_answered_total") == 2
    assert gateway.records() == []


def test_a_name_that_no_rule_allows_is_refused_and_asked_of_nobody(start: Start, dns: DnsServer) -> None:
    dns.names["other.example"] = address(PUBLIC)
    gateway = start(policy(dns, ALLOWED))
    reply = dig(gateway.address("names"), "other.example")
    record = gateway.record(name="other.example")
    text = f"Blocked by egress policy (default). Quote {record['decision']}."
    assert (reply.status, reply.answers, reply.error) == ("REFUSED", [], (18, text)), reply.text
    assert (record["verdict"], record["reason"], record["end"]) == ("deny", "default_deny", "refused")
    assert (record["listener"], record["accept"], record["other_name"]) == ("names", "dns", "A")
    assert (record["source"]["ip"], record["port"]) == ("127.0.0.1", 0)
    assert dns.count("other.example") == 0
    assert metric(gateway, "listener_refused_total") == 1
    exposition = gateway.egress("metrics").stdout
    wanted = 'egress_connections_total{listener="names",rule="",verdict="deny",reason="default_deny"} 1'
    assert wanted in exposition, exposition


def test_a_deny_rule_tells_its_message(start: Start, dns: DnsServer) -> None:
    rules = f'{ALLOWED}, {{ name: no-ads, deny: true, to: .ads.example, message: "{{name}} is an ad ({{rule}})." }}'
    gateway = start(policy(dns, rules, "default: { action: allow }"))
    reply = dig(gateway.address("names"), "www.ads.example", "AAAA")
    assert (reply.status, reply.error) == ("REFUSED", (15, "www.ads.example is an ad (no-ads).")), reply.text
    assert gateway.record(rule="no-ads")["reason"] == "rule_deny"
    # To a client without EDNS the bare code is all that can be told.
    bare = dig(gateway.address("names"), "+noedns", "www.ads.example")
    assert (bare.status, bare.error) == ("REFUSED", None)


def test_each_source_resolves_what_it_may_reach_on_any_port(start: Start, dns: DnsServer) -> None:
    dns.names["db.example"] = address(PUBLIC)
    rules = '{ name: r, from: { cidr: 127.0.0.2 }, to: ["*.example:5432", "*.example:8000-8100"] }'
    gateway = start(policy(dns, rules))
    server = gateway.address("names")
    assert dig(server, "-b", "127.0.0.2", "db.example").answers == [PUBLIC]
    assert dig(server, "-b", "127.0.0.3", "db.example").status == "REFUSED"
    assert dig(server, "-b", "127.0.0.2", "example").status == "REFUSED"


def test_other_types_of_an_allowed_name_are_empty(start: Start, dns: DnsServer) -> None:
    dns.names[NAME] = address(PUBLIC)
    gateway = start(policy(dns, ALLOWED))
    server = gateway.address("names")
    for kind in ("HTTPS", "SVCB", "TXT", "MX", "CNAME", "ANY", "TYPE65535"):
        reply = dig(server, "+notcp", NAME, kind)
        assert (reply.status, reply.answers) == ("NOERROR", []), reply.text
    assert dns.questions == []
    assert dig(server, "other.example", "HTTPS").status == "REFUSED"


def test_an_answer_with_an_address_inside_is_refused(start: Start, dns: DnsServer) -> None:
    dns.names["inside.example"] = address("10.0.0.1", "::1")
    dns.names["mixed.example"] = address("10.0.0.1", PUBLIC, "127.0.0.1")
    dns.names["metadata.example"] = address("169.254.169.254")
    dns.names["placed.example"] = address("10.2.0.1", "10.3.0.1", PUBLIC)
    placed = "{ name: p, to: [{ name: placed.example, addresses: [10.2.0.0/16] }] }"
    net = f"{{ name: n, deny: true, to: [{OTHER_PUBLIC}] }}"
    dns.names["closed.example"] = address(OTHER_PUBLIC)
    gateway = start(policy(dns, f'{{ name: r, to: ["*.example"] }}, {placed}, {net}'))
    server = gateway.address("names")
    for name, kind, reason, address_, rule in (
        ("inside.example", "A", "private_address", "10.0.0.1", "r"),
        ("inside.example", "AAAA", "forbidden_address", "::1", "r"),
        ("metadata.example", "A", "forbidden_address", "169.254.169.254", "r"),
        ("closed.example", "A", "rule_deny", OTHER_PUBLIC, "n"),
    ):
        reply = dig(server, name, kind)
        assert (reply.status, reply.answers) == ("REFUSED", []), reply.text
        record = gateway.record(name=name, reason=reason)
        assert reply.error is not None and reply.error[0] == 15 and record["decision"] in reply.error[1]
        assert (record["rule"], record["upstream"]["ip"]) == (rule, address_)
    assert dig(server, "mixed.example").answers == [PUBLIC]
    assert dig(server, "placed.example").answers == ["10.2.0.1"]
    assert metric(gateway, "listener_screened_total") == 4


def test_hosts_of_the_operator_are_answered(start: Start, dns: DnsServer) -> None:
    gateway = start(policy(dns, ALLOWED, hosts=f'{NAME}: [10.9.0.1, "fd00::9"], other.example: 10.9.0.2'))
    server = gateway.address("names")
    assert dig(server, NAME).answers == ["10.9.0.1"]
    assert dig(server, NAME, "AAAA").answers == ["fd00::9"]
    assert dig(server, "other.example").status == "REFUSED"
    assert dns.questions == []


def test_what_the_name_servers_say_is_told_apart(start: Start, dns: DnsServer) -> None:
    dns.names["gone.example"] = lambda question: Answer(code=NXDOMAIN)
    dns.names["bare.example"] = lambda question: Answer()
    dns.names["broken.example"] = lambda question: Answer(code=SERVFAIL)
    dns.names["silent.example"] = lambda question: Answer(silent=True)
    gateway = start(policy(dns, '{ name: r, to: ["*.example"] }'))
    server = gateway.address("names")
    said = {name: dig(server, f"{name}.example") for name in ("gone", "bare", "broken", "silent")}
    assert [reply.status for reply in said.values()] == ["NXDOMAIN", "NOERROR", "SERVFAIL", "SERVFAIL"]
    assert said["bare"].answers == []
    assert said["silent"].error == (22, "resolve_timeout")
    assert metric(gateway, "listener_failed_total") == 2


def test_audit_answers_and_records(start: Start, dns: DnsServer) -> None:
    dns.names["other.example"] = address(PUBLIC)
    dns.names["inside.example"] = address("10.0.0.1")
    gateway = start(policy(dns, ALLOWED, "default: { mode: audit }"))
    server = gateway.address("names")
    assert dig(server, "other.example").answers == [PUBLIC]
    record = gateway.record(name="other.example")
    assert (record["verdict"], record["reason"], record["end"]) == ("would_deny", "default_deny", "closed")
    assert record["flags"] == ["audit"]
    assert dig(server, "inside.example").answers == ["10.0.0.1"]
    assert gateway.record(name="inside.example", reason="private_address")["verdict"] == "would_deny"


def test_a_reload_decides_about_the_next_question(start: Start, dns: DnsServer) -> None:
    dns.names[NAME] = address(PUBLIC)
    gateway = start(policy(dns, ALLOWED))
    server = gateway.address("names")
    assert dig(server, NAME).answers == [PUBLIC]
    # Listeners stay as they are: port 0 is a port of the kernel's choice only once.
    assert gateway.reload(policy(dns, f"{{ name: no, deny: true, to: [{NAME}] }}")).returncode == 0
    assert dig(server, NAME).status == "REFUSED"
    assert gateway.record(rule="no")["generation"] == 2


def test_without_the_control_plane_questions_are_answered(start: Start, dns: DnsServer) -> None:
    dns.names[NAME] = address(PUBLIC)
    gateway = start(policy(dns, ALLOWED))
    control = gateway.control_pid()
    assert control is not None
    os.kill(control, signal.SIGKILL)
    assert dig(gateway.address("names"), NAME).answers == [PUBLIC]
    assert dig(gateway.address("names"), "other.example").status == "REFUSED"
    gateway.record(name="other.example")


def test_what_does_not_fit_into_a_datagram_comes_over_tcp(start: Start, dns: DnsServer) -> None:
    many = [f"10.9.{n // 250}.{n % 250}" for n in range(500)]
    gateway = start(policy(dns, ALLOWED, hosts=f"{NAME}: [{', '.join(many)}]"))
    server = gateway.address("names")
    cut = dig(server, "+ignore", NAME)
    assert "tc" in cut.flags and cut.answers == []
    assert dig(server, NAME).answers == many
    fits = dig(server, "+ignore", "+bufsize=65535", NAME)
    assert "tc" in fits.flags, "no datagram is larger than 1232 bytes, whatever a client says"


def test_a_kind_of_query_that_is_not_answered_is_told(start: Start, dns: DnsServer) -> None:
    gateway = start(policy(dns, ALLOWED))
    server = gateway.address("names")
    for status, arguments in (
        ("REFUSED", ("CH", "TXT", "version.bind")),
        ("NOTIMP", ("+opcode=NOTIFY", NAME)),
        ("NOTIMP", ("+opcode=UPDATE", NAME)),
        ("NOTIMP", (NAME, "TYPE250")),
        ("BADVERS", ("+edns=1", "+noednsnegotiation", NAME)),
        ("REFUSED", (".", "NS")),
        ("REFUSED", ("-x", "192.0.2.1")),
        ("REFUSED", ("a\\.b.name.example", "A")),
        ("REFUSED", ("b\\252cher.example", "A")),
    ):
        assert dig(server, *arguments).status == status, arguments
    assert gateway.record(other_name="name_forbidden_byte")["reason"] == "bad_name"
    assert dns.questions == []


def query(name: bytes = b"\4name\7example\0", flags: int = 0x0100, counts: tuple[int, ...] = (1, 0, 0, 0)) -> bytes:
    return struct.pack(">HH4H", 0x1234, flags, *counts) + name + b"\0\1\0\1"


@pytest.mark.parametrize(
    ("message", "answered"),
    [
        (b"", None),
        (b"\x12\x34\1\0\0\1\0\0\0\0\0", None),
        (query(flags=0x8180), None),
        (query(flags=0x8180, counts=(0, 0, 0, 0)), None),
        (query(counts=(0, 0, 0, 0)), 1),
        (query(counts=(2, 0, 0, 0)), 1),
        (query(counts=(65535, 65535, 65535, 65535)), 1),
        (query(counts=(1, 0, 0, 65535)), 1),
        (query(counts=(1, 1, 0, 0)), 1),
        (query() + b"trailing", 1),
        (query(name=b"\xc0\x0c"), 1),
        (query(name=b"\xff" * 300), 1),
        (query(name=b"\1a" * 128 + b"\0"), 1),
        (query(name=b"\4name"), 1),
        (b"\x12\x34" + b"\xff" * 60, None),
        (query(flags=0x7900), 4),
        (query() + bytes(5000), None),
    ],
)
def test_a_hostile_packet_is_told_off_or_ignored(
    start: Start, dns: DnsServer, message: bytes, answered: int | None
) -> None:
    dns.names[NAME] = address(PUBLIC)
    gateway = start(policy(dns, ALLOWED))
    server = gateway.address("names")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect(server)
        client.send(message)
        # Answered after it, or in its place.
        client.send(query())
        reply = client.recv(4096)
        if answered is not None:
            assert (reply[:2], reply[3] & 15) == (b"\x12\x34", answered)
            assert len(reply) <= len(message)
            reply = client.recv(4096)
        assert reply[3] & 15 == 0 and reply.endswith(socket.inet_aton(PUBLIC))
    assert metric(gateway, "listener_malformed_total") == 1


def test_a_port_that_is_taken_for_either_protocol_is_told_at_the_start(start: Start, dns: DnsServer) -> None:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET, kind) as taken:
            taken.bind(("127.0.0.1", 0))
            if kind == socket.SOCK_STREAM:
                taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(AssertionError, match=rf"(?s)exited with 78.*127.0.0.1:{port} cannot be served"):
                start(policy(dns, ALLOWED).replace('"127.0.0.1:0"', f'"127.0.0.1:{port}"'))


def test_what_it_answers_for_is_in_the_memory_bound(start: Start, dns: DnsServer) -> None:
    """Names that clients make up are neither remembered nor counted by name."""
    gateway = start(policy(dns, ALLOWED))
    server = gateway.address("names")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect(server)
        for number in range(2000):
            client.send(query(name=b"\6x%05d\7example\0" % number))
            assert client.recv(4096)[3] & 15 == 5
    assert metric(gateway, "handed_names") == 0
    wait_for("2,000 records", lambda: len(gateway.records()) == 2000)
