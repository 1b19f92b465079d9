"""Both sides of the shared memory were compiled with the same layout."""

from egress_core import _dataplane, ring


def test_the_reader_and_the_data_plane_agree_on_every_offset() -> None:
    assert ring.layout() == _dataplane.layout()
