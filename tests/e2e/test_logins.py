"""Clients of connect and socks5 listeners say who they are: right logins are known by user, wrong ones are refused in
the client's own protocol, and no password is ever written down."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Certificates
from .gateway import Gateway, wait_for
from .servers import Server, echo
from .test_name_agreement import exactly, rest
from .test_real_clients import run, tool
from .test_socks import GOOD, REPLY, SUCCEEDED, domain, reply

Start = Callable[..., Gateway]
Serve = Callable[..., Server]
#: Of the password "secret": bcrypt with cost 10, made by libxcrypt.
BCRYPT = "$2b$10$abcdefghijklmnopqrstuuqflPDzB6gcMhKa1rZqKiun2YGL5sa2u"
ACCEPTED, REFUSED = b"\1\0", b"\1\1"


def scrypt(password: bytes) -> str:
    """Made by OpenSSL."""
    salt = b"0123456789abcdef"
    made = hashlib.scrypt(password, salt=salt, n=1 << 14, r=8, p=1, dklen=32)
    plain = [base64.b64encode(part).decode().rstrip("=") for part in (salt, made)]
    return f"$scrypt$ln=14,r=8,p=1${plain[0]}${plain[1]}"


LONG = "l" * 255
PASSWORDS = {"alice": b"secret", "bob": b"b:o:b", "bücher": "pass wörd".encode(), LONG: b"x" * 255}


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users.txt"
    lines = [f"{user}:{BCRYPT if user == 'alice' else scrypt(password)}" for user, password in PASSWORDS.items()]
    path.write_text("# who may log in\n" + "\n".join(lines) + "\n")
    return path


def policy(port: int, users: Path, login: str = "required", rules: str = "") -> str:
    return f"""
listeners: [{{ name: way-in, bind: "127.0.0.1:0", accept: [connect, socks5], login: {login} }}]
users: {{ file: {json.dumps(str(users))} }}
resolver: {{ hosts: {{ {GOOD}: 127.0.0.1, other.example: 127.0.0.1 }} }}
rules:
  - {{ name: r, to: "{GOOD}:{port}" }}
{rules}
"""


def basic(user: str | bytes, password: str | bytes) -> str:
    parts = [part.encode() if isinstance(part, str) else part for part in (user, password)]
    return "Basic " + base64.b64encode(b":".join(parts)).decode()


def dial(gateway: Gateway, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(gateway.address("way-in"), timeout=20, source_address=(source, 0))


def connect(
    gateway: Gateway, port: int, *fields: str, name: str = GOOD, source: str = "127.0.0.1"
) -> tuple[int, socket.socket]:
    client = dial(gateway, source)
    head = [f"CONNECT {name}:{port} HTTP/1.1", f"Host: {name}:{port}", *fields]
    client.sendall("\r\n".join([*head, "", ""]).encode())
    came = b""
    while b"\r\n\r\n" not in came:
        more = client.recv(1)
        assert more, came
        came += more
    return int(came.split()[1]), client


def status(gateway: Gateway, port: int, *fields: str, source: str = "127.0.0.1", name: str = GOOD) -> int:
    code, client = connect(gateway, port, *fields, source=source, name=name)
    client.close()
    return code


def login(user: bytes, password: bytes) -> bytes:
    return b"\1" + bytes([len(user)]) + user + bytes([len(password)]) + password


def test_a_right_login_is_known_by_its_user_in_either_protocol(start: Start, serve: Serve, users: Path) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port, users))
    for user, password in PASSWORDS.items():
        shown = user.encode().decode("latin-1")[:108]
        code, client = connect(gateway, upstream.port, f"Proxy-Authorization: {basic(user, password)}")
        with client:
            assert code == 200, user
            client.sendall(b"ping")
            assert exactly(client, 4) == b"ping"
        record = gateway.record(accept="connect", identity=shown)
        assert (record["evidence"], record["verdict"]) == ("login", "allow")
        with dial(gateway) as client:
            client.sendall(b"\5\2\0\2")
            assert exactly(client, 2) == b"\5\2"
            client.sendall(login(user.encode(), password))
            assert exactly(client, 2) == ACCEPTED, user
            client.sendall(domain(GOOD, upstream.port) + b"ping")
            assert exactly(client, REPLY + 4) == reply(SUCCEEDED) + b"ping"
        record = gateway.record(accept="socks5", identity=shown)
        assert (record["evidence"], record["verdict"]) == ("login", "allow")


def test_a_login_in_one_segment_with_all_else_and_byte_by_byte(start: Start, serve: Serve, users: Path) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port, users))
    flight = b"\5\1\2" + login(b"alice", b"secret") + domain(GOOD, upstream.port) + b"ping"
    answer = b"\5\2" + ACCEPTED + reply(SUCCEEDED) + b"ping"
    for pieces in ([flight], [bytes([byte]) for byte in flight]):
        with dial(gateway) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                client.sendall(piece)
            assert exactly(client, len(answer)) == answer
    head = f"CONNECT {GOOD}:{upstream.port} HTTP/1.1\r\nProxy-Authorization: {basic('alice', 'secret')}\r\n\r\nping"
    with dial(gateway) as client:
        client.sendall(head.encode())
        assert b"HTTP/1.1 200" in exactly(client, 12)
        assert rest_until(client, b"ping").endswith(b"ping")


def rest_until(client: socket.socket, end: bytes) -> bytes:
    came = b""
    while not came.endswith(end):
        more = client.recv(4096)
        assert more, came
        came += more
    return came


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        (None, "login_required"),
        (basic("alice", "Secret"), "login_failed"),
        (basic("alice", ""), "login_failed"),
        (basic("alice", b"secret\0"), "login_failed"),
        (basic(b"alice\0", "secret"), "login_failed"),
        (basic("nobody", "secret"), "login_failed"),
        (basic("Alice", "secret"), "login_failed"),
        (basic(LONG + "l", b"x" * 255), "login_failed"),
        (basic("alice", "s" * 2000), "login_failed"),
        (basic(b"\xff\xfe", "secret"), "login_failed"),
        ("Basic YWxpY2U", "login_failed"),
        ("Bearer abc", "login_failed"),
        (basic("alice", "secret") + f"\r\nProxy-Authorization: {basic('alice', 'secret')}", "login_failed"),
    ],
)
def test_a_connect_without_a_right_login_gets_407(start: Start, users: Path, field: str | None, reason: str) -> None:
    gateway = start(policy(443, users))
    fields = [] if field is None else [f"Proxy-Authorization: {field}"]
    with dial(gateway) as client:
        head = [f"CONNECT {GOOD}:443 HTTP/1.1", "Accept: application/json", *fields]
        client.sendall("\r\n".join([*head, "", ""]).encode())
        answer = rest(client)
    head_bytes, _, body = answer.partition(b"\r\n\r\n")
    assert head_bytes.startswith(b"HTTP/1.1 407 Proxy Authentication Required\r\n"), answer
    assert b'\r\nProxy-Authenticate: Basic realm="egress", charset="UTF-8"\r\n' in head_bytes
    assert json.loads(body)["error"] == reason
    record = gateway.record(reason=reason)
    assert (record["verdict"], record["evidence"], record["identity"]) == ("deny", "address", None)
    assert record["upstream"] is None


def test_a_socks_client_without_a_right_login_is_refused_as_rfc_1929_says(start: Start, users: Path) -> None:
    gateway = start(policy(443, users))
    for flight, answer, reason in [
        (b"\5\1\0", b"\5\xff", "login_required"),
        (b"\5\1\1", b"\5\xff", "login_required"),
        (b"\5\1\2" + login(b"alice", b"wrong"), b"\5\2" + REFUSED, "login_failed"),
        (b"\5\1\2" + login(b"nobody", b"secret"), b"\5\2" + REFUSED, "login_failed"),
        (b"\5\1\2" + login(b"alice", b"secret\0"), b"\5\2" + REFUSED, "login_failed"),
        (b"\5\1\2\5\1\0\1", b"\5\2" + REFUSED, "malformed"),
        (b"\5\1\2\1\0\1x", b"\5\2" + REFUSED, "malformed"),
        (b"\5\1\2\1\1x\0", b"\5\2" + REFUSED, "malformed"),
    ]:
        after = len(gateway.records())
        with dial(gateway) as client:
            client.sendall(flight + domain(GOOD, 443))
            assert rest(client) == answer, flight
        assert gateway.record(after=after)["reason"] == reason, flight


def test_optional_means_known_by_address_or_rightly_logged_in(start: Start, serve: Serve, users: Path) -> None:
    upstream = serve(echo)
    rules = f'  - {{ name: people, evidence: login, to: "other.example:{upstream.port}" }}\n'
    gateway = start(policy(upstream.port, users, "optional", rules))
    good = f"Proxy-Authorization: {basic('alice', 'secret')}"
    assert status(gateway, upstream.port) == 200
    assert gateway.record(verdict="allow")["evidence"] == "address"
    assert status(gateway, upstream.port, name="other.example") == 403
    assert status(gateway, upstream.port, good, name="other.example") == 200
    assert status(gateway, upstream.port, f"Proxy-Authorization: {basic('alice', 'wrong')}") == 407
    with dial(gateway) as client:
        client.sendall(b"\5\1\0" + domain(GOOD, upstream.port))
        assert exactly(client, 2 + REPLY) == b"\5\0" + reply(SUCCEEDED)
    with dial(gateway) as client:
        client.sendall(b"\5\2\0\2")
        assert exactly(client, 2) == b"\5\2", "a client that could log in is asked to"


def test_rules_by_user(start: Start, serve: Serve, users: Path) -> None:
    upstream = serve(echo)
    rules = f"""
  - {{ name: alice-only, from: {{ user: alice }}, to: "other.example:{upstream.port}" }}
  - {{ name: not-bob, deny: true, from: {{ user: bob }}, to: {GOOD} }}
"""
    gateway = start(policy(upstream.port, users, rules=rules))
    alice, bob = (f"Proxy-Authorization: {basic(user, PASSWORDS[user])}" for user in ("alice", "bob"))
    assert status(gateway, upstream.port, alice, name="other.example") == 200
    assert status(gateway, upstream.port, bob, name="other.example") == 403
    assert status(gateway, upstream.port, bob) == 403
    assert gateway.record(rule="not-bob")["identity"] == "bob"
    told = gateway.egress("why", "127.0.0.1", f"other.example:{upstream.port}", "--user", "alice")
    assert (told.returncode, "alice-only" in told.stdout) == (0, True), told
    told = gateway.egress("why", "127.0.0.1", f"other.example:{upstream.port}", "--user", "bob")
    assert told.returncode == 1 and "only user alice" in told.stdout, told


def test_real_clients_log_in(start: Start, tls_page: Server, certificates: Certificates, users: Path) -> None:
    gateway = start(policy(tls_page.port, users))
    curl, (host, port) = tool("curl", "curl"), gateway.address("way-in")
    url = f"https://{GOOD}:{tls_page.port}/"
    common = [curl, "-sS", "--cacert", str(certificates.ca_file), url]
    for options in (
        ["--proxy", f"http://{host}:{port}", "--proxy-user", "alice:secret"],
        ["--proxy", f"http://{host}:{port}", "--proxy-user", "alice:secret", "--proxy-anyauth"],
        ["--proxy", f"socks5h://alice:secret@{host}:{port}"],
    ):
        done = run(*common, *options)
        assert done.returncode == 0, done
    done = run(*common, "--proxy", f"http://{host}:{port}", "--proxy-user", "alice:wrong")
    assert done.returncode != 0 and b"407" in done.stderr, done
    done = run(*common, "--proxy", f"socks5h://alice:wrong@{host}:{port}")
    assert done.returncode == 97, done
    through = http.client.HTTPSConnection(host, port, context=certificates.client, timeout=20)
    through.set_tunnel(GOOD, tls_page.port, {"Proxy-Authorization": basic("alice", "secret")})
    through.request("GET", "/")
    assert through.getresponse().status == 200


def test_who_may_no_longer_log_in_is_closed_and_others_are_not(start: Start, serve: Serve, users: Path) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port, users))
    fields = {user: f"Proxy-Authorization: {basic(user, PASSWORDS[user])}" for user in ("alice", "bob")}
    _, alice = connect(gateway, upstream.port, fields["alice"])
    _, bob = connect(gateway, upstream.port, fields["bob"])
    lines = users.read_text().splitlines()
    users.write_text("\n".join(line for line in lines if not line.startswith("alice:")) + "\n")
    assert gateway.reload().returncode == 0
    with alice, bob:
        with pytest.raises(ConnectionResetError):
            rest(alice)
        bob.sendall(b"ping")
        assert exactly(bob, 4) == b"ping"
    record = gateway.record(end="policy_changed")
    assert (record["identity"], record["evidence"]) == ("alice", "login")
    # Remembered as it was, it is forgotten.
    assert status(gateway, upstream.port, fields["alice"]) == 407
    assert status(gateway, upstream.port, fields["bob"]) == 200


def test_a_changed_password_counts_at_once_and_leaves_what_is_open(start: Start, serve: Serve, users: Path) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port, users, "optional"))
    old, new = (f"Proxy-Authorization: {basic('alice', password)}" for password in ("secret", "fresh"))
    code, client = connect(gateway, upstream.port, old)
    assert code == 200
    users.write_text(f"alice:{scrypt(b'fresh')}\n")
    assert gateway.reload().returncode == 0
    with client:
        client.sendall(b"ping")
        assert exactly(client, 4) == b"ping"
    assert status(gateway, upstream.port, old) == 407
    assert status(gateway, upstream.port, new) == 200


def test_a_source_that_guesses_is_slowed_down_and_others_are_not(start: Start, serve: Serve, users: Path) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port, users))
    good = f"Proxy-Authorization: {basic('alice', 'secret')}"
    assert status(gateway, upstream.port, good) == 200
    # The same one again is no new guess: a client that was set up wrong takes nothing from others behind its address.
    assert {status(gateway, upstream.port, f"Proxy-Authorization: {basic('bob', 'old')}") for _ in range(30)} == {407}
    guesses = [f"Proxy-Authorization: {basic('alice', f'wrong{number}')}" for number in range(13)]
    codes = [407, *(status(gateway, upstream.port, guess) for guess in guesses)]
    assert codes[:10] == [407] * 10 and 429 in codes[10:], codes
    assert status(gateway, upstream.port, good, source="127.0.0.2") == 200
    # A login that was right before is not verified anew.
    assert status(gateway, upstream.port, good) == 200


def test_the_file_is_watched(start: Start, serve: Serve, users: Path) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port, users))
    field = f"Proxy-Authorization: {basic('dora', 'fresh')}"
    assert status(gateway, upstream.port, field) == 407
    with users.open("a") as file:
        file.write(f"dora:{scrypt(b'fresh')}\n")
    wait_for("dora to be let in", lambda: status(gateway, upstream.port, field) == 200)


@pytest.mark.alone
def test_an_unknown_user_takes_as_long_as_a_wrong_password(start: Start, users: Path) -> None:
    users.write_text(f"alice:{BCRYPT}\n")
    gateway = start(policy(443, users))

    def seconds(user: str, source: str) -> float:
        taken = []
        for number in range(5):
            begun = time.monotonic()
            assert status(gateway, 443, f"Proxy-Authorization: {basic(user, f'wrong{number}')}", source=source) == 407
            taken.append(time.monotonic() - begun)
        return statistics.median(taken)

    known, unknown = seconds("alice", "127.0.0.1"), seconds("nobody", "127.0.0.2")
    assert known > 0.01, "verifying costs something"
    assert 0.5 < known / unknown < 2, (known, unknown)


def test_no_password_and_no_hash_is_written_down(start: Start, serve: Serve, users: Path, tmp_path: Path) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port, users))
    word = "hunter2-do-not-show"
    for field in (basic("alice", word), "Basic " + word, basic(word, "x")[:-1]):
        assert status(gateway, upstream.port, f"Proxy-Authorization: {field}") == 407
    with dial(gateway) as client:
        client.sendall(b"\5\1\2" + login(b"alice", word.encode()))
        rest(client)
    gateway.record(accept="socks5", reason="login_failed")
    users.write_text(f"alice:{word}\n")
    refused = gateway.reload()
    assert refused.returncode == 1 and "bad_users_line" in refused.stdout, refused
    said = [refused.stdout, gateway.log_file.read_text(), gateway.stderr()]
    said += [gateway.egress(*words).stdout for words in (["status", "--json"], ["flows", "--json"], ["metrics"])]
    checked = gateway.egress("check", "--json", str(gateway.policy_file))
    why = gateway.egress("why", "--json", "127.0.0.1", f"{GOOD}:{upstream.port}", "--user", "alice")
    for text in [*said, checked.stdout, checked.stderr, why.stdout, why.stderr]:
        assert word not in text and BCRYPT not in text and "$2b$" not in text
