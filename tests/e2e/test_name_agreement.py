"""The name inside a CONNECT tunnel must be the one that was judged, or not one byte goes on; audit mode only records.

A client that asks for an allowed host and then says another name in its TLS hello would use the gateway to reach, on a
shared front, what its policy denies.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable

import pytest

from . import hellos as h
from .conftest import Certificates
from .gateway import Gateway, Json, wait_for
from .servers import Server, echo
from .test_failures import ask

Start = Callable[..., Gateway]
Serve = Callable[..., Server]
GOOD = "allowed.example"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
ACCESS_DENIED = b"\x15\x03\x03\0\x02\x02\x31"
DECODE_ERROR = b"\x15\x03\x03\0\x02\x02\x32"


class Recorder:
    """A handler that keeps what it is sent and says nothing."""

    def __init__(self) -> None:
        self.got = b""
        self.ended = threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        try:
            while data := connection.recv(65536):
                self.got += data
        finally:
            self.ended.set()


def policy(port: int, *, rule: str = "", extra: str = "") -> str:
    """Any CONNECT to GOOD and to 127.0.0.1 is allowed; `rule` adds keys."""
    keys = f", {rule}" if rule else ""
    return f"""
resolver: {{ hosts: {{ {GOOD}: 127.0.0.1, denied.example: 127.0.0.1 }} }}
{extra}
rules: [{{ name: r, to: ["{GOOD}:{port}", "127.0.0.1:{port}"]{keys} }}]
"""


def connect_to(target: str) -> bytes:
    return f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()


def tunnel(gateway: Gateway, port: int, host: str = GOOD) -> socket.socket:
    client = socket.create_connection(gateway.address("proxy"), timeout=10)
    client.sendall(connect_to(f"{host}:{port}"))
    assert exactly(client, len(ESTABLISHED)) == ESTABLISHED
    return client


def exactly(client: socket.socket, size: int) -> bytes:
    answer = b""
    while len(answer) < size and (data := client.recv(size - len(answer))):
        answer += data
    return answer


def rest(client: socket.socket) -> bytes:
    answer = b""
    while data := client.recv(65536):
        answer += data
    return answer


def assert_refused(gateway: Gateway, port: int, sent: bytes, recorder: Recorder, *, host: str = GOOD) -> Json:
    """Sends `sent` into a tunnel to `host`: an alert comes back, and nothing arrives."""
    with tunnel(gateway, port, host) as client:
        client.sendall(sent)
        assert rest(client) == ACCESS_DENIED
    assert recorder.ended.wait(5), "the upstream sees the end"
    assert recorder.got == b""
    record = gateway.record(reason="name_mismatch")
    assert (record["verdict"], record["end"], record["rule"]) == ("deny", "refused", "r")
    assert record["bytes_up"] == 0
    return record


# Names that agree, and those that do not.


@pytest.mark.parametrize(
    ("host", "name"),
    [(GOOD, GOOD), ("Allowed.EXAMPLE", GOOD), (GOOD, "ALLOWED.example"), (f"{GOOD}.", GOOD)],
    ids=["equal", "case of CONNECT", "case of SNI", "trailing dot"],
)
def test_names_that_agree_pass(
    start: Start, tls_echo: Server, certificates: Certificates, host: str, name: str
) -> None:
    gateway = start(policy(tls_echo.port))
    with tunnel(gateway, tls_echo.port, host) as plain:
        context = ssl.create_default_context(cafile=str(certificates.ca_file))
        context.check_hostname = False
        with context.wrap_socket(plain, server_hostname=name) as tls:
            tls.sendall(b"ping")
            assert tls.recv(4) == b"ping"
    record = gateway.record(name=GOOD)
    assert (record["verdict"], record["other_name"], record["end"]) == ("allow", None, "closed")


def test_a_trailing_dot_in_the_sni_agrees(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port))
    sent = h.hello(h.sni(b"allowed.example."))
    with tunnel(gateway, upstream.port) as client:
        client.sendall(sent)
        assert exactly(client, len(sent)) == sent


def test_another_name_inside_is_refused(start: Start, serve: Serve) -> None:
    recorder = Recorder()
    upstream = serve(recorder)
    gateway = start(policy(upstream.port))
    record = assert_refused(gateway, upstream.port, h.real_hello("denied.example"), recorder)
    assert (record["name"], record["other_name"]) == (GOOD, "denied.example")


@pytest.mark.parametrize(
    "before",
    [b"\x15\x03\x01\0\x02\x01\x5a", b"\x14\x03\x03\0\x01\x01", b"\x17\x03\x03\0\0", b"\x16\x02\x01"],
    ids=["warning alert", "change cipher spec", "empty application data", "hello of version 2"],
)
def test_a_record_before_the_hello_hides_no_name(start: Start, serve: Serve, before: bytes) -> None:
    """There are servers that skip such a record, or mind no version, and read the name that comes after."""
    recorder = Recorder()
    upstream = serve(recorder)
    gateway = start(policy(upstream.port))
    hello = h.real_hello("denied.example")
    sent = before + (hello[3:] if before[0] == 0x16 else hello)
    with tunnel(gateway, upstream.port) as client:
        client.sendall(sent)
        assert rest(client) == DECODE_ERROR
    assert recorder.ended.wait(5), "the upstream sees the end"
    assert recorder.got == b""
    assert gateway.record(reason="malformed")["other_name"] == "record_type"


def test_a_name_below_is_another_name(start: Start, serve: Serve) -> None:
    recorder = Recorder()
    upstream = serve(recorder)
    gateway = start(policy(upstream.port))
    record = assert_refused(gateway, upstream.port, h.real_hello("api.allowed.example"), recorder)
    assert record["other_name"] == "api.allowed.example"


def test_an_address_and_a_name_do_not_agree(start: Start, serve: Serve) -> None:
    recorder = Recorder()
    upstream = serve(recorder)
    gateway = start(policy(upstream.port))
    record = assert_refused(gateway, upstream.port, h.real_hello(GOOD), recorder, host="127.0.0.1")
    assert (record["name"], record["other_name"]) == ("127.0.0.1", GOOD)


def test_a_name_and_an_address_inside_do_not_agree(start: Start, serve: Serve) -> None:
    recorder = Recorder()
    upstream = serve(recorder)
    gateway = start(policy(upstream.port))
    record = assert_refused(gateway, upstream.port, h.hello(h.sni(b"10.0.0.1")), recorder)
    assert record["other_name"] == "10.0.0.1"


def test_a_client_library_shows_the_alert(start: Start, tls_echo: Server, certificates: Certificates) -> None:
    gateway = start(policy(tls_echo.port))
    with tunnel(gateway, tls_echo.port) as plain, pytest.raises(ssl.SSLError, match=r"(?i)access.denied"):
        certificates.client.wrap_socket(plain, server_hostname="denied.example")


def test_a_hello_sent_along_with_the_connect_is_judged_as_well(start: Start, serve: Serve) -> None:
    """The client does not wait for the 200: both names are known before anything is dialled."""
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        upstream.setblocking(False)
        gateway = start(policy(upstream.getsockname()[1]))
        with socket.create_connection(gateway.address("proxy"), timeout=10) as client:
            client.sendall(connect_to(f"{GOOD}:{upstream.getsockname()[1]}") + h.real_hello("denied.example"))
            answer = rest(client)
        assert answer.startswith(b"HTTP/1.1 403 "), answer
        record = gateway.record(reason="name_mismatch")
        assert (record["other_name"], record["upstream"]) == ("denied.example", None)
        with pytest.raises(BlockingIOError):
            upstream.accept()


def test_a_good_hello_sent_along_with_the_connect_passes(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port))
    sent = h.real_hello(GOOD)
    with socket.create_connection(gateway.address("proxy"), timeout=10) as client:
        client.sendall(connect_to(f"{GOOD}:{upstream.port}") + sent)
        answer = exactly(client, len(ESTABLISHED) + len(sent))
    assert answer == ESTABLISHED + sent


# What has no second name.


def test_a_hello_without_a_name_passes(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port))
    sent = h.real_hello(None)
    with tunnel(gateway, upstream.port) as client:
        client.sendall(sent)
        assert exactly(client, len(sent)) == sent
    record = gateway.record(rule="r")
    assert (record["verdict"], record["reason"]) == ("allow", "rule")


def test_what_is_not_tls_passes(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port))
    with tunnel(gateway, upstream.port) as client:
        client.sendall(b"SSH-2.0-x\r\n")
        assert exactly(client, 11) == b"SSH-2.0-x\r\n"
    record = gateway.record(rule="r")
    assert (record["verdict"], record["end"]) == ("allow", "closed")
    assert (record["bytes_up"], record["bytes_down"]) == (11, 11), "the gateway's own 200 is nobody's traffic"


def test_a_server_may_speak_first(start: Start, serve: Serve) -> None:
    def banner(connection: socket.socket) -> None:
        connection.sendall(b"220 ready\r\n")
        echo(connection)

    upstream = serve(banner)
    gateway = start(policy(upstream.port, extra="timeouts: { first_bytes: 300ms }"))
    with tunnel(gateway, upstream.port) as client:
        assert exactly(client, 11) == b"220 ready\r\n"
        time.sleep(0.8)
        client.sendall(b"EHLO x\r\n")
        assert exactly(client, 8) == b"EHLO x\r\n", "silence is no hello that is late"


def test_a_client_that_only_listens_hears_all(start: Start, serve: Serve) -> None:
    sent = bytes(range(256)) * 4096

    def speak(connection: socket.socket) -> None:
        assert connection.recv(1) == b""
        connection.sendall(sent)

    upstream = serve(speak)
    gateway = start(policy(upstream.port))
    with tunnel(gateway, upstream.port) as client:
        client.shutdown(socket.SHUT_WR)
        assert rest(client) == sent
    assert gateway.record(rule="r")["end"] == "closed"


# Hellos in pieces, broken ones, and ones that never end.


@pytest.mark.parametrize("name", [GOOD, "denied.example"])
def test_a_hello_in_single_bytes_is_judged_whole(start: Start, serve: Serve, name: str) -> None:
    recorder = Recorder()
    upstream = serve(recorder)
    gateway = start(policy(upstream.port))
    sent = h.records(h.real_hello(name)[5:], 100)
    with tunnel(gateway, upstream.port) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(sent)):
            assert recorder.got == b"", "nothing goes on before the hello is whole"
            client.send(sent[at : at + 1])
            time.sleep(0.0005)
        if name == GOOD:
            wait_for("the hello", lambda: recorder.got == sent)
        else:
            assert rest(client) == ACCESS_DENIED
            assert recorder.ended.wait(5)
            assert recorder.got == b""


def test_a_broken_hello_inside_is_refused(start: Start, serve: Serve) -> None:
    recorder = Recorder()
    upstream = serve(recorder)
    gateway = start(policy(upstream.port))
    with tunnel(gateway, upstream.port) as client:
        client.sendall(h.hello(h.sni(GOOD.encode()) + h.sni(b"denied.example")))
        assert rest(client) == DECODE_ERROR
    assert recorder.ended.wait(5)
    assert recorder.got == b""
    record = gateway.record(reason="malformed")
    assert (record["verdict"], record["other_name"], record["name"]) == ("deny", "sni_twice", GOOD)


@pytest.mark.parametrize("leave", [False, True], ids=["stalls", "ends"])
@pytest.mark.parametrize("along", [False, True], ids=["after the 200", "with the CONNECT"])
def test_half_a_hello_goes_nowhere(start: Start, serve: Serve, leave: bool, along: bool) -> None:
    recorder = Recorder()
    upstream = serve(recorder)
    gateway = start(policy(upstream.port, extra="timeouts: { first_bytes: 500ms }"))
    half = h.real_hello(GOOD)[:100]
    with socket.create_connection(gateway.address("proxy"), timeout=5) as client:
        client.sendall(connect_to(f"{GOOD}:{upstream.port}") + (half if along else b""))
        assert exactly(client, len(ESTABLISHED)) == ESTABLISHED
        client.sendall(b"" if along else half)
        if leave:
            client.shutdown(socket.SHUT_WR)
        assert rest(client) == (b"" if leave else ACCESS_DENIED)
    assert recorder.ended.wait(5)
    assert recorder.got == b""
    record = gateway.record(rule="r")
    assert record["end"] == ("client_gone" if leave else "refused")
    assert leave or record["reason"] == "first_bytes_timeout"
    assert record["duration_ms"] < 3000


@pytest.mark.parametrize("listener", ["tls", "proxy"])
def test_an_encrypted_hello_is_noticed(start: Start, serve: Serve, listener: str) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port), port=upstream.port)
    sent = h.hello(h.sni(GOOD.encode()) + h.outer_ech())
    connect = {
        "tls": lambda: socket.create_connection(gateway.address("tls"), timeout=10),
        "proxy": lambda: tunnel(gateway, upstream.port),
    }
    with connect[listener]() as client:
        client.sendall(sent)
        assert exactly(client, len(sent)) == sent
    assert gateway.record(listener=listener)["flags"] == ["ech"]


# Where the policy says otherwise.


def test_a_rule_may_let_any_name_through(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port, rule="sni: any"))
    sent = h.real_hello("denied.example")
    with tunnel(gateway, upstream.port) as client:
        client.sendall(sent)
        assert exactly(client, len(sent)) == sent
    record = gateway.record(rule="r")
    assert (record["verdict"], record["reason"]) == ("allow", "rule")


@pytest.mark.parametrize("where", ["rule", "default"])
def test_audit_records_a_mismatch_and_lets_it_pass(start: Start, serve: Serve, where: str) -> None:
    upstream = serve(echo)
    keys = {"rule": "mode: audit"} if where == "rule" else {"extra": "default: { mode: audit }"}
    gateway = start(policy(upstream.port, **keys))
    sent = h.real_hello("denied.example")
    with tunnel(gateway, upstream.port) as client:
        client.sendall(sent)
        assert exactly(client, len(sent)) == sent
    record = gateway.record(rule="r")
    assert (record["verdict"], record["reason"]) == ("would_deny", "name_mismatch")
    assert (record["other_name"], record["flags"]) == ("denied.example", ["audit"])


def test_a_mismatch_let_through_by_an_audit_ends_with_the_audit(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port, rule="mode: audit"))
    sent = h.real_hello("denied.example")
    with tunnel(gateway, upstream.port) as client:
        client.sendall(sent)
        assert exactly(client, len(sent)) == sent
        other = policy(upstream.port, rule="mode: audit, owner: somebody")
        assert gateway.reload(other).returncode == 0
        client.sendall(b"more")
        assert exactly(client, 4) == b"more", "still an audit"
        assert gateway.reload(policy(upstream.port)).returncode == 0
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    record = gateway.record(rule="r")
    assert (record["verdict"], record["end"], record["other_name"]) == ("deny", "policy_changed", "denied.example")


def test_an_audited_default_lets_pass_what_it_would_deny(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(
        "resolver: { hosts: { stranger.example: 127.0.0.1 } }\ndefault: { mode: audit }\nrules: []",
        port=upstream.port,
    )
    sent = h.real_hello("stranger.example")
    with socket.create_connection(gateway.address("tls"), timeout=10) as client:
        client.sendall(sent)
        assert exactly(client, len(sent)) == sent
    assert ask(gateway, "stranger.example", upstream.port).startswith(b"HTTP/1.1 200 ")
    for listener in ("tls", "proxy"):
        record = gateway.record(listener=listener)
        assert (record["verdict"], record["reason"], record["rule"]) == ("would_deny", "default_deny", None)
        assert record["end"] == "closed" and "audit" in record["flags"]


def test_an_audited_deny_rule_lets_pass_what_another_allows(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(
        f"""
resolver: {{ hosts: {{ {GOOD}: 127.0.0.1, denied.example: 127.0.0.1 }} }}
rules:
  - {{ name: r, to: ["{GOOD}:{upstream.port}"] }}
  - {{ name: soon, deny: true, mode: audit, to: [{GOOD}, denied.example] }}
"""
    )
    assert ask(gateway, GOOD, upstream.port).startswith(b"HTTP/1.1 200 ")
    record = gateway.record(rule="soon")
    assert (record["verdict"], record["reason"], record["name"]) == ("would_deny", "rule_deny", GOOD)
    assert ask(gateway, "denied.example", upstream.port).startswith(b"HTTP/1.1 403 ")
    assert gateway.record(name="denied.example")["reason"] == "default_deny", "audit opens nothing that is closed"
