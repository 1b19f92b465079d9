"""Many logins at once, and users files that are broken, missing or anybody's: what is served goes on being served."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from .gateway import Gateway, wait_for
from .servers import Server, echo
from .test_logins import BCRYPT, GOOD, PASSWORDS, REFUSED, basic, connect, dial, login, policy, status, users
from .test_name_agreement import exactly, rest
from .test_socks import domain

__all__ = ["users"]

Start = Callable[..., Gateway]
Serve = Callable[..., Server]
#: Of "password", 64 MiB and two passes: some 100 ms. The reference implementation's test has it.
ARGON2 = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
GOOD_LOGIN = f"Proxy-Authorization: {basic('carol', 'password')}"


@pytest.fixture
def slow(users: Path) -> Path:
    users.write_text(f"carol:{ARGON2}\n")
    return users


def guess(port: int, number: int) -> bytes:
    field = basic("carol", f"wrong{number}")
    return f"CONNECT {GOOD}:{port} HTTP/1.1\r\nProxy-Authorization: {field}\r\n\r\n".encode()


@pytest.mark.alone
def test_hundreds_of_wrong_logins_hold_up_nobody_who_is_known(start: Start, serve: Serve, slow: Path) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port, slow))
    assert status(gateway, upstream.port, GOOD_LOGIN) == 200
    code, live = connect(gateway, upstream.port, GOOD_LOGIN)
    assert code == 200
    with ExitStack() as stack:
        stack.enter_context(live)
        # From 50 sources, so that no single one is stopped for guessing.
        attackers = [stack.enter_context(dial(gateway, f"127.0.1.{number % 50 + 1}")) for number in range(300)]
        for number, attacker in enumerate(attackers):
            attacker.sendall(guess(upstream.port, number))
        slowest = 0.0
        for _ in range(20):
            begun = time.monotonic()
            assert status(gateway, upstream.port, GOOD_LOGIN) == 200, "who is remembered needs no verifying"
            live.sendall(b"ping")
            assert exactly(live, 4) == b"ping"
            slowest = max(slowest, time.monotonic() - begun)
        told = [int(rest(attacker).split(maxsplit=2)[1]) for attacker in attackers]
    assert slowest < 1, "workers do not wait for a password"
    assert set(told) <= {407, 429, 503} and told.count(407) >= 5 and told.count(503) >= 100, told
    wait_for("all records", lambda: sum(one["verdict"] == "deny" for one in gateway.records()) == 300)
    queued = [record for record in gateway.records() if record["reason"] == "overloaded"]
    assert len(queued) == told.count(503)
    assert {record["other_name"] for record in queued} == {"login_queue_full"}
    # Nobody waits for what is left in the queue: the next one is not behind it.
    begun = time.monotonic()
    assert status(gateway, upstream.port, f"Proxy-Authorization: {basic('carol', 'other')}", source="127.0.0.9") == 407
    assert time.monotonic() - begun < 2


@pytest.mark.alone
def test_a_login_that_nobody_waits_for_is_not_verified(start: Start, serve: Serve, slow: Path) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port, slow))
    gone = [dial(gateway, f"127.0.1.{number + 1}") for number in range(100)]
    for number, client in enumerate(gone):
        client.sendall(guess(upstream.port, number))
    time.sleep(0.3)
    for client in gone:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    begun = time.monotonic()
    assert status(gateway, upstream.port, GOOD_LOGIN) == 200
    assert time.monotonic() - begun < 3, "a hundred of them would take 10 s"
    gateway.record(end="client_gone")


@pytest.mark.alone
def test_a_right_login_by_many_at_once(start: Start, serve: Serve, slow: Path) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port, slow))
    codes: list[int] = []
    begun = time.monotonic()
    ask = lambda: codes.append(status(gateway, upstream.port, GOOD_LOGIN))  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [200] * 30
    assert time.monotonic() - begun < 2.5, "verified one by one they would take more than 3 s"


@pytest.mark.parametrize(
    "flight",
    [
        b"\1\xff" + b"u" * 255 + b"\xff" + b"p" * 255,
        b"\1\xff" + b"\0" * 255 + b"\xff" + b"\xff" * 255,
        b"\1\5alice\7secret\0",
        b"\1\6alice\0\6secret",
        b"\1\2\xff\xfe\6secret",
        b"\1\5alice\xff" + b"secret".ljust(255, b"\0"),
    ],
)
def test_odd_socks_logins_are_wrong_logins(start: Start, users: Path, flight: bytes) -> None:
    gateway = start(policy(443, users))
    with dial(gateway) as client:
        client.sendall(b"\5\1\2" + flight + domain(GOOD, 443))
        assert rest(client) == b"\5\2" + REFUSED
    record = gateway.record(reason="login_failed")
    assert (record["identity"], record["upstream"]) == (None, None)


def test_a_login_that_never_ends_is_given_up(start: Start, users: Path) -> None:
    gateway = start(policy(443, users) + "timeouts: { first_bytes: 1s }\n")
    for flight in (b"\5\1\2", b"\5\1\2" + login(b"alice", b"secret")[:-1], b"\5\1\2" + login(b"alice", b"secret")):
        after = len(gateway.records())
        with dial(gateway) as client:
            client.sendall(flight)
            rest(client)
        assert gateway.record(after=after)["reason"] == "first_bytes_timeout", flight


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda file: file.unlink(), "unreadable_list"),
        (lambda file: file.write_text("alice\n"), "bad_users_line"),
        (lambda file: file.write_text(f"alice:{BCRYPT}\nalice:{BCRYPT}\n"), "bad_users_line"),
        (lambda file: file.write_text("alice:hunter2\n"), "bad_users_line"),
        (lambda file: file.write_bytes(b"al\xff:x\n"), "bad_users_line"),
        (lambda file: file.chmod(0o666), "users_writable"),
    ],
)
def test_a_broken_file_changes_nothing(
    start: Start, serve: Serve, users: Path, spoil: Callable[[Path], object], code: str
) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port, users))
    good = f"Proxy-Authorization: {basic('bob', PASSWORDS['bob'])}"
    assert status(gateway, upstream.port, good) == 200
    spoil(users)
    refused = gateway.reload()
    assert refused.returncode == 1 and code in refused.stdout, refused
    checked = gateway.egress("check", "--json", str(gateway.policy_file))
    assert checked.returncode == 1 and code in checked.stdout, checked
    assert status(gateway, upstream.port, good) == 200


def test_a_login_that_comes_to_be_required_ends_what_has_none(start: Start, serve: Serve, users: Path) -> None:
    upstream = serve(echo)
    gateway = start(policy(upstream.port, users, "off"))
    good = f"Proxy-Authorization: {basic('bob', PASSWORDS['bob'])}"
    _, unknown = connect(gateway, upstream.port)
    greeted = dial(gateway)
    greeted.sendall(b"\5\1\0")
    assert exactly(greeted, 2) == b"\5\0"
    assert gateway.reload(policy(upstream.port, users, "optional")).returncode == 0
    _, known = connect(gateway, upstream.port, good)
    unknown.sendall(b"ping")
    assert exactly(unknown, 4) == b"ping"
    assert gateway.reload(policy(upstream.port, users, "required")).returncode == 0
    with unknown, known, greeted:
        with pytest.raises(ConnectionResetError):
            rest(unknown)
        known.sendall(b"ping")
        assert exactly(known, 4) == b"ping"
        greeted.sendall(domain(GOOD, upstream.port))
        assert rest(greeted)[:2] == b"\5\2"
    assert gateway.record(end="policy_changed")["identity"] is None
    assert gateway.record(accept="socks5")["reason"] == "login_required"
