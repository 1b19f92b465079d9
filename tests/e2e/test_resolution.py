"""Names become addresses by our own questions: kept as long as they may be, asked once, screened, and tried in turn."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from .dns import NXDOMAIN, REFUSED, SERVFAIL, Answer, DnsServer, Question, address
from .gateway import Gateway, wait_for
from .servers import Server, echo
from .test_failures import ask

Start = Callable[..., Gateway]
Serve = Callable[..., Server]
NAME = "name.example"
#: What the rule grants beyond public addresses, as every server of these tests is on this machine.
LOCAL = "127.0.0.0/8, '::1'"


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    with DnsServer() as server:
        yield server


def policy(dns: DnsServer, port: int, *, resolver: str = "", addresses: str | None = LOCAL, extra: str = "") -> str:
    """NAME is allowed, at `addresses`; None: at public ones."""
    place = f"'{NAME}:{port}'" if addresses is None else f"{{ name: '{NAME}:{port}', addresses: [{addresses}] }}"
    options = f", {resolver}" if resolver else ""
    return (
        f"resolver: {{ servers: ['127.0.0.1:{dns.port}'], timeout: 1s, attempts: 1{options} }}\n"
        f"{extra}\nrules: [{{ name: r, to: [{place}] }}]"
    )


def status(gateway: Gateway, port: int, name: str = NAME) -> int:
    """Asks for a tunnel; gives the status of the answer."""
    return int(ask(gateway, name, port).split()[1])


def error(gateway: Gateway, port: int, name: str = NAME) -> str:
    answer = ask(gateway, name, port).decode()
    found = re.search(r'"error":"(\w+)"', answer)
    assert found, answer
    return f"{answer.split()[1]} {found[1]}"


def metric(gateway: Gateway, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", gateway.egress("metrics").stdout, re.MULTILINE)
    assert found, name
    return float(found[1])


def accepted(*servers: Server) -> tuple[int, ...]:
    return tuple(server.accepted for server in servers)


def assert_accepted(servers: tuple[Server, ...], *counts: int) -> None:
    """A connection is there before accept(2) has given it to the server's thread."""
    wait_for(f"connections {counts}, not {accepted(*servers)}", lambda: accepted(*servers) == counts, 3)


@contextlib.contextmanager
def two_servers(first: str = "127.0.0.1", second: str = "127.0.0.2") -> Iterator[tuple[Server, Server]]:
    """Two servers of one port at two addresses."""
    while True:
        one = Server(echo, host=first)
        try:
            two = Server(echo, host=second, port=one.port)
        except OSError:
            one.listener.close()
            continue
        break
    with one, two:
        yield one, two


@contextlib.contextmanager
def blackhole(host: str, port: int) -> Iterator[None]:
    """A port whose accept queue is full: the kernel drops further SYNs, so connecting never ends."""
    with socket.socket(socket.AF_INET6) as listener, contextlib.ExitStack() as stack:
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket(socket.AF_INET6))
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield


# How long an answer holds.


def test_an_answer_holds_as_long_as_it_says(start: Start, dns: DnsServer) -> None:
    with two_servers() as (old, new):
        dns.names[NAME] = address("127.0.0.1", ttl=2)
        gateway = start(policy(dns, old.port, resolver="min_ttl: 100ms"))
        assert status(gateway, old.port) == 200
        asked = time.monotonic()
        dns.names[NAME] = address("127.0.0.2", ttl=2)
        while time.monotonic() - asked < 1.5:
            assert status(gateway, old.port) == 200
            time.sleep(0.2)
        assert (new.accepted, dns.count(NAME)) == (0, 2), "before its end it is not asked again"
        time.sleep(max(0.0, asked + 2.2 - time.monotonic()))
        before = old.accepted
        assert status(gateway, old.port) == 200
        assert_accepted((old, new), before, 1)


def test_an_answer_that_would_hold_for_hours_is_asked_again(start: Start, dns: DnsServer) -> None:
    with two_servers() as (old, new):
        dns.names[NAME] = address("127.0.0.1", ttl=86400)
        gateway = start(policy(dns, old.port, resolver="max_ttl: 1s"))
        assert status(gateway, old.port) == 200
        dns.names[NAME] = address("127.0.0.2", ttl=86400)
        time.sleep(1.2)
        assert status(gateway, old.port) == 200
        assert_accepted((old, new), 1, 1)


def test_an_answer_that_would_not_hold_at_all_holds_for_a_while(start: Start, dns: DnsServer, serve: Serve) -> None:
    upstream = serve(echo)
    dns.names[NAME] = address("127.0.0.1", ttl=0)
    gateway = start(policy(dns, upstream.port, resolver="min_ttl: 1m, max_ttl: 2m"))
    assert [status(gateway, upstream.port) for _ in range(20)] == [200] * 20
    assert (dns.count(NAME, "A"), dns.count(NAME, "AAAA")) == (1, 1)


def test_an_expired_answer_serves_a_bounded_time_while_the_server_is_silent(
    start: Start, dns: DnsServer, serve: Serve
) -> None:
    upstream = serve(echo)
    dns.names[NAME] = address("127.0.0.1", ttl=1)
    bounds = "min_ttl: 100ms, stale: 3s"
    gateway = start(policy(dns, upstream.port, resolver=bounds).replace("timeout: 1s", "timeout: 300ms"))
    assert status(gateway, upstream.port) == 200
    asked = time.monotonic()
    dns.silent = True
    time.sleep(1.2)
    assert status(gateway, upstream.port) == 200
    assert gateway.record(flags=["stale"])["name"] == NAME
    questions = dns.count(NAME)
    assert status(gateway, upstream.port) == 200
    assert dns.count(NAME) == questions, "the silent server is not asked for each connection"
    time.sleep(max(0.0, asked + 4.3 - time.monotonic()))
    assert error(gateway, upstream.port) == "504 resolve_timeout"
    assert metric(gateway, "egress_dns_stale_answers_total") >= 1
    dns.silent = False
    wait_for("the server's return to be noticed", lambda: status(gateway, upstream.port) == 200)
    assert gateway.records()[-1]["flags"] == []


@pytest.mark.parametrize("code", [SERVFAIL, REFUSED])
def test_an_expired_answer_serves_while_the_server_is_broken(
    start: Start, dns: DnsServer, serve: Serve, code: int
) -> None:
    upstream = serve(echo)
    dns.names[NAME] = address("127.0.0.1", ttl=1)
    gateway = start(policy(dns, upstream.port, resolver="min_ttl: 100ms, stale: 1m"))
    assert status(gateway, upstream.port) == 200
    dns.names[NAME] = lambda question: Answer(code=code)
    time.sleep(1.2)
    assert status(gateway, upstream.port) == 200
    assert gateway.record(flags=["stale"])["end"] == "closed"


def test_a_name_that_is_gone_is_not_served_stale(start: Start, dns: DnsServer, serve: Serve) -> None:
    upstream = serve(echo)
    dns.names[NAME] = address("127.0.0.1", ttl=1)
    gateway = start(policy(dns, upstream.port, resolver="min_ttl: 100ms, stale: 1m"))
    assert status(gateway, upstream.port) == 200
    del dns.names[NAME]
    time.sleep(1.2)
    assert error(gateway, upstream.port) == "502 resolve_no_name"


def test_new_name_servers_are_asked_after_a_reload(start: Start, dns: DnsServer) -> None:
    with two_servers() as (old, new), DnsServer() as other:
        dns.names[NAME] = address("127.0.0.1", ttl=3600)
        other.names[NAME] = address("127.0.0.2", ttl=3600)
        gateway = start(policy(dns, old.port))
        assert status(gateway, old.port) == 200
        assert gateway.reload(policy(other, old.port)).returncode == 0
        assert status(gateway, old.port) == 200
        assert_accepted((old, new), 1, 1)


# Who is asked, and how often.


def test_many_that_wait_for_one_name_ask_once(start: Start, dns: DnsServer, serve: Serve) -> None:
    upstream = serve(echo)
    # Under a third of a second, after which a question is sent again as lost.
    dns.names[NAME] = lambda question: Answer(("127.0.0.1",), delay=0.25)
    gateway = start(policy(dns, upstream.port, extra="workers: 2"))
    target = b"%s:%d" % (NAME.encode(), upstream.port)
    with contextlib.ExitStack() as stack:
        waiting = [
            stack.enter_context(socket.create_connection(gateway.address("proxy"), timeout=10)) for _ in range(50)
        ]
        for client in waiting:
            client.sendall(b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (target, target))
        assert [client.recv(13) for client in waiting] == [b"HTTP/1.1 200 "] * 50
    assert (dns.count(NAME, "A"), dns.count(NAME, "AAAA")) == (1, 1)
    assert metric(gateway, "egress_dns_queries_total") == 1
    assert metric(gateway, "egress_dns_questions_total") == 50
    assert metric(gateway, "egress_dns_joined_total") == 49
    assert metric(gateway, "egress_dns_answered_total") == 1
    assert metric(gateway, "egress_dns_cached_names") == 1
    assert metric(gateway, "egress_dns_query_seconds_total") >= 0.25


def test_a_name_that_does_not_exist_is_a_502_and_remembered(start: Start, dns: DnsServer, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(policy(dns, upstream.port, resolver="negative_ttl: 2s"))
    assert error(gateway, upstream.port) == "502 resolve_no_name"
    asked, questions = time.monotonic(), dns.count(NAME)
    dns.names[NAME] = address("127.0.0.1")
    assert error(gateway, upstream.port) == "502 resolve_no_name"
    assert dns.count(NAME) == questions >= 1, "it is remembered"
    record = gateway.record(end="resolve_no_name")
    assert (record["verdict"], record["rule"], record["upstream"]) == ("allow", "r", None)
    time.sleep(max(0.0, asked + 2.2 - time.monotonic()))
    assert status(gateway, upstream.port) == 200, "and not for longer"
    assert metric(gateway, "egress_dns_no_name_total") == 1


def test_a_name_without_an_address_is_a_502(start: Start, dns: DnsServer, serve: Serve) -> None:
    upstream = serve(echo)
    dns.names[NAME] = address()
    gateway = start(policy(dns, upstream.port))
    assert error(gateway, upstream.port) == "502 resolve_no_name"


@pytest.mark.parametrize("code", [SERVFAIL, REFUSED])
def test_a_name_server_that_fails_is_a_502_of_its_own(start: Start, dns: DnsServer, serve: Serve, code: int) -> None:
    upstream = serve(echo)
    dns.names[NAME] = lambda question: Answer(code=code)
    gateway = start(policy(dns, upstream.port))
    assert error(gateway, upstream.port) == "502 resolve_failed"
    assert gateway.record(end="resolve_failed")["rule"] == "r"
    assert metric(gateway, "egress_dns_failures_total") == 1


def test_a_cut_answer_is_asked_for_over_tcp(start: Start, dns: DnsServer, serve: Serve) -> None:
    upstream = serve(echo)
    dns.names[NAME] = lambda question: Answer(("127.0.0.1",), truncated=True)
    gateway = start(policy(dns, upstream.port))
    assert status(gateway, upstream.port) == 200
    assert dns.count(NAME, "A", tcp=True) == 1


def test_an_alias_is_followed(start: Start, dns: DnsServer, serve: Serve) -> None:
    upstream = serve(echo)
    dns.names[NAME] = lambda question: Answer(("127.0.0.1",), alias="edge.example")
    gateway = start(policy(dns, upstream.port))
    assert status(gateway, upstream.port) == 200
    assert gateway.record(rule="r")["name"] == NAME


@pytest.mark.parametrize(
    "broken",
    [Answer(code=SERVFAIL), Answer(code=NXDOMAIN), Answer(code=REFUSED), Answer(silent=True)],
    ids=["servfail", "nxdomain", "refused", "silent"],
)
def test_a_server_that_is_broken_for_ipv6_costs_no_connection(
    start: Start, dns: DnsServer, serve: Serve, broken: Answer
) -> None:
    """Load balancers that know A and stumble over AAAA are common."""
    upstream = serve(echo)
    dns.names[NAME] = lambda question: broken if question.kind == "AAAA" else Answer(("127.0.0.1",))
    gateway = start(policy(dns, upstream.port).replace("timeout: 1s", "timeout: 5s"))
    assert status(gateway, upstream.port) == 200
    assert gateway.record(rule="r")["resolve_ms"] < 2000, "nor much time"


def test_names_that_the_operator_wrote_down_are_not_asked_for(start: Start, dns: DnsServer, serve: Serve) -> None:
    upstream = serve(echo)
    dns.names[NAME] = address("127.0.0.2")
    gateway = start(policy(dns, upstream.port, resolver=f"hosts: {{ {NAME}: 127.0.0.1 }}", addresses=None))
    assert status(gateway, upstream.port) == 200
    assert dns.count(NAME) == 0


def test_a_rule_may_dial_elsewhere(start: Start, dns: DnsServer, serve: Serve) -> None:
    upstream = serve(echo)
    dns.names["edge.example"] = address("127.0.0.1")
    gateway = start(
        f"""
resolver: {{ servers: ["127.0.0.1:{dns.port}"] }}
rules:
  - {{ name: fixed, to: [fixed.example], dial: "127.0.0.1:{upstream.port}" }}
  - name: named
    to: [{{ name: named.example, addresses: [127.0.0.1] }}]
    dial: "edge.example:{upstream.port}"
"""
    )
    assert status(gateway, 443, "fixed.example") == 200
    assert dns.questions == []
    assert status(gateway, 443, "named.example") == 200
    assert {question.name for question in dns.questions} == {"edge.example"}
    record = gateway.record(rule="named")
    assert (record["name"], record["port"]) == ("named.example", 443)
    assert record["upstream"] == {"ip": "127.0.0.1", "port": upstream.port}
    assert_accepted((upstream,), 2)


# Which address is dialled.


def test_an_address_that_never_answers_costs_a_quarter_of_a_second(start: Start, dns: DnsServer, serve: Serve) -> None:
    upstream = serve(echo)
    dns.names[NAME] = address("::1", "127.0.0.1")
    gateway = start(policy(dns, upstream.port, extra="timeouts: { connect: 10s }"))
    with blackhole("::1", upstream.port):
        assert status(gateway, upstream.port) == 200
    record = gateway.record(rule="r")
    assert record["upstream"]["ip"] == "127.0.0.1"
    assert 200 <= record["connect_ms"] < 1500


def test_an_address_that_refuses_costs_nothing(start: Start, dns: DnsServer, serve: Serve) -> None:
    upstream = serve(echo)
    dns.names[NAME] = address("::1", "127.0.0.1")
    gateway = start(policy(dns, upstream.port))
    assert status(gateway, upstream.port) == 200
    record = gateway.record(rule="r")
    assert record["upstream"]["ip"] == "127.0.0.1"
    assert record["connect_ms"] < 200


def test_ipv6_comes_first(start: Start, dns: DnsServer) -> None:
    with two_servers("127.0.0.1", "::1") as (four, six):
        dns.names[NAME] = address("127.0.0.1", "::1")
        gateway = start(policy(dns, four.port))
        assert status(gateway, four.port) == 200
        assert_accepted((four, six), 0, 1)


SCREENED = {
    "127.0.0.1": ("forbidden_address", "loopback"),
    "::1": ("forbidden_address", "loopback"),
    "10.0.0.1": ("private_address", "private"),
    "172.16.0.1": ("private_address", "private"),
    "192.168.0.1": ("private_address", "private"),
    "100.64.0.1": ("private_address", "private"),
    "fd00::1": ("private_address", "private"),
    "169.254.1.1": ("forbidden_address", "link_local"),
    "fe80::1": ("forbidden_address", "link_local"),
    "169.254.169.254": ("forbidden_address", "metadata"),
    "fd00:ec2::254": ("forbidden_address", "metadata"),
    "224.0.0.1": ("forbidden_address", "multicast"),
    "ff02::1": ("forbidden_address", "multicast"),
    "0.0.0.0": ("forbidden_address", "unspecified"),
    "::": ("forbidden_address", "unspecified"),
    "255.255.255.255": ("forbidden_address", "broadcast"),
    "240.0.0.1": ("forbidden_address", "reserved"),
    "::ffff:127.0.0.1": ("forbidden_address", "loopback"),
    "::ffff:10.0.0.1": ("private_address", "private"),
    "::127.0.0.1": ("forbidden_address", "loopback"),
    "64:ff9b::7f00:1": ("forbidden_address", "loopback"),
    "64:ff9b::a9fe:a9fe": ("forbidden_address", "metadata"),
    "2002:7f00:1::": ("forbidden_address", "loopback"),
    "2002:a00:1::1": ("private_address", "private"),
    "2001:0:1:2:3:4:80ff:fffe": ("forbidden_address", "loopback"),
}


def test_a_name_that_points_inside_is_refused(start: Start, dns: DnsServer, serve: Serve) -> None:
    """Every address of the table, each under a name of its own; the server is where most of them lead."""
    upstream = serve(echo)
    names = {f"n{index}.example": text for index, text in enumerate(SCREENED)}
    dns.names.update({name: address(text) for name, text in names.items()})
    gateway = start(
        f"resolver: {{ servers: ['127.0.0.1:{dns.port}'] }}\nrules: [{{ name: r, to: ['*.example:{upstream.port}'] }}]"
    )
    for name, text in names.items():
        reason, kind = SCREENED[text]
        assert error(gateway, upstream.port, name) == f"403 {reason}", text
        record = gateway.record(name=name)
        assert (record["verdict"], record["reason"], record["other_name"]) == ("deny", reason, kind), text
        assert record["connect_ms"] is None
    assert upstream.accepted == 0


def test_of_several_addresses_only_the_permitted_are_dialled(start: Start, dns: DnsServer) -> None:
    with two_servers() as (good, bad):
        dns.names[NAME] = address("127.0.0.2", "127.0.0.1", "127.0.0.2", "10.0.0.1")
        gateway = start(policy(dns, good.port, addresses="127.0.0.1/32"))
        assert [status(gateway, good.port) for _ in range(10)] == [200] * 10
        assert_accepted((good, bad), 10, 0)


def test_a_permitted_address_that_fails_is_no_reason_to_dial_another(start: Start, dns: DnsServer) -> None:
    with Server(echo, host="127.0.0.2") as bad:
        dns.names[NAME] = address("127.0.0.1", "127.0.0.2")
        gateway = start(policy(dns, bad.port, addresses="127.0.0.1/32"))
        assert error(gateway, bad.port) == "502 connect_refused"
        assert bad.accepted == 0


def test_an_answer_that_turns_inwards_is_refused(start: Start, dns: DnsServer) -> None:
    """DNS rebinding: good when it is first looked at, bad when it is used again."""
    with two_servers() as (good, inside):
        answers = iter([("127.0.0.1",), ("127.0.0.2",)])
        turns = {"A": 0}

        def rebind(question: Question) -> Answer:
            if question.kind != "A":
                return Answer(ttl=1)
            turns["A"] += 1
            return Answer(next(answers, ("127.0.0.2",)), ttl=1)

        dns.names[NAME] = rebind
        gateway = start(policy(dns, good.port, resolver="min_ttl: 100ms", addresses="127.0.0.1/32"))
        assert status(gateway, good.port) == 200
        time.sleep(1.2)
        assert error(gateway, good.port) == "403 forbidden_address"
        assert turns["A"] == 2
        assert_accepted((good, inside), 1, 0)
        assert gateway.record(reason="forbidden_address")["other_name"] == "loopback"


def test_private_answers_pass_where_the_policy_says_so(start: Start, dns: DnsServer) -> None:
    """`private_addresses: allow` opens private networks, never this machine or metadata."""
    dns.names[NAME] = address("127.0.0.1")
    dns.names["meta.example"] = address("169.254.169.254")
    gateway = start(
        f"resolver: {{ servers: ['127.0.0.1:{dns.port}'] }}\ndefault: {{ private_addresses: allow }}\n"
        "rules: [{ name: r, to: ['*.example:9'] }]"
    )
    assert error(gateway, 9) == "403 forbidden_address"
    assert error(gateway, 9, "meta.example") == "403 forbidden_address"
