"""Limits with `scope: cluster`: several gateways keep to one limit together, wherever it is wanted, while gateways
come and die, and each to its safe share while the store is away. How exactly is measured in bench/rows/cluster.py."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from .daemons import Redis, redis
from .gateway import Gateway, Json, wait_for
from .servers import Server
from .test_shaping import MBIT, Reading, flood, policy, reading

pytestmark = pytest.mark.alone

Start = Callable[..., Gateway]
Serve = Callable[..., Server]
A = "a.example"
#: What all gateways have together.
LIMIT = 16 * MBIT
#: A machine that is busy with other tests is late; what is asserted is what cannot be by chance.
MOST, LEAST = 1.25, 0.75


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Redis]:
    with redis(tmp_path) as running:
        yield running


def shared(port: int, store: Redis, bandwidth: str = "{ max: 16 Mbit/s, scope: cluster }", *, replicas: int = 2) -> str:
    cluster = f'cluster: {{ store: "{store.url}", replicas: {replicas} }}\n'
    return cluster + policy(port, f'  - {{ name: r, to: ["{A}:{port}"], bandwidth: {bandwidth} }}')


def rate(*readings: Reading, seconds: float = 1.0) -> float:
    """What all of them have read lately, as a part of the limit."""
    now = time.monotonic()
    return sum(one.between(now - seconds, now) for one in readings) / seconds / LIMIT


def settles(what: str, low: float, high: float, *readings: Reading) -> None:
    wait_for(what, lambda: low <= rate(*readings) <= high, 30)


def cluster(gateway: Gateway) -> Json:
    found: Json = gateway.status()["cluster"]
    return found


def knows(gateway: Gateway, **wanted: object) -> None:
    def told() -> bool:
        found = cluster(gateway)
        return all(found[key] == value for key, value in wanted.items())

    wait_for(f"{wanted}, not {cluster(gateway)}", told, 20)


def fails(gateway: Gateway, why: str) -> None:
    """A gateway keeps to its safe share from its start, and knows why only when the store has answered, or not."""
    wait_for(why, lambda: why in (cluster(gateway)["error"] or ""), 20)


def logs(gateway: Gateway, what: str) -> None:
    wait_for(f"the log to say {what}", lambda: what in gateway.stderr())


def samples(gateway: Gateway) -> dict[str, float]:
    """The gauges of what is shared."""
    lines = gateway.egress("metrics").stdout.splitlines()
    found = dict(line.split(" ") for line in lines if line.startswith("egress_cluster_"))
    return {name: float(found[f"egress_cluster_{name}"]) for name in ("store_up", "replicas", "safe_share")}


@contextlib.contextmanager
def both(first: Gateway, second: Gateway) -> Iterator[tuple[Reading, Reading]]:
    with reading(first, "a") as one, reading(second, "a") as other:
        yield one, other


def test_the_limit_holds_over_both_and_goes_to_where_it_is_wanted(start: Start, serve: Serve, store: Redis) -> None:
    upstream = serve(flood)
    first, second = (start(shared(upstream.port, store)) for _ in range(2))
    for gateway in (first, second):
        knows(gateway, seen=2, keeps="shared", away_ms=None, replicas=2, group="egress")
    with reading(first, "a") as alone:
        settles("all of it where alone it is wanted", LEAST, MOST, alone)
        with reading(second, "a") as other:
            settles("half of it", LEAST / 2, MOST / 2, other)
            settles("the other half", LEAST / 2, MOST / 2, alone)
            begin = time.monotonic()
            time.sleep(2)
            seconds = time.monotonic() - begin
            # Neither of them has anything of a second limit.
            assert rate(alone, other, seconds=seconds) <= 1.1
        settles("all of it again", LEAST, MOST, alone)


def test_a_gateway_that_joins_gets_its_part_and_the_share_of_one_that_dies_goes_back(
    start: Start, serve: Serve, store: Redis
) -> None:
    upstream = serve(flood)
    text = shared(upstream.port, store, replicas=3)
    first, second = start(text), start(text)
    with both(first, second) as (one, other):
        settles("all of it", LEAST, MOST, one, other)
        third = start(text)
        with reading(third, "a") as joined:
            settles("a third", LEAST / 3, MOST / 3, joined)
            settles("no more together", LEAST, MOST, one, other, joined)
            # All at once, without a word: its children too, and their descriptors.
            third.process.kill()
            killed = time.monotonic()
            settles("all of it between the two that are left", LEAST, MOST, one, other)
            assert time.monotonic() - killed < 10
            knows(first, seen=2, keeps="shared")
        # One that ends as it is told to need not be waited for.
        second.stop()
        settles("all of it", LEAST, MOST, one)
        knows(first, seen=1)


def test_without_the_store_each_keeps_its_safe_share_and_says_so(start: Start, serve: Serve, store: Redis) -> None:
    upstream = serve(flood)
    first, second = (start(shared(upstream.port, store, replicas=4)) for _ in range(2))
    with both(first, second) as (one, other):
        settles("all of it", LEAST, MOST, one, other)
        for away, back in ((store.stop, store.go_on), (store.kill, store.start)):
            away()
            for gateway in (first, second):
                knows(gateway, keeps="safe", parts=4, seen=2)
                told = cluster(gateway)
                assert told["away_ms"] > 0
                assert told["error"]
                logs(gateway, f"the store redis://127.0.0.1:{store.port}/0 is away")
            assert "AWAY for" in first.egress("status").stdout
            assert samples(first) == {"store_up": 0, "replicas": 2, "safe_share": 1}
            settles("a quarter", LEAST / 4, MOST / 4, one)
            settles("a quarter", LEAST / 4, MOST / 4, other)
            back()
            for gateway in (first, second):
                knows(gateway, away_ms=None, error=None, keeps="shared", seen=2)
            assert samples(first) == {"store_up": 1, "replicas": 2, "safe_share": 0}
            settles("all of it again", LEAST, MOST, one, other)
    logs(first, "is back")


def test_a_gateway_that_starts_without_a_store_serves_with_its_safe_share(
    start: Start, serve: Serve, store: Redis
) -> None:
    upstream = serve(flood)
    store.kill()
    gateway = start(shared(upstream.port, store, replicas=4))
    knows(gateway, keeps="safe", seen=1)
    with reading(gateway, "a") as got:
        settles("a quarter", LEAST / 4, MOST / 4, got)
        store.start()
        settles("all of it", LEAST, MOST, got)


def test_what_others_write_into_the_store_does_no_harm(start: Start, serve: Serve, store: Redis) -> None:
    upstream = serve(flood)
    first, second = (start(shared(upstream.port, store)) for _ in range(2))
    key = "egress:{egress}:wants"
    with both(first, second) as (one, other):
        settles("all of it", LEAST, MOST, one, other)
        for number, junk in enumerate(
            ("", "1", "1 2 3", "9 99999999999999 x", f"9 {time.time_ns()} \x01", "x" * 100_000)
        ):
            store.command("HSET", key, f"junk{number}", junk)
        store.command("HSET", key, "#", "nan")
        wait_for("the junk to be gone", lambda: store.command("HLEN", key) == 3)
        knows(first, seen=2, keeps="shared")
        settles("all of it", LEAST, MOST, one, other)
        # A key of another kind: nothing can be told until it is gone.
        store.command("SET", key, "mine")
        knows(first, keeps="safe")
        fails(first, "WRONGTYPE")
        store.command("DEL", key)
        knows(first, keeps="shared", seen=2)
        store.command("EVAL", f"for i = 1, 3000 do redis.call('HSET', '{key}', i, '1 2 3') end", "0")
        knows(first, keeps="safe")
        fails(first, "more gateways than there can be")
        settles("half", LEAST / 2, MOST / 2, one)
        store.command("DEL", key)
        knows(first, keeps="shared", seen=2)


def test_a_password_is_needed_and_never_shown(start: Start, serve: Serve, store: Redis, tmp_path: Path) -> None:
    upstream = serve(flood)
    (tmp_path / "password").write_text("correct horse\n")
    store.set_password("correct horse")
    text = shared(upstream.port, store)
    gateway = start(text.replace("redis://", "redis://:battery-staple@"))
    knows(gateway, keeps="safe")
    fails(gateway, "does not take the user or the password")
    answer = gateway.reload(text.replace("replicas: 2", f'replicas: 2, password_file: "{tmp_path}/password"'))
    assert answer.returncode == 0, answer.stdout
    knows(gateway, keeps="shared", away_ms=None)
    # Changed in the file: it is watched.
    store.set_password("another")
    store.command("CLIENT", "KILL", "TYPE", "normal")
    knows(gateway, keeps="safe")
    (tmp_path / "password").write_text("another")
    knows(gateway, keeps="shared")
    shown = gateway.stderr() + gateway.egress("status", "--json").stdout + gateway.egress("metrics").stdout
    assert not any(word in shown for word in ("battery-staple", "correct horse", "another"))


def test_a_user_of_the_store_needs_no_more_than_the_guide_says(start: Start, serve: Serve, store: Redis) -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs/guide/limits-over-several-gateways.md").read_text()
    line = next(line for line in guide.splitlines() if line.startswith("ACL SETUSER"))
    words = line.replace(">PASSWORD", ">secret").replace("{GROUP}", "{production}").split()
    store.command(*words)
    store.command("ACL", "SETUSER", "default", "off")
    upstream = serve(flood)
    text = "egress: v1\n" + shared(upstream.port, store).replace("redis://", "redis://egress:secret@")
    gateway = start(text.replace("replicas: 2", "replicas: 2, group: production"))
    knows(gateway, keeps="shared", group="production", error=None)


def test_the_store_by_its_name_and_over_tls(start: Start, serve: Serve, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    upstream = serve(flood)
    with redis(tmp_path, authority) as store:
        plain = shared(upstream.port, store)
        text = plain.replace(store.url, f"rediss://localhost:{store.tls_port}/0")
        right, wrong = (
            text.replace("replicas: 2", f'replicas: 2, ca: "{tmp_path}/{ca}.pem"') for ca in ("ca", "other")
        )
        gateway = start(wrong)
        knows(gateway, keeps="safe")
        fails(gateway, "certificate")
        assert gateway.reload(right).returncode == 0
        knows(gateway, keeps="shared", store=f"rediss://localhost:{store.tls_port}/0")
        # By its name without TLS, too.
        assert gateway.reload(plain.replace("127.0.0.1:" + str(store.port), f"localhost:{store.port}")).returncode == 0
        knows(gateway, keeps="shared", store=f"redis://localhost:{store.port}/0")


def test_limits_and_the_store_itself_change_while_connections_go_on(
    start: Start, serve: Serve, store: Redis, tmp_path: Path
) -> None:
    upstream = serve(flood)
    text = shared(upstream.port, store)
    first, second = start(text), start(text)
    with both(first, second) as (one, other):
        settles("all of it", LEAST, MOST, one, other)
        for gateway in (first, second):
            assert gateway.reload(text.replace("16 Mbit/s", "8 Mbit/s")).returncode == 0
        settles("half", LEAST / 2, MOST / 2, one, other)
        (tmp_path / "other").mkdir()
        with redis(tmp_path / "other") as another:
            for gateway in (first, second):
                assert gateway.reload(shared(upstream.port, another)).returncode == 0
            for gateway in (first, second):
                knows(gateway, keeps="shared", seen=2, store=f"redis://127.0.0.1:{another.port}/0")
            settles("all of it", LEAST, MOST, one, other)
            # They have said goodbye.
            assert store.command("HLEN", "egress:{egress}:wants") == 1
        for gateway in (first, second):
            assert (
                gateway.reload(policy(upstream.port, f'  - {{ name: r, to: ["{A}:{upstream.port}"] }}')).returncode == 0
            )
            assert gateway.status()["cluster"] is None
        wait_for("no limit any more", lambda: rate(one) > 2 * MOST)


def test_a_guarantee_on_a_shared_link_holds_wherever_it_is_wanted(start: Start, serve: Serve, store: Redis) -> None:
    upstream = serve(flood)
    port = upstream.port
    rules = f"""
  - {{ name: owner, to: ["{A}:{port}"], bandwidth: {{ guarantee: 12 Mbit/s }} }}
  - {{ name: greedy, to: ["b.example:{port}"], bandwidth: {{ weight: 1 }} }}
"""
    text = f'cluster: {{ store: "{store.url}", replicas: 2 }}\n'
    text += policy(port, rules, "wan: { bandwidth: 16 Mbit/s, scope: cluster }")
    first, second = start(text), start(text)
    with reading(first, "b") as greedy, reading(second, "b") as greedier:
        settles("all of it", LEAST, MOST, greedy, greedier)
        with reading(second, "a") as owner:
            # And half of what nobody is guaranteed.
            settles("what is guaranteed", 0.7, 1.0, owner)
            settles("the rest", 0.02, 0.25, greedy, greedier)


def test_a_store_that_takes_no_connection_holds_up_nobody(start: Start, serve: Serve, store: Redis) -> None:
    """One whose port answers nothing at all: a connection is made, and that is all."""
    upstream = serve(flood)
    with socket.create_server(("127.0.0.1", store.free_port())) as silent:
        text = shared(upstream.port, store).replace(str(store.port), str(silent.getsockname()[1]))
        gateway = start(text)
        knows(gateway, keeps="safe")
        fails(gateway, "no answer within")
        with reading(gateway, "a") as got:
            settles("half", LEAST / 2, MOST / 2, got)
        before = gateway.descriptors()
        failures = cluster(gateway)["failures"]
        wait_for("more tries", lambda: cluster(gateway)["failures"] > failures + 5, 20)
        assert gateway.descriptors() <= before + 4
