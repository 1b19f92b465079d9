"""docs/guide/refusals.md shows what clients print: they are run here, against the policy that the page shows.

After a change that is meant, write the page anew with EGRESS_WRITE_PAGE=1.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .gateway import Gateway, Json, running, wait_for
from .net import GATEWAY, Net, capture, network

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "refusals.md"
POLICY = re.compile(r"<!-- policy -->\n```yaml\n(.*?)```", re.DOTALL)
CONSOLE = re.compile(r"(?<=```console\n).*?(?=```)", re.DOTALL)
NAME, DECISION = "gateway.example", "00c0ffee00000001"
#: What the page leaves out of a command.
QUIETER = {"curl": "curl --silent --show-error", "ssh": "ssh -T -F none -o BatchMode=yes", "psql": "psql --no-psqlrc"}


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    for tool, package in [
        ("curl", "curl"), ("openssl", "openssl"), ("psql", "postgresql-client"), ("ssh", "openssh-client"),
        ("dig", "bind9-dnsutils"),
    ]:  # fmt: skip
        if shutil.which(tool) is None:
            missing = f"{tool} is not installed (Debian package {package})"
            if os.environ.get("EGRESS_REQUIRE_TOOLS") == "1":
                pytest.fail(f"{missing}, and EGRESS_REQUIRE_TOOLS=1")
            pytest.skip(missing)
    with network() as made:
        capture(made, "redirect", 15001)
        yield made


@pytest.fixture(scope="module")
def gateway(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    policy = POLICY.search(PAGE.read_text())
    assert policy
    folder = tmp_path_factory.mktemp("gateway")
    with running(folder, policy[1], prefix=net.gateway.prefix) as started:
        yield started


def printed(net: Net, command: str) -> str:
    """What a shell on the client's host prints, without what is different each time."""
    program, _, rest = command.partition(" ")
    line = f"{QUIETER.get(program, program)} {rest}".replace(NAME, GATEWAY[4])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [*net.client.prefix, "bash", "-c", line],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"PATH": path, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"},
        text=True,
        timeout=60,
        check=False,
    )
    text = done.stdout.replace("\r", "").replace(GATEWAY[4], NAME)
    for pattern, stands_for in [
        (r"\b[0-9a-f]{16}\b", DECISION),
        (r"^Date: .*\n", ""),
        (r"\b[0-9A-F]{12,16}:error", "error"),
        (r"OpenSSL/\d+\.\d+\.\d+", "OpenSSL"),
        (r"\.\./[\w./]+:\d+:", ""),
        (r"\bid: \d+", "id: 1"),
        (r"; COOKIE: .*\n", ""),
    ]:
        text = re.sub(pattern, stands_for, text, flags=re.MULTILINE)
    return text.strip("\n") + "\n"


def shown(net: Net, block: str) -> str:
    """A block of the page with what its commands print now."""
    commands = [line for line in block.splitlines() if line.startswith("$ ")]
    return "".join(f"{command}\n{printed(net, command[2:])}" for command in commands)


def test_the_page_shows_what_clients_print(net: Net, gateway: Gateway) -> None:
    page = PAGE.read_text()
    now = CONSOLE.sub(lambda block: shown(net, block[0]), page)
    if os.environ.get("EGRESS_WRITE_PAGE") == "1":
        PAGE.write_text(now)
    assert PAGE.read_text() == now

    # Each of them was a refusal by the rule.
    def refused() -> list[Json]:
        return [one for one in gateway.records() if (one["rule"], one["verdict"]) == ("no-pastebins", "deny")]

    wait_for("a record of each", lambda: len(refused()) >= now.count("\n$ "))
