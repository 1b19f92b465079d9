"""Both sides of the shared memory were compiled with the same layout."""

import pytest

from egress_core import ring


def test_the_reader_and_the_data_plane_agree_on_every_offset() -> None:
    dataplane = pytest.importorskip("egress_core._dataplane", reason="the Rust module is not built")
    assert ring.layout() == dataplane.layout()
