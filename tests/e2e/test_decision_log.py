"""The decision log goes where it was told, through a rotation and past a full disk, and the gateway goes on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .gateway import Gateway, running, wait_for

Start = Callable[..., Gateway]


def refuse(address: tuple[str, int], name: str) -> None:
    """Makes one flow that the policy denies."""
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(f"CONNECT {name}:443 HTTP/1.1\r\nHost: {name}:443\r\n\r\n".encode())
        while client.recv(4096):
            pass


def names(file: Path) -> list[str]:
    return [json.loads(line)["name"] for line in file.read_text().splitlines()] if file.exists() else []


def test_a_rotation_loses_nothing(start: Start) -> None:
    gateway = start("rules: []\n")
    before = [f"before{n}.example" for n in range(20)]
    for name in before:
        refuse(gateway.address("proxy"), name)
    gateway.record(name=before[-1])
    old = gateway.log_file.with_suffix(".1")
    gateway.log_file.rename(old)
    gateway.process.send_signal(signal.SIGUSR1)
    wait_for("the new file", gateway.log_file.exists)
    after = [f"after{n}.example" for n in range(20)]
    for name in after:
        refuse(gateway.address("proxy"), name)
    wait_for("all records", lambda: len(names(old) + names(gateway.log_file)) == 40)
    # Workers write in no common order.
    assert sorted(names(old)) == sorted(before) and sorted(names(gateway.log_file)) == sorted(after)


def test_stdout_has_the_records_and_nothing_else(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"egress: v1\n{Gateway.LISTENERS % {'port': 443}}\nrules: []\n")
    control, out, err = tmp_path / "egress.sock", tmp_path / "out", tmp_path / "err"
    command = [sys.executable, "-m", "egress_gateway.cli"]
    options = ["run", "-c", str(policy), "--control", str(control), "--admin", "127.0.0.1:0", "--log", "stdout"]
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen([*command, *options], stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
    try:
        ask = [*command, "status", "--json", "--control", str(control)]

        def status() -> str:
            return subprocess.run(ask, capture_output=True, text=True, timeout=30).stdout

        told = json.loads(wait_for("the gateway", status, 20))
        port = next(one["bound"] for one in told["listeners"] if one["name"] == "proxy").rpartition(":")[2]
        refuse(("127.0.0.1", int(port)), "denied.example")
        wait_for("the record", lambda: names(out) == ["denied.example"])
        assert err.read_text() and '"decision"' not in err.read_text()
    finally:
        process.terminate()
        process.wait(20)
    assert names(out) == ["denied.example"]


def test_a_full_disk_is_counted_and_the_records_are_kept(tmp_path: Path) -> None:
    target = tmp_path / "log"
    target.symlink_to("/dev/full")
    with running(tmp_path / "gateway", f"log: {{ decisions: {json.dumps(str(target))} }}\nrules: []\n") as gateway:
        refuse(gateway.address("proxy"), "one.example")
        wait_for("the failure to be counted", lambda: gateway.status()["records"]["log_failures"] > 0)
        refuse(gateway.address("proxy"), "two.example")
        assert "egress_log_failures_total" in gateway.egress("metrics").stdout
        # The disk has room again: another target at the same path, opened anew.
        fresh = tmp_path / "fresh"
        target.unlink()
        target.symlink_to(fresh)
        os.kill(gateway.process.pid, signal.SIGUSR1)
        wait_for("the kept records", lambda: sorted(names(fresh)) == ["one.example", "two.example"])
