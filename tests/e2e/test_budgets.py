"""`budget`: bytes that a rule, or each source of it, may move in a period, over all workers, and what happens when they
are spent."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .gateway import Gateway, Json, running, wait_for
from .plain_http import Client
from .servers import Server, echo
from .test_connection_limits import ask
from .test_shaping import reading

Start = Callable[..., Gateway]
Serve = Callable[..., Server]
NAME = "a.example"
KB = 1000
SPENT = b"HTTP/1.1 429"
#: More than goes in a turn that spends a budget, which is at most 4 MiB.
MUCH = 20_000 * KB


def policy(port: int, budget: str, more: str = "", workers: int = 2, store: str = "./budgets") -> str:
    return f"""
workers: {workers}
budgets: {{ store: {store} }}
listeners:
  - {{ name: a, bind: "127.0.0.1:0", accept: tcp, to: "{NAME}:{port}" }}
  - {{ name: proxy, bind: "127.0.0.1:0", accept: [connect, http] }}
resolver: {{ hosts: {{ {NAME}: 127.0.0.1 }} }}
rules:
  - {{ name: r, to: ["{NAME}:{port}", "127.0.0.1:{port}"], budget: {{ {budget} }}{more} }}
"""


@pytest.fixture
def upstream(serve: Serve) -> Server:
    return serve(echo)


@pytest.fixture
def flood(serve: Serve) -> Server:
    def send(connection: socket.socket) -> None:
        data = bytes(65536)
        while True:
            connection.sendall(data)

    return serve(send)


@contextlib.contextmanager
def tunnel(gateway: Gateway, upstream: Server, source: str = "127.0.0.1") -> Iterator[socket.socket]:
    with ask(gateway, upstream, source) as client:
        assert b"200" in client.recv(65536)
        yield client


def echoed(client: socket.socket, size: int) -> int:
    """Sends so many bytes and gives how many came back before the connection ended."""
    back = 0

    def read() -> None:
        nonlocal back
        with contextlib.suppress(OSError):
            while back < size and (data := client.recv(65536)):
                back += len(data)

    thread = threading.Thread(target=read)
    thread.start()
    with contextlib.suppress(OSError):
        client.sendall(bytes(size))
    thread.join()
    return back


def answer(gateway: Gateway, upstream: Server, source: str = "127.0.0.1") -> bytes:
    with ask(gateway, upstream, source) as client:
        return client.recv(12)


@pytest.mark.parametrize("budget", ["up: 100 kB/day", "down: 100 kB/month", "up: 9 GB/hour, down: 100 kB/day"])
def test_open_connections_end_and_new_ones_are_refused(start: Start, upstream: Server, budget: str) -> None:
    gateway = start(policy(upstream.port, budget))
    with tunnel(gateway, upstream) as idle:
        with tunnel(gateway, upstream) as client:
            assert echoed(client, 99 * KB) == 99 * KB
            assert echoed(client, MUCH) < MUCH
        record = gateway.record(end="budget_spent")
        assert (record["rule"], record["verdict"]) == ("r", "allow")
        assert max(record["bytes_up"], record["bytes_down"]) >= 100 * KB
        # Whichever worker has them.
        assert [answer(gateway, upstream) for _ in range(10)] == [SPENT] * 10
        refused = gateway.record(reason="budget_spent")
        assert (refused["verdict"], refused["end"], refused["other_name"]) == ("deny", "refused", None)
        # What says nothing may stay until it does.
        idle.sendall(b"x")
        with contextlib.suppress(ConnectionResetError):
            assert len(idle.recv(10)) <= 1
            assert idle.recv(10) == b""


def test_bytes_of_many_connections_count_together(start: Start, upstream: Server) -> None:
    gateway = start(policy(upstream.port, "up: 100 kB/day"))
    for _ in range(9):
        with tunnel(gateway, upstream) as client:
            assert echoed(client, 10 * KB) == 10 * KB
    assert answer(gateway, upstream) != SPENT
    with tunnel(gateway, upstream) as client:
        echoed(client, 10 * KB)
    assert answer(gateway, upstream) == SPENT


def test_each_source_spends_its_own(start: Start, upstream: Server) -> None:
    gateway = start(policy(upstream.port, "per_source: { up: 100 kB/day }"))
    with tunnel(gateway, upstream, "127.0.0.2") as client:
        echoed(client, 200 * KB)
    assert [answer(gateway, upstream, "127.0.0.2") for _ in range(4)] == [SPENT] * 4
    assert gateway.record(reason="budget_spent")["other_name"] == "source"
    with tunnel(gateway, upstream, "127.0.0.3") as client:
        assert echoed(client, 50 * KB) == 50 * KB


def test_an_alert_is_said_once_and_nothing_more(start: Start, upstream: Server) -> None:
    gateway = start(policy(upstream.port, "up: 100 kB/day, then: alert"))
    for _ in range(3):
        with tunnel(gateway, upstream) as client:
            assert echoed(client, 200 * KB) == 200 * KB
    said = "the budget of rule r is spent"
    wait_for("the line", lambda: said in gateway.stderr())
    gateway.stop()
    assert gateway.stderr().count(said) == 1
    assert all(record["end"] != "budget_spent" for record in gateway.records())


def test_an_audited_budget_cuts_nothing_and_says_what_it_would(start: Start, upstream: Server) -> None:
    gateway = start(policy(upstream.port, "up: 100 kB/day", ", mode: audit"))
    with tunnel(gateway, upstream) as client:
        assert echoed(client, 200 * KB) == 200 * KB
    record = gateway.record(reason="budget_spent")
    assert (record["verdict"], record["bytes_up"]) == ("would_deny", 200 * KB)
    with tunnel(gateway, upstream) as client:
        assert echoed(client, KB) == KB
    assert gateway.record(reason="budget_spent", after=1)["verdict"] == "would_deny"


def test_an_audited_budget_slows_nothing(start: Start, flood: Server) -> None:
    gateway = start(policy(flood.port, "down: 1 MB/day, then: slow 8 kbit/s", ", mode: audit"))
    with reading(gateway, "a") as got:
        wait_for("a lot", lambda: got.total > 20_000_000)


@pytest.mark.parametrize("budget", ["down: 1 MB/day", "per_source: { down: 1 MB/day }"])
def test_what_is_spent_is_slowed_in_its_direction(start: Start, flood: Server, budget: str) -> None:
    gateway = start(policy(flood.port, f"{budget}, then: slow 800 kbit/s"))
    with contextlib.ExitStack() as stack:
        # Of both workers.
        all_of_it = [stack.enter_context(reading(gateway, "a", source="127.0.0.2")) for _ in range(6)]
        wait_for("the budget", lambda: sum(one.total for one in all_of_it) > 1_000_000)
        # What was on its way.
        time.sleep(2)
        begin = time.monotonic()
        time.sleep(3)
        end = time.monotonic()
        slow = sum(one.between(begin, end) for one in all_of_it)
        assert 0 < slow <= 100 * KB * (end - begin) * 1.1 + 65536
        # What goes up is another matter.
        all_of_it[0].connection.settimeout(20)
        all_of_it[0].connection.sendall(bytes(1_000_000))
        if "per_source" in budget:
            with reading(gateway, "a", source="127.0.0.3") as other:
                wait_for("another source", lambda: other.total > 900_000)
        assert "egress error" not in gateway.stderr()


def test_a_slow_rule_is_fast_before_its_budget_is_spent(start: Start, flood: Server) -> None:
    gateway = start(policy(flood.port, "down: 1 TB/day, per_source: { down: 1 TB/day }, then: slow 8 kbit/s"))
    with reading(gateway, "a") as got:
        wait_for("a lot", lambda: got.total > 50_000_000)


def test_requests_of_plain_http_are_refused_and_their_connection_goes_on(start: Start, serve: Serve) -> None:
    def pages(connection: socket.socket) -> None:
        while connection.recv(65536):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + bytes(20_000))

    upstream = serve(pages)
    gateway = start(policy(upstream.port, "down: 100 kB/day"))
    request = b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % ((upstream.port,) * 2)
    with Client(socket.create_connection(gateway.address("proxy"), 20)) as client:
        seen = []
        for _ in range(8):
            client.send(request)
            got = client.answer()
            seen.append(got.status)
        # The fifth page is what spends it; it comes whole, as it ended with that turn.
        assert seen == [200] * 5 + [429] * 3
        assert got.fields["X-Egress-Reason"] == "budget_spent"


def test_a_bound_changes_while_connections_go_on(start: Start, upstream: Server) -> None:
    gateway = start(policy(upstream.port, "up: 1 GB/day"))
    with tunnel(gateway, upstream) as client:
        assert echoed(client, 200 * KB) == 200 * KB
        assert gateway.reload(policy(upstream.port, "up: 300 kB/day")).returncode == 0
        assert echoed(client, 50 * KB) == 50 * KB
        assert gateway.reload(policy(upstream.port, "up: 240 kB/day")).returncode == 0
        assert answer(gateway, upstream) == SPENT
        assert gateway.reload(policy(upstream.port, "up: 1 GB/day, per_source: { down: 1 GB/day }")).returncode == 0
        assert answer(gateway, upstream) != SPENT
        assert echoed(client, 50 * KB) == 50 * KB
        # Only a byte that is over it ends a connection.
        assert gateway.reload(policy(upstream.port, "up: 290 kB/day")).returncode == 0
        assert echoed(client, MUCH) < MUCH


def test_a_restart_forgets_nothing(tmp_path: Path, upstream: Server) -> None:
    for used in (60, 30):
        with running(tmp_path / "g", policy(upstream.port, "up: 100 kB/day")) as gateway:
            with tunnel(gateway, upstream) as client:
                assert echoed(client, used * KB) == used * KB
            gateway.record(bytes_up=used * KB)
    with running(tmp_path / "g", policy(upstream.port, "up: 100 kB/day")) as gateway:
        with tunnel(gateway, upstream) as client:
            echoed(client, 10 * KB)
        assert answer(gateway, upstream) == SPENT


def fails_to_start(folder: Path, text: str) -> str:
    folder.mkdir(exist_ok=True)
    gateway = Gateway(folder, text)
    assert gateway.process.wait(20) == 78
    return gateway.stderr()


def test_a_store_in_use_or_damaged_stops_the_start(tmp_path: Path, start: Start, upstream: Server) -> None:
    text = policy(upstream.port, "up: 1 GB/day")
    gateway = start(text)
    shared = policy(upstream.port, "up: 1 GB/day", store=str(gateway.folder / "budgets"))
    said = fails_to_start(tmp_path / "second", shared)
    assert "policy.yaml:6:19: budgets.store: the store of budgets, " in said.replace(f"{tmp_path}/second/", "")
    assert "is open in another process" in said
    assert "fix: stop the other gateway, or give each its own" in said
    folder = tmp_path / "third"
    folder.mkdir()
    (folder / "budgets").write_bytes(b"something else that is long enough to be read as the header of a file" * 9)
    said = fails_to_start(folder, text)
    assert "is damaged, or is none" in said
    assert "fix: move the file away" in said


def test_a_store_that_cannot_be_had_refuses_the_reload(start: Start, upstream: Server) -> None:
    without = policy(upstream.port, "up: 1 GB/day", store="/proc/none/budgets")
    first = without.replace("budget: { up: 1 GB/day }", "why: later").replace("budgets: {", "# ")
    gateway = start(first)
    gateway.write(without)
    done = gateway.egress("reload")
    assert done.returncode == 1
    assert "cannot be opened: " in done.stderr
    assert "fix: let the gateway write there, or say where else" in done.stderr
    assert gateway.status()["generation"] == 1
    assert gateway.reload(policy(upstream.port, "up: 1 GB/day")).returncode == 0
    gateway.write(policy(upstream.port, "up: 1 GB/day", store="./elsewhere"))
    done = gateway.egress("reload")
    assert "`store` of budgets cannot change while the gateway runs" in done.stderr
    assert "policy.yaml:6:19" in done.stderr


def told(gateway: Gateway) -> Json:
    """The one budget, as `egress budgets` says it."""
    result: Json = json.loads(gateway.egress("budgets", "--json").stdout)["budgets"][0]
    return result


def test_what_is_used_is_there_to_be_seen(start: Start, upstream: Server) -> None:
    gateway = start(
        policy(upstream.port, "up: 1 GB/day, down: 100 kB/month, per_source: { down: 20 kB/hour }, then: alert")
    )
    for source in ("127.0.0.2", "127.0.0.3"):
        with tunnel(gateway, upstream, source) as client:
            echoed(client, 60 * KB)
    with tunnel(gateway, upstream, "127.0.0.4") as client:
        echoed(client, KB)
    wait_for("the count", lambda: told(gateway)["up"]["used"] == 121 * KB)
    one = told(gateway)
    assert (one["down"]["used"], one["down"]["over"], one["up"]["over"]) == (121 * KB, True, False)
    assert (one["sources"]["counted"], one["sources"]["over"]) == (3, 2)
    assert one["down"]["ends"] > time.time()
    shown = gateway.egress("budgets").stdout
    assert re.search(r"^r +up +121 kB +1 GB/day +0 % +\S+Z +alert$", shown, re.MULTILINE), shown
    assert re.search(r"^r +down +121 kB +100 kB/month +121 % +\S+Z +SPENT: alert$", shown, re.MULTILINE), shown
    assert "r: 20 kB/hour down for each source; 3 sources counted, SPENT: alert for 2 of them" in shown
    metrics = gateway.egress("metrics").stdout
    for line in (
        'egress_budget_used_bytes{rule="r",direction="down"} 121000',
        'egress_budget_limit_bytes{rule="r",direction="up"} 1000000000',
        'egress_budget_over{rule="r",direction="down"} 1',
        'egress_budget_over{rule="r",direction="up"} 0',
        'egress_budget_sources_over{rule="r"} 2',
        "egress_budget_store_failures_total 0",
    ):
        assert line in metrics, metrics


def test_at_most_a_second_of_bytes_is_lost_with_the_process(tmp_path: Path, serve: Serve) -> None:
    """SIGKILL, while bytes come steadily; what the destination got is what was used."""
    got: list[tuple[float, int]] = []

    def count(connection: socket.socket) -> None:
        while data := connection.recv(65536):
            got.append((time.monotonic(), len(data)))

    upstream = serve(count)
    text = policy(upstream.port, "up: 1 GB/day, per_source: { up: 1 GB/day }, then: alert")
    before = 0
    for _ in range(2):
        got.clear()
        with running(tmp_path / "g", text) as gateway, tunnel(gateway, upstream) as client:
            stop = threading.Event()

            def send(client: socket.socket = client, stop: threading.Event = stop) -> None:
                with contextlib.suppress(OSError):
                    while not stop.wait(0.01):
                        client.sendall(bytes(10 * KB))

            sender = threading.Thread(target=send)
            sender.start()
            wait_for("some seconds of bytes", lambda: got and got[-1][0] - got[0][0] > 4, 20)
            gateway.process.kill()
            killed = time.monotonic()
            gateway.process.wait()
            stop.set()
            sender.join()
            wait_for("the control process to end", lambda: not gateway.control_pid())
        with running(tmp_path / "g", text) as gateway:
            used = told(gateway)["up"]["used"]
            # What had come a second before the end was on the disk; a busy machine may have held that up.
            safe = sum(size for at, size in got if at < killed - 3)
            assert 0 < safe <= used - before <= sum(size for _, size in got) + 10 * KB
            counted = 0
            for at, size in got:
                if (counted := counted + size) > used - before:
                    print(f"{1000 * (killed - at):.0f} ms of bytes are lost")
                    break
            before = used


def test_a_store_that_cannot_be_written_stops_no_traffic(start: Start, upstream: Server) -> None:
    gateway = start(policy(upstream.port, "up: 100 MB/day"))
    with tunnel(gateway, upstream) as client:
        assert echoed(client, 10 * KB) == 10 * KB
        # As a full disk does: no file of the process may grow, or be written, beyond this.
        unbound = resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (16_384, unbound[1]))
        assert echoed(client, 20 * KB) == 20 * KB
        failing = "NOT WRITTEN: what is used is counted in memory only"
        wait_for("word of it", lambda: failing in gateway.egress("status").stdout)
        assert "egress_budget_store_failing 1" in gateway.egress("metrics").stdout
        assert told(gateway)["up"]["used"] == 30 * KB
        assert "CANNOT BE WRITTEN" in gateway.egress("budgets").stdout
        assert gateway.stderr().count("egress error: the store of budgets") == 1
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, unbound)
        wait_for("the next try", lambda: failing not in gateway.egress("status").stdout, 30)
        assert "is written again" in gateway.stderr()
