"""The demo shows what it says, its next steps work as printed, and nothing is left when it ends."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .gateway import START, wait_for

pytestmark = pytest.mark.alone

DEMO = [sys.executable, "-m", "egress_gateway.demo"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one: of the demo's path to its socket below it the kernel takes 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="egress-test-") as short:
        yield Path(short) / "demo"


def environment(folder: Path) -> dict[str, str]:
    """TMPDIR of the test's own, so that what is left would be found there."""
    folder.mkdir(exist_ok=True)
    return {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}


def left(folder: Path) -> list[str]:
    """Processes that were started with a path below `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in process.read_bytes():
                found.append(process.parent.name)
    return found


@contextlib.contextmanager
def staying(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    output = folder.with_suffix(".txt")
    with output.open("wb") as file:
        demo = subprocess.Popen(DEMO, stdout=file, stderr=file, env=environment(folder), start_new_session=True)
    try:
        wait_for("the demo to be up", lambda: "Ctrl-C ends" in output.read_text() or demo.poll() is not None, START)
        yield demo, output
    finally:
        if demo.poll() is None:
            demo.send_signal(signal.SIGINT)
        demo.wait(20)


def test_once_shows_both_outcomes_the_record_and_the_reason(folder: Path) -> None:
    run = subprocess.run([*DEMO, "--once"], capture_output=True, text=True, timeout=90, env=environment(folder))
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    assert run.stdout.count("The gateway carried this") == 2
    assert "TLS alert" in run.stdout and "access denied" in run.stdout
    assert "403 Forbidden" in run.stdout and "DENY  blocked.example:443" in run.stdout
    decision = re.search(r"X-Egress-Decision: ([0-9a-f]{16})", run.stdout)
    assert decision is not None and f'"decision":"{decision[1]}"' in run.stdout
    assert list(folder.iterdir()) == [] and left(folder) == []


def test_the_next_steps_work_as_printed_and_an_interrupt_leaves_nothing(folder: Path) -> None:
    with staying(folder) as (demo, output):
        text = output.read_text()
        assert demo.poll() is None, text
        commands = [line.strip() for line in text.splitlines() if re.match(r"    (curl |\S+/egress )", line)]
        assert len(commands) == 5, text

        def outcome(command: str) -> tuple[int, str]:
            run = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=30)
            return run.returncode, run.stdout + run.stderr

        outcomes = [outcome(command) for command in commands]
        assert "The gateway carried this" in outcomes[0][1]
        assert outcomes[1][0] != 0 and "403" in outcomes[1][1]
        assert [code for code, _ in outcomes[2:]] == [0, 0, 0], outcomes
        assert "egress_" in outcomes[4][1]

        policy = next(folder.glob("*/policy.yaml"))
        policy.write_text(policy.read_text().replace("[ allowed.example ]", "[ allowed.example, blocked.example ]"))
        wait_for("the edit to be in force", lambda: "The gateway carried this" in outcome(commands[1])[1])
        demo.send_signal(signal.SIGINT)
        assert demo.wait(20) == 0
    assert "Traceback" not in output.read_text()
    assert list(folder.iterdir()) == [] and left(folder) == []


def test_sigterm_ends_it_as_cleanly(folder: Path) -> None:
    with staying(folder) as (demo, output):
        demo.terminate()
        assert demo.wait(20) == 0, output.read_text()
    assert list(folder.iterdir()) == [] and left(folder) == []
