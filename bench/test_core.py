"""What a step of the compiled core costs in nanoseconds: a hello read, a decision made, a record handed over."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("crate", "example"),
    [("egress-hello", "hello_ns"), ("egress-policy", "decision_ns"), ("egress-flowlog", "push_ns")],
)
def test_core_ns(benchmark: Any, capsys: pytest.CaptureFixture[str], crate: str, example: str) -> None:
    """The crate's own example measures and prints; what is timed here is its whole run."""
    command = ["cargo", "run", "--release", "--locked", "--quiet", "--manifest-path", str(ROOT / "rust/Cargo.toml")]
    command += ["-p", crate, "--example", example]
    told = benchmark.pedantic(
        lambda: subprocess.run(command, capture_output=True, text=True, check=True).stdout, rounds=1
    )
    with capsys.disabled():
        print("\n" + told)
    benchmark.extra_info["table"] = json.dumps(told.splitlines())
    assert " ns" in told
