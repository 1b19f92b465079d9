"""Benchmarks measure what ships: a debug build is refused."""

from __future__ import annotations

import pytest

from egress_core import _dataplane


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    if not config.getoption("benchmark_disable") and _dataplane.build_profile() != "release":
        pytest.exit("the extension is a debug build; build it with `make setup` before you measure", returncode=2)
