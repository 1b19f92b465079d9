"""Logins where a connection carries more than one client's requests: plain HTTP, HTTP/2, TLS to the proxy, and behind a
PROXY header. Each request says anew whose it is."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import proxy_headers as pp
from .conftest import Certificates
from .gateway import Gateway, wait_for
from .http2 import Http2
from .origin import Origin
from .plain_http import BAD, GOOD, Client, Way
from .servers import Server, echo
from .test_logins import ACCEPTED, PASSWORDS, basic, dial, login, users
from .test_name_agreement import ESTABLISHED, connect_to, exactly
from .test_real_clients import run, tool
from .test_socks import REPLY, SUCCEEDED, domain, reply
from .test_tls_to_the_proxy import WORKLOAD, Keys, keys, reach, with_ca

__all__ = ["keys", "users"]

Start = Callable[..., Gateway]
Serve = Callable[..., Server]
ALICE, BOB = (f"Proxy-Authorization: {basic(user, PASSWORDS[user])}" for user in ("alice", "bob"))
WRONG = f"Proxy-Authorization: {basic('alice', 'wrong')}"


def policy(port: int, users: Path, login: str = "required", *, more: str = "", rules: str = "", extra: str = "") -> str:
    return f"""
listeners: [{{ name: way-in, bind: "127.0.0.1:0", accept: [connect, http, socks5], login: {login}{more} }}]
users: {{ file: {users} }}
resolver: {{ hosts: {{ {GOOD}: 127.0.0.1, {BAD}: 127.0.0.1, alices.example: 127.0.0.1 }} }}
{extra}
rules:
  - {{ name: r, to: "{GOOD}:{port}" }}
  - {{ name: hers, from: {{ user: alice }}, to: "alices.example:{port}" }}
{rules}
"""


@pytest.fixture
def way(start: Start, users: Path, request: pytest.FixtureRequest) -> Iterator[Way]:
    origin = Origin()
    with Server(origin) as server:
        yield Way(start(policy(server.port, users, getattr(request, "param", "required"))), origin, server)


@pytest.mark.parametrize("way", ["optional"], indirect=True)
def test_a_login_is_of_one_request_and_not_of_the_next(way: Way) -> None:
    hers = "alices.example"
    with way.connect() as client:
        for path, fields, status in [
            ("/1", [ALICE], 200),
            ("/2", [], 403),
            ("/3", [BOB], 403),
            ("/4", [WRONG], 407),
            ("/5", [], 403),
            ("/6", [ALICE], 200),
        ]:
            client.send(way.ask(path, *fields, host=hers))
            got = client.answer()
            assert got.status == status, path
            assert (got.fields["Proxy-Authenticate"] is not None) == (status == 407)
        # And where everything comes in one piece.
        client.send(way.ask("/7", ALICE, host=hers) + way.ask("/8", host=hers) + way.ask("/9", ALICE, host=hers))
        assert [client.answer().status for _ in range(3)] == [200, 403, 200]
    records = wait_for("a record of each", lambda: len(way.gateway.records()) == 9 and way.gateway.records())
    assert [(record["identity"], record["evidence"]) for record in records] == [
        ("alice", "login"), (None, "address"), ("bob", "login"), (None, "address"), (None, "address"),
        ("alice", "login"), ("alice", "login"), (None, "address"), ("alice", "login"),
    ]  # fmt: skip
    assert records[3]["reason"] == "login_failed" and records[3]["name"] == hers
    assert [seen.path for seen in way.origin.seen] == ["/1", "/6", "/7", "/9"]


def test_no_credentials_reach_an_origin(way: Way) -> None:
    with way.connect() as client:
        for fields in ([ALICE], [ALICE.upper().split(":")[0] + ":" + ALICE.split(":")[1]], [ALICE, "Connection: te"]):
            client.send(way.ask("/x", *fields, "Authorization: Basic b3JpZ2luOng="))
            assert client.answer().status == 200
    for seen in way.origin.seen:
        assert seen.field("proxy-authorization") == [] and b"YWxpY2U6" not in seen.head
        assert seen.field("authorization") == ["Basic b3JpZ2luOng="], "what is for the origin gets there"


def test_a_client_that_is_asked_goes_on_on_its_connection(way: Way) -> None:
    with way.connect() as client:
        client.send(way.ask("/1"))
        got = client.answer()
        assert (got.status, got.fields["Connection"], got.fields["X-Egress-Reason"]) == (407, None, "login_required")
        assert got.fields["Proxy-Authenticate"] == 'Basic realm="egress", charset="UTF-8"'
        client.send(way.ask("/2", method="HEAD"))
        assert client.answer("HEAD").status == 407
        client.send(way.ask("/3", ALICE))
        assert client.answer().body == b"/3"
        # The body of a request that is refused is not read as the next request.
        client.send(way.ask("/4", "Content-Length: 500", method="POST"))
        got = client.answer()
        assert (got.status, got.fields["Connection"]) == (407, "close")
    assert [seen.path for seen in way.origin.seen] == ["/3"]


def test_an_upstream_that_knows_one_user_is_not_anothers(way: Way) -> None:
    with way.connect() as client:
        for count, field in [(1, ALICE), (1, ALICE), (2, BOB), (3, ALICE)]:
            client.send(way.ask("/x", field))
            assert client.answer().status == 200
            assert way.origin.connections == count


def test_a_request_with_a_body_waits_for_its_login_and_arrives_whole(way: Way) -> None:
    body = bytes(range(256)) * 1000
    with way.connect() as client:
        client.send(way.ask("/echo", ALICE, f"Content-Length: {len(body)}", method="POST", body=body))
        assert client.answer().body == body


def test_who_may_no_longer_log_in_gets_no_further_answer(way: Way, users: Path) -> None:
    with way.connect() as alice, way.connect() as bob, way.connect() as idle:
        for client, field in ((idle, ALICE), (alice, ALICE), (bob, BOB)):
            client.send(way.ask("/first", field))
            assert client.answer().status == 200
        for client, field in ((alice, ALICE), (bob, BOB)):
            client.send(way.ask("/slow", field))
        wait_for("both requests", lambda: sum(seen.path == "/slow" for seen in way.origin.seen) == 2)
        users.write_text("".join(line for line in users.read_text().splitlines(True) if not line.startswith("alice:")))
        assert way.gateway.reload().returncode == 0
        with pytest.raises(ConnectionResetError):
            alice.answer()
        way.origin.resume.set()
        assert bob.answer().body == b"slow"
        idle.send(way.ask("/second", ALICE))
        assert idle.answer().status == 407


@pytest.mark.parametrize("options", [[], ["--proxytunnel"], ["--proxy-basic"], ["--proxy-anyauth"]])
def test_curl_and_plain_http(way: Way, options: list[str]) -> None:
    host, port = way.gateway.address("way-in")
    common = [tool("curl", "curl"), "-sS", "--max-time", "20", "-x", f"http://{host}:{port}", *options]
    done = run(*common, "--proxy-user", "bücher:pass wörd", f"{way.base}/a", f"{way.base}/b")
    assert (done.returncode, done.stdout) == (0, b"/a/b"), done
    done = run(
        *common, "--proxy-user", "alice:wrong", "-o", "/dev/null", "-w", "%{http_code} %{http_connect}", way.base
    )
    assert b"407" in done.stdout, done


def test_streams_of_one_connection_are_of_their_own_users(start: Start, serve: Serve, users: Path) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port, users))
    where, hers = f"{GOOD}:{upstream.port}", f"alices.example:{upstream.port}"
    with Http2(dial(gateway)) as http2:
        wanted = [
            (where, ALICE, "200"),
            (where, "", "407"),
            (hers, BOB, "403"),
            (hers, ALICE, "200"),
            (where, WRONG, "407"),
        ]
        asked = []
        for authority, field, status in wanted:
            fields = {"proxy-authorization": field.partition(": ")[2]} if field else {}
            asked.append((http2.connect(authority, **fields), status))
        for number, status in asked:
            http2.wait(lambda number=number: http2.streams[number].headers)
            headers = http2.streams[number].headers
            assert headers[":status"] == status
            assert ("proxy-authenticate" in headers) == (status == "407")
            assert "connection" not in headers
        for number, status in asked:
            if status == "200":
                http2.send(number, b"ping", end=True)
                assert http2.answer(number).body == b"ping"
    wait_for("a record of each", lambda: len(gateway.records()) == 5)
    told = sorted((record["identity"] or "", record["reason"]) for record in gateway.records())
    assert told == [
        ("", "login_failed"), ("", "login_required"), ("alice", "rule"), ("alice", "rule"), ("bob", "default_deny")
    ]  # fmt: skip


def tls_policy(keys: Keys, port: int, users: Path, rules: str = "") -> str:
    files = f"certificate: {keys.folder}/proxy.pem, key: {keys.folder}/key.pem"
    more = f", tls: {{ {files}{with_ca(keys, ', client: optional')} }}"
    return policy(port, users, more=more, rules=rules).replace("way-in", "proxy")


def test_inside_tls_to_the_proxy_with_and_without_a_certificate(
    start: Start, serve: Serve, keys: Keys, users: Path
) -> None:
    upstream = serve(echo)
    both = f'{{ name: both, from: {{ spiffe: "{WORKLOAD}", user: bob }}, to: "{BAD}:{upstream.port}" }}'
    gateway = start(tls_policy(keys, upstream.port, users, f"  - {both}\n"))
    where = f"{GOOD}:{upstream.port}"
    with reach(gateway, keys.context()) as client:
        client.sendall(connect_to(where).replace(b"\r\n\r\n", f"\r\n{ALICE}\r\n\r\n".encode()))
        assert exactly(client, len(ESTABLISHED)) == ESTABLISHED
        client.sendall(b"ping")
        assert exactly(client, 4) == b"ping"
    record = gateway.record(identity="alice")
    assert (record["evidence"], record["end"]) == ("login", "closed")
    with reach(gateway, keys.context()) as client:
        client.sendall(b"\5\1\2" + login(b"alice", b"secret") + domain(GOOD, upstream.port) + b"ping")
        assert exactly(client, 4 + REPLY + 4) == b"\5\2" + ACCEPTED + reply(SUCCEEDED) + b"ping"
    assert gateway.record(accept="socks5")["identity"] == "alice"
    # A certificate is no login where one is required, and with one the two hold together.
    certified = keys.context(keys.client(None, WORKLOAD))
    with reach(gateway, certified) as client:
        client.sendall(connect_to(where))
        assert exactly(client, 12) == b"HTTP/1.1 407"
    record = gateway.record(reason="login_required")
    assert (record["evidence"], record["identity"]) == ("certificate", WORKLOAD)
    for context, field, code in [(certified, BOB, b"200"), (certified, ALICE, b"403"), (keys.context(), BOB, b"403")]:
        with reach(gateway, context) as client:
            client.sendall(f"CONNECT {BAD}:{upstream.port} HTTP/1.1\r\n{field}\r\n\r\n".encode())
            assert exactly(client, 12) == b"HTTP/1.1 " + code


@pytest.mark.parametrize("options", [[], ["--proxy-http2"]])
def test_curl_to_a_proxy_in_tls(
    start: Start, tls_page: Server, certificates: Certificates, keys: Keys, users: Path, options: list[str]
) -> None:
    """`--proxy-http2` came with curl 8.1."""
    gateway = start(tls_policy(keys, tls_page.port, users))
    curl, (host, port) = tool("curl", "curl"), gateway.address("proxy")
    if options and b"--proxy-http2" not in run(curl, "--help", "proxy").stdout:
        pytest.skip("this curl does not speak HTTP/2 to a proxy")
    common = [curl, "-sS", "-x", f"https://{host}:{port}", "--proxy-cacert", keys.folder / "ca.pem", *options]
    common += ["--cacert", certificates.ca_file, f"https://{GOOD}:{tls_page.port}/"]
    done = run(*common, "--proxy-user", "alice:secret")
    assert done.returncode == 0, done
    done = run(*common, "--proxy-user", "alice:wrong")
    assert done.returncode != 0 and b"407" in done.stderr, done


def test_behind_a_trusted_proxy_the_caller_logs_in(start: Start, serve: Serve, users: Path) -> None:
    upstream = serve(echo)
    more = ", proxy_protocol: required, proxy_trusted: 127.0.0.1, proxy_tlv: '0xe0'"
    gateway = start(policy(upstream.port, users, more=more))
    header = pp.v2(tlvs=pp.tlv(pp.CUSTOM, b"team-a"))
    for flight, before in [
        (f"CONNECT {GOOD}:{upstream.port} HTTP/1.1\r\n{ALICE}\r\n\r\nping".encode(), ESTABLISHED),
        (
            b"\5\1\2" + login(b"alice", b"secret") + domain(GOOD, upstream.port) + b"ping",
            b"\5\2" + ACCEPTED + reply(SUCCEEDED),
        ),
    ]:
        after = len(gateway.records())
        with dial(gateway) as client:
            client.sendall(header + flight)
            assert exactly(client, len(before) + 4) == before + b"ping"
        record = gateway.record(after=after)
        assert (record["evidence"], record["identity"], record["source"]["ip"]) == ("login", "alice", pp.CLIENT[0])
    after = len(gateway.records())
    with dial(gateway) as client:
        client.sendall(header + f"CONNECT {GOOD}:{upstream.port} HTTP/1.1\r\n\r\n".encode())
        assert exactly(client, 12) == b"HTTP/1.1 407"
    record = gateway.record(after=after)
    assert (record["evidence"], record["identity"]) == ("proxy_header", "team-a")


def test_a_question_for_a_login_is_asked_however_denials_are_told(start: Start, serve: Serve, users: Path) -> None:
    origin = Origin()
    upstream = serve(origin)
    gateway = start(policy(upstream.port, users, extra="default: { on_deny: drop }"))
    with Client(socket.create_connection(gateway.address("way-in"), timeout=10)) as client:
        there = f"{GOOD}:{upstream.port}"
        client.send(f"GET http://{there}/ HTTP/1.1\r\nHost: {there}\r\n\r\n".encode())
        assert client.answer().status == 407
        client.send(f"GET http://{there}/ HTTP/1.1\r\nHost: {there}\r\n{ALICE}\r\n\r\n".encode())
        assert client.answer().status == 200
