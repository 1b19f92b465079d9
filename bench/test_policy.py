"""What a policy costs to load, in seconds and bytes per name, at 10², 10⁴ and 10⁶ names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from egress_gateway.check import check

from egress_core._dataplane import Policy


def policy_with_list(folder: Path, names: int) -> Path:
    """A policy of one rule for a list of so many names."""
    listed = folder / "names.txt"
    listed.write_text("".join(f"host{number}.zone{number % 9973}.example.com\n" for number in range(names)))
    file = folder / "policy.yaml"
    file.write_text("egress: v1\nlists: { many: { file: names.txt } }\nrules: [{ name: many, to: [many] }]\n")
    return file


def policy_with_rules(folder: Path, rules: int) -> Path:
    """A policy of so many rules, each with a source and two destinations of its own."""
    lines = ["egress: v1\nrules:\n"]
    for number in range(rules):
        source = f"10.{number >> 8 & 255}.{number & 255}.0/24"
        lines.append(
            f"  - name: team-{number}\n    from: {{ cidr: {source} }}\n"
            f'    to: [api{number}.example.com, "*.svc{number}.example.org"]\n'
        )
    file = folder / "policy.yaml"
    file.write_text("".join(lines))
    return file


@pytest.mark.parametrize("names", [100, 10_000, 1_000_000])
def test_compile_names(benchmark: Any, tmp_path: Path, names: int) -> None:
    document = check([policy_with_list(tmp_path, names)]).loaded.document
    compiled = benchmark.pedantic(Policy.compile, args=(document,), rounds=5)
    assert compiled.names == names
    benchmark.extra_info["bytes_per_name"] = round(compiled.size / names, 1)


@pytest.mark.parametrize("rules", [100, 10_000])
def test_load_rules(benchmark: Any, tmp_path: Path, rules: int) -> None:
    """The whole way of a reload but the installation: YAML, checks, compile."""
    file = policy_with_rules(tmp_path, rules)
    checked = benchmark.pedantic(check, args=([file],), rounds=3)
    assert checked.policy.rules == rules
