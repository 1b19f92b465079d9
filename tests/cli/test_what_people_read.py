"""The text of the commands, line for line: what a person sees who asks without --json."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from egress_gateway import cli

from tests.e2e.gateway import Gateway, running, wait_for
from tests.e2e.servers import Server, echo

POLICY = """
resolver: {{ hosts: {{ one.example: 127.0.0.1, api.one.example: 127.0.0.1, not-one.example: 127.0.0.1 }} }}
rules:
  - {{ name: some, to: ["one.example:{port}", "api.one.example:{port}", "not-one.example:{port}"] }}
"""


def reads(text: str, *lines: str) -> None:
    """Each line of the text is as the pattern in its place says."""
    seen = text.splitlines()
    assert len(seen) == len(lines), text
    for line, pattern in zip(seen, lines, strict=True):
        assert re.fullmatch(pattern, line), f"{line!r} is not as {pattern!r}"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Server]:
    with Server(echo) as one:
        yield one


@pytest.fixture
def gateway(tmp_path: Path, upstream: Server) -> Iterator[Gateway]:
    with running(tmp_path / "gateway", POLICY.format(port=upstream.port)) as one:
        yield one


def flow(gateway: Gateway, name: str, port: int, source: str) -> socket.socket:
    """A live one, over which four bytes went both ways."""
    client = socket.create_connection(gateway.address("proxy"), timeout=20, source_address=(source, 0))
    client.sendall(f"CONNECT {name}:{port} HTTP/1.1\r\nHost: {name}:{port}\r\n\r\n".encode())
    assert client.recv(4096).startswith(b"HTTP/1.1 200")
    client.sendall(b"ping")
    assert client.recv(4) == b"ping"
    return client


def test_flows_is_a_table_that_filters_narrow(gateway: Gateway, upstream: Server) -> None:
    port = upstream.port
    with (
        flow(gateway, "one.example", port, "127.0.0.1") as first,
        flow(gateway, "api.one.example", port, "127.0.0.2") as second,
        flow(gateway, "not-one.example", port, "127.0.0.2") as third,
    ):
        header = "AGE +SOURCE +IDENTITY +DESTINATION +RULE +VERDICT +STAGE +UP +DOWN +DECISION"

        def row(client: socket.socket, name: str) -> str:
            ip, own = client.getsockname()
            return rf"\d+s +{ip}:{own} +- +{name}:{port} +some +allow +relaying +4 B +4 B +\S+"

        one, api, other = row(first, "one.example"), row(second, "api.one.example"), row(third, "not-one.example")
        for options, rows in [
            ([], [other, api, one]),
            (["--limit", "1"], [other]),
            (["--source", "127.0.0.2"], [other, api]),
            (["--source", "127.0.0.0/31"], [one]),
            (["--source", "2001:db8::/32"], []),
            (["--name", "one.example"], [api, one]),
            (["--name", ".ONE.example."], [api, one]),
            (["--name", "api.one.example"], [api]),
            (["--name", "example.com"], []),
            (["--name", "one.example", "--source", "127.0.0.2/32"], [api]),
            (["--name", "one.example", "--limit", "1"], [api]),
        ]:
            done = gateway.egress("flows", *options)
            assert (done.returncode, done.stderr) == (0, ""), options
            reads(done.stdout, header, *rows)
        lines = gateway.egress("flows").stdout.splitlines()
        for column in ("SOURCE", "DESTINATION", "STAGE", "DECISION"):
            at = lines[0].index(column)
            assert all(line[at - 2 : at] == "  " and line[at] != " " for line in lines), f"{column} is not in line"
        with socket.create_connection(gateway.address("proxy")) as silent:
            wait_for("the silent one", lambda: len(gateway.egress("flows").stdout.splitlines()) == 5)
            own = silent.getsockname()[1]
            done = gateway.egress("flows", "--limit", "1")
            reads(done.stdout, header, rf"\d+s +127\.0\.0\.1:{own} +- +-:0 +- +none +first_bytes +0 B +0 B +\S+")
            reads(gateway.egress("flows", "--name", "one.example").stdout, header, api, one)
        found = json.loads(gateway.egress("flows", "--json", "--name", "api.one.example").stdout)
        assert [(each["name"], each["source"]["ip"]) for each in found] == [("api.one.example", "127.0.0.2")]
    wait_for("the flows to end", lambda: len(gateway.egress("flows").stdout.splitlines()) == 1)


def test_status_and_reload_on_the_way_through_a_broken_file(
    gateway: Gateway, upstream: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    file, number = re.escape(str(gateway.policy_file)), r"\d+"

    def status(generation: int, *last: str) -> None:
        done = gateway.egress("status")
        assert (done.returncode, done.stderr) == (0, "")
        workers = [rf"  worker {index}   \d+ open, \d+ accepted" for index in range(len(gateway.status()["workers"]))]
        reads(
            done.stdout,
            rf"serving generation {generation} \([0-9a-f]{{12}}\), up \d+s, pid {gateway.process.pid}, version \S+",
            f"  files      {file}",
            rf"  listener   tls: tls on 127\.0\.0\.1:{gateway.address('tls')[1]}",
            rf"  listener   proxy: connect on 127\.0\.0\.1:{gateway.address('proxy')[1]}",
            *workers,
            r"  records    0 dropped, \d waiting",
            rf"  control    pid {gateway.control_pid()}, up \d+s, 0 restarts",
            rf"  admin      http://127\.0\.0\.1:{number}",
            *last,
        )

    when = r"at \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ, \d+ ms"
    status(1, rf"  reload     changed \(start\) {when}")

    def reload(policy: str, code: int, *lines: str) -> None:
        # In this process, to be there before the watcher, which waits a fifth of a second for the file to hold still.
        gateway.write(policy)
        assert cli.main(["reload", "--control", str(gateway.control)]) == code
        out, err = capsys.readouterr()
        assert (out == "") == bool(code) and (err == "") != bool(code)
        reads(out or err, *lines)

    with flow(gateway, "one.example", upstream.port, "127.0.0.1"):
        reload("rules: []\n", 0, "changed: generation 2 in force, 1 flow now denied")
    reload("rules: []\n", 0, "unchanged: generation 2 in force")
    error = [rf"{file}:\d+:1: ruels: .*`ruels`.*", r" +\d+ \| ruels: \[\]", r" +\| \^+", "  fix: .*rules.*"]
    reload("ruels: []\n", 1, "refused: generation 2 stays", *error)
    # The watcher sees the same file a moment later; by whom it was refused last is of no matter.
    status(
        2,
        rf"  reload     refused \([a-z+]+\) {when}",
        *(f" {{13}}{line}" for line in error),
        "  THE FILES ON DISK ARE BROKEN; the last good policy is in force",
    )


def test_check_tells_a_person_what_is_there_and_what_is_wrong(tmp_path: Path) -> None:
    def check(text: str) -> tuple[int, str, str]:
        file = tmp_path / "policy.yaml"
        file.write_text(text)
        command = [sys.executable, "-m", "egress_gateway.cli", "check", "policy.yaml"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
        return done.returncode, done.stdout, done.stderr

    good = """egress: v1
listeners: [{ name: front, bind: "[::1]:3128", accept: connect }]
rules:
  - { name: a, to: [a.example, b.example] }
  - { name: b, to: [c.example], until: 2099-01-01 }
"""
    code, out, err = check(good)
    assert (code, err) == (0, "")
    reads(
        out,
        r"good: 2 rules and 3 names in 1 file, [\d,]+ bytes compiled",
        r"  listener front: connect on \[::1\]:3128",
    )
    code, out, err = check(good.replace("to: [a.example, b", "too: [a.example, *b").replace("*b.example", '"*"'))
    assert (code, out) == (1, "")
    assert err.splitlines()[0].startswith("policy.yaml:4:16: rules[0].too: "), err
    assert "\n  fix: " in err and "^^^" in err


@pytest.mark.parametrize("command", ["status", "reload", "flows", "metrics"])
def test_a_control_socket_of_somebody_else_is_said_to_be_that(gateway: Gateway, command: str) -> None:
    gateway.control.chmod(0)
    # Root opens it all the same, unless it goes without the capability to.
    drop = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*drop, sys.executable, "-m", "egress_gateway.cli", command, "--control", str(gateway.control)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    reads(
        done.stderr, rf"egress.*control socket {re.escape(str(gateway.control))} is not yours; run this as the .*user.*"
    )


def test_check_tells_what_rules_may_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who shares what, and what holds where; the password of a store is nobody's to read."""
    file = tmp_path / "policy.yaml"
    shared = """egress: v1
cluster: { store: "redis://me:se@cret@valkey:6380/1", replicas: 3, group: eu }
links:
  wan: { bandwidth: 10 Mbit/s, scope: cluster }
  lan: { bandwidth: 1 Gbit/s }
  dark: { bandwidth: 1 Gbit/s }
budgets: { store: ./used, time_zone: Europe/Berlin }
rules:
  - { name: a, to: a.example, bandwidth: { link: wan, guarantee: 4 Mbit/s, max: 20 Mbit/s } }
  - { name: b, to: b.example, bandwidth: { link: wan, guarantee: 1 Mbit/s } }
  - { name: c, to: c.example, bandwidth: { link: lan }, budget: { up: 1 GB/day } }
  - { name: d, to: d.example, bandwidth: { max: 1 Mbit/s, scope: cluster } }
  - { name: e, to: e.example, budget: { per_source: { down: 1 GB/day }, then: alert } }
"""
    file.write_text(shared)
    assert cli.main(["check", str(file)]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "cret" not in out
    lines = [line for line in out.splitlines()[1:] if not line.startswith("  listener ")]
    assert lines == [
        "  link wan: 10 Mbit/s over all gateways, shared by 2 rules, 5 Mbit/s guaranteed (50 %); "
        "less than the `max` of a",
        "  link lan: 1 Gbit/s, used by 1 rule",
        "  link dark: 1 Gbit/s, used by no rule",
        "  no link: 1 rule with bandwidth",
        f"  budgets: 2 rules, kept in {tmp_path}/used, by Europe/Berlin",
        "  cluster eu: limits of 1 link and 1 rule, 3 gateways, store redis://valkey:6380/1",
    ]
    assert cli.main(["check", "--json", str(file)]) == 0
    out, _ = capsys.readouterr()
    assert "cret" not in out
    told = json.loads(out)
    assert [(one["name"], one["rules"], one["guaranteed"]) for one in told["links"]] == [
        ("wan", 2, 5_000_000),
        ("lan", 1, 0),
        ("dark", 0, 0),
        (None, 1, 0),
    ]
    assert (told["budgets"]["rules"], told["cluster"]["replicas"]) == (2, 3)
    file.write_text(
        "egress: v1\ncluster: { store: redis://valkey, replicas: 3 }\nlinks: { wan: { bandwidth: 1 Gbit/s } }\n"
        "rules: [ { name: a, to: a.example, bandwidth: {} } ]\n"
    )
    assert cli.main(["check", str(file)]) == 0
    out, _ = capsys.readouterr()
    assert "  link wan: 1 Gbit/s, used by 1 rule\n" in out, "a rule need not name the only link"
    assert "  cluster egress: nothing has `scope: cluster`, 3 gateways, store redis://valkey\n" in out
