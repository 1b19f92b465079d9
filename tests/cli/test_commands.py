"""The commands teach, end with the codes that they promise, and meet a user's mistake with a sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.gateway import Gateway, running

POLICY = """
egress: v1
rules:
  - { name: api, to: [ api.example.com ] }
  - { name: v6, to: [ "[2001:db8::/32]:443" ] }
"""
COMMANDS = ["run", "check", "why", "status", "reload", "flows", "metrics"]


def egress(
    *arguments: str, control: str = "/nonexistent/egress.sock", config: str = "/nonexistent"
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "egress_gateway.cli", *arguments]
    env = {**os.environ, "EGRESS_CONTROL": control, "EGRESS_CONFIG": config}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def policy(tmp_path: Path) -> str:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    return str(file)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway"), POLICY.replace("egress: v1\n", "")) as one:
        yield one


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_the_exit_codes(command: str) -> None:
    text = egress(command, "--help").stdout
    assert "exit codes:" in text and f"\n  egress {command}" in text


@pytest.mark.parametrize("command", ["status", "reload", "flows", "metrics"])
def test_without_a_gateway_it_says_what_to_do(command: str) -> None:
    done = egress(command)
    assert done.returncode == 2 and done.stdout == ""
    assert "egress run" in done.stderr and "--control" in done.stderr


@pytest.mark.parametrize("command", ["status", "reload", "flows", "metrics"])
def test_with_a_gateway_it_answers(gateway: Gateway, command: str) -> None:
    done = egress(command, control=str(gateway.control))
    assert done.returncode == 0 and done.stdout and done.stderr == ""


def test_check_tells_good_from_broken(policy: str, tmp_path: Path) -> None:
    good = egress("check", "--json", policy)
    assert good.returncode == 0 and json.loads(good.stdout)["rules"] == 2
    Path(policy).write_text(POLICY.replace("to:", "too:"))
    broken = egress("check", "--json", policy)
    assert broken.returncode == 1 and json.loads(broken.stdout)["ok"] is False
    (tmp_path / "empty").mkdir()
    for path in (str(tmp_path / "missing.yaml"), str(tmp_path / "empty")):
        done = egress("check", path)
        assert done.returncode == 1 and path in done.stderr


@pytest.mark.parametrize(
    ("destination", "code"),
    [
        ("api.example.com", 0),
        ("API.example.com.:443", 0),
        ("api.example.com:80", 1),
        ("other.example.com", 1),
        ("[2001:db8::1]:443", 0),
        ("2001:db8::1", 0),
        ("[2001:db9::1]:443", 1),
        ("api.example.com:0", 2),
        ("api.example.com:https", 2),
        ("a b", 2),
        ("", 2),
    ],
)
def test_why_ends_with_the_verdict(policy: str, destination: str, code: int) -> None:
    done = egress("why", "-c", policy, "10.0.0.1", destination)
    assert done.returncode == code, done.stdout + done.stderr
    assert bool(done.stderr) == (code == 2)


def test_why_refuses_a_source_that_is_not_an_address(policy: str) -> None:
    assert egress("why", "-c", policy, "somebody", "api.example.com").returncode == 2


def test_why_says_whose_files_it_judged_by_when_no_gateway_answers(policy: str, tmp_path: Path) -> None:
    nobody = str(tmp_path / "nobody.sock")
    done = egress("why", "10.0.0.1", "api.example.com", control=nobody, config=policy)
    assert done.returncode in (0, 1)
    assert f"no gateway answers at {nobody}" in done.stderr
    assert f"judged by {policy}" in done.stderr


def test_why_asks_about_the_running_gateways_files(gateway: Gateway) -> None:
    done = egress("why", "10.0.0.1", "api.example.com", "--json", control=str(gateway.control))
    assert done.returncode == 0 and json.loads(done.stdout)["rule"]["name"] == "api"


def test_flows_refuses_filters_that_mean_nothing(gateway: Gateway) -> None:
    for option in (["--source", "nowhere"], ["--limit", "0"], ["--limit", "-5"]):
        assert egress("flows", *option, control=str(gateway.control)).returncode == 2


def test_the_data_plane_maps_nothing_of_the_control_plane(gateway: Gateway) -> None:
    maps = Path(f"/proc/{gateway.process.pid}/maps").read_text()
    assert "_dataplane" in maps
    for heavy in ("uvloop", "aiohttp", "yaml", "msgspec", "watchfiles"):
        assert heavy not in maps.replace(str(gateway.folder), ""), heavy
