"""What reading a hello and deciding cost, in instructions: seconds say little on a shared machine, valgrind's count is
the same each time. The bound is generous: it is for a loop that became quadratic, not for a compiler's new mood."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Instructions for one call when this was written (x86-64), and the crate that has the example.
COUNTED = {"hello_calls": ("egress-hello", 2_349), "decide_calls": ("egress-policy", 1_248)}
BOUND = 1.5
#: Calls of two runs: what they differ by is free of what a start costs.
FEW, MANY = 1_000, 3_000


def valgrind() -> str:
    if path := shutil.which("valgrind"):
        return path
    if os.environ.get("EGRESS_REQUIRE_TOOLS") == "1":
        pytest.fail("valgrind is not installed (Debian package valgrind), and EGRESS_REQUIRE_TOOLS=1")
    pytest.skip("valgrind is not installed (Debian package valgrind)")


def built(example: str, package: str) -> str:
    command = ["cargo", "build", "--release", "--locked", "--manifest-path", str(ROOT / "rust/Cargo.toml")]
    # With the extension's package the crates that they need have the features that it has, and are built already.
    command += ["-p", "egress-dataplane", "-p", package, "--example", example, "--message-format", "json"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    messages = [json.loads(line) for line in told.stdout.splitlines()]
    return next(one["executable"] for one in reversed(messages) if one.get("executable"))


def instructions(program: str, calls: int) -> int:
    command = [valgrind(), "--tool=callgrind", "--callgrind-out-file=/dev/null", program, str(calls)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = re.search(r"Collected : (\d+)", told)
    assert found, told
    return int(found[1])


# The build of the examples is the long part.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("example", COUNTED)
def test_a_call_takes_about_as_many_instructions_as_it_did(example: str) -> None:
    valgrind()
    package, counted = COUNTED[example]
    program = built(example, package)
    each = (instructions(program, MANY) - instructions(program, FEW)) / (MANY - FEW)
    assert each < counted * BOUND, f"{each:,.0f} instructions a call; {counted:,} when the count was written down"
    assert each > counted / BOUND, f"{each:,.0f} instructions a call: better. Write it down instead of {counted:,}"
