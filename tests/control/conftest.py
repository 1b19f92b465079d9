from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control.data_plane import DataPlane


@pytest.fixture
def data_plane(tmp_path: Path) -> Iterator[DataPlane]:
    one = DataPlane(tmp_path)
    yield one
    one.stop()
