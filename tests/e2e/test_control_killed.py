"""The control plane may die at any moment: traffic, records and the next reload do not suffer."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable

import pytest

from .gateway import Gateway, wait_for
from .servers import Server, echo
from .test_failures import ask
from .test_reload_live import alive, rules, tunnel

Start = Callable[..., Gateway]
Serve = Callable[..., Server]


def test_ten_kills_under_traffic_lose_nothing(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(rules(upstream.port))
    stop = threading.Event()
    made = 0
    failures: list[str] = []

    def traffic() -> None:
        nonlocal made
        while not stop.is_set():
            try:
                with tunnel(gateway, upstream.port) as client:
                    client.shutdown(socket.SHUT_WR)
                    assert client.recv(1) == b""
                made += 1
            except (OSError, AssertionError) as error:
                failures.append(repr(error))
            time.sleep(0.002)

    held = tunnel(gateway, upstream.port)
    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        for turn in range(10):
            before = wait_for("a control process", gateway.control_pid)
            wait_for("the control socket", lambda: gateway.egress("status").returncode == 0)
            os.kill(before, signal.SIGKILL)
            killed = time.monotonic()

            def back(before: int = before) -> bool:
                with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as control:
                    control.settimeout(1)
                    control.connect(str(gateway.control))
                    control.sendall(b"GET /metrics HTTP/1.1\r\nHost: local\r\nConnection: close\r\n\r\n")
                    return control.recv(100).startswith(b"HTTP/1.1 200") and gateway.control_pid() != before
                return False

            wait_for("the control plane to be back", back)
            assert time.monotonic() - killed < 3, "about a second, on a loaded machine too"
            result = gateway.reload(rules(upstream.port, turn + 1))
            assert result.returncode == 0, result.stdout
    finally:
        stop.set()
        thread.join()
    assert not failures
    assert alive(held)
    held.close()
    flows = made + 1
    wait_for("all records", lambda: len({r["decision"] for r in gateway.records()}) >= flows, 20)
    decisions = {record["decision"] for record in gateway.records()}
    assert len(decisions) == flows, "each flow is on record, none is invented"
    assert gateway.status()["generation"] == 11


def test_records_made_while_it_is_away_are_kept(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(rules(upstream.port))
    pid = gateway.control_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    for _ in range(50):
        tunnel(gateway, upstream.port).close()
    os.kill(pid, signal.SIGKILL)
    wait_for("the records", lambda: len({r["decision"] for r in gateway.records()}) >= 50, 20)


def test_it_ends_with_the_data_plane(start: Start) -> None:
    gateway = start(rules())
    pid = gateway.control_pid()
    assert pid is not None
    gateway.process.kill()
    gateway.process.wait()

    def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_for("the control process to end", gone)


def test_a_drain_lets_live_flows_finish(start: Start, serve: Serve) -> None:
    upstream = serve(echo)
    gateway = start(rules(upstream.port))
    with tunnel(gateway, upstream.port) as client:
        gateway.process.send_signal(signal.SIGTERM)
        wait_for("draining", lambda: "draining" in gateway.stderr())
        with contextlib.suppress(OSError):
            assert not ask(gateway, "127.0.0.1", upstream.port).startswith(b"HTTP/1.1 200")
        assert alive(client)
        assert gateway.process.poll() is None
    assert gateway.process.wait(10) == 0
    assert gateway.record(rule=f"port-{upstream.port}")["end"] in ("closed", "client_reset")


@pytest.mark.parametrize(("patience", "signals"), [("1s", 1), ("1h", 2)])
def test_a_drain_ends_at_its_time_or_at_a_second_signal(
    start: Start, serve: Serve, patience: str, signals: int
) -> None:
    upstream = serve(echo)
    gateway = start(rules(upstream.port, extra=f"timeouts: {{ drain: {patience} }}"))
    with tunnel(gateway, upstream.port):
        for _ in range(signals):
            gateway.process.send_signal(signal.SIGTERM)
            wait_for("draining", lambda: "draining" in gateway.stderr())
        assert gateway.process.wait(10) == 0
    assert gateway.record(rule=f"port-{upstream.port}")["end"] == "drained"


def test_the_control_process_gives_way_to_the_data_plane(start: Start) -> None:
    gateway = start("rules: []")
    control = wait_for("a control process", gateway.control_pid)
    nicer = os.getpriority(os.PRIO_PROCESS, control) - os.getpriority(os.PRIO_PROCESS, gateway.process.pid)
    assert (nicer, os.sched_getscheduler(control)) == (10, os.SCHED_BATCH)
