"""The control socket is its owner's alone, takes the place of a stale one, and of nothing else."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest
from egress_gateway.admin import sockets


def test_only_the_owner_may_open_it(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with sockets.bind_unix(str(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_stale_one_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    sockets.bind_unix(path).close()
    with sockets.bind_unix(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def test_a_live_one_is_refused_and_goes_on(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with sockets.bind_unix(path), socket.socket(socket.AF_UNIX) as client:
        with pytest.raises(sockets.SocketError, match="another gateway"):
            sockets.bind_unix(path)
        client.connect(path)


def test_what_is_not_a_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("mine")
    with pytest.raises(sockets.SocketError, match="not a socket"):
        sockets.bind_unix(str(path))
    assert path.read_text() == "mine"


def test_the_end_removes_its_own_file_and_not_a_successors(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with sockets.bind_unix(str(path)):
        own = sockets.identity(str(path))
    with sockets.bind_unix(str(path)):
        successor = sockets.identity(str(path))
        sockets.remove_unix(str(path), own)
        assert path.exists()
    sockets.remove_unix(str(path), successor)
    assert not path.exists()


@pytest.mark.parametrize("address", ["9900", "127.0.0.1:", "::1:9900", "127.0.0.1:99999", ":9900"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(sockets.SocketError, match="not an address"):
        sockets.bind_tcp(address)
