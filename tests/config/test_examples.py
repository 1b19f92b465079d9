"""Every example policy is right."""

from __future__ import annotations

from pathlib import Path

import pytest
from egress_gateway.check import check

EXAMPLES = Path(__file__).parents[2] / "examples"
POLICIES = sorted(EXAMPLES.glob("*.yaml"))


@pytest.mark.parametrize("policy", [*POLICIES, EXAMPLES / "directory"], ids=lambda path: path.name)
def test_an_example_compiles(policy: Path) -> None:
    checked = check([policy])
    assert checked.loaded.files


def test_there_are_examples() -> None:
    assert {path.name for path in POLICIES} >= {"quickstart.yaml", "payments.yaml", "audit.yaml"}
